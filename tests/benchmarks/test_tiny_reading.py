"""The stage in which the tiny language model learns to read: what it is shown, and where it is shown to look."""

import math

import numpy as np
import pytest
import torch
from recipe.chats import Chats, ChatWriter
from recipe.data import frame_labels, needs_cones
from recipe.guidance import GUIDED_LAYERS, guidance_loss
from recipe.model import build_config, build_processor
from recipe.naming import NAMES, Naming
from recipe.positions import spread_positions
from recipe.reading import CONES, READERS, Reader, draw_chats, read, told_tokens
from recipe.tokenizer import build_tokenizer

from dynfocus import DynFocusForConditionalGeneration
from dynfocus.eval.synthetic.questions import Question
from dynfocus.eval.synthetic.world import sample_episode


@pytest.fixture(scope="module")
def processor():
    return build_processor(build_tokenizer(episodes=40))


def new_model(processor):
    torch.manual_seed(0)
    model = DynFocusForConditionalGeneration(build_config(processor.tokenizer))
    return model, Naming(model, processor.tokenizer, seed=0)


def test_told_tokens_say_what_the_frames_show(processor):
    _, naming = new_model(processor)
    episodes = [sample_episode(np.random.default_rng(seed), 12, "train", (2, 3)) for seed in range(5)]
    keys = np.stack([np.random.default_rng(seed).permutation(12)[:4] for seed in range(5)])
    keys.sort(axis=1)
    tokens, frames = told_tokens(naming, episodes, keys, torch.Generator().manual_seed(0))
    assert (frames.diff(dim=1) >= 0).all()
    right = []
    for video, episode in enumerate(episodes):
        labels = frame_labels(episode)
        for frame in range(12):
            own = tokens[video][frames[video] == frame]
            is_key = frame in keys[video]
            assert len(own) == 2 + CONES * is_key
            if not labels["present"][frame]:
                assert own.norm(dim=1).max() < 0.5 * naming.present.norm()
                continue
            for name in NAMES:
                # The token that says most about it says the right thing; rods come last, and say no digits.
                fit = own @ naming.codes[name].T
                if name in ("color", "shape"):
                    right.append((fit[-1].argmax() == labels[name][frame]).item())
                if is_key:
                    right.append((fit[:-2].amax(0).argmax() == labels[name][frame]).item())
    # Directions are random, and not quite at right angles to each other.
    assert len(right) > 60 and np.mean(right) > 0.95


def test_chats_ask_what_the_key_frames_answer():
    asked_detail = 0
    for seed, reader in enumerate(READERS * 2):
        episodes, turns, keys = draw_chats(np.random.default_rng(seed), reader)
        assert len(episodes) == len(turns) == len(keys) == reader.batch_size
        for questions, frames in zip(turns, keys, strict=True):
            detail = [one for one in questions if needs_cones(one)]
            asked_detail += len(detail)
            assert all(set(frames.tolist()) & set(one.frames) for one in detail)
    assert asked_detail > 100


@pytest.fixture
def two_chats(processor):
    """Two questions about a video of 6 frames and 12 tokens, and one that rests on no frames."""
    number = Question("Which number is shown with the red star?", "471", "number", (0,), (2, 3))
    motion = Question("Which way does the blue cross move?", "left", "motion", (1,), (5,))
    count = Question("How many shapes appear?", "2", "count", (0, 1), (2, 3, 5))
    writer = ChatWriter(processor)
    return writer, writer.write([[number, motion], [count]], 12, 6), torch.arange(6).repeat_interleave(2).expand(2, -1)


def test_each_answer_knows_its_question(two_chats):
    writer, chats, _ = two_chats
    answers = [
        writer.tokenizer.decode(chats.input_ids[row][chats.turn_of_token[row] == turn], skip_special_tokens=True)
        for row, turn in ((0, 0), (0, 1), (1, 0))
    ]
    assert [answer.strip() for answer in answers] == ["471", "left", "2"]
    assert torch.equal(chats.turn_of_token >= 0, chats.labels != -100)
    assert chats.looked_at.sum(2).tolist() == [[2, 1], [0, 0]]
    questions = chats.questions(len(writer.before) + 12, writer.tokenizer)
    text = writer.tokenizer.decode(questions[0][questions[0] != -100])
    assert "red star" in text and "blue cross" in text and "471" not in text


