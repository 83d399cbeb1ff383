"""What DynFocus models have in common: how they are loaded and initialised, and what transformers may do to them."""

import os
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .configuration_dynfocus import DynFocusConfig
from .encoding.event_scoring import ZeroLinear
from .encoding.question_encoder import QuestionEncoder
from .hub.folder_check import check_folder
from .hub.with_code import SavedWithCode
from .loaded_weights import check_all_loaded, check_finite, check_layers


class DynFocusPreTrainedModel(SavedWithCode, PreTrainedModel):
    config: DynFocusConfig
    config_class = DynFocusConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities: Any = ("video", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _no_split_modules = [
        "EventPrototypeEstimator",
        "CooperativeEncoder",
        "QuestionEncoder",
        "ReleasedEstimator",
        "ReleasedEncoder",
    ]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """
        As in transformers, but weights are read from safetensors alone, as no pickle is ever opened, and all of them
        must be there and be finite. With `output_loading_info=True`, missing ones are only reported.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError("`use_safetensors=False` would read a pickle: DynFocus weights are safetensors only.")
        name = str(args[0] if args else kwargs.get("pretrained_model_name_or_path"))
        if os.path.isdir(name):
            check_folder(name)
        is_asked = kwargs.get("output_loading_info", False)
        report = {} if is_asked else {"output_loading_info": True, "ignore_mismatched_sizes": True}
        loaded: Any = super().from_pretrained(*args, **{**kwargs, **report, "use_safetensors": True})
        model, info = loaded
        check_finite(name, model)
        if is_asked:
            return model, info
        # A state dict is the caller's own.
        if kwargs.get("state_dict") is None:
            check_all_loaded(name, info, allow_mismatched=kwargs.get("ignore_mismatched_sizes", False))
            check_layers(name, info["unexpected_keys"], model)
        return model

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, QuestionEncoder):
            nn.init.normal_(module.query_tokens, std=self.config.initializer_range)
        elif isinstance(module, ZeroLinear):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)


__all__ = ["DynFocusPreTrainedModel"]
