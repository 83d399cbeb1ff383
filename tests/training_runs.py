"""A small training run, made on the spot: eight videos, a question and an answer for each, a model, a recipe."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tiny import make_tiny_processor
from tiny_models import tiny_model
from videos import write_video

QUESTION = "which number is shown?"
ANSWERS = ["47", "12", "red", "blue", "star", "heart", "9", "yellow"]


def write_rows(folder: Path, num_videos: int = 8) -> Path:
    """`rows.jsonl` with a question on each of so many videos of 3 to 6 frames, which lie beside it."""
    rng = np.random.default_rng(0)
    colors = np.array([[(i & 1) * 255, (i >> 1 & 1) * 255, (i >> 2 & 1) * 255] for i in range(8)], dtype=np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(num_videos):
        frames = np.empty((3 + number % 4, 32, 32, 3), dtype=np.uint8)
        frames[:] = 255 - colors[number % 8]
        # One event of the color that tells the videos apart, somewhere in the middle.
        frames[1 : 1 + 1 + number % 2] = colors[number % 8] // 2 + rng.integers(0, 64, 3, dtype=np.uint8)
        write_video(folder / f"{number}.mp4", frames, fps=1.0)
        rows.append({"video": f"{number}.mp4", "question": QUESTION, "answer": ANSWERS[number % len(ANSWERS)]})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def save_start(folder: Path, preset: str = "default") -> Path:
    """A tiny random model, with all that belongs to it."""
    model = tiny_model(preset)
    keeps_rods = model.config.rods_on_key_frames
    model.save_pretrained(folder)
    make_tiny_processor(num_prototypes=4, key_ratio=0.5, rods_on_key_frames=keeps_rods).save_pretrained(folder)
    return folder


def recipe_settings(start: str | Path, rows: str | Path, output_dir: Path, **training: Any) -> dict[str, Any]:
    """A recipe that learns `rows` by heart; `training` are fields of `TrainingArguments`."""
    return {
        "model": {"checkpoint": str(start)},
        "data": {"train": str(rows)},
        "training": {
            "output_dir": str(output_dir),
            "use_cpu": True,
            "max_steps": 8,
            "per_device_train_batch_size": 4,
            "learning_rate": 2e-3,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
            "disable_tqdm": True,
            "seed": 7,
            **training,
        },
    }


def write_recipe(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def losses(output_dir: Path) -> list[float]:
    """Of each step of a finished run."""
    state = json.loads((output_dir / "trainer_state.json").read_text(encoding="utf-8"))
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]
