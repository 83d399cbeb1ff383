"""Converts rows of data sets in the usual forms into conversations."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..reading.chat_video import VIDEO_SETTINGS, ChatVideo
from ..reading.decoded_frames import describe_video, is_source, is_state, is_video
from ..reading.images import read_image
from .blocks import as_mapping, as_text, clean_message, is_empty, listed, settings_of, with_value

# The roles of LLaVA's `conversations`, and their names in other sets of this form.
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
#: Columns of a row, and what they hold.
MEDIA_COLUMNS = {"video": "video", "videos": "video", "image": "image", "images": "image"}
# Columns with the start and the end of a row's video, in seconds.
_WINDOW = ("video_start", "video_end")
_MARK = re.compile(r"(<image>|<video>)")


def as_messages(
    row: Mapping[str, Any], media_root: str | os.PathLike | None = None, *, has_settings: bool = False
) -> list[dict[str, Any]]:
    """
    A row as a conversation in chat form. No file is opened.

    Empty cells (`None`, NaN, `""`, empty lists) count as missing, and numbers as texts, except in the question.
    Messages and blocks may be objects (dataclasses, models of pydantic).

    Args:
        row: one of
            `{"messages": [{"role", "content"}, …]}`, contents being strings or lists of blocks (`text`, `video`,
            `image`); videos and images may be given beside the messages, as `video`, `videos`, `image` or `images`,
            and then fill the blocks without a value in order, or (if contents are strings) are placed as in the next
            form;
            `{"conversations": [{"from", "value"}, …], "video" or "image": …}`, LLaVA's form, with a mark (`<image>` or
            `<video>`) for each of the media in the human's texts, or with none at all;
            `{"video" or "image": …, "question": …, "answer": …}`.
            A video block may hold settings of the sampling (`fps`, `num_frames` or `nframes`, `max_frames`,
            `min_frames`, `video_start`, `video_end`); a row with one video may have `video_start` and `video_end`.
        media_root: the folder of relative paths.
        has_settings: whether `fps` and the other settings of a video may stand in the row, too. In data sets, columns
            of these names describe the files.

    Returns:
        Messages whose contents are strings or lists of `{"type": "text", "text"}`, `{"type": "video", "video"}` and
        `{"type": "image", "image"}`. A video with its own settings is a [`ChatVideo`].

    Raises:
        `ValueError`: for a row of another form, a key of a block that is not known, and where the marks differ in
            number from the media.
    """
    row = {column: listed(cell) for column, cell in row.items()}
    media = _media_of_row(row, media_root, has_settings)
    messages: Any = getattr(row.get("messages"), "messages", row.get("messages"))
    turns: Any = row.get("conversations")
    if is_empty(messages) and not is_empty(turns) and "role" in as_mapping(turns[0]):
        messages = turns
    if not is_empty(messages):
        return _from_chat(messages, media, media_root)
    if not is_empty(turns):
        return _from_llava(turns, media)
    if row.get("question") is None:
        raise ValueError(
            f"A row needs `messages`, `conversations`, or `video` and `question`; got the keys {sorted(row)}."
        )
    question = checked_question(row["question"])
    messages = [{"role": "user", "content": [*media, {"type": "text", "text": question}]}]
    if not is_empty(row.get("answer")):
        messages.append({"role": "assistant", "content": [{"type": "text", "text": as_text(row["answer"])}]})
    return messages


def media_of(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """The media of a conversation in order, as (`"video"` or `"image"`, value)."""
    blocks = [block for message in messages if isinstance(message["content"], list) for block in message["content"]]
    return [(b["type"], b[b["type"]]) for b in blocks if b["type"] != "text" and b["type"] in b]


def load_media(kind: str, value: Any) -> list[Any]:
    """
    One video in the processor's form, as a list of one. An image is a video of one frame.

    Raises:
        `FileNotFoundError`, `ValueError`: for an image that cannot be read; the message names its path.
    """
    return [read_image(value)] if kind == "image" and is_source(value) else [value]


def without_media(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The conversation with empty video blocks instead of its media, which is enough for a chat template."""

    def bare(block: dict[str, Any]) -> dict[str, Any]:
        return block if block["type"] == "text" else {"type": "video"}

    return [
        {**message, "content": [bare(block) for block in message["content"]]}
        if isinstance(message["content"], list)
        else dict(message)
        for message in messages
    ]


