"""Loads stock models with all of their weights, or with none."""

from typing import Any

from transformers import AutoConfig, AutoModelForImageTextToText

from dynfocus.loaded_weights import check_all_loaded, check_finite, check_layers

_OF_FILES = ("revision", "trust_remote_code", "cache_dir", "token", "local_files_only", "subfolder", "force_download")


def load_stock_model(name: str, **options: Any) -> Any:
    """
    A video language model of transformers, by `AutoModelForImageTextToText`.

    Args:
        name (`str`): folder, or id on the Hub.
        options: of `from_pretrained`.

    Raises:
        `ValueError`: weights are missing, NaN or infinite, or of more layers than the model has. transformers only
            logs missing weights, and the model would answer with new, random ones.
    """
    model: Any = ModelOfPipeline.from_pretrained(name, **options)
    check_loaded(model)
    return model


def check_loaded(model: Any) -> None:
    """
    Raises a `ValueError` if a stock model holds NaN or infinite weights, or if its file lacks some, or holds those of
    further layers. What is in the file is only known of a model loaded by [`ModelOfPipeline`].
    """
    name = model.name_or_path or type(model).__name__
    check_all_loaded(name, {"missing_keys": getattr(model, "_missing_weights", ())}, allow_mismatched=True)
    check_layers(name, getattr(model, "_unexpected_weights", ()), model)
    check_finite(name, model)


class ModelOfPipeline(AutoModelForImageTextToText):
    """
    The loader of `pipeline("video-qa")`, which notes in the model which weights were missing or unexpected.

    It raises no error for them, because `pipeline` would catch it, and load the same weights by another class.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        files = {key: kwargs[key] for key in _OF_FILES if key in kwargs}
        config: Any = AutoConfig.from_pretrained(pretrained_model_name_or_path, **files)
        load: Any = AutoModelForImageTextToText.from_pretrained
        if config.model_type == "dynfocus":  # refuses missing weights itself
            return load(pretrained_model_name_or_path, *model_args, **kwargs)
        model, info = load(pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs)
        model._missing_weights = sorted(info["missing_keys"])
        model._unexpected_weights = sorted(info["unexpected_keys"])
        return model


__all__ = ["ModelOfPipeline", "check_loaded", "load_stock_model"]
