"""What the page of `dynfocus demo` does: it reads a visitor's video once, and answers questions about it."""

import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dynfocus.processing.answers import Answer
from dynfocus.processing.timeline import pictured, read_thumbnails
from dynfocus.processing.video_qa import RULES

from .ask import Setup, in_options
from .terminal import UserError, one_sentence

#: Frames that are read of a video at most, unless --max-frames is given: an hour at one frame a second.
MOST_FRAMES = 3600
_MOST_PICTURES = 128  # kept for a video
_PICTURE_PIXELS = 160  # of the shorter side
# An option of the command line that has another name on the page, as it stands in messages.
_BUDGET = re.compile(r"`?--max-visual-tokens( \d+)?`?")


@dataclass
class Film:
    """
    A visitor's video, read once.

    Args:
        path: the uploaded file. name: what the visitor calls it.
        state: the encoded video, a `VideoState`.
        seconds: how long reading took.
        tokens: the fewest, usual and most visual tokens of a question.
        notes: warnings about the file.
        pictures: frames that were drawn before, by their time.
    """

    path: str
    name: str
    state: Any
    seconds: float
    tokens: tuple[int, int, int]
    notes: list[str] = field(default_factory=list)
    pictures: dict[float, np.ndarray] = field(default_factory=dict)

    def pictures_at(self, times: Sequence[float]) -> list[np.ndarray]:
        """Small frames shown at ascending `times`; only those that were not drawn before are decoded."""
        new = [second for second in times if second not in self.pictures]
        self.pictures.update(zip(new, read_thumbnails(self.path, new, size=_PICTURE_PIXELS), strict=True))
        found = [self.pictures[second] for second in times]
        for second in list(self.pictures)[: max(0, len(self.pictures) - _MOST_PICTURES)]:
            del self.pictures[second]
        return found


@dataclass
class Reply:
    """
    An answer by one rule of choice.

    Args:
        rule: the rule's name.
        seconds: how long choosing, showing and answering took.
        thumbnails: a picture for each key frame, or `None` where there are too many.
    """

    rule: str
    answer: Answer
    seconds: float
    thumbnails: list[np.ndarray | None]


class Studio:
    """
    Reads videos and answers, for one pipeline and all visitors. It keeps nothing of a visitor.

    Args:
        pipe: a `video-qa` pipeline.
        setup: the options of the command.
    """

    def __init__(self, pipe: Any, setup: Setup):
        self.pipe, self.setup = pipe, setup
        # A stock model has no scores of its own.
        self.has_scores = type(pipe.video_qa).__name__ == "DynFocusVideoQA"
        self.rules = [*(["dpe"] if self.has_scores else []), *RULES]
        self.rule = setup.rule or self.rules[0]

    def read(self, path: str, progress: Callable[[int, int], None] | None = None) -> Film:
        """
        Read and encode a video.

        Raises:
            `UserError`: for a file that cannot be read, by its own name.
        """
        given = {name: value for name, value in self.setup.sampling.items() if value is not None}
        given.pop("max_visual_tokens", None)
        limit = self.pipe.video_qa.defaults["max_frames"]
        given.setdefault("max_frames", min(MOST_FRAMES, limit or MOST_FRAMES))
        start = time.perf_counter()
        with on_the_page(path), warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always", UserWarning)
            state = self.pipe.encode_video(path, progress=progress or False, **given)
            tokens = self.pipe.video_qa.token_range(state)
        notes = dict.fromkeys(_named(one_sentence(str(warning.message)), path) for warning in noted)
        return Film(path, Path(path).name, state, time.perf_counter() - start, tokens, list(notes))

    def ask(self, film: Film, question: str, max_visual_tokens: int, rule: str) -> Reply:
        """
        Answer one question by one rule of choice.

        Raises:
            `UserError`: for a question that cannot be answered.
        """
        if not question.strip():
            raise UserError("The question is empty: ask something about the video.")
        model = self.pipe.video_qa
        start = time.perf_counter()
        with on_the_page(film.path):
            row = model.prepare({"video": film.state, "question": question}, max_visual_tokens=max_visual_tokens)
            (answer,) = model.answer([row], rule=rule, max_new_tokens=self.setup.max_new_tokens)
            seconds = time.perf_counter() - start
            shown = pictured(answer.key_frames)
            thumbnails: list[np.ndarray | None] = [None] * len(answer.key_frames)
            pictures = film.pictures_at([answer.key_frames[i]["time"] for i in shown])
            for i, picture in zip(shown, pictures, strict=True):
                thumbnails[i] = picture
        return Reply(rule, answer, seconds, thumbnails)


@contextmanager
def on_the_page(path: str) -> Iterator[None]:
    """Turns any error into a `UserError` of one sentence, with the video's own name in place of its path."""
    try:
        with in_options():
            yield
    except UserError as error:
        words = _BUDGET.sub(r"the token budget\1", _named(one_sentence(str(error)), path))
        raise UserError(words) from error


def _named(words: str, path: str) -> str:
    return words.replace(path, Path(path).name).replace(str(Path(path).parent), "the upload")


__all__ = ["MOST_FRAMES", "Film", "Reply", "Studio", "on_the_page"]
