"""
A stock processor of transformers that shows chosen frames of a video in fine detail and others coarsely.

    processor = FocusProcessor(AutoProcessor.from_pretrained(model_id), max_visual_tokens=4096)
    chosen = processor.choose(video, relevant_frames)          # within the budget
    inputs = processor.show("What does she draw?", [chosen]).inputs
    model.generate(**inputs)                                   # the stock model, as it is

Only inputs are made here: the model is neither changed nor wrapped. Chat template, picture processing and the way
times are written are those of the stock processor, so that with all frames in full the inputs are its own.
"""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_utils import SizeDict, load_image
from transformers.video_processing_utils import BaseVideoProcessor

from dynfocus.processing.reading.video_reading import resize_frame
from dynfocus.processing.rows.labels import answer_spans, render_or_refuse
from dynfocus.processing.token_plan import FrameBudget, FramePlan

from .families import (
    Family,
    explicit_positions,
    fit_size,
    frames_per_block,
    known_family,
    placeholder_pattern,
    time_metadata,
    token_side,
    video_arguments,
)
from .video_frames import ChosenFrames, VideoFrames, spread_coarse

Coarse = Literal["low", "panels", "none"]
PANEL = 2  # pictures along each side of a panel
_NOTHING = VideoFrames.decoded(np.zeros((1, 28, 28, 3), np.uint8), [0.0])


@dataclass(frozen=True)
class Entry:
    """One picture that a model is shown, or one pair of pictures where its tower merges two.

    Args:
        pictures: for each of them the numbers of its frames: one, or up to four for a panel.
        times: the start of each picture's first frame in seconds.
        is_key: whether it is a key frame.
    """

    pictures: tuple[tuple[int, ...], ...]
    times: tuple[float, ...]
    is_key: bool


@dataclass(frozen=True)
class Shown:
    """
    What a batch of prompts became.

    Args:
        inputs: stock inputs, padded on the left: `model.generate(**inputs)`; with `labels`, `model(**inputs).loss`.
        num_visual_tokens: for each prompt, and in it for each video, its tokens in `input_ids`: visual features,
            time words and marks.
        entries: for each prompt and each video, what is shown of it, in order.
    """

    inputs: BatchFeature
    num_visual_tokens: list[list[int]]
    entries: list[list[list[Entry]]]


