"""Frames of a video by their numbers, and which of them are shown to a language model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from dynfocus.processing.reading.video_reading import OpenVideo, resize_frame

PANEL = 2  # frames along each side of a panel


@dataclass(frozen=True)
class VideoFrames:
    """
    A video whose frames can be had by their numbers.

    Args:
        read: gives `(number, frame)` for sorted frame numbers, in order, frames `(H, W, 3)` uint8 RGB in full size.
        times: `(total,)` start of every frame in seconds.
        size: `(height, width)` of the frames.
        duration: seconds from the first frame's start to the last one's end.
    """

    read: Callable[[Sequence[int]], Iterable[tuple[int, np.ndarray]]]
    times: np.ndarray
    size: tuple[int, int]
    duration: float

    @classmethod
    def decoded(cls, frames: np.ndarray, times: Sequence[float] | np.ndarray, duration: float | None = None):
        """Frames in memory, `(total, H, W, 3)` uint8 RGB, and their times; a last frame is shown as long as the one
        before it, if no duration is given."""
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
        """The frames of a file that `open_video` has opened; they are decoded when they are asked for, by seeking."""

        def read(numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
            return replace(video, wanted=np.asarray(numbers, dtype=np.int64), size=None, transform=None).frames()

        index = video.index
        return cls(read, index.times, (video.metadata.height, video.metadata.width), index.duration)

    def __len__(self) -> int:
        return len(self.times)

    def shown_at(self, seconds: float) -> int:
        """The number of the frame that is shown at a time; beyond the end, of the last one."""
        # A tick of the container's clock may lie this much behind.
        return max(0, int(np.searchsorted(self.times, seconds + 1e-3, side="right")) - 1)


@dataclass(frozen=True)
class ChosenFrames:
    """
    Which frames of one video are shown.

    Args:
        video: where they come from.
        key_frames: sorted numbers of the frames in fine detail.
        coarse: the coarse pictures in time order, each the sorted numbers of the frames that it shows: one, or up to
            four for a panel.

    Raises:
        `ValueError`: no key frame, or numbers that the video does not have.
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
    Coarse pictures spread evenly over the frames that are no key frames.

    Args:
        candidates: sorted numbers of the frames that may be shown.
        key_frames: numbers of those that are shown in full.
        num_coarse: pictures.
        frames_per_coarse: frames that a picture shows; the last may show fewer.

    Returns:
        For each picture the sorted numbers of its frames; in time order.
    """
    key = set(map(int, key_frames))
    rest = np.array([number for number in candidates if int(number) not in key], dtype=np.int64)
    count = min(num_coarse * frames_per_coarse, len(rest))
    if count < 1:
        return []
    chosen = rest[((np.arange(count) + 0.5) * len(rest) / count).astype(np.int64)]
    return [chosen[i : i + frames_per_coarse].tolist() for i in range(0, count, frames_per_coarse)]


@dataclass(frozen=True)
class Entry:
    """
    One picture that a model is shown, or one pair of pictures where its tower merges two.

    Args:
        pictures: for each of them the numbers of its frames: one, or up to four for a panel.
        times: the start of each picture's first frame in seconds.
        is_key: whether it is a key frame.
    """

    pictures: tuple[tuple[int, ...], ...]
    times: tuple[float, ...]
    is_key: bool

    @classmethod
    def of(cls, video: VideoFrames, numbers: Sequence[int], is_key: bool, pair_seconds: float | None = None):
        """A frame, or a panel of several. With `pair_seconds` it is a pair: the second picture shows what comes that
        much later."""
        pictures = [tuple(int(number) for number in numbers)]
        if pair_seconds is not None:
            later = (video.shown_at(float(video.times[number]) + pair_seconds) for number in pictures[0])
            pictures.append(tuple(later))
        return cls(tuple(pictures), tuple(float(video.times[picture[0]]) for picture in pictures), is_key)


def draw(
    video: VideoFrames,
    entries: Sequence[Entry],
    sizes: Sequence[tuple[int, int]],
    resize: Callable[[np.ndarray, tuple[int, int]], torch.Tensor],
) -> list[torch.Tensor]:
    """
    The pictures of all entries. Every frame is read once, and kept only in the sizes in which it is shown.

    Args:
        sizes: `(height, width)` of each entry's pictures.
        resize: makes a frame `(3, height, width)` uint8.

    Returns:
        For each entry `(pictures, 3, height, width)` uint8. A panel is filled in reading order, and black where it has
        no more frames.

    Raises:
        `ValueError`: a frame cannot be read.
    """
    uses: dict[int, list[tuple[int, int, int]]] = {}
    pictures: list[torch.Tensor] = []
    for i, (entry, size) in enumerate(zip(entries, sizes, strict=True)):
        pictures.append(torch.zeros(len(entry.pictures), 3, *size, dtype=torch.uint8))
        for j, numbers in enumerate(entry.pictures):
            for slot, number in enumerate(numbers):
                uses.setdefault(number, []).append((i, j, slot))
    for number, frame in video.read(sorted(uses)):
        for i, j, slot in uses.pop(number, ()):
            picture = pictures[i][j]
            if len(entries[i].pictures[j]) == 1:
                picture.copy_(resize(frame, sizes[i]))
                continue
            height, width = (side // PANEL for side in sizes[i])
            row, column = divmod(slot, PANEL)
            tile = torch.from_numpy(resize_frame(frame, (height, width))).permute(2, 0, 1)
            picture[:, row * height : (row + 1) * height, column * width : (column + 1) * width] = tile
    if uses:
        raise ValueError(f"Frame {min(uses)} of the video cannot be read.")
    return pictures


def as_image(picture: torch.Tensor) -> Image.Image:
    """`(3, H, W)` uint8 as a picture of PIL."""
    return Image.fromarray(picture.permute(1, 2, 0).numpy())


__all__ = ["PANEL", "ChosenFrames", "Entry", "VideoFrames", "as_image", "draw", "spread_coarse"]
