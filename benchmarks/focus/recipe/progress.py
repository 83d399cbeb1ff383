"""
Shared by the stages of the tiny recipe: the learning rate, training of parts, its checkpoints, the selector's loss.
"""

import math
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F


def learning_rate_at(step: int, steps: int, peak: float, warm_up: int, floor: float = 0.02) -> float:
    """Linear warm-up, then cosine decay to `floor · peak`."""
    decay = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1)))
    return peak * min((step + 1) / warm_up, decay)


def part_at(step: int, steps: Sequence[int]) -> int:
    """The part of a training that `step` belongs to, if the parts take `steps` one after another."""
    return bisect_right(list(accumulate(steps)), step)


def save_progress(path: Path, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], step: int) -> None:
    """
    Save a checkpoint. It is written beside `path`, then renamed, so that a run killed while it writes keeps the older
    file.
    """
    writing = path.with_suffix(".writing")
    states = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"model": model.state_dict(), "optimizers": states, "step": step}, writing)
    writing.replace(path)


def load_progress(path: Path, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], device: str) -> int:
    """Restore a checkpoint of `save_progress`; returns the step, 0 if there is no file."""
    if not path.exists():
        return 0
    saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    model.load_state_dict(saved["model"])
    for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    return saved["step"]


def take_step(
    losses: Iterable[torch.Tensor],
    parameters: Iterable[torch.nn.Parameter],
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    """One step of the optimizers down the sum of the losses, with the gradient of `parameters` of length 1 at most."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    torch.stack(list(losses)).sum().backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimizer in optimizers:
        optimizer.step()


def train_parts(
    parts: torch.nn.Module,
    losses_at: Callable[[int], tuple[dict[str, torch.Tensor], Iterable[tuple[str, float]]]],
    partial: Path,
    *,
    stage: str,
    steps: int,
    learning_rate: float,
    warm_up: int,
    every: int,
    device: str,
    log: Callable[[str], None],
) -> None:
    """
    Train `parts` in place by AdamW; `partial` is continued.

    Args:
        losses_at: the losses of a step by their names, and further numbers of which the log has the mean.
        stage: name of the training in the log.
        every: steps between two lines of the log, and two checkpoints.
    """
    parameters = [parameter for parameter in parts.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    step = load_progress(partial, parts, [optimizer], device)
    started, window = time.monotonic(), defaultdict(list)
    while step < steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, steps, learning_rate, warm_up)
        losses, numbers = losses_at(step)
        take_step(losses.values(), parameters, [optimizer])
        step += 1
        for name, value in [*((name, loss.item()) for name, loss in losses.items()), *numbers]:
            window[name].append(value)
        if step % every == 0 or step == steps:
            shown = " ".join(f"{name} {np.mean(values):.3f}" for name, values in window.items())
            log(f"{stage} step {step}/{steps} {shown} ({time.monotonic() - started:.0f} s)")
            window.clear()
            save_progress(partial, parts, [optimizer], step)


def relevance_loss(scores: torch.Tensor, medoids: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """
    Cross-entropy of an event's score against whether the answer depends on it, a label from the synthetic world.

    Args:
        scores (`torch.Tensor` of shape `(V, L)`): raw scores.
        medoids (`torch.Tensor` of shape `(V, L)`, int64): the frame that represents each event.
        asked (`torch.Tensor` of shape `(V, T)`): 1 on frames on which the answer depends.
    """
    return F.binary_cross_entropy_with_logits(scores, asked.gather(1, medoids))


__all__ = [
    "learning_rate_at",
    "load_progress",
    "part_at",
    "relevance_loss",
    "save_progress",
    "take_step",
    "train_parts",
]
