"""What the rows' files say: shares, differences with intervals, and what is shown of them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynfocus.eval.statistics import Interval, paired_bootstrap

#: Questions whose answer only a close look tells.
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
        """Mean of the `shares` over the seeds; NaN where there are none."""
        shares = self.shares(kind, name)
        return sum(shares) / len(shares) if shares else float("nan")

    @property
    def kinds(self) -> list[str]:
        return list(dict.fromkeys(record["kind"] for records in self.seeds.values() for record in records))


def read_rows(work: Path) -> dict[tuple[str, int, int], Asked]:
    """All answers in `work/rows`, by row, frames and key frames."""
    found: dict[tuple[str, int, int], Asked] = {}
    for path in sorted((work / "rows").glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        for one in result["answers"]:
            key = result["row"], one["frames"], one["key_frames"]
            asked = found.setdefault(key, Asked(*key, one["tokens"], {}))
            asked.seeds[result["seed"]] = one["records"]
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
    return paired_bootstrap(a, b, videos, resamples=2000)


def percent(shares: Sequence[float]) -> str:
    """Mean over the seeds, with the lowest and the highest."""
    if not shares:
        return "–"
    if len(shares) == 1:
        return f"{100 * shares[0]:.1f}"
    return f"{100 * np.mean(shares):.1f} ({100 * min(shares):.1f}–{100 * max(shares):.1f})"


def points(interval: Interval) -> str:
    """A difference in percentage points, with its interval."""
    return f"{100 * interval.estimate:+.1f} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


__all__ = ["DETAIL", "Asked", "difference", "percent", "points", "read_rows"]
