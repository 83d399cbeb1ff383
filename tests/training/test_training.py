"""A run from a recipe: learns by heart, goes on after any interruption, and its result is a complete model."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import real_logits
from training_runs import ANSWERS, QUESTION, losses, recipe_settings, write_recipe
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback, TrainingArguments

from dynfocus import DynFocusCollator, VideoQAPipeline
from dynfocus.eval.files import read_rows
from dynfocus.eval.statistics import paired_difference
from dynfocus.training import SelectionNoiseSchedule
from dynfocus.training.recipe import load_recipe
from dynfocus.training.train import train
from dynfocus.training.trainer import DynFocusTrainer

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def few_rows(rows) -> Path:
    """Half of the rows."""
    path = rows.with_name("few.jsonl")
    path.write_text("".join(rows.read_text().splitlines(keepends=True)[::2]))
    return path


@pytest.fixture(scope="module")
def by_heart(few_rows, start, tmp_path_factory) -> tuple[Path, Path, list[str]]:
    """A run that learns a few rows, and answers them now and then."""
    folder, rows = tmp_path_factory.mktemp("by heart"), few_rows
    settings = recipe_settings(
        start,
        rows,
        folder / "run",
        max_steps=24,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        eval_strategy="steps",
        eval_steps=6,
        save_strategy="steps",
        save_steps=6,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
    )
    settings["data"]["eval"] = str(rows)
    settings["evaluation"] = {"generate_rows": 4, "max_new_tokens": 10}
    said: list[str] = []
    result = train(load_recipe(write_recipe(folder / "recipe.yaml", settings)), said.append)
    return result, folder / "run", said


def test_videos_are_learned_by_heart(by_heart, few_rows, start):
    result, folder, said = by_heart
    assert losses(folder)[0] > 2 and losses(folder)[-1] < 0.1
    pipe = VideoQAPipeline(
        model=AutoModelForImageTextToText.from_pretrained(result), processor=AutoProcessor.from_pretrained(result)
    )
    for row in map(json.loads, few_rows.read_text().splitlines()):
        assert pipe(str(few_rows.parent / row["video"]), question=row["question"])["answer"] == row["answer"]
    before, after = weights(start), weights(result)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    for part in ("event_prototypes", "cooperative_encoder", "question_encoder", "language_model"):
        assert any(name.startswith(f"model.{part}.") for name in moved), part
    # Rods and cones each have maps of their own.
    assert {f"model.cooperative_encoder.{name}.weight" for name in ("value_projector", "projector.linear_1")} <= moved
    assert not [name for name in moved if name.startswith("model.vision_tower.")]
    assert "Frozen: vision_tower." in said[1]
    assert said[2] == "4 rows to learn from, 4 to evaluate. 1 process on cpu, 4 rows a step."


def test_the_result_is_complete(by_heart, start):
    result, _, _ = by_heart
    names = {path.name for path in result.iterdir()}
    assert {path.name for path in start.iterdir()} | {"README.md"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    config = json.loads((result / "config.json").read_text())
    assert config["custom_pipelines"]["video-qa"]["impl"] == "pipeline_video_qa.VideoQAPipeline"


def test_frozen_parts_stay_to_the_bit_and_parts_have_their_own_rates(fit, start):
    def change(settings):
        settings["freeze"] = ["vision_tower", "language_model", "*.query_tokens"]
        settings["learning_rates"] = {"selector": 0.0, "model.cooperative_encoder.projector": 1e-5}

    result, _, _ = fit(change=change, max_steps=1, learning_rate=1e-2)
    before, after = weights(start), weights(result)
    change_of = {name: (after[name] - before[name]).abs().max().item() for name in before}
    for name, size in change_of.items():
        still = ("model.vision_tower.", "model.language_model.", "lm_head.", "model.event_prototypes.")
        if name.startswith(still) or name.endswith("query_tokens"):
            assert size == 0, name
    # The first step of AdamW moves each weight by the learning rate.
    assert change_of["model.question_encoder.projector.weight"] == pytest.approx(1e-2, rel=0.05)
    assert change_of["model.cooperative_encoder.projector.linear_2.weight"] == pytest.approx(1e-5, rel=0.05)


def test_accumulated_gradients_are_those_of_a_large_batch(fit):
    """Answers have unequal numbers of tokens, and the selection noise is on."""
    options = {"max_steps": 4, "optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant"}
    _, large, _ = fit("large", per_device_train_batch_size=8, **options)
    _, small, _ = fit("small", per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
    assert losses(large)[0] - losses(large)[-1] > 0.1
    assert losses(small) == pytest.approx(losses(large), abs=1e-4)
    first, second = weights(large / "model"), weights(small / "model")
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-4


def test_the_same_seed_gives_the_same_run(fit):
    _, first, _ = fit("first", full_determinism=True, max_steps=2)
    _, second, _ = fit("second", full_determinism=True, max_steps=2)
    torch.use_deterministic_algorithms(False)
    assert losses(first) == losses(second)
    _, third, _ = fit("third", seed=8, max_steps=2)
    assert losses(third) != losses(first)


def test_plain_trainer(rows, start, tmp_path):
    """What the README shows: transformers' own `Trainer`, with the collator and the noise schedule."""
    from datasets import load_dataset
    from transformers import Trainer

    model, processor = AutoModelForImageTextToText.from_pretrained(start), AutoProcessor.from_pretrained(start)
    arguments = TrainingArguments(
        str(tmp_path), use_cpu=True, max_steps=5, remove_unused_columns=False, learning_rate=5e-3, logging_steps=1
    )
    sigmas = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            sigmas.append(model.model.selection_sigma)

    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=load_dataset("json", data_files=str(rows), split="train", cache_dir=str(tmp_path / "cache")),
        data_collator=DynFocusCollator(processor, media_root=rows.parent),
        processing_class=processor,
        callbacks=[SelectionNoiseSchedule(), Watch()],
    )
    trainer.train()
    found = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert found[-1] < found[0]
    assert sigmas == pytest.approx([0.05, 0.0375, 0.025, 0.0125, 0.0])


