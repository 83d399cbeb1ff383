"""Intervals and a test for scores, for which questions about one video are not independent.

Answers are bools, one for each question; `clusters` names each question's video. Videos are the observations: a video
is resampled, or swapped between two runs, together with all its questions.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

Method = Literal["bca", "percentile"]
#: Counts of resamples that are in memory at once, 8 bytes each.
_CHUNK = 4_000_000
#: Steps of the scale on which videos' gains are compared, if they have no coarser common unit.
_GRID = 8192


@dataclass(frozen=True)
class Interval:
    """An estimate (a share between 0 and 1, or a difference of two) and its confidence interval."""

    estimate: float
    low: float
    high: float
    confidence: float = 0.95


@dataclass(frozen=True)
class PairedDifference(Interval):
    """The difference of two accuracies, its interval, and the two-sided p-value of "there is no difference"."""

    p_value: float = 1.0


def bootstrap_accuracy(
    correct: Sequence[bool],
    clusters: Sequence[Hashable],
    groups: Sequence[Hashable] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    method: Method = "bca",
) -> Interval:
    """Accuracy with a bootstrap interval over videos.

    The result does not depend on the order of the questions. If no video differs from another (all right, all wrong,
    or the same share in each), the bootstrap would give an interval of zero width: the bound is then the exact
    binomial one, with each video as one observation (with several groups, as if each had as many videos as the
    smallest). With a single video the interval is 0 to 1.

    Args:
        correct: one bool for each question.
        clusters: the video of each question.
        groups: the task of each question; if given, the mean of the tasks' accuracies (macro) is estimated instead of
            the share of right answers. A task that is missing from a resample is left out of its mean.
        confidence: confidence level of the interval.
        resamples: number of resamples, each of as many videos drawn with replacement.
        seed: seed of the draws.
        method: `"bca"` (bias-corrected and accelerated) or `"percentile"`.

    Raises:
        ValueError: for no questions, unequal lengths, `None` among the answers, or settings out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, but must lie between 0 and 1, such as 0.95.")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, but there must be at least 1.")
    if method not in ("bca", "percentile"):
        raise ValueError(f"method is {method!r}, but must be 'bca' or 'percentile'.")
    right, counts = _table(_as_bools(correct, "correct").astype(float), clusters, groups)
    estimate = float(_means(right.sum(0), counts.sum(0)))
    videos, tail = len(counts), (1 - confidence) / 2
    if videos == 1:
        return Interval(estimate, 0.0, 1.0, confidence)
    drawn = _draw(right, counts, resamples, seed)
    if np.ptp(drawn) < 1e-9:
        # Unseen failures are most likely in the task with the fewest videos.
        unseen = _unseen(min(videos, counts.shape[1] * (counts > 0).sum(0).min()), tail)
        return Interval(estimate, max(0.0, estimate - unseen), min(1.0, estimate + unseen), confidence)
    probabilities = np.array([tail, 1 - tail])
    if method == "bca":
        left_out = _means(right.sum(0) - right, counts.sum(0) - counts)
        probabilities = _bca(probabilities, drawn, estimate, left_out)
    low, high = np.quantile(drawn, probabilities)
    return Interval(estimate, float(low), float(high), confidence)


