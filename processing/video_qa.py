"""
The interface of a model that answers questions about videos: `encode_video`, `choose`, `answer`. Pipeline, evaluation
and the command line use a model through it alone.
"""

import copy
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from dynfocus.selecting.focus import Focus
from dynfocus.selecting.rules import RULES, Rule
from dynfocus.states.video_state import VideoState

from .answers import Answer
from .generation_settings import check_generation, check_names
from .reading.chat_video import VIDEO_SETTINGS
from .reading.decoded_frames import describe_video, flatten_videos, is_state, with_message
from .reading.stream import FrameStream
from .rows.blocks import is_empty
from .rows.collator import pad_token_id
from .rows.conversations import MEDIA_COLUMNS, as_messages, checked_question

#: Largest number of tokens of an answer, by default.
DEFAULT_NEW_TOKENS = 64
# Arguments of `generate` that are not fields of its configuration.
_GENERATE_ARGUMENTS = {
    "generation_config",
    "logits_processor",
    "stopping_criteria",
    "prefix_allowed_tokens_fn",
    "assistant_model",
    "assistant_tokenizer",
    "tokenizer",
    "streamer",
}
#: All parameters of `generate`.
GENERATION_PARAMETERS = {name for name in vars(GenerationConfig()) if not name.startswith("_")} | _GENERATE_ARGUMENTS
#: What a row may hold; see [`as_messages`].
ROW_KEYS = (
    *("video", "videos", "image", "images", "question", "answer", "options", "messages", "conversations", "id"),
    *VIDEO_SETTINGS,
    "row_number",
)
# Settings of a call that are none of a row.
_OF_CALLS = (
    *("sampling", "decoder", "on_truncated", "max_visual_tokens", "rule", "on_error", "return_details"),
    *("batch_size", "num_workers", "generate_kwargs"),
)


@dataclass
class Shown:
    """What the language model sees of the videos of one row; see [`Answer`]."""

    key_frames: list[dict[str, Any]]
    events: list[dict[str, Any]]
    frame_times: list[list[float]]
    num_visual_tokens: int | None
    num_dense_tokens: int | None
    relevance: list[list[float]] | None = None
    coarse_frames: list[list[int]] | None = None


@dataclass
class Said:
    """What a language model said to one prompt; see [`Answer`]."""

    text: str
    score: float | None
    num_visual_tokens: int | None = None
    num_prompt_tokens: int | None = None
    token_log_probs: list[float] | None = None


