"""
The commands and the Python code of the documents, and the examples.

Every block of `bash` and `python` is run (`-m slow`, by hand) in a folder with a few videos, where small random models
have the names that the documents use; lines that install packages are left out. Blocks that cannot be run there are
marked in the documents, with the reason:

    <!-- not run: needs two GPUs -->
"""

import ast
import csv
import functools
import importlib.util
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from adopted_models import qwen3_vl
from tiny_dual_encoders import save_dual_encoder
from typer.main import get_command

from dynfocus.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "model_card.md", "benchmarks/README.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]*?) -->\n+)?^```(?P<kind>bash|python)\n(?P<code>.*?)^```", re.M | re.S
)


class Block(NamedTuple):
    kind: str
    code: str
    reason: str | None


def blocks(document: Path) -> list[Block]:
    found = _BLOCK.finditer(document.read_text(encoding="utf-8"))
    return [Block(match["kind"], match["code"], match["reason"]) for match in found]


def commands(document: Path) -> list[list[str]]:
    """The words of each command in the blocks of `bash`, without comments."""
    found = []
    for block in blocks(document):
        if block.kind == "bash":
            for line in block.code.replace("\\\n", " ").splitlines():
                words = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
                words.whitespace_split = True
                command: list[str] = []
                for word in words:
                    if set(word) <= set("|&;<>"):
                        found.append(command)
                        command = [] if word[0] in "|&;" else ["<"]
                    else:
                        command.append(word)
                found.append(command)
    return [command for command in found if command]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_are_accepted(document):
    """By the parser of the command line, without running them; other programs' files and modules exist."""
    ours = get_command(app)
    for command in commands(document):
        if command[0] == "dynfocus" and "$(" not in " ".join(command):
            name, *arguments = [word for word in command[1:] if word != "$@"] or ["--help"]
            if name.startswith("-"):
                continue
            with ours.make_context("dynfocus", [name, *arguments]) as context:
                ours.get_command(context, name).make_context(name, list(arguments), parent=context).close()
        if "-m" in command and (module := command[command.index("-m") + 1]).startswith("dynfocus"):
            assert importlib.util.find_spec(module) is not None, command
        if command[0] in ("python", "bash") and not command[1].startswith("-"):
            assert (ROOT / command[1]).exists(), command


def test_what_is_not_run_has_a_reason():
    reasons = [block.reason for document in DOCUMENTS for block in blocks(document) if block.reason is not None]
    assert reasons and all(len(reason.split()) > 1 for reason in reasons)
    texts = [document.read_text(encoding="utf-8") for document in DOCUMENTS]
    assert sum(text.count("<!-- not run:") for text in texts) == len(reasons), "a mark that is not before a block"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A folder in which the documents' names are those of small files and models."""
    for name in ("benchmarks", "checkpoints", "eval", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    stock = qwen3_vl()
    for saved in (stock.model, stock.processor):
        saved.save_pretrained(tmp_path / "Qwen" / "Qwen3-VL-4B-Instruct")
    save_dual_encoder("siglip", tmp_path / "google" / "siglip2-base-patch16-224")
    for name in ("user/my-model", "user/my-base", "user/my-dynfocus", "runs/finetuned"):
        shutil.copytree(ROOT / "checkpoints" / "dynfocus-tiny", tmp_path / name)
    rows = []
    for name, source in (
        ("lecture.mp4", "shapes.mp4"),
        ("holiday.mp4", "events.mp4"),
        ("videos/cam1/monday.mp4", "events.mp4"),
        ("videos/cam2/friday.mp4", "shapes.mp4"),
        ("cam1/monday.mp4", "events.mp4"),
        ("cam2/friday.mp4", "shapes.mp4"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "examples" / source, tmp_path / name)
        if name.startswith("cam"):
            rows += [{"video": name, "question": f"Which color is object {n}?", "answer": "red"} for n in range(4)]
    for table in ("train.csv", "held-out.csv", "questions.csv"):
        with open(tmp_path / table, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("document", [one for one in DOCUMENTS if blocks(one)], ids=lambda path: path.name)
def test_blocks_run(document, workspace):
    """In the order of the document; its Python code shares its variables."""
    variables: dict = {}
    for number, block in enumerate(blocks(document)):
        if block.reason is not None:
            continue
        print(f"— block {number} of {document.name}:\n{block.code}", flush=True)
        run_block(block, variables)


def run_block(block: Block, variables: dict) -> None:
    """Fails if a command fails. `variables`: of the document's Python code."""
    if block.kind == "python":
        exec(compile(block.code, "a block of the document", "exec"), variables)
        return
    code = re.sub(r"^pip install .*$", "", block.code, flags=re.M)
    if not torch.cuda.is_available():
        # As docs/finetuning.md says; the tiny recipe has it already.
        code = re.sub(r"dynfocus train (?!tiny|lora --show)\S+", r"\g<0> training.use_cpu=true", code)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], stdin=subprocess.DEVNULL)
    assert done.returncode == 0, block.code


EXAMPLES = [
    "ask.py",
    "evaluate_and_compare.py",
    "finetune_on_a_folder.py 2",
    "finetune_trl.py train.csv --model user/my-model --out tuned --steps 1 --batch-size 1 --workers 0",
    "finetune_stock_trl.py train.csv --model Qwen/Qwen3-VL-4B-Instruct --max-visual-tokens 400 --out lora --steps 1 "
    "--workers 0",
    "pretrained_models.py lecture.mp4 'When?' --model Qwen/Qwen3-VL-4B-Instruct",
]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", EXAMPLES, ids=lambda command: command.split()[0])
def test_examples_run(command, workspace):
    if "_trl" in command:
        pytest.importorskip("trl", reason="TRL is not installed")
    done = subprocess.run(["bash", "-c", f"python examples/{command}"], stdin=subprocess.DEVNULL)
    assert done.returncode == 0


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_use_what_there_is(example):
    """Without running them: their names of this package exist, and take the keywords that they are called with."""
    nodes = list(ast.walk(ast.parse(example.read_text(encoding="utf-8"))))
    ours: dict[str, Any] = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "dynfocus":
            module = importlib.import_module(node.module or "")
            ours |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
    for node in nodes:
        path = ast.unparse(node.func).split(".") if isinstance(node, ast.Call) else [""]
        if isinstance(node, ast.Call) and path[0] in ours and all(part.isidentifier() for part in path):
            keywords = {keyword.arg: keyword for keyword in node.keywords if keyword.arg}
            inspect.signature(functools.reduce(getattr, path[1:], ours[path[0]])).bind_partial(*node.args, **keywords)
    # `make_examples.py` made the videos.
    assert example.name in {command.split()[0] for command in EXAMPLES} | {"make_examples.py"}
