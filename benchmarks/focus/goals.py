"""The goals of the comparison, and whether they are met."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from sizes import Sizes

sys.path.append(str(Path(__file__).parents[1]))
from asked import DETAIL, Asked, difference, percent, points

from dynfocus.eval.statistics import Interval

#: Rows with the same number of tokens as DynFocus, or as close as possible.
RIVALS = ("uniform", "blind", "rods_only")
AGAINST_DENSE, TOKENS, GAIN, LOSS, RECALL, FAR_RECALL, AGAINST_ORACLE = -1.0, 0.37, 15.0, -2.0, 0.95, 0.03, -5.0
#: Of the row `likelihood`: the mean over seeds, and each seed; all questions.
RECALL_WITHOUT_LABELS, WITHOUT_LABELS = (0.9, 0.85), -3.0


def goals(at: Callable[[int], Mapping[str, Asked]], sizes: Sizes) -> Iterator[tuple[str, bool]]:
    """
    Each goal in words with the measured value, and whether it is met; goals whose rows are missing are left out.

    at: returns, for a number of frames, the rows at the tables' number of key frames.
    """
    near, far = (sorted(sizes.test)[place] for place in (-2, -1))
    rows = at(near)
    ours = rows.get("dynfocus")
    if ours is None:
        return
    if "dense" in rows:
        found = difference(ours, rows["dense"])
        yield f"{near} frames: {points(found)} points against dense (goal: within 1)", _above(found, AGAINST_DENSE)
        share = ours.tokens / rows["dense"].tokens
        yield f"{near} frames: {100 * share:.1f} % of dense's tokens (goal: at most 37 %)", share <= TOKENS
    for name in RIVALS:
        if name not in rows:
            continue
        found = difference(ours, rows[name], [DETAIL])
        yield f"{near} frames: {points(found)} points on details against {name} (goal: +15)", _above(found, GAIN)
        worst = min((difference(ours, rows[name], [kind]).estimate, kind) for kind in ours.kinds)
        text = f"{near} frames: no kind worse than {name} by over 2 points (least: {worst[1]} {100 * worst[0]:+.1f})"
        yield text, 100 * worst[0] >= LOSS
    recall = ours.mean(DETAIL, "found")
    text = f"{near} frames: asked event among the key frames in {100 * recall:.1f} % of detail questions (goal: 95 %)"
    yield text, recall >= RECALL
    if "dynfocus" in at(far):
        there = at(far)["dynfocus"].mean(DETAIL, "found")
        text = f"{far} frames: asked event among the key frames in {100 * there:.1f} % (goal: within 3 points of that)"
        yield text, there >= recall - FAR_RECALL
    if "oracle" in rows:
        found = difference(ours, rows["oracle"])
        yield (
            f"{near} frames: {points(found)} points against the oracle (goal: within 5)",
            _above(found, AGAINST_ORACLE),
        )
    if "likelihood" in rows:
        shares = rows["likelihood"].shares(DETAIL, "found")
        text = f"without labels: asked event among the key frames in {percent(shares)} % of detail questions"
        is_met = sum(shares) / len(shares) >= RECALL_WITHOUT_LABELS[0] and min(shares) >= RECALL_WITHOUT_LABELS[1]
        yield f"{near} frames, {text} (goal: 90 %, each seed 85 %)", is_met
        found = difference(rows["likelihood"], ours)
        text = f"{near} frames, without labels: {points(found)} points against dynfocus (goal: within 3)"
        yield text, _above(found, WITHOUT_LABELS)


def _above(found: Interval, limit: float) -> bool:
    return 100 * found.estimate >= limit


__all__ = ["goals"]
