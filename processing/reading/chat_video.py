"""A video of a message, with the settings that the message gives for it alone."""

import numbers
from collections.abc import Mapping
from typing import Any

from .sampling import check_sampling

# Names of qwen-vl-utils for ours.
_ALIASES = {"nframes": "num_frames"}
#: What a block of a video may say of how it is sampled; see `read_video`.
VIDEO_SETTINGS = ("fps", "num_frames", "max_frames", "min_frames", "video_start", "video_end", *_ALIASES)
# Of these, one decides how many frames there are.
_RATES = ("fps", "num_frames")
_COUNTS = ("num_frames", "max_frames", "min_frames")


class ChatVideo:
    """
    A video with settings of its own. No dataclass, as transformers takes these apart in messages from 5.24 on.

    Args:
        video: in any form, a `VideoState` included.
        settings: of `VIDEO_SETTINGS`; they come before those of a call.

    Raises:
        `ValueError`: a setting that is no number or cannot be meant, or two that contradict each other.
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
        """The settings of a call, where this video's own do not take their place."""
        is_rated = bool(self.settings.keys() & {*_RATES})
        dropped = {*_RATES, "sampling"} if is_rated else set()
        return {**{name: value for name, value in settings.items() if name not in dropped}, **self.settings}


__all__ = ["VIDEO_SETTINGS", "ChatVideo"]
