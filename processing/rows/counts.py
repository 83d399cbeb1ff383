"""How many frames a video will have once it is sampled, without decoding it."""

import os
from typing import Any

import numpy as np
from PIL import Image

from ..reading.decoded_frames import flatten_videos, is_decoded
from ..reading.index import build_index
from ..reading.sampling import check_sampling, sample_indices
from ..reading.sources import open_source
from ..video_processing_dynfocus import DynFocusVideoProcessor


class FrameCounts:
    """
    Counts the sampled frames of videos from their packet indices; files are read once each.

    Args:
        video_processor ([`DynFocusVideoProcessor`]): says how videos are sampled.
        settings (`dict`): what overrules it, such as `fps`; other settings of a call are ignored.
    """

    def __init__(self, video_processor: DynFocusVideoProcessor, settings: dict[str, Any]):
        self.sampling: dict[str, Any] = {
            "fps": settings.get("fps") or video_processor.fps,
            "num_frames": settings.get("num_frames") or video_processor.num_frames,
            "max_frames": settings.get("max_frames") or video_processor.max_frames,
        }
        given = {name for name in ("fps", "num_frames") if settings.get(name) is not None}
        if given == {"fps"}:
            self.sampling["num_frames"] = None
        self.key_frames = (settings.get("sampling") or ("" if given else video_processor.sampling)) == "key_frames"
        check_sampling(**self.sampling)
        is_sampled = settings.get("do_sample_frames")
        self.is_sampled = video_processor.do_sample_frames if is_sampled is None else is_sampled
        self._known: dict[str, int] = {}

    def count(self, video: Any) -> int:
        """
        Frames of one video that the processor will give.

        Raises:
            `ValueError`, `FileNotFoundError`: for a file that cannot be opened.
        """
        (source,) = flatten_videos(video)
        if is_decoded(source):
            limits = (self.sampling["num_frames"], self.sampling["max_frames"]) if self.is_sampled else ()
            return min([_length(source), *(limit for limit in limits if limit is not None)])
        if not isinstance(source, (str, os.PathLike)):
            return self._count_file(source)
        path = os.fspath(source)
        if path not in self._known:
            self._known[path] = self._count_file(path)
        return self._known[path]

    def _count_file(self, source: Any) -> int:
        index = build_index(open_source(source))
        if not self.is_sampled:
            return len(index.times)
        key_frames = np.flatnonzero(index.is_key) if self.key_frames else None
        return len(sample_indices(index.times, index.duration, **self.sampling, key_frames=key_frames))


def _length(decoded: Any) -> int:
    if isinstance(decoded, (list, tuple)):
        return len(decoded)
    return 1 if isinstance(decoded, Image.Image) or decoded.ndim == 3 else len(decoded)


__all__ = ["FrameCounts"]
