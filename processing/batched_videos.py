"""The videos of several rows through the model at once, whether they come as pixels or as states."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from .rows.collator import merge_rows

_VIDEO_INPUTS = (
    "pixel_values_videos",
    "video_frame_mask",
    "video_token_plan",
    "question_input_ids",
    "question_attention_mask",
)
# Question and chat template.
_POSITIONS_FOR_WORDS = 448
# Of a state that is copied into a batch with others. A longer one keeps the processor busy by itself.
_MOST_COPIED_FRAMES = 256


def features_of_rows(
    model: Any, rows: Sequence[Mapping[str, Any]], pad_token_id: int
) -> tuple[list[list[dict[str, Any]]], Any]:
    """
    What `get_video_features` gives for the videos of each row.

    Videos that come as pixels go through together, and so do short states. Questions about one and the same state
    share it: nothing of it is copied.

    Args:
        rows: prepared rows, each `(1, …)`; those without a video have no part in it.
        pad_token_id: of the questions.

    Returns:
        For each row the features of each of its videos, by name; and the features of all videos in the order of the
        rows, as the model returns them (`None` where there is no video).
    """
    groups: dict[Hashable, list[int]] = {}
    askers = Counter(id(row.get("video_state")) for row in rows)
    for index, row in enumerate(rows):
        if "video_token_plan" in row:
            state = row.get("video_state")
            several = len(rows) if state is None else askers[id(state)]
            groups.setdefault(_company(state, several, index), []).append(index)
    videos: list[list[dict[str, Any]]] = [[] for _ in rows]
    features: Any = None
    for members in groups.values():
        features = _features([rows[index] for index in members], model, pad_token_id)
        found = (dict(zip(features, values, strict=True)) for values in zip(*features.values(), strict=True))
        for index in members:
            videos[index] = [next(found) for _ in rows[index]["video_token_plan"]]
    if len(groups) > 1:
        everything = [video for own in videos for video in own]
        features = type(features)(**{name: [video[name] for video in everything] for name in features})
    return videos, features


def room_for_videos(positions: int, new_tokens: int, num_videos: int, least: int) -> int | None:
    """
    Visual tokens of each video that fit among a language model's positions, beside words and the answer's tokens; of
    few positions, words get no more than half. `None` where not even `least` fit: the words of the prompt's own error
    say more than a budget's then.
    """
    left = positions - new_tokens
    room = (left - min(_POSITIONS_FOR_WORDS, left // 2)) // num_videos
    return room if room >= least else None


def _company(state: Any, askers: int, index: int) -> Hashable:
    """Equal for rows that go through the model together."""
    if state is None:
        return "pixels"
    if len(state) == 1 and askers > 1:
        return id(state)
    if state.frame_mask.shape[1] > _MOST_COPIED_FRAMES:
        return "alone", index
    return "states", state.frame_features.dtype


def _features(rows: Sequence[Mapping[str, Any]], model: Any, pad_token_id: int) -> Any:
    inputs: Any = merge_rows(
        [{name: row[name] for name in _VIDEO_INPUTS if name in row} for row in rows], pad_token_id, "left"
    )
    states = [row["video_state"] for row in rows if "video_state" in row]
    if states:
        # Of one and the same video, a batch of views.
        inputs["video_state"] = states[0] if len(states) == 1 else type(states[0]).stack(states)
    return model.get_video_features(**inputs)


__all__ = ["features_of_rows", "room_for_videos"]
