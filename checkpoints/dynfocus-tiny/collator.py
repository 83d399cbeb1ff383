"""Rows of a data set into padded batches: decoded in the data loader's worker, labels on the answers alone."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from .decoded_frames import is_video, restated
from .processing_dynfocus import DynFocusProcessor

logger = logging.get_logger(__name__)


def merge_rows(
    rows: Sequence[Mapping[str, Any]], pad_token_id: int, padding_side: Literal["left", "right"]
) -> dict[str, torch.Tensor]:
    """
    One batch from processed rows, which may have any number of videos, none included.

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
        # A long video alone takes gigabytes: it is not copied.
        batch[name] = padded[0] if len(padded) == 1 else torch.cat(padded)
    return batch


def _padded(sequence: torch.Tensor, length: int, fill: int, side: str) -> torch.Tensor:
    missing = length - len(sequence)
    return F.pad(sequence, (missing, 0) if side == "left" else (0, missing), value=fill)


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The padding token's id, or a stand-in where the tokenizer has none: padding is masked in any case."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return token_id
    return 0


def _padded_behind(tensor: torch.Tensor, length: int, fill: int | bool) -> torch.Tensor:
    """`(num_videos, T, …)` to `(num_videos, length, …)`."""
    missing = length - tensor.shape[1]
    return F.pad(tensor, [0, 0] * (tensor.ndim - 2) + [0, missing], value=fill) if missing else tensor


class DynFocusCollator:
    """
    Makes training batches from rows in chat form (`{"messages": […]}`, answers included) or from
    `{"video": …, "question": …, "answer": …}`. It works with every chat template under which the text of a
    conversation begins with the text of its first turns.

    Args:
        processor ([`DynFocusProcessor`]): its tokenizer must be a fast one.
        on_error (`"raise"` or `"skip"`, defaults to `"raise"`):
            what a row costs whose video cannot be read: the run, or the row (with a warning).
        processor_kwargs (`dict`, *optional*): settings of the processor, such as `fps` or `max_visual_tokens`.

    Returns a dict of tensors, padded on the right, `labels` being -100 outside the assistant's turns.

    Raises:
        `ValueError`: for a row of another form, without an answer, or (with its index) without a readable video.
    """

    def __init__(
        self,
        processor: DynFocusProcessor,
        on_error: Literal["raise", "skip"] = "raise",
        processor_kwargs: dict[str, Any] | None = None,
    ):
        if on_error not in ("raise", "skip"):
            raise ValueError(f"`on_error` must be 'raise' or 'skip', got {on_error!r}.")
        self.processor = processor
        self.on_error = on_error
        self.processor_kwargs = processor_kwargs or {}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        encoded = []
        for index, row in enumerate(rows):
            try:
                encoded.append(self.encode(row))
            except (ValueError, OSError) as error:
                message = f"Row {index} of the batch: {error}"
                if self.on_error == "raise":
                    raise restated(error, message) from error
                logger.warning(f"{message} The row is skipped.")
        if not encoded:
            raise ValueError(f"None of the {len(rows)} rows of the batch could be read.")
        return merge_rows(encoded, pad_token_id(self.processor.tokenizer), "right")

    def encode(self, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """One row, unpadded: `input_ids`, `attention_mask` and `labels` `(tokens,)`, and the inputs of its videos."""
        messages = as_messages(row)
        if not any(message["role"] == "assistant" for message in messages):
            raise ValueError("The conversation has no assistant turn to learn from.")
        options = {**self.processor_kwargs, "return_offsets_mapping": True, "return_text_replacement_offsets": True}
        inputs = self.processor.apply_chat_template(
            [messages], tokenize=True, return_dict=True, processor_kwargs={**options, "padding": False}
        )
        spans = self._answer_spans(messages)
        replacements = inputs.pop("text_replacement_offsets", None) or [[]]
        spans = [(_moved(start, replacements[0]), _moved(end, replacements[0])) for start, end in spans]
        ids, offsets = list(inputs["input_ids"][0]), inputs.pop("offset_mapping")[0]
        labels = [
            token if any(start < end_char and end > start_char for start_char, end_char in spans) else -100
            for token, (start, end) in zip(ids, offsets, strict=True)
        ]
        videos = {name: tensor for name, tensor in inputs.items() if isinstance(tensor, torch.Tensor)}
        return {
            **videos,
            "input_ids": torch.tensor(ids),
            "attention_mask": torch.ones(len(ids), dtype=torch.int64),
            "labels": torch.tensor(labels),
        }

    def _answer_spans(self, messages: list[dict[str, Any]]) -> list[tuple[int, int]]:
        """Where the assistant's turns, end-of-turn marks included, lie in the rendered text (start, end)."""
        render = self.processor.apply_chat_template
        full = render(messages)
        spans = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = render(messages[:index], add_generation_prompt=True) if index else ""
            after = render(messages[: index + 1])
            if not (full.startswith(after) and after.startswith(before)):
                raise ValueError(
                    "The chat template writes earlier turns differently once later ones follow, so that the answers "
                    "cannot be told from the prompt: give one answer a row, or a simpler `chat_template`."
                )
            spans.append((len(before), len(after)))
        return spans


def _moved(char: int, replacements: list[dict[str, Any]]) -> int:
    """Where a character lies after the marks before it were replaced."""
    gained = [one["new_span"][1] - one["span"][1] for one in replacements if one["span"][1] <= char]
    return char + (gained[-1] if gained else 0)


def as_messages(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row in chat form; `{"video", "question"}` with an `answer`, if it has one, becomes a conversation."""
    if "messages" in row:
        return list(row["messages"])
    if "question" not in row:
        raise ValueError(f"A row needs `messages`, or `video` and `question`; got the keys {sorted(row)}.")
    videos = row.get("video", row.get("videos"))
    several = isinstance(videos, (list, tuple)) and not is_video(videos)
    listed = [] if videos is None else list(videos) if several else [videos]
    content: list[dict[str, Any]] = [{"type": "video", "video": video} for video in listed]
    if hasattr(videos, "frame_mask"):
        # A state may hold several videos: a mark for each, the state itself once.
        content += [{"type": "video"}] * (len(videos) - 1)
    content.append({"type": "text", "text": row["question"]})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if row.get("answer") is not None:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": str(row["answer"])}]})
    return messages


__all__ = ["DynFocusCollator", "as_messages", "merge_rows", "pad_token_id"]
