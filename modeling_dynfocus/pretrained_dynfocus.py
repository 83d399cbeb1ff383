"""What DynFocus models have in common: how they are loaded and initialised, and what transformers may do to them."""

import os
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .adapters import add_adapter, find_adapter, without_adapter
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
        must be there and be finite, those of an adapter of PEFT as well. With `output_loading_info=True`, missing ones
        of the model itself are only reported.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError("`use_safetensors=False` would read a pickle: DynFocus weights are safetensors only.")
        name = str(args[0] if args else kwargs.get("pretrained_model_name_or_path"))
        # A state dict is the caller's own.
        is_own = kwargs.get("state_dict") is not None
        if not is_own and (found := find_adapter(name, kwargs)):
            adapter, base = found
            loaded: Any = cls.from_pretrained(base, *args[1:], **without_adapter(kwargs))
            add_adapter(loaded[0] if isinstance(loaded, tuple) else loaded, adapter, kwargs)
            return loaded
        if os.path.isdir(name):
            check_folder(name)
        is_asked = kwargs.get("output_loading_info", False)
        report = {} if is_asked else {"output_loading_info": True, "ignore_mismatched_sizes": True}
        loaded = super().from_pretrained(*args, **{**kwargs, **report, "use_safetensors": True})
        model, info = loaded
        check_finite(name, model)
        if is_asked:
            return model, info
        if not is_own:
            check_all_loaded(name, info, allow_mismatched=kwargs.get("ignore_mismatched_sizes", False))
            check_layers(name, info["unexpected_keys"], model)
        return model

    def set_attn_implementation(self, attn_implementation, *args, **kwargs):
        """As in transformers, for the encoder inside the vision tower as well; names of no part are an error."""
        if isinstance(attn_implementation, dict):
            if unknown := sorted(attn_implementation.keys() - {"", *self.config.sub_configs}):
                known = ", ".join(map(repr, self.config.sub_configs))
                raise ValueError(f"This model has no part {unknown[0]!r}: its parts are {known}.")
        super().set_attn_implementation(attn_implementation, *args, **kwargs)
        if (
            isinstance(attn_implementation, dict)
            and (of_tower := attn_implementation.get("vision_config")) is not None
        ):
            # transformers stops at the tower, whose attention is that of its encoder.
            tower: Any = self.base_model.vision_tower
            backbone = tower.backbone
            if hasattr(backbone, "set_attn_implementation"):
                backbone.set_attn_implementation(of_tower, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, QuestionEncoder):
            nn.init.normal_(module.query_tokens, std=self.config.initializer_range)
        elif isinstance(module, ZeroLinear):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)


__all__ = ["DynFocusPreTrainedModel"]
