"""What the documents name exists: files, links, and the functions and classes of docs/architecture.md."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "model_card.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
FOLDERS = [ROOT, *(path for path in ROOT.iterdir() if (path / "__init__.py").is_file())]


def test_documents_are_found():
    assert {"architecture.md", "models.md", "usage.md"} <= {path.name for path in DOCUMENTS}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_site_has_every_page():
    """Building the site, which also checks its links, is a step of `.ci/run`."""
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = set(re.findall(r"\b\w+\.md", str(site["nav"])))
    assert sorted({path.name for path in (ROOT / "docs").glob("*.md")} - listed) == []


def is_there(name: str) -> bool:
    return any(any(folder.glob(name.rstrip("/"))) for folder in FOLDERS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(document):
    names = re.findall(r"`([\w*]+(?:/[\w*.]+)+/?)`", document.read_text(encoding="utf-8"))
    files = [name for name in names if is_there(name.partition("/")[0])]
    assert [name for name in files if not is_there(name)] == []


def test_the_tables_of_the_architecture_name_what_is_there():
    """What stands in the last column of the tables of arrows is defined in the folders that a row names."""
    wrong = []
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| arrow .*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert len(tables) == 2
    for line in "".join(tables).splitlines():
        _, files, names = (cell.strip() for cell in line.strip("|").split("|"))
        folders = {file.partition("/")[0] for file in re.findall(r"`([\w/.]+)`", files) if "/" in file}
        source = "\n".join(path.read_text(encoding="utf-8") for one in folders for path in (ROOT / one).rglob("*.py"))
        for name in re.findall(r"[.`](\w+)", " ".join(re.findall(r"`[^`]*`", names))):
            if name not in ("md", "py") and not re.search(
                rf"(?:def|class) {name}\b|^{name}\b.* = ", source, re.MULTILINE
            ):
                wrong.append(f"{files}: {name}")
    assert wrong == []
