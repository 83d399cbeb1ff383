"""
The preset `released_code`: where the authors' released code differs from the paper, as subclasses.

Weighted k-means instead of DPC-KNN if there are more frames than events (its start frames are random in the released
code and fixed here); a score that does not see the question; key frames that are the mean of their event and have no
rods; a softmax over the coarse groups of patches.
"""

import torch
from torch import nn

from ..selecting.clustering import weighted_kmeans
from ..selecting.events import Events, events_from_labels
from ..selecting.focus import Focus
from ..states.video_state import VideoState
from .cooperative_encoding import ClusterGate, CooperativeEncoder
from .event_prototypes import EventPrototypeEstimator


class ReleasedEstimator(EventPrototypeEstimator):
    """DPE with k-means, and with scores that do not see the question."""

    question_aware = False

    def find_events(
        self,
        frame_features: torch.Tensor,
        frame_mask: torch.Tensor,
        num_prototypes: torch.Tensor,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Events:
        """As the function `find_events`, with weighted k-means; an event is represented by its start frame."""
        device = frame_features.device if device is None else device
        if device != frame_features.device:
            rows = zip(frame_features, frame_mask.sum(1).tolist(), num_prototypes, strict=True)
            alone = [
                self.find_events(
                    features[None, :length].to(device),
                    torch.ones(1, length, dtype=torch.bool, device=device),
                    count[None].to(device),
                    dtype=dtype,
                )
                for features, length, count in rows
            ]
            return Events.stack(alone, frame_mask.shape[1])
        flat, limit = frame_features.flatten(2), int(num_prototypes.max())
        labels = flat.new_zeros(frame_mask.shape, dtype=torch.long)
        starts = flat.new_zeros((len(flat), limit), dtype=torch.long)
        counts = zip(frame_mask.sum(1).tolist(), num_prototypes.tolist(), strict=True)
        with torch.no_grad():
            for video, (num_frames, events) in enumerate(counts):
                start = kmeans_start_frames(num_frames, events).to(flat.device)
                starts[video, :events] = start
                # With as many events as frames, every frame is an event.
                labels[video, :num_frames] = (
                    weighted_kmeans(flat[video, :num_frames], start)[1]
                    if num_frames > events
                    else torch.arange(num_frames, device=flat.device)
                )
        return events_from_labels(frame_features, labels, frame_mask, num_prototypes, starts, dtype)


def kmeans_start_frames(num_frames: int, num_prototypes: int) -> torch.Tensor:
    """L different frames, pseudo-random but always the same for the same T and L; int64 of shape `(L,)`, sorted."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(num_frames, generator=generator)[:num_prototypes].sort().values


class SoftmaxGate(ClusterGate):
    """Weights that sum to 1 over the coarse groups."""

    score_layer = nn.Linear

    def weights(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.softmax(-1)


class ReleasedEncoder(CooperativeEncoder):
    """CCE in which a key frame is the mean of its event, and has no rods if every frame has its own."""

    gate_class = SoftmaxGate
    rods_on_key_frames = False
    embeds_scores = False

    def pooled_tokens(
        self, state: VideoState, focus: Focus, videos: torch.Tensor, events: torch.Tensor
    ) -> torch.Tensor:
        if focus.events.prototypes is None:
            return super().pooled_tokens(state, focus, videos, events)
        return focus.events.prototypes[videos, events]


__all__ = ["ReleasedEncoder", "ReleasedEstimator", "SoftmaxGate", "kmeans_start_frames"]
