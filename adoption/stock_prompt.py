"""The text that a stock processor writes into a prompt for a video, and its cost in tokens."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from dynfocus.processing.questions import without_control_tokens

from .families import (
    Family,
    frames_per_block,
    placeholder_pattern,
    time_metadata,
    token_side,
    video_arguments,
)


class StockPrompt:
    """
    The words and marks of a stock processor, found by calling it with black pictures; nothing is specific to a
    checkpoint.

    Args:
        processor: the stock processor.
        family: its row of `families.py`.
        time_words: whether DynFocus writes the time before each frame.
    """

    def __init__(self, processor: Any, family: Family, time_words: bool = False):
        self.processor = processor
        self.family = family
        self.time_words = time_words
        #: Patterns of one placeholder token of visual features, and of a run of them.
        self.placeholder = placeholder_pattern(processor)
        self.run = re.compile(f"(?:{self.placeholder.pattern})+")
        self._probes: dict[tuple[int, int], dict[str, Any]] = {}
        self._last: tuple[Any, tuple[int, int]] | None = None

    def plain(self, text: str) -> str:
        """A text of the user without special tokens and marks of pictures: each is split by a space."""
        parted = self.placeholder.sub(lambda found: f"{found.group()[0]} {found.group()[1:]}", text)
        return without_control_tokens(parted, self.processor.tokenizer)

    @property
    def keeps_videos_apart(self) -> bool:
        """Whether stock pixels are `(videos, frames, 3, H, W)`, so that the videos of a batch have the same length."""
        return any(torch.is_tensor(value) and value.ndim == 5 for value in self._probe().values())

    def time_word(self, times: Sequence[float]) -> str:
        """The text that DynFocus writes before a frame: nothing, or its time."""
        return f"{times[0]:.1f}s: " if self.time_words else ""

    def text(self, times: Sequence[tuple[float, ...]], duration: float) -> str:
        """
        The text in the prompt for a video that is shown at these times, with frames of the smallest size.

        Args:
            times: time of each picture in seconds; two times if the tower merges pairs.
            duration: length of the whole video in seconds.
        """
        if self.family.layout == "video":
            return self._one_video(len(times), times, duration)
        return self.family.joint.join(self._pictures_alone(times, duration))

    def _pictures_alone(self, times: Sequence[tuple[float, ...]], duration: float) -> list[str]:
        """The text of each picture, if each is written separately."""
        processor, probe = self.processor, self._probe()
        if self.family.layout == "images":
            stock = [processor.replace_image_token(probe, 0)] * len(times)
        elif self.family.times:
            stock = [
                processor.replace_video_token({**probe, "video_metadata": [time_metadata(time, duration)]}, 0)
                for time in times
            ]
        else:
            stock = [processor.replace_video_token(probe, 0)] * len(times)
        return [self.time_word(time) + text for time, text in zip(times, stock, strict=True)]

    def _one_video(self, num_pictures: int, times: Sequence[tuple[float, ...]], duration: float) -> str:
        """The text of one stock video; if it writes times, those of the first pictures may be enough."""
        probe = {
            name: value.expand(-1, num_pictures, *[-1] * (value.ndim - 2))
            if torch.is_tensor(value) and value.ndim == 5
            else value
            for name, value in self._probe().items()
        }
        if "video_grids" in probe:  # Molmo 2
            probe["video_grids"] = torch.cat([torch.tensor([[num_pictures]]), probe["video_grids"][:, 1:]], 1)
        probe["video_metadata"] = [time_metadata([time[0] for time in times], duration)]
        return self.processor.replace_video_token(probe, 0)

    def picture_tokens(self) -> int:
        """Visual tokens of one picture, if all cost the same."""
        one, two = self._placeholders_of(1), self._placeholders_of(2)
        return two - one

    def word_prices(self, times: Sequence[tuple[float, ...]], duration: float, most: int) -> tuple[int, int]:
        """
        The cost of words and marks.

        Args:
            times: times of all pictures that may be shown; at most `most` of them are.

        Returns:
            The largest number of tokens of words and marks around one picture, and around the whole video.
        """
        given = (list(times), duration, most)
        if self._last is None or self._last[0] != given:
            self._last = (given, self._word_prices(*given))
        return self._last[1]

    def _word_prices(self, times: list[tuple[float, ...]], duration: float, most: int) -> tuple[int, int]:
        has_times = self.family.times is not None or self.time_words
        if not has_times:
            times = times[:most]
        if self.family.layout == "video":
            pieces = self.run.split(self.text(times, duration))
            beside, last = set(pieces[1:-1]), {pieces[-1]}
            # The text before the first picture may contain the number of pictures.
            counts = range(1, min(most, len(times)) + 1) if has_times else (1,)
            ends = (times[:1], times[-1:])
            first = {self.run.split(self._one_video(n, end, duration))[0] for n in counts for end in ends}
        else:
            alone = [self.run.split(text) for text in self._pictures_alone(times, duration)]
            first, last = {head for head, _ in alone}, {tail for _, tail in alone}
            beside = {alone[i][1] + self.family.joint + alone[i + 1][0] for i in range(len(alone) - 1)}
        inner = self._most_tokens(beside or {""}, before=True, after=True)
        outer = self._most_tokens(first, after=True) + self._most_tokens(last, before=True)
        # A visual token outside of pictures: the newline of LLaVA-OneVision at the end of a video.
        tail = self._placeholders_of(1) - self.picture_tokens() if self.family.layout == "video" else 0
        return inner, max(0, outer - inner) + tail

    def words(self, times: Sequence[tuple[float, ...]], duration: float) -> list[str]:
        """
        The words before each picture and after the last, without marks, and without the text that chat template and
        stock processor write around every picture.
        """
        if self.family.layout == "images":
            return [*(self.time_word(time) for time in times), ""]
        marks = sorted(self.processor.tokenizer.get_added_vocab(), key=len, reverse=True)
        without = re.compile("|".join(map(re.escape, marks)))
        first, *rest = [without.sub("", piece) for piece in self.run.split(self.text(times, duration))]
        return [first, *(word.removeprefix(self._after_picture()) for word in rest)]

    def _after_picture(self) -> str:
        """The text that the chat template writes between a picture and the words after it."""
        content = [{"type": "image"}, {"type": "text", "text": "."}]
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        _, mark, after = text.rpartition(self.processor.image_token)
        return after.partition(".")[0] if mark else ""

    def _most_tokens(self, texts: set[str], before: bool = False, after: bool = False) -> int:
        """
        Number of tokens of the longest of these texts, with a picture before or after it, because texts are tokenized
        differently at their ends.
        """
        mark = self.placeholder.search(self._text_of(1))
        filler = mark.group() if mark else ""
        framed = [filler * before + text + filler * after for text in sorted(texts)]
        ids = self.processor.tokenizer(framed, add_special_tokens=False)["input_ids"]
        return max(map(len, ids)) - before - after

    def _placeholders_of(self, num_pictures: int) -> int:
        return len(self.placeholder.findall(self._text_of(num_pictures)))

    def _text_of(self, num_pictures: int) -> str:
        start = (0.0,) * frames_per_block(self.family, self.processor)
        return self.text([start] * num_pictures, 1.0)

    def _probe(self) -> dict[str, Any]:
        """A black picture prepared by the stock processor; its shape determines the text."""
        frames = frames_per_block(self.family, self.processor)
        side = token_side(self.processor) if self.family.native else 32
        if (frames, side) not in self._probes:
            if self.family.layout == "images":
                probe = self.processor.image_processor([Image.new("RGB", (side, side))], return_tensors="pt")
            else:
                probe = self.processor.video_processor(
                    [torch.zeros(frames, 3, side, side, dtype=torch.uint8)],
                    video_metadata=[time_metadata([0.0] * frames, 1.0)],
                    return_metadata=True,
                    **video_arguments(self.family, self.processor, 1),
                )
            self._probes[frames, side] = dict(probe)
        return self._probes[frames, side]


__all__ = ["StockPrompt"]