def text_of(message: Mapping[str, Any]) -> str:
    """The words of a turn."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return " ".join(block["text"] for block in content if block["type"] == "text")


def row_label(row: Mapping[str, Any], message: str = "") -> str:
    """A label by which a row can be found: its `id`, and its videos and images, except those that `message` names."""
    try:
        media = [describe_video(value) for _, value in media_of(as_messages(row))]
    except ValueError:
        media = []
    names = [] if is_empty(row.get("id")) else [f"id {row['id']!r}"]
    return ", ".join(names + [name for name in media if name.strip("'") not in message])


def checked_question(question: Any) -> str:
    """
    Raises:
        `ValueError`: a question that is empty, no string, or too long for any model.
    """
    if is_empty(question):
        raise ValueError("The question is empty: ask something about the video.")
    if not isinstance(question, str):
        raise ValueError(f"A question must be a string, got {type(question).__name__}.")
    return as_text(question)


def _media_of_row(row: Mapping[str, Any], root: str | os.PathLike | None, has_settings: bool) -> list[dict[str, Any]]:
    """Blocks of the media in the columns of a row."""
    media = list(_media_beside(row))
    if has_settings:
        window = {name: row[name] for name in VIDEO_SETTINGS if row.get(name) is not None}
    else:
        window = {name: row[name] for name in _WINDOW if not is_empty(row.get(name))}
    num_videos = sum(kind == "video" for kind, _ in media)
    if window and num_videos != 1:
        raise ValueError(
            f"`{next(iter(window))}` in a row is for its one video, and this row has {num_videos} beside its "
            "messages: give it in the video's block of a message."
        )
    for name, cell in window.items():
        if name not in _WINDOW:
            continue
        try:
            window[name] = float(cell)  # tables of text
        except (TypeError, ValueError):
            raise ValueError(f"The column `{name}` holds seconds, got {cell!r}.") from None
    blocks = []
    for kind, value in media:
        own = window if kind == "video" else {}
        blocks.append({"type": kind} if value is None else with_value({"type": kind, **own}, value, root))
    return blocks


def _media_beside(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for column, kind in MEDIA_COLUMNS.items():
        cell: Any = row.get(column)
        if is_empty(cell):
            continue
        several = isinstance(cell, (list, tuple)) and not (is_video(cell) and column == "video")
        for value in cell if several else [cell]:
            if not is_empty(value):
                yield kind, value
        if is_state(cell):
            # A state may hold several videos: one mark for each, and the state once.
            yield from [(kind, None)] * (len(cell) - 1)


def _from_chat(messages: Any, media: list[dict[str, Any]], root: str | os.PathLike | None) -> list[dict[str, Any]]:
    found = [clean_message(number, message, root) for number, message in enumerate(messages)]
    if media and all(isinstance(message["content"], str) for message in found):
        return _placed(found, media)
    if media:
        _fill_in(found, media)
    return found


def _fill_in(messages: list[dict[str, Any]], media: list[dict[str, Any]]) -> None:
    """Puts media given beside the messages into the blocks without a value."""
    places = [
        (message["content"], index)
        for message in messages
        if isinstance(message["content"], list)
        for index, block in enumerate(message["content"])
        if block["type"] != "text" and block["type"] not in block
    ]
    if not places and not media_of(messages):
        _put_before_first_user(messages, media)
        return
    if len(places) != len(media):
        raise ValueError(
            f"The messages have {len(places)} video or image blocks without a value, but {len(media)} videos and "
            "images are given beside them: there must be one block for each."
        )
    counts: dict[str, int] = {}
    for (content, index), block in zip(places, _in_order_of([c[i]["type"] for c, i in places], media), strict=True):
        place = content[index]
        number = counts.setdefault(place["type"], 0)
        counts[place["type"]] += 1
        if place.get("index", number) != number:
            raise ValueError(
                f"`index` is {place['index']} in the block of the {place['type']} number {number}: list what stands "
                "beside the messages in the order of its blocks."
            )
        if own := settings_of(place):
            value = block.get("video")
            if value is None or isinstance(value, ChatVideo):
                raise ValueError(f"`{next(iter(own))}` of a video block is not for what stands beside the messages.")
            block = with_value(place, value)
        content[index] = block


def _from_llava(turns: Any, media: list[dict[str, Any]]) -> list[dict[str, Any]]:
    messages = []
    for number, turn in enumerate(turns):
        role = _ROLES.get(str(turn.get("from")).lower())
        if role is None or "value" not in turn:
            raise ValueError(
                f"Turn {number} needs `from`, one of {', '.join(map(repr, _ROLES))}, and `value`; got "
                f"{turn.get('from')!r} and the keys {sorted(turn)}."
            )
        messages.append({"role": role, "content": as_text(turn["value"])})
    return _placed(messages, media)


def _placed(messages: list[dict[str, Any]], media: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The media at their marks in the user's texts, or before the first of these."""
    marks: list[str] = []
    for message in messages:
        text = message["content"]
        pieces = _MARK.split(text) if message["role"] == "user" else [text]
        marks += [piece[1:-1] for piece in pieces[1::2]]
        message["content"] = _content(pieces)
    if not marks:
        _put_before_first_user(messages, media)
        return messages
    if len(marks) != len(media):
        raise ValueError(
            f"The texts have {len(marks)} marks (`<image>` or `<video>`), but the row has {len(media)} videos and "
            "images: there must be one mark for each, or none at all."
        )
    ordered = iter(_in_order_of(marks, media))
    for message in messages:
        message["content"] = [b if b["type"] == "text" else next(ordered) for b in message["content"]]
    return messages


