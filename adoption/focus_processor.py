"""
A stock processor of transformers that shows chosen frames of a video in fine detail and others coarsely.

    processor = FocusProcessor(AutoProcessor.from_pretrained(model_id), max_visual_tokens=4096)
    inputs = processor(video="lecture.mp4", question="What does she draw?")
    model.generate(**inputs)                                   # the stock model, as it is
    messages = processor.chat_messages("lecture.mp4", "What does she draw?")      # the same for a server

    # or with frames that were chosen elsewhere:
    chosen = processor.choose(video, relevant_frames)          # within the budget
    inputs = processor.show("What does she draw?", [chosen]).inputs
    model.generate(**inputs)                                   # the stock model, as it is

Only inputs are made here: the model is neither changed nor wrapped. Chat template, picture processing and the format
of times are those of the stock processor, so that with all frames in full the inputs equal its own.
"""

import copy
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoProcessor, BatchFeature

from dynfocus.processing.reading.decoded_frames import flatten_videos
from dynfocus.processing.rows.blocks import is_message
from dynfocus.processing.rows.conversations import checked_question
from dynfocus.processing.rows.labels import answer_spans, render_or_refuse
from dynfocus.processing.templates import check_template
from dynfocus.processing.token_plan import FrameBudget, FramePlan
from dynfocus.processing.video_qa import find_rule
from dynfocus.selecting.rules import RULES, Rule
from dynfocus.states.video_state import VideoState
from dynfocus.towers.dual_encoder import DEFAULT_DUAL_ENCODER, DualEncoder

from .chats import (
    Chat,
    ImageFormat,
    is_whole,
    joined,
    last_words,
    picture_part,
    read_chat,
    sampled_as_asked,
    videos_of,
    with_lists,
    with_strings,
)
from .families import (
    Family,
    explicit_positions,
    fit_size,
    frames_per_block,
    known_family,
    token_side,
)
from .looking import check_state, frame_numbers, frame_times, frames_of, look, open_frames
from .relevance import relevance_of
from .saved_settings import SAVED, SETTINGS_FILE, saved_settings
from .stock_inputs import Span, StockCall, answer_labels, collate, moved, spans_of_videos, tokens_within
from .stock_prompt import StockPrompt
from .video_frames import PANEL, ChosenFrames, Entry, VideoFrames, as_image, draw, spread_coarse

Coarse = Literal["low", "panels", "none"]


@dataclass(frozen=True)
class Shown:
    """
    The inputs of a batch of prompts.

    Args:
        inputs: stock inputs, padded on the left: `model.generate(**inputs)`; with `labels`, `model(**inputs).loss`.
        num_visual_tokens: for each prompt and each video, its tokens in `input_ids`: visual features, time words and
            marks.
        entries: for each prompt and each video, what is shown of it, in order.
    """

    inputs: BatchFeature
    num_visual_tokens: list[list[int]]
    entries: list[list[list[Entry]]]


@dataclass(frozen=True)
class Choice:
    """
    What is shown of one video for a question.

    Args:
        key_frames: sorted places among the sampled frames, int64 `(K,)`.
        relevance: of all sampled frames, float32 `(T,)`.
        frames: to show.
        budget: the budget within which they were chosen.
    """

    key_frames: torch.Tensor
    relevance: torch.Tensor
    frames: ChosenFrames
    budget: FrameBudget


