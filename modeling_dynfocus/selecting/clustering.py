"""Clustering of tokens: density peaks (DPC-KNN), weighted k-means, cluster means and medoids.

Pure functions on tensors, without a config. All of them are batched, deterministic (ties go to the lowest index), and
compute in float32 (float64 for float64 input), also under autocast. Labels are -1 for masked tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .density_peaks import choose_centers, neighbor_spread, peak_scores
from .distances import ZERO_DISTANCE_ROUNDINGS, SquaredDistances, centered_parts, compute_dtype, take

# Members whose squared distance to the mean differs by less than this share count as equally near: the mean is
# rounded, and the two members of a pair are equally far from it.
_MEDOID_TIE = 1e-5
# Temporary copies of tokens have at most this many elements (4 MiB), or 16 channels if these are more.
_CHUNK_ELEMENTS = 2**20
# A distance matrix has at most this many elements: rows of a batch are taken in groups, and a row with a larger N² is
# computed in blocks of tokens, twice (densities, then deltas).
_MATRIX_ELEMENTS = 2**26


class DpcResult(NamedTuple):
    """What [`dpc_knn`] returns.

    labels: int64 `(B, N)`, the cluster of each token, numbered by descending score of its centre; -1 for masked
        tokens.
    centers: int64 `(B, L)`, the index of each cluster's centre token; -1 where a row has fewer than L clusters.
    density: `(B, N)`, exp(-mean squared distance to the nearest neighbours); 0 for masked tokens.
    delta: `(B, N)`, the distance to the nearest denser token; 0 for masked tokens.
    """

    labels: Tensor
    centers: Tensor
    density: Tensor
    delta: Tensor


class KMeansResult(NamedTuple):
    """What [`weighted_kmeans`] returns.

    centroids: `(B, L, D)` in the dtype of the tokens.
    labels: int64 `(B, N)`, the cluster of each token at the last assignment; -1 for masked tokens.
    sizes: float32 `(B, L)`, the summed weight of each cluster's members at the last assignment.
    """

    centroids: Tensor
    labels: Tensor
    sizes: Tensor


@torch.no_grad()
def dpc_knn(
    tokens: Tensor,
    num_clusters: int | Tensor,
    *,
    num_neighbors: int,
    mask: Tensor | None = None,
) -> DpcResult:
    """Density-peaks clustering (DPC-KNN): tokens `(B, N, D)` → labels `(B, N)`, centers `(B, L)`.

    The distance is Euclidean, divided by sqrt(D). A token's density is exp(-mean of its squared distances to the
    `num_neighbors` nearest tokens, itself included); its delta is the distance to the nearest denser token, or for the
    densest one its largest distance. The tokens with the highest density·delta are the centres, and every token goes
    to the nearest centre (Du et al. 2016; in DynFocus T-DPC over frames, S-DPC over patches). Of two equally dense
    tokens the first counts as denser, so of exact duplicates only the first can be a peak. Scores are compared in log
    space, where the densities of far-apart tokens do not underflow.

    Args:
        tokens: floating point `(B, N, D)`.
        num_clusters: L, or int64 `(B,)` with one L per row. A row with no more tokens than clusters gets one cluster a
            token, and -1 in the rest of `centers`.
        num_neighbors: at least 1, the token itself included. A row with fewer tokens uses all of them.
        mask: bool `(B, N)`, True for the tokens to use; results are those of a row without padding. Default: all.

    Returns:
        [`DpcResult`].

    Raises:
        ValueError: for wrong shapes, and for `num_clusters` or `num_neighbors` below 1.
    """
    _check_tokens(tokens, mask)
    batch, length, _ = tokens.shape
    if num_neighbors < 1:
        raise ValueError(f"num_neighbors must be at least 1 (the token itself counts), got {num_neighbors}.")
    if isinstance(num_clusters, Tensor):
        if num_clusters.shape != (batch,):
            raise ValueError(
                f"num_clusters must be an int or of shape ({batch},), one a row; got {tuple(num_clusters.shape)}."
            )
        wanted = num_clusters.to(device=tokens.device, dtype=torch.int64)
        least, most = (int(bound) for bound in torch.stack(torch.aminmax(wanted)).tolist())
    else:
        wanted = torch.full((batch,), num_clusters, dtype=torch.int64, device=tokens.device)
        least = most = num_clusters
    if least < 1:
        raise ValueError(f"num_clusters must be at least 1, got {least}.")

    # On a CPU, groups that fit into its cache are faster than large ones.
    rows = max(1, min(_MATRIX_ELEMENTS, 2**20 if tokens.device.type == "cpu" else _MATRIX_ELEMENTS) // length**2)
    groups = [
        _dpc_knn_group(
            tokens[start : start + rows],
            wanted[start : start + rows],
            most,
            num_neighbors,
            None if mask is None else mask[start : start + rows],
        )
        for start in range(0, batch, rows)
    ]
    return groups[0] if len(groups) == 1 else DpcResult(*(torch.cat(parts) for parts in zip(*groups, strict=True)))


def _dpc_knn_group(tokens: Tensor, wanted: Tensor, most: int, num_neighbors: int, mask: Tensor | None) -> DpcResult:
    distances = SquaredDistances(tokens, mask, _MATRIX_ELEMENTS)
    spread = neighbor_spread(distances, num_neighbors)
    squared_delta, score = peak_scores(distances, spread)
    centers, labels = choose_centers(distances, score, wanted, most)
    return DpcResult(labels, centers, (-spread).exp(), squared_delta.sqrt())


def merge_tokens(
    tokens: Tensor,
    labels: Tensor,
    num_clusters: int,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """(Weighted) means of the members of each cluster: tokens `(B, N, D)`, labels `(B, N)` → `(B, L, D)`.

    Differentiable in `tokens` and `weights`. Sums are float32.

    Args:
        tokens: `(B, N, D)`.
        labels: int64 `(B, N)` in 0…L-1; tokens labelled -1 belong to no cluster.
        num_clusters: L.
        weights: `(B, N)`, not negative. Default: 1 each.
        mask: bool `(B, N)`, True for the tokens to use; the values of the others (even NaN) have no influence.
        dtype: of the result. Default: that of the tokens.

    Returns:
        `(B, L, D)`; zeros for clusters without members or weight.

    Raises:
        ValueError: for wrong shapes.
    """
    _check_tokens(tokens, mask, labels=labels, weights=weights)
    return _cluster_means(tokens, labels, num_clusters, weights, mask)[0].to(tokens.dtype if dtype is None else dtype)


def _cluster_means(
    tokens: Tensor, labels: Tensor, num_clusters: int, weights: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Means `(B, L, D)` and total weights `(B, L)`, in float32."""
    dtype = compute_dtype(tokens)
    member = labels[:, None, :] == torch.arange(num_clusters, device=labels.device)[:, None]
    if mask is not None:
        member = member & mask[:, None, :]
    share = member.to(dtype)
    if weights is not None:
        share = torch.where(member, weights[:, None, :].to(dtype), 0)
    sizes = share.sum(-1)
    # Casting and masking copy the tokens, so they are done in slices of channels. With gradients all slices are kept
    # anyway.
    batch, length, width = tokens.shape
    if (mask is not None or tokens.dtype != dtype) and not tokens.requires_grad:
        width = max(16, _CHUNK_ELEMENTS // (batch * length))
    sums = []
    with torch.autocast(tokens.device.type, enabled=False):
        for part in tokens.split(width, dim=2):
            if mask is not None:
                part = part.masked_fill(~mask[..., None], 0)
            sums.append(share @ part.to(dtype))
    filled = (sizes > 0)[..., None]
    return torch.where(filled, torch.cat(sums, dim=2) / torch.where(filled, sizes[..., None], 1), 0), sizes


@torch.no_grad()
def medoids(
    tokens: Tensor,
    labels: Tensor,
    centroids: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    num_clusters: int | None = None,
) -> Tensor:
    """The member nearest to its cluster's mean: tokens `(B, N, D)`, labels `(B, N)` → int64 `(B, L)`.

    Ties, up to the rounding of the mean, go to the lowest index: of two members it is the first.

    Args:
        tokens: `(B, N, D)`.
        labels: int64 `(B, N)`; tokens labelled -1 belong to no cluster.
        centroids: `(B, L, D)`. Default: the
            means of the `num_clusters` clusters, which unlike those of [`merge_tokens`]
            are not rounded to
            the dtype of the tokens.
        mask: bool `(B, N)`, True for the tokens to use.
        num_clusters: L, needed only without `centroids`.

    Returns:
        Token indices; -1 for clusters without members.

    Raises:
        ValueError: for wrong shapes, and if neither `centroids` nor `num_clusters` is given.
    """
    _check_tokens(tokens, mask, labels=labels)
    if centroids is None:
        if num_clusters is None:
            raise ValueError("medoids needs the centroids or num_clusters.")
        centroids = _cluster_means(tokens, labels, num_clusters, None, mask)[0]
    batch, length, width = tokens.shape
    if centroids.ndim != 3 or centroids.shape[::2] != tokens.shape[::2]:
        raise ValueError(f"centroids must be of shape ({batch}, L, {width}), got {tuple(centroids.shape)}.")
    slots = centroids.shape[1]
    dtype = compute_dtype(tokens)
    valid = labels >= 0 if mask is None else mask & (labels >= 0)
    # Tokens of no cluster go to an extra slot, which is dropped at the end.
    slot = torch.where(valid, labels, slots)
    own = torch.where(valid, labels, 0)
    squared = tokens.new_zeros((batch, length), dtype=dtype)
    step = max(16, _CHUNK_ELEMENTS // (batch * length))
    for start in range(0, width, step):
        mean = take(centroids[..., start : start + step].to(dtype), own)
        squared += (tokens[..., start : start + step] - mean).square_().sum(-1)
    nearest = squared.new_full((batch, slots + 1), torch.inf).scatter_reduce_(1, slot, squared, "amin")
    is_nearest = squared <= nearest.gather(1, slot) * (1 + _MEDOID_TIE)
    position = torch.where(is_nearest, torch.arange(length, device=tokens.device), length)
    first = slot.new_full((batch, slots + 1), length).scatter_reduce_(1, slot, position, "amin")[:, :slots]
    return first.masked_fill_(first == length, -1)


def weighted_kmeans(
    tokens: Tensor,
    init: Tensor,
    *,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    max_rounds: int = 10,
    tolerance: float = 1e-4,
) -> KMeansResult:
    """Euclidean k-means from given start tokens: tokens `(B, N, D)`, init `(B, L)` → centroids, labels and sizes.

    A row stops where the Euclidean shifts of its centroids sum to less than `tolerance`, and keeps the centroids of
    before that update; rows of a batch stop independently. An empty cluster keeps its centroid. The labels are
    constants for the gradient, the centroids are differentiable in `tokens`.

    Args:
        tokens: `(B, N, D)`, or `(N, D)` for one row without the batch dimension (all results are then without it too).
        init: int64 `(B, L)` or `(L,)`, indices of the tokens that are the first centroids.
        weights: `(B, N)` or `(N,)`, not negative. Default: 1 each.
        mask: bool `(B, N)` or `(N,)`, True for the tokens to use.
        max_rounds: rounds of assignment and update, at least 1.
        tolerance: in the units of the tokens.

    Returns:
        [`KMeansResult`].

    Raises:
        ValueError: for wrong shapes and for `max_rounds` below 1.
    """
    if max_rounds < 1:
        raise ValueError(f"max_rounds must be at least 1, got {max_rounds}.")
    if tokens.ndim == 2:
        if init.ndim != 1:
            raise ValueError(f"init must be of shape (L,) for tokens of shape (N, D), got {tuple(init.shape)}.")
        single = weighted_kmeans(
            tokens[None],
            init[None],
            weights=None if weights is None else weights[None],
            mask=None if mask is None else mask[None],
            max_rounds=max_rounds,
            tolerance=tolerance,
        )
        return KMeansResult(*(field[0] for field in single))
    _check_tokens(tokens, mask, weights=weights)
    if init.ndim != 2 or len(init) != len(tokens):
        raise ValueError(f"init must be of shape ({len(tokens)}, L), got {tuple(init.shape)}.")

    batch, length, width = tokens.shape
    start = init.to(tokens.device)[..., None].expand(-1, -1, width)
    centroids = tokens.gather(1, start).to(compute_dtype(tokens))
    labels = torch.zeros((batch, length), dtype=torch.int64, device=tokens.device)
    sizes = centroids.new_zeros(centroids.shape[:2])
    active = torch.ones((batch, 1), dtype=torch.bool, device=tokens.device)
    for _ in range(max_rounds):
        labels = torch.where(active, _nearest_centroid(tokens, centroids, mask), labels)
        means, new_sizes = _cluster_means(tokens, labels, init.shape[1], weights, mask)
        sizes = torch.where(active, new_sizes, sizes)
        means = torch.where((sizes > 0)[..., None], means, centroids)
        shift = (means.detach() - centroids.detach()).norm(dim=-1).sum(-1, keepdim=True)
        active = active & ~(shift < tolerance)
        centroids = torch.where(active[..., None], means, centroids)
        if not bool(active.any()):
            break
    return KMeansResult(centroids.to(tokens.dtype), labels, sizes)


@torch.no_grad()
def _nearest_centroid(tokens: Tensor, centroids: Tensor, mask: Tensor | None) -> Tensor:
    """The index of the nearest centroid: tokens `(B, N, D)`, centroids `(B, L, D)` → int64 `(B, N)`, -1 if masked."""
    batch, length, _ = tokens.shape
    product = centroids.new_zeros((batch, length, centroids.shape[1]))
    norms = product.new_zeros((batch, length))
    centroid_norms = product.new_zeros(centroids.shape[:2])
    with torch.autocast(tokens.device.type, enabled=False):
        for channels, part, mean in centered_parts(tokens, mask, 512):
            center = centroids[..., channels] - mean
            product.baddbmm_(part, center.mT)
            norms += part.square().sum(-1)
            centroid_norms += center.square().sum(-1)
    squared = product.mul_(-2).add_(norms[..., None]).add_(centroid_norms[:, None, :])
    # Of centroids that are equally near, up to the rounding of the matrix product, the first.
    slack = ZERO_DISTANCE_ROUNDINGS * torch.finfo(squared.dtype).eps * norms[..., None]
    labels = (squared <= squared.amin(-1, keepdim=True) + slack).to(torch.uint8).argmax(-1)
    return labels if mask is None else labels.masked_fill_(~mask, -1)


def _check_tokens(
    tokens: Tensor, mask: Tensor | None = None, labels: Tensor | None = None, weights: Tensor | None = None
) -> None:
    if tokens.ndim != 3 or not tokens.is_floating_point() or 0 in tokens.shape:
        raise ValueError(
            f"tokens must be floating point of shape (B, N, D), none of them 0; got {tokens.dtype} of shape "
            f"{tuple(tokens.shape)}."
        )
    for name, tensor in (("mask", mask), ("labels", labels), ("weights", weights)):
        if tensor is not None and tensor.shape != tokens.shape[:2]:
            raise ValueError(f"{name} must be of shape {tuple(tokens.shape[:2])}, got {tuple(tensor.shape)}.")
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool (True: takes part), got {mask.dtype}.")


__all__ = ["DpcResult", "KMeansResult", "dpc_knn", "medoids", "merge_tokens", "weighted_kmeans"]
