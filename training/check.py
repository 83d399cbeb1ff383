"""Checks a recipe without training: shows rows as the model reads them, lengths, and memory."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from statistics import median
from time import perf_counter
from typing import Any

import torch
from transformers import TrainingArguments

from dynfocus.adoption.focus_collator import FocusCollator
from dynfocus.adoption.focus_processor import FocusProcessor
from dynfocus.processing.rows.collator import RowCollator
from dynfocus.processing.rows.labels import label_table

from .looking_ahead import with_dual_encoder
from .parts import is_stock, part_sizes
from .recipe import Recipe
from .rows import make_synthetic
from .setup import Data, fit_arguments, load_data, load_model, quiet_libraries, training_arguments, with_lora
from .train import describe_model, describe_run


@dataclass(frozen=True)
class RowLength:
    """
    Tokens of a row (`text` and `visual`), the number of learned ones, and frames of its videos: the sampled ones or,
    for a stock model, the shown ones.
    """

    text: int
    visual: int
    learned: int
    frames: int

    @property
    def total(self) -> int:
        return self.text + self.visual


@dataclass(frozen=True)
class MemoryEstimate:
    """
    Bytes in each process, without sharding: of weights, gradients, the optimizer's state, and of what a batch of the
    longest rows keeps for the backward pass. The last is an estimate, within a factor of 2.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class Check:
    """
    The result of a check.

    Args:
        model, run (`str`): a line each on the model's parts, and on rows, processes and batches.
        lengths (`list[RowLength]`): of the rows that were read.
        bad_rows (`list[str]`): why other rows could not be read.
        examples (`list[list[tuple[str, bool]]]`): the tokens of the first rows, and whether each is learned.
        memory ([`MemoryEstimate`]).
        steps (`int`): number of optimizer steps.
        flops (`float`): floating-point operations of the whole run, without evaluation; an estimate, see
            [`estimate_flops`].
        reading (`float`): seconds in which the data loader of each process reads its share of the run's rows, as long
            as these rows took here.
    """

    model: str
    run: str
    lengths: list[RowLength]
    bad_rows: list[str]
    examples: list[list[tuple[str, bool]]]
    memory: MemoryEstimate
    steps: int
    flops: float
    reading: float
    warnings: list[str] = field(default_factory=list)

    def median(self, name: str) -> float:
        """Median of a field of the rows' lengths."""
        return median(getattr(one, name) for one in self.lengths)


@quiet_libraries()
def check_recipe(
    recipe: Recipe, *, num_rows: int = 100, num_examples: int = 2, on_row: Callable[[int, int], None] | None = None
) -> Check:
    """
    Read the first rows of a recipe and train nothing. Nothing is written to its `output_dir`.

    Args:
        recipe ([`Recipe`]).
        num_rows: rows that are read, videos included.
        num_examples: rows that are shown token by token.
        on_row: progress callback, called with (rows read, rows to read).

    Raises:
        `ValueError`, `OSError`: for mistakes that would prevent the run, or if none of these rows can be read.
    """
    args = training_arguments(recipe)
    model, processor = load_model(recipe)
    make_synthetic([*recipe.data.train, *recipe.data.eval], lambda text: None)
    data = load_data(recipe, processor, bad_rows="raise")
    if is_stock(model):
        fit_arguments(args, recipe, processor)
        # States of videos are not kept.
        data.collator = with_dual_encoder(data.collator, args.device)
        data.eval_collator = data.collator
    model = with_lora(model, recipe)
    num_rows = num_rows if recipe.data.streaming else min(num_rows, len(data.train))
    lengths: list[RowLength] = []
    bad_rows: list[str] = []
    examples: list[list[tuple[str, bool]]] = []
    seconds = 0.0
    for number, row in enumerate(_first(data.train, num_rows)):
        try:
            row = _with_frames(data.collator, row)
            began = perf_counter()
            encoded = data.collator.encode(row)
            seconds += perf_counter() - began
        except (ValueError, OSError) as error:
            bad_rows.append(f"Row {number}: {error}")
        else:
            lengths.append(_length(encoded, processor, row))
            if len(examples) < num_examples:
                examples.append(label_table(processor, encoded))
        if on_row is not None:
            on_row(number + 1, num_rows)
    if not lengths:
        raise ValueError(f"None of the first {num_rows} rows can be read. {bad_rows[0]}")
    steps = _steps(args, data)
    # In each process.
    rows = steps * args.train_batch_size * args.gradient_accumulation_steps
    of_rows = [estimate_flops(model, args, one) for one in lengths]
    return Check(
        model=describe_model(model),
        run=describe_run(recipe, args, data),
        lengths=lengths,
        bad_rows=bad_rows,
        examples=examples,
        memory=estimate_memory(model, args, max(lengths, key=lambda one: one.total)),
        steps=steps,
        flops=rows * args.world_size * sum(of_rows) / len(of_rows),
        reading=rows * seconds / len(lengths) / max(1, args.dataloader_num_workers),
        warnings=_warnings(model, lengths, _bad_held_out(data, num_rows)),
    )


