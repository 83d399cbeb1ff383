"""A new model from pretrained backbones: a vision tower, a language model, and fresh weights between them."""

import math
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from dynfocus.adapters import refuse_adapter
from dynfocus.configuration_dynfocus import PRESETS, DynFocusConfig
from dynfocus.hub.folder_check import check_folder
from dynfocus.hub.load_errors import unusable
from dynfocus.loaded_weights import check_finite, check_layers
from dynfocus.logit_scaling import scale_logits
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.processing.processing_dynfocus import DynFocusProcessor
from dynfocus.towers.vision_tower import VisionTower

from .backbone_processor import OPEN_CLIP, PROCESSOR_SETTINGS, VIDEO_SETTINGS, frames_of, make_processor
from .initialization import NEW_PARTS, default_question_config, initialize_new_parts, new_rows_like_the_old

# Rows of the embeddings are added in steps of this size, which fast matrix kernels need.
_ROWS_STEP = 64
_CONFIG_FIELDS = set(DynFocusConfig.__annotations__) - {
    *("preset", "vision_config", "text_config", "question_config", "video_token_id", "tie_word_embeddings")
}


def from_backbones(
    vision: str | PathLike[str],
    language_model: str | PathLike[str],
    *,
    preset: Literal["default", "released_code"] = "default",
    question_config: dict[str, Any] | None = None,
    feature_layer: int = -2,
    dtype: torch.dtype | str = torch.float32,
    seed: int = 0,
    video_token: str = "<video>",
    vision_revision: str | None = None,
    language_model_revision: str | None = None,
    cache_dir: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    trust_remote_code: bool = False,
    **settings: Any,
) -> tuple[DynFocusForConditionalGeneration, DynFocusProcessor]:
    """
    Make a model to fine-tune and its processor: pretrained backbones, with a new selector, new gates and new
    projectors.

    New visual tokens have the magnitude of word embeddings, and the question encoder's words have the same
    similarities as in the language model, so that training starts stably.

    Args:
        vision: Hub id or folder of a vision model of transformers; or of open_clip, `"open_clip:NAME/PRETRAINED"`,
            `"open_clip:hf-hub:…"` or `"open_clip:local-dir:…"` (`"open_clip:NAME"` has random weights).
        language_model: Hub id or folder of a causal language model and its tokenizer. Weights are read from
            safetensors only.
        preset (`str`): `"default"` or `"released_code"`.
        question_config (`dict`, *optional*): fields of `InstructBlipQFormerConfig` in place of the defaults.
        feature_layer (`int`): of the vision tower, see [`VisionTowerConfig`].
        dtype: of all weights; `"auto"` takes the language model's own.
        seed (`int`): of the new weights. The global random state is neither read nor changed.
        video_token (`str`): the placeholder, added to the tokenizer's vocabulary.
        vision_revision, language_model_revision (`str`, *optional*): branch, tag or commit on the Hub.
        cache_dir, token, local_files_only, force_download: as in `from_pretrained`; open_clip takes only `cache_dir`.
        trust_remote_code (`bool`): of the language model's tokenizer and configuration.
        **settings: settings of [`DynFocusConfig`], [`DynFocusProcessor`] and [`DynFocusVideoProcessor`]. By default
            the processor samples one frame a second, at most 512, in the size of the vision model; a video gets at
            most 4096 visual tokens, or as many as fit into the language model's positions besides words and an answer.
            A chat template of the tokenizer is kept, and extended to read blocks of text and videos.

    Returns:
        The model in eval mode, its vision tower frozen; and the processor.

    Raises:
        `OSError`: if a backbone cannot be found.
        `ValueError`: if a backbone cannot be used.
        `TypeError`: for an unknown keyword.

    Example:

    ```python
    >>> model, processor = from_backbones("google/siglip2-base-patch16-256", "Qwen/Qwen3-0.6B")
    ```
    """
    unknown = sorted(settings.keys() - _CONFIG_FIELDS - PROCESSOR_SETTINGS - VIDEO_SETTINGS)
    if unknown:
        raise TypeError(
            f"from_backbones() got an unexpected keyword argument {unknown[0]!r}: it takes its own and the settings "
            "of DynFocusConfig, DynFocusProcessor and DynFocusVideoProcessor."
        )
    if preset not in PRESETS:
        raise ValueError(f"Unknown preset {preset!r}: choose one of {', '.join(map(repr, PRESETS))}.")
    hub = {
        "cache_dir": cache_dir,
        "token": token,
        "local_files_only": local_files_only,
        "force_download": force_download,
    }
    language_hub = {**hub, "revision": language_model_revision, "trust_remote_code": trust_remote_code}
    # Before hours of downloads, or anything is built from what a folder claims.
    for source, own in ((language_model, language_hub), (vision, {**hub, "revision": vision_revision})):
        if not str(source).startswith(OPEN_CLIP):
            refuse_adapter(source, own)
            if Path(source).is_dir():
                check_folder(source)
    text_config = _text_config(language_model, language_hub)
    tokenizer = _tokenizer(language_model, language_hub)
    _add_tokens(tokenizer, video_token)
    tower = _vision_tower(vision, feature_layer, vision_revision, hub)
    try:
        frames = frames_of(vision, {**hub, "revision": vision_revision})
    except (OSError, ValueError) as error:
        raise unusable(f"The vision model {str(vision)!r} cannot be used", error, vision_revision) from error

    rows = _num_rows(len(tokenizer), text_config.vocab_size)
    width = tower.config.hidden_size
    config_fields = {name: value for name, value in settings.items() if name in _CONFIG_FIELDS}
    queries = config_fields.get("num_question_queries", DynFocusConfig.num_question_queries)
    question = {**default_question_config(width, queries), "pad_token_id": tokenizer.pad_token_id}
    question = {**question, **(question_config or {})}
    if question.setdefault("vocab_size", rows) != rows:
        raise ValueError(
            f"`question_config` says vocab_size={question['vocab_size']}, but the question is read in the {rows} "
            f"tokens of {str(language_model)!r}: leave it out."
        )
    # Made before the language model is loaded, so that mistakes in the settings are found early.
    config = DynFocusConfig(
        preset=preset,
        vision_config=tower.config,
        text_config=text_config,
        question_config=question,
        video_token_id=tokenizer.get_vocab()[video_token],
        **config_fields,
    )
    processor = make_processor(tokenizer, video_token, frames, config, settings)
    causal = _language_model(language_model, dtype, language_hub)
    # The words that the language model was trained on, and more rows if the tokenizer is larger.
    num_words = min(len(tokenizer), causal.get_input_embeddings().weight.shape[0])
    if rows > text_config.vocab_size:
        new_rows_like_the_old(causal, rows, seed)
    base, head = causal.base_model, causal.get_output_embeddings()
    config.text_config = base.config
    config.tie_word_embeddings = base.config.tie_word_embeddings = head.weight is base.get_input_embeddings().weight
    with torch.device("meta"):
        model: Any = DynFocusForConditionalGeneration(config)
    if type(model.model.language_model) is not type(base):
        raise ValueError(
            f"{str(language_model)!r} is built around a {type(base).__name__}, but AutoModel makes a "
            f"{type(model.model.language_model).__name__} of its configuration: choose another language model."
        )
    _check_head(causal, language_model)
    model.lm_head.weight = head.weight
    initialize_new_parts(model.model, tower, base, num_words, seed)
    for module in (tower, *(getattr(model.model, name) for name in NEW_PARTS)):
        _cast(module, causal.dtype)
    # Parts of a saved model are loaded in the dtype of their own configurations.
    for part in (config, tower.config, config.question_config):
        part.dtype = causal.dtype
    if not tower.config.is_open_clip:
        backbone_config: Any = tower.config.backbone_config
        backbone_config.dtype = tower.backbone.config.dtype = causal.dtype
    _forget_folders(config)
    model.generation_config = _generation_config(causal.generation_config, tokenizer)
    return model.eval(), processor


