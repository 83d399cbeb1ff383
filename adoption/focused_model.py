"""
The face over a stock video language model: DynFocus chooses the frames, and the model answers as it is.

    model = FocusedModel(stock_model, stock_processor, dual_encoder="google/siglip2-base-patch16-224")
    state = model.encode_video("lecture.mp4")                  # once; looks at a frame a second
    (answer,) = model.answer([(state, "When does she draw the second graph?")])
"""

import copy
import io
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from dynfocus.processing.reading.decoded_frames import as_rgb_frames, flatten_videos, is_decoded, is_state
from dynfocus.processing.reading.stream import FrameStream
from dynfocus.processing.reading.video_reading import open_video, resize_frame, target_size
from dynfocus.processing.rows.conversations import as_messages, media_of
from dynfocus.processing.video_qa import Shown, VideoQA, find_rule
from dynfocus.selecting.events import Events
from dynfocus.selecting.focus import Focus
from dynfocus.selecting.rules import Rule, events_of_peaks
from dynfocus.states.encoding import encode_stream
from dynfocus.states.video_state import VideoState
from dynfocus.towers.dual_encoder import DEFAULT_DUAL_ENCODER, DualEncoder

from .focus_processor import FocusProcessor
from .relevance import relevance_of, texts_of
from .video_frames import ChosenFrames, VideoFrames

DEFAULT_RULE = "peaks"
_SAMPLING = ("fps", "num_frames", "max_frames", "sampling", "decoder", "on_truncated")
_CHUNK_FRAMES = 64
# The shorter side of frames that a state keeps, in pixels, and their quality.
_KEPT_SIDE, _KEPT_QUALITY = 448, 92
# Of decoded frames that are kept for the next question about a video.
_CACHE_BYTES = 2**28


