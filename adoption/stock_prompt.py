"""What a stock processor writes into a prompt in place of a video, and what that costs in tokens."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

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
    The words and marks of a stock processor, asked of it with black pictures; nothing is known here of a checkpoint.

    Args:
        processor: the stock processor.
        family: its row.
        time_words: whether the time is written before each frame in words of ours.
    """

    def __init__(self, processor: Any, family: Family, time_words: bool = False):
        self.processor = processor
        self.family = family
        self.time_words = time_words
        #: One token that stands for visual features, and a run of them.
        self.placeholder = placeholder_pattern(processor)
        self.run = re.compile(f"(?:{self.placeholder.pattern})+")
        self._probes: dict[tuple[int, int], dict[str, Any]] = {}

    def time_word(self, times: Sequence[float]) -> str:
        """What is written before a frame by us: nothing, or its time."""
        return f"{times[0]:.1f}s: " if self.time_words else ""

    def text(self, times: Sequence[tuple[float, ...]], duration: float) -> str:
        """
        What stands in the prompt for a video that is shown at these times; native frames are as small as they get.

        Args:
            times: for each picture its time in seconds; two where the tower merges pairs.
            duration: of the whole video in seconds.
        """
        processor, family = self.processor, self.family
        if family.layout == "images":
            stock = processor.replace_image_token(self._probe(), 0)
            return "".join(self.time_word(time) + stock for time in times)
        if family.layout == "blocks":
            texts: dict[tuple[float, ...], str] = {}
            for time in times if family.times else times[:1]:
                if time not in texts:
                    metadata = time_metadata(time, duration)
                    texts[time] = processor.replace_video_token({**self._probe(), "video_metadata": [metadata]}, 0)
            first = texts[times[0]] if times else ""
            return family.joint.join(self.time_word(time) + texts.get(time, first) for time in times)
        probe = {
            name: value.expand(-1, len(times), *[-1] * (value.ndim - 2))
            if torch.is_tensor(value) and value.ndim == 5
            else value
            for name, value in self._probe().items()
        }
        if "video_grids" in probe:  # Molmo 2
            probe["video_grids"] = torch.cat([torch.tensor([[len(times)]]), probe["video_grids"][:, 1:]], 1)
        probe["video_metadata"] = [time_metadata([time[0] for time in times], duration)]
        return processor.replace_video_token(probe, 0)

    def picture_tokens(self) -> int:
        """Visual tokens of one picture, where all cost the same."""
        one, two = self._placeholders_of(1), self._placeholders_of(2)
        return two - one

    def word_prices(self, times: Sequence[tuple[float, ...]], duration: float, most: int) -> tuple[int, int]:
        """
        What words and marks cost.

        Args:
            times: of all pictures that might be shown; at most `most` of them are.

        Returns:
            Tokens of words and marks around one picture, and of those around the whole video, at most.
        """
        shown = times if self.family.times else times[:most]
        inner = {(True, piece, True) for piece in self.run.split(self.text(shown, duration))[1:-1]}
        if self.family.layout == "video":
            # What stands ahead of the first picture may name their number.
            counts = range(1, min(most, len(times)) + 1)
            ends = [self.text([time] * n, duration) for n in counts for time in (times[0], times[-1])]
        else:
            ends = [self.text([time], duration) for time in (times if self.family.times else times[:1])]
        split = [self.run.split(text) for text in ends]
        beside = max(self._tokens_of(inner or {(True, "", True)}))
        first = max(self._tokens_of({(False, pieces[0], True) for pieces in split}))
        last = max(self._tokens_of({(True, pieces[-1], False) for pieces in split}))
        # A visual token of no picture: the newline of LLaVA-OneVision at a video's end.
        tail = self._placeholders_of(1) - self.picture_tokens() if self.family.layout == "video" else 0
        return beside, max(0, first + last - beside) + tail

    def words(self, times: Sequence[tuple[float, ...]], duration: float) -> list[str]:
        """The plain words before each picture and after the last, without marks; what a chat template and the stock
        processor write around any picture is left out."""
        if self.family.layout == "images":
            return [*(self.time_word(time) for time in times), ""]
        marks = sorted(self.processor.tokenizer.get_added_vocab(), key=len, reverse=True)
        without = re.compile("|".join(map(re.escape, marks)))
        first, *rest = [without.sub("", piece) for piece in self.run.split(self.text(times, duration))]
        return [first, *(word.removeprefix(self._after_picture()) for word in rest)]

    def _after_picture(self) -> str:
        """What the chat template writes between a picture and the words after it."""
        content = [{"type": "image"}, {"type": "text", "text": "."}]
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        _, mark, after = text.rpartition(self.processor.image_token)
        return after.partition(".")[0] if mark else ""

    def _tokens_of(self, pieces: set[tuple[bool, str, bool]]) -> list[int]:
        """Tokens of texts with a picture before and after them, or not: a text is cut differently at its ends."""
        mark = self.placeholder.search(self._text_of(1))
        filler = mark.group() if mark else ""
        texts = [filler * before + text + filler * after for before, text, after in sorted(pieces)]
        around = [before + after for before, _, after in sorted(pieces)]
        ids = self.processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [len(row) - n for row, n in zip(ids, around, strict=True)]

    def _placeholders_of(self, num_pictures: int) -> int:
        return len(self.placeholder.findall(self._text_of(num_pictures)))

    def _text_of(self, num_pictures: int) -> str:
        start = (0.0,) * frames_per_block(self.family, self.processor)
        return self.text([start] * num_pictures, 1.0)

    def _probe(self) -> dict[str, Any]:
        """A black picture as the stock processor prepares it: its shape decides what is written."""
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
