"""
Flattens a nested package into one folder of files, as transformers needs it for remote code.

Files loaded with `trust_remote_code=True` may only import siblings, `from .name import …`, each on a line of its own:
transformers finds them by a regular expression. Here, modules are renamed (`package.reading.sources` becomes
`reading_sources.py`) and their imports of each other are rewritten to match.
"""

import ast
import importlib.util
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

#: What transformers reads as an import of a sibling, anywhere in a file.
_LOOKS_IMPORTED = re.compile(r"^\s*(?:from\s+\.(\S+)\s+import|import\s+\.(\S+)\s*$)", re.MULTILINE)
_MODULE_OF_IMPORT = re.compile(r"from\b[\s\\]*[.\w\s\\]*?[\s\\]*\bimport\b")


def flatten(package: str, entries: Sequence[str]) -> dict[str, str]:
    """
    Texts of the files that the entry modules need, by their names in the flat folder.

    Args:
        package: name of the package; what is imported from other packages stays as it is.
        entries: full names of modules in it. A file is named by the last part of the entry's name; other modules are
            named by their path in the package, joined by underscores.

    Raises:
        `ValueError`: for an import that has no flat form; the message names its place and what to write instead.
    """
    flat_names = {entry: entry.rpartition(".")[2] for entry in entries}
    files: dict[str, str] = {}
    module_of_file: dict[str, str] = {}
    waiting = list(entries)
    while waiting:
        module = waiting.pop(0)
        name = _flat_name(module, package, flat_names)
        taken = module_of_file.setdefault(name, module)
        if taken != module:
            raise ValueError(f"{taken} and {module} would both be {name}.py in a flat folder: rename one of them.")
        if name in files:
            continue
        source = _Source.read(module)
        edits = []
        for node in _imports_of(source, package):
            target = _target(node, source)
            _check_names(node, target, source, package)
            edits.append(_rewritten(node, source, _flat_name(target, package, flat_names)))
            waiting.append(target)
        files[name] = _harmless(edits, source)
    return {f"{name}.py": files[name] for name in sorted(files)}


class _Source(NamedTuple):
    """A module's text and its path."""

    module: str
    is_package: bool
    text: str

    @classmethod
    def read(cls, module: str) -> "_Source":
        spec = _find(module)
        text = getattr(spec.loader, "get_source", lambda _: None)(module) if spec is not None else None
        if spec is None or text is None:
            raise ValueError(f"The source code of {module} is missing, from which the flat folder is made.")
        return cls(module, spec.submodule_search_locations is not None, text)

    def refuse(self, node: ast.AST | int, why: str) -> ValueError:
        line = node if isinstance(node, int) else getattr(node, "lineno", 1)
        return ValueError(f"{self.module}, line {line}: {why}.")


def _find(module: str) -> Any:
    """The path of a module; `None` if there is none."""
    try:
        return importlib.util.find_spec(module)
    except ModuleNotFoundError:
        # A package above it does not exist.
        return None


class _Edit(NamedTuple):
    start: int
    end: int
    text: str


def _flat_name(module: str, package: str, flat_names: dict[str, str]) -> str:
    return flat_names.get(module) or module.removeprefix(f"{package}.").replace(".", "_")


def _imports_of(source: _Source, package: str) -> Iterator[ast.ImportFrom]:
    """The imports from the package itself, anywhere in the module."""
    for node in _statements(ast.parse(source.text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == package or alias.name.startswith(f"{package}."):
                    raise source.refuse(node, f"`import {alias.name}` has no flat form; write `from … import …`")
        elif isinstance(node, ast.ImportFrom):
            top = (node.module or "").partition(".")[0]
            if node.level or top == package:
                yield node


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements of a module or of one statement; without their expressions, which are most of a tree."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for one in getattr(node, name, ()):
            yield one
            yield from _statements(one)


def _target(node: ast.ImportFrom, source: _Source) -> str:
    """Full name of the module that an import names."""
    if not node.level:
        return str(node.module)
    parts = source.module.split(".")
    # The first dot of a package's own `__init__` is the package itself.
    kept = len(parts) - node.level + (1 if source.is_package else 0)
    return ".".join([*parts[:kept], *([node.module] if node.module else [])])


def _check_names(node: ast.ImportFrom, target: str, source: _Source, package: str) -> None:
    """Raises a `ValueError` for imports of modules, which a flat folder cannot have."""
    if target == package:
        raise source.refuse(node, f"an import from {package} itself has no flat form; name the module")
    spec = _find(target)
    if spec is None:
        raise source.refuse(node, f"there is no module {target}")
    if spec.submodule_search_locations is None:
        return
    for alias in node.names:
        if alias.name != "*" and _find(f"{target}.{alias.name}") is not None:
            raise source.refuse(
                node, f"the import of the module {target}.{alias.name} has no flat form; import names from it"
            )


def _rewritten(node: ast.ImportFrom, source: _Source, flat_name: str) -> _Edit:
    """The import from the sibling; the imported names stay as they are."""
    start = _offset(source.text, node.lineno, node.col_offset)
    line_start = source.text.rfind("\n", 0, start) + 1
    found = _MODULE_OF_IMPORT.match(source.text, start)
    if found is None or source.text[line_start:start].strip():
        raise source.refuse(node, "an import needs a line of its own")
    return _Edit(start, found.end(), f"from .{flat_name} import")


def _offset(text: str, line: int, column: int) -> int:
    """The offset in the text of a line and column of the syntax tree, which counts bytes."""
    lines = text.split("\n")
    return sum(len(one) + 1 for one in lines[: line - 1]) + len(lines[line - 1].encode()[:column].decode())


def _apply(edits: list[_Edit], text: str) -> str:
    for edit in sorted(edits, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def _harmless(edits: list[_Edit], source: _Source) -> str:
    """The edited text; an import of a sibling in a docstring is rewritten, as transformers would look for its file."""
    text = _apply(edits, source.text)
    imports: set[int] = set()
    shift = 0
    for edit in sorted(edits):
        imports.add(edit.start + shift)
        shift += len(edit.text) - (edit.end - edit.start)
    found = [one.end() - len(one[0].lstrip()) for one in _LOOKS_IMPORTED.finditer(text)]
    strings = [start for start in found if start not in imports]
    docstrings = [_span(text, node) for node in _docstrings(ast.parse(text))] if strings else []
    for start in strings:
        if not any(first <= start < last for first, last in docstrings):
            line = text.count("\n", 0, start) + 1
            raise source.refuse(
                line, "transformers would read this line of a string as an import; write it differently"
            )
    return _apply([_Edit(start, start, ">>> ") for start in strings], text)


def _docstrings(tree: ast.Module) -> Iterator[ast.expr]:
    for node in (tree, *_statements(tree)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                yield first.value


def _span(text: str, node: ast.expr) -> tuple[int, int]:
    return (
        _offset(text, node.lineno, node.col_offset),
        _offset(text, node.end_lineno or node.lineno, node.end_col_offset or node.col_offset),
    )


__all__ = ["flatten"]
