"""`Focus`: what was chosen from videos for their questions, with everything that showing the frames needs."""

from dataclasses import dataclass

import torch

from .events import Events
from .topk import hard_topk, min_max_normalize, perturbed_topk


@dataclass
class Focus:
    """
    What was chosen from V videos for their questions: the key events, in time order, padded to K.

    Every way to choose (DPE with learned scores, uniform, given frames, …) returns one; every way to show frames to a
    language model takes one.

    Args:
        events ([`Events`]): all events of the videos, L at most.
        scores (`torch.Tensor` of shape `(V, L)`, float32, *optional*):
            how well each event fits the question, -inf on padding events. `None` if the rule of choice has no scores.
        key_events (`torch.Tensor` of shape `(V, K)`, int64): the chosen events, in ascending order; 0 on padding.
        key_mask (`torch.Tensor` of shape `(V, K)`, bool): the real ones.
        num_groups (`torch.Tensor` of shape `(V,)`, int64):
            R, the groups of neighbouring frames that share coarse tokens; frame t of T belongs to group ⌊t·R/T⌋.
        indicators (`torch.Tensor` of shape `(V, K, L)`, *optional*):
            soft choice of each key event, which carries the gradient; `None` if the choice is hard.
    """

    events: Events
    scores: torch.Tensor | None
    key_events: torch.Tensor
    key_mask: torch.Tensor
    num_groups: torch.Tensor
    indicators: torch.Tensor | None = None

    @property
    def key_frames(self) -> torch.Tensor:
        """The frames that represent the key events, in ascending order: int64 `(V, K)`, padded as in `key_mask`."""
        return self.events.medoids.gather(1, self.key_events)

    @classmethod
    def on_events(
        cls,
        events: Events,
        scores: torch.Tensor,
        num_key: torch.Tensor,
        num_groups: torch.Tensor,
        *,
        sigma: float = 0.0,
        num_samples: int = 100,
        noise: torch.Tensor | None = None,
    ) -> "Focus":
        """
        The `num_key` `(V,)` events with the highest scores `(V, L)`; of equal scores the earlier event wins.

        With `sigma > 0` and gradients on, key events become soft (perturbed top-K), but each one's *place* stays that
        of the unperturbed top-K, so that no frame is taken twice and none is shifted in time.

        Args:
            sigma: standard deviation of the noise, on scores normalised to [0, 1].
            num_samples: Monte-Carlo samples.
            noise (`torch.Tensor` of shape `(V, num_samples, L)`, *optional*): standard normal; drawn by default.
        """
        slots = int(num_key.max())
        key_mask = torch.arange(slots, device=scores.device) < num_key[:, None]
        key_events = hard_topk(scores.detach(), num_key, mask=events.mask).masked_fill(~key_mask, 0)
        indicators = None
        if sigma > 0 and torch.is_grad_enabled():
            normalized = min_max_normalize(scores, mask=events.mask)
            indicators = perturbed_topk(
                normalized, num_key, sigma=sigma, num_samples=num_samples, noise=noise, mask=events.mask
            )
        return cls(events, scores, key_events, key_mask, num_groups, indicators)

    @classmethod
    def on_frames(
        cls,
        key_frames: torch.Tensor,
        frame_mask: torch.Tensor,
        num_groups: torch.Tensor | None = None,
        scores: torch.Tensor | None = None,
    ) -> "Focus":
        """
        Key frames that are already chosen; every frame is an event by itself.

        Args:
            key_frames (`torch.Tensor` of shape `(V, K)`, int64): in ascending order, padded with -1 at the end.
            frame_mask (`torch.Tensor` of shape `(V, T)`, bool): the real frames.
            num_groups (`torch.Tensor` of shape `(V,)`, *optional*): R; by default every frame has its own.
            scores (`torch.Tensor` of shape `(V, T)`, *optional*): the score of each frame.

        Raises:
            `ValueError`: if key frames are out of order, repeated or not in their video.
        """
        key_mask = key_frames >= 0
        num_frames = frame_mask.sum(1)
        rising = (key_frames[:, 1:] > key_frames[:, :-1]) | ~key_mask[:, 1:]
        if not (rising.all() and key_mask[:, :1].all() and (key_frames < num_frames[:, None]).all()):
            raise ValueError(
                f"Key frames must be numbers below {num_frames.tolist()} (the frames of each video), in ascending "
                f"order and each once; got {key_frames.tolist()}."
            )
        groups = num_frames if num_groups is None else num_groups
        return cls(Events.of_single_frames(frame_mask), scores, key_frames.clamp(min=0), key_mask, groups)


def group_of_frame(frame_mask: torch.Tensor, num_groups: torch.Tensor) -> torch.Tensor:
    """The coarse group ⌊t·R/T⌋ of each frame, `(V, T)`; padding frames get the last group."""
    frames = torch.arange(frame_mask.shape[1], device=frame_mask.device)
    group = frames * num_groups[:, None] // frame_mask.sum(1, keepdim=True).clamp(min=1)
    return group.minimum(num_groups[:, None] - 1)


__all__ = ["Focus", "group_of_frame"]
