"""The goals of the measurement, and whether they are met."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from grid import BUDGET, FRAMES, PER_KEY

sys.path.append(str(Path(__file__).parents[1]))
from asked import DETAIL, Asked, difference, points

from dynfocus.eval.statistics import Interval

#: Kinds of questions about several events, for which coarse frames are meant.
WIDE = ("count", "existence", "order")
GAIN, SURE_GAIN, LOSS, TO_TOLD, TO_DENSE, UNTOLD_LOSS = 30.0, 20.0, -2.0, -5.0, -2.0, -3.0


@dataclass(frozen=True)
class Way:
    """A row without its seed."""

    model: str
    frames: int = FRAMES
    rule: str = "peaks"
    coarse: str = "none"
    budget: str = BUDGET
    signal: str = "own"
    per_key: int = PER_KEY

    @property
    def label(self) -> str:
        """Short name of the row among those of one model, length and budget."""
        if self.budget == "dense":
            return "dense"
        more = "" if self.per_key == PER_KEY else f", {self.per_key} for each"
        return f"{self.rule}, {self.coarse}" + ("" if self.signal == "own" else ", other") + more


def by_way(rows: Iterable[dict[str, Any]]) -> dict[Way, Asked]:
    """
    Rows of `kept_answers.py`, with the seeds of each put together. Videos of two seeds are different ones.

    Raises:
        `ValueError`: if rows of a model were measured with other weights.
    """
    found: dict[Way, Asked] = {}
    weights: dict[str, str] = {}
    for row in rows:
        if weights.setdefault(row["model"], row["weights"]) != row["weights"]:
            raise ValueError(f"Rows of {row['model']} were measured with different weights: measure them again.")
        named = (row[name] for name in ("model", "frames", "rule", "coarse", "budget", "signal"))
        way = Way(*named, row.get("per_key", PER_KEY))
        seeds = found[way].seeds if way in found else {}
        seeds[row["seed"]] = [{**record, "video": (row["seed"], record["video"])} for record in row["records"]]
        every = [record for records in seeds.values() for record in records]
        tokens, keys = (max(record[name] for record in every) for name in ("tokens", "key_frames"))
        found[way] = Asked(way.label, way.frames, keys, tokens, seeds)
    return found


def dense_of(found: Mapping[Way, Asked], model: str, frames: int) -> Asked | None:
    return found.get(Way(model, frames, "uniform", "none", "dense"))


def share_of_dense(asked: Asked) -> float:
    """The largest share of the tokens of all frames that a question cost."""
    return max(record["tokens"] / record["dense_tokens"] for records in asked.seeds.values() for record in records)


def gain(ours: Asked, other: Asked, kinds: Iterable[str] | None = None) -> Interval | None:
    """The difference on the seeds that both have; `None` without any."""
    wanted = None if kinds is None else set(kinds)
    shared = ours.seeds.keys() & other.seeds.keys()
    if not any(wanted is None or record["kind"] in wanted for seed in shared for record in ours.seeds[seed]):
        return None
    return difference(ours, other, kinds)


def verdicts(found: Mapping[Way, Asked], model: str, rule: str, coarse: str) -> Iterator[tuple[str, tuple[str, bool]]]:
    """
    Each goal in words, with the measured value and whether it is met; goals whose rows are missing are left out.

    Args:
        rule: the rule that is compared with others.
        coarse: the form of coarse frames of all rows except `dense`.
    """
    ours = found.get(Way(model, rule=rule, coarse=coarse))
    if ours is None:
        return
    share = share_of_dense(ours)
    yield f"at most {BUDGET} of the tokens of `dense`", (f"{100 * share:.1f} %", share <= Fraction(BUDGET))
    uniform, told = (found.get(Way(model, rule=other, coarse=coarse)) for other in ("uniform", "told"))
    dense, blind = dense_of(found, model, FRAMES), found.get(Way(model, rule=rule, coarse=coarse, signal="other"))

    def goal(text: str, least: float, one: Interval | None, sure: float = -100.0) -> Iterator[Any]:
        if one is not None:
            yield text, (points(one), 100 * one.estimate >= least and 100 * one.low > sure)

    if uniform is not None:
        text = "against `uniform` on details: +30 at least, all of the interval above +20"
        yield from goal(text, GAIN, gain(ours, uniform, [DETAIL]), SURE_GAIN)
        for kind in WIDE:
            text = f"against `uniform` on *{kind}*: no worse than -2"
            yield from goal(text, LOSS, gain(ours, uniform, [kind]))
    if told is not None:
        yield from goal("against `told` on details: within 5", TO_TOLD, gain(ours, told, [DETAIL]))
    if dense is not None:
        yield from goal("against `dense` on all questions: within 2", TO_DENSE, gain(ours, dense))
    if blind is not None and uniform is not None:
        text = "against `uniform` with texts of another video: no worse than -3"
        yield from goal(text, UNTOLD_LOSS, gain(blind, uniform))


__all__ = ["WIDE", "Way", "by_way", "dense_of", "gain", "share_of_dense", "verdicts"]
