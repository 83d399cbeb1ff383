"""
EgoSchema, the subset of 500 questions with public answers: five options about three minutes seen from the eyes.

Fields and prompt as lmms-eval's task `egoschema_subset`; the answer is the index of the right option, as a text.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .base import Benchmark, Question
from .multiple_choice import index_of, steering, without_letters

_LETTER_ONLY = "\nAnswer with the option's letter from the given choices directly."


def read(rows: Iterable[Mapping[str, Any]]) -> Iterator[Question]:
    for row in rows:
        options = without_letters(row["option"])
        yield Question(
            id=row["video_idx"],
            video=f"videos/{row['video_idx']}",
            prompt="\n".join([row["question"], *row["option"]]) + _LETTER_ONLY,
            reference=index_of(int(row["answer"]), options),
            question=steering(row["question"], options),
            options=options,
        )


BENCHMARK = Benchmark(
    name="egoschema",
    title="EgoSchema (subset)",
    url="https://arxiv.org/abs/2308.09126",
    dataset="lmms-eval/egoschema",
    fallback="lmms-lab/egoschema",
    config="Subset",
    split="test",
    metric="multiple_choice_accuracy",
    read=read,
    fields=("video_idx", "question", "option", "answer"),
    notes="The 500 questions with public answers; the full set of 5031 is scored by its own server only.",
)


__all__ = ["BENCHMARK"]
