"""A new processor for pretrained backbones: the tokenizer of one, the frames that the other was trained on."""

import importlib
import json
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from transformers import AutoConfig, AutoTokenizer
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

from .token_plan import TokenBudget
from .video_processing_dynfocus import DynFocusVideoProcessor, DynFocusVideoProcessorKwargs

#: Settings of the processor that are not the default configuration's.
RELEASED_CODE: dict[str, Any] = {"num_prototypes": 80, "key_ratio": 0.45, "rods_on_key_frames": False}
PRESETS: dict[str, dict[str, Any]] = {"default": {}, "released_code": RELEASED_CODE}

_MOST_VISUAL_TOKENS = 4096
_OPEN_CLIP = "open_clip:"
_VIDEO_DEFAULTS: dict[str, Any] = {"fps": 1.0, "max_frames": 512}
_VIDEO_SETTINGS = {"size", *DynFocusVideoProcessorKwargs.__annotations__}
_OWN_SETTINGS = {
    "chat_template",
    "num_prototypes",
    "key_ratio",
    "cone_tokens",
    "rod_tokens",
    "rods_on_key_frames",
    "max_visual_tokens",
    "max_question_tokens",
}
# The templates of text-only models want strings: blocks of text and videos are joined to what they would read as.
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


class FromBackbones:
    """Gives [`DynFocusProcessor`] its `from_backbones`."""

    @classmethod
    def from_backbones(
        cls,
        vision: str | PathLike[str],
        language_model: str | PathLike[str],
        *,
        preset: str = "default",
        video_token: str = "<video>",
        vision_revision: str | None = None,
        language_model_revision: str | None = None,
        cache_dir: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        trust_remote_code: bool = False,
        **settings: Any,
    ) -> Any:
        """
        The processor of the model that `DynFocusForConditionalGeneration.from_backbones` makes of the same backbones.

        Args:
            vision, language_model, video_token, vision_revision, language_model_revision, cache_dir, token,
            local_files_only, force_download, trust_remote_code: as there; no weights are read.
            preset (`str`): `"default"`, or `"released_code"` with its own token plan.
            **settings: of [`DynFocusProcessor`] and [`DynFocusVideoProcessor`], in place of these defaults: a frame a
                second, at most 512, as large as the vision model wants them; for one video at most 4096 visual tokens,
                and half of what the language model has positions for. A chat template of the tokenizer is kept, and
                taught to read blocks of text and videos.

        Raises:
            `OSError`: where a backbone cannot be found.
            `ValueError`: where the tokenizer is no fast one, or the frames' size is not to be known.
            `TypeError`: where a keyword is no setting.
        """
        unknown = sorted(settings.keys() - _OWN_SETTINGS - _VIDEO_SETTINGS)
        if unknown:
            raise TypeError(
                f"from_backbones() got an unexpected keyword argument {unknown[0]!r}: it takes settings of "
                "DynFocusProcessor and DynFocusVideoProcessor."
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
        try:
            tokenizer = AutoTokenizer.from_pretrained(language_model, padding_side="left", **language_hub)
            text_config = AutoConfig.from_pretrained(language_model, **language_hub)
        except (OSError, ValueError) as error:
            raise _unusable("language model", language_model, error) from error
        if not tokenizer.is_fast:
            raise ValueError(
                f"The tokenizer of {str(language_model)!r} is a slow one, which cannot tell where its tokens stand in "
                "the text: choose a language model with a tokenizer.json."
            )
        add_tokens(tokenizer, video_token)
        try:
            frames = _frames_of(vision, {**hub, "revision": vision_revision})
        except (OSError, ValueError) as error:
            raise _unusable("vision model", vision, error) from error

        video_settings = {name: value for name, value in settings.items() if name in _VIDEO_SETTINGS}
        own = {**PRESETS[preset], **{name: value for name, value in settings.items() if name in _OWN_SETTINGS}}
        if "max_visual_tokens" not in own:
            own["max_visual_tokens"] = _visual_tokens(text_config.to_dict(), own)
        if own.get("chat_template") is None and tokenizer.chat_template is not None:
            own["chat_template"] = readable_blocks(tokenizer.chat_template, video_token)
        video_processor = DynFocusVideoProcessor(**{**_VIDEO_DEFAULTS, **frames, **video_settings})
        processor: Any = cls(video_processor, tokenizer, video_token=video_token, **own)  # type: ignore[call-arg]
        # Loading gives the tokenizer the processor's template: it shall have it from the start.
        tokenizer.chat_template = processor.chat_template
        return processor


def add_tokens(tokenizer: Any, video_token: str) -> None:
    """Give a tokenizer the placeholder, and a padding token if it has none: the model counts on the same."""
    tokenizer.add_special_tokens({"extra_special_tokens": [video_token]}, replace_extra_special_tokens=False)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})


def readable_blocks(chat_template: str | dict[str, str], video_token: str = "<video>") -> str:
    """A chat template for strings, made to read lists of blocks as well; of several templates the default one."""
    if isinstance(chat_template, dict):
        chat_template = chat_template.get("default") or next(iter(chat_template.values()))
    return _CONTENTS_TO_STRINGS.replace("<video>", video_token) + chat_template


def _visual_tokens(text_config: dict[str, Any], own: dict[str, Any]) -> int:
    """Half of the language model's positions, but no less than the least plan, nor more than is sane."""
    least = own.get("cone_tokens", TokenBudget.cone_tokens) + own.get("rod_tokens", TokenBudget.rod_tokens)
    positions = text_config.get("max_position_embeddings") or text_config.get("n_positions")
    return max(least, min(_MOST_VISUAL_TOKENS, positions // 2 if positions else _MOST_VISUAL_TOKENS))


def _frames_of(source: str | PathLike[str], hub: dict[str, Any]) -> dict[str, Any]:
    """Size, mean, standard deviation and filter of the frames that a vision model was trained on."""
    if str(source).startswith(_OPEN_CLIP):
        return _frames_of_open_clip(str(source).removeprefix(_OPEN_CLIP), hub)
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
    # Without weights there is no training to follow, only what is usual for the architecture.
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


def _unusable(kind: str, source: str | PathLike[str], error: Exception) -> Exception:
    """One sentence on a backbone that cannot be used, instead of the library's several."""
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    message = f"The {kind} {str(source)!r} cannot be used: {reason}"
    if isinstance(error, OSError):
        return OSError(f"{message}; give a Hub id or a folder with its configuration and tokenizer.")
    return ValueError(f"{message}.")


__all__ = ["FromBackbones", "add_tokens", "readable_blocks"]
