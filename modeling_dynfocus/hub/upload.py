"""Writes a complete Hub folder of a saved model, and uploads it."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from .card import make_model_card

#: Files of a model besides weights, settings and code.
_DOCUMENTS = ["README.md", ".eval_results/*"]
#: Files of an older version that a new one may not replace: they would stay beside the new files.
_REPLACED = ["*.py", "*.safetensors", "*.safetensors.index.json"]


@dataclass(frozen=True)
class PushedModel:
    """
    A model on the Hub.

    Args:
        repo_id: `user/name`.
        url: of the model's page.
        commit: the commit to pin as `revision=`.
    """

    repo_id: str
    url: str
    commit: str


def export_model(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    revision: str | None = None,
    max_shard_size: int | str = "5GB",
    name: str | None = None,
) -> Path:
    """
    Write a saved model as a complete Hub folder: weights, settings, tokenizer, code, and a model card.

    The folder appears when everything is written, or not at all.

    Args:
        model: a folder, or a Hub id.
        folder: a new or an empty folder.
        revision: branch, tag or commit of a Hub id.
        max_shard_size: largest size of a weight file.
        name: name of the model in the card's examples; by default the folder's path.

    Raises:
        `FileExistsError`: if `folder` is not empty.
        `ValueError`: if `model` is not a DynFocus model.
        `OSError`: if there is no such model, or the folder cannot be written.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target}: exists and is not an empty folder; name a new one, or delete it first.")
    config: Any = AutoConfig.from_pretrained(model, revision=revision)
    if config.model_type != "dynfocus":
        raise ValueError(f"{model} is a {config.model_type} model: only DynFocus models can be exported.")
    loaded = AutoModelForImageTextToText.from_pretrained(model, revision=revision)
    processor = AutoProcessor.from_pretrained(model, revision=revision)
    with written_as_a_whole(target) as writing:
        loaded.save_pretrained(writing, max_shard_size=max_shard_size)
        processor.save_pretrained(writing)
        _copy_documents(str(model), revision, writing)
        card = writing / "README.md"
        called = name or str(folder)
        if card.is_file():
            text = name_model(card.read_text(encoding="utf-8"), called)
        else:
            text = make_model_card(config, processor, called)
        card.write_text(text, encoding="utf-8")
    return target


def push_model(
    model: str | os.PathLike[str],
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    message: str | None = None,
    token: str | None = None,
) -> PushedModel:
    """
    Export a saved model and upload it as one commit; the repository is created if it does not exist.

    Args:
        model, revision: see [`export_model`].
        repo_id: `user/name`, or `name` for your own namespace.
        private: whether a new repository is private; by default the owner's setting.
        message: the commit message.
        token: by default the one that huggingface_hub finds.

    Raises:
        `FileExistsError`: if the repository holds a model of another kind. `huggingface_hub.errors.HfHubHTTPError`: if
            the Hub refuses the upload. Then nothing is committed, and the repository's files stay as they were.
    """
    api = HfApi(token=token)
    api.whoami()  # fails here without a token, before anything is loaded
    _check_kind(api, repo_id)
    with tempfile.TemporaryDirectory() as scratch:
        folder = export_model(model, Path(scratch) / "model", revision=revision, name=repo_id)
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=url.repo_id,
            folder_path=folder,
            delete_patterns=_REPLACED,
            commit_message=message or "Upload DynFocus model",
        )
    return PushedModel(repo_id=url.repo_id, url=str(url), commit=commit.oid)


def name_model(card: str, name: str) -> str:
    """A card's text in which the examples load the model `name`."""
    return re.sub(r'(\bmodel=|from_pretrained\()"[^"\n]*"', lambda found: f'{found.group(1)}"{name}"', card)


@contextmanager
def written_as_a_whole(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that replaces it at the end, or is deleted."""
    target.parent.mkdir(parents=True, exist_ok=True)
    writing = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield writing
        writing.chmod(0o755)
        if target.exists():
            target.rmdir()
        writing.replace(target)
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def _copy_documents(model: str, revision: str | None, folder: Path) -> None:
    source = Path(model)
    if not source.is_dir():
        source = Path(snapshot_download(model, revision=revision, allow_patterns=_DOCUMENTS))
    for pattern in _DOCUMENTS:
        for path in source.glob(pattern):
            copy = folder / path.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)


def _check_kind(api: HfApi, repo_id: str) -> None:
    """Raises a `FileExistsError` if a push would overwrite a model of another kind."""
    try:
        path = hf_hub_download(repo_id, "config.json", token=api.token)
    except (RepositoryNotFoundError, EntryNotFoundError):
        return
    kind = json.loads(Path(path).read_text(encoding="utf-8")).get("model_type")
    if kind != "dynfocus":
        what = f"a {kind} model" if kind else "a model of another kind"
        raise FileExistsError(f"{repo_id} holds {what}, which would be overwritten: push to another name.")


__all__ = ["PushedModel", "export_model", "name_model", "push_model", "written_as_a_whole"]
