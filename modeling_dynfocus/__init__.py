"""
DynFocus: video question answering that looks closely only at the frames that matter for the question.

After `import dynfocus`, `from_pretrained` of the Auto classes and `pipeline("video-qa", …)` need no remote code. The
import itself is cheap: torch, transformers and the classes below are imported when they are first used.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from .registration import register

if TYPE_CHECKING:
    from .adoption.backbones import from_backbones
    from .configuration_dynfocus import DynFocusConfig
    from .modeling_dynfocus import DynFocusForConditionalGeneration, DynFocusModel, DynFocusPreTrainedModel
    from .modeling_outputs_dynfocus import DynFocusVideoFeatures
    from .processing.pipeline_video_qa import VideoQAPipeline
    from .processing.processing_dynfocus import DynFocusProcessor
    from .processing.rows.collator import DynFocusCollator
    from .processing.video_processing_dynfocus import DynFocusVideoProcessor
    from .states.video_state import VideoState
    from .towers.configuration_vision_tower import VisionTowerConfig
    from .towers.vision_tower import VisionTower

__version__ = "0.1.0"

_MODULE_OF = {
    "DynFocusCollator": "processing.rows.collator",
    "DynFocusConfig": "configuration_dynfocus",
    "DynFocusForConditionalGeneration": "modeling_dynfocus",
    "DynFocusModel": "modeling_dynfocus",
    "DynFocusPreTrainedModel": "modeling_dynfocus",
    "DynFocusProcessor": "processing.processing_dynfocus",
    "DynFocusVideoFeatures": "modeling_outputs_dynfocus",
    "DynFocusVideoProcessor": "processing.video_processing_dynfocus",
    "VideoQAPipeline": "processing.pipeline_video_qa",
    "VideoState": "states.video_state",
    "VisionTower": "towers.vision_tower",
    "VisionTowerConfig": "towers.configuration_vision_tower",
    "from_backbones": "adoption.backbones",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})


register(sys.modules[__name__])

__all__ = [
    "DynFocusCollator",
    "DynFocusConfig",
    "DynFocusForConditionalGeneration",
    "DynFocusModel",
    "DynFocusPreTrainedModel",
    "DynFocusProcessor",
    "DynFocusVideoFeatures",
    "DynFocusVideoProcessor",
    "VideoQAPipeline",
    "VideoState",
    "VisionTower",
    "VisionTowerConfig",
    "__version__",
    "from_backbones",
]
