"""Evaluation by generation during training: compares the model's answers with the right ones."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from dynfocus.eval.statistics import paired_difference
from dynfocus.eval.synthetic.score import normalize_answer
from dynfocus.processing.reading.chat_video import ChatVideo
from dynfocus.processing.reading.decoded_frames import describe_video
from dynfocus.processing.rows.collator import RowCollator
from dynfocus.processing.rows.conversations import as_messages, media_of, text_of


def generate_answers(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    collator: RowCollator,
    *,
    batch_size: int,
    max_new_tokens: int,
) -> list[tuple[int, str, str]]:
    """
    The model's answers to the last question of each row, without sampling; the processes share the rows.

    Args:
        model: in eval mode, with `generate`.
        rows: with answers. A row whose video cannot be read is left out.
        collator: makes prompts from the rows.
        batch_size: rows at a time in each process.
        max_new_tokens: largest number of tokens of an answer.

    Returns:
        `list[tuple[int, str, str]]`: the row's index, the answer and the right answer, in order, in every process.
    """
    state = PartialState()
    mine = list(range(state.process_index, len(rows), state.num_processes))
    # Every process generates equally often: sharded models need it.
    rounds = math.ceil(math.ceil(len(rows) / state.num_processes) / batch_size)
    device = state.device
    answered: list[tuple[int, str, str]] = []
    for start in range(0, rounds * batch_size, batch_size):
        indices = mine[start : start + batch_size]
        batch, answers, kept = collator.collate_prompts([rows[index] for index in indices or [0]])
        if not kept and state.num_processes == 1:
            continue
        if not kept:
            # None of these rows can be read, but the other processes wait for this one to generate.
            batch = {name: torch.ones(1, 1, dtype=torch.long) for name in ("input_ids", "attention_mask")}
        moved = in_dtype({name: value.to(device) for name, value in batch.items()}, model.dtype)
        with torch.no_grad():
            generated = model.generate(**moved, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
        texts = collator.decode(generated, moved["input_ids"])
        if indices and kept:
            answered += [(indices[k], text, right) for k, text, right in zip(kept, texts, answers, strict=True)]
    return sorted(gather_object(answered))


def in_dtype(inputs: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Inputs with their pixels in the precision of a model's weights."""
    return {
        name: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }


def answer_table(rows: Sequence[Mapping[str, Any]], answered: Sequence[tuple[int, str, str]]) -> list[dict[str, Any]]:
    """
    The answers to rows beside the right ones: for each row `video`, `question`, `answer` (the model's), `expected` and
    `correct`, which is true if both are equal after `normalize_answer`. A row that could not be read has no answer,
    which is wrong.
    """
    found = {index: (text, wanted) for index, text, wanted in answered}
    table = []
    for index, row in enumerate(rows):
        text, wanted = found.get(index, (None, None))
        try:
            messages = as_messages(row, row.get("media_root"))
        except ValueError:
            messages = []
        media = [value.video if isinstance(value, ChatVideo) else value for _, value in media_of(messages)]
        videos = ", ".join(describe_video(value) for value in media if isinstance(value, str))
        questions = [text_of(message) for message in messages if message["role"] == "user"]
        is_right = text is not None and normalize_answer(text) == normalize_answer(wanted or "")
        table.append(
            {
                "video": videos or f"row {index}",
                "question": questions[-1].strip() if questions else None,
                "answer": text,
                "expected": wanted,
                "correct": is_right,
            }
        )
    return table


def gain(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> str:
    """Words for the gain of accuracy between two tables of the same rows, with its interval (clustered by video)."""
    found = paired_difference(
        [row["correct"] for row in before], [row["correct"] for row in after], [row["video"] for row in after]
    )
    rows = f"{len(after)} row{'s' * (len(after) != 1)}"
    if found.low == found.high == 0:
        return f"no answer became right or wrong, {rows}"
    words = f"gain {found.estimate:+.2f}, 95 % interval {found.low:+.2f} … {found.high:+.2f}, {rows}"
    return words if found.p_value < 0.05 else f"{words}: it may be chance"


__all__ = ["answer_table", "gain", "generate_answers", "in_dtype"]
