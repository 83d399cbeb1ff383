"""Training where the package is not installed: what `Trainer` saves and pushes is complete, and so are adapters."""

import json
from pathlib import Path

import pytest
import torch
from hub_client import Part
from hub_server import HubServer
from tiny_models import save_question_aware
from videos import barcode_frames, write_video

pytestmark = pytest.mark.integration

QUESTION = "which number is it?"
PLACES = ["checkpoint", "by trainer", "by parts", "by pipeline"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save_question_aware(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture(scope="module")
def hub(saved):
    with HubServer() as server:
        server.add_repo("user/tiny", saved)
        yield server


@pytest.fixture(scope="module")
def started(hub, tmp_path_factory):
    """A training run and an adapter, both without the package."""
    out = {name: tmp_path_factory.mktemp(name) for name in ("training", "adapter")}
    video = write_video(tmp_path_factory.mktemp("video") / "six seconds.mp4", barcode_frames(12), fps=2.0)
    asked = {"model": "user/tiny", "video": str(video), "question": QUESTION}
    token = {"HF_TOKEN": "hf_user"}
    folder = {name: str(path / "saved") for name, path in out.items()}
    parts = {
        "training": Part(
            "remote_training", out["training"], hub.url, token, **asked, folder=folder["training"], pushed="user/mine"
        ),
        "adapter": Part(
            "remote_adapter", out["adapter"], hub.url, token, **asked, folder=folder["adapter"], adapter="user/adapter"
        ),
    }
    yield parts, {name: Path(path) for name, path in folder.items()}
    for part in parts.values():
        part.process.kill()
        part.process.wait()


@pytest.fixture(scope="module")
def trained(started) -> tuple[dict, dict]:
    return started[0]["training"].result()


@pytest.fixture(scope="module")
def adapted(started) -> tuple[dict, dict]:
    return started[0]["adapter"].result()


@pytest.fixture(scope="module")
def results(trained, started, hub) -> dict[str, dict[str, bytes]]:
    """All that training left behind: the files of each place by their names."""
    checkpoint = started[1]["training"] / "checkpoint-2"
    return {
        "checkpoint": {path.name: path.read_bytes() for path in checkpoint.iterdir()},
        "by trainer": hub.files("user/mine-by-trainer"),
        "by parts": hub.files("user/mine-by-parts"),
        "by pipeline": hub.files("user/mine-by-pipeline"),
    }


def test_training_ran_without_the_package(trained):
    found, tensors = trained
    assert found["imported"] == [] and len(found["losses"]) == 1 and found["losses"][0] > 0
    assert torch.isfinite(tensors["trained/logits"]).all()


# By parts, the same files are there: see below.
@pytest.mark.parametrize("place", ["checkpoint", "by trainer", "by pipeline"])
def test_what_was_trained_loads_again(trained, place):
    found, tensors = trained
    assert torch.equal(tensors[f"{place}/logits"], tensors["trained/logits"])
    assert found["sources"][place] == found["sources"]["checkpoint"]
    assert found["sources"][place]["classes"][-3:] == [
        "VideoQAPipeline",
        "DynFocusForConditionalGeneration",
        "DynFocusProcessor",
    ]


@pytest.mark.parametrize("place", PLACES)
def test_what_was_trained_is_complete(results, saved, place):
    found = results[place]
    assert {path.name for path in saved.iterdir()} <= found.keys()
    code = {path.name: path.read_bytes() for path in saved.glob("*.py")}
    assert {name: data for name, data in found.items() if name.endswith(".py")} == code
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert found[name] == (saved / name).read_bytes()
    config, first = json.loads(found["config.json"]), json.loads((saved / "config.json").read_bytes())
    # Of itself, not of the repository that it came from.
    assert config["auto_map"] == first["auto_map"]
    assert config["custom_pipelines"]["video-qa"]["impl"] == first["custom_pipelines"]["video-qa"]["impl"]


@pytest.mark.parametrize("place", PLACES)
def test_weights_are_those_of_training(results, saved, place):
    assert results[place]["model.safetensors"] == results["checkpoint"]["model.safetensors"]
    assert results[place]["model.safetensors"] != (saved / "model.safetensors").read_bytes()
    assert "pytorch_model.bin" not in results[place]


def test_an_adapter_names_its_base_on_the_hub(adapted, started):
    found, _ = adapted
    assert found["base"] == "user/tiny" and found["imported"] == []
    assert not (started[1]["adapter"] / "model.safetensors").exists()


@pytest.mark.parametrize(
    "way",
    ["by peft", "by peft, from the Hub", "by transformers", "by pipeline", "by pipeline, from the Hub"],
)
def test_an_adapter_loads_over_its_base(adapted, way):
    tensors = adapted[1]
    assert not torch.allclose(tensors["base"], tensors["adapted"])
    assert torch.equal(tensors[way], tensors["adapted"])


def test_a_merged_adapter_is_a_model(adapted, started, saved):
    found, tensors = adapted
    assert torch.allclose(tensors["merged"], tensors["adapted"], atol=1e-4)
    assert torch.equal(tensors["merged, by pipeline"], tensors["merged"])
    merged = {path.name for path in (started[1]["adapter"] / "merged").iterdir()}
    assert {path.name for path in saved.iterdir()} <= merged


def test_pipelines_answer_with_an_adapter(adapted):
    folder, from_hub, merged = adapted[0]["answers"]
    assert folder == from_hub and folder["key_frames"]
    assert merged["key_frames"] and merged["num_visual_tokens"] == folder["num_visual_tokens"]
