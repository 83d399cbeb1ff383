"""
DynFocus, a rods-only layout and four dense video models of transformers on matched backbones, and their inputs.

All have the same layers and widths of tower and language model, random weights, and frames of 392x392 pixels in
patches of 14, which every class allows: 784 patches a frame. What differs is each class's own way: LLaVA-OneVision,
LLaVA-NeXT-Video and VideoLLaMA3 read 196 tokens a frame, Qwen2.5-VL 196 for a pair of frames, which it merges before
its tower. (With many frames the processors of the last two would shrink each, and VideoLLaMA3's would leave out what
does not change; here nobody does.) DynFocus reads what its default budget says, the rods-only layout 2 tokens a frame.
"""

from dataclasses import replace
from typing import Any

import torch
from training_throughput import Scale
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlavaNextVideoConfig,
    LlavaOnevisionConfig,
    Qwen2_5_VLConfig,
    Qwen2Config,
    SiglipVisionConfig,
    VideoLlama3Config,
)

from dynfocus import DynFocusConfig
from dynfocus.processing.token_plan import TokenBudget

IMAGE_SIZE, PATCH_SIZE, MERGE = 392, 14, 2
GRID = IMAGE_SIZE // PATCH_SIZE
#: Of a frame, where 2x2 patches become one token.
FRAME_TOKENS = (GRID // MERGE) ** 2
TURN_TOKENS, QUESTION_TOKENS = 8, 24
#: Of VideoLLaMA3's "Time 12.0s:" before each frame, with the comma.
TIME_TOKENS = 9
VIDEO, IMAGE, FIRST_WORD = 3, 4, 8
OURS, RODS = "DynFocus", "rods only"
ONEVISION, NEXT_VIDEO, VIDEO_LLAMA, QWEN = DENSE = ("LLaVA-OneVision", "LLaVA-NeXT-Video", "VideoLLaMA3", "Qwen2.5-VL")

Inputs = dict[str, torch.Tensor]


class RodsOnly:
    """DynFocus's model with the two rods of each frame and nothing else, the layout of LLaMA-VID."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **inputs: Any) -> torch.Tensor:
        settings = {name: inputs.pop(name) for name in ("max_new_tokens", "do_sample", "pad_token_id")}
        features = self.model.get_video_features(**inputs)
        # With one key frame, the least there can be: its cones, which stand before its rods, are left out.
        (tokens,), (key_frames,) = features.pooler_output, features.key_frames
        num_rods, before = int((input_ids == VIDEO).sum()), 2 * int(key_frames)
        rods = torch.cat([tokens[:before], tokens[len(tokens) - num_rods + before :]])
        given = {"video": replace(features, pooler_output=[rods])}
        return self.model.generate(
            input_ids=input_ids, attention_mask=attention_mask, mm_encoder_outputs=given, **settings
        )


def build_models(scale: Scale, device: str = "cpu", dtype: torch.dtype | None = None) -> dict[str, Any]:
    """The models by name, in eval mode. Those with the same class of tower or language model share it."""
    sizes = scale.tower
    words = {**scale.language_model, "max_position_embeddings": 2**17, "bos_token_id": 1, "eos_token_id": 2}
    plain = {**sizes, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    ids = {"video_token_id": VIDEO, "image_token_id": IMAGE}
    siglip = SiglipVisionConfig(**plain, vision_use_head=False)
    text = Qwen2Config(**words)
    # As wide as the tower, up to 512.
    width = min(512, sizes["hidden_size"])
    question = {
        "vocab_size": words["vocab_size"],
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": 4,
        "num_attention_heads": width // 64 or 1,
        "encoder_hidden_size": sizes["hidden_size"],
    }
    half_head = words["hidden_size"] // words["num_attention_heads"] // 2
    sections = [half_head // 4, half_head * 3 // 8, half_head - half_head // 4 - half_head * 3 // 8]
    layers = sizes["num_hidden_layers"]
    # The MLP of Qwen2.5-VL's tower is gated: three matrices of 2/3 of the width weigh as much as two.
    qwen_tower = {
        "depth": layers,
        "hidden_size": sizes["hidden_size"],
        "intermediate_size": sizes["intermediate_size"] * 2 // 3,
        "num_heads": sizes["num_attention_heads"],
        "patch_size": PATCH_SIZE,
        "out_hidden_size": words["hidden_size"],
        # As there: every eighth layer, the last one too, sees the whole frame, the others see windows.
        "fullatt_block_indexes": list(range(layers - 1, -1, -8)),
    }
    qwen_words = {**words, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}}
    configs = {
        OURS: DynFocusConfig(
            vision_config={"backbone_config": siglip, "feature_layer": -1},
            text_config=text,
            question_config=question,
            video_token_id=VIDEO,
        ),
        ONEVISION: LlavaOnevisionConfig(
            vision_config=siglip, text_config=text, video_token_index=VIDEO, image_token_index=IMAGE
        ),
        NEXT_VIDEO: LlavaNextVideoConfig(
            vision_config=CLIPVisionConfig(**plain), text_config=text, video_token_index=VIDEO, image_token_index=IMAGE
        ),
        VIDEO_LLAMA: VideoLlama3Config(vision_config={**sizes, "patch_size": PATCH_SIZE}, text_config=text, **ids),
        QWEN: Qwen2_5_VLConfig(vision_config=qwen_tower, text_config=qwen_words, **ids),
    }
    torch.manual_seed(0)
    models: dict[str, Any] = {OURS: None, RODS: None}
    with torch.device(device):
        for name, config in configs.items():
            model = AutoModelForImageTextToText.from_config(config, dtype=dtype or scale.dtype).eval()
            if name not in (OURS, QWEN):
                model.model.language_model, model.lm_head = models[OURS].model.language_model, models[OURS].lm_head
            if name == ONEVISION:
                model.model.vision_tower = models[OURS].model.vision_tower.backbone
            models[name] = model
    models[RODS] = RodsOnly(models[OURS])
    return models


def make_inputs(
    num_frames: int, scale: Scale, device: str = "cpu", dtype: torch.dtype | None = None
) -> dict[str, Inputs]:
    """One video and one question for each model, in the form that its own processor would give them."""
    generator = torch.Generator().manual_seed(num_frames)
    dtype = dtype or scale.dtype
    words = torch.randint(
        FIRST_WORD, scale.language_model["vocab_size"], (2 * TURN_TOKENS + QUESTION_TOKENS,), generator=generator
    )
    pairs = -(-num_frames // 2)
    frames = torch.randn(1, num_frames, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator, dtype=dtype).to(device)
    # The two that take patches: of one frame each, and of a pair of frames each.
    numbers = GRID**2 * 3 * PATCH_SIZE**2
    patches = torch.randn(max(num_frames, 2 * pairs) * numbers, generator=generator, dtype=dtype).to(device)
    by_frame, by_pair = (
        patches[: num_frames * numbers].view(num_frames * GRID**2, -1),
        patches.view(pairs * GRID**2, -1),
    )

    def prompt(video: torch.Tensor) -> Inputs:
        ids = torch.cat([words[:TURN_TOKENS], video, words[TURN_TOKENS:]])[None].to(device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def visual(count: int) -> torch.Tensor:
        return torch.full((count,), VIDEO)

    budget = TokenBudget()
    question = words[None, TURN_TOKENS : TURN_TOKENS + QUESTION_TOKENS].to(device)
    shared = {
        "pixel_values_videos": frames,
        "video_frame_mask": torch.ones(1, num_frames, dtype=torch.bool, device=device),
        "question_input_ids": question,
        "question_attention_mask": torch.ones_like(question),
    }
    plan = budget.plan(num_frames)
    # One word for the time of a frame costs what another does.
    times = torch.full((num_frames, TIME_TOKENS), FIRST_WORD)
    timed = torch.cat([times, torch.full((num_frames, FRAME_TOKENS), VIDEO)], dim=1).flatten()
    qwen = prompt(visual(pairs * FRAME_TOKENS))
    return {
        OURS: {
            **prompt(visual(plan.num_visual_tokens)),
            **shared,
            "video_token_plan": torch.tensor([plan.as_row()]),
        },
        RODS: {
            **prompt(visual(2 * num_frames)),
            **shared,
            "video_token_plan": torch.tensor([[1, 1, num_frames]]),
        },
        ONEVISION: {**prompt(visual(num_frames * FRAME_TOKENS + 1)), "pixel_values_videos": frames},
        NEXT_VIDEO: {**prompt(visual(num_frames * FRAME_TOKENS)), "pixel_values_videos": frames},
        VIDEO_LLAMA: {
            **prompt(timed),
            "pixel_values_videos": by_frame,
            "video_grid_thw": torch.tensor([[num_frames, GRID, GRID]], device=device),
            "video_merge_sizes": torch.tensor([MERGE], device=device),
            "video_compression_mask": torch.ones(num_frames * FRAME_TOKENS, dtype=torch.bool, device=device),
        },
        QWEN: {
            **qwen,
            "pixel_values_videos": by_pair,
            "video_grid_thw": torch.tensor([[pairs, GRID, GRID]], device=device),
            "second_per_grid_ts": torch.tensor([2.0], device=device),
            "mm_token_type_ids": (qwen["input_ids"] == VIDEO).long() * 2,
        },
    }


__all__ = [
    "DENSE",
    "FRAME_TOKENS",
    "GRID",
    "ONEVISION",
    "OURS",
    "QUESTION_TOKENS",
    "QWEN",
    "RODS",
    "TURN_TOKENS",
    "VIDEO",
    "Inputs",
    "RodsOnly",
    "build_models",
    "make_inputs",
]
