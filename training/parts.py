"""The parts of a model by name: which are trained, each with which learning rate, and where LoRA goes."""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

#: Each part's modules. The names are those of recipes: `freeze: [vision_tower]`, `learning_rates: {selector: 1e-4}`.
PARTS: dict[str, tuple[str, ...]] = {
    "vision_tower": ("model.vision_tower",),
    "language_model": ("model.language_model", "lm_head"),
    "question_encoder": ("model.question_encoder",),
    "selector": ("model.event_prototypes",),
    "encoder": ("model.cooperative_encoder",),
}
#: The parts that DynFocus adds to its backbones: the question encoder, DPE's selector, and CCE's rods and cones.
NEW_PARTS = ("question_encoder", "selector", "encoder")


def parts_of(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """
    The modules of each part of a model, wrapped or not: `PARTS` of a DynFocus model; of a stock video language model
    `vision_tower`, `language_model` (with its head) and, if anything else has parameters, `projector`.
    """
    inner: Any = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
    if inner.config.model_type == "dynfocus":
        return PARTS
    names = {id(module): name for name, module in inner.named_modules()}
    tower, language = names[id(inner.get_encoder(modality="image"))], names[id(inner.get_decoder())]
    head = names.get(id(inner.get_output_embeddings()))
    parts = {"vision_tower": (tower,), "language_model": (language, *([head] if head else []))}
    found = {plain_name(name) for name, _ in inner.named_parameters()}
    known = [module for modules in parts.values() for module in modules]
    rest = sorted(name for name in found if not any(name.startswith(f"{module}.") for module in known))
    if rest:
        # A module of the model each, or a parameter.
        parts["projector"] = tuple(dict.fromkeys(".".join(name.split(".")[:2]) for name in rest))
    return parts


def is_stock(model: Any) -> bool:
    """Whether a model is a video language model of transformers, and not one of DynFocus."""
    return model.config.model_type != "dynfocus"


def plain_name(parameter: str) -> str:
    """A parameter's name in the model itself, without the additions of peft and distributed wrappers."""
    parameter = parameter.removeprefix("module.").removeprefix("base_model.model.")
    return re.sub(r"\.(modules_to_save\.[^.]+|original_module|base_layer)(?=\.)", "", parameter)


def names_in(model: nn.Module, pattern: str) -> set[str]:
    """
    The parameters that a name refers to: a part of the model, see `parts_of`; a module such as
    `model.language_model.layers.0`, or a pattern such as `*.layers.[01].*`.

    Raises:
        `ValueError`: if it refers to none.
    """
    parts = parts_of(model)
    modules = parts.get(pattern, (pattern.removesuffix("."),))
    found = set()
    for name, _ in model.named_parameters():
        plain = plain_name(name)
        # A head that is tied to the embeddings has no parameters of its own, and is listed once.
        if any(plain == module or plain.startswith(f"{module}.") or fnmatchcase(plain, module) for module in modules):
            found.add(name)
    if not found:
        raise ValueError(
            f"{pattern!r} names no part and no parameter of the model: the parts are {', '.join(parts)}; a module's "
            "name or a pattern such as '*.layers.0.*' will do, too."
        )
    return found


def freeze(model: Any, patterns: Iterable[str]) -> None:
    """
    Freeze the named parts, and make everything else trainable, including the vision tower.

    Args:
        model ([`DynFocusForConditionalGeneration`], or a stock video language model).
        patterns: see `names_in`.

    Raises:
        `ValueError`: for a name that refers to nothing, or if nothing is left to train.
    """
    frozen = set().union(*(names_in(model, pattern) for pattern in patterns), set())
    model.requires_grad_(True)
    if not is_stock(model):
        tower = {name for name, _ in model.named_parameters() if name.startswith("model.vision_tower.")}
        model.model.vision_tower.set_trainable(not tower <= frozen)
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("Nothing is left to train: remove something from `freeze`.")


def split_by_learning_rate(
    optimizer: torch.optim.Optimizer, model: nn.Module, learning_rates: Mapping[str, float]
) -> None:
    """
    Set separate learning rates for the named parts, in place; if names overlap, the later one wins.

    Args:
        optimizer: new, without a schedule.
        model: whose parameters it optimizes.
        learning_rates: learning rates by names of `names_in`.
    """
    rate_of: dict[int, float] = {}
    parameters = dict(model.named_parameters())
    for pattern, rate in learning_rates.items():
        rate_of.update({id(parameters[name]): rate for name in names_in(model, pattern)})
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        by_rate: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_rate.setdefault(rate_of.get(id(parameter), group["lr"]), []).append(parameter)
        # The group with the general rate comes first, because its rate is logged.
        rates = sorted(by_rate, key=lambda rate: rate != group["lr"])
        groups += [{**group, "params": by_rate[rate], "lr": rate} for rate in rates]
    optimizer.param_groups[:] = groups


def lora_config(model: nn.Module, rank: int, alpha: float, dropout: float, target_modules: str | None = None) -> Any:
    """
    peft's settings for LoRA on the language model; parts that DynFocus adds are trained in full and saved with the
    adapter.

    Args:
        target_modules: a regular expression of module names; all linear layers of the language model by default.
    """
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # it only ever divides it
        lora_dropout=dropout,
        target_modules=target_modules or _linear_layers(model),
        modules_to_save=None
        if is_stock(model)
        else [module.rpartition(".")[2] for part in NEW_PARTS for module in PARTS[part]],
        task_type="CAUSAL_LM",
    )


def _linear_layers(model: nn.Module) -> str:
    """A regular expression for all linear layers of the language model (and none of the head)."""
    language = parts_of(model)["language_model"][0]
    leaves = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        # GPT-2 and similar models have a linear layer of their own.
        if name.startswith(f"{language}.") and type(module).__name__ in ("Linear", "Conv1D")
    }
    return rf"{re.escape(language)}\..*\.({'|'.join(sorted(leaves))})"


def part_sizes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Numbers of parameters of each part: all, and those that are trained."""
    parts = parts_of(model)
    sizes = {part: [0, 0] for part in parts}
    for name, parameter in model.named_parameters():
        if ".original_module." in name:
            # The original weights that peft keeps of a part; they are not used.
            continue
        plain = plain_name(name)
        for part, modules in parts.items():
            if any(plain == module or plain.startswith(f"{module}.") for module in modules):
                # DeepSpeed leaves empty tensors that know their size.
                size = getattr(parameter, "ds_numel", parameter.numel())
                sizes[part][0] += size
                sizes[part][1] += size * parameter.requires_grad
    return {part: (total, trained) for part, (total, trained) in sizes.items()}


__all__ = [
    "NEW_PARTS",
    "PARTS",
    "freeze",
    "is_stock",
    "lora_config",
    "names_in",
    "part_sizes",
    "parts_of",
    "plain_name",
    "split_by_learning_rate",
]
