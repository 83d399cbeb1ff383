"""Stock models and dual encoders that mean harm: one sentence each; `scripts/hostile_adopted_folders.py` has all."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "hostile_adopted_folders.py"
spec = importlib.util.spec_from_file_location("hostile_adopted_folders", SCRIPT)
assert spec is not None and spec.loader is not None
hostile = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hostile)
CHANGES = dict(hostile.all_changes())

# Refused before anything is built, or as soon as it is.
SAID = {
    "model: config.json: text_config.num_hidden_layers is 1000000": "`num_hidden_layers` is 1,000,000",
    "model: config.json: text_config.num_attention_heads is 1000000": "`num_attention_heads` is 1,000,000",
    "model: config.json: vision_config.patch_size is 1000000": "`patch_size` is 1,000,000",
    "model: config.json: vision_config.num_position_embeddings is 1000000000000": "`num_position_embeddings` is",
    "model: config.json: model_type is evil": "it is a evil model",
    "model: config.json: model_type is bert": "is a bert model, which reads no videos",
    "model: config.json: a folder": "the folder has no config.json",
    "model: config.json: a link out": "its config.json is not valid JSON",
    "model: tokenizer.json: deep": "its tokenizer.json is nested too deeply",
    "model: a pickle": "the folder has no model.safetensors, and pickles are not read",
    "model: index: outside": "which is no safetensors file of this folder",
    "model: model.safetensors: cut": "its weights are missing or damaged",
    "model: config.json: vision_config is None": "its config.json is of a model of",
    "encoder: config.json: vision_config.num_hidden_layers is 1000000": "`num_hidden_layers` is 1,000,000",
    "encoder: config.json: vision_config.image_size is 1000000": "`image_size` is 1,000,000",
    "encoder: config.json: model_type is bert": "cannot be used as dual encoder",
    "encoder: preprocessor_config.json: image_processor_type is EvilImageProcessor": "cannot be used as dual encoder",
    "encoder: preprocessor_config.json: deep": "its preprocessor_config.json is nested too deeply",
    "encoder: config.json: vision_config.patch_size is 0": "cannot be used as dual encoder",
    "encoder: preprocessor_config.json: resample is 99": "cannot be used as dual encoder",
    "encoder: preprocessor_config.json: size is {'height': -1, 'width': 32}": "cannot be used as dual encoder",
    "encoder: tokenizer.json: model is {}": "cannot be used as dual encoder",
    "encoder: a pickle": "cannot be used as dual encoder",
    "encoder: index: missing": "which is not there",
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good") / "both"
    hostile.save_good(folder)
    return folder


def test_there_are_many_and_all_have_names():
    assert len(CHANGES) == len(list(hostile.all_changes())) >= 250
    assert [name for name, _ in hostile.all_changes(3)] != list(CHANGES)


@pytest.mark.parametrize("name", SAID)
def test_adopted_folders_that_mean_harm_are_refused_in_one_sentence(tmp_path, good, name):
    folder = hostile.make_folders(tmp_path / "changed", name, CHANGES[name], good)
    found = hostile.own.ask(str(folder / "model"), str(folder / "encoder"))
    assert found.startswith("refused: ") and SAID[name] in found and "\n" not in found


@pytest.mark.parametrize("name", [name for name in CHANGES if name.endswith(": code")])
def test_code_in_a_folder_is_not_run(tmp_path, good, name):
    folder = hostile.make_folders(tmp_path / "changed", name, CHANGES[name], good)
    hostile.own.ask(str(folder / "model"), str(folder / "encoder"))
    assert not list(folder.glob("*/ran"))
