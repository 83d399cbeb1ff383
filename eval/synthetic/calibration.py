"""Whether a model's scores say how often it is right: a reliability diagram and the expected calibration error.

Both as in "On Calibration of Modern Neural Networks" (Guo et al. 2017, arXiv 1706.04599), section 2.
"""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 10


def _bins(scores: Sequence[float], right: Sequence[bool]) -> list[tuple[float, float, int]]:
    """Mean score, share of right answers and number of answers of each bin of equal width that is not empty."""
    values, hits = np.asarray(scores, dtype=float), np.asarray(right, dtype=float)
    places = np.minimum((values * _BINS).astype(int), _BINS - 1)
    members = [places == place for place in range(_BINS)]
    return [(values[some].mean(), hits[some].mean(), int(some.sum())) for some in members if some.any()]


def calibration_error(scores: Sequence[float], right: Sequence[bool]) -> float:
    """
    Expected calibration error: the mean distance of score and share of right answers over 10 bins of equal width,
    weighted by their numbers of answers.

    Args:
        scores (`Sequence[float]`): score of each answer, in 0..1; at least one.
        right (`Sequence[bool]`): whether it is right.
    """
    bins = _bins(scores, right)
    return float(sum(count * abs(score - share) for score, share, count in bins) / len(scores))


def calibration_figure(scores: Sequence[float], right: Sequence[bool]) -> "Figure":
    """The share of right answers over the score, with the number of answers in each bin; see `calibration_error`."""
    try:
        figure = importlib.import_module("matplotlib.figure").Figure(figsize=(4.5, 4.2), layout="constrained")
    except ImportError:
        raise ImportError("The plot needs the package matplotlib: pip install 'dynfocus[plot]'.") from None
    axes = figure.subplots()
    bins = _bins(scores, right)
    axes.plot([0, 1], [0, 1], color="#9aa5ad", linestyle="--", linewidth=1)
    axes.plot([score for score, _, _ in bins], [share for _, share, _ in bins], "o-", color="#2a6f97", linewidth=1.5)
    for score, share, count in bins:
        axes.annotate(f"{count:,}", (score, share), (0, -13), textcoords="offset points", ha="center", fontsize=8)
    axes.set(xlim=(0, 1.03), ylim=(-0.05, 1.05), xlabel="score of the answer", ylabel="share of right answers")
    axes.set_title(f"calibration error {calibration_error(scores, right):.3f}", fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


__all__ = ["calibration_error", "calibration_figure"]
