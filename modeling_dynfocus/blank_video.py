"""What a batch without videos runs, so that other processes, whose batches have some, do not wait for it."""

from typing import Any

import torch
from transformers import Cache
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module


class BlankVideo:
    """For [`DynFocusModel`]: a blank frame in place of videos."""

    def _others_may_have_videos(self: Any, cache: Cache | None) -> bool:
        """Whether other processes may wait for this one to run the modules of videos, which it does not need."""
        if self.training and torch.is_grad_enabled():
            return True
        is_sharded = is_deepspeed_zero3_enabled() or is_fsdp_managed_module(self)
        # While an answer is generated, videos are read with the prompt.
        return is_sharded and (cache is None or cache.get_seq_length() == 0)

    def _blank_video(self: Any) -> torch.Tensor:
        """
        The sum of a blank frame's visual tokens, a scalar.

        Added with weight 0 to a batch without videos: every process then runs the same modules and has gradients of
        the same parameters, without which training on many of them hangs.
        """
        side = self.config.vision_config.image_size
        features = self.get_video_features(
            pixel_values_videos=torch.zeros(1, 1, 3, side, side, device=self.device),
            video_token_plan=torch.ones(1, 3, dtype=torch.long),
            question_input_ids=torch.zeros(1, 1, dtype=torch.long),
            return_dict=True,
        )
        return features.pooler_output[0].sum()


__all__ = ["BlankVideo"]
