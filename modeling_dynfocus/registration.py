"""
Registers the classes of DynFocus with transformers, although `import dynfocus` does not import transformers.

transformers finds its own models in tables of names (`CONFIG_MAPPING_NAMES["llama"]` is `"LlamaConfig"`), and imports
a class from `transformers.models` when it is needed. `import dynfocus` watches for the first import of these tables,
and adds its own names to them then: that takes no time, and transformers imports DynFocus when it meets a DynFocus
model.
If transformers has already imported its tables, it has copied them. The classes are then imported and registered at
once, by transformers' own methods.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_MODEL_TYPE = "dynfocus"
#: The names in transformers' tables, by the modules that hold the tables.
_NAMES: dict[str, dict[str, str]] = {
    "transformers.models.auto.configuration_auto": {"CONFIG_MAPPING_NAMES": "DynFocusConfig"},
    "transformers.models.auto.modeling_auto": {
        "MODEL_MAPPING_NAMES": "DynFocusModel",
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES": "DynFocusForConditionalGeneration",
        "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES": "DynFocusForConditionalGeneration",
    },
    "transformers.models.auto.processing_auto": {"PROCESSOR_MAPPING_NAMES": "DynFocusProcessor"},
    "transformers.models.auto.video_processing_auto": {"VIDEO_PROCESSOR_MAPPING_NAMES": "DynFocusVideoProcessor"},
}
_PIPELINES = "transformers.pipelines"
_OUR_PIPELINE = "dynfocus.processing.pipeline_video_qa"


def register(package: ModuleType) -> None:
    """
    Make the Auto classes and `pipeline("video-qa", …)` find the classes of this package.

    Args:
        package: `dynfocus`, of which the classes are attributes.
    """
    # The module from which transformers imports the classes of the model type `dynfocus`.
    sys.modules[f"transformers.models.{_MODEL_TYPE}"] = package
    if any(name in sys.modules for name in (*_NAMES, _PIPELINES)):
        _register_classes()
        return
    sys.meta_path.insert(
        0,
        _AfterImport(
            {
                **dict.fromkeys(_NAMES, _enter_names),
                # Either module may be imported first, and ours imports the other: it is registered when its own import
                # ends.
                _PIPELINES: lambda _: importlib.import_module(_OUR_PIPELINE),
                _OUR_PIPELINE: lambda _: _register_pipeline(),
            }
        ),
    )


def _enter_names(module: ModuleType) -> None:
    for table_name, class_name in _NAMES[module.__name__].items():
        table: dict[str, Any] = getattr(module, table_name)
        # Newer versions of transformers list video processors by backend.
        by_backend = isinstance(next(iter(table.values())), dict)
        table[_MODEL_TYPE] = {"torchvision": class_name} if by_backend else class_name


def _register_classes() -> None:
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForImageTextToText,
        AutoModelForMultimodalLM,
        AutoProcessor,
        AutoVideoProcessor,
    )
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

    from .configuration_dynfocus import DynFocusConfig
    from .modeling_dynfocus import DynFocusForConditionalGeneration, DynFocusModel
    from .processing.processing_dynfocus import DynFocusProcessor
    from .processing.video_processing_dynfocus import DynFocusVideoProcessor

    AutoConfig.register(_MODEL_TYPE, DynFocusConfig, exist_ok=True)
    AutoModel.register(DynFocusConfig, DynFocusModel, exist_ok=True)
    AutoModelForImageTextToText.register(DynFocusConfig, DynFocusForConditionalGeneration, exist_ok=True)
    AutoModelForMultimodalLM.register(DynFocusConfig, DynFocusForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(DynFocusConfig, DynFocusProcessor, exist_ok=True)
    AutoVideoProcessor.register(DynFocusConfig, video_processor_class=DynFocusVideoProcessor, exist_ok=True)
    # `transformers serve` looks into the table itself.
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[_MODEL_TYPE] = DynFocusForConditionalGeneration.__name__
    _register_pipeline()


def _register_pipeline() -> None:
    from transformers.pipelines import PIPELINE_REGISTRY

    from .adoption.stock_loading import ModelOfPipeline
    from .processing.pipeline_video_qa import VideoQAPipeline

    PIPELINE_REGISTRY.register_pipeline(
        "video-qa", pipeline_class=VideoQAPipeline, pt_model=ModelOfPipeline, type="multimodal"
    )


class _AfterImport(MetaPathFinder):
    """Calls a function with a module at the end of the module's first import."""

    def __init__(self, functions: Mapping[str, Callable[[ModuleType], object]]):
        self.functions = functions

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.functions:
            return None
        for finder in [finder for finder in sys.meta_path if finder is not self]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self.functions[fullname])
                return spec
        return None


class _Loader(Loader):
    def __init__(self, loader: Loader, function: Callable[[ModuleType], object]):
        self.loader = loader
        self.function = function

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module looks as if it had been loaded in the usual way.
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        self.function(module)


__all__ = ["register"]
