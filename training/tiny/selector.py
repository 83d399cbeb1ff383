"""Stage 3 of the tiny recipe: warm up the selector, before any answer is trained."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from dynfocus.event_prototypes import take_frames
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration

from .data import QuestionBatches
from .progress import learning_rate_at, relevance_loss


def warm_up_selector(
    model: DynFocusForConditionalGeneration,
    batches: QuestionBatches,
    out: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    device: str,
    log: Callable[[str], None],
) -> None:
    """Train question encoder and scores on which events a question asks about; kept in `out/selector.safetensors`."""
    parts = torch.nn.ModuleList([model.model.question_encoder, model.model.event_prototypes])
    finished = out / "selector.safetensors"
    if finished.exists():
        parts.load_state_dict(load_file(finished, device=device))
        return
    encoder, estimator = model.model.question_encoder, model.model.event_prototypes
    optimizer = torch.optim.AdamW(parts.parameters(), lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    started, losses, hits = time.monotonic(), [], []
    for step in range(steps):
        rng = np.random.default_rng((seed, 1, step))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, steps, learning_rate, warm_up=100)
        inputs = batches.collate(*batches.draw(rng, batch_size), device)
        state, asked = inputs["video_state"], inputs["asked"]
        num_events = inputs["video_token_plan"][:, 0]
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            events = estimator.find_events(state.frame_features, state.frame_mask, num_events)
            # Scores look at the medoid frames alone: the others need no question.
            tokens = take_frames(state.grouped_tokens, events.medoids)
            found = encoder(inputs["question_input_ids"], inputs["question_attention_mask"], tokens, events.mask)
            queries = found.new_zeros(*state.frame_mask.shape, *found.shape[2:])
            index = events.medoids[..., None, None].expand_as(found)
            scores = estimator.score(events, queries.scatter(1, index, found), state.grouped_tokens, state.frame_mask)
        loss = relevance_loss(scores, events.medoids, asked)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        best = events.medoids.gather(1, scores.argmax(1, keepdim=True))
        hits.append(asked.gather(1, best)[:, 0][asked.any(1)].mean().item())
        if (step + 1) % 100 == 0:
            log(
                f"selector step {step + 1}/{steps} loss {np.mean(losses[-100:]):.3f} best event asked for "
                f"{np.mean(hits[-100:]):.3f} ({time.monotonic() - started:.0f} s)"
            )
    save_file({name: tensor.contiguous() for name, tensor in parts.state_dict().items()}, finished)


__all__ = ["warm_up_selector"]
