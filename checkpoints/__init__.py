"""The model that comes with the package."""

from importlib import resources
from pathlib import Path

DEFAULT_MODEL = "dynfocus-tiny"


def embedded_model() -> Path:
    """The folder of the model that comes with the package. Raises `FileNotFoundError` where it was left out."""
    folder = Path(str(resources.files("dynfocus.checkpoints"))) / DEFAULT_MODEL
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"This installation holds no default model ({folder} is missing): name one with --model."
        )
    return folder


__all__ = ["DEFAULT_MODEL", "embedded_model"]
