"""
The processor of a model from backbones, with the language model's tokenizer and the vision model's frame settings.
"""

import importlib
import json
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from transformers import AutoConfig
from transformers.image_processing_base import ImageProcessingMixin
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    PILImageResampling,
)

from dynfocus.configuration_dynfocus import DynFocusConfig
from dynfocus.processing.processing_dynfocus import DynFocusProcessor
from dynfocus.processing.token_plan import room_for_videos
from dynfocus.processing.video_processing_dynfocus import DynFocusVideoProcessor, DynFocusVideoProcessorKwargs
from dynfocus.processing.video_qa import DEFAULT_NEW_TOKENS

OPEN_CLIP = "open_clip:"
#: Numbers of events and key frames of the presets that differ from the processor's defaults.
_OF_PRESET: dict[str, dict[str, Any]] = {"default": {}, "released_code": {"num_prototypes": 80, "key_ratio": 0.45}}
_MOST_VISUAL_TOKENS = 4096
_VIDEO_DEFAULTS: dict[str, Any] = {"fps": 1.0, "max_frames": 512}
VIDEO_SETTINGS = {"size", *DynFocusVideoProcessorKwargs.__annotations__}
PROCESSOR_SETTINGS = {
    "chat_template",
    "num_prototypes",
    "key_ratio",
    "cone_tokens",
    "rod_tokens",
    "rods_on_key_frames",
    "max_visual_tokens",
    "max_question_tokens",
}
# Templates of text-only models take strings: blocks of text and videos are joined into one.
_CONTENTS_TO_STRINGS = """\
{%- set flat = namespace(messages=[], text='') -%}
{%- for message in messages -%}
    {%- if message['content'] is defined and message['content'] is sequence and message['content'] is not string -%}
        {%- set flat.text = '' -%}
        {%- for block in message['content'] -%}
            {%- if block['type'] == 'video' -%}{%- set flat.text = flat.text + '<video>\\n' -%}
            {%- elif block['type'] == 'text' -%}{%- set flat.text = flat.text + block['text'] -%}
            {%- endif -%}
        {%- endfor -%}
        {%- set flat.messages = flat.messages + [dict(message, content=flat.text)] -%}
    {%- else -%}
        {%- set flat.messages = flat.messages + [message] -%}
    {%- endif -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""


def make_processor(
    tokenizer: Any,
    video_token: str,
    frames: dict[str, Any],
    config: DynFocusConfig,
    settings: dict[str, Any],
) -> DynFocusProcessor:
    """
    Make the processor of a model from backbones.

    Args:
        tokenizer: the language model's tokenizer, with `video_token`.
        frames (`dict`): settings of the frames that the vision model was trained on, from [`frames_of`].
        config: the model's configuration.
        settings (`dict`): of [`DynFocusProcessor`] and [`DynFocusVideoProcessor`], in place of the defaults.
    """
    video_settings = {name: value for name, value in settings.items() if name in VIDEO_SETTINGS}
    # The token plan must agree with the model.
    plan = {name: getattr(config, name) for name in ("cone_tokens", "rod_tokens", "rods_on_key_frames")}
    own = {name: value for name, value in settings.items() if name in PROCESSOR_SETTINGS}
    own = {**plan, **_OF_PRESET[config.preset], **own}
    if "max_visual_tokens" not in own:
        own["max_visual_tokens"] = _visual_tokens(config.text_config.to_dict(), own)
    if own.get("chat_template") is None and tokenizer.chat_template is not None:
        own["chat_template"] = readable_blocks(tokenizer.chat_template, video_token)
    video_processor = DynFocusVideoProcessor(**{**_VIDEO_DEFAULTS, **frames, **video_settings})
    processor = DynFocusProcessor(video_processor, tokenizer, video_token=video_token, **own)
    # Loading sets the processor's template on the tokenizer, so it is set from the start.
    tokenizer.chat_template = processor.chat_template
    return processor


def readable_blocks(chat_template: str | dict[str, str], video_token: str = "<video>") -> str:
    """Extends a chat template for strings to lists of blocks; of several templates, the default one."""
    if isinstance(chat_template, dict):
        chat_template = chat_template.get("default") or next(iter(chat_template.values()))
    return _CONTENTS_TO_STRINGS.replace("<video>", video_token) + chat_template


def _visual_tokens(text_config: dict[str, Any], own: dict[str, Any]) -> int:
    """
    As many visual tokens as fit into the language model's positions besides words and an answer, up to the usual
    number.
    """
    least = own["cone_tokens"] + own["rod_tokens"]
    positions = text_config.get("max_position_embeddings") or text_config.get("n_positions")
    room = room_for_videos(positions, DEFAULT_NEW_TOKENS, 1, least) if positions else _MOST_VISUAL_TOKENS
    return least if room is None else min(_MOST_VISUAL_TOKENS, room)


def frames_of(source: str | PathLike[str], hub: dict[str, Any]) -> dict[str, Any]:
    """
    Size, mean, standard deviation and filter of the frames that a vision model was trained on; no weights are read.

    Args:
        source: like `vision` of `from_backbones`.
        hub (`dict`): further arguments of `from_pretrained`: `cache_dir`, `revision`, ….
    """
    if str(source).startswith(OPEN_CLIP):
        return _frames_of_open_clip(str(source).removeprefix(OPEN_CLIP), hub)
    config = AutoConfig.from_pretrained(source, **hub).to_dict()
    config = config.get("vision_config") or config
    side = _side(config.get("image_size"), source)
    if "siglip" in config["model_type"]:
        mean, std = IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD
    elif "clip" in config["model_type"] or "blip" in config["model_type"]:
        mean, std = OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    else:
        mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    try:
        saved, _ = ImageProcessingMixin.get_image_processor_dict(source, **hub)
    except OSError:
        saved = {}
    given = {name: saved[name] for name in ("image_mean", "image_std", "resample") if saved.get(name) is not None}
    return {"size": side, "image_mean": list(mean), "image_std": list(std), **given}


def _frames_of_open_clip(source: str, hub: dict[str, Any]) -> dict[str, Any]:
    try:
        open_clip = importlib.import_module("open_clip")
    except ImportError as error:
        raise ImportError("An open_clip vision tower needs open_clip: `pip install open_clip_torch`.") from error
    trained: dict[str, Any] = {}
    if source.startswith(("hf-hub:", "local-dir:")):
        kind, _, place = source.partition(":")
        file = "open_clip_config.json"
        path = Path(place, file) if kind == "local-dir" else hf_hub_download(place, file, cache_dir=hub["cache_dir"])
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        config, trained, has_weights = content.get("model_cfg", content), content.get("preprocess_cfg", {}), True
    else:
        name, _, pretrained = source.partition("/")
        config, has_weights = open_clip.get_model_config(name), bool(pretrained)
        if config is None:
            raise ValueError(f"open_clip has no model {name!r}, see open_clip.list_models()")
        if has_weights:
            trained = open_clip.get_pretrained_cfg(name, pretrained)
    # Without weights there are no training settings, only the usual ones of the architecture.
    timm_name = config["vision_cfg"].get("timm_model_name") or ""
    if not has_weights and ("siglip" in timm_name or "pe_core" in timm_name):
        trained = {"mean": IMAGENET_STANDARD_MEAN, "std": IMAGENET_STANDARD_STD}
    filters = {"bicubic": PILImageResampling.BICUBIC, "bilinear": PILImageResampling.BILINEAR}
    return {
        "size": _side(config["vision_cfg"].get("image_size", 224), source),
        "image_mean": list(trained.get("mean") or OPENAI_CLIP_MEAN),
        "image_std": list(trained.get("std") or OPENAI_CLIP_STD),
        "resample": filters.get(trained.get("interpolation", "bicubic"), PILImageResampling.BICUBIC),
    }


def _side(size: Any, source: Any) -> int:
    height, width = (size, size) if isinstance(size, int) or size is None else size
    if height is None or height != width:
        raise ValueError(f"{str(source)!r} has no fixed square input (image size {size})")
    return height


__all__ = ["OPEN_CLIP", "PROCESSOR_SETTINGS", "VIDEO_SETTINGS", "frames_of", "make_processor", "readable_blocks"]
