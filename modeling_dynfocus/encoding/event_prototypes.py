"""DPE, dynamic event prototype estimation: group frames into events, score each for the question, keep the best."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from ..configuration_dynfocus import DynFocusConfig
from ..selecting.events import Events, event_time_features, find_events, take_frames
from ..selecting.focus import Focus
from ..selecting.rules import Rule
from ..states.video_state import VideoState
from .event_scoring import EventScorer, QuestionScorer
from .question_encoder import FrameQueries


class EventPrototypeEstimator(nn.Module):
    """DPE: events of a video, their scores for a question, and the K best (paper section 3.2)."""

    question_aware = True

    def __init__(self, config: DynFocusConfig):
        super().__init__()
        width = config.vision_config.hidden_size
        self.num_neighbors = config.temporal_neighbors
        self.num_samples = config.selection_samples
        self.scorer = EventScorer(width)
        self.question_scorer = QuestionScorer(width, config.num_question_queries) if self.question_aware else None

    def find_events(
        self,
        frame_features: torch.Tensor,
        frame_mask: torch.Tensor,
        num_prototypes: torch.Tensor,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Events:
        """See the function `find_events`."""
        return find_events(
            frame_features, frame_mask, num_prototypes, num_neighbors=self.num_neighbors, device=device, dtype=dtype
        )

    def events_of(
        self, state: VideoState, num_prototypes: torch.Tensor, device: torch.device, dtype: torch.dtype
    ) -> Events:
        """
        `find_events` for the videos of a state; without gradients, the state may be on another device or in another
        precision.

        Without gradients the result is kept in `state.event_cache`, and the rows of a shared state are one video.
        """
        if torch.is_grad_enabled():
            return self.find_events(state.frame_features, state.frame_mask, num_prototypes)
        counts = num_prototypes.tolist()
        if state.is_shared:
            of_count = {
                count: self.events_of(state.base, num_prototypes[row : row + 1], device, dtype)
                for row, count in enumerate(counts)
            }
            return Events.stack([of_count[count] for count in counts], state.frame_mask.shape[1])
        # A state's tensors may be replaced by others.
        tensors = id(state.frame_features), id(state.frame_mask)
        key = ("events", *tensors, *counts, type(self).__name__, self.num_neighbors, str(device), dtype)
        if key not in state.event_cache:
            state.event_cache[key] = self.find_events(
                state.frame_features, state.frame_mask, num_prototypes.to(state.frame_mask.device), device, dtype
            )
        return state.event_cache[key]

    def forward(
        self, events: Events, queries: FrameQueries, grouped_tokens: torch.Tensor, frame_mask: torch.Tensor
    ) -> torch.Tensor:
        """
        Scores of shape `(V, L)`, -inf on padding events, from the question encoder's `queries` and all frames'
        `grouped_tokens` `(V, T, N, D)`.
        """
        assert events.prototypes is not None
        pooled = torch.cat([events.prototypes.mean(2), events.prototypes.amax(2)], dim=-1)
        scores = self.scorer(pooled, events.mask)
        if self.question_scorer is not None:
            scores = scores + self.question_scorer(
                queries.take(events.medoids),
                take_frames(grouped_tokens, events.medoids).to(pooled.dtype),
                pooled,
                event_time_features(events, frame_mask),
                events.mask,
            )
        return scores.float().masked_fill(~events.mask, float("-inf"))

    def choose(
        self,
        state: VideoState,
        queries: FrameQueries,
        plan: torch.Tensor,
        *,
        sigma: float = 0.0,
        noise: torch.Tensor | None = None,
    ) -> Focus:
        """
        The rule of choice of DPE: the K events of each video with the highest scores.

        Args:
            plan (`torch.Tensor` of shape `(V, 3)`, int64): L events, K key frames and R coarse groups of each video.
            sigma, noise: see [`Focus.on_events`].
        """
        num_prototypes, num_key, num_groups = plan.unbind(1)
        events = self.events_of(state, num_prototypes, queries.device, queries.dtype)
        scores = self(events, queries, state.grouped_tokens, state.frame_mask.to(queries.device))
        return Focus.on_events(
            events, scores, num_key, num_groups, sigma=sigma, num_samples=self.num_samples, noise=noise
        )


def choose_by_frames(rule: Rule) -> Callable[..., Focus]:
    """
    A rule of choice among single frames, as `choose` of `DynFocusModel.get_video_features`.

    Every frame is an event by itself. The rule gets the sigmoid of its learned score as relevance, and the mean of its
    pooled features.

    Args:
        rule (`Callable`): see `selecting.rules`.
    """

    def choose(
        estimator: EventPrototypeEstimator,
        state: VideoState,
        queries: FrameQueries,
        plan: torch.Tensor,
        *,
        sigma: float = 0.0,
        noise: torch.Tensor | None = None,
    ) -> Focus:
        frame_mask = state.frame_mask.to(queries.device)
        features = state.frame_features.to(queries.device, queries.dtype)
        events = replace(Events.of_single_frames(frame_mask), prototypes=features)
        scores = estimator(events, queries, state.grouped_tokens, frame_mask)
        _, num_key, num_groups = plan.unbind(1)
        key_frames = plan.new_full((len(plan), int(num_key.max())), -1)
        for video, (count, wanted) in enumerate(zip(frame_mask.sum(1).tolist(), num_key.tolist(), strict=True)):
            times = torch.arange(count) if state.frame_times is None else state.frame_times[video, :count]
            relevance = scores[video, :count].detach().sigmoid()
            chosen = rule(relevance, wanted, features=features[video, :count].mean(1), times=times.to(plan.device))
            key_frames[video, : len(chosen)] = chosen
        return Focus.on_frames(key_frames, frame_mask, num_groups, scores)

    return choose


__all__ = ["EventPrototypeEstimator", "choose_by_frames"]