def test_logits_of_the_answers_alone_give_the_same_loss(fit, monkeypatch):
    _, restricted, _ = fit("restricted", max_steps=2)
    monkeypatch.delattr(DynFocusTrainer, "compute_loss")
    _, full, _ = fit("full", max_steps=2)
    assert losses(restricted) == pytest.approx(losses(full), rel=1e-5)


def test_evaluation_answers_and_keeps_the_best(by_heart):
    _, folder, said = by_heart
    state = json.loads((folder / "trainer_state.json").read_text())
    found = {entry["step"]: entry["eval_accuracy"] for entry in state["log_history"] if "eval_accuracy" in entry}
    # Also before the first step, which is no candidate for the best.
    assert list(found) == [0, 6, 12, 18, 24] and found[24] == 1 and found[6] < 1
    assert all(round(accuracy * 4) == pytest.approx(accuracy * 4) for accuracy in found.values())
    best = min(step for step, accuracy in found.items() if accuracy == 1)
    assert best < 24
    tables = {step: read_rows(folder / "answers" / f"{step}.jsonl", (), "") for step in found}
    assert {step: sum(row["correct"] for row in table) / 4 for step, table in tables.items()} == found
    for row in tables[best]:
        assert row["question"] == QUESTION and row["answer"] == row["expected"] in ANSWERS and row["video"]
    right = [[row["correct"] for row in tables[step]] for step in (0, best)]
    gain = paired_difference(*right, range(4))
    assert said[-1].startswith(
        f"On the held-out rows, before training → after: accuracy {found[0]:.3g} → 1 (gain {gain.estimate:+.2f}, "
        f"95 % interval {gain.low:+.2f} … {gain.high:+.2f}, 4 rows"
    )
    # Of four videos alone.
    assert gain.p_value > 0.05 and ": it may be chance), loss " in said[-1]
    assert state["best_global_step"] == best
    assert torch.equal(
        weights(folder / f"checkpoint-{best}")["lm_head.weight"], weights(folder / "model")["lm_head.weight"]
    )