class VideoQA(ABC):
    """
    A model and its processor, for answering questions about videos.

    Args:
        model (`PreTrainedModel`): with `generate`.
        processor (`ProcessorMixin`): the model's processor.
    """

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor = model, processor

    @property
    def device(self) -> torch.device:
        return self.model.device

    @abstractmethod
    def fingerprint(self) -> str | None:
        """Fingerprint of the video encoder; states carry it, and a model with another one refuses them."""

    @property
    @abstractmethod
    def state_dtype(self) -> torch.dtype:
        """Default dtype of the features in states."""

    def check_state(self, state: VideoState) -> None:
        """Raises a `ValueError` if a state is damaged, or was not encoded by this model with these pixel settings."""
        state.check()
        state.check_fingerprint(self.fingerprint())

    @property
    @abstractmethod
    def defaults(self) -> dict[str, Any]:
        """`fps`, `max_frames` and `max_visual_tokens` of calls that do not set them."""

    def description(self, rule: str | Rule | None, question: str) -> dict[str, Any]:
        """
        Further settings that influence answers, for the record of an evaluation; `question` is one of its questions.
        """
        return {"rule": rule or "dpe"}

    def record(self) -> dict[str, Any]:
        """Which model answers, for the record of an evaluation: `revision`, `dtype` and `chat_template`."""
        return {
            # Local models have no such attribute at all.
            "revision": vars(self.model.config).get("_commit_hash"),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "chat_template": self.processor.chat_template or "",
        }

    @abstractmethod
    def open_video(self, video: Any, **sampling: Any) -> FrameStream:
        """
        Open a video for encoding; `encode_video` takes the result in place of the video. Errors of the file as a whole
        are raised here. `FrameStream.start` reads the first chunks ahead, in a thread.
        """

    @abstractmethod
    def encode_stream(self, stream: FrameStream, **options: Any) -> VideoState:
        """`encode_video` for an opened video."""

    def encode_video(
        self,
        video: Any,
        *,
        save_to: str | os.PathLike | None = None,
        progress: bool | Callable[[int, int], None] = False,
        dtype: torch.dtype | None = None,
        **sampling: Any,
    ) -> VideoState:
        """
        Encode a video before any question. It is read and encoded chunk by chunk, for any length.

        Args:
            video: a video in any form, what `open_video` returned, or a list of videos, which gives one state of all.
            save_to (path, *optional*):
                write the state into this file. After an interruption the same call continues where it stopped.
            progress (`bool` or `Callable`): draw a bar, or call this with the number of frames done and of all frames.
            dtype (`torch.dtype`, *optional*): dtype of the state's features.
            sampling: `fps`, `max_frames`, `num_frames`, `sampling`, `decoder`, `on_truncated`.

        Raises:
            `ValueError`, `FileNotFoundError`: for a video that cannot be read; if there are several, the message says
                which.
        """
        options = {"save_to": save_to, "progress": progress, "dtype": dtype}
        if isinstance(video, FrameStream):
            return self.encode_stream(video, **options)
        videos = flatten_videos(video)
        if not videos or (len(videos) > 1 and save_to is not None):
            raise ValueError(f"There are {len(videos)} videos: give one (or several without `save_to`).")
        states = []
        for index, one in enumerate(videos):
            try:
                states.append(self.encode_stream(self.open_video(one, **sampling), **options))
            except (ValueError, OSError) as error:
                if len(videos) == 1:
                    raise
                where = f"Video {index} of {len(videos)} ({describe_video(one)})"
                raise with_message(error, f"{where}: {error}") from error
        return states[0] if len(states) == 1 else VideoState.stack(states)

    @abstractmethod
    def choose(
        self, state: VideoState, question: str, *, max_visual_tokens: int | None = None, rule: str | Rule | None = None
    ) -> Focus:
        """
        Choose the key frames of one video for a question.

        Args:
            state ([`VideoState`]): state of one video. question (`str`).
            max_visual_tokens (`int`, *optional*): budget of visual tokens.
            rule (`str` or `Callable`, *optional*): a rule of choice of `selecting.rules`, as its name or as a
                function; by default the model's own.
        """

    @abstractmethod
    def token_range(self, state: VideoState) -> tuple[int, int, int]:
        """
        For the budget of questions about one video: the fewest visual tokens that are possible, those of a call that
        sets none, and the most that can be spent.
        """

    def cut_for_choice(self, text: str) -> str:
        """The beginning of a text, cut to the length of a question for the choice of frames."""
        return text

    @abstractmethod
    def prepare(self, row: Mapping[str, Any], question: str | None = None, **settings: Any) -> dict[str, Any]:
        """
        Read and prepare a row for `answer`; may be called in another process.

        Args:
            row: in a form of [`as_messages`]: `{"video", "question"}`, or `{"messages"}`. A `VideoState` may replace
                its videos. With `messages`, frames are chosen by `question` if it is given; `options` are those of a
                multiple-choice question, in any form.
            question (`str`, *optional*): the question of rows without one.
            settings: the sampling of `encode_video`, `max_visual_tokens`, and `max_new_tokens`, for which the language
                model keeps room.

        Raises:
            `ValueError`, `FileNotFoundError`: for a row that cannot be read.
        """

    @abstractmethod
    def show(self, rows: Sequence[dict[str, Any]], rule: str | Rule | None) -> tuple[dict[str, Any], list[Shown]]:
        """Arguments of `generate` for prepared rows, padded on the left, and what is shown of each row's videos."""

    @torch.no_grad()
    def answer(
        self,
        rows: Sequence[tuple[VideoState, str] | Mapping[str, Any]],
        *,
        max_visual_tokens: int | None = None,
        rule: str | Rule | None = None,
        **generate: Any,
    ) -> list[Answer]:
        """
        Answer questions, all in one batch.

        Args:
            rows: pairs of a state and a question, rows for `prepare`, or its results.
            max_visual_tokens, rule: see `choose`; prepared rows keep their budget.
            generate: parameters of `generate`.
        """
        check_generation(generate)
        if not rows:
            return []
        settings = {} if max_visual_tokens is None else {"max_visual_tokens": max_visual_tokens}
        if "max_new_tokens" in generate:
            settings["max_new_tokens"] = generate["max_new_tokens"]
        prepared = [self._as_prepared(row, settings) for row in rows]
        start = self._now()
        batch, shown = self.show(prepared, rule)
        encoded = self._now()
        said = self.generate(batch, generate)
        done = self._now()
        seconds = {"encode": (encoded - start) / len(rows), "generate": (done - encoded) / len(rows)}
        return [
            Answer(
                answer=reply.text,
                score=reply.score,
                key_frames=one.key_frames,
                num_visual_tokens=reply.num_visual_tokens if one.num_visual_tokens is None else one.num_visual_tokens,
                num_dense_tokens=one.num_dense_tokens,
                frame_times=one.frame_times,
                events=one.events,
                timings={"decode": row.get("decode", 0.0), **seconds},
                relevance=one.relevance,
                coarse_frames=one.coarse_frames,
                num_prompt_tokens=reply.num_prompt_tokens,
                question=row.get("question"),
                sources=row.get("sources"),
                token_log_probs=reply.token_log_probs,
            )
            for row, one, reply in zip(prepared, shown, said, strict=True)
        ]

    def generate(self, batch: dict[str, Any], given: dict[str, Any]) -> list[Said]:
        """
        What the model says to the prompts that `show` made.

        Args:
            given: parameters of `generate`, as `answer` was given them.
        """
        options = self._generate_options(given)
        output = self.model.generate(**batch, **options)
        new_tokens = output.sequences[:, batch["input_ids"].shape[1] :]
        scores, log_probs = sequence_scores(self.model, output, new_tokens, self.end_tokens(options))
        found = zip(self.decode(new_tokens), scores, log_probs, strict=True)
        return [Said(text, score, token_log_probs=logs) for text, score, logs in found]

    @abstractmethod
    def decode(self, new_tokens: torch.Tensor) -> list[str]:
        """The texts of generated tokens `(batch, steps)`."""

    @abstractmethod
    def questions_at_once(self, state: VideoState, settings: Mapping[str, Any]) -> int:
        """How many questions about one state are best answered together; `settings` as for `prepare`."""

    def _as_prepared(self, row: Any, settings: dict[str, Any]) -> dict[str, Any]:
        if isinstance(row, tuple):
            state, question = row
            row = {"video": state, "question": question}
        return row if "inputs" in row else self.prepare(row, **settings)

    def _generate_options(self, given: dict[str, Any]) -> dict[str, Any]:
        """
        Arguments of `generate`, with defaults for the length of answers and for padding, and those needed for scores.
        """
        named: dict[str, Any] = {"return_dict_in_generate": True, "output_logits": True}
        config = given.get("generation_config")
        current = self.model.generation_config if config is None else config
        self._check_generation(given, current, "" if config is None else " in the `generation_config` that was given")
        if current.pad_token_id is None:
            named["pad_token_id"] = pad_token_id(self.processor.tokenizer)
        # 20 is the library's default, not a choice of the user.
        has_length = {"max_new_tokens", "max_length"} & given.keys() or current.max_length not in (None, 20)
        if not has_length and current.max_new_tokens is None:
            named["max_new_tokens"] = DEFAULT_NEW_TOKENS
        if config is None:
            return {**named, **given}
        # `generate` does not accept both a configuration and single parameters.
        config = copy.deepcopy(config)
        config.update(**named, **{name: value for name, value in given.items() if name not in _GENERATE_ARGUMENTS})
        return {**{name: given[name] for name in _GENERATE_ARGUMENTS & given.keys()}, "generation_config": config}

    def _check_generation(self, given: Mapping[str, Any], config: GenerationConfig, where: str) -> None:
        text = self.model.config.get_text_config()
        limits: dict[str, Any] = {
            "vocab_size": getattr(text, "vocab_size", None),
            "positions": getattr(text, "max_position_embeddings", None),
        }
        where = where or " in the model's generation_config.json"
        saved = {name: value for name, value in config.to_dict().items() if given.get(name) is None}
        check_names(saved, GENERATION_PARAMETERS, where)
        check_generation(saved, **limits, where=where)
        check_generation({name: value for name, value in given.items() if name not in _GENERATE_ARGUMENTS}, **limits)

    def end_tokens(self, options: Mapping[str, Any]) -> list[int]:
        """The tokens that end an answer; `options` are arguments of `generate`."""
        config = options.get("generation_config", self.model.generation_config)
        ends = options.get("eos_token_id", config.eos_token_id)
        return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def read_row(row: Mapping[str, Any], question: str | None) -> tuple[list[dict[str, Any]], str | None]:
    """
    The chat of a row, by [`as_messages`], and the question by which frames are chosen.

    Args:
        row: see [`VideoQA.prepare`].
        question (`str`, *optional*): the question of rows without one. For a chat without any, it is the last user
            turn.

    Raises:
        `ValueError`: a row with neither a chat nor a question, a question that is empty or no string, a video that
            is empty, or a key that is not known.
    """
    _check_keys(row)
    asked: str | None = row.get("question")
    if asked is None:
        asked = question
    if "messages" not in row:
        if asked is None:
            raise ValueError("There is no question: give `question=`, or rows with `question`.")
        # A row without these columns is a question without a video.
        given = [name for name in MEDIA_COLUMNS if name in row]
        if given and all(is_empty(row[name]) for name in given):
            raise ValueError(f"There is no video: `{given[0]}` is {row[given[0]]!r}; name a file or an address.")
        row = {**row, "question": asked, "answer": None}
    return as_messages(row, has_settings=True), None if asked is None else checked_question(asked)


