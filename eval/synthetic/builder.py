"""Makes a test set of the synthetic world: a folder of video files, and the questions with their answers.

    DIR/videos/000000.mp4 …      H.264, one episode each
    DIR/questions.jsonl          a row per question: video, question, answer, kind, events
    DIR/dataset.json             the settings of the set
    DIR/README.md                the set's card, with which `datasets.load_dataset("DIR")` finds the rows

`video` is relative to DIR; `events` lists `[start, end]` in seconds of the events that the question needs. Video `i`
of a seed does not depend on the number of videos, so a set can be continued, or made longer, by the same call.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import alone_in, claim_folder, write_text
from .data_card import CARD_FILE, make_data_card
from .questions import KINDS, Question, make_questions
from .video_file import check_file, write_episode
from .world import SPLITS, Episode, events_for, render_frame, sample_episode

QUESTIONS_FILE = "questions.jsonl"
MANIFEST_FILE = "dataset.json"
_VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """Everything that determines video `i` of a set and its questions."""

    seed: int
    num_frames: int
    split: str
    questions_per_kind: int
    num_events: tuple[int, int]
    size: int
    fps_container: int
    kinds: tuple[str, ...] = KINDS
    version: int = _VERSION

    def settings(self) -> dict[str, Any]:
        """For `dataset.json`; the default kinds are left out, as in sets of earlier versions."""
        return {name: value for name, value in asdict(self).items() if name != "kinds" or value != KINDS}

    def draw(self, index: int) -> tuple[Episode, list[Question]]:
        """Draw video `index` of the set."""
        # Also a separate stream for each split: otherwise training and test sets of one seed would have the same
        # scenes.
        rng = np.random.default_rng([self.seed, index, SPLITS.index(self.split)])
        episode = sample_episode(rng, self.num_frames, self.split, self.num_events)
        return episode, make_questions(episode, rng, self.questions_per_kind, self.kinds)


def make_recipe(
    seed: int,
    num_frames: int = 32,
    split: str = "test",
    questions_per_kind: int = 1,
    num_events: tuple[int, int] | None = None,
    size: int = 128,
    fps_container: int = 8,
    kinds: Sequence[str] = KINDS,
) -> Recipe:
    """A recipe from the arguments of `synthesize`. Raises a `ValueError` if one of them is invalid."""
    if seed < 0:
        raise ValueError(f"seed is {seed}, but it must be 0 or more.")
    if questions_per_kind < 1:
        raise ValueError(f"questions_per_kind is {questions_per_kind}, but it must be at least 1.")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}.")
    num_events = num_events or events_for(num_frames)
    recipe = Recipe(seed, num_frames, split, questions_per_kind, num_events, size, fps_container, tuple(kinds))
    check_file(size, fps_container)
    # These two raise errors for settings that cannot be drawn.
    episode, _ = recipe.draw(0)
    render_frame(episode, 0, size)
    return recipe


def question_rows(video: str, episode: Episode, questions: list[Question]) -> list[dict[str, Any]]:
    """The rows of `questions.jsonl` of one video."""
    return [
        {
            "video": video,
            "question": question.question,
            "answer": question.answer,
            "kind": question.kind,
            "events": [
                [episode.events[index].start, episode.events[index].visible_end] for index in question.event_ids
            ],
        }
        for question in questions
    ]


def _claim_folder(folder: Path, recipe: Recipe) -> None:
    """Make the folder, or check that it holds a set of the same recipe."""
    manifest, way_out = folder / MANIFEST_FILE, "choose another folder, or remove this one"
    if manifest.is_file() and '"style": "short"' in manifest.read_text("utf-8", "replace"):
        raise ValueError(f"{folder} holds a set made with style=short, which is no longer made; {way_out}.")
    is_begun = (folder / QUESTIONS_FILE).exists() or any((folder / "videos").glob("*"))
    # Sets of an earlier version have an entry for the only remaining style.
    claim_folder(manifest, recipe.settings(), kind="set", way_out=way_out, is_begun=is_begun, free=("style",))


def synthesize(
    out_dir: str | os.PathLike[str],
    seed: int,
    num_videos: int,
    num_frames: int = 32,
    split: str = "test",
    questions_per_kind: int = 1,
    num_events: tuple[int, int] | None = None,
    size: int = 128,
    fps_container: int = 8,
    on_video: Callable[[int, int], None] | None = None,
    kinds: Sequence[str] = KINDS,
) -> Path:
    """Write a set of videos and questions with its card, or complete an interrupted one.

    Args:
        out_dir (`str` or `os.PathLike`): a new or empty folder, or one that an earlier call with the same
            arguments began or filled (`num_videos` may differ).
        seed (`int`): random seed, 0 or more.
        num_videos (`int`): at least 1.
        num_frames (`int`, *optional*, defaults to 32): length of each video in seconds.
        split (`str`, *optional*, defaults to `"test"`): `"train"` or `"test"`.
        questions_per_kind (`int`, *optional*, defaults to 1): questions of each kind for each video.
        num_events (`tuple[int, int]`, *optional*): fewest and most events of a video; by default from `events_for`.
        size, fps_container (`int`, *optional*, default to 128 and 8): size and frame rate of the files, see
            `write_episode`.
        on_video (`Callable`, *optional*): called with (videos done, `num_videos`) after each video.
        kinds (`Sequence[str]`, *optional*, defaults to `KINDS`): kinds of questions, from `ALL_KINDS`.

    Returns:
        `Path`: the file with the questions.

    Raises:
        `ValueError`: if an argument is invalid, or the folder holds something else.
    """
    # Before the folder is made, so that a wrong argument does not leave one.
    recipe = make_recipe(seed, num_frames, split, questions_per_kind, num_events, size, fps_container, kinds)
    if num_videos < 1:
        raise ValueError(f"num_videos is {num_videos}, but a set has at least 1 video.")
    folder = Path(out_dir)
    # Of two calls at the same time, the second finds the videos of the first.
    with alone_in(folder):
        _claim_folder(folder, recipe)
        (folder / "videos").mkdir(exist_ok=True)
        rows, episodes = [], []
        for index in range(num_videos):
            episode, questions = recipe.draw(index)
            episodes.append(episode)
            name = f"videos/{index:06d}.mp4"
            if not (folder / name).is_file():
                write_episode(folder / name, episode, fps_container, size)
            rows += question_rows(name, episode, questions)
            if on_video is not None:
                on_video(index + 1, num_videos)
        card = make_data_card(recipe, episodes, rows, QUESTIONS_FILE)
        write_text(folder / CARD_FILE, card)
        write_text(folder / QUESTIONS_FILE, "".join(json.dumps(row) + "\n" for row in rows))
    return folder / QUESTIONS_FILE


__all__ = [
    "MANIFEST_FILE",
    "QUESTIONS_FILE",
    "Recipe",
    "make_recipe",
    "question_rows",
    "synthesize",
]
