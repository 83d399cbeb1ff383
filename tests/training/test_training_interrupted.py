"""Runs that are broken off: by a signal, by a kill, by anything; and folders that hold a run already."""

import json
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Forked
from safetensors.torch import load_file
from training_runs import losses, recipe_settings, write_recipe
from transformers import TrainerCallback

from dynfocus.training import train as train_module
from dynfocus.training.checkpoints import RECIPE_FILE, last_checkpoint
from dynfocus.training.trainer import DynFocusTrainer

pytestmark = pytest.mark.integration


class Interrupted(Exception):
    pass


class InterruptAfter(TrainerCallback):
    """Breaks a run off after a step, as a kill would: no checkpoint is written."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Interrupted


@pytest.fixture
def interrupt(monkeypatch):
    def interrupt(step):
        class Breaking(DynFocusTrainer):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self.add_callback(InterruptAfter(step))

        monkeypatch.setattr(train_module, "DynFocusTrainer", Breaking)

    return interrupt


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("kind", "breaks"),
    # Before the first checkpoint and after it; in mid-epoch in every order of the rows.
    [("rows", [3, 5]), ("grouped", [7]), ("stream", [5])],
)
def test_an_interrupted_run_goes_on_exactly(fit, interrupt, monkeypatch, kind, breaks):
    def change(settings):
        settings["data"]["streaming"] = kind == "stream"
        # Some rows of a batch fewer than videos: the last batch of an epoch is short.
        settings["training"]["per_device_train_batch_size"] = 3
        if kind == "grouped":
            settings["training"]["train_sampling_strategy"] = "group_by_length"

    # Three steps an epoch: the run goes on in the middle of the second one.
    options = {"save_strategy": "steps", "save_steps": 4, "max_steps": 8, "lr_scheduler_type": "linear"}
    whole, uninterrupted, _ = fit("whole", change, **options)
    for step in breaks:
        interrupt(step)
        with pytest.raises(Interrupted):
            fit("broken", change, **options)
        monkeypatch.undo()
    # A checkpoint that a kill cut short.
    (uninterrupted.with_name("broken") / "checkpoint-7").mkdir()
    result, resumed, said = fit("broken", change, **options)
    assert "checkpoint-4" in said[3]
    assert losses(resumed) == losses(uninterrupted)
    first, second = weights(whole), weights(result)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_finished_run_is_not_run_again(fit, monkeypatch):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    result, folder, _ = fit(**options)
    before = weights(result)
    monkeypatch.setattr(DynFocusTrainer, "training_step", lambda *_: pytest.fail("it was trained again"))
    again, _, _ = fit(**options)
    assert again == result and all(torch.equal(before[name], tensor) for name, tensor in weights(result).items())


def test_a_folder_keeps_its_recipe(fit, tmp_path):
    fit(max_steps=1)
    with pytest.raises(ValueError, match=r"holds a run with `training.learning_rate` = 0.002 instead of 0.1: give"):
        fit(max_steps=1, learning_rate=0.1)
    # What does not change what is learned may change.
    fit(max_steps=1, logging_steps=5)
    # Nor does what a run was that broke off before its first checkpoint.
    with pytest.raises(OSError, match="/no/model"):
        fit("new", lambda settings: settings["model"].update(checkpoint="/no/model"))
    fit("new", max_steps=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="is neither an empty folder nor one of a run"):
        fit("other", max_steps=1)
    # What a kill left of the first file is no other run; one that cannot be read is refused.
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / f"{RECIPE_FILE}.part").touch()
    fit("left", max_steps=1)
    (tmp_path / "left" / RECIPE_FILE).write_text("{")
    with pytest.raises(ValueError, match=rf"{RECIPE_FILE}: is no JSON .*; give another `training.output_dir`, or"):
        fit("left", max_steps=1)


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGTERM, 2), (signal.SIGINT, 0), (signal.SIGKILL, 0)], ids=["term", "int", "kill"]
)
def test_signals(rows, start, tmp_path, number, workers):
    """SIGTERM and Ctrl-C write a checkpoint, whoever else they reach; after SIGKILL the last one serves."""
    options = {"max_steps": 2000, "save_strategy": "steps", "save_steps": 2, "dataloader_num_workers": workers}
    settings = recipe_settings(start, rows, tmp_path / "run", **options)
    recipe = write_recipe(tmp_path / "recipe.yaml", settings)
    with Forked("dynfocus.training.train:main", recipe) as process:
        process.until(lambda: last_checkpoint(tmp_path / "run") is not None)
        # To all of its group, as a terminal, torchrun and Slurm do.
        process.signal(number)
        assert process.wait() == (-number if number == signal.SIGKILL else 130), process.output
        said = process.output
    if number != signal.SIGKILL:
        assert "The same command continues from there." in said and "Traceback" not in said
        assert said.count("Stopping after this batch") == 1
        step = int(said.partition("Stopped after step ")[2].partition(".")[0])
        assert last_checkpoint(tmp_path / "run").name == f"checkpoint-{step}"


def test_a_stop_in_mid_epoch_is_no_end_of_the_epoch(fit, rows, monkeypatch):
    """What falls due at the end of an epoch waits for it, and the last checkpoint stays."""

    class Stopping(DynFocusTrainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().training_step(*args, **kwargs)

    def change(settings):
        settings["data"]["eval"] = str(rows)
        settings["evaluation"] = {"generate_rows": 1, "max_new_tokens": 2}

    options = {
        "per_device_train_batch_size": 3,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "load_best_model_at_end": True,
    }
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(train_module, "DynFocusTrainer", Stopping)
    result, folder, said = fit("run", change, **options)
    assert result is None and "Stopped after step 4." in said[-1]
    assert signal.getsignal(signal.SIGTERM) is before
    state = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "eval_loss" in entry] == [0, 3]
    monkeypatch.undo()
    _, _, said = fit("run", change, **options)
    assert "checkpoint-4" in said[3] and "The trained model is in" in said[4]


class Accumulating(DynFocusTrainer):
    """Every batch uses random numbers of all kinds. One asks to stop, before or after it is read."""

    seen: list[int]
    stop_in: int | None = None
    while_reading = False

    def get_batch_samples(self, epoch_iterator, *args):
        def batches():
            for batch in epoch_iterator:
                self._stop(len(self.seen) + 1, self.while_reading)
                yield batch

        return super().get_batch_samples(batches(), *args)

    def training_step(self, model, inputs, *args, **kwargs):
        self.seen.append(self.state.global_step)
        self._stop(len(self.seen), not self.while_reading)
        return super().training_step(model, inputs, *args, **kwargs)

    def _stop(self, number, here):
        if here and number == self.stop_in:
            os.kill(os.getpid(), signal.SIGTERM)

    def compute_loss(self, *args, **kwargs):
        factor = 1 + (random.random() + np.random.rand() + torch.rand(()).item()) / 10
        return factor * super().compute_loss(*args, **kwargs)


@pytest.mark.parametrize(
    ("accumulated", "stops"),
    [
        # Eight batches of one row an epoch. In the first step, which is one epoch, and in the next; in one that was
        # begun again; while a step's rows are read.
        (8, [(3, False), (8 + 3, False), (3, False), (9, True)]),
        # In the middle of an epoch, and in its last, shorter step.
        (3, [(3 + 1, False), (6 + 1, False), (3 + 1, True)]),
    ],
    ids=["8", "3"],
)
def test_a_stop_within_a_step_undoes_it(fit, monkeypatch, accumulated, stops):
    options = {
        "max_steps": 7,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": accumulated,
        "lr_scheduler_type": "linear",
        "include_num_input_tokens_seen": "all",
    }
    monkeypatch.setattr(train_module, "DynFocusTrainer", Accumulating)
    monkeypatch.setattr(Accumulating, "seen", [], raising=False)
    whole, uninterrupted, _ = fit("whole", **options)
    for number, while_reading in stops:
        monkeypatch.setattr(Accumulating, "seen", [])
        monkeypatch.setattr(Accumulating, "stop_in", number)
        monkeypatch.setattr(Accumulating, "while_reading", while_reading)
        result, folder, said = fit("stopped", **options)
        # At once: after the batch in which the signal came, or with none of the rows that were being read.
        assert result is None and len(Accumulating.seen) == number - while_reading
        assert last_checkpoint(folder).name == f"checkpoint-{Accumulating.seen[-1] + while_reading}"
        assert f"Stopped after step {Accumulating.seen[-1] + while_reading}." in said[-1]
    monkeypatch.setattr(Accumulating, "stop_in", None)
    result, resumed, _ = fit("stopped", **options)
    first, second = (json.loads((one / "trainer_state.json").read_text()) for one in (uninterrupted, resumed))
    timed = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss"}
    for state in (first, second):
        state["log_history"] = [entry for entry in state["log_history"] if not timed & entry.keys()]
    assert first["log_history"] == second["log_history"] and first["total_flos"] == second["total_flos"]
    assert first["num_input_tokens_seen"] == second["num_input_tokens_seen"] > 0
    first, second = weights(whole), weights(result)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_checkpoint_needs_the_files_of_all_processes(tmp_path):
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
        (tmp_path / f"checkpoint-{step}" / "rng_state_0.pth").touch()
    (tmp_path / "checkpoint-2" / "rng_state_1.pth").touch()
    assert last_checkpoint(tmp_path).name == "checkpoint-4"
    assert last_checkpoint(tmp_path, 2).name == "checkpoint-2"
    assert last_checkpoint(tmp_path, 3) is None
