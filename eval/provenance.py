"""The settings in run.json that produced a run's numbers: model, data, settings and versions."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dynfocus.checkpoints import find_model

from .benchmarks.base import Question

if TYPE_CHECKING:
    from .run import EvalSettings

_PACKAGES = ("dynfocus", "transformers", "torch", "torchvision", "datasets", "av", "decord", "numpy")
_WEIGHTS = ("*.safetensors", "*.bin", "*config.json")


def run_settings(
    settings: "EvalSettings", pipe: Any, questions: Sequence[Question], source: dict[str, Any], num_processes: int
) -> dict[str, Any]:
    """The content of run.json. It holds no keys or tokens, because settings have none."""
    benchmark, video_qa = settings.benchmark, pipe.video_qa
    record, defaults = video_qa.record(), video_qa.defaults
    return {
        "benchmark": benchmark.name,
        "about": {
            "title": benchmark.title,
            "url": benchmark.url,
            "dataset": benchmark.dataset,
            "local": benchmark.local,
            "groups": list(benchmark.groups),
            "published": dict(benchmark.published),
            "notes": benchmark.notes,
        },
        "options": dict(benchmark.options),
        "model": {
            "id": settings.model_name,
            "revision": record["revision"],
            # Of a server's model, the name is all that is known.
            "weights": weights_hash(find_model(settings.model)) if settings.server is None else None,
        },
        "data": source,
        "num_questions": len(questions),
        "limit": settings.limit,
        "sampling": {
            name: _first(getattr(settings, name), defaults[name])
            for name in ("fps", "max_frames", "max_visual_tokens")
        },
        "choice": video_qa.description(settings.rule, questions[0].question or questions[0].prompt),
        "prompts": {
            "example": questions[0].prompt,
            "hash": prompts_hash(questions),
            "chat_template_hash": text_hash(record["chat_template"]),
        },
        "generation": dict(benchmark.generation),
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "dtype": record["dtype"],
        "device": pipe.device.type,
        "versions": package_versions(),
        "device_name": _device_name(pipe.device),
        "num_processes": num_processes,
        "videos": settings.videos,
        "judge": settings.judge,
        "command": settings.command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def prompts_hash(questions: Sequence[Question]) -> str:
    """Hash of all prompts and right answers, in order."""
    asked = [
        [one.id, one.video, one.prompt, one.question, one.options, one.reference, one.subtitles] for one in questions
    ]
    return text_hash(json.dumps(asked, ensure_ascii=False))


def weights_hash(model: str) -> str | None:
    """
    Hash of a local model's weights and all its configurations (`generation_config.json`, the processor's, …); `None`
    for a model on the Hub, which is identified by its commit.
    """
    folder = Path(model)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _WEIGHTS for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that results may depend on."""
    return {name: found for name in _PACKAGES if (found := _version(name)) is not None}


def text_hash(text: str) -> str:
    """Hash of a text."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _first(given: Any, default: Any) -> Any:
    return default if given is None else given


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


__all__ = ["package_versions", "prompts_hash", "run_settings", "text_hash", "weights_hash"]