class FocusProcessor:
    """
    Shows chosen frames of videos to a stock video language model, within a number of tokens.

    Args:
        processor: the stock processor of the model.
        config: of the model; needed where positions depend on it (Qwen2-VL, Qwen2.5-VL).
        max_visual_tokens (`int`, defaults to 4096):
            tokens of all videos of a prompt at most, time words and marks included. Pictures that stand beside videos
            in a chat are not counted.
        tokens_per_key_frame (`int`, defaults to 256):
            visual tokens of a key frame at most, where frames keep their own size. Elsewhere the model says what a
            frame costs.
        tokens_per_coarse_frame (`int`, defaults to 16): the same for a small coarse frame.
        coarse (`str`, *optional*):
            how the other frames are shown: `"low"`, small; `"panels"`, 2 x 2 frames in one picture; `"none"`, not at
            all. By default `"low"` where frames keep their own size, else `"panels"`.
        coarse_per_key_frame (`int`, defaults to 8): coarse pictures for each key frame at most.
        num_key_frames (`int`, *optional*): key frames at most; by default as many as the budget allows.
        time_words (`bool`, defaults to `False`):
            write the time before each frame (`12.5s: `) for a model whose own processor writes none.

    Raises:
        `ValueError`: a processor of no known family, or settings that the family cannot take.
    """

    def __init__(
        self,
        processor: Any,
        *,
        config: Any = None,
        max_visual_tokens: int = 4096,
        tokens_per_key_frame: int = 256,
        tokens_per_coarse_frame: int = 16,
        coarse: Coarse | None = None,
        coarse_per_key_frame: int = 8,
        num_key_frames: int | None = None,
        time_words: bool = False,
    ):
        family = known_family(processor)
        if family is None:
            raise ValueError(f"{type(processor).__name__} is the processor of no known family of video models.")
        if coarse not in (None, "low", "panels", "none"):
            raise ValueError(f"`coarse` must be 'low', 'panels' or 'none', got {coarse!r}.")
        if coarse == "low" and not family.native:
            raise ValueError(
                f"`coarse='low'` saves nothing with {family.name}, which gives every frame the same number of tokens: "
                "use 'panels' or 'none'."
            )
        for name, value in (
            ("tokens_per_key_frame", tokens_per_key_frame),
            ("tokens_per_coarse_frame", tokens_per_coarse_frame),
        ):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if time_words and family.times is not None:
            raise ValueError(f"{family.name} writes times itself ({family.times}): leave out `time_words`.")
        if time_words and (family.layout == "video" or family.positions):
            raise ValueError(f"`time_words` cannot be had with {family.name}, which takes all frames as one block.")
        if family.positions and config is None:
            raise ValueError(f"{family.name} needs `config=model.config`: its positions depend on it.")
        if not getattr(processor.tokenizer, "is_fast", False):
            raise ValueError(f"{type(processor.tokenizer).__name__} cannot say where its tokens lie in the text.")
        self.processor = processor
        self.config = config
        self.family: Family = family
        self.max_visual_tokens = max_visual_tokens
        self.tokens_per_key_frame = tokens_per_key_frame
        self.tokens_per_coarse_frame = tokens_per_coarse_frame
        self.coarse: Coarse = coarse or family.default_coarse
        self.coarse_per_key_frame = coarse_per_key_frame
        self.num_key_frames = num_key_frames
        self.time_words = time_words
        self._placeholder = placeholder_pattern(processor)
        self._token: str = processor.image_token if family.layout == "images" else processor.video_token
        self._probe = lru_cache(maxsize=8)(self._make_probe)

    # ------------------------------------------------------------------------------------------------- the budget

    def budget(
        self, video: VideoFrames, candidates: Sequence[int], max_visual_tokens: int | None = None
    ) -> FrameBudget:
        """
        What showing frames of this video costs.

        Args:
            candidates: sorted numbers of the frames to choose from; the dearest time words among them count.
            max_visual_tokens: of this video; by default the processor's.

        Raises:
            `ValueError`: not even one key frame fits.
        """
        limit = self.max_visual_tokens if max_visual_tokens is None else max_visual_tokens
        fine, coarse = (self._visual_tokens(video, is_key) for is_key in (True, False))
        words, fixed = self._word_prices(video, candidates, max(40, limit // fine + 1))
        # A small frame that is as dear as a key frame would only look like less.
        has_coarse = self.coarse == "panels" or (self.coarse == "low" and coarse < fine)
        return FrameBudget(
            max_visual_tokens=limit,
            key_price=words + fine,
            coarse_price=words + coarse if has_coarse else None,
            fixed_price=fixed,
            frames_per_coarse=self._frames_per_coarse,
            coarse_per_key=self.coarse_per_key_frame,
            num_key_frames=self.num_key_frames,
        )

    def plan(self, video: VideoFrames, candidates: Sequence[int], max_visual_tokens: int | None = None) -> FramePlan:
        """How many key frames and coarse pictures are shown; known before anything is decoded or encoded."""
        return self.budget(video, candidates, max_visual_tokens).plan(len(candidates))

    def choose(
        self,
        video: VideoFrames,
        key_frames: Sequence[int],
        candidates: Sequence[int],
        max_visual_tokens: int | None = None,
    ) -> ChosenFrames:
        """
        Key frames, and beside them as many coarse pictures as the plan has, spread over the other candidates.

        Args:
            key_frames: sorted numbers, no more than `plan(...)` says.
            candidates: sorted numbers of all frames that may be shown.

        Raises:
            `ValueError`: more key frames than the plan has.
        """
        plan = self.plan(video, candidates, max_visual_tokens)
        if len(key_frames) > plan.num_key_frames:
            raise ValueError(
                f"{len(key_frames)} key frames were chosen, but the budget of "
                f"{self.max_visual_tokens if max_visual_tokens is None else max_visual_tokens} tokens has room for "
                f"{plan.num_key_frames}."
            )
        coarse = spread_coarse(candidates, key_frames, plan.num_coarse, self._frames_per_coarse)
        return ChosenFrames(video, list(key_frames), coarse)

    @property
    def _frames_per_coarse(self) -> int:
        return PANEL * PANEL if self.coarse == "panels" else 1

    def _word_prices(self, video: VideoFrames, candidates: Sequence[int], most: int) -> tuple[int, int]:
        """Tokens of words and marks around one of `most` pictures, and of those around the whole video, at most."""
        times = [self._entry(video, (number,), is_key=True).times for number in candidates]
        pieces = self._run.split(self._stock_text(video, times if self.family.times else times[:most]))
        if self.family.layout == "video":
            # What stands ahead of the first picture may name their number.
            counts = range(1, min(most, len(times)) + 1)
            ends = [self._stock_text(video, [time] * n) for n in counts for time in (times[0], times[-1])]
        else:
            ends = [self._stock_text(video, [time]) for time in (times if self.family.times else times[:1])]
        split = [self._run.split(text) for text in ends]
        inner = max(
            self._tokens_beside_pictures({(True, piece, True) for piece in pieces[1:-1]} or {(True, "", True)})
        )
        first = max(self._tokens_beside_pictures({(False, pieces[0], True) for pieces in split}))
        last = max(self._tokens_beside_pictures({(True, pieces[-1], False) for pieces in split}))
        return inner, max(0, first + last - inner) + self._tail

    def _tokens_beside_pictures(self, pieces: set[tuple[bool, str, bool]]) -> list[int]:
        """Tokens of texts that have a picture before and after them, or not: a text is cut differently at its ends."""
        mark = self._run.search(self._stock_text(_NOTHING, [(0.0,)]))
        assert mark is not None
        sample = self._placeholder.match(mark.group())
        filler = sample.group() if sample else ""
        texts = [filler * before + text + filler * after for before, text, after in sorted(pieces)]
        around = [before + after for before, _, after in sorted(pieces)]
        return [len(ids) - n for ids, n in zip(self._tokenize(texts), around, strict=True)]

    def _visual_tokens(self, video: VideoFrames, is_key: bool) -> int:
        """Visual tokens of one picture."""
        size = self._shown_size(video, is_key)
        if self.family.native:
            return size[0] * size[1] // token_side(self.processor) ** 2
        one, two = (len(self._placeholder.findall(self._stock_text(video, [(0.0,)] * n))) for n in (1, 2))
        return two - one

    @property
    def _tail(self) -> int:
        """Visual tokens of a video that belong to no frame (the newline of LLaVA-OneVision)."""
        if self.family.layout != "video":
            return 0
        one, two = (len(self._placeholder.findall(self._stock_text(_NOTHING, [(0.0,)] * n))) for n in (1, 2))
        return 2 * one - two

    @property
    def _run(self) -> re.Pattern[str]:
        return re.compile(f"(?:{self._placeholder.pattern})+")

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        return self.processor.tokenizer(texts, add_special_tokens=False)["input_ids"]

    # ----------------------------------------------------------------------------------- what the stock processor says

    def _make_probe(self, num_frames: int, size: tuple[int, int]) -> dict[str, Any]:
        """Black pictures as the stock processor prepares them: their shape decides what it writes into a prompt."""
        if self.family.layout == "images":
            return dict(self.processor.image_processor([Image.new("RGB", size[::-1])], return_tensors="pt"))
        arguments = video_arguments(self.family, self.processor, self.tokens_per_key_frame)
        frames = torch.zeros(num_frames, 3, *size, dtype=torch.uint8)
        metadata = time_metadata([0.0] * num_frames, 1.0, size)
        return dict(
            self.processor.video_processor([frames], video_metadata=[metadata], return_metadata=True, **arguments)
        )

    def _stock_text(self, video: VideoFrames, times: Sequence[tuple[float, ...]]) -> str:
        """What the prompt says in place of a video that is shown at these times, in the words of the stock processor;
        native frames are as small as they get."""
        processor, family = self.processor, self.family
        if family.layout == "images":
            stock = [processor.replace_image_token(self._probe(1, (32, 32)), 0)] * len(times)
            return "".join(self._time_word(time) + text for time, text in zip(times, stock, strict=True))
        if family.layout == "blocks":
            side = token_side(processor) if family.native else 32
            probe = self._probe(frames_per_block(family, processor), (side, side))
            texts: dict[tuple[float, ...], str] = {}
            for time in times:
                key = time if family.times else ()
                if key not in texts:
                    metadata = time_metadata(time, video.duration, video.size)
                    texts[key] = processor.replace_video_token({**probe, "video_metadata": [metadata]}, 0)
            return family.joint.join(self._time_word(time) + texts[time if family.times else ()] for time in times)
        probe = {
            name: value.expand(-1, len(times), *[-1] * (value.ndim - 2))
            if torch.is_tensor(value) and value.ndim == 5
            else value
            for name, value in self._probe(1, (32, 32)).items()
        }
        if "video_grids" in probe:  # Molmo 2
            probe["video_grids"] = torch.cat([torch.tensor([[len(times)]]), probe["video_grids"][:, 1:]], 1)
        metadata = time_metadata([time[0] for time in times], video.duration, video.size)
        return processor.replace_video_token({**probe, "video_metadata": [metadata]}, 0)

    def _time_word(self, times: tuple[float, ...]) -> str:
        return f"{times[0]:.1f}s: " if self.time_words else ""

    # ------------------------------------------------------------------------------------------------- the pictures

    def entries(self, chosen: ChosenFrames) -> list[Entry]:
        """What is shown of a video, in time order."""
        shown = [self._entry(chosen.video, (number,), is_key=True) for number in chosen.key_frames]
        shown += [self._entry(chosen.video, tuple(group), is_key=False) for group in chosen.coarse]
        return sorted(shown, key=lambda entry: (entry.pictures[0][0], not entry.is_key))

    def _entry(self, video: VideoFrames, numbers: tuple[int, ...], is_key: bool) -> Entry:
        pictures = [tuple(int(number) for number in numbers)]
        if frames_per_block(self.family, self.processor) == 2:
            # The stock processor samples at this rate: what it would have taken next.
            step = 1.0 / (getattr(self.processor.video_processor, "fps", None) or 2.0)
            pictures.append(tuple(video.shown_at(float(video.times[number]) + step) for number in pictures[0]))
        return Entry(tuple(pictures), tuple(float(video.times[picture[0]]) for picture in pictures), is_key)

    def _shown_size(self, video: VideoFrames, is_key: bool) -> tuple[int, int]:
        if not self.family.native:
            return video.size
        fine = is_key or self.coarse == "panels"
        tokens = self.tokens_per_key_frame if fine else self.tokens_per_coarse_frame
        return fit_size(*video.size, token_side(self.processor), tokens)

    def _pictures(self, chosen: ChosenFrames, entries: Sequence[Entry]) -> list[torch.Tensor]:
        """For each entry its pictures, `(pictures, 3, H, W)` uint8; every frame is read once and kept in no size but
        those in which it is shown."""
        video = chosen.video
        uses: dict[int, list[tuple[int, int, int]]] = {}
        pictures: list[torch.Tensor] = []
        for i, entry in enumerate(entries):
            size = self._shown_size(video, entry.is_key)
            pictures.append(torch.zeros(len(entry.pictures), 3, *size, dtype=torch.uint8))
            for j, numbers in enumerate(entry.pictures):
                for slot, number in enumerate(numbers):
                    uses.setdefault(number, []).append((i, j, slot))
        for number, frame in video.read(sorted(uses)):
            for i, j, slot in uses.pop(number, ()):
                picture = pictures[i][j]
                if len(entries[i].pictures[j]) == 1:
                    picture.copy_(self._resized(frame, picture.shape[-2:]))
                    continue
                height, width = (side // PANEL for side in picture.shape[-2:])
                row, column = divmod(slot, PANEL)
                tile = torch.from_numpy(resize_frame(frame, (height, width))).permute(2, 0, 1)
                picture[:, row * height : (row + 1) * height, column * width : (column + 1) * width] = tile
        if uses:
            raise ValueError(f"Frame {min(uses)} of the video cannot be read.")
        return pictures

    def _resized(self, frame: np.ndarray, size: Sequence[int]) -> torch.Tensor:
        """`(3, H, W)`, resized as the stock processor does it."""
        pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)
        if tuple(pixels.shape[-2:]) == tuple(size):
            return pixels
        stock = self.processor.video_processor
        target = SizeDict(height=size[0], width=size[1])
        return BaseVideoProcessor.resize(stock, pixels[None], target, resample=stock.resample)[0]

    # --------------------------------------------------------------------------------------------------- the prompt

    def show(
        self,
        chats: str | Sequence[Any],
        videos: Sequence[Any],
        *,
        labels: bool = False,
    ) -> Shown:
        """
        Stock inputs of one prompt or a batch.

        Args:
            chats:
                a question, or a chat (a list of messages with `role` and `content`), or a list of these. Contents are
                strings, or lists of `{"type": "text", "text": …}`, `{"type": "image", "image": …}` and
                `{"type": "video"}`; a chat that does not say where its videos stand has them before the first
                user's words.
            videos: the chosen frames of the prompt's videos, in order; for a list of prompts, a list for each.
            labels: add `labels`: the assistant's turns; all else is -100. The chat then ends with its answer.

        Raises:
            `ValueError`: more tokens than the budget, a chat that the template refuses, marks of pictures in a text,
                or videos that the model cannot take together.
        """
        is_single = isinstance(chats, str) or (len(chats) > 0 and isinstance(chats[0], dict))
        batch = [chats] if is_single else list(chats)
        chosen = [list(videos)] if is_single else [list(row) for row in videos]
        if len(batch) != len(chosen):
            raise ValueError(f"{len(batch)} prompts came with the videos of {len(chosen)}.")
        rows = [self._row(chat, row, labels) for chat, row in zip(batch, chosen, strict=True)]
        inputs = self._collate([row.inputs for row in rows])
        return Shown(inputs, [r.num_visual_tokens[0] for r in rows], [r.entries[0] for r in rows])

    def chat_messages(
        self,
        chat: str | Sequence[Any],
        videos: Sequence[ChosenFrames],
        *,
        image_format: Literal["jpeg", "png"] = "jpeg",
    ) -> list[dict[str, Any]]:
        """
        The same chat for a server that speaks OpenAI's protocol: frames as pictures, and their times as the stock
        processor writes them.

        Where the stock processor takes pairs of frames, the first of each is sent. What a server then does with the
        size of pictures is set there.

        Args:
            chat, videos: of one prompt, as in [`show`].
            image_format: of the pictures; PNG keeps every value.
        """
        messages, _, images = self._messages(chat, len(videos))
        rest, chosen = iter(images), iter(videos)
        for message in messages:
            if isinstance(message["content"], str):
                continue
            parts: list[dict[str, Any]] = []
            for part in message["content"]:
                if part["type"] == "text":
                    parts.append(part)
                elif part.get("is_video") or part["type"] == "video":
                    parts += self._video_parts(next(chosen), image_format)
                else:
                    parts.append(_picture_part(next(rest), image_format))
            message["content"] = _joined(parts)
        return messages

    def _video_parts(self, chosen: ChosenFrames, image_format: str) -> list[dict[str, Any]]:
        entries = self.entries(chosen)
        text = self._stock_text(chosen.video, [entry.times[:1] * len(entry.times) for entry in entries])
        marks = sorted(self.processor.tokenizer.get_added_vocab(), key=len, reverse=True)
        without = re.compile("|".join(map(re.escape, marks)))
        words = [without.sub("", piece) for piece in self._run.split(text)]
        parts: list[dict[str, Any]] = []
        for word, picture in zip(words[:-1], self._pictures(chosen, entries), strict=True):
            parts += [{"type": "text", "text": word}, _picture_part(_as_image(picture[0]), image_format)]
        return [*parts, {"type": "text", "text": words[-1]}]

    def _row(self, chat: Any, videos: list[ChosenFrames], labels: bool) -> Shown:
        messages, media, images = self._messages(chat, len(videos))
        if labels:
            text, spans = answer_spans(self._render, messages)
        else:
            text, spans = render_or_refuse(self._render, messages, add_generation_prompt=True), []
        entries = [self.entries(video) for video in videos]
        words = [self._video_placeholders(shown) for shown in entries]
        text, moves = self._expand(text, words, media)
        row = self._call_stock(text, videos, entries, media, images)
        offsets = row.pop("offset_mapping")[0]
        marks = row.pop("text_replacement_offsets")[0]
        spans_of_videos = self._spans_of_videos(marks, words, media)
        counts = [_tokens_within(offsets, span) for span in spans_of_videos]
        if sum(counts) > self.max_visual_tokens:
            raise ValueError(
                f"What is to be shown costs {sum(counts)} tokens, more than "
                f"`max_visual_tokens={self.max_visual_tokens}`."
            )
        inputs = {name: torch.as_tensor(value) for name, value in row.items()}
        if self.family.positions:
            inputs.pop("second_per_grid_ts", None)
            times = [[entry.times[0] for entry in shown] for shown in entries]
            inputs["position_ids"] = explicit_positions(inputs, times, self.family, self.config)
        if labels:
            # Molmo 2 puts a token ahead of the text.
            ahead = marks[0]["span"][0] - text.index(marks[0]["text"]) if marks else 0
            grown = [(mark["span"], mark["new_span"][1] - mark["new_span"][0]) for mark in marks]
            learned = [tuple(_moved(_moved(at, moves) + ahead, grown) for at in span) for span in spans]
            inputs["labels"] = _labels(inputs["input_ids"], offsets, learned)
        return Shown(BatchFeature(inputs), [counts], [entries])

    def _messages(self, chat: Any, num_videos: int) -> tuple[list[dict[str, Any]], list[str], list[Any]]:
        """The chat without media, what media it has in order (`"image"`, `"video"`), and its pictures."""
        messages: list[dict[str, Any]]
        messages = [{"role": "user", "content": chat}] if isinstance(chat, str) else [dict(turn) for turn in chat]
        has_videos = any(part.get("type") == "video" for turn in messages for part in _parts(turn))
        if not has_videos and num_videos:
            first = next((turn for turn in messages if turn["role"] == "user"), None)
            if first is None:
                raise ValueError("A chat needs a user's turn for its videos to stand in.")
            first["content"] = [{"type": "video"}] * num_videos + _parts(first)
        media: list[str] = []
        images: list[Any] = []
        for turn in messages:
            if isinstance(turn["content"], str):
                self._check_text(turn["content"])
                continue
            content = []
            for part in _parts(turn):
                kind = part.get("type")
                if kind == "text":
                    self._check_text(part["text"])
                    content.append({"type": "text", "text": part["text"]})
                    continue
                if kind not in ("image", "video"):
                    raise ValueError(f"A chat's content must be of type 'text', 'image' or 'video', got {kind!r}.")
                media.append(kind)
                if kind == "image":
                    images.append(_load_picture(part))
                if kind == "video" and self.family.layout == "images":
                    content.append({"type": "image", "is_video": True})
                else:
                    content.append({"type": kind, **(self.family.video_content if kind == "video" else {})})
            turn["content"] = content
        if media.count("video") != num_videos:
            raise ValueError(f"The chat has room for {media.count('video')} videos, but {num_videos} were given.")
        return messages, media, images

    def _check_text(self, text: str) -> None:
        mark = self._placeholder.search(text)
        if mark:
            raise ValueError(f"A text holds {mark.group()!r}, which stands for a picture: leave it out.")

    def _render(self, messages: Sequence[dict[str, Any]], **arguments: Any) -> str:
        if getattr(self.processor, "chat_template", None) is None and "SmolVLM" not in self.family.name:
            raise ValueError(
                f"This {type(self.processor).__name__} has no chat template: set `processor.chat_template`."
            )
        return self.processor.apply_chat_template(list(messages), tokenize=False, **arguments)

    def _video_placeholders(self, entries: Sequence[Entry]) -> str:
        """What stands for a video in the text that the stock processor is given."""
        if self.family.layout == "video":
            return self._token
        return self.family.joint.join(self._time_word(entry.times) + self._token for entry in entries)

    def _expand(
        self, text: str, words: Sequence[str], media: Sequence[str]
    ) -> tuple[str, list[tuple[tuple[int, int], int]]]:
        """The text with a placeholder for each entry, and the spans that were replaced, with their new lengths."""
        kinds = media if self.family.layout == "images" else ["video"] * len(words)
        found = list(re.finditer(re.escape(self._token), text))
        if len(found) != len(kinds):
            raise ValueError(
                f"The chat template writes {len(found)} marks ({self._token}) for {len(kinds)} videos or pictures: "
                "use another `chat_template`."
            )
        moves, parts, end, rest = [], [], 0, iter(words)
        for match, kind in zip(found, kinds, strict=True):
            new = next(rest) if kind == "video" else match.group()
            parts += [text[end : match.start()], new]
            moves.append((match.span(), len(new)))
            end = match.end()
        return "".join([*parts, text[end:]]), moves

    def _call_stock(
        self,
        text: str,
        videos: Sequence[ChosenFrames],
        entries: Sequence[Sequence[Entry]],
        media: Sequence[str],
        images: Sequence[Any],
    ) -> dict[str, Any]:
        pictures = [self._pictures(video, shown) for video, shown in zip(videos, entries, strict=True)]
        arguments: dict[str, Any] = {
            "text": [text],
            "text_kwargs": {"return_offsets_mapping": True, "return_text_replacement_offsets": True},
        }
        stock_images = list(images)
        if self.family.layout == "images":
            of_videos, of_chat = iter(pictures), iter(images)
            stock_images = []
            for kind in media:
                stock_images += [next(of_chat)] if kind == "image" else [_as_image(x[0]) for x in next(of_videos)]
        elif pictures:
            stock_videos, metadata = [], []
            for video, shown, tensors in zip(videos, entries, pictures, strict=True):
                if self.family.layout == "video":
                    tensors, times = [torch.cat(list(tensors))], [[entry.times[0] for entry in shown]]
                else:
                    times = [list(entry.times) for entry in shown]
                stock_videos += tensors
                metadata += [time_metadata(time, video.video.duration, video.video.size) for time in times]
            if self.family.layout == "video" and len({len(frames) for frames in stock_videos}) > 1:
                if not self.family.drops_empty_frames:
                    raise ValueError(
                        f"{self.family.name} takes several videos in one prompt only where all show the same number "
                        f"of pictures, got {[len(frames) for frames in stock_videos]}: set `num_key_frames` and "
                        "`coarse='none'`."
                    )
            arguments["videos"] = stock_videos
            arguments["videos_kwargs"] = {
                **video_arguments(self.family, self.processor, self.tokens_per_key_frame),
                "video_metadata": metadata,
            }
        if stock_images:
            arguments["images"] = [stock_images]
            arguments["images_kwargs"] = {"return_tensors": "pt"}
        bos = self.processor.tokenizer.bos_token
        if bos is not None and text.startswith(bos):
            arguments["text_kwargs"]["add_special_tokens"] = False
        return dict(self.processor(**arguments))

    def _spans_of_videos(
        self, marks: Sequence[dict[str, Any]], words: Sequence[str], media: Sequence[str]
    ) -> list[tuple[int, int]]:
        """Where each video stands in the text that was tokenized, from its first word to its last mark."""
        rest = iter(mark for mark in marks if self.family.layout == "images" or mark["type"] == "video")
        texts = iter(words)
        spans = []
        for kind in media:
            if kind == "image":
                if self.family.layout == "images":
                    next(rest)
                continue
            word = next(texts)
            taken = [next(rest) for _ in range(word.count(self._token))]
            # What stands before the first mark belongs to it, too: a time word.
            spans.append((taken[0]["new_span"][0] - word.index(self._token), taken[-1]["new_span"][1]))
        return spans

    # -------------------------------------------------------------------------------------------------- the batch

    def _collate(self, rows: Sequence[BatchFeature]) -> BatchFeature:
        """Rows padded on the left; all that belongs to pictures is put one after another."""
        length = max(row["input_ids"].shape[1] for row in rows)
        padding = {"input_ids": self.processor.tokenizer.pad_token_id or 0, "labels": -100}
        batch: dict[str, torch.Tensor] = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            values = [row[name] for row in rows if name in row]
            if name == "position_ids":
                batch[name] = torch.cat([_padded(value, length, 0) for value in values], 1)
            elif values[0].ndim == 2 and values[0].shape == rows[0]["input_ids"].shape:
                batch[name] = torch.cat([_padded(value, length, padding.get(name, 0)) for value in values])
            else:
                batch[name] = self._stacked(name, values)
        return BatchFeature(batch)

    def _stacked(self, name: str, values: list[torch.Tensor]) -> torch.Tensor:
        shapes = {tuple(value.shape[1:]) for value in values}
        if len(shapes) > 1 and self.family.drops_empty_frames:
            most = max(value.shape[1] for value in values)
            values = [torch.cat([v, v.new_zeros(len(v), most - v.shape[1], *v.shape[2:])], 1) for v in values]
        elif len(shapes) > 1:
            raise ValueError(
                f"{self.family.name} takes only videos that show the same number of pictures in one batch "
                f"({name} would be {sorted(shapes)}): ask one by one, or set `num_key_frames` and `coarse='none'`."
            )
        return torch.cat(values)


def _parts(turn: dict[str, Any]) -> list[dict[str, Any]]:
    content = turn["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _load_picture(part: dict[str, Any]) -> Image.Image:
    source = next((part[key] for key in ("image", "url", "path", "base64") if key in part), None)
    if source is None:
        raise ValueError("A picture of a chat needs `image`, `url`, `path` or `base64`.")
    return source.convert("RGB") if isinstance(source, Image.Image) else load_image(source)


def _picture_part(picture: Image.Image, image_format: str) -> dict[str, Any]:
    data = io.BytesIO()
    picture.save(data, image_format, **({"quality": 90} if image_format == "jpeg" else {}))
    url = f"data:image/{image_format};base64,{base64.b64encode(data.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _joined(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Texts that follow each other as one; empty ones left out."""
    joined: list[dict[str, Any]] = []
    for part in parts:
        if part["type"] == "text" and joined and joined[-1]["type"] == "text":
            joined[-1] = {"type": "text", "text": joined[-1]["text"] + part["text"]}
        elif part["type"] != "text" or part["text"]:
            joined.append(part)
    return joined


def _as_image(picture: torch.Tensor) -> Image.Image:
    return Image.fromarray(picture.permute(1, 2, 0).numpy())


def _tokens_within(offsets: Any, span: tuple[int, int]) -> int:
    """Tokens that hold a character of the span."""
    return sum(start < span[1] and end > span[0] for start, end in offsets)


def _moved(at: int, replaced: Sequence[tuple[tuple[int, int], int]]) -> int:
    """Where a place in a text is after spans of it were replaced."""
    return at + sum(length - (end - start) for (start, end), length in replaced if end <= at)


def _labels(input_ids: torch.Tensor, offsets: Any, spans: Sequence[tuple[int, ...]]) -> torch.Tensor:
    labels = torch.full_like(input_ids, -100)
    for position, (start, end) in enumerate(offsets):
        if any(start < last and end > first for first, last in spans):
            labels[0, position] = input_ids[0, position]
    return labels


def _padded(value: torch.Tensor, length: int, filler: int) -> torch.Tensor:
    return torch.nn.functional.pad(value, (length - value.shape[-1], 0), value=filler)


__all__ = ["ChosenFrames", "Entry", "FocusProcessor", "Shown", "VideoFrames"]
