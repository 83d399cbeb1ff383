"""How sure a score is: intervals and tests that know that questions on one video are not independent.

Answers are bools, one a question; `clusters` names each question's video. What is drawn anew, or swapped between two
runs, is always a whole video with all its questions.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

Method = Literal["bca", "percentile"]
#: Draws whose counts of videos are held at once, in numbers: 8 bytes each.
_CHUNK = 4_000_000
#: With so few videos all signs are tried, else as many random ones as there are resamples.
_ENUMERABLE = 12


@dataclass(frozen=True)
class Interval:
    """An estimate (a share between 0 and 1, or a difference of two) and its confidence interval."""

    estimate: float
    low: float
    high: float
    confidence: float = 0.95


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

    The result does not depend on the order of the questions. Where no video differs from another (all right, all
    wrong) the bootstrap would claim certainty: the bound is then the exact binomial one, each video being one
    observation (of tasks with unequal numbers of videos, as if each had the fewest). One video alone says nothing of
    others: the interval is everything.

    Args:
        correct: one bool a question.
        clusters: the video of each question.
        groups: the task of each question; then the mean of the tasks' accuracies (macro) is estimated, not the share
            of right answers. A task that a resample lost has no part in its mean.
        confidence: of the interval.
        resamples: how often as many videos are drawn with replacement.
        seed: of the draws.
        method: `"bca"` (bias-corrected and accelerated) or `"percentile"`.

    Raises:
        ValueError: for no questions, unequal lengths, `None` among the answers, or settings out of range.
    """
    table = _table([_as_bools(correct, "correct")], clusters, groups)
    return _bootstrap(table, (0.0, 1.0), confidence, resamples, seed, method)


def paired_bootstrap(
    a: Sequence[bool],
    b: Sequence[bool],
    clusters: Sequence[Hashable],
    groups: Sequence[Hashable] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    method: Method = "bca",
) -> Interval:
    """Accuracy of `b` minus that of `a` on the same questions, each resample being drawn for both; else as
    [`bootstrap_accuracy`]."""
    table = _table([_as_bools(a, "a"), _as_bools(b, "b")], clusters, groups)
    return _bootstrap(table, (-1.0, 1.0), confidence, resamples, seed, method)


def standard_error(correct: Sequence[bool], clusters: Sequence[Hashable]) -> float:
    """The cluster-robust standard error of the accuracy, in closed form (CR1, as a regression on a constant has it);
    `nan` for a single video."""
    sums, counts = _table([_as_bools(correct, "correct")], clusters, None)
    residuals = sums[:, 0, 0] - counts[:, 0] * (sums.sum() / counts.sum())
    videos = len(counts)
    if videos < 2:
        return math.nan
    return float(np.sqrt(videos / (videos - 1) * (residuals**2).sum()) / counts.sum())


def mcnemar(a: Sequence[bool], b: Sequence[bool], mid_p: bool = False) -> float:
    """The two-sided p-value of McNemar's exact test: of the questions that only one run got right, is each run's
    share one half?

    It takes questions for independent, so that it is too sure where a video has many: see [`sign_flip_test`].
    `mid_p` counts half the probability of what is just as extreme as what was seen, which is less conservative.
    """
    first, second = _as_bools(a, "a"), _as_bools(b, "b")
    _same_length(a=first, b=second)
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    discordant, fewer = only_a + only_b, min(only_a, only_b)
    if not discordant:
        return 1.0
    # In integers, as powers of two soon leave the range of floats.
    below, seen = 0, 1
    for k in range(fewer):
        below, seen = below + seen, seen * (discordant - k) // (k + 1)
    as_extreme = seen if only_a == only_b else 2 * seen
    return (4 * below + (1 if mid_p else 2) * as_extreme) / 2 ** (discordant + 1)


def sign_flip_test(
    a: Sequence[bool], b: Sequence[bool], clusters: Sequence[Hashable], *, resamples: int = 10_000, seed: int = 0
) -> float:
    """The two-sided p-value of McNemar's question, clustered: how often is the difference as large if the two runs
    are swapped for whole videos at random? Exact up to 12 videos that differ."""
    _check_settings(0.95, resamples)
    sums, _ = _table([_as_bools(a, "a"), _as_bools(b, "b")], clusters, None)
    gains = sums[:, 0, 1] - sums[:, 0, 0]
    gains = gains[gains != 0]
    seen = abs(gains.sum())
    if len(gains) <= _ENUMERABLE:
        bits = np.arange(2 ** len(gains))[:, None] >> np.arange(len(gains)) & 1
        return float((abs((2 * bits - 1) @ gains) >= seen).mean())
    rng = np.random.default_rng(seed)
    hits = 0
    for size in _chunks(resamples, len(gains)):
        signs = 2 * rng.integers(2, size=(size, len(gains))) - 1
        hits += int((abs(signs @ gains) >= seen).sum())
    return (hits + 1) / (resamples + 1)


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
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"There must be one entry a question in each, but {told}.")


