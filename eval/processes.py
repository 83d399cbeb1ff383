"""The processes of a run: one, or those that torchrun or accelerate started."""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch

# Processes finish at different times, and a long video may take long.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """
    The rank of this process among all.

    Args:
        rank, world_size: rank and number of processes over all machines.
        local_rank: rank on this machine, which is also the number of its accelerator.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> "Processes":
        """Read `RANK`, `WORLD_SIZE` and `LOCAL_RANK` of a launcher, and connect the processes."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        found = cls(*(int(os.environ.get(name, default)) for name, default in zip(names, "010", strict=True)))
        if found.world_size > 1 and not torch.distributed.is_initialized():
            # They only wait for each other, which needs no accelerator's backend.
            torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
        return found

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Wait for all other processes."""
        if self.world_size > 1:
            torch.distributed.barrier()

    def close(self) -> None:
        """Disconnect from the other processes at the end."""
        if self.world_size > 1:
            torch.distributed.destroy_process_group()

    def device(self, name: str | None) -> str | None:
        """The device of this process; with several processes, by its local rank."""
        if self.world_size == 1 or name not in (None, "cuda", "xpu", "npu"):
            return name
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if accelerator is None or (name is not None and accelerator.type != name):
            return name
        return f"{accelerator.type}:{self.local_rank % torch.accelerator.device_count()}"


__all__ = ["Processes"]