@pytest.mark.slow
def test_the_tiny_recipe_learns_a_kind_of_question_that_the_demo_model_cannot_answer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []
    assert train(load_recipe("tiny"), said.append) == Path("runs/tiny/model")
    before, after = (read_rows(Path(f"runs/tiny/answers/{step}.jsonl"), (), "") for step in (0, 100))
    assert len(before) > 100 and [row["expected"] for row in before] == [row["expected"] for row in after]
    right = [[row["correct"] for row in table] for table in (before, after)]
    gain = paired_difference(*right, [row["video"] for row in after])
    assert gain.low > 0.4
    assert sum(line.startswith("Making synthetic videos") for line in said) == 3


def test_lora_adapter_and_merged_model_agree(fit, start, rows, capfd):
    from peft import PeftModel

    def change(settings):
        settings["lora"] = {"rank": 4, "alpha": 8}

    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        result, folder, _ = fit(change=change, max_steps=3, learning_rate=1e-2, gradient_checkpointing=True)
    # Neither warnings nor the bars of other libraries.
    printed = "".join(capfd.readouterr())
    assert "use_cache" not in printed and "Loading weights" not in printed and "Generating" not in printed
    names = set(load_file(folder / "adapter" / "adapter_model.safetensors"))
    assert any("lora_A" in name and "language_model" in name for name in names)
    assert any("event_prototypes" in name for name in names) and any("cooperative_encoder" in name for name in names)
    assert not [name for name in names if "vision_tower" in name]
    base = AutoModelForImageTextToText.from_pretrained(start)
    processor = AutoProcessor.from_pretrained(result)
    row = {**json.loads(rows.read_text().splitlines()[0]), "media_root": str(rows.parent)}
    inputs = DynFocusCollator(processor)([row])
    untrained = real_logits(base, inputs)[0]
    adapted = PeftModel.from_pretrained(base, folder / "adapter").eval()
    found = real_logits(adapted, inputs)[0]
    merged = real_logits(AutoModelForImageTextToText.from_pretrained(result).eval(), inputs)[0]
    assert torch.allclose(found, merged, atol=1e-4) and not torch.allclose(found, untrained, atol=1e-2)
    # The tower, which has no adapters, was not touched.
    before, after = weights(start), weights(result)
    tower = [name for name in before if name.startswith("model.vision_tower.")]
    assert tower and all(torch.equal(before[name], after[name]) for name in tower)


def test_a_run_without_a_good_row_is_no_success(fit, tmp_path):
    path = tmp_path / "gone.jsonl"
    path.write_text(json.dumps({"video": "gone.mp4", "question": "what?", "answer": "47"}) + "\n")
    with pytest.raises(ValueError, match="None of the rows could be read, so nothing was learned"):
        fit(change=lambda settings: settings["data"].update(train=str(path)), max_steps=1)
    assert not (tmp_path / "run" / "model").exists()


def test_broken_videos_are_skipped_and_counted(fit, rows, tmp_path):
    broken = tmp_path / "data"
    broken.mkdir()
    listed = [json.loads(line) for line in rows.read_text().splitlines()]
    for number in range(8):
        (broken / f"{number}.mp4").write_bytes((rows.parent / f"{number}.mp4").read_bytes())
    (broken / "3.mp4").write_bytes(b"no video")
    path = broken / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in listed))

    def change(settings, limit):
        settings["data"].update(train=str(path), max_bad_fraction=limit)
        settings["training"]["per_device_train_batch_size"] = 1

    _, folder, said = fit("some", lambda settings: change(settings, 0.5), max_steps=8)
    assert said[-1] == "1 of 8 rows could not be read and were left out."
    assert all(loss >= 0 for loss in losses(folder)) and losses(folder).count(0.0) == 1
    for workers in (0, 2):
        with pytest.raises(ValueError, match=r"^[^\n]*3\.mp4[^\n]*max_bad_fraction[^\n]*$"):
            fit(
                f"many {workers}",
                lambda settings: change(settings, 0.01),
                max_steps=16,
                dataloader_num_workers=workers,
            )
