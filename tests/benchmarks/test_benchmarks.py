"""The benchmarks run, compare like with like, and count memory rightly; their numbers are not tested."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
import typer

ROOT = Path(__file__).resolve().parents[2]
# Benchmarks share `measuring.py`, which they find beside them.
sys.path.append(str(ROOT / "benchmarks"))


def load(name: str):
    """A benchmark as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


training = load("training_throughput")


def small_scale(dtype: torch.dtype = torch.float32):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return training.Scale(sizes, {**sizes, "vocab_size": 64, "num_key_value_heads": 1}, dtype)


@pytest.fixture
def pair():
    """A function of its settings: the two models in training, on three frames."""

    def make(dtype: torch.dtype = torch.float32, gradient_checkpointing: bool = False):
        scale = small_scale(dtype)
        models = training.build_models(scale, "cpu", gradient_checkpointing)
        weights = {weight: None for model in models for weight in model.parameters() if weight.requires_grad}
        optimizer = torch.optim.AdamW(weights, lr=0.1)
        inputs = training.make_inputs(3, scale, "cpu")
        return [training.Training(*one, optimizer) for one in zip(models, inputs, strict=True)]

    return make


def saved_bytes(one) -> int:
    """What autograd keeps of one step, weights aside."""
    weights = {weight.untyped_storage().data_ptr() for weight in one.model.parameters()}
    given = {tensor.untyped_storage().data_ptr() for tensor in one.inputs.values()}
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights | given:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = one.model(**one.inputs).loss
    loss.backward()
    return sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_train_the_same_language_model_and_leave_the_tower(pair, dtype):
    pairs = pair(dtype)
    before = [{name: weight.clone() for name, weight in one.model.named_parameters()} for one in pairs]
    for one, start in zip(pairs, before, strict=True):
        shared = one.model.model.language_model.layers[0].mlp.up_proj.weight
        first = shared.clone()
        one.step()
        assert not torch.equal(shared, first)
        for name, weight in one.model.named_parameters():
            moved = not torch.equal(weight, start[name])
            assert moved <= weight.requires_grad, name
            assert weight.requires_grad != ("vision_tower" in name), name
            assert weight.isfinite().all(), name
    ours, llava = (one.model.model for one in pairs)
    assert ours.language_model is llava.language_model and ours.vision_tower.backbone is llava.vision_tower


def test_the_tower_runs_the_same_layers_for_both(pair):
    ours, llava = (one.model.model for one in pair())
    seen = []
    hook = llava.multi_modal_projector.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    pixels = torch.randn(1, 2, 3, training.IMAGE_SIZE, training.IMAGE_SIZE)
    llava.get_video_features(pixels)
    hook.remove()
    # LLaVA-OneVision takes the last layer without the norm that follows it.
    normed = ours.vision_tower.backbone.post_layernorm(seen[0])
    assert torch.allclose(normed, ours.vision_tower(pixels[0]).last_hidden_state, atol=1e-5)


def test_memory_held_is_what_autograd_saves(pair):
    for one in pair():
        one.step()
        held, peak = one.memory()
        saved = saved_bytes(one)
        assert saved <= held * 1.001 and held < 1.1 * saved
        assert held < peak


def test_gradient_checkpointing_holds_less(pair):
    for full, checkpointed in zip(pair(), pair(gradient_checkpointing=True), strict=True):
        assert checkpointed.memory()[0] < 0.8 * full.memory()[0]


def test_live_bytes_follow_storages():
    given = torch.zeros(100)
    with training.LiveBytes() as live:
        given.add_(1)
        given.view(10, 10).t()
        assert live.now == 0
        made = given + 1
        view = made[5:]
        assert live.now == live.peak == 400
        del made
        assert live.now == 400
        del view
        assert live.now == 0
        given + 1
        assert (live.now, live.peak) == (0, 400)


def test_it_prints_ratios_and_a_goal(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(training.SCALES, "small", small_scale())
    monkeypatch.setattr(training, "GOAL_FRAMES", 3)
    training.main(frames="2,3", scale="small", rounds=2, json_file=tmp_path / "out.json")
    printed = capsys.readouterr().out
    assert "memory held" in printed and "vision tower" in printed and "Goal at 3 frames" in printed
    assert "GiB" not in printed
    rows = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [row["num_frames"] for row in rows] == [2, 3]
    for row in rows:
        assert len(row["speed_ratio"]) == 2 and "seconds" not in row
        frames = row["num_frames"]
        assert row["visual_tokens"] == [frames * 40, frames * 196 + 1]
        assert sum(row["shares"].values()) == pytest.approx(1, abs=0.1)
        assert all(share > 0 for share in row["shares"].values())


def test_absolute_numbers_on_demand(monkeypatch, capsys):
    monkeypatch.setitem(training.SCALES, "small", small_scale())
    training.main(frames="1", scale="small", rounds=1, absolute=True)
    assert "GiB at peak" in capsys.readouterr().out


@pytest.mark.parametrize(("speed", "held", "words"), [(3.1, 0.3, ["met", "met"]), (2.9, 0.4, ["MISSED", "MISSED"])])
def test_a_missed_goal_is_said(speed, held, words):
    lines = training.goal_lines({"speed_ratio": [speed], "held_ratio": held})
    assert [line.split(":")[0] for line in lines] == words


def test_an_unknown_scale_is_refused():
    with pytest.raises(typer.BadParameter, match="'3b' is not one of tiny, 0.5b, 7b"):
        training.main(scale="3b")
