"""Tests whether a dual encoder matches texts such as "A red circle" with a few drawn shapes."""

import json
import math
import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from huggingface_hub import constants
from PIL import Image, ImageDraw

from ..states.fingerprint import settings_digest

if TYPE_CHECKING:
    from .dual_encoder import DualEncoder

# Written as users write, so that wrong handling of case is found. Some models read only Chinese.
_TEXTS = {
    "English": ["A red circle", "A blue square", "A green triangle", "A yellow star", "A black cross", "A pink ring"],
    "Chinese": ["红色的圆形", "蓝色的正方形", "绿色的三角形", "黄色的星形", "黑色的十字", "粉色的圆环"],
}
# Of six texts; an untrained model reaches this once in a thousand times.
_ENOUGH = 5
_SIDE = 224
# By fingerprint: how many texts found their drawing. Only good results are also kept on disk.
_FOUND: dict[str, int] = {}


def warn_unless_it_knows_shapes(encoder: "DualEncoder") -> None:
    """
    Warn, once in a process, about a dual encoder that does not match drawn shapes with their texts.

    Either its weights are untrained, or texts or pixels are not prepared as in training. The result is kept by
    fingerprint; a good one also in the cache folder of the Hub's client.
    """
    key = settings_digest([_TEXTS, encoder.fingerprint()])
    if key in _FOUND or key in _good_ones():
        return
    _FOUND[key] = shapes_found(encoder)
    if _FOUND[key] >= _ENOUGH:
        _remember(key)
        return
    warnings.warn(
        f"The dual encoder {encoder.name!r} found only {_FOUND[key]} of {len(drawings())} drawn shapes by texts such "
        "as 'A red circle': its weights are untrained, or its text or pixel settings are not those of its training, "
        "and it will choose frames badly.",
        stacklevel=3,
    )


def shapes_found(encoder: "DualEncoder") -> int:
    """How many texts fit their own drawing better than all others, in the language that the model reads better."""
    images = encoder.encode_images(drawings())
    right = []
    for texts in _TEXTS.values():
        best = (encoder.encode_texts(texts) @ images.T).argmax(-1)
        right.append(sum(place == number for number, place in enumerate(best.tolist())))
    return max(right)


def drawings() -> np.ndarray:
    """The shapes that the texts name, each in the middle of a white square: `(6, 224, 224, 3)` uint8."""
    near, far, middle = _SIDE // 4, _SIDE * 3 // 4, _SIDE / 2
    star = [
        (middle + radius * math.sin(math.pi * point / 5), middle - radius * math.cos(math.pi * point / 5))
        for point, radius in enumerate([_SIDE * 0.32, _SIDE * 0.13] * 5)
    ]
    pictures = [Image.new("RGB", (_SIDE, _SIDE), "white") for _ in range(6)]
    circle, square, triangle, five_points, cross, ring = (ImageDraw.Draw(picture) for picture in pictures)
    circle.ellipse((near, near, far, far), fill=(230, 20, 20))
    square.rectangle((near, near, far, far), fill=(20, 60, 230))
    triangle.polygon([(middle, near), (far, far), (near, far)], fill=(20, 160, 40))
    five_points.polygon(star, fill=(250, 210, 20))
    cross.rectangle((near, middle - _SIDE // 16, far, middle + _SIDE // 16), fill="black")
    cross.rectangle((middle - _SIDE // 16, near, middle + _SIDE // 16, far), fill="black")
    ring.ellipse((near, near, far, far), outline=(255, 105, 180), width=_SIDE // 14)
    return np.stack([np.asarray(picture) for picture in pictures])


def _file() -> Path:
    return Path(constants.HF_HOME) / "dynfocus" / "dual_encoders.json"


def _good_ones() -> list[str]:
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [key for key in found if isinstance(key, str)] if isinstance(found, list) else []


def _remember(key: str) -> None:
    """Store the result on disk if possible; otherwise the test runs again in the next process."""
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=_file().parent, delete=False, encoding="utf-8") as new:
            json.dump([*_good_ones(), key], new)
        os.replace(new.name, _file())
    except OSError:
        return


__all__ = ["drawings", "shapes_found", "warn_unless_it_knows_shapes"]
