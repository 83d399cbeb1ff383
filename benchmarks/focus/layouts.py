"""The rows of the comparison: how each chooses frames, and which visual tokens its language model reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from dynfocus.encoding.event_scoring import EventScorer
from dynfocus.encoding.question_encoder import FrameQueries
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.modeling_outputs_dynfocus import DynFocusVideoFeatures
from dynfocus.processing.token_plan import TokenPlan
from dynfocus.selecting.focus import Focus
from dynfocus.selecting.topk import hard_topk
from dynfocus.states.video_state import VideoState

CONES, RODS, POOLED = 38, 2, 4


@dataclass(frozen=True)
class Layout:
    """
    A row of the comparison.

    Args:
        name, says (`str`): the name in tables, and a description.
        selector (`str`): `"aware"` and `"blind"` learn to choose; `"uniform"`, `"random"`, `"oracle"` (the frames of
            the asked events, then random ones) and `"all"` are given; `"none"` has no key frames.
        rods, cones (`bool`): which tokens are kept.
        pooled (`bool`): every frame is pooled to the same number of tokens instead.
        released (`bool`): the preset `released_code`.
        relevance (`float`): weight of the selector's own loss, which needs labels; without it, the selector is new.
        taught (`bool`): question encoder and selector are new, learn words and then from the language model, without
            labels (`recipe.words`, `recipe.teaching`), and do not change in the row's own training.
    """

    name: str
    says: str
    selector: str
    rods: bool = True
    cones: bool = True
    pooled: bool = False
    released: bool = False
    relevance: float = 0.5
    taught: bool = False

    @property
    def learns(self) -> bool:
        return self.selector in ("aware", "blind")

    @property
    def embeds_scores(self) -> bool:
        """Whether the events' scores are embedded into the tokens."""
        return self.selector == "aware"

    def plan(self, num_frames: int, num_key: int, prototypes: int = 64) -> TokenPlan:
        """The plan of a video; without a learned selector, the choice is among all frames."""
        num_prototypes = min(num_frames, 80 if self.released else prototypes) if self.learns else num_frames
        num_key = num_frames if self.selector == "all" else min(num_key, num_prototypes)
        tokens = RODS * self.rods * num_frames + CONES * self.cones * num_key
        if self.released and num_key < num_frames:
            tokens -= RODS * num_key
        if self.pooled:
            tokens = POOLED * num_frames
        return TokenPlan(num_frames, num_prototypes, num_key, num_frames, tokens)


