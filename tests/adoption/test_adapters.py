"""Adapters of PEFT load whole, over a whole base model, or not at all: on both roads."""

import json
import shutil

import pytest
import torch
from adopted_models import stock
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import make_tiny_processor
from tiny_models import tiny_model
from transformers import AutoModelForImageTextToText, pipeline

from dynfocus.adoption.backbones import from_backbones
from dynfocus.adoption.focused_model import FocusedModel
from dynfocus.adoption.stock_loading import load_stock_model
from dynfocus.towers.dual_encoder import DualEncoder
from dynfocus.training.recipe import load_recipe
from dynfocus.training.setup import load_model

WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"
LOADERS = {
    "own": AutoModelForImageTextToText.from_pretrained,
    "stock": load_stock_model,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Both bases with their processors, and an adapter of each."""
    folder = tmp_path_factory.mktemp("adapters")
    for road, (model, processor) in {"own": (tiny_model(), make_tiny_processor()), "stock": stock("qwen3_vl")}.items():
        base = folder / road
        model.save_pretrained(base)
        loaded = AutoModelForImageTextToText.from_pretrained(base)
        lora = LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj", init_lora_weights=False)
        get_peft_model(loaded, lora).save_pretrained(folder / f"{road} adapter")
        for part in (base, folder / f"{road} adapter"):
            processor.save_pretrained(part)
    return folder


@pytest.fixture(params=LOADERS)
def road(request):
    return request.param


@pytest.fixture
def made(saved, road, tmp_path):
    """Copies of a base and its adapter, which a test may damage."""

    def made(base=None, adapter=None, settings=None):
        for name in (road, f"{road} adapter"):
            shutil.copytree(saved / name, tmp_path / name)
        for change, path in (
            (base, tmp_path / road / "model.safetensors"),
            (adapter, tmp_path / f"{road} adapter" / WEIGHTS),
        ):
            if change is not None:
                save_file(change(load_file(path)), path, {"format": "pt"})
        path = tmp_path / f"{road} adapter" / SETTINGS
        content = {**json.loads(path.read_text()), "base_model_name_or_path": str(tmp_path / road), **(settings or {})}
        path.write_text(json.dumps(content))
        return tmp_path / f"{road} adapter"

    return made


def first(weights):
    return min(name for name in weights if "language_model.layers.0" in name and "q_proj" in name)


def without_one(weights):
    return {name: value for name, value in weights.items() if name != first(weights)}


def with_nan(weights):
    weights[first(weights)].view(-1)[1] = torch.nan
    return weights


def cut_one(weights):
    return {**weights, first(weights): weights[first(weights)][:-1].clone()}


def of_a_further_layer(weights):
    name = first(weights)
    return {**weights, name.replace("layers.0", "layers.9"): weights[name].clone()}


DAMAGES = {
    "a base without a weight": ({"base": without_one}, "lacks 1 weight"),
    "a base with NaN": ({"base": with_nan}, "holds NaN or infinite numbers in 1 weight"),
    "a base of another shape": ({"base": cut_one}, "holds weights of other shapes"),
    "a base of more layers": ({"base": of_a_further_layer}, "of layers that its config.json leaves out"),
    "an adapter without a weight": ({"adapter": without_one}, "lacks 1 weight"),
    "an adapter without weights": ({"adapter": lambda weights: {}}, "lacks "),
    "an adapter with NaN": ({"adapter": with_nan}, "holds NaN or infinite numbers in 1 weight"),
    "an adapter of another rank": ({"adapter": cut_one}, "holds weights of other shapes"),
    "an adapter of more layers": ({"adapter": of_a_further_layer}, "for which its base model has no place"),
    "an adapter for other parts": ({"settings": {"target_modules": ["evil"]}}, "cannot be used with"),
    "a rank that fills the memory": ({"settings": {"r": 10**9}}, "`r` is 1,000,000,000"),
    "no base": ({"settings": {"base_model_name_or_path": None}}, "names no base model"),
    "a base that is gone": ({"settings": {"base_model_name_or_path": "/no/such/base"}}, "/no/such/base, is not there"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_not_whole_is_refused_by_name(made, road, name):
    damage, words = DAMAGES[name]
    folder = made(**damage)
    # An Auto class looks for the base before it asks for this package.
    has_base = "base_model_name_or_path" not in damage.get("settings", {})
    with pytest.raises(ValueError) as caught:
        (LOADERS[road] if has_base else load_stock_model)(str(folder))
    said = str(caught.value)
    named = folder.parent / road if "base" in damage else folder
    assert words in said and str(named) in said and "\n" not in said


@pytest.mark.parametrize("damage", [{"base": without_one}, {"adapter": without_one}], ids=["base", "adapter"])
def test_pipelines_refuse_them_too(made, damage):
    with pytest.raises(ValueError, match="lacks 1 weight") as caught:
        pipeline("video-qa", model=str(made(**damage)))
    assert "\n" not in str(caught.value)


def test_whole_ones_are_loaded_with_their_settings(made, road):
    folder = made()
    model = LOADERS[road](str(folder))
    expected = load_file(folder / WEIGHTS)
    found = {name.replace(".default.", "."): value for name, value in model.named_parameters() if "lora_" in name}
    assert {f"base_model.model.{name}" for name in found} == expected.keys()
    assert all(torch.equal(value, expected[f"base_model.model.{name}"]) for name, value in found.items())
    if road == "stock":
        (folder / "focus_config.json").write_text('{"max_visual_tokens": 777}')
        focused = FocusedModel(load_stock_model(str(folder)), stock("qwen3_vl").processor)
        assert focused.focus_processor.max_visual_tokens == 777


def test_pickles_and_folders_of_two_models_are_refused(made, road, saved):
    folder = made()
    shutil.copy(saved / road / "config.json", folder)
    with pytest.raises(ValueError, match="holds a whole model and an adapter beside it"):
        LOADERS[road](str(folder))
    (folder / "config.json").unlink()
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=f"has no {WEIGHTS}, and weights are read from safetensors alone"):
        LOADERS[road](str(folder))


def test_an_adapter_is_no_whole_model(made, tmp_path):
    folder = str(made())
    words = "is an adapter of .* merge them"
    recipe = load_recipe(
        "lora", [f"model.checkpoint={folder}", "data.train=rows.jsonl", f"training.output_dir={tmp_path}/run"]
    )
    with pytest.raises(ValueError, match=words):
        load_model(recipe)
    with pytest.raises(ValueError, match=words):
        DualEncoder.from_pretrained(folder)
    with pytest.raises(ValueError, match=words):
        from_backbones(folder, folder)
