"""The three steps of density-peaks clustering (DPC-KNN): densities, peaks, centres with their clusters."""

import torch
from torch import Tensor

from .distances import SquaredDistances


def neighbor_spread(distances: SquaredDistances, num_neighbors: int) -> Tensor:
    """
    Each token's mean squared distance to its nearest tokens, itself included: `(B, N)`, low for dense tokens.

    Infinite for masked tokens. Duplicates have the same value, to the last bit.
    """
    (batch, length), mask = distances.tokens.shape[:2], distances.mask
    neighbors = min(num_neighbors, length)
    num_real = distances.valid.sum(1).clamp(min=1, max=neighbors)[:, None]
    spread = torch.empty((batch, length), dtype=distances.dtype, device=distances.tokens.device)
    twin = torch.empty((batch, length), dtype=torch.int64, device=spread.device)
    for block in distances.blocks:
        squared = distances.rows(block)
        nearest = squared.topk(neighbors, dim=-1, largest=False).values
        if mask is not None:
            nearest = nearest.masked_fill(torch.arange(neighbors, device=spread.device) >= num_real[..., None], 0)
        spread[:, block] = nearest.sum(-1) / num_real
        twin[:, block] = squared.argmin(-1)
    # Duplicates differ by rounding only: each takes the value of the first, so that they tie.
    return spread.gather(1, twin).masked_fill_(~distances.valid, torch.inf)


def peak_scores(distances: SquaredDistances, spread: Tensor) -> tuple[Tensor, Tensor]:
    """
    How far each token stands out, from the `spread` `(B, N)` of all: squared deltas and scores, each `(B, N)`.

    A delta is the distance to the nearest denser token (of equals the first is denser), or for the densest token its
    largest distance. The score is log(density * delta), -inf for masked tokens.
    """
    order = spread.argsort(dim=1, stable=True)
    places = torch.arange(spread.shape[1], device=spread.device)
    rank = torch.empty_like(order).scatter_(1, order, places.expand_as(order))
    squared_delta = torch.empty_like(spread)
    for block in distances.blocks:
        not_denser = rank[:, None, :] >= rank[:, block, None]
        squared_delta[:, block] = distances.rows(block).masked_fill(not_denser, torch.inf).amin(-1)
    densest = order[:, :1]
    largest = distances.to_all(densest).masked_fill_(~distances.valid[:, None, :], 0).amax(-1)
    squared_delta.scatter_(1, densest, largest).masked_fill_(~distances.valid, 0)
    # The clamp keeps duplicates (delta 0) before masked tokens.
    score = (0.5 * squared_delta.log() - spread).clamp_(min=torch.finfo(spread.dtype).min)
    return squared_delta, score.masked_fill_(~distances.valid, -torch.inf)


def choose_centers(distances: SquaredDistances, score: Tensor, wanted: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """
    The `wanted` `(B,)` tokens with the highest scores `(B, N)`, and for every token the nearest of them.

    Returns:
        Centres int64 `(B, most)` by descending score, -1 if a row has fewer; labels int64 `(B, N)`, -1 for masked
        tokens.
    """
    valid = distances.valid
    ranked = score.sort(dim=1, descending=True, stable=True).indices[:, :most]
    slot = torch.arange(ranked.shape[1], device=score.device)
    used = slot < torch.minimum(wanted, valid.sum(1))[:, None]
    labels = distances.nearest(ranked, used)
    # A centre belongs to its own cluster, even if it duplicates another one. Unused slots write the value that is
    # there.
    labels.scatter_(1, ranked, torch.where(used, slot, labels.gather(1, ranked)))
    labels.masked_fill_(~valid, -1)
    centers = torch.full((len(score), most), -1, dtype=torch.int64, device=score.device)
    centers[:, : ranked.shape[1]] = ranked.masked_fill(~used, -1)
    return centers, labels


__all__ = ["choose_centers", "neighbor_spread", "peak_scores"]
