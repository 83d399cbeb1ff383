"""Attention of the tiny recipe's language model: causal without a mask, as chats are padded on the right."""

from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface

from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration

from .guidance import SHOWN_LAYERS

CAUSAL, SHOWN = "causal_without_mask", "causal_without_mask_shown"


def causal(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: None, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    `query`, `key`, `value` `(B, heads, L, d)`. No token attends to a later one, so none attends to the padding after
    it.
    """
    dtype = query.dtype
    if query.device.type == "cpu":
        # On a CPU the backward pass takes 1.4 times as long in bfloat16.
        query, key, value = query.float(), key.float(), value.float()
    seen = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=module.scaling)
    return seen.transpose(1, 2).contiguous().to(dtype), None


def causal_shown(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: None, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """`causal` with the weights of the first head `(B, 1, L, L)` in `SHOWN_LAYERS`; empty elsewhere."""
    seen, _ = causal(module, query, key, value, mask)
    if module.layer_idx not in SHOWN_LAYERS:
        return seen, query.new_zeros(0)
    scores = query[:, :1] @ key[:, :1].transpose(2, 3) * module.scaling
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return seen, scores.float().masked_fill(later, float("-inf")).softmax(-1)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


for _name, _attention in ((CAUSAL, causal), (SHOWN, causal_shown)):
    AttentionInterface.register(_name, _attention)
    AttentionMaskInterface.register(_name, _no_mask)


def choose_attention_of_questions(model: DynFocusForConditionalGeneration) -> None:
    """The question encoder has many short rows: fused kernels are slow on a CPU, above all in the backward pass."""
    model.model.question_encoder.qformer.set_attn_implementation("eager")


def choose_attention(model: DynFocusForConditionalGeneration, shown: bool = False) -> None:
    """
    Use this attention, with half the work of attention with a mask; with `shown`, `output_attentions` returns the
    weights for guidance.
    """
    choose_attention_of_questions(model)
    model.model.language_model.set_attn_implementation(SHOWN if shown else CAUSAL)


__all__ = ["CAUSAL", "SHOWN", "choose_attention", "choose_attention_of_questions"]
