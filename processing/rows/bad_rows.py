"""Counts the rows of a run that could not be used, over all processes that load data."""

import os
import zlib

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Enough slots for every worker of a run to have its own.
_PROCESSES = 4096
_MESSAGES = 1 << 16
# With fewer rows the fraction is not checked.
_LEAST_ROWS = 50


class BadRows:
    """
    Counts rows and bad rows in memory shared by the workers of data loaders, forked or spawned; a copy counts
    independently from then on.

    Args:
        max_fraction (`float`): the part of the rows (of 50 at least) that may be bad.

    Attributes:
        seen, bad (`int`): rows so far, in all processes.
    """

    def __init__(self, max_fraction: float):
        if not 0 <= max_fraction <= 1:
            raise ValueError(f"`max_bad_fraction` must lie between 0 and 1, got {max_fraction}.")
        self.max_fraction = max_fraction
        # One slot for each process, so that simultaneous additions are not lost.
        self._counts = torch.zeros(_PROCESSES, 2, dtype=torch.int64).share_memory_()
        self._told = torch.zeros(_MESSAGES, dtype=torch.bool).share_memory_()

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        for tensor in (self._counts, self._told):
            if not tensor.is_shared():
                tensor.share_memory_()

    @property
    def seen(self) -> int:
        return int(self._counts[:, 0].sum())

    @property
    def bad(self) -> int:
        return int(self._counts[:, 1].sum())

    def add_good(self) -> None:
        """Counts a row that could be used."""
        self._counts[os.getpid() % _PROCESSES, 0] += 1

    def add_bad(self, message: str) -> None:
        """
        Counts a row that is left out, and logs it once, even if the row is seen again.

        Raises:
            `ValueError`: if too many rows were bad so far.
        """
        self._counts[os.getpid() % _PROCESSES] += 1
        key = zlib.crc32(message.encode()) % _MESSAGES
        if not self._told[key]:
            self._told[key] = True
            logger.warning(f"{message} The row is left out.")
        seen, bad = self.seen, self.bad
        if bad > self.max_fraction * max(seen, _LEAST_ROWS):
            raise ValueError(
                f"{bad} of {seen} rows could not be used, more than max_bad_fraction={self.max_fraction} allows (of "
                f"{_LEAST_ROWS} rows at least); the last one: {message} Correct the rows, or raise `max_bad_fraction`."
            )


__all__ = ["BadRows"]
