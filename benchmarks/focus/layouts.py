"""The rows of the comparison: how each chooses frames, and which visual tokens its language model reads."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from dynfocus.encoding.cooperative_encoding import CooperativeEncoder
from dynfocus.encoding.event_prototypes import EventPrototypeEstimator, Events, Selection
from dynfocus.encoding.event_scoring import EventScorer
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.processing.token_plan import TokenPlan

CONES, RODS, POOLED = 38, 2, 4


@dataclass(frozen=True)
class Layout:
    """
    A row of the comparison.

    Args:
        name, says (`str`): in tables, and in words.
        selector (`str`): `"aware"` and `"blind"` learn to choose; `"uniform"`, `"random"`, `"oracle"` (the frames of
            the asked events, then random ones) and `"all"` are told; `"none"` has no key frames.
        rods, cones (`bool`): which tokens are kept.
        pooled (`bool`): every frame is pooled to the same number of tokens instead.
        released (`bool`): the preset `released_code`.
        relevance (`float`): weight of the selector's own loss.
    """

    name: str
    says: str
    selector: str
    rods: bool = True
    cones: bool = True
    pooled: bool = False
    released: bool = False
    relevance: float = 0.5

    @property
    def learns(self) -> bool:
        return self.selector in ("aware", "blind")

    @property
    def tells_score(self) -> bool:
        """Whether its tokens tell the language model how well they fit the question."""
        return self.selector == "aware"

    def plan(self, num_frames: int, num_key: int, prototypes: int = 64) -> TokenPlan:
        """The plan of a video; told choices are among all frames."""
        num_events = min(num_frames, 80 if self.released else prototypes) if self.learns else num_frames
        num_key = num_frames if self.selector == "all" else min(num_key, num_events)
        tokens = RODS * self.rods * num_frames + CONES * self.cones * num_key
        if self.released and num_key < num_frames:
            tokens -= RODS * num_key
        if self.pooled:
            tokens = POOLED * num_frames
        return TokenPlan(num_frames, num_events, num_key, num_frames, tokens)


ROWS = {
    layout.name: layout
    for layout in (
        Layout("dense", "every frame's cones and rods", "all"),
        Layout("dynfocus", "question-aware selector", "aware"),
        Layout("answers_only", "question-aware selector, trained by the answers alone", "aware", relevance=0.0),
        Layout("blind", "question-blind selector, as in the paper", "blind"),
        Layout("released_code", "the authors' code: k-means, question-blind", "blind", released=True),
        Layout("uniform", "key frames at equal distances", "uniform"),
        Layout("random", "key frames at random", "random"),
        Layout("oracle", "key frames among the asked events' own frames", "oracle"),
        Layout("rods_only", "two tokens a frame, as LLaMA-VID", "none", cones=False),
        Layout("cones_only", "question-aware selector, no rods", "aware", rods=False),
        Layout("pooled", "every frame pooled to 2×2 tokens", "none", pooled=True),
    )
}


class ToldEstimator(EventPrototypeEstimator):
    """
    DPE that takes the frames' scores `(V, T)` from `told`, where there are some.

    While the model is trained from which all rows start, both selectors learn, whoever chooses: `blind_scorer` is
    there then, and `own` holds the scores `(V, L)` of the question-aware and of the question-blind one.
    """

    layout: Layout
    told: torch.Tensor | None = None
    blind_scorer: EventScorer | None
    own: tuple[torch.Tensor, ...] = ()

    def forward(self, events: Any, queries: Any, grouped_tokens: Any, frame_mask: Any) -> torch.Tensor:
        scores = None
        if self.blind_scorer is not None:
            pooled = torch.cat([events.prototypes.mean(2), events.prototypes.amax(2)], dim=-1)
            aware = super().forward(events, queries, grouped_tokens, frame_mask)
            self.own = aware, self.blind_scorer(pooled, events.mask).float()
            scores = self.own[self.layout.selector == "blind"]
        if self.told is None:
            return super().forward(events, queries, grouped_tokens, frame_mask) if scores is None else scores
        scores = self.told.gather(1, events.medoids).float()
        return scores.masked_fill(~events.mask, float("-inf"))


class PartialEncoder(CooperativeEncoder):
    """CCE that leaves out what its layout does not keep."""

    layout: Layout

    def forward(
        self,
        frame_features: torch.Tensor,
        grouped_tokens: torch.Tensor,
        parent_of_token: torch.Tensor,
        queries: Any,
        events: Events,
        scores: torch.Tensor,
        selection: Selection,
        frame_mask: torch.Tensor,
        num_groups: torch.Tensor,
    ) -> list[torch.Tensor]:
        if self.layout.pooled:
            side = int(frame_features.shape[2] ** 0.5)
            cells = frame_features.flatten(0, 1).transpose(1, 2).unflatten(2, (side, side))
            pooled = F.adaptive_avg_pool2d(cells, 2).flatten(2).transpose(1, 2)
            return list(self.projector(pooled).unflatten(0, frame_features.shape[:2]).flatten(1, 2))
        with self._scores_of_this_layout():
            tokens = super().forward(
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
        if self.layout.rods and self.layout.cones:
            return tokens
        key_frames = events.medoids.gather(1, selection.key_events).tolist()
        return [video[self._kept(frames, len(video))] for video, frames in zip(tokens, key_frames, strict=True)]

    @contextmanager
    def _scores_of_this_layout(self) -> Iterator[None]:
        """Scores are told to the language model where the question-aware selector made them."""
        tell = self.score_embedding
        if not self.layout.tells_score:
            self.score_embedding = None
        try:
            yield
        finally:
            self.score_embedding = tell

    def _kept(self, key_frames: list[int], num_tokens: int) -> torch.Tensor:
        """Which of a video's tokens are of the kind that is kept: a key frame's cones come before its rods."""
        is_cone = torch.zeros(num_tokens, dtype=torch.bool)
        for slot, frame in enumerate(key_frames):
            start = RODS * frame + CONES * slot
            is_cone[start : start + CONES] = True
        return is_cone if self.layout.cones else ~is_cone


#: What the model from which all rows start keeps: the parts of all rows, so that both selectors learn.
BASE = Layout("base", "has the layouts of all rows by turns", "oracle")


def lay_out(model: DynFocusForConditionalGeneration, layout: Layout) -> None:
    """Give `model` a layout, in place; parts that it does not use are taken out. The base keeps the parts of all."""
    inner = model.model
    inner.event_prototypes.__class__ = ToldEstimator
    inner.cooperative_encoder.__class__ = PartialEncoder
    is_base = layout.name == BASE.name
    blind = EventScorer(model.config.vision_config.hidden_size).to(model.device) if is_base else None
    inner.event_prototypes.register_module("blind_scorer", blind)
    if not is_base and layout.selector != "aware":
        inner.cooperative_encoder.score_embedding = None
        inner.event_prototypes.question_scorer = None
    take_layout(model, layout)


def take_layout(model: DynFocusForConditionalGeneration, layout: Layout) -> None:
    """Let the base do for the next steps what a row does."""
    model.model.event_prototypes.layout = model.model.cooperative_encoder.layout = layout


def told_scores(layout: Layout, asked: torch.Tensor, num_key: int, seed: Any) -> torch.Tensor | None:
    """Scores of the frames where the layout does not learn to choose; `asked` `(V, T)` marks the asked events."""
    if layout.learns:
        return None
    videos, num_frames = asked.shape
    scores = torch.zeros(videos, num_frames)
    if layout.selector == "uniform":
        places = ((torch.arange(num_key) + 0.5) * num_frames / num_key).long()
        scores[:, places] = 1
    elif layout.selector in ("random", "oracle"):
        noise = np.random.default_rng(seed).random((videos, num_frames), dtype=np.float32)
        scores = torch.from_numpy(noise)
        if layout.selector == "oracle":
            scores = scores + asked.cpu()
    return scores.to(asked.device)


def frame_of_token(layout: Layout, key_frames: Sequence[torch.Tensor], num_frames: int) -> torch.Tensor:
    """The frame `(V, n)` of each visual token of a layout."""
    rows = []
    for keys in key_frames:
        is_key = torch.zeros(num_frames, dtype=torch.long)
        is_key[keys.cpu()] = 1
        counts = RODS * layout.rods + CONES * layout.cones * is_key
        if layout.released and len(keys) < num_frames:
            counts = counts - RODS * is_key
        if layout.pooled:
            counts = torch.full_like(is_key, POOLED)
        rows.append(torch.arange(num_frames).repeat_interleave(counts))
    return torch.stack(rows)


__all__ = [
    "BASE",
    "ROWS",
    "Layout",
    "frame_of_token",
    "lay_out",
    "take_layout",
    "told_scores",
]
