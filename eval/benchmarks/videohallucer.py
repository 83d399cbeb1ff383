"""
VideoHallucer: a question about what a video shows, and one about what it does not; both must be answered right.

Fields, folders and prompt as in its authors' repository (`evaluations/`); lmms-eval has no such task.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .base import Benchmark, Question

_CATEGORIES = ("object_relation", "temporal", "semantic_detail", "external_factual", "external_nonfactual")
_HALVES = ("basic", "hallucination")
_HALF_FIELDS = ("video", "question", "answer")


def read(rows: Iterable[Mapping[str, Any]]) -> Iterator[Question]:
    counts: dict[str, int] = {}
    for row in rows:
        category = row["_config"]
        counts[category] = counts.get(category, -1) + 1
        pair = f"{category}-{counts[category]:03d}"
        for half in _HALVES:
            asked = row[half]
            missing = [f"{half}.{name}" for name in _HALF_FIELDS if name not in asked]
            if missing:
                raise ValueError(f"{BENCHMARK.dataset} has changed: {pair} lacks the fields {', '.join(missing)}.")
            yield Question(
                id=f"{pair}-{half}",
                video=f"{category}/videos/{asked['video']}",
                prompt=f"{asked['question']}\nAnswer the question using 'yes' or 'no'.",
                reference=asked["answer"].strip().lower(),
                question=asked["question"],
                groups={"category": category},
                pair=pair,
                half=half,
            )


BENCHMARK = Benchmark(
    name="videohallucer",
    title="VideoHallucer",
    url="https://arxiv.org/abs/2406.16338",
    dataset="bigai-nlco/VideoHallucer",
    fallback="ColorfulAI/VideoHallucer",
    configs=_CATEGORIES,
    data_files="{config}/{config}.json",
    split="train",
    metric="paired_hallucination_accuracy",
    read=read,
    fields=_HALVES,
    main_score="macro",
    groups=("category",),
    notes=(
        "The score is the mean of the five categories' shares of pairs, as the authors quote it. They count an "
        "answer as right if the expected word is anywhere in it; here it must be the answer."
    ),
)


__all__ = ["BENCHMARK"]
