"""
LongVideoBench, validation: 1337 questions that refer to a moment of a video of up to an hour, with up to five options.

Fields, prompt and generation as lmms-eval's task `longvideobench_val_v`; fields also by the data card.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .base import Benchmark, Question
from .multiple_choice import index_of, lettered, steering

_OPTIONS = ("option0", "option1", "option2", "option3", "option4")
_PAD = "N/A"


def read(rows: Iterable[Mapping[str, Any]]) -> Iterator[Question]:
    for row in rows:
        options = tuple(row[name] for name in _OPTIONS if row[name] != _PAD)
        choices = lettered(options)
        yield Question(
            id=row["id"],
            video=f"videos/{row['video_path']}",
            prompt=(
                f"{row['question']}\n{choices}\nAnswer with the option's letter from the given choices directly.\n"
            ),
            reference=index_of(row["correct_choice"], options),
            question=steering(row["question"], options),
            options=options,
            groups={"duration_group": str(row["duration_group"]), "question_category": row["question_category"]},
        )


BENCHMARK = Benchmark(
    name="longvideobench",
    title="LongVideoBench (validation)",
    url="https://arxiv.org/abs/2407.15754",
    dataset="longvideobench/LongVideoBench",
    split="validation",
    metric="multiple_choice_accuracy",
    read=read,
    fields=("id", "video_path", "question", *_OPTIONS, "correct_choice", "duration_group", "question_category"),
    generation={"max_new_tokens": 32, "do_sample": False},
    groups=("duration_group", "question_category"),
    published={
        "Tempo-6B (authors)": 64.5,
        "ViLAMP-7B (authors)": 61.2,
        "VideoChat-Flash-7B (authors)": 64.7,
        "VideoLLaMA3-7B (authors)": 59.8,
    },
    gated=True,
    notes="Without subtitles, to which many questions refer; duration_group is the longest duration in seconds.",
)


__all__ = ["BENCHMARK"]
