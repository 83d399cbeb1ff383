"""Fine-tuning with `Trainer`: `SelectionNoiseSchedule`, `DynFocusTrainer`, and recipes for whole runs."""

from .selection_noise import SeededSelectionNoise, SelectionNoiseSchedule

__all__ = ["SeededSelectionNoise", "SelectionNoiseSchedule"]