def _check_keys(row: Mapping[str, Any]) -> None:
    for key in (key for key in row if key not in ROW_KEYS and row[key] is not None):
        if key in _OF_CALLS or key in GENERATION_PARAMETERS:
            raise ValueError(f"`{key}` in a row is not read: give it to the call, for all of its rows.")
        known = ", ".join(f"`{name}`" for name in ROW_KEYS if name != "row_number")
        raise ValueError(f"`{str(key)[:60]}` in a row is not known: leave it out; a row may have {known}.")


def sources_of(videos: Sequence[Any]) -> list[str | None]:
    """The files of videos in any form, or of states; `None` for those that are no files."""
    sources: list[str | None] = []
    for video in videos:
        if is_state(video):
            # A state of several videos does not name them.
            sources += [(video.sampling or {}).get("source")] if len(video) == 1 else [None] * len(video)
        else:
            sources.append(os.fspath(video) if isinstance(video, (str, os.PathLike)) else None)
    return sources


def find_rule(rule: str | Rule) -> Rule:
    """A rule of choice by its name; `ValueError` for an unknown one."""
    if callable(rule):
        return rule
    if rule not in RULES:
        raise ValueError(f"There is no rule of choice {rule!r}: choose one of {', '.join(map(repr, RULES))}.")
    return RULES[rule]


