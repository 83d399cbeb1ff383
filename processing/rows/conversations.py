"""Rows of a data set, in the forms that are in use, as conversations."""

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..reading.decoded_frames import describe_video, is_state, is_video
from ..reading.images import FrameFiles, read_image

# The roles of LLaVA's `conversations`, and the names that other sets in this form use for them.
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_MEDIA_COLUMNS = {"video": "video", "videos": "video", "image": "image", "images": "image"}
# Where a block of a conversation may have its video or image.
_VALUE_KEYS = ("video", "image", "url", "path", "base64", "image_url", "video_url")
_MARK = re.compile(r"(<image>|<video>)")
_ELSEWHERE = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+://|data:)")


def as_messages(row: Mapping[str, Any], media_root: str | os.PathLike | None = None) -> list[dict[str, Any]]:
    """
    A row as a conversation in chat form. Nothing is opened but images that are given as bytes.

    Empty cells (`None`, NaN, `""`, empty lists) count as missing, and numbers as texts.

    Args:
        row: one of
            `{"messages": [{"role", "content"}, …]}`, contents being strings or lists of blocks (`text`, `video`,
            `image`); videos and images may stand beside the messages, as `video`, `videos`, `image` or `images`, and
            then fill the blocks without a value in order, or (contents being strings) are placed as in the next form;
            `{"conversations": [{"from", "value"}, …], "video" or "image": …}`, LLaVA's form, with a mark (`<image>` or
            `<video>`) for each of the media in the human's texts, or with none at all;
            `{"video" or "image": …, "question": …, "answer": …}`.
        media_root: the folder to which relative paths belong.

    Returns:
        Messages whose contents are strings or lists of `{"type": "text", "text"}`, `{"type": "video", "video"}` and
        `{"type": "image", "image"}`.

    Raises:
        `ValueError`: for a row of another form, and where the marks differ in number from the media.
    """
    row = {column: _listed(cell) for column, cell in row.items()}
    media = [_block(kind, value, media_root) for kind, value in _media_beside(row)]
    messages: Any = row.get("messages")
    turns: Any = row.get("conversations")
    if _is_empty(messages) and not _is_empty(turns) and "role" in turns[0]:
        messages = turns
    if not _is_empty(messages):
        return _from_chat(messages, media, media_root)
    if not _is_empty(turns):
        return _from_llava(turns, media)
    if row.get("question") is None:
        raise ValueError(
            f"A row needs `messages`, `conversations`, or `video` and `question`; got the keys {sorted(row)}."
        )
    if _is_empty(row["question"]):
        raise ValueError("The question is empty: ask something about the video.")
    messages = [{"role": "user", "content": [*media, {"type": "text", "text": _text(row["question"])}]}]
    if not _is_empty(row.get("answer")):
        messages.append({"role": "assistant", "content": [{"type": "text", "text": _text(row["answer"])}]})
    return messages


