"""Rows of MSVD-QA and MSRVTT-QA, in their two common forms."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from .base import Question

_PLACEHOLDERS = ("<video>", "<image>")
_QUESTION_WORDS = ("what", "who", "how", "when", "where")


def read(rows: Iterable[Mapping[str, Any]], number_prefix: str) -> Iterator[Question]:
    """
    Questions of rows as on the Hub (`video`, and LLaVA's `conversations`: question, answer), or as the data set's
    authors gave them (`video_id`, `question`, `answer`), whose videos are numbers: files have `number_prefix`.

    Raises:
        `ValueError`: a row has neither form.
    """
    for number, row in enumerate(rows):
        question, answer = _question_and_answer(row)
        word = (question.lower().split() or [""])[0]
        yield Question(
            id=f"{number:05d}",
            video=_video_of(row, number_prefix),
            prompt=question,
            reference=answer,
            groups={"question_word": word if word in _QUESTION_WORDS else "other"},
        )


def _question_and_answer(row: Mapping[str, Any]) -> tuple[str, str]:
    if row.get("conversations"):
        question, answer = (turn["value"] for turn in row["conversations"][:2])
        for placeholder in _PLACEHOLDERS:
            question = question.replace(placeholder, "")
        return question.strip(), str(answer).strip()
    missing = [name for name in ("question", "answer") if name not in row]
    if missing:
        raise ValueError(
            f"The data set has changed: its rows need the field conversations, or {', '.join(missing)}, and there are "
            f"{', '.join(row)}; name a --dataset-revision that has them."
        )
    return str(row["question"]).strip(), str(row["answer"]).strip()


def _video_of(row: Mapping[str, Any], number_prefix: str) -> str:
    if row.get("video"):
        # The folder is that of its authors' frames.
        return PurePosixPath(str(row["video"])).name
    if "video_id" not in row:
        raise ValueError(
            f"The data set has changed: its rows need the field video, or video_id, and there are {', '.join(row)}; "
            "name a --dataset-revision that has them."
        )
    name = str(row["video_id"])
    return f"{number_prefix}{name}" if name.isdecimal() else name


__all__ = ["read"]
