"""Reads a video: samples frames, decodes only what they need, and resizes each as soon as it is decoded.

    read_video("talk.mp4", fps=1.0, size=(224, 224))       # all sampled frames, their times and metadata
    frames_at("talk.mp4", [30, 900])                       # single frames again, by their numbers

The frames and times do not depend on the decoder, or on whether it seeks or reads through.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch.nn import functional
from transformers.image_utils import PILImageResampling

from .animated_webp import animation_index
from .decoders import DECODERS, VideoDecoder, open_decoder
from .index import PacketIndex, build_index
from .limits import ReadingLimits
from .sampling import Sampling, check_sampling, sample_indices
from .sources import VideoInput, VideoSource, open_source

DecoderName: TypeAlias = Literal["auto", "pyav", "decord", "torchcodec"]
FrameTransform: TypeAlias = Callable[[np.ndarray], np.ndarray]

_MODES = {
    PILImageResampling.NEAREST: "nearest-exact",
    PILImageResampling.BILINEAR: "bilinear",
    PILImageResampling.BICUBIC: "bicubic",
}


@dataclass(frozen=True)
class VideoMetadata:
    """Metadata of the whole video, independent of the sampling.

    Attributes:
        fps: average frames a second.
        duration: seconds from the start of the first frame to the end of the last.
        total_num_frames: frames in the file.
        height, width: of the picture in the file, upright.
        decoder: the decoder that read it.
    """

    fps: float
    duration: float
    total_num_frames: int
    height: int
    width: int
    decoder: str


@dataclass(frozen=True)
class DecodedVideo:
    """Frames of a video.

    Attributes:
        frames: `(T, height, width, 3)` uint8 RGB, or the results of `transform` for each frame, stacked.
        timestamps: `(T,)` float64, start of each frame in seconds from the video's first frame.
        frame_indices: `(T,)` int64, numbers of the frames in the video.
        metadata: of the whole video.
    """

    frames: np.ndarray
    timestamps: np.ndarray
    frame_indices: np.ndarray
    metadata: VideoMetadata


def read_video(
    source: VideoInput,
    *,
    fps: float | None = None,
    num_frames: int | None = None,
    max_frames: int | None = None,
    min_frames: int | None = None,
    video_start: float | None = None,
    video_end: float | None = None,
    sampling: Sampling = None,
    size: int | tuple[int, int] | None = None,
    decoder: DecoderName = "auto",
    transform: FrameTransform | None = None,
    on_truncated: Literal["error", "warn"] = "error",
    timeout: float = 30.0,
    limits: ReadingLimits | None = None,
) -> DecodedVideo:
    """Read frames of a video.

    Only the sampled frames are kept, each in its final size; a decoder holds only a few full-size frames at a time.

    Args:
        source: a path, a URL (`http`, `https`, `file`, `data`), an address of a store that fsspec opens (`hf://`, …),
            the bytes of a file, or a binary file object.
        fps: take the frames shown at 0, 1/fps, 2/fps, … seconds; default 1. A rate above the video's own takes every
            frame once.
        num_frames: take this many frames at the centres of equally long segments, instead of `fps`. Of a video with
            fewer frames, all are taken.
        max_frames, min_frames: where `fps` asks for more or fewer frames, take this many over the whole duration
            instead.
        video_start, video_end: seconds between which frames are taken, by the rules above as if this were the whole
            video. Times and numbers of frames stay those of the file.
        sampling: `"key_frames"` takes every key frame of the codec, `max_frames` of them at most, instead of frames at
            given times.
        size: `(height, width)`, or the length of the shorter side, to which frames are resized (bicubic, antialiased,
            by the same function for every decoder); by default they are not resized.
        decoder: `"pyav"`, `"decord"`, `"torchcodec"`, or `"auto"`: PyAV, or torchcodec for what PyAV cannot decode;
            Pillow for an animated WebP.
        transform: called with each frame, `(height, width, 3)` uint8, after the resize; returns the array to keep.
        on_truncated: for a file that is cut off or damaged, raise an error (`"error"`), or warn and return the
            readable frames (`"warn"`). In formats that do not state their length (TS, FLV, live Matroska), a cut
            exactly between two parts of the file is not detected.
        timeout: seconds without data after which a server, a pipe or another object counts as stalled.
        limits: limits for copying and decoding; default `default_limits()`.

    Raises:
        FileNotFoundError: there is no such file or URL.
        ValueError: the source is not a readable video, or an argument is invalid; the message names file and cause.
        ImportError: the requested decoder is not installed.
    """
    reading = open_video(
        source,
        fps=fps,
        num_frames=num_frames,
        max_frames=max_frames,
        min_frames=min_frames,
        video_start=video_start,
        video_end=video_end,
        sampling=sampling,
        size=size,
        decoder=decoder,
        transform=transform,
        on_truncated=on_truncated,
        timeout=timeout,
        limits=limits,
    )
    kept: np.ndarray | None = None
    numbers: list[int] = []
    for number, frame in reading.frames():
        if kept is None:
            try:
                kept = np.empty((len(reading.wanted), *frame.shape), dtype=frame.dtype)
            except MemoryError:
                reading.source.close()
                shape = " × ".join(map(str, frame.shape[:2]))
                raise ValueError(
                    f"{reading.source.name}: its {len(reading.wanted)} frames of {shape} pixels do not fit into "
                    "memory; ask for fewer or smaller ones."
                ) from None
        kept[len(numbers)] = frame
        numbers.append(number)
    assert kept is not None
    indices = np.array(numbers, dtype=np.int64)
    return DecodedVideo(kept[: len(indices)], reading.index.times[indices], indices, reading.metadata)


def frames_at(
    source: VideoInput,
    numbers: Sequence[int] | np.ndarray | None = None,
    size: int | tuple[int, int] | None = None,
    *,
    times: Sequence[float] | np.ndarray | None = None,
    decoder: DecoderName = "auto",
    on_truncated: Literal["error", "warn"] = "error",
    timeout: float = 30.0,
    limits: ReadingLimits | None = None,
) -> list[np.ndarray]:
    """Read single frames again, by jumping to them if that costs less than reading through.

    Args:
        numbers: frame numbers, as in `DecodedVideo.frame_indices`, in any order.
        size: as for `read_video`.
        times: seconds from the start, instead of `numbers`; the frames shown at these times are read.
        source, decoder, on_truncated, timeout, limits: as for `read_video`.

    Returns:
        `(height, width, 3)` uint8 RGB, one for each number or time, in their order. With `on_truncated="warn"`, the
        frame shown before takes the place of one that cannot be decoded.

    Raises:
        ValueError: there is no such frame; and as for `read_video`.
        FileNotFoundError: there is no such file or URL.
    """
    video = open_video(
        source, fps=1.0, size=size, decoder=decoder, on_truncated=on_truncated, timeout=timeout, limits=limits
    )
    total = len(video.index.times)
    if times is not None:
        # A rounding error of a microsecond must not select the frame before.
        numbers = np.searchsorted(video.index.times, np.asarray(times, dtype=np.float64) + 1e-6, side="right") - 1
    wanted = np.asarray([] if numbers is None else numbers, dtype=np.int64)
    for number in wanted[(wanted < 0) | (wanted >= total)][:1].tolist():
        raise ValueError(f"{video.source.name}: has no frame {number}; its frames are numbered 0 to {total - 1}.")
    if not len(wanted):
        return []
    found = dict(replace(video, wanted=np.unique(wanted)).frames())
    known = np.array(list(found))
    places = np.searchsorted(known, wanted, side="right") - 1
    return [found[int(known[max(place, 0)])] for place in places]


@dataclass(frozen=True)
class OpenVideo:
    """A video that is indexed and sampled; only one frame of it has been decoded.

    Attributes:
        source: the file.
        index: the packet index.
        wanted: `(T,)` sorted numbers of the frames to read.
        metadata: of the whole video.
    """

    source: VideoSource
    index: PacketIndex
    wanted: np.ndarray
    metadata: VideoMetadata
    decoder: VideoDecoder
    size: int | tuple[int, int] | None
    transform: FrameTransform | None

    def frames(self, after: int = -1) -> Iterator[tuple[int, np.ndarray]]:
        """
        Yields the wanted frames with numbers above `after`, in order, each before the next is decoded.

        Raises:
            `ValueError`: no frame can be decoded, or the file changes meanwhile.
        """
        # The size does not depend on where reading starts: a later frame of another size, as in some streams, is
        # resized to the size of the first.
        known = self.index.height > 0
        target = target_size(self.index.height, self.index.width, self.size) if known else None
        newest = after
        try:
            for number, frame in self.decoder.frames(self.wanted[self.wanted > after]):
                if number <= after:
                    continue  # replaces a missing frame, and was yielded before
                newest = number
                target = target or target_size(frame.shape[0], frame.shape[1], self.size)
                frame = resize_frame(frame, target)
                yield number, frame if self.transform is None else self.transform(frame)
        except ValueError:
            self.source.close()
            # A file that is still being written may look damaged.
            self.source.check_unchanged()
            raise
        self.source.check_unchanged()
        if newest < 0:
            self.source.close()
            raise ValueError(
                f"{self.source.name}: holds nothing to show: none of the requested frames can be decoded."
            )


def open_video(
    source: VideoInput,
    *,
    fps: float | None = None,
    num_frames: int | None = None,
    max_frames: int | None = None,
    min_frames: int | None = None,
    video_start: float | None = None,
    video_end: float | None = None,
    sampling: str | None = None,
    size: int | tuple[int, int] | None = None,
    decoder: str = "auto",
    transform: FrameTransform | None = None,
    on_truncated: str = "error",
    timeout: float = 30.0,
    limits: ReadingLimits | None = None,
) -> OpenVideo:
    """Open a video for reading; arguments and errors are those of `read_video`."""
    choice: dict[str, Any] = {
        "fps": fps,
        "num_frames": num_frames,
        "max_frames": max_frames,
        "min_frames": min_frames,
        "video_start": video_start,
        "video_end": video_end,
    }
    check_sampling(**choice, sampling=sampling)
    if decoder != "auto" and decoder not in DECODERS:
        raise ValueError(f"decoder is {decoder!r}: it must be 'auto' or one of {', '.join(map(repr, DECODERS))}.")
    if on_truncated not in ("error", "warn"):
        raise ValueError(f"on_truncated is {on_truncated!r}: it must be 'error' or 'warn'.")
    if size is not None and min((size,) if isinstance(size, int) else size) < 1:
        raise ValueError(f"size is {size}: it must be at least 1.")
    file = open_source(source, timeout, limits)
    try:
        return _opened(file, choice, sampling, size, decoder, transform, on_truncated)
    except BaseException:
        file.close()
        raise


def _opened(
    file: VideoSource,
    choice: dict[str, Any],
    sampling: str | None,
    size: int | tuple[int, int] | None,
    decoder: str,
    transform: FrameTransform | None,
    on_truncated: str,
) -> OpenVideo:
    try:
        index = index_of(file)
    except ValueError:
        file.check_unchanged()
        raise
    if index.ends_early:
        message = f"{file.name}: is cut off; it can be read until {index.duration:.2f} s ({len(index.times)} frames)"
        if on_truncated == "error":
            raise ValueError(f"{message}. on_truncated='warn' reads these.")
        warnings.warn(f"{message}.", stacklevel=4)
    elif index.lost_after is not None:
        message = f"{file.name}: is damaged after {index.lost_after:.2f} s, where frames may be missing"
        if on_truncated == "error":
            raise ValueError(f"{message}; on_truncated='warn' reads the others.")
        warnings.warn(f"{message}.", stacklevel=4)
    reader = open_decoder(decoder, file, index, skip_damaged=on_truncated == "warn")
    wanted = sample_indices(
        index.times,
        index.duration,
        **choice,
        key_frames=codec_key_frames(index) if sampling == "key_frames" else None,
    )
    metadata = VideoMetadata(
        fps=index.fps,
        duration=index.duration,
        total_num_frames=len(index.times),
        height=reader.picture[0],
        width=reader.picture[1],
        decoder=reader.name,
    )
    return OpenVideo(file, index, wanted, metadata, reader, size, transform)


def index_of(file: VideoSource) -> PacketIndex:
    """The index of a video, or of an animated WebP."""
    return animation_index(file) or build_index(file)


def codec_key_frames(index: PacketIndex) -> np.ndarray:
    """
    Numbers of the key frames. The first frame is included, because a trimmed clip may not begin with a key frame.
    """
    return np.union1d([0], np.flatnonzero(index.is_key))


def target_size(height: int, width: int, size: int | tuple[int, int] | None) -> tuple[int, int]:
    """`(height, width)` of the resized frame: `size` itself, or proportional with `size` as the shorter side."""
    if size is None:
        return height, width
    if isinstance(size, int):
        scale = size / min(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))
    return int(size[0]), int(size[1])


def resize_frame(frame: np.ndarray, size: tuple[int, int], resample: int = PILImageResampling.BICUBIC) -> np.ndarray:
    """Resize a frame `(height, width, 3)` uint8 to `size` (height, width), antialiased; the same for every decoder.

    The result equals PIL's within one level, ten times as fast.

    Args:
        resample: PIL's number of the filter: nearest, bilinear or bicubic.
    """
    if frame.shape[:2] == tuple(size):
        return frame
    if resample not in _MODES:
        raise ValueError(f"resample is {resample}: it must be one of {sorted(map(int, _MODES))}.")
    mode = _MODES[PILImageResampling(resample)]
    # torch warns about read-only arrays, and does not accept negative strides.
    pixels = torch.from_numpy(np.require(frame, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)
    resized = functional.interpolate(pixels, size=tuple(size), mode=mode, antialias=mode != "nearest-exact")
    return resized[0].permute(1, 2, 0).contiguous().numpy()


__all__ = [
    "codec_key_frames",
    "DecodedVideo",
    "OpenVideo",
    "VideoMetadata",
    "frames_at",
    "index_of",
    "open_video",
    "read_video",
    "resize_frame",
    "target_size",
]
