"""The benchmarks of inference run at their smallest size, and measure what they say; their numbers are not tested."""

import json
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from transformers.models.llava_next_video import LlavaNextVideoProcessor, LlavaNextVideoVideoProcessor
from transformers.models.llava_onevision import LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor
from transformers.models.qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.video_llama_3 import VideoLlama3Processor, VideoLlama3VideoProcessor

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import ask_many
import decoders
import long_video
import made_videos
import measuring
import peers
import selection
import versus_peers
import write_performance
from made_videos import FPS, read_number
from measuring import MIB, HostMemory, Report, Spread, put_text, results_as_text
from training_throughput import SCALES, Scale

from dynfocus.processing.reading.video_reading import read_video

pytestmark = pytest.mark.integration

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL = Scale(SIZES, {**SIZES, "vocab_size": 64, "num_key_value_heads": 1}, torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the made videos are kept."""
    return tmp_path_factory.mktemp("videos")


#: Files of 180p: what is looked at is there, and they are made and read in a fraction of the time.
small_video = partial(made_videos.make_video, shrink=4)


@pytest.fixture
def small_videos(monkeypatch):
    for script in (decoders, long_video, ask_many):
        monkeypatch.setattr(script, "make_video", small_video)


@pytest.fixture(scope="module")
def models():
    return peers.build_models(SMALL)


@contextmanager
def here():
    """Instead of a process of its own, which takes seconds to start."""
    yield lambda function, *args: function(*args)


# ---------------------------------------------------------------------------------------------------------- measuring


def test_contenders_take_turns_and_each_comes_first():
    order = []
    times = measuring.in_turn({name: lambda name=name: order.append(name) for name in "abc"}, rounds=3, warm_up=1)
    assert order == [*"abc", *"abc", *"bca", *"cab"]
    assert all(len(spread.rounds) == 3 and min(spread.rounds) >= 0 for spread in times.values())


def test_a_ratio_is_of_each_round():
    ratio = Spread((2.0, 9.0, 4.0)) / Spread((1.0, 3.0, 4.0))
    assert ratio.rounds == (2.0, 3.0, 1.0)
    assert str(ratio) == "2 (1–3)" and (ratio.lowest, ratio.median, ratio.highest) == (1, 2, 3)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_exponent_of_growth(power):
    sizes = [32, 128, 512]
    assert measuring.growth_exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


def test_host_memory_sees_what_came_and_went():
    with HostMemory(0.005) as memory:
        block = torch.ones(64 * MIB // 4)
        del block
    assert 60 * MIB < memory.above < 100 * MIB
    assert max(size for _, size in memory.line) <= memory.peak
    with HostMemory() as later:
        pass
    assert later.above < 10 * MIB and later.line == []


def test_peak_tensor_bytes_count_what_is_made():
    given = torch.ones(MIB)
    assert measuring.peak_tensor_bytes(lambda: (given + 1) + 1) == 2 * 4 * MIB


def test_beyond_the_limit_memory_runs_out_and_comes_back():
    with pytest.raises(RuntimeError) as caught, measuring.memory_limit(32 * MIB):
        torch.ones(128 * MIB)
    assert measuring.is_out_of_memory(caught.value) and not measuring.is_out_of_memory(RuntimeError("shape"))
    with measuring.memory_limit(32 * MIB):
        torch.ones(MIB)
    torch.ones(128 * MIB)


def test_a_child_is_another_process():
    import os

    assert measuring.in_child(os.getpid) != os.getpid()


def test_a_report_is_text_and_json(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks/some.py", "--json", str(tmp_path), "--rounds", "3"])
    report = Report("some", {"rounds": 3})
    report.add_table("A table", ["name", "value"], [["one", 1], ["three hundred", 300]])
    report.add_goal("2 times (goal: 3)", False)
    report.add_goal("4 times (goal: 3)", True)
    report.finish(tmp_path / "new" / "some.json")
    printed = capsys.readouterr().out
    assert "| three hundred | 300   |" in printed and "- MISSED: 2 times" in printed and "- met: 4 times" in printed
    assert f"torch {torch.__version__.split('+')[0]}" in printed
    written = json.loads((tmp_path / "new" / "some.json").read_text())
    assert written["settings"] == {"rounds": 3} and [goal["met"] for goal in written["goals"]] == [False, True]
    assert written["machine"]["command"] == "python benchmarks/some.py --rounds 3"


# ------------------------------------------------------------------------------------------------------- versus_peers


def test_all_run_the_same_layers(models):
    for name, model in models.items():
        inner = getattr(model, "model", model)
        inner = inner.model if name == peers.RODS else inner
        words = inner.language_model.config
        assert (words.hidden_size, words.num_hidden_layers) == (16, 2), name
    shared = models[peers.OURS].model.language_model
    assert all(models[name].model.language_model is shared for name in peers.DENSE if name != peers.QWEN)
    qwen = models[peers.QWEN].model
    weights = [sum(weight.numel() for weight in each.layers.parameters()) for each in (shared, qwen.language_model)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("num_frames", [1, 4, 5])
def test_inputs_are_what_the_models_own_processors_give(num_frames):
    """Number and shape of pixels, and the placeholders, by the code of transformers."""
    inputs = peers.make_inputs(num_frames, SMALL)
    side = peers.IMAGE_SIZE
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, 3, side, side), dtype=np.uint8)
    square = {"height": side, "width": side}
    cases = {
        peers.ONEVISION: (LlavaOnevisionVideoProcessor(size=square), LlavaOnevisionProcessor),
        peers.NEXT_VIDEO: (
            LlavaNextVideoVideoProcessor(size={"shortest_edge": side}, crop_size=square),
            LlavaNextVideoProcessor,
        ),
        # Only frames that fit into their budget keep their size.
        peers.VIDEO_LLAMA: (
            VideoLlama3VideoProcessor(size={"shortest_edge": 28 * 28, "longest_edge": num_frames * side**2}),
            VideoLlama3Processor,
        ),
        peers.QWEN: (Qwen2VLVideoProcessor(cap_pixels_per_frame=False), Qwen2_5_VLProcessor),
    }
    for name, (video_processor, processor) in cases.items():
        made = video_processor([torch.from_numpy(frames)], return_tensors="pt", return_metadata=True)
        ours = inputs[name]
        for key in ("pixel_values_videos", "video_grid_thw", "video_merge_sizes", "video_compression_mask"):
            assert (key in made) == (key in ours), (name, key)
            if key in made:
                assert made[key].shape == ours[key].shape, (name, key)
        if name == peers.VIDEO_LLAMA:
            made["video_metadata"] = [SimpleNamespace(fps=1, timestamps=[float(t) for t in range(num_frames)])]
        face = SimpleNamespace(
            video_token="#",
            video_processor=video_processor,
            patch_size=peers.PATCH_SIZE,
            num_image_tokens=peers.GRID**2,
            vision_feature_select_strategy="full",
        )
        text = processor.replace_video_token(face, made, 0)
        assert text.count("#") == int((ours["input_ids"] == peers.VIDEO).sum()), name
        assert text.count("Time") == (num_frames if name == peers.VIDEO_LLAMA else 0)


def test_the_rods_are_those_of_the_full_layout(models):
    model, inputs = models[peers.OURS], peers.make_inputs(3, SMALL)
    given = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    for name in (peers.OURS, peers.RODS):
        versus_peers.first_token(models[name], inputs[name])
    hook.remove()
    full, rods = given
    start = peers.TURN_TOKENS
    assert full.shape[1] - rods.shape[1] == 3 * 38
    # All three frames are key frames of the full layout: each one's 38 cones come before its rods.
    rods_of_full = full[0, start : start + 120].unflatten(0, (3, 40))[:, 38:].flatten(0, 1)
    assert torch.allclose(rods[0, start : start + 6], rods_of_full, atol=1e-5)


def test_it_compares_with_peers(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(SCALES, "small", SMALL)
    monkeypatch.setattr(versus_peers, "GOAL_FRAMES", 2)
    monkeypatch.setattr(versus_peers, "FAR_FRAMES", 3)
    monkeypatch.setitem(versus_peers.CONTEXT, peers.QWEN, 430)
    versus_peers.main(frames="2,3", size="small", rounds=1, json_file=tmp_path / "out.json")
    printed = capsys.readouterr().out
    assert "out of context (432 of 430 positions)" in printed and "ms to first token" not in printed
    assert "times as fast as the fastest dense model" in printed and f"{peers.ONEVISION}: answers" in printed
    found = json.loads((tmp_path / "out.json").read_text())["results"]
    for number in (2, 3):
        outcomes = found[str(number)]
        assert outcomes[peers.OURS]["tokens"] == number * 40 and outcomes[peers.RODS]["tokens"] == number * 2
        assert outcomes[peers.ONEVISION]["peak"] > 0 and "seconds" not in outcomes[peers.ONEVISION]
    assert found["3"][peers.QWEN]["why_not"] and not found["2"][peers.QWEN]["why_not"]


def test_who_needs_more_than_the_limit_is_out_of_memory(monkeypatch, models):
    def first_token(model, inputs):
        torch.ones((64 if model is models[peers.ONEVISION] else 1) * MIB)

    monkeypatch.setattr(versus_peers, "first_token", first_token)
    outcomes = versus_peers.compare(models, peers.make_inputs(8, SMALL), rounds=1, limit=128 * MIB)
    assert outcomes[peers.ONEVISION].why_not == "out of memory (beyond 0.125 GiB)"
    assert all(one.why_not is None and one.seconds for name, one in outcomes.items() if name != peers.ONEVISION)
    report = Report("versus_peers", {})
    versus_peers.add_results(report, {8: outcomes}, absolute=False)
    assert any("out of memory" in row[3] for row in report.tables[0]["rows"])


def test_an_unknown_size_is_refused():
    with pytest.raises(typer.BadParameter, match="'3b' is not one of tiny, 0.5b, 7b"):
        versus_peers.main(size="3b")


# ----------------------------------------------------------------------------------------- files, decoders, long_video


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_a_repeated_file_holds_its_part_over_and_over(folder, decoder):
    if decoder == "decord":
        pytest.importorskip("decord")
    path, part_frames = small_video(folder, 4, part_seconds=2)
    video = read_video(path, fps=FPS, size=224, decoder=decoder)
    assert video.metadata.total_num_frames == 4 * FPS == 2 * part_frames
    assert [read_number(frame) for frame in video.frames] == [*range(part_frames)] * 2
    assert np.allclose(np.diff(video.timestamps), 1 / FPS)


def test_a_length_that_is_no_multiple_is_refused(folder):
    with pytest.raises(ValueError, match="130 s is no multiple of the 120 s"):
        small_video(folder, 130)


def test_it_compares_decoders(small_videos, monkeypatch, folder, tmp_path, capsys):
    monkeypatch.setattr(decoders, "child_process", here)
    decoders.main(seconds="2", rounds=1, folder=folder, json_file=tmp_path / "out.json")
    printed = capsys.readouterr().out
    assert "auto takes pyav, which reads right frames" in printed
    cell = json.loads((tmp_path / "out.json").read_text())["results"]["2 s, 64 frames, uniform"]
    assert cell["pyav"]["right"] and cell["pyav"]["frames"] == 50 and cell["pyav"]["time_ratio"] == [1]
    assert cell["pyav, jumping"]["right"] and "seconds" not in cell["pyav"]


def test_wrong_frames_are_found_out(monkeypatch, folder):
    path, part_frames = small_video(folder, 2)
    right = decoders.read

    def late(*args):
        frames, numbers = right(*args)
        return frames, numbers + 1

    assert decoders.read_once(path, {"fps": 5.0}, "pyav", part_frames)["right"]
    monkeypatch.setattr(decoders, "read", late)
    assert not decoders.read_once(path, {"fps": 5.0}, "pyav", part_frames)["right"]


def test_it_encodes_long_videos(small_videos, monkeypatch, folder, tmp_path, capsys):
    monkeypatch.setattr(long_video, "in_child", lambda function, *args: function(*args))
    long_video.main(minutes="0.0333,0.0667", rounds=2, folder=folder, json_file=tmp_path / "out.json")
    printed = capsys.readouterr().out
    assert "goal: at most 10 % more and the state" in printed and "times the longer of reading" in printed
    found = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [one["frames"] for one in found.values()] == [2, 4]
    for one in found.values():
        assert len(one["line"]) > 1 and one["peak"] >= one["before"] and one["state_bytes"] > 0
        assert len(one["asked"]) == 2 and len(one["decode_share"]) == 2


def test_it_asks_many_questions(small_videos, monkeypatch, folder, tmp_path, capsys):
    monkeypatch.setattr(ask_many, "NUM_QUESTIONS", 2)
    monkeypatch.setattr(ask_many, "BATCH_SIZES", (2,))
    monkeypatch.setattr(ask_many, "GOAL_FRAMES", 3)
    ask_many.main(frames="3", rounds=1, folder=folder, json_file=tmp_path / "out.json")
    assert "a later question takes" in capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())["results"]["3"]
    assert 0 < found["later"][0] and set(found["batches"]) == {"2"}


def test_it_measures_selection(tmp_path, capsys):
    selection.main(frames="4,8", scale="smoke", rounds=1, naive_frames=8, json_file=tmp_path / "out.json")
    assert "DPE and CCE alone" in capsys.readouterr().out
    rows = json.loads((tmp_path / "out.json").read_text())["results"]["rows"]
    assert [row["frames"] for row in rows] == [4, 8] and all(row["peak"] > 0 for row in rows)


# ------------------------------------------------------------------------------------------------- docs/performance.md


def test_results_are_put_into_the_page(tmp_path, capsys):
    (tmp_path / "results").mkdir()
    page = "# Title\n\n<!-- long_video -->\n<!-- end -->\n\nBetween.\n\n<!-- decoders -->\nold\n<!-- end -->\n"
    (tmp_path / "performance.md").write_text(page)
    report = Report("long_video", {})
    report.add_table("A table", ["name"], [["one"]])
    report.results = {"1 min": {"line": [(0.0, MIB), (1.0, 2 * MIB)]}}
    report.finish(tmp_path / "results" / "long_video.json")
    for _ in range(2):
        write_performance.main(tmp_path / "results", docs=tmp_path)
    written = (tmp_path / "performance.md").read_text()
    assert written.count("| one  |") == 1 and "Between." in written and "\nold\n" in written
    assert (tmp_path / "images" / "long_video.png").read_bytes().startswith(b"\x89PNG")
    one = {"of_focused": {"focused": [1.0, 1.0], "state": [0.5, 0.6], "dense": [4.0, 5.0]}}
    write_performance.draw("adopted", {"a model": {"128": one, "512": one}}, tmp_path / "adopted.png")
    assert (tmp_path / "adopted.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="has no place for elsewhere"):
        put_text(page, "elsewhere", "text")


def test_the_page_has_a_place_for_each_script():
    page = (write_performance.DOCS / write_performance.PAGE).read_text()
    for name in ("adopted", "selection", "versus_peers", "long_video", "ask_many", "decoders"):
        report = Report(name, {})
        filled = put_text(page, name, results_as_text(vars(report)))
        assert f"<!-- {name} -->\n\n`{report.machine['command']}`" in filled
