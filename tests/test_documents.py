"""What the documents name exists: files, links, and the functions and classes of docs/architecture.md."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "model_card.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
FOLDERS = [ROOT, *(path for path in ROOT.iterdir() if (path / "__init__.py").is_file())]


def documents_everywhere() -> list[Path]:
    """All documents of the repository, also the cards of folders that are uploaded to the Hub."""
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
    made = ("build", "dist", "runs", "site")
    return sorted(ROOT / path for path in found if path.parts[0] not in made and path.parts[0][0] != ".")


def test_documents_are_found():
    assert {"architecture.md", "models.md", "usage.md"} <= {path.name for path in DOCUMENTS}


def links_of(document: Path) -> list[tuple[str, str]]:
    """The relative links of a document, as path (empty for the document itself) and anchor."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.S)
    return re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text)


def anchors_of(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_links_lead_somewhere():
    """From where each document lies."""
    wrong, checked = [], 0
    for document in documents_everywhere():
        for path, anchor in links_of(document):
            target = document.parent / path if path else document
            checked += 1
            if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors_of(target)):
                wrong.append(f"{document.relative_to(ROOT)}: {path}#{anchor}")
    assert wrong == [] and checked > 50


def test_folders_that_are_uploaded_have_no_links_out_of_them():
    """On the Hub, nothing of the repository lies beside the card of the checkpoint or of a metric."""
    cards = [path for path in documents_everywhere() if path.parts[-3] in ("checkpoints", "metrics")]
    assert {"dynfocus-tiny", "video_qa_accuracy"} <= {card.parent.name for card in cards}
    targets = [(card.parent, card.parent / path) for card in cards for path, _ in links_of(card)]
    assert [target for folder, target in targets if not target.resolve().is_relative_to(folder)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_lines_are_short_enough(document):
    """119 columns, apart from code, tables, pictures, and the lines that benchmarks write."""
    written = ("|", "![", "- met: ", "- MISSED: ", "**`", "Tokens of a video: ")
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.S)
    assert [line for line in text.splitlines() if len(line) > 119 and not line.startswith(written)] == []


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
