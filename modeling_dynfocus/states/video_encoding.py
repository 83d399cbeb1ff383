"""Videos to their states: the vision tower and the grouping of patches, chunk by chunk."""

import os
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ..encoding.patch_grouping import group_patches, pool_patches
from ..video_inputs import checked_frame_mask
from .fingerprint import difference, model_fingerprint, with_pixel_settings
from .progress import Progress, progress_reports
from .state_parts import StateParts
from .video_state import VideoState

_NAMES = ("frame_features", "grouped_tokens", "parent_of_token", "patches")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class VideoEncoding:
    """For [`DynFocusModel`]: everything that can be known of videos before a question is asked."""

    def encode_video(
        self: Any,
        video: Any,
        video_frame_mask: torch.Tensor | None = None,
        *,
        processor: Any = None,
        save_to: str | os.PathLike | None = None,
        progress: Progress = False,
        dtype: torch.dtype | None = None,
        **sampling: Any,
    ) -> VideoState:
        """
        Everything that can be known of videos before a question is asked, to be asked later.

        With `processor`, one video is read, prepared and encoded chunk by chunk (`frames_per_chunk` of the vision
        tower), however long it is: the chunks are read ahead in a thread, and the state, which alone grows with the
        video, stays in host memory. A frame takes `(g² + fine + coarse groups)·D` numbers, 38·D by default, and 31
        bytes more. Without it, `video` is pixels.

        Args:
            video: a video in any form (a path, a URL, bytes, an array, …) with `processor`, else `pixel_values_videos`
                (`torch.Tensor` of shape `(V, T, 3, H, W)`).
            video_frame_mask (`torch.Tensor` of shape `(V, T)`, bool, *optional*): the real frames of pixels; all by
                default.
            processor ([`DynFocusProcessor`], *optional*): what reads and prepares the video.
            save_to (path, *optional*): write the state into this file, in place of another one that is there. Parts
                of it are kept in the folder `<save_to>.parts` meanwhile: after an interruption the same call goes on
                where it stopped, and after its end it gives what is there. The state that comes back lies in the
                file, and is read when it is used.
            progress (`bool` or `Callable`, defaults to `False`): draw a bar, or call this with the numbers of frames
                that are done and of all frames.
            dtype (`torch.dtype`, *optional*): of the state's features, such as `torch.float16`; the model's by
                default.
            sampling: `fps`, `num_frames`, `max_frames`, `sampling`, `decoder`, `on_truncated`, …: settings of the
                video processor for this call.

        Raises:
            `ValueError`: where a pixel is NaN or infinite, a video has no frames or cannot be read, or an interrupted
                encoding in `save_to` is of another video, sampling or model.
            `FileNotFoundError`: for a video that is not there. `OSError`: where `save_to` cannot be written.
        """
        if processor is not None:
            if video_frame_mask is not None:
                raise ValueError("`video_frame_mask` goes with pixels: with `processor`, leave it out.")
            return self._encode_stream(video, processor.video_processor, save_to, progress, dtype, sampling)
        options = {**sampling, "save_to": save_to, "progress": progress or None, "dtype": dtype}
        if given := sorted(name for name, value in options.items() if value is not None):
            raise ValueError(f"`{given[0]}` needs `processor=`, which reads the video.")
        if not isinstance(video, torch.Tensor):
            raise ValueError(f"To encode a {type(video).__name__}, give `processor=`, which reads the video.")
        state = self.encode_pixels(video, video_frame_mask)
        state.fingerprint = self.video_fingerprint()
        return state

    def encode_pixels(
        self: Any, pixel_values_videos: torch.Tensor, video_frame_mask: torch.Tensor | None = None
    ) -> VideoState:
        """As `encode_video`, of pixels alone and without a fingerprint: what training does at each step."""
        mask = checked_frame_mask(pixel_values_videos, video_frame_mask)

        def chunks() -> Iterator[torch.Tensor]:
            # The pixels of a long video are never held twice.
            for places in mask.nonzero().split(self.config.vision_config.frames_per_chunk):
                yield _checked(pixel_values_videos[places[:, 0], places[:, 1]])

        def padded(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
            tensor = torch.cat(parts)
            return tensor.new_zeros(*mask.shape, *tensor.shape[1:]).index_put(mask.nonzero(as_tuple=True), tensor)

        reduced = self.vision_tower(chunks(), self._question_free)
        features, grouped, parents, *patches = map(padded, zip(*reduced, strict=True))
        return VideoState(
            frame_features=features,
            grouped_tokens=grouped,
            parent_of_token=parents,
            frame_mask=mask,
            patches=patches[0] if patches else None,
        )

    def video_fingerprint(self: Any, processor: Any = None) -> str | None:
        """
        Of the tower's weights and of all settings on which a state depends, with `processor` also those of pixels;
        `None` where not all weights are here.

        It is the same in any precision. States carry it, and a model with another one refuses them.
        """
        config = self.config
        vision = config.vision_config
        settings = {
            "encoder": "open_clip" if vision.is_open_clip else vision.backbone_config.model_type,
            "geometry": list(vision.geometry),
            "layers": vision.num_layers_run,
            "pooling_grid": config.pooling_grid,
            "spatial_clusters": config.spatial_clusters,
            "spatial_neighbors": config.spatial_neighbors,
        }
        pixels = None if processor is None else processor.video_processor.pixel_fingerprint()
        return with_pixel_settings(model_fingerprint(self.vision_tower, settings), pixels)

    @torch.no_grad()
    def _encode_stream(
        self: Any,
        video: Any,
        video_processor: Any,
        save_to: str | os.PathLike | None,
        progress: Progress,
        dtype: torch.dtype | None,
        sampling: dict[str, Any],
    ) -> VideoState:
        config, tower = self.config, self.vision_tower
        # Weights that accelerate has offloaded are on meta until their own module runs.
        weight = next(tower.parameters())
        device = torch.device("cpu") if weight.is_meta else weight.device
        dtype = dtype or tower.dtype
        if dtype not in _DTYPES:
            raise ValueError(f"`dtype` of a state is {dtype}: it must be torch.float32, float16, bfloat16 or float64.")
        # A group's number fits into a byte but in configurations of another kind.
        dtypes = dict.fromkeys(_NAMES, dtype)
        dtypes["parent_of_token"] = torch.uint8 if config.spatial_clusters[1] <= 256 else torch.int64
        frames_per_chunk = config.vision_config.frames_per_chunk
        waiting: deque[tuple[torch.Tensor, torch.Tensor]] = deque()
        with video_processor.stream(video, frames_per_chunk, pin_memory=device.type == "cuda", **sampling) as stream:
            fingerprint = with_pixel_settings(self.video_fingerprint(), stream.pixel_fingerprint)
            parts: StateParts | StateInMemory
            if save_to is None:
                parts = StateInMemory(stream.num_frames)
            elif (finished := _finished(save_to, state_sampling(stream), fingerprint, dtype)) is not None:
                return finished
            else:
                parts = StateParts(save_to, stream.source, stream.sampling, fingerprint, dtype)
                stream.start_after(parts.last_frame_index)

            def chunks() -> Iterator[torch.Tensor]:
                for pixels, times, frame_indices in stream:
                    waiting.append((times, frame_indices))
                    yield _checked(pixels).to(device, non_blocking=True)

            with progress_reports(progress, parts.num_frames, stream.num_frames) as report:

                def keep(patches: torch.Tensor) -> None:
                    times, frame_indices = waiting.popleft()
                    found = zip(_NAMES, self._question_free(patches), strict=False)
                    host = {name: tensor.to("cpu", dtypes[name]) for name, tensor in found}
                    parts.add({**host, "frame_times": times, "frame_indices": frame_indices})
                    report(parts.num_frames, float(times[-1]))

                with parts.kept_when_interrupted(stream.num_frames):
                    tower(chunks(), keep)
                    return parts.finish(fingerprint, state_sampling(stream))

    def _question_free(self: Any, patches: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The patches `(n, P, D)` of n frames, pooled and grouped, and themselves where the model looks at them."""
        config = self.config
        pooled = pool_patches(patches, config.vision_config.grid_size, config.pooling_grid)
        grouped, parents = group_patches(patches, config.spatial_clusters, config.spatial_neighbors)
        return (pooled, grouped, parents, patches)[: 4 if config.question_context == "patches" else 3]


class StateInMemory:
    """A state that grows by chunks; like [`StateParts`], which keeps it in files."""

    last_frame_index = -1

    def __init__(self, num_frames: int):
        self.num_frames = 0
        self._expected = num_frames
        self._tensors: dict[str, torch.Tensor] = {}

    def add(self, chunk: dict[str, torch.Tensor]) -> None:
        """The tensors `(n, …)` of the next n frames."""
        count = len(chunk["frame_indices"])
        for name, tensor in chunk.items():
            if name not in self._tensors:
                # All at once: putting chunks together in the end would hold the state twice.
                self._tensors[name] = tensor.new_empty(self._expected, *tensor.shape[1:])
            self._tensors[name][self.num_frames : self.num_frames + count] = tensor
        self.num_frames += count

    def kept_when_interrupted(self, expected: int) -> AbstractContextManager[None]:
        """What is not written anywhere is lost."""
        return nullcontext()

    def finish(self, fingerprint: str | None, sampling: dict[str, Any]) -> VideoState:
        """The state of the frames that came, which may be fewer than expected where a file is damaged."""
        tensors = {name: tensor[None, : self.num_frames] for name, tensor in self._tensors.items()}
        del tensors["frame_indices"]
        mask = torch.ones(1, self.num_frames, dtype=torch.bool)
        return VideoState(**tensors, frame_mask=mask, fingerprint=fingerprint, sampling=sampling)


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
    state: VideoState, sampling: dict[str, Any], fingerprint: str | None, dtype: torch.dtype
) -> str | None:
    """
    What makes `state` another one than an encoding would give, such as "video" or "model"; `None` where nothing does.

    The others describe the encoding: `state_sampling`, what encodes, and the features' precision.
    """
    found, of_file = state.sampling or {}, ("size", "digest")

    def settings(of: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in of.items() if name not in ("source", "duration", *of_file)}

    differs = {
        "video": any(found.get(name) != sampling.get(name) for name in of_file),
        "sampling": settings(found) != settings(sampling),
        "model": state.fingerprint is None or difference(state.fingerprint, fingerprint) is not None,
        "precision": state.frame_features.dtype != dtype,
    }
    return next((what for what, is_other in differs.items() if is_other), None)


def _finished(
    path: str | os.PathLike, sampling: dict[str, Any], fingerprint: str | None, dtype: torch.dtype
) -> VideoState | None:
    """The state in `path`, where an encoding would only make it again."""
    try:
        state = VideoState.load(path)
    except (ValueError, OSError):
        # Nothing yet, or something else; whether that can be written over is seen when it is.
        return None
    return None if difference_of_states(state, sampling, fingerprint, dtype) else state


def _checked(chunk: torch.Tensor) -> torch.Tensor:
    """The same frames `(n, 3, H, W)`; `ValueError` where one of them is broken."""
    if not torch.stack(chunk.aminmax()).isfinite().all():
        raise ValueError("`pixel_values_videos` holds NaN or infinite values: check the decoded frames.")
    return chunk


__all__ = ["StateInMemory", "VideoEncoding", "difference_of_states", "state_sampling"]
