"""
Fine-tuning from a recipe: `dynfocus train RECIPE`, or with many processes

    torchrun --nproc_per_node N -m dynfocus.training.train RECIPE [KEY=VALUE ...]
    accelerate launch --config_file CONFIG -m dynfocus.training.train RECIPE [KEY=VALUE ...]
"""

import gc
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import AutoModelForImageTextToText, TrainingArguments, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.utils import logging

from dynfocus.adoption.focus_processor import FocusProcessor
from dynfocus.checkpoints import find_model
from dynfocus.eval.files import read_rows
from dynfocus.hub.card import make_model_card
from dynfocus.hub.upload import PushedModel, push_model

from .answer_evaluation import gain
from .checkpoints import SaveOnSignal, claim_run, last_checkpoint
from .lengths import row_lengths
from .looking_ahead import ChosenRows, choose_ahead
from .parts import is_stock, part_sizes
from .recipe import Recipe, load_recipe
from .rows import make_synthetic
from .selection_noise import SelectionNoiseSchedule
from .setup import (
    Data,
    fit_arguments,
    learning_rates,
    load_data,
    load_model,
    quiet_libraries,
    training_arguments,
    with_lora,
)
from .trainer import DynFocusTrainer, answers_file

logger = logging.get_logger(__name__)


@quiet_libraries()
def train(recipe: Recipe, log: Callable[[str], None] = print) -> Path | None:
    """
    Run a recipe, or continue an interrupted run.

    Args:
        recipe ([`Recipe`]).
        log: called with each message, in the main process.

    Returns:
        `Path`: the folder with the trained model, complete for the Hub; `None` if a signal stopped the run before its
        end.

    Raises:
        `ValueError`, `OSError`: for settings that do not fit, and for files that cannot be read or written.
    """
    args = training_arguments(recipe)
    folder = recipe.output_dir
    log = log if args.process_index == 0 else _discard
    if recipe.push_to_hub and args.process_index == 0:
        _check_login(recipe.push_to_hub)
    with args.main_process_first(local=False, desc="claiming the folder"):
        claim_run(recipe)
    result = folder / "model"
    if (result / "config.json").is_file():
        log(f"The run is finished: the trained model is in {result}. For a new run, set `training.output_dir`.")
        _push(recipe, args, result, log)
        return result
    log(f"Loading {recipe.model.start}.")
    model, processor = _start(recipe, args)
    with args.main_process_first(desc="reading the rows"):
        if PartialState().is_main_process:
            make_synthetic([*recipe.data.train, *recipe.data.eval], log)
        data = load_data(recipe, processor)
    stock = is_stock(model)
    if stock:
        fit_arguments(args, recipe, processor)
        data.train = choose_ahead(data.train, data.collator, folder / "frames.jsonl", args, log)
        if data.eval is not None:
            data.eval = choose_ahead(data.eval, data.eval_collator, folder / "frames-eval.jsonl", args, log)
    checkpoint = last_checkpoint(folder, args.world_size)
    # LoRA starts at random, and later steps may use random numbers, too.
    set_seed(args.seed)
    model = with_lora(model, recipe)
    log(describe_model(model))
    log(describe_run(recipe, args, data))
    if checkpoint is not None:
        log(f"Going on from {checkpoint}.")
        args.eval_on_start = False

    stop = SaveOnSignal()
    trainer = DynFocusTrainer(
        model=model,
        args=args,
        train_dataset=data.train,
        eval_dataset=data.eval,
        data_collator=data.collator,
        eval_collator=data.eval_collator,
        processing_class=processor.processor if stock else processor,
        callbacks=[] if stock else [SelectionNoiseSchedule(**recipe.selection_noise.model_dump())],
        likelihood_weight=0.0 if stock else recipe.likelihood_weight,
        stop=stop,
        learning_rates=learning_rates(recipe, model),
        lengths=_lengths(args, data, folder, log),
        generate_rows=recipe.evaluation.generate_rows,
        max_new_tokens=recipe.evaluation.max_new_tokens,
    )
    _keep_tower_whole(trainer)
    try:
        with stop:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except (ValueError, OSError) as error:
        if not str(error).startswith("Caught "):
            raise
        raise ValueError(_without_traceback(str(error))) from error
    except torch.OutOfMemoryError as error:
        raise ValueError(
            "The device's memory is full: lower `training.per_device_train_batch_size`, `data.max_frames` or "
            "`data.max_visual_tokens`, or set `training.gradient_checkpointing`; `dynfocus train … --check` estimates."
        ) from error
    if stop.stopped:
        log(f"Stopped after step {trainer.state.global_step}. The same command continues from there.")
        return None
    counted = gather_object([(data.collator.rows_seen, data.collator.rows_bad)])
    seen, bad = (sum(numbers) for numbers in zip(*counted, strict=True))
    if seen and seen == bad:
        raise ValueError(
            "None of the rows could be read, so nothing was learned: `dynfocus train … --check` says why."
        )
    scores = _before_and_after(trainer)
    trainer.save_state()
    _save_result(trainer, recipe, processor)
    log(f"The trained model is in {result}.")
    if scores:
        log(scores)
    if bad:
        log(f"{bad} of {seen} rows could not be read and were left out.")
    _push(recipe, args, result, log)
    return result


