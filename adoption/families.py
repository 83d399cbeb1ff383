"""
The families of video language models of transformers, and how each takes frames.

A row describes how frames enter a prompt. It has no sizes and prices, which are computed from the loaded processor. It
describes the stock processor's own behavior: with every frame in full, the inputs equal those of the stock call.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.video_utils import VideoMetadata


@dataclass(frozen=True)
class Family:
    """
    How one family of models takes the frames of a video.

    Args:
        name (`str`): the name in messages and docs.
        processors (`tuple` of `str`): the classes of its stock processors.
        layout (`str`):
            `"blocks"`: each chosen frame (or pair of frames) is a stock video of its own, of its own size;
            `"video"`: all chosen frames are one stock video, of one size;
            `"images"`: each chosen frame is a picture of the chat.
        native (`bool`):
            whether frames keep their own size, in steps of one token. Otherwise every frame costs the same number of
            tokens.
        joint (`str`, defaults to `""`): the text that the stock processor writes between two frames.
        times (`str`, *optional*): how the stock processor writes the time of a frame; `None` if it writes none.
        positions (`str`, *optional*):
            for models in which all frames are one block, and which cannot derive the positions of chosen frames:
            whether positions along the time axis count `"seconds"` or `"frames"`.
        video_content (`dict`): keys of a video block that the chat template needs.
        drops_empty_frames (`bool`): whether the model leaves out frames that are all zeros, so that videos of
            several lengths go into one batch.
        pictures_beside_videos (`bool`): whether one prompt may have pictures and videos. Some stock models take the
            features of only one of them.
        least_version (`str`): oldest version of transformers with this family.
    """

    name: str
    processors: tuple[str, ...]
    layout: Literal["blocks", "video", "images"]
    native: bool
    joint: str = ""
    times: str | None = None
    positions: Literal["seconds", "frames"] | None = None
    video_content: dict[str, Any] = field(default_factory=dict)
    drops_empty_frames: bool = False
    pictures_beside_videos: bool = True
    least_version: str = "5.18"


FAMILIES = (
    Family("Qwen3-VL, Qwen3.5", ("Qwen3VLProcessor",), "blocks", native=True, times="<1.5 seconds>"),
    Family("Qwen2.5-VL", ("Qwen2_5_VLProcessor",), "blocks", native=True, positions="seconds"),
    Family("Qwen2-VL", ("Qwen2VLProcessor",), "blocks", native=True, positions="frames"),
    Family("GLM-4.1V", ("Glm4vProcessor",), "blocks", native=True, times="1", pictures_beside_videos=False),
    Family("GLM-4.6V", ("Glm46VProcessor",), "blocks", native=True, times="1.5 seconds", pictures_beside_videos=False),
    Family(
        "VideoLLaMA 3",
        ("VideoLlama3Processor",),
        "blocks",
        native=True,
        joint=",",
        times="Time 1.5s:",
        video_content={"num_frames": 1},
    ),
    Family("Gemma 4", ("Gemma4Processor",), "blocks", native=True, joint=" ", times="00:01"),
    Family(
        "Molmo 2",
        ("Molmo2Processor",),
        "video",
        native=False,
        times="1.5",
        least_version="5.24",
        pictures_beside_videos=False,
    ),
    Family("LLaVA-OneVision", ("LlavaOnevisionProcessor",), "video", native=False),
    Family("LLaVA-NeXT-Video", ("LlavaNextVideoProcessor",), "blocks", native=False),
    Family("PerceptionLM", ("PerceptionLMProcessor",), "blocks", native=False),
    Family("InternVL", ("InternVLProcessor",), "video", native=False),
    Family(
        "SmolVLM",
        ("SmolVLMProcessor",),
        "video",
        native=False,
        times="00:01",
        drops_empty_frames=True,
        pictures_beside_videos=False,
    ),
    Family("Gemma 3", ("Gemma3Processor",), "images", native=False),
)


def reads_videos(config: Any) -> bool:
    """Whether a model of transformers with this configuration may be one that reads videos or pictures."""
    return config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def known_family(processor: Any) -> Family | None:
    """The row of a processor's class, or of the nearest class that it derives from; `None` if there is none."""
    for kind in type(processor).__mro__:
        for family in FAMILIES:
            if kind.__name__ in family.processors:
                return family
    return None


def placeholder_pattern(processor: Any) -> re.Pattern[str]:
    """Matches one placeholder token of visual features in a prompt, or a mark inside the picture of a frame."""
    named = {getattr(owner, name, None) for owner in (processor, processor.tokenizer) for name in _TOKEN_NAMES}
    marks = set(processor.tokenizer.get_added_vocab()) & {"<im_patch>", "<im_col>"}
    tokens = sorted({token for token in named if token} | marks, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, tokens)))


_TOKEN_NAMES = ("video_token", "image_token")


def frames_per_block(family: Family, processor: Any) -> int:
    """Frames that the tower merges into one step of time: 2 for pairs, else 1."""
    return getattr(processor.video_processor, "temporal_patch_size", None) or 1 if family.layout == "blocks" else 1


