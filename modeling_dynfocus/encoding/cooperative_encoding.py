"""CCE, compact cooperative encoding: coarse tokens (rods) for every frame, fine tokens (cones) for the key frames."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers.activations import ACT2FN

from ..configuration_dynfocus import DynFocusConfig
from ..selecting.focus import Focus, group_of_frame
from ..states.video_state import VideoState
from .event_scoring import ZeroLinear
from .question_encoder import FrameQueries


class VisualProjector(nn.Module):
    """
    Two-layer MLP from the vision tower's width to the language model's, shared by the cones and the mean token of the
    rods.
    """

    def __init__(self, in_features: int, out_features: int, hidden_act: str):
        super().__init__()
        self.linear_1 = nn.Linear(in_features, out_features)
        self.act = ACT2FN[hidden_act]
        self.linear_2 = nn.Linear(out_features, out_features)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(…, D)` to `(…, H)`."""
        return self.linear_2(self.act(self.linear_1(features)))


class ClusterGate(nn.Module):
    """Weights of a frame's coarse groups of patches, from the groups' mean activations; between 0.5 and 1.5."""

    # tanh(0) = 0: every group starts with weight 1.
    score_layer: type[nn.Module] = ZeroLinear

    def __init__(self, num_groups: int):
        super().__init__()
        self.num_groups = num_groups
        self.score = self.score_layer(num_groups, num_groups)

    def weights(self, scores: torch.Tensor) -> torch.Tensor:
        """The weight of each group, from its score: `(…, groups)`."""
        return 1 + 0.5 * scores.tanh()

    def forward(self, grouped_tokens: torch.Tensor, parent_of_token: torch.Tensor) -> torch.Tensor:
        """
        Args:
            grouped_tokens (`torch.Tensor` of shape `(…, N, D)`), parent_of_token (`torch.Tensor` of shape `(…, N)`).

        Returns:
            `torch.Tensor` of shape `(…, N, D)`: every token times its group's weight.
        """
        # States may keep them as uint8.
        parent_of_token = parent_of_token.long()
        groups = torch.arange(self.num_groups, device=parent_of_token.device)
        # A group's first token is its mean; the others are its members.
        parents = (parent_of_token[..., None, :] == groups[:, None]).to(torch.uint8).argmax(-1)
        weights = self.weights(self.score(grouped_tokens.mean(-1).gather(-1, parents)))
        return grouped_tokens * weights.gather(-1, parent_of_token)[..., None]


