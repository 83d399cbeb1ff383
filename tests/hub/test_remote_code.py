"""Saved folders are complete: they load and answer where the package is not installed."""

import ast
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_question_aware
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    dynamic_module_utils,
    pipeline,
)
from videos import barcode_frames, write_video

from dynfocus import DynFocusForConditionalGeneration, VideoQAPipeline

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_MODEL = ROOT / "checkpoints" / "dynfocus-tiny"
QUESTION = "which number is shown with the red star?"


def code_in(folder: Path) -> dict[str, str]:
    """The Python files of a folder by their names."""
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save_question_aware(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "six seconds.mp4", barcode_frames(12), fps=2.0)


@pytest.fixture(scope="module")
def elsewhere(saved, video, tmp_path_factory) -> Path:
    """What a process without the package finds: `found.json`, `tensors.safetensors`, and the folders that it saved."""
    out = tmp_path_factory.mktemp("elsewhere")
    environment = {**os.environ, "HF_HOME": str(out / "cache"), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_MODULES_CACHE", None)
    script = Path(__file__).parents[1] / "without_package.py"
    forked.run(script, saved, video, QUESTION, out, package=False, environment=environment, folder=out)
    return out


@pytest.fixture(scope="module")
def found(elsewhere) -> dict:
    return json.loads((elsewhere / "found.json").read_text(encoding="utf-8"))


def test_the_package_was_out_of_reach(found):
    assert found["imported"] == []
    assert found["modules"] == ["transformers_modules"]


def test_auto_classes_find_the_right_classes(found):
    assert found["classes"] == {
        "AutoModelForImageTextToText": "DynFocusForConditionalGeneration",
        "AutoModelForMultimodalLM": "DynFocusForConditionalGeneration",
        "AutoProcessor": "DynFocusProcessor",
        "pipeline": "VideoQAPipeline",
    }
    assert found["config"]["model_type"] == "dynfocus"
    assert found["config"]["video_token_id"] == 3


def test_tensors_equal_those_of_the_package(saved, video, elsewhere):
    tensors = load_file(elsewhere / "tensors.safetensors")
    inputs = AutoProcessor.from_pretrained(saved)(text=f"<video>\n{QUESTION}", videos=video, return_tensors="pt")
    with torch.no_grad():
        expected = {
            "logits": AutoModelForImageTextToText.from_pretrained(saved)(**inputs).logits,
            "hidden": AutoModel.from_pretrained(saved)(**inputs).last_hidden_state,
            "pixels": inputs["pixel_values_videos"],
        }
    assert tensors.keys() == expected.keys()
    assert {name: torch.equal(tensors[name], expected[name]) for name in tensors} == dict.fromkeys(tensors, True)


def test_answers_equal_those_of_the_package(saved, video, found):
    expected = pipeline("video-qa", model=str(saved))(video, question=QUESTION)
    assert expected["key_frames"] and expected["num_visual_tokens"] > 0
    assert found["answer"] == expected
    assert found["by_parts"] == expected
    assert found["by_pipeline"] == expected
    assert found["by_state"]["answer"] == expected["answer"]
    key_frames = {name: [one["index"] for one in found[name]["key_frames"]] for name in ("by_state", "answer")}
    assert key_frames["by_state"] == key_frames["answer"]


def test_trusting_the_folder_gives_the_same_where_the_package_is_installed(saved, video, found, tmp_path, monkeypatch):
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    pipe = pipeline("video-qa", model=str(saved), trust_remote_code=True)
    assert type(pipe.model) is DynFocusForConditionalGeneration
    assert pipe(video, question=QUESTION) == found["answer"]


def test_saving_again_loses_no_file(saved, elsewhere):
    for name in ("by_parts", "by_pipeline"):
        assert {path.name for path in saved.iterdir()} == {path.name for path in (elsewhere / name).iterdir()}
        assert code_in(elsewhere / name) == code_in(saved)
        again = json.loads((elsewhere / name / "config.json").read_text(encoding="utf-8"))
        first = json.loads((saved / "config.json").read_text(encoding="utf-8"))
        assert again["auto_map"] == first["auto_map"]
        assert again["custom_pipelines"]["video-qa"]["impl"] == first["custom_pipelines"]["video-qa"]["impl"]


def test_all_entries_lie_flat_in_the_folder(saved):
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    entries = [*config["auto_map"].values(), config["custom_pipelines"]["video-qa"]["impl"]]
    assert {entry.partition(".")[0] for entry in entries} <= {path.stem for path in saved.glob("*.py")}


@pytest.mark.parametrize("kind", ["config", "model", "processor", "video_processor", "pipeline"])
def test_every_save_takes_the_code_along(saved, kind, tmp_path):
    pipe = pipeline("video-qa", model=str(saved))
    parts = {"config": pipe.model.config, "model": pipe.model, "pipeline": pipe, "processor": pipe.processor}
    part = {**parts, "video_processor": pipe.processor.video_processor}[kind]
    if kind != "pipeline":
        # What transformers asks for where code is not written by itself.
        type(part).register_for_auto_class()
    part.save_pretrained(tmp_path)
    assert code_in(tmp_path) == code_in(saved)
    named = [json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("*config.json")]
    assert any("auto_map" in settings for settings in named)


def test_no_code_goes_beside_settings_written_under_another_name(saved, tmp_path):
    AutoConfig.from_pretrained(saved).to_json_file(tmp_path / "settings.json")
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


def test_a_folder_with_code_needs_no_trust_where_the_package_is_installed(saved, video, found):
    pipe = pipeline("video-qa", model=str(saved))
    assert type(pipe) is VideoQAPipeline and type(pipe.model) is DynFocusForConditionalGeneration
    assert pipe(video, question=QUESTION) == found["answer"]


def test_the_default_model_holds_no_code_and_names_none():
    assert list(DEFAULT_MODEL.glob("*.py")) == []
    for path in DEFAULT_MODEL.glob("*config.json"):
        text = path.read_text(encoding="utf-8")
        assert "auto_map" not in text and "custom_pipelines" not in text, path.name
    assert type(pipeline("video-qa", model=str(DEFAULT_MODEL))) is VideoQAPipeline


def test_the_default_model_has_the_card_of_the_tree():
    folder = DEFAULT_MODEL.relative_to(ROOT).as_posix()
    card = (ROOT / "model_card.md").read_text(encoding="utf-8").replace(f"]({folder}/", "](")
    kept = DEFAULT_MODEL / "README.md"
    assert kept.is_file() and kept.read_text(encoding="utf-8") == card, (
        f"copy model_card.md to {kept}, without {folder}/ in its links"
    )


def test_transformers_finds_every_import_of_a_sibling_and_no_other(saved):
    for path in saved.glob("*.py"):
        siblings = {
            str(node.module)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and node.level
        }
        assert set(dynamic_module_utils.check_imports(path)) == siblings, path.name
        assert {name for name in siblings if not (saved / f"{name}.py").is_file()} == set(), path.name


def imported_by(code: str) -> Iterator[tuple[str, str]]:
    """Modules and names that a file imports, wherever in it; siblings left out."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((str(node.module), alias.name) for alias in node.names)


def test_code_imports_public_names_of_what_transformers_users_have(saved):
    """What else it can use (PyAV, decord, open_clip, …) is looked for when needed, by `importlib`."""
    allowed = {"transformers", "torch", "numpy", "PIL", "huggingface_hub", "safetensors", *sys.stdlib_module_names}
    found = {(file, *names) for file, code in code_in(saved).items() for names in imported_by(code)}
    assert len(found) > 50
    assert {(file, module) for file, module, _ in found if module.partition(".")[0] not in allowed} == set()
    private = {(file, module, name) for file, module, name in found if "._" in f".{module}.{name}".replace(".__", "")}
    assert private == set()
