"""Test sets: video files of the generated world, their questions, and their states from the dual encoder."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

from dynfocus.adoption.focused_model import FocusedModel
from dynfocus.eval.synthetic.builder import make_recipe, synthesize
from dynfocus.eval.synthetic.questions import Question
from dynfocus.eval.synthetic.world import Episode
from dynfocus.states.video_state import VideoState

sys.path.append(str(Path(__file__).parents[1]))
from measuring import locked


@dataclass(frozen=True)
class MadeSet:
    """A video of each place: its state, its episode, and the questions, one of each kind where it allows one."""

    states: list[VideoState]
    episodes: list[Episode]
    questions: list[list[Question]]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def make_set(model: FocusedModel, frames: int, seed: int, count: int, work: Path) -> MadeSet:
    """
    The first `count` videos of a seed. Files and states are kept in `work`, states in a folder for each dual encoder;
    several processes may share it.
    """
    recipe = make_recipe(seed, frames)
    drawn = [recipe.draw(index) for index in range(count)]
    videos = work / "videos" / f"{frames}-{seed}"
    states = work / "states" / digest(model.dual_encoder.fingerprint()) / f"{frames}-{seed}"
    with locked(work / "locks" / f"{frames}-{seed}"):
        if not all((videos / _file(index)).exists() for index in range(count)):
            synthesize(videos, seed, count, frames, recipe.split)
        states.mkdir(parents=True, exist_ok=True)
        encoded = []
        for index in range(count):
            path = states / f"{index:06d}.safetensors"
            state = VideoState.load(path) if path.exists() else model.encode_video(videos / _file(index), save_to=path)
            encoded.append(state)
    return MadeSet(encoded, [episode for episode, _ in drawn], [questions for _, questions in drawn])


def _file(index: int) -> str:
    return f"videos/{index:06d}.mp4"


__all__ = ["MadeSet", "digest", "make_set"]
