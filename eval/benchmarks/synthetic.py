"""
The synthetic world of colored shapes: a folder made by `dynfocus synth`, without a download and with known answers.

The rows are those of `questions.jsonl`; `--videos` is the folder that holds it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..synthetic.builder import QUESTIONS_FILE
from .base import Benchmark, Question


def read(rows: Iterable[Mapping[str, Any]]) -> Iterator[Question]:
    for number, row in enumerate(rows):
        yield Question(
            id=f"{number:06d}",
            video=row["video"],
            prompt=row["question"],
            reference=row["answer"],
            groups={"kind": row["kind"]},
        )


BENCHMARK = Benchmark(
    name="synthetic",
    title="Synthetic events",
    url="",
    dataset="synthetic",
    split="test",
    metric="video_qa_accuracy",
    read=read,
    fields=("video", "question", "answer", "kind"),
    data_files=QUESTIONS_FILE,
    local=True,
    groups=("kind",),
    notes="Made by `dynfocus synth`: numbers compare only on sets of the same seed, split and size.",
)


__all__ = ["BENCHMARK"]
