"""Saves settings together with the code of the classes that read them."""

import importlib
import json
import os
from pathlib import Path
from typing import Any

# In code that was loaded from a saved folder, transformers copies the files beside it by itself.
_IN_PACKAGE = __name__.startswith("dynfocus.")


class SavedWithCode:
    """
    For configurations, models and processors: folders from `save_pretrained` load with `trust_remote_code=True` where
    this package is not installed.
    """

    # Every kind of `save_pretrained` ends with this call, before the folder's changes are uploaded. Models save their
    # configuration.
    def to_json_file(self, json_file_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        super().to_json_file(json_file_path, *args, **kwargs)  # type: ignore[misc]
        if _IN_PACKAGE:
            importlib.import_module("dynfocus.hub.saving").add_code(json_file_path)
        path = Path(json_file_path)
        if path.name == "processor_config.json":
            # vLLM finds the class of the video processor in a file of its own only.
            settings = json.loads(path.read_text(encoding="utf-8"))["video_processor"]
            if "auto_map" in settings:
                settings["auto_map"].pop("AutoProcessor", None)
            text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
            path.with_name("video_preprocessor_config.json").write_text(text, encoding="utf-8")

    @classmethod
    def register_for_auto_class(cls, *args: Any, **kwargs: Any) -> None:
        """Does nothing in the package: every save includes the code anyway."""
        if not _IN_PACKAGE:
            super().register_for_auto_class(*args, **kwargs)  # type: ignore[misc]


__all__ = ["SavedWithCode"]
