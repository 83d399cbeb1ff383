"""A video of a message, with its own settings of the sampling."""

import numbers
from collections.abc import Mapping
from typing import Any

from .sampling import check_sampling

# Names of qwen-vl-utils, and ours.
_ALIASES = {"nframes": "num_frames"}
#: Settings of the sampling in a video block; see `read_video`.
VIDEO_SETTINGS = ("fps", "num_frames", "max_frames", "min_frames", "video_start", "video_end", *_ALIASES)
# Only one of these may be given.
_RATES = ("fps", "num_frames")
_COUNTS = ("num_frames", "max_frames", "min_frames")


class ChatVideo:
    """
    A video with its own settings. Not a dataclass, because transformers 5.24 and later splits dataclasses in messages.

    Args:
        video: in any form, a `VideoState` included.
        settings: some of `VIDEO_SETTINGS`; they replace those of a call.

    Raises:
        `ValueError`: for a setting that is not a number or invalid, or two that contradict each other.
    """

    def __init__(self, video: Any, settings: Mapping[str, Any] | None = None):
        self.video = video
        self.settings: dict[str, Any] = {}
        for given, value in (settings or {}).items():
            name = _ALIASES.get(given, given)
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise ValueError(f"`{given}` of a video must be a number, got {type(value).__name__}.")
            if name in self.settings:
                raise ValueError(f"`{given}` and `{name}` of a video mean the same: give one of them.")
            # Tables keep whole numbers of a column with gaps as floats.
            number = float(value)
            self.settings[name] = int(number) if name in _COUNTS and number.is_integer() else number
        if set(_RATES) <= self.settings.keys():
            raise ValueError("A video has both `fps` and `num_frames`: give one of them.")
        check_sampling(**{**dict.fromkeys((*_RATES, "max_frames")), **self.settings})

    def __repr__(self) -> str:
        return f"ChatVideo({type(self.video).__name__}, {self.settings})"

    def over(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a call, in which this video's own replace others."""
        is_rated = bool(self.settings.keys() & {*_RATES})
        dropped = {*_RATES, "sampling"} if is_rated else set()
        return {**{name: value for name, value in settings.items() if name not in dropped}, **self.settings}


__all__ = ["VIDEO_SETTINGS", "ChatVideo"]
