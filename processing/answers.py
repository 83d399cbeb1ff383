"""`Answer`: an answer about videos, the key frames that it is based on, and its picture."""

import base64
import contextlib
import html
import importlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """
    An answer, and the key frames that it is based on.

    Args:
        answer (`str`): the text, without special tokens.
        score (`float`, *optional*): geometric mean of the probabilities of the answer's tokens (its end included);
            `None` where they are not known.
        key_frames (`list`): `{"index", "time", "score"}` of each key frame in time order: index among the sampled
            frames, seconds from the start of the video, how well it fits the question in 0…1. With several videos also
            `"video"`, its number.
        num_visual_tokens, num_dense_tokens (`int`, *optional*): what the language model read of the videos, and what
            it would read of them if every frame were kept in full; `None` where that is not known.
        frame_times (`list[list[float]]`): seconds of the sampled frames of each video.
        events (`list`): `{"start", "end", "start_index", "end_index", "frames", "medoid", "score", "selected"}`.
        timings (`dict`): seconds of `"decode"`, `"encode"` and `"generate"`.
        relevance (`list[list[float]]`, *optional*): of each sampled frame of each video, how well it fits the question
            in 0…1; `None` where single frames have no score.
        coarse_frames (`list[list[int]]`, *optional*): places among the sampled frames of those shown coarsely, where
            not all are.
        num_prompt_tokens (`int`, *optional*): of the whole prompt, words included, as a server counted them.
        question (`str`, *optional*): the question by which frames were chosen, for the title of `plot`.
        sources (`list`, *optional*): the file of each video, from which `plot` reads pictures; `None` for other
            videos.
        token_log_probs (`list[float]`, *optional*): logarithms of the probabilities of the answer's tokens (its end
            included); `None` where they are not known.

    In a notebook an answer is shown as its timeline.
    """

    answer: str
    score: float | None
    key_frames: list[dict[str, Any]]
    num_visual_tokens: int | None
    num_dense_tokens: int | None
    frame_times: list[list[float]]
    events: list[dict[str, Any]]
    timings: dict[str, float] = field(default_factory=dict)
    relevance: list[list[float]] | None = None
    coarse_frames: list[list[int]] | None = None
    num_prompt_tokens: int | None = None
    question: str | None = field(default=None, repr=False)
    sources: list[str | None] | None = field(default=None, repr=False)
    token_log_probs: list[float] | None = field(default=None, repr=False)

    def plot(self, video: Any = None, *, width: float = 13.0) -> Any:
        """
        The timeline of the answer: key frames, scores or relevance, events, and what was shown of the video.

        Args:
            video (*optional*): the video in any form, for pictures of the key frames; by default the file that was
                read, if it still exists. Without either, no pictures are drawn.
            width (`float`, defaults to 13): inches.

        Returns:
            A `matplotlib.figure.Figure`; `.savefig("timeline.png")` writes it.

        Raises:
            `ValueError`: for an answer about no video or several, or a `video` that cannot be read.
            `ImportError`: without matplotlib, or where this package is not installed (a model's remote code has no
            drawings).
        """
        try:
            timeline: Any = importlib.import_module("dynfocus.processing.timeline")
        except ImportError as error:
            raise ImportError(
                f"A timeline needs dynfocus and matplotlib: pip install 'dynfocus[plot]' ({error})."
            ) from error
        pictures: Any = ()
        if video is not None:
            pictures = timeline.pictures_of(video, self.key_frames, width=width)
        elif len(self.sources or ()) == 1 and (file := (self.sources or [None])[0]) and os.path.isfile(file):
            # The file may have changed since; an answer can be drawn without pictures.
            with contextlib.suppress(ValueError, OSError):
                pictures = timeline.pictures_of(file, self.key_frames, width=width)
        return timeline.timeline_figure({**self.as_dict(), "question": self.question}, pictures, width=width)

    def _repr_html_(self) -> str | None:
        # What a notebook shows; `None` makes it print the answer instead.
        try:
            picture = io.BytesIO()
            self.plot().savefig(picture, dpi=100)
        except (ImportError, ValueError, OSError):
            return None
        times = ", ".join(f"{frame['time']:.1f}" for frame in self.key_frames)
        words = html.escape(f"{self.question or ''} {self.answer} (key frames at {times} seconds)".strip())
        data = base64.b64encode(picture.getvalue()).decode()
        return f'<img style="max-width: 100%" alt="{words}" src="data:image/png;base64,{data}">'

    def as_dict(self, details: bool = True) -> "AnswerDict":
        """The answer in the form that the `video-qa` pipeline documents and returns."""
        result: dict[str, Any] = {
            "answer": self.answer,
            "score": self.score,
            "key_frames": self.key_frames,
            "num_visual_tokens": self.num_visual_tokens,
        }
        if details:
            result |= {
                "num_frames": sum(map(len, self.frame_times)),
                "frame_times": self.frame_times[0] if len(self.frame_times) == 1 else self.frame_times,
                "num_dense_tokens": self.num_dense_tokens,
                "events": self.events,
                "timings": self.timings,
            }
            for name in ("relevance", "coarse_frames"):
                if (found := getattr(self, name)) is not None:
                    result[name] = found[0] if len(found) == 1 else found
            if self.num_prompt_tokens is not None:
                result["num_prompt_tokens"] = self.num_prompt_tokens
        return AnswerDict(result, answer=self)


class AnswerDict(dict[str, Any]):
    """
    What the `video-qa` pipeline returns: an ordinary dict, with `plot` and the timeline in a notebook.

    Args:
        entries: see [`VideoQAPipeline`].
        answer ([`Answer`]): what they were made of.
    """

    def __init__(self, entries: Mapping[str, Any], answer: Answer):
        super().__init__(entries)
        self._answer = answer

    def __reduce__(self) -> Any:
        return AnswerDict, (dict(self), self._answer)

    def plot(self, video: Any = None, *, width: float = 13.0) -> Any:
        """See [`Answer.plot`]."""
        return self._answer.plot(video, width=width)

    def _repr_html_(self) -> str | None:
        return self._answer._repr_html_()


__all__ = ["Answer", "AnswerDict"]
