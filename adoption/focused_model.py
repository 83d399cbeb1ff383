"""
A stock video language model behind the interface `VideoQA`: DynFocus chooses the frames, the model is unchanged.

    model = FocusedModel(stock_model, stock_processor, dual_encoder="google/siglip2-base-patch16-224")
    state = model.encode_video("lecture.mp4")                  # once; looks at a frame a second
    (answer,) = model.answer([(state, "When does she draw the second graph?")])
"""

import copy
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dynfocus.processing.questions import check_length
from dynfocus.processing.reading.decoded_frames import is_state
from dynfocus.processing.reading.stream import FrameStream
from dynfocus.processing.rows.conversations import checked_question, media_of, text_of
from dynfocus.processing.video_qa import Shown, VideoQA, event_entry, read_row, sources_of
from dynfocus.selecting.events import Events
from dynfocus.selecting.focus import Focus
from dynfocus.selecting.rules import Rule, events_of_peaks
from dynfocus.states.video_state import VideoState
from dynfocus.towers.dual_encoder import DualEncoder

from .chats import last_words
from .focus_processor import Choice, FocusProcessor
from .looking import SAMPLING, check_state, frame_numbers, frame_times, frames_of, look, open_frames
from .relevance import texts_of
from .saved_settings import saved_settings
from .stock_loading import check_loaded
from .video_frames import ChosenFrames


