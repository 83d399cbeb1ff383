"""Results of the rows: shares, differences with intervals, and their text."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynfocus.eval.statistics import Interval, paired_difference

#: The kind of questions on details.
DETAIL = "number"


@dataclass(frozen=True)
class Asked:
    """The answers of one row at one length and number of key frames: `records` of each seed."""

    row: str
    frames: int
    key_frames: int
    tokens: int
    seeds: dict[int, list[dict[str, Any]]]

    def shares(self, kind: str | None = None, name: str = "right") -> list[float]:
        """Share of `name` (`"right"` or `"found"`) among the questions of a kind, for each seed."""
        found = []
        for records in self.seeds.values():
            values = [one[name] for one in records if kind in (None, one["kind"]) and one[name] is not None]
            if values:
                found.append(float(np.mean(values)))
        return found

    def mean(self, kind: str | None = None, name: str = "right") -> float:
        """Mean of the `shares` over the seeds; NaN if there are none."""
        shares = self.shares(kind, name)
        return sum(shares) / len(shares) if shares else float("nan")

    @property
    def kinds(self) -> list[str]:
        return list(dict.fromkeys(record["kind"] for records in self.seeds.values() for record in records))


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


def difference(ours: Asked, other: Asked, kinds: Iterable[str] | None = None) -> Interval:
    """
    Accuracy of `ours` minus that of `other` on the same questions, with a 95 % interval over videos; the seeds that
    both have are taken together.
    """
    wanted = None if kinds is None else set(kinds)
    a: list[bool] = []
    b: list[bool] = []
    videos: list[int] = []
    for seed in sorted(ours.seeds.keys() & other.seeds.keys()):
        for mine, its in zip(ours.seeds[seed], other.seeds[seed], strict=True):
            if wanted is None or mine["kind"] in wanted:
                a.append(its["right"])
                b.append(mine["right"])
                videos.append(mine["video"])
    return paired_difference(a, b, videos)


def percent(shares: Sequence[float]) -> str:
    """Mean over the seeds, with the lowest and the highest."""
    if not shares:
        return "–"
    if len(shares) == 1:
        return f"{100 * shares[0]:.1f}"
    return f"{100 * np.mean(shares):.1f} ({100 * min(shares):.1f}–{100 * max(shares):.1f})"


def points(interval: Interval) -> str:
    """A difference in percentage points, with its interval."""
    if interval.low == interval.high:
        return "no answer differs"
    return f"{100 * interval.estimate:+.1f} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


__all__ = ["DETAIL", "Asked", "difference", "percent", "points", "read_rows", "write_row"]
