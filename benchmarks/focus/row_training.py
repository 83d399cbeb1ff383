"""Training of a row of the comparison, and of the model from which all rows start."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from layouts import Layout, take_layout, told_scores
from sizes import Part

from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.training.tiny.answers import AnswerTraining, build_optimizers, set_learning_rates
from dynfocus.training.tiny.data import QuestionBatches
from dynfocus.training.tiny.progress import load_progress, part_at, relevance_loss, save_progress


@dataclass(frozen=True)
class Lesson:
    """One step's layout, part and questions."""

    layout: Layout
    part: Part
    batches: QuestionBatches


def in_order(layout: Layout, lessons: Sequence[tuple[Part, QuestionBatches]]) -> Callable[..., Lesson]:
    """Part after part, in one layout."""
    return lambda rng, step: Lesson(layout, *lessons[part_at(step, [part.steps for part, _ in lessons])])


def at_random(
    layouts: Mapping[Layout, float], lessons: Sequence[tuple[Part, QuestionBatches]], longest_dense: int
) -> Callable[..., Lesson]:
    """
    Layouts by their shares, parts by their steps.

    longest_dense: videos longer than this are not kept in full: the first part takes their place, with fewer videos.
    """
    shares = np.array([part.steps for part, _ in lessons]) / sum(part.steps for part, _ in lessons)
    weights = np.array(list(layouts.values())) / sum(layouts.values())

    def draw(rng: np.random.Generator, step: int) -> Lesson:
        part, batches = lessons[int(rng.choice(len(lessons), p=shares))]
        layout = list(layouts)[int(rng.choice(len(layouts), p=weights))]
        if layout.selector == "all" and len(layouts) > 1:
            part, batches = (part, batches) if part.num_frames <= longest_dense else lessons[0]
            part = replace(part, batch_size=max(1, part.batch_size // 4))
        return Lesson(layout, part, batches)

    return draw


def train(
    model: DynFocusForConditionalGeneration,
    draw: Callable[[np.random.Generator, int], Lesson],
    total: int,
    settings: AnswerTraining,
    partial: Path,
    *,
    seed: int,
    device: str,
    log: Callable[[str], None],
    longest_position: int = 0,
) -> float:
    """
    Trains `model`, which has the layout, in place for `total` steps; `partial` is continued. Returns the seconds it
    took.

    longest_position: so far the tokens of a video are put apart (see `spread_positions`); 0 leaves them together.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizers = build_optimizers(model, settings)
    step = load_progress(partial, model, optimizers, device)
    started, window = time.monotonic(), defaultdict(list)
    model.train()
    while step < total:
        # All follows from the step alone: every row sees the same questions about the same videos.
        rng = np.random.default_rng((seed, step))
        torch.manual_seed(seed * 1_000_003 + step)
        set_learning_rates(optimizers, settings, step, total)
        lesson = draw(rng, step)
        learns = lesson.layout.learns and model.model.event_prototypes.blind_scorer is None
        model.model.selection_sigma = settings.sigma * (1 - step / total) if learns else 0.0
        losses = step_losses(model, lesson, settings, rng, device, longest_position)
        model.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        for name, loss in losses.items():
            window[f"{name} of {lesson.layout.name}" if name == "answer" else name].append(loss.item())
        if step % settings.log_every == 0 or step == total:
            means = " ".join(f"{name} {np.mean(values):.3f}" for name, values in window.items())
            log(f"{partial.stem} step {step}/{total} {means} ({time.monotonic() - started:.0f} s)")
            window.clear()
        if step % settings.save_every == 0 or step == total:
            save_progress(partial, model, optimizers, step)
    model.eval()
    return time.monotonic() - started


def spread_positions(
    rng: np.random.Generator, rows: int, num_tokens: int, video: slice, longest: int
) -> torch.Tensor | None:
    """
    Positions `(rows, num_tokens)` as if the videos were longer: gaps at up to eight places of the video, in all up to
    the position `longest`. `None`, so as usual, for a quarter of the batches.

    A language model that has only read short videos knows no positions beyond them.
    """
    room = longest - num_tokens
    if room < 1 or rng.random() < 0.25:
        return None
    steps = np.ones((rows, num_tokens), dtype=np.int64)
    for row in steps:
        gaps = int(np.exp(rng.uniform(0, np.log(room))))
        places = rng.integers(video.start, video.stop + 1, size=int(rng.integers(1, 9)))
        np.add.at(row, places, rng.multinomial(gaps, rng.dirichlet(np.ones(len(places)))))
    return torch.from_numpy(steps.cumsum(1) - 1)


def choose_attention(model: DynFocusForConditionalGeneration, num_tokens: int) -> None:
    """On a CPU the plain attention takes a third less time than PyTorch's, as long as its matrices are small."""
    if model.device.type == "cpu":
        model.model.question_encoder.qformer.set_attn_implementation("eager")
        model.model.language_model.set_attn_implementation("eager" if num_tokens <= 1600 else "sdpa")


def step_losses(
    model: DynFocusForConditionalGeneration,
    lesson: Lesson,
    settings: AnswerTraining,
    rng: np.random.Generator,
    device: str,
    longest_position: int,
) -> dict[str, torch.Tensor]:
    """The losses of one batch by their names."""
    layout, part, batches = lesson.layout, lesson.part, lesson.batches
    take_layout(model, layout)
    num_key = int(rng.choice(part.key_frames))
    noise_seed = int(rng.integers(2**31))
    rows, turns = batches.draw(rng, part.batch_size)
    plan = layout.plan(part.num_frames, num_key)
    inputs: dict[str, Any] = batches.collate(rows, turns, device, plan)
    asked = inputs.pop("asked")
    num_tokens, before = inputs["input_ids"].shape[1], len(batches.before)
    choose_attention(model, num_tokens)
    video = slice(before, before + plan.num_visual_tokens)
    positions = spread_positions(rng, len(rows), num_tokens, video, longest_position)
    if positions is not None:
        inputs["position_ids"] = positions.to(device)
    model.model.event_prototypes.told = told_scores(layout, asked, num_key, noise_seed)
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=settings.bf16):
        outputs = model(**inputs)
    losses = {"answer": outputs.loss}
    estimator, found = model.model.event_prototypes, outputs.video_features
    medoids = torch.stack(found.event_medoids)
    if estimator.blind_scorer is not None:
        aware, blind = estimator.own
        losses["relevance"] = layout.relevance * relevance_loss(aware, medoids, asked)
        losses["blind relevance"] = layout.relevance * relevance_loss(blind, medoids, asked)
    elif layout.learns:
        relevance = relevance_loss(torch.stack(found.event_scores), medoids, asked)
        # A weight of 0 is still looked at.
        losses["relevance"] = layout.relevance * relevance if layout.relevance else relevance.detach()
    return losses


__all__ = ["Lesson", "at_random", "choose_attention", "in_order", "spread_positions", "train"]
