"""
Training batches for a stock video language model: converts rows of any form into stock inputs with labels.

    processor = FocusProcessor.from_pretrained(model_id, dual_encoder=…, max_visual_tokens=4096)
    collator = FocusCollator(processor, media_root="videos")
    rows = rows.map(collator.choose)                  # once: encodes the videos, and chooses frames for each question
    Trainer(model=stock_model, train_dataset=rows, data_collator=collator, args=…)
"""

import copy
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import get_worker_info

from dynfocus.processing.reading.decoded_frames import is_state
from dynfocus.processing.rows.collator import RowCollator, naming
from dynfocus.processing.rows.conversations import media_of, text_of
from dynfocus.states.video_state import VideoState

from .focus_processor import FocusProcessor
from .looking import whole_video
from .video_frames import ChosenFrames


class FocusCollator(RowCollator):
    """
    Makes training batches for a stock model from rows of any form that [`as_messages`] reads, with labels only on the
    assistant's turns.

    Frames are chosen for the last question of a row, or for all its questions if several turns are learned. This needs
    the dual encoder, so it is done before training: [`choose`] returns the columns to add to a row. For rows without
    them, frames are chosen here, which is not possible in data loaders' workers.

    Args:
        processor ([`FocusProcessor`]): the model's processor, with its budget, rule and dual encoder.
        states (path, *optional*): a folder for the states of videos, so that no video is encoded twice.
        on_error, media_root, max_bad_fraction, learn_from: see [`DynFocusCollator`].
        max_length, on_too_long: the same; `"shrink"` gives a longer row a smaller budget of visual tokens.

    Returns a dict of tensors, padded on the right, `labels` being -100 outside the assistant's turns.

    Raises:
        `ValueError`: for a row that cannot be used (the message names its index and `id`), or if too many rows were
            bad.
    """

    def __init__(
        self,
        processor: FocusProcessor,
        on_error: Literal["raise", "skip"] = "raise",
        *,
        states: str | os.PathLike | None = None,
        **settings: Any,
    ):
        super().__init__(on_error, **settings)
        self.processor: FocusProcessor = processor
        self.states = None if states is None else Path(states)
        self._known: dict[str, VideoState] = {}
        self._last: VideoState | None = None

    def with_processor(self, processor: FocusProcessor, states: str | os.PathLike | None = None) -> "FocusCollator":
        """This collator with another processor; bad rows are counted together."""
        found = copy.copy(self)
        found.processor, found.states = processor, None if states is None else Path(states)
        found._known, found._last = {}, None
        return found

    def choose(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """
        Choose the frames of a row's videos; returns the columns that its batches need.

        Returns:
            `chosen_frames`, for each video `{"key_frames": [number, …], "coarse": [[number, …], …]}`; `num_tokens`,
            of the row at most (pictures beside videos not counted); and `unreadable`, why the row cannot be used
            (`None` if it can; with `on_error="raise"` that is an error instead).
        """
        if self.on_error == "raise":
            with naming(row):
                chosen, num_tokens = self._choose(row, self._conversation(row))
        else:
            try:
                chosen, num_tokens = self._choose(row, self._conversation(row))
            except (ValueError, OSError) as error:
                return {"chosen_frames": [], "num_tokens": 0, "unreadable": str(error)}
        found = [
            {"key_frames": list(one.key_frames), "coarse": [list(group) for group in one.coarse]} for one in chosen
        ]
        return {"chosen_frames": found, "num_tokens": num_tokens, "unreadable": None}

    def look(self, video: Any) -> VideoState:
        """
        The state of a video from the dual encoder; that of a file is kept for the next question about it.

        Raises:
            `ValueError`, `FileNotFoundError`: for a video that cannot be read.
        """
        key = _key(video)
        if key is not None and key in self._known:
            return self._as_last(self._known[key])
        save_to = None
        if self.states is not None and key is not None:
            self.states.mkdir(parents=True, exist_ok=True)
            save_to = self.states / f"{key}.safetensors"
        state = self.processor.look(video, save_to=save_to)
        if key is None:
            return state
        state.event_cache["source"] = video
        if not isinstance(video, bytes):
            self._known[key] = state
        return self._as_last(state)

    def _as_last(self, state: VideoState) -> VideoState:
        """The state of a file; only the last one keeps the file open, and its frames in memory."""
        if self._last is not None and self._last is not state:
            self._last.event_cache.pop("frames", None)
        self._last = state
        return state

    def estimate_length(self, row: Mapping[str, Any]) -> int:
        """The largest number of tokens that `encode` may return for the row; 0 for a row that cannot be used."""
        return (row if "num_tokens" in row else self.choose(row))["num_tokens"]

    def decode(self, generated: torch.Tensor, prompts: torch.Tensor) -> list[str]:
        texts = self.processor.processor.batch_decode(generated[:, prompts.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _encode(self, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        messages = self._conversation(row)
        chosen = self._chosen(row, messages)
        shown = self.processor.show(messages, chosen, labels=True, learn_from=self.learn_from)
        return self._checked(dict(shown.inputs), sum(shown.num_visual_tokens[0]))

    def _encode_prompt(self, row: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], str]:
        messages = self._conversation(row)
        chosen = self._chosen(row, messages)
        shown = self.processor.show(messages[:-1], chosen)
        return self._checked(dict(shown.inputs), sum(shown.num_visual_tokens[0])), text_of(messages[-1])

    def _merged(self, rows: Sequence[Any], side: Literal["left", "right"]) -> dict[str, Any]:
        return dict(self.processor.collate(rows, side))

    def _empty_row(self) -> dict[str, torch.Tensor]:
        inputs = dict(self.processor.show("-", []).inputs)
        return {**inputs, "labels": torch.full_like(inputs["input_ids"], -100)}

    def _chosen(self, row: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> list[ChosenFrames]:
        if row.get("unreadable"):
            raise ValueError(row["unreadable"])
        frames = row.get("chosen_frames")
        if frames is None:
            return self._choose(row, messages)[0]
        videos = _videos(messages)
        if len(frames) != len(videos):
            raise ValueError(
                f"`chosen_frames` are for {len(frames)} videos, but the row has {len(videos)}: choose again."
            )
        return [
            ChosenFrames(whole_video(video, self.processor.fps), one["key_frames"], one["coarse"])
            for video, one in zip(videos, frames, strict=True)
        ]

    def _choose(self, row: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> tuple[list[ChosenFrames], int]:
        """The frames of each video, and the largest number of tokens of the row."""
        processor, videos = self.processor, _videos(messages)
        num_text = processor.num_text_tokens(messages)
        if not videos:
            return [], num_text
        if get_worker_info() is not None:
            raise ValueError(
                "Frames are chosen before training, not in the data loader's workers: add to the rows what "
                "`FocusCollator.choose` returns for them, or set `dataloader_num_workers=0`."
            )
        if any(map(is_state, videos)):
            raise ValueError("A video state cannot be trained on: give the video itself.")
        budget = processor.max_visual_tokens
        if self.max_length is not None and self.on_too_long == "shrink":
            budget = min(budget, self.max_length - num_text)
        share = budget // len(videos)
        several_turns = sum(message["role"] == "assistant" for message in messages) > 1
        question = "\n".join(self._asked(messages, joined=several_turns and self.learn_from == "all"))
        if not question:
            raise ValueError("The question is empty: ask something about the video.")
        chosen, num_visual = [], 0
        for video in videos:
            state = self.look(video)
            try:
                options = row.get("options")
                choice = processor.choose_for(state, question, options=options, max_visual_tokens=share)
            except ValueError as error:
                if budget == processor.max_visual_tokens:
                    raise
                raise ValueError(
                    f"The row has {num_text} text tokens, but `max_length={self.max_length}`; {error} Shorten the "
                    "text, or raise `max_length`."
                ) from error
            chosen.append(choice.frames)
            num_visual += choice.budget.plan(state.num_frames[0]).num_visual_tokens
        return chosen, num_text + num_visual

    def _checked(self, inputs: dict[str, torch.Tensor], num_visual: int) -> dict[str, torch.Tensor]:
        length = inputs["input_ids"].shape[1]
        if self.max_length is not None and length > self.max_length:
            raise ValueError(
                f"The row has {num_visual} visual and {length - num_visual} text tokens, but "
                f"`max_length={self.max_length}`: give `on_too_long='shrink'`, a smaller `max_visual_tokens`, or a "
                "larger `max_length`."
            )
        return inputs


def _videos(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [video for kind, video in media_of(messages) if kind == "video"]


def _key(video: Any) -> str | None:
    """A short key for a video that can be read again: a path, URL or bytes."""
    if isinstance(video, (str, os.PathLike)):
        data = os.fspath(video).encode()
    elif isinstance(video, bytes):
        data = video
    else:
        return None
    return hashlib.sha256(data).hexdigest()[:24]


__all__ = ["FocusCollator"]
