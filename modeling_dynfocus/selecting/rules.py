"""
Rules of choice: which frames of a video are key frames, from the relevance of each to a question.

Each rule is a pure function `rule(relevance, num_key, *, features, times)` without config or model:

- `relevance` `(T,)`: how well each frame fits the question, higher is better, of any scale and finite;
- `num_key`: how many frames to choose, at least 1; a rule returns K = min(`num_key`, T) of them;
- `features` `(T, D)`: embeddings of the frames, whose distances measure how similar frames are;
- `times` `(T,)`: seconds of the frames, in ascending order.

It returns int64 `(K,)`: distinct frame numbers in ascending order. Rules are deterministic and compute in float32;
ties go to the lowest frame number. They raise a `ValueError` for wrong shapes and for values that are not finite.
Published rules follow the formulas of their papers.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from .density_peaks import peak_scores
from .distances import SquaredDistances, cross_distances

# Relevance that spans less than this share of its largest value is only rounding.
_FLAT = 1e-6
# A matrix of distances has at most this many elements (64 MiB).
_CHUNK_ELEMENTS = 2**24
# Key frames for each moment with context, the sharpness of the moments' weights, and the number of key frames from
# which on it shows what is far away, too; BOLT's sharpness, AKS's threshold and depth, MMR's trade-off.
_FRAMES_PER_MOMENT, _MOMENT_POWER, _FAR_FRAMES = 4, 8, 16
_ITS_POWER = 2.0
_AKS_THRESHOLD, _AKS_DEPTH = 0.8, 5
_MMR_BALANCE = 0.5


class Rule(Protocol):
    """A rule of choice; see the module's description."""

    def __call__(self, relevance: Tensor, num_key: int, *, features: Tensor, times: Tensor) -> Tensor: ...


@torch.no_grad()
def peaks(relevance: Tensor, num_key: int, *, features: Tensor, times: Tensor) -> Tensor:
    """
    Density peaks with relevance as the density: frames that are relevant and unlike all more relevant ones.

    A frame's rank is `r · δ²`: its relevance r, scaled to 0…1 over the video, times the squared distance δ² of its
    features to the nearest more relevant frame (of equals the first counts as more relevant; for the most relevant
    frame, δ is its largest distance). The K highest ranks are taken. This is density-peaks clustering (Rodriguez and
    Laio, Science 2014) with another density, and the irreplaceability of GIFT (Zheng et al., arXiv:2603.25072).

    Exact duplicates of a more relevant frame, and frames of the lowest relevance, have rank 0. If fewer than K frames
    rank higher, a second round covers the video in time: it repeatedly takes the frame farthest in time from all
    chosen ones. Flat relevance gives the same frames as [`uniform`]. GIFT recomputes distances without the chosen
    frames, for temporal context; this is not done here, because it finds fewer of the moments that a question needs.
    """
    relevance, count = _checked(relevance, num_key, features, times)
    scaled = _scaled(relevance)
    if not bool(scaled.any()):
        return _uniform(len(relevance), count, relevance.device)
    return _cover(_ranked_peaks(scaled, count, features), count, times)


