"""
Writes the example videos: `python examples/make_examples.py`.

`events.mp4` has five events in 32 seconds, `shapes.mp4` twenty in 128, `long.mp4` thirty-five in 512.
"""

from pathlib import Path

import numpy as np

from dynfocus.eval.synthetic import example_episode
from dynfocus.eval.synthetic.video_file import write_episode
from dynfocus.eval.synthetic.world import sample_episode

if __name__ == "__main__":
    shapes, long = (
        sample_episode(np.random.default_rng(seed), seconds, "test") for seed, seconds in ((7, 128), (8, 512))
    )
    for name, episode, size in (("events", example_episode(), 256), ("shapes", shapes, 128), ("long", long, 128)):
        path = write_episode(Path(__file__).parent / f"{name}.mp4", episode, size=size)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
