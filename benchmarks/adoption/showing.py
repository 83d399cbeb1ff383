"""
Prompts of stock models about training videos, from kept outputs of their towers: the same inputs of the language model
as the stock processor and model give, without decoding and encoding a video again for each chat.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import stock
import torch
from recipe.data import VideoSet
from recipe.vision import IMAGE_SIZE, as_pixels, degrade
from safetensors.torch import load_file, save_file
from seeing import qwen_features, resized, tiled
from torch import Tensor

from dynfocus.eval.synthetic.world import Episode, render

#: The second frame of a pair comes half a second later: Qwen's processor takes two frames a second.
PAIR_SECONDS = 0.5
PANEL_FRAMES = 4


@dataclass(frozen=True)
class Entry:
    """A frame, a pair of frames or a panel of a prompt: its place in the kept outputs, and its size or form."""

    place: int
    form: str

    @property
    def frames(self) -> range:
        """The seconds of the video that it shows."""
        return (
            range(PANEL_FRAMES * self.place, PANEL_FRAMES * (self.place + 1))
            if self.form == "panels"
            else range(self.place, self.place + 1)
        )


@dataclass
class SeenVideos:
    """The tower's outputs for a set of videos by form, `(V, places, patches, D)`, and the videos' events."""

    outputs: dict[str, Tensor]
    episodes: list[Episode]


@torch.no_grad()
def see_videos(kind: str, tower: Any, videos: VideoSet, path: Path, log: Callable[[str], None]) -> SeenVideos:
    """Render, compress and encode videos; the result is kept in `path`."""
    episodes = [videos.episode(index) for index in range(videos.count)]
    if not path.exists():
        parts: dict[str, list[Tensor]] = {}
        started = time.monotonic()
        for index, episode in enumerate(episodes):
            rng = np.random.default_rng((videos.seed, index, 1))
            seconds = np.arange(videos.num_frames)
            first = degrade(render(episode, 2 * IMAGE_SIZE, seconds), rng)
            with torch.autocast("cpu", torch.bfloat16):
                if kind == "qwen3_vl":
                    second = degrade(render(episode, 2 * IMAGE_SIZE, seconds + PAIR_SECONDS), rng)
                    found = {
                        str(side): qwen_features(tower, *(as_pixels(resized(f, side)) for f in (first, second)))
                        for side in stock.SIDES
                    }
                else:
                    panels = as_pixels(tiled(resized(first, IMAGE_SIZE // 2)))
                    forms = {"64": as_pixels(first), "panels": panels}
                    found = {
                        form: tower(pixels, output_hidden_states=True).hidden_states[-1]
                        for form, pixels in forms.items()
                    }
            for form, output in found.items():
                parts.setdefault(form, []).append(output.to(torch.float16))
            if index % 100 == 0:
                seconds = time.monotonic() - started
                log(f"{kind}: seen {index}/{videos.count} videos of {videos.num_frames} s ({seconds:.0f} s)")
        save_file({form: torch.stack(outputs) for form, outputs in parts.items()}, path)
    return SeenVideos(load_file(path), episodes)


@dataclass
class Prompts:
    """
    The start of B prompts, up to the video's end, as tokens.

    Args:
        ids: tokens of each prompt.
        second_of_token: for each token the second of the video that its frame shows first, -1 for text.
        first_of_entry: for each token the first token of its entry, for text itself.
    """

    ids: list[list[int]]
    second_of_token: list[list[int]]
    first_of_entry: list[list[int]]


class Qwen3VLPrompts:
    """Prompts of Qwen3-VL: each pair of frames between marks, after its time."""

    kind = "qwen3_vl"
    longest_position = 6500

    def __init__(self, model: Any, processor: Any):
        self.model, self.tokenizer = model, processor.tokenizer

        def ids(text: str) -> list[int]:
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]

        self.before, self.start = ids("<|im_start|>user\n"), ids(stock.VISION_START)
        self.end, self.pad = ids(stock.VISION_END), ids(stock.VIDEO)
        self.after: list[int] = []
        self._ids = ids

    @staticmethod
    def tokens_of(form: str) -> int:
        return (int(form) // (stock.PATCH * stock.MERGE)) ** 2

    def write(self, rows: Sequence[Sequence[Entry]]) -> Prompts:
        prompts = Prompts([], [], [])
        for entries in rows:
            ids = self.before + self.start
            seconds, firsts = [-1] * len(ids), list(range(len(ids)))
            for entry in entries:
                time_words = self._ids(f"<{entry.place + PAIR_SECONDS / 2:.1f} seconds>") + self.start
                firsts += range(len(ids), len(ids) + len(time_words))
                seconds += [-1] * len(time_words)
                ids = ids + time_words
                count = self.tokens_of(entry.form)
                firsts += [len(ids)] * count + [len(ids) + count]
                seconds += [entry.place] * count + [-1]
                ids = ids + self.pad * count + self.end
            firsts.append(len(ids))
            prompts.ids.append(ids + self.end)
            prompts.second_of_token.append(seconds + [-1])
            prompts.first_of_entry.append(firsts)
        return prompts

    def visual(self, seen: SeenVideos, videos: Sequence[int], rows: Sequence[Sequence[Entry]]) -> Tensor:
        """The visual tokens of all rows, one after another, `(n, H)`."""
        order = [(video, entry) for video, entries in zip(videos, rows, strict=True) for entry in entries]
        places = np.cumsum([0, *(self.tokens_of(entry.form) for _, entry in order)])
        tokens: Tensor | None = None
        for form in sorted({entry.form for _, entry in order}):
            chosen = [index for index, (_, entry) in enumerate(order) if entry.form == form]
            where = torch.tensor([[order[index][0], order[index][1].place] for index in chosen])
            hidden = seen.outputs[form][where[:, 0], where[:, 1]].float()
            merged = self.model.model.visual.merger(hidden.flatten(0, 1))
            if tokens is None:
                tokens = merged.new_zeros(int(places[-1]), merged.shape[-1])
            count = self.tokens_of(form)
            index = torch.from_numpy(places[chosen])[:, None] + torch.arange(count)
            tokens = tokens.index_put((index.flatten(),), merged)
        assert tokens is not None
        return tokens

    def positions(self, ids: Tensor, mask: Tensor, rows: Sequence[Sequence[Entry]]) -> Tensor:
        """Stock positions, `(3, B, L)`."""
        sides = [int(entry.form) // stock.PATCH for entries in rows for entry in entries]
        grid = torch.tensor([[1, side, side] for side in sides])
        kinds = 2 * (ids == self.pad[0]).int()
        return self.model.model.get_rope_index(ids, kinds, video_grid_thw=grid, attention_mask=mask)[0]


class LlavaOnevisionPrompts:
    """Prompts of LLaVA-OneVision: the tokens of all frames in a row, then one that ends the video."""

    kind = "llava_onevision"
    longest_position = 9000
    _TOKENS = 16

    def __init__(self, model: Any, processor: Any):
        self.model, self.tokenizer = model, processor.tokenizer
        tokens = (self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("<|im_start|>user\n", "\n"))
        self.before, self.after = tokens
        self.pad = [self.tokenizer.convert_tokens_to_ids(stock.VIDEO)]

    def write(self, rows: Sequence[Sequence[Entry]]) -> Prompts:
        prompts = Prompts([], [], [])
        for entries in rows:
            ids = self.before + self.pad * (self._TOKENS * len(entries) + 1) + self.after
            seconds = [second for entry in entries for second in self._seconds(entry)]
            prompts.ids.append(ids)
            prompts.second_of_token.append([-1] * len(self.before) + seconds + [-1] * (1 + len(self.after)))
            prompts.first_of_entry.append(list(range(len(ids))))
        return prompts

    def _seconds(self, entry: Entry) -> list[int]:
        if entry.form != "panels":
            return [entry.place] * self._TOKENS
        # Quarters of the panel, 2 x 2 tokens each.
        return [entry.frames[2 * (row // 2) + column // 2] for row in range(4) for column in range(4)]

    def visual(self, seen: SeenVideos, videos: Sequence[int], rows: Sequence[Sequence[Entry]]) -> Tensor:
        hidden = torch.stack(
            [
                seen.outputs[entry.form][video, entry.place].float()
                for video, entries in zip(videos, rows, strict=True)
                for entry in entries
            ]
        )
        inner = self.model.model
        # Frames of empty ground are projected like all others, in one call for the batch.
        tokens = inner.apply_pooling(inner.multi_modal_projector(hidden))
        newline = inner.image_newline[None]
        parts = tokens.split([len(entries) for entries in rows])
        return torch.cat([torch.cat([part.flatten(0, 1), newline.to(part.dtype)]) for part in parts])

    def positions(self, ids: Tensor, mask: Tensor, rows: Sequence[Sequence[Entry]]) -> Tensor:
        return torch.arange(ids.shape[1]).expand(1, *ids.shape)


def spread(rng: np.random.Generator, positions: Tensor, prompts: Prompts, longest: int) -> Tensor:
    """`positions` `(…, B, L)` with random gaps before entries, as if videos were longer; without for a quarter."""
    if rng.random() < 0.25:
        return positions
    positions = positions.clone()
    for row, firsts in enumerate(prompts.first_of_entry):
        room = longest - int(positions[:, row].max())
        starts = sorted(
            {first for first, second in zip(firsts, prompts.second_of_token[row], strict=True) if second >= 0}
        )
        if room < 2 or not starts:
            continue
        total = int(np.exp(rng.uniform(0, np.log(room))))
        places = rng.choice(starts, size=int(rng.integers(1, 9)))
        for place, gap in zip(places, rng.multinomial(total, rng.dirichlet(np.ones(len(places)))), strict=True):
            positions[:, row, int(place) :] += int(gap)
    return positions


PROMPTS = {"qwen3_vl": Qwen3VLPrompts, "llava_onevision": LlavaOnevisionPrompts}
__all__ = ["PROMPTS", "Entry", "Prompts", "SeenVideos", "see_videos", "spread"]
