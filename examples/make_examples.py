"""Writes the example video of the README, `examples/events.mp4`: `python examples/make_examples.py`."""

from pathlib import Path

from dynfocus.eval.synthetic.video_file import write_episode
from dynfocus.eval.synthetic.world import example_episode

if __name__ == "__main__":
    path = Path(__file__).parent / "events.mp4"
    write_episode(path, example_episode(), size=256)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
