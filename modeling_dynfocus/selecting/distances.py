"""Squared distances between tokens, in float32 and within a memory limit, for the clustering."""

from collections.abc import Iterator

import torch
from torch import Tensor

# Squared distances below this many roundings of the squared norm are set to zero: they are only the rounding of the
# matrix product, and exact duplicates (a still scene) must have distance 0 on every backend.
ZERO_DISTANCE_ROUNDINGS = 32
# Slices of the channels are at least this many elements (4 MiB): smaller ones cost more time than they save memory.
SMALLEST_SLICE = 2**20
# Elementwise operations on distances take about this many at a time (4 MiB), so that temporary tensors stay small.
_BLOCK_ELEMENTS = 2**20


class SquaredDistances:
    """Squared Euclidean distances / D among tokens `(b, N, D)`.

    Up to `chunk_elements` of them are kept as one matrix; more (only for b = 1) are computed in blocks of tokens.
    """

    def __init__(self, tokens: Tensor, mask: Tensor | None, chunk_elements: int):
        self.tokens, self.mask = tokens, mask
        self.valid = torch.ones_like(tokens[..., 0], dtype=torch.bool) if mask is None else mask
        self.dtype = compute_dtype(tokens)
        batch, length, self.width = tokens.shape
        whole = batch * length * length <= chunk_elements
        self.block = max(1, min(length, (_BLOCK_ELEMENTS // batch if whole else chunk_elements) // length))
        narrow = max(64, min(length, 512)) if whole else max(1, min(512, chunk_elements // length))
        self.part = max(narrow, min(SMALLEST_SLICE, chunk_elements) // (batch * length))
        self.blocks = [slice(start, min(start + self.block, length)) for start in range(0, length, self.block)]
        self.norms = tokens.new_zeros((batch, length), dtype=self.dtype)
        self.matrix: Tensor | None = None
        if whole:
            self.matrix = self._gram(slice(None))
            self.norms.copy_(self.matrix.diagonal(dim1=1, dim2=2))
            for block in self.blocks:
                gram = self.matrix[:, block]
                gram.copy_(self._to_distances(gram, self.norms[:, block], self.norms, mask))
            return
        # Norms come from the same matrix product as the distances, so that duplicates cancel out.
        with torch.autocast(tokens.device.type, enabled=False):
            for _, part, _ in centered_parts(tokens, mask, self.part):
                for block in self.blocks:
                    gram = part[:, block] @ part[:, block].mT
                    self.norms[:, block] += gram.diagonal(dim1=1, dim2=2)

    def rows(self, block: slice) -> Tensor:
        """From the tokens of one of the `blocks` to all: `(b, block, N)`, inf to masked ones; not to be written to."""
        if self.matrix is not None:
            return self.matrix[:, block]
        return self._to_distances(self._gram(block), self.norms[:, block], self.norms, self.mask)

    def to_all(self, index: Tensor) -> Tensor:
        """From the tokens of `index (b, m)` to all: a new tensor `(b, m, N)`; inf to masked tokens."""
        if self.matrix is not None:
            return self.matrix.gather(1, index[..., None].expand(-1, -1, self.tokens.shape[1]))
        return self._to_distances(self._gram(index), self.norms.gather(1, index), self.norms, self.mask)

    def nearest(self, index: Tensor, used: Tensor) -> Tensor:
        """For every token the nearest of `index (b, m)` with `used (b, m)`, as a position in `index`: `(b, N)`."""
        if self.matrix is not None:
            return self.to_all(index).masked_fill_(~used[..., None], torch.inf).argmin(1)
        norms = self.norms.gather(1, index)
        found = [
            self._to_distances(self._gram(block, index), self.norms[:, block], norms, used).argmin(-1)
            for block in self.blocks
        ]
        return torch.cat(found, dim=1)

    def _gram(self, left: slice | Tensor, right: Tensor | None = None) -> Tensor:
        gram: Tensor | None = None
        with torch.autocast(self.tokens.device.type, enabled=False):
            for _, part, _ in centered_parts(self.tokens, self.mask, self.part):
                rows = part[:, left] if isinstance(left, slice) else take(part, left)
                columns = (part if right is None else take(part, right)).mT
                gram = rows @ columns if gram is None else gram.baddbmm_(rows, columns)
        assert gram is not None  # the width is at least 1
        return gram

    def _to_distances(self, gram: Tensor, left: Tensor, right: Tensor, valid: Tensor | None) -> Tensor:
        """From products `(b, m, n)` and squared norms `(b, m)`, `(b, n)`; inf where not valid `(b, n)`."""
        # The norms first: then the distance is the same in both directions, to the last bit.
        squared = (left[..., None] + right[:, None, :]).sub_(gram, alpha=2)
        bound = ZERO_DISTANCE_ROUNDINGS * torch.finfo(self.dtype).eps * left[..., None]
        squared.masked_fill_(squared <= bound, 0).div_(self.width)
        return squared if valid is None else squared.masked_fill_(~valid[:, None, :], torch.inf)


def cross_distances(left: Tensor, right: Tensor, center: Tensor) -> Tensor:
    """
    Squared Euclidean distances / D from tokens `(m, D)` to tokens `(n, D)`: `(m, n)`, in float32.

    `center` `(D,)`, a point near all of them, is subtracted first: a common offset would cost precision.
    """
    dtype = compute_dtype(left)
    squared = torch.zeros((len(left), len(right)), dtype=dtype, device=left.device)
    norms, right_norms = squared.new_zeros(len(left)), squared.new_zeros(len(right))
    part = max(64, SMALLEST_SLICE // max(len(left), len(right)))
    with torch.autocast(left.device.type, enabled=False):
        for ours, theirs, middle in zip(left.split(part, 1), right.split(part, 1), center.split(part), strict=True):
            # The subtraction casts, too.
            ours, theirs = ours - middle.to(dtype), theirs - middle.to(dtype)
            squared.addmm_(ours, theirs.mT, alpha=-2)
            norms += ours.square().sum(-1)
            right_norms += theirs.square().sum(-1)
    squared.add_(norms[:, None]).add_(right_norms)
    bound = ZERO_DISTANCE_ROUNDINGS * torch.finfo(dtype).eps * norms[:, None]
    return squared.masked_fill_(squared <= bound, 0).div_(left.shape[1])


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """The tokens `(b, N, D)` at `index (b, m)`: `(b, m, D)`."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def centered_parts(tokens: Tensor, mask: Tensor | None, width: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """The tokens `(b, N, D)` minus their mean, in float32, `width` channels at a time, so that no full copy is made.

    Yields the channels as a slice, the centered part and the mean `(b, 1, width)`. A common offset would cost
    precision. The mean is rounded to few bits, which is nearly as good: small whole numbers and halves stay exact, and
    padding cannot change the last digit.
    """
    dtype = compute_dtype(tokens)
    for start in range(0, tokens.shape[-1], width):
        channels = slice(start, start + width)
        part = tokens[..., channels]
        if mask is None:
            mean = part.mean(1, keepdim=True, dtype=dtype)
        else:
            part = part.masked_fill(~mask[..., None], 0)
            mean = part.sum(1, keepdim=True, dtype=dtype) / mask.sum(1).clamp(min=1)[:, None, None]
        mean = mean.bfloat16().to(dtype)
        yield channels, part - mean, mean


def compute_dtype(tokens: Tensor) -> torch.dtype:
    """float32, or float64 for float64 tokens."""
    return torch.promote_types(tokens.dtype, torch.float32)


__all__ = ["ZERO_DISTANCE_ROUNDINGS", "SquaredDistances", "centered_parts", "compute_dtype", "cross_distances", "take"]
