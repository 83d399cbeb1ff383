"""
The model's part of an evaluation: each video is read and encoded once, then its questions are answered in batches.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from dynfocus.processing.video_qa import Answer as GivenAnswer

from .benchmarks.base import SUBTITLES_MARK, Question

_NO_VIDEO = "The video file is missing."


@dataclass(frozen=True)
class Answer:
    """
    The model's answer to one question.

    Args:
        output (`str`, *optional*): the text; `None` if the question could not be asked.
        key_frames (`list`): `{"index", "time", "score"}` of each, in time order; seconds from the video's start.
        num_visual_tokens, num_frames (`int`, *optional*).
        duration (`float`, *optional*): seconds from the first to the last sampled frame.
        error (`str`, *optional*): why the question could not be asked.
        timings (`dict`): its share of the seconds for `"decode"`, `"encode"` and `"generate"`.
    """

    output: str | None
    key_frames: list[dict[str, Any]] = field(default_factory=list)
    num_visual_tokens: int | None = None
    num_frames: int | None = None
    duration: float | None = None
    error: str | None = None
    timings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoTask:
    """
    A video and its questions.

    Args:
        path: a file or a URL; `None` for a missing one.
        batches: batches of questions that are answered together.
        subtitles: returns the text of a question's subtitles at the given times, in seconds.
    """

    path: str | None
    batches: Sequence[Sequence[Question]]
    subtitles: Callable[[Question, Sequence[float]], str] | None = None

    @property
    def num_questions(self) -> int:
        return sum(map(len, self.batches))


class Answerer:
    """
    Answers the questions of videos with a model.

    Args:
        pipe ([`VideoQAPipeline`]).
        generation: arguments of `generate`.
        sampling: `fps`, `max_frames`, `num_frames` or `decoder` in place of the processor's settings.
        max_visual_tokens: largest number of visual tokens of a video.
        rule: a rule of choice, as its name or as a function; by default the model's own.
        seed: random seed, for models that sample their answers; set before each batch, so that the order does not
            matter.
    """

    def __init__(
        self,
        pipe: Any,
        generation: Mapping[str, Any],
        sampling: Mapping[str, Any] | None = None,
        max_visual_tokens: int | None = None,
        seed: int = 0,
        rule: Any = None,
    ):
        self.video_qa = pipe.video_qa
        self.generation = dict(generation)
        self.sampling = dict(sampling or {})
        self.budget = {} if max_visual_tokens is None else {"max_visual_tokens": max_visual_tokens}
        self.seed = seed
        self.rule = rule

    def answer(self, tasks: Iterable[VideoTask]) -> Iterator[tuple[Sequence[Question], list[Answer]]]:
        """
        Yields each batch of questions with its answers. While questions about a video are answered, the next one is
        decoded.

        Raises:
            `ValueError`: the device's memory is full.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        with ThreadPoolExecutor(1) as reader:
            for task, reading in _one_ahead(reader, tasks, self._decode):
                try:
                    yield from self._ask_all(task, reading)
                except torch.OutOfMemoryError as error:
                    raise ValueError(
                        "The device's memory is full: lower --batch-size, --max-frames or --max-visual-tokens, or use "
                        "--dtype bfloat16."
                    ) from error

    def _decode(self, task: VideoTask) -> tuple[Any, float]:
        start = time.perf_counter()
        if task.path is None:
            raise FileNotFoundError(_NO_VIDEO)
        stream = self.video_qa.open_video(task.path, **self.sampling).start()
        return stream, time.perf_counter() - start

    def _ask_all(self, task: VideoTask, reading: Future) -> Iterator[tuple[Sequence[Question], list[Answer]]]:
        try:
            stream, decode = reading.result()
            start = time.perf_counter()
            state = self.video_qa.encode_video(stream)
        except (ValueError, OSError) as error:
            # Paths differ between machines, but the lines of a run must not.
            message = _without_path(str(error), task.path)
            for batch in task.batches:
                yield batch, [Answer(None, error=message) for _ in batch]
            return
        if self.video_qa.device.type == "cuda":
            torch.cuda.synchronize(self.video_qa.device)
        shares = {
            "decode": decode / task.num_questions,
            "encode": (time.perf_counter() - start) / task.num_questions,
        }
        for batch in task.batches:
            yield batch, self._ask(state, batch, task.subtitles, shares)

    def _ask(
        self,
        state: Any,
        batch: Sequence[Question],
        subtitles: Callable[[Question, Sequence[float]], str] | None,
        shares: Mapping[str, float],
    ) -> list[Answer]:
        times = state.frame_times[0].tolist()
        answers: list[Answer | None] = []
        rows = []
        settings = {**self.budget, "max_new_tokens": self.generation.get("max_new_tokens")}
        for question in batch:
            try:
                rows.append(self.video_qa.prepare(self._row(state, question, times, subtitles), **settings))
                answers.append(None)
            except (ValueError, OSError) as error:
                answers.append(Answer(None, error=str(error)))
        torch.manual_seed(self.seed)
        found = iter(self.video_qa.answer(rows, rule=self.rule, **self.generation) if rows else ())
        return [_as_answer(next(found), times, shares) if one is None else one for one in answers]

    def _row(
        self,
        state: Any,
        question: Question,
        times: Sequence[float],
        subtitles: Callable[[Question, Sequence[float]], str] | None,
    ) -> dict[str, Any]:
        prompt = question.prompt
        if SUBTITLES_MARK in prompt:
            text = "" if subtitles is None else subtitles(question, times)
            prompt = prompt.replace(SUBTITLES_MARK, text)
        content = [{"type": "video", "video": state}, {"type": "text", "text": prompt}]
        asked = question.prompt if question.question is None else question.question
        return {
            "messages": [{"role": "user", "content": content}],
            "question": self.video_qa.cut_for_choice(asked.replace(SUBTITLES_MARK, " ").strip()),
            "options": question.options,
        }


def _as_answer(found: GivenAnswer, times: Sequence[float], shares: Mapping[str, float]) -> Answer:
    return Answer(
        output=found.answer,
        key_frames=[
            {"index": one["index"], "time": round(one["time"], 3), "score": _rounded(one["score"])}
            for one in found.key_frames
        ],
        num_visual_tokens=found.num_visual_tokens,
        num_frames=sum(map(len, found.frame_times)),
        duration=round(times[-1] - times[0], 3),
        timings={
            "decode": shares["decode"],
            # The part that depends on the question, from the state to visual tokens, is computed when it is asked.
            "encode": shares["encode"] + found.timings["encode"],
            "generate": found.timings["generate"],
        },
    )


def _one_ahead(
    pool: ThreadPoolExecutor, tasks: Iterable[VideoTask], work: Callable[[VideoTask], Any]
) -> Iterator[tuple[VideoTask, Future]]:
    before: tuple[VideoTask, Future] | None = None
    for task in tasks:
        current = task, pool.submit(work, task)
        if before is not None:
            yield before
        before = current
    if before is not None:
        yield before


def _rounded(score: float) -> float | None:
    # The last digits depend on the number of threads, and an untrained scorer may return NaN.
    return round(score, 4) if score == score else None


def _without_path(message: str, path: str | None) -> str:
    return message if path is None else message.replace(path, os.path.basename(path))


__all__ = ["Answer", "Answerer", "VideoTask"]
