"""The benchmark of stock models counts tokens and operations rightly, and runs; its numbers are not tested."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import adopted
from stock_models import ONEVISION, QWEN2, QWEN3, REDUCED, SIZES, Operations, Work

pytestmark = pytest.mark.integration

REDUCED_SIZES = {one.layout: one for one in SIZES[REDUCED]}
LAYOUTS = [QWEN2, QWEN3, ONEVISION]
_QWEN3 = REDUCED_SIZES[QWEN3]
SMALL = replace(
    _QWEN3,
    name="small",
    side=64,
    look_side=32,
    tower={**_QWEN3.tower, "hidden_size": 32, "intermediate_size": 48},
    words={**_QWEN3.words, "hidden_size": 32, "intermediate_size": 48, "head_dim": 16},
)


@pytest.fixture(scope="module")
def contests():
    return {name: adopted.Contest(sizes) for name, sizes in REDUCED_SIZES.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_operations_are_those_that_torch_counts(contests, layout):
    contest, sizes = contests[layout], REDUCED_SIZES[layout]
    inputs = contest.moved(adopted.dense_inputs(sizes, contest.processor, contest.frames(4)))
    model, encoder = contest.model, contest.focused.dual_encoder
    positions = inputs["input_ids"].shape[1]
    names = ("pixel_values_videos", "video_grid_thw")
    runs = {
        "dual encoder": lambda: (encoder.encode_images(contest.frames(4)), encoder.encode_texts(["a", "b"])),
        "vision tower": lambda: model.get_video_features(**{name: inputs[name] for name in names if name in inputs}),
        "language model": lambda: model.lm_head(
            model.model.language_model(inputs_embeds=torch.zeros(1, positions, sizes.words["hidden_size"]))[0][:, -1:]
        ),
    }
    # With plain attention, which computes the whole square.
    work = Work([sizes.grid**2] * (4 // sizes.pair), positions, looked_at=4, texts=2)
    expected = Operations(sizes, causal=1.0)(work)
    for each in (model, encoder.model):
        each.set_attn_implementation("eager")
    try:
        for part, run in runs.items():
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                run()
            assert counter.get_total_flops() == pytest.approx(expected[part], rel=0.003), part
    finally:
        for each in (model, encoder.model):
            each.set_attn_implementation("sdpa")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokens_of_a_dense_prompt_are_counted(contests, layout):
    contest, sizes = contests[layout], REDUCED_SIZES[layout]
    words = contest.processor.tokenizer(adopted._text(contest.processor, False))["input_ids"]
    for num_frames in (4, 14):
        inputs = adopted.dense_inputs(sizes, contest.processor, contest.frames(num_frames))
        expected = inputs["input_ids"].shape[1] - len(words)
        assert adopted.dense_tokens(sizes, contest.processor, num_frames) == expected


@pytest.fixture(scope="module")
def published():
    return [Operations(sizes) for sizes in SIZES["7b"]]


def test_key_frames_and_coarse_ones_fit_into_a_part_of_the_dense_tokens(published):
    for operations in [*published, *map(Operations, SIZES[REDUCED])]:
        sizes, counted = operations.sizes, adopted.Counted(operations, adopted.BUDGET_FRAMES)
        dense, focused = (positions - counted.words for positions in counted.positions)
        assert counted.plan.num_key_frames == (16 if sizes.layout == ONEVISION else 8)
        assert counted.plan.num_coarse == counted.plan.num_key_frames * adopted.COARSE[sizes.layout]
        assert 0.12 * dense < focused <= 0.17 * dense


def test_reduced_models_have_nearly_the_proportions_of_published_ones(published):
    def shares(operations):
        sizes, count = operations.sizes, 128 // operations.sizes.pair
        parts = operations(Work([sizes.grid**2] * count, count * sizes.frame_tokens, 128))
        return [parts[name] / parts["language model"] for name in ("dual encoder", "vision tower")]

    for sizes, full in zip(SIZES[REDUCED], published, strict=True):
        assert sizes.layout == full.sizes.layout
        ratios = [a / b for a, b in zip(shares(Operations(sizes)), shares(full), strict=True)]
        assert all(0.8 < ratio < 1.25 for ratio in ratios)


def test_it_compares_and_asks_and_looks(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(adopted, "in_child", lambda function, *args: function(*args))
    monkeypatch.setitem(SIZES, "small", (SMALL,))
    monkeypatch.setattr(adopted, "counted_sizes", lambda: SIZES["4b"])
    monkeypatch.setattr(adopted, "NUM_FURTHER", 1)
    monkeypatch.setattr(adopted, "GOALS", {4: 4.0, 6: 12.0})
    monkeypatch.setattr(adopted, "FAR_FRAMES", 6)
    adopted.main(
        frames="4,6",
        size="small",
        layouts=QWEN3,
        rounds=1,
        file_seconds=2,
        minutes="0.0333,0.0667",
        training=True,
        folder=tmp_path,
        json_file=tmp_path / "out.json",
    )
    printed = capsys.readouterr().out
    assert "times as fast, looking included (goal: at least 4)" in printed
    assert "positions (goal: at most 32,768); dense has" in printed
    assert "small, 2 s, frames kept: a further question takes" in printed and "A LoRA step at 4 frames" in printed
    assert "goal: at most 10 % and 6 MB more" in printed and "Qwen3-VL 4B" in printed and "out of" not in printed
    assert " ms" not in printed
    found = json.loads((tmp_path / "out.json").read_text())["results"]["small"]
    assert list(found) == ["4", "6"] and found["4"]["peaks"][0] > 0 and found["4"]["of_focused"]["focused"] == [1]


def test_a_dense_model_beyond_the_memory_is_left_out(monkeypatch, contests):
    contest = contests[ONEVISION]

    def dense(frames):
        raise MemoryError

    monkeypatch.setattr(contest, "dense", dense)
    report = adopted.Report("adopted", {})
    adopted.add_results(report, {ONEVISION: {128: adopted.compare(contest, 4, 1)}}, absolute=True)
    assert report.tables[0]["rows"][0][5] == "out of memory" and report.goals == []


def test_an_unknown_size_is_refused():
    with pytest.raises(typer.BadParameter, match="'3b' is not one of reduced, 0.5b, 4b, 7b"):
        adopted.main(size="3b")


# -------------------------------------------------------------------------------------------------------------- gpu.sh

GPU = Path(adopted.__file__).with_name("gpu.sh")
RECORDER = """#!/bin/bash
case "$*" in *benchmarks/*) echo "$*" >> "$RECORDED";; esac
case "$*" in *"$FAILING"*) exit 3;; esac
"""


def run_gpu(
    folder: Path, *options: str, failing: str = "nothing fails"
) -> tuple[subprocess.CompletedProcess, list[str]]:
    """The script with something else for Python, and the benchmarks that it would run."""
    python = folder / "python"
    python.write_text(RECORDER)
    python.chmod(0o755)
    (folder / "recorded").write_text("")
    changed = {"PYTHON": str(python), "RECORDED": str(folder / "recorded"), "FAILING": failing}
    command = ["bash", str(GPU), "--out", str(folder / "out"), *options]
    done = subprocess.run(command, env={**os.environ, **changed}, capture_output=True, text=True)
    return done, (folder / "recorded").read_text().splitlines()


@pytest.mark.parametrize("options", [(), ("--cpu",)])
def test_the_gpu_script_gives_options_that_the_benchmarks_have(tmp_path, options):
    done, commands = run_gpu(tmp_path, *options)
    assert done.returncode == 0 and len(commands) == (3 if options else 7)
    for command in commands:
        script, *words = command.removeprefix("-W ignore benchmarks/").split(" ")
        app = typer.Typer()
        app.command()(importlib.import_module(script.removesuffix(".py")).main)
        given = typer.main.get_command(app).make_context(script, words).params
        assert given["device"] == ("cpu" if options else "cuda") and given["json_file"].parent == tmp_path / "out"
        assert given.get("size", given.get("scale")) in ("reduced", "tiny", "0.5b", "7b")


def test_the_gpu_script_goes_on_after_a_failure_and_says_it(tmp_path):
    done, commands = run_gpu(tmp_path, "--cpu", failing="versus_peers")
    assert done.returncode == 1 and len(commands) == 3 and "trained-7b: stopped with 3" in done.stdout
    done, commands = run_gpu(tmp_path, "--minutes", "0")
    assert done.returncode == 1 and commands == [] and "adopted-7b: no time left" in done.stdout
    assert run_gpu(tmp_path, "--gpu")[0].returncode == 2
