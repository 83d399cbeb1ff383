"""Top-K selection: hard with fixed ties, and perturbed, so that a score network can learn from the answer loss.

Pure functions on tensors, without a config, in float32 (float64 for float64 input). `k` and `mask` may differ from row
to row; a row has the same result in a batch as alone.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def hard_topk(scores: Tensor, k: int | Tensor, mask: Tensor | None = None) -> Tensor:
    """Indices of the K highest scores, in ascending order of index: scores `(..., L)` → int64 `(..., K)`.

    Args:
        scores: `(..., L)`. Of equal scores the lower index wins.
        k: one K, or int64 `(...)` with one per row; the result is then as wide as the largest.
        mask: bool `(..., L)`, True for the entries that may be taken. Default: all.

    Returns:
        Indices, distinct and sorted; a row with a smaller K, or with fewer entries to take, ends in -1.

    Raises:
        ValueError: for wrong shapes, and for a K below 1 or above L.
    """
    row_k, width = _check_selection(scores, k, mask)
    indices = _sorted_topk(_compute(scores), row_k, width, mask)
    return torch.where(indices == scores.shape[-1], -1, indices)


def perturbed_topk(
    scores: Tensor,
    k: int | Tensor,
    *,
    sigma: float | Tensor,
    num_samples: int = 500,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Differentiable top-K: scores `(B, L)` → indicators `(B, K, L)`.

    Forward: the mean over samples of the hard top-K of `scores + sigma · noise`, each as K one-hot rows sorted by
    index: `indicators[b, i, l]` is the share of samples whose i-th selected entry is l. Backward: the Monte-Carlo
    gradient `E[⟨grad_output, Y(scores + sigma·Z)⟩ Z] / sigma` (Berthet et al. 2020; Cordonnier et al. 2021), with the
    unperturbed selection as a baseline, which lowers the variance and does not change the expectation.

    Args:
        scores: `(B, L)`.
        k: one K, or int64 `(B,)` with one per row; rows of the result above a row's K are zero.
        sigma: standard deviation of the noise, in the units of the scores; a number, or a tensor of one element or of
            shape `(B,)`. 0 is the exact hard top-K, and its gradient is zero.
        num_samples: number of samples, if no `noise` is given.
        noise: standard normal `(B, S, L)`. Default: drawn at each call.
        generator: random generator of the noise.
        mask: bool `(B, L)`, True for the entries that may be taken. Default: all.

    Returns:
        `(B, K, L)` in the dtype of the scores.

    Raises:
        ValueError: for wrong shapes, a K below 1 or above L, a negative `sigma`, and `num_samples` below 1.
    """
    if scores.ndim != 2:
        raise ValueError(f"scores must be of shape (B, L), got {tuple(scores.shape)}.")
    row_k, width = _check_selection(scores, k, mask)
    batch, length = scores.shape
    if isinstance(sigma, Tensor):
        if sigma.numel() != 1 and sigma.shape != (batch,):
            raise ValueError(f"sigma must have one element or be of shape ({batch},), got {tuple(sigma.shape)}.")
    elif sigma < 0:
        raise ValueError(f"sigma must not be negative, got {sigma}.")
    values = _compute(scores)
    if not isinstance(sigma, Tensor) and sigma == 0:
        noise = values.new_zeros((batch, 1, length))
    elif noise is None:
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
        noise = torch.randn(
            (batch, num_samples, length), dtype=values.dtype, device=values.device, generator=generator
        )
    elif noise.ndim != 3 or noise.shape[::2] != scores.shape or noise.shape[1] < 1:
        raise ValueError(f"noise must be of shape ({batch}, S, {length}), got {tuple(noise.shape)}.")
    spread = torch.as_tensor(sigma, dtype=values.dtype, device=values.device).reshape(-1, 1, 1)
    indicators = _PerturbedTopK.apply(values, noise.to(values.dtype), spread, row_k, width, mask)
    return indicators.to(scores.dtype)


