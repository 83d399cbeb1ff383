"""The settings with which a stock model was trained, in a file of their own beside it."""

import json
import os
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

SETTINGS_FILE = "focus_config.json"
#: Arguments of [`FocusProcessor`] in it, beside `dual_encoder` and `rule`.
SAVED = (
    "fps",
    "max_visual_tokens",
    "tokens_per_key_frame",
    "tokens_per_coarse_frame",
    "coarse",
    "coarse_per_key_frame",
    "num_key_frames",
    "time_words",
)


def saved_settings(name: str | os.PathLike[str], revision: str | None = None) -> dict[str, Any]:
    """
    The settings of a [`FocusProcessor`] that were saved with a model; empty for a model without any.

    Args:
        name: Hub id or folder of the model.
        revision: on the Hub.

    Raises:
        `ValueError`: the file is damaged.
    """
    name = os.fspath(name)
    if os.path.isdir(name):
        path: str | None = os.path.join(name, SETTINGS_FILE)
    elif name.count("/") == 1 and not name.startswith((".", "/", "~")):
        path = cached_file(
            name,
            SETTINGS_FILE,
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    else:
        path = None
    if path is None or not os.path.isfile(path):
        return {}
    try:
        settings = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{SETTINGS_FILE} of {name} is not a JSON file: save the model again.") from error
    if not isinstance(settings, dict) or (unknown := sorted(settings.keys() - {"dual_encoder", "rule", *SAVED})):
        what = f"has unknown settings {', '.join(unknown)}" if isinstance(settings, dict) else "is not a JSON object"
        raise ValueError(f"{SETTINGS_FILE} of {name} {what}: it was saved by another version, or changed.")
    return settings


__all__ = ["SAVED", "SETTINGS_FILE", "saved_settings"]
