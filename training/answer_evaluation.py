"""Evaluation by generation during training: compares the model's answers with the right ones."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from dynfocus.eval.synthetic.score import normalize_answer
from dynfocus.processing.rows.collator import RowCollator


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


def answer_accuracy(answered: Sequence[tuple[int, str, str]], num_rows: int) -> float:
    """The share of rows whose answer is right after `normalize_answer`; rows without an answer count as wrong."""
    right = sum(normalize_answer(text) == normalize_answer(wanted) for _, text, wanted in answered)
    return right / max(1, num_rows)


__all__ = ["answer_accuracy", "generate_answers", "in_dtype"]
