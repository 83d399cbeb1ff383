"""The language model of the trained road: the base model of any causal model of transformers."""

from typing import Any

from transformers import AutoModel
from transformers.utils import logging

logger = logging.get_logger(__name__)


def build_language_model(text_config: Any) -> Any:
    """
    The language model without its head, with new weights.

    Where its attention scores have a soft cap (Gemma 2), which SDPA drops, attention is `eager` unless another kind
    than SDPA is asked for. transformers does so since 5.24.

    Args:
        text_config (`PreTrainedConfig`): of the language model.
    """
    is_capped = getattr(text_config, "attn_logit_softcapping", None) is not None
    asked = text_config._attn_implementation
    if is_capped and (asked is None or "sdpa" in asked):
        if asked is not None:
            logger.warning_once(
                f"Attention of the language model ({text_config.model_type}) is computed by 'eager' instead of "
                f"{asked!r}, which would drop the soft cap of its scores."
            )
        text_config._attn_implementation = "eager"
    model = AutoModel.from_config(text_config)
    if is_capped:
        # `set_attn_implementation` refuses it then.
        model._supports_sdpa = False
    return model


__all__ = ["build_language_model"]