def token_side(processor: Any) -> int:
    """Pixels along one side of the square that becomes one token, in a family that keeps frames' sizes."""
    video_processor = processor.video_processor
    merged = getattr(video_processor, "merge_size", None) or getattr(video_processor, "pooling_kernel_size", None) or 1
    return video_processor.patch_size * merged


def fit_size(height: int, width: int, side: int, max_tokens: int) -> tuple[int, int]:
    """
    The size at which a frame costs at most `max_tokens`, `(height, width)` in pixels.

    Both are multiples of `side`, near the proportions of the frame, and never larger than the frame (rounded). The
    formula is that of Qwen's `smart_resize`, without a lower limit.
    """
    limit = max_tokens * side * side
    high, wide = max(side, round(height / side) * side), max(side, round(width / side) * side)
    if high * wide > limit:
        shrink = math.sqrt(height * width / limit)
        high = max(side, math.floor(height / shrink / side) * side)
        wide = max(side, math.floor(width / shrink / side) * side)
    # A strip with the height or width of one token.
    return min(high, max_tokens * side), min(wide, max_tokens * side)


def time_metadata(times: Sequence[float], duration: float) -> VideoMetadata:
    """
    Metadata of chosen frames for the stock processor, which derives times as number / rate. With a rate of 1, a
    frame's number is its time, so that frames of a variable rate get their true times.
    """
    return VideoMetadata(
        total_num_frames=max(1, math.ceil(duration)),
        fps=1.0,
        duration=duration,
        frames_indices=list(times),  # type: ignore[arg-type]
    )


def video_arguments(family: Family, processor: Any, most_tokens: int) -> dict[str, Any]:
    """
    Arguments of the stock video processor for frames that are already chosen and, in families that keep sizes,
    resized.
    """
    arguments: dict[str, Any] = {"do_sample_frames": False, "return_tensors": "pt"}
    if family.native:
        arguments["do_resize"] = False
        if hasattr(processor.video_processor, "max_soft_tokens"):
            # Gemma 4 pads every frame to one of a few token counts.
            steps = [n for n in (70, 140, 280, 560, 1120) if n >= max(most_tokens, 1)]
            arguments["max_soft_tokens"] = max(steps[0] if steps else 1120, processor.video_processor.max_soft_tokens)
    return arguments


def explicit_positions(
    inputs: dict[str, torch.Tensor], times: Sequence[Sequence[float]], family: Family, config: Any
) -> torch.Tensor:
    """
    Positions of one prompt in which all frames of a video form one block (Qwen2-VL, Qwen2.5-VL), for chosen frames.

    The stock model counts time in equal steps, and starts again with each stock video of a block. Here a frame has its
    true time: seconds since the block's first frame times `tokens_per_second`, or its place among the frames.
    Everything else is as in the stock model's M-RoPE (Qwen2-VL, arXiv 2409.12191, section 2.1).

    Args:
        inputs: inputs of one row: `input_ids` and `mm_token_type_ids` `(1, S)`, for videos `video_grid_thw` `(blocks,
            3)`, and for pictures `image_grid_thw`.
        times: for each video of the prompt the start of each of its blocks in seconds.
        config: the model's configuration.

    Returns:
        `(3, 1, S)` int64: time, height, width.
    """
    vision = config.vision_config
    merge, rate = vision.spatial_merge_size, getattr(vision, "tokens_per_second", 1)
    images = iter(inputs.get("image_grid_thw", torch.zeros(0, 3, dtype=torch.long)).tolist())
    grids = iter(inputs.get("video_grid_thw", torch.zeros(0, 3, dtype=torch.long)).tolist())
    videos = iter(times)
    parts, next_position = [], 0
    for kind, group in groupby(inputs["mm_token_type_ids"][0].tolist()):
        length = len(list(group))
        if kind == 0:
            parts.append(torch.arange(length).expand(3, -1) + next_position)
            next_position += length
            continue
        steps = [0.0]
        if kind == 2:
            seconds = next(videos)
            is_timed = family.positions == "seconds"
            steps = [(time - seconds[0]) * rate for time in seconds] if is_timed else list(range(len(seconds)))
        start, widest = next_position, 0
        for step in steps:
            _, height, width = next(images if kind == 1 else grids)
            height, width = height // merge, width // merge
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            # Rounding must not move a whole number below itself.
            t = torch.full((height * width,), int(step + 1e-6))
            parts.append(torch.stack([t, y.flatten(), x.flatten()]) + start)
            widest = max(widest, height, width)
        # As in the stock model: after the longest side of the pictures, independent of the time.
        next_position = start + widest
    return torch.cat(parts, 1)[:, None]


__all__ = [
    "FAMILIES",
    "Family",
    "explicit_positions",
    "fit_size",
    "frames_per_block",
    "known_family",
    "placeholder_pattern",
    "reads_videos",
    "time_metadata",
    "token_side",
    "video_arguments",
]