def _content(pieces: list[str]) -> list[dict[str, Any]]:
    """Blocks of a text that was split at its marks; marks are the odd items."""
    blocks = []
    for index, piece in enumerate(pieces):
        if index % 2:
            blocks.append({"type": piece[1:-1]})
            continue
        after_mark, before_mark = index > 0, index + 1 < len(pieces)
        # A mark at the beginning or the end is removed with its newline: the chat template writes its own.
        if after_mark and not "".join(pieces[:index:2]).strip():
            piece = piece.removeprefix("\n")
        if before_mark and not "".join(pieces[index + 2 :: 2]).strip():
            piece = piece.removesuffix("\n")
        if piece:
            blocks.append({"type": "text", "text": piece})
    return blocks


def _in_order_of(kinds: list[str], media: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    The media for places of these kinds: by kind if the numbers agree, otherwise (videos marked as images) in order.
    """
    if sorted(kinds) != sorted(block["type"] for block in media):
        return media
    groups = {kind: iter([block for block in media if block["type"] == kind]) for kind in ("video", "image")}
    return [next(groups[kind]) for kind in kinds]


def _put_before_first_user(messages: list[dict[str, Any]], media: list[dict[str, Any]]) -> None:
    if not media:
        return
    for message in messages:
        if message["role"] == "user":
            content = message["content"]
            text = [{"type": "text", "text": content}] if isinstance(content, str) else content
            message["content"] = [*media, *text]
            return
    raise ValueError("The conversation has videos or images, but no user turn that could be about them.")


__all__ = [
    "MEDIA_COLUMNS",
    "as_messages",
    "checked_question",
    "load_media",
    "media_of",
    "row_label",
    "text_of",
    "without_media",
]
