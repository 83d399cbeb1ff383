"""Encodes every sampled frame of a video with a dual encoder, and reads frames of a state again."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image

from dynfocus.processing.reading.chat_video import ChatVideo
from dynfocus.processing.reading.decoded_frames import as_rgb_frames, flatten_videos, is_decoded
from dynfocus.processing.reading.sampling import sample_indices
from dynfocus.processing.reading.stream import FrameStream
from dynfocus.processing.reading.video_reading import open_video, resize_frame, target_size
from dynfocus.states.encoding import encode_stream
from dynfocus.states.fingerprint import difference
from dynfocus.states.video_state import VideoState
from dynfocus.towers.dual_encoder import DualEncoder

from .video_frames import DrawnFrames, VideoFrames

_CHOICE = ("fps", "num_frames", "max_frames", "min_frames", "video_start", "video_end")
SAMPLING = (*_CHOICE, "sampling", "decoder", "on_truncated")
# Settings of the sampling that every state has.
_RECORDED = ("fps", "num_frames", "max_frames", "sampling")
_CHUNK_FRAMES = 64
# Shorter side in pixels and JPEG quality of frames that a state keeps.
_KEPT_SIDE, _KEPT_QUALITY = 448, 92
# Of streams, where their frames are read again: the frames that the caller decoded, or the video as it was given, as
# its name holds neither its bytes nor the secrets of its address.
_AGAIN: WeakKeyDictionary[FrameStream, tuple[str, Any]] = WeakKeyDictionary()


def open_frames(video: Any, encoder: DualEncoder, keep_frames: bool = False, **sampling: Any) -> FrameStream:
    """
    Open a video for a dual encoder.

    Args:
        video: one video in any form; a [`ChatVideo`] has its own settings.
        keep_frames: whether the state keeps the sampled frames as JPEG files.
        sampling: `fps` (1 by default), `num_frames`, `max_frames`, `min_frames`, `video_start`, `video_end`,
            `sampling`, `decoder` and `on_truncated`.

    Raises:
        `ValueError`, `FileNotFoundError`: for a video that cannot be read. `TypeError`: for an unknown keyword.
    """
    unknown = sorted(set(sampling) - set(SAMPLING))
    if unknown:
        raise TypeError(f"Unknown keyword of the sampling of a video: {', '.join(unknown)}.")
    given = {name: value for name, value in sampling.items() if value is not None}
    flat = flatten_videos(video)
    if len(flat) != 1:
        raise ValueError(f"One video is opened at a time, got {len(flat)}.")
    (source,) = flat
    if isinstance(source, ChatVideo):
        source, given = source.video, source.over(given)
    recorded = {name: given.get(name) for name in (*_CHOICE, "sampling") if name in (*_RECORDED, *given)}
    shared: dict[str, Any] = {
        "to_pixels": lambda pixels: pixels,
        "chunk_frames": _CHUNK_FRAMES,
        "pixel_fingerprint": encoder.fingerprint().rpartition(":")[2],
        "keeps_frames": keep_frames,
    }
    transform = _seen_by(encoder, keep_frames)
    if not is_decoded(source):
        opened = replace(open_video(source, **given), transform=transform)
        stream = FrameStream(
            opened.frames,
            opened.index.times,
            num_frames=len(opened.wanted),
            duration=opened.metadata.duration,
            source={"name": opened.source.name, **opened.source.identity()},
            sampling=recorded,
            **shared,
        )
        _AGAIN[stream] = "source", source
        return stream
    if "sampling" in given:
        raise ValueError("`sampling='key_frames'` is for files: decoded frames have no codec.")
    frames = as_rgb_frames(source)
    count, rate = len(frames), float(given.get("fps", 1.0))
    times = np.arange(count) / rate
    # They count as sampled already, so that each is wanted.
    kept = sample_indices(times, count / rate, **{**{n: given[n] for n in _CHOICE if n in given}, "fps": 2 * rate})
    stream = FrameStream(
        lambda after: ((int(number), transform(frames[number])) for number in kept if number > after),
        times,
        num_frames=len(kept),
        duration=None,
        source={"name": f"{count} decoded frames", "size": None, "digest": None, "modified": None},
        sampling=recorded,
        **shared,
    )
    _AGAIN[stream] = "frames", VideoFrames.decoded(frames, times)
    return stream


def _seen_by(encoder: DualEncoder, keep_frames: bool) -> Callable[[np.ndarray], Any]:
    """
    Processes a full-size frame as soon as it is decoded: resizes it for the dual encoder and, if frames are kept,
    makes a JPEG file.
    """
    size = encoder.size

    def seen(frame: np.ndarray) -> Any:
        height, width = frame.shape[:2]
        small = frame if size is None else resize_frame(frame, target_size(height, width, size))
        if not keep_frames:
            return small
        kept = resize_frame(frame, target_size(height, width, min(_KEPT_SIDE, height, width)))
        data = io.BytesIO()
        Image.fromarray(kept).save(data, format="JPEG", quality=_KEPT_QUALITY)
        return small, data.getvalue()

    return seen


def look(stream: FrameStream, encoder: DualEncoder, *, dtype: torch.dtype | None = None, **options: Any) -> VideoState:
    """
    Encode an opened video into its state: a unit vector for each frame, float16 by default.

    Args:
        options: `save_to` and `progress`, see [`encode_stream`].
    """
    state = encode_stream(
        stream,
        lambda pixels: {"frame_embeddings": encoder.encode_images(pixels.permute(0, 2, 3, 1))},
        dtype=dtype or torch.float16,
        fingerprint=encoder.fingerprint().rpartition(":")[0],
        keep_indices=True,
        encoder=_described(encoder),
        **options,
    )
    if (again := _AGAIN.pop(stream, None)) is not None:
        where, video = again
        state.event_cache[where] = video
    return state


def check_state(state: VideoState, encoder: DualEncoder) -> None:
    """Raises a `ValueError` if a state is damaged, or was not encoded by this dual encoder as it is now."""
    if state.frame_embeddings is None:
        raise ValueError(
            "This video state was encoded by a DynFocus model, not by a dual encoder: encode the video again "
            "with this model."
        )
    state.check()
    what = difference(state.fingerprint, encoder.fingerprint(), is_dual=True)
    if what is not None:
        mine, made = _described(encoder), (state.sampling or {}).get("encoder") or {}
        differing = [
            f"{key.replace('_', ' ')} {str(made[key])[:200]}, not {value}"
            for key, value in mine.items()
            if key in made and made[key] != value
        ]
        by = f" ({'; '.join(differing)})" if differing else f": its {what} differ from those of {encoder.name!r}"
        raise ValueError(
            f"This video state was encoded by another dual encoder{by}: choose that one as `dual_encoder`, or encode "
            "the video again."
        )
    state.check({"frame_embeddings": (encoder.width,)})
    if state.frame_times is None or state.frame_indices is None:
        raise ValueError(
            "This video state lacks the times or the numbers of its frames in the video: encode the video again."
        )


def _described(encoder: DualEncoder) -> dict[str, Any]:
    """What is said of a dual encoder where it is not the one that is needed."""
    size = encoder.size
    sides = "its own" if size is None else size if isinstance(size, int) else "×".join(map(str, size))
    return {"name": encoder.name, "image_size": str(sides), "vectors_of": encoder.width}


def whole_video(video: Any, fps: float = 1.0) -> VideoFrames:
    """
    All frames of one video in any form; those of a file are decoded when they are asked for.

    Args:
        fps: of frames that are decoded already.

    Raises:
        `ValueError`, `FileNotFoundError`: a video that cannot be opened.
    """
    (flat,) = flatten_videos(video)
    if is_decoded(flat):
        frames = as_rgb_frames(flat)
        return VideoFrames.decoded(frames, np.arange(len(frames)) / fps)
    return VideoFrames.opened(open_video(flat, on_truncated="warn"))


def frames_of(state: VideoState) -> VideoFrames:
    """
    The full-size frames of the video of a state, by their numbers.

    They come from the state if it keeps frames. Otherwise they are read from the video, which must be unchanged, at
    its old path or beside the state.

    Raises:
        `FileNotFoundError`: the video does not exist. `ValueError`: it has changed.
    """
    cache = state.event_cache
    if "frames" not in cache:
        if state.jpeg_bytes is not None:
            cache["frames"] = _kept(state)
        else:
            cache["frames"] = _of_source(state)
    return cache["frames"]


def _of_source(state: VideoState) -> VideoFrames:
    sampling = state.sampling or {}
    name = str(sampling.get("source") or "")
    source = state.event_cache.get("source", name)
    if isinstance(source, str) and not name:
        raise ValueError(
            "This video state does not name its video: encode the video again, or with `keep_frames=True`."
        )
    try:
        opened = open_video(source, on_truncated="warn")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{name}: the video of this state is gone, and its key frames are shown in full: put it back there, or "
            "encode it with `keep_frames=True`."
        ) from None
    known = opened.source.identity()
    if any(sampling.get(key) not in (None, known.get(key)) for key in ("size", "digest")):
        raise ValueError(f"{name}: has changed since its state was encoded: encode the video again.")
    return VideoFrames.opened(opened)


def _kept(state: VideoState) -> VideoFrames:
    """The frames that a state keeps, numbered as in the video; only those can be shown."""
    numbers, times = frame_numbers(state), frame_times(state)
    (first,) = state.kept_frames([0])
    duration = (state.sampling or {}).get("duration") or times[-1] + 1.0
    # Numbers in between mean the sampled frame before them.
    every = np.interp(np.arange(numbers[-1] + 1), numbers, times)

    def read(wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        places = np.searchsorted(numbers, np.asarray(wanted), side="right") - 1
        for number, picture in zip(wanted, state.kept_frames(places.clip(min=0).tolist()), strict=True):
            yield number, np.array(picture)

    return VideoFrames(read, every, (first.height, first.width), float(duration), DrawnFrames())


def frame_numbers(state: VideoState) -> list[int]:
    """The numbers of the sampled frames in the video of a state."""
    assert state.frame_indices is not None
    return state.frame_indices[0, : state.num_frames[0]].tolist()


def frame_times(state: VideoState) -> list[float]:
    """The seconds of the sampled frames in the video of a state."""
    assert state.frame_times is not None
    return state.frame_times[0, : state.num_frames[0]].tolist()


__all__ = [
    "SAMPLING",
    "check_state",
    "frame_numbers",
    "frame_times",
    "frames_of",
    "look",
    "open_frames",
    "whole_video",
]