def sequence_scores(
    model: Any, output: Any, new_tokens: torch.Tensor, end_tokens: Sequence[int]
) -> tuple[list[float], list[list[float]]]:
    """
    Geometric mean of the model's probabilities of the generated tokens, up to and including the first end token; and
    the logarithms of these probabilities.

    Args:
        output: output of `generate` with `output_logits=True`.
        new_tokens (`torch.Tensor` of shape `(batch, steps)`): the generated part of `output.sequences`.

    Raises:
        `ValueError`: if they are NaN, so that the answer is meaningless.
    """
    log_probs = model.compute_transition_scores(
        output.sequences, output.logits, output.get("beam_indices"), normalize_logits=True
    )
    steps = min(log_probs.shape[1], new_tokens.shape[1])
    log_probs, new_tokens = log_probs[:, :steps].float(), new_tokens[:, :steps]
    is_end = torch.isin(new_tokens, torch.tensor(list(end_tokens), dtype=new_tokens.dtype, device=new_tokens.device))
    # Only padding follows the first end token.
    kept = is_end.cumsum(1) - is_end.long() == 0
    means = torch.where(kept, log_probs, 0.0).sum(1) / kept.sum(1).clamp(min=1)
    if means.isnan().any():
        raise ValueError(
            f"The model computes NaN (not a number) in {str(model.dtype).removeprefix('torch.')}, so its answer would "
            "mean nothing: load it in float32 or bfloat16; if that does not help, save or download it again."
        )
    return means.exp().tolist(), [row[is_kept].tolist() for row, is_kept in zip(log_probs, kept, strict=True)]


def event_entry(
    seconds: Sequence[float], frames: Sequence[int], medoid: int, score: float, selected: bool
) -> dict[str, Any]:
    """One of the `events` of an [`Answer`]: `seconds` of all frames, and the numbers of its own, in rising order."""
    return {
        "start": seconds[frames[0]],
        "end": _end_of_frame(seconds, frames[-1]),
        "start_index": frames[0],
        "end_index": frames[-1],
        "frames": frames,
        "medoid": medoid,
        "score": score,
        "selected": selected,
    }


def _end_of_frame(seconds: Sequence[float], index: int) -> float:
    """The start of the next frame; the last frame lasts as long as the one before it, a single one for a second."""
    if index + 1 < len(seconds):
        return seconds[index + 1]
    return seconds[index] + (seconds[index] - seconds[index - 1] if index else 1.0)


__all__ = [
    "DEFAULT_NEW_TOKENS",
    "GENERATION_PARAMETERS",
    "ROW_KEYS",
    "RULES",
    "Answer",
    "Said",
    "Shown",
    "VideoQA",
    "event_entry",
    "find_rule",
    "read_row",
    "sequence_scores",
    "sources_of",
]
