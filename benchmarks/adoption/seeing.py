"""
First stage: vision towers that read frames of several sizes, and several frames in one picture.

Towers of published models were trained on pictures of all sizes. The shared tower of `benchmarks/focus`, from which
these start, knows one object in frames of 64 pixels. Here it also sees small frames and panels of 2 x 2 frames, with
labels for each patch. In small frames and panels numbers are not among the labels: they are too small to be read.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import stock
import torch
from PIL import Image
from recipe.progress import learning_rate_at, load_progress, save_progress, take_step
from recipe.vision import IMAGE_SIZE, NAMES, PATCH_HEADS, as_pixels, degrade, patch_labels, reading_loss, tower_config
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SiglipVisionModel

from dynfocus.eval.synthetic.world import sample_single_frames

#: Shares of the pictures of a batch: frames of each side in pixels, and panels of 2 x 2 frames.
SHARES = {"qwen3_vl": {64: 0.5, 48: 0.15, 32: 0.15, 16: 0.1, "panels": 0.1}, "siglip": {64: 0.6, "panels": 0.4}}
_SHIFT = 3


def resized(frames: np.ndarray, side: int) -> np.ndarray:
    """Frames `(N, h, w, 3)` at `side` pixels, as image processors resize them."""
    small = [np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC)) for frame in frames]
    return np.stack(small)


def tiled(frames: np.ndarray) -> np.ndarray:
    """Panels `(N, 2 h, 2 w, 3)` of four frames each, in rows: `(4 N, h, w, 3)`."""
    count, height, width, _ = frames.shape
    grid = frames.reshape(count // 4, 2, 2, height, width, 3)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(count // 4, 2 * height, 2 * width, 3)


def frame_pool(
    out: Path, count: int, log: Callable[[str], None]
) -> tuple[dict[int, np.ndarray], dict[str, np.ndarray]]:
    """`count` training frames in each of the sizes, and their labels; kept in `out`."""
    path = out / f"frames-{count}.npz"
    if not path.exists():
        log(f"drawing {count} frames")
        rng = np.random.default_rng((41, count))
        frames, labels = sample_single_frames(rng, count, size=2 * IMAGE_SIZE)
        full = degrade(frames, rng)
        sizes = {str(side): full if side == IMAGE_SIZE else resized(full, side) for side in stock.SIDES}
        np.savez(path, **sizes, **labels)
    with np.load(path) as stored:
        return {side: stored[str(side)] for side in stock.SIDES}, {
            name: stored[name] for name in stored.files if not name.isdigit()
        }


class PatchHeads(nn.Module):
    """Linear heads that read each patch of a tower's output."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, count) for name, count in PATCH_HEADS.items()})
        self.centre = nn.Linear(width, 2)

    def forward(self, patches: Tensor) -> dict[str, Tensor]:
        return {**{name: head(patches) for name, head in self.heads.items()}, "centre": self.centre(patches)}


