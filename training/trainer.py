"""`Trainer` with additions for fine-tuning DynFocus; the plain one works, too."""

import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sized
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from dynfocus.eval.files import write_text
from dynfocus.processing.rows.collator import RowCollator

from .answer_evaluation import answer_table, generate_answers, in_dtype
from .checkpoints import ANSWERS, SaveOnSignal, StopInStep
from .likelihood import likelihood_loss
from .parts import is_stock, split_by_learning_rate
from .sampling import EpochLengthGroupedSampler
from .selection_noise import selector


class _SetEpoch(TrainerCallback):
    """Sets the epoch of a sampler, because accelerate does not if several processes continue in the middle of one."""

    def __init__(self, sampler: EpochLengthGroupedSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sampler.set_epoch(int(state.epoch or 0))


def answers_file(output_dir: str | Path | None, step: int) -> Path:
    """The file with the answers of an evaluation after so many steps."""
    return Path(str(output_dir)) / ANSWERS / f"{step}.jsonl"


def _start_worker(before: Callable[[int], None] | None, number: int) -> None:
    """Makes workers ignore signals, which must not end them before the last checkpoint is written."""
    os.setpgrp()
    if before is not None:
        before(number)


class DynFocusTrainer(Trainer):
    """
    transformers' `Trainer` with learning rates for single parts, logits only of the answers, rows grouped by visual
    and text tokens, and evaluation by generation. For DynFocus models, and for stock video language models.

    Args:
        learning_rates (`dict[str, float]`, *optional*): learning rates of parts or parameters, by names of
            `dynfocus.training.parts.names_in`; the others have `args.learning_rate`.
        lengths (`list[int]`, *optional*): tokens of each training row, for
            `train_sampling_strategy="group_by_length"`.
        generate_rows (`int`, defaults to 200): number of first rows of the evaluation set that are also answered, for
            the metric `eval_accuracy`: the share of exact answers. 0 answers none. The answers are written to
            `answers/STEP.jsonl` in `args.output_dir`.
        max_new_tokens (`int`, defaults to 32): largest number of tokens of such an answer.
        eval_collator (*optional*): collator of the evaluation set; by default `data_collator`.
        likelihood_weight (`float`, defaults to 0.0): weight of [`likelihood_loss`], with which the selector of a
            DynFocus model learns from the answers which events matter.
        stop ([`SaveOnSignal`], *optional*): stops training on a signal.
        kwargs: arguments of `Trainer`. `data_collator` must be a [`DynFocusCollator`] or, for a stock model, a
            [`FocusCollator`].
    """

    def __init__(
        self,
        *args: Any,
        learning_rates: Mapping[str, float] | None = None,
        lengths: list[int] | None = None,
        generate_rows: int = 200,
        max_new_tokens: int = 32,
        eval_collator: RowCollator | None = None,
        likelihood_weight: float = 0.0,
        stop: SaveOnSignal | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.model: Any
        self.stop = stop
        if stop is not None:
            self.add_callback(stop)
        self.learning_rates = dict(learning_rates or {})
        self.lengths = lengths
        self.generate_rows = generate_rows
        self.max_new_tokens = max_new_tokens
        self.likelihood_weight = likelihood_weight
        self.eval_collator: Any = eval_collator or self.data_collator
        self._is_stock = is_stock(self.model)
        if likelihood_weight and self._is_stock:
            raise ValueError("`likelihood_weight` is for DynFocus models: a stock model has no selector to train.")
        if likelihood_weight and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError(
                "`likelihood_weight` is not supported with weights that are shared among processes: set it to 0."
            )
        inner = next(module for module in self.model.modules() if isinstance(module, PreTrainedModel))
        self._keeps_logits = "logits_to_keep" in inspect.signature(inner.forward).parameters

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self.learning_rates:
            split_by_learning_rate(optimizer, self.model if model is None else model, self.learning_rates)
        return optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        if self.lengths is not None and self.args.train_sampling_strategy == "group_by_length":
            # Over all processes, because they wait for the one with the longest rows.
            rows_of_step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            sampler = EpochLengthGroupedSampler(rows_of_step, self.lengths, self.args.seed)
            self.add_callback(_SetEpoch(sampler))
            return sampler
        return super()._get_train_sampler(train_dataset)

    def get_train_dataloader(self) -> DataLoader:
        loader: Any = super().get_train_dataloader()
        inner = getattr(loader, "base_dataloader", loader)
        inner.worker_init_fn = partial(_start_worker, inner.worker_init_fn)
        return loader

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        # With a separate collator, which counts its own rows.
        collator, self.data_collator = self.data_collator, self.eval_collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = collator

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Trainer checks the number of steps only after a step, so a finished run would get another one.
        if self.state.global_step >= self.state.max_steps:
            return
        try:
            super()._run_epoch(*args, **kwargs)
        except StopInStep:
            self.control.should_training_stop = True
            self._save_beginning_of_step(kwargs["model"], kwargs["trial"])

    def _save_beginning_of_step(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint from which the unfinished step is done again."""
        model.zero_grad()
        self.current_flos, self.state.num_input_tokens_seen = self._counted
        checkpoint = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        # Processes on other machines may not see the file.
        if not any(gather_object([(checkpoint / TRAINER_STATE_NAME).is_file()])):
            self._save_checkpoint(model, trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | int | None]:
        self._counted = self.current_flos, self.state.num_input_tokens_seen
        if self.stop is None:
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        batches: list[Any] = []
        # Reading may take long, too.
        while len(batches) < num_batches and not self.stop.asked:
            try:
                batches.append(next(epoch_iterator))
            except StopIteration:
                break
        self.stop.check(self.args)
        return super().get_batch_samples(iter(batches), num_batches, device)

    def _get_eval_sampler(self, eval_dataset: Any) -> torch.utils.data.Sampler | None:
        # In order, independent of the order of training, which may use lengths that are not known here.
        return None

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if not self.likelihood_weight or not model.training:
            return self._answer_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        inner = self.accelerator.unwrap_model(model)
        tower = selector(inner).vision_tower
        if "pixel_values_videos" in inputs and not any(weight.requires_grad for weight in tower.parameters()):
            # Encoded once for both losses.
            inputs = dict(inputs)
            with torch.no_grad():
                inputs["video_state"] = selector(inner).encode_pixels(
                    inputs.pop("pixel_values_videos"), inputs.pop("video_frame_mask", None)
                )
        loss, outputs = self._answer_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        generator = torch.Generator().manual_seed(self._seed_of_step())
        found = likelihood_loss(inner, inputs, outputs, generator)
        self._likelihood_loss = found.detach()
        if self.model_accepts_loss_kwargs and num_items_in_batch is not None:
            # The loss of the answers is a share of the whole step's; this one is of the batch.
            found = found / self.current_gradient_accumulation_steps
        loss = loss + self.likelihood_weight * found
        return (loss, outputs) if return_outputs else loss

    def _seed_of_step(self) -> int:
        """Depends on the run's seed, the step and the process, so that a run that continues tries the same events."""
        entropy = [self.args.seed, self.state.global_step, self.args.process_index]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])

    def _answer_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if self.label_smoother is not None or self.compute_loss_func is not None or self.compute_metrics is not None:
            return super().compute_loss(model, inputs, *args, **kwargs)
        # Visual tokens and questions have no loss; with large vocabularies their logits would cost more than anything
        # else.
        length = inputs["labels"].shape[1]
        learned = (inputs["labels"] != -100).any(0).nonzero()
        first = int(learned[0]) if len(learned) else length - 1
        # The position before an answer predicts its first token.
        kept = length - max(0, first - 1) if self._keeps_logits else length
        inputs = {**inputs, "logits_to_keep": kept} if self._keeps_logits else dict(inputs)
        if getattr(self.args, "activation_checkpointing", False) or self.args.gradient_checkpointing:
            # Otherwise the model warns that it does without a cache.
            inputs["use_cache"] = False
        if self._is_stock:
            # A DynFocus model cuts its labels itself.
            inputs["labels"] = inputs["labels"][:, length - kept :]
            if not len(learned):
                # A loss of 0, not the mean of nothing.
                args, kwargs = (), {**kwargs, "num_items_in_batch": torch.ones((), device=self.args.device)}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        prepared = super()._prepare_inputs(inputs)
        return in_dtype(prepared, self.model.dtype) if self._is_stock else prepared

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        rows: Any = dataloader.dataset
        num_rows = min(self.generate_rows, len(rows)) if isinstance(dataloader.dataset, Sized) else 0
        if num_rows:
            prefix = kwargs.get("metric_key_prefix", "eval")
            chosen = [rows[index] for index in range(num_rows)]
            self.model.eval()
            # In the precision of training.
            with self.accelerator.autocast():
                answered = generate_answers(
                    self.model,
                    chosen,
                    self.eval_collator,
                    batch_size=self.args.eval_batch_size,
                    max_new_tokens=self.max_new_tokens,
                )
            assert output.metrics is not None
            table = answer_table(chosen, answered)
            if self.is_world_process_zero():
                path = answers_file(self.args.output_dir, self.state.global_step)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table))
            output.metrics[f"{prefix}_accuracy"] = sum(row["correct"] for row in table) / len(table)
            output.metrics[f"{prefix}_unanswered"] = len(chosen) - len(answered)
        return output

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            if not self._is_stock:
                logs["selection_sigma"] = selector(self.model).selection_sigma
            if self.likelihood_weight:
                logs["likelihood_loss"] = float(self._likelihood_loss)
            if isinstance(self.data_collator, RowCollator) and self.data_collator.rows_bad:
                logs["bad_rows"] = self.data_collator.rows_bad
        super().log(logs, *args, **kwargs)


__all__ = ["DynFocusTrainer", "answers_file"]
