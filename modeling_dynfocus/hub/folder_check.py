"""What can be known of a model's folder before anything is built from it: its files, and the sizes that they claim."""

import json
import os
import re
import stat
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

# The largest tokenizers have some ten MB.
_MOST_JSON_BYTES = 1 << 28
_MOST_HEADER_BYTES = 100 << 20
_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
# What is read of a folder; others may lie beside it.
_READ = re.compile(r"(config|tokenizer|special_tokens_map|chat_template|\.index)\.json$|\.jinja$|\.safetensors$")
_LAYERS = re.compile(r"^(num_.*layers|n_layers?|depth|depths|layers)$")
_WIDTHS = re.compile(r"(^|_)(hidden_size|intermediate_size|vocab_size|embed_dim|hidden_dim|d_model|ffn_dim|width)$")
# Without layers a model would answer, and leave out its weights.
_AT_LEAST_ONE = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth")
_HEADS = re.compile(r"^(num_.*heads|n_heads?)$")
_LEAST_TENSORS, _LEAST_BITS = 256, 1 << 26
_LARGEST_PICTURE = 1 << 14


def check_folder(folder: str | os.PathLike) -> None:
    """
    Raises:
        `ValueError`: a file that is none (a folder, a pipe, a link to itself), is no JSON or larger than any that is
            needed, weights that are not where the index says, or a configuration of a model that is far larger than
            the weights in the folder.
    """
    folder = Path(folder)
    contents = {}
    for path in sorted(folder.iterdir()):
        if not _READ.search(path.name):
            continue
        size = _size(path)
        if path.suffix == ".json":
            if size > _MOST_JSON_BYTES:
                raise ValueError(f"{folder}: its {path.name} has {size:,} bytes, more than any such file needs.")
            contents[path.name] = _parsed(path)
    weights = _weights(folder, contents.get(_INDEX))
    config = contents.get("config.json")
    if weights and isinstance(config, Mapping):
        found = {path.name: _header(path) for path in weights}
        if _WHOLE not in found:
            _check_index(folder, contents[_INDEX]["weight_map"], {name: names for name, (names, _) in found.items()})
        tensors = sum(len(names) for names, _ in found.values())
        bits = sum(size for _, size in found.values())
        # Of a few weights or none it is said later which are not there.
        for reason in _too_large(config, max(tensors, _LEAST_TENSORS), max(bits, _LEAST_BITS)):
            raise ValueError(f"{folder}: in its config.json, {reason}, but its weights have {bits // 8:,} bytes.")


def bits_of_weights(folder: str | os.PathLike) -> int:
    """Bits of the weights in a folder that was checked; at least as many as a small model has."""
    folder = Path(folder)
    index = folder / _INDEX
    weights = _weights(folder, _parsed(index) if index.is_file() else None)
    return max(sum(_header(path)[1] for path in weights), _LEAST_BITS)


def _size(path: Path) -> int:
    try:
        status = path.stat()
    except OSError as error:
        raise ValueError(
            f"{path.parent}: its {path.name} cannot be read: {error.strerror or type(error).__name__}."
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path.parent}: its {path.name} is a folder, a pipe or a device, not a file.")
    return status.st_size


def _parsed(path: Path) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path.parent}: its {path.name} is nested too deeply.") from None
    except OSError as error:
        raise ValueError(
            f"{path.parent}: its {path.name} cannot be read: {error.strerror or type(error).__name__}."
        ) from None
    except ValueError as error:
        what = "UTF-8" if isinstance(error, UnicodeDecodeError) else "JSON"
        raise ValueError(
            f"{path.parent}: its {path.name} is not valid {what}: save or download the model again."
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.parent}: its {path.name} must hold a JSON object, got {type(content).__name__}.")
    return content


def _weights(folder: Path, index: Any) -> list[Path]:
    """The files with the weights; none where there are none in this form."""
    # transformers reads the one file where there are both.
    if (folder / _WHOLE).exists():
        return [folder / _WHOLE]
    if index is None:
        return []
    names = index.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{folder}: its {_INDEX} has no `weight_map` of the weights.")
    files = []
    for name in dict.fromkeys(value if isinstance(value, str) else repr(value) for value in names.values()):
        if os.path.basename(name) != name or not name.endswith(".safetensors"):
            raise ValueError(
                f"{folder}: its {_INDEX} names {name[:100]!r}, which is no safetensors file of this folder."
            )
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder}: its {_INDEX} names {name[:100]!r}, which is not there: download the model again."
            )
        files.append(folder / name)
    return files


def _check_index(folder: Path, index: Mapping[str, Any], found: Mapping[str, Collection[str]]) -> None:
    """Raises a `ValueError` unless each weight is in the one file that the index names."""
    places: dict[str, str] = {}
    for file, names in found.items():
        for name in names:
            if name in places:
                raise ValueError(
                    f"{folder}: {name[:200]} is in {places[name]} and in {file}, and it is not clear which of them is "
                    "meant: download the model again."
                )
            places[name] = file
    for name, file in index.items():
        if places.get(name) != file:
            where = f"it is in {places[name]}" if name in places else "it is not there"
            raise ValueError(
                f"{folder}: its {_INDEX} says that {name[:200]} is in {file[:100]}, but {where}: download the model "
                "again."
            )
    if left_out := sorted(places.keys() - index.keys()):
        raise ValueError(
            f"{folder}: its {_INDEX} leaves out {left_out[0][:200]}, which is in {places[left_out[0]]}: download the "
            "model again."
        )


def _header(path: Path) -> tuple[Collection[str], int]:
    """Names of the tensors in a file of weights, and its bits."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
        if not 2 <= length <= min(size - 8, _MOST_HEADER_BYTES):
            raise ValueError(
                f"{path.parent}: its {path.name} is damaged or cut off: save or download the model again."
            )
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise ValueError(f"{path.parent}: its {path.name} is damaged: save or download the model again.") from None
    if not isinstance(header, dict):
        raise ValueError(f"{path.parent}: its {path.name} is damaged: save or download the model again.")
    return header.keys() - {"__metadata__"}, 8 * (size - 8 - length)


def _too_large(config: Mapping[str, Any], tensors: int, bits: int) -> Iterator[str]:
    """What a configuration asks for that so many tensors and bits cannot hold: a weight takes a bit at least."""

    def number(name: str) -> int:
        value = config.get(name)
        return value if isinstance(value, int) else 0

    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _too_large(value, tensors, bits)
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        if _LAYERS.match(name) and value > tensors:
            yield f"`{name}` is {value:,}"
        if name in _AT_LEAST_ONE and value < 1:
            yield f"`{name}` is {value:,}"
        if name in ("patch_size", "num_position_embeddings"):
            area = value * value if name == "patch_size" else value
            if area * max(1, number("hidden_size")) > bits:
                yield f"`{name}` is {value:,}"
        if _WIDTHS.search(name) and value * max(1, number("hidden_size") * (name != "hidden_size")) > bits:
            yield f"`{name}` is {value:,}"
        if _HEADS.match(name) and value * max(1, number("head_dim")) * max(1, number("hidden_size")) > bits:
            yield f"`{name}` is {value:,}"
        if name in ("image_size", "num_question_queries") and value > min(_LARGEST_PICTURE, bits):
            yield f"`{name}` is {value:,}"
        # Positions of other models may be computed; those of this one are learned.
        if name == "max_position_embeddings" and config.get("model_type") == "instructblip_qformer":
            if value * number("hidden_size") > bits:
                yield f"`{name}` is {value:,}"


__all__ = ["bits_of_weights", "check_folder"]