def _before_and_after(trainer: DynFocusTrainer) -> str | None:
    """The scores on the held-out rows before training, and those of the result, with the interval of the gain."""
    history = trainer.state.log_history
    if not any(entry["step"] == 0 and "eval_loss" in entry for entry in history):
        return None
    step = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    step = trainer.state.global_step if step is None else step
    if not any(entry["step"] == step and "eval_loss" in entry for entry in history):
        trainer.evaluate()
    scores = {entry["step"]: entry for entry in history if "eval_loss" in entry}
    words = []
    for name in ("eval_accuracy", "eval_loss"):
        if name in scores[0] and name in scores[step]:
            words.append(f"{name.removeprefix('eval_')} {scores[0][name]:.3g} → {scores[step][name]:.3g}")
    tables = [_answers(trainer, at) for at in (0, step)]
    if "eval_accuracy" in scores[step] and len(tables[0]) == len(tables[1]) > 0:
        words[0] += f" ({gain(*tables)})"
    return f"On the held-out rows, before training → after: {', '.join(words)}."


def _answers(trainer: DynFocusTrainer, step: int) -> list[dict[str, Any]]:
    path = answers_file(trainer.args.output_dir, step)
    return read_rows(path, ("video", "correct"), "delete it") if path.is_file() else []


def _push(recipe: Recipe, args: TrainingArguments, result: Path, log: Callable[[str], None]) -> None:
    if recipe.push_to_hub and args.process_index == 0:
        pushed: PushedModel = push_model(result, recipe.push_to_hub, private=recipe.private)
        log(f"It is on the Hub at {pushed.url}, as the commit {pushed.commit}.")


def describe_model(model: Any) -> str:
    """One line with the sizes of the parts, and which of them are trained."""
    sizes = part_sizes(model)
    total = sum(all_of_it for all_of_it, _ in sizes.values())
    trained = [f"{part} {_millions(learned)}" for part, (_, learned) in sizes.items() if learned]
    frozen = [part for part, (_, learned) in sizes.items() if not learned]
    return f"{_millions(total)} parameters. Trained: {', '.join(trained)}. Frozen: {', '.join(frozen) or 'nothing'}."


def describe_run(recipe: Recipe, args: TrainingArguments, data: Data) -> str:
    """One line with rows, processes and batches."""
    rows = "streamed rows" if recipe.data.streaming else f"{len(data.train):,} row{'s' * (len(data.train) != 1)}"
    held_out = f", {len(data.eval):,} to evaluate" if data.eval is not None else ""
    of_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    processes = f"{args.world_size} process{'es' if args.world_size > 1 else ''}"
    return f"{rows} to learn from{held_out}. {processes} on {args.device.type}, {of_step} rows a step."


def _without_traceback(message: str) -> str:
    """The message of an error from a worker of the data loader, without the traceback before it."""
    return re.split(r"\n(?:\w+\.)*\w*Error: ", message)[-1].strip()


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 50_000 else f"{number:,}"


def _discard(text: str) -> None:
    pass


def _start(recipe: Recipe, args: TrainingArguments) -> tuple[Any, Any]:
    if recipe.lora is None or recipe.model.checkpoint is not None:
        return load_model(recipe)
    # Adapters name their base model, so a model that was made here is saved.
    base = recipe.output_dir / "base"
    with args.main_process_first(local=False, desc="putting the model together"):
        model, processor = load_model(recipe, base)
        if not (base / "config.json").is_file():
            writing = base.with_name(".base")
            model.save_pretrained(writing)
            processor.save_pretrained(writing)
            writing.replace(base)
    model.name_or_path = model.config.name_or_path = str(base)
    return model, processor


