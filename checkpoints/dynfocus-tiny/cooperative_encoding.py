"""CCE, compact cooperative encoding: coarse tokens (rods) for every frame, fine tokens (cones) for the key frames."""

import torch
from torch import nn
from transformers.activations import ACT2FN

from .clustering import merge_tokens
from .configuration_dynfocus import DynFocusConfig
from .event_prototypes import Events, Selection, ZeroLinear, take_frames


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
        queries: torch.Tensor,
        events: Events,
        scores: torch.Tensor,
        selection: Selection,
        frame_mask: torch.Tensor,
        num_groups: torch.Tensor,
    ) -> list[torch.Tensor]:
        """
        The visual tokens of each video, in time order: `(tokens, H)` a video.

        Args:
            frame_features (`torch.Tensor` of shape `(V, T, g², D)`).
            grouped_tokens (`torch.Tensor` of shape `(V, T, N, D)`), parent_of_token (`(V, T, N)`): see `VideoState`.
            queries (`torch.Tensor` of shape `(V, T, queries, D)`): the question encoder's output.
            scores (`torch.Tensor` of shape `(V, L)`): of the events, -inf on padding events.
            frame_mask (`torch.Tensor` of shape `(V, T)`, bool), num_groups (`(V,)`, int64): see `rods`.
        """
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
        keys = self.key_projector(gated_tokens)
        attention = (queries @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5).softmax(-1)
        attended = (attention @ gated_tokens).unflatten(2, (self.attended_rods, -1)).mean(3)
        coarse = torch.cat([gated_tokens.mean(2, keepdim=True), attended], dim=2)
        if bool((num_groups < frame_mask.sum(1)).any()):
            group, limit = group_of_frame(frame_mask, num_groups), int(num_groups.max())
            shared = merge_tokens(coarse.flatten(2), group, limit, mask=frame_mask)
            coarse = shared.unflatten(2, coarse.shape[2:])
        return torch.cat([self.projector(coarse[:, :, :1]), self.value_projector(coarse[:, :, 1:])], dim=2)

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
        (_, limit, rod_tokens, width), cone_tokens = rods.shape, cones.shape[2]
        group = group_of_frame(frame_mask, num_groups).gather(1, key_frames)
        rod_mask = torch.arange(limit, device=rods.device) < num_groups[:, None]
        num_frames, num_key = frame_mask.sum(1), slot_mask.sum(1)
        if not self.rods_on_key_frames:
            # Rods give way to cones only where each frame has its own, and not where that would remove them all.
            drop = (num_groups == num_frames) & (num_key < num_frames)
            taken = torch.zeros_like(rod_mask, dtype=torch.long).scatter_add_(1, group, slot_mask.long()) > 0
            rod_mask = rod_mask & ~(taken & drop[:, None])

        # Where each piece starts: the rods that come before it, and the key frames that come before it.
        rods_before = rod_mask.long().cumsum(1) - rod_mask.long()
        slots = torch.arange(key_frames.shape[1], device=rods.device)
        cone_start = rod_tokens * rods_before.gather(1, group) + cone_tokens * slots
        no_later = (group[:, None] <= torch.arange(limit, device=rods.device)[:, None]) & slot_mask[:, None]
        rod_start = rod_tokens * rods_before + cone_tokens * no_later.sum(-1)

        total = rod_tokens * rod_mask.sum(1) + cone_tokens * num_key
        output = rods.new_zeros(len(rods), int(total.max()), width)
        for tokens, start, mask in ((rods, rod_start, rod_mask), (cones, cone_start, slot_mask)):
            position = start[..., None] + torch.arange(tokens.shape[2], device=rods.device)
            videos = torch.arange(len(rods), device=rods.device)[:, None, None].expand_as(position)
            output = output.index_put((videos[mask], position[mask]), tokens[mask])
        return [video[:length] for video, length in zip(output, total.tolist(), strict=True)]


def group_of_frame(frame_mask: torch.Tensor, num_groups: torch.Tensor) -> torch.Tensor:
    """The rod group ⌊t·R/T⌋ of each frame, `(V, T)`; padding frames get the last group."""
    frames = torch.arange(frame_mask.shape[1], device=frame_mask.device)
    group = frames * num_groups[:, None] // frame_mask.sum(1, keepdim=True).clamp(min=1)
    return group.minimum(num_groups[:, None] - 1)


__all__ = ["ClusterGate", "CooperativeEncoder", "VisualProjector", "group_of_frame"]
