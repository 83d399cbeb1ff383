"""The processes of a run: one, or as many as torchrun or accelerate started."""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch

# Shares end at different times, and a long video takes as long as it takes.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """
    Which of how many this process is.

    Args:
        rank, world_size: over all machines.
        local_rank: on this machine, and so the number of its accelerator.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> "Processes":
        """As a launcher says in `RANK`, `WORLD_SIZE` and `LOCAL_RANK`, with the processes connected."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        found = cls(*(int(os.environ.get(name, default)) for name, default in zip(names, "010", strict=True)))
        if found.world_size > 1 and not torch.distributed.is_initialized():
            # They only wait for each other: no need for an accelerator's backend.
            torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
        return found

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """For all others."""
        if self.world_size > 1:
            torch.distributed.barrier()

    def close(self) -> None:
        """Part from the others, in the end."""
        if self.world_size > 1:
            torch.distributed.destroy_process_group()

    def device(self, name: str | None) -> str | None:
        """The device of this process: with several, accelerators are dealt by number."""
        if self.world_size == 1 or name not in (None, "cuda", "xpu", "npu"):
            return name
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if accelerator is None or (name is not None and accelerator.type != name):
            return name
        return f"{accelerator.type}:{self.local_rank % torch.accelerator.device_count()}"


__all__ = ["Processes"]
