"""`dynfocus export OUT --space`: a folder that is a Space of the Hub, with the page of `dynfocus demo`."""

import importlib.metadata
import importlib.util
import re
import shutil
from pathlib import Path

from dynfocus.checkpoints import is_embedded

from .loading import check_model_name
from .terminal import UserError

#: What the page needs of this package; training is left out.
_PACKAGES = ("dynfocus", *(f"dynfocus.{name}" for name in ("adoption", "processing", "eval", "cli", "checkpoints")))
#: What belongs to a run of training, or may run code, is not copied with a model.
_NOT_COPIED = ("*.py", "*.pyc", "__pycache__", "*.bin", "*.pt", "*.pth", "*.pkl", "checkpoint-*", ".*")
_APP = '''"""The page of `dynfocus demo`; the arguments of `serve` are described in dynfocus/cli/demo.py."""

from dynfocus.cli.demo import serve

if __name__ == "__main__":
    serve({arguments})
'''
_CARD = """---
title: {title}
colorFrom: blue
colorTo: gray
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
license: apache-2.0
{models}short_description: Ask about long videos, within a token budget
---

# {title}

Answers questions about videos: upload one, ask, and see the answer with its key frames and their times.
{about}

Files: `app.py` starts the page, `dynfocus/` is its code, `requirements.txt` what that needs. To run it here:
`pip install -r requirements.txt && python app.py`.
"""


def write_space(out: Path, model: str | None, revision: str | None) -> Path:
    """
    Write a Space: front matter, requirements, app file, this package, and a model's files if it is a folder.

    The folder appears when everything is written, or not at all.

    Args:
        out: a new or empty folder.
        model: a folder, which is copied; a Hub id, which the Space loads when it starts; by default the demo model.

    Raises:
        `UserError`: if `out` is not empty, or there is no such model.
    """
    if is_embedded(model):
        model = None
    if model is not None:
        check_model_name(model)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not an empty folder; name a new one, or delete it first.")
    from dynfocus.hub.upload import written_as_a_whole

    with written_as_a_whole(out) as writing:
        _write(writing, model, revision)
    return out


def _write(folder: Path, model: str | None, revision: str | None) -> None:
    arguments, models = [], ""
    title, about = "DynFocus", "The included demo model knows generated shapes with numbers, and nothing else."
    if model is not None and Path(model).is_dir():
        title = about = Path(model).resolve().name
        about = f"The model is in the folder `model`: {title}."
        shutil.copytree(model, folder / "model", ignore=shutil.ignore_patterns(*_NOT_COPIED))
        arguments = ['"model"']
    elif model is not None:
        title, about = model.rpartition("/")[2], f"The model is {model}, loaded from the Hub."
        models = f"models: [{model}]\n"
        arguments = [repr(model).replace("'", '"'), *([f'revision="{revision}"'] if revision else [])]
    card = _CARD.format(title=title, about=about, models=models, gradio=_gradio_version())
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "app.py").write_text(_APP.format(arguments=", ".join(arguments)), encoding="utf-8")
    (folder / "requirements.txt").write_text("\n".join(requirements()) + "\n", encoding="utf-8")
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.submodule_search_locations
        source = Path(spec.submodule_search_locations[0])
        target = folder.joinpath(*name.split("."))
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)


def requirements() -> list[str]:
    """What this package and its page need, one a line."""
    extras, needed = ["demo"], []
    lines = [line.replace("'", '"') for line in importlib.metadata.requires("dynfocus") or []]
    needed += [line for line in lines if "extra ==" not in line]
    while extras:
        condition = f'extra == "{extras.pop()}"'
        for line in lines:
            name, _, when = (part.strip() for part in line.partition(";"))
            if when == condition and (another := re.fullmatch(r"dynfocus\[([\w,-]+)\]", name)):
                extras += another[1].split(",")
            elif when == condition:
                needed.append(name)
    return needed


def _gradio_version() -> str:
    try:
        return importlib.metadata.version("gradio")
    except importlib.metadata.PackageNotFoundError:
        return "6.31.0"  # the one that the page was tested with


__all__ = ["requirements", "write_space"]
