"""Adapters of PEFT: a model of an adapter's folder is its whole base, with all of the adapter's weights, or none."""

import importlib
import json
import os
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils import cached_file, find_adapter_config_file, is_peft_available

from .loaded_weights import check_all_loaded, check_finite, counted

# A rank that costs little, even if no weight has it.
_SMALL_RANK = 1024
_FILE = "adapter_model.safetensors"
_HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_NOT_OF_BASE = ("adapter_kwargs", "adapter_name", "pretrained_model_name_or_path")


def find_adapter(name: str, options: Mapping[str, Any]) -> tuple[str, str] | None:
    """
    The adapter and its base model, if `name` is an adapter (or its base, where transformers has found the adapter).

    Args:
        options: of `from_pretrained`.

    Raises:
        `ValueError`: the adapter does not name its base, or lies in the folder of a whole model.
    """
    if not is_peft_available():
        return None
    known = (options.get("adapter_kwargs") or {}).get("_adapter_model_path")
    adapter = os.fspath(known or name)
    try:
        path = find_adapter_config_file(adapter, **_hub(options))
    except (OSError, ValueError):  # no such name: it is said where the model is loaded
        return None
    if path is None:
        return None
    if os.path.isfile(os.path.join(adapter, "config.json")):
        raise ValueError(
            f"{adapter} holds a whole model and an adapter beside it, and it is not clear which of them is meant: "
            "move adapter_config.json and the adapter's weights to a folder of their own."
        )
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (ValueError, RecursionError):
        raise ValueError(f"{adapter}: its adapter_config.json is not valid JSON: save it again.") from None
    base = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    if not isinstance(base, str) or not base:
        raise ValueError(
            f"{adapter}: its adapter_config.json names no base model (`base_model_name_or_path`): load the base, and "
            "the adapter onto it with `PeftModel.from_pretrained`."
        )
    if os.path.isabs(base) and not os.path.isdir(base):
        raise ValueError(
            f"{adapter}: its base model, {base}, is not there: put it back, or write its place into "
            "adapter_config.json as `base_model_name_or_path`."
        )
    return adapter, base


def refuse_adapter(name: str | os.PathLike, options: Mapping[str, Any]) -> None:
    """Raises a `ValueError` if `name` is an adapter, where a whole model is needed."""
    if found := find_adapter(os.fspath(name), options):
        raise ValueError(
            f"{found[0]} is an adapter of {found[1]}, and a whole model is needed here: merge them "
            "(`PeftModel.from_pretrained(…).merge_and_unload()`), and save the result with its processor."
        )


def without_adapter(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `from_pretrained` for the base model alone."""
    return {name: value for name, value in options.items() if name not in _NOT_OF_BASE}


def add_adapter(model: Any, adapter: str, options: Mapping[str, Any]) -> None:
    """
    Load an adapter onto its base model, in place.

    Args:
        model: the base, complete.
        adapter: folder, or id on the Hub.
        options: of `from_pretrained`.

    Raises:
        `ValueError`: the adapter is not safetensors, is damaged, is for another model, or its weights are not all
            there and finite.
    """
    hub = _hub(options)
    path = cached_file(adapter, _FILE, **hub, _raise_exceptions_for_missing_entries=False)
    if path is None or not os.path.isfile(path):
        raise ValueError(
            f"The adapter {adapter} has no {_FILE}, and weights are read from safetensors alone: save it again."
        )
    before = {name for name, _ in model.named_parameters()}
    try:
        _check_rank(adapter, path, hub)
        info = model.load_adapter(
            adapter,
            adapter_name=options.get("adapter_name", "default"),
            adapter_kwargs=hub,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
        )
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError, ImportError, SafetensorError) as error:
        words = " ".join(str(error).split())[:300]
        base = model.name_or_path or type(model).__name__
        raise ValueError(f"The adapter {adapter} cannot be used with {base}: {words}") from error
    name = f"The adapter {adapter}"
    if unexpected := sorted(info.unexpected_keys):
        raise ValueError(
            f"{name} holds {counted(unexpected)} for which its base model has no place: it is for another model, or "
            "its adapter_config.json was changed."
        )
    mismatched = sorted(info.mismatched_keys)
    check_all_loaded(name, {"missing_keys": info.missing_keys, "mismatched_keys": mismatched}, False)
    check_finite(name, model, [key for key, _ in model.named_parameters() if key not in before])


def _check_rank(adapter: str, path: str, hub: Mapping[str, Any]) -> None:
    """Raises a `ValueError` for ranks that no weight of the file has; they would be allocated first."""
    config = importlib.import_module("peft").PeftConfig.from_pretrained(adapter, **hub)
    with safe_open(path, framework="pt") as file:
        most = max((max(file.get_slice(key).get_shape(), default=0) for key in file.keys()), default=0)
    ranks = [getattr(config, "r", 0), *dict(getattr(config, "rank_pattern", None) or {}).values()]
    for rank in ranks:
        if isinstance(rank, int) and rank > max(most, _SMALL_RANK):
            raise ValueError(f"`r` is {rank:,} in its adapter_config.json, more than any of its weights has")


def _hub(options: Mapping[str, Any]) -> dict[str, Any]:
    """Where on the Hub the adapter is; with a base from elsewhere, the revision is the base's."""
    of_adapter = dict(options.get("adapter_kwargs") or {})
    known = of_adapter.pop("_adapter_model_path", None)
    names = [name for name in _HUB if known is None or name not in ("revision", "subfolder")]
    return {**{name: options[name] for name in names if options.get(name) is not None}, **of_adapter}


__all__ = ["add_adapter", "find_adapter", "refuse_adapter", "without_adapter"]
