"""The interface [`VideoQA`] for the trained model, [`DynFocusForConditionalGeneration`]."""

import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import get_worker_info

from dynfocus.encoding.event_prototypes import choose_by_frames
from dynfocus.selecting.focus import Focus
from dynfocus.selecting.rules import Rule
from dynfocus.states.video_state import VideoState

from .questions import check_length, cut_question
from .reading.decoded_frames import is_state
from .reading.stream import FrameStream
from .rows.collator import merge_rows, pad_token_id
from .rows.conversations import media_of, text_of
from .token_plan import room_for_videos
from .video_qa import DEFAULT_NEW_TOKENS, Shown, VideoQA, event_entry, find_rule, read_row, sources_of

_TEXT_INPUTS = ("input_ids", "attention_mask")
_VIDEO_INPUTS = (
    "pixel_values_videos",
    "video_frame_mask",
    "video_token_plan",
    "question_input_ids",
    "question_attention_mask",
)
# Most frames of a state that is copied into a batch with others. A longer one uses the processor fully by itself.
_MOST_COPIED_FRAMES = 256
# Most questions about one video at once, and most visual tokens of them. With more, a CPU's cache is too small, and
# they take longer than one by one.
_QUESTIONS_AT_ONCE = 8
_TOKENS_AT_ONCE = {"cpu": 2048}
_TOKENS_AT_ONCE_ELSEWHERE = 16384


