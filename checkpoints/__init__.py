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


def is_embedded(name: str | None) -> bool:
    """Whether a model's name, or none, means the model that comes with the package. A local folder goes first."""
    return name is None or (name == DEFAULT_MODEL and not Path(name).exists())


def find_model(name: str | None) -> str:
    """What to load for the name of a model: its folder if it comes with the package, otherwise the name as it is."""
    return str(embedded_model()) if name is None or is_embedded(name) else name


__all__ = ["DEFAULT_MODEL", "embedded_model", "find_model", "is_embedded"]
