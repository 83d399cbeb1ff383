"""
Makes the videos of a second world, for fine-tuning the demo model to it from answers alone:
`python benchmarks/second_world.py runs/second`.

Colors, numbers and motions are those of the synthetic world; shapes, questions and most of their words are others.
`FOLDER/train/rows.jsonl` has videos, questions and answers, and nothing else. `FOLDER/test` is read by
`python -m dynfocus.eval.synthetic.score`, and its textures and six of its objects are in no training video.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from dynfocus.eval.synthetic.builder import QUESTIONS_FILE, question_rows
from dynfocus.eval.synthetic.drawing import SHAPES, SILHOUETTES, polygon
from dynfocus.eval.synthetic.questions import Question
from dynfocus.eval.synthetic.video_file import write_episode
from dynfocus.eval.synthetic.world import Episode, events_for, sample_episode

TRAIN_SEED, TEST_SEED = 51, 52


def _drop(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x * x + (y - 0.25) ** 2 < 0.7**2) | polygon([(0.0, -1.0), (0.62, -0.08), (-0.62, -0.08)], x, y)


def _house(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return polygon(
        [(0.0, -0.95), (0.95, -0.2), (0.7, -0.2), (0.7, 0.85), (-0.7, 0.85), (-0.7, -0.2), (-0.95, -0.2)], x, y
    )


_ARROW = [(0.0, -1.0), (0.95, 0.0), (0.45, 0.0), (0.45, 0.95), (-0.45, 0.95), (-0.45, 0.0), (-0.95, 0.0)]
_BOLT = [(-0.2, -1.0), (0.7, -1.0), (0.3, -0.25), (0.8, -0.25), (-0.4, 1.0), (0.0, 0.15), (-0.6, 0.15)]
#: Eight shapes, each in place of one of the first world.
OTHER_SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "moon": lambda x, y: (x * x + y * y < 0.92) & ((x - 0.7) ** 2 + y * y > 0.36),
    "house": _house,
    "arrow": lambda x, y: polygon(_ARROW, x, y),
    "flower": lambda x, y: np.hypot(x, y) < 0.72 + 0.24 * np.cos(5 * np.arctan2(x, -y)),
    "drop": _drop,
    "hourglass": lambda x, y: (abs(y) < 0.9) & (abs(x) < 0.2 + 0.7 * abs(y)),
    "bolt": lambda x, y: polygon(_BOLT, x, y),
    "pillar": lambda x, y: (abs(x) < 0.42) & (abs(y) < 0.98),
}
_NAMES = dict(zip(SHAPES, OTHER_SHAPES, strict=True))


def draw(seed: int, index: int, num_frames: int, split: str) -> tuple[Episode, list[Question]]:
    """Video `index` of a seed, with a question of each kind that it allows."""
    rng = np.random.default_rng((seed, index))
    episode = sample_episode(rng, num_frames, split, events_for(num_frames))
    events = tuple(replace(event, shape=_NAMES[event.shape]) for event in episode.events)
    episode = replace(episode, events=events)
    return episode, ask(episode, rng)


def ask(episode: Episode, rng: np.random.Generator) -> list[Question]:
    """Five kinds of questions: `number`, `color`, `object`, `first_last` and `order`."""
    events, names = episode.events, [event.name for event in episode.events]
    once = [index for index, name in enumerate(names) if names.count(name) == 1]
    found = []

    def add(kind: str, texts: tuple[str, ...], answer: str, *needed: int) -> None:
        frames = tuple(frame for index in needed for frame in events[index].frames)
        found.append(Question(str(rng.choice(texts)), answer, kind, needed, frames))

    for kind in ("number", "color", "object"):
        if not once:
            break
        index = int(rng.choice(once))
        name, number = names[index], events[index].number
        if kind == "number":
            add(
                kind, (f"Read out what is written on the {name}.", f"Tell me the {name}'s number."), str(number), index
            )
        elif kind == "color":
            add(
                kind,
                (f"{number} is written on which color?", f"In what color is {number} seen?"),
                events[index].color,
                index,
            )
        else:
            add(kind, (f"What has {number} on it?", f"Find {number}: on what is it?"), name, index)
    if rng.random() < 0.5:
        add("first_last", ("What opens the video?", "With what does it begin?"), names[0], 0)
    else:
        add("first_last", ("What closes the video?", "With what does it end?"), names[-1], len(names) - 1)
    followed = [index for index in once if index + 1 < len(names)]
    if followed:
        index = int(rng.choice(followed))
        texts = (f"Once the {names[index]} has gone, what turns up?", f"What follows the {names[index]}?")
        add("order", texts, names[index + 1], index, index + 1)
    return found


def make(folder: Path, seed: int, count: int, num_frames: int, split: str) -> None:
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(count):
        episode, questions = draw(seed, index, num_frames, split)
        name = f"videos/{index:06d}.mp4"
        if not (folder / name).exists():
            write_episode(folder / name, episode)
        rows += question_rows(name, episode, questions)
    if split == "train":
        rows = [{name: row[name] for name in ("video", "question", "answer")} for row in rows]
    file = folder / ("rows.jsonl" if split == "train" else QUESTIONS_FILE)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{file}: {len(rows)} questions about {count} videos of {num_frames} seconds")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python benchmarks/second_world.py", description=__doc__.splitlines()[1])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train-videos", type=int, default=400)
    parser.add_argument("--test-videos", type=int, default=60)
    parser.add_argument("--frames", type=int, default=32, help="seconds of each video (default: 32)")
    args = parser.parse_args()
    SILHOUETTES.update(OTHER_SHAPES)
    make(args.folder / "train", TRAIN_SEED, args.train_videos, args.frames, "train")
    make(args.folder / "test", TEST_SEED, args.test_videos, args.frames, "test")


if __name__ == "__main__":
    main()
