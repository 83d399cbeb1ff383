"""Compares four made-up frames, all shown in full, with the stock call of processor and model on the same video."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from .chats import Chat
from .families import FAMILIES, Family, frames_per_block, time_metadata, token_side, video_arguments
from .focus_processor import FocusProcessor
from .video_frames import ChosenFrames, VideoFrames


def tried_family(processor: Any) -> Family:
    """
    The family of a processor of an unknown class: the first form that passes the test.

    Raises:
        `ValueError`: no form passes; the message names the class and what differs.
    """
    name = type(processor).__name__
    known = ", ".join(family.name for family in FAMILIES)
    if getattr(processor, "video_processor", None) is None or getattr(processor, "video_token", None) is None:
        raise ValueError(f"{name} does not take videos: use a model of one of the families {known}.")
    found = ""
    for family in _forms(processor):
        try:
            difference = difference_from_stock(FocusProcessor(processor, family=family))
        except Exception as error:  # an unknown processor may raise anything
            difference = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if difference is None:
            return family
        found = found or difference
    raise ValueError(
        f"{name} is of no known family, and four made-up frames that are all shown are not what its own call makes of "
        f"them ({found[:200]}): use a model of one of the families {known}."
    )


def difference_from_stock(focus: FocusProcessor, model: Any = None) -> str | None:
    """
    What differs from the stock call if all of four frames are key frames; `None` if nothing does.

    Args:
        focus: the `FocusProcessor` of the tested processor.
        model: its model; by default only its inputs are compared.
    """
    processor, family = focus.processor, focus.family
    count = 4 * frames_per_block(family, processor)
    side = token_side(processor) if family.native else 32
    frames = np.random.default_rng(0).integers(0, 255, (count, 3 * side, 4 * side, 3), dtype=np.uint8)
    step = focus.pair_seconds or 0.5
    video = VideoFrames.decoded(frames, np.arange(count) * step)
    chosen = ChosenFrames(video, range(0, count, frames_per_block(family, processor)))
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What is it?"}]}]
    text = focus.render(chat, add_generation_prompt=True)
    ours = focus.encode_text(text, [chosen], Chat(chat, ["video"], [])).inputs
    arguments = video_arguments(family, processor, focus.tokens_per_key_frame)
    arguments["video_metadata"] = [time_metadata(video.times.tolist(), video.duration)]
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    stock = processor(text=[text], videos=[[pixels]], videos_kwargs=arguments, text_kwargs={"return_tensors": "pt"})
    missing = {name for name in set(ours) ^ set(stock) if name not in ("position_ids", "second_per_grid_ts")}
    if missing:
        return f"inputs {sorted(missing)}"
    for name in ("input_ids", *(name for name in stock if name.startswith("pixel_values"))):
        if not torch.equal(ours[name].flatten(), stock[name].flatten()):
            return name
    # Frames without words between them are one block, along which the model counts time in equal steps.
    is_one_block = len(focus.runs_of_pictures(processor.tokenizer.decode(stock["input_ids"][0]))) == 1
    if "video_grid_thw" in stock and is_one_block and not family.positions:
        return "positions, which the model counts in equal steps"
    if model is None:
        return None
    device = model.device
    with torch.inference_mode():
        ours, stock = (model(**inputs.to(device)).logits for inputs in (ours, stock))
    return None if torch.equal(ours, stock) else f"logits, by {(ours - stock).abs().max().item():.1e}"


def _forms(processor: Any) -> Iterator[Family]:
    """Rows of `families.py` that may describe an unknown processor, the most detailed first."""
    name = type(processor).__name__
    for native in (True, False):
        for joint in ("", " ", ",", "\n"):
            yield Family(name, (), "blocks", native, joint, times="in words of its own")
    yield Family(name, (), "video", native=False, times="in words of its own")


__all__ = ["difference_from_stock", "tried_family"]
