"""Saved settings come with the code of the classes that read them."""

import importlib
import os
from typing import Any

# In a saved folder's own code, transformers copies the files beside it by itself.
_IN_PACKAGE = __name__.startswith("dynfocus.")


class SavedWithCode:
    """
    For configurations, models and processors: what `save_pretrained` writes loads by `trust_remote_code=True` where
    this package is not installed.
    """

    # What all kinds of `save_pretrained` end with, before what has changed in the folder is uploaded. Models save
    # their configuration.
    def to_json_file(self, json_file_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        super().to_json_file(json_file_path, *args, **kwargs)  # type: ignore[misc]
        if _IN_PACKAGE:
            importlib.import_module("dynfocus.hub.saving").add_code(json_file_path)

    @classmethod
    def register_for_auto_class(cls, *args: Any, **kwargs: Any) -> None:
        """Does nothing in the package: every save takes the code along without it."""
        if not _IN_PACKAGE:
            super().register_for_auto_class(*args, **kwargs)  # type: ignore[misc]


__all__ = ["SavedWithCode"]