def paired_difference(
    a: Sequence[bool],
    b: Sequence[bool],
    clusters: Sequence[Hashable],
    groups: Sequence[Hashable] | None = None,
    *,
    confidence: float = 0.95,
) -> PairedDifference:
    """Accuracy of `b` minus that of `a` on the same questions: estimate, interval and p-value by one method, so that
    the interval excludes 0 exactly when `p_value < 1 - confidence`.

    The difference is (how much differs) × (how one-sided that is). The first factor is the sum of the videos'
    absolute differences; its error is the cluster-robust one, on the logarithmic scale. The second is
    `2 * share - 1`, where each video on which the runs differ goes to `b` with the probability `share`; its interval
    and the p-value come from the exact distribution of the sum of the videos' differences under a given `share` (all
    of it, without resampling). At `share = 1/2` this is the test that swaps the two runs for whole videos; with one
    question a video it is McNemar's exact test, and the interval of `share` is that of Clopper and Pearson. The errors
    of both factors are combined as in MOVER (Zou and Donner 2008, "Construction of confidence limits about effect
    measures").

    If no answer differs, the result is 0 with the interval [0, 0] and p = 1: no difference was observed, which does
    not prove that there is none. With a single video the interval is -1 to 1.

    Args:
        a, b: one bool for each question.
        clusters: the video of each question.
        groups: the task of each question; if given, the difference is that of the means of the tasks' accuracies
            (macro), and videos' differences are rounded to 1/8192 of their sum unless they have a coarser common unit.
        confidence: confidence level of the interval.

    Raises:
        ValueError: for no questions, unequal lengths, `None` among the answers, or a `confidence` out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, but must lie between 0 and 1, such as 0.95.")
    first, second = _as_bools(a, "a"), _as_bools(b, "b")
    _same_length(a=first, b=second)
    gains, counts = _table(second.astype(float) - first, clusters, groups)
    if (first == second).all():
        return PairedDifference(0.0, 0.0, 0.0, confidence)
    videos, tail = len(counts), (1 - confidence) / 2
    # As whole numbers, so that equal differences compare equal.
    totals = [int(count) for count in counts.sum(0)]
    unit = math.lcm(*totals)
    parts = [sum(int(gain) * (unit // n) for gain, n in zip(row, totals, strict=True)) for row in gains]
    scale = unit * len(totals)
    estimate = sum(parts) / scale
    if videos == 1:
        return PairedDifference(estimate, -1.0, 1.0, confidence)
    if not any(parts):
        unseen = _unseen(videos, tail)
        return PairedDifference(0.0, -unseen, unseen, confidence)
    if estimate < 0:
        turned = paired_difference(b, a, clusters, groups, confidence=confidence)
        return PairedDifference(estimate, -turned.high, -turned.low, confidence, turned.p_value)

    sizes, won = _whole_steps(parts)
    p_value = min(1.0, 2 * _at_least(sizes, won, 0.5))
    one_sided = 2 * won / sum(sizes) - 1
    least = 2 * _smallest_share(sizes, won, tail) - 1
    most = 1 - 2 * _smallest_share(sizes, sum(sizes) - won, tail)

    differing = np.array([abs(part) / scale for part in parts])
    weights = (counts / totals).sum(1) / len(totals)
    rate = float(differing.sum())
    error = math.sqrt(videos / (videos - 1) * float(((differing - rate * weights) ** 2).sum()))
    factor = math.exp(NormalDist().inv_cdf(1 - tail) * error / rate)
    fewest, largest = rate / factor, min(1.0, rate * factor)

    low = estimate - math.hypot(rate * (one_sided - least), one_sided * (rate - fewest))
    high = estimate + math.hypot(rate * (most - one_sided), one_sided * (largest - rate))
    # The sign of the bounds is that of `least` and `most`; `fewest` is above 0.
    low = max(low, fewest * least) if least > 0 else min(low, 0.0)
    return PairedDifference(estimate, max(-1.0, low), min(1.0, high), confidence, p_value)


def _as_bools(values: Sequence[bool], name: str) -> np.ndarray:
    listed = list(values)
    if not listed:
        raise ValueError(f"{name} is empty, but statistics need at least one question.")
    for index, value in enumerate(listed):
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(
                f"{name}[{index}] is {value!r}, not True or False: leave the question out, or count it as wrong."
            )
    return np.array(listed, dtype=bool)


def _same_length(**arrays: Sequence | np.ndarray) -> None:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"There must be one entry a question in each, but {found}.")


def _codes(names: Sequence[Hashable]) -> np.ndarray:
    """`(questions,)` numbers in place of names, independent of the order of the questions."""
    order = {name: code for code, name in enumerate(sorted(set(names), key=lambda name: (str(type(name)), str(name))))}
    return np.array([order[name] for name in names], dtype=np.int64)


def _table(
    values: np.ndarray, clusters: Sequence[Hashable], groups: Sequence[Hashable] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the questions' values and numbers of questions, both `(videos, groups)`."""
    groups = [0] * len(values) if groups is None else groups
    _same_length(answers=values, clusters=clusters, groups=groups)
    video, group = _codes(clusters), _codes(groups)
    counts = np.zeros((video.max() + 1, group.max() + 1))
    sums = np.zeros_like(counts)
    np.add.at(counts, (video, group), 1)
    np.add.at(sums, (video, group), values)
    return sums, counts


