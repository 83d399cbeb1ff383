"""Stage 1 of the tiny recipe: train the vision tower on single frames, patch by patch, to name their content."""

import io
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import SiglipVisionConfig, SiglipVisionModel

from dynfocus.eval.synthetic.drawing import DIGIT_CELL, DIGIT_PITCH, NUMBER_OFFSET, SHAPE_DIAMETER
from dynfocus.eval.synthetic.world import COLORS, DIGIT_PLACES, NUM_DIGITS, SHAPES, sample_single_frames

from .progress import learning_rate_at, load_progress, save_progress, take_step

IMAGE_SIZE = 64
#: Labels of a frame, with their numbers of classes.
NAMES = {"color": len(COLORS), "shape": len(SHAPES), **dict.fromkeys(DIGIT_PLACES, 10)}
#: Labels of a patch: color and shape of its object, and the digit and its place, if there is one.
PATCH_HEADS = {"color": len(COLORS), "shape": len(SHAPES), "digit": 10, "place": NUM_DIGITS + 1, "object": 2}
#: Radius of the patches that lie on an object, as a part of the frame's side.
OBJECT_RADIUS = 0.42 * SHAPE_DIAMETER


def tower_config() -> SiglipVisionConfig:
    """A SigLIP encoder of 0.8 M parameters: 8×8 patches of 8 pixels, 4 layers, 128 wide."""
    return SiglipVisionConfig(
        image_size=IMAGE_SIZE,
        patch_size=8,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        vision_use_head=False,
    )


def as_pixels(frames: np.ndarray) -> torch.Tensor:
    """Frames `(N, H, W, 3)` uint8 as inputs of the model, `(N, 3, H, W)` in -1…1."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1


def draw_qualities(rng: np.random.Generator, count: int) -> list[int | None]:
    """The JPEG quality of each of `count` frames, or `None` for those that are not compressed."""
    return [int(rng.integers(35, 90)) if rng.random() < 0.5 else None for _ in range(count)]


def degrade(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """
    Halve the size like the video processor; before that, every other frame is compressed as JPEG, in place of H.264.
    """
    small = np.empty((len(frames), IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    for row, (frame, quality) in enumerate(zip(frames, draw_qualities(rng, len(frames)), strict=True)):
        image = Image.fromarray(frame)
        if quality is not None:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality)
            image = Image.open(buffer)
        small[row] = np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR))
    return small


def make_frames(seed: int, count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labelled training frames of 64×64 pixels."""
    rng = np.random.default_rng(seed)
    frames, labels = sample_single_frames(rng, count, size=2 * IMAGE_SIZE)
    return degrade(frames, rng), labels


class PatchReader(nn.Module):
    """
    The tower with heads that classify each patch separately, so that patches carry their content as in large towers.
    """

    def __init__(self):
        super().__init__()
        config = tower_config()
        self.tower = SiglipVisionModel(config)
        self.heads = nn.ModuleDict({name: nn.Linear(config.hidden_size, count) for name, count in PATCH_HEADS.items()})
        self.centre = nn.Linear(config.hidden_size, 2)

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits `(N, P, …)` of each head; `centre`: place of the object's centre, in 0…1."""
        patches = self.tower(pixel_values=pixels).last_hidden_state
        return {**{name: head(patches) for name, head in self.heads.items()}, "centre": self.centre(patches)}


def patch_labels(labels: dict[str, torch.Tensor], side: int = 8) -> dict[str, torch.Tensor]:
    """Labels of frames `(N,)` as labels of their patches, `(N, side²)` each; -100 if there is nothing to read."""
    axis = (torch.arange(side, device=labels["x"].device) + 0.5) / side
    down, right = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
    x, y = labels["x"][:, None], labels["y"][:, None]
    present = labels["present"].bool()[:, None]
    on_object = ((right - x).square() + (down - y).square() < OBJECT_RADIUS**2) & present
    offsets = torch.tensor([NUMBER_OFFSET.get(shape, 0.0) for shape in SHAPES], device=x.device) * SHAPE_DIAMETER / 2
    number_y = y + offsets[labels["shape"].clamp(min=0)][:, None]
    pitch = DIGIT_PITCH * DIGIT_CELL
    place = ((right - x) / pitch + NUM_DIGITS / 2).floor().long()
    on_digit = (place >= 0) & (place < NUM_DIGITS) & ((down - number_y).abs() < 4 * DIGIT_CELL) & present
    digits = torch.stack([labels[name] for name in DIGIT_PLACES], 1)
    return {
        "color": labels["color"][:, None].where(on_object, -100),
        "shape": labels["shape"][:, None].where(on_object, -100),
        "digit": digits.gather(1, place.clamp(0, NUM_DIGITS - 1)).where(on_digit, -100),
        "place": (place + 1).where(on_digit, 0),
        "object": on_object.long(),
    }