def estimate_memory(model: Any, args: TrainingArguments, longest: RowLength) -> MemoryEstimate:
    """
    Memory of a run in one process, with AdamW.

    Args:
        model: as it is trained, with LoRA if it has any.
        args: batch size, precision, and whether activations are computed again in the backward pass.
        longest: the longest row, of which a whole batch is assumed.
    """
    parameters = list(model.parameters())
    weights = sum(p.numel() * p.element_size() for p in parameters)
    trained = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    size = 2 if args.bf16 or args.fp16 else parameters[0].element_size()
    text = model.config.get_text_config()
    again = bool(args.gradient_checkpointing or getattr(args, "activation_checkpointing", False))

    def of_layers(tokens: int, width: int, inner: int, layers: int) -> int:
        # Values that a layer keeps of each token: norms, query, key, value, attention's output, and the MLP's inner
        # width.
        whole = tokens * (10 * width + 4 * inner) * size
        return layers * tokens * width * size + whole if again else layers * whole

    words = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    bytes_of_row = of_layers(longest.total, text.hidden_size, words, text.num_hidden_layers)
    bytes_of_row += longest.learned * text.vocab_size * (2 * 4 + size)
    if is_stock(model):
        if part_sizes(model)["vision_tower"][1]:
            # Most towers give one token for four patches, and are about as wide as the language model at most.
            bytes_of_row += of_layers(4 * longest.visual, text.hidden_size, words, text.num_hidden_layers)
    else:
        bytes_of_row += _bytes_of_parts(model.config, longest, size, of_layers)
    return MemoryEstimate(weights, trained, 2 * trained, args.train_batch_size * bytes_of_row)


def estimate_flops(model: Any, args: TrainingArguments, row: RowLength) -> float:
    """
    Floating-point operations of a row's forward and backward pass, as twice the number of weights for each token that
    they read, in each direction and for the gradients of weights that are trained; attention of the language model is
    added.
    """
    again = bool(args.gradient_checkpointing or getattr(args, "activation_checkpointing", False))
    text, sizes = model.config.get_text_config(), part_sizes(model)
    embeddings = text.vocab_size * text.hidden_size
    # Some configurations of text have no field of their own for it.
    tied = 1 if getattr(text, "tie_word_embeddings", model.config.tie_word_embeddings) else 2
    of_text, learned = sizes["language_model"]
    layers = max(0, of_text - tied * embeddings)
    # Forward, again for the backward pass, and the gradients of activations.
    passes = 2 + again
    total = 2.0 * row.total * (passes * layers + min(learned, layers))
    total += 2.0 * passes * text.num_hidden_layers * row.total**2 * text.hidden_size
    total += 6.0 * row.learned * embeddings
    of_tower, learned = sizes["vision_tower"]
    factor = passes * of_tower + learned if learned else of_tower
    if is_stock(model):
        return total + 2.0 * 4 * row.visual * factor
    config = model.config
    total += 2.0 * row.frames * config.vision_config.num_patches * factor
    of_question, learned = sizes["question_encoder"]
    # 32 tokens is a long question.
    read = row.frames * (config.num_question_queries + 32)
    return total + 2.0 * read * (passes * of_question + learned)


