"""Continuing after an interruption: the last complete checkpoint, the same recipe, and a clean stop on a signal."""

import json
import os
import random
import re
import shutil
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from dynfocus.eval.files import claim_folder

from .looking_ahead import STATES
from .recipe import Recipe

logger = logging.get_logger(__name__)

RECIPE_FILE = "recipe.json"
ANSWERS = "answers"
#: Settings that may change between a run and its continuation, as they do not change what is learned.
_FREE = (
    "push_to_hub",
    "private",
    "training.output_dir",
    "training.logging_dir",
    "training.logging_steps",
    "training.report_to",
    "training.run_name",
    "training.save_steps",
    "training.save_total_limit",
    "training.dataloader_num_workers",
    "training.disable_tqdm",
    "training.eval_on_start",
)


def last_checkpoint(folder: Path, num_processes: int = 1) -> Path | None:
    """The last checkpoint that all processes finished writing; incomplete ones are skipped."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    for path in sorted(found, key=lambda one: int(one.name.rpartition("-")[2]), reverse=True):
        try:
            # The main process writes this file last.
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            for rank in range(num_processes if num_processes > 1 else 0):
                (path / f"rng_state_{rank}.pth").stat()
        except (OSError, ValueError):
            logger.warning(f"{path} is not whole: the run was stopped while it was written. It is passed over.")
            continue
        return path
    return None


def claim_run(recipe: Recipe) -> None:
    """
    Write the recipe into its `output_dir`, or check that the run there has the same recipe: see [`claim_folder`].
    """
    folder = recipe.output_dir
    is_same = claim_folder(
        folder / RECIPE_FILE,
        recipe.model_dump(mode="json"),
        kind="run",
        way_out="give another `training.output_dir`, or delete that folder",
        is_begun=any(folder.glob("checkpoint-*")) or (folder / "model").exists(),
        free=_FREE,
    )
    if not is_same:
        # Of a run that ended before anything was trained.
        for name in ("base", STATES, ANSWERS):
            shutil.rmtree(folder / name, ignore_errors=True)


class StopInStep(Exception):
    """Raised between two batches of an optimizer's step, in all processes, to end training there."""


class SaveOnSignal(TrainerCallback):
    """
    On Ctrl-C or a termination signal, training stops with a checkpoint after the batch that is being computed or read.
    If that is not the last one of an optimizer's step, what this step did is discarded, and the checkpoint is that of
    its beginning. During an evaluation, training stops after it. A second signal stops at once. A context manager:
    outside of it, signals are handled as before. Needs [`DynFocusTrainer`], which handles [`StopInStep`].

    Attributes:
        stopped (`bool`): whether that happened.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.stopped = False
        self.asked = False
        self._process = os.getpid()
        self._before: dict[int, Any] = {}
        # Of the step that has begun; none if it is still the current state.
        self._random_state: _RandomState | None = None

    def __enter__(self) -> "SaveOnSignal":
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._ask) for one in self._SIGNALS}
        return self

    def __exit__(self, *error: Any) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def check(self, args: TrainingArguments) -> None:
        """Raise [`StopInStep`] if a signal came to any process. All processes must call this equally often."""
        if self._is_asked(args):
            self.stopped = True
            if self._random_state is not None:
                self._random_state.restore()
            raise StopInStep

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Trainer takes them from the checkpoint, but they may have been changed.
        state.compute_steps(args, state.max_steps)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Before rows are shuffled, which is where a continuation begins.
        self._random_state = _RandomState(args.device)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._random_state is None:
            self._random_state = _RandomState(args.device)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.check(args)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._random_state = None
        if self._is_asked(args) and state.global_step < state.max_steps:
            self.stopped = True
            control.should_save = control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.stopped and not float(state.epoch or 0).is_integer():
            # Trainer takes the stop for the end of the epoch: actions at the end of an epoch happen after the
            # continuation.
            control.should_evaluate = control.should_save = control.should_log = False

    def _is_asked(self, args: TrainingArguments) -> bool:
        asked = torch.tensor(float(self.asked), device=args.device)
        if args.world_size > 1:
            # The signal may reach the processes in different batches: all stop after the same one.
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        return bool(asked.item())

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A worker of the data loader, which inherited this handler: it is ended by its main process.
            return
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        logger.warning("Stopping after this batch (or evaluation), with a checkpoint; again to stop at once.")


class _RandomState:
    """The state of all random numbers that Trainer saves."""

    def __init__(self, device: torch.device):
        self._device = device
        self._on_device = None
        if device.type not in ("cpu", "mps"):
            self._on_device = torch.get_device_module(device).get_rng_state(device)
        self._others = random.getstate(), np.random.get_state(), torch.get_rng_state()

    def restore(self) -> None:
        of_python, of_numpy, of_torch = self._others
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
        if self._on_device is not None:
            torch.get_device_module(self._device).set_rng_state(self._on_device, self._device)


__all__ = ["ANSWERS", "RECIPE_FILE", "SaveOnSignal", "StopInStep", "claim_run", "last_checkpoint"]
