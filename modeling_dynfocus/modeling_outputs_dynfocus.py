"""What the DynFocus models return."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast

#: The name of the key-value cache, as an argument and in outputs: `past_key_values` before transformers 5.24.
CACHE_NAME = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


@dataclass
class DynFocusVideoFeatures(BaseModelOutputWithPooling):
    """
    The visual tokens of V videos, and the selection that led to them.

    Args:
        pooler_output (`list[torch.Tensor]`): for each video the visual tokens, `(tokens, H)`.
        key_frames (`list[torch.Tensor]`): for each video the K key frames, sorted indices, int64.
        event_of_frame (`list[torch.Tensor]`): for each video the event of each of its T frames, int64.
        event_scores (`list[torch.Tensor]`): for each video the raw score of each of its L events, float32.
        event_medoids (`list[torch.Tensor]`):
            for each video the frame that represents each event, int64, sorted; events are numbered in this order.
    """

    pooler_output: Any = None  # one tensor in the base class, a list here
    key_frames: list[torch.Tensor] | None = None
    event_of_frame: list[torch.Tensor] | None = None
    event_scores: list[torch.Tensor] | None = None
    event_medoids: list[torch.Tensor] | None = None


@dataclass
class DynFocusModelOutputWithPast(BaseModelOutputWithPast):
    """Output of [`DynFocusModel`]: the language model's output, and `video_features` if there were videos."""

    video_features: DynFocusVideoFeatures | None = None


@dataclass
class DynFocusCausalLMOutputWithPast(CausalLMOutputWithPast):
    """
    Output of [`DynFocusForConditionalGeneration`].

    Args:
        loss (`torch.Tensor`, *optional*): mean next-token loss over the labels that are not -100.
        logits (`torch.Tensor` of shape `(batch, tokens, vocabulary)`).
        cache (before transformers 5.24: past_key_values), hidden_states, attentions (*optional*):
            as in the language model's output.
        video_features (`DynFocusVideoFeatures`, *optional*): visual tokens and the selection that led to them.
    """

    video_features: DynFocusVideoFeatures | None = None


__all__ = ["CACHE_NAME", "DynFocusCausalLMOutputWithPast", "DynFocusModelOutputWithPast", "DynFocusVideoFeatures"]
