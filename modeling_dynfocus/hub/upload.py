"""A complete Hub folder of a saved model, and its way to the Hub."""

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

#: What goes with a model beside weights, settings and code.
_DOCUMENTS = ["README.md", ".eval_results/*"]
#: Files of an older version that a new one may not write again: they would lie beside the new ones.
_REPLACED = ["*.py", "*.safetensors", "*.safetensors.index.json"]


@dataclass(frozen=True)
class PushedModel:
    """
    Where a model lies on the Hub.

    Args:
        repo_id: `user/name`.
        url: of the model's page.
        commit: what to pin as `revision=`.
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

    The folder appears when all of it is written, or not at all.

    Args:
        model: a folder, or a Hub id.
        folder: is made; where it exists it has to be empty.
        revision: branch, tag or commit of a Hub id.
        max_shard_size: of a weight file.
        name: what the card calls the model in its examples; the folder's path by default.

    Raises:
        `FileExistsError`: where `folder` holds something.
        `ValueError`: where `model` is not a DynFocus model.
        `OSError`: where there is no such model, or the folder cannot be written.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target}: exists and is not an empty folder; name a new one, or delete it first.")
    config: Any = AutoConfig.from_pretrained(model, revision=revision)
    if config.model_type != "dynfocus":
        raise ValueError(f"{model} is a {config.model_type} model: only DynFocus models can be exported.")
    loaded = AutoModelForImageTextToText.from_pretrained(model, revision=revision)
    processor = AutoProcessor.from_pretrained(model, revision=revision)
    with _written_as_a_whole(target) as writing:
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
    Export a saved model and upload it as one commit; the repository is created where it does not exist.

    Args:
        model, revision: see [`export_model`].
        repo_id: `user/name`, or `name` for one's own.
        private: of a new repository; the owner's setting by default.
        message: of the commit.
        token: as huggingface_hub finds it by default.

    Raises:
        `FileExistsError`: where the repository holds a model of another kind.
        `huggingface_hub.errors.HfHubHTTPError`: where the Hub refuses. What was uploaded up to then is in no
            commit: the repository's files stay as they were.
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
    """A card's text with `name` as the model that its examples load."""
    return re.sub(r'(\bmodel=|from_pretrained\()"[^"\n]*"', lambda found: f'{found.group(1)}"{name}"', card)


@contextmanager
def _written_as_a_whole(target: Path) -> Iterator[Path]:
    """A folder beside `target` that becomes it in the end, or goes."""
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
    """That a push does not overwrite a model of another kind."""
    try:
        path = hf_hub_download(repo_id, "config.json", token=api.token)
    except (RepositoryNotFoundError, EntryNotFoundError):
        return
    kind = json.loads(Path(path).read_text(encoding="utf-8")).get("model_type")
    if kind != "dynfocus":
        what = f"a {kind} model" if kind else "a model of another kind"
        raise FileExistsError(f"{repo_id} holds {what}, which would be overwritten: push to another name.")


__all__ = ["PushedModel", "export_model", "name_model", "push_model"]
