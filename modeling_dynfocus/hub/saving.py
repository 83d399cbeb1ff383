"""
Adds to a saved folder what it needs to load without this package: all code as flat files, and the names of its
classes.
"""

import functools
import json
import os
from pathlib import Path
from typing import Any

from .flatten import flatten

_PACKAGE = "dynfocus"
_CONFIG = "configuration_dynfocus"
_MODEL = "modeling_dynfocus"
_PROCESSOR = "processing_dynfocus"
_VIDEO_PROCESSOR = "video_processing_dynfocus"
_PIPELINE = "pipeline_video_qa"
_ENTRIES = (
    f"{_PACKAGE}.{_CONFIG}",
    f"{_PACKAGE}.{_MODEL}",
    f"{_PACKAGE}.processing.{_PROCESSOR}",
    f"{_PACKAGE}.processing.{_VIDEO_PROCESSOR}",
    f"{_PACKAGE}.processing.{_PIPELINE}",
    # Not loaded by an Auto class, but needed for training without the package: `collator.DynFocusCollator`.
    f"{_PACKAGE}.processing.rows.collator",
)
_PROCESSOR_CLASS = {"AutoProcessor": f"{_PROCESSOR}.DynFocusProcessor"}
_VIDEO_PROCESSOR_CLASS = {"AutoVideoProcessor": f"{_VIDEO_PROCESSOR}.DynFocusVideoProcessor"}
#: The entries in settings files that name the code beside them.
_NAMED: dict[str, dict[str, Any]] = {
    "config.json": {
        "auto_map": {
            "AutoConfig": f"{_CONFIG}.DynFocusConfig",
            "AutoModel": f"{_MODEL}.DynFocusModel",
            "AutoModelForImageTextToText": f"{_MODEL}.DynFocusForConditionalGeneration",
            "AutoModelForMultimodalLM": f"{_MODEL}.DynFocusForConditionalGeneration",
            **_PROCESSOR_CLASS,
            **_VIDEO_PROCESSOR_CLASS,
        },
        "custom_pipelines": {
            "video-qa": {
                "impl": f"{_PIPELINE}.VideoQAPipeline",
                "pt": ["AutoModelForImageTextToText"],
                "type": "multimodal",
            }
        },
    },
    "processor_config.json": {
        "auto_map": _PROCESSOR_CLASS,
        "video_processor": {"auto_map": {**_PROCESSOR_CLASS, **_VIDEO_PROCESSOR_CLASS}},
    },
    "video_preprocessor_config.json": {"auto_map": _VIDEO_PROCESSOR_CLASS},
}
# When a process without the package saves again, transformers copies the files that the saved class's file imports.
_MENTION = f"""

if False:  # never runs: makes transformers save the pipeline's file with the processor
    from .{_PIPELINE} import VideoQAPipeline  # noqa: F401
"""


@functools.cache
def code_files() -> dict[str, str]:
    """Texts of all files that a saved folder needs, by their names."""
    files = flatten(_PACKAGE, _ENTRIES)
    files[f"{_PROCESSOR}.py"] += _MENTION
    return files


def add_code(settings_file: str | os.PathLike[str]) -> None:
    """
    Write all code beside a saved settings file, and name the classes in it.

    Args:
        settings_file: the `config.json`, `processor_config.json` or `video_preprocessor_config.json` of a saved
            folder; a file of another name is not changed.
    """
    path = Path(settings_file)
    if path.name not in _NAMED:
        return
    settings = json.loads(path.read_text(encoding="utf-8"))
    for name, value in _NAMED[path.name].items():
        # Replaced as a whole, except the entry of the video processor, whose settings are in this file as well.
        settings[name] = {**settings[name], **value} if name == "video_processor" else value
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name, text in code_files().items():
        (path.parent / name).write_text(text, encoding="utf-8")


__all__ = ["add_code", "code_files"]
