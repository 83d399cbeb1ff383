"""The noise of perturbed top-K in training: its size over time, and its random numbers."""

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class SeededSelectionNoise:
    """
    Noise that depends only on the seed, the step and a video's place in the global batch.

    So it differs between processes, and is the same after an interruption, on another device, and for any distribution
    of a batch over processes and accumulation steps (if each row has one video).

    Args:
        seed (`int`): the run's seed.
        rank (`int`, defaults to 0), world_size (`int`, defaults to 1): this process, and how many there are.
    """

    def __init__(self, seed: int, rank: int = 0, world_size: int = 1):
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.begin_step(0)

    def begin_step(self, step: int) -> None:
        """Start again at the first video of an optimizer's step."""
        self._step = step
        self._drawn = 0

    def __call__(self, num_prototypes: torch.Tensor, num_samples: int) -> torch.Tensor:
        """Standard normal `(V, samples, max L)` for videos with L = `num_prototypes` `(V,)`, on the CPU; 0 past L."""
        counts = num_prototypes.tolist()
        noise = torch.zeros(len(counts), num_samples, max(counts))
        first = self._drawn + self.rank * len(counts)
        for video, count in enumerate(counts):
            entropy = np.random.SeedSequence([self.seed, self._step, first + video]).generate_state(1, np.uint64)
            # torch takes seeds of 63 bits.
            generator = torch.Generator().manual_seed(int(entropy[0]) >> 1)
            noise[video, :, :count] = torch.randn(num_samples, count, generator=generator)
        self._drawn += self.world_size * len(counts)
        return noise


class SelectionNoiseSchedule(TrainerCallback):
    """
    Lets the standard deviation of the selection noise fall linearly over training, to a hard choice at its end.

    Perturbed top-K mixes the features of several events in training, but not afterwards; reducing the noise to zero
    closes this gap. The noise is [`SeededSelectionNoise`], so that a resumed run continues exactly.

    Args:
        start (`float`, *optional*): sigma at the first step, on scores normalised to [0, 1]; the configuration's
            `selection_sigma` by default.
        end (`float`, defaults to 0.0): sigma at the last step.
        hold (`float`, defaults to 0.0): part of the steps, from the first on, for which sigma stays at `start`.

    Raises:
        `ValueError`: for a negative sigma, or a `hold` outside [0, 1].

    Example:

    ```python
    >>> noise = SelectionNoiseSchedule()
    >>> trainer = Trainer(model, args, data_collator=collator, train_dataset=rows, callbacks=[noise])
    ```
    """

    def __init__(self, start: float | None = None, end: float = 0.0, hold: float = 0.0):
        if end < 0 or (start is not None and start < 0):
            raise ValueError(f"The selection noise cannot be negative: start is {start}, end is {end}.")
        if not 0 <= hold <= 1:
            raise ValueError(f"`hold` is a part of the steps, from 0 to 1, got {hold}.")
        self.start = start
        self.end = end
        self.hold = hold
        self._noise: SeededSelectionNoise | None = None

    def sigma(self, progress: float, start: float) -> float:
        """Sigma after `progress` (0 to 1) of the steps."""
        if progress <= self.hold:
            return start
        return start + (self.end - start) * (progress - self.hold) / (1 - self.hold)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        self._noise = SeededSelectionNoise(args.seed, args.process_index, args.world_size)
        selector(model).selection_noise = self._noise

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        found = selector(model)
        start = found.config.selection_sigma if self.start is None else self.start
        # The last step that runs has the number max_steps - 1.
        found.selection_sigma = self.sigma(min(1.0, state.global_step / max(1, state.max_steps - 1)), start)
        assert self._noise is not None
        self._noise.begin_step(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        selector(model).selection_noise = None


def selector(model: nn.Module) -> Any:
    """The [`DynFocusModel`] in a model that may be wrapped: with a head, by peft, by a distributed strategy."""
    for module in model.modules():
        # Not by class, because the class of a Hub repository is a different one.
        if "selection_sigma" in vars(module):
            return module
    raise ValueError(f"A {type(model).__name__} holds no DynFocus model: selection noise is for those only.")


__all__ = ["SeededSelectionNoise", "SelectionNoiseSchedule", "selector"]