ROWS = {
    layout.name: layout
    for layout in (
        Layout("dense", "every frame's cones and rods", "all"),
        Layout("dynfocus", "question-aware selector", "aware"),
        Layout("answers_only", "question-aware selector, trained by the answers alone", "aware", relevance=0.0),
        Layout("likelihood", "new selector of words, answers' likelihood", "aware", relevance=0.0, taught=True),
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


#: Layout of the model from which all rows start, with the parts of all rows, so that both selectors learn.
BASE = Layout("base", "has the layouts of all rows by turns", "oracle")


@dataclass
class Choice:
    """
    The rule of choice of a layout, for `get_video_features(choose=…)`; it keeps its scores.

    Args:
        layout (`Layout`).
        frame_scores (`torch.Tensor` of shape `(V, T)`, *optional*): the K highest are chosen; see `frame_scores`.

    Attributes:
        aware, blind (`torch.Tensor` of shape `(V, L)`, *optional*):
            scores of the events by the question-aware and by the question-blind selector, if the layout has them.
    """

    layout: Layout
    frame_scores: torch.Tensor | None = None
    aware: torch.Tensor | None = None
    blind: torch.Tensor | None = None

    def __call__(
        self,
        estimator: Any,
        state: VideoState,
        queries: FrameQueries,
        plan: torch.Tensor,
        *,
        sigma: float,
        noise: torch.Tensor | None,
    ) -> Focus:
        _, num_key, num_groups = plan.unbind(1)
        is_base = hasattr(estimator, "blind_scorer")
        if is_base or self.layout.learns:
            events = estimator.events_of(state, plan[:, 0], queries.device, queries.dtype)
            if is_base or self.layout.selector == "aware":
                self.aware = estimator(events, queries, state.grouped_tokens, state.frame_mask)
            if is_base or self.layout.selector == "blind":
                scorer = estimator.blind_scorer if is_base else estimator.scorer
                pooled = torch.cat([events.prototypes.mean(2), events.prototypes.amax(2)], dim=-1)
                self.blind = scorer(pooled, events.mask).float().masked_fill(~events.mask, float("-inf"))
        if self.frame_scores is not None:
            key_frames = hard_topk(self.frame_scores.to(queries.device), num_key, mask=state.frame_mask)
            return Focus.on_frames(key_frames, state.frame_mask, num_groups)
        scores = self.aware if self.layout.selector == "aware" else self.blind
        focus = Focus.on_events(
            events, scores, num_key, num_groups, sigma=sigma, num_samples=estimator.num_samples, noise=noise
        )
        # Only scores of the question-aware selector are embedded into the tokens.
        return focus if self.layout.embeds_scores else replace(focus, scores=None)


def choice_of(layout: Layout, asked: torch.Tensor, num_key: int, seed: Any) -> Choice:
    """How a layout chooses among the frames of videos, where `asked` `(V, T)` marks those of the asked events."""
    return Choice(layout, frame_scores(layout, asked, num_key, seed))


def frame_scores(layout: Layout, asked: torch.Tensor, num_key: int, seed: Any) -> torch.Tensor | None:
    """Scores of the frames if the layout does not learn to choose; `asked` `(V, T)` marks the asked events."""
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


def video_features(
    model: DynFocusForConditionalGeneration, choice: Choice, inputs: Mapping[str, Any]
) -> DynFocusVideoFeatures:
    """`get_video_features` of `inputs`, with the visual tokens that the layout keeps."""
    layout = choice.layout
    found = model.get_video_features(**inputs, choose=choice, return_dict=True)
    if layout.pooled:
        features = inputs["video_state"].frame_features
        side = int(features.shape[2] ** 0.5)
        cells = features.flatten(0, 1).transpose(1, 2).unflatten(2, (side, side))
        pooled = F.adaptive_avg_pool2d(cells, 2).flatten(2).transpose(1, 2)
        tokens = model.model.cooperative_encoder.projector(pooled).unflatten(0, features.shape[:2]).flatten(1, 2)
        return replace(found, pooler_output=list(tokens))
    if layout.rods and layout.cones:
        return found
    videos = zip(found.pooler_output, found.key_frames, strict=True)
    return replace(found, pooler_output=[video[_kept(layout, keys.tolist(), len(video))] for video, keys in videos])


def _kept(layout: Layout, key_frames: list[int], num_tokens: int) -> torch.Tensor:
    """Mask of a video's tokens that the layout keeps: a key frame's cones come before its rods."""
    is_cone = torch.zeros(num_tokens, dtype=torch.bool)
    for slot, frame in enumerate(key_frames):
        start = RODS * frame + CONES * slot
        is_cone[start : start + CONES] = True
    return is_cone if layout.cones else ~is_cone


def lay_out(model: DynFocusForConditionalGeneration, layout: Layout) -> None:
    """
    Remove the parts of `model` that a layout does not use, in place; the base keeps all, and gets a second selector.
    """
    inner = model.model
    if layout.name == BASE.name:
        inner.event_prototypes.blind_scorer = EventScorer(model.config.vision_config.hidden_size).to(model.device)
    elif layout.selector != "aware":
        inner.cooperative_encoder.score_embedding = None
        inner.event_prototypes.question_scorer = None


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


__all__ = ["BASE", "ROWS", "Choice", "Layout", "choice_of", "frame_of_token", "lay_out", "video_features"]
