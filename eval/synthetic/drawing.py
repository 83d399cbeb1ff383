"""Drawing of the synthetic world: textured grounds, anti-aliased shapes and numbers, all in numpy.

Everything is drawn from formulas and from the bitmap digits below, so no font is needed and the same arguments give
the same pixels. Lengths are fractions of the frame's side, so a scene looks the same at any size. Parts that do not
change from frame to frame (a texture, a coloured shape at a sub-pixel phase, a number) are drawn once and cached.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (228, 34, 40),
    "green": (38, 182, 62),
    "blue": (42, 92, 240),
    "yellow": (250, 222, 36),
    "purple": (158, 42, 208),
    "orange": (252, 134, 16),
    "cyan": (44, 216, 228),
    "white": (248, 248, 248),
}

SHAPE_DIAMETER = 0.66
"""Bounding diameter of a shape, as a fraction of the frame's side."""

DIGIT_CELL = 1 / 32
"""One cell of the 5x7 digits as a fraction of the frame's side: a digit is 10x14 pixels in a 64-pixel frame."""

DIGIT_PITCH = 6
"""Cells from one digit to the next."""

_SUPERSAMPLING = 4
_OUTLINE = np.array((16, 16, 22), dtype=np.float32)
NUMBER_OFFSET = {"triangle": 0.28, "heart": -0.12, "star": 0.04}
"""How far down the shape its number is, in radii: where it is wide enough for one."""

_GLYPHS = (
    ".###. #...# #..## #.#.# ##..# #...# .###.",
    "..#.. .##.. ..#.. ..#.. ..#.. ..#.. .###.",
    ".###. #...# ....# ...#. ..#.. .#... #####",
    ".###. #...# ....# ..##. ....# #...# .###.",
    "...#. ..##. .#.#. #..#. ##### ...#. ...#.",
    "##### #.... ####. ....# ....# #...# .###.",
    "..##. .#... #.... ####. #...# #...# .###.",
    "##### ....# ...#. ...#. ..#.. ..#.. ..#..",
    ".###. #...# #...# .###. #...# #...# .###.",
    ".###. #...# #...# .#### ....# ...#. .##..",
)
DIGITS = np.array([[[cell == "#" for cell in row] for row in glyph.split()] for glyph in _GLYPHS])
"""The ten digits, `(10, 7, 5)` bool."""


