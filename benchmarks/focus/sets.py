"""The test sets of the comparison: video files, decoded and encoded like those of users."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from recipe.data import FeatureSet, encode_pixels
from safetensors.torch import load_file, save_file

from dynfocus.eval.synthetic.builder import Recipe, make_recipe, synthesize
from dynfocus.eval.synthetic.questions import Question
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.processing import DynFocusProcessor
from dynfocus.states.video_state import VideoState

sys.path.append(str(Path(__file__).parents[1]))
from measuring import locked

TEST_SEED = 301


def test_recipe(num_frames: int, seed: int = TEST_SEED) -> Recipe:
    return make_recipe(seed, num_frames)


def features_of_test(work: Path, num_frames: int) -> Path:
    return work / f"test{num_frames}.safetensors"


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
    path = features_of_test(work, num_frames)
    # Several processes may share the folder.
    with locked(work / "locks" / path.stem):
        if not path.exists():
            folder = work / f"test{num_frames}"
            log(f"writing {count} videos of {num_frames} s to {folder}")
            synthesize(folder, recipe.seed, count, num_frames, recipe.split)
            parts: dict[str, list[torch.Tensor]] = {}
            for index in range(count):
                inputs: Any = processor.video_processor(folder / f"videos/{index:06d}.mp4", return_tensors="pt")
                for name, features in encode_pixels(model, inputs["pixel_values_videos"]).items():
                    parts.setdefault(name, []).append(features)
            part = path.with_suffix(".part")
            save_file({name: torch.cat(tensors) for name, tensors in parts.items()}, part)
            part.replace(path)
    return FeatureSet(VideoState(**load_file(path)), [episode for episode, _ in drawn]), [q for _, q in drawn]


__all__ = ["encode_test_set", "features_of_test", "test_recipe"]
