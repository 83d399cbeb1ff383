"""
The language model as teacher of a new selector, before its row: which events make the right answers likely?

For rows whose selector may not learn from labels. The language model of the shared start is asked questions about
training videos with one event shown at a time, as in `dynfocus.training.likelihood`. It does not change here, so each
question is asked once, and the scores learn from it many times.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dynfocus.encoding.question_encoder import FrameQueries
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.processing.token_plan import TokenPlan
from dynfocus.selecting.events import event_time_features, take_frames
from dynfocus.training.likelihood import answer_likelihoods, score_loss

from .data import QuestionBatches
from .progress import train_parts

#: Questions that are asked together.
BLOCK = 16


def teach_scores(
    model: DynFocusForConditionalGeneration,
    batches: QuestionBatches,
    plan: TokenPlan,
    partial: Path,
    *,
    num_questions: int,
    num_events: int,
    batch_size: int,
    seed: int,
    device: str,
    log: Any,
    **training: Any,
) -> None:
    """
    Train the events' scores in place, except what `fix_words` fixed; `partial` is continued. Of each video,
    `num_events` are tried. `training` is passed to `train_parts`.
    """
    estimator = model.model.event_prototypes
    blocks = []
    for block in range(0, num_questions, BLOCK):
        rng = np.random.default_rng((seed, 3, block))
        blocks.append(ask(model, batches, plan, rng, min(BLOCK, num_questions - block), num_events, device))
        if block % (20 * BLOCK) == 0:
            log(f"teaching: {block}/{num_questions} questions asked")
    *seen, tried, likelihoods = (torch.cat(parts) for parts in zip(*blocks, strict=True))

    def losses_at(step: int) -> tuple[dict[str, torch.Tensor], tuple[()]]:
        drawn = np.random.default_rng((seed, 4, step)).choice(num_questions, batch_size, replace=False)
        rows = torch.from_numpy(drawn).to(device)
        queries, tokens, pooled, times, mask = (tensor[rows] for tensor in seen)
        scores = estimator.scorer(pooled, mask)
        scores = scores + estimator.question_scorer(queries.float(), tokens.float(), pooled, times, mask)
        return {"likelihood": score_loss(scores.gather(1, tried[rows]), likelihoods[rows]).mean()}, ()

    parts = nn.ModuleList([estimator])
    train_parts(parts, losses_at, partial, stage="teaching", warm_up=30, every=100, device=device, log=log, **training)


@torch.no_grad()
def ask(
    model: DynFocusForConditionalGeneration,
    batches: QuestionBatches,
    plan: TokenPlan,
    rng: np.random.Generator,
    count: int,
    num_events: int,
    device: str,
) -> tuple[torch.Tensor, ...]:
    """
    Ask `count` questions with `num_events` events S of each video, shown one at a time.

    Returns what the scorers see of all events (queries and tokens in half precision, pooled prototypes, time
    features, mask), the events tried `(count, S)`, and the log-probabilities of the answers `(count, S)`.
    """
    rows, turns = batches.draw(rng, count)
    inputs = batches.collate(rows, turns, device, plan)
    inputs.pop("asked")
    state, inner = inputs["video_state"], model.model
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        question = inputs["question_input_ids"], inputs["question_attention_mask"]
        queries = FrameQueries(
            inner.question_encoder, *question, state.grouped_tokens, state.frame_mask, in_chunks=False
        )
        events = inner.event_prototypes.events_of(
            state, inputs["video_token_plan"][:, 0], queries.device, queries.dtype
        )
        order = rng.permuted(np.tile(np.arange(plan.num_prototypes), (count, 1)), axis=1)
        tried = torch.from_numpy(order[:, :num_events]).to(device)
        likelihoods = answer_likelihoods(model, inputs, tried)
    pooled = torch.cat([events.prototypes.mean(2), events.prototypes.amax(2)], dim=-1)
    tokens = take_frames(state.grouped_tokens, events.medoids)
    times = event_time_features(events, state.frame_mask)
    return queries.take(events.medoids).half(), tokens.half(), pooled.float(), times, events.mask, tried, likelihoods


__all__ = ["ask", "teach_scores"]
