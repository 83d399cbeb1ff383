"""What the pipeline tells about an answer: how sure it is, and on which frames and events it rests."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def sequence_scores(model: Any, output: Any, new_tokens: torch.Tensor, end_tokens: Sequence[int]) -> list[float]:
    """
    Geometric mean of the model's probabilities of the generated tokens, up to and with the first end token.

    Args:
        output: what `generate` returned with `output_logits=True`.
        new_tokens (`torch.Tensor` of shape `(batch, steps)`): the generated part of `output.sequences`.
    """
    log_probs = model.compute_transition_scores(
        output.sequences, output.logits, output.get("beam_indices"), normalize_logits=True
    )
    steps = min(log_probs.shape[1], new_tokens.shape[1])
    log_probs, new_tokens = log_probs[:, :steps].float(), new_tokens[:, :steps]
    is_end = torch.isin(new_tokens, torch.tensor(list(end_tokens), dtype=new_tokens.dtype, device=new_tokens.device))
    # Only padding follows the first end token.
    kept = is_end.cumsum(1) - is_end.long() == 0
    means = torch.where(kept, log_probs, 0.0).sum(1) / kept.sum(1).clamp(min=1)
    return means.exp().tolist()


def key_frame_list(
    selection: Sequence[Mapping[str, torch.Tensor]], times: Sequence[Sequence[float]]
) -> list[dict[str, Any]]:
    """The key frames of one row's videos: `{"index", "time", "score"}`, and `"video"` where there are several."""
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
    """The events of one row's videos in time order of their prototypes; see [`VideoQAPipeline`]."""
    found = []
    for video, (one, seconds) in enumerate(zip(selection, times, strict=True)):
        key_frames = set(one["key_frames"].tolist())
        scores = one["event_scores"].float().sigmoid().tolist()
        for event, medoid in enumerate(one["event_medoids"].tolist()):
            frames = (one["event_of_frame"] == event).nonzero().flatten().tolist() or [medoid]
            entry = {
                "start": seconds[frames[0]],
                "end": _end_of_frame(seconds, frames[-1]),
                "start_index": frames[0],
                "end_index": frames[-1],
                "frames": frames,
                "medoid": medoid,
                "score": scores[event],
                "selected": medoid in key_frames,
            }
            found.append({"video": video, **entry} if len(selection) > 1 else entry)
    return found


def _end_of_frame(seconds: Sequence[float], index: int) -> float:
    """When the next frame begins; the last frame lasts as long as the one before it, a single one for a second."""
    if index + 1 < len(seconds):
        return seconds[index + 1]
    return seconds[index] + (seconds[index] - seconds[index - 1] if index else 1.0)


__all__ = ["event_list", "key_frame_list", "sequence_scores"]