class _PerturbedTopK(torch.autograd.Function):
    """The samples are kept as indices `(B, S, K)`; one-hot `(B, S, K, L)` is never built."""

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        noise: Tensor,
        sigma: Tensor,
        k: Tensor | None,
        width: int,
        mask: Tensor | None,
    ) -> Tensor:
        batch, length = scores.shape
        taken = _sorted_topk(
            scores[:, None, :] + sigma * noise,
            None if k is None else k[:, None],
            width,
            None if mask is None else mask[:, None, :],
        ).mT.contiguous()
        base = _sorted_topk(scores, k, width, mask)[..., None]
        ctx.save_for_backward(noise, sigma, taken, base, mask)
        # Whole numbers, so that the sum does not depend on its order. Index L stands for an empty slot.
        counts = scores.new_zeros((batch, width, length + 1))
        counts.scatter_add_(-1, taken, counts.new_ones(()).expand_as(taken))
        return counts[..., :length] / noise.shape[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        noise, sigma, taken, base, mask = ctx.saved_tensors
        batch, samples, length = noise.shape
        per_sample = (1 / sigma).masked_fill(sigma == 0, 0) / samples
        padded = torch.cat([grad_output, grad_output.new_zeros(grad_output.shape[:2] + (1,))], dim=-1)
        own = padded.gather(-1, taken)  # (B, K, S): the gradient at each selected entry of each sample
        worth = (own - padded.gather(-1, base)).sum(1)
        grad = torch.einsum("bs,bsl->bl", worth, noise)
        grad = grad * per_sample[:, 0]
        if mask is not None:
            grad = grad.masked_fill(~mask, 0)
        return grad, None, None, None, None, None


def min_max_normalize(scores: Tensor, mask: Tensor | None = None, *, eps: float = 1e-6) -> Tensor:
    """Scores `(..., L)` scaled linearly, row by row, to 0…1, so that one sigma means the same for all: `(..., L)`.

    Args:
        scores: `(..., L)`.
        mask: bool `(..., L)`, True for the entries that count; the others become 0. Default: all.
        eps: rows with a smaller span of scores are divided by this instead (equal scores become 0).

    Returns:
        `(..., L)` in the dtype of the scores, differentiable.

    Raises:
        ValueError: for a mask of another shape.
    """
    values = _compute(scores)
    if mask is None:
        low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
        return ((values - low) / (high - low).clamp(min=eps)).to(scores.dtype)
    _check_mask(scores, mask)
    low = values.masked_fill(~mask, torch.inf).amin(-1, keepdim=True)
    high = values.masked_fill(~mask, -torch.inf).amax(-1, keepdim=True)
    scaled = (values.masked_fill(~mask, 0) - low) / (high - low).clamp(min=eps)
    return torch.where(mask, scaled, 0).to(scores.dtype)


def _sorted_topk(scores: Tensor, k: Tensor | None, width: int, mask: Tensor | None) -> Tensor:
    """Scores `(..., L)` → indices `(..., width)`, ascending; L if a row has no further entry."""
    length = scores.shape[-1]
    if mask is not None:
        # Scores of -inf still come before masked entries.
        scores = scores.clamp(min=torch.finfo(scores.dtype).min).masked_fill(~mask, -torch.inf)
    taken = scores.sort(dim=-1, descending=True, stable=True).indices[..., :width]
    limit = k
    if mask is not None:
        num_valid = mask.sum(-1)
        limit = num_valid if limit is None else torch.minimum(limit, num_valid)
    if limit is not None:
        taken = taken.masked_fill(torch.arange(width, device=scores.device) >= limit[..., None], length)
    return taken.sort(dim=-1).values


def _check_selection(scores: Tensor, k: int | Tensor, mask: Tensor | None) -> tuple[Tensor | None, int]:
    """K per row (None if it is the same for all) and the largest K."""
    length = scores.shape[-1]
    if mask is not None:
        _check_mask(scores, mask)
    if isinstance(k, Tensor):
        if k.shape != scores.shape[:-1]:
            raise ValueError(f"k must be an int or of shape {tuple(scores.shape[:-1])}, got {tuple(k.shape)}.")
        bounds = torch.stack(torch.aminmax(k)).tolist()
        least, most, row_k = int(bounds[0]), int(bounds[1]), k.to(scores.device)
    else:
        least, most, row_k = k, k, None
    if least < 1 or most > length:
        raise ValueError(f"k must be from 1 to the number of scores, {length}; got {least if least < 1 else most}.")
    return row_k, most


def _check_mask(scores: Tensor, mask: Tensor) -> None:
    if mask.shape != scores.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be bool of shape {tuple(scores.shape)}, got {mask.dtype} of shape {tuple(mask.shape)}."
        )


def _compute(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


__all__ = ["hard_topk", "min_max_normalize", "perturbed_topk"]