def _add_tokens(tokenizer: Any, video_token: str) -> None:
    """Give a tokenizer the placeholder, and a padding token if it has none."""
    tokenizer.add_special_tokens({"extra_special_tokens": [video_token]}, replace_extra_special_tokens=False)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})


def _num_rows(num_tokens: int, vocab_size: int) -> int:
    """Number of rows that the embeddings need: their own, unless the tokenizer has more tokens."""
    return vocab_size if num_tokens <= vocab_size else math.ceil(num_tokens / _ROWS_STEP) * _ROWS_STEP


def _text_config(source: str | PathLike[str], hub: dict[str, Any]) -> Any:
    """The configuration of the language model; a `ValueError` if DynFocus cannot use it."""
    try:
        config = AutoConfig.from_pretrained(source, **hub)
    except (OSError, ValueError) as error:
        raise unusable(f"The language model {str(source)!r} cannot be used", error, hub["revision"]) from error
    name = f"The language model {str(source)!r} of type {config.model_type!r}"
    if config.is_encoder_decoder:
        raise ValueError(f"{name} is an encoder-decoder: choose a decoder alone (Llama, Qwen3, SmolLM, Gemma, …).")
    if config.sub_configs:
        raise ValueError(
            f"{name} is more than a language model: choose the text-only one that it was made of (Llama, Qwen3, …)."
        )
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or type(config) not in transformers.MODEL_MAPPING:
        raise ValueError(
            f"{name} is not a causal language model of transformers: choose another (Llama, Qwen3, …), or "
            "register its classes with AutoConfig, AutoModel and AutoModelForCausalLM."
        )
    settings = config.to_dict()
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    if "mrope_section" in rope:
        raise ValueError(
            f"{name} has M-RoPE positions, but visual tokens get plain 1-D ones: choose a text-only model."
        )
    if settings.get("quantization_config"):
        raise ValueError(f"{name} is quantized: choose the checkpoint that it was made of.")
    return config


def _tokenizer(source: str | PathLike[str], hub: dict[str, Any]) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", **hub)
    except (OSError, ValueError) as error:
        raise unusable(f"The tokenizer {str(source)!r} cannot be used", error, hub["revision"]) from error
    if not tokenizer.is_fast:
        raise ValueError(
            f"The tokenizer of {str(source)!r} is a slow one, without the places of its tokens in the text: "
            "choose a language model with a tokenizer.json."
        )
    return tokenizer