def _means(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean over the groups of the groups' means: `(..., groups)` to `(...)`."""
    present = counts > 0
    shares = np.divide(sums, counts, out=np.zeros_like(sums), where=present)
    return shares.sum(-1) / present.sum(-1)


def _unseen(videos: int, tail: float) -> float:
    """The largest share of failures of which `videos` videos show none with the probability `tail`."""
    return 1 - tail ** (1 / videos)


def _draw(sums: np.ndarray, counts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """`(resamples,)` estimates, each of as many videos drawn with replacement."""
    rng = np.random.default_rng(seed)
    videos = len(counts)
    chunk = max(1, _CHUNK // videos)
    drawn = []
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        picked = rng.integers(videos, size=(size, videos)) + videos * np.arange(size)[:, None]
        times = np.bincount(picked.ravel(), minlength=size * videos).reshape(size, videos).astype(float)
        drawn.append(_means(times @ sums, times @ counts))
    return np.concatenate(drawn)


def _bca(probabilities: np.ndarray, drawn: np.ndarray, estimate: float, left_out: np.ndarray) -> np.ndarray:
    """
    The adjusted quantiles (Efron 1987): moved by the draws' median bias, and by the skewness of the estimates that
    leave out one video each.
    """
    normal = NormalDist()
    # Ties count half: with few videos many draws equal the estimate.
    below = ((drawn < estimate).mean() + (drawn <= estimate).mean()) / 2
    deviations = left_out.mean() - left_out
    scale = 6 * (deviations**2).sum() ** 1.5
    if not 0 < below < 1 or scale == 0:
        return probabilities
    bias, acceleration = normal.inv_cdf(float(below)), (deviations**3).sum() / scale
    moved = []
    for probability in probabilities:
        shifted = bias + normal.inv_cdf(float(probability))
        moved.append(normal.cdf(bias + shifted / (1 - acceleration * shifted)))
    return np.array(moved)


def _whole_steps(gains: Sequence[int]) -> tuple[list[int], int]:
    """The videos' absolute differences in whole steps of a common unit, and the sum of the positive ones."""
    step = max(math.gcd(*gains), sum(map(abs, gains)) / _GRID)
    steps = [round(gain / step) for gain in gains]
    return [abs(one) for one in steps if one], sum(one for one in steps if one > 0)


def _at_least(sizes: Sequence[int], won: int, share: float) -> float:
    """The probability that sizes, each picked with the probability `share`, sum up to `won` or more."""
    chances, top = np.zeros(sum(sizes) + 1), 0
    chances[0] = 1
    for size in sizes:
        picked = share * chances[: top + 1]
        chances[: top + 1] -= picked
        chances[size : top + size + 1] += picked
        top += size
    return float(chances[won:].sum())


def _smallest_share(sizes: Sequence[int], won: int, tail: float) -> float:
    """The `share` at which `won` or more has the probability `tail` (0 if it always has more)."""
    if won == 0:
        return 0.0
    # Each half is searched separately, so that the bound is above 1/2 exactly if the test at 1/2 rejects.
    low, high = (0.5, 1.0) if _at_least(sizes, won, 0.5) < tail else (0.0, 0.5)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_least(sizes, won, middle) < tail else (low, middle)
    return (low + high) / 2


__all__ = ["Interval", "PairedDifference", "bootstrap_accuracy", "paired_difference"]
