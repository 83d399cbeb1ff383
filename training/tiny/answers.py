"""Stage 5 of the tiny recipe: train all but the tower on answers, first about short videos, then about long ones."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration

from .data import QuestionBatches
from .progress import learning_rate_at, load_progress, part_at, relevance_loss, save_progress


@dataclass(frozen=True)
class Course:
    """A part of the training: what is asked, for how many steps, in batches of what size."""

    batches: QuestionBatches
    steps: int
    batch_size: int


@dataclass(frozen=True)
class AnswerTraining:
    """
    Settings of the answer training.

    Args:
        learning_rate, weight_decay: of AdamW, after a warm-up of `warm_up` steps, with cosine decay.
        matrix_learning_rate: of Muon, which trains the matrices in the language model's layers, on the same schedule.
        relevance_weight: weight of the selector's own loss: binary cross-entropy of an event's score against whether
            the answer rests on it, which the synthetic world knows. 0 trains the selector by the answers alone.
        sigma: selection noise at the start; it falls linearly to 0.
        log_every, save_every: steps.
    """

    learning_rate: float = 1e-3
    matrix_learning_rate: float = 4e-3
    weight_decay: float = 0.05
    warm_up: int = 300
    relevance_weight: float = 0.5
    sigma: float = 0.05
    log_every: int = 100
    save_every: int = 500
    bf16: bool = True


def build_optimizers(model: DynFocusForConditionalGeneration, settings: AnswerTraining) -> list[torch.optim.Optimizer]:
    """Muon for the matrices in the language model's layers, AdamW for all other parameters that are trained."""
    layers = model.model.language_model.layers
    matrices = [parameter for parameter in layers.parameters() if parameter.dim() == 2]
    taken = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in taken]
    return [
        torch.optim.AdamW(others, lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.98)),
        torch.optim.Muon(
            matrices,
            lr=settings.matrix_learning_rate,
            weight_decay=settings.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
    ]


def set_learning_rates(
    optimizers: Sequence[torch.optim.Optimizer], settings: AnswerTraining, step: int, total: int
) -> None:
    """Of what `build_optimizers` made, for one step."""
    share = learning_rate_at(step, total, 1.0, settings.warm_up)
    for optimizer, peak in zip(optimizers, (settings.learning_rate, settings.matrix_learning_rate), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = share * peak


def exact_answers(logits: torch.Tensor, labels: torch.Tensor) -> list[bool]:
    """
    Whether greedy answers are exact: just where every token is the likeliest after the right ones before it.

    Args:
        logits (`torch.Tensor` of shape `(B, tokens, vocabulary)`), labels (`(B, tokens)`, -100 beside the answers).
    """
    wanted = labels[:, 1:]
    return ((logits[:, :-1].argmax(-1) == wanted) | (wanted == -100)).all(1).tolist()


def train_answers(
    model: DynFocusForConditionalGeneration,
    courses: list[Course],
    settings: AnswerTraining,
    out: Path,
    *,
    seed: int,
    device: str,
    log: Callable[[str], None],
    check: Callable[[], str] | None = None,
) -> None:
    """Train `model` in place through `courses`; a checkpoint in `out/answers.partial` is continued exactly."""
    partial, total = out / "answers.partial", sum(course.steps for course in courses)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizers = build_optimizers(model, settings)
    step = load_progress(partial, model, optimizers, device)
    if step:
        log(f"continuing after step {step}")
    started, window = time.monotonic(), defaultdict(list)
    model.train()
    while step < total:
        course = courses[part_at(step, [course.steps for course in courses])]
        # Data and noise follow from the step alone, so that a continued run is the same run.
        rng = np.random.default_rng((seed, step))
        torch.manual_seed(seed * 1_000_003 + step)
        set_learning_rates(optimizers, settings, step, total)
        model.model.selection_sigma = settings.sigma * (1 - step / total)

        inputs = course.batches.collate(*course.batches.draw(rng, course.batch_size), device)
        asked = inputs.pop("asked")
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=settings.bf16):
            outputs = model(**inputs)
        found = outputs.video_features
        relevance = relevance_loss(torch.stack(found.event_scores), torch.stack(found.event_medoids), asked)
        loss = outputs.loss + settings.relevance_weight * relevance
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        window["answer"].append(outputs.loss.item())
        window["relevance"].append(relevance.item())
        if step % settings.log_every == 0:
            means = " ".join(f"{name} {np.mean(values):.3f}" for name, values in window.items())
            log(f"answers step {step}/{total} {means} ({time.monotonic() - started:.0f} s)")
            window.clear()
        if step % settings.save_every == 0 or step == total:
            save_progress(partial, model, optimizers, step)
            if check is not None:
                log(check())
    model.eval()
    model.model.selection_sigma = model.config.selection_sigma


@torch.no_grad()
def answer_accuracy(
    model: DynFocusForConditionalGeneration, batches: QuestionBatches, *, count: int, seed: int, device: str
) -> tuple[dict[str, float], float]:
    """
    Share of greedy answers that are exact, by kind of question, and the share of questions whose asked events all have
    a key frame.
    """
    was_training = model.training
    model.eval()
    right, found = defaultdict(list), []
    for start in range(0, count, 64):
        rows, turns = batches.draw(np.random.default_rng((seed, start)), 64)
        inputs = batches.collate(rows, turns, device)
        inputs.pop("asked")
        outputs = model(**inputs)
        exact = exact_answers(outputs.logits, inputs["labels"])
        key_frames = [set(frames.tolist()) for frames in outputs.video_features.key_frames]
        for row, (question, *_), ok, keys in zip(rows, turns, exact, key_frames, strict=True):
            right[question.kind].append(ok)
            events = [batches.features.episodes[row].events[index] for index in question.event_ids]
            if events and question.kind not in ("count", "first_last"):
                found.append(all(keys & set(event.frames) for event in events))
    model.train(was_training)
    return {kind: float(np.mean(values)) for kind, values in sorted(right.items())}, float(np.mean(found))


__all__ = [
    "AnswerTraining",
    "Course",
    "answer_accuracy",
    "build_optimizers",
    "exact_answers",
    "set_learning_rates",
    "train_answers",
]
