"""From the words of the command line to a pipeline, with a sentence for all that may be wrong with them."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from .terminal import UserError

_DTYPES = {
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
    "auto": "auto",
}


def load_pipeline(
    model: str,
    device: str | None,
    dtype: str | None,
    revision: str | None,
    trust_remote_code: bool,
    adoption: Mapping[str, Any] | None = None,
) -> Any:
    """
    A `video-qa` pipeline of a DynFocus model, or of a stock video language model of transformers. Without
    `trust_remote_code`, only the classes of this package and of transformers are used.

    Args:
        adoption: of a stock model, `dual_encoder` and `coarse`; see `FocusedModel`.

    Raises:
        `UserError`: a device, dtype or model that is not there.
    """
    from transformers import AutoConfig, pipeline

    from dynfocus import VideoQAPipeline

    options: dict[str, Any] = {"dtype": find_dtype(dtype)} if dtype is not None else {}
    if device is not None:
        options["device"] = find_device(device)
    check_model_name(model)
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    with loading_errors(model, revision):
        config = AutoConfig.from_pretrained(model, **hub)
        given = {name: value for name, value in (adoption or {}).items() if value is not None}
        if config.model_type == "dynfocus" and given:
            raise UserError(
                f"--{next(iter(given)).replace('_', '-')} is for stock video language models; {model} is a DynFocus "
                "model, which chooses frames by its own scores: leave it out."
            )
        if config.model_type != "dynfocus":
            check_stock_kind(model, config)
            options.update(given)
        if not trust_remote_code:
            options["pipeline_class"] = VideoQAPipeline
        make: Any = pipeline  # its overloads know the tasks of transformers only
        pipe = make("video-qa", model=model, **hub, **options)
    if config.model_type != "dynfocus":
        load_dual_encoder(pipe, given.get("dual_encoder"))
    return pipe


def check_kind(model: str, config: Any) -> None:
    """That a configuration is of a DynFocus model."""
    if config.model_type != "dynfocus":
        raise UserError(f"{model} is a {config.model_type} model: --model needs a DynFocus model.")


def check_stock_kind(model: str, config: Any) -> None:
    """That a stock model may be one that reads videos or pictures."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise UserError(
            f"{model} is a {config.model_type} model, which reads no videos: --model takes a DynFocus model, or a "
            "video language model such as Qwen/Qwen3-VL-4B-Instruct."
        )


def load_dual_encoder(pipe: Any, name: str | None) -> None:
    """Load what looks at the frames for a stock model; a `UserError` where it or the model cannot be used."""
    try:
        pipe.video_qa.dual_encoder  # noqa: B018  # loads it
    except (OSError, ValueError, ImportError) as error:
        words = str(error).strip().partition("\n")[0]
        where = "" if name is None else f"--dual-encoder {name}: "
        raise UserError(f"{where}{words}") from error


@contextmanager
def loading_errors(model: str, revision: str | None) -> Iterator[None]:
    """Whatever may be wrong with a model that is loaded in here, in one sentence: a `UserError`."""
    import torch
    from safetensors import SafetensorError

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError("The device's memory is full: use --dtype bfloat16, or --device cpu.") from error
    except (ValueError, OSError, ImportError, KeyError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise UserError(f"--model {model}: {_why_not_loaded(error, revision)}.") from error


def find_dtype(name: str) -> Any:
    """The torch dtype of a name, or `"auto"`."""
    import torch

    if name not in _DTYPES:
        raise UserError(f"--dtype {name}: is not one of float32, bfloat16, float16 and auto.")
    return "auto" if name == "auto" else getattr(torch, _DTYPES[name])


def find_device(name: str) -> Any:
    """The torch device of a name, if this machine has it."""
    import torch

    try:
        device = torch.device(int(name) if name.isdecimal() else name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: is not a device such as cpu, cuda or cuda:1.") from error
    if device.type in ("cpu", "meta"):
        if device.type == "meta":
            raise UserError("--device meta: computes nothing; use cpu, or an accelerator such as cuda.")
        return device
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None or accelerator.type != device.type:
        found = "no accelerator" if accelerator is None else f"{accelerator.type} only"
        raise UserError(f"--device {name}: is not available, torch finds {found}; use --device cpu.")
    count = torch.accelerator.device_count()
    if device.index is not None and device.index >= count:
        raise UserError(f"--device {name}: there are {count} {device.type} devices, and the first has the number 0.")
    return device


def check_model_name(model: str) -> None:
    """That a name is a saved model's folder, or may be a model on the Hub."""
    path = Path(model)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"--model {model}: the folder holds no config.json, so it is no saved model.")
    elif path.exists():
        raise UserError(f"--model {model}: is a file; name the folder that it lies in.")
    elif path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or "\\" in model:
        raise UserError(f"--model {model}: there is no such folder.")


def _why_not_loaded(error: Exception, revision: str | None) -> str:
    """In words that follow `--model NAME: `."""
    from safetensors import SafetensorError

    from dynfocus.hub.load_errors import why_not_loaded

    known = why_not_loaded(error, revision)
    text = str(error)
    if known is not None:
        return known
    if re.match("Can't load (video processor|processor|tokenizer) for", text):
        return "it holds no processor: save one into the same folder, as `dynfocus export` does"
    if "trust_remote_code" in text:
        return "it comes with code of its own; --trust-remote-code runs it, if you trust it"
    # What this package says of weights that are not whole, quoted by the pipeline.
    if ours := re.search(
        r"^(?:ValueError: )?.+ ((?:lacks|holds) .+: save or download it again.*)$", text, re.MULTILINE
    ):
        return f"it {ours[1].rstrip('.')}"
    damaged = isinstance(error, (SafetensorError, UnpicklingError)) or "ignore_mismatched_sizes" in text
    if damaged or text.startswith("Could not load model"):
        return (
            "its weights are missing or damaged, or were saved for another version of this package (--verbose shows "
            "what transformers says)"
        )
    return f"it cannot be loaded: {text.strip().rstrip('.') or type(error).__name__}"


__all__ = ["check_kind", "check_model_name", "find_device", "find_dtype", "load_pipeline", "loading_errors"]
