"""
The answers of `dynfocus serve`: videos of requests are read within limits, their states are kept for further
questions, and one thread answers one request after another.
"""

import copy
import hashlib
import random
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from dynfocus import VideoState
from dynfocus.adoption.chats import last_words
from dynfocus.adoption.video_frames import DrawnFrames
from dynfocus.processing.reading.chat_video import ChatVideo
from dynfocus.processing.reading.decoded_frames import with_message
from dynfocus.processing.reading.downloads import public_name
from dynfocus.processing.reading.images import read_image
from dynfocus.processing.reading.limits import ReadingLimits
from dynfocus.processing.reading.sources import VideoSource, open_source
from dynfocus.processing.rows.blocks import clean_message
from dynfocus.processing.rows.conversations import checked_question
from dynfocus.processing.video_qa import Answer

from .terminal import one_sentence

_MOST = {"video": 64, "image": 1024}  # of one request
_MOST_PIXELS = 1 << 28  # of the pictures of one request
_LONGEST_ADDRESS = 8192
_BLOCK_BYTES = 1 << 20
_NAMELESS = "the video given as a file object"
# What a message of the library suggests to the one who runs it; a client cannot do that.
_FOR_THE_OWNER = re.compile(r"(?:;|, or) (?:raise|lower|pass) ReadingLimits\(.*$")


class GivenUp(Exception):
    """Ends the work for a request whose client is gone, or whose time is over."""


@dataclass(frozen=True)
class Media:
    """
    A video or a picture of a request, which exists and is not empty.

    Args:
        source: where it can be read.
        digest: SHA-256 of its content.
        settings: the sampling that its block of the message asks for.
    """

    source: VideoSource
    digest: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """
    A request that can be answered.

    Args:
        messages: cleaned ones, whose videos and images are [`Media`].
        sampling: of videos without settings of their own.
        generate: parameters of `generate`.
        seed: of an answer that is sampled.
        question: by which frames are chosen, instead of the last turn.
        coarse: for a stock model, see [`FocusedModel`].
    """

    messages: list[dict[str, Any]]
    sampling: Mapping[str, Any]
    generate: Mapping[str, Any]
    seed: int | None = None
    max_visual_tokens: int | None = None
    rule: str | None = None
    coarse: str | None = None
    question: str | None = None


def read_media(
    messages: Sequence[Mapping[str, Any]],
    limits: ReadingLimits,
    folders: Sequence[Path],
    check: Callable[[Mapping[str, Any]], None],
) -> list[dict[str, Any]]:
    """
    The messages of a request in the form of [`clean_message`], with their videos and images as [`Media`].

    Args:
        limits: of downloads, with the event that gives the request up.
        folders: in which files may be read.
        check: raises a `ValueError` for a video's own settings that are not allowed.

    Raises:
        `ValueError`, `FileNotFoundError`: for a block or an address that cannot be read or is not allowed.
    """
    found = [clean_message(number, message) for number, message in enumerate(messages)]
    blocks = [block for one in found if isinstance(one["content"], list) for block in one["content"]]
    blocks = [block for block in blocks if block["type"] != "text"]
    for kind, most in _MOST.items():
        if (count := sum(block["type"] == kind for block in blocks)) > most:
            raise ValueError(f"The request has {count} {kind}s: at most {most} are read.")
    checked_question(last_words([{**one, "content": _words(one["content"])} for one in found]))
    for block in blocks:
        kind = block["type"]
        value, settings = block.get(kind), {}
        if isinstance(value, ChatVideo):
            value, settings = value.video, value.settings
        check(settings)
        try:
            source = _opened(value, limits, folders)
            block[kind] = Media(source, _digest(source), settings)
        except (ValueError, OSError) as error:
            raise for_a_client(error) from None
    return found


def for_a_client(error: Exception, name: str = "") -> Exception:
    """An error of the library in the words for a client, with the name of its video."""
    text = one_sentence(str(error)).replace(_NAMELESS, name or _NAMELESS)
    return with_message(error, _FOR_THE_OWNER.sub("; this server does not allow that.", text))


