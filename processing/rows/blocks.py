"""Messages and the blocks in them, in any form that is in use, as plain dicts with one kind of block."""

import dataclasses
import math
import numbers
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..reading.chat_video import VIDEO_SETTINGS, ChatVideo
from ..reading.decoded_frames import describe_video, is_state
from ..reading.downloads import public_name
from ..reading.images import FrameFiles, file_of

_KINDS = {"text": "text", "video": "video", "image": "image", "video_url": "video", "image_url": "image"}
_A = {"text": "a text", "video": "a video", "image": "an image"}
#: Of a text; a million tokens of English are as long. A longer one would take minutes to be tokenized and refused.
MOST_CHARACTERS = 1 << 22
_ROLES = ("system", "user", "assistant")
#: Roles and keys of messages that only some chat templates read.
ROLES_OF_TEMPLATES = ("developer", "tool")
KEYS_OF_TEMPLATES = ("name", "reasoning_content", "reasoning", "thinking", "tool_calls", "tool_call_id")
# Where a block may have its video or image, besides under its own kind.
_VALUE_KEYS = ("url", "path", "base64")
# What other packages read there, and what decides it here.
_SIZES = ("min_pixels", "max_pixels", "total_pixels", "resized_height", "resized_width")
_RATES_OF_FRAMES = ("sample_fps", "raw_fps")
_ELSEWHERE = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+://|data:)")


def as_mapping(value: Any) -> Mapping[str, Any]:
    """
    A message or a block as a mapping: dicts, dataclasses and models of pydantic.

    Raises:
        `ValueError`: for anything else.
    """
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # One level only: videos and images stay what they are.
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if callable(getattr(value, "model_dump", None)):
        return dict(value)
    raise ValueError(f"A message must be a dict, a dataclass or a pydantic model, got {type(value).__name__}.")


def is_message(value: Any) -> bool:
    """Whether `value` is a message in one of these forms."""
    try:
        return {"role", "content"} <= as_mapping(value).keys()
    except ValueError:
        return False


def clean_message(number: int, message: Any, media_root: str | os.PathLike | None = None) -> dict[str, Any]:
    """
    Message `number` of a chat, its content a string or a list of blocks as [`clean_block`] makes them.

    Raises:
        `ValueError`: no `role` or `content`, an unknown role or key, or a block that cannot be read.
    """
    message = as_mapping(message)
    if "role" not in message or "content" not in message:
        raise ValueError(f"Message {number} needs `role` and `content`, got the keys {sorted(message)}.")
    content = listed(message["content"])
    if isinstance(content, Mapping):
        raise ValueError(f"The content of message {number} must be a string or a list of blocks, got a dict.")
    blocks = isinstance(content, (list, tuple))
    # Arrow tables fill the keys that a message lacks with None.
    kept = {key: value for key, value in message.items() if value is not None}
    if kept.get("role") not in (*_ROLES, *ROLES_OF_TEMPLATES):
        raise ValueError(
            f"Message {number} has the role {str(kept.get('role'))[:60]!r}: it must be one of "
            f"{', '.join(map(repr, _ROLES))}."
        )
    for key in kept:
        if key not in ("role", "content", *KEYS_OF_TEMPLATES):
            raise ValueError(f"`{str(key)[:60]}` of message {number} is not known: leave it out.")
    return {**kept, "content": [clean_block(b, media_root) for b in content] if blocks else as_text(content)}


def clean_block(block: Any, media_root: str | os.PathLike | None = None) -> dict[str, Any]:
    """
    A block of a message.

    Returns:
        `{"type": "text", "text"}`, `{"type": "image", "image"}` or `{"type": "video", "video"}`; the last two without
        the value if the block has none, and then with the settings of its video and its `index`, if it has these. A
        video with a value and settings is a [`ChatVideo`].

    Raises:
        `ValueError`: for another type, an unsupported key, or two values.
    """
    if isinstance(block, str):
        return {"type": "text", "text": block}
    # A setting of NaN is a mistake of whoever computed it, and not a missing one.
    given = {
        key: value
        for key, value in as_mapping(block).items()
        if not is_empty(value) or (key in VIDEO_SETTINGS and value is not None)
    }
    kind = _KINDS.get(str(given.get("type")))
    if kind is None:
        raise ValueError(
            f"A block of a message must have the type 'text', 'video' or 'image', got {given.get('type')!r}."
        )
    if kind == "text":
        text = as_mapping(block).get("text")
        _check_keys(kind, given, ("type", "text", "index"))
        return {"type": "text", "text": as_text(text)}
    names = (kind, f"{kind}_url", *_VALUE_KEYS)
    settings = VIDEO_SETTINGS if kind == "video" else ()
    _check_keys(kind, given, ("type", "index", *names, *settings))
    values = [name for name in names if name in given]
    if len(values) > 1:
        both = " and ".join(f"`{name}`" for name in values)
        raise ValueError(f"{_A[kind].capitalize()} block holds one {kind}, got {both}.")
    found = {"type": kind, **{name: given[name] for name in settings if name in given}}
    if values:
        return with_value(found, given[values[0]], media_root)
    ChatVideo(None, settings_of(found))
    return found | ({"index": given["index"]} if "index" in given else {})


