"""CCE, compact cooperative encoding: coarse tokens (rods) for every frame, fine tokens (cones) for the key frames."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers.activations import ACT2FN

from ..configuration_dynfocus import DynFocusConfig
from ..selecting.clustering import merge_tokens
from .event_prototypes import Events, Selection, take_frames
from .event_scoring import ZeroLinear
from .question_encoder import FrameQueries


class VisualProjector(nn.Module):
    """Two-layer MLP from the vision tower's width to the language model's, shared by cones and the rods' mean."""

    def __init__(self, in_features: int, out_features: int, hidden_act: str):
        super().__init__()
        self.linear_1 = nn.Linear(in_features, out_features)
        self.act = ACT2FN[hidden_act]
        self.linear_2 = nn.Linear(out_features, out_features)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(…, D)` to `(…, H)`."""
        return self.linear_2(self.act(self.linear_1(features)))


class ClusterGate(nn.Module):
    """Weights of a frame's coarse groups of patches, from the groups' mean activations."""

    def __init__(self, num_groups: int, kind: str):
        super().__init__()
        self.num_groups = num_groups
        self.bounded = kind == "bounded"
        # tanh(0) = 0: every group starts with weight 1.
        self.score = ZeroLinear(num_groups, num_groups) if self.bounded else nn.Linear(num_groups, num_groups)

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
        scores = self.score(grouped_tokens.mean(-1).gather(-1, parents))
        weights = 1 + 0.5 * scores.tanh() if self.bounded else scores.softmax(-1)
        return grouped_tokens * weights.gather(-1, parent_of_token)[..., None]


class ScoreEmbedding(nn.Module):
    """
    Tells the language model how well each frame's event fits the question: the score, as a direction added to tokens.

    Without it what the selector found reaches the language model only through the choice of frames, and a question
    such as "is there a green star?" has to be matched a second time. It starts at zero, which is the paper's method.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.rods = ZeroLinear(1, hidden_size)
        self.cones = ZeroLinear(1, hidden_size)

    def forward(
        self,
        rods: torch.Tensor,
        cones: torch.Tensor,
        scores: torch.Tensor,
        events: Events,
        selection: Selection,
        frame_mask: torch.Tensor,
        num_groups: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            rods (`torch.Tensor` of shape `(V, R, r, H)`), cones (`torch.Tensor` of shape `(V, K, c, H)`).
            scores (`torch.Tensor` of shape `(V, L)`): raw scores of the events, float32.

        Returns:
            `tuple` of the rods and cones, each with `sigmoid(score)` told.
        """
        fit = scores.sigmoid().to(rods.dtype)[..., None]
        of_frames = take_frames(fit, events.event_of_frame.clamp(min=0))
        of_groups = merge_tokens(of_frames, group_of_frame(frame_mask, num_groups), rods.shape[1], mask=frame_mask)
        of_slots = take_frames(fit, selection.key_events)
        if selection.indicators is not None:
            of_slots = selection.indicators.to(fit.dtype) @ fit
        return rods + self.rods(of_groups)[:, :, None], cones + self.cones(of_slots)[:, :, None]


class CooperativeEncoder(nn.Module):
    """CCE: rods and cones of each video, in time order (paper section 3.3)."""

    def __init__(self, config: DynFocusConfig):
        super().__init__()
        width, text_width = config.vision_config.hidden_size, config.text_config.hidden_size
        self.attended_rods = config.rod_tokens - 1
        self.rods_on_key_frames = config.rods_on_key_frames
        self.cone_source = config.cone_source
        self.cluster_gate = ClusterGate(config.spatial_clusters[1], config.cluster_gate)
        self.projector = VisualProjector(width, text_width, config.projector_hidden_act)
        self.key_projector = nn.Linear(width, width)
        self.value_projector = nn.Linear(width, text_width)
        self.score_embedding = ScoreEmbedding(text_width) if config.question_aware_score else None

    def forward(
        self,
        frame_features: torch.Tensor,
        grouped_tokens: torch.Tensor,
        parent_of_token: torch.Tensor,
        queries: torch.Tensor | FrameQueries,
        events: Events,
        scores: torch.Tensor,
        selection: Selection,
        frame_mask: torch.Tensor,
        num_groups: torch.Tensor,
    ) -> list[torch.Tensor]:
        """
        The visual tokens of each video, in time order: `(tokens, H)` a video.

        Where the queries come as `FrameQueries`, without gradients, frames are taken in chunks, and what comes of a
        chunk is put where it belongs at once. Features and tokens may then be on another device. Results do not depend
        on the chunks, but for the rounding of matrix products of other sizes.

        Args:
            frame_features (`torch.Tensor` of shape `(V, T, g², D)`).
            grouped_tokens (`torch.Tensor` of shape `(V, T, N, D)`), parent_of_token (`(V, T, N)`): see `VideoState`.
            queries (`torch.Tensor` of shape `(V, T, queries, D)`, or `FrameQueries`): the question encoder's output.
            scores (`torch.Tensor` of shape `(V, L)`): of the events, -inf on padding events.
            frame_mask (`torch.Tensor` of shape `(V, T)`, bool), num_groups (`(V,)`, int64): see `rods`.
        """
        if isinstance(queries, FrameQueries):
            return self._in_chunks(
                frame_features,
                grouped_tokens,
                parent_of_token,
                queries,
                events,
                scores,
                selection,
                frame_mask,
                num_groups,
            )
        gated = self.cluster_gate(grouped_tokens, parent_of_token)
        rods = self.rods(gated, queries, frame_mask, num_groups)
        cones = self.cones(frame_features, gated, events, selection)
        if self.score_embedding is not None:
            rods, cones = self.score_embedding(rods, cones, scores, events, selection, frame_mask, num_groups)
        if selection.indicators is None and torch.is_grad_enabled():
            # A hard choice gives the scores no gradient, but distributed training waits for one of every parameter.
            rods = rods + 0 * scores.masked_fill(~events.mask, 0).sum().to(rods.dtype)
        key_frames = events.medoids.gather(1, selection.key_events)
        return self.assemble(rods, cones, key_frames, selection.mask, frame_mask, num_groups)

    def rods(
        self, gated_tokens: torch.Tensor, queries: torch.Tensor, frame_mask: torch.Tensor, num_groups: torch.Tensor
    ) -> torch.Tensor:
        """
        Coarse tokens: what the question attends to in each frame, and the frame's mean; means over shared frames.

        Args:
            gated_tokens (`torch.Tensor` of shape `(V, T, N, D)`): grouped tokens after the gate.
            queries (`torch.Tensor` of shape `(V, T, queries, D)`).
            frame_mask (`torch.Tensor` of shape `(V, T)`, bool).
            num_groups (`torch.Tensor` of shape `(V,)`, int64): R; frame t of T belongs to group ⌊t·R/T⌋.

        Returns:
            `torch.Tensor` of shape `(V, R, rod_tokens, H)`.
        """
        coarse = self._coarse(gated_tokens, queries)
        if bool((num_groups < frame_mask.sum(1)).any()):
            group, limit = group_of_frame(frame_mask, num_groups), int(num_groups.max())
            shared = merge_tokens(coarse.flatten(2), group, limit, mask=frame_mask)
            coarse = shared.unflatten(2, coarse.shape[2:])
        return self._project(coarse)

    def _coarse(self, gated_tokens: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """The frame's mean and what the question attends to: `(…, N, D)` and `(…, queries, D)` to `(…, rods, D)`."""
        keys = self.key_projector(gated_tokens)
        attention = (queries @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5).softmax(-1)
        # The mean over queries of what they attend to; before the product it is of N numbers, not of D.
        attention = attention.unflatten(-2, (self.attended_rods, -1)).mean(-2)
        return torch.cat([gated_tokens.mean(-2, keepdim=True), attention @ gated_tokens], dim=-2)

    def _project(self, coarse: torch.Tensor) -> torch.Tensor:
        """Rods `(…, rods, H)` of what `_coarse` gave."""
        return torch.cat([self.projector(coarse[..., :1, :]), self.value_projector(coarse[..., 1:, :])], dim=-2)

    def cones(
        self, frame_features: torch.Tensor, gated_tokens: torch.Tensor, events: Events, selection: Selection
    ) -> torch.Tensor:
        """
        Fine tokens of the key frames: g² of the prototype, then the grouped tokens of the medoid frame.

        Args:
            frame_features (`torch.Tensor` of shape `(V, T, g², D)`).
            gated_tokens (`torch.Tensor` of shape `(V, T, N, D)`).

        Returns:
            `torch.Tensor` of shape `(V, K, g² + N, H)`.
        """
        # A hard choice needs the tokens of the key events alone, a soft one blends those of all.
        chosen = selection.key_events if selection.indicators is None else None
        frames = events.medoids if chosen is None else events.medoids.gather(1, chosen)
        if self.cone_source == "medoid":
            coarse = take_frames(frame_features, frames)
        else:
            coarse = events.prototypes if chosen is None else take_frames(events.prototypes, chosen)
        fine = torch.cat([coarse, take_frames(gated_tokens, frames)], dim=2)
        if selection.indicators is not None:
            fine = torch.einsum("vkl,vlnd->vknd", selection.indicators.to(fine.dtype), fine)
        return self.projector(fine)

    def assemble(
        self,
        rods: torch.Tensor,
        cones: torch.Tensor,
        key_frames: torch.Tensor,
        slot_mask: torch.Tensor,
        frame_mask: torch.Tensor,
        num_groups: torch.Tensor,
    ) -> list[torch.Tensor]:
        """
        Put rods and cones in time order: cones before the rods of the same frame (or group of frames).

        Args:
            rods (`torch.Tensor` of shape `(V, R, r, H)`), cones (`torch.Tensor` of shape `(V, K, c, H)`).
            key_frames (`torch.Tensor` of shape `(V, K)`): sorted frame indices; `slot_mask`, of that shape too, marks
                the real ones.

        Returns:
            `list[torch.Tensor]`: for each video `(tokens, H)`, `r·R + c·K` tokens where key frames keep their rods.
        """
        layout = self._layout(key_frames, slot_mask, frame_mask, num_groups, rods.shape[2], cones.shape[2])
        output = rods.new_zeros(len(rods), int(layout.length.max()), rods.shape[3])
        videos = torch.arange(len(rods), device=rods.device)[:, None]
        for tokens, start, mask in (
            (rods, layout.rod_start, layout.rod_mask),
            (cones, layout.cone_start, slot_mask),
        ):
            _put(output, videos.expand_as(mask)[mask], start[mask], tokens[mask])
        return layout.cut(output)

    def _layout(
        self,
        key_frames: torch.Tensor,
        slot_mask: torch.Tensor,
        frame_mask: torch.Tensor,
        num_groups: torch.Tensor,
        rod_tokens: int,
        cone_tokens: int,
    ) -> "_Layout":
        limit = int(num_groups.max())
        group = group_of_frame(frame_mask, num_groups).gather(1, key_frames)
        rod_mask = torch.arange(limit, device=group.device) < num_groups[:, None]
        num_frames, num_key = frame_mask.sum(1), slot_mask.sum(1)
        cones_of_group = torch.zeros_like(rod_mask, dtype=torch.long).scatter_add_(1, group, slot_mask.long())
        if not self.rods_on_key_frames:
            # Rods give way to cones only where each frame has its own, and not where that would remove them all.
            drop = (num_groups == num_frames) & (num_key < num_frames)
            rod_mask = rod_mask & ~((cones_of_group > 0) & drop[:, None])
        # Where each piece starts: the rods that come before it, and the key frames that come before it.
        rods_before = rod_mask.long().cumsum(1) - rod_mask.long()
        slots = torch.arange(key_frames.shape[1], device=group.device)
        return _Layout(
            rod_mask,
            rod_tokens * rods_before + cone_tokens * cones_of_group.cumsum(1),
            rod_tokens * rods_before.gather(1, group) + cone_tokens * slots,
            rod_tokens * rod_mask.sum(1) + cone_tokens * num_key,
        )

    def _in_chunks(
        self,
        frame_features: torch.Tensor,
        grouped_tokens: torch.Tensor,
        parent_of_token: torch.Tensor,
        queries: FrameQueries,
        events: Events,
        scores: torch.Tensor,
        selection: Selection,
        frame_mask: torch.Tensor,
        num_groups: torch.Tensor,
    ) -> list[torch.Tensor]:
        """As `forward`, of a hard selection."""
        dtype, device, step = events.prototypes.dtype, frame_mask.device, queries.encoder.frames_per_chunk
        fit = scores.sigmoid().to(dtype)
        tell = self.score_embedding

        def gated(videos: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
            videos, frames = videos.to(grouped_tokens.device), frames.to(grouped_tokens.device)
            tokens, parents = grouped_tokens[videos, frames], parent_of_token[videos, frames]
            return self.cluster_gate(tokens.to(device, dtype), parents.to(device))

        def coarse_chunks() -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
            """Places as (videos, frames) `(n, 2)`, what rods are made of `(n, rods, D)`, and their fit `(n, 1)`."""
            for places in frame_mask.nonzero().split(step):
                videos, frames = places.unbind(1)
                coarse = self._coarse(gated(videos, frames), queries.at(videos, frames))
                yield places, coarse, fit[videos, events.event_of_frame[videos, frames]][:, None]

        chunks = coarse_chunks()
        if bool((num_groups < frame_mask.sum(1)).any()):
            chunks = _shared(chunks, group_of_frame(frame_mask, num_groups), num_groups, step)
        key_frames = events.medoids.gather(1, selection.key_events)
        rod_tokens = 1 + self.attended_rods
        cone_tokens = frame_features.shape[2] + grouped_tokens.shape[2]
        layout = self._layout(key_frames, selection.mask, frame_mask, num_groups, rod_tokens, cone_tokens)
        output: torch.Tensor | None = None
        for places, coarse, told in chunks:
            rods = self._project(coarse)
            if tell is not None:
                rods = rods + tell.rods(told)[:, None]
            if output is None:
                output = rods.new_zeros(len(frame_mask), int(layout.length.max()), rods.shape[2])
            kept = layout.rod_mask[places[:, 0], places[:, 1]]
            videos, groups = places[kept].unbind(1)
            _put(output, videos, layout.rod_start[videos, groups], rods[kept])
        assert output is not None  # every video has frames
        # A key frame's cones are many times its rods.
        for places in selection.mask.nonzero().split(max(1, step // 8)):
            videos, slots = places.unbind(1)
            frames, chosen = key_frames[videos, slots], selection.key_events[videos, slots]
            if self.cone_source == "medoid":
                elsewhere = frame_features.device
                coarse = frame_features[videos.to(elsewhere), frames.to(elsewhere)].to(device, dtype)
            else:
                coarse = events.prototypes[videos, chosen]
            cones = self.projector(torch.cat([coarse, gated(videos, frames)], dim=1))
            if tell is not None:
                cones = cones + tell.cones(fit[videos, chosen][:, None])[:, None]
            _put(output, videos, layout.cone_start[videos, slots], cones)
        return layout.cut(output)


@dataclass
class _Layout:
    """
    Where rods and cones go in the visual tokens of V videos: `rod_mask` `(V, R)` the rods that are there, `rod_start`
    `(V, R)` and `cone_start` `(V, K)` their first places, `length` `(V,)` the tokens of each video.
    """

    rod_mask: torch.Tensor
    rod_start: torch.Tensor
    cone_start: torch.Tensor
    length: torch.Tensor

    def cut(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        """The rows of `(V, tokens, H)`, without padding."""
        return [video[:length] for video, length in zip(tokens, self.length.tolist(), strict=True)]


def _put(output: torch.Tensor, videos: torch.Tensor, start: torch.Tensor, tokens: torch.Tensor) -> None:
    """Write `tokens` `(n, c, H)` into `output` `(V, tokens, H)`, each from its `start` `(n,)` on."""
    output[videos[:, None], start[:, None] + torch.arange(tokens.shape[1], device=start.device)] = tokens


def _shared(
    chunks: Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    group: torch.Tensor,
    num_groups: torch.Tensor,
    step: int,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """The same for groups of frames: means over their frames, and places as (videos, groups)."""
    limit = int(num_groups.max())
    sums = group.new_zeros(0, dtype=torch.float32)
    for places, coarse, told in chunks:
        videos, frames = places.unbind(1)
        # Frames of a group lie side by side, so that a chunk adds to each row once.
        rows, member = (videos * limit + group[videos, frames]).unique_consecutive(return_inverse=True)
        values = torch.cat([coarse.flatten(1), told, torch.ones_like(told)], dim=1).float()
        if not len(sums):
            sums = values.new_zeros(len(group) * limit, values.shape[1])
        with torch.autocast(values.device.type, enabled=False):
            sums[rows] += (member == torch.arange(len(rows), device=rows.device)[:, None]).float() @ values
    for places in (torch.arange(limit, device=group.device) < num_groups[:, None]).nonzero().split(step):
        sum_ = sums[places[:, 0] * limit + places[:, 1]]
        means = (sum_[:, :-1] / sum_[:, -1:]).to(coarse.dtype)
        yield places, means[:, :-1].unflatten(1, coarse.shape[1:]), means[:, -1:].to(told.dtype)


def group_of_frame(frame_mask: torch.Tensor, num_groups: torch.Tensor) -> torch.Tensor:
    """The rod group ⌊t·R/T⌋ of each frame, `(V, T)`; padding frames get the last group."""
    frames = torch.arange(frame_mask.shape[1], device=frame_mask.device)
    group = frames * num_groups[:, None] // frame_mask.sum(1, keepdim=True).clamp(min=1)
    return group.minimum(num_groups[:, None] - 1)


__all__ = ["ClusterGate", "CooperativeEncoder", "VisualProjector", "group_of_frame"]
