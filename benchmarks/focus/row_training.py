"""Training of a row of the comparison, and of the model from which all rows start."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from layouts import Layout, choice_of, frame_of_token, video_features
from recipe.answers import AnswerTraining, build_optimizers, set_learning_rates
from recipe.attention import choose_attention
from recipe.data import QuestionBatches, answerable
from recipe.guidance import counting_loss, guidance_loss, preceding_loss
from recipe.positions import spread_positions
from recipe.progress import load_progress, relevance_loss, save_progress, take_step
from sizes import Part

from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration

#: Longest chat with guidance of the attention.
MOST_GUIDED_TOKENS = 2000
#: Weight of the loss on the attention to the frame before.
PRECEDING_WEIGHT = 0.2


@dataclass(frozen=True)
class Guidance:
    """
    Additional training of the shared start and the checkpoint, but not of rows: chats also ask all questions that the
    key frames answer.

    Args:
        weight (`float`): weight of the loss on the attention.
        counting (`float`): weight of the loss on the attention of answers that are numbers of events, or that
            something is absent.
        first_frames (`bool`): of counted events, only the first frames count, and frames look at the frame before.
        large_numbers (`bool`): with `first_frames`, the error in the share of the first token counts more for large
            numbers.
        alone (`float`): in layouts with embedded scores, the share of steps that ask only the first question of a
            chat, for twice as many videos.
    """

    weight: float = 0.5
    counting: float = 0.0
    first_frames: bool = False
    large_numbers: bool = False
    alone: float = 0.0


@dataclass(frozen=True)
class Lesson:
    """One step's layout, part and questions."""

    layout: Layout
    part: Part
    batches: QuestionBatches


def at_random(
    layouts: Mapping[Layout, float], lessons: Sequence[tuple[Part, QuestionBatches]], longest_dense: int
) -> Callable[..., Lesson]:
    """
    Returns a function that draws layouts by their shares, and parts by their steps.

    longest_dense: longest videos for the dense layout; for longer ones the first part is used. In a mixture of
        layouts, the dense one has fewer videos in a step.
    """
    shares = np.array([part.steps for part, _ in lessons]) / sum(part.steps for part, _ in lessons)
    weights = np.array(list(layouts.values())) / sum(layouts.values())

    def draw(rng: np.random.Generator, step: int) -> Lesson:
        part, batches = lessons[int(rng.choice(len(lessons), p=shares))]
        layout = list(layouts)[int(rng.choice(len(layouts), p=weights))]
        if layout.selector == "all":
            part, batches = (part, batches) if part.num_frames <= longest_dense else lessons[0]
            if len(layouts) > 1:
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
    guidance: Guidance | None = None,
) -> float:
    """
    Train `model`, which has the layout, in place for `total` steps; `partial` is continued. Returns the seconds it
    took.

    longest_position: largest position when gaps are left between the tokens of a video (see `spread_positions`); 0
        leaves no gaps.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizers = build_optimizers(model, settings)
    step = load_progress(partial, model, optimizers, device)
    started, window = time.monotonic(), defaultdict(list)
    model.train()
    while step < total:
        # Everything depends only on the step: every row sees the same questions about the same videos.
        rng = np.random.default_rng((seed, step))
        torch.manual_seed(seed * 1_000_003 + step)
        set_learning_rates(optimizers, settings, step, total)
        lesson = draw(rng, step)
        learns = lesson.layout.learns and not hasattr(model.model.event_prototypes, "blind_scorer")
        model.model.selection_sigma = settings.sigma * (1 - step / total) if learns else 0.0
        losses = step_losses(model, lesson, settings, rng, device, longest_position, guidance)
        take_step(losses.values(), parameters, optimizers)
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


def step_losses(
    model: DynFocusForConditionalGeneration,
    lesson: Lesson,
    settings: AnswerTraining,
    rng: np.random.Generator,
    device: str,
    longest_position: int,
    guidance: Guidance | None,
) -> dict[str, torch.Tensor]:
    """The losses of one batch by their names."""
    layout, part, batches = lesson.layout, lesson.part, lesson.batches
    num_key = int(rng.choice(part.key_frames))
    noise_seed = int(rng.integers(2**31))
    plan = layout.plan(part.num_frames, num_key)
    size = part.batch_size
    alone = guidance is not None and layout.embeds_scores and rng.random() < guidance.alone
    rows, turns = batches.draw(rng, 2 * size if alone else size, later_cones=guidance is not None)
    if alone:
        turns = [chat[:1] for chat in turns]
    asked = batches.asked(turns, plan.num_frames).to(device)
    choice = choice_of(layout, asked, plan.num_key_frames, noise_seed)
    choose_attention(model)
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=settings.bf16):
        videos = batches.videos(rows, turns, device, plan)
        found = video_features(model, choice, videos)
        key_frames = found.key_frames if layout.cones and not layout.pooled else [torch.empty(0)] * len(rows)
        turns = [
            [first, *answerable(later, set(keys.tolist()))]
            for (first, *later), keys in zip(turns, key_frames, strict=True)
        ]
        chats = batches.writer.write(turns, plan.num_visual_tokens, plan.num_frames)
        inputs: dict[str, Any] = chats.inputs(device)
        num_tokens, before = inputs["input_ids"].shape[1], len(batches.writer.before)
        # Attention weights over thousands of tokens take much memory.
        guided = guidance is not None and num_tokens <= MOST_GUIDED_TOKENS
        if guided:
            choose_attention(model, shown=True)
        positions = spread_positions(
            rng, len(rows), num_tokens, slice(before, before + plan.num_visual_tokens), longest_position
        )
        if positions is None:
            positions = torch.arange(num_tokens).expand(len(rows), -1)
        inputs["position_ids"] = positions.to(device)
        outputs = model(**inputs, mm_encoder_outputs={"video": found}, output_attentions=guided)
        losses = {"answer": outputs.loss}
    if guidance is not None and guided:
        frames = frame_of_token(layout, found.key_frames, part.num_frames).to(device)
        losses["guidance"] = guidance.weight * guidance_loss(outputs.attentions, chats, frames, before)[0]
        if guidance.counting:
            counted = batches.counted(rows, turns, plan.num_frames)
            losses["counting"] = guidance.counting * counting_loss(
                outputs.attentions,
                chats,
                counted,
                frames,
                before,
                first_frames=guidance.first_frames,
                large_numbers=guidance.large_numbers,
            )
        if guidance.first_frames:
            losses["preceding"] = PRECEDING_WEIGHT * preceding_loss(outputs.attentions, frames, before)
    medoids = torch.stack(found.event_medoids)
    for name, scores in (("relevance", choice.aware), ("blind relevance", choice.blind)):
        if scores is not None:
            relevance = relevance_loss(scores, medoids, asked)
            # Also computed with a weight of 0.
            losses[name] = layout.relevance * relevance if layout.relevance else relevance.detach()
    return losses


__all__ = ["Guidance", "Lesson", "at_random", "train"]
