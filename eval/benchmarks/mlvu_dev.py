"""
MLVU-dev: seven tasks of four options on videos of 3 minutes to 2 hours, scored by the mean of the tasks' accuracies.

Fields, prompt and score as lmms-eval's task `mlvu_dev`; the options stand in the question.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .base import Benchmark, Question
from .multiple_choice import index_of, split_question, steering

_BEST_OPTION = "\nOnly give the best option.\nBest option: ("


def read(rows: Iterable[Mapping[str, Any]]) -> Iterator[Question]:
    for number, row in enumerate(rows):
        question, options = split_question(row["question"])
        yield Question(
            id=f"{row['task_type']}-{number:04d}",
            video=row["video_name"],
            prompt=row["question"] + _BEST_OPTION,
            reference=index_of(row["answer"], options),
            question=steering(question, options),
            options=options,
            groups={"task_type": row["task_type"]},
        )


BENCHMARK = Benchmark(
    name="mlvu_dev",
    title="MLVU-dev (M-Avg)",
    url="https://arxiv.org/abs/2406.04264",
    dataset="sy1998/MLVU_dev",
    split="test",
    metric="multiple_choice_accuracy",
    read=read,
    fields=("video_name", "question", "answer", "task_type"),
    main_score="macro",
    groups=("task_type",),
    published={
        "DynFocus-7B (paper)": 49.6,
        "MiniGPT4-Video (quoted by DynFocus)": 44.5,
        "LLaMA-VID-7B (quoted by DynFocus)": 33.2,
        "Tempo-6B (authors)": 75.6,
        "ViLAMP-7B (authors)": 72.6,
        "VideoChat-Flash-7B (authors)": 74.7,
        "VideoLLaMA3-7B (authors)": 73.0,
        "Qwen3-VL-8B (authors)": 78.1,
    },
    notes=(
        "The score is the mean of seven tasks, not the accuracy over all questions. The generation tasks (G-Avg) are "
        "not part of it; MLVU-Test has six options and hidden answers."
    ),
)


__all__ = ["BENCHMARK"]
