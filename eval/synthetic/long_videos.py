"""The long videos of the focus benchmark: many short events, between which nothing happens for long."""

import math

import numpy as np

from .world import Episode, sample_episode

NUM_DIGITS = 3
EVENT_SECONDS = (2, 4)
REPEAT_PROBABILITY = 0.15


def events_for(num_frames: int) -> tuple[int, int]:
    """Fewest and most events of a video: 5 to 10 in 32 seconds, 10 to 20 in 128, 20 to 40 in 512."""
    root = math.sqrt(num_frames)
    return max(1, round(0.9 * root)), max(1, round(1.76 * root))


def sample_long_episode(
    rng: np.random.Generator, num_frames: int, split: str, num_events: tuple[int, int] | None = None
) -> Episode:
    """
    Draws an episode whose events last 2 to 4 of the sampled frames, whose shapes carry three digits, and in which
    about every seventh event shows an object again.

    Args:
        rng (`np.random.Generator`): the only source of chance.
        num_frames (`int`): length in seconds, which is the number of sampled frames.
        split (`str`): `"train"` or `"test"`; decides textures and pairs.
        num_events (`tuple[int, int]`, *optional*): fewest and most events; as `events_for` says by default.
    """
    return sample_episode(
        rng,
        num_frames,
        num_events or events_for(num_frames),
        split,
        EVENT_SECONDS,
        hold_probability=0.0,
        digits=NUM_DIGITS,
        repeat_probability=REPEAT_PROBABILITY,
    )


__all__ = ["NUM_DIGITS", "events_for", "sample_long_episode"]
