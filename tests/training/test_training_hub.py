"""Rows and the model to start from come from the Hub, and the trained model goes there."""

import os
from pathlib import Path

import pytest
from forked import Forked
from hub_datasets import DatasetHubServer, jsonl_file
from training_runs import ANSWERS, QUESTION, recipe_settings, save_start, write_recipe, write_rows

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("streaming", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_from_the_hub_to_the_hub(tmp_path, streaming):
    rows = write_rows(tmp_path / "data", 2)
    listed = [{"video": f"{number}.mp4", "question": QUESTION, "answer": ANSWERS[number]} for number in range(2)]
    settings = recipe_settings("user/start", "user/rows", tmp_path / "run", max_steps=2)
    settings["data"].update(streaming=streaming, media_root=str(rows.parent))
    settings["push_to_hub"] = "user/mine"
    recipe = write_recipe(tmp_path / "recipe.yaml", settings)
    with DatasetHubServer() as hub:
        hub.add_repo("user/start", save_start(tmp_path / "start"))
        hub.add_dataset("user/rows", {"train.jsonl": jsonl_file(listed)})

        def train(token: str) -> tuple[int | None, str]:
            environment = {
                **os.environ,
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(tmp_path / "home"),
                "HF_HUB_OFFLINE": "0",
                "HF_HUB_DISABLE_XET": "1",
                "HF_TOKEN": token,
            }
            with Forked("dynfocus.training.train:main", recipe, package=False, environment=environment) as process:
                return process.wait(), process.output

        if not streaming:
            status, said = train("hf_unknown")
            assert status == 1 and "push_to_hub: user/mine: you are not logged in to the Hub" in said
            assert not (tmp_path / "run").exists(), "it is known before anything is trained"
        status, said = train("hf_user")
        assert status == 0, said
        found = hub.files("user/mine")
    saved = {path.name: path.read_bytes() for path in Path(tmp_path / "run" / "model").iterdir() if path.is_file()}
    assert found["model.safetensors"] == saved["model.safetensors"]
    assert {name for name in saved if name.endswith(".py")} <= found.keys()
    assert b"# user/mine" in found["README.md"] and str(tmp_path).encode() not in found["README.md"]
    assert not [name for name in found if name.endswith((".bin", ".pt", ".pth"))]
