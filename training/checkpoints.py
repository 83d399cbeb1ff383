"""Continuing after an interruption: the last complete checkpoint, the same recipe, and a clean stop on a signal."""

import json
import os
import re
import shutil
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from dynfocus.eval.files import claim_folder

from .looking_ahead import STATES
from .recipe import Recipe

logger = logging.get_logger(__name__)

RECIPE_FILE = "recipe.json"
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
        for name in ("base", STATES):
            shutil.rmtree(folder / name, ignore_errors=True)


class SaveOnSignal(TrainerCallback):
    """
    On Ctrl-C or a termination signal the step is finished, a checkpoint is written, and training stops. A second
    signal stops at once. A context manager: outside of it, signals are handled as before.

    Attributes:
        stopped (`bool`): whether that happened.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.stopped = False
        self._asked = False
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "SaveOnSignal":
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._ask) for one in self._SIGNALS}
        return self

    def __exit__(self, *error: Any) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Trainer takes them from the checkpoint, but they may have been changed.
        state.compute_steps(args, state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        asked = torch.tensor(float(self._asked), device=args.device)
        if args.world_size > 1:
            # The signal may reach the processes in different steps: all save after the same one.
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        if asked.item() and state.global_step < state.max_steps:
            self.stopped = True
            control.should_save = control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.stopped and not float(state.epoch or 0).is_integer():
            # Trainer takes the stop for the end of the epoch: actions at the end of an epoch happen after the
            # continuation.
            control.should_evaluate = control.should_save = control.should_log = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A worker of the data loader, which inherited this handler: it is ended by its main process.
            return
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        logger.warning("Stopping after this step (or evaluation), with a checkpoint; again to stop at once.")


__all__ = ["RECIPE_FILE", "SaveOnSignal", "claim_run", "last_checkpoint"]
