"""Answers of the rows in a compact form, one JSON object for each row."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_SIGN = {True: "1", False: "0", None: "-"}
_VALUE = {sign: value for value, sign in _SIGN.items()}


def packed(found: dict[str, Any]) -> str:
    """
    A row as one line of JSON: by kind of question a sign for each video, 1 or 0 or - (no such question, or no event
    that could be found); tokens as the list of their values if they differ.
    """
    kinds = list(dict.fromkeys(record["kind"] for record in found["records"]))
    records = sorted(found["records"], key=lambda record: (record["video"], kinds.index(record["kind"])))
    by_place = {(record["kind"], record["video"]): record for record in records}

    def signs(name: str) -> dict[str, str]:
        return {
            kind: "".join(_SIGN[by_place.get((kind, video), {}).get(name)] for video in range(found["videos"]))
            for kind in kinds
        }

    def numbers(name: str) -> int | list[int]:
        values = [record[name] for record in records]
        return values[0] if len(set(values)) == 1 else values

    small = {name: value for name, value in found.items() if name != "records"}
    small |= {name: signs(name) for name in ("right", "found")}
    small |= {name: numbers(name) for name in ("tokens", "dense_tokens", "key_frames")}
    return json.dumps(small, separators=(",", ":"))


def unpacked(line: str) -> dict[str, Any]:
    """The row of `packed`, with its records in the order of their videos."""
    found = json.loads(line)
    right, seen = found.pop("right"), found.pop("found")
    numbers = {name: found.pop(name) for name in ("tokens", "dense_tokens", "key_frames")}
    records: list[dict[str, Any]] = []
    for video in range(found["videos"]):
        for kind, signs in right.items():
            if signs[video] == "-":
                continue
            record = {"video": video, "kind": kind, "right": _VALUE[signs[video]], "found": _VALUE[seen[kind][video]]}
            here = {name: value[len(records)] if isinstance(value, list) else value for name, value in numbers.items()}
            records.append({**record, **here})
    return {**found, "records": records}


def write_row(path: Path, found: dict[str, Any]) -> None:
    _write(path, packed(found) + "\n")


def read_row(path: Path) -> dict[str, Any]:
    return unpacked(path.read_text(encoding="utf-8"))


def read_all(folder: Path) -> list[dict[str, Any]]:
    """All rows of the files in a folder, each with one or several lines."""
    files = sorted(folder.glob("*.json"))
    return [unpacked(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]


def keep(rows: Iterable[dict[str, Any]], folder: Path) -> None:
    """Write rows into one file for each model."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        lines.setdefault(row["model"], []).append(packed(row))
    folder.mkdir(parents=True, exist_ok=True)
    for model, several in lines.items():
        _write(folder / f"{model}.json", "\n".join(sorted(several)) + "\n")


def _write(path: Path, text: str) -> None:
    writing = path.with_suffix(f".{os.getpid()}")
    writing.write_text(text, encoding="utf-8")
    writing.replace(path)


__all__ = ["keep", "packed", "read_all", "read_row", "unpacked", "write_row"]