class DynFocusVideoQA(VideoQA):
    """The interface of the trained model, [`DynFocusForConditionalGeneration`]."""

    def fingerprint(self) -> str | None:
        return self.model.video_fingerprint(self.processor)

    @property
    def state_dtype(self) -> torch.dtype:
        return self.model.base_model.vision_tower.dtype

    def check_state(self, state: VideoState) -> None:
        if state.frame_features is None:
            raise ValueError(
                "This video state was encoded by a dual encoder, for a stock model: choose that model, or encode the "
                "video again."
            )
        width = self.model.config.vision_config.hidden_size
        if state.frame_features.shape[-1] != width:
            raise ValueError(
                f"This video state was encoded by another model (its features have {state.frame_features.shape[-1]} "
                f"numbers, not {width}): choose that model, or encode the video again."
            )
        self.model.check_state(state, self.processor)

    @property
    def defaults(self) -> dict[str, Any]:
        frames = self.processor.video_processor
        return {
            "fps": frames.fps,
            "max_frames": frames.max_frames,
            "max_visual_tokens": self.processor.max_visual_tokens,
        }

    def open_video(self, video: Any, **sampling: Any) -> FrameStream:
        return self.processor.video_processor.stream(
            video,
            self.model.config.vision_config.frames_per_chunk,
            pin_memory=self.device.type == "cuda",
            **sampling,
        )

    def encode_stream(self, stream: FrameStream, **options: Any) -> VideoState:
        return self.model.base_model.encode_frames(stream, **options)

    def choose(
        self, state: VideoState, question: str, *, max_visual_tokens: int | None = None, rule: str | Rule | None = None
    ) -> Focus:
        if len(state) != 1:
            raise ValueError(f"Frames are chosen from one video at a time, and this state holds {len(state)}.")
        row = self.prepare({"video": state, "question": question}, max_visual_tokens=max_visual_tokens)
        names = ("video_state", "video_token_plan", "question_input_ids", "question_attention_mask")
        inputs = {name: row["inputs"][name] for name in names}
        with torch.no_grad():
            return self.model.base_model.choose(**inputs, choose=_rule_of_choice(rule))

    def token_range(self, state: VideoState) -> tuple[int, int, int]:
        (num_frames,) = state.num_frames
        usual = self.processor.token_budget(max_visual_tokens=self._max_visual_tokens({}, 1))
        all_it_asks_for = replace(usual, max_visual_tokens=None)
        least = usual.cone_tokens + usual.rod_tokens
        return least, *(one.plan(num_frames).num_visual_tokens for one in (usual, all_it_asks_for))

    def cut_for_choice(self, text: str) -> str:
        return cut_question([text], self.processor.tokenizer, self.processor.max_question_tokens)

    def prepare(self, row: Mapping[str, Any], question: str | None = None, **settings: Any) -> dict[str, Any]:
        start = time.perf_counter()
        messages, asked = read_row(row, question)
        check_length(map(text_of, messages), self.model.config)
        given = [video for _, video in media_of(messages)]
        num_videos = sum(len(video) if is_state(video) else 1 for video in given)
        settings["max_visual_tokens"] = self._max_visual_tokens(settings, num_videos)
        settings.pop("max_new_tokens", None)
        is_begun = messages[-1]["role"] == "assistant"
        inputs = self.processor.apply_chat_template(
            [messages],
            question=asked,
            add_generation_prompt=not is_begun,
            continue_final_message=is_begun,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={**settings, "return_metadata": True},
        )
        metadata = inputs.pop("video_metadata", None) or []
        state = inputs.get("video_state")
        if state is not None and get_worker_info() is None:
            # Checked for each row: the model would refuse the whole batch, and is not available in a worker.
            self.check_state(state)
        # The model does not take offsets and the like.
        names = (*_TEXT_INPUTS, *_VIDEO_INPUTS, "video_state")
        return {
            "inputs": {name: inputs[name] for name in names if name in inputs},
            "frame_times": [one.timestamps for one in metadata] if state is None else times_of_state(state),
            "decode": time.perf_counter() - start,
            "question": asked,
            "sources": sources_of(given),
        }

    def show(self, rows: Sequence[dict[str, Any]], rule: str | Rule | None) -> tuple[dict[str, Any], list[Shown]]:
        pad = pad_token_id(self.processor.tokenizer)
        videos, features = encode_rows(self.model, [row["inputs"] for row in rows], pad, choose=_rule_of_choice(rule))
        texts = [{name: row["inputs"][name] for name in _TEXT_INPUTS} for row in rows]
        batch: dict[str, Any] = {
            name: tensor.to(self.device) for name, tensor in merge_rows(texts, pad, "left").items()
        }
        if features is not None:
            # Videos are already encoded, so `generate` gets only the features.
            batch["mm_encoder_outputs"] = {"video": features}
        full_price = self.processor.cone_tokens + self.processor.rod_tokens
        shown = [
            Shown(
                key_frames=key_frame_list(own, row["frame_times"]),
                events=event_list(own, row["frame_times"]),
                frame_times=row["frame_times"],
                num_visual_tokens=sum(len(video["pooler_output"]) for video in own),
                num_dense_tokens=sum(map(len, row["frame_times"])) * full_price,
            )
            for row, own in zip(rows, videos, strict=True)
        ]
        return batch, shown

    def decode(self, new_tokens: torch.Tensor) -> list[str]:
        return self.processor.post_process_generation(new_tokens)

    def questions_at_once(self, state: VideoState, settings: Mapping[str, Any]) -> int:
        try:
            budget = self.processor.token_budget(max_visual_tokens=self._max_visual_tokens(settings, len(state)))
            num_tokens = sum(budget.plan(count).num_visual_tokens for count in state.num_frames)
        except ValueError:
            # Each question will raise this error.
            return 1
        most = _TOKENS_AT_ONCE.get(self.device.type, _TOKENS_AT_ONCE_ELSEWHERE)
        return max(1, min(_QUESTIONS_AT_ONCE, most // num_tokens))

    def _max_visual_tokens(self, settings: Mapping[str, Any], num_videos: int) -> int | None:
        """
        Budget of each video; by default as many tokens as fit into the language model's positions besides the words.
        """
        for limit in (settings.get("max_visual_tokens"), self.processor.max_visual_tokens):
            if limit is not None:
                return limit
        # Not every family has a limit of positions.
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if positions is None or not num_videos:
            return None
        new_tokens = max(settings.get("max_new_tokens") or 0, DEFAULT_NEW_TOKENS)
        least = self.processor.cone_tokens + self.processor.rod_tokens
        return room_for_videos(positions, new_tokens, num_videos, least)


def _rule_of_choice(rule: str | Rule | None) -> Callable[..., Focus] | None:
    """`choose` of [`DynFocusModel.get_video_features`]; `None` for DPE."""
    return None if rule is None or rule == "dpe" else choose_by_frames(find_rule(rule))


def encode_rows(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    pad_token_id: int,
    choose: Callable[..., Focus] | None = None,
) -> tuple[list[list[dict[str, Any]]], Any]:
    """
    The output of `get_video_features` for the videos of each row.

    Videos given as pixels are encoded together, and so are short states. Questions about the same state share it
    without copies.

    Args:
        rows: prepared rows, each `(1, …)`; rows without a video are skipped.
        pad_token_id: padding token of the questions.
        choose: see `get_video_features`.

    Returns:
        For each row the features of each of its videos, by name; and the features of all videos in the order of the
        rows, as the model returns them (`None` if there is no video).
    """
    groups: dict[Hashable, list[int]] = {}
    askers = Counter(id(row.get("video_state")) for row in rows)
    for index, row in enumerate(rows):
        if "video_token_plan" in row:
            state = row.get("video_state")
            several = len(rows) if state is None else askers[id(state)]
            groups.setdefault(_group_key(state, several, index), []).append(index)
    videos: list[list[dict[str, Any]]] = [[] for _ in rows]
    features: Any = None
    for members in groups.values():
        features = _features([rows[index] for index in members], model, pad_token_id, choose)
        found = (dict(zip(features, values, strict=True)) for values in zip(*features.values(), strict=True))
        for index in members:
            videos[index] = [next(found) for _ in rows[index]["video_token_plan"]]
    if len(groups) > 1:
        everything = [video for own in videos for video in own]
        features = type(features)(**{name: [video[name] for video in everything] for name in features})
    return videos, features


def _group_key(state: Any, askers: int, index: int) -> Hashable:
    """A key that is equal for rows that are encoded together."""
    if state is None:
        return "pixels"
    if len(state) == 1 and askers > 1:
        return id(state)
    if state.frame_mask.shape[1] > _MOST_COPIED_FRAMES:
        return "alone", index
    return "states", state.dtype


def _features(
    rows: Sequence[Mapping[str, Any]], model: Any, pad_token_id: int, choose: Callable[..., Focus] | None
) -> Any:
    inputs: Any = merge_rows(
        [{name: row[name] for name in _VIDEO_INPUTS if name in row} for row in rows], pad_token_id, "left"
    )
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    states = [row["video_state"] for row in rows if "video_state" in row]
    if states:
        # All rows are of the same video: a batch of views.
        inputs["video_state"] = states[0] if len(states) == 1 else type(states[0]).stack(states)
    return model.get_video_features(**inputs, choose=choose)


def times_of_state(state: VideoState) -> list[list[float]]:
    """Seconds of the frames of each video of a state."""
    if state.frame_times is None:
        # A state without times: one frame a second, the default rate.
        return [[float(second) for second in range(count)] for count in state.num_frames]
    pairs = zip(state.frame_times.tolist(), state.num_frames, strict=True)
    return [times[:count] for times, count in pairs]


def key_frame_list(
    selection: Sequence[Mapping[str, torch.Tensor]], times: Sequence[Sequence[float]]
) -> list[dict[str, Any]]:
    """The key frames of one row's videos: `{"index", "time", "score"}`, and `"video"` if there are several."""
    found = []
    for video, (one, seconds) in enumerate(zip(selection, times, strict=True)):
        scores = one["event_scores"].float().sigmoid()
        for index in one["key_frames"].tolist():
            entry = {"index": index, "time": seconds[index], "score": float(scores[one["event_of_frame"][index]])}
            found.append({"video": video, **entry} if len(selection) > 1 else entry)
    return found


def event_list(
    selection: Sequence[Mapping[str, torch.Tensor]], times: Sequence[Sequence[float]]
) -> list[dict[str, Any]]:
    """
    The events of one row's videos in time order of their prototypes: see [`Answer`]. An event may return, so `frames`
    lists its frames; `end` is the start of the frame after its last one.
    """
    found = []
    for video, (one, seconds) in enumerate(zip(selection, times, strict=True)):
        key_frames = set(one["key_frames"].tolist())
        scores = one["event_scores"].float().sigmoid().tolist()
        for event, medoid in enumerate(one["event_medoids"].tolist()):
            frames = (one["event_of_frame"] == event).nonzero().flatten().tolist() or [medoid]
            entry = event_entry(seconds, frames, medoid, scores[event], medoid in key_frames)
            found.append({"video": video, **entry} if len(selection) > 1 else entry)
    return found


__all__ = ["DynFocusVideoQA", "encode_rows", "event_list", "key_frame_list", "times_of_state"]
