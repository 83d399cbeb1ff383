"""Makes the inputs of `Trainer` from a recipe: model, processor, rows, collator and arguments."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, TrainingArguments
from transformers.utils import logging

from dynfocus.adapters import refuse_adapter
from dynfocus.adoption.backbones import from_backbones
from dynfocus.adoption.families import reads_videos, token_side
from dynfocus.adoption.focus_collator import FocusCollator
from dynfocus.adoption.focus_processor import FocusProcessor
from dynfocus.adoption.stock_loading import load_stock_model
from dynfocus.adoption.video_frames import VideoFrames
from dynfocus.checkpoints import find_model
from dynfocus.hub.load_errors import unusable
from dynfocus.processing import DynFocusCollator

from .parts import NEW_PARTS, freeze, is_stock, lora_config, names_in, plain_name
from .recipe import Recipe
from .rows import load_rows, stream_rows

logger = logging.get_logger(__name__)

#: Defaults of every run.
_ARGUMENTS: dict[str, Any] = {
    "remove_unused_columns": False,
    "label_names": ["labels"],
    # Every parameter has a gradient in every step, with or without videos, so unused ones need not be searched.
    "ddp_find_unused_parameters": False,
    # The inputs of videos and of text have different lengths, so a batch cannot be split between processes.
    "accelerator_config": {"dispatch_batches": False},
    "report_to": "none",
}
_OF_FRAMES = ("fps", "num_frames", "max_frames")
#: Settings of only one of the two roads.
_OF_DYNFOCUS = (
    "selection_noise",
    "likelihood_weight",
    "model.preset",
    "model.seed",
    "model.trust_remote_code",
    "data.num_frames",
    "data.max_frames",
    "data.num_prototypes",
    "data.key_ratio",
)
_OF_STOCK = ("model.dual_encoder", "data.rule", "data.coarse")


@dataclass
class Data:
    """
    The training and evaluation data.

    Args:
        train: [`Rows`], or a stream; for a stock model [`ChosenRows`].
        eval: the same, *optional*.
        collator, eval_collator ([`DynFocusCollator`], or [`FocusCollator`] of a stock model): each counts its own
            rows.
    """

    train: Any
    eval: Any
    collator: Any
    eval_collator: Any


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """
    Without the progress bars of other libraries for reading tables and for loading and writing weights, without the
    lines of each attempt to reach the Hub (what fails in the end is an error), and without a warning of transformers
    to peft.
    """
    bars, bars_of_tables = logging.is_progress_bar_enabled(), not datasets.utils.are_progress_bars_disabled()
    attempts = getLogger("huggingface_hub.utils._http")
    level = attempts.level
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    attempts.setLevel(ERROR)
    try:
        with warnings.catch_warnings():
            # peft 0.21 asks for the old name.
            warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning)
            yield
    finally:
        attempts.setLevel(level)
        if bars_of_tables:
            datasets.enable_progress_bars()
        if bars:
            logging.enable_progress_bar()


def load_model(recipe: Recipe, base: Path | None = None) -> tuple[Any, Any]:
    """
    Load the model and the processor with which a run starts, with the recipe's frozen parts and without LoRA. The
    processor is a [`DynFocusProcessor`] or, for a stock model, a [`FocusProcessor`].

    Args:
        base (`Path`, *optional*): folder of a model from backbones that `keep_base` saved.

    Raises:
        `ValueError`, `OSError`: if they cannot be loaded, or settings do not fit.
    """
    try:
        model, processor = _loaded(recipe, base)
    except TypeError as error:
        raise ValueError(f"`model.config` or `model.processor`: {error}") from error
    if not is_stock(model):
        for name, value in recipe.data.processor_kwargs.items():
            # Saved with the processor, so that the trained model is used with the settings of its training.
            setattr(processor.video_processor if name in _OF_FRAMES else processor, name, value)
        processor.token_budget()
        check_fit(model, processor)
    freeze(model, recipe.freeze)
    for pattern in learning_rates(recipe, model):
        names_in(model, pattern)
    return model, processor


def _loaded(recipe: Recipe, base: Path | None) -> tuple[Any, Any]:
    settings = recipe.model
    if settings.checkpoint is not None or (base is not None and (base / "config.json").is_file()):
        start = find_model(settings.checkpoint or str(base))
        refuse_adapter(start, {"revision": settings.revision})
        try:
            config: Any = AutoConfig.from_pretrained(start, revision=settings.revision)
        except (OSError, ValueError) as error:
            raise unusable(f"`model.checkpoint` {start}", error, settings.revision) from error
        if config.model_type != "dynfocus":
            return _loaded_stock(recipe, start, config)
        recipe.refuse(_OF_STOCK, f"for stock video language models, and {start} is a DynFocus model: leave it out.")
        model: Any = AutoModelForImageTextToText.from_pretrained(
            start, revision=settings.revision, dtype=settings.dtype, **(settings.config if settings.checkpoint else {})
        )
        processor = AutoProcessor.from_pretrained(start, revision=settings.revision, **settings.processor)
    else:
        recipe.refuse(_OF_STOCK, "for stock video language models, and backbones make a DynFocus model: leave it out.")
        assert settings.vision is not None and settings.language_model is not None
        model, processor = from_backbones(
            settings.vision,
            settings.language_model,
            preset=settings.preset,
            dtype=settings.dtype,
            seed=settings.seed,
            vision_revision=settings.vision_revision,
            language_model_revision=settings.language_model_revision,
            trust_remote_code=settings.trust_remote_code,
            **{**settings.config, **settings.processor},
        )
    return model, processor


def _loaded_stock(recipe: Recipe, start: str, config: Any) -> tuple[Any, FocusProcessor]:
    settings, data = recipe.model, recipe.data
    if not reads_videos(config):
        raise ValueError(
            f"{start} is a {config.model_type} model, which reads no videos: `model.checkpoint` takes a DynFocus "
            "model, or a video language model such as Qwen/Qwen3-VL-4B-Instruct; other models go under "
            "`model.vision` and `model.language_model`."
        )
    recipe.refuse(_OF_DYNFOCUS, f"for DynFocus models, and {start} is a {config.model_type} model: leave it out.")
    recipe.refuse(
        ["data.streaming"],
        "not possible with a stock model, whose videos are encoded before training: leave it out.",
    )
    recipe.refuse(["push_to_hub"], f"for DynFocus models: upload {recipe.output_dir / 'model'} with `hf upload`.")
    given = {"fps": data.fps, "max_visual_tokens": data.max_visual_tokens, "rule": data.rule, "coarse": data.coarse}
    given = {"dual_encoder": settings.dual_encoder, **given}
    model = load_stock_model(start, revision=settings.revision, dtype=settings.dtype, **settings.config)
    processor = FocusProcessor.from_pretrained(
        start,
        revision=settings.revision,
        config=model.config,
        **{**settings.processor, **{name: value for name, value in given.items() if value is not None}},
    )
    # A budget that is too small for any video is found before hours of encoding.
    side = token_side(processor.processor) if processor.family.native else 1
    processor.plan(VideoFrames.decoded(np.zeros((1, side, side, 3), np.uint8), [0.0]), [0])
    return model, processor


def check_fit(model: Any, processor: Any) -> None:
    """Raises a `ValueError` if a processor does not fit the model: placeholder, vocabulary, numbers of tokens."""
    config, size = model.config, len(processor.tokenizer)
    if processor.video_token_id != config.video_token_id:
        raise ValueError(
            f"The processor's {processor.video_token!r} has the id {processor.video_token_id}, the model's "
            f"`video_token_id` is {config.video_token_id}: take model and processor from one folder."
        )
    if size > config.text_config.vocab_size:
        raise ValueError(
            f"The tokenizer has {size} tokens, the model's vocabulary {config.text_config.vocab_size}: resize the "
            f"model's embeddings to {size}, or take model and processor from one folder."
        )
    for name in ("cone_tokens", "rod_tokens", "rods_on_key_frames"):
        planned, made = getattr(processor, name), getattr(config, name)
        if planned != made:
            raise ValueError(f"The processor plans `{name}` = {planned}, the model makes {made}: set them equal.")


def with_lora(model: Any, recipe: Recipe) -> Any:
    """The model with LoRA, if the recipe has it; everything else except the new parts is frozen."""
    if recipe.lora is None:
        return model
    from peft import get_peft_model

    lora = recipe.lora
    # Parts that the recipe freezes stay frozen.
    config = lora_config(model, lora.rank, lora.alpha, lora.dropout, lora.target_modules)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if config.modules_to_save is not None:
        config.modules_to_save = [
            module for module in config.modules_to_save if any(f"model.{module}." in name for name in trained)
        ]
    wrapped = get_peft_model(model, config)
    for name, parameter in wrapped.named_parameters():
        # peft makes all parameters of a fully saved part trainable again.
        if ".modules_to_save." in name and plain_name(name) not in trained:
            parameter.requires_grad_(False)
    return wrapped


def learning_rates(recipe: Recipe, model: Any) -> dict[str, float]:
    """
    The recipe's learning rates, without those of the package's recipes for parts that a stock model does not have.
    """
    of_dynfocus = {name for name in NEW_PARTS if is_stock(model) and recipe.is_suggested(f"learning_rates.{name}")}
    return {name: rate for name, rate in recipe.learning_rates.items() if name not in of_dynfocus}


def load_data(recipe: Recipe, processor: Any, bad_rows: str = "skip") -> Data:
    """Load the rows of a recipe, and make the collator. Raises the errors of [`load_rows`]."""
    settings = recipe.data
    kind: Any = FocusCollator if isinstance(processor, FocusProcessor) else DynFocusCollator
    collator, eval_collator = (
        kind(
            processor,
            on_error=bad_rows,
            max_length=settings.max_length,
            on_too_long=settings.on_too_long,
            max_bad_fraction=settings.max_bad_fraction,
            learn_from=settings.learn_from,
        )
        for _ in range(2)
    )
    sources = settings.sources("train")
    if settings.streaming:
        train: Any = stream_rows(sources, recipe.training.get("seed", 42), settings.shuffle_buffer)
    else:
        train = load_rows(sources)
    held_out = load_rows(settings.sources("eval")) if settings.eval else None
    return Data(train, held_out, collator, eval_collator)


def fit_arguments(args: TrainingArguments, recipe: Recipe, processor: FocusProcessor) -> None:
    """
    Adapt arguments to a stock model, in place.

    Raises:
        `ValueError`: for several rows in a batch with a model whose videos must then all show the same number of
            pictures.
    """
    if "per_device_eval_batch_size" not in recipe.training:
        # The library's default is 8, even if training allows fewer.
        args.per_device_eval_batch_size = args.per_device_train_batch_size
    if recipe.lora is None:
        # Rows without a video do not use the tower or the projector of some models.
        args.ddp_find_unused_parameters = True
    if processor.batches_need_one_length:
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
            if getattr(args, name) > 1:
                raise ValueError(
                    f"{processor.family.name} takes only videos that show the same number of pictures in one batch: "
                    f"set `training.{name}=1`, and a larger `training.gradient_accumulation_steps` instead."
                )


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """
    `TrainingArguments` of a recipe.

    Raises:
        `ValueError`: if the values of its fields do not fit each other or this machine.
    """
    settings = {**_ARGUMENTS, **recipe.training}
    if not settings.get("use_cpu") and torch.accelerator.current_accelerator(check_available=True) is None:
        raise ValueError("This machine has no GPU: set `training.use_cpu=true` to train on its CPU.")
    workers = settings.get("dataloader_num_workers", 0)
    settings["dataloader_num_workers"] = min(workers, os.cpu_count() or workers)
    known = {field.name for field in fields(TrainingArguments)}
    for suffix in ("", "_kwargs"):
        # The newer name; versions of transformers before 5.20 have only the older one.
        old, new = f"gradient_checkpointing{suffix}", f"activation_checkpointing{suffix}"
        if old in settings and new in known:
            settings[new] = settings.pop(old)
    # The score before training, for comparison with the score after it.
    settings.setdefault("eval_on_start", bool(recipe.data.eval))
    # Started once, not for each epoch.
    settings.setdefault("dataloader_persistent_workers", settings["dataloader_num_workers"] > 0)
    if settings.get("load_best_model_at_end") and settings.get("save_total_limit") == 1:
        # Trainer would delete the last checkpoint at the end, and a stopped run could not continue.
        settings["save_total_limit"] = 2
    try:
        args = TrainingArguments(**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`training`: {error}") from error
    if args.n_gpu > 1:
        logger.warning(f"One of {args.n_gpu} GPUs is used: for all of them, start the run with torchrun.")
        # DataParallel would split the videos of a batch differently from its text.
        args._n_gpu = 1
    return args


__all__ = [
    "Data",
    "check_fit",
    "fit_arguments",
    "learning_rates",
    "load_data",
    "load_model",
    "training_arguments",
    "with_lora",
    "quiet_libraries",
]
