"""Loads stock models with all of their weights, or with none."""

import os
from typing import Any

from safetensors import SafetensorError
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, AutoModelForImageTextToText

from dynfocus.adapters import add_adapter, find_adapter, without_adapter
from dynfocus.hub.folder_check import check_folder
from dynfocus.loaded_weights import check_all_loaded, check_finite, check_layers, check_size

_OF_FILES = ("revision", "trust_remote_code", "cache_dir", "token", "local_files_only", "subfolder", "force_download")


def load_stock_model(name: str, **options: Any) -> Any:
    """
    A video language model of transformers, by `AutoModelForImageTextToText`, or an adapter of PEFT on one.

    Args:
        name (`str`): folder, or id on the Hub.
        options: of `from_pretrained`.

    Raises:
        `ValueError`: weights are missing, of other shapes, NaN or infinite, of more layers than the model has, or not
            safetensors. transformers only logs missing weights, and the model would answer with new, random ones.
    """
    if found := find_adapter(name, options):
        adapter, base = found
        model = load_stock_model(base, **without_adapter(options))
        add_adapter(model, adapter, options)
        model.folder_of_adapter = adapter
        return model
    if os.path.isdir(name):
        check_folder(name)
    files = {key: options[key] for key in _OF_FILES if key in options}
    config: Any = AutoConfig.from_pretrained(name, **files)
    load: Any = AutoModelForImageTextToText.from_pretrained
    if config.model_type == "dynfocus":  # checks its weights itself
        return load(name, **options)
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:  # not for code of the folder
        check_size(name, config, AutoModelForImageTextToText)
    given = {"ignore_mismatched_sizes": True, **options, "use_safetensors": True}
    model, info = load(name, output_loading_info=True, **given)
    check_all_loaded(name, info, allow_mismatched=options.get("ignore_mismatched_sizes", False))
    check_layers(name, info["unexpected_keys"], model)
    check_finite(name, model)
    return model


def check_loaded(model: Any) -> None:
    """
    Raises a `ValueError` if a stock model that someone else has loaded holds NaN or infinite weights. Whether some are
    missing is only known to who loads it.
    """
    check_finite(model.name_or_path or type(model).__name__, model)


class NotLoaded:
    """
    In place of a model of `pipeline("video-qa")` that could not be loaded.

    An error would be caught there: `pipeline` then loads the same weights again in float32, and by other classes that
    do not check them.

    Args:
        error: the reason.
    """

    #: As of a model on several devices, so that `pipeline` asks for no device.
    hf_device_map: dict[str, Any] = {}

    def __init__(self, error: Exception):
        self.not_loaded = error


class ModelOfPipeline(AutoModelForImageTextToText):
    """The loader of `pipeline("video-qa")`, which returns a [`NotLoaded`] instead of raising an error."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        try:
            return load_stock_model(os.fspath(pretrained_model_name_or_path), **kwargs)
        except (ValueError, TypeError, RuntimeError, OSError, SafetensorError) as error:
            return NotLoaded(error)


__all__ = ["ModelOfPipeline", "NotLoaded", "check_loaded", "load_stock_model"]