def in_windows(grid: Tensor) -> Tensor:
    """Patches `(N, side, side, …)` in the order of Qwen's towers, windows of 2 x 2: `(N, side², …)`."""
    count, side = grid.shape[:2]
    windows = grid.reshape(count, side // 2, 2, side // 2, 2, *grid.shape[3:]).transpose(2, 3)
    return windows.reshape(count, side * side, *grid.shape[3:])


def qwen_patches(first: Tensor, second: Tensor) -> Tensor:
    """Pairs of frames `(N, 3, S, S)` as the inputs of Qwen's tower: `(N · patches, 3 · 2 · 8 · 8)`."""
    pair = torch.stack([first, second], 1)
    side = pair.shape[-1] // stock.PATCH
    cut = pair.unflatten(-1, (side, stock.PATCH)).unflatten(-3, (side, stock.PATCH))
    # (N, 2, 3, rows, 8, columns, 8) -> (N, rows, columns, 3, 2, 8, 8)
    return in_windows(cut.permute(0, 3, 5, 2, 1, 4, 6)).flatten(0, 1).flatten(1)


def qwen_features(tower: Any, first: Tensor, second: Tensor) -> Tensor:
    """The tower's output before it merges patches, `(N, patches, D)`."""
    side = first.shape[-1] // stock.PATCH
    grid = torch.tensor([[1, side, side]]).expand(len(first), -1)
    patches = qwen_patches(first, second)
    return tower(patches, grid).last_hidden_state.unflatten(0, (len(first), side * side))


def labels_of(labels: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, Tensor]:
    return {name: torch.from_numpy(labels[name][rows]) for name in (*NAMES, "present", "x", "y")}


def small_labels(targets: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without numbers, which cannot be read."""
    hidden = {name: torch.full_like(targets[name], -100) for name in ("digit", "place")}
    return {**targets, **hidden}


def panel_labels(labels: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Labels of the patches of panels `(N, 64)`, and the centre of the object that a patch shows, `(N, 64, 2)`."""
    side = IMAGE_SIZE // stock.PATCH
    quarter = patch_labels(labels, side // 2)

    def tile(parts: Tensor) -> Tensor:
        grid = parts.reshape(-1, 2, 2, side // 2, side // 2, *parts.shape[2:]).transpose(2, 3)
        return grid.reshape(-1, side * side, *parts.shape[2:])

    targets = {name: tile(label) for name, label in quarter.items()}
    corner = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5], [0.5, 0.5]]).repeat(len(labels["x"]) // 4, 1)
    centre = torch.stack([labels["x"], labels["y"]], 1) / 2 + corner
    return small_labels(targets), tile(centre[:, None].expand(-1, (side // 2) ** 2, -1))


def moved(frames: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Frames moved by up to 3 pixels of 64, right and down."""
    most = _SHIFT * frames.shape[1] // IMAGE_SIZE
    padded = np.pad(frames, ((0, 0), (most, most), (most, most), (0, 0)), mode="reflect")
    side = frames.shape[1]
    out = np.empty_like(frames)
    for row, (right, down) in enumerate(np.rint(offsets * most).astype(int)):
        out[row] = padded[row, most - down : most - down + side, most - right : most - right + side]
    return out


def seeing_losses(
    kind: str,
    tower: Any,
    parts: nn.ModuleDict,
    pool: Any,
    labels: Any,
    teacher: Any,
    rng: np.random.Generator,
    size: int,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Losses of one batch: the labels of patches, and for Qwen3-VL the distance of its tokens from the teacher's."""
    losses: dict[str, Tensor] = {}
    hits: dict[str, float] = {}
    for form, share in SHARES[kind].items():
        count = max(4, round(size * share) // 4 * 4)
        rows = rng.integers(0, len(labels["x"]), count * (4 if form == "panels" else 1))
        found = labels_of(labels, rows)
        if form == "panels":
            pixels = as_pixels(tiled(pool[IMAGE_SIZE // 2][rows]))
            targets, centre = panel_labels(found)
            pair = pixels, pixels
        else:
            frames = pool[form][rows]
            # An object moves between the two frames of a pair by up to 1/20 of the frame's side.
            offsets = rng.uniform(-1, 1, (count, 2)) * (rng.random((count, 1)) < 0.7)
            pixels = as_pixels(frames)
            pair = pixels, as_pixels(moved(frames, offsets)) if kind == "qwen3_vl" else pixels
            side = form // stock.PATCH
            targets = patch_labels(found, side)
            if form < 48:
                targets = small_labels(targets)
            centre = torch.stack([found["x"], found["y"]], 1).float()[:, None].expand(-1, side * side, -1)
        side = pixels.shape[-1] // stock.PATCH
        if kind == "qwen3_vl":
            targets = {name: in_windows(label.unflatten(1, (side, side))) for name, label in targets.items()}
            centre = in_windows(centre.unflatten(1, (side, side)))
        with torch.autocast("cpu", torch.bfloat16):
            features = qwen_features(tower, *pair) if kind == "qwen3_vl" else tower(pixels).last_hidden_state
            outputs = parts["heads"](features)
            if kind == "qwen3_vl":
                tokens = tower.merger(features.flatten(0, 1)).unflatten(0, (count, -1)).float()
                wanted = _as_tokens(teacher, pixels)
                losses[f"tokens {form}"] = 2 * (tokens - wanted).square().sum(-1).mean() / teacher["scale"]
        reading = reading_loss(outputs, targets, centre)
        losses[f"reading {form}"] = reading * share
        for name in ("color", "digit"):
            told = targets[name] >= 0
            if told.any():
                hits[f"{name} {form}"] = (outputs[name].argmax(-1) == targets[name])[told].float().mean().item()
    return losses, hits


@torch.no_grad()
def _as_tokens(teacher: dict[str, Any], pixels: Tensor) -> Tensor:
    """What the shared projector makes of the shared tower's patches, at the grid of Qwen's tokens `(N, n, H)`."""
    side = pixels.shape[-1] // (stock.PATCH * stock.MERGE)
    full = F.interpolate(pixels, (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", align_corners=False)
    patches = teacher["tower"](full).last_hidden_state.transpose(1, 2).unflatten(2, (8, 8))
    cells = F.adaptive_avg_pool2d(patches.float(), 4).flatten(2).transpose(1, 2)
    tokens = teacher["projector"](cells).float().transpose(1, 2).unflatten(2, (4, 4))
    return F.adaptive_avg_pool2d(tokens, side).flatten(2).transpose(1, 2)


def train_tower(
    kind: str, tower: Any, out: Path, *, steps: int, size: int, pool_size: int, log: Callable[[str], None]
) -> None:
    """Train `tower` in place; a checkpoint in `out` is continued, or taken if it is finished."""
    partial = out / "tower.partial"
    torch.manual_seed(1)
    parts = nn.ModuleDict({"tower": tower, "heads": PatchHeads(tower_config().hidden_size)})
    rates = [{"params": parts["heads"].parameters(), "rate": 3.0}]
    merger = [value for name, value in tower.named_parameters() if name.startswith("merger")]
    rates.append({"params": merger, "rate": 3.0})
    rates.append({"params": [v for n, v in tower.named_parameters() if not n.startswith("merger")], "rate": 1.0})
    optimizer = torch.optim.AdamW(rates, lr=6e-4, weight_decay=0.02, betas=(0.9, 0.98))
    step = load_progress(partial, parts, [optimizer], "cpu")
    if step >= steps:
        return
    teacher = shared_teacher()
    pool, labels = frame_pool(out.parent, pool_size, log)
    started, window = time.monotonic(), {}
    tower.train()
    while step < steps:
        rng = np.random.default_rng((7, step))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, steps, 6e-4, max(1, steps // 20)) * group["rate"]
        losses, hits = seeing_losses(kind, tower, parts, pool, labels, teacher, rng, size)
        take_step(losses.values(), parts.parameters(), [optimizer])
        step += 1
        for name, value in [*hits.items(), *((n, v.item()) for n, v in losses.items() if n.startswith("tokens"))]:
            window.setdefault(name, []).append(value)
        if step % 50 == 0 or step == steps:
            shown = " ".join(f"{name} {np.mean(values):.3f}" for name, values in window.items())
            log(f"{kind} tower step {step}/{steps} {shown} ({time.monotonic() - started:.0f} s)")
            window = {}
        if step % 100 == 0 or step == steps:
            save_progress(partial, parts, [optimizer], step)
    tower.eval()


def shared_teacher() -> dict[str, Any]:
    """The shared tower and projector, and the mean square of the projector's tokens."""
    from dynfocus.encoding.cooperative_encoding import VisualProjector

    tower = SiglipVisionModel(tower_config()).eval()
    tower.load_state_dict(stock.shared_weights("model.vision_tower.backbone."))
    projector = VisualProjector(tower_config().hidden_size, 160, "gelu").eval()
    projector.load_state_dict(stock.shared_weights("model.cooperative_encoder.projector."))
    frames, _ = sample_single_frames(np.random.default_rng(5), 64, size=IMAGE_SIZE)
    found: dict[str, Any] = {"tower": tower, "projector": projector}
    found["scale"] = _as_tokens(found, as_pixels(frames)).square().sum(-1).mean()
    return found


def start_projector(model: Any, hidden: Tensor, steps: int = 300) -> None:
    """
    Train LLaVA-OneVision's projector to give what the shared projector gives. Stock LLaVA-OneVision takes the output
    of the tower's last layer before the final norm; the shared projector was trained on that after it.
    """
    projector, tower = model.model.multi_modal_projector, model.model.vision_tower
    target = shared_teacher()["projector"]
    flat = hidden.flatten(0, -2)
    optimizer = torch.optim.AdamW(projector.parameters(), lr=3e-3, weight_decay=0.0)
    for step in range(steps):
        rows = torch.from_numpy(np.random.default_rng((19, step)).integers(0, len(flat), 2048))
        patches = flat[rows].float()
        with torch.no_grad():
            wanted = target(tower.post_layernorm(patches))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, steps, 3e-3, 20)
        loss = (projector(patches) - wanted).square().sum(-1).mean() / wanted.square().sum(-1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    print(f"projector: {loss.item():.3f} of the tokens' square is missed", flush=True)
