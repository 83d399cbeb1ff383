"""
NExT-QA, multiple choice: why, how and when things happen in short videos, with five options.

Fields and prompt (no instruction after the options) as lmms-eval's task `nextqa_mc_test`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .base import Benchmark, Question
from .multiple_choice import index_of, lettered, steering

_OPTIONS = ("a0", "a1", "a2", "a3", "a4")


def read(rows: Iterable[Mapping[str, Any]]) -> Iterator[Question]:
    for row in rows:
        question, options = row["question"].strip(), tuple(row[name].strip() for name in _OPTIONS)
        yield Question(
            id=f"{row['video']}-{row['qid']}",
            video=f"NExTVideo/{row['video']}",
            prompt=f"{question}\n{lettered(options)}",
            reference=index_of(int(row["answer"]), options),
            question=steering(question, options),
            options=options,
            groups={"type": row["type"]},
        )


BENCHMARK = Benchmark(
    name="nextqa",
    title="NExT-QA (multiple choice)",
    url="https://arxiv.org/abs/2105.08276",
    dataset="lmms-eval/NExTQA",
    fallback="lmms-lab/NExTQA",
    config="MC",
    split="test",
    metric="multiple_choice_accuracy",
    read=read,
    fields=("video", "question", "qid", "type", "answer", *_OPTIONS),
    groups=("type",),
    notes="As in lmms-eval, the prompt does not ask for the letter. If there is none, lmms-eval guesses; here the "
    "answer is unparsable.",
)


__all__ = ["BENCHMARK"]
