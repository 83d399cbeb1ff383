"""The test sets of the comparison: video files, decoded and encoded like those of users."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from recipe.data import FeatureSet
from safetensors.torch import load_file, save_file

from dynfocus.eval.synthetic.builder import Recipe, make_recipe, synthesize
from dynfocus.eval.synthetic.questions import Question
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.processing import DynFocusProcessor
from dynfocus.states.video_state import VideoState

TEST_SEED = 301


def test_recipe(num_frames: int, seed: int = TEST_SEED) -> Recipe:
    return make_recipe(seed, num_frames)


@torch.no_grad()
def encode_test_set(
    model: DynFocusForConditionalGeneration,
    processor: DynFocusProcessor,
    num_frames: int,
    count: int,
    work: Path,
    log: Callable[[str], None],
) -> tuple[FeatureSet, list[list[Question]]]:
    """The features of the first `count` videos of a test set and the questions on each; kept in `work`."""
    recipe = test_recipe(num_frames)
    drawn = [recipe.draw(index) for index in range(count)]
    path = work / f"test{num_frames}.safetensors"
    if not path.exists():
        folder = work / f"test{num_frames}"
        log(f"writing {count} videos of {num_frames} s to {folder}")
        synthesize(folder, recipe.seed, count, num_frames, recipe.split)
        parts: dict[str, list[torch.Tensor]] = {}
        for index in range(count):
            inputs: Any = processor.video_processor(folder / f"videos/{index:06d}.mp4", return_tensors="pt")
            state = model.encode_video(inputs["pixel_values_videos"].to(model.device)).to("cpu", torch.float16)
            state.parent_of_token = state.parent_of_token.to(torch.uint8)
            for name in ("frame_features", "grouped_tokens", "parent_of_token", "frame_mask"):
                parts.setdefault(name, []).append(getattr(state, name))
        part = path.with_suffix(".part")
        save_file({name: torch.cat(tensors) for name, tensors in parts.items()}, part)
        part.replace(path)
    return FeatureSet(VideoState(**load_file(path)), [episode for episode, _ in drawn]), [q for _, q in drawn]


__all__ = ["encode_test_set", "test_recipe"]