@torch.no_grad()
def context(relevance: Tensor, num_key: int, *, features: Tensor, times: Tensor) -> Tensor:
    """
    A quarter of the frames for the most relevant moments, the others around them: close together near a moment, and
    farther apart away from it.

    The first `M = ⌈K / 4⌉` frames are those that [`peaks`] takes for M. The others are taken one after the other, each
    time the frame with the highest `g · Σ r_i⁸ / (1 + d_i)ᵖ`, `p = max(1, 16 / K)`: g is the time to the nearest frame
    chosen so far, r_i the relevance of first frame i, scaled to 0…1 over the video, and d_i the time to it, in mean
    distances of two frames. So a moment is seen several times, with what comes before and after it, the best match
    most often, and the rest of the video sparsely; with few frames (p > 1), first what is next to the moments. Flat
    relevance gives the same frames as [`uniform`].

    GIFT (Zheng et al., arXiv:2603.25072) also spends a part of the frames on temporal context, by another formula.
    """
    relevance, count = _checked(relevance, num_key, features, times)
    scaled = _scaled(relevance)
    if not bool(scaled.any()):
        return _uniform(len(relevance), count, relevance.device)
    moments = _ranked_peaks(scaled, math.ceil(count / _FRAMES_PER_MOMENT), features)
    times = times.to(scaled.device).double()
    places = ((times - times[0]) * (len(times) - 1) / (times[-1] - times[0]).clamp(min=1e-9)).float()
    nearness, power = torch.zeros_like(scaled), max(1.0, _FAR_FRAMES / count)
    for moment in moments:
        nearness += scaled[moment] ** _MOMENT_POWER / (1 + (places - places[moment]).abs()) ** power
    return _cover(moments, count, places, nearness)


def _ranked_peaks(scaled: Tensor, count: int, features: Tensor) -> Tensor:
    """Up to `count` frames of rank above 0 by descending rank (see `peaks`), of relevance `scaled`; at least one."""
    _check_finite(features, "features")
    distances = SquaredDistances(features.float()[None], None, _CHUNK_ELEMENTS)
    rank = scaled * peak_scores(distances, -scaled[None])[0][0]
    best = _highest(rank, count)
    best = best[rank[best] > 0]
    return best if len(best) else _highest(scaled, 1)


def uniform(relevance: Tensor, num_key: int, *, features: Tensor, times: Tensor) -> Tensor:
    """The middle frames of K equally long parts of the video: `floor((k + 1/2) · T / K)`. Relevance is not used."""
    relevance, count = _checked(relevance, num_key, features, times)
    return _uniform(len(relevance), count, relevance.device)


def topk(relevance: Tensor, num_key: int, *, features: Tensor, times: Tensor) -> Tensor:
    """The K most relevant frames, even if they are similar."""
    relevance, count = _checked(relevance, num_key, features, times)
    return _highest(relevance, count).sort().values


def its(relevance: Tensor, num_key: int, *, features: Tensor, times: Tensor) -> Tensor:
    """
    Inverse transform sampling (BOLT: Liu et al., CVPR 2025, arXiv:2503.21483).

    With r the relevance scaled to 0…1, frames have the probability `p ∝ r²`, and F is its cumulative sum. The frames
    `F⁻¹((k + 1/2) / K)`, k = 0 … K-1, are taken: quantiles instead of random numbers. If several fall on one frame,
    the missing ones are replaced by the frames farthest in time from the chosen ones. Flat relevance gives the same
    frames as [`uniform`].
    """
    relevance, count = _checked(relevance, num_key, features, times)
    share = _scaled(relevance) ** _ITS_POWER
    if not bool(share.any()):
        return _uniform(len(relevance), count, relevance.device)
    # Monotonic even if sums are computed in parallel, so that no frame of probability 0 is chosen.
    cumulative = share.cumsum(0).cummax(0).values
    quantiles = (torch.arange(count, device=share.device) + 0.5) / count * cumulative[-1]
    return _cover(torch.searchsorted(cumulative, quantiles).unique(), count, times)


