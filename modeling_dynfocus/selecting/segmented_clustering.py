"""DPC-KNN of very many tokens in time order, over segments of time: the cost grows with N instead of N²."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .density_peaks import choose_centers, neighbor_spread, peak_scores
from .distances import SquaredDistances, cross_distances

#: Up to this many tokens [`dpc_knn`] is used, which is exact; above it [`segmented_dpc_knn`].
EXACT_TOKENS = 4096


@torch.no_grad()
def segmented_dpc_knn(
    tokens: Tensor,
    num_clusters: int,
    *,
    num_neighbors: int,
    segment_tokens: int = 2048,
    num_candidates: int = 2048,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """
    Density-peaks clustering like [`dpc_knn`], in which only candidates from segments of time can be centres.

    First, tokens are ranked within each segment as by `dpc_knn`. Candidates are each segment's densest token, the best
    of all by density·delta, and the best of the others by delta alone: a short event is sparse in its segment, but may
    return hours later. Then the candidates' densities are computed again among *all* tokens. Finally `dpc_knn` chooses
    the centres among the candidates, with these densities, and every token goes to the nearest centre. So densities
    are exact. There are two differences from `dpc_knn`: other tokens cannot be centres, and delta is the distance to
    the nearest denser *candidate*.

    Time grows with N · (`segment_tokens` + `num_candidates`), memory by a few numbers for each token.

    Args:
        tokens: floating point `(N, D)`, in the order of time.
        num_clusters: L, at most N.
        num_neighbors: in the densities, the token itself included.
        segment_tokens: largest length of a segment; lengths differ by one token at most.
        num_candidates: number of candidates; at least 2·L, and one for each segment.
        device: where to compute, by default the device of the tokens; segments are moved there one by one.

    Returns:
        Labels int64 `(N,)` and centres int64 `(L,)`, on that device; clusters are numbered by descending score of
        their centre.
    """
    device = tokens.device if device is None else device
    segments = list(_segments(len(tokens), segment_tokens))
    candidates = _candidates(tokens, segments, num_neighbors, max(num_candidates, 2 * num_clusters), device)
    chosen = tokens[candidates.to(tokens.device)].to(device)

    center = chosen.mean(0, dtype=torch.promote_types(chosen.dtype, torch.float32)).bfloat16()
    nearest = center.new_full((len(chosen), 0), 0, dtype=torch.float32)
    for segment in segments:
        squared = cross_distances(chosen, tokens[segment].to(device), center)
        nearest = torch.cat([nearest, squared.topk(min(num_neighbors, squared.shape[1]), largest=False).values], dim=1)
        nearest = nearest.topk(min(num_neighbors, nearest.shape[1]), largest=False).values
    distances = SquaredDistances(chosen[None], None, len(chosen) ** 2)
    # Duplicates tie, as in `neighbor_spread`.
    spread = nearest.mean(1)[None].to(distances.dtype)
    spread = spread.gather(1, torch.cat([distances.rows(block).argmin(-1) for block in distances.blocks], dim=1))
    score = peak_scores(distances, spread)[1]
    wanted = torch.tensor([num_clusters], device=device)
    best = choose_centers(distances, score, wanted, num_clusters)[0][0]
    del distances

    means = chosen[best]
    labels = [cross_distances(tokens[segment].to(device), means, center).argmin(-1) for segment in segments]
    centers = candidates[best]
    # A centre belongs to its own cluster, even if it duplicates another one.
    return torch.cat(labels).scatter(0, centers, torch.arange(num_clusters, device=device)), centers


def _segments(length: int, segment_tokens: int) -> Iterator[slice]:
    count = -(-length // segment_tokens)
    for number in range(count):
        yield slice(number * length // count, (number + 1) * length // count)


def _candidates(tokens: Tensor, segments: list[slice], num_neighbors: int, count: int, device: torch.device) -> Tensor:
    """
    Tokens that may be centres: int64 `(count,)`, ascending; fewer if there are not enough tokens, more for many
    segments.
    """
    scores, deltas, densest = [], [], []
    for segment in segments:
        part = tokens[segment].to(device)[None]
        distances = SquaredDistances(part, None, part.shape[1] ** 2)
        spread = neighbor_spread(distances, num_neighbors)
        squared_delta, score = peak_scores(distances, spread)
        # Nothing in its segment is denser, so its distance can only be computed in the whole video.
        densest.append(segment.start + spread[0].argmin())
        scores.append(score[0])
        deltas.append(squared_delta[0])
    score, delta = torch.cat(scores), torch.cat(deltas)
    taken = torch.zeros_like(score, dtype=torch.bool)
    taken[torch.stack(densest)] = True
    for worth, share in ((score, count // 2), (delta, count)):
        order = worth.masked_fill(taken, -torch.inf).sort(descending=True, stable=True).indices
        missing = max(0, min(share, len(score)) - int(taken.sum()))
        taken[order[:missing]] = True
    return taken.nonzero()[:, 0]


__all__ = ["EXACT_TOKENS", "segmented_dpc_knn"]
