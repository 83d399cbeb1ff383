"""Training on answers: settings, optimizers, and the test for right answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration

from .progress import learning_rate_at


@dataclass(frozen=True)
class AnswerTraining:
    """
    Settings of the answer training.

    Args:
        learning_rate, weight_decay: of AdamW, after a warm-up of `warm_up` steps, with cosine decay.
        matrix_learning_rate: of Muon, which trains the matrices in the language model's layers, on the same schedule.
        score_rate: factor of the learning rate of the score embedding, which starts at zero and must soon be as long
            as a token.
        sigma: selection noise at the start; it falls linearly to 0.
        log_every, save_every: steps.
    """

    learning_rate: float = 1e-3
    matrix_learning_rate: float = 4e-3
    score_rate: float = 1.0
    weight_decay: float = 0.05
    warm_up: int = 300
    sigma: float = 0.05
    log_every: int = 100
    save_every: int = 500
    bf16: bool = True


def build_optimizers(model: DynFocusForConditionalGeneration, settings: AnswerTraining) -> list[torch.optim.Optimizer]:
    """Muon for the matrices in the language model's layers, AdamW for all other parameters that are trained."""
    layers = model.model.language_model.layers
    matrices = [parameter for parameter in layers.parameters() if parameter.dim() == 2]
    taken = {id(parameter) for parameter in matrices}
    groups: list[dict[str, Any]] = []
    embedding = model.model.cooperative_encoder.score_embedding
    if embedding is not None and settings.score_rate != 1:
        groups.append({"params": list(embedding.parameters()), "rate": settings.score_rate})
        taken |= {id(parameter) for parameter in embedding.parameters()}
    others = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in taken]
    return muon_and_adamw(matrices, [{"params": others}, *groups], settings)


def muon_and_adamw(
    matrices: list[torch.nn.Parameter], groups: list[dict[str, Any]], settings: AnswerTraining
) -> list[torch.optim.Optimizer]:
    """AdamW for `groups`, Muon for `matrices`, in the order of `set_learning_rates`."""
    return [
        torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.98)),
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
    """Set the learning rates of the optimizers for one step."""
    share = learning_rate_at(step, total, 1.0, settings.warm_up)
    for optimizer, peak in zip(optimizers, (settings.learning_rate, settings.matrix_learning_rate), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = share * peak * group.get("rate", 1.0)


def exact_answers(logits: torch.Tensor, labels: torch.Tensor) -> list[bool]:
    """
    Whether greedy answers are exact, that is, every token is the most likely one after the right ones before it.

    Args:
        logits (`torch.Tensor` of shape `(B, tokens, vocabulary)`), labels (`(B, tokens)`, -100 beside the answers).
    """
    wanted = labels[:, 1:]
    return ((logits[:, :-1].argmax(-1) == wanted) | (wanted == -100)).all(1).tolist()


__all__ = ["AnswerTraining", "build_optimizers", "exact_answers", "muon_and_adamw", "set_learning_rates"]
