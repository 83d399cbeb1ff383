"""
Folders that load without this package: weights, processor and all the code they need, in one flat folder.

    python -m dynfocus.hub FOLDER [CARD]    # bring the code of a saved folder (and its model card) up to date
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.dynamic_module_utils import custom_object_save

from ..configuration_dynfocus import DynFocusConfig
from ..modeling_dynfocus import DynFocusForConditionalGeneration, DynFocusModel

_MODEL_OF_AUTO_CLASS: dict[str, type[PreTrainedModel]] = {
    "AutoModel": DynFocusModel,
    "AutoModelForImageTextToText": DynFocusForConditionalGeneration,
    "AutoModelForMultimodalLM": DynFocusForConditionalGeneration,
}
#: The pipeline is named, not imported: it lives beside the processor, in the other of the two folders.
_PIPELINE_MODULE, _PIPELINE_CLASS = "pipeline_video_qa", "VideoQAPipeline"


def prepare_for_hub(model_or_config: PreTrainedModel | DynFocusConfig, processor: ProcessorMixin) -> None:
    """
    Make every later `save_pretrained` of these classes write its code next to what it saves.

    Registers the classes, and names them in the configuration: `auto_map` for the Auto classes and `custom_pipelines`
    for `pipeline("video-qa", …)`. To be called before training, so that checkpoints load anywhere.

    Args:
        model_or_config: the model, or its configuration.
        processor ([`DynFocusProcessor`]): where the classes of the other folder are found.
    """
    config: Any = model_or_config.config if isinstance(model_or_config, PreTrainedModel) else model_or_config
    processors: Any = processor
    # A class records one Auto class only; the others are written into `auto_map` by hand.
    type(config).register_for_auto_class()
    DynFocusModel.register_for_auto_class("AutoModel")
    DynFocusForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
    type(processors).register_for_auto_class()
    type(processors.video_processor).register_for_auto_class()
    config.auto_map = {
        "AutoConfig": _entry(type(config)),
        **{name: _entry(model_class) for name, model_class in _MODEL_OF_AUTO_CLASS.items()},
        "AutoProcessor": _entry(type(processors)),
        "AutoVideoProcessor": _entry(type(processors.video_processor)),
    }
    config.custom_pipelines = {
        "video-qa": {
            "impl": f"{_PIPELINE_MODULE}.{_PIPELINE_CLASS}",
            "pt": ["AutoModelForImageTextToText"],
            "type": "multimodal",
        }
    }


def save_for_hub(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    folder: str | os.PathLike[str],
    *,
    max_shard_size: int | str = "5GB",
) -> None:
    """
    Write model, processor and code to `folder`, from where `trust_remote_code=True` loads them without this package.

    Args:
        model ([`DynFocusForConditionalGeneration`]).
        processor ([`DynFocusProcessor`]).
        folder: is made where it does not exist.
        max_shard_size: of a weight file.

    Example:

    ```python
    >>> save_for_hub(model, processor, "my-model")
    >>> pipeline("video-qa", model="my-model", trust_remote_code=True)
    ```
    """
    prepare_for_hub(model, processor)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    processor.save_pretrained(folder)
    _check_complete(Path(folder))


def refresh_code(folder: str | os.PathLike[str]) -> list[str]:
    """
    Rewrite the code in a folder that `save_for_hub` wrote; weights and settings stay as they are.

    Returns:
        `list[str]`: the names of the files written. Code of an older version that is not among them can go.

    Raises:
        `FileNotFoundError`: where `folder` holds no saved processor.
    """
    path = Path(folder)
    if not (path / "processor_config.json").is_file():
        raise FileNotFoundError(f"{path} holds no saved processor: write it with `save_for_hub` first.")
    processor = AutoProcessor.from_pretrained(path)
    written = {
        file.name for saved in (DynFocusForConditionalGeneration, type(processor)) for file in _copy_code(saved, path)
    }
    _check_complete(path)
    return sorted(written)


def _copy_code(saved_class: Any, folder: Path) -> list[Path]:
    # The module of a class is all that is looked at without a configuration to write into.
    return [Path(file) for file in custom_object_save(saved_class, folder)]


def _entry(saved_class: type) -> str:
    """A class as `auto_map` names it: the last part of its module, as the folder is flat."""
    return f"{saved_class.__module__.rpartition('.')[2]}.{saved_class.__name__}"


def _check_complete(folder: Path) -> None:
    # The processor's save copies the pipeline only because the processor's file mentions it.
    if not (folder / f"{_PIPELINE_MODULE}.py").is_file():
        raise RuntimeError(
            f"{folder} lacks {_PIPELINE_MODULE}.py: the processor's module must import it (under `TYPE_CHECKING`), as "
            "that is how transformers finds the files to save."
        )


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit("usage: python -m dynfocus.hub FOLDER [CARD]")
    print("\n".join(refresh_code(sys.argv[1])))
    if len(sys.argv) == 3:
        shutil.copyfile(sys.argv[2], Path(sys.argv[1]) / "README.md")

__all__ = ["prepare_for_hub", "refresh_code", "save_for_hub"]
