"""Checks of the inputs that come with videos: frame masks and token plans."""

from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from .states.video_state import VideoState


def checked_frame_mask(pixel_values_videos: torch.Tensor, video_frame_mask: torch.Tensor | None) -> torch.Tensor:
    """The mask of real frames, bool `(V, T)`; `ValueError` if it does not fit the pixels `(V, T, 3, H, W)`."""
    if pixel_values_videos.dim() != 5 or pixel_values_videos.shape[2] != 3:
        raise ValueError(
            "`pixel_values_videos` must have the shape (videos, frames, 3, height, width), got "
            f"{tuple(pixel_values_videos.shape)}."
        )
    if video_frame_mask is None:
        return torch.ones(pixel_values_videos.shape[:2], dtype=torch.bool, device=pixel_values_videos.device)
    mask = video_frame_mask.to(device=pixel_values_videos.device, dtype=torch.bool)
    if mask.shape != pixel_values_videos.shape[:2]:
        raise ValueError(
            f"`video_frame_mask` has the shape {tuple(mask.shape)}, but `pixel_values_videos` holds "
            f"{tuple(pixel_values_videos.shape[:2])} (videos, frames)."
        )
    if not mask.any(1).all() or (mask[:, 1:] & ~mask[:, :-1]).any():
        raise ValueError(
            "`video_frame_mask` must mark at least one frame of every video, and its padding must come last."
        )
    return mask


def check_token_plan(plan: torch.Tensor, questions: torch.Tensor, state: VideoState) -> None:
    """
    Raises a `ValueError` if the plans `(V, 3)` do not fit the videos of `state`, or there is not one question for
    each.
    """
    if plan.shape != (len(state), 3) or len(questions) != len(state):
        raise ValueError(
            f"{len(state)} videos need a `video_token_plan` of shape ({len(state)}, 3) and one question each, got "
            f"{tuple(plan.shape)} and {len(questions)} questions."
        )
    num_frames = state.frame_mask.sum(1).to(plan.device)
    num_prototypes, num_key, num_groups = plan.unbind(1)
    fits = (
        (num_prototypes <= num_frames) & (num_key <= num_prototypes) & (num_groups <= num_frames) & (plan > 0).all(1)
    )
    if not fits.all():
        wrong = int((~fits).nonzero()[0, 0])
        raise ValueError(
            f"The token plan {plan[wrong].tolist()} (events, key frames, rod groups) does not fit video {wrong} with "
            f"{int(num_frames[wrong])} frames: at most as many events and rod "
            "groups as frames are possible, and as many key frames as events."
        )


def pad_rows(rows: Any) -> Any:
    """Rows `(n)` of any lengths as one tensor, padded with zeros; a tensor, or `None`, is returned unchanged."""
    return pad_sequence(list(rows), batch_first=True) if isinstance(rows, (list, tuple)) else rows


def without_padding(padded: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
    """The rows of `(V, n, …)`, each cut to its length."""
    return [row[:length] for row, length in zip(padded, lengths.tolist(), strict=True)]


__all__ = ["check_token_plan", "checked_frame_mask", "pad_rows", "without_padding"]
