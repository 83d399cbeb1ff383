"""The goals of the measurement, and whether they are met."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from grid import BUDGET, COARSE, FRAMES, PER_KEY

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


def verdicts(found: Mapping[Way, Asked], model: str) -> Iterator[tuple[str, bool]]:
    """Each goal in words with the measured value, and whether it is met; goals whose rows are missing are left out."""
    coarse = COARSE[model][0]
    ours = found.get(Way(model, coarse=coarse))
    if ours is None:
        return
    share = share_of_dense(ours)
    text = f"`{model}`: at most {100 * share:.1f} % of dense's tokens (goal: {BUDGET})"
    yield text, share <= Fraction(BUDGET)
    against: dict[str, Asked | None] = {
        rule: found.get(Way(model, rule=rule, coarse=coarse)) for rule in ("uniform", "told")
    }
    against["dense"] = dense_of(found, model, FRAMES)
    uniform = against["uniform"]
    if uniform is not None and (one := gain(ours, uniform, [DETAIL])):
        text = f"`{model}`: `peaks` {points(one)} points on details against `uniform` (goal: +30, interval above +20)"
        yield text, 100 * one.estimate >= GAIN and 100 * one.low > SURE_GAIN
        each = {kind: found_gain for kind in WIDE if (found_gain := gain(ours, uniform, [kind]))}
        worst = min(each, key=lambda kind: each[kind].estimate)
        text = (
            f"`{model}`: `peaks` on {', '.join(WIDE)} against `uniform`: least {worst} {points(each[worst])} points "
            "(goal: no worse than -2)"
        )
        yield text, 100 * each[worst].estimate >= LOSS
    if against["told"] is not None and (one := gain(ours, against["told"], [DETAIL])):
        text = f"`{model}`: `peaks` {points(one)} points on details against `told` (goal: within 5)"
        yield text, 100 * one.estimate >= TO_TOLD
    if against["dense"] is not None and (one := gain(ours, against["dense"])):
        text = f"`{model}`: `peaks` {points(one)} points on all questions against `dense` (goal: within 2)"
        yield text, 100 * one.estimate >= TO_DENSE
    blind = found.get(Way(model, coarse=coarse, signal="other"))
    if blind is not None and uniform is not None and (one := gain(blind, uniform)):
        text = (
            f"`{model}`: with texts of another video, `peaks` {points(one)} points on all questions against `uniform` "
            "(goal: no worse than -3)"
        )
        yield text, 100 * one.estimate >= UNTOLD_LOSS


__all__ = ["WIDE", "Way", "by_way", "dense_of", "gain", "share_of_dense", "verdicts"]
