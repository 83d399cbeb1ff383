"""From a frame's patches to its question-free tokens: pooled to a grid, and grouped by similarity (S-DPC)."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ..selecting.clustering import dpc_knn, merge_tokens


def pool_patches(patches: torch.Tensor, grid_size: tuple[int, int], pooled_side: int) -> torch.Tensor:
    """
    Average-pool a grid of patches to g×g cells; cells overlap where g does not divide the grid (27×27 to 4×4).

    Args:
        patches (`torch.Tensor` of shape `(N, P, D)`): patches of N frames in row-major order, P = rows · columns.
        grid_size (`tuple[int, int]`): rows and columns.
        pooled_side (`int`): g.

    Returns:
        `torch.Tensor` of shape `(N, g², D)`.
    """
    grid = patches.unflatten(1, grid_size).permute(0, 3, 1, 2)
    return F.adaptive_avg_pool2d(grid, pooled_side).flatten(2).transpose(1, 2)


def group_patches(
    patches: torch.Tensor, num_clusters: Sequence[int], num_neighbors: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Multi-grained tokens of each frame by DPC-KNN in two rounds, P → fine → coarse (paper section 3.3, S-DPC).

    Args:
        patches (`torch.Tensor` of shape `(N, P, D)`).
        num_clusters (`list[int]`): numbers of fine and of coarse groups, 16 and 6 in the paper.
        num_neighbors (`list[int]`): neighbours in the density of the two rounds.

    Returns:
        `tuple` of the tokens, of shape `(N, fine + coarse, D)` (each coarse group's mean, followed by the means of the
        fine groups in it, in index order), and the coarse group of each token, int64 of shape `(N, fine + coarse)`.
    """
    (num_fine, num_coarse), (fine_neighbors, coarse_neighbors) = num_clusters, num_neighbors
    with torch.no_grad():
        fine_labels = dpc_knn(patches, num_fine, num_neighbors=fine_neighbors).labels
    fine = merge_tokens(patches, fine_labels, num_fine)
    with torch.no_grad():
        coarse_labels = dpc_knn(fine, num_coarse, num_neighbors=coarse_neighbors).labels
    coarse = merge_tokens(fine, coarse_labels, num_coarse)

    # Sort (parent, child) pairs; a parent counts as its own child number 0.
    parents = torch.arange(num_coarse, device=patches.device).expand(len(patches), -1)
    children = torch.arange(1, num_fine + 1, device=patches.device)
    stride = num_fine + 1
    order = torch.cat([parents * stride, coarse_labels * stride + children], dim=1).argsort(dim=1)
    parent_of_token = torch.cat([parents, coarse_labels], dim=1).gather(1, order)
    tokens = torch.cat([coarse, fine], dim=1)
    return tokens.gather(1, order[..., None].expand_as(tokens)), parent_of_token


__all__ = ["group_patches", "pool_patches"]