def _bytes_of_parts(config: Any, longest: RowLength, size: int, of_layers: Callable[[int, int, int, int], int]) -> int:
    """Bytes that the parts of a DynFocus model besides its language model keep for a row."""
    question, vision = config.question_config, config.vision_config
    # The question encoder reads the question with every frame; 32 tokens is a long one.
    read = longest.frames * (config.num_question_queries + 32)
    found = of_layers(read, 2 * question.hidden_size, question.intermediate_size, question.num_hidden_layers)
    tokens_of_frame = config.pooling_grid**2 + sum(config.spatial_clusters)
    found += longest.frames * tokens_of_frame * vision.hidden_size * 6 * size
    if vision.trainable:
        patches = longest.frames * vision.num_patches
        found += of_layers(patches, vision.hidden_size, 4 * vision.hidden_size, vision.num_layers_run)
    return found + longest.frames * 3 * vision.image_size**2 * 4


def _first(rows: Any, number: int) -> Any:
    if isinstance(rows, torch.utils.data.Dataset) and hasattr(rows, "__len__"):
        return (rows[index] for index in range(number))
    return islice(rows, number)


def _length(encoded: dict[str, torch.Tensor], processor: Any, row: Mapping[str, Any]) -> RowLength:
    ids, learned = encoded["input_ids"], int((encoded["labels"] != -100).sum())
    if isinstance(processor, FocusProcessor):
        visual = int(torch.isin(ids, torch.tensor(sorted(processor.placeholder_ids))).sum())
        videos = row["chosen_frames"]
        frames = sum(len(video["key_frames"]) + sum(map(len, video["coarse"])) for video in videos)
    else:
        visual = int((ids == processor.video_token_id).sum())
        frames = int(encoded["video_frame_mask"].sum()) if "video_frame_mask" in encoded else 0
    return RowLength(ids.numel() - visual, visual, learned, frames)


def _with_frames(collator: RowCollator, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row; for a stock model with the chosen frames of its videos."""
    return {**row, **collator.choose(row)} if isinstance(collator, FocusCollator) else row


def _steps(args: TrainingArguments, data: Data) -> int:
    if args.max_steps > 0:
        return args.max_steps
    of_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return math.ceil(math.ceil(len(data.train) / of_step) * args.num_train_epochs)


def _bad_held_out(data: Data, num_rows: int) -> list[str]:
    """Why rows of the evaluation set cannot be read."""
    found: list[str] = []
    if data.eval is None:
        return found
    for number in range(min(num_rows, len(data.eval))):
        try:
            data.eval_collator.encode(data.eval[number])
        except (ValueError, OSError) as error:
            found.append(f"row {number}: {error}")
    return found


def _warnings(model: Any, lengths: list[RowLength], held_out: list[str]) -> list[str]:
    found = []
    if held_out:
        found.append(f"{len(held_out)} rows of `data.eval` cannot be read, the first: {held_out[0]}")
    longest = max(one.total for one in lengths)
    # Some families have no such limit.
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and longest > limit:
        found.append(
            f"The longest row has {longest} tokens, but the language model has positions for {limit}: set "
            "`data.max_length`."
        )
    if sum(one.visual for one in lengths) == 0:
        found.append("None of these rows has a video or an image.")
    return found


__all__ = ["Check", "MemoryEstimate", "RowLength", "check_recipe", "estimate_flops", "estimate_memory"]
