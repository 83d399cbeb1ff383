"""What can be known to be wrong with a video and how to sample it before anything is loaded, and after it was read."""

import math
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .terminal import UserError


def check_sampling(sampling: Mapping[str, Any]) -> None:
    """Raises a `UserError` for numbers of frames that are none. The token budget is checked where it is known."""
    for name in ("fps", "num_frames", "max_frames"):
        value = sampling.get(name)
        if value is not None and not 0 < value < math.inf:
            what = "finite" if value == math.inf else "above 0"
            raise UserError(f"--{name.replace('_', '-')} {value}: must be {what}.")


def check_is_file(video: str) -> None:
    """Raises a `UserError` for what is there but is no file: a pipe can be read only once, and from its beginning."""
    try:
        mode = Path(video).stat().st_mode
    except (OSError, ValueError):
        if video != "-":
            return
        mode = stat.S_IFIFO
    if stat.S_ISDIR(mode):
        raise UserError(f"{video}: is a folder; name a video file in it.")
    if not stat.S_ISREG(mode):
        raise UserError(f"{video}: a video cannot be read from a pipe; save it to a file, and name that.")


def rate_note(times: Sequence[float], fps: float | None) -> str | None:
    """What to say where a video has fewer frames a second than were asked for, or than its length allows."""
    if fps is None or len(times) < 2 or times[-1] <= times[0]:
        return None
    rate = (len(times) - 1) / (times[-1] - times[0])
    if rate > 0.9 * fps:
        return None
    return (
        f"--fps {fps:g} is more than the video has, or than --max-frames allows: {len(times)} frames were read, "
        f"{rate:.3g} a second."
    )


__all__ = ["check_is_file", "check_sampling", "rate_note"]
