"""Frames of a video by number, and the choice and layout of those that are shown to a language model."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_utils import SizeDict
from transformers.video_processing_utils import BaseVideoProcessor

from dynfocus.processing.reading.video_reading import OpenVideo, resize_frame

PANEL = 2  # frames along each side of a panel


class DrawnFrames:
    """
    A cache of frames of one video in the sizes in which they were shown. The least recently used frame is dropped
    first.

    Args:
        most_bytes: largest size of the cache.
    """

    def __init__(self, most_bytes: int = 2**28):
        self.most_bytes, self.num_bytes = most_bytes, 0
        self._kept: OrderedDict[Hashable, torch.Tensor] = OrderedDict()

    def get(self, key: Hashable) -> torch.Tensor | None:
        """A frame from the cache; `None` if it is not there."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def add(self, key: Hashable, frame: torch.Tensor) -> None:
        """Add a frame to the cache."""
        self._kept[key] = frame
        self.num_bytes += frame.nbytes
        while self.num_bytes > self.most_bytes:
            self.num_bytes -= self._kept.popitem(last=False)[1].nbytes


@dataclass(frozen=True)
class VideoFrames:
    """
    A video whose frames can be read by number.

    Args:
        read: yields `(number, frame)` for sorted frame numbers, in order, frames `(H, W, 3)` uint8 RGB in full size.
        times: `(total,)` start of every frame in seconds.
        size: `(height, width)` of the frames.
        duration: seconds from the first frame's start to the last one's end.
        drawn ([`DrawnFrames`], *optional*): cache of shown frames, so that a further question decodes only new ones.
    """

    read: Callable[[Sequence[int]], Iterable[tuple[int, np.ndarray]]]
    times: np.ndarray
    size: tuple[int, int]
    duration: float
    drawn: DrawnFrames | None = None

    @classmethod
    def decoded(cls, frames: np.ndarray, times: Sequence[float] | np.ndarray, duration: float | None = None):
        """
        A video of frames in memory, `(total, H, W, 3)` uint8 RGB, with their times. Without a duration, the last frame
        is shown as long as the one before it.
        """
        seconds = np.asarray(times, dtype=np.float64)
        if frames.ndim != 4 or frames.dtype != np.uint8 or len(frames) != len(seconds) or len(frames) == 0:
            raise ValueError(
                f"Frames must be a uint8 array (total, H, W, 3) with a time each, got {frames.dtype} of shape "
                f"{tuple(frames.shape)} with {len(seconds)} times."
            )
        if duration is None:
            duration = float(seconds[-1] + (seconds[-1] - seconds[-2] if len(seconds) > 1 else 1.0))
        return cls(lambda numbers: ((n, frames[n]) for n in numbers), seconds, frames.shape[1:3], duration)

    @classmethod
    def opened(cls, video: OpenVideo):
        """A video of a file that was opened with `open_video`; frames are decoded on access, by seeking."""

        def read(numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
            return replace(video, wanted=np.asarray(numbers, dtype=np.int64), size=None, transform=None).frames()

        index = video.index
        size = video.metadata.height, video.metadata.width
        return cls(read, index.times, size, index.duration, DrawnFrames())

    def __len__(self) -> int:
        return len(self.times)

    def shown_at(self, seconds: float) -> int:
        """The number of the frame that is shown at a time; beyond the end, of the last one."""
        # Rounding to ticks of the container's clock may be this large.
        return max(0, int(np.searchsorted(self.times, seconds + 1e-3, side="right")) - 1)


@dataclass(frozen=True)
class ChosenFrames:
    """
    The frames of one video that are shown.

    Args:
        video: source of the frames.
        key_frames: sorted numbers of the frames in fine detail.
        coarse: the coarse pictures in time order, each the sorted numbers of the frames that it shows: one, or up to
            four for a panel.

    Raises:
        `ValueError`: without a key frame, or for numbers that the video does not have.
    """

    video: VideoFrames
    key_frames: Sequence[int]
    coarse: Sequence[Sequence[int]] = ()

    def __post_init__(self) -> None:
        numbers = [*self.key_frames, *(number for group in self.coarse for number in group)]
        if not len(self.key_frames):
            raise ValueError("A video needs at least one key frame to be shown.")
        wrong = [int(number) for number in numbers if not 0 <= number < len(self.video)]
        if wrong:
            raise ValueError(f"The video has {len(self.video)} frames, so there is no frame {wrong[0]}.")
        if list(self.key_frames) != sorted(set(self.key_frames)):
            raise ValueError(f"Key frames must be sorted and different, got {list(self.key_frames)}.")


def spread_coarse(
    candidates: Sequence[int], key_frames: Sequence[int], num_coarse: int, frames_per_coarse: int = 1
) -> list[list[int]]:
    """
    Coarse pictures spread evenly over a video. A place that is taken by a key frame moves to the nearest free frame,
    so that two questions about a video have most coarse frames in common.

    Args:
        candidates: sorted numbers of the frames that may be shown.
        key_frames: numbers of the frames that are shown in full.
        num_coarse: number of pictures.
        frames_per_coarse: frames in a picture; the last may have fewer.

    Returns:
        The sorted numbers of each picture's frames, in time order.
    """
    key = set(map(int, key_frames))
    numbers = np.asarray(candidates, dtype=np.int64)
    free = [number for number in numbers.tolist() if number not in key]
    count = min(num_coarse * frames_per_coarse, len(free))
    if count < 1:
        return []
    even = numbers[((np.arange(count) + 0.5) * len(numbers) / count).astype(np.int64)].tolist()
    chosen = set(even) - key
    for number in even:
        if number in key:
            chosen.add(min((n for n in free if n not in chosen), key=lambda n: abs(n - number)))  # noqa: B023
    shown = sorted(chosen)
    return [shown[i : i + frames_per_coarse] for i in range(0, count, frames_per_coarse)]


@dataclass(frozen=True)
class Entry:
    """
    One picture for the model, or one pair of pictures if its tower merges two.

    Args:
        pictures: numbers of the frames of each picture: one, or up to four for a panel.
        times: the start of each picture's first frame in seconds.
        is_key: whether it is a key frame.
    """

    pictures: tuple[tuple[int, ...], ...]
    times: tuple[float, ...]
    is_key: bool

    @classmethod
    def of(cls, video: VideoFrames, numbers: Sequence[int], is_key: bool, pair_seconds: float | None = None):
        """
        An entry of a frame, or of a panel of several. With `pair_seconds` it is a pair, whose second picture is that
        much later.
        """
        pictures = [tuple(int(number) for number in numbers)]
        if pair_seconds is not None:
            later = (video.shown_at(float(video.times[number]) + pair_seconds) for number in pictures[0])
            pictures.append(tuple(later))
        return cls(tuple(pictures), tuple(float(video.times[picture[0]]) for picture in pictures), is_key)


def draw(
    video: VideoFrames, entries: Sequence[Entry], sizes: Sequence[tuple[int, int]], stock: Any
) -> list[torch.Tensor]:
    """
    Draw the pictures of all entries. Every frame is read once, and kept only in the sizes in which it is shown.

    Args:
        sizes: `(height, width)` of each entry's pictures.
        stock: the stock processor of pictures, whose resizing is used.

    Returns:
        For each entry `(pictures, 3, height, width)` uint8. A panel is filled in reading order, and the rest is black.

    Raises:
        `ValueError`: a frame cannot be read.
    """
    pictures = [
        torch.zeros(len(entry.pictures), 3, *size, dtype=torch.uint8)
        for entry, size in zip(entries, sizes, strict=True)
    ]
    # For each frame the places that still need it, and how it is resized for them.
    missing: dict[int, list[tuple[torch.Tensor, Any]]] = {}
    for entry, drawn in zip(entries, pictures, strict=True):
        for numbers, picture in zip(entry.pictures, drawn, strict=True):
            way: Any = stock.resample if len(numbers) == 1 else "tile"
            for number, place in zip(numbers, _places(picture, len(numbers)), strict=True):
                known = video.drawn.get((number, way, place.shape)) if video.drawn is not None else None
                if known is None:
                    missing.setdefault(number, []).append((place, way))
                else:
                    place.copy_(known)
    for number, frame in video.read(sorted(missing)) if missing else ():
        made: dict[Hashable, torch.Tensor] = {}
        for place, way in missing.pop(number, ()):
            key = (number, way, place.shape)
            if key not in made:
                size = (place.shape[1], place.shape[2])
                made[key] = _tile(frame, size) if way == "tile" else resized(frame, size, stock)
                if video.drawn is not None:
                    video.drawn.add(key, made[key])
            place.copy_(made[key])
    if missing:
        raise ValueError(f"Frame {min(missing)} of the video cannot be read.")
    return pictures


def _places(picture: torch.Tensor, num_frames: int) -> list[torch.Tensor]:
    """The places of a picture's frames: the whole picture, or the first tiles of a panel in reading order."""
    if num_frames == 1:
        return [picture]
    height, width = (side // PANEL for side in picture.shape[1:])
    corners = [(slot // PANEL * height, slot % PANEL * width) for slot in range(num_frames)]
    return [picture[:, y : y + height, x : x + width] for y, x in corners]


def _tile(frame: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(resize_frame(frame, size))).permute(2, 0, 1)


def resized(frame: np.ndarray, size: tuple[int, int], stock: Any) -> torch.Tensor:
    """A frame `(H, W, 3)` as `(3, height, width)`, resized with the stock processor."""
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)
    if pixels.shape[-2:] == size:
        return pixels
    target = SizeDict(height=size[0], width=size[1])
    return BaseVideoProcessor.resize(stock, pixels[None], target, resample=stock.resample)[0]


def as_image(picture: torch.Tensor) -> Image.Image:
    """`(3, H, W)` uint8 as a picture of PIL."""
    return Image.fromarray(picture.permute(1, 2, 0).numpy())


__all__ = ["PANEL", "ChosenFrames", "DrawnFrames", "Entry", "VideoFrames", "as_image", "draw", "spread_coarse"]
