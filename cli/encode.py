"""`dynfocus encode`: save the state of a video, for questions later."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from dynfocus.processing.clock import clock_time, counted

from .ask import check_video
from .loading import STATE_ENDING, check_sampling, is_state, load_pipeline, note_demo, rate_note
from .terminal import UserError, print_note, quiet, shown_warnings, spinner
from .wording import in_options


@dataclass(frozen=True)
class Request:
    """The command line; `sampling` holds settings of the video processor, `None` for those not given."""

    video: str
    out: Path
    model: str | None
    sampling: dict[str, Any]
    half: bool
    force: bool
    device: str | None
    dtype: str | None
    revision: str | None
    trust_remote_code: bool
    verbose: bool
    adoption: dict[str, Any] = field(default_factory=dict)


def run(request: Request) -> None:
    """Encode the video, and print what was written. Ends with exit code 130 after Ctrl-C."""
    _check(request)
    err = Console(stderr=True, soft_wrap=True, highlight=False)
    options = {name: value for name, value in request.sampling.items() if value is not None}
    try:
        with quiet(request.verbose):
            with spinner("Loading the model"):
                pipe = load_pipeline(
                    request.model,
                    request.device,
                    request.dtype,
                    request.revision,
                    request.trust_remote_code,
                    request.adoption,
                )
            note_demo(request.model, "encode VIDEO --out STATE")
            found = None if request.force else _finished(pipe, request, options)
            if found is None:
                with shown_warnings(), encoding_bar() as report:
                    state = _encode(pipe, request, options, report)
    except KeyboardInterrupt as stopped:
        message = in_options(str(stopped)) or "stopped before the first frame was encoded."
        err.print(Text(message[0].upper() + message[1:]))
        raise typer.Exit(130) from None
    except (ValueError, OSError) as error:
        raise UserError(in_options(str(error))) from error
    times = [] if found or state.frame_times is None else state.frame_times[0].tolist()
    if note := rate_note(times, request.sampling["fps"]):
        print_note(note)
    if found is not None:
        print(f"{request.out} was finished before, with the same settings: {_facts(found, request.out)}.")
    else:
        print(f"{request.out} is written: {_facts(state, request.out)}.")


def _check(request: Request) -> None:
    """Checks that are possible before the model is loaded."""
    check_sampling(request.sampling)
    fps, num_frames = request.sampling["fps"], request.sampling["num_frames"]
    if fps is not None and num_frames is not None:
        raise UserError(f"--fps {fps:g} and --num-frames {num_frames}: each sets the number of frames; give one.")
    check_video(request.video)
    if request.out.is_dir():
        raise UserError(f"--out {request.out}: is a folder; name a file.")
    if not request.out.parent.is_dir():
        raise UserError(f"--out {request.out}: there is no folder {request.out.parent}; create it first.")
    if request.out.exists() and os.path.exists(request.video) and request.out.samefile(request.video):
        raise UserError(f"--out {request.out}: is the video itself; name another file.")
    if not is_state(str(request.out)):
        raise UserError(f"--out {request.out}: the name of a state ends in {STATE_ENDING}.")
    if request.out.exists():
        from dynfocus.states.state_file import read_state_file

        try:
            read_state_file(request.out)
        except ValueError:
            raise UserError(f"--out {request.out}: exists already and is no video state; name another file.") from None


def _finished(pipe: Any, request: Request, options: dict[str, Any]) -> Any:
    """The state that is already in the file, if it is the requested one; a `UserError` for any other state."""
    if not request.out.exists():
        return None
    from dynfocus import VideoState
    from dynfocus.states.encoding import difference_of_states, state_sampling

    try:
        state = VideoState.load(request.out)
    except ValueError as error:
        raise UserError(f"{str(error).rstrip('.')}, in another file, or over this one with --force.") from None
    fingerprint = pipe.video_qa.fingerprint()
    with pipe.video_qa.open_video(request.video, **options) as stream:
        keeps = ("jpeg_bytes",) if stream.keeps_frames else ()
        what = difference_of_states(state, state_sampling(stream), fingerprint, _dtype(pipe, request), keeps)
    if what is not None:
        raise UserError(
            f"--out {request.out}: exists already and is of another {what}: name another file, or overwrite it with "
            "--force."
        )
    return state


def _encode(pipe: Any, request: Request, options: dict[str, Any], report: Any) -> Any:
    import torch

    try:
        return pipe.encode_video(
            request.video, save_to=request.out, progress=report, dtype=_dtype(pipe, request), **options
        )
    except torch.OutOfMemoryError as error:
        raise UserError("The device's memory is full: use --dtype bfloat16, or --device cpu.") from error


def _dtype(pipe: Any, request: Request) -> Any:
    """Of the state's features."""
    import torch

    return torch.float16 if request.half else pipe.video_qa.state_dtype


@contextmanager
def encoding_bar() -> Iterator[Any]:
    """A progress bar on stderr, and its callback; nothing if stderr is not a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("Encoding"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _facts(state: Any, path: Path) -> str:
    duration = state.sampling.get("duration") if state.sampling else None
    of_video = "" if duration is None else f" of {clock_time(duration)}"
    return f"{counted(state.num_frames[0], 'frame')}{of_video}, {path.stat().st_size / 1e6:.1f} MB"


__all__ = ["Request", "encoding_bar", "run"]