def media_of(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """The media of a conversation in order, as (`"video"` or `"image"`, value)."""
    blocks = [block for message in messages if isinstance(message["content"], list) for block in message["content"]]
    return [(b["type"], b[b["type"]]) for b in blocks if b["type"] != "text" and b["type"] in b]


def load_media(kind: str, value: Any) -> list[Any]:
    """
    One video as the processor takes it, in a list of its own: an image is a video of one frame.

    Raises:
        `FileNotFoundError`, `ValueError`: an image that cannot be read, by its path.
    """
    if kind == "video" or not isinstance(value, str):
        return [value]
    return [read_image(value)]


def without_media(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The conversation with empty video blocks in place of its media: all that a chat template asks for."""

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
    """What finds a row among many: its `id`, and its videos and images, but for those that `message` names."""
    try:
        media = [describe_video(value) for _, value in media_of(as_messages(row))]
    except ValueError:
        media = []
    names = [] if _is_empty(row.get("id")) else [f"id {row['id']!r}"]
    return ", ".join(names + [name for name in media if name.strip("'") not in message])


def _is_empty(cell: Any) -> bool:
    """Whether a cell of a table says nothing: `None`, NaN, blank text, or an empty list."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return True
    if isinstance(cell, float):
        return cell != cell
    return isinstance(cell, (list, tuple)) and not cell


def _listed(cell: Any) -> Any:
    # Tables of pandas keep lists as arrays of objects.
    return cell.tolist() if isinstance(cell, np.ndarray) and cell.dtype == object else cell


def _text(cell: Any) -> str:
    if _is_empty(cell):
        return cell if isinstance(cell, str) else ""
    # Whole numbers become floats in a column that has an empty cell.
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _media_beside(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for column, kind in _MEDIA_COLUMNS.items():
        cell: Any = row.get(column)
        if _is_empty(cell):
            continue
        several = isinstance(cell, (list, tuple)) and not (is_video(cell) and column == "video")
        for value in cell if several else [cell]:
            if not _is_empty(value):
                yield kind, value
        if is_state(cell):
            # A state may hold several videos: a mark for each, the state itself once.
            yield from [(kind, None)] * (len(cell) - 1)


def _block(kind: str, value: Any, media_root: str | os.PathLike | None) -> dict[str, Any]:
    if value is None:
        return {"type": kind}
    if isinstance(value, Mapping) and ("path" in value or "bytes" in value):
        data, path = value.get("bytes"), value.get("path")
        if data is None and path is None:
            raise ValueError(f"A {kind} given as a dict needs `path` or `bytes`, got the keys {sorted(value)}.")
        value = path if data is None else data
    elif isinstance(value, Mapping) and "url" in value:
        value = value["url"]
    if isinstance(value, (str, os.PathLike)):
        value = _at_root(os.fspath(value), media_root)
    elif kind == "video" and isinstance(value, (list, tuple)) and value:
        # One block is one video: a list in it is of its frames.
        if all(isinstance(frame, (str, os.PathLike)) for frame in value):
            value = FrameFiles([_at_root(os.fspath(frame), media_root) for frame in value])
    elif kind == "image" and isinstance(value, (bytes, bytearray, memoryview)):
        try:
            value = Image.open(io.BytesIO(value))
            # In place, the pixels are decoded only where they must be turned.
            ImageOps.exif_transpose(value, in_place=True)
        except OSError as error:
            raise ValueError(f"{len(value)} bytes given as an image cannot be read: {error}.") from None
    return {"type": kind, kind: value}


def _at_root(path: str, media_root: str | os.PathLike | None) -> str:
    return path if media_root is None or _ELSEWHERE.match(path) else os.path.join(media_root, path)


def _from_chat(messages: Any, media: list[dict[str, Any]], root: str | os.PathLike | None) -> list[dict[str, Any]]:
    found = []
    for number, message in enumerate(messages):
        if "role" not in message or "content" not in message:
            raise ValueError(f"Message {number} needs `role` and `content`, got the keys {sorted(message)}.")
        content = _listed(message["content"])
        kept = {key: value for key, value in message.items() if value is not None}
        blocks = isinstance(content, (list, tuple))
        found.append({**kept, "content": [_cleaned(b, root) for b in content] if blocks else _text(content)})
    if media and all(isinstance(message["content"], str) for message in found):
        return _placed(found, media)
    if media:
        _fill_in(found, media)
    return found


def _cleaned(block: Any, root: str | os.PathLike | None) -> dict[str, Any]:
    """A block of a message without the keys that Arrow tables fill with `None`."""
    if isinstance(block, str):
        return {"type": "text", "text": block}
    kind = {"image_url": "image", "video_url": "video"}.get(block.get("type"), block.get("type"))
    if kind == "text":
        return {"type": "text", "text": _text(block.get("text"))}
    if kind not in ("video", "image"):
        raise ValueError(f"A block of a message must have the type 'text', 'video' or 'image', got {kind!r}.")
    keys = (kind, *_VALUE_KEYS)
    return _block(kind, next((block[key] for key in keys if not _is_empty(block.get(key))), None), root)


def _fill_in(messages: list[dict[str, Any]], media: list[dict[str, Any]]) -> None:
    """Media that stand beside the messages take the places of blocks without a value."""
    places = [
        (message["content"], index)
        for message in messages
        if isinstance(message["content"], list)
        for index, block in enumerate(message["content"])
        if block.keys() == {"type"}
    ]
    if not places and not media_of(messages):
        _put_before_first_user(messages, media)
        return
    if len(places) != len(media):
        raise ValueError(
            f"The messages have {len(places)} video or image blocks without a value, but {len(media)} videos and "
            "images stand beside them: there must be one block for each."
        )
    for (content, index), block in zip(places, _in_order_of([c[i]["type"] for c, i in places], media), strict=True):
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
        messages.append({"role": role, "content": _text(turn["value"])})
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
    """Blocks of a text that was split at its marks, which stand at the odd places."""
    blocks = []
    for index, piece in enumerate(pieces):
        if index % 2:
            blocks.append({"type": piece[1:-1]})
            continue
        after_mark, before_mark = index > 0, index + 1 < len(pieces)
        # A mark at the begin or the end goes with its newline: the chat template writes its own.
        if after_mark and not "".join(pieces[:index:2]).strip():
            piece = piece.removeprefix("\n")
        if before_mark and not "".join(pieces[index + 2 :: 2]).strip():
            piece = piece.removesuffix("\n")
        if piece:
            blocks.append({"type": "text", "text": piece})
    return blocks


def _in_order_of(kinds: list[str], media: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The media for places of these kinds: by kind where these agree, else (videos marked as images) in order."""
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


__all__ = ["as_messages", "load_media", "media_of", "row_label", "text_of", "without_media"]
