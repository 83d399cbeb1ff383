"""Calls of a stock processor: inputs for one text, the places of videos and answers in its tokens, and batches."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from transformers import BatchFeature
from transformers.video_utils import VideoMetadata

from .families import Family, time_metadata, video_arguments
from .video_frames import as_image

Span = tuple[int, int]


class StockCall:
    """
    One call of a stock processor, for one text and the pictures of its videos.

    Args:
        processor, family: the stock processor, and its row of `families.py`.
        most_tokens: largest number of visual tokens of a picture.
    """

    def __init__(self, processor: Any, family: Family, most_tokens: int):
        self.processor = processor
        self.family = family
        self._arguments = video_arguments(family, processor, most_tokens)
        #: For each video its pictures, `(frames, 3, H, W)` uint8 of each entry.
        self._pictures: list[list[torch.Tensor]] = []
        self._metadata: list[VideoMetadata] = []

    def add_video(self, pictures: list[torch.Tensor], times: Sequence[Sequence[float]], duration: float) -> None:
        """Add the pictures of the next video, with their times and the video's length in seconds."""
        if self.family.layout == "video":
            pictures, times = [torch.cat(pictures)], [[time[0] for time in times]]
        self._pictures.append(pictures)
        self._metadata += [time_metadata(time, duration) for time in times]

    def __call__(
        self, text: str, media: Sequence[str], images: Sequence[Any]
    ) -> tuple[dict[str, Any], list[Span], list[dict[str, Any]]]:
        """
        Args:
            text: with a mark for each entry.
            media: `"image"` or `"video"` in the order of the text.
            images: the pictures of the chat besides its videos.

        Returns:
            The inputs; the place of each token in the stock processor's text; and the replacements in that text.

        Raises:
            `ValueError`: for several videos that the model cannot take together.
        """
        arguments: dict[str, Any] = {
            "text": [text],
            "return_text_replacement_offsets": True,
            "text_kwargs": {"return_offsets_mapping": True},
        }
        stock_images = list(images)
        if self.family.layout == "images":
            of_videos, of_chat = iter(self._pictures), iter(images)
            stock_images = []
            for kind in media:
                stock_images += [next(of_chat)] if kind == "image" else [as_image(x[0]) for x in next(of_videos)]
        elif self._pictures:
            if stock_images and not self.family.pictures_beside_videos:
                raise ValueError(
                    f"{self.family.name} takes either pictures or videos in one prompt: leave out the pictures."
                )
            stock_videos = [picture for pictures in self._pictures for picture in pictures]
            lengths = [len(frames) for frames in stock_videos]
            if len(set(lengths)) > 1 and self.family.layout == "video" and not self.family.drops_empty_frames:
                raise ValueError(
                    f"{self.family.name} takes several videos in one prompt only where all show the same number of "
                    f"pictures, got {lengths}: set `num_key_frames` and `coarse='none'`."
                )
            arguments["videos"] = [stock_videos]
            arguments["videos_kwargs"] = {**self._arguments, "video_metadata": self._metadata}
        if stock_images:
            arguments["images"] = [stock_images]
            arguments["images_kwargs"] = {"return_tensors": "pt"}
        bos = self.processor.tokenizer.bos_token
        if bos is not None and text.startswith(bos):
            arguments["text_kwargs"]["add_special_tokens"] = False
        row = dict(self.processor(**arguments))
        offsets, marks = row.pop("offset_mapping")[0], row.pop("text_replacement_offsets")[0]
        return row, [(int(start), int(end)) for start, end in offsets], marks


def tokens_within(offsets: Sequence[Span], span: Span) -> int:
    """Tokens that hold a character of the span; `offsets` are those of the tokens in the text."""
    return sum(start < span[1] and end > span[0] for start, end in offsets)


def moved(at: int, replaced: Sequence[tuple[Span, int]]) -> int:
    """The place of a character after spans of the text were replaced by texts of the given lengths."""
    return at + sum(length - (end - start) for (start, end), length in replaced if end <= at)


