"""The model in vLLM, on vLLM's backend for models of transformers. Only vLLM imports this module."""

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from vllm.model_executor.models.transformers import TransformersMultiModalForCausalLM
from vllm.model_executor.models.transformers.multimodal import (
    MultiModalDummyInputsBuilder,
    MultiModalProcessingInfo,
    MultiModalProcessor,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.utils.cache import LRUCache

from dynfocus.states.video_state import VideoState

from .prompt_question import PromptQuestion
from .token_plan import room_for_videos
from .video_qa import DEFAULT_NEW_TOKENS
from .vllm_plugin import READING, settings_of


class _Recent:
    """What was made last, within the bytes of vLLM's processor cache (`--mm-processor-cache-gb`)."""

    def __init__(self, multimodal_config: Any):
        most = int(multimodal_config.mm_processor_cache_gb * 2**30)
        self._made: Any = LRUCache(most, getsizeof=lambda entry: entry[1])
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], tuple[Any, int]]) -> Any:
        """What was made for `key`, or `make()`: the thing and its bytes."""
        with self._lock:
            if key in self._made:
                return self._made[key][0]
        made = make()
        with self._lock:
            if made[1] <= self._made.maxsize:
                self._made[key] = made
        return made[0]


class DynFocusProcessingInfo(MultiModalProcessingInfo):
    """What vLLM asks about the processor."""

    def max_visual_tokens(self, num_videos: int) -> int | None:
        """As many tokens of a video as fit into the prompt, as in the pipeline."""
        processor = self.get_hf_processor()
        if processor.max_visual_tokens is not None:
            return processor.max_visual_tokens
        least = processor.cone_tokens + processor.rod_tokens
        return room_for_videos(self.ctx.model_config.max_model_len, DEFAULT_NEW_TOKENS, num_videos, least)

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> dict[str, int]:
        # vLLM's own number is for 16 frames, and longer videos would be refused.
        return {"video": seq_len}


class DynFocusMultiModalProcessor(MultiModalProcessor):
    """Gives the processor the question and the settings of a request, and frames that are read by our rules."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._frames = _Recent(self.info.ctx.get_mm_config())

    @cached_property
    def _question(self) -> PromptQuestion:
        return PromptQuestion(self.info.get_hf_processor())

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> Any:
        return replace(super().get_dummy_inputs(*args, **kwargs), hf_processor_mm_kwargs={"question": "What is it?"})

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        num_videos = inputs.mm_data_items.get_all_counts().get("video", 0)
        if num_videos:
            server = self.info.ctx.get_mm_config().mm_processor_kwargs or {}
            media = inputs.media_io_kwargs.get("video") or {}
            settings = settings_of(server, media, inputs.hf_processor_mm_kwargs)
            settings.setdefault("max_visual_tokens", self.info.max_visual_tokens(num_videos))
            if settings.get("question") is None:
                settings["question"] = self._question.find(inputs.prompt)
            inputs = replace(inputs, hf_processor_mm_kwargs=settings)
        return super().apply(inputs, timing_ctx)

    def _get_hf_mm_inputs(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        """Files as the frames that the settings choose, with their times."""
        found = super()._get_hf_mm_inputs(mm_items, hf_kwargs)
        videos, metadata = found.hf_data.get("videos") or [], found.hf_data.get("video_metadata")
        # A file comes as a row of bytes.
        files = [place for place, video in enumerate(videos) if np.ndim(video) == 1]
        for place in files:
            videos[place], metadata[place] = self._read(videos[place], hf_kwargs)
        if not files:
            return found
        return found._replace(
            hf_kwargs={name: value for name, value in found.hf_kwargs.items() if name not in READING}
        )

    def _read(self, file: np.ndarray, settings: Mapping[str, Any]) -> tuple[np.ndarray, Any]:
        reading = {name: settings[name] for name in READING if settings.get(name) is not None}

        def read() -> tuple[Any, int]:
            try:
                frames, times = self.info.get_hf_processor().video_processor.fetch_videos(file.tobytes(), **reading)
            except (ImportError, TypeError, StrictDataclassError) as error:
                raise ValueError(str(error)) from None
            return (frames, times), frames.nbytes

        return self._frames.get((hashlib.sha256(file.data).digest(), *sorted(reading.items())), read)

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        try:
            inputs = super()._apply_hf_processor_main(mm_items, hf_kwargs)
        except ValueError as error:
            # vLLM's message shows all data, and hides what is wrong with it.
            raise ValueError(str(error.__cause__ or error)) from None
        if "pixel_values_videos" in inputs:
            rows = zip(inputs["pixel_values_videos"], inputs["video_frame_mask"], strict=True)
            inputs["video_digest"] = torch.stack([_digest(pixels[mask]) for pixels, mask in rows])
        return inputs


def _digest(pixels: torch.Tensor) -> torch.Tensor:
    """A hash of pixels, `(2,)` int64."""
    found = hashlib.sha256(pixels.contiguous().view(torch.uint8).numpy().data)
    return torch.from_numpy(np.frombuffer(found.digest()[:16], np.int64).copy())


@MULTIMODAL_REGISTRY.register_processor(
    DynFocusMultiModalProcessor, info=DynFocusProcessingInfo, dummy_inputs=MultiModalDummyInputsBuilder
)
class DynFocusForVLLM(TransformersMultiModalForCausalLM):
    """
    The model in vLLM. vLLM keeps the visual tokens of a video and a question; the states of the last videos are kept
    here, so that a further question does not encode its video again.
    """

    def __init__(self, *, vllm_config: Any, prefix: str = ""):
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self._states = _Recent(self.model_config.get_multimodal_config())

    def recursive_replace(self) -> None:
        """vLLM's layers in place of torch's, in the language model only, unless weights are quantized."""
        # Between frames that look alike, the last digit decides: the parts that choose compute as in transformers.
        names = [name for name, _ in self.model.named_children() if name != "language_model"]
        kept = {name: getattr(self.model, name) for name in names if self.quant_config is None}
        for name in kept:
            setattr(self.model, name, None)
        super().recursive_replace()
        for name, part in kept.items():
            setattr(self.model, name, part)

    def _process_vision_input(
        self,
        modality: str,
        pixel_values: Any,
        num_patches: Any,
        video_digest: Any,
        video_frame_mask: Any,
        **inputs: Any,
    ) -> list[torch.Tensor]:
        rows = zip(video_digest.tolist(), pixel_values, video_frame_mask, strict=True)
        state = VideoState.stack([self._state(*row) for row in rows])
        return list(self.model.get_video_features(video_state=state, return_dict=True, **inputs).pooler_output)

    def _state(self, digest: list[int], pixels: torch.Tensor, mask: torch.Tensor) -> VideoState:
        def encode() -> tuple[Any, int]:
            # In main memory: vLLM has divided the accelerator's before.
            state = self.model.encode_pixels(pixels[mask][None]).to("cpu")
            return state, sum(tensor.nbytes for tensor in state.tensors().values())

        return self._states.get(tuple(digest), encode)


__all__ = ["DynFocusForVLLM", "DynFocusMultiModalProcessor", "DynFocusProcessingInfo"]