def _vision_tower(
    source: str | PathLike[str], feature_layer: int, revision: str | None, hub: dict[str, Any]
) -> VisionTower:
    """The vision tower in float32, because the size of its features is measured."""
    try:
        if str(source).startswith(OPEN_CLIP):
            if revision is not None:
                raise ValueError(f"open_clip has no revisions, but vision_revision={revision!r} was given")
            name, pretrained = _open_clip_parts(str(source))
            options = {"dtype": torch.float32, "cache_dir": hub["cache_dir"]}
            tower = VisionTower.from_open_clip(name, pretrained, feature_layer=feature_layer, **options)
        else:
            options = {"dtype": torch.float32, "use_safetensors": True, "revision": revision}
            tower = VisionTower.from_backbone(source, feature_layer=feature_layer, **options, **hub)
        check_finite("it", tower)
        # Only a forward pass shows whether its tokens are patches.
        tower(torch.zeros(1, 3, tower.config.image_size, tower.config.image_size))
    except (OSError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        # Networks other than transformers lack attributes, and timm uses assertions.
        raise unusable(f"The vision model {str(source)!r} cannot be used", error, revision) from error
    return tower


def _open_clip_parts(source: str) -> tuple[str, str | None]:
    """Name and pretrained tag (or path) of `"open_clip:…"`."""
    name = source.removeprefix(OPEN_CLIP)
    if name.startswith(("hf-hub:", "local-dir:")):
        return name, None
    name, _, pretrained = name.partition("/")
    return name, pretrained or None


def _language_model(source: str | PathLike[str], dtype: torch.dtype | str, hub: dict[str, Any]) -> Any:
    loader: Any = AutoModelForCausalLM
    name = f"The language model {str(source)!r}"
    try:
        causal, info = loader.from_pretrained(
            source, dtype=dtype, use_safetensors=True, output_loading_info=True, **hub
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise unusable(f"{name} cannot be used", error, hub["revision"]) from error
    if info["missing_keys"]:
        raise ValueError(
            f"The language model {str(source)!r} lacks {len(info['missing_keys'])} weights of a "
            f"{type(causal).__name__}, such as {min(info['missing_keys'])}: choose a complete checkpoint."
        )
    check_layers(name, info["unexpected_keys"], causal)
    check_finite(name, causal)
    return causal


@torch.no_grad()
def _check_head(causal: Any, source: str | PathLike[str]) -> None:
    """Raises a `ValueError` if the language model's head cannot be replaced by ours, a matrix and `scale_logits`."""
    name, head = f"The head of the language model {str(source)!r}", causal.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ValueError(f"{name} is not a linear map, which DynFocus needs: choose another language model.")
    if head.bias is not None and head.bias.any():
        raise ValueError(f"{name} has a bias, which is not supported: choose another language model.")
    if tuple(head.weight.shape) != (causal.config.vocab_size, causal.config.hidden_size):
        raise ValueError(
            f"{name} is {tuple(head.weight.shape)}, not vocabulary × hidden size "
            f"{(causal.config.vocab_size, causal.config.hidden_size)}: choose another language model."
        )
    # Some families change their logits in ways that a configuration does not show, so the results are compared.
    causal.eval()
    tokens = torch.arange(4, device=head.weight.device)[None] % causal.config.vocab_size
    hidden = causal.base_model(input_ids=tokens, use_cache=False, return_dict=True).last_hidden_state
    ours = scale_logits(head(hidden), causal.config).float()
    theirs = causal(input_ids=tokens, use_cache=False, return_dict=True).logits.float()
    if not (ours - theirs).abs().max() <= 0.02 * theirs.abs().max():
        raise ValueError(
            f"{name} does more than multiply by a matrix and scale, as that of a {type(causal).__name__} may: "
            "choose another language model."
        )


def _generation_config(generation_config: Any, tokenizer: Any) -> Any:
    """The language model's generation settings, with missing ones from the tokenizer."""
    if generation_config.bos_token_id is None:
        generation_config.bos_token_id = tokenizer.bos_token_id
    if generation_config.eos_token_id is None:
        generation_config.eos_token_id = tokenizer.eos_token_id
    if generation_config.pad_token_id is None:
        generation_config.pad_token_id = tokenizer.pad_token_id
    return generation_config


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast to `dtype`, one weight at a time, as in `from_pretrained`."""
    if isinstance(module, VisionTower) and module.config.is_open_clip:
        # timm's tables are used together with the weights, so they need the same dtype.
        nn.Module.to(module, dtype)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def _forget_folders(config: DynFocusConfig) -> None:
    """Keep Hub ids, and remove paths of this machine."""
    for part in (config.text_config, config.vision_config.backbone_config):
        if part is not None and Path(part.name_or_path).is_dir():
            part.name_or_path = ""
    if (config.vision_config.open_clip_model or "").startswith("local-dir:"):
        config.vision_config.open_clip_model = None


__all__ = ["from_backbones"]
