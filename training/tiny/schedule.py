"""The learning rate of the tiny recipe."""

import math


def learning_rate_at(step: int, steps: int, peak: float, warm_up: int, floor: float = 0.02) -> float:
    """Linear warm-up, then cosine decay to `floor · peak`."""
    decay = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1)))
    return peak * min((step + 1) / warm_up, decay)


__all__ = ["learning_rate_at"]