def attention_on(chats: Chats, start: int, frames: dict[int, tuple[int, ...]]) -> list[torch.Tensor]:
    """All attention of each answer of the first chat goes evenly to the tokens of these frames, two a frame."""
    length = chats.input_ids.shape[1]
    attention = torch.zeros(2, 1, length, length)
    for turn, looked in frames.items():
        before = (chats.turn_of_token[0] == turn).nonzero()[:, 0] - 1
        for frame in looked:
            attention[0, 0, before, start + 2 * frame] = attention[0, 0, before, start + 2 * frame + 1] = 0.5 / len(
                looked
            )
    return [attention.requires_grad_()] * 4


def test_guidance_is_the_attention_to_the_frames_of_the_answer(two_chats):
    writer, chats, frames = two_chats
    start = len(writer.before)

    def loss(looked):
        return guidance_loss(attention_on(chats, start, looked), chats, frames, start)

    right, share = loss({0: (2, 3), 1: (5,)})
    assert right.item() == pytest.approx(0, abs=1e-3) and share == pytest.approx(1)
    half, share = loss({0: (2, 1), 1: (5, 4)})
    assert half.item() == pytest.approx(len(GUIDED_LAYERS) * math.log(2), rel=1e-2) and share == pytest.approx(0.5)
    assert loss({0: (0,), 1: (0,)})[0] > 10
    counts = Chats(**{name: value[1:] for name, value in vars(chats).items()})
    assert guidance_loss([torch.rand(1, 1, 60, 60)] * 4, counts, frames[1:], start) == (0, 0)
    # A count rests on no event of its own: the second chat changes nothing.
    attention = attention_on(chats, start, {0: (2, 3), 1: (5,)})[0]
    (gradient,) = torch.autograd.grad(guidance_loss([attention] * 4, chats, frames, start)[0], attention)
    assert gradient[0].any() and not gradient[1].any()


def test_reading_is_the_same_again_and_kept(processor, tmp_path):
    readers = (Reader(0.5, 8, (1, 1), (1,), 2, 2, guidance=0.0), Reader(0.5, 8, (2, 2), (2,), 2, 3, 1.0, 200))
    weights, logs = [], []
    for folder in (tmp_path / "a", tmp_path / "b", tmp_path / "b"):
        folder.mkdir(exist_ok=True)
        model, naming = new_model(processor)
        before = model.lm_head.weight.clone()
        read(model, naming, processor, folder, steps=4, seed=3, device="cpu", log=logs.append, readers=readers)
        assert not torch.equal(before, model.lm_head.weight)
        weights.append({name: weight.clone() for name, weight in model.named_parameters()})
    for other in weights[1:]:
        assert all(torch.equal(weight, other[name]) for name, weight in weights[0].items())
    assert (tmp_path / "b/reading.partial").exists() and not logs


def test_positions_are_spread_over_the_video_alone():
    drawn = [spread_positions(np.random.default_rng(seed), 4, 60, slice(10, 50), 500) for seed in range(40)]
    usual = [one for one in drawn if one is None]
    assert 2 < len(usual) < 25
    ends = []
    for positions in drawn:
        if positions is not None:
            steps = positions.diff(dim=1)
            assert positions.shape == (4, 60) and (positions[:, :10] == torch.arange(10)).all()
            assert (steps >= 1).all() and (steps[:, 50:] == 1).all()
            assert ((steps > 1).sum(1) <= 8).all()
            ends += positions[:, -1].tolist()
    assert min(ends) < 70 and 300 < max(ends) < 500
    # Nothing to spread, or no room for it.
    assert spread_positions(np.random.default_rng(1), 4, 60, slice(10, 50), 0) is None
