"""
What small trained stock models answer about the example video with chosen frames: choice, times, prompt and model
together give the right answers, which random weights cannot show.
"""

from pathlib import Path

import pytest
from transformers import AutoProcessor

from dynfocus.adoption.focused_model import FocusedModel
from dynfocus.adoption.stock_loading import load_stock_model
from dynfocus.towers.dual_encoder import DualEncoder

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "benchmarks" / "adoption" / "models"
#: Question, answer, the second in which the event begins and ends that one has to see, and the rule. With 8 key frames
#: `context` stays too close to an event to show the next one.
QUESTIONS = (
    ("Which number is shown with the red star?", "472", 14, 17, "context"),
    ("Which number is shown with the cyan star?", "236", 20, 25, "context"),
    ("What color is the shape with number 915?", "yellow", 8, 12, "context"),
    ("On which shape is the number 582 shown?", "circle", 2, 6, "context"),
    ("Which comes right after the yellow heart?", "red star", 8, 12, "peaks"),
    ("Is there a green triangle?", "no", None, None, "context"),
)
OPTIONS = {"qwen3_vl": {"tokens_per_key_frame": 16, "tokens_per_coarse_frame": 4}, "llava_onevision": {}}


@pytest.fixture(scope="module")
def encoder():
    with pytest.warns(UserWarning, match="drawn shapes"):  # it knows the generated world only
        return DualEncoder.from_pretrained(MODELS / "siglip", device="cpu")


@pytest.fixture(scope="module", params=list(OPTIONS))
def focused(request, encoder):
    folder = MODELS / request.param
    processor = AutoProcessor.from_pretrained(folder)
    return FocusedModel(
        load_stock_model(str(folder)).eval(), processor, encoder, coarse="none", **OPTIONS[request.param]
    )


def test_answers_from_a_quarter_of_the_tokens(focused):
    state = focused.encode_video(ROOT / "examples" / "events.mp4")
    for question, expected, start, end, rule in QUESTIONS:
        (answer,) = focused.answer([(state, question)], rule=rule, max_visual_tokens=193, max_new_tokens=8)
        assert answer.answer == expected, question
        assert answer.num_visual_tokens <= 193 < answer.num_dense_tokens / 2
        if start is not None:
            assert any(start <= key["time"] < end for key in answer.key_frames), question
            best = max(answer.key_frames, key=lambda key: key["score"])
            assert start <= best["time"] < end, question


def test_without_the_event_the_number_is_not_known(focused):
    """The answer comes from the frames: with key frames from another event, the number is not read."""

    def first_seconds(relevance, num_key, *, features, times):
        return times.argsort()[: min(num_key, 6)].sort().values

    state = focused.encode_video(ROOT / "examples" / "events.mp4")
    (answer,) = focused.answer(
        [(state, "Which number is shown with the cyan star?")], rule=first_seconds, max_visual_tokens=193
    )
    assert answer.answer != "236"
    assert all(key["time"] < 6 for key in answer.key_frames)
