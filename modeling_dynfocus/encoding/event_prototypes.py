"""DPE, dynamic event prototype estimation: group frames into events, score each for the question, keep the best."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ..configuration_dynfocus import DynFocusConfig
from ..selecting.clustering import dpc_knn, medoids, merge_tokens, weighted_kmeans
from ..selecting.segmented_clustering import EXACT_TOKENS, segmented_dpc_knn
from ..selecting.topk import hard_topk, min_max_normalize, perturbed_topk
from ..states.video_state import VideoState
from .event_scoring import EventScorer, QuestionScorer
from .question_encoder import FrameQueries


@dataclass
class Events:
    """
    The events of V videos, numbered in the time order of their medoid frames, padded to L.

    Args:
        event_of_frame (`torch.Tensor` of shape `(V, T)`, int64): -1 on padding frames.
        medoids (`torch.Tensor` of shape `(V, L)`, int64): the frame that stands for each event; 0 on padding events.
        mask (`torch.Tensor` of shape `(V, L)`, bool): the real events.
        prototypes (`torch.Tensor` of shape `(V, L, g², D)`): means of the members' pooled features.
    """

    event_of_frame: torch.Tensor
    medoids: torch.Tensor
    mask: torch.Tensor
    prototypes: torch.Tensor

    @classmethod
    def stack(cls, videos: Sequence["Events"], num_frames: int) -> "Events":
        """The events of single videos as those of a batch of `num_frames` padded frames."""

        def padded(tensors: list[torch.Tensor], value: float = 0) -> torch.Tensor:
            return pad_sequence([tensor[0] for tensor in tensors], batch_first=True, padding_value=value)

        labels = padded([video.event_of_frame for video in videos], -1)
        return cls(
            F.pad(labels, (0, num_frames - labels.shape[1]), value=-1),
            padded([video.medoids for video in videos]),
            padded([video.mask for video in videos]),
            padded([video.prototypes for video in videos]),
        )

    def to(self, device: torch.device) -> "Events":
        """Move to `device`."""
        return Events(
            self.event_of_frame.to(device), self.medoids.to(device), self.mask.to(device), self.prototypes.to(device)
        )


@dataclass
class Selection:
    """
    The key events of V videos, in time order, padded to K slots.

    Args:
        key_events (`torch.Tensor` of shape `(V, K)`, int64): event of each slot; 0 on padding slots.
        mask (`torch.Tensor` of shape `(V, K)`, bool): the real slots.
        indicators (`torch.Tensor` of shape `(V, K, L)`, *optional*):
            soft choice of each slot, which carries the gradient; `None` where the choice is hard.
    """

    key_events: torch.Tensor
    mask: torch.Tensor
    indicators: torch.Tensor | None = None


def find_events(
    frame_features: torch.Tensor,
    frame_mask: torch.Tensor,
    num_events: torch.Tensor,
    *,
    method: str = "dpc_knn",
    num_neighbors: int = 5,
    exact_frames: int = EXACT_TOKENS,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Events:
    """
    Cluster the frames of each video over time (T-DPC, paper section 3.2).

    Videos of more than `exact_frames` frames are clustered over segments of time, see `segmented_dpc_knn`. A batch
    gives what its videos give alone.

    Args:
        frame_features (`torch.Tensor` of shape `(V, T, g², D)`).
        frame_mask (`torch.Tensor` of shape `(V, T)`, bool).
        num_events (`torch.Tensor` of shape `(V,)`, int64): L of each video, at most its number of frames.
        method (`str`): `"dpc_knn"` or `"kmeans"`.
        num_neighbors (`int`): neighbours in the density of DPC-KNN.
        exact_frames (`int`): up to so many frames DPC-KNN is exact.
        device (`torch.device`, *optional*):
            where to compute, if not where the features are; videos, or segments of long ones, go there one by one.
        dtype (`torch.dtype`, *optional*): of the prototypes, by default that of the features.
    """
    device = frame_features.device if device is None else device
    if device == frame_features.device and (method != "dpc_knn" or frame_features.shape[1] <= exact_frames):
        return _find_events(frame_features, frame_mask, num_events, method, num_neighbors, dtype)
    videos = []
    for features, length, count in zip(frame_features, frame_mask.sum(1).tolist(), num_events.tolist(), strict=True):
        features = features[None, :length]
        is_long = method == "dpc_knn" and length > exact_frames
        if not is_long:
            features = features.to(device)
        mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        counts = torch.tensor([count], device=features.device)
        found = _find_events(features, mask, counts, method, num_neighbors, dtype, device if is_long else None)
        videos.append(found.to(device))
    return Events.stack(videos, frame_mask.shape[1])


def _find_events(
    frame_features: torch.Tensor,
    frame_mask: torch.Tensor,
    num_events: torch.Tensor,
    method: str,
    num_neighbors: int,
    dtype: torch.dtype | None,
    segments_on: torch.device | None = None,
) -> Events:
    """As `find_events`; one video without padding is clustered over segments, on the device `segments_on`."""
    flat = frame_features.flatten(2)
    limit = int(num_events.max())
    mask = torch.arange(limit, device=flat.device) < num_events[:, None]
    representatives = None
    with torch.no_grad():
        if segments_on is not None:
            labels = segmented_dpc_knn(flat[0], limit, num_neighbors=num_neighbors, device=segments_on)[0]
            labels = labels[None].to(flat.device)
        elif method == "dpc_knn":
            labels = dpc_knn(flat, num_events, num_neighbors=num_neighbors, mask=frame_mask).labels
        else:
            labels, representatives = _kmeans_events(flat, frame_mask, num_events, limit)
    prototypes = merge_tokens(flat, labels, limit, mask=frame_mask, dtype=dtype)
    with torch.no_grad():
        if representatives is None:
            representatives = medoids(flat, labels, mask=frame_mask, num_clusters=limit)
        order = representatives.masked_fill(~mask, flat.shape[1]).argsort(dim=1, stable=True)
        rank = order.argsort(dim=1)
        labels = rank.gather(1, labels.clamp(min=0)).masked_fill(~frame_mask, -1)
        representatives = representatives.gather(1, order).masked_fill(~mask, 0)
    prototypes = prototypes.gather(1, order[..., None].expand_as(prototypes))
    return Events(labels, representatives, mask, prototypes.unflatten(2, frame_features.shape[2:]))


def kmeans_start_frames(num_frames: int, num_events: int) -> torch.Tensor:
    """L different frames, pseudo-random but always the same for the same T and L; int64 of shape `(L,)`, sorted."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(num_frames, generator=generator)[:num_events].sort().values