class FocusProcessor:
    """
    Shows chosen frames of videos to a stock video language model, within a token budget.

    Args:
        processor: the stock processor of the model.
        config: the model's configuration; needed if positions depend on it (Qwen2-VL, Qwen2.5-VL).
        dual_encoder (`str` or [`DualEncoder`], *optional*):
            the encoder of frames of a file; by default `google/siglip2-base-patch16-224`, loaded when it is needed.
        rule (`str` or callable, defaults to `"context"`): the rule of choice, by its name in `selecting/rules.py`.
        fps (`float`, defaults to 1.0): sampled frames a second.
        max_visual_tokens (`int`, defaults to 4096):
            tokens of all videos of a prompt at most, time words and marks included. Pictures beside videos in a chat
            are not counted. Several videos share it equally.
        tokens_per_key_frame (`int`, defaults to 256):
            visual tokens of a key frame at most, in families whose frames keep their own size. In others the cost of a
            frame is fixed by the model.
        tokens_per_coarse_frame (`int`, defaults to 16): the same for a small coarse frame.
        coarse (`str`, defaults to `"none"`):
            how the other frames are shown: `"low"`, small, in families whose frames keep their own size; `"panels"`,
            2 x 2 frames in one picture; `"none"`, not at all.
        coarse_per_key_frame (`int`, defaults to 8): coarse pictures for each key frame at most.
        num_key_frames (`int`, *optional*): key frames at most; by default as many as the budget allows.
        time_words (`bool`, defaults to `False`):
            write the time before each frame (`12.5s: `) for a model whose own processor writes none.
        family ([`Family`], *optional*): how the model takes frames; by default the row of its processor's class. A
            processor without a row is tested on four made-up frames.

    Raises:
        `ValueError`: for a processor of an unknown family, or settings that the family does not support.
    """

    def __init__(
        self,
        processor: Any,
        *,
        config: Any = None,
        dual_encoder: str | os.PathLike[str] | DualEncoder | None = None,
        rule: str | Rule = "context",
        fps: float = 1.0,
        max_visual_tokens: int = 4096,
        tokens_per_key_frame: int = 256,
        tokens_per_coarse_frame: int = 16,
        coarse: Coarse = "none",
        coarse_per_key_frame: int = 8,
        num_key_frames: int | None = None,
        time_words: bool = False,
        family: Family | None = None,
    ):
        if family is None:
            # Imported here, because this module uses the class itself.
            family = known_family(processor) or import_module("dynfocus.adoption.self_test").tried_family(processor)
        _check_coarse(coarse, family)
        for name, value, least in (
            ("tokens_per_key_frame", tokens_per_key_frame, 1),
            ("tokens_per_coarse_frame", tokens_per_coarse_frame, 1),
            ("coarse_per_key_frame", coarse_per_key_frame, 0),
            ("num_key_frames", 1 if num_key_frames is None else num_key_frames, 1),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        if time_words and family.times is not None:
            raise ValueError(f"{family.name} writes times itself ({family.times}): leave out `time_words`.")
        if time_words and (family.layout == "video" or family.positions):
            raise ValueError(f"`time_words` is not supported with {family.name}, which takes all frames as one block.")
        if family.positions and config is None:
            raise ValueError(f"{family.name} needs `config=model.config`: its positions depend on it.")
        if not getattr(processor.tokenizer, "is_fast", False):
            raise ValueError(f"{type(processor.tokenizer).__name__} cannot say where its tokens lie in the text.")
        self.processor = processor
        self.config = config
        self._dual_encoder = DEFAULT_DUAL_ENCODER if dual_encoder is None else dual_encoder
        self.rule, self.fps = find_rule(rule), fps
        self.family: Family = family
        self.max_visual_tokens = max_visual_tokens
        self.tokens_per_key_frame = tokens_per_key_frame
        self.tokens_per_coarse_frame = tokens_per_coarse_frame
        self.coarse: Coarse = coarse
        self.coarse_per_key_frame = coarse_per_key_frame
        self.num_key_frames = num_key_frames
        self.time_words = time_words
        self._prompt = StockPrompt(processor, family, time_words)
        self._token: str = processor.image_token if family.layout == "images" else processor.video_token
        # If the tower merges pairs, the second frame is the one that the stock processor would have sampled next.
        is_paired = frames_per_block(family, processor) == 2
        self.pair_seconds = 1.0 / (processor.video_processor.fps or 2.0) if is_paired else None

    # ------------------------------------------------------------------------------------------- loading and saving

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], *, revision: str | None = None, **options: Any):
        """
        Load the stock processor of a model, with the settings that were saved with it, if any.

        Args:
            name: Hub id or folder of the model.
            revision: branch, tag or commit on the Hub.
            options: arguments of the class, which take
                precedence.

        Raises:
            `ValueError`, `OSError`: there is no such processor, or its family is unknown.
        """
        processor: Any = AutoProcessor.from_pretrained(name, revision=revision)
        config = AutoConfig.from_pretrained(name, revision=revision)
        return cls(processor, **{"config": config, **saved_settings(name, revision), **options})

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Save the stock processor, and beside it the settings, which the pipeline then uses."""
        self.processor.save_pretrained(folder)
        self.save_settings(folder)

    def save_settings(self, folder: str | os.PathLike[str]) -> None:
        """Save only the settings, as `focus_config.json`."""
        Path(folder, SETTINGS_FILE).write_text(json.dumps(self.settings, indent=2) + "\n", encoding="utf-8")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of this processor, without the stock processor. `ValueError` for a rule without a name."""
        rule = next((name for name, known in RULES.items() if known is self.rule), None)
        if rule is None:
            raise ValueError("A rule of your own cannot be saved: take one of those in `selecting/rules.py`.")
        found = self._dual_encoder
        encoder = found.name if isinstance(found, DualEncoder) else os.fspath(found)
        if os.path.isdir(encoder):
            encoder = os.path.abspath(encoder)
        return {"dual_encoder": encoder, "rule": rule, **{name: getattr(self, name) for name in SAVED}}

    def with_dual_encoder(self, encoder: DualEncoder) -> "FocusProcessor":
        """This processor with a dual encoder that is already loaded."""
        found = copy.copy(self)
        found._dual_encoder = encoder
        return found

    def with_coarse(self, coarse: Coarse) -> "FocusProcessor":
        """This processor with another way to show frames other than key frames."""
        _check_coarse(coarse, self.family)
        found = copy.copy(self)
        found.coarse = coarse
        return found

    # ------------------------------------------------------------------------------------------------- the budget

    def budget(
        self, video: VideoFrames, candidates: Sequence[int], max_visual_tokens: int | None = None
    ) -> FrameBudget:
        """
        The budget for showing frames of a video.

        Args:
            candidates: sorted numbers of the frames to choose from; the longest of their time words count.
            max_visual_tokens: budget of this video; by default the processor's.

        Raises:
            `ValueError`: not even one key frame fits.
        """
        limit = self.max_visual_tokens if max_visual_tokens is None else max_visual_tokens
        fine, coarse = (self._visual_tokens(video, is_key) for is_key in (True, False))
        times = [self._entry(video, (number,), is_key=True).times for number in candidates]
        # Some prompts contain the number of pictures; with up to 40 the longest such words are covered.
        words, fixed = self._prompt.word_prices(times, video.duration, max(40, limit // fine + 1))
        # A small frame that costs as much as a key frame would be useless.
        has_coarse = self.coarse == "panels" or (self.coarse == "low" and coarse < fine)
        return FrameBudget(
            max_visual_tokens=limit,
            key_price=words + fine,
            coarse_price=words + coarse if has_coarse else None,
            fixed_price=fixed,
            frames_per_coarse=self._frames_per_coarse,
            coarse_per_key=self.coarse_per_key_frame,
            num_key_frames=self.num_key_frames,
        )

    def plan(self, video: VideoFrames, candidates: Sequence[int], max_visual_tokens: int | None = None) -> FramePlan:
        """How many key frames and coarse pictures are shown; known before anything is decoded or encoded."""
        return self.budget(video, candidates, max_visual_tokens).plan(len(candidates))

    def choose(
        self,
        video: VideoFrames,
        key_frames: Sequence[int],
        candidates: Sequence[int],
        max_visual_tokens: int | None = None,
    ) -> ChosenFrames:
        """
        The given key frames, and as many coarse pictures as the plan has, spread over the other candidates.

        Args:
            key_frames: sorted numbers, at most as many as in `plan(...)`.
            candidates: sorted numbers of all frames that may be shown.

        Raises:
            `ValueError`: more key frames than the plan has.
        """
        return self._within(self.budget(video, candidates, max_visual_tokens), video, key_frames, candidates)

    def _within(
        self, budget: FrameBudget, video: VideoFrames, key_frames: Sequence[int], candidates: Sequence[int]
    ) -> ChosenFrames:
        plan = budget.plan(len(candidates))
        if len(key_frames) > plan.num_key_frames:
            raise ValueError(
                f"{len(key_frames)} key frames were chosen, but the budget of {budget.max_visual_tokens} tokens has "
                f"room for {plan.num_key_frames}."
            )
        coarse = spread_coarse(candidates, key_frames, plan.num_coarse, self._frames_per_coarse)
        return ChosenFrames(video, list(key_frames), coarse)

    @property
    def _frames_per_coarse(self) -> int:
        return PANEL * PANEL if self.coarse == "panels" else 1

    def _visual_tokens(self, video: VideoFrames, is_key: bool) -> int:
        """Visual tokens of one picture."""
        if not self.family.native:
            return self._prompt.picture_tokens()
        height, width = self._shown_size(video, is_key)
        return height * width // token_side(self.processor) ** 2

    # ------------------------------------------------------------------------------------------------- the pictures

    def entries(self, chosen: ChosenFrames) -> list[Entry]:
        """What is shown of a video, in time order."""
        shown = [self._entry(chosen.video, (number,), is_key=True) for number in chosen.key_frames]
        shown += [self._entry(chosen.video, tuple(group), is_key=False) for group in chosen.coarse]
        return sorted(shown, key=lambda entry: (entry.pictures[0][0], not entry.is_key))

    def _entry(self, video: VideoFrames, numbers: Sequence[int], is_key: bool) -> Entry:
        return Entry.of(video, numbers, is_key, self.pair_seconds)

    def _shown_size(self, video: VideoFrames, is_key: bool) -> tuple[int, int]:
        if not self.family.native:
            return video.size
        fine = is_key or self.coarse == "panels"
        tokens = self.tokens_per_key_frame if fine else self.tokens_per_coarse_frame
        return fit_size(*video.size, token_side(self.processor), tokens)

    def _pictures(self, chosen: ChosenFrames, entries: Sequence[Entry]) -> list[torch.Tensor]:
        """For each entry its pictures, `(pictures, 3, H, W)` uint8."""
        sizes = [self._shown_size(chosen.video, entry.is_key) for entry in entries]
        has_images = self.family.layout == "images"
        stock = self.processor.image_processor if has_images else self.processor.video_processor
        return draw(chosen.video, entries, sizes, stock)

    def runs_of_pictures(self, text: str) -> list[str]:
        """The runs of placeholders of visual features in a text."""
        return self._prompt.run.findall(text)

    # -------------------------------------------------------------------------------------- from a file and a question

    def __call__(
        self, video: Any = None, question: str | None = None, *, messages: Sequence[Any] | None = None, **options: Any
    ) -> BatchFeature:
        """
        Stock inputs for a question about a video, with the frames that fit the question.

        Args:
            video: a file, URL, bytes, or decoded frames; the result of [`look`]; or a list of these.
            question: the question.
            messages: a chat instead, as in [`show`]; it may contain the videos (`{"type": "video", "video": …}`), with
                their sampling (`fps`, `num_frames`, `max_frames`, `min_frames`, `video_start`, `video_end`). Frames
                are chosen by the text of the last user turn.
            options: `labels`, as in [`show`].

        Raises:
            `ValueError`: no readable video, no question, or a budget that is too small. `FileNotFoundError`: there is
                no such file.
        """
        chat, chosen = self._chosen(video, question, messages)
        return self.show(chat, chosen, **options).inputs

    def chat_messages(
        self, video: Any = None, question: str | None = None, *, messages: Sequence[Any] | None = None, **options: Any
    ) -> list[dict[str, Any]]:
        """The same as a chat with pictures and times, for any server; `options` are those of [`messages`]."""
        chat, chosen = self._chosen(video, question, messages)
        return self.messages(chat, chosen, **options)

    def look(self, video: Any, *, save_to: str | os.PathLike[str] | None = None) -> VideoState:
        """Encode a video once, for any questions; `save_to` as in [`VideoQA.encode_video`]."""
        return look(open_frames(video, self.dual_encoder, fps=self.fps), self.dual_encoder, save_to=save_to)

    def choose_for(
        self,
        state: VideoState,
        question: str,
        *,
        options: Sequence[str] | None = None,
        use_options: bool = False,
        max_visual_tokens: int | None = None,
        rule: str | Rule | None = None,
    ) -> "Choice":
        """
        What is shown of one video for a question.

        Args:
            state ([`VideoState`]): the result of [`look`].
            options, use_options: of a multiple-choice question, see [`texts_of`].
            max_visual_tokens, rule: by default those of the processor.
        """
        checked_question(question)
        check_state(state, self.dual_encoder)
        video, numbers = frames_of(state), frame_numbers(state)
        assert state.frame_embeddings is not None
        features = state.frame_embeddings[0, : len(numbers)].float()
        relevance = relevance_of(self.dual_encoder, features, question, options, use_options).cpu()
        budget = self.budget(video, numbers, max_visual_tokens)
        find = self.rule if rule is None else find_rule(rule)
        times = torch.as_tensor(frame_times(state))
        key_frames = find(relevance, budget.plan(len(numbers)).num_key_frames, features=features, times=times)
        frames = self._within(budget, video, [numbers[index] for index in key_frames.tolist()], numbers)
        return Choice(key_frames, relevance, frames, budget)

    @property
    def dual_encoder(self) -> DualEncoder:
        """The encoder of frames, loaded when it is first needed."""
        if not isinstance(self._dual_encoder, DualEncoder):
            self._dual_encoder = DualEncoder.from_pretrained(self._dual_encoder)
        return self._dual_encoder

    def _chosen(
        self, video: Any, question: str | None, messages: Sequence[Any] | None
    ) -> tuple[str | Sequence[Any], list[ChosenFrames]]:
        if (question is None) == (messages is None):
            raise ValueError("Give `question` or `messages`, one of the two.")
        chat = checked_question(question) if question is not None else messages or ()
        if video is None:
            video = videos_of(chat)
        several = list(video) if isinstance(video, (list, tuple)) else [video]
        if not all(isinstance(one, (VideoState, ChosenFrames)) for one in several):
            several = flatten_videos(video)
        if not several:
            raise ValueError("There is no video: give `video`, or one in `messages`.")
        chat, several = sampled_as_asked(chat, several)
        asked = checked_question(last_words(chat))
        share = self.max_visual_tokens // len(several)
        return chat, [self._found(one, asked, share) for one in several]

    def _found(self, video: Any, question: str, max_visual_tokens: int) -> ChosenFrames:
        if isinstance(video, ChosenFrames):
            return video
        state = video if isinstance(video, VideoState) else self.look(video)
        return self.choose_for(state, question, max_visual_tokens=max_visual_tokens).frames

    # --------------------------------------------------------------------------------------------------- the prompt

    def show(
        self,
        chats: str | Sequence[Any],
        videos: Sequence[Any],
        *,
        labels: bool = False,
        learn_from: Literal["all", "last"] = "all",
        padding_side: Literal["left", "right"] = "left",
    ) -> Shown:
        """
        Stock inputs of one prompt or a batch.

        Args:
            chats:
                a question, or a chat (a list of messages with `role` and `content`), or a list of these. Contents are
                strings, or lists of `{"type": "text", "text": …}`, `{"type": "image", "image": …}` and
                `{"type": "video"}`; in a chat without such places, videos come before the user's first words.
            videos: the chosen frames of the prompt's videos, in order; for a list of prompts, a list for each.
            labels: whether to add `labels`: the assistant's turns, and -100 elsewhere. The chat must end with its
                answer.
            learn_from: with `labels`, `"all"` turns of the assistant, or the `"last"`.
            padding_side: of a batch; `generate` needs `"left"`.

        Raises:
            `ValueError`: for more tokens than the budget, a chat that the template refuses, or videos that the model
                cannot take together.
        """
        is_single = isinstance(chats, str) or (len(chats) > 0 and is_message(chats[0]))
        batch = [chats] if is_single else list(chats)
        chosen = [list(videos)] if is_single else [list(row) for row in videos]
        if len(batch) != len(chosen):
            raise ValueError(f"{len(batch)} prompts came with the videos of {len(chosen)}.")
        learned = learn_from if labels else None
        rows = [self._row(chat, row, learned) for chat, row in zip(batch, chosen, strict=True)]
        inputs = self.collate([row.inputs for row in rows], padding_side)
        return Shown(inputs, [r.num_visual_tokens[0] for r in rows], [r.entries[0] for r in rows])

    def collate(self, rows: Sequence[BatchFeature], padding_side: Literal["left", "right"] = "left") -> BatchFeature:
        """Batch the inputs of single prompts; see [`show`]."""
        return collate(rows, self.processor.tokenizer.pad_token_id or 0, self.family, padding_side)

    def num_text_tokens(self, chat: str | Sequence[Any]) -> int:
        """Tokens of a chat without its videos and pictures."""
        parsed = read_chat(chat, len(videos_of(chat)), self._prompt.plain)
        pieces = self._prompt.placeholder.split(self.render(parsed.messages))
        ids = self.processor.tokenizer(pieces, add_special_tokens=False)["input_ids"]
        return sum(map(len, ids)) + self.processor.tokenizer.num_special_tokens_to_add()

    @property
    def batches_need_one_length(self) -> bool:
        """Whether all videos of a batch must show the same number of pictures, and may show different ones."""
        is_one_length = self.num_key_frames is not None and self.coarse == "none"
        can_pad = self.family.drops_empty_frames or self.family.layout != "video"
        return not can_pad and not is_one_length and self._prompt.keeps_videos_apart

    @property
    def tokenizer(self) -> Any:
        """The stock processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def placeholder_ids(self) -> set[int]:
        """The ids of placeholder tokens of visual features."""
        vocabulary = self.tokenizer.get_added_vocab()
        return {number for token, number in vocabulary.items() if self._prompt.placeholder.fullmatch(token)}

    def messages(
        self, chat: str | Sequence[Any], videos: Sequence[ChosenFrames], *, image_format: ImageFormat = "jpeg"
    ) -> list[dict[str, Any]]:
        """
        One prompt for a server that speaks OpenAI's protocol: frames as pictures, and their times as the stock
        processor writes them.

        If the stock processor takes pairs of frames, the first of each is sent. The server may resize pictures, and so
        determines their cost.

        Args:
            chat, videos: of one prompt, as in [`show`].
            image_format: format of the pictures; PNG is lossless.
        """
        parsed = read_chat(chat, len(videos), self._prompt.plain)
        pictures, chosen = iter(parsed.images), iter(videos)
        for message in parsed.messages:
            if isinstance(message["content"], str):
                continue
            parts: list[dict[str, Any]] = []
            for part in message["content"]:
                if part["type"] == "text":
                    parts.append(part)
                elif part["type"] == "image":
                    parts.append(picture_part(next(pictures), image_format))
                else:
                    parts += self._video_parts(next(chosen), image_format)
            message["content"] = joined(parts)
        return parsed.messages

    def _video_parts(self, chosen: ChosenFrames, image_format: ImageFormat) -> list[dict[str, Any]]:
        entries = self.entries(chosen)
        # The first frame of a pair is sent, so that its time is that of the picture.
        times = [entry.times[:1] * len(entry.times) for entry in entries]
        words = self._prompt.words(times, chosen.video.duration)
        parts: list[dict[str, Any]] = []
        for word, picture in zip(words[:-1], self._pictures(chosen, entries), strict=True):
            parts += [{"type": "text", "text": word}, picture_part(as_image(picture[0]), image_format)]
        return [*parts, {"type": "text", "text": words[-1]}]

    def _row(self, chat: Any, videos: list[ChosenFrames], learned: Literal["all", "last"] | None) -> Shown:
        parsed = read_chat(chat, len(videos), self._prompt.plain)
        if learned is not None:
            text, spans = answer_spans(self.render, parsed.messages, only_last=learned == "last")
        else:
            text, spans = render_or_refuse(self.render, parsed.messages, add_generation_prompt=True), []
        shown = self.encode_text(text, videos, parsed, None if learned is None else spans)
        (counts,) = shown.num_visual_tokens
        if sum(counts) > self.max_visual_tokens:
            raise ValueError(
                f"What is to be shown costs {sum(counts)} tokens, more than "
                f"`max_visual_tokens={self.max_visual_tokens}`."
            )
        return shown

    def encode_text(
        self, text: str, videos: Sequence[ChosenFrames], chat: Chat, learned: Sequence[Span] | None = None
    ) -> Shown:
        """
        Stock inputs of one text.

        Args:
            text: with one mark of the stock processor for each video and picture.
            videos: the chosen frames.
            chat: the chat of the text.
            learned: the spans of the text whose tokens become `labels`.
        """
        entries = [self.entries(video) for video in videos]
        words = [self._video_placeholders(shown) for shown in entries]
        text, moves = self._expand(text, words, chat.media)
        call = StockCall(self.processor, self.family, self.tokens_per_key_frame)
        for video, shown in zip(videos, entries, strict=True):
            call.add_video(self._pictures(video, shown), [entry.times for entry in shown], video.video.duration)
        row, offsets, marks = call(text, chat.media, chat.images)
        shown_at = spans_of_videos(marks, words, chat.media, self._token, self.family)
        inputs = {name: torch.as_tensor(value) for name, value in row.items()}
        if self.family.positions:
            inputs.pop("second_per_grid_ts", None)
            times = [[entry.times[0] for entry in shown] for shown in entries]
            inputs["position_ids"] = explicit_positions(inputs, times, self.family, self.config)
        if learned is not None:
            # Molmo 2 adds a token before the text.
            ahead = marks[0]["span"][0] - text.index(marks[0]["text"]) if marks else 0
            grown = [(mark["span"], mark["new_span"][1] - mark["new_span"][0]) for mark in marks]
            spans = [(moved(start, moves) + ahead, moved(end, moves) + ahead) for start, end in learned]
            spans = [(moved(start, grown), moved(end, grown)) for start, end in spans]
            inputs["labels"] = answer_labels(inputs["input_ids"], offsets, spans)
        return Shown(BatchFeature(inputs), [[tokens_within(offsets, span) for span in shown_at]], [entries])

    def render(self, messages: Sequence[dict[str, Any]], **arguments: Any) -> str:
        """The chat in the words of the stock template, with one mark for each video and picture."""
        if self.processor.chat_template is None and self.family.name != "SmolVLM":
            raise ValueError(
                f"This {type(self.processor).__name__} has no chat template: set `processor.chat_template`."
            )
        has_images = self.family.layout == "images"
        stock = {"type": "image"} if has_images else {"type": "video", **self.family.video_content}
        marks = {"video": self._token, "image": self.processor.image_token}
        # Templates take lists, or strings, or both; some silently leave out parts that they do not take.
        as_lists = with_lists(messages, stock)
        tokens = self.processor.tokenizer.special_tokens_map
        for form in (as_lists, with_strings(messages, marks)):
            try:
                check_template(self.processor.chat_template, form, **tokens, **arguments)
                text = self.processor.apply_chat_template(form, tokenize=False, **arguments)
            except (TypeError, import_module("jinja2.exceptions").TemplateError):
                if form is not as_lists:
                    raise
                continue
            if is_whole(text, messages, marks):
                return text
        raise ValueError("The chat template leaves out parts of this chat: use another `chat_template`.")

    def _video_placeholders(self, entries: Sequence[Entry]) -> str:
        """The text of a video in the input of the stock processor."""
        if self.family.layout == "video":
            return self._token
        return self.family.joint.join(self._prompt.time_word(entry.times) + self._token for entry in entries)

    def _expand(
        self, text: str, words: Sequence[str], media: Sequence[str]
    ) -> tuple[str, list[tuple[tuple[int, int], int]]]:
        """The text with a placeholder for each entry, and the spans that were replaced, with their new lengths."""
        kinds = media if self.family.layout == "images" else ["video"] * len(words)
        found = list(re.finditer(re.escape(self._token), text))
        moves, parts, end, rest = [], [], 0, iter(words)
        for match, kind in zip(found, kinds, strict=True):
            new = next(rest) if kind == "video" else match.group()
            parts += [text[end : match.start()], new]
            moves.append((match.span(), len(new)))
            end = match.end()
        return "".join([*parts, text[end:]]), moves


def _check_coarse(coarse: str, family: Family) -> None:
    if coarse not in ("low", "panels", "none"):
        raise ValueError(f"`coarse` must be 'low', 'panels' or 'none', got {coarse!r}.")
    if coarse == "low" and not family.native:
        raise ValueError(
            f"`coarse='low'` saves nothing with {family.name}, which gives every frame the same number of tokens: "
            "use 'panels' or 'none'."
        )


__all__ = [
    "Choice",
    "ChosenFrames",
    "Entry",
    "FocusProcessor",
    "Shown",
    "VideoFrames",
]
