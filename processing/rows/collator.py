"""Rows of a data set as padded batches: decoded in the data loader's worker, with labels on the answers only."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..processing_dynfocus import DynFocusProcessor
from ..questions import cut_question
from ..reading.decoded_frames import with_message
from ..token_plan import TokenBudget, TokenPlan
from .bad_rows import BadRows
from .blocks import check_root
from .conversations import as_messages, load_media, media_of, row_label, text_of, without_media
from .counts import FrameCounts
from .fitting import fitting_plans, with_plans
from .labels import answer_spans, refuse_empty_answers, render_or_refuse

logger = logging.get_logger(__name__)


def merge_rows(
    rows: Sequence[Mapping[str, Any]], pad_token_id: int, padding_side: Literal["left", "right"]
) -> dict[str, torch.Tensor]:
    """
    One batch from processed rows, each with any number of videos, or none.

    Text is padded on `padding_side`; frames and questions on the right, as the model expects. Videos keep their order.

    Args:
        rows: each with `input_ids`, `attention_mask` and perhaps `labels`, `(tokens,)` or `(1, tokens)`, and the
            inputs of its videos, if it has any, `(num_videos, …)`.
    """
    fills = {"input_ids": pad_token_id, "attention_mask": 0, "labels": -100}
    batch: dict[str, torch.Tensor] = {}
    for name in (name for name in fills if name in rows[0]):
        sequences = [torch.as_tensor(row[name]).reshape(-1) for row in rows]
        longest = max(map(len, sequences))
        batch[name] = torch.stack([_padded(one, longest, fills[name], padding_side) for one in sequences])
    with_videos = [row for row in rows if "video_token_plan" in row]
    if with_videos:
        batch["video_token_plan"] = torch.cat([row["video_token_plan"] for row in with_videos])
    fills = {
        "pixel_values_videos": 0,
        "video_frame_mask": False,
        "question_input_ids": pad_token_id,
        "question_attention_mask": 0,
    }
    for name in (name for name in fills if with_videos and name in with_videos[0]):
        tensors = [row[name] for row in with_videos]
        longest = max(tensor.shape[1] for tensor in tensors)
        padded = [_padded_behind(tensor, longest, fills[name]) for tensor in tensors]
        # A long video can take gigabytes, so a single one is not copied.
        batch[name] = padded[0] if len(padded) == 1 else torch.cat(padded)
    return batch


def _padded(sequence: torch.Tensor, length: int, fill: int, side: str) -> torch.Tensor:
    missing = length - len(sequence)
    return F.pad(sequence, (missing, 0) if side == "left" else (0, missing), value=fill)


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The padding token's id, or any id if the tokenizer has none, because padding is masked."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return token_id
    return 0


def _padded_behind(tensor: torch.Tensor, length: int, fill: int | bool) -> torch.Tensor:
    """`(num_videos, T, …)` to `(num_videos, length, …)`."""
    missing = length - tensor.shape[1]
    return F.pad(tensor, [0, 0] * (tensor.ndim - 2) + [0, missing], value=fill) if missing else tensor


class RowCollator(ABC):
    """
    Base class of the collators of all models: reads rows of any form of [`as_messages`], and handles bad ones.

    Args: see [`DynFocusCollator`].

    Attributes:
        rows_seen, rows_bad (`int`): rows so far, in this process and the data loader's workers.
    """

    processor: Any

    def __init__(
        self,
        on_error: Literal["raise", "skip"] = "raise",
        *,
        media_root: str | os.PathLike | None = None,
        max_length: int | None = None,
        on_too_long: Literal["raise", "shrink"] = "raise",
        max_bad_fraction: float = 0.1,
        learn_from: Literal["all", "last"] = "all",
    ):
        for name, value, allowed in (
            ("on_error", on_error, ("raise", "skip")),
            ("on_too_long", on_too_long, ("raise", "shrink")),
            ("learn_from", learn_from, ("all", "last")),
        ):
            if value not in allowed:
                raise ValueError(f"`{name}` must be {' or '.join(map(repr, allowed))}, got {value!r}.")
        if max_length is not None and max_length < 1:
            raise ValueError(f"`max_length` must be at least 1, got {max_length}.")
        self.on_error = on_error
        self.media_root = None if media_root is None else check_root(media_root)
        self.max_length = max_length
        self.on_too_long = on_too_long
        self.learn_from = learn_from
        self._rows = BadRows(max_bad_fraction)

    @property
    def rows_seen(self) -> int:
        return self._rows.seen

    @property
    def rows_bad(self) -> int:
        return self._rows.bad

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        encoded = [row for _, row in self._each(self._encode, rows)]
        return self._merged(encoded or [self._empty_row()], "right")

    def encode(self, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """One row, unpadded: `input_ids`, `attention_mask` and `labels` `(tokens,)`, and the inputs of its videos."""
        with naming(row):
            return self._encode(row)

    def encode_prompt(self, row: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], str]:
        """
        One row to be answered: everything before its last assistant turn, with the generation prompt and without
        labels, unpadded; and the text of that turn.
        """
        with naming(row):
            return self._encode_prompt(row)

    def collate_prompts(
        self, rows: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, torch.Tensor], list[str], list[int]]:
        """
        A batch for `generate`, padded on the left; the right answers of its rows; and the indices of these rows. With
        `on_error="skip"`, bad rows are left out, and the batch is empty if there are no others.
        """
        encoded = self._each(self._encode_prompt, rows)
        inputs = [one for _, (one, _) in encoded]
        batch = self._merged(inputs, "left") if inputs else {}
        return batch, [answer for _, (_, answer) in encoded], [index for index, _ in encoded]

    @abstractmethod
    def decode(self, generated: torch.Tensor, prompts: torch.Tensor) -> list[str]:
        """The generated tokens `(rows, tokens)` after prompts `(rows, tokens)` as texts."""

    @abstractmethod
    def _encode(self, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `encode`."""

    @abstractmethod
    def _encode_prompt(self, row: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], str]:
        """See `encode_prompt`."""

    @abstractmethod
    def _merged(self, rows: Sequence[dict[str, torch.Tensor]], side: Literal["left", "right"]) -> dict[str, Any]:
        """One batch of encoded rows."""

    def _empty_row(self) -> dict[str, torch.Tensor]:
        ids = torch.full((2,), pad_token_id(self.processor.tokenizer))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.full_like(ids, -100)}

    def _each(self, encode: Callable[[Any], Any], rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, Any]]:
        """The usable rows, encoded, with their indices."""
        encoded = []
        for index, row in enumerate(rows):
            try:
                encoded.append((index, encode(row)))
            except (ValueError, OSError) as error:
                label = row_label(row, str(error))
                if self.on_error == "raise":
                    where = f"Row {index} of the batch" + (f" ({label})" if label else "")
                    raise with_message(error, f"{where}: {error}") from error
                self._rows.add_bad(f"{label}: {error}" if label else str(error))
            else:
                self._rows.add_good()
        return encoded

    def _conversation(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The row up to its last answer; what follows it is not learned."""
        messages = as_messages(row, row.get("media_root") or self.media_root)
        answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        if not answers:
            if "question" in row and "messages" not in row:
                raise ValueError("The row has no answer to learn from.")
            raise ValueError("The conversation has no assistant turn to learn from.")
        refuse_empty_answers(messages[: answers[-1] + 1])
        return messages[: answers[-1] + 1]

    def _asked(self, messages: Sequence[Mapping[str, Any]], joined: bool) -> list[str]:
        """The question by which frames are chosen: the last user turn or, with `joined`, all of them."""
        turns = [text_of(message).strip() for message in messages if message["role"] == "user"]
        return [turn for turn in turns if turn][0 if joined else -1 :]


class DynFocusCollator(RowCollator):
    """
    Makes training batches from rows of any form that [`as_messages`] reads, with labels only on the assistant's turns,
    for any chat template.

    Frames are chosen by the last user turn, or by all user turns if several answers are learned. This question is cut
    to the processor's `max_question_tokens`.

    Args:
        processor ([`DynFocusProcessor`]): its tokenizer must be a fast one.
        on_error (`"raise"` or `"skip"`, defaults to `"raise"`):
            what happens if a row cannot be used (a broken video, no answer, too long): an error, or the row is left
            out, counted and logged once. A batch without a good row becomes one short text row without labels.
        processor_kwargs (`dict`, *optional*): settings of the processor, such as `fps` or `max_visual_tokens`.
        media_root (`str` or `Path`, *optional*): the folder or address of relative paths, for rows without one of
            their own.
        max_length (`int`, *optional*): tokens of a row at most, placeholders included.
        on_too_long (`"raise"` or `"shrink"`, defaults to `"raise"`):
            whether a longer row is an error, or gets smaller token plans. Text is never cut.
        max_bad_fraction (`float`, defaults to 0.1): with `on_error="skip"`, the part of the rows that may be bad.
        learn_from (`"all"` or `"last"`, defaults to `"all"`): which of the assistant's turns are learned.

    Attributes:
        rows_seen, rows_bad (`int`): number of rows so far, in this process and the data loader's workers.

    Returns a dict of tensors, padded on the right, `labels` being -100 outside the assistant's turns.

    Raises:
        `ValueError`: for a row that cannot be used (the message names its index and `id`), or if too many rows were
            bad.
    """

    def __init__(
        self,
        processor: DynFocusProcessor,
        on_error: Literal["raise", "skip"] = "raise",
        processor_kwargs: dict[str, Any] | None = None,
        *,
        media_root: str | os.PathLike | None = None,
        max_length: int | None = None,
        on_too_long: Literal["raise", "shrink"] = "raise",
        max_bad_fraction: float = 0.1,
        learn_from: Literal["all", "last"] = "all",
    ):
        super().__init__(
            on_error,
            media_root=media_root,
            max_length=max_length,
            on_too_long=on_too_long,
            max_bad_fraction=max_bad_fraction,
            learn_from=learn_from,
        )
        self.processor = processor
        self.processor_kwargs = processor_kwargs or {}
        settings = {**self.processor_kwargs, **self.processor_kwargs.get("videos_kwargs", {})}
        self._plan_settings = {
            name: settings.get(name) for name in ("max_visual_tokens", "num_prototypes", "key_ratio")
        }
        self._budget()
        self._frame_counts = FrameCounts(processor.video_processor, settings)

    def _budget(self) -> TokenBudget:
        return self.processor.token_budget(**self._plan_settings)

    def estimate_length(self, row: Mapping[str, Any]) -> int:
        """
        How many tokens `encode` will return for the row, from its text and its videos' packet indices, without
        decoding. With `on_error="skip"`, a video that cannot be opened counts as 0 tokens.
        """
        with naming(row):
            messages = self._conversation(row)
            text = render_or_refuse(self.processor.apply_chat_template, without_media(messages))
            ids = self.processor.tokenizer(text, **self._text_options(text))["input_ids"]
            counts = []
            for kind, value in media_of(messages):
                try:
                    counts.append(1 if kind == "image" else self._frame_counts.count(value))
                except (ValueError, OSError):
                    if self.on_error == "raise":
                        raise
            num_text = len(ids) - len(media_of(messages))
            return num_text + sum(plan.num_visual_tokens for plan in self._fitting(counts, num_text, lenient=True))

    def decode(self, generated: torch.Tensor, prompts: torch.Tensor) -> list[str]:
        return self.processor.post_process_generation(generated, prompts)

    def _merged(self, rows: Sequence[dict[str, torch.Tensor]], side: Literal["left", "right"]) -> dict[str, Any]:
        return merge_rows(rows, pad_token_id(self.processor.tokenizer), side)

    def _conversation(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        messages = super()._conversation(row)
        mark = self.processor.video_token
        for number, message in enumerate(messages):
            if mark in text_of(message):
                raise ValueError(
                    f"The text of turn {number} holds {mark!r}, which stands for a video: give the video as a "
                    "separate block, or write the word differently."
                )
        return messages

    def _encode(self, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        messages = self._conversation(row)
        only_last = self.learn_from == "last"
        text, spans = answer_spans(self.processor.apply_chat_template, without_media(messages), only_last)
        inputs = self._process(messages, text, self._question(messages, joined=len(spans) > 1))
        replacements = inputs.pop("text_replacement_offsets")
        spans = [(_moved(start, replacements), _moved(end, replacements)) for start, end in spans]
        ids = inputs["input_ids"].tolist()
        labels = [
            token if any(start < end_char and end > start_char for start_char, end_char in spans) else -100
            for token, (start, end) in zip(ids, inputs.pop("offset_mapping"), strict=True)
        ]
        return self._fitted({**inputs, "labels": torch.tensor(labels)})

    def _encode_prompt(self, row: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], str]:
        *messages, last = self._conversation(row)
        render = self.processor.apply_chat_template
        text = render_or_refuse(render, without_media(messages), add_generation_prompt=True)
        inputs = self._process(messages, text, self._question(messages, joined=False))
        for name in ("text_replacement_offsets", "offset_mapping"):
            del inputs[name]
        return self._fitted(inputs), text_of(last)

    def _process(self, messages: list[dict[str, Any]], text: str, question: str | None) -> dict[str, Any]:
        """
        The inputs of one row, whose videos are decoded here, and the places of its characters in the tokenized text.
        """
        videos = [load_media(kind, value) for kind, value in media_of(messages)]
        inputs = self.processor(
            text=[text],
            videos=videos or None,
            **{
                **self.processor_kwargs,
                **({"question": [question]} if videos else {}),
                **self._text_options(text),
                "return_offsets_mapping": True,
                "return_text_replacement_offsets": True,
                "padding": False,
            },
        )
        if "video_state" in inputs:
            raise ValueError("A video state cannot be trained on: give the video itself.")
        (ids,), (offsets,) = inputs["input_ids"], inputs["offset_mapping"]
        return {
            **{name: tensor for name, tensor in inputs.items() if isinstance(tensor, torch.Tensor)},
            "input_ids": torch.tensor(ids),
            "attention_mask": torch.ones(len(ids), dtype=torch.int64),
            "offset_mapping": offsets,
            "text_replacement_offsets": (inputs.get("text_replacement_offsets") or [[]])[0],
        }

    def _text_options(self, text: str) -> dict[str, Any]:
        # As in `apply_chat_template` with tokenizing: special tokens that the template has written are not added
        # twice.
        bos = self.processor.tokenizer.bos_token
        return {"add_special_tokens": False} if bos is not None and text.startswith(bos) else {}

    def _question(self, messages: list[dict[str, Any]], joined: bool) -> str | None:
        """The question by which the frames are chosen, within the processor's limit."""
        turns = self._asked(messages, joined)
        question = cut_question(turns, self.processor.tokenizer, self.processor.max_question_tokens)
        if question != "\n".join(turns):
            logger.warning_once(
                "Questions are cut to the processor's max_question_tokens for the choice of frames; the language "
                "model reads all of them."
            )
        return question

    def _fitting(self, num_frames: list[int], num_text: int, lenient: bool = False) -> list[TokenPlan]:
        """The plans of a row's videos within `max_length`; with `lenient`, the requested plans if they cannot fit."""
        wanted = [self._budget().plan(count) for count in num_frames]
        num_visual = sum(plan.num_visual_tokens for plan in wanted)
        if self.max_length is None or num_text + num_visual <= self.max_length:
            return wanted
        message = f"The row has {num_visual} visual and {num_text} text tokens, but `max_length={self.max_length}`"
        if self.on_too_long == "shrink":
            try:
                return fitting_plans(num_frames, self._budget(), self.max_length - num_text)
            except ValueError as error:
                message, cause = f"{message}; {error}", "shorten the text, or raise `max_length`."
        else:
            cause = "give `on_too_long='shrink'`, a smaller `max_visual_tokens`, or a larger `max_length`."
        if lenient:
            return wanted
        raise ValueError(f"{message}: {cause}")

    def _fitted(self, row: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        mask = row.get("video_frame_mask")
        num_frames = [] if mask is None else mask.sum(1).tolist()
        plan_rows = row["video_token_plan"].tolist() if num_frames else []
        old_costs = [self._budget().cost(count, *own[1:]) for count, own in zip(num_frames, plan_rows, strict=True)]
        plans = self._fitting(num_frames, len(row["input_ids"]) - sum(old_costs))
        if [plan.num_visual_tokens for plan in plans] == old_costs:
            return row
        return with_plans(row, plans, old_costs, self.processor.video_token_id)


@contextmanager
def naming(row: Mapping[str, Any]) -> Iterator[None]:
    """Adds the row's name to errors."""
    try:
        yield
    except (ValueError, OSError) as error:
        label = row_label(row, str(error))
        raise with_message(error, f"Row ({label}): {error}" if label else str(error)) from error


def _moved(char: int, replacements: list[dict[str, Any]]) -> int:
    """The place of a character after the marks before it were replaced."""
    gained = [one["new_span"][1] - one["span"][1] for one in replacements if one["span"][1] <= char]
    return char + (gained[-1] if gained else 0)


__all__ = ["DynFocusCollator", "RowCollator", "merge_rows", "naming", "pad_token_id"]