def settings_of(block: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the sampling of a block's video."""
    return {name: block[name] for name in VIDEO_SETTINGS if name in block}


def with_value(block: dict[str, Any], value: Any, media_root: str | os.PathLike | None = None) -> dict[str, Any]:
    """A video or image block with its value. A video with settings becomes a [`ChatVideo`]."""
    kind, settings = block["type"], settings_of(block)
    value = _opened(kind, value, media_root)
    if settings:
        if is_state(value):
            raise ValueError(
                f"`{next(iter(settings))}` of a video that is encoded already: its frames are sampled; encode the "
                "video with this setting."
            )
        value = ChatVideo(value, settings)
    return {"type": kind, kind: value}


def _check_keys(kind: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in given:
        if name in known:
            continue
        if name in _SIZES:
            raise ValueError(
                f"`{name}` in {_A[kind]} block is not supported: the model's processor decides the size of frames."
            )
        if name in _RATES_OF_FRAMES:
            raise ValueError(f"`{name}` in {_A[kind]} block is not supported: give `fps`, the rate of its frames.")
        if kind == "image" and name in VIDEO_SETTINGS:
            raise ValueError(f"`{name}` in an image block: it is for videos, and an image is one frame.")
        raise ValueError(
            f"`{name}` in {_A[kind]} block is not known; a block may have {', '.join(f'`{key}`' for key in known)}."
        )


def _opened(kind: str, value: Any, media_root: str | os.PathLike | None) -> Any:
    if isinstance(value, Mapping):
        value = _of_dict(kind, value)
    if isinstance(value, (str, os.PathLike)):
        return _at_root(os.fspath(value), media_root)
    if kind == "video" and isinstance(value, (list, tuple)) and value:
        # One block is one video: a list in it is of its frames.
        files = [file_of(frame) for frame in value]
        if all(isinstance(file, (str, os.PathLike, bytes, bytearray, memoryview)) for file in files):
            is_named = [isinstance(file, (str, os.PathLike)) for file in files]
            pairs = zip(files, is_named, strict=True)
            return FrameFiles([_at_root(os.fspath(file), media_root) if named else file for file, named in pairs])
    if kind == "image" and (isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 3):
        raise ValueError(f"An image block holds one image, got {describe_video(value)}: give each in its own block.")
    return value


def _of_dict(kind: str, value: Mapping[str, Any]) -> Any:
    """A file of a table's column (`path`, `bytes`), or an address as OpenAI's protocol has it (`url`, `detail`)."""
    given = {key: one for key, one in value.items() if one is not None}
    unknown = sorted(given.keys() - {"path", "bytes", "url", "detail"})
    if unknown or given.get("detail", "auto") != "auto":
        raise ValueError(f"`{(*unknown, 'detail')[0]}` in the dict of {_A[kind]} is not known: leave it out.")
    if "bytes" in given:
        return given["bytes"]
    for key in ("path", "url"):
        if key in given:
            return given[key]
    raise ValueError(f"{_A[kind].capitalize()} given as a dict needs `path` or `bytes`, got the keys {sorted(value)}.")


def check_root(media_root: str | os.PathLike) -> str:
    """
    The folder of relative paths, or an address (`hf://datasets/…`, `https://…`) which they are appended to.

    Raises:
        `FileNotFoundError`: there is no such folder.
        `ValueError`: nothing can be appended to the address.
    """
    root = os.fspath(media_root)
    if not _ELSEWHERE.match(root):
        root = os.path.expanduser(root)
        if not os.path.isdir(root):
            raise FileNotFoundError(f"media_root {root}: there is no such folder; paths of videos start from it.")
    elif root.startswith("data:") or re.search(r"[?#]", root.partition("::")[0]):
        raise ValueError(
            f"media_root {public_name(root)}: names cannot be appended to it; give whole URLs in the rows."
        )
    return root


def _at_root(path: str, media_root: str | os.PathLike | None) -> str:
    if media_root is None or _ELSEWHERE.match(path):
        return path
    root = os.fspath(media_root)
    if not _ELSEWHERE.match(root) or os.path.isabs(path):
        return os.path.join(root, path)
    # The name is part of the first link of a chain: zip://a.mp4::hf://datasets/…
    first, chain, rest = root.partition("::")
    return f"{first}{'' if first.endswith('/') else '/'}{os.path.normpath(path)}{chain}{rest}"


def is_empty(cell: Any) -> bool:
    """Whether a cell of a table is empty: `None`, NaN, blank text, or an empty list."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return True
    if isinstance(cell, float):
        return math.isnan(cell)
    return isinstance(cell, (list, tuple)) and not cell


def listed(cell: Any) -> Any:
    """A list that a table of pandas keeps as an array of objects."""
    return cell.tolist() if isinstance(cell, np.ndarray) and cell.dtype == object else cell


def as_text(cell: Any) -> str:
    """
    A text, which may be a number in a table; missing ones are empty.

    Raises:
        `ValueError`: bytes, a list, or anything else; a text that is too long for any model.
    """
    if isinstance(cell, str):
        if len(cell) > MOST_CHARACTERS:
            raise ValueError(f"A text has {len(cell):,} characters, more than any model reads: shorten it.")
        return cell
    if is_empty(cell):
        return ""
    if not isinstance(cell, (numbers.Number, np.number, np.bool_)):
        raise ValueError(f"A text must be a string, got {type(cell).__name__}.")
    # Whole numbers become floats in a column that has an empty cell.
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


__all__ = [
    "KEYS_OF_TEMPLATES",
    "MOST_CHARACTERS",
    "ROLES_OF_TEMPLATES",
    "as_mapping",
    "as_text",
    "check_root",
    "clean_block",
    "clean_message",
    "is_empty",
    "is_message",
    "listed",
    "settings_of",
    "with_value",
]
