"""Frames of a video by their numbers, and which of them are shown to a language model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dynfocus.processing.reading.video_reading import OpenVideo


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


__all__ = ["ChosenFrames", "VideoFrames", "spread_coarse"]
