"""What some language models do to their logits behind the head: it belongs to their causal class, not to the base."""

from typing import Any

import torch

# Families that multiply by what all others divide by.
_MULTIPLYING = ("hyperclovax",)


def scale_logits(logits: torch.Tensor, text_config: Any) -> torch.Tensor:
    """
    The logits of a language model from what its head gave: scaled (Granite, Cohere, Falcon-H1), soft-capped (Gemma).

    Args:
        logits (`torch.Tensor` of shape `(…, vocabulary)`).
        text_config (`PreTrainedConfig`): of the language model; where it says nothing the logits stay as they are.
    """
    if (divisor := getattr(text_config, "logits_scaling", None)) is not None:
        logits = logits * divisor if text_config.model_type in _MULTIPLYING else logits / divisor
    for name in ("logit_scale", "lm_head_multiplier"):
        if (factor := getattr(text_config, name, None)) is not None:
            logits = logits * factor
    for name in ("final_logit_softcapping", "logits_soft_cap"):
        if (cap := getattr(text_config, name, None)) is not None:
            logits = torch.tanh(logits / cap) * cap
    return logits


__all__ = ["scale_logits"]
