"""`dynfocus find`: the moments of a video that fit a text, found with a dual encoder only."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dynfocus.processing.clock import clock_time

from .ask import in_options
from .encode import encoding_bar
from .loading import is_state, load_encoder, load_state
from .terminal import UserError, quiet, spinner

# Seconds of a clip before and after its moment.
_CLIP_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """The command line; `sampling` holds `fps`, `max_frames` and `decoder`, `None` for those not given."""

    video: str
    text: str
    top: int
    clips: Path | None
    dual_encoder: str | None
    as_json: bool
    sampling: dict[str, Any]
    device: str | None
    dtype: str | None
    verbose: bool


def run(request: Request) -> None:
    """Find the moments and print them. Raises a `UserError` if the request is invalid."""
    if not request.text.strip():
        raise UserError("The text is empty: describe what the moments show.")
    if request.clips is not None and request.clips.exists() and not request.clips.is_dir():
        raise UserError(f"--clips {request.clips}: is a file; name a folder.")
    with quiet(request.verbose):
        from dynfocus.adoption.moments import find_moments, look_at, write_clip

        with spinner("Loading the dual encoder"):
            encoder = load_encoder(request.dual_encoder, request.device, request.dtype)
        options = {name: value for name, value in request.sampling.items() if value is not None}
        with in_options():
            if is_state(request.video):
                state = load_state(request.video)
            else:
                with encoding_bar() as report:
                    state = look_at(request.video, encoder, progress=report, **options)
            moments = find_moments(state, request.text, encoder, top=request.top)
        found: list[dict[str, Any]] = [{"time": moment.time, "score": moment.score} for moment in moments]
        if request.clips is not None:
            if is_state(request.video):
                raise UserError("--clips: clips are cut from the video itself; give it instead of its state.")
            request.clips.mkdir(parents=True, exist_ok=True)
            with spinner("Writing clips"):
                for number, entry in enumerate(found, start=1):
                    path = request.clips / f"{number:02d}-{entry['time']:.1f}s.mp4"
                    write_clip(request.video, entry["time"] - _CLIP_SECONDS, entry["time"] + _CLIP_SECONDS, path)
                    entry["clip"] = str(path)
    if request.as_json:
        print(json.dumps({"video": request.video, "text": request.text, "moments": found}))
        return
    table = Table(box=None)
    for heading in ("time", "score", *(["clip"] if request.clips is not None else [])):
        table.add_column(heading, header_style="dim")
    for entry in found:
        table.add_row(clock_time(entry["time"], decimals=True), f"{entry['score']:.3f}", entry.get("clip", ""))
    Console(highlight=False).print(table)


__all__ = ["Request", "run"]
