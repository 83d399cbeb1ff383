"""Small files: written at once, and read with errors that name the file, the line and the way out."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_PART = ".part"


def write_text(path: Path, text: str) -> None:
    """Write a file at once: a reader finds the old content or the new one, also after a kill or a power cut."""
    part = path.with_name(path.name + _PART)
    with part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file at once."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def is_unused(folder: Path) -> bool:
    """Whether a folder is missing, empty, or holds only what a kill left of the first file that was written to it."""
    return not folder.exists() or (folder.is_dir() and all(path.name.endswith(_PART) for path in folder.iterdir()))


def read_json(path: Path, fields: Iterable[str] = ()) -> dict[str, Any]:
    """The object in a JSON file. Raises `ValueError`, naming the file, if it holds none, or one without `fields`."""
    found = parse_object(path.read_bytes(), fields)
    if isinstance(found, str):
        raise ValueError(f"{path}: {found}")
    return found


def read_rows(path: Path, fields: Iterable[str], way_out: str) -> list[dict[str, Any]]:
    """
    The rows of a file of JSON lines; empty lines are skipped.

    Args:
        fields: what each row must have.
        way_out: the end of the error's sentence, such as "make the set again".

    Raises:
        `ValueError`: a line is no such row; it names the file and the number of the line, from 1.
    """
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            found = parse_object(line, fields)
            if isinstance(found, str):
                raise ValueError(f"{path}, line {number}: {found}; {way_out}.")
            rows.append(found)
    return rows


def parse_object(data: bytes, fields: Iterable[str] = ()) -> dict[str, Any] | str:
    """The object that a text of JSON holds; what is wrong with it, where it is none or lacks some of `fields`."""
    if not data.strip():
        return "is empty"
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        return f"is no JSON ({error})"
    if not isinstance(found, dict):
        return f"holds no JSON object, but {type(found).__name__}"
    missing = [name for name in fields if name not in found]
    return f"lacks {', '.join(missing)}" if missing else found


__all__ = ["is_unused", "parse_object", "read_json", "read_rows", "write_json", "write_text"]
