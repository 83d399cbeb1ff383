"""
The selector learns that nothing fits a question about what a video does not show.

In the rounds before, every question was about a shown event, except for those whether there is one. So an event with a
similar number, or with one of the two words of an object, got a score of nearly 1, and the language model was told
that it is the one. Question encoder and scorer learn low scores here; everything else stays as it is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sizes import Part
from torch import nn

from dynfocus.encoding.question_encoder import FrameQueries
from dynfocus.eval.synthetic.questions import UNANSWERABLE
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration

from .attention import choose_attention_of_questions
from .data import QuestionBatches
from .progress import relevance_loss, train_parts


def learn_absence(
    model: DynFocusForConditionalGeneration,
    lessons: Sequence[tuple[Part, QuestionBatches]],
    partial: Path,
    *,
    seed: int,
    device: str,
    **training: Any,
) -> None:
    """
    Train question encoder and scorer in place; `partial` is continued. `training` is passed to `train_parts`.

    lessons: each step draws one, by the parts' steps.
    """
    inner = model.model
    choose_attention_of_questions(model)
    shares = np.array([part.steps for part, _ in lessons]) / sum(part.steps for part, _ in lessons)

    def losses_at(step: int) -> tuple[dict[str, torch.Tensor], list[tuple[str, float]]]:
        rng = np.random.default_rng((seed, 3, step))
        part, batches = lessons[int(rng.choice(len(lessons), p=shares))]
        rows, turns = batches.draw(rng, part.batch_size)
        asked = batches.asked(turns, part.num_frames).to(device)
        scores, medoids = event_scores(model, batches, rows, turns, device)
        best, place = scores.detach().sigmoid().max(1, keepdim=True)
        hits = asked.gather(1, medoids.gather(1, place))
        numbers = []
        for (question, *_), score, hit in zip(turns, best[:, 0].tolist(), hits[:, 0].tolist(), strict=True):
            if question.kind == UNANSWERABLE:
                numbers.append(("best score without answer", score))
            elif question.frames:
                numbers.append(("best event is asked", hit))
        return {"relevance": relevance_loss(scores, medoids, asked)}, numbers

    parts = nn.ModuleList([inner.question_encoder, inner.event_prototypes])
    train_parts(parts, losses_at, partial, stage="absence", warm_up=30, every=25, device=device, **training)


def event_scores(
    model: DynFocusForConditionalGeneration, batches: QuestionBatches, rows: np.ndarray, turns: list, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scores of the events for the first question of each chat, and the events' medoids, `(V, L)` both."""
    inputs, inner = batches.videos(rows, turns, device), model.model
    state, estimator = inputs["video_state"], inner.event_prototypes
    question = inputs["question_input_ids"], inputs["question_attention_mask"]
    events = estimator.find_events(state.frame_features, state.frame_mask, inputs["video_token_plan"][:, 0])
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        # In chunks, the question is encoded at the medoids alone.
        queries = FrameQueries(
            inner.question_encoder, *question, state.grouped_tokens, state.frame_mask, in_chunks=True
        )
        return estimator(events, queries, state.grouped_tokens, state.frame_mask), events.medoids


__all__ = ["learn_absence"]
