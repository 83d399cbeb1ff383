"""Saved video states, where a command takes one in place of a video."""

from pathlib import Path
from typing import Any

from .terminal import UserError

STATE_ENDING = ".safetensors"


def is_state(video: str) -> bool:
    """Whether a name on the command line is that of a state, and not of a video."""
    return video.lower().endswith(STATE_ENDING) and "://" not in video


def load_state(path: str) -> Any:
    """The `VideoState` of one video. Raises a `UserError` where the file holds anything else."""
    from dynfocus import VideoState

    try:
        state = VideoState.load(path)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    if len(state) != 1:
        raise UserError(f"{path}: holds {len(state)} videos, and a question is about one: encode each by itself.")
    return state


def check_made_by(state: Any, pipe: Any, path: str) -> None:
    """Raises a `UserError` where a state was not encoded by the model of `pipe`."""
    try:
        pipe.video_qa.check_state(state)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def video_of_state(state: Any, path: str) -> tuple[str | None, str]:
    """The file that a state was encoded from, if it is still there unchanged, and else why it cannot be shown."""
    sampling = state.sampling or {}
    source = sampling.get("source")
    if source is None:
        return None, "the state does not say which video it is of"
    for file in (Path(source), Path(path).parent / Path(source).name):
        if file.is_file():
            if sampling.get("size") in (None, file.stat().st_size):
                return str(file), ""
            return None, f"{file} has changed since it was encoded"
    return None, f"{source} is not here"


__all__ = ["STATE_ENDING", "check_made_by", "is_state", "load_state", "video_of_state"]