def _words(content: Any) -> str:
    return content if isinstance(content, str) else " ".join(b["text"] for b in content if b["type"] == "text")


def _opened(address: Any, limits: ReadingLimits, folders: Sequence[Path]) -> VideoSource:
    kind = re.match(r"\s*(https?:(?=//)|data:|file:)", address, re.IGNORECASE) if isinstance(address, str) else None
    if kind is None:
        raise ValueError("A video or an image of a request is an address: http(s)://…, data:… or file:///….")
    scheme = kind[1].lower()
    if scheme != "data:" and len(address) > _LONGEST_ADDRESS:
        raise ValueError(f"An address has {len(address)} characters: more than {_LONGEST_ADDRESS} are not read.")
    if scheme == "file:":
        return open_source(_allowed_file(address, folders), limits=limits)
    return open_source(address, limits=limits)


def _allowed_file(address: str, folders: Sequence[Path]) -> str:
    name = public_name(address)
    if not folders:
        raise ValueError(f"{name}: this server reads no files; it does in folders that --allow-files names.")
    parts = urlsplit(address.strip())
    if parts.netloc.lower() not in ("", "localhost"):
        raise ValueError(f"{name}: is not a whole path; an address of a file is file:///folder/film.mp4.")
    try:
        path = Path(url2pathname(parts.path)).resolve()
    except (OSError, ValueError, RuntimeError):
        raise ValueError(f"{name}: is not a path.") from None
    # The same words whether there is such a file or not.
    if not any(path.is_relative_to(folder) for folder in folders):
        raise ValueError(f"{name}: lies outside of the folders that this server reads.")
    return str(path)


def _digest(source: VideoSource) -> str:
    found = hashlib.sha256()
    with source.opened() as file:
        while block := file.read(_BLOCK_BYTES):
            if source.limits.given_up is not None and source.limits.given_up.is_set():
                raise GivenUp
            found.update(block)
    return found.hexdigest()


class KeptStates:
    """
    The states of the videos that were asked about last.

    Args:
        most: number of states at most.
        most_bytes: their size at most, in memory, with what was computed from them and copies of their videos.
    """

    def __init__(self, most: int, most_bytes: int):
        self.most, self.most_bytes = most, most_bytes
        self._kept: OrderedDict[Any, tuple[VideoState, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Any) -> VideoState | None:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def add(self, key: Any, state: VideoState, copied: int) -> None:
        """`copied`: bytes of its video that live as long as the state."""
        self._kept[key] = state, copied

    def num_bytes(self) -> int:
        return sum(num_bytes(s.tensors()) + num_bytes(s.event_cache) + size for s, size in [*self._kept.values()])

    def trim(self) -> None:
        """Drop states, those that were not asked about for longest first, until all are within the limits."""
        while self._kept and (len(self._kept) > self.most or self.num_bytes() > self.most_bytes):
            self._kept.popitem(last=False)


def num_bytes(value: Any) -> int:
    """The size of the tensors in something."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, DrawnFrames):
        return value.num_bytes
    if isinstance(value, Mapping):
        return sum(map(num_bytes, [*value.values()]))
    if isinstance(value, (list, tuple)):
        return sum(map(num_bytes, value))
    if is_dataclass(value) and not isinstance(value, type):
        return sum(num_bytes(getattr(value, one.name)) for one in fields(value))
    return 0


class Feed(StoppingCriteria):
    """
    Follows an answer while `generate` writes it: hands its text on, and ends it at a stop text.

    Args:
        decode: token ids → text.
        stops: texts before which the answer ends.
        send: is given each further piece of the text; `None` if nobody waits for pieces.
        given_up: ends the generation with [`GivenUp`].
        by_words: whether the text's last word may still change (`clean_up_tokenization_spaces`).
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        stops: Sequence[str] = (),
        send: Callable[[str], None] | None = None,
        given_up: Event | None = None,
        by_words: bool = False,
    ):
        self.decode, self.stops, self.send, self.by_words = decode, tuple(stops), send, by_words
        self.given_up = given_up or Event()
        self.tokens: list[int] = []
        self.num_prompt_tokens, self.is_stopped, self._sent = 0, False, ""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.check()
        if not self.tokens:
            self.num_prompt_tokens = input_ids.shape[1] - 1
        self.tokens = input_ids[0, self.num_prompt_tokens :].tolist()
        if self.send is not None or self.stops:
            self._hand_on(self.decode(self.tokens), is_whole=False)
        return torch.full((len(input_ids),), self.is_stopped, dtype=torch.bool, device=input_ids.device)

    def check(self, *_: Any) -> None:
        """Raises [`GivenUp`] if nobody waits any more; also a callback of progress."""
        if self.given_up.is_set():
            raise GivenUp

    def finish(self, text: str) -> str:
        """The answer's text, up to a stop text; its last piece is handed on."""
        return self._hand_on(text, is_whole=True)

    def _hand_on(self, text: str, is_whole: bool) -> str:
        ends = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if ends:
            self.is_stopped, text = True, text[: min(ends)]
        elif not is_whole:
            text = self._without_what_may_change(text)
        if self.send is not None and len(text) > len(self._sent):
            if not text.startswith(self._sent):
                raise RuntimeError("The text of an answer changed after a part of it was sent.")
            self.send(text[len(self._sent) :])
            self._sent = text
        return text

    def _without_what_may_change(self, text: str) -> str:
        # A character of several tokens.
        text = text.rstrip("\N{REPLACEMENT CHARACTER}")
        if self.by_words:
            text = text[: max(0, text.rfind(" "))]
        longest = max(map(len, self.stops), default=1) - 1
        begun = (n for n in range(min(longest, len(text)), 0, -1) if any(s.startswith(text[-n:]) for s in self.stops))
        return text[: len(text) - next(begun, 0)]