def aks(relevance: Tensor, num_key: int, *, features: Tensor, times: Tensor) -> Tensor:
    """
    Adaptive keyframe sampling (AKS: Tang et al., CVPR 2025, arXiv:2502.21271).

    With r the relevance scaled to 0…1: if the mean r of the K most relevant frames is more than 0.8 above the mean of
    all, they are taken. Otherwise time is split into two halves, which get half of K each (the second half gets the
    odd frame), and so on, up to 5 times or until a part gets one frame. From the last parts, the most relevant frames
    are taken.
    """
    relevance, count = _checked(relevance, num_key, features, times)
    scaled = _scaled(relevance)
    chosen: list[Tensor] = []

    def choose(start: int, end: int, wanted: int, depth: int) -> None:
        part = scaled[start:end]
        best = _highest(part, wanted)
        if wanted == 1 or depth == _AKS_DEPTH or bool(part[best].mean() - part.mean() > _AKS_THRESHOLD):
            chosen.append(start + best)
            return
        # Both halves have enough frames, because the whole has.
        middle = start + (end - start) // 2
        choose(start, middle, wanted // 2, depth + 1)
        choose(middle, end, wanted - wanted // 2, depth + 1)

    choose(0, len(scaled), count, 0)
    return torch.cat(chosen).sort().values


@torch.no_grad()
def mmr(relevance: Tensor, num_key: int, *, features: Tensor, times: Tensor) -> Tensor:
    """
    Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998).

    The most relevant frame first; then repeatedly the frame with the highest `r/2 - s/2`, where r is the relevance
    scaled to 0…1 and s the largest cosine of its features with those of a chosen frame.
    """
    relevance, count = _checked(relevance, num_key, features, times)
    _check_finite(features, "features")
    scaled = _scaled(relevance)
    directions = torch.nn.functional.normalize(features.float(), dim=-1)
    worth, likeness = scaled.clone(), scaled.new_full((len(scaled),), -torch.inf)
    taken = torch.zeros_like(scaled, dtype=torch.bool)
    for _ in range(count):
        best = worth.masked_fill(taken, -torch.inf).argmax()
        taken[best] = True
        # Not a matrix product: its rounding depends on a row's place, and duplicates must tie.
        likeness = torch.maximum(likeness, (directions * directions[best]).sum(-1))
        worth = _MMR_BALANCE * scaled - (1 - _MMR_BALANCE) * likeness
    return taken.nonzero()[:, 0]


def random(seed: int) -> Rule:
    """
    Returns a rule that draws K random frames, always the same ones for one `seed`, T and K. Relevance is not used.
    """

    def rule(relevance: Tensor, num_key: int, *, features: Tensor, times: Tensor) -> Tensor:
        relevance, count = _checked(relevance, num_key, features, times)
        order = torch.randperm(len(relevance), generator=torch.Generator().manual_seed(seed))
        return order[:count].sort().values.to(relevance.device)

    return rule


def given_frames(frames: Sequence[int]) -> Rule:
    """
    Returns a rule that always chooses the given frames, for choices made elsewhere. Only this rule may return fewer
    than K.

    The rule raises a `ValueError` for frame numbers that are repeated or not in the video, and for more than K of
    them.
    """

    def rule(relevance: Tensor, num_key: int, *, features: Tensor, times: Tensor) -> Tensor:
        relevance, count = _checked(relevance, num_key, features, times)
        numbers = sorted(int(frame) for frame in frames)
        if not numbers:
            raise ValueError("given_frames needs at least one frame number, but got none.")
        if len(set(numbers)) < len(numbers):
            raise ValueError("given_frames needs distinct frame numbers, but some of them are given twice.")
        if numbers[0] < 0 or numbers[-1] >= len(relevance):
            wrong = numbers[0] if numbers[0] < 0 else numbers[-1]
            raise ValueError(f"Frame {wrong} does not exist: the video's frames are 0 to {len(relevance) - 1}.")
        if len(numbers) > count:
            raise ValueError(f"{len(numbers)} frames were given, but only {count} can be key frames.")
        return torch.tensor(numbers, dtype=torch.int64, device=relevance.device)

    return rule


RULES: dict[str, Rule] = {
    "context": context,
    "uniform": uniform,
    "peaks": peaks,
    "topk": topk,
    "its": its,
    "aks": aks,
    "mmr": mmr,
}


@torch.no_grad()
def events_of_peaks(features: Tensor, key_frames: Tensor) -> Tensor:
    """
    The event of each frame, that of the nearest peak: features `(T, D)`, key frames `(K,)` → int64 `(T,)`.

    Events are numbered in the order of `key_frames`. A peak belongs to its own event, even if it duplicates another
    peak.
    """
    centers = features[key_frames]
    middle = centers.float().mean(0).bfloat16()
    rows = max(1, _CHUNK_ELEMENTS // len(key_frames))
    event = torch.cat([cross_distances(part, centers, middle).argmin(-1) for part in features.split(rows)])
    return event.scatter(0, key_frames, torch.arange(len(key_frames), device=event.device))


def _checked(relevance: Tensor, num_key: int, features: Tensor, times: Tensor) -> tuple[Tensor, int]:
    """Relevance in float32 and K."""
    if relevance.ndim != 1 or len(relevance) == 0:
        raise ValueError(f"relevance must be of shape (T,) with at least one frame, got {tuple(relevance.shape)}.")
    length = len(relevance)
    if features.ndim != 2 or len(features) != length:
        raise ValueError(f"features must be of shape ({length}, D), got {tuple(features.shape)}.")
    if times.shape != relevance.shape:
        raise ValueError(f"times must be of shape ({length},), got {tuple(times.shape)}.")
    if num_key < 1:
        raise ValueError(f"num_key must be at least 1, got {num_key}.")
    _check_finite(relevance, "relevance")
    _check_finite(times, "times")
    largest = torch.finfo(torch.float32).max
    return relevance.detach().float().clamp(-largest, largest), min(num_key, length)


def _check_finite(values: Tensor, name: str) -> None:
    finite = values.isfinite().reshape(len(values), -1).all(-1)
    if not bool(finite.all()):
        raise ValueError(
            f"{name} must be finite, but NaN or infinity stands at {int((~finite).sum())} of {len(values)} frames, "
            f"first at frame {int(finite.int().argmin())}."
        )


def _scaled(relevance: Tensor) -> Tensor:
    """Relevance `(T,)` scaled to 0…1; zeros if it is flat."""
    largest = relevance.abs().amax()
    # First divided by its largest magnitude, so that no difference overflows.
    values = relevance / torch.where(largest > 0, largest, 1)
    low, high = values.aminmax()
    return (values - low) / (high - low) if bool(high - low > _FLAT) else torch.zeros_like(values)


def _highest(values: Tensor, count: int) -> Tensor:
    """The places of the `count` highest values, by descending value; of equals the first."""
    return values.sort(descending=True, stable=True).indices[:count]


def _uniform(length: int, count: int, device: torch.device) -> Tensor:
    return (2 * torch.arange(count, device=device) + 1) * length // (2 * count)


def _cover(chosen: Tensor, count: int, times: Tensor, weights: Tensor | float = 1.0) -> Tensor:
    """
    `chosen` `(n,)`, n ≥ 1, and the frames farthest in time from all before them, up to `count`; in ascending order.
    The time of each frame counts `weights` times, `(T,)`.
    """
    taken = torch.zeros(len(times), dtype=torch.bool, device=chosen.device)
    taken[chosen] = True
    times = times.to(chosen.device).float()
    if len(chosen) < count:
        # The nearest chosen frame in time is the last one before or the first one after.
        index = torch.arange(len(times), device=chosen.device)
        before = torch.where(taken, index, -1).cummax(0).values
        after = torch.where(taken, index, len(times)).flip(0).cummin(0).values.flip(0)
        gap_before = (times - times[before.clamp(min=0)]).masked_fill(before < 0, torch.inf)
        gap_after = (times[after.clamp(max=len(times) - 1)] - times).masked_fill(after == len(times), torch.inf)
        gap = torch.minimum(gap_before, gap_after)
        for _ in range(count - len(chosen)):
            farthest = (gap * weights).masked_fill(taken, -1).argmax()
            taken[farthest] = True
            gap = torch.minimum(gap, (times - times[farthest]).abs())
    return taken.nonzero()[:, 0]


__all__ = [
    "RULES",
    "Rule",
    "aks",
    "context",
    "events_of_peaks",
    "its",
    "mmr",
    "peaks",
    "random",
    "given_frames",
    "topk",
    "uniform",
]
