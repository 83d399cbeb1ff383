"""Random gaps between positions, for longer videos than those of the training."""

import numpy as np
import torch


def spread_positions(
    rng: np.random.Generator, rows: int, num_tokens: int, video: slice, longest: int
) -> torch.Tensor | None:
    """
    Positions `(rows, num_tokens)` as if the videos were longer: gaps at up to eight places of the video, in all up to
    the position `longest`. `None`, so as usual, for a quarter of the batches.

    A language model that was trained only on short videos does not generalize to later positions.
    """
    room = longest - num_tokens
    if room < 1 or rng.random() < 0.25:
        return None
    steps = np.ones((rows, num_tokens), dtype=np.int64)
    for row in steps:
        gaps = int(np.exp(rng.uniform(0, np.log(room))))
        places = rng.integers(video.start, video.stop + 1, size=int(rng.integers(1, 9)))
        np.add.at(row, places, rng.multinomial(gaps, rng.dirichlet(np.ones(len(places)))))
    return torch.from_numpy(steps.cumsum(1) - 1)


__all__ = ["spread_positions"]
