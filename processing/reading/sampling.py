"""Sampling: which frames of a video to read, computed from the times of its frames."""

from typing import Literal, TypeAlias

import numpy as np

Sampling: TypeAlias = Literal["key_frames"] | None

# Times come from integer ticks of the container (milliseconds in Matroska), so that "the frame shown at 2 s" may start
# at 2.0004 s. A sample time that lies this close before a frame's start counts as that frame's.
_TOLERANCE = 1e-3


def sample_indices(
    timestamps: np.ndarray,
    duration: float,
    *,
    fps: float | None = None,
    num_frames: int | None = None,
    max_frames: int | None = None,
    min_frames: int | None = None,
    video_start: float | None = None,
    video_end: float | None = None,
    key_frames: np.ndarray | None = None,
) -> np.ndarray:
    """The frames to read, as sorted unique indices.

    With `num_frames`, the video is cut into that many equally long segments and the frame shown at the centre of each
    is taken; where a variable frame rate puts two centres on one frame, the nearest free neighbour replaces it, so
    that exactly `min(num_frames, total)` frames are returned. Otherwise the frames shown at 0, 1/fps, 2/fps, … are
    taken, each once; if these are more than `max_frames`, then `max_frames` are spread over the whole duration as
    above. The frame shown at a time is the last one that starts at it or before it. With `key_frames` these are taken,
    or `max_frames` of them, spread over the whole duration. With `video_start` or `video_end`, all of this holds for
    the frames that are shown between them, as if the rest had been cut off.

    Args:
        timestamps: `(total,)` start of each frame in seconds, strictly increasing; the first is 0.
        duration: end of the last frame in seconds.
        fps: frames a second; default 1. A rate above the video's own takes every frame once.
        num_frames: number of frames; replaces `fps`.
        max_frames: never more frames than this.
        min_frames: where the above gives fewer frames, take this many over the whole duration instead.
        video_start, video_end: seconds between which the frames lie; default the whole video.
        key_frames: `(K,)` sorted indices of the codec's key frames, to take these.

    Returns:
        `(T,)` int64, `1 <= T <= total`.

    Raises:
        ValueError: for a video without frames, a rate or count that is not positive, or a video that is over at
            `video_start`.
    """
    check_sampling(
        fps=fps,
        num_frames=num_frames,
        max_frames=max_frames,
        min_frames=min_frames,
        video_start=video_start,
        video_end=video_end,
    )
    if len(timestamps) == 0:
        raise ValueError("cannot sample a video that has no frames.")
    if video_start is not None or video_end is not None:
        start, whole = video_start or 0.0, float(max(duration, timestamps[-1]))
        if start >= whole > 0:
            raise ValueError(f"video_start is {start:g} s, but the video lasts {whole:.2f} s.")
        end = whole if video_end is None else min(video_end, whole)
        first = max(0, int(np.searchsorted(timestamps, start + _TOLERANCE, side="right")) - 1)
        last = max(first + 1, int(np.searchsorted(timestamps, end - _TOLERANCE, side="left")))
        if key_frames is not None:
            inside = key_frames[(key_frames >= first) & (key_frames < last)] - first
            key_frames = np.union1d([0], inside)
        # The first frame is shown already when the window begins.
        times = (timestamps[first:last] - start).clip(min=0)
        return first + sample_indices(
            times,
            end - start,
            fps=fps,
            num_frames=num_frames,
            max_frames=max_frames,
            min_frames=min_frames,
            key_frames=key_frames,
        )
    indices = _wanted(timestamps, duration, fps, num_frames, max_frames, key_frames)
    if min_frames is not None and len(indices) < min_frames:
        indices = _centres_of_segments(timestamps, duration, min_frames)
    return indices.astype(np.int64)


def _wanted(
    timestamps: np.ndarray,
    duration: float,
    fps: float | None,
    num_frames: int | None,
    max_frames: int | None,
    key_frames: np.ndarray | None,
) -> np.ndarray:
    if key_frames is not None:
        if max_frames is None or len(key_frames) <= max_frames:
            return key_frames
        return key_frames[_centres_of_segments(timestamps[key_frames], duration, max_frames)]
    if num_frames is not None:
        return _centres_of_segments(timestamps, duration, min(num_frames, max_frames or num_frames))
    # Frame i is taken if some k/fps falls into the time it is shown. This is computed for each frame instead of
    # counting up k, so that frames that are four hours apart cost no more than others.
    step = 1.0 if fps is None else fps
    starts = np.ceil((timestamps - _TOLERANCE) * step).clip(min=0)
    ends = np.append(timestamps[1:], max(duration, timestamps[-1])) - _TOLERANCE
    shown = starts < ends * step
    shown[0] = True
    indices = np.flatnonzero(shown)
    if max_frames is not None and len(indices) > max_frames:
        return _centres_of_segments(timestamps, duration, max_frames)
    return indices


def check_sampling(
    *,
    fps: float | None,
    num_frames: int | None,
    max_frames: int | None,
    min_frames: int | None = None,
    video_start: float | None = None,
    video_end: float | None = None,
    sampling: str | None = None,
) -> None:
    """Raises a `ValueError` for a rate, a count, a time or a way of sampling that cannot be meant."""
    if sampling not in (None, "key_frames"):
        raise ValueError(f"sampling is {sampling!r}: it must be 'key_frames', or left out to sample by time.")
    if sampling is not None and (fps is not None or num_frames is not None):
        raise ValueError(
            "sampling='key_frames' takes the frames that the codec made key frames: leave out fps and num_frames "
            "(max_frames limits their number)."
        )
    if fps is not None and not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"fps is {fps}: it must be above 0.")
    for name, count in (("num_frames", num_frames), ("max_frames", max_frames), ("min_frames", min_frames)):
        if count is not None and not (count >= 1 and count % 1 == 0):
            raise ValueError(f"{name} is {count}: it must be a whole number of at least 1.")
    if min_frames is not None and max_frames is not None and min_frames > max_frames:
        raise ValueError(f"min_frames is {min_frames}, more than max_frames, {max_frames}.")
    for name, time in (("video_start", video_start), ("video_end", video_end)):
        if time is not None and not (np.isfinite(time) and time >= 0):
            raise ValueError(f"{name} is {time}: it must be seconds from the start of the video, 0 or more.")
    if video_end is not None and video_end <= (video_start or 0):
        raise ValueError(f"video_end is {video_end:g} s, which is not after video_start, {video_start or 0:g} s.")


def _centres_of_segments(timestamps: np.ndarray, duration: float, count: int) -> np.ndarray:
    total = len(timestamps)
    count = min(count, total)
    centres = (np.arange(count) + 0.5) * (max(duration, timestamps[-1]) / count)
    indices = np.searchsorted(timestamps, centres + _TOLERANCE, side="right") - 1
    # Make them strictly increasing, forwards and then within the end of the video.
    steps = np.arange(count)
    indices = np.maximum.accumulate(indices - steps) + steps
    return np.minimum(indices, total - count + steps).clip(min=0).astype(np.int64)


__all__ = ["Sampling", "check_sampling", "sample_indices"]
