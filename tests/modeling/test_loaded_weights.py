"""A model that lacks weights, or holds NaN, is refused wherever it is loaded, and never answers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_tiny_processor
from tiny_models import tiny_model
from transformers import AutoModel, AutoModelForImageTextToText, pipeline
from typer.testing import CliRunner
from videos import barcode_frames, write_video

from dynfocus.cli.app import app
from dynfocus.loaded_weights import check_finite

#: One name of each part, as the checkpoint has it.
PARTS = {
    "vision tower": "model.vision_tower.",
    "a projection": "model.language_model.layers.1.self_attn.q_proj.weight",
    "word embeddings": "model.language_model.embed_tokens.weight",
    "question encoder": "model.question_encoder.query_tokens",
    "event scores": "model.event_prototypes.",
    "head": "lm_head.weight",
}
WAYS = {
    "AutoModelForImageTextToText": AutoModelForImageTextToText.from_pretrained,
    "pipeline": lambda folder: pipeline("video-qa", model=str(folder)),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    tiny_model().save_pretrained(folder)
    make_tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def change(saved, tmp_path):
    """Writes the model anew with other weights; gives its folder."""

    def change(function) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(saved, folder)
        path = folder / "model.safetensors"
        save_file(function(load_file(path)), path, {"format": "pt"})
        return folder

    return change


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> str:
    return str(write_video(tmp_path_factory.mktemp("video") / "video.mp4", barcode_frames(4)))


def one_sentence(error: BaseException) -> str:
    """What is said, on one line; the pipeline quotes the tracebacks of what it has tried."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    quoted = [line.removeprefix("ValueError: ") for line in lines if line.startswith("ValueError: ")]
    if quoted:
        return quoted[0]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("way", "part"), [*(("AutoModelForImageTextToText", part) for part in PARTS), ("pipeline", "head")]
)
def test_missing_weights_are_named(change, part, way):
    folder = change(lambda weights: {k: v for k, v in weights.items() if not k.startswith(PARTS[part])})
    with pytest.raises(ValueError) as caught:
        WAYS[way](folder)
    said = one_sentence(caught.value)
    assert PARTS[part].rstrip(".") in said and "save or download it again" in said, said


def test_a_file_without_weights(change):
    folder = change(lambda weights: {})
    for load in (AutoModel.from_pretrained, AutoModelForImageTextToText.from_pretrained):
        with pytest.raises(ValueError, match=r"lacks \d\d+ weights \(\S+, \S+, \S+ and \d+ more\), without which"):
            load(folder)


@pytest.mark.parametrize("way", WAYS)
def test_weights_of_further_layers_are_not_left_out(change, way):
    """As where the config of a smaller model lies beside the weights of a larger one."""

    def add_a_layer(weights):
        first = "model.language_model.layers.0."
        more = {key.replace(first, first.replace("0", "9")): value.clone() for key, value in weights.items()}
        return {**more, **weights}

    with pytest.raises(ValueError) as caught:
        WAYS[way](change(add_a_layer))
    assert "layers" in one_sentence(caught.value) and "config.json" in str(caught.value)


def test_the_base_model_needs_no_head(change):
    AutoModel.from_pretrained(change(lambda weights: {k: v for k, v in weights.items() if k != "lm_head.weight"}))


def test_what_is_missing_is_reported_to_whoever_asks(change):
    folder = change(lambda weights: {k: v for k, v in weights.items() if k != "lm_head.weight"})
    _, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert info["missing_keys"] == {"lm_head.weight"}


@pytest.mark.parametrize("way", WAYS)
def test_weights_of_another_shape(change, way):
    folder = change(lambda weights: {**weights, "lm_head.weight": weights["lm_head.weight"][:-1].clone()})
    with pytest.raises(ValueError) as caught:
        WAYS[way](folder)
    assert "lm_head.weight (63, 32) for (64, 32): save" in one_sentence(caught.value)
    AutoModelForImageTextToText.from_pretrained(folder, ignore_mismatched_sizes=True)


# Every part, and every such number; in a layer alone, all of them in all dtypes: see below.
@pytest.mark.parametrize(("part", "value"), zip(PARTS, [float("nan"), float("inf"), float("-inf")] * 2, strict=True))
def test_weights_that_are_not_numbers(change, part, value):
    def damage(weights):
        name = next(name for name in weights if name.startswith(PARTS[part]) and weights[name].is_floating_point())
        weights[name].view(-1)[-1] = value
        return weights

    folder = change(damage)
    for load in (AutoModelForImageTextToText.from_pretrained, WAYS["pipeline"]):
        with pytest.raises(ValueError) as caught:
            load(folder)
        said = one_sentence(caught.value)
        assert "holds NaN or infinite numbers in 1 weight (" in said and PARTS[part].rstrip(".") in said
    with pytest.raises(ValueError, match="NaN or infinite"):
        AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)


def test_large_weights_are_finite_but_may_not_fit_a_dtype(change):
    folder = change(lambda weights: {**weights, "lm_head.weight": torch.full_like(weights["lm_head.weight"], 1e5)})
    AutoModelForImageTextToText.from_pretrained(folder)
    with pytest.raises(ValueError, match="or load it with another `dtype`"):
        AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_weights_are_told_from_others(dtype):
    """The largest numbers of a dtype are finite, though their sum is not; one other number anywhere is found."""
    model = torch.nn.Linear(300, 7).to(dtype)
    model.register_buffer("steps", torch.tensor(0))
    model.register_buffer("nothing", torch.zeros(0, dtype=dtype))
    with torch.no_grad():
        model.weight.fill_(torch.finfo(dtype).max)
        check_finite("It", model)
        for value in (np.nan, np.inf, -np.inf):
            model.bias[3] = value
            with pytest.raises(ValueError, match=r"It holds .* in 1 weight \(bias\): "):
                check_finite("It", model)
    check_finite("It", torch.nn.Linear(3, 3, device="meta"))


def ask(folder: Path, video: str, *options: str):
    result = CliRunner().invoke(app, ["ask", video, "which number?", "--model", str(folder), *options])
    return result, result.stderr.strip()


@pytest.mark.parametrize("kind", ["empty", "missing", "shape", "nan"])
def test_the_command_refuses_in_one_sentence(change, video, kind):
    def damage(weights):
        name = PARTS["a projection"]
        changed = {
            "empty": lambda: {},
            "missing": lambda: {k: v for k, v in weights.items() if k != name},
            "shape": lambda: {**weights, name: weights[name][1:].clone()},
            "nan": lambda: {**weights, name: weights[name] * float("nan")},
        }
        return changed[kind]()

    result, said = ask(change(damage), video, "--json")
    assert result.exit_code == 1 and result.stdout == ""
    assert said.startswith("error: ") and len(said.splitlines()) == 1 and "Traceback" not in said
    assert "save or download it again" in said
    if kind != "empty":
        assert PARTS["a projection"] in said


def test_a_whole_model_answers(saved, video):
    result, _ = ask(saved, video, "--json")
    assert result.exit_code == 0 and 0 <= json.loads(result.stdout)["score"] <= 1


def test_a_model_that_computes_nan_gives_no_answer(saved, video):
    pipe = pipeline("video-qa", model=str(saved))
    with torch.no_grad():
        pipe.model.lm_head.weight[5] = float("nan")
    with pytest.raises(
        ValueError, match=r"computes NaN \(not a number\) in float32, so its answer would mean nothing"
    ):
        pipe(video, question="which number?")
