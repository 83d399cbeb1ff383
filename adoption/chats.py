"""Chats with videos and pictures: reading them, and converting them for servers."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from dynfocus.processing.reading.chat_video import ChatVideo
from dynfocus.processing.reading.decoded_frames import as_rgb_frames
from dynfocus.processing.rows.blocks import clean_message, settings_of, with_value
from dynfocus.processing.rows.conversations import load_media, media_of

from .video_frames import ChosenFrames

ImageFormat = Literal["jpeg", "png"]


@dataclass(frozen=True)
class Chat:
    """
    A chat without its media.

    Args:
        messages: with `role` and `content`; contents with media are lists of `{"type": "text", "text": …}`,
            `{"type": "image"}` and `{"type": "video"}`.
        media: `"image"` or `"video"` for each medium, in order.
        images: the pictures.
    """

    messages: list[dict[str, Any]]
    media: list[str]
    images: list[Image.Image]


def read_chat(chat: str | Sequence[Any], num_videos: int, plain: Callable[[str], str]) -> Chat:
    """
    Reads a question, or a chat, with places for this number of videos. Without places, videos come before the user's
    first words.

    Args:
        plain: removes control tokens from a text; only the template writes these.

    Raises:
        `ValueError`: for a different number of videos, a block of another type, or one with unsupported settings.
    """
    messages = _turns(chat)
    has_videos = any(part.get("type") == "video" for turn in messages for part in _parts(turn))
    if not has_videos and num_videos:
        first = next((turn for turn in messages if turn["role"] == "user"), None)
        if first is None:
            raise ValueError("A chat needs a user's turn for its videos to stand in.")
        first["content"] = [{"type": "video"}] * num_videos + _parts(first)
    media: list[str] = []
    images: list[Image.Image] = []
    for turn in messages:
        content = []
        for part in _parts(turn):
            kind = part["type"]
            if kind == "text":
                content.append({"type": "text", "text": plain(part["text"])})
            else:
                if settings := settings_of(part):
                    raise ValueError(f"`{next(iter(settings))}` of a video whose frames are chosen already.")
                media.append(kind)
                content.append({"type": kind})
                if kind == "image":
                    images.append(_load_picture(part))
        turn["content"] = content[0]["text"] if isinstance(turn["content"], str) else content
    if media.count("video") != num_videos:
        raise ValueError(f"The chat has room for {media.count('video')} videos, but {num_videos} were given.")
    return Chat(messages, media, images)


def videos_of(chat: str | Sequence[Any]) -> list[Any]:
    """The videos in a chat, in order."""
    return [value for kind, value in media_of(_turns(chat)) if kind == "video"]


def sampled_as_asked(chat: str | Sequence[Any], videos: Sequence[Any]) -> tuple[str | list[dict[str, Any]], list[Any]]:
    """
    A chat, and its videos with the settings that the chat has for them.

    Raises:
        `ValueError`: settings for a video whose frames are sampled or chosen already.
    """
    if isinstance(chat, str):
        return chat, list(videos)
    messages, found = _turns(chat), list(videos)
    blocks = [part for turn in messages for part in _parts(turn) if part["type"] == "video"]
    for number, block in enumerate(blocks[: len(found)]):
        value = block.pop("video", None)
        settings = value.settings if isinstance(value, ChatVideo) else settings_of(block)
        if settings and isinstance(found[number], ChosenFrames):
            raise ValueError(f"`{next(iter(settings))}` of a video whose frames are chosen already.")
        if settings and not isinstance(found[number], ChatVideo):
            found[number] = with_value({"type": "video", **settings}, found[number])["video"]
        for name in settings:
            block.pop(name, None)
    return messages, found


def last_words(chat: str | Sequence[Any]) -> str:
    """The text of the last user turn."""
    if isinstance(chat, str):
        return chat
    turn = next((turn for turn in reversed(_turns(chat)) if turn["role"] == "user"), {"content": ""})
    return " ".join(part["text"] for part in _parts(turn) if part.get("type") == "text")


def with_lists(messages: Sequence[dict[str, Any]], video: dict[str, Any]) -> list[dict[str, Any]]:
    """Messages with every content as a list; each video becomes `video`."""
    return [
        {**turn, "content": [video if part["type"] == "video" else part for part in _parts(turn)]} for turn in messages
    ]


def with_strings(messages: Sequence[dict[str, Any]], marks: dict[str, str]) -> list[dict[str, Any]]:
    """Messages with every content as a string; each video and picture becomes a mark and a line break."""
    merged = []
    for turn in messages:
        words = [part["text"] if part["type"] == "text" else marks[part["type"]] + "\n" for part in _parts(turn)]
        merged.append({**turn, "content": "".join(words)})
    return merged


def is_whole(text: str, messages: Sequence[dict[str, Any]], marks: dict[str, str]) -> bool:
    """
    Whether a template wrote all media, and all words of the user and the system. (It may leave out think blocks of the
    assistant's earlier turns.)
    """
    parts = [part for turn in messages for part in _parts(turn)]
    wanted = [marks[part["type"]] for part in parts if part["type"] != "text"]
    asked = [part for turn in messages if turn["role"] != "assistant" for part in _parts(turn)]
    words = [part["text"].strip() for part in asked if part["type"] == "text"]
    return all(text.count(mark) == wanted.count(mark) for mark in marks.values()) and all(w in text for w in words)


def picture_part(picture: Image.Image, image_format: ImageFormat) -> dict[str, Any]:
    """A picture in the form of OpenAI's protocol, embedded in the message."""
    data = io.BytesIO()
    picture.save(data, image_format, **({"quality": 90} if image_format == "jpeg" else {}))
    url = f"data:image/{image_format};base64,{base64.b64encode(data.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def joined(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Joins texts that follow each other; empty ones are left out."""
    result: list[dict[str, Any]] = []
    for part in parts:
        if part["type"] == "text" and result and result[-1]["type"] == "text":
            result[-1] = {"type": "text", "text": result[-1]["text"] + part["text"]}
        elif part["type"] != "text" or part["text"]:
            result.append(part)
    return result


def _parts(turn: dict[str, Any]) -> list[dict[str, Any]]:
    content = turn["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _turns(chat: str | Sequence[Any]) -> list[dict[str, Any]]:
    """The messages of a question or a chat, each a dict whose content is a string or a list of plain blocks."""
    if isinstance(chat, str):
        return [{"role": "user", "content": chat}]
    chat = getattr(chat, "messages", chat)
    return [clean_message(number, turn) for number, turn in enumerate(chat)]


def _load_picture(part: dict[str, Any]) -> Image.Image:
    if "image" not in part:
        raise ValueError("A picture of a chat needs `image`, `url`, `path` or `base64`.")
    (picture,) = as_rgb_frames(load_media("image", part["image"]))
    return Image.fromarray(picture)


__all__ = [
    "Chat",
    "ImageFormat",
    "is_whole",
    "joined",
    "last_words",
    "picture_part",
    "read_chat",
    "sampled_as_asked",
    "videos_of",
    "with_lists",
    "with_strings",
]