@dataclass(frozen=True)
class Given:
    """
    An answer, and what a response says besides.

    Args:
        text: of the answer, up to a stop text.
        videos: `{"sha256", "frames", "encoded"}` of each, the last one `False` if its state was kept.
        log_probs: of `tokens`.
    """

    answer: Answer
    text: str
    videos: list[dict[str, Any]]
    warnings: list[str]
    num_prompt_tokens: int
    tokens: list[int]
    is_cut: bool


class Answerer:
    """
    Answers requests one at a time.

    Args:
        pipe ([`VideoQAPipeline`]).
        kept: the states of earlier requests.
    """

    def __init__(self, pipe: Any, kept: KeptStates):
        self.pipe, self.kept = pipe, kept
        self.video_qa = pipe.video_qa
        self.is_stock = self.video_qa.model.config.model_type != "dynfocus"
        self._tokenizer = pipe.processor.tokenizer

    def feed(self, stops: Sequence[str], send: Callable[[str], None] | None, given_up: Event) -> Feed:
        by_words = bool(getattr(self._tokenizer, "clean_up_tokenization_spaces", False))
        return Feed(self._decode, stops, send, given_up, by_words)

    def token_text(self, token: int) -> str:
        """The text of one token of an answer."""
        return self._tokenizer.decode([token])

    def answer(self, asked: Asked, feed: Feed) -> Given:
        """
        Answer a request.

        Raises:
            [`GivenUp`]: nobody waits any more. `ValueError`, `OSError`: the request cannot be answered.
        """
        feed.check()
        with self.pipe.device_placement(), warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            try:
                video_qa, row, videos = self._row(asked, feed)
                settings = {"max_visual_tokens": asked.max_visual_tokens}
                prepared = video_qa.prepare(row, **settings, max_new_tokens=asked.generate["max_new_tokens"])
                feed.check()
                if asked.generate.get("do_sample"):
                    torch.manual_seed(random.getrandbits(32) if asked.seed is None else asked.seed)
                criteria = StoppingCriteriaList([feed])
                (found,) = video_qa.answer([prepared], rule=asked.rule, stopping_criteria=criteria, **asked.generate)
            finally:
                self.kept.trim()
        said = [one_sentence(str(one.message)) for one in noted if issubclass(one.category, UserWarning)]
        text = feed.finish(found.answer)
        is_cut = not feed.is_stopped and len(feed.tokens) >= asked.generate["max_new_tokens"]
        return Given(
            answer=found,
            text=text,
            videos=videos,
            warnings=list(dict.fromkeys(said)),
            num_prompt_tokens=feed.num_prompt_tokens,
            tokens=feed.tokens,
            is_cut=is_cut and feed.tokens[-1] not in video_qa.end_tokens({}),
        )

    def _row(self, asked: Asked, feed: Feed) -> tuple[Any, dict[str, Any], list[dict[str, Any]]]:
        """The interface for this request, its row for `prepare`, and what the response says of its videos."""
        video_qa = self.video_qa
        if asked.coarse is not None:
            if not self.is_stock:
                raise ValueError("`coarse` is for stock video language models: leave it out.")
            video_qa = copy.copy(video_qa)
            video_qa.focus_processor = video_qa.focus_processor.with_coarse(asked.coarse)
        states, videos, messages, pixels = [], [], [], 0
        for message in asked.messages:
            content = message["content"]
            if isinstance(content, list):
                content = [dict(block) for block in content]
                for block in content:
                    media = block.get("video") or block.get("image")
                    if media is None:
                        continue
                    if block["type"] == "image" and self.is_stock:
                        picture = block["image"] = self._picture(media)
                        pixels += picture.width * picture.height
                        if pixels > _MOST_PIXELS:
                            raise ValueError(f"The pictures of a request have over {_MOST_PIXELS} pixels: send fewer.")
                        continue
                    state, said = self._state(block["type"], media, asked.sampling, feed)
                    states.append(state)
                    videos.append(said)
                    # Its state stands beside the messages.
                    block.clear()
                    block["type"] = "video"
            messages.append({**message, "content": content})
        row: dict[str, Any] = {"messages": messages, "question": asked.question}
        if states:
            row["video"] = states if self.is_stock else VideoState.stack(states)
        return video_qa, row, videos

    def _state(
        self, kind: str, media: Media, sampling: Mapping[str, Any], feed: Feed
    ) -> tuple[VideoState, dict[str, Any]]:
        settings = {**sampling, **media.settings} if kind == "video" else {}
        source = media.source
        # The state of a stock model reads frames of its file again.
        key = kind, media.digest, source.path if self.is_stock else None, tuple(sorted(settings.items()))
        state = self.kept.get(key)
        is_new = state is None
        if state is None:
            try:
                state = self._encoded(kind, media, sampling, feed)
            except (ValueError, OSError) as error:
                raise for_a_client(error, source.name) from None
            self.kept.add(key, state, _copied_bytes(source) if self.is_stock else 0)
        return state, {"sha256": media.digest, "frames": state.num_frames[0], "encoded": is_new}

    def _encoded(self, kind: str, media: Media, sampling: Mapping[str, Any], feed: Feed) -> VideoState:
        if kind == "image":
            return self.video_qa.encode_video(self._picture(media), progress=feed.check)
        source = media.source
        video: Any = source.file if source.path is None else source.path
        if media.settings:
            video = ChatVideo(video, media.settings)
        state = self.video_qa.encode_video(video, progress=feed.check, **sampling)
        if not self.is_stock:
            source.close()
        return state

    def _picture(self, media: Media) -> Any:
        with media.source.opened() as file:
            data = file.read(-1)
        try:
            return read_image(data, limits=media.source.limits)
        except (ValueError, OSError) as error:
            text = str(error).replace("the image given as bytes", media.source.name)
            raise for_a_client(with_message(error, text)) from None

    def _decode(self, tokens: list[int]) -> str:
        (text,) = self.video_qa.decode(torch.tensor([tokens]))
        return text


def _copied_bytes(source: VideoSource) -> int:
    if source.file is None:
        return 0
    return source.file.seek(0, 2)


__all__ = ["Answerer", "Asked", "Feed", "Given", "GivenUp", "KeptStates", "Media", "for_a_client", "read_media"]