class ScoreEmbedding(nn.Module):
    """
    The score of a frame's event for the question, as a direction added to the frame's tokens: `sigmoid(score)` times a
    learned vector, one for rods and one for cones.

    Without it, the language model learns of the scores only through the choice of frames, and has to match a question
    such as "is there a green star?" a second time. It starts at zero, which is the paper's method.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.rods = ZeroLinear(1, hidden_size)
        self.cones = ZeroLinear(1, hidden_size)


class CooperativeEncoder(nn.Module):
    """CCE: rods and cones of each video, in time order (paper section 3.3)."""

    gate_class = ClusterGate
    rods_on_key_frames = True
    embeds_scores = True

    def __init__(self, config: DynFocusConfig):
        super().__init__()
        width, text_width = config.vision_config.hidden_size, config.text_config.hidden_size
        self.attended_rods = config.rod_tokens - 1
        self.cluster_gate = self.gate_class(config.spatial_clusters[1])
        self.projector = VisualProjector(width, text_width, config.projector_hidden_act)
        self.key_projector = nn.Linear(width, width)
        self.value_projector = nn.Linear(width, text_width)
        self.score_embedding = ScoreEmbedding(text_width) if self.embeds_scores else None

    def forward(self, state: VideoState, queries: FrameQueries, focus: Focus) -> list[torch.Tensor]:
        """
        The visual tokens of each video, in time order: `(tokens, H)` a video, `r·R + c·K` where key frames keep their
        rods; cones come before the rods of the same frame (or group of frames).

        Frames are processed in the chunks of `queries`, and the tokens of a chunk are written to their places at once.
        Results do not depend on the chunks, except for rounding in matrix products of different sizes.

        Args:
            state ([`VideoState`]): may be on another device or in another precision if `queries` come in chunks.
            queries ([`FrameQueries`]): the question encoder's output at each frame.
            focus ([`Focus`]): which frames are key frames. If it has no scores, none are embedded.
        """
        frame_mask, step = state.frame_mask.to(queries.device), queries.frames_per_chunk
        rod_tokens = 1 + self.attended_rods
        cone_tokens = state.frame_features.shape[2] + state.grouped_tokens.shape[2]
        layout = token_layout(focus, frame_mask, rod_tokens, cone_tokens, self.rods_on_key_frames)
        embedding = None if focus.scores is None else self.score_embedding
        fit = frame_mask.new_zeros(focus.events.mask.shape, dtype=torch.float32)
        if focus.scores is not None:
            fit = focus.scores.sigmoid()
        output: torch.Tensor | None = None
        for places, coarse, fit_of_places in self._coarse_chunks(state, queries, focus, fit):
            rods = self._project(coarse)
            if embedding is not None:
                rods = rods + embedding.rods(fit_of_places.to(rods.dtype))[:, None]
            if output is None:
                output = rods.new_zeros(len(frame_mask), int(layout.length.max()), rods.shape[2])
            kept = layout.rod_mask[places[:, 0], places[:, 1]]
            videos, groups = places[kept].unbind(1)
            _put(output, videos, layout.rod_start[videos, groups], rods[kept])
        assert output is not None  # every video has frames
        # A key frame has many times more cones than rods.
        key_step = max(1, step // 8) if int(frame_mask.sum()) > step else focus.key_mask.numel()
        for places in focus.key_mask.nonzero().split(key_step):
            videos, slots = places.unbind(1)
            cones = self.projector(self._fine(state, queries, focus, videos, slots))
            if embedding is not None:
                cones = cones + embedding.cones(_of_slots(fit, focus, videos, slots).to(cones.dtype))[:, None]
            _put(output, videos, layout.cone_start[videos, slots], cones)
        if focus.scores is not None and focus.indicators is None and torch.is_grad_enabled():
            # A hard choice gives the scores no gradient, but distributed training needs one for every parameter.
            output = output + 0 * focus.scores.masked_fill(~focus.events.mask, 0).sum().to(output.dtype)
        return [video[:length] for video, length in zip(output, layout.length.tolist(), strict=True)]

    def rods(self, gated_tokens: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """
        Coarse tokens of frames: the mean of a frame, and tokens that the question attends to.

        Args:
            gated_tokens (`torch.Tensor` of shape `(…, N, D)`): grouped tokens after the gate.
            queries (`torch.Tensor` of shape `(…, queries, D)`).

        Returns:
            `torch.Tensor` of shape `(…, rod_tokens, H)`.
        """
        return self._project(self._coarse(gated_tokens, queries))

    def cones(self, pooled_tokens: torch.Tensor, gated_tokens: torch.Tensor) -> torch.Tensor:
        """
        Fine tokens of key frames: g² pooled patches `(…, g², D)`, then the grouped tokens after the gate `(…, N, D)`;
        `(…, g² + N, H)`.
        """
        return self.projector(torch.cat([pooled_tokens, gated_tokens], dim=-2))

    def pooled_tokens(
        self, state: VideoState, focus: Focus, videos: torch.Tensor, events: torch.Tensor
    ) -> torch.Tensor:
        """The g² prototype tokens of `events` `(n,)` of `videos` `(n,)`: their medoid frames' own, `(n, g², D)`."""
        return _take(state.frame_features, videos, focus.events.medoids[videos, events])

    def _gated(
        self, state: VideoState, queries: FrameQueries, videos: torch.Tensor, frames: torch.Tensor
    ) -> torch.Tensor:
        """The grouped tokens of frames `(n,)` after the gate: `(n, N, D)`."""
        tokens = _take(state.grouped_tokens, videos, frames).to(queries.device, queries.dtype)
        return self.cluster_gate(tokens, _take(state.parent_of_token, videos, frames).to(queries.device))

    def _fine(
        self, state: VideoState, queries: FrameQueries, focus: Focus, videos: torch.Tensor, slots: torch.Tensor
    ) -> torch.Tensor:
        """What cones are made of: `(n, g² + N, D)` for the key events at `slots` `(n,)` of `videos` `(n,)`."""

        def of_events(videos: torch.Tensor, events: torch.Tensor) -> torch.Tensor:
            pooled = self.pooled_tokens(state, focus, videos, events).to(queries.device, queries.dtype)
            gated = self._gated(state, queries, videos, focus.events.medoids[videos, events])
            return torch.cat([pooled, gated], dim=1)

        if focus.indicators is None:
            return of_events(videos, focus.key_events[videos, slots])
        # A soft choice mixes the tokens of all events.
        rows, events = torch.ones_like(focus.events.mask).nonzero().unbind(1)
        every = of_events(rows, events).unflatten(0, focus.events.mask.shape)
        return torch.einsum("vkl,vlnd->vknd", focus.indicators.to(every.dtype), every)[videos, slots]

    def _coarse(self, gated_tokens: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """
        The mean of a frame and the tokens that the question attends to: `(…, N, D)` and `(…, queries, D)` to `(…,
        rods, D)`.
        """
        keys = self.key_projector(gated_tokens)
        attention = (queries @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5).softmax(-1)
        # The mean over queries of what they attend to. Taken before the product, it is a mean of N numbers instead of
        # D.
        attention = attention.unflatten(-2, (self.attended_rods, -1)).mean(-2)
        return torch.cat([gated_tokens.mean(-2, keepdim=True), attention @ gated_tokens], dim=-2)

    def _project(self, coarse: torch.Tensor) -> torch.Tensor:
        """Rods `(…, rods, H)` of what `_coarse` gave."""
        return torch.cat([self.projector(coarse[..., :1, :]), self.value_projector(coarse[..., 1:, :])], dim=-2)

    def _coarse_chunks(
        self, state: VideoState, queries: FrameQueries, focus: Focus, fit: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """
        Yields, chunk by chunk: places as (videos, groups of frames) `(n, 2)`, the features of their rods `(n, rods,
        D)`, and how well they fit the question `(n, 1)`, from the fit of the events `fit` `(V, L)`. A group of frames
        is averaged.
        """
        frame_mask = state.frame_mask.to(queries.device)

        def of_frames() -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
            for places in frame_mask.nonzero().split(queries.frames_per_chunk):
                videos, frames = places.unbind(1)
                coarse = self._coarse(self._gated(state, queries, videos, frames), queries.at(videos, frames))
                yield places, coarse, fit[videos, focus.events.event_of_frame[videos, frames]][:, None]

        if bool((focus.num_groups == frame_mask.sum(1)).all()):
            return of_frames()
        group = group_of_frame(frame_mask, focus.num_groups)
        return _means_of_groups(of_frames(), group, focus.num_groups, queries.frames_per_chunk)


@dataclass
class TokenLayout:
    """
    Where rods and cones go in the visual tokens of V videos.

    Args:
        rod_mask (`torch.Tensor` of shape `(V, R)`, bool): the groups of frames that have rods.
        rod_start, cone_start (`torch.Tensor` of shapes `(V, R)` and `(V, K)`): the place of their first token.
        length (`torch.Tensor` of shape `(V,)`): the tokens of each video.
    """

    rod_mask: torch.Tensor
    rod_start: torch.Tensor
    cone_start: torch.Tensor
    length: torch.Tensor


def token_layout(
    focus: Focus, frame_mask: torch.Tensor, rod_tokens: int, cone_tokens: int, rods_on_key_frames: bool
) -> TokenLayout:
    """
    Rods and cones in time order: cones come before the rods of the same frame (or group of frames).

    Args:
        frame_mask (`torch.Tensor` of shape `(V, T)`, bool): the real frames.
        rod_tokens, cone_tokens (`int`): tokens of a group of frames, and of a key frame.
        rods_on_key_frames (`bool`): whether key frames keep their rods where every frame has its own.
    """
    num_groups, num_frames, num_key = focus.num_groups, frame_mask.sum(1), focus.key_mask.sum(1)
    group = group_of_frame(frame_mask, num_groups).gather(1, focus.key_frames)
    rod_mask = torch.arange(int(num_groups.max()), device=group.device) < num_groups[:, None]
    cones_of_group = torch.zeros_like(rod_mask, dtype=torch.long).scatter_add_(1, group, focus.key_mask.long())
    if not rods_on_key_frames:
        # Key frames lose their rods only if each frame has its own, and not if that would remove all rods.
        drop = (num_groups == num_frames) & (num_key < num_frames)
        rod_mask = rod_mask & ~((cones_of_group > 0) & drop[:, None])
    # Where each piece starts: the rods that come before it, and the key frames that come before it.
    rods_before = rod_mask.long().cumsum(1) - rod_mask.long()
    slots = torch.arange(group.shape[1], device=group.device)
    return TokenLayout(
        rod_mask=rod_mask,
        rod_start=rod_tokens * rods_before + cone_tokens * cones_of_group.cumsum(1),
        cone_start=rod_tokens * rods_before.gather(1, group) + cone_tokens * slots,
        length=rod_tokens * rod_mask.sum(1) + cone_tokens * num_key,
    )


def _of_slots(fit: torch.Tensor, focus: Focus, videos: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """How well the key events at `slots` `(n,)` of `videos` `(n,)` fit the question: `(n, 1)`."""
    if focus.indicators is None:
        return fit[videos, focus.key_events[videos, slots]][:, None]
    return (focus.indicators.to(fit.dtype) @ fit[..., None])[videos, slots]


def _take(tokens: torch.Tensor, videos: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """The tokens `(V, T, …)` at the places `videos`, `frames` `(n,)`, on any device: `(n, …)`."""
    return tokens[videos.to(tokens.device), frames.to(tokens.device)]


def _put(output: torch.Tensor, videos: torch.Tensor, start: torch.Tensor, tokens: torch.Tensor) -> None:
    """Write `tokens` `(n, c, H)` into `output` `(V, tokens, H)`, each from its `start` `(n,)` on."""
    output[videos[:, None], start[:, None] + torch.arange(tokens.shape[1], device=start.device)] = tokens


def _means_of_groups(
    chunks: Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    group: torch.Tensor,
    num_groups: torch.Tensor,
    step: int,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """The chunks of `_coarse_chunks` for groups of frames: means over their frames, and places as (videos, groups)."""
    limit = int(num_groups.max())
    sums: torch.Tensor | None = None
    for places, coarse, fit in chunks:
        videos, frames = places.unbind(1)
        # Frames of a group are neighbors, so a chunk adds to each row once.
        rows, member = (videos * limit + group[videos, frames]).unique_consecutive(return_inverse=True)
        values = torch.cat([coarse.flatten(1), fit.to(coarse.dtype), torch.ones_like(fit, dtype=coarse.dtype)], dim=1)
        values = values.float()
        if sums is None:
            sums = values.new_zeros(len(group) * limit, values.shape[1])
        with torch.autocast(values.device.type, enabled=False):
            share = (member == torch.arange(len(rows), device=rows.device)[:, None]).float() @ values
        sums.index_add_(0, rows, share)
    assert sums is not None
    for places in (torch.arange(limit, device=group.device) < num_groups[:, None]).nonzero().split(step):
        sum_ = sums[places[:, 0] * limit + places[:, 1]]
        means = (sum_[:, :-1] / sum_[:, -1:]).to(coarse.dtype)
        yield places, means[:, :-1].unflatten(1, coarse.shape[1:]), means[:, -1:]


__all__ = [
    "ClusterGate",
    "CooperativeEncoder",
    "ScoreEmbedding",
    "TokenLayout",
    "VisualProjector",
    "token_layout",
]
