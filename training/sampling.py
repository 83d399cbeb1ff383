"""The order of rows: shuffled again in each epoch, rows of similar length together, and always the same for a seed."""

from collections.abc import Iterator, Sequence

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler


class EpochLengthGroupedSampler(LengthGroupedSampler):
    """
    transformers' sampler with an order that depends only on seed and epoch, so that an interrupted epoch continues in
    its order.

    Args:
        batch_size (`int`): rows of an optimizer's step.
        lengths (`list[int]`): number of tokens of each row, visual and text.
        seed (`int`).
    """

    def __init__(self, batch_size: int, lengths: Sequence[int], seed: int):
        super().__init__(batch_size, lengths=list(lengths), generator=torch.Generator())
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed + self.epoch)
        return super().__iter__()


__all__ = ["EpochLengthGroupedSampler"]