def _kmeans_events(
    flat: torch.Tensor, frame_mask: torch.Tensor, num_events: torch.Tensor, limit: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels `(V, T)` and start frames `(V, L)` of the released clustering; a start frame stands for an event."""
    labels = flat.new_zeros(frame_mask.shape, dtype=torch.long)
    starts = flat.new_zeros((len(flat), limit), dtype=torch.long)
    for video, (num_frames, events) in enumerate(zip(frame_mask.sum(1).tolist(), num_events.tolist(), strict=True)):
        start = kmeans_start_frames(num_frames, events).to(flat.device)
        starts[video, :events] = start
        # With as many events as frames every frame is its own event.
        labels[video, :num_frames] = (
            weighted_kmeans(flat[video, :num_frames], start)[1]
            if num_frames > events
            else torch.arange(num_frames, device=flat.device)
        )
    return labels, starts


def event_time_features(events: Events, frame_mask: torch.Tensor) -> torch.Tensor:
    """First, medoid and last frame of each event and its number of frames, as fractions of the video: `(V, L, 4)`."""
    (num_videos, num_frames), num_events = frame_mask.shape, events.mask.shape[1]
    frames = torch.arange(num_frames, device=frame_mask.device).expand(num_videos, -1)
    # Padding frames belong to an extra event, which is dropped.
    event = torch.where(frame_mask, events.event_of_frame, num_events)
    none = frames.new_zeros(num_videos, num_events + 1)
    first = (none + num_frames).scatter_reduce_(1, event, frames, "amin")
    last = (none - 1).scatter_reduce_(1, event, frames, "amax")
    length = none.scatter_add(1, event, torch.ones_like(frames))
    features = torch.stack([first[:, :-1], events.medoids, last[:, :-1], length[:, :-1]], dim=-1)
    fractions = features / frame_mask.sum(1)[:, None, None].clamp(min=1)
    return fractions.masked_fill(~events.mask[..., None], 0)


def take_frames(tokens: torch.Tensor | FrameQueries, frames: torch.Tensor) -> torch.Tensor:
    """The tokens `(V, T, …)` of the given `frames` `(V, K)`, on their device: `(V, K, …)`."""
    if isinstance(tokens, FrameQueries):
        return tokens.take(frames)
    frames, device = frames.to(tokens.device), frames.device
    index = frames.reshape(*frames.shape, *[1] * (tokens.dim() - 2))
    return tokens.gather(1, index.expand(-1, -1, *tokens.shape[2:])).to(device)


class EventPrototypeEstimator(nn.Module):
    """DPE: events of a video, their scores for a question, and the K best (paper section 3.2)."""

    def __init__(self, config: DynFocusConfig):
        super().__init__()
        width = config.vision_config.hidden_size
        self.method = config.event_clustering
        self.num_neighbors = config.temporal_neighbors
        self.num_samples = config.selection_samples
        self.scorer = EventScorer(width)
        self.question_scorer = None
        if config.question_aware_score:
            self.question_scorer = QuestionScorer(width, config.num_question_queries)

    def find_events(self, frame_features: torch.Tensor, frame_mask: torch.Tensor, num_events: torch.Tensor) -> Events:
        """See the function `find_events`."""
        return find_events(
            frame_features, frame_mask, num_events, method=self.method, num_neighbors=self.num_neighbors
        )

    def events_of(
        self, state: VideoState, num_events: torch.Tensor, device: torch.device, dtype: torch.dtype
    ) -> Events:
        """
        As `find_events`, of the videos of a state, which without gradients may be elsewhere or of another precision.

        Without gradients what was found is kept in `state.event_cache`, and the rows of a shared state are one video.
        """
        if torch.is_grad_enabled():
            return self.find_events(state.frame_features, state.frame_mask, num_events)
        counts = num_events.tolist()
        if state.is_shared:
            of_count = {
                count: self.events_of(state.base, num_events[row : row + 1], device, dtype)
                for row, count in enumerate(counts)
            }
            return Events.stack([of_count[count] for count in counts], state.frame_mask.shape[1])
        # Tensors may be put in the place of others.
        tensors = id(state.frame_features), id(state.frame_mask)
        key = ("events", *tensors, *counts, self.method, self.num_neighbors, str(device), dtype)
        if key not in state.event_cache:
            state.event_cache[key] = find_events(
                state.frame_features,
                state.frame_mask,
                num_events.to(state.frame_mask.device),
                method=self.method,
                num_neighbors=self.num_neighbors,
                device=device,
                dtype=dtype,
            )
        return state.event_cache[key]

    def forward(
        self,
        events: Events,
        queries: torch.Tensor | FrameQueries,
        grouped_tokens: torch.Tensor,
        frame_mask: torch.Tensor,
    ) -> torch.Tensor:
        """
        Scores of shape `(V, L)`, -inf on padding events, from all frames' `queries` `(V, T, queries, D)` and
        `grouped_tokens` `(V, T, N, D)`.
        """
        pooled = torch.cat([events.prototypes.mean(2), events.prototypes.amax(2)], dim=-1)
        scores = self.scorer(pooled, events.mask)
        if self.question_scorer is not None:
            scores = scores + self.question_scorer(
                take_frames(queries, events.medoids),
                take_frames(grouped_tokens, events.medoids).to(pooled.dtype),
                pooled,
                event_time_features(events, frame_mask),
                events.mask,
            )
        return scores.float().masked_fill(~events.mask, float("-inf"))

    def select(
        self,
        scores: torch.Tensor,
        mask: torch.Tensor,
        num_key: torch.Tensor,
        sigma: float,
        noise: torch.Tensor | None = None,
    ) -> Selection:
        """
        The `num_key` `(V,)` best of `scores` `(V, L)`.

        With `sigma > 0` and gradients on, slots become soft (perturbed top-K), but each slot's *place* stays that of
        the unperturbed top-K: so that no frame is taken twice, and none is shifted in time. `noise` is standard normal
        `(V, samples, L)`, drawn anew by default.
        """
        slots = int(num_key.max())
        slot_mask = torch.arange(slots, device=scores.device) < num_key[:, None]
        key_events = hard_topk(scores.detach(), num_key, mask=mask)
        key_events = key_events.masked_fill(~slot_mask, 0)
        if sigma <= 0 or not torch.is_grad_enabled():
            return Selection(key_events, slot_mask)
        normalized = min_max_normalize(scores, mask=mask)
        indicators = perturbed_topk(
            normalized, num_key, sigma=sigma, num_samples=self.num_samples, noise=noise, mask=mask
        )
        return Selection(key_events, slot_mask, indicators)


__all__ = [
    "EventPrototypeEstimator",
    "Events",
    "Selection",
    "event_time_features",
    "find_events",
    "kmeans_start_frames",
    "take_frames",
]
