"""`dynfocus ask`: one question about one video."""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from dynfocus.checkpoints import DEFAULT_MODEL, embedded_model

from .loading import load_pipeline
from .report import print_report
from .terminal import UserError, quiet, spinner

_PLOT_FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")
_PLOT_DPI = 150
_THUMBNAIL_PIXELS = 256  # of the shorter side

_IN_OPTIONS = {
    "`max_visual_tokens=": "`--max-visual-tokens ",
    "use decoder='auto'": "use --decoder auto",
    " on_truncated='warn' reads these.": "",
    ", or give a short one as `question=` next to a long prompt": "",
}


@dataclass(frozen=True)
class Request:
    """What the command line says; `sampling` holds `fps`, `max_frames`, `max_visual_tokens` and `decoder`."""

    video: str
    question: str
    model: str | None
    plot: Path | None
    as_json: bool
    sampling: dict[str, Any]
    max_new_tokens: int
    device: str | None
    dtype: str | None
    revision: str | None
    trust_remote_code: bool
    verbose: bool


def run(request: Request) -> None:
    """Answers, and prints and draws the answer. Raises a `UserError` where the request makes no sense."""
    _check(request)
    model = request.model or str(embedded_model())
    with quiet(request.verbose):
        with spinner("Loading the model"):
            pipe = load_pipeline(model, request.device, request.dtype, request.revision, request.trust_remote_code)
        result = {
            "video": request.video,
            "question": request.question,
            "model": request.model or DEFAULT_MODEL,
            **_answer(pipe, request),
        }
        if request.plot is not None:
            with spinner("Drawing the timeline"):
                _draw(result, request.plot, request.sampling["decoder"])
    if request.as_json:
        print(json.dumps(result))
        return
    console = Console(highlight=False)
    print_report(console, result)
    if request.plot is not None:
        console.print(f"Timeline: {request.plot}", markup=False, soft_wrap=True)


def _check(request: Request) -> None:
    """What can be known to be wrong before the model is loaded."""
    if not request.question.strip():
        raise UserError("The question is empty: ask something about the video.")
    for name in ("fps", "max_frames", "max_visual_tokens"):
        value = request.sampling[name]
        if value is not None and not value > 0:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be above 0.")
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", request.video) and not Path(request.video).exists():
        raise UserError(f"{request.video}: there is no such video file.")
    plot = request.plot
    if plot is None:
        return
    if plot.suffix.lower() not in _PLOT_FORMATS:
        raise UserError(f"--plot {plot}: the file's name must end in one of {', '.join(_PLOT_FORMATS)}.")
    if not plot.parent.is_dir():
        raise UserError(f"--plot {plot}: there is no folder {plot.parent}; create it first.")
    if plot.is_dir():
        raise UserError(f"--plot {plot}: is a folder; name a file.")


def _answer(pipe: Any, request: Request) -> dict[str, Any]:
    """The pipeline's result with details, its steps taken one by one so that each can be named while it runs."""
    import torch

    sampling = {name: value for name, value in request.sampling.items() if value is not None}
    try:
        with spinner("Reading the video"):
            prepared = pipe.preprocess({"video": request.video, "question": request.question}, **sampling)
        with spinner("Looking and answering"), _helpful_when_out_of_memory(torch):
            found = pipe.forward(prepared, generate_kwargs={"max_new_tokens": request.max_new_tokens})
    except ValueError as error:
        raise UserError(_in_options(str(error))) from error
    return pipe.postprocess(found, return_details=True)


def _in_options(message: str) -> str:
    """A message of the library, in the words of the command."""
    for python, option in _IN_OPTIONS.items():
        message = message.replace(python, option)
    return message


@contextlib.contextmanager
def _helpful_when_out_of_memory(torch: Any) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            "The device's memory is full: look at fewer frames (--max-frames), spend fewer tokens "
            "(--max-visual-tokens), use --dtype bfloat16, or --device cpu."
        ) from error


def _draw(result: dict[str, Any], path: Path, decoder: str) -> None:
    from .timeline import timeline_figure

    images = read_thumbnails(result["video"], [frame["time"] for frame in result["key_frames"]], decoder)
    try:
        timeline_figure(result, images).savefig(path, dpi=_PLOT_DPI)
    except OSError as error:
        raise UserError(f"--plot {path}: cannot be written: {error.strerror or error}.") from error


def read_thumbnails(
    video: str, times: Sequence[float], decoder: str = "auto", size: int = _THUMBNAIL_PIXELS
) -> list[np.ndarray]:
    """The frames shown at ascending `times`, in seconds, with a shorter side of `size` pixels at most."""
    from dynfocus.processing.video_decoders import open_decoder
    from dynfocus.processing.video_index import build_index
    from dynfocus.processing.video_reading import resize_frame, target_size
    from dynfocus.processing.video_sources import open_source

    source = open_source(video)
    index = build_index(source)
    # A microsecond, lest rounding makes it the frame before.
    numbers = np.searchsorted(index.times, np.asarray(times) + 1e-6, side="right") - 1
    thumbnails = {}
    for number, frame in open_decoder(decoder, source, index).frames(np.unique(numbers)):
        height, width = frame.shape[:2]
        thumbnails[number] = resize_frame(frame, target_size(height, width, min(size, height, width)))
    return [thumbnails[number] for number in numbers.tolist()]


__all__ = ["Request", "read_thumbnails", "run"]
