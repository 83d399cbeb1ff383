"""Files with the answers of the rows."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from asked import Asked


def write_row(path: Path, row: str, seed: int, seconds: float, answers: Sequence[dict[str, Any]]) -> None:
    """
    Write one row of one seed. Records are stored as one list for each field, with 1 and 0 for true and false, a third
    as long.
    """

    def short(value: Any) -> Any:
        return int(value) if isinstance(value, bool) else value

    columns = [
        {**one, "records": {name: [short(record[name]) for record in one["records"]] for name in one["records"][0]}}
        for one in answers
    ]
    text = json.dumps({"row": row, "seed": seed, "seconds": round(seconds), "answers": columns}, separators=(",", ":"))
    writing = path.with_suffix(f".{os.getpid()}")
    writing.write_text(text, encoding="utf-8")
    writing.replace(path)


def read_rows(folder: Path) -> dict[tuple[str, int, int], Asked]:
    """Read the results of `write_row` in `folder`, by row, frames and key frames."""
    found: dict[tuple[str, int, int], Asked] = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        for one in result["answers"]:
            key = result["row"], one["frames"], one["key_frames"]
            asked = found.setdefault(key, Asked(*key, one["tokens"], {}))
            columns = one["records"]
            for name in ("right", "found"):
                columns[name] = [None if value is None else bool(value) for value in columns[name]]
            records = zip(*columns.values(), strict=True)
            asked.seeds[result["seed"]] = [dict(zip(columns, record, strict=True)) for record in records]
    return found


__all__ = ["read_rows", "write_row"]