def reading_loss(
    outputs: dict[str, torch.Tensor], targets: dict[str, torch.Tensor], centre: torch.Tensor
) -> torch.Tensor:
    """
    Cross-entropy of every head with labels, and the distance of the patches' estimates from the centre of the object,
    `(N, 1, 2)`, or of that of each patch, `(N, P, 2)`.
    """
    losses = [
        F.cross_entropy(outputs[name].float().flatten(0, 1), targets[name].flatten(), ignore_index=-100)
        for name in PATCH_HEADS
        if (targets[name] >= 0).any()
    ]
    distance = (outputs["centre"].float() - centre).abs().sum(-1) * targets["object"]
    return torch.stack(losses).sum() + 5 * distance.sum() / targets["object"].sum().clamp(min=1)


def shifted(frames: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.Generator, most: int = 3):
    """The same frames moved by up to `most` pixels, so that a finite set of frames is seen at all offsets."""
    padded = np.pad(frames, ((0, 0), (most, most), (most, most), (0, 0)), mode="reflect")
    moved = np.empty_like(frames)
    offsets = rng.integers(0, 2 * most + 1, (len(frames), 2))
    for row, (top, left) in enumerate(offsets):
        moved[row] = padded[row, top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]
    return moved, x + (most - offsets[:, 1]) / IMAGE_SIZE, y + (most - offsets[:, 0]) / IMAGE_SIZE


def train_vision(
    out: Path, *, steps: int, batch_size: int, pool: int, seed: int, device: str, log: Callable[[str], None]
) -> SiglipVisionModel:
    """
    Train the tower and save it to `out/vision.safetensors`; a finished file is loaded instead, a checkpoint continued.

    Args:
        steps, batch_size: for AdamW at 1e-3 with warm-up and cosine decay.
        pool: number of different frames; each is used at many small offsets.
    """
    finished, partial = out / "vision.safetensors", out / "vision.partial"
    torch.manual_seed(seed)
    reader = PatchReader().to(device)
    if finished.exists():
        reader.load_state_dict(load_file(finished, device=device))
        return reader.tower
    peak = 1e-3
    optimizer = torch.optim.AdamW(reader.parameters(), lr=peak, weight_decay=0.05, betas=(0.9, 0.98))
    warm_up = max(steps // 20, 1)
    step = load_progress(partial, reader, [optimizer], device)
    frames, labels = _pool(out, seed, pool, log)
    started, hits = time.monotonic(), []
    while step < steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, steps, peak, warm_up)
        rng = np.random.default_rng((seed, step))
        rows = rng.integers(0, len(frames), batch_size)
        moved, x, y = shifted(frames[rows], labels["x"][rows], labels["y"][rows], rng)
        drawn = {name: torch.from_numpy(labels[name][rows]).to(device) for name in (*NAMES, "present")}
        centre = torch.from_numpy(np.stack([x, y], 1)).float().to(device)
        targets = patch_labels({**drawn, "x": centre[:, 0], "y": centre[:, 1]})
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            outputs = reader(as_pixels(moved).to(device))
        loss = reading_loss(outputs, targets, centre[:, None])
        take_step([loss], reader.parameters(), [optimizer])
        step += 1
        hits.append(
            [
                (outputs[name].argmax(-1) == targets[name])[targets[name] >= 0].float().mean().item()
                for name in PATCH_HEADS
            ]
        )
        if step % 100 == 0:
            mean = np.mean(hits[-100:], axis=0)
            shown = " ".join(f"{name} {value:.3f}" for name, value in zip(PATCH_HEADS, mean, strict=True))
            log(f"vision step {step}/{steps} loss {loss.item():.3f} {shown} ({time.monotonic() - started:.0f} s)")
        if step % 500 == 0:
            save_progress(partial, reader, [optimizer], step)
    save_file(reader.state_dict(), finished)
    partial.unlink(missing_ok=True)
    return reader.tower


def _pool(out: Path, seed: int, count: int, log: Callable[[str], None]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Training frames, drawn by all cores in blocks and cached in `out`."""
    path = out / "frames.npz"
    if not path.exists():
        log(f"drawing {count} frames")
        block = min(2000, count)
        seeds = range(seed * 10_000, seed * 10_000 + count // block)
        with ProcessPoolExecutor() as workers:
            parts = list(workers.map(make_frames, seeds, [block] * len(seeds)))
        labels: dict[str, Any] = {name: np.concatenate([part[1][name] for part in parts]) for name in parts[0][1]}
        np.savez(path, frames=np.concatenate([part[0] for part in parts]), **labels)
    with np.load(path) as stored:
        return stored["frames"], {name: stored[name] for name in stored.files if name != "frames"}


__all__ = [
    "IMAGE_SIZE",
    "NAMES",
    "NUM_DIGITS",
    "PatchReader",
    "as_pixels",
    "degrade",
    "draw_qualities",
    "tower_config",
    "train_vision",
]