class FocusedModel(VideoQA):
    """
    A stock video language model for which DynFocus chooses the frames; see [`VideoQA`].

    A dual encoder encodes every sampled frame. Frames are chosen by their similarity to the question, and shown by a
    [`FocusProcessor`]: key frames in full, others coarsely.

    Args:
        model (`PreTrainedModel`): a model of one of the families in `families.py`; it is neither changed nor wrapped.
        processor: its stock processor, or a [`FocusProcessor`].
        dual_encoder (`str` or [`DualEncoder`], *optional*): by default what was saved with the model, or else
            `google/siglip2-base-patch16-224`; loaded when it is needed.
        use_options (`bool`, defaults to `False`): whether frames are also chosen by the options of a multiple-choice
            question.
        keep_frames (`bool`, defaults to `False`): whether states keep the sampled frames (at most 448 pixels on the
            shorter side), so that questions can be asked without the video.
        options: of [`FocusProcessor`], such as `max_visual_tokens` and `coarse`; by default those that were saved with
            the model.

    Raises:
        `ValueError`: for a model of an unknown family, one that lacks weights or holds NaN, or options that it does
            not support.
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
        if model is not None:  # on a server
            check_loaded(model)
        if isinstance(processor, FocusProcessor):
            if options or dual_encoder is not None:
                name = next(iter(options), "dual_encoder")
                raise ValueError(f"`{name}` is an option of the `FocusProcessor` that was given.")
            focused = processor
        else:
            # As the model was trained, where it was trained on such inputs.
            saved = saved_settings(model.name_or_path, getattr(model.config, "_commit_hash", None))
            if adapter := getattr(model, "folder_of_adapter", None):
                saved = saved_settings(adapter) or saved
            if dual_encoder is not None:
                options["dual_encoder"] = dual_encoder
            focused = FocusProcessor(processor, config=model.config, **{**saved, **options})
        super().__init__(model, focused.processor)
        self.focus_processor: FocusProcessor = focused
        self.use_options, self.keep_frames = use_options, keep_frames

    @property
    def dual_encoder(self) -> DualEncoder:
        """The encoder of all frames, loaded when it is first needed."""
        return self.focus_processor.dual_encoder

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            "fps": self.focus_processor.fps,
            "max_frames": None,
            "max_visual_tokens": self.focus_processor.max_visual_tokens,
        }

    def description(self, rule: str | Rule | None, question: str) -> dict[str, Any]:
        focused = self.focus_processor
        return {
            "rule": rule or getattr(focused.rule, "__name__", "given"),
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
        check_state(state, self.dual_encoder)

    def open_video(self, video: Any, **sampling: Any) -> FrameStream:
        given = {"fps": self.focus_processor.fps} if not {"num_frames", "sampling"} & sampling.keys() else {}
        return open_frames(video, self.dual_encoder, self.keep_frames, **{**given, **sampling})

    def encode_stream(self, stream: FrameStream, **options: Any) -> VideoState:
        return look(stream, self.dual_encoder, **options)

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
    ) -> tuple[Focus, Choice]:
        """The key frames among the sampled frames, and the frames that are shown."""
        if len(state) != 1:
            raise ValueError(f"Frames are chosen from one video at a time, and this state holds {len(state)}.")
        choice = self.focus_processor.choose_for(
            state,
            question,
            options=options,
            use_options=self.use_options,
            max_visual_tokens=max_visual_tokens,
            rule=rule,
        )
        assert state.frame_embeddings is not None  # checked by `check_state`
        features, key_frames = state.frame_embeddings[0].float(), choice.key_frames
        events = Events(
            event_of_frame=events_of_peaks(features, key_frames)[None],
            medoids=key_frames[None],
            mask=torch.ones(1, len(key_frames), dtype=torch.bool),
        )
        focus = Focus(
            events=events,
            scores=choice.relevance[key_frames][None],
            key_events=torch.arange(len(key_frames))[None],
            key_mask=events.mask,
            num_groups=torch.tensor([len(choice.frames.coarse)]),
        )
        return focus, choice

    def token_range(self, state: VideoState) -> tuple[int, int, int]:
        self.check_state(state)
        numbers = frame_numbers(state)
        budget = self.focus_processor.budget(frames_of(state), numbers)
        most = budget.fixed_price + budget.key_price * len(numbers)
        return budget.fixed_price + budget.key_price, min(budget.max_visual_tokens, most), most

    # ----------------------------------------------------------------------------------------------- show, answer

    def prepare(self, row: Mapping[str, Any], question: str | None = None, **settings: Any) -> dict[str, Any]:
        if unknown := sorted(settings.keys() - {*SAMPLING, "max_visual_tokens", "max_new_tokens"}):
            raise TypeError(f"Unknown keyword of `prepare`: {', '.join(unknown)}.")
        messages, asked = read_row(row, question)
        if asked is None:
            asked = last_words(messages)
        checked_question(asked)
        if self.model is not None:
            check_length(map(text_of, messages), self.model.config)
        videos = [value for kind, value in media_of(messages) if kind == "video"]
        for video in videos:
            if is_state(video):
                self.check_state(video)
        names = {name: settings[name] for name in SAMPLING if settings.get(name) is not None}
        start = time.perf_counter()
        # Errors of a file as a whole are raised here, where a single row can be left out.
        opened = [video if is_state(video) else self.open_video(video, **names) for video in videos]
        return {
            "inputs": {"messages": messages, "question": asked, "options": row.get("options")},
            "videos": opened,
            "max_visual_tokens": settings.get("max_visual_tokens"),
            "decode": time.perf_counter() - start,
            "question": asked,
            "sources": sources_of(videos),
        }

    def show(self, rows: Sequence[dict[str, Any]], rule: str | Rule | None) -> tuple[dict[str, Any], list[Shown]]:
        chats, chosen, shown = self.chosen_for(rows, rule)
        processor = copy.copy(self.focus_processor)
        processor.max_visual_tokens = max([self._budget_of(row) for row in rows], default=0)
        result = processor.show(chats, chosen)
        for one, counts in zip(shown, result.num_visual_tokens, strict=True):
            one.num_visual_tokens = sum(counts)
        batch = {
            name: value.to(self.device) if isinstance(value, torch.Tensor) else value
            for name, value in result.inputs.items()
        }
        return {name: self._cast(value) for name, value in batch.items()}, shown

    def chosen_for(
        self, rows: Sequence[dict[str, Any]], rule: str | Rule | None
    ) -> tuple[list[Any], list[list[ChosenFrames]], list[Shown]]:
        """For each prepared row its chat, the chosen frames of its videos, and the choice."""
        chats, chosen, shown = [], [], []
        for row in rows:
            states = [one if is_state(one) else self.encode_video(one) for one in row["videos"]]
            # Several videos share the budget.
            each = self._budget_of(row) // max(1, len(states))
            asked = row["inputs"]["question"], row["inputs"]["options"]
            found = [self._choose(state, *asked, each, rule) for state in states]
            chats.append(row["inputs"]["messages"])
            chosen.append([choice.frames for _, choice in found])
            shown.append(_shown(states, found))
        return chats, chosen, shown

    def _budget_of(self, row: Mapping[str, Any]) -> int:
        given = row["max_visual_tokens"]
        return self.focus_processor.max_visual_tokens if given is None else given

    def decode(self, new_tokens: torch.Tensor) -> list[str]:
        return [text.strip() for text in self.processor.batch_decode(new_tokens, skip_special_tokens=True)]

    def questions_at_once(self, state: VideoState, settings: Mapping[str, Any]) -> int:
        # Every question has its own pictures.
        return 1

    def _cast(self, value: Any) -> Any:
        is_pixels = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(self.model.dtype) if is_pixels else value


def _shown(states: Sequence[VideoState], found: Sequence[tuple[Focus, Choice]]) -> Shown:
    """The choice of one row; its tokens are counted once they exist."""
    key_frames, events, dense = [], [], 0
    for video, (state, (focus, choice)) in enumerate(zip(states, found, strict=True)):
        seconds = frame_times(state)
        scores = focus.scores[0].tolist() if focus.scores is not None else []
        labels = focus.events.event_of_frame[0]
        for event, (index, score) in enumerate(zip(focus.key_frames[0].tolist(), scores, strict=True)):
            frames = (labels == event).nonzero()[:, 0].tolist()
            key_frame = {"index": index, "time": seconds[index], "score": score}
            entry = event_entry(seconds, frames, index, score, selected=True)
            several = {"video": video} if len(states) > 1 else {}
            key_frames.append({**several, **key_frame})
            events.append({**several, **entry})
        dense += choice.budget.fixed_price + choice.budget.key_price * len(seconds)
    return Shown(
        key_frames=key_frames,
        events=events,
        frame_times=[frame_times(state) for state in states],
        num_visual_tokens=0,
        num_dense_tokens=dense,
        relevance=[choice.relevance.tolist() for _, choice in found],
        coarse_frames=[_places(state, choice.frames.coarse) for state, (_, choice) in zip(states, found, strict=True)],
    )


def _places(state: VideoState, coarse: Sequence[Sequence[int]]) -> list[int]:
    """The frames of coarse pictures, by their places among the sampled frames."""
    place = {number: index for index, number in enumerate(frame_numbers(state))}
    return [place[number] for group in coarse for number in group]


__all__ = ["FocusedModel"]