def _check_settings(confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, but must lie between 0 and 1, such as 0.95.")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, but there must be at least 1.")


def _codes(names: Sequence[Hashable]) -> np.ndarray:
    """`(questions,)` numbers that stand for names, in an order that the questions' order has no part in."""
    order = {name: code for code, name in enumerate(sorted(set(names), key=lambda name: (str(type(name)), str(name))))}
    return np.array([order[name] for name in names], dtype=np.int64)


def _table(
    runs: Sequence[np.ndarray], clusters: Sequence[Hashable], groups: Sequence[Hashable] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Right answers `(videos, groups, runs)` and questions `(videos, groups)`."""
    groups = [0] * len(runs[0]) if groups is None else groups
    named = {"clusters": clusters, "groups": groups}
    _same_length(**{f"run {number}": run for number, run in enumerate(runs, 1)}, **named)
    video, group = _codes(clusters), _codes(groups)
    counts = np.zeros((video.max() + 1, group.max() + 1))
    sums = np.zeros((*counts.shape, len(runs)))
    np.add.at(counts, (video, group), 1)
    np.add.at(sums, (video, group), np.stack(runs, axis=-1).astype(float))
    return sums, counts


def _estimates(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean over the groups of the accuracy, or of the difference of two: `(draws, groups, runs)` to `(draws,)`."""
    right = sums[..., 0] if sums.shape[-1] == 1 else sums[..., 1] - sums[..., 0]
    present = counts > 0
    shares = np.divide(right, counts, out=np.zeros_like(right), where=present)
    return shares.sum(-1) / present.sum(-1)


def _chunks(total: int, width: int) -> list[int]:
    size = max(1, _CHUNK // width)
    return [min(size, total - start) for start in range(0, total, size)]


def _draw(sums: np.ndarray, counts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """`(resamples,)` estimates, each of as many videos drawn with replacement."""
    rng = np.random.default_rng(seed)
    videos = len(counts)
    drawn = []
    for size in _chunks(resamples, videos):
        picked = rng.integers(videos, size=(size, videos)) + videos * np.arange(size)[:, None]
        times = np.bincount(picked.ravel(), minlength=size * videos).reshape(size, videos).astype(float)
        drawn.append(_estimates(np.tensordot(times, sums, 1), times @ counts))
    return np.concatenate(drawn)


def _bootstrap(
    table: tuple[np.ndarray, np.ndarray],
    limits: tuple[float, float],
    confidence: float,
    resamples: int,
    seed: int,
    method: str,
) -> Interval:
    _check_settings(confidence, resamples)
    if method not in ("bca", "percentile"):
        raise ValueError(f"method is {method!r}, but must be 'bca' or 'percentile'.")
    sums, counts = table
    estimate = float(_estimates(sums.sum(0), counts.sum(0)))
    videos, tail = len(counts), (1 - confidence) / 2
    if videos == 1:
        return Interval(estimate, *limits, confidence)
    right = sums[..., 0] if sums.shape[-1] == 1 else sums[..., 1] - sums[..., 0]
    if any((right == value * counts).all() for value in {0.0, *limits}):
        # What no task has shown may hide where the fewest videos are.
        unseen = 1 - tail ** (1 / min(videos, counts.shape[1] * (counts > 0).sum(0).min()))
        return Interval(estimate, max(limits[0], estimate - unseen), min(limits[1], estimate + unseen), confidence)
    drawn = _draw(sums, counts, resamples, seed)
    probabilities = np.array([tail, 1 - tail])
    if method == "bca":
        left_out = _estimates(sums.sum(0) - sums, counts.sum(0) - counts)
        probabilities = _bca(probabilities, drawn, estimate, left_out)
    low, high = np.quantile(drawn, probabilities)
    return Interval(estimate, float(low), float(high), confidence)


def _bca(probabilities: np.ndarray, drawn: np.ndarray, estimate: float, left_out: np.ndarray) -> np.ndarray:
    """The quantiles to read instead (Efron 1987): moved by the draws' median bias, and by the skewness of the
    estimates that lack one video each."""
    normal = NormalDist()
    # Ties count half: with few videos many draws give the very estimate.
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


__all__ = ["Interval", "bootstrap_accuracy", "mcnemar", "paired_bootstrap", "sign_flip_test", "standard_error"]
