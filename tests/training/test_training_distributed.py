"""Many processes: two of them on a CPU."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from forked import run_in_two, torchrun
from safetensors.torch import load_file
from training_runs import losses, recipe_settings, save_start, write_recipe, write_rows

from dynfocus.training import SeededSelectionNoise
from dynfocus.training.recipe import load_recipe
from dynfocus.training.train import train

pytestmark = pytest.mark.integration

TRAIN = "dynfocus.training.train:main"
STEP = Path(__file__).parents[1] / "fsdp2_step.py"


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=["default", "released_code"])
def start(request, tmp_path_factory) -> Path:
    return save_start(tmp_path_factory.mktemp("start") / "model", request.param)


@pytest.mark.parametrize(
    ("start", "order", "launch"),
    [
        # `torchrun` starts each process from nothing.
        pytest.param("default", "random", torchrun, marks=pytest.mark.slow),
        ("default", "group_by_length", run_in_two),
        ("released_code", "random", run_in_two),
    ],
    indirect=["start"],
)
def test_two_processes_learn_as_one_does(rows, start, tmp_path, order, launch):
    options = {"max_steps": 4, "train_sampling_strategy": order}
    single = recipe_settings(start, rows, tmp_path / "single", per_device_train_batch_size=4, **options)
    train(load_recipe(write_recipe(tmp_path / "single.yaml", single)))
    double = recipe_settings(start, rows, tmp_path / "double", per_device_train_batch_size=2, **options)
    said = launch(TRAIN, write_recipe(tmp_path / "double.yaml", double))
    assert "2 processes on cpu, 4 rows a step." in said
    found = losses(tmp_path / "double")
    assert len(found) == 4 and found[-1] < found[0]
    assert found == pytest.approx(losses(tmp_path / "single"), abs=1e-3)
    names = load_file(start / "model.safetensors").keys()
    assert load_file(tmp_path / "double" / "model" / "model.safetensors").keys() == names


THREADS = """
import sys
from pathlib import Path
from dynfocus.training.train import main
code = main()
names = [one.read_text().strip() for one in Path('/proc/self/task').glob('*/comm')]
print('threads:', *sorted(names), flush=True)
sys.exit(code)
"""


def test_two_processes_go_on_exactly_and_leave_no_thread(rows, tmp_path):
    """In the middle of an epoch, rows grouped by length. A thread that outlives a run may abort its process."""
    start = save_start(tmp_path / "start")
    (tmp_path / "threads.py").write_text(THREADS)
    options = {"max_steps": 6, "train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 1}
    whole = recipe_settings(start, rows, tmp_path / "whole", save_strategy="steps", save_steps=5, **options)
    said = run_in_two(tmp_path / "threads.py", write_recipe(tmp_path / "whole.yaml", whole))
    threads = [line for line in said.splitlines() if line.startswith("threads:")]
    assert len(threads) == 2 and "gloo" not in "".join(threads), threads
    whole["training"]["output_dir"] = str(tmp_path / "again")
    shutil.copytree(tmp_path / "whole", tmp_path / "again", ignore=shutil.ignore_patterns("model", "checkpoint-6"))
    said = run_in_two(TRAIN, write_recipe(tmp_path / "again.yaml", whole))
    assert "checkpoint-5" in said
    assert losses(tmp_path / "again") == losses(tmp_path / "whole")


def test_two_processes_stop_in_the_same_batch(rows, tmp_path):
    """A signal reaches one of them within a step. Both stop there, and go on as if there had been none."""
    script = tmp_path / "stopping.py"
    script.write_text(
        "import os, signal, sys, torch\n"
        "from dynfocus.training import train\n"
        "class Stopping(train.DynFocusTrainer):\n"
        "    seen = 0\n"
        "    def compute_loss(self, *args, **kwargs):\n"
        "        Stopping.seen += 1\n"
        "        if Stopping.seen == 6 and os.environ['RANK'] == '1' and 'whole' not in sys.argv[1]:\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "        return (1 + torch.rand(()).item() / 10) * super().compute_loss(*args, **kwargs)\n"
        "train.DynFocusTrainer = Stopping\n"
        "code = train.main()\n"
        "print('code', code, 'after', Stopping.seen, flush=True)\n"
    )
    start = save_start(tmp_path / "start")
    options = {"max_steps": 2, "gradient_accumulation_steps": 4, "per_device_train_batch_size": 1}
    for name in ("whole", "again"):
        settings = recipe_settings(start, rows, tmp_path / name, **options)
        said = run_in_two(script, write_recipe(tmp_path / f"{name}.yaml", settings))
    assert said.count("code 130 after 6\n") == 2 and "Stopped after step 1." in said
    assert "code 0 after 4\n" in run_in_two(script, tmp_path / "again.yaml")
    assert losses(tmp_path / "again") == losses(tmp_path / "whole")
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "again")]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


@pytest.mark.parametrize("start", ["default", pytest.param("released_code", marks=pytest.mark.slow)], indirect=True)
def test_processes_with_and_without_videos_learn_together(start, tmp_path):
    path = write_rows(tmp_path / "data")
    listed = [json.loads(line) for line in path.read_text().splitlines()]
    for row in listed[::2]:
        row["video"] = None
    path.write_text("".join(json.dumps(row) + "\n" for row in listed))
    options = {"max_steps": 8, "per_device_train_batch_size": 1, "gradient_checkpointing": True}
    settings = recipe_settings(start, path, tmp_path / "run", **options)
    settings["freeze"] = []
    # All rows that the second process has to answer are broken ones.
    gone = [{**row, "video": "gone.mp4"} if number % 2 else row for number, row in enumerate(listed)]
    path.with_name("held-out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gone))
    settings["data"].update(eval=str(path.with_name("held-out.jsonl")), max_bad_fraction=0.9)
    settings["training"].update(eval_strategy="steps", eval_steps=8)
    settings["selection_noise"] = {"start": 0.05, "end": 0.0, "hold": 0.5}
    run_in_two(TRAIN, write_recipe(tmp_path / "recipe.yaml", settings))
    found = losses(tmp_path / "run")
    assert len(found) == 8 and found[-1] < found[0]
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    # Before training and after it.
    assert [entry["eval_unanswered"] for entry in state["log_history"] if "eval_accuracy" in entry] == [4, 4]


def test_noise_differs_between_processes_and_is_the_same_again():
    events = torch.tensor([5, 3])
    first, again, other = (SeededSelectionNoise(7, rank, 2) for rank in (0, 0, 1))
    noise = first(events, 50)
    assert torch.equal(noise, again(events, 50))
    assert not torch.equal(noise, other(events, 50))
    assert not torch.equal(noise, first(events, 50)), "the next batch has noise of its own"
    first.begin_step(0)
    assert torch.equal(noise, first(events, 50))
    first.begin_step(1)
    assert not torch.equal(noise, first(events, 50))
    assert not torch.equal(noise, SeededSelectionNoise(8, 0, 2)(events, 50))


def test_noise_does_not_depend_on_how_a_batch_is_spread():
    events = torch.tensor([5, 3, 4, 5])
    whole = SeededSelectionNoise(7)(events, 20)
    accumulated = SeededSelectionNoise(7)
    parts = [accumulated(events[:2], 20), accumulated(events[2:], 20)]
    ranks = [SeededSelectionNoise(7, rank, 2)(events[2 * rank : 2 * rank + 2], 20) for rank in (0, 1)]
    assert torch.equal(torch.cat(parts), whole) and torch.equal(torch.cat(ranks), whole)
    assert not whole[1, :, 3:].any() and whole[1, :, :3].std() == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("start", ["default", pytest.param("released_code", marks=pytest.mark.slow)], indirect=True)
def test_fsdp2_saves_what_one_process_would(rows, start, tmp_path):
    run_in_two(STEP, start, rows, tmp_path / "sharded")
    found = json.loads((tmp_path / "sharded" / "found.json").read_text())
    assert found["world_size"] == 2 and "VisionTower" in found["wrapped"] and "LlamaDecoderLayer" in found["wrapped"]
    assert not [name for name in found["wrapped"] if name.startswith("Siglip")]
    assert found["sharded_parameters"] == found["parameters"]
    assert found["losses"]["sharded"] == pytest.approx(found["losses"]["single"], abs=1e-3)
    saved = torch.load(tmp_path / "sharded" / "logits.pt", weights_only=True)
    assert torch.allclose(saved["loaded"], saved["sharded"], atol=1e-5)
    assert torch.allclose(saved["loaded"], saved["single"], atol=1e-3)
    assert not torch.allclose(saved["loaded"], saved["before"], atol=1e-2)
