"""Checks of weights that were just loaded: a model with missing weights or NaN would give meaningless answers."""

import copy
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch

from .hub.folder_check import bits_of_weights
from .states.state_checks import is_finite

_NAMED = 3
_NUMBER = re.compile(r"\.\d+\.")
_CHECKED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_size(folder: str, config: Any, auto_class: Any) -> None:
    """
    Args:
        folder: of a model; a name on the Hub is not checked.
        config: its configuration, with defaults for what config.json leaves out.
        auto_class: makes the model.

    Raises:
        `ValueError`: the configuration is of a far larger model than the weights in the folder.
    """
    if not os.path.isdir(folder):
        return
    bits = bits_of_weights(folder)
    with torch.device("meta"):
        model = auto_class.from_config(copy.deepcopy(config))
    count = sum(parameter.numel() for parameter in model.parameters())
    # A weight takes a bit at least.
    if count > bits:
        raise ValueError(
            f"{folder}: its config.json is of a model of {count:,} weights, but its weights have {bits // 8:,} bytes."
        )


def check_all_loaded(name: str, info: Mapping[str, Any], allow_mismatched: bool) -> None:
    """
    Args:
        name: name of the model in the message.
        info: the report of `from_pretrained` with `output_loading_info=True`.
        allow_mismatched: whether weights of another shape may be replaced by new ones.

    Raises:
        `ValueError`: if weights are missing or have another shape; the message names them.
    """
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"{name} lacks {counted(missing)}, without which it would answer at random: save or download it again, "
            "or use the version of this package that wrote it."
        )
    if not allow_mismatched and info["mismatched_keys"]:
        shapes = [
            f"{key} {tuple(found)} for {tuple(wanted)}" for key, found, wanted in sorted(info["mismatched_keys"])
        ]
        raise ValueError(
            f"{name} holds weights of other shapes than its config.json asks for, {_listed(shapes)}: save or download "
            "it again."
        )


def check_layers(name: str, unexpected_keys: Iterable[str], model: torch.nn.Module) -> None:
    """
    Args:
        name: name of the model in the message.
        unexpected_keys: weights that the file holds and the model has no place for.
        model: as it was loaded.

    Raises:
        `ValueError`: if some of them are of further layers like those of the model, which its config leaves out. Other
            unexpected weights (of another head, say) are no part of what the model computes.
    """
    # Names in files may lack the beginning that the model's names have.
    known = {_without_number(key).split(".", 1)[-1] for key, _ in model.named_parameters() if _NUMBER.search(key)}
    further = [
        key for key in unexpected_keys if _NUMBER.search(key) and _without_number(key).split(".", 1)[-1] in known
    ]
    if further:
        raise ValueError(
            f"{name} holds {counted(sorted(further))} of layers that its config.json leaves out, so it would answer "
            "without them: save or download it again."
        )


def check_finite(name: str, model: torch.nn.Module, only: Collection[str] | None = None) -> None:
    """
    Args:
        name: name of the model in the message.
        model: as it was loaded.
        only: names of the parameters and buffers to check; by default all.

    Raises:
        `ValueError`: if weights are NaN or infinite; the message names them. Weights that are not in memory (on the
            meta device, partitioned) or not plain tensors (quantized, sharded) are not checked.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    checked = [(key, tensor) for key, tensor in tensors if only is None or key in only]
    if broken := sorted(key for key, tensor in checked if not _is_finite(tensor.detach())):
        raise ValueError(
            f"{name} holds NaN or infinite numbers in {counted(broken)}: save or download it again, or load it with "
            "another `dtype` if this one's range is too small for its weights."
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    if type(tensor) is not torch.Tensor or tensor.is_meta or tensor.dtype not in _CHECKED or not tensor.numel():
        return True
    return is_finite(tensor)


def _without_number(key: str) -> str:
    return _NUMBER.sub(".#.", key)


def counted(names: Sequence[str]) -> str:
    """Their number and the first of their names."""
    return f"{len(names)} weight{'s' if len(names) > 1 else ''} ({_listed(names)})"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


__all__ = ["check_all_loaded", "check_finite", "check_layers", "check_size", "counted"]
