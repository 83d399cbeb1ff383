"""
ActivityNet-QA: 8000 open questions about videos of everyday activities, judged by a language model.

Fields, prompt and generation as lmms-eval's task `activitynetqa`; fields also by the data card.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .base import Benchmark, Question

_TYPES = {
    "0": "motion",
    "1": "spatial relation",
    "2": "temporal relation",
    "3": "yes or no",
    "4": "color",
    "5": "object",
    "6": "location",
    "7": "number",
    "8": "other",
}


def read(rows: Iterable[Mapping[str, Any]]) -> Iterator[Question]:
    for row in rows:
        question = row["question"].capitalize() + "?"
        yield Question(
            id=row["question_id"],
            video=f"v_{row['video_name']}",
            prompt=f"{question} Answer the question using a single word or phrase.",
            reference=row["answer"],
            question=question,
            groups={"type": _TYPES.get(str(row["type"]), str(row["type"]))},
        )


BENCHMARK = Benchmark(
    name="activitynet_qa",
    title="ActivityNet-QA",
    url="https://arxiv.org/abs/1906.02467",
    dataset="lmms-eval/ActivityNetQA",
    fallback="lmms-lab/ActivityNetQA",
    split="test",
    metric="judged_video_qa",
    read=read,
    fields=("video_name", "question_id", "question", "answer", "type"),
    generation={"max_new_tokens": 64, "do_sample": False},
    groups=("type",),
    published={
        "DynFocus-7B (paper)": 50.3,
        "ST-LLM (quoted by DynFocus)": 50.9,
        "LLaMA-VID-7B (quoted by DynFocus)": 47.4,
    },
    notes="Numbers of different judges do not compare; the published ones used versions of GPT-3.5 that are gone.",
)


__all__ = ["BENCHMARK"]
