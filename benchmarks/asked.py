"""Answers of rows that are compared: shares, differences with intervals, and their text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
from measuring import markdown_table

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


def kind_table(rows: Mapping[str, Asked]) -> str:
    """The mean over the seeds by kind of question."""
    kinds = next(iter(rows.values())).kinds
    lines = []
    for name, asked in rows.items():
        means = [asked.mean(kind) for kind in kinds]
        lines.append([f"`{name}`", *("–" if isnan(mean) else f"{100 * mean:.1f}" for mean in means)])
    return markdown_table(["row", *kinds], lines)


def goal_list(goals: Iterable[tuple[str, bool]]) -> str:
    """Goals in words with what was measured, one on each line."""
    return "\n".join(f"- {'met' if met else 'MISSED'}: {text}" for text, met in goals)


__all__ = ["DETAIL", "Asked", "difference", "goal_list", "kind_table", "percent", "points"]
