"""Training of a row of the comparison, and of the model from which all rows start."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from layouts import Layout, told_scores
from sizes import Part

from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.training.tiny.answers import AnswerTraining, build_optimizers, set_learning_rates
from dynfocus.training.tiny.data import QuestionBatches
from dynfocus.training.tiny.progress import load_progress, part_at, relevance_loss, save_progress


def train(
    model: DynFocusForConditionalGeneration,
    layout: Layout,
    lessons: Sequence[tuple[Part, QuestionBatches]],
    settings: AnswerTraining,
    partial: Path,
    *,
    seed: int,
    device: str,
    log: Callable[[str], None],
) -> float:
    """Trains `model`, which has the layout, in place; `partial` is continued. Returns the seconds it took."""
    total = sum(part.steps for part, _ in lessons)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizers = build_optimizers(model, settings)
    step = load_progress(partial, model, optimizers, device)
    started, window = time.monotonic(), defaultdict(list)
    model.train()
    while step < total:
        part, batches = lessons[part_at(step, [part.steps for part, _ in lessons])]
        # All follows from the step alone: every row sees the same questions about the same videos.
        rng = np.random.default_rng((seed, step))
        torch.manual_seed(seed * 1_000_003 + step)
        set_learning_rates(optimizers, settings, step, total)
        model.model.selection_sigma = settings.sigma * (1 - step / total) if layout.learns else 0.0
        losses = step_losses(model, layout, part, batches, settings, rng, device)
        model.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        for name, loss in losses.items():
            window[name].append(loss.item())
        if step % settings.log_every == 0 or step == total:
            means = " ".join(f"{name} {np.mean(values):.3f}" for name, values in window.items())
            log(f"{layout.name} seed {seed} step {step}/{total} {means} ({time.monotonic() - started:.0f} s)")
            window.clear()
        if step % settings.save_every == 0 or step == total:
            save_progress(partial, model, optimizers, step)
    model.eval()
    return time.monotonic() - started


def step_losses(
    model: DynFocusForConditionalGeneration,
    layout: Layout,
    part: Part,
    batches: QuestionBatches,
    settings: AnswerTraining,
    rng: np.random.Generator,
    device: str,
) -> dict[str, torch.Tensor]:
    """The losses of one batch by their names."""
    num_key = int(rng.choice(part.key_frames))
    noise_seed = int(rng.integers(2**31))
    rows, turns = batches.draw(rng, part.batch_size)
    inputs: dict[str, Any] = batches.collate(rows, turns, device, layout.plan(part.num_frames, num_key))
    asked = inputs.pop("asked")
    model.model.event_prototypes.told = told_scores(layout, asked, num_key, noise_seed)
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=settings.bf16):
        outputs = model(**inputs)
    losses = {"answer": outputs.loss}
    estimator, found = model.model.event_prototypes, outputs.video_features
    medoids = torch.stack(found.event_medoids)
    if layout.learns:
        relevance = relevance_loss(torch.stack(found.event_scores), medoids, asked)
        # A weight of 0 is still looked at.
        losses["relevance"] = layout.relevance * relevance if layout.relevance else relevance.detach()
    elif estimator.blind_scorer is not None:
        aware, blind = estimator.own
        losses["relevance"] = layout.relevance * relevance_loss(aware, medoids, asked)
        losses["blind relevance"] = layout.relevance * relevance_loss(blind, medoids, asked)
    return losses


__all__ = ["train"]
