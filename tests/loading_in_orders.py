"""
Loads a saved folder after different first imports: run by `test_imports.py` in a process of its own.

Usage: python loading_in_orders.py FOLDER; a JSON object of imports and asked names on standard input. Each order is
tried in a fork of this process, which has imported none of what the order is about. Prints what each fork found.
"""

import importlib
import json
import os
import pickle
import sys
import traceback
from pathlib import Path

# What takes long and has no part in the question.
for name in ("torch._dynamo", "torchvision", "av", "PIL.Image", "huggingface_hub", "safetensors.torch"):
    importlib.import_module(name)


def load(imports: str, asked: list[str], folder: str) -> list[str]:
    """The classes that the Auto classes (or `pipeline`) give for the folder, in full."""
    exec(imports, {})
    found = []
    for name in asked:
        config = pickle.loads(Path(folder, "config.pickle").read_bytes()) if name == "pickled" else None
        transformers = importlib.import_module("transformers")
        if name == "pipeline":
            loaded = transformers.pipeline("video-qa", model=folder)
        elif name == "pickled":
            loaded = transformers.AutoModelForImageTextToText.from_config(config)
        elif name == "from_config":
            config = importlib.import_module("dynfocus.configuration_dynfocus").DynFocusConfig.from_pretrained(folder)
            loaded = transformers.AutoModel.from_config(config)
        else:
            loaded = getattr(transformers, name).from_pretrained(folder)
        found.append(f"{type(loaded).__module__}.{type(loaded).__name__}")
    return found


def main(folder: str) -> None:
    for name, (imports, asked) in json.load(sys.stdin).items():
        process = os.fork()
        if not process:
            try:
                found: object = load(imports, asked, folder)
            except BaseException:
                found = traceback.format_exc()
            print(json.dumps({name: found}), flush=True)
            os._exit(0)
        os.waitpid(process, 0)


if __name__ == "__main__":
    assert not {name.partition(".")[0] for name in sys.modules} & {"transformers", "dynfocus"}
    main(sys.argv[1])
