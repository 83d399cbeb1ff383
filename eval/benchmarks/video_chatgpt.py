"""
Video-ChatGPT's benchmark of generated text: five scores from 0 to 5, given by a language model.

Fields, prompt (the question alone) and generation as lmms-eval's tasks `videochatgpt_*`; fields also by the data card.
Answers to "Generic" are judged three times, those to "Temporal" once, and the two of a pair in "Consistency" together.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .base import Benchmark, Question

#: The judge's prompts for the answers of each configuration of the data set.
ASPECTS: Mapping[str, tuple[str, ...]] = {
    "Generic": ("correctness", "detail", "context"),
    "Temporal": ("temporal",),
    "Consistency": ("consistency",),
}
_ABSENT = (None, "", "None")


def read(rows: Iterable[Mapping[str, Any]]) -> Iterator[Question]:
    # Rows of one configuration and video, by first and second questions: the n-th of each are a pair.
    seen: dict[tuple[str, str, str], int] = {}
    for row in rows:
        config, video = row["_config"], row["video_name"]
        if config == "Consistency":
            _require(row, "question_1", "question_2")
            half = "second" if row["question_1"] in _ABSENT else "first"
            question = row["question_2"] if half == "second" else row["question_1"]
        else:
            _require(row, "question")
            half, question = "", row["question"]
        number = seen[config, video, half] = seen.get((config, video, half), -1) + 1
        name = f"{config}-{video}-{number}"
        yield Question(
            id=f"{name}-{half}" if half else name,
            video=f"Test_Videos/{video}",
            prompt=question,
            reference=row["answer"],
            groups={"set": config},
            aspects=ASPECTS[config],
            pair=name if half else None,
            half=half or None,
        )


def _require(row: Mapping[str, Any], *names: str) -> None:
    missing = [name for name in names if name not in row]
    if missing:
        raise ValueError(
            f"{BENCHMARK.dataset} has changed: {row['_config']} needs the fields {', '.join(missing)}, and there are "
            f"{', '.join(row)}; name a --dataset-revision that has them."
        )


BENCHMARK = Benchmark(
    name="video_chatgpt",
    title="Video-ChatGPT",
    url="https://arxiv.org/abs/2306.05424",
    dataset="lmms-eval/VideoChatGPT",
    fallback="lmms-lab/VideoChatGPT",
    configs=tuple(ASPECTS),
    split="test",
    metric="judged_video_qa",
    read=read,
    fields=("video_name", "answer"),
    generation={"max_new_tokens": 1024, "do_sample": False},
    main_score="score",
    groups=("set",),
    notes="Scores of different judges do not compare.",
)


__all__ = ["ASPECTS", "BENCHMARK"]
