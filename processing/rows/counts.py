"""The number of sampled frames of a video, without decoding it."""

import os
from typing import Any

from PIL import Image

from ..reading.chat_video import ChatVideo
from ..reading.decoded_frames import flatten_videos, is_decoded
from ..reading.images import FrameFiles
from ..reading.sampling import sample_indices
from ..reading.sources import open_source
from ..reading.video_reading import codec_key_frames, index_of
from ..video_processing_dynfocus import SAMPLING_SETTINGS, DynFocusVideoProcessor


class FrameCounts:
    """
    Counts the sampled frames of videos from their packet indices; each file is read once.

    Args:
        video_processor ([`DynFocusVideoProcessor`]): its settings sample the videos.
        settings (`dict`): settings that override it, such as `fps`; other settings of a call are ignored.
    """

    def __init__(self, video_processor: DynFocusVideoProcessor, settings: dict[str, Any]):
        self._video_processor = video_processor
        self._settings = {name: value for name, value in settings.items() if name in SAMPLING_SETTINGS}
        self._known: dict[tuple[str, str], int] = {}

    def count(self, video: Any) -> int:
        """
        Number of frames that the processor will sample from one video.

        Raises:
            `ValueError`, `FileNotFoundError`: for a file that cannot be opened.
        """
        (source,) = flatten_videos(video)
        settings = self._settings
        if isinstance(source, ChatVideo):
            source, settings = source.video, {**source.over(settings), "do_sample_frames": True}
        if is_decoded(source):
            return self._video_processor.planned_frames(_length(source), **settings)
        if not isinstance(source, (str, os.PathLike)):
            return self._count_file(source, settings)
        known = os.fspath(source), repr(settings)
        if known not in self._known:
            self._known[known] = self._count_file(source, settings)
        return self._known[known]

    def _count_file(self, source: Any, settings: dict[str, Any]) -> int:
        index = index_of(open_source(source))
        sampling = self._video_processor.sampling_of(**settings)
        if not sampling.pop("do_sample_frames"):
            return len(index.times)
        key_frames = codec_key_frames(index) if sampling.pop("sampling") == "key_frames" else None
        return len(sample_indices(index.times, index.duration, **sampling, key_frames=key_frames))


def _length(decoded: Any) -> int:
    if isinstance(decoded, (list, tuple, FrameFiles)):
        return len(decoded)
    return 1 if isinstance(decoded, Image.Image) or decoded.ndim == 3 else len(decoded)


__all__ = ["FrameCounts"]
