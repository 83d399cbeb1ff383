"""A stock model that lacks weights, or holds infinite ones, is refused wherever it is loaded."""

import pytest
import torch
from adopted_models import stock
from safetensors.torch import load_file, save_file
from transformers import pipeline

from dynfocus.adoption.focused_model import FocusedModel
from dynfocus.adoption.stock_loading import load_stock_model

Q_PROJ = "model.language_model.layers.0.self_attn.q_proj.weight"
EMBEDDINGS = "model.language_model.embed_tokens.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock")
    for part in stock("qwen3_vl"):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def damage(folder):
    """Changes the saved weights for one test."""
    path = folder / "model.safetensors"
    whole = path.read_bytes()

    def damage(change):
        weights = load_file(path)
        change(weights)
        save_file(weights, path, {"format": "pt"})

    yield damage
    path.write_bytes(whole)


def add_a_layer(weights):
    for name in [name for name in weights if ".language_model.layers.0." in name]:
        weights[name.replace(".layers.0.", ".layers.90.")] = weights[name].clone()


def fill_one(weights):
    weights[EMBEDDINGS][3, 3] = torch.inf


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights.pop(Q_PROJ), f"lacks 1 weight ({Q_PROJ})"),
        (fill_one, f"infinite numbers in 1 weight ({EMBEDDINGS})"),
        (add_a_layer, "of layers that its config.json leaves out"),
    ],
    ids=["missing", "infinite", "a layer more"],
)
def test_damaged_weights_are_named(folder, damage, change, words):
    damage(change)
    for load in (load_stock_model, lambda name: pipeline("video-qa", model=name).video_qa):
        with pytest.raises(ValueError) as caught:
            load(str(folder))
        assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_whole_model_passes(folder):
    model = load_stock_model(str(folder))
    assert FocusedModel(model, stock("qwen3_vl").processor).model is model
