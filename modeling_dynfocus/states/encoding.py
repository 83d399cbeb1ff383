"""Encodes one video into its state, chunk by chunk, in memory or in a file that survives interruptions."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from .fingerprint import difference, with_pixel_settings
from .progress import Progress, progress_reports
from .state_checks import FEATURE_DTYPES, is_finite
from .state_parts import StateParts
from .video_state import VideoState

# What a state's `sampling` says that is no setting.
_NOTES = ("source", "duration", "encoder")


@torch.no_grad()
def encode_stream(
    stream: Any,
    look: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    *,
    dtype: torch.dtype,
    fingerprint: str | None = None,
    keep_indices: bool = False,
    save_to: str | os.PathLike | None = None,
    progress: Progress = False,
    encoder: dict[str, Any] | None = None,
) -> VideoState:
    """
    The state of a video of any length, which is read and encoded chunk by chunk.

    The chunks are read ahead in a thread. Only the state grows with the video; it stays in host memory or in a file.
    The stream is closed at the end.

    Args:
        stream ([`FrameStream`]): chunks of pixels `(n, 3, H, W)` with their times and numbers. If it `keeps_frames`,
            the state has their JPEG files.
        look (`Callable`): takes the pixels of a chunk, and returns the columns `(n, …)` of its frames by name, the
            same ones for every chunk.
        dtype (`torch.dtype`): dtype of the floating-point columns; the others are not changed.
        fingerprint (`str`, *optional*): of the encoder, see `model_fingerprint`; that of the stream's pixels is added,
            if it has one.
        keep_indices (`bool`, defaults to `False`): also keep the numbers of the frames in the video.
        save_to (path, *optional*): write the state into this file, replacing an older one. Until it is complete, its
            parts are kept in the folder `<save_to>.parts`: after an interruption the same call continues where it
            stopped, and once the file is complete it returns that state. The returned state is in the file, and is
            read when it is used.
        progress (`bool` or `Callable`, defaults to `False`): draw a bar, or call this with the number of frames done
            and the number of all frames.
        encoder (`dict`, *optional*): what the state says of its encoder, as `sampling["encoder"]`, for messages.

    Raises:
        `ValueError`: if a pixel or a feature is NaN or infinite, the video cannot be read, or an interrupted encoding
            in `save_to` is damaged, or of another video, sampling or encoder.
        `OSError`: if `save_to` cannot be written.
    """
    if dtype not in FEATURE_DTYPES:
        raise ValueError(f"`dtype` of a state is {dtype}: it must be torch.float32, float16, bfloat16 or float64.")
    with stream:
        fingerprint = with_pixel_settings(fingerprint, stream.pixel_fingerprint)
        keeps = (*(["frame_indices"] if keep_indices else []), *(["jpeg_bytes"] if stream.keeps_frames else []))
        parts: StateParts | StateInMemory
        sampling = state_sampling(stream) | ({} if encoder is None else {"encoder": encoder})
        if save_to is None:
            parts = StateInMemory(stream.num_frames, keeps)
        elif (finished := _finished(save_to, sampling, fingerprint, dtype, keeps)) is not None:
            return finished
        else:
            parts = StateParts(save_to, stream.source, stream.sampling, fingerprint, dtype, keeps)
            stream.start_after(parts.last_frame_index)
        with (
            progress_reports(progress, parts.num_frames, stream.num_frames) as report,
            parts.kept_when_interrupted(stream.num_frames),
        ):
            for pixels, times, frame_indices, *jpegs in stream:
                found = look(finite_pixels(pixels))
                host = {name: _to_keep(name, column, dtype, times) for name, column in found.items()}
                parts.add({**host, **_ragged(*jpegs), "frame_times": times, "frame_indices": frame_indices})
                del pixels, found, host, jpegs
                report(parts.num_frames, float(times[-1]))
            return parts.finish(fingerprint, sampling)


class StateInMemory:
    """A state that grows by chunks in memory; [`StateParts`] does the same in files."""

    last_frame_index = -1

    def __init__(self, num_frames: int, keeps: tuple[str, ...] = ()):
        self.num_frames = 0
        self._expected, self._keeps = num_frames, keeps
        self._tensors: dict[str, torch.Tensor] = {}
        self._jpegs = bytearray()

    def add(self, chunk: dict[str, torch.Tensor]) -> None:
        """The tensors `(n, …)` of the next n frames."""
        count = len(chunk["frame_indices"])
        for name, tensor in chunk.items():
            if name == "jpeg_bytes":
                self._jpegs += tensor.numpy().data
                continue
            if name not in self._tensors:
                # Allocated at once: concatenating the chunks at the end would hold the state twice.
                self._tensors[name] = tensor.new_empty(self._expected, *tensor.shape[1:])
            self._tensors[name][self.num_frames : self.num_frames + count] = tensor
        self.num_frames += count

    def kept_when_interrupted(self, expected: int) -> AbstractContextManager[None]:
        """Does nothing: a state in memory is lost."""
        return nullcontext()

    def finish(self, fingerprint: str | None, sampling: dict[str, Any]) -> VideoState:
        """The state of the frames that were added, which may be fewer than expected if a file is damaged."""
        tensors: dict[str, Any] = {name: tensor[None, : self.num_frames] for name, tensor in self._tensors.items()}
        if "frame_indices" not in self._keeps:
            del tensors["frame_indices"]
        if self._jpegs:
            tensors["jpeg_bytes"] = torch.frombuffer(self._jpegs, dtype=torch.uint8)
        mask = torch.ones(1, self.num_frames, dtype=torch.bool)
        state = VideoState(**tensors, frame_mask=mask, fingerprint=fingerprint, sampling=sampling)
        state.check()
        return state


def state_sampling(stream: Any) -> dict[str, Any]:
    """`VideoState.sampling` of a `FrameStream`."""
    source = stream.source
    found = {
        "source": source["name"],
        "size": source["size"],
        "digest": source["digest"],
        "duration": stream.duration,
        **stream.sampling,
    }
    return {name: value for name, value in found.items() if value is not None}


def difference_of_states(
    state: VideoState,
    sampling: dict[str, Any],
    fingerprint: str | None,
    dtype: torch.dtype,
    keeps: tuple[str, ...] = (),
) -> str | None:
    """
    How `state` differs from the result of an encoding, such as "video" or "model"; `None` if it does not.

    The other arguments describe the encoding: `state_sampling`, the encoder, the features' precision, and the tensors
    that it keeps besides those of every state.
    """
    found, of_file = state.sampling or {}, ("size", "digest")

    def settings(of: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in of.items() if name not in (*_NOTES, *of_file)}

    differs = {
        "video": any(found.get(name) != sampling.get(name) for name in of_file),
        "sampling": settings(found) != settings(sampling),
        "model": state.fingerprint is None or difference(state.fingerprint, fingerprint) is not None,
        "precision": state.dtype != dtype,
        "content": any(name not in state.tensors() for name in keeps),
    }
    return next((what for what, is_other in differs.items() if is_other), None)


def _finished(
    path: str | os.PathLike,
    sampling: dict[str, Any],
    fingerprint: str | None,
    dtype: torch.dtype,
    keeps: tuple[str, ...],
) -> VideoState | None:
    """The state in `path`, if an encoding would give the same one."""
    try:
        state = VideoState.load(path)
    except (ValueError, OSError):
        # No file yet, or another one; whether it can be overwritten is found when it is written.
        return None
    return None if difference_of_states(state, sampling, fingerprint, dtype, keeps) else state


def _to_keep(name: str, column: torch.Tensor, dtype: torch.dtype, times: torch.Tensor) -> torch.Tensor:
    """A column of a chunk in host memory. Raises `ValueError` if a number does not fit into `dtype`, or is NaN."""
    if not column.is_floating_point():
        return column.cpu()
    column = column.to("cpu", dtype)
    if not is_finite(column):
        raise ValueError(
            f"The encoder returns NaN or infinite numbers in `{name}`, as {dtype}, of the frames at "
            f"{float(times[0]):.2f} to {float(times[-1]):.2f} s: check its weights, or choose another `dtype`."
        )
    return column


def _ragged(jpegs: list[bytes] | None = None) -> dict[str, torch.Tensor]:
    """The JPEG files of a chunk's frames as tensors, if they are kept."""
    if jpegs is None:
        return {}
    sizes = torch.tensor([len(one) for one in jpegs], dtype=torch.int64)
    return {"jpeg_sizes": sizes, "jpeg_bytes": torch.frombuffer(bytearray().join(jpegs), dtype=torch.uint8)}


def finite_pixels(chunk: torch.Tensor) -> torch.Tensor:
    """The same frames `(n, 3, H, W)`; `ValueError` if one of them is not finite."""
    if not torch.stack(chunk.aminmax()).isfinite().all():
        raise ValueError("`pixel_values_videos` holds NaN or infinite values: check the decoded frames.")
    return chunk


__all__ = ["StateInMemory", "difference_of_states", "encode_stream", "finite_pixels", "state_sampling"]
