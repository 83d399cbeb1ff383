"""Settings of `generate` that cannot be meant are refused by name, from a call and from the model's own file."""

import numpy as np
import pytest
from tiny import make_tiny_processor
from tiny_models import tiny_model
from transformers import GenerationConfig
from typer.testing import CliRunner

from dynfocus.cli.app import app
from dynfocus.processing.dynfocus_video_qa import DynFocusVideoQA
from dynfocus.processing.generation_settings import check_generation, check_names
from dynfocus.processing.pipeline_video_qa import VideoQAPipeline
from dynfocus.processing.video_qa import GENERATION_PARAMETERS

NAN = float("nan")
WRONG = [
    ("eos_token_id", [10**12]),
    ("eos_token_id", -1),
    ("eos_token_id", "</s>"),
    ("pad_token_id", 10**6),
    ("bos_token_id", 1.5),
    ("max_new_tokens", 0),
    ("max_new_tokens", -3),
    ("max_new_tokens", 10**9),
    ("max_new_tokens", "20"),
    ("max_new_tokens", True),
    ("max_length", 0),
    ("min_new_tokens", -1),
    ("num_beams", 0),
    ("num_beams", 10**6),
    ("num_beams", 2.5),
    ("num_return_sequences", 2),
    ("temperature", -1),
    ("temperature", NAN),
    ("temperature", "hot"),
    ("top_p", 0),
    ("top_p", 1.5),
    ("top_k", -5),
    ("typical_p", -0.1),
    ("min_p", 2),
    ("repetition_penalty", 0),
    ("repetition_penalty", float("inf")),
    ("guidance_scale", 1e308),
    ("length_penalty", NAN),
    ("do_sample", "yes"),
    ("use_cache", 1),
    ("max_time", 0),
]


@pytest.fixture(scope="module")
def video_qa():
    return DynFocusVideoQA(tiny_model(), make_tiny_processor())


@pytest.fixture(scope="module")
def state(video_qa):
    return video_qa.encode_video(np.zeros((2, 32, 32, 3), np.uint8))


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_settings_that_cannot_be_meant(video_qa, state, name, value, monkeypatch):
    with pytest.raises(ValueError, match=f"`{name}`.* is .*: it must be |`{name}` is .*: ask for less") as caught:
        video_qa.answer([(state, "what?")], **{name: value})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250
    # As if read from a file; `GenerationConfig(…)` refuses some of these itself.
    config = GenerationConfig()
    setattr(config, name, value)
    monkeypatch.setattr(video_qa.model, "generation_config", config)
    with pytest.raises(ValueError, match=f"`{name}` in the model's generation_config.json is "):
        video_qa.answer([(state, "what?")])
    # Those of the call replace them.
    if name == "temperature":
        video_qa.answer([(state, "what?")], temperature=1.0, max_new_tokens=1)


def test_settings_that_can_be_meant(video_qa, state):
    check_generation({"temperature": 0, "do_sample": False, "top_k": np.int64(3), "num_beams": 4, "top_p": 1.0})
    with pytest.raises(ValueError, match="`temperature` is 0: it must be a number above 0"):
        check_generation({"temperature": 0, "do_sample": True})
    with pytest.raises(ValueError, match="`min_new_tokens` is 5, more than `max_new_tokens`, 3"):
        check_generation({"min_new_tokens": 5, "max_new_tokens": 3})
    (answer,) = video_qa.answer([(state, "what?")], num_beams=2, do_sample=False, max_new_tokens=2)
    assert isinstance(answer.answer, str)


def test_misspelled_names_are_known_by_their_likes(video_qa, state, monkeypatch):
    check_names({"chat_format": 1, "transformers_version": 2}, GENERATION_PARAMETERS, "")
    config = GenerationConfig()
    config.temprature = 0.5
    monkeypatch.setattr(video_qa.model, "generation_config", config)
    with pytest.raises(
        ValueError, match="`temprature` in the model's generation_config.json is not known: is `temper"
    ):
        video_qa.answer([(state, "what?")])


def test_pipelines_refuse_them_before_a_video_is_read(video_qa):
    pipe = VideoQAPipeline(model=video_qa.model, processor=video_qa.processor)
    for wrong in ({"num_beams": 0}, {"generate_kwargs": {"temperature": -1}}, {"generate_kwargs": "hot"}):
        with pytest.raises(ValueError, match="must be"):
            pipe("/no/such/film.mp4", question="what?", **wrong)
    with pytest.raises(TypeError, match="Unknown keyword of the video-qa pipeline: temprature"):
        pipe("/no/such/film.mp4", question="what?", temprature=1)


def test_the_command_line_refuses_them_first():
    found = CliRunner().invoke(app, ["ask", "/no/such/film.mp4", "what?", "--max-new-tokens", str(10**9)])
    assert found.exit_code == 1 and "error: --max-new-tokens is 1000000000: it must be" in " ".join(
        found.stderr.split()
    )
