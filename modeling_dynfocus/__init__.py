"""
DynFocus: video question answering that looks closely only at the frames that matter for the question.

Importing this package registers its classes with the Auto classes of transformers and the `video-qa` pipeline, so that
`from_pretrained` and `pipeline("video-qa", …)` need no remote code.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoVideoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_dynfocus import DynFocusConfig
from .modeling_dynfocus import (
    DynFocusForConditionalGeneration,
    DynFocusModel,
    DynFocusPreTrainedModel,
)
from .modeling_outputs_dynfocus import DynFocusVideoFeatures
from .processing import (
    DynFocusCollator,
    DynFocusProcessor,
    DynFocusVideoProcessor,
    VideoQAPipeline,
)
from .states.video_state import VideoState
from .towers.configuration_vision_tower import VisionTowerConfig
from .towers.vision_tower import VisionTower

__version__ = "0.1.0.dev0"


def _register() -> None:
    AutoConfig.register("dynfocus", DynFocusConfig, exist_ok=True)
    AutoModel.register(DynFocusConfig, DynFocusModel, exist_ok=True)
    AutoModelForImageTextToText.register(DynFocusConfig, DynFocusForConditionalGeneration, exist_ok=True)
    AutoModelForMultimodalLM.register(DynFocusConfig, DynFocusForConditionalGeneration, exist_ok=True)
    AutoVideoProcessor.register(DynFocusConfig, video_processor_class=DynFocusVideoProcessor, exist_ok=True)
    AutoProcessor.register(DynFocusConfig, DynFocusProcessor, exist_ok=True)
    PIPELINE_REGISTRY.register_pipeline(
        "video-qa",
        pipeline_class=VideoQAPipeline,
        pt_model=AutoModelForImageTextToText,
        type="multimodal",
    )


_register()

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
]