class FocusedModel(VideoQA):
    """
    A stock video language model in front of which frames are chosen; see [`VideoQA`].

    A dual encoder looks at every sampled frame. For a question, frames are chosen by its similarity to them, and shown
    by a [`FocusProcessor`]: key frames in full, others coarsely.

    Args:
        model (`PreTrainedModel`): any of the families of `families.py`; it is neither changed nor wrapped.
        processor: its stock processor, or a [`FocusProcessor`].
        dual_encoder (`str` or [`DualEncoder`], *optional*): by default `google/siglip2-base-patch16-224`, loaded when
            it is needed.
        use_options (`bool`, defaults to `False`): whether the options of a multiple-choice question take part in the
            choice of frames.
        keep_frames (`bool`, defaults to `False`): whether states keep the sampled frames (at most 448 pixels high or
            wide on the shorter side), so that questions can be asked when the video is gone.
        options: of [`FocusProcessor`], such as `max_visual_tokens` and `coarse`.

    Raises:
        `ValueError`: a model of no known family, or options that it cannot take.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        dual_encoder: str | os.PathLike[str] | DualEncoder | None = None,
        *,
        use_options: bool = False,
        keep_frames: bool = False,
        **options: Any,
    ):
        is_focused = isinstance(processor, FocusProcessor)
        if is_focused and options:
            raise ValueError(f"`{next(iter(options))}` is an option of the `FocusProcessor` that was given.")
        focused = processor if is_focused else FocusProcessor(processor, config=model.config, **options)
        super().__init__(model, focused.processor)
        self.focus_processor: FocusProcessor = focused
        self.use_options, self.keep_frames = use_options, keep_frames
        self._dual_encoder = DEFAULT_DUAL_ENCODER if dual_encoder is None else dual_encoder
        # Of streams of decoded frames that are not encoded yet.
        self._frames_of_stream: dict[int, VideoFrames] = {}

    @property
    def dual_encoder(self) -> DualEncoder:
        """What looks at all frames; loaded the first time that it is asked for, beside the language model."""
        if not isinstance(self._dual_encoder, DualEncoder):
            self._dual_encoder = DualEncoder.from_pretrained(self._dual_encoder, device=self.device)
        return self._dual_encoder

    @property
    def defaults(self) -> dict[str, Any]:
        return {"fps": 1.0, "max_frames": None, "max_visual_tokens": self.focus_processor.max_visual_tokens}

    def description(self, rule: str | Rule | None, question: str) -> dict[str, Any]:
        focused = self.focus_processor
        return {
            "rule": rule or DEFAULT_RULE,
            "dual_encoder": self.dual_encoder.name,
            "relevance_texts": texts_of(question, use_options=self.use_options),
            "use_options": self.use_options,
            "family": focused.family.name,
            "coarse": focused.coarse,
            "tokens_per_key_frame": focused.tokens_per_key_frame,
            "tokens_per_coarse_frame": focused.tokens_per_coarse_frame,
            "coarse_per_key_frame": focused.coarse_per_key_frame,
        }

    # ------------------------------------------------------------------------------------------------------- look

    def fingerprint(self) -> str | None:
        return self.dual_encoder.fingerprint()

    @property
    def state_dtype(self) -> torch.dtype:
        return torch.float16

    def check_state(self, state: VideoState) -> None:
        if state.frame_embeddings is None:
            raise ValueError(
                "This video state was encoded by a DynFocus model of its own, not by a dual encoder: encode the video "
                "again with this model."
            )
        super().check_state(state)
        state.check({"frame_embeddings": (self.dual_encoder.width,)})
        if state.frame_times is None or state.frame_indices is None:
            raise ValueError(
                "This video state lacks the times or the numbers of its frames in the video: encode the video again."
            )

    def open_video(self, video: Any, **sampling: Any) -> FrameStream:
        unknown = sorted(set(sampling) - set(_SAMPLING))
        if unknown:
            raise TypeError(f"Unknown keyword of the sampling of a video: {', '.join(unknown)}.")
        given = {name: value for name, value in sampling.items() if value is not None}
        flat = flatten_videos(video)
        if len(flat) != 1:
            raise ValueError(f"One video is opened at a time, got {len(flat)}.")
        return self._decoded_stream(flat[0], given) if is_decoded(flat[0]) else self._file_stream(flat[0], given)

    def _file_stream(self, source: Any, sampling: dict[str, Any]) -> FrameStream:
        opened = open_video(source, **sampling)
        look = self._looked_at(opened.index.height, opened.index.width)
        reading = replace(opened, transform=look)
        stream = self._stream(
            reading.frames,
            opened.index.times,
            num_frames=len(opened.wanted),
            duration=opened.metadata.duration,
            source={"name": opened.source.name, **opened.source.identity()},
            sampling={name: sampling.get(name) for name in _SAMPLING if name not in ("decoder", "on_truncated")},
        )
        return stream

    def _decoded_stream(self, video: Any, sampling: dict[str, Any]) -> FrameStream:
        if "sampling" in sampling:
            raise ValueError("`sampling='key_frames'` is for files: decoded frames have no codec.")
        frames = as_rgb_frames(video)
        count = len(frames)
        wanted = min([count, *(sampling[name] for name in ("num_frames", "max_frames") if name in sampling)])
        kept = np.unique(((np.arange(wanted) + 0.5) * count / wanted).astype(np.int64))
        times = np.arange(count) / float(sampling.get("fps", 1.0))
        look = self._looked_at(*frames.shape[1:3])

        def read(after: int) -> Iterator[tuple[int, Any]]:
            return ((int(number), look(frames[number])) for number in kept if number > after)

        stream = self._stream(
            read,
            times,
            num_frames=len(kept),
            duration=None,
            source={"name": f"{count} decoded frames", "size": None, "digest": None, "modified": None},
            sampling={name: sampling.get(name) for name in ("fps", "num_frames", "max_frames")},
        )
        self._frames_of_stream[id(stream)] = VideoFrames.decoded(frames, times)
        return stream

    def _stream(self, frames: Any, times: np.ndarray, **settings: Any) -> FrameStream:
        return FrameStream(
            frames,
            times,
            to_pixels=lambda pixels: pixels,
            chunk_frames=_CHUNK_FRAMES,
            pixel_fingerprint=(self.fingerprint() or "").rpartition(":")[2],
            keeps_frames=self.keep_frames,
            **settings,
        )

    def _looked_at(self, height: int, width: int) -> Callable[[np.ndarray], Any]:
        """What is made of a frame in full size as soon as it is decoded: the size in which the dual encoder takes it,
        and, where frames are kept, a JPEG file."""
        size = self.dual_encoder.size

        def look(frame: np.ndarray) -> Any:
            small = frame if size is None else resize_frame(frame, target_size(frame.shape[0], frame.shape[1], size))
            if not self.keep_frames:
                return small
            kept = resize_frame(frame, target_size(frame.shape[0], frame.shape[1], min(_KEPT_SIDE, *frame.shape[:2])))
            data = io.BytesIO()
            Image.fromarray(kept).save(data, format="JPEG", quality=_KEPT_QUALITY)
            return small, data.getvalue()

        return look

    def encode_stream(self, stream: FrameStream, **options: Any) -> VideoState:
        encoder = self.dual_encoder
        dtype = options.pop("dtype", None) or self.state_dtype
        weights = (self.fingerprint() or "").rpartition(":")[0]
        state = encode_stream(
            stream,
            lambda pixels: {"frame_embeddings": encoder.encode_images(pixels.permute(0, 2, 3, 1))},
            dtype=dtype,
            fingerprint=weights,
            keep_indices=True,
            **options,
        )
        if (frames := self._frames_of_stream.pop(id(stream), None)) is not None:
            state.event_cache["frames"] = frames
        return state

    # ----------------------------------------------------------------------------------------------------- choose

    def choose(
        self, state: VideoState, question: str, *, max_visual_tokens: int | None = None, rule: str | Rule | None = None
    ) -> Focus:
        self.check_state(state)
        return self._choose(state, question, None, max_visual_tokens, rule)[0]

    def _choose(
        self,
        state: VideoState,
        question: str,
        options: Sequence[str] | None,
        max_visual_tokens: int | None,
        rule: str | Rule | None,
    ) -> tuple[Focus, ChosenFrames]:
        """Key frames among the sampled ones, and what is shown of the video."""
        if len(state) != 1:
            raise ValueError(f"Frames are chosen from one video at a time, and this state holds {len(state)}.")
        video = frames_of(state)
        numbers, times, embeddings = _numbers(state), _times(state), state.frame_embeddings
        assert embeddings is not None  # checked by `check_state`
        relevance = relevance_of(self.dual_encoder, embeddings[0].float(), question, options, self.use_options).cpu()
        plan = self.focus_processor.plan(video, numbers, max_visual_tokens)
        find = find_rule(DEFAULT_RULE if rule in (None, "dpe") else rule)
        features = embeddings[0].float()
        key_frames = find(relevance, plan.num_key_frames, features=features, times=torch.as_tensor(times))
        events = Events(
            event_of_frame=events_of_peaks(features, key_frames)[None],
            medoids=key_frames[None],
            mask=torch.ones(1, len(key_frames), dtype=torch.bool),
        )
        focus = Focus(
            events=events,
            scores=relevance[key_frames][None],
            key_events=torch.arange(len(key_frames))[None],
            key_mask=events.mask,
            num_groups=torch.tensor([plan.num_coarse]),
        )
        shown = [numbers[index] for index in key_frames.tolist()]
        return focus, self.focus_processor.choose(video, shown, numbers, max_visual_tokens)

    # ----------------------------------------------------------------------------------------------- show, answer

    def prepare(self, row: Mapping[str, Any], question: str | None = None, **settings: Any) -> dict[str, Any]:
        own: str | None = row.get("question")
        if "messages" not in row:
            if own is None and question is None:
                raise ValueError("There is no question: give `question=`, or rows with `question`.")
            row = {**row, "question": question if own is None else own, "answer": None}
        messages = as_messages(row)
        asked = question if own is None else own
        if asked is None:
            asked = _last_words(messages)
        if not asked.strip():
            raise ValueError("The question is empty: ask something about the video.")
        videos = [value for kind, value in media_of(messages) if kind == "video"]
        for video in videos:
            if is_state(video):
                self.check_state(video)
        names = {name: settings[name] for name in _SAMPLING if settings.get(name) is not None}
        start = time.perf_counter()
        # What is wrong with a file as a whole is known here, where one row can be left out.
        opened = [video if is_state(video) else self.open_video(video, **names) for video in videos]
        return {
            "inputs": {"messages": messages, "question": asked, "options": row.get("options")},
            "videos": list(zip(videos, opened, strict=True)),
            "max_visual_tokens": settings.get("max_visual_tokens"),
            "decode": time.perf_counter() - start,
        }

    def show(self, rows: Sequence[dict[str, Any]], rule: str | Rule | None) -> tuple[dict[str, Any], list[Shown]]:
        chats, chosen, shown = [], [], []
        for row in rows:
            states = [self._state_of(video, opened) for video, opened in row["videos"]]
            budget = row["max_visual_tokens"] or self.focus_processor.max_visual_tokens
            # Several videos share the budget.
            each = budget // max(1, len(states))
            asked = row["inputs"]["question"], row["inputs"]["options"]
            found = [self._choose(state, *asked, each, rule) for state in states]
            chats.append(_without_videos(row["inputs"]["messages"]))
            chosen.append([frames for _, frames in found])
            shown.append(_shown(states, [focus for focus, _ in found], self.focus_processor, each))
        processor = copy.copy(self.focus_processor)
        processor.max_visual_tokens = max(
            [row["max_visual_tokens"] or processor.max_visual_tokens for row in rows], default=0
        )
        result = processor.show(chats, chosen)
        for one, counts in zip(shown, result.num_visual_tokens, strict=True):
            one.num_visual_tokens = sum(counts)
        batch = {
            name: value.to(self.device) if isinstance(value, torch.Tensor) else value
            for name, value in result.inputs.items()
        }
        return {name: self._cast(value) for name, value in batch.items()}, shown

    def decode(self, new_tokens: torch.Tensor) -> list[str]:
        return [text.strip() for text in self.processor.batch_decode(new_tokens, skip_special_tokens=True)]

    def questions_at_once(self, state: VideoState, settings: Mapping[str, Any]) -> int:
        # Every question has pictures of its own.
        return 1

    def _state_of(self, video: Any, opened: Any) -> VideoState:
        if is_state(opened):
            return opened
        state = self.encode_video(opened)
        state.event_cache.setdefault("source", video)
        return state

    def _cast(self, value: Any) -> Any:
        is_pixels = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(self.model.dtype) if is_pixels else value


def frames_of(state: VideoState) -> VideoFrames:
    """
    The frames of the video of a state, by their numbers, to be shown in full size.

    Those that the state keeps, or else the video itself, which must be where it was, unchanged, or beside.

    Raises:
        `FileNotFoundError`: the video is gone. `ValueError`: it has changed.
    """
    cache = state.event_cache
    if "frames" not in cache:
        if state.jpeg_bytes is not None:
            cache["frames"] = _kept(state)
        else:
            cache["frames"] = _cached(_of_source(state))
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
    numbers, times = _numbers(state), _times(state)
    (first,) = state.kept_frames([0])
    duration = (state.sampling or {}).get("duration") or times[-1] + 1.0
    # Numbers in between belong to the sampled frame before them.
    every = np.interp(np.arange(numbers[-1] + 1), numbers, times)

    def read(wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        places = np.searchsorted(numbers, np.asarray(wanted), side="right") - 1
        for number, picture in zip(wanted, state.kept_frames(places.clip(min=0).tolist()), strict=True):
            yield number, np.array(picture)

    return VideoFrames(read, every, (first.height, first.width), float(duration))


def _cached(video: VideoFrames) -> VideoFrames:
    """The same, with the frames that were read last in memory: a further question decodes only what is new."""
    kept: OrderedDict[int, np.ndarray] = OrderedDict()

    def read(numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        missing = [number for number in numbers if number not in kept]
        fresh = iter(video.read(missing) if missing else ())
        for number in numbers:
            if number in kept:
                kept.move_to_end(number)
            else:
                read_number, frame = next(fresh)
                kept[read_number] = frame
            yield number, kept[number]
            while len(kept) > 1 and sum(frame.nbytes for frame in kept.values()) > _CACHE_BYTES:
                kept.popitem(last=False)

    return replace(video, read=read)


def _numbers(state: VideoState) -> list[int]:
    assert state.frame_indices is not None
    return state.frame_indices[0, : state.num_frames[0]].tolist()


def _times(state: VideoState) -> list[float]:
    assert state.frame_times is not None
    return state.frame_times[0, : state.num_frames[0]].tolist()


def _shown(states: Sequence[VideoState], focuses: Sequence[Focus], processor: FocusProcessor, budget: int) -> Shown:
    """What is known of the choice of one row; its tokens are counted when they are there."""
    key_frames, events, dense = [], [], 0
    for video, (state, focus) in enumerate(zip(states, focuses, strict=True)):
        seconds = _times(state)
        scores = focus.scores[0].tolist() if focus.scores is not None else []
        labels = focus.events.event_of_frame[0]
        for event, (index, score) in enumerate(zip(focus.key_frames[0].tolist(), scores, strict=True)):
            frames = (labels == event).nonzero()[:, 0].tolist()
            key_frame = {"index": index, "time": seconds[index], "score": score}
            last = frames[-1]
            entry = {
                "start": seconds[frames[0]],
                "end": seconds[last + 1] if last + 1 < len(seconds) else seconds[last] + 1.0,
                "start_index": frames[0],
                "end_index": last,
                "frames": frames,
                "medoid": index,
                "score": score,
                "selected": True,
            }
            several = {"video": video} if len(states) > 1 else {}
            key_frames.append({**several, **key_frame})
            events.append({**several, **entry})
        price = processor.budget(frames_of(state), _numbers(state), budget)
        dense += price.fixed_price + price.key_price * len(seconds)
    return Shown(
        key_frames=key_frames,
        events=events,
        frame_times=[_times(state) for state in states],
        num_visual_tokens=0,
        num_dense_tokens=dense,
    )


def _without_videos(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A chat in which a mark stands for each video."""
    return [
        {
            **message,
            "content": [{"type": "video"} if part.get("type") == "video" else part for part in message["content"]],
        }
        if isinstance(message["content"], list)
        else message
        for message in messages
    ]


def _last_words(messages: Sequence[dict[str, Any]]) -> str:
    """The text of the last user turn."""
    for message in reversed(messages):
        if message["role"] == "user":
            content = message["content"]
            if isinstance(content, str):
                return content
            return " ".join(part["text"] for part in content if part["type"] == "text")
    return ""


__all__ = ["DEFAULT_RULE", "FocusedModel", "frames_of"]
