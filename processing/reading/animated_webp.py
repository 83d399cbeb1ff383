"""Animated WebP, which FFmpeg takes for a still image: times from the file's chunks, frames from Pillow."""

import io
import os
import warnings
from collections.abc import Iterator
from typing import IO

import numpy as np
from PIL import Image, ImageSequence

from .index import Orientation, PacketIndex
from .sources import VideoSource

#: `PacketIndex.container` of such a file.
CONTAINER = "webp"
# Of a frame without a duration, as browsers and FFmpeg show those of GIFs.
_DEFAULT_MILLISECONDS = 100


def animation_index(source: VideoSource) -> PacketIndex | None:
    """
    The index of an animated WebP; `None` for any other file.

    Raises:
        `ValueError`: pictures or frames beyond the source's limits, or no frame at all.
    """
    with source.opened() as file:
        head = file.read(30)
        if head[:4] != b"RIFF" or head[8:16] != b"WEBPVP8X" or not head[20] & 2:
            return None
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
        source.check_picture(width, height)
        durations = []
        for milliseconds in _durations(file):
            durations.append(milliseconds or _DEFAULT_MILLISECONDS)
            if len(durations) > source.limits.max_frames:
                raise ValueError(
                    f"{source.name}: holds more than {source.limits.max_frames} frames; cut it into parts, or raise "
                    "ReadingLimits(max_frames=…)."
                )
    if not durations:
        raise ValueError(f"{source.name}: holds nothing to show: its animation has no whole frame.")
    ends = np.cumsum(durations) / 1000
    count = len(durations)
    numbers, zeros = np.arange(count), np.zeros(count, dtype=np.int64)
    return PacketIndex(
        times=np.concatenate([[0.0], ends[:-1]]),
        duration=float(ends[-1]),
        fps=count / float(ends[-1]),
        pts=None,
        packet_of=numbers,
        frame_of=numbers,
        key_packet_of=zeros,
        is_key=numbers == 0,
        cost=np.arange(count + 1, dtype=np.float64),
        packet_pts=numbers,
        packet_size=zeros,
        packet_pos=zeros,
        stretch=zeros,
        seek_ticks=numbers,
        closed_groups=False,
        states_frames=False,
        height=height,
        width=width,
        orientation=Orientation(),
        container=CONTAINER,
        codec=CONTAINER,
        ends_early=source.ends_early(),
    )


class AnimatedWebPDecoder:
    """Pillow, from the first frame on: each frame is drawn over those before it."""

    name = "pillow"

    def __init__(self, source: VideoSource, index: PacketIndex, skip_damaged: bool) -> None:
        self.picture = index.height, index.width
        self._source, self._skip_damaged = source, skip_damaged

    def frames(self, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """See `VideoDecoder`."""
        left = set(wanted.tolist())
        with self._source.opened() as file:
            data = io.BytesIO(file.read(-1))
        try:
            for number, frame in enumerate(ImageSequence.Iterator(Image.open(data, formats=["WEBP"]))):
                if number in left:
                    left.discard(number)
                    yield number, np.asarray(frame.convert("RGB"))
                if not left:
                    return
        except MemoryError:
            raise
        except Exception:  # Pillow's plug-ins raise what they like
            pass
        what = f"{self._source.name}: its picture is damaged in frame {min(left)}"
        if not self._skip_damaged:
            raise ValueError(f"{what}; on_truncated='warn' leaves out what cannot be decoded.")
        warnings.warn(f"{what}; what cannot be decoded is left out.", stacklevel=2)


def _durations(file: IO[bytes]) -> Iterator[int]:
    """Milliseconds of each frame that is there whole."""
    size = file.seek(0, os.SEEK_END)
    position = 12
    while position + 8 <= size:
        file.seek(position)
        header = file.read(24)
        length = int.from_bytes(header[4:8], "little")
        if header[:4] == b"ANMF" and position + 8 + length <= size and len(header) == 24:
            yield int.from_bytes(header[20:23], "little")
        position += 8 + length + length % 2


__all__ = ["CONTAINER", "AnimatedWebPDecoder", "animation_index"]
