"""
Pages of the site from outside of `docs/`: a hook of mkdocs.

The README and the other pages at the root of the repository become pages of the site. Their links, written for the
repository, are rewritten; links to files that are no page, such as examples, lead to a copy of the file.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
#: Pages of the site that lie elsewhere in the repository.
SOURCES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
    "model_card.md": "model_card.md",
    "benchmarks.md": "benchmarks/README.md",
}
_PAGES = {source: page for page, source in SOURCES.items()}
_LINK = re.compile(r"(\]\(|src=\"|href=\")([^)#:\"\s]+)(?=[)#\"])")
_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages, and the files that any page links to."""
    for page, source in SOURCES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for file in list(files.documentation_pages()):
        for link in _links(file.content_string, _source(file.src_uri)):
            if link not in _PAGES and not link.startswith("docs/") and (ROOT / link).is_file():
                if files.get_file_from_path(f"files/{link}") is None:
                    files.append(File.generated(config, f"files/{link}", abs_src_path=str(ROOT / link)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between files of the repository as links between pages of the site."""
    source = _source(page.file.src_uri)
    front_matter = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)

    def rewritten(match: re.Match[str]) -> str:
        target = _in_repository(match[2], source)
        if target is None:
            return match[0]
        if target in _PAGES:
            place = _PAGES[target]
        elif target.startswith("docs/"):
            place = target.removeprefix("docs/")
        else:
            place = f"files/{target}"
        return match[1] + posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or ".")

    pieces = _CODE.split(front_matter.sub("", markdown))
    return "".join(piece if piece.startswith("`") else _LINK.sub(rewritten, piece) for piece in pieces)


def _source(page: str) -> str:
    return SOURCES.get(page, f"docs/{page}")


def _in_repository(link: str, source: str) -> str | None:
    """The path in the repository of what a file links to; `None` if that is no file there."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    return path if (ROOT / path).is_file() else None


def _links(markdown: str, source: str) -> list[str]:
    found = (_in_repository(match[2], source) for match in _LINK.finditer(markdown))
    return [path for path in found if path is not None]