def _lengths(args: TrainingArguments, data: Data, folder: Path, log: Callable[[str], None]) -> list[int] | None:
    if args.train_sampling_strategy != "group_by_length" or not hasattr(data.train, "__len__"):
        return None
    if isinstance(data.train, ChosenRows):
        return data.train.lengths
    with args.main_process_first(local=False, desc="measuring rows"):
        return row_lengths(data.train, data.collator, folder / "lengths.json", log)


def _keep_tower_whole(trainer: DynFocusTrainer) -> None:
    """Sets for DeepSpeed what `_no_split_modules` sets for others: the tower's weights are gathered all at once."""
    if trainer.is_deepspeed_enabled:
        from deepspeed.utils import set_z3_leaf_modules

        whole = {type(m) for m in trainer.model.modules() if type(m).__name__ in ("VisionTower", "QuestionEncoder")}
        if whole:
            set_z3_leaf_modules(trainer.model, list(whole))


def _save_result(trainer: DynFocusTrainer, recipe: Recipe, processor: Any) -> None:
    """Write the trained model, merged if it has adapters, as a complete folder."""
    folder = recipe.output_dir
    result, writing = folder / "model", folder / ".model"
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    saved = folder / "adapter" if recipe.lora else writing
    trainer.save_model(str(saved))
    if trainer.is_world_process_zero():
        if trainer.is_deepspeed_enabled:
            # Otherwise the model that only this process loads would be sharded as well, and wait for the others.
            unset_hf_deepspeed_config()
        if recipe.lora or trainer.is_deepspeed_enabled:
            # Loaded again on the CPU: the trained one may be sharded, and DeepSpeed renames weights.
            _load_trained(recipe, saved).save_pretrained(writing)
            processor.save_pretrained(writing)
        for path in {saved, writing}:
            (path / "training_args.bin").unlink(missing_ok=True)
            if isinstance(processor, FocusProcessor):
                processor.save_settings(path)
        if not isinstance(processor, FocusProcessor):
            config = trainer.accelerator.unwrap_model(trainer.model).config
            title = recipe.push_to_hub or str(result)
            (writing / "README.md").write_text(make_model_card(config, processor, title), encoding="utf-8")
        shutil.rmtree(result, ignore_errors=True)
        writing.replace(result)
    trainer.accelerator.wait_for_everyone()


def _load_trained(recipe: Recipe, saved: Path) -> Any:
    """The trained model, from its folder or from its adapter's, which is merged into the base."""
    if recipe.lora is None:
        model: Any = AutoModelForImageTextToText.from_pretrained(saved)
        # transformers restores the old names of weights when it saves, which here are DeepSpeed's.
        model._weight_conversions = []
        return model
    from peft import PeftModel

    base = AutoModelForImageTextToText.from_pretrained(
        find_model(recipe.model.checkpoint or str(recipe.output_dir / "base")),
        revision=recipe.model.revision,
        dtype=recipe.model.dtype,
        **(recipe.model.config if recipe.model.checkpoint else {}),
    )
    merged: Any = PeftModel.from_pretrained(base, str(saved))
    return merged.merge_and_unload()


def _check_login(repo_id: str) -> None:
    """Check before hours of training that the push at the end can work."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
        HfApi().whoami()
    except HFValidationError as error:
        raise ValueError(f"push_to_hub: {repo_id} is not a name on the Hub; names look like user/name.") from error
    except (LocalTokenNotFoundError, HfHubHTTPError) as error:
        raise ValueError(
            f"push_to_hub: {repo_id}: you are not logged in to the Hub: `hf auth login` with a token that may write."
        ) from error


def _part() -> None:
    """
    Disconnect from the other processes: one whose threads still hold gradients when the interpreter ends may abort
    (https://github.com/pytorch/pytorch/pull/179291).
    """
    # The trainer's model, which also holds the group, is part of reference cycles.
    gc.collect()
    PartialState().destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of one of several processes; see the module's docstring."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print((__doc__ or "").strip())
        return 0 if words else 2
    try:
        finished = train(load_recipe(words[0], words[1:])) is not None
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    _part()
    return 0 if finished else 130


if __name__ == "__main__":
    sys.exit(main())


__all__ = ["describe_model", "describe_run", "main", "train"]
