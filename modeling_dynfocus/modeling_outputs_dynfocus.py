"""What the DynFocus models return, and the name of the key-value cache."""

import warnings
from dataclasses import dataclass

import torch
from transformers import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import ModelOutput

#: The name of the key-value cache, as an argument and in outputs: `past_key_values` before transformers 5.24.
CACHE_NAME = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


def one_cache(past_key_values: Cache | None, cache: Cache | None) -> Cache | None:
    """The key-value cache, which callers may give by its older or its newer name, but not by both (`ValueError`)."""
    if past_key_values is not None and cache is not None:
        raise ValueError("`cache` and `past_key_values` are two names of the key-value cache: give only `cache`.")
    if past_key_values is not None and CACHE_NAME == "cache" and not torch.compiler.is_compiling():
        message = "`past_key_values` is deprecated since transformers 5.24. Use `cache` instead."
        warnings.warn(message, FutureWarning, stacklevel=3)
    return past_key_values if cache is None else cache


@dataclass
class DynFocusVideoFeatures(ModelOutput):
    """
    The visual tokens of V videos, and the selection that led to them.

    Args:
        pooler_output (`list[torch.Tensor]`):
            for each video the visual tokens, `(tokens, H)`. They come first, because vLLM takes the first of a tuple.
        last_hidden_state (`torch.Tensor` of shape `(V, T, g², D)`):
            the vision tower's patches of each frame, pooled to the grid; zeros for padding frames.
        hidden_states, attentions (`tuple[torch.Tensor]`, *optional*):
            of the vision tower, for the real frames of all videos in order; only if requested, and for pixels.
        key_frames (`list[torch.Tensor]`): for each video the K key frames, sorted indices, int64.
        event_of_frame (`list[torch.Tensor]`): for each video the event of each of its T frames, int64.
        event_scores (`list[torch.Tensor]`): for each video the raw score of each of its L events, float32.
        event_medoids (`list[torch.Tensor]`):
            for each video the frame that represents each event, int64, sorted; events are numbered in this order.
    """

    pooler_output: list[torch.Tensor] | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    key_frames: list[torch.Tensor] | None = None
    event_of_frame: list[torch.Tensor] | None = None
    event_scores: list[torch.Tensor] | None = None
    event_medoids: list[torch.Tensor] | None = None


@dataclass
class DynFocusModelOutputWithPast(BaseModelOutputWithPast):
    """Output of [`DynFocusModel`]: the language model's output, and `video_outputs` if there were videos."""

    video_outputs: DynFocusVideoFeatures | None = None

    @property
    def video_features(self) -> DynFocusVideoFeatures | None:
        """The same as `video_outputs`."""
        return self.video_outputs


@dataclass
class DynFocusCausalLMOutputWithPast(CausalLMOutputWithPast):
    """
    Output of [`DynFocusForConditionalGeneration`].

    Args:
        loss (`torch.Tensor`, *optional*): mean next-token loss over the labels that are not -100.
        logits (`torch.Tensor` of shape `(batch, tokens, vocabulary)`).
        cache (before transformers 5.24: past_key_values), hidden_states, attentions (*optional*):
            as in the language model's output.
        video_outputs (`DynFocusVideoFeatures`, *optional*): visual tokens and the selection that led to them.
    """

    video_outputs: DynFocusVideoFeatures | None = None

    @property
    def video_features(self) -> DynFocusVideoFeatures | None:
        """The same as `video_outputs`."""
        return self.video_outputs


__all__ = [
    "CACHE_NAME",
    "DynFocusCausalLMOutputWithPast",
    "DynFocusModelOutputWithPast",
    "DynFocusVideoFeatures",
    "one_cache",
]
