"""Events: the frames of a video, grouped over time (T-DPC), each group with its medoid frame and its prototype."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from .clustering import dpc_knn, medoids, merge_tokens
from .segmented_clustering import EXACT_TOKENS, segmented_dpc_knn


@dataclass
class Events:
    """
    The events of V videos, numbered in the time order of their medoid frames, padded to L.

    Args:
        event_of_frame (`torch.Tensor` of shape `(V, T)`, int64): -1 on padding frames.
        medoids (`torch.Tensor` of shape `(V, L)`, int64): the frame that represents each event; 0 on padding events.
        mask (`torch.Tensor` of shape `(V, L)`, bool): the real events.
        prototypes (`torch.Tensor` of shape `(V, L, g², D)`, *optional*):
            means of the members' pooled features; `None` if frames were chosen without clustering.
    """

    event_of_frame: torch.Tensor
    medoids: torch.Tensor
    mask: torch.Tensor
    prototypes: torch.Tensor | None = None

    @classmethod
    def stack(cls, videos: Sequence["Events"], num_frames: int) -> "Events":
        """The events of single videos as one batch of `num_frames` padded frames."""

        def padded(tensors: list[torch.Tensor], value: float = 0) -> torch.Tensor:
            return pad_sequence([tensor[0] for tensor in tensors], batch_first=True, padding_value=value)

        labels = padded([video.event_of_frame for video in videos], -1)
        prototypes = [video.prototypes for video in videos if video.prototypes is not None]
        return cls(
            F.pad(labels, (0, num_frames - labels.shape[1]), value=-1),
            padded([video.medoids for video in videos]),
            padded([video.mask for video in videos]),
            padded(prototypes) if len(prototypes) == len(videos) else None,
        )

    @classmethod
    def of_single_frames(cls, frame_mask: torch.Tensor) -> "Events":
        """Events in which every frame of `frame_mask` `(V, T)` is an event by itself."""
        frames = torch.arange(frame_mask.shape[1], device=frame_mask.device).expand_as(frame_mask)
        return cls(frames.masked_fill(~frame_mask, -1), frames.masked_fill(~frame_mask, 0), frame_mask)

    def to(self, device: torch.device) -> "Events":
        """Move to `device`."""
        prototypes = None if self.prototypes is None else self.prototypes.to(device)
        return Events(self.event_of_frame.to(device), self.medoids.to(device), self.mask.to(device), prototypes)


def find_events(
    frame_features: torch.Tensor,
    frame_mask: torch.Tensor,
    num_prototypes: torch.Tensor,
    *,
    num_neighbors: int = 5,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Events:
    """
    Cluster the frames of each video over time with DPC-KNN (T-DPC, paper section 3.2).

    Videos of more than `EXACT_TOKENS` frames are clustered over segments of time, see `segmented_dpc_knn`. A video has
    the same events in a batch as alone.

    Args:
        frame_features (`torch.Tensor` of shape `(V, T, g², D)`).
        frame_mask (`torch.Tensor` of shape `(V, T)`, bool).
        num_prototypes (`torch.Tensor` of shape `(V,)`, int64): L of each video, at most its number of frames.
        num_neighbors (`int`): neighbours in the density of DPC-KNN.
        device (`torch.device`, *optional*):
            where to compute, by default the device of the features; videos, or segments of long ones, are moved there
            one by one.
        dtype (`torch.dtype`, *optional*): of the prototypes, by default that of the features.
    """
    device = frame_features.device if device is None else device
    if device == frame_features.device and frame_features.shape[1] <= EXACT_TOKENS:
        labels = dpc_knn(
            frame_features.flatten(2), num_prototypes, num_neighbors=num_neighbors, mask=frame_mask
        ).labels
        return events_from_labels(frame_features, labels, frame_mask, num_prototypes, dtype=dtype)
    videos = []
    for features, length, count in zip(
        frame_features, frame_mask.sum(1).tolist(), num_prototypes.tolist(), strict=True
    ):
        features = features[None, :length]
        if length > EXACT_TOKENS:
            # Features stay where they are: only a segment of them is on `device` at a time.
            found, _ = segmented_dpc_knn(features[0].flatten(1), count, num_neighbors=num_neighbors, device=device)
            labels = found[None].to(features.device)
        else:
            features = features.to(device)
            labels = dpc_knn(features.flatten(2), count, num_neighbors=num_neighbors).labels
        mask = torch.ones_like(labels, dtype=torch.bool)
        counts = torch.tensor([count], device=features.device)
        videos.append(events_from_labels(features, labels, mask, counts, dtype=dtype).to(device))
    return Events.stack(videos, frame_mask.shape[1])


def events_from_labels(
    frame_features: torch.Tensor,
    labels: torch.Tensor,
    frame_mask: torch.Tensor,
    num_prototypes: torch.Tensor,
    representatives: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Events:
    """
    The events of a clustering, renumbered in time order.

    Args:
        frame_features (`torch.Tensor` of shape `(V, T, g², D)`), frame_mask (`(V, T)`), num_prototypes (`(V,)`).
        labels (`torch.Tensor` of shape `(V, T)`, int64): the cluster of each frame.
        representatives (`torch.Tensor` of shape `(V, L)`, int64, *optional*):
            the frame that represents each cluster; by default its medoid.
        dtype (`torch.dtype`, *optional*): of the prototypes, by default that of the features.
    """
    flat, limit = frame_features.flatten(2), int(num_prototypes.max())
    mask = torch.arange(limit, device=flat.device) < num_prototypes[:, None]
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


def event_time_features(events: Events, frame_mask: torch.Tensor) -> torch.Tensor:
    """First, medoid and last frame of each event and its number of frames, as fractions of the video: `(V, L, 4)`."""
    (num_videos, num_frames), num_prototypes = frame_mask.shape, events.mask.shape[1]
    frames = torch.arange(num_frames, device=frame_mask.device).expand(num_videos, -1)
    # Padding frames belong to an extra event, which is dropped.
    event = torch.where(frame_mask, events.event_of_frame, num_prototypes)
    none = frames.new_zeros(num_videos, num_prototypes + 1)
    first = (none + num_frames).scatter_reduce_(1, event, frames, "amin")
    last = (none - 1).scatter_reduce_(1, event, frames, "amax")
    length = none.scatter_add(1, event, torch.ones_like(frames))
    features = torch.stack([first[:, :-1], events.medoids, last[:, :-1], length[:, :-1]], dim=-1)
    fractions = features / frame_mask.sum(1)[:, None, None].clamp(min=1)
    return fractions.masked_fill(~events.mask[..., None], 0)


def take_frames(tokens: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """The tokens `(V, T, …)` of the given `frames` `(V, K)`, on their device: `(V, K, …)`."""
    frames, device = frames.to(tokens.device), frames.device
    index = frames.reshape(*frames.shape, *[1] * (tokens.dim() - 2))
    return tokens.gather(1, index.expand(-1, -1, *tokens.shape[2:])).to(device)


__all__ = ["Events", "event_time_features", "events_from_labels", "find_events", "take_frames"]
