"""What `generate` of older transformers does wrong with videos, mended: no answer may silently come without them."""

import copy
from typing import Any

import torch
import transformers
from transformers.utils import logging

logger = logging.get_logger(__name__)

_CHUNKS_LOSE_VIDEOS = tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23)


class GenerationFixes:
    """Stands before `GenerationMixin`. To go when transformers 5.23 is the oldest version that is supported."""

    model: Any

    def _expand_multimodal_outputs(self, input_ids, mm_encoder_output, *args, **kwargs):
        # transformers 5.18 repeats the videos of a prompt one by one, out of their order: as one tensor a prompt they
        # stay together.
        features = mm_encoder_output.get("video")
        if features is not None:
            tokens = torch.cat(features.pooler_output)
            has_ids = input_ids is not None and input_ids.numel() > 0
            where = (input_ids, tokens) if has_ids else (None, kwargs["inputs_embeds"])
            counts = self.model.get_placeholder_mask(*where, len(tokens)).sum((1, 2))
            features.pooler_output = list(tokens.split(counts.tolist()))
        return super()._expand_multimodal_outputs(input_ids, mm_encoder_output, *args, **kwargs)  # type: ignore[misc]

    def _prefill(self, input_ids, generation_config, model_kwargs, *args, **kwargs):
        if generation_config.prefill_chunk_size and model_kwargs.get("mm_encoder_outputs") and _CHUNKS_LOSE_VIDEOS:
            logger.warning_once(
                f"transformers {transformers.__version__} cannot prefill prompts with videos in chunks: they go in as "
                "a whole. The answers are the same; transformers 5.23 needs less memory."
            )
            generation_config = copy.deepcopy(generation_config)
            generation_config.prefill_chunk_size = None
        return super()._prefill(input_ids, generation_config, model_kwargs, *args, **kwargs)  # type: ignore[misc]


__all__ = ["GenerationFixes"]
