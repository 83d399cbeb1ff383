"""
The scaling and capping of logits that some language models do after the head, in their causal class rather than the
base.
"""

from typing import Any

import torch

# Families that multiply by the number that all others divide by.
_MULTIPLYING = ("hyperclovax",)


def scale_logits(logits: torch.Tensor, text_config: Any) -> torch.Tensor:
    """
    The logits of a language model from the output of its head: scaled (Granite, Cohere, Falcon-H1) or soft-capped
    (Gemma).

    Args:
        logits (`torch.Tensor` of shape `(…, vocabulary)`).
        text_config (`PreTrainedConfig`): of the language model; without such settings the logits are returned
            unchanged.
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
