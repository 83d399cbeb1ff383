"""The training of the small stock models: its inputs are those of stock processors, its questions can be answered."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.video_utils import VideoMetadata

from dynfocus.adoption.families import known_family
from dynfocus.eval.synthetic.world import render, sample_episode

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "adoption"))
answering, matching, seeing, showing, stock, train = (
    importlib.import_module(name) for name in ("answering", "matching", "seeing", "showing", "stock", "train")
)
SECONDS = 6


@pytest.fixture(scope="module", params=list(stock.MODELS))
def case(request):
    torch.manual_seed(0)
    processor = stock.PROCESSORS[request.param]()
    return request.param, stock.MODELS[request.param](processor).eval(), processor


@pytest.fixture(scope="module")
def episode():
    return sample_episode(np.random.default_rng(0), SECONDS, "train", (2, 2))


def frames_of(kind, episode):
    seconds = np.arange(SECONDS)
    if kind == "qwen3_vl":
        seconds = np.stack([seconds, seconds + showing.PAIR_SECONDS], 1).flatten()
    return render(episode, 64, seconds), 2.0 if kind == "qwen3_vl" else 1.0


@torch.no_grad()
def test_prompts_and_logits_are_those_of_the_stock_call(case, episode):
    kind, model, processor = case
    frames, fps = frames_of(kind, episode)
    pixels = seeing.as_pixels(frames)
    if kind == "qwen3_vl":
        kept = seeing.qwen_features(model.model.visual, pixels[::2], pixels[1::2])
    else:
        kept = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
    seen = showing.SeenVideos({"64": kept[None]}, [episode])
    question = answering.draw_questions(episode, np.random.default_rng(0), answering._KINDS)[0]
    writer = showing.PROMPTS[kind](model, processor)
    entries = [showing.Entry(place, "64") for place in range(SECONDS)]
    batch = answering.write_batch(writer, seen, [0], [entries], [[question]])
    ours = model.lm_head(answering.hidden_states(model, writer, seen, batch, None).last_hidden_state)

    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question.question}]}]
    metadata = VideoMetadata(total_num_frames=len(frames), fps=fps, frames_indices=list(range(len(frames))))
    inputs = processor(
        text=[processor.apply_chat_template(chat, add_generation_prompt=True)],
        videos=[frames],
        video_metadata=[metadata],
        do_sample_frames=False,
        return_tensors="pt",
    )
    length = inputs["input_ids"].shape[1]
    assert batch.ids[0, :length].tolist() == inputs["input_ids"][0].tolist()
    torch.testing.assert_close(ours[:, :length], model(**inputs).logits, atol=2e-3, rtol=1e-3)
    shown = batch.frames[0].tolist()
    assert [shown.count(second) for second in range(SECONDS)] == [16] * SECONDS
    spread = showing.spread(
        np.random.default_rng(1), writer.positions(batch.ids, batch.mask, [entries]), batch.prompts, 900
    )
    assert bool((spread.diff(dim=-1)[0, 0, :length] >= 0).all()) and 100 < int(spread.max()) <= 900


@pytest.mark.parametrize("kind", list(stock.MODELS))
def test_only_questions_that_the_frames_answer_are_asked(kind):
    rng = np.random.default_rng(3)
    asked = set()
    for lesson in answering.LESSONS[kind]:
        for _ in range(20):
            episode = sample_episode(rng, 32, "train", None)
            entries = lesson.draw(rng, 32)
            fine = {second for entry in entries if entry.form in answering.FINE for second in entry.frames}
            every = {second for entry in entries for second in entry.frames}
            for question in answering.shown_questions(episode, entries, rng):
                asked.add((lesson.name, question.kind))
                needed = fine if answering.needs_cones(question) else every
                assert all(needed & set(episode.events[event].frames) for event in question.event_ids)
                if question.kind in ("count", "order"):
                    assert all(every & set(event.frames) for event in episode.events)
    assert {kind for name, kind in asked if name == "whole"} >= {"number", "count", "order", "motion", "existence"}
    assert ("small", "number") not in asked or kind == "qwen3_vl"
    assert ("clips", "number") in asked


def test_captions_are_true_of_their_frames_only():
    rng = np.random.default_rng(5)
    labels = {name: rng.integers(0, count, 40) for name, count in matching.NAMES.items()}
    labels["present"] = (np.arange(40) % 5 > 0).astype(int)
    for name in matching.NAMES:
        labels[name][labels["present"] == 0] = -100
    rows = np.arange(40)
    texts, named = matching.drawn_captions(labels, rows, rng)
    true = matching.fits(labels, rows, named).numpy()
    assert true[rows, 2 * rows].all() and not true[rows, 2 * rows + 1].any()
    for frame, caption in zip(*true.nonzero(), strict=True):
        for color in matching._COLORS:
            if f" {color}" in f" {texts[caption]}":
                assert matching._COLORS[labels["color"][frame]] == color
        digits = "".join(character for character in texts[caption] if character.isdigit())
        if len(digits) == 3:
            assert digits == "".join(str(labels[name][frame]) for name in ("hundreds", "tens", "ones"))
    assert len({tuple(row) for row in named}) > 20


def test_labels_of_panels_lie_where_their_frames_are():
    frames, labels = seeing.sample_single_frames(np.random.default_rng(7), 8, size=32, empty=0)
    panel = seeing.tiled(frames)
    assert panel.shape == (2, 64, 64, 3)
    np.testing.assert_array_equal(panel[0, 32:, :32], frames[2])
    found = {name: torch.from_numpy(label) for name, label in labels.items()}
    targets, centre = seeing.panel_labels(found)
    quarter = targets["color"].reshape(2, 8, 8)[:, :4, 4:].reshape(2, -1)
    for number in range(2):
        told = quarter[number][quarter[number] >= 0]
        assert len(told) > 0 and (told == labels["color"][4 * number + 1]).all()
    assert bool((centre.reshape(2, 8, 8, 2)[:, :4, 4:, 0] > 0.5).all())
    assert bool((targets["digit"] == -100).all())


@pytest.mark.integration
def test_the_smallest_training_goes_through_and_is_not_done_twice(tmp_path, capsys):
    """Its models load by the stock classes, with the weights in half precision on disk."""
    arguments = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "models"), "--size", "smoke"]
    train.main(arguments)
    for name in stock.MODELS:
        folder = tmp_path / "models" / name
        model = AutoModelForImageTextToText.from_pretrained(folder)
        assert model.dtype == torch.float32
        assert known_family(AutoProcessor.from_pretrained(folder)) is not None
        with safe_open(folder / "model.safetensors", "pt") as weights:
            assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"F16"}
    before = {path: path.read_bytes() for path in (tmp_path / "models").rglob("*.safetensors")}
    capsys.readouterr()
    train.main(arguments)
    assert " step " not in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in (tmp_path / "models").rglob("*.safetensors")}