def spans_of_videos(
    marks: Sequence[dict[str, Any]], words: Sequence[str], media: Sequence[str], token: str, family: Family
) -> list[Span]:
    """
    The span of each video in the tokenized text, from its first word to its last mark.

    Args:
        marks: the stock processor's replacements (`text_replacement_offsets`).
        words: the text of each video before, with a `token` for each of its entries.
        media: `"image"` or `"video"` in the order of the chat.
    """
    replaced = iter(mark for mark in marks if family.layout == "images" or mark["type"] == "video")
    texts = iter(words)
    spans = []
    for kind in media:
        if kind == "video":
            word = next(texts)
            taken = [next(replaced) for _ in range(word.count(token))]
            # The text before the first mark, a time word, belongs to it as well.
            spans.append((taken[0]["new_span"][0] - word.index(token), taken[-1]["new_span"][1]))
        elif family.layout == "images":
            next(replaced)
    return spans


def answer_labels(input_ids: torch.Tensor, offsets: Sequence[Span], spans: Sequence[Span]) -> torch.Tensor:
    """The tokens `(1, S)` that hold a character of one of the spans; -100 elsewhere."""
    labels = torch.full_like(input_ids, -100)
    for position, (start, end) in enumerate(offsets):
        if any(start < last and end > first for first, last in spans):
            labels[0, position] = input_ids[0, position]
    return labels


def collate(
    rows: Sequence[BatchFeature], pad_token_id: int, family: Family, side: Literal["left", "right"] = "left"
) -> BatchFeature:
    """
    Rows padded on one side; all that belongs to pictures is put one after another.

    Raises:
        `ValueError`: for videos that the family cannot take in one batch.
    """
    length = max(row["input_ids"].shape[1] for row in rows)
    fillers = {"input_ids": pad_token_id, "labels": -100}
    batch: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        having = [row for row in rows if name in row]
        values = [row[name] for row in having]
        if name.endswith("_token_pooling"):
            values = _renumbered(values, having, name)
        if name == "position_ids":
            batch[name] = torch.cat([_padded(value, length, 0, side) for value in values], 1)
        elif all(value.shape == row["input_ids"].shape for value, row in zip(values, having, strict=True)):
            batch[name] = torch.cat([_padded(value, length, fillers.get(name, 0), side) for value in values])
        else:
            batch[name] = _concatenated(values, family)
    return BatchFeature(batch)


def _concatenated(values: list[torch.Tensor], family: Family) -> torch.Tensor:
    shapes = {tuple(value.shape[1:]) for value in values}
    if len(shapes) == 1:
        return torch.cat(values)
    if not family.drops_empty_frames:
        raise ValueError(
            f"{family.name} takes only videos that show the same number of pictures in one batch, got "
            f"{[value.shape[1] for value in values]}: ask one by one, or set `num_key_frames` and `coarse='none'`."
        )
    most = max(value.shape[1] for value in values)
    return torch.cat([torch.cat([v, v.new_zeros(len(v), most - v.shape[1], *v.shape[2:])], 1) for v in values])


def _renumbered(values: list[torch.Tensor], rows: list[BatchFeature], name: str) -> list[torch.Tensor]:
    """Molmo 2 numbers the patches of a whole batch, row after row; -1 means no patch."""
    pixels = "pixel_values_videos" if name.startswith("video") else "pixel_values"
    counts = torch.tensor([0] + [row[pixels].shape[:2].numel() for row in rows]).cumsum(0)
    return [torch.where(value >= 0, value + before, value) for value, before in zip(values, counts[:-1], strict=True)]


def _padded(value: torch.Tensor, length: int, filler: int, side: Literal["left", "right"]) -> torch.Tensor:
    missing = length - value.shape[-1]
    return torch.nn.functional.pad(value, (missing, 0) if side == "left" else (0, missing), value=filler)


__all__ = ["Span", "StockCall", "answer_labels", "collate", "moved", "spans_of_videos", "tokens_within"]
