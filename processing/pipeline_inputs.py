"""The inputs of the pipeline, converted from all supported forms into rows, each a dict."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import Dataset

from .reading.chat_video import VIDEO_SETTINGS
from .reading.decoded_frames import is_video
from .rows.blocks import is_empty, is_message
from .video_qa import ROW_KEYS


class RowsOf(Dataset):
    """A data set's rows in the form of the pipeline, converted on access."""

    def __init__(self, rows: Any, question: Any):
        self.rows = rows
        self.question = question

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return as_row_of_table(self.rows[index], self.question, index)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))


def is_chat(value: Any) -> bool:
    """Whether `value` is a conversation: a non-empty list of messages, or an object that holds one as `messages`."""
    value = getattr(value, "messages", value)
    return isinstance(value, (list, tuple)) and bool(value) and all(map(is_message, value))


def _is_row(value: Any) -> bool:
    return isinstance(value, Mapping) and bool({"video", "videos", "question", "messages"} & value.keys())


def is_one_video(value: Any) -> bool:
    return not _is_row(value) and is_video(value)


def as_row(value: Any, question: Any, number: int | None = None) -> dict[str, Any]:
    """Converts any input that the pipeline accepts for one answer into a dict."""
    if _is_row(value):
        row = dict(value)
        if question is not None and row.get("question") is None:
            row["question"] = question
    elif is_chat(value):
        row = {"messages": value, "question": question}
    else:
        row = {"video": value, "question": question}
    return row if number is None else {**row, "row_number": number}


def as_row_of_table(value: Any, question: Any, number: int) -> dict[str, Any]:
    """A row of a data set: its columns of other names describe it, and empty cells are none."""
    row = as_row(value, question, number)
    if not _is_row(value):
        return row
    settings = {name for name in VIDEO_SETTINGS if is_empty(row.get(name))}
    return {name: cell for name, cell in row.items() if name in ROW_KEYS and name not in settings}


__all__ = ["RowsOf", "as_row", "as_row_of_table", "is_chat", "is_one_video"]
