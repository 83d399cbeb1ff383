"""Which inputs are videos, and already decoded frames (arrays, tensors, PIL images) as RGB bytes."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from .chat_video import ChatVideo
from .downloads import public_name
from .images import FrameFiles, as_frame_files, image_array


def is_decoded(video: Any) -> bool:
    """
    Whether `video` consists of decoded frames: one array or tensor, one image, or a list of images, frame arrays or
    image files.
    """
    if as_frame_files(video) is not None:
        return True
    if isinstance(video, (np.ndarray, torch.Tensor, Image.Image)):
        return True
    if not isinstance(video, (list, tuple)) or not video:
        return False
    return all(
        isinstance(frame, Image.Image) or (isinstance(frame, (np.ndarray, torch.Tensor)) and frame.ndim in (2, 3))
        for frame in video
    )


def is_source(video: Any) -> bool:
    """Whether `video` is something to decode: a path, a URL, bytes or a file object."""
    return isinstance(video, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(video, "read")


def is_state(video: Any) -> bool:
    """Whether `video` is a `VideoState`, that is, encoded videos."""
    # By the name of the class, because in the code of a saved folder, model and processor have separate copies of it.
    return any(base.__name__ == "VideoState" for base in type(video).__mro__)


def is_video(video: Any) -> bool:
    """Whether `video` is exactly one video (and not a list of videos), or a `VideoState`."""
    if isinstance(video, (np.ndarray, torch.Tensor)) and video.ndim == 5:
        return False
    if hasattr(video, "_hf_encoded") or is_state(video) or isinstance(video, ChatVideo):
        return True
    return is_decoded(video) or is_source(video) or isinstance(video, dict)


def flatten_videos(videos: Any) -> list[Any]:
    """
    The single videos in any nesting of lists, in order; none for `None`.

    A `(N, T, …)` array is N videos. A row of a `Video` column of `datasets` (a dict with `path` and `bytes`, or a
    decoder that keeps them) means its file. A [`ChatVideo`] with settings is not changed.

    Raises:
        `ValueError`: if something is neither a video nor a list of videos.
    """
    return list(_flatten(videos))


def _flatten(videos: Any) -> Iterator[Any]:
    if videos is None:
        return
    if isinstance(videos, ChatVideo):
        yield videos if videos.settings else videos.video
    elif is_video(videos):
        encoded = videos if isinstance(videos, dict) else getattr(videos, "_hf_encoded", None)
        yield videos if encoded is None else _stored_file(encoded)
    elif isinstance(videos, (list, tuple)) or (isinstance(videos, (np.ndarray, torch.Tensor)) and videos.ndim == 5):
        for video in videos:
            yield from _flatten(video)
    else:
        raise ValueError(
            f"A video must be a path, a URL, bytes, a file object, an array or tensor (T, H, W, 3), or a list of PIL "
            f"images; got {type(videos).__name__}."
        )


def _stored_file(encoded: dict[str, Any]) -> Any:
    path, data = encoded.get("path"), encoded.get("bytes")
    if data is None and path is None:
        raise ValueError(f"A video given as a dict needs `path` or `bytes`, got the keys {sorted(encoded)}.")
    return path if data is None else data


def describe_video(video: Any) -> str:
    """A short description by which a user can find this video among many."""
    if isinstance(video, ChatVideo):
        return describe_video(video.video)
    if isinstance(video, (str, os.PathLike)):
        return repr(public_name(os.fsdecode(video)))
    if isinstance(video, (bytes, bytearray, memoryview)):
        return f"{len(video)} bytes"
    if isinstance(video, (np.ndarray, torch.Tensor)):
        return f"array of shape {tuple(video.shape)}"
    if isinstance(video, (list, tuple, FrameFiles)):
        return f"list of {len(video)} frames"
    return f"{type(video).__name__} {public_name(getattr(video, 'name', ''))}".strip()


def with_message(error: Exception, message: str) -> Exception:
    """An error of the same family with another message."""
    for family in (FileNotFoundError, OSError):
        if isinstance(error, family):
            return family(message)
    return ValueError(message)


def as_rgb_frames(video: Any, channels_first: bool | None = None) -> np.ndarray:
    """
    Decoded frames as uint8 RGB, `(T, H, W, 3)`. One image is one frame, and so is one of a list of image files.

    Arrays may have their channels (1, 3 or 4; an alpha channel is dropped) last or first; where both would fit, last
    is assumed unless `channels_first` is set. Floating-point values lie in [0, 1] or [0, 255], integers in [0, 255];
    so do those of images of more than 8 bits (PIL's modes `I`, `I;16` and `F`).

    Raises:
        `ValueError`: no frames, frames of several sizes, NaN or infinite values, values out of range, or a wrong
            shape.
    """
    files = as_frame_files(video)
    if files is not None:
        return files[list(range(len(files)))]
    if isinstance(video, Image.Image):
        video = [video]
    if isinstance(video, (list, tuple)):
        frames = [image_array(f) if isinstance(f, Image.Image) else _to_numpy(f) for f in video]
        if not frames:
            raise ValueError("The video has 0 frames.")
        if len({frame.dtype.kind == "f" for frame in frames}) > 1:
            raise ValueError("The frames of a video must be all integers or all floating-point numbers.")
        if all(isinstance(frame, Image.Image) for frame in video):
            channels_first = False
        sizes = {frame.shape for frame in frames}
        if len(sizes) > 1:
            raise ValueError(f"The frames of a video must all have one size, got {sorted(sizes)}.")
        array = np.stack(frames)
        if array.ndim == 3:
            array = array[..., None]
    else:
        array = _to_numpy(video)
        array = array[None] if array.ndim == 3 else array
    if array.ndim != 4:
        raise ValueError(f"A decoded video has the shape (T, H, W, 3) or (T, 3, H, W), got {array.shape}.")
    if 0 in array.shape:
        raise ValueError(f"The video has 0 frames or empty ones: its shape is {array.shape}.")
    return np.ascontiguousarray(_to_bytes(_channels_last(array, channels_first)))


def _to_numpy(frames: np.ndarray | torch.Tensor) -> np.ndarray:
    if isinstance(frames, torch.Tensor):
        if frames.layout != torch.strided or frames.is_meta or frames.is_quantized:
            raise ValueError(
                "Frames must be a dense tensor in memory: give `frames.to_dense()`, or decode them again."
            )
        frames = frames.detach().cpu()
        # numpy has no bfloat16, and no floats of 8 bits
        is_float = frames.is_floating_point() and frames.dtype not in (torch.float16, torch.float32, torch.float64)
        return (frames.float() if is_float else frames).numpy()
    return frames


def _channels_last(array: np.ndarray, channels_first: bool | None) -> np.ndarray:
    if channels_first is None:
        channels_first = array.shape[-1] not in (1, 3, 4) and array.shape[1] in (1, 3, 4)
    if channels_first:
        array = array.transpose(0, 2, 3, 1)
    channels = array.shape[-1]
    if channels not in (1, 3, 4):
        raise ValueError(
            f"The frames need 1, 3 or 4 channels in their first or last dimension, got {array.shape[1:]}."
        )
    return array.repeat(3, axis=-1) if channels == 1 else array[..., :3]


def _to_bytes(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "iuf":
        raise ValueError(f"Frames must be numbers in [0, 255] or [0, 1], got dtype {array.dtype}.")
    low, high = float(array.min()), float(array.max())
    if not np.isfinite(low) or not np.isfinite(high):
        frame = int(np.flatnonzero(~np.isfinite(array).all(axis=(1, 2, 3)))[0])
        raise ValueError(f"The video holds NaN or infinite values (first in frame {frame}): check how it was decoded.")
    if low < 0 or high > 255:
        raise ValueError(
            f"Frames must lie in [0, 255] or [0, 1], got [{low:g}, {high:g}]: give them without normalisation, and "
            "those of more than 8 bits scaled to [0, 1]."
        )
    # An interpolation of [0, 1] goes a little beyond; as one of [0, 255] it would be black.
    if array.dtype.kind == "f" and 1 < high < 2 and bool((array % 1 != 0).any()):
        raise ValueError(
            f"Frames in [0, 1] must be clipped to it after they are resized, and those in [0, 255] are larger: the "
            f"largest value is {high:g}."
        )
    if np.issubdtype(array.dtype, np.floating):
        array = np.rint(array.astype(np.float32) * (255.0 if high <= 1 else 1.0))
    return array.astype(np.uint8)


__all__ = [
    "as_rgb_frames",
    "describe_video",
    "flatten_videos",
    "is_decoded",
    "is_source",
    "is_state",
    "is_video",
    "with_message",
]
