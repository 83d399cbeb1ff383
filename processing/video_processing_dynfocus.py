"""The video processor: converts any form of video into normalised frames with their true times."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import validate_typed_dict
from transformers import BatchFeature
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from dynfocus.hub.with_code import SavedWithCode

from .reading.chat_video import ChatVideo
from .reading.decoded_frames import as_rgb_frames, describe_video, flatten_videos, is_decoded, with_message
from .reading.decoders import DECODERS
from .reading.images import as_frame_files
from .reading.sampling import check_sampling, sample_indices
from .reading.stream import FrameStream
from .reading.video_reading import open_video, read_video, resize_frame

# Frames are normalised into the output this many at a time, so that a long video is not in memory twice as float32.
_FRAMES_PER_CHUNK = 128
# A rate above that of any video takes each frame once.
_EVERY_FRAME = 1e6
_BOUNDS = ("min_frames", "video_start", "video_end")
_SAMPLING = ("fps", "num_frames", "max_frames", *_BOUNDS, "sampling")
#: Settings that decide which frames of a video are sampled.
SAMPLING_SETTINGS = (*_SAMPLING, "do_sample_frames")
_LARGEST = 1e6  # number of a normalisation
# The settings that determine a frame's pixels.
_PIXEL_SETTINGS = ("do_resize", "resample", "do_rescale", "rescale_factor", "do_normalize")


@dataclass
class DynFocusVideoMetadata(VideoMetadata):
    """
    [`VideoMetadata`] with the true time of each sampled frame.

    Args:
        frame_times (`list[float]`, *optional*):
            seconds of each sampled frame from the start of its video. They differ from `frames_indices / fps` if the
            frame rate varies.
    """

    frame_times: list[float] | None = None

    @property
    def timestamps(self) -> list[float]:
        """Seconds of the sampled frames."""
        if self.frame_times is not None:
            return self.frame_times
        if self.fps is None or self.frames_indices is None:
            raise ValueError(
                "The frame times are unknown: neither `frame_times` nor `fps` and `frames_indices` are set."
            )
        return [float(index / self.fps) for index in self.frames_indices]


class DynFocusVideoProcessorKwargs(VideosKwargs, total=False):
    """
    Keyword arguments of [`DynFocusVideoProcessor`], besides those of every video processor.

    Args:
        max_frames, min_frames (`int`, *optional*): the most and the fewest frames of a video; where `fps` gives more
            or fewer, so many are sampled uniformly.
        video_start, video_end (`float`, *optional*): seconds between which frames are sampled.
        sampling (`str`, *optional*): `"key_frames"` for every key frame of the codec.
        decoder (`str`, *optional*): `"auto"`, `"pyav"`, `"decord"` or `"torchcodec"`.
        on_truncated (`str`, *optional*): `"error"` or `"warn"`, for a file that is cut off or damaged.
        return_metadata (`bool`, *optional*): whether to return a `DynFocusVideoMetadata` for each video.
    """

    max_frames: int | None
    min_frames: int | None
    video_start: int | float | None
    video_end: int | float | None
    sampling: str | None
    decoder: str | None
    on_truncated: str | None
    return_metadata: bool | None


class DynFocusVideoProcessor(SavedWithCode, BaseVideoProcessor):
    r"""
    Makes `pixel_values_videos` from videos: paths, URLs, bytes, file objects, decoded arrays or tensors `(T, H, W, 3)`
    or `(T, 3, H, W)`, or lists of PIL images.

    Files are sampled and resized while they are read. A decoded array counts as sampled already, `fps` frames a
    second, unless its metadata has an `fps` without `frames_indices`: then it is the whole video, and is sampled like
    a file. `num_frames` and `max_frames` sample arrays uniformly.

    Args:
        fps (`float`, defaults to 1.0): sampled frames a second.
        max_frames (`int`, *optional*): the most frames of a video.
        num_frames (`int`, *optional*): sample this many frames uniformly instead, for any length of video.
        min_frames, video_start, video_end (*optional*): see `read_video`.
        sampling (`str`, *optional*): `"key_frames"` takes every key frame of the codec instead (files only).
        size (`int` or `dict`, defaults to 224): side of the square frames, or `{"height": …, "width": …}`.
        resample (`int`, defaults to bicubic): PIL's number of the filter: 0 nearest, 2 bilinear, 3 bicubic.
        do_resize, do_rescale, rescale_factor, do_normalize, image_mean, image_std, do_sample_frames: as in
            transformers.
        decoder (`str`, defaults to `"auto"`): decoder of files.
        on_truncated (`str`, defaults to `"error"`): with `"warn"`, a file that is cut off or damaged gives its
            readable frames and a warning.

    Example:

    ```python
    >>> processor = DynFocusVideoProcessor(size=64)
    >>> features = processor("holiday.mp4", fps=2, return_tensors="pt")
    >>> features["pixel_values_videos"].shape, features["video_frame_mask"].shape
    ```
    """

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"height": 224, "width": 224}
    default_to_square = True
    do_resize = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    do_convert_rgb = True
    do_sample_frames = True
    fps = 1.0
    num_frames = None
    max_frames = None
    min_frames = None
    video_start = None
    video_end = None
    sampling = None
    decoder = "auto"
    on_truncated = "error"
    return_metadata = False
    valid_kwargs: Any = DynFocusVideoProcessorKwargs
    model_input_names = ["pixel_values_videos", "video_frame_mask"]

    def preprocess(self, videos: Any, **kwargs: Unpack[DynFocusVideoProcessorKwargs]) -> BatchFeature:
        """
        Args:
            videos: one video, or videos in any nesting of lists. A [`ChatVideo`] has its own settings.
            kwargs: the settings of the class, for this call. `fps` without `num_frames` overrides a saved
                `num_frames`.

        Returns:
            `BatchFeature` with `pixel_values_videos`, `(num_videos, T_max, 3, H, W)` float32, padded with zeros,
            `video_frame_mask`, `(num_videos, T_max)` bool, and `video_metadata` (a list) with `return_metadata=True`.

        Raises:
            `ValueError`, `FileNotFoundError`: for a video that cannot be read; if there are several, the message says
                which. `TypeError` for an unknown keyword.
        """
        settings = self._resolve(dict(kwargs))
        sources = flatten_videos(videos)
        if not sources:
            raise ValueError("There is no video to process.")
        given = self._given_metadata(settings["video_metadata"], len(sources))
        clips, metadata = [], []
        for index, (source, known) in enumerate(zip(sources, given, strict=True)):
            try:
                video, own = self._own_settings(source, kwargs, settings)
                frames, found = self._load(video, known, own)
            except (ValueError, OSError) as error:
                if len(sources) == 1:
                    raise
                where = f"Video {index} of {len(sources)} ({describe_video(source)})"
                raise with_message(error, f"{where}: {error}") from error
            clips.append(frames)
            metadata.append(found)

        data: dict[str, Any] = self._batch(clips, settings)
        if settings["return_metadata"]:
            data["video_metadata"] = metadata
        return BatchFeature(data, tensor_type=settings["return_tensors"], skip_tensor_conversion=["video_metadata"])

    def stream(
        self,
        video: Any,
        chunk_frames: int = 32,
        pin_memory: bool = False,
        **kwargs: Unpack[DynFocusVideoProcessorKwargs],
    ) -> FrameStream:
        """
        One video's frames as they are read, `chunk_frames` at a time: the same pixels as from a call, but never all at
        once. Errors of the file as a whole are raised here, others when their chunk is read.

        Args:
            video: one video in any form.
            chunk_frames: frames of a chunk.
            pin_memory: whether chunks are in pinned memory, for asynchronous copies to a GPU.
            kwargs: the settings of the class, for this call.

        Returns:
            [`FrameStream`]: an iterator over [`FrameChunk`]s of pixels, times and frame numbers, to be closed, or used
            in a `with`.

        Example:

        ```python
        >>> with processor.stream("lecture.mp4", fps=1) as stream:
        ...     for pixel_values, times, frame_indices in stream:
        ```
        """
        settings = self._resolve(dict(kwargs))
        sources = flatten_videos(video)
        if len(sources) != 1:
            raise ValueError(f"One video is streamed at a time, got {len(sources)}.")
        (known,) = self._given_metadata(settings["video_metadata"], 1)
        source, settings = self._own_settings(sources[0], kwargs, settings)
        return self._stream(source, known, settings, chunk_frames, pin_memory)

    def pixel_fingerprint(self, **kwargs: Unpack[DynFocusVideoProcessorKwargs]) -> str:
        """Hash of all settings that determine a frame's pixels, as 16 hexadecimal digits."""
        return _pixel_fingerprint(self._resolve(dict(kwargs)))

    def fetch_videos(self, video_url_or_urls: Any, sample_indices_fn: Any = None, **kwargs: Any) -> tuple[Any, Any]:
        """
        Read one video, or a list of videos: `(frames, metadata)`, each a list for a list.

        Frames are sampled by this processor's settings and those of the call while they are read, so
        `sample_indices_fn` is not called.
        """
        if isinstance(video_url_or_urls, (list, tuple)):
            read = [self.fetch_videos(video, **kwargs) for video in video_url_or_urls]
            return [frames for frames, _ in read], [metadata for _, metadata in read]
        video, settings = self._own_settings(video_url_or_urls, kwargs, self._resolve(dict(kwargs)))
        return self._load(video, None, settings)

    def sampling_of(self, **kwargs: Any) -> dict[str, Any]:
        """`do_sample_frames` and all that decides which frames are sampled, of a call with these settings."""
        settings = self._resolve(kwargs)
        return {name: settings[name] for name in SAMPLING_SETTINGS}

    def planned_frames(self, total_num_frames: int, **kwargs: Any) -> int:
        """How many frames of a decoded array with `total_num_frames` frames are kept."""
        settings = self.sampling_of(**kwargs)
        if not settings["do_sample_frames"]:
            return total_num_frames
        return len(_sampled(np.arange(total_num_frames) / (settings["fps"] or 1.0), None, settings))

    def _own_settings(
        self, source: Any, kwargs: Mapping[str, Any], settings: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """A video, and the settings of the call, or those that it brings itself."""
        if not isinstance(source, ChatVideo):
            return source, settings
        if not source.settings:
            return source.video, settings
        return source.video, self._resolve({**source.over(kwargs), "do_sample_frames": True})

    def _resolve(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The settings of one call: its own, and the saved ones for the rest."""
        names = set(self.valid_kwargs.__annotations__)
        unknown = sorted(set(kwargs) - names - {"return_tensors"})
        if unknown:
            raise TypeError(f"Unknown keyword of the video processor: {', '.join(unknown)}.")
        return_tensors = kwargs.pop("return_tensors", None)
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        validate_typed_dict(self.valid_kwargs, kwargs)
        settings = {name: kwargs.get(name, getattr(self, name, None)) for name in names}
        if "fps" in kwargs and "num_frames" not in kwargs:
            settings["num_frames"] = None
        if "sampling" in kwargs:
            # Saved settings give way to those of the call; only settings of the call itself can contradict each other.
            settings |= {name: kwargs.get(name) for name in ("fps", "num_frames")}
        elif "fps" in kwargs or "num_frames" in kwargs:
            settings["sampling"] = None
        elif settings["sampling"] is not None:
            settings |= {"fps": None, "num_frames": None}
        settings = {**settings, **self._standardize_kwargs(**settings), "return_tensors": return_tensors}
        size = settings["size"]
        if settings["do_resize"] and not (size and size.height and size.width):
            raise ValueError(f"`size` must be a side in pixels or give `height` and `width`, got {size}.")
        check_sampling(**{name: settings[name] for name in _SAMPLING})
        _check_values(settings)
        return settings

    def _given_metadata(self, metadata: Any, num_videos: int) -> Sequence[DynFocusVideoMetadata | None]:
        if metadata is None:
            return [None] * num_videos
        entries = [metadata] if isinstance(metadata, (dict, VideoMetadata)) else metadata
        flat = [one for entry in entries for one in (entry if isinstance(entry, list) else [entry])]
        if len(flat) != num_videos:
            raise ValueError(f"`video_metadata` has {len(flat)} entries for {num_videos} videos.")
        names = {field.name for field in fields(DynFocusVideoMetadata)}
        return [DynFocusVideoMetadata(**{k: v for k, v in dict(one).items() if k in names}) for one in flat]

    def _load(
        self, source: Any, known: DynFocusVideoMetadata | None, settings: dict[str, Any]
    ) -> tuple[np.ndarray, DynFocusVideoMetadata]:
        """One video as `(T, height, width, 3)` uint8 frames, sampled and resized, and its metadata."""

        transform = _resize(settings)
        if not is_decoded(source):
            decoded = read_video(source, **_reading(settings), transform=transform)
            return decoded.frames, DynFocusVideoMetadata(
                total_num_frames=decoded.metadata.total_num_frames,
                fps=decoded.metadata.fps,
                width=decoded.metadata.width,
                height=decoded.metadata.height,
                duration=decoded.metadata.duration,
                video_backend=decoded.metadata.decoder,
                frames_indices=[int(index) for index in decoded.frame_indices],
                frame_times=[float(time) for time in decoded.timestamps],
            )

        frames, kept, times, original = _decoded(source, known, settings)
        metadata = DynFocusVideoMetadata(
            total_num_frames=len(times) if known is None else known.total_num_frames,
            fps=settings["fps"] if known is None else known.fps,
            width=frames.shape[2],
            height=frames.shape[1],
            duration=None if known is None else known.duration,
            frames_indices=[int(original[index]) for index in kept],
            frame_times=[float(times[index]) for index in kept],
        )
        if transform is not None:
            return np.stack([transform(frames[index]) for index in kept]), metadata
        whole = len(kept) == len(frames) and isinstance(frames, np.ndarray)
        return (frames if whole else frames[kept]), metadata

    def _stream(
        self,
        source: Any,
        known: DynFocusVideoMetadata | None,
        settings: dict[str, Any],
        chunk_frames: int,
        pin_memory: bool,
    ) -> FrameStream:
        transform = _resize(settings)
        shared: dict[str, Any] = {
            "to_pixels": partial(self._to_pixels, settings=settings),
            "chunk_frames": chunk_frames,
            "pin_memory": pin_memory,
            "sampling": {
                name: settings[name]
                for name in (*_SAMPLING, "do_sample_frames")
                if settings[name] is not None or name not in _BOUNDS
            },
            "pixel_fingerprint": _pixel_fingerprint(settings),
        }
        if not is_decoded(source):
            video = open_video(source, **_reading(settings), transform=transform)
            return FrameStream(
                video.frames,
                video.index.times,
                num_frames=len(video.wanted),
                duration=video.metadata.duration,
                source={"name": video.source.given or video.source.name, **video.source.identity()},
                **shared,
            )
        frames, kept, times, _ = _decoded(source, known, settings)

        def finished(after: int) -> Iterator[tuple[int, np.ndarray]]:
            for number in kept[kept > after].tolist():
                yield number, frames[number] if transform is None else transform(frames[number])

        digest = hashlib.sha256(str((frames.shape, kept.tolist(), times.tolist())).encode())
        for number in kept:
            digest.update(frames[number].tobytes())
        return FrameStream(
            finished,
            times,
            num_frames=len(kept),
            duration=None if known is None else known.duration,
            source={
                "name": "frames in memory", "size": frames.nbytes, "digest": digest.hexdigest()[:32], "modified": None
            },
            **shared,
        )  # fmt: skip

    def _to_pixels(self, frames: torch.Tensor, settings: dict[str, Any]) -> torch.Tensor:
        """`(n, 3, H, W)` uint8 to normalised float32."""
        return self.rescale_and_normalize(
            frames,
            settings["do_rescale"],
            settings["rescale_factor"],
            settings["do_normalize"],
            settings["image_mean"],
            settings["image_std"],
        )

    def _batch(self, clips: list[np.ndarray], settings: dict[str, Any]) -> dict[str, torch.Tensor]:
        sizes = sorted({clip.shape[1:3] for clip in clips})
        if len(sizes) > 1:
            raise ValueError(f"Videos of different frame sizes {sizes} cannot form a batch: use `do_resize=True`.")
        longest = max(len(clip) for clip in clips)
        device = settings["device"] or "cpu"
        pixels = torch.zeros(len(clips), longest, 3, *sizes[0], device=device)
        mask = torch.zeros(len(clips), longest, dtype=torch.bool, device=device)
        for row, clip in enumerate(clips):
            mask[row, : len(clip)] = True
            for start in range(0, len(clip), _FRAMES_PER_CHUNK):
                chunk = torch.from_numpy(clip[start : start + _FRAMES_PER_CHUNK]).to(device).permute(0, 3, 1, 2)
                pixels[row, start : start + len(chunk)] = self._to_pixels(chunk, settings)
        return {"pixel_values_videos": pixels, "video_frame_mask": mask}


def _check_values(settings: dict[str, Any]) -> None:
    """`ValueError` for settings, perhaps of a saved file, that would make pixels of something else than the frames."""
    if settings["decoder"] not in ("auto", *DECODERS):
        raise ValueError(f"decoder is {settings['decoder']!r}: it must be 'auto' or one of {', '.join(DECODERS)}.")
    if settings["on_truncated"] not in ("error", "warn"):
        raise ValueError(f"on_truncated is {settings['on_truncated']!r}: it must be 'error' or 'warn'.")
    numbers = {"rescale_factor": [settings["rescale_factor"]] if settings["do_rescale"] else []}
    if settings["do_normalize"]:
        for name in ("image_mean", "image_std"):
            values = settings[name]
            numbers[name] = list(values) if isinstance(values, (list, tuple)) else [values] * 3
            if len(numbers[name]) != 3:
                raise ValueError(f"`{name}` must be one number or three, got {values!r}.")
    for name, values in numbers.items():
        for value in values:
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST
            if not is_number or (name != "image_mean" and value <= 0):
                raise ValueError(
                    f"`{name}` is {settings[name]!r}: it must hold ordinary numbers, above 0 but for a mean."
                )


def _reading(settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments with which a file is opened."""
    sampling = {name: settings[name] for name in _SAMPLING}
    if not settings["do_sample_frames"]:
        window = {name: settings[name] for name in ("video_start", "video_end")}
        sampling = {"fps": _EVERY_FRAME, **window}
    return {**sampling, "decoder": settings["decoder"], "on_truncated": settings["on_truncated"]}


def _resize(settings: dict[str, Any]) -> Any:
    """The function that resizes each frame to the model's size; `None` if frames are not resized."""
    if not settings["do_resize"]:
        return None
    size = settings["size"]
    return partial(resize_frame, size=(size.height, size.width), resample=settings["resample"])


def _pixel_fingerprint(settings: dict[str, Any]) -> str:
    size = settings["size"]
    deciding = [float(settings[name]) for name in _PIXEL_SETTINGS]
    deciding += [float(value) for name in ("image_mean", "image_std") for value in settings[name] or ()]
    deciding += [float(size.height), float(size.width)] if settings["do_resize"] else []
    return hashlib.sha256(repr(deciding).encode()).hexdigest()[:16]


def _decoded(
    source: Any, known: DynFocusVideoMetadata | None, settings: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """
    Frames in memory `(N, H, W, 3)` uint8, the indices of those to keep, their times, and their numbers in the video.
    """
    if settings["sampling"] is not None and settings["do_sample_frames"]:
        raise ValueError("sampling='key_frames' needs a video file: frames in memory have no codec.")
    channels_first = {"channels_first": True, "channels_last": False}.get(str(settings["input_data_format"]))
    # Files are read one by one, when they are sampled.
    frames: Any = as_frame_files(source)
    if frames is None:
        frames = as_rgb_frames(source, channels_first)
    times, original = _frame_times(len(frames), known, settings["fps"])
    kept = _sampled(times, known, settings) if settings["do_sample_frames"] else np.arange(len(frames))
    return frames, kept, times, original


def _frame_times(
    num_frames: int, known: DynFocusVideoMetadata | None, fps: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of each frame of a decoded array, and its index in the video it came from."""
    indices = np.arange(num_frames)
    if known is None:
        return indices / (fps or 1.0), indices
    for name in ("frames_indices", "frame_times"):
        if known[name] is not None and len(known[name]) != num_frames:
            raise ValueError(f"`video_metadata` has {len(known[name])} `{name}` for a video of {num_frames} frames.")
    if known.frames_indices is not None:
        indices = np.asarray(known.frames_indices)
    if known.frame_times is not None:
        return np.asarray(known.frame_times, dtype=np.float64), indices
    return indices / (known.fps or fps or 1.0), indices


def _sampled(times: np.ndarray, known: DynFocusVideoMetadata | None, settings: dict[str, Any]) -> np.ndarray:
    """Which frames of a decoded array to keep: ascending indices, by the same rule as for a file."""
    is_whole_video = known is not None and known.fps is not None and known.frames_indices is None
    steps = np.diff(times)
    frame_seconds = float(np.median(steps)) if len(steps) else 1.0
    return sample_indices(
        times - times[0],
        float(times[-1] - times[0]) + frame_seconds,
        fps=settings["fps"] if is_whole_video else _EVERY_FRAME,
        **{name: settings[name] for name in ("num_frames", "max_frames", "min_frames")},
        **{name: settings[name] and max(0.0, settings[name] - times[0]) for name in ("video_start", "video_end")},
    )


__all__ = ["SAMPLING_SETTINGS", "DynFocusVideoMetadata", "DynFocusVideoProcessor", "DynFocusVideoProcessorKwargs"]
