"""Stage 1 of the tiny recipe: train the vision tower on single frames to name what they show."""

import io
import math
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

from dynfocus.eval.synthetic.world import COLORS, SHAPES, sample_single_frames

from .progress import learning_rate_at, load_progress, save_progress

IMAGE_SIZE = 64
#: What a frame shows, by the number of possibilities; and whether it shows anything.
NAMES = {"color": len(COLORS), "shape": len(SHAPES), "tens": 10, "ones": 10}
LABELS = {**NAMES, "present": 2}


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
    """Frames `(N, H, W, 3)` uint8 as the model sees them, `(N, 3, H, W)` in -1…1."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1


def degrade(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Halve the size as the video processor does; JPEG before that, for every other frame, stands in for H.264."""
    small = np.empty((len(frames), IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    for row, frame in enumerate(frames):
        image = Image.fromarray(frame)
        if rng.random() < 0.5:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=int(rng.integers(35, 90)))
            image = Image.open(buffer)
        small[row] = np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR))
    return small


def make_frames(seed: int, count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labelled training frames of 64×64 pixels."""
    rng = np.random.default_rng(seed)
    frames, labels = sample_single_frames(rng, count, size=2 * IMAGE_SIZE)
    return degrade(frames, rng), labels


class FrameReader(nn.Module):
    """The tower under heads that read its patches, and again their means in 4×4 cells, as the cones will see them."""

    def __init__(self):
        super().__init__()
        config = tower_config()
        self.tower = SiglipVisionModel(config)
        self.queries = nn.Parameter(0.02 * torch.randn(len(LABELS) + 1, config.hidden_size))
        self.keys = nn.Linear(config.hidden_size, config.hidden_size)
        self.heads = nn.ModuleDict({name: nn.Linear(config.hidden_size, count) for name, count in LABELS.items()})
        self.place = nn.Linear(config.hidden_size, 2)

    def forward(self, pixels: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        """Answers of the heads from the patches and from the cells."""
        patches = self.tower(pixel_values=pixels).last_hidden_state
        side = math.isqrt(patches.shape[1])
        cells = F.adaptive_avg_pool2d(patches.transpose(1, 2).unflatten(2, (side, side)), 4).flatten(2).transpose(1, 2)
        return [self.read(patches), self.read(cells)]

    def read(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        attention = (self.queries @ self.keys(tokens).transpose(1, 2) * tokens.shape[-1] ** -0.5).softmax(-1)
        seen = attention @ tokens
        outputs = {name: head(seen[:, index]) for index, (name, head) in enumerate(self.heads.items())}
        outputs["place"] = self.place(seen[:, -1])
        return outputs


def reading_loss(
    outputs: dict[str, torch.Tensor], targets: dict[str, torch.Tensor], place: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of every head, and the distance of the place where something is present."""
    losses = [F.cross_entropy(outputs[name].float(), targets[name], ignore_index=-100) for name in LABELS]
    distance = (outputs["place"].float() - place).abs().sum(1) * targets["present"]
    return torch.stack(losses).sum() + 5 * distance.mean()


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
        steps, batch_size: of AdamW at 1e-3 with warm-up and cosine decay.
        pool: frames drawn in all; each is seen at many small offsets.
    """
    finished, partial = out / "vision.safetensors", out / "vision.partial"
    torch.manual_seed(seed)
    reader = FrameReader().to(device)
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
        targets = {name: torch.from_numpy(labels[name][rows]).to(device) for name in LABELS}
        place = torch.from_numpy(np.stack([x, y], 1)).float().to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            answers = reader(as_pixels(moved).to(device))
        loss = torch.stack([reading_loss(outputs, targets, place) for outputs in answers]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        step += 1
        present = targets["present"].bool()
        hits.append([(answers[1][name].argmax(1) == targets[name])[present].float().mean().item() for name in LABELS])
        if step % 100 == 0:
            mean = np.mean(hits[-100:], axis=0)
            shown = " ".join(f"{name} {value:.3f}" for name, value in zip(LABELS, mean, strict=True))
            log(f"vision step {step}/{steps} loss {loss.item():.3f} {shown} ({time.monotonic() - started:.0f} s)")
        if step % 500 == 0:
            save_progress(partial, reader, [optimizer], step)
    save_file(reader.state_dict(), finished)
    partial.unlink(missing_ok=True)
    return reader.tower


def _pool(out: Path, seed: int, count: int, log: Callable[[str], None]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Training frames, drawn by all cores in blocks and kept in `out`."""
    path = out / "frames.npz"
    if not path.exists():
        log(f"drawing {count} frames")
        block = 2000
        seeds = range(seed * 10_000, seed * 10_000 + count // block)
        with ProcessPoolExecutor() as workers:
            parts = list(workers.map(make_frames, seeds, [block] * len(seeds)))
        labels: dict[str, Any] = {name: np.concatenate([part[1][name] for part in parts]) for name in parts[0][1]}
        np.savez(path, frames=np.concatenate([part[0] for part in parts]), **labels)
    with np.load(path) as stored:
        return stored["frames"], {name: stored[name] for name in stored.files if name != "frames"}


__all__ = ["FrameReader", "IMAGE_SIZE", "NAMES", "as_pixels", "degrade", "tower_config", "train_vision"]
