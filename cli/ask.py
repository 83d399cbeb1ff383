"""`dynfocus ask`: one question about one video."""

import contextlib
import importlib.util
import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from dynfocus.checkpoints import DEFAULT_MODEL

from . import wording
from .loading import (
    check_is_file,
    check_made_by,
    check_sampling,
    is_state,
    load_pipeline,
    load_state,
    note_demo,
    rate_note,
    video_of_state,
)
from .report import print_report
from .terminal import UserError, print_note, quiet, shown_warnings, spinner

_PLOT_FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")
_PLOT_DPI = 150
_LONGEST_REASON = 400
_ADDRESS = re.compile(r"\s*(data:|[A-Za-z][A-Za-z0-9+.-]+://)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """
    Video and model, as given on the command line.

    Args:
        video: a video file, its URL, or a state's file.
        sampling: `fps`, `max_frames`, `max_visual_tokens`, `decoder` and `on_truncated`.
        rule: name of the rule of choice.
        adoption: `dual_encoder` and `coarse` for a stock model, and `server` and `processor` for a model on a server.
    """

    video: str
    model: str | None
    sampling: dict[str, Any]
    max_new_tokens: int
    device: str | None
    dtype: str | None
    revision: str | None
    trust_remote_code: bool
    verbose: bool
    rule: str | None = None
    adoption: dict[str, Any] = field(default_factory=dict)

    @property
    def budget(self) -> dict[str, Any]:
        """The settings that also apply to a saved state."""
        tokens = self.sampling["max_visual_tokens"]
        return {} if tokens is None else {"max_visual_tokens": tokens}


@dataclass(frozen=True, kw_only=True)
class Request(Setup):
    """The command line of `dynfocus ask`."""

    question: str
    plot: Path | None
    as_json: bool


def run(request: Request) -> None:
    """Answer the question, then print and draw the answer. Raises a `UserError` if the request is invalid."""
    if not request.question.strip():
        raise UserError("The question is empty: ask something about the video.")
    if " " in request.video and not os.path.exists(request.video) and os.path.isfile(request.question):
        raise UserError(
            f"The video comes first, then the question: dynfocus ask {shlex.quote(request.question)} QUESTION"
        )
    check_setup(request)
    if request.plot is not None:
        check_plot(request.plot, "--plot ")
    hidden = ""
    with quiet(request.verbose):
        state = load_state(request.video) if is_state(request.video) else None
        pipe = open_pipeline(request)
        note_demo(request.model, "ask VIDEO QUESTION")
        if state is not None:
            check_made_by(state, pipe, request.video)
        result = {
            "video": shown_name(request.video),
            "question": request.question,
            "model": request.model or f"{DEFAULT_MODEL} (demo)",
            **answer(pipe, request.video if state is None else state, request.question, request),
        }
        if request.plot is not None:
            film, hidden = (request.video, "") if state is None else video_of_state(state, request.video)
            draw(result, request.plot, film, request.sampling["decoder"])
    if note := rate_note(result["frame_times"], request.sampling["fps"]):
        print_note(note)
    if request.as_json:
        print(json.dumps(result, allow_nan=False))
        return
    console = Console(highlight=False)
    print_report(console, result)
    if request.plot is not None:
        console.print(plot_line(request.plot, hidden), markup=False, soft_wrap=True)


def check_setup(setup: Setup) -> None:
    """Raises a `UserError` for mistakes that can be found before the model is loaded."""
    check_options(setup)
    for name in ("fps", "max_frames"):
        value = setup.sampling[name]
        option = f"--{name.replace('_', '-')}"
        if value is not None and is_state(setup.video):
            raise UserError(
                f"{option} {value}: the frames of {setup.video} are chosen already; encode the video again with "
                f"`dynfocus encode {option} {value}`."
            )
    check_video(setup.video, "video state" if is_state(setup.video) else "video file")


def check_options(setup: Setup) -> None:
    """The same for the settings alone."""
    from dynfocus.processing.generation_settings import check_generation

    check_rule(setup.rule)
    check_sampling(setup.sampling)
    try:
        check_generation({"max_new_tokens": setup.max_new_tokens})
    except ValueError as error:
        raise UserError(wording.in_options(str(error))) from error


def check_rule(rule: str | None) -> None:
    """Raises a `UserError` for a rule of choice that does not exist."""
    if rule is not None and rule != "dpe":
        from dynfocus.processing.video_qa import find_rule

        try:
            find_rule(rule)
        except ValueError as error:
            raise UserError(f"--rule {rule}: {error}") from error


def check_video(video: str, kind: str = "video file") -> None:
    """Raises a `UserError` for a path without a file; addresses are checked by the library."""
    if _ADDRESS.match(video):
        return
    check_is_file(video)
    if os.path.lexists(video):
        return
    from dynfocus.processing.reading.sources import existing_path

    if not os.path.lexists(existing_path(video)):
        raise UserError(f"{shown_name(video)}: there is no such {kind}.")


def shown_name(video: str) -> str:
    """The name of a video in everything that is printed: an address without its secret parts."""
    from dynfocus.processing.reading.downloads import public_name

    return public_name(video)


def check_plot(plot: Path, option: str = "") -> None:
    """Raises a `UserError` if no picture can be written to `plot`; the message begins with `option`."""
    if plot.suffix.lower() not in _PLOT_FORMATS:
        raise UserError(f"{option}{plot}: the file's name must end in one of {', '.join(_PLOT_FORMATS)}.")
    if not plot.parent.is_dir():
        raise UserError(f"{option}{plot}: there is no folder {plot.parent}; create it first.")
    if plot.is_dir():
        raise UserError(f"{option}{plot}: is a folder; name a file.")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(f"{option}{plot}: drawing needs the package matplotlib: pip install 'dynfocus[plot]'.")


def open_pipeline(setup: Setup) -> Any:
    """The `video-qa` pipeline of a command."""
    with spinner("Loading the model"):
        return load_pipeline(
            setup.model, setup.device, setup.dtype, setup.revision, setup.trust_remote_code, setup.adoption
        )


def answer(pipe: Any, video: Any, question: str, setup: Setup) -> dict[str, Any]:
    """
    The pipeline's result with details. Its steps run one by one, so that the progress line can name each. `video` is a
    name or a state.
    """
    video_qa = pipe.video_qa
    sampling = {name: value for name, value in setup.sampling.items() if value is not None}
    with in_options():
        with spinner("Reading the video" if isinstance(video, str) else "Reading the question"):
            settings = sampling if isinstance(video, str) else setup.budget
            with shown_warnings():
                prepared = video_qa.prepare({"video": video, "question": question}, **settings)
        with spinner("Looking and answering"), shown_warnings():
            (found,) = video_qa.answer([prepared], rule=setup.rule, max_new_tokens=setup.max_new_tokens)
    return found.as_dict()


@contextlib.contextmanager
def in_options() -> Iterator[None]:
    """Turns an error of the library into a `UserError` that names the options of the command."""
    import torch

    try:
        yield
    except BrokenPipeError:
        raise
    except UserError:
        raise
    except (ValueError, OSError, ImportError) as error:
        raise UserError(wording.in_options(str(error))) from error
    except torch.OutOfMemoryError as error:
        raise UserError(
            "The device's memory is full: look at fewer frames (--max-frames), spend fewer tokens "
            "(--max-visual-tokens), use --dtype bfloat16, or --device cpu."
        ) from error
    except Exception as error:  # a model's files may make any of its steps fail
        words = " ".join(str(error).split())[:_LONGEST_REASON]
        reason = f"{type(error).__name__}: {words}"
        raise UserError(
            f"The model fails on this ({reason}): its files may be damaged (--verbose says more)."
        ) from error


def draw(result: dict[str, Any], path: Path, film: str | None, decoder: str) -> None:
    """The timeline of an answer, with pictures of its key frames where the video, `film`, can be read."""
    from dynfocus.processing.timeline import pictures_of, timeline_figure

    with spinner("Drawing the timeline"):
        images = [] if film is None else pictures_of(film, result["key_frames"], decoder)
        try:
            timeline_figure(result, images).savefig(path, dpi=_PLOT_DPI)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror or error}.") from error


def plot_line(path: Path, hidden: str) -> str:
    """The line that is printed about a picture; `hidden` says why it shows no frames, or is empty."""
    return f"Timeline: {path}" + (f" (without pictures: {hidden})" if hidden else "")


__all__ = [
    "Request",
    "Setup",
    "answer",
    "check_options",
    "check_plot",
    "check_rule",
    "check_setup",
    "check_video",
    "draw",
    "in_options",
    "open_pipeline",
    "plot_line",
    "run",
    "shown_name",
]
