"""
NExT-QA, open ended: the same kind of questions, answered in a short phrase.

Fields and prompt as lmms-eval's task `nextqa_oe_test`; the measure is not (it needs WordNet).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .base import Benchmark, Question


def read(rows: Iterable[Mapping[str, Any]]) -> Iterator[Question]:
    for row in rows:
        question = row["question"].strip()
        yield Question(
            id=f"{row['video']}-{row['qid']}",
            video=f"NExTVideo/{row['video']}",
            prompt=f"{question}\nAnswer a question using a short phrase or sentence.",
            reference=row["answer"],
            question=question,
            groups={"type": row["type"]},
        )


BENCHMARK = Benchmark(
    name="nextqa_oe",
    title="NExT-QA (open ended)",
    url="https://arxiv.org/abs/2105.08276",
    dataset="lmms-eval/NExTQA",
    fallback="lmms-lab/NExTQA",
    config="OE",
    split="test",
    metric="video_qa_accuracy",
    read=read,
    fields=("video", "question", "qid", "type", "answer"),
    generation={"max_new_tokens": 32, "do_sample": False},
    groups=("type",),
    notes="Scored by equality of the normalised answers: lower than, and not comparable with, the usual WUPS.",
)


__all__ = ["BENCHMARK"]
