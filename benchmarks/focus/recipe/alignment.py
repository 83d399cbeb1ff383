"""
Stage 4 of the tiny recipe: align the new parts with language, before any answer is trained.

The selector learns which events a question asks about, and the tokens learn to carry words: a frame's rod that the
question attends to and its cones become sums of the embeddings of what the frame shows, so that "the red star" of a
question meets a token with "red" and "star" in it. In the same way the question encoder's queries learn to carry the
words that the question names, because the score multiplies them with the frame's tokens. A tower trained on captions
already has much of this; ours was trained on labels.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dynfocus.encoding.question_encoder import FrameQueries
from dynfocus.eval.synthetic.questions import Question
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.selecting.events import take_frames

from .attention import choose_attention_of_questions
from .data import QuestionBatches
from .naming import Naming, named_in
from .progress import relevance_loss, train_parts

#: How often each kind is asked: most often the kinds that the selector learns last, never kinds without an event.
SELECTION_WEIGHTS = {
    "color": 1.0,
    "shape": 1.0,
    "number": 1.5,
    "order": 2.0,
    "first_last": 4.0,
    "motion": 1.0,
    "existence": 1.0,
    "locating": 1.5,
}


def align(
    model: DynFocusForConditionalGeneration,
    naming: Naming,
    batches: QuestionBatches,
    out: Path,
    *,
    batch_size: int,
    seed: int,
    device: str,
    **training: Any,
) -> None:
    """
    Train selector, rods and cones in place; a checkpoint in `out/alignment.partial` is continued, or taken. `training`
    is passed to `train_parts`.
    """
    naming = naming.to(device)
    inner = model.model
    choose_attention_of_questions(model)
    parts = nn.ModuleList([inner.question_encoder, inner.event_prototypes, inner.cooperative_encoder, naming])

    def losses_at(step: int) -> tuple[dict[str, torch.Tensor], list[tuple[str, float]]]:
        torch.manual_seed(seed * 1_000_003 + step)
        rows, turns = batches.draw(np.random.default_rng((seed, 1, step)), batch_size)
        losses, hits = alignment_losses(model, naming, batches, rows, turns, device)
        first = [questions[0] for questions in turns]
        asked = zip(first, hits.tolist(), strict=True)
        return losses, [(f"best event of {question.kind}", hit) for question, hit in asked if question.frames]

    partial = out / "alignment.partial"
    train_parts(parts, losses_at, partial, stage="alignment", warm_up=100, every=100, device=device, **training)


def alignment_losses(
    model: DynFocusForConditionalGeneration,
    naming: Naming,
    batches: QuestionBatches,
    rows: np.ndarray,
    turns: list[list[Question]],
    device: str,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """All losses of a batch by their names, and whether the best event is one that the question asks about `(B,)`."""
    inputs, labels = batches.collate(rows, turns, device), batches.labels(rows, device)
    named = torch.from_numpy(np.stack([named_in(questions[0].question) for questions in turns])).to(device)
    state, asked = inputs["video_state"], inputs["asked"]
    num_prototypes, num_key, _ = inputs["video_token_plan"].unbind(1)
    estimator, encoder = model.model.event_prototypes, model.model.cooperative_encoder
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        question = inputs["question_input_ids"], inputs["question_attention_mask"]
        queries = FrameQueries(
            model.model.question_encoder, *question, state.grouped_tokens, state.frame_mask, in_chunks=False
        )
        events = estimator.find_events(state.frame_features, state.frame_mask, num_prototypes)
        scores = estimator(events, queries, state.grouped_tokens, state.frame_mask)
        gated = encoder.cluster_gate(state.grouped_tokens, state.parent_of_token)
        rods = encoder.rods(gated, queries.all_frames)
        # The cones of any frame must name its content: these are some frames, independent of the question.
        chances = torch.rand(scores.shape, device=device).masked_fill(~events.mask, -1)
        key_events = chances.topk(int(num_key.max())).indices.sort().values
        of_keys = events.medoids.gather(1, key_events)
        cones = encoder.cones(take_frames(state.frame_features, of_keys), take_frames(gated, of_keys))
        matches = naming.matches(estimator.question_scorer, queries.all_frames, state.grouped_tokens, named, labels)
    losses = {
        "relevance": 2 * relevance_loss(scores, events.medoids, asked),
        **matches,
        **naming.rods(rods[:, :, 1].float(), labels),
        **naming.cones(cones.float(), {name: label.gather(1, of_keys) for name, label in labels.items()}),
    }
    best = events.medoids.gather(1, scores.argmax(1, keepdim=True))
    return losses, asked.gather(1, best)[:, 0]


__all__ = ["SELECTION_WEIGHTS", "align", "alignment_losses"]
