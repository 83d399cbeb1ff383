"""
Video-MME: 2700 questions of four options about 900 videos, a third each short, medium and long.

Fields, prompts and the letter as lmms-eval's tasks `videomme` and `videomme_w_subtitle`; fields also by the data card.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .base import SUBTITLES_MARK, Benchmark, Question
from .multiple_choice import index_of, steering, without_letters

_TASK = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
_LETTER_ONLY = "\nAnswer with the option's letter from the given choices directly."
_WITH_SUBTITLES = f"This video's subtitles are listed below: \n{SUBTITLES_MARK}\n"


def read(rows: Iterable[Mapping[str, Any]], subtitles: bool = False) -> Iterator[Question]:
    for row in rows:
        options = without_letters(row["options"])
        asked = "\n".join([_TASK, row["question"], *row["options"]])
        yield Question(
            id=row["question_id"],
            video=f"data/{row['videoID']}",
            prompt=f"{_WITH_SUBTITLES}{asked}\nThe best answer is:" if subtitles else f"{asked}\n{_LETTER_ONLY}",
            reference=index_of(row["answer"], options),
            question=steering(row["question"], options),
            options=options,
            groups={"duration": row["duration"], "domain": row["domain"], "task_type": row["task_type"]},
            subtitles=f"subtitle/{row['videoID']}.srt" if subtitles else None,
        )


BENCHMARK = Benchmark(
    name="video_mme",
    title="Video-MME",
    url="https://arxiv.org/abs/2405.21075",
    dataset="lmms-eval/Video-MME",
    fallback="lmms-lab/Video-MME",
    config="videomme",
    split="test",
    metric="multiple_choice_accuracy",
    read=read,
    fields=("question_id", "videoID", "duration", "domain", "task_type", "question", "options", "answer"),
    groups=("duration", "domain", "task_type"),
    published={
        "DynFocus-7B (paper, no subtitles)": 44.1,
        "ST-LLM (quoted by DynFocus, no subtitles)": 37.9,
        "Tempo-6B (authors, no subtitles)": 67.8,
        "ViLAMP-7B (authors, no subtitles)": 67.5,
        "VideoChat-Flash-7B (authors, no subtitles)": 65.3,
        "VideoLLaMA3-7B (authors, no subtitles)": 66.2,
        "Qwen3-VL-8B (authors, no subtitles)": 71.4,
    },
    notes=(
        "As in lmms-eval, the prompt mentions subtitles even if none are given. Subtitles are those shown at the "
        "sampled frames, in time order and without tags (lmms-eval: at 32 frames of its own, in no order)."
    ),
    options={"subtitles": False},
)


__all__ = ["BENCHMARK"]
