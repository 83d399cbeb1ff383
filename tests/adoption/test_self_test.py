"""The test on four made-up frames: it passes what is exact, finds what is not, and places unknown processors."""

import dataclasses
import re

import pytest
from adopted_models import FAMILIES, logits, stock

from dynfocus.adoption import focus_processor
from dynfocus.adoption.families import known_family
from dynfocus.adoption.focus_processor import FocusProcessor
from dynfocus.adoption.self_test import difference_from_stock, tried_family

WITH_VIDEOS = sorted(name for name in FAMILIES if name != "gemma3")


def focus(name: str, **changes) -> FocusProcessor:
    """A processor whose row is changed."""
    model, processor = stock(name)
    family = dataclasses.replace(known_family(processor), **changes)
    return FocusProcessor(processor, config=model.config, family=family, tokens_per_key_frame=70)


@pytest.mark.parametrize("name", WITH_VIDEOS)
def test_every_row_passes_with_its_model(name):
    assert difference_from_stock(focus(name), stock(name).model) is None


@pytest.mark.parametrize(
    ("name", "changes", "difference"),
    [
        ("video_llama_3", {"joint": ""}, "input_ids"),
        ("gemma4", {"joint": ", "}, "input_ids"),
        ("llava_onevision", {"layout": "blocks"}, "input_ids"),
        ("internvl", {"layout": "blocks"}, "input_ids"),
        ("qwen2_5_vl", {"positions": "frames"}, "logits"),
        ("qwen2_5_vl", {"positions": None}, "positions"),
        ("qwen2_vl", {"positions": None}, "positions"),
    ],
)
def test_a_wrong_row_is_found(name, changes, difference):
    processor = focus(name, **changes)
    if difference == "logits":
        # Where frames are a second apart and two positions are a second, counting frames is off by half.
        processor.pair_seconds = 1.0
    assert difference_from_stock(processor, stock(name).model).startswith(difference)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("qwen3_vl", ("blocks", True, "")),
        ("glm46v", ("blocks", True, "")),
        ("video_llama_3", ("blocks", True, ",")),
        ("gemma4", ("blocks", True, " ")),
        ("perception_lm", ("blocks", False, "")),
        ("smolvlm", ("video", False, "")),
        ("llava_onevision", ("video", False, "")),
        ("internvl", ("video", False, "")),
    ],
)
def test_a_processor_of_no_row_gets_the_form_that_is_exact(name, form, monkeypatch):
    monkeypatch.setattr(focus_processor, "known_family", lambda processor: None)
    found = FocusProcessor(stock(name).processor, tokens_per_key_frame=70)
    assert (found.family.layout, found.family.native, found.family.joint) == form
    assert difference_from_stock(found, stock(name).model) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "qwen2_5_vl",
            r"Qwen2_5_VLProcessor is of no known family.*\(positions, which the model counts in equal steps\)",
        ),
        ("gemma3", "Gemma3Processor does not take videos: use a model of one of the families Qwen3-VL"),
    ],
)
def test_a_processor_that_no_form_fits_is_refused(name, message):
    with pytest.raises(ValueError) as error:
        tried_family(stock(name).processor)
    assert re.search(message, str(error.value)) and "\n" not in str(error.value)


def test_nothing_is_left_on_the_model():
    model = stock("qwen3_vl").model
    difference_from_stock(focus("qwen3_vl"), model)
    assert logits(model, focus("qwen3_vl").processor.tokenizer("Hello.", return_tensors="pt")).isfinite().all()
