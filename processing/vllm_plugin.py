"""
DynFocus models in vLLM, which finds this plug-in by its entry point: `vllm serve MODEL` needs neither flags nor remote
code.

vLLM calls `register` in each of its processes, also where it serves other models: vLLM itself and what builds on it
(`vllm_model.py`) are imported only when they are needed. Here is what can be said without vLLM: a video reaches the
processor as the bytes of its file, which are sampled, decoded and resized together, by the settings of the request.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from .video_processing_dynfocus import SAMPLING_SETTINGS

# Ways to say how many frames are sampled.
_RATES = ("fps", "num_frames", "sampling")
_SAMPLING = tuple(name for name in SAMPLING_SETTINGS if name != "do_sample_frames")
#: Settings with which a file is read.
READING = (*_SAMPLING, "decoder", "on_truncated")
#: Settings of the server (`--mm-processor-kwargs`) and of a request (`mm_processor_kwargs`). Those of pixels are the
#: model's own.
SETTINGS = (*READING, "max_visual_tokens", "num_prototypes", "key_ratio", "question")


def register() -> None:
    """Make vLLM find the model's class, and read its videos with `FileLoader`."""
    import_module("dynfocus")  # with its import, transformers knows the classes
    video = import_module("vllm.multimodal.video")
    video.VIDEO_LOADER_REGISTRY.register("dynfocus", video_processor="DynFocusVideoProcessor")(FileLoader)
    # For folders without `video_preprocessor_config.json`, where vLLM looks for the name first.
    names = import_module("vllm.transformers_utils.processor").VIDEO_PROCESSOR_MAPPING_NAMES
    names.setdefault("dynfocus", "DynFocusVideoProcessor")
    import_module("vllm").ModelRegistry.register_model(
        "DynFocusForConditionalGeneration", "dynfocus.processing.vllm_model:DynFocusForVLLM"
    )


class FileLoader:
    """A loader of vLLM that passes on a video's file as it is."""

    @classmethod
    def load_bytes(cls, data: bytes, **settings: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """
        The bytes of a file as an array, `(bytes,)` uint8, where vLLM expects frames.

        Args:
            settings: ignored: vLLM's own number of frames, and `media_io_kwargs`, which `settings_of` reads.
        """
        # What vLLM says of a video that is sampled already.
        return np.frombuffer(data, np.uint8), {"do_sample_frames": False}


def settings_of(server: Mapping[str, Any], media: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """
    The settings of a request. Later ones replace earlier ones, and `fps`, `num_frames` and `sampling` each other.

    Args:
        server: `--mm-processor-kwargs`.
        media: `media_io_kwargs["video"]` of the server and the request; only the sampling.
        request: `mm_processor_kwargs` of the request.

    Raises:
        `ValueError`: an unknown name.
    """
    found: dict[str, Any] = {}
    for kind, given in (("mm_processor_kwargs", server), ("media_io_kwargs", media), ("mm_processor_kwargs", request)):
        known = _SAMPLING if kind == "media_io_kwargs" else SETTINGS
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ValueError(f"`{kind}` has no setting `{unknown[0]}`: it may hold {', '.join(known)}.")
        if any(given.get(name) is not None for name in _RATES):
            found = {name: value for name, value in found.items() if name not in _RATES}
        found.update(given)
    return found


__all__ = ["READING", "SETTINGS", "FileLoader", "register", "settings_of"]