def polygon(points: list[tuple[float, float]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points lie inside a polygon, by the even-odd rule."""
    inside = np.zeros(x.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    corners = []
    for corner in range(10):
        radius, angle = (1.03 if corner % 2 == 0 else 0.53), np.pi * (corner / 5 - 0.5)
        corners.append((radius * float(np.cos(angle)), radius * float(np.sin(angle)) + 0.05))
    return polygon(corners, x, y)


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, v = 1.24 * x, -1.24 * y + 0.10
    return (u * u + v * v - 1.0) ** 3 - u * u * v**3 < 0


SILHOUETTES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda x, y: x * x + y * y < 0.86**2,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.76,
    "triangle": lambda x, y: polygon([(0.0, -0.96), (1.0, 0.80), (-1.0, 0.80)], x, y),
    "star": _star,
    "diamond": lambda x, y: abs(x) + abs(y) < 1.0,
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.38) & (np.maximum(abs(x), abs(y)) < 0.94),
    "heart": _heart,
    "ring": lambda x, y: (x * x + y * y < 0.92**2) & (x * x + y * y > 0.62**2),
}

"""Whether points `(x, y)` in radii about the centre, y downwards, lie inside a shape."""

SHAPES: tuple[str, ...] = tuple(SILHOUETTES)


def _fine_grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Supersampled pixel coordinates `(x, y)` about the centre of a sprite of `height` by `width` pixels."""
    y = (np.arange(height * _SUPERSAMPLING) + 0.5) / _SUPERSAMPLING - height / 2
    x = (np.arange(width * _SUPERSAMPLING) + 0.5) / _SUPERSAMPLING - width / 2
    return np.meshgrid(x, y)


def _coverage(mask: np.ndarray, phase: tuple[int, int]) -> np.ndarray:
    """Share of each pixel `(h, w, 1)` under a supersampled mask `(h * s, w * s)` moved by `phase` half pixels."""
    step = _SUPERSAMPLING // 2
    mask = np.roll(mask, (phase[1] * step, phase[0] * step), axis=(0, 1))
    height, width = mask.shape[0] // _SUPERSAMPLING, mask.shape[1] // _SUPERSAMPLING
    blocks = mask.reshape(height, _SUPERSAMPLING, width, _SUPERSAMPLING)
    return blocks.mean(axis=(1, 3), dtype=np.float32)[..., None]


@lru_cache(maxsize=64)
def _fine_shape(shape: str, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A shape's supersampled silhouette, the same without its outline, and its shading."""
    radius = SHAPE_DIAMETER * size / 2
    side = 2 * int(np.ceil(radius)) + 4
    x, y = (axis / radius for axis in _fine_grid(side, side))
    outer = SILHOUETTES[shape](x, y)
    # The outline is the area that is not covered by all moved copies of the silhouette, so every shape's is equally
    # thick.
    inner, width = outer.copy(), 1.6 / 64 * size * _SUPERSAMPLING
    for angle in np.arange(16) * np.pi / 8:
        inner &= np.roll(outer, (round(width * np.sin(angle)), round(width * np.cos(angle))), axis=(0, 1))
    return outer, inner, np.clip(1.0 - 0.10 * (y + 0.3 * x), 0.8, 1.1)


@lru_cache(maxsize=2048)
def shape_sprite(shape: str, color: str, size: int, phase: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A coloured shape with a dark outline: premultiplied colour `(h, w, 3)` and transparency `(h, w, 1)`."""
    outer, inner, shade = _fine_shape(shape, size)
    alpha, fill = _coverage(outer, phase), _coverage(inner, phase)
    lit = np.clip(np.asarray(COLORS[color], dtype=np.float32) * _coverage(shade, phase), 0, 255)
    pixels = fill * lit + (alpha - fill) * _OUTLINE
    return pixels.astype(np.float32), (1 - alpha).astype(np.float32)


@lru_cache(maxsize=2048)
def number_sprite(number: int, size: int, phase: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A number, white on a dark plate, in the form of `shape_sprite`."""
    cell, digits = DIGIT_CELL * size, [int(digit) for digit in str(number)]
    # In cells: a digit is 5 wide, and 1 lies between two and at either end.
    wide = DIGIT_PITCH * len(digits) + 1
    height, width = (2 * int(np.ceil(cells * cell / 2)) + 2 for cells in (8.6, wide - 0.4))
    x, y = (axis / cell for axis in _fine_grid(height, width))
    corner = 1.2
    over_x, over_y = np.maximum(abs(x) - (wide - 0.4) / 2 + corner, 0), np.maximum(abs(y) - 4.3 + corner, 0)
    plate = over_x**2 + over_y**2 < corner**2
    cells = np.zeros((9, wide), dtype=bool)
    for place, digit in enumerate(digits):
        cells[1:8, DIGIT_PITCH * place + 1 : DIGIT_PITCH * place + 6] = DIGITS[digit]
    row = np.clip(np.floor(y + 4.5).astype(int), 0, 8)
    column = np.clip(np.floor(x + wide / 2).astype(int), 0, wide - 1)
    ink, alpha = _coverage(cells[row, column] & plate, phase), _coverage(plate, phase)
    pixels = ink * np.float32(255) + (alpha - ink) * _OUTLINE
    return pixels.astype(np.float32), (1 - alpha).astype(np.float32)


def _paste(canvas: np.ndarray, sprite: tuple[np.ndarray, np.ndarray], left: int, top: int) -> None:
    pixels, through = sprite
    size, (height, width) = canvas.shape[0], through.shape[:2]
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + width, size), min(top + height, size)
    if x0 < x1 and y0 < y1:
        window = canvas[y0:y1, x0:x1]
        inside = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
        window *= through[inside]
        window += pixels[inside]


def _snap(centre: float, length: int) -> tuple[int, int]:
    """First pixel and half-pixel phase of a sprite of `length` pixels about `centre` (in pixels)."""
    half_pixels = round(2 * (centre - length / 2))
    return half_pixels // 2, half_pixels % 2


def draw_object(canvas: np.ndarray, shape: str, color: str, number: int, x: float, y: float) -> None:
    """Draws a numbered shape, centred at `(x, y)` in 0..1, on a float canvas `(size, size, 3)` in place."""
    size = canvas.shape[0]
    side = shape_sprite(shape, color, size, (0, 0))[1].shape[0]
    (left, phase_x), (top, phase_y) = _snap(x * size, side), _snap(y * size, side)
    _paste(canvas, shape_sprite(shape, color, size, (phase_x, phase_y)), left, top)
    height, width = number_sprite(number, size, (0, 0))[1].shape[:2]
    y += NUMBER_OFFSET.get(shape, 0.0) * SHAPE_DIAMETER / 2
    (left, phase_x), (top, phase_y) = _snap(x * size, width), _snap(y * size, height)
    _paste(canvas, number_sprite(number, size, (phase_x, phase_y)), left, top)


@lru_cache(maxsize=512)
def texture(index: int, size: int) -> np.ndarray:
    """A smooth seamless pattern `(size, size)` in -1..1, determined by `index` only."""
    rng = np.random.default_rng([8391, index])
    axis = (np.arange(size) + 0.5) * (2 * np.pi / size)
    x, y = np.meshgrid(axis, axis)

    def clouds(waves: int, highest: int) -> np.ndarray:
        field = np.zeros((size, size))
        for _ in range(waves):
            fx, fy = rng.integers(-highest, highest + 1, 2)
            length = max(float(np.hypot(fx, fy)), 1.0)
            field += np.cos(fx * x + fy * y + rng.uniform(0, 2 * np.pi)) / length
        return field / field.std().clip(1e-6)

    style = index % 3
    if style == 0:
        pattern = clouds(24, 7)
    elif style == 1:
        fx, fy = rng.integers(1, 6), rng.integers(-5, 6)
        pattern = 1.2 * np.cos(fx * x + fy * y + rng.uniform(0.6, 1.4) * clouds(10, 2))
    else:
        f, g = rng.integers(2, 8, 2)
        pattern = np.cos(f * x + 0.5 * clouds(6, 2)) + np.cos(g * y + 0.5 * clouds(6, 2))
    return np.clip(pattern / 2, -1, 1).astype(np.float32)


@lru_cache(maxsize=16)
def noise_bank(size: int) -> np.ndarray:
    """Sixteen frames of faint sensor noise, `(16, size, size, 1)` float32."""
    rng = np.random.default_rng([77, size])
    return np.round(rng.normal(0.0, 0.9, (16, size, size, 1))).astype(np.float32)


__all__ = [
    "COLORS",
    "DIGITS",
    "DIGIT_CELL",
    "DIGIT_PITCH",
    "NUMBER_OFFSET",
    "SHAPES",
    "SHAPE_DIAMETER",
    "SILHOUETTES",
    "draw_object",
    "noise_bank",
    "number_sprite",
    "polygon",
    "shape_sprite",
    "texture",
]
