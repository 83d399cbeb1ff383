"""Saved settings come with the code of the classes that read them."""

import importlib
import os
from typing import Any


class SavedWithCode:
    """
    For configurations and processors: what `save_pretrained` writes loads by `trust_remote_code=True` where this
    package is not installed. Models save their configuration, so they need nothing of their own.
    """

    # What all kinds of `save_pretrained` end with, before what has changed in the folder is uploaded.
    def to_json_file(self, json_file_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        super().to_json_file(json_file_path, *args, **kwargs)  # type: ignore[misc]
        # In a saved folder's own code, transformers copies the files beside it by itself.
        if __name__.startswith("dynfocus."):
            importlib.import_module("dynfocus.hub.saving").add_code(json_file_path)


__all__ = ["SavedWithCode"]
