"""Fine-tuning of stock video language models on inputs that a `FocusProcessor` makes."""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from adopted_models import FAMILIES, stock
from forked import run_in_two
from peft import PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file
from tiny_dual_encoders import save_dual_encoder
from training_runs import losses, recipe_settings, write_recipe
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    LlamaConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from typer.testing import CliRunner
from videos import barcode_frames, write_video

from dynfocus import VideoQAPipeline
from dynfocus.adoption.focus_collator import FocusCollator
from dynfocus.adoption.focus_processor import FocusProcessor
from dynfocus.adoption.looking import whole_video
from dynfocus.cli.app import app
from dynfocus.towers.dual_encoder import DualEncoder
from dynfocus.training import train as train_module
from dynfocus.training.parts import lora_config, names_in, parts_of
from dynfocus.training.recipe import load_recipe
from dynfocus.training.train import train
from dynfocus.training.trainer import DynFocusTrainer

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
BUDGET = 120


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_dual_encoder("siglip", tmp_path_factory.mktemp("encoder") / "siglip")


@pytest.fixture(scope="module")
def seeing(encoder):
    return DualEncoder.from_pretrained(encoder, device="cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folder of a saved stock model, by the name of its family."""
    root = tmp_path_factory.mktemp("models")

    def saved(name: str) -> Path:
        if not (root / name).exists():
            model, processor = stock(name)
            model.save_pretrained(root / name)
            processor.save_pretrained(root / name)
        return root / name

    return saved


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    lines = ["video,question,answer"]
    for number in range(4):
        write_video(folder / f"{number}.mp4", barcode_frames(6 + number, height=64, width=96), fps=1)
        lines.append(f"{number}.mp4,{'Which number ' * (1 + number)}?,No. {number}{'0' * number}")
    path = folder / "rows.csv"
    path.write_text("\n".join(lines))
    return path


def read(path: Path) -> list[dict[str, str]]:
    header, *lines = (line.split(",") for line in path.read_text().splitlines())
    return [{**dict(zip(header, line, strict=True)), "media_root": str(path.parent)} for line in lines]


def settings_of(checkpoint, rows, folder, encoder, **training):
    training = {"max_steps": 3, "per_device_train_batch_size": 2, "learning_rate": 1e-2, **training}
    settings = recipe_settings(checkpoint, rows, folder, **training)
    settings["model"] |= {"dual_encoder": str(encoder), "processor": {"tokens_per_key_frame": 6}}
    settings["data"] |= {"max_visual_tokens": BUDGET}
    return settings


def run(settings, folder: Path) -> tuple[Path | None, list[str]]:
    said: list[str] = []
    result = train(load_recipe(write_recipe(folder / "recipe.yaml", settings)), said.append)
    return result, said


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def focused(name: str, seeing, **options) -> FocusProcessor:
    model, processor = stock(name)
    native = {"tokens_per_key_frame": 6} if name.startswith(("qwen", "glm", "video_llama", "gemma4")) else {}
    options = {"max_visual_tokens": BUDGET, **native, **options}
    return FocusProcessor(processor, config=model.config, dual_encoder=seeing, **options)


# ---- the collator


@pytest.mark.parametrize("name", FAMILIES)
def test_labels_are_the_answer_alone(seeing, rows, name):
    processor = focused(name, seeing, max_visual_tokens=400)
    row = read(rows)[2]
    encoded = FocusCollator(processor).encode(row)
    learned = encoded["labels"][encoded["labels"] != -100]
    assert torch.equal(encoded["input_ids"][encoded["labels"] != -100], learned)
    text = processor.processor.tokenizer.decode(learned)
    end = "<end_of_utterance>" if name == "smolvlm" else "<|im_end|>"
    assert text.strip() == f"{' ' * (name == 'smolvlm')}No. 200{end}".strip()
    # The prompt of the same row ends where the answer begins.
    prompt, answer = FocusCollator(processor).encode_prompt(row)
    start = int((encoded["labels"][0] != -100).nonzero()[0])
    assert answer == "No. 200" and torch.equal(prompt["input_ids"][0], encoded["input_ids"][0, :start])


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "llava_onevision"])
def test_the_loss_of_a_batch_is_that_of_its_rows(seeing, rows, name):
    """Weighted by their learned tokens, for rows of different lengths and plans, with a row without any video."""
    model, _ = stock(name)
    collator = FocusCollator(focused(name, seeing, max_visual_tokens=400))
    listed = [{"question": "How much is two and two?", "answer": "four, of course"}, *read(rows)[1:3]]
    alone = [collator([row]) for row in listed]
    assert len({one["input_ids"].shape[1] for one in alone}) == 3

    def loss(inputs) -> float:
        if hasattr(model.base_model, "rope_deltas"):
            model.base_model.rope_deltas = None
        with torch.no_grad():
            return model(**inputs).loss.item()

    counts = [int((one["labels"] != -100).sum()) for one in alone]
    expected = sum(loss(one) * count for one, count in zip(alone, counts, strict=True)) / sum(counts)
    batch = collator(listed)
    # Padded on the right: no token stands behind padding, whatever the model makes of that.
    assert bool(batch["attention_mask"][:, 0].all())
    assert loss(batch) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_reach_every_adapter(seeing, rows, name):
    """LoRA goes into all linear layers of the language model, and into nothing else."""
    model = copy.deepcopy(stock(name)[0]).train()
    wrapped = get_peft_model(model, lora_config(model, rank=2, alpha=4, dropout=0.0))
    inputs = FocusCollator(focused(name, seeing, max_visual_tokens=400))(read(rows)[1:2])
    wrapped(**inputs).loss.backward()
    language = parts_of(model)["language_model"][0]
    trained = {name: parameter for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    assert trained and all(f".{language}.layers." in name and ".lora_" in name for name in trained)
    # The second factors start at zero: what is before them has no gradient yet.
    silent = [name for name, p in trained.items() if ".lora_B." in name and (p.grad is None or not p.grad.any())]
    assert silent == []


def test_rows_are_chosen_once_and_workers_need_no_dual_encoder(seeing, rows, monkeypatch):
    collator = FocusCollator(focused("qwen3_vl", seeing))
    listed = read(rows)
    direct = collator(listed)
    chosen = [{**row, **collator.choose(row)} for row in listed]
    assert all(row["num_tokens"] >= collator.encode(row)["input_ids"].shape[1] for row in chosen)
    assert len({json.dumps(row["chosen_frames"]) for row in chosen}) > 1
    without = FocusCollator(focused("qwen3_vl", "no encoder"))
    assert all(torch.equal(value, direct[name]) for name, value in without(chosen).items())
    monkeypatch.setattr("dynfocus.adoption.focus_collator.get_worker_info", lambda: True)
    with pytest.raises(ValueError, match="chosen before training, not in the data loader's workers"):
        without(listed)


def test_several_videos_turns_and_pictures(seeing, rows):
    """Videos share the budget, pictures stand beside them, and all or the last of the turns are learned."""
    folder = rows.parent
    content = [{"type": "video", "video": str(folder / "1.mp4")}, {"type": "video", "video": str(folder / "3.mp4")}]
    content += [{"type": "image", "image": Image.new("RGB", (64, 64))}, {"type": "text", "text": "What?"}]
    turns = [("user", content), ("assistant", "one"), ("user", "And then?"), ("assistant", "two")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    processor = focused("qwen3_vl", seeing)
    for learn_from, answers in (("all", ["one", "two"]), ("last", ["two"])):
        collator = FocusCollator(processor, learn_from=learn_from)
        encoded = collator.encode(row)
        text = processor.processor.tokenizer.decode(encoded["labels"][encoded["labels"] != -100])
        assert text.replace("<|im_end|>", "").split() == answers
        found = collator.choose(row)
        assert len(found["chosen_frames"]) == 2 and len(encoded["image_grid_thw"]) == 1


def test_videos_in_any_form_give_the_same(seeing, rows, tmp_path):
    row = read(rows)[2]
    path = rows.parent / row["video"]
    frames = np.stack([frame for _, frame in whole_video(path).read(range(8))])
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    files = [str(tmp_path / f"{number}.png") for number in range(8)]
    collator = FocusCollator(focused("qwen3_vl", seeing), states=tmp_path / "states")
    expected = collator.encode(row)
    for video in (path.read_bytes(), {"bytes": path.read_bytes(), "path": None}, frames, files):
        given = {**row, "video": video}
        for one in (given, {**given, **collator.choose(given)}):
            assert all(torch.equal(value, expected[name]) for name, value in collator.encode(one).items())
    # What was seen of files, by path or as bytes, is kept.
    assert len(list((tmp_path / "states").iterdir())) == 2


def test_longer_rows_get_a_smaller_budget(seeing, rows):
    processor = focused("qwen3_vl", seeing)
    row = read(rows)[3]
    whole = FocusCollator(processor).encode(row)["input_ids"].shape[1]
    limit = whole - 30
    shrunk = FocusCollator(processor, max_length=limit, on_too_long="shrink")
    assert shrunk.encode(row)["input_ids"].shape[1] <= shrunk.estimate_length(row) <= limit
    with pytest.raises(ValueError, match=rf"3\.mp4.*visual and \d+ text tokens, but `max_length={limit}`"):
        FocusCollator(processor, max_length=limit).encode(row)
    with pytest.raises(ValueError, match="text tokens, but `max_length=100`; .*one key frame costs"):
        FocusCollator(processor, max_length=100, on_too_long="shrink").encode(row)


def test_plain_trainer_on_mapped_rows(seeing, rows, tmp_path):
    """What the documentation shows: transformers' own `Trainer`, and rows that `datasets` maps."""
    from datasets import load_dataset

    model = AutoModelForImageTextToText.from_config(stock("qwen3_vl")[0].config)
    collator = FocusCollator(focused("qwen3_vl", seeing), media_root=rows.parent)
    data = load_dataset("csv", data_files=str(rows), split="train", cache_dir=str(tmp_path / "cache"))
    data = data.map(collator.choose, load_from_cache_file=False)
    args = TrainingArguments(
        str(tmp_path / "run"), use_cpu=True, max_steps=4, remove_unused_columns=False, learning_rate=5e-3,
        logging_steps=1, per_device_train_batch_size=4, report_to="none", dataloader_num_workers=1,
    )  # fmt: skip
    trainer = Trainer(model=model, args=args, train_dataset=data, data_collator=collator)
    trainer.train()
    found = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert found[-1] < found[0]


# ---- parts


@pytest.mark.parametrize("name", ["qwen3_vl", "llava_onevision", "smolvlm", "gemma4"])
def test_every_parameter_of_a_stock_model_has_one_part(name):
    model, _ = stock(name)
    parts = parts_of(model)
    names = [names_in(model, part) for part in parts]
    assert set().union(*names) == {parameter for parameter, _ in model.named_parameters()}
    assert sum(map(len, names)) == len(list(model.named_parameters()))
    assert ("projector" in parts) == (name != "qwen3_vl")


# ---- runs


@pytest.fixture(scope="module")
def lora(models, rows, encoder, tmp_path_factory) -> tuple[Path, Path, list[str]]:
    """A LoRA run of three steps with held-out rows."""
    folder = tmp_path_factory.mktemp("lora")
    settings = settings_of(models("qwen3_vl"), rows, folder / "run", encoder, gradient_checkpointing=True)
    settings["lora"] = {"rank": 4, "alpha": 8}
    settings["data"]["eval"] = str(rows)
    settings["evaluation"] = {"generate_rows": 2, "max_new_tokens": 4}
    result, said = run(settings, folder)
    return result, folder / "run", said


def test_lora_learns_in_the_language_model_alone(lora, models):
    result, folder, said = lora
    assert losses(folder)[-1] < losses(folder)[0]
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert adapter and all(".language_model.layers." in name and ".lora_" in name for name in adapter)
    moved = moved_between(models("qwen3_vl"), result)
    assert moved and all(".language_model." in name and name.endswith("proj.weight") for name in moved)
    assert "Frozen: vision_tower." in said[3]
    names = {path.name for path in result.iterdir()}
    assert {path.name for path in models("qwen3_vl").iterdir()} | {"focus_config.json"} == names
    assert not list(folder.rglob("training_args.bin"))


def test_adapters_load_on_the_stock_model_without_this_package(lora, models, rows, seeing, monkeypatch):
    result, folder, _ = lora
    inputs = FocusCollator(focused("qwen3_vl", seeing))(read(rows)[:2])

    class NotInstalled:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name.partition(".")[0] == "dynfocus":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in [name for name in sys.modules if name.partition(".")[0] == "dynfocus"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NotInstalled, *sys.meta_path])
    with pytest.raises(ModuleNotFoundError):
        import dynfocus  # noqa: F401
    base = AutoModelForImageTextToText.from_pretrained(models("qwen3_vl")).eval()
    with torch.no_grad():
        untrained = base(**inputs).logits
        adapted = PeftModel.from_pretrained(base, folder / "adapter").eval()(**inputs).logits
        merged = AutoModelForImageTextToText.from_pretrained(result).eval()(**inputs).logits
    AutoProcessor.from_pretrained(result)
    assert torch.allclose(adapted, merged, atol=1e-4) and not torch.allclose(adapted, untrained, atol=1e-2)


def test_the_result_is_asked_as_it_was_trained(lora, rows, encoder):
    result, folder, _ = lora
    model, processor = AutoModelForImageTextToText.from_pretrained(result), AutoProcessor.from_pretrained(result)
    pipe = VideoQAPipeline(model=model, processor=processor)
    settings = pipe.video_qa.focus_processor.settings
    assert settings["dual_encoder"] == str(encoder) and settings["max_visual_tokens"] == BUDGET
    assert settings["tokens_per_key_frame"] == 6
    assert FocusProcessor.from_pretrained(result).settings == settings
    # What is given goes before what was saved.
    other = VideoQAPipeline(model=model, processor=processor, tokens_per_key_frame=4).video_qa.focus_processor
    assert other.tokens_per_key_frame == 4 and other.max_visual_tokens == BUDGET
    video = str(rows.parent / "1.mp4")
    done = CliRunner().invoke(app, ["ask", video, "Which number?", "--model", str(result), "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["num_visual_tokens"] <= BUDGET, done.output
    done = CliRunner().invoke(app, ["ask", video, "Which number?", "--model", str(folder / "adapter")])
    assert done.exit_code == 1 and "is an adapter alone" in done.output


def test_the_score_before_training_and_after_it(lora, rows, seeing):
    _, folder, said = lora
    state = json.loads((folder / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "eval_loss" in entry] == [0, 3]
    before, after = (entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry)
    assert after < before
    # It is the stock model's own loss, although the trainer asks for the logits of the answers alone.
    model, collator, listed = stock("qwen3_vl")[0], FocusCollator(focused("qwen3_vl", seeing)), read(rows)
    with torch.no_grad():
        own = [model(**collator(batch)).loss.item() for batch in (listed[:2], listed[2:])]
    assert before == pytest.approx(sum(own) / 2, rel=1e-5)
    assert "before training → after: accuracy 0 → 0 (no answer became right or wrong, " in said[-1]
    assert f"rows), loss {before:.3g} → {after:.3g}." in said[-1]


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("kind", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_an_interrupted_run_goes_on_exactly_and_looks_no_second_time(
    models, rows, encoder, tmp_path, monkeypatch, kind
):
    def change(name):
        options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "linear"}
        settings = settings_of(models("qwen3_vl"), rows, tmp_path / name, encoder, **options)
        settings["training"]["train_sampling_strategy"] = "group_by_length"
        if kind == "lora":
            settings["lora"] = {"rank": 4, "alpha": 8, "dropout": 0.1}
        return settings

    whole, _ = run(change("whole"), tmp_path)

    class Breaking(DynFocusTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.add_callback(BreakAfterThree())

    class BreakAfterThree(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise Interrupted

    monkeypatch.setattr(train_module, "DynFocusTrainer", Breaking)
    with pytest.raises(Interrupted):
        run(change("broken"), tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(DualEncoder, "from_pretrained", lambda *_, **__: pytest.fail("the dual encoder was loaded"))
    result, said = run(change("broken"), tmp_path)
    assert any("checkpoint-2" in line for line in said)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    first, second = weights(whole), weights(result)
    assert all(torch.equal(first[name], second[name]) for name in first)


def moved_between(before: Path, after: Path) -> set[str]:
    """The names of weights that are others."""
    load = AutoModelForImageTextToText.from_pretrained
    first, second = (dict(load(one).named_parameters()) for one in (before, after))
    return {name for name in first if not torch.equal(first[name], second[name])}


@pytest.mark.parametrize("name", ["llava_onevision", "smolvlm"])
def test_full_fine_tuning_of_other_families(models, rows, encoder, tmp_path, name):
    folder = models(name)
    batch = 1 if name == "llava_onevision" else 2
    settings = settings_of(folder, rows, tmp_path / "run", encoder, max_steps=1, per_device_train_batch_size=batch)
    settings["model"].pop("processor")
    settings["data"]["max_visual_tokens"] = 300
    result, said = run(settings, tmp_path)
    moved = moved_between(folder, result)
    tower, language = (parts_of(stock(name)[0])[part][0] for part in ("vision_tower", "language_model"))
    assert any(key.startswith(language) for key in moved) and not any(key.startswith(tower) for key in moved)
    assert any("connector" in key or "projector" in key for key in moved)
    assert type(AutoModelForImageTextToText.from_pretrained(result)) is type(stock(name)[0])
    assert type(AutoProcessor.from_pretrained(result)) is type(stock(name)[1])
    # The tower trains where it is not frozen.
    if name == "smolvlm":
        settings["freeze"] = ["language_model"]
        settings["training"]["output_dir"] = str(tmp_path / "tower")
        result, _ = run(settings, tmp_path)
        moved = moved_between(folder, result)
        assert any(key.startswith(tower) for key in moved) and not any(key.startswith(language) for key in moved)


def test_broken_videos_are_skipped_counted_and_tried_again(models, rows, encoder, tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.mp4").write_bytes((rows.parent / f"{number}.mp4").read_bytes())
    (tmp_path / "2.mp4").write_bytes(b"no video")
    (tmp_path / "rows.csv").write_text(rows.read_text())

    def change(name, workers=0):
        options = {"max_steps": 4, "per_device_train_batch_size": 1, "dataloader_num_workers": workers}
        settings = settings_of(models("qwen3_vl"), tmp_path / "rows.csv", tmp_path / name, encoder, **options)
        settings["data"]["max_bad_fraction"] = 0.5
        return settings

    _, said = run(change("some", workers=1), tmp_path)
    assert said[-1] == "1 of 4 rows could not be read and were left out."
    assert losses(tmp_path / "some").count(0.0) == 1 and all(loss >= 0 for loss in losses(tmp_path / "some"))
    # Mended before the run went on: the row is there.
    settings = change("mended")
    settings["training"] |= {"max_steps": 8, "save_strategy": "steps", "save_steps": 2}
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(DynFocusTrainer, "train", lambda *_, **__: (_ for _ in ()).throw(Interrupted))
    with pytest.raises(Interrupted):
        run(settings, tmp_path)
    monkeypatch.undo()
    (tmp_path / "2.mp4").write_bytes((rows.parent / "2.mp4").read_bytes())
    _, said = run(settings, tmp_path)
    assert "could not be read" not in said[-1]
    for number in range(4):
        (tmp_path / f"{number}.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"None of the rows could be read, so nothing was learned: .*mp4"):
        run(change("none"), tmp_path)


def test_two_processes_look_and_learn_as_one_does(models, rows, encoder, tmp_path):
    """With rows that have no video, at which the tower and the projector have nothing to do."""
    texts = [{"question": f"How much is {n} and one?", "answer": str(n + 1)} for n in range(4)]
    listed = [{"video": None, **row, "media_root": str(rows.parent)} for row in (*read(rows), *texts)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in listed))

    def change(name, size):
        settings = settings_of(models("smolvlm"), path, tmp_path / name, encoder, per_device_train_batch_size=size)
        settings["model"].pop("processor")
        settings["data"] |= {"max_visual_tokens": 200, "media_root": str(rows.parent)}
        settings["training"] |= {"max_steps": 4, "train_sampling_strategy": "group_by_length", "learning_rate": 1e-3}
        return settings

    one, _ = run(change("one", 2), tmp_path)
    said = run_in_two("dynfocus.training.train:main", write_recipe(tmp_path / "two.yaml", change("two", 1)))
    assert "2 processes on cpu, 2 rows a step." in said and "Looking at 4 videos" in said
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-3)
    assert len(list((tmp_path / "two" / "videos").iterdir())) == 4
    first, second = weights(one), weights(tmp_path / "two" / "model")
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-3


# ---- the command


def command(models, rows, encoder, tmp_path, *words, recipe="lora", checkpoint="qwen3_vl"):
    given = [
        f"model.checkpoint={models(checkpoint) if isinstance(checkpoint, str) else checkpoint}",
        f"data.train={rows}",
        f"training.output_dir={tmp_path / 'run'}",
        *("training.use_cpu=true", "training.bf16=false", "training.max_steps=1", "training.report_to=none"),
        *("training.dataloader_num_workers=0", "training.disable_tqdm=true"),
    ]
    given += [] if encoder is None else [f"model.dual_encoder={encoder}"]
    done = CliRunner().invoke(app, ["train", recipe, *given, *words])
    return done.exit_code, done.output


def test_the_recipes_of_the_package_take_a_stock_model(models, rows, encoder, tmp_path):
    """What they say of DynFocus's own parts has no meaning there, and without held-out rows nothing is evaluated."""
    code, said = command(models, rows, encoder, tmp_path, "--check")
    assert code == 0 and "Nothing was trained." in said and "Memory of a process, roughly:" in said, said
    assert "<|video_pad|>×" in said and not (tmp_path / "run").exists()
    code, said = command(models, rows, encoder, tmp_path)
    assert code == 0 and (tmp_path / "run" / "adapter" / "adapter_config.json").is_file(), said
    words = f"training.output_dir={tmp_path / 'full'}", "training.per_device_train_batch_size=1"
    code, said = command(models, rows, encoder, tmp_path, *words, recipe="instruct", checkpoint="llava_onevision")
    assert code == 0 and (tmp_path / "full" / "model" / "config.json").is_file(), said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.dual_encoder=/no/encoder"], "`model.dual_encoder`: '/no/encoder' cannot be used as"),
        (["data.rule=peeks"], "`data.rule`: There is no rule of choice 'peeks': choose one of 'context', 'uniform'"),
        (["data.coarse=tiny"], "`data.coarse`: Input should be 'low', 'panels' or 'none'"),
        (["data.max_visual_tokens=3"], "`max_visual_tokens=3` is too small"),
        (["selection_noise.start=0.1"], "`selection_noise` is for DynFocus models, and "),
        (
            ["data.max_frames=9", "data.key_ratio=0.5"],
            "`data.max_frames`, `data.key_ratio` are for DynFocus models, and ",
        ),
        (["data.streaming=true"], "`data.streaming` is not possible with a stock model"),
        (
            ["learning_rates.selector=1e-3"],
            "'selector' names no part and no parameter of the model: the parts are vis",
        ),
        (["model.processor={tokens_per_frame: 3}"], "`model.config` or `model.processor`: "),
        (["push_to_hub=me/it"], "push_to_hub"),
    ],
)
def test_settings_that_cannot_be(models, rows, encoder, tmp_path, words, message):
    code, said = command(models, rows, encoder, tmp_path, *words)
    error = said[said.index("error: ") :]
    assert code == 1 and message in error and error.count("\n") == 1 and "Looking at" not in said, said


def test_models_that_cannot_be_trained(models, rows, encoder, start, tmp_path):
    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=64
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "llama")
    code, said = command(models, rows, encoder, tmp_path, checkpoint=tmp_path / "llama")
    assert code == 1 and "is a llama model, which reads no videos: `model.checkpoint` takes a" in said
    code, said = command(models, rows, encoder, tmp_path, checkpoint=start)
    assert code == 1 and "`model.dual_encoder` is for stock video language models, and " in said
    words = ("training.per_device_train_batch_size=2",)
    code, said = command(models, rows, encoder, tmp_path, *words, checkpoint="llava_onevision")
    assert code == 1 and "LLaVA-OneVision takes only videos that show the same number of pictures in one batch" in said
