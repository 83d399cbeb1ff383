"""
Small files that are written atomically and read with clear errors, and folders that belong to one set of settings.
"""

import importlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PART = ".part"


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: a reader finds the old content or the new one, even after a kill or a power cut."""
    part = path.with_name(path.name + _PART)
    with part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def is_unused(folder: Path) -> bool:
    """Whether a folder is missing, empty, or holds only the unfinished first file of a killed process."""
    return not folder.exists() or (folder.is_dir() and all(path.name.endswith(_PART) for path in folder.iterdir()))


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """
    Wait until no other process of this machine is in such a block for `folder`, which is made if it is missing.

    If it cannot be made or locked (as on Windows), nothing is waited for. A lock leaves no file, and ends with its
    process.
    """
    descriptor = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fcntl: Any = importlib.import_module("fcntl")
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except (ImportError, OSError):
        pass
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def claim_folder(
    path: Path,
    settings: Mapping[str, Any],
    *,
    kind: str,
    way_out: str,
    is_begun: bool,
    free: Collection[str] = (),
    fields: Iterable[str] = (),
) -> bool:
    """
    Write the settings of a run or a set into its folder, or check that those in it are the same, so that an
    interrupted command can continue there.

    Args:
        path: path of the JSON file with the settings, in the folder to claim.
        settings: settings that determine the folder's content.
        kind: kind of content, such as "run", for messages.
        way_out: end of an error's sentence, such as "give another --out, or delete that folder".
        is_begun: whether the folder has content of its settings. If not, its settings are replaced.
        free: settings that may differ because they do not change the content: names in the form of [`flat_settings`],
            or prefixes ("sampling" means all of "sampling.fps" and the like).
        fields: fields that the settings in the file must have.

    Returns:
        `bool`: whether the folder was claimed with the same settings before.

    Raises:
        `ValueError`: the folder holds content of other settings (the first difference is named), or of unknown ones.
        `FileExistsError`: the folder holds other things. `OSError`: it cannot be made.
    """
    folder = path.parent
    if path.is_file():
        try:
            found, wanted = flat_settings(read_json(path, fields)), flat_settings(json.loads(json.dumps(settings)))
        except ValueError as error:
            if is_begun:
                raise ValueError(f"{error}, so it is unknown what made the files beside it; {way_out}.") from None
        else:
            order = [*wanted, *(key for key in found if key not in wanted)]
            differing = [key for key in order if found.get(key) != wanted.get(key) and not _is_free(key, free)]
            if not differing:
                return True
            if is_begun:
                key = differing[0]
                more = f" (and {len(differing) - 1} more settings)" if len(differing) > 1 else ""
                raise ValueError(
                    f"{folder} holds a {kind} with `{key}` = {found.get(key)!r} instead of {wanted.get(key)!r}{more}: "
                    f"{way_out}."
                )
    elif not is_unused(folder):
        raise FileExistsError(f"{folder}: is neither an empty folder nor one of a {kind}; {way_out}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{folder}: cannot be made: {error.strerror}; choose another folder.") from error
    write_json(path, settings)
    return False


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as a flat dict, with names such as "sampling.fps"."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= (
            flat_settings(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
        )
    return flat


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
        fields: fields that each row must have.
        way_out: end of the error's sentence, such as "make the set again".

    Raises:
        `ValueError`: a line is not such a row; the message names the file and the line's number, from 1.
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
    """The object in a JSON text; or what is wrong with it, if it is not an object or lacks some of `fields`."""
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


def _is_free(key: str, free: Collection[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in free)


__all__ = [
    "alone_in",
    "claim_folder",
    "flat_settings",
    "is_unused",
    "parse_object",
    "read_json",
    "read_rows",
    "write_json",
    "write_text",
]
