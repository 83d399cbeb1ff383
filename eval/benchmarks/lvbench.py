"""
LVBench: questions of four options about videos of more than half an hour.

Fields, split ("train") and prompt as lmms-eval's task `lvbench`; the options stand in the question, a line each.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from .base import Benchmark, Question
from .multiple_choice import index_of, lettered, split_question, steering

_LETTER_ONLY = "\nAnswer the question with the option letter"


def read(rows: Iterable[Mapping[str, Any]]) -> Iterator[Question]:
    for number, row in enumerate(rows):
        text = row["question"]
        # Revisions that keep the options apart are asked in the same form.
        if row.get("options"):
            text = "\n".join([text, lettered(row["options"], "({letter}) {option}")])
        question, options = split_question(text)
        yield Question(
            id=f"{PurePosixPath(row['video_path']).stem}-{number:04d}",
            video=row["video_path"],
            prompt=text + _LETTER_ONLY,
            reference=index_of(row["answer"], options),
            question=steering(question, options),
            options=options,
        )


BENCHMARK = Benchmark(
    name="lvbench",
    title="LVBench",
    url="https://arxiv.org/abs/2406.08035",
    dataset="lmms-eval/LVBench",
    fallback="lmms-lab/LVBench",
    split="train",
    metric="multiple_choice_accuracy",
    read=read,
    fields=("video_path", "question", "answer"),
    published={
        "DynFocus-7B (paper)": 32.9,
        "LLaVA-NeXT-Video-34B (quoted by DynFocus)": 32.2,
        "LLaMA-VID-7B (quoted by DynFocus)": 23.9,
        "Tempo-6B (authors)": 52.7,
        "ViLAMP-7B (authors)": 45.2,
        "VideoChat-Flash-7B (authors)": 48.2,
        "VideoLLaMA3-7B (authors)": 45.3,
        "Qwen3-VL-8B (authors)": 58.0,
    },
    notes="A question may be of several types, so accuracy is given over all questions only.",
)


__all__ = ["BENCHMARK"]
