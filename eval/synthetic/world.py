"""The synthetic world: videos with known answers to all questions.

A video is an `Episode`: *events*, separated by stretches in which nothing happens. An event is one coloured shape that
carries a number, lasts a few seconds and moves in one direction or stands still. Between events the textured
ground is empty, and may have changed. Time is counted in seconds and a model
samples one frame a second, so frame `t` shows the world at time `t`; `render` also takes times in between, for a file
in which motion is smooth.

Within an episode the pair (color, shape) and the number of each object are unique. An object may return in a later
event. Training videos have other textures than test videos, and never a pair of `HELD_OUT`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .drawing import COLORS, SHAPE_DIAMETER, SHAPES, draw_object, noise_bank, texture

MOTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "nowhere": (0, 0),
}
"""Name of a motion and its direction (x to the right, y downwards)."""

SPLITS = ("train", "test")
DIGIT_PLACES = ("hundreds", "tens", "ones")
NUM_DIGITS = len(DIGIT_PLACES)
_SMALLEST_NUMBER = 10 ** (NUM_DIGITS - 1)
EVENT_SECONDS = (2, 4)
"""Shortest and longest event, where there is room for all."""
REPEAT_PROBABILITY = 0.15
"""How often an event shows an object that was there before, and not just before."""
_COLOR_NAMES = tuple(COLORS)
_MOTION_NAMES = tuple(MOTIONS)
_TEXTURES = {"train": (0, 48), "test": (1000, 1024)}

HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    (_COLOR_NAMES[(3 * index + 1) % len(_COLOR_NAMES)], shape)
    for index, shape in enumerate(SHAPES)
    if index not in (3, 6)
)
"""Pairs (color, shape) that training never shows: 6 of 64, each color and each shape at most once."""

MARGIN = SHAPE_DIAMETER / 2 + 0.005
"""A centre keeps this distance from the frame's border, so that no shape is cut."""


@dataclass(frozen=True)
class Event:
    """A numbered shape, seen at times `start <= t < visible_end`.

    Args:
        start, end (`int`): seconds; it moves during `start <= t < end`.
        shape, color, motion (`str`): keys of `SHAPES`, `COLORS` and `MOTIONS`.
        number (`int`): a number of three digits.
        x, y (`float`): centre at `start`, in 0..1.
        speed (`float`): distance per second, as a fraction of the frame's side; 0 for the motion "nowhere".
        hold (`int`, *optional*, defaults to 0): seconds for which it stays in place after `end`.
    """

    start: int
    end: int
    shape: str
    color: str
    number: int
    motion: str
    x: float
    y: float
    speed: float
    hold: int = 0

    @property
    def visible_end(self) -> int:
        return self.end + self.hold

    @property
    def name(self) -> str:
        """Its name in questions, such as "red star"."""
        return f"{self.color} {self.shape}"

    @property
    def frames(self) -> range:
        """The sampled frames that show it."""
        return range(self.start, self.visible_end)

    def position(self, time: float) -> tuple[float, float]:
        way = self.speed * (min(max(time, self.start), self.end) - self.start)
        dx, dy = MOTIONS[self.motion]
        return self.x + dx * way, self.y + dy * way


@dataclass(frozen=True)
class Ground:
    """A textured ground, seen from time `start` on: base colour, and how strongly the pattern changes it, both RGB."""

    start: int
    texture: int
    base: tuple[float, float, float]
    tint: tuple[float, float, float]
    shift: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Episode:
    """A whole video; `seed` determines only the sensor noise."""

    num_frames: int
    events: tuple[Event, ...]
    grounds: tuple[Ground, ...]
    seed: int = 0
    split: str = "test"

    def event_at(self, time: float) -> int | None:
        """Index of the event seen at `time`, `None` if the ground is empty."""
        for index, event in enumerate(self.events):
            if event.start <= time < event.visible_end:
                return index
        return None

    def ground_at(self, time: float) -> Ground:
        return [ground for ground in self.grounds if ground.start <= max(time, 0)][-1]


class FrameTruth(NamedTuple):
    """The true content of one rendered frame."""

    color: str
    shape: str
    number: int
    x: float
    y: float


def truth_table(episode: Episode) -> list[FrameTruth | None]:
    """The content of each sampled frame (`None`: empty ground), for checking answers."""
    table: list[FrameTruth | None] = []
    for time in range(episode.num_frames):
        index = episode.event_at(time)
        if index is None:
            table.append(None)
        else:
            event = episode.events[index]
            table.append(FrameTruth(event.color, event.shape, event.number, *event.position(time)))
    return table


def plural(shape: str) -> str:
    """`"stars"` for `"star"`, as questions name several of a shape."""
    return f"{shape}es" if shape == "cross" else f"{shape}s"


@lru_cache
def pairs(split: str) -> tuple[tuple[str, str], ...]:
    """The pairs (color, shape) that a split may show."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}.")
    every = ((color, shape) for color in COLORS for shape in SHAPES)
    return tuple(pair for pair in every if split == "test" or pair not in HELD_OUT)


def _sample_ground(rng: np.random.Generator, split: str, start: int = 0) -> Ground:
    draws = rng.random(11)
    first, last = _TEXTURES[split]
    index = first + int(draws[0] * (last - first))
    # Grayish and never bright, so that each of the colors stands out.
    grey, contrast = 45 + 75 * draws[1], 10 + 20 * draws[2]
    base = [float(grey + 40 * (draw - 0.5)) for draw in draws[3:6]]
    tint = [float(contrast * (0.7 + 0.6 * draw)) for draw in draws[6:9]]
    return Ground(
        start, index, (base[0], base[1], base[2]), (tint[0], tint[1], tint[2]), (float(draws[9]), float(draws[10]))
    )


def _sample_pairs(rng: np.random.Generator, split: str, count: int) -> list[tuple[str, str]]:
    """Unique pairs; about half share their color or shape with an earlier one, as distractors."""
    free = list(pairs(split))
    if count > len(free):
        raise ValueError(f"num_events is {count}, but split {split!r} has only {len(free)} pairs of color and shape.")
    chosen: list[tuple[str, str]] = []
    while len(chosen) < count:
        candidates = free
        if chosen and rng.random() < 0.5:
            color, shape = chosen[int(rng.integers(len(chosen)))]
            candidates = [pair for pair in free if pair[0] == color or pair[1] == shape] or free
        pair = candidates[int(rng.integers(len(candidates)))]
        free.remove(pair)
        chosen.append(pair)
    return [chosen[index] for index in rng.permutation(count)]


def _with_repeats(rng: np.random.Generator, count: int) -> list[int]:
    """The object of each event: a new one, or an earlier one; never the same twice in a row."""
    objects: list[int] = []
    for index in range(count):
        earlier = sorted(set(objects[:-1]) - set(objects[-1:]))
        if earlier and rng.random() < REPEAT_PROBABILITY:
            index = earlier[int(rng.integers(len(earlier)))]
        objects.append(index)
    return objects


def _sample_durations(rng: np.random.Generator, num_frames: int, count: int) -> np.ndarray:
    """Seconds of each event, shortened if needed to leave a second of empty ground between events."""
    durations = rng.integers(EVENT_SECONDS[0], EVENT_SECONDS[1] + 1, count)
    while durations.sum() + count - 1 > num_frames:
        durations[durations.argmax()] -= 1
    return durations


def events_for(num_frames: int) -> tuple[int, int]:
    """Fewest and most events of a video by default: 5 to 10 in 32 seconds, 10 to 20 in 128, 20 to 40 in 512."""
    root = math.sqrt(num_frames)
    return max(1, round(0.9 * root)), max(1, round(1.76 * root))


def sample_episode(
    rng: np.random.Generator, num_frames: int = 32, split: str = "train", num_events: tuple[int, int] | None = None
) -> Episode:
    """Draw an episode: short events with long empty stretches between them; some events show an object again.

    Args:
        rng (`np.random.Generator`): source of all randomness.
        num_frames (`int`, *optional*, defaults to 32): length in seconds, which is the number of sampled frames.
        split (`str`, *optional*, defaults to `"train"`): `"train"` or `"test"`; determines textures and pairs.
        num_events (`tuple[int, int]`, *optional*): fewest and most events, by default from `events_for`; fewer if the
            video is too short for them.
    """
    lowest, highest = num_events or events_for(num_frames)
    if not 1 <= lowest <= highest:
        raise ValueError(f"num_events must be (fewest, most) with 1 <= fewest <= most, not {num_events}.")
    room = (num_frames + 1) // (EVENT_SECONDS[0] + 1)
    if room < 1:
        raise ValueError(f"num_frames is {num_frames}, too short for an event of {EVENT_SECONDS[0]} s; raise it.")
    count = int(rng.integers(min(lowest, room), min(highest, room) + 1))
    named = _sample_pairs(rng, split, count)
    numbers = _SMALLEST_NUMBER + rng.permutation(9 * _SMALLEST_NUMBER)[:count]
    objects = _with_repeats(rng, count)
    named, numbers = [named[index] for index in objects], numbers[objects]
    durations = _sample_durations(rng, num_frames, count)

    # The remaining seconds are distributed over the gaps before, between and after the events.
    spare = num_frames - int(durations.sum()) - (count - 1)
    gaps = rng.multinomial(spare, rng.dirichlet(np.full(count + 1, 1.5)))
    gaps[1:count] += 1

    events, grounds, time = [], [_sample_ground(rng, split)], int(gaps[0])
    for index, (color, shape) in enumerate(named):
        duration, gap = int(durations[index]), int(gaps[index + 1])
        if gap >= 2:
            rng.random()  # not used, but drawn so that the videos of a seed do not change
        motion = _MOTION_NAMES[int(rng.integers(len(_MOTION_NAMES)))]
        x, y, speed = _sample_path(rng, motion, duration)
        events.append(Event(time, time + duration, shape, color, int(numbers[index]), motion, x, y, speed))
        time += duration
        if gap >= 1 and index + 1 < count and rng.random() < 0.35:
            grounds.append(_sample_ground(rng, split, time))
        time += gap
    return Episode(num_frames, tuple(events), tuple(grounds), int(rng.integers(2**31)), split)


def _sample_path(rng: np.random.Generator, motion: str, duration: int) -> tuple[float, float, float]:
    """Start and speed of an event, such that it never leaves the frame."""
    dx, dy = MOTIONS[motion]
    space = 1 - 2 * MARGIN
    speed = 0.0
    if dx or dy:
        fastest = max(min(0.10, space / duration), 0.005)
        speed = float(rng.uniform(min(0.06, 0.85 * fastest), fastest))
    way = speed * duration
    draws = rng.random(2)
    x, y = (
        MARGIN + max(-direction * way, 0.0) + draw * (space - abs(direction) * way)
        for direction, draw in zip((dx, dy), draws, strict=True)
    )
    return float(x), float(y), speed


def _ground_image(ground: Ground, size: int) -> np.ndarray:
    pattern = texture(ground.texture, size)
    shift = int(ground.shift[1] * size), int(ground.shift[0] * size)
    pattern = np.roll(pattern, shift, axis=(0, 1))
    base, tint = np.asarray(ground.base, dtype=np.float32), np.asarray(ground.tint, dtype=np.float32)
    return base + pattern[..., None] * tint


_cached_ground_image = lru_cache(maxsize=64)(_ground_image)


def _finish(canvas: np.ndarray, noise: int) -> np.ndarray:
    canvas += noise_bank(canvas.shape[0])[noise % 16]
    return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)


def _check_size(size: int) -> None:
    if size < 32:
        raise ValueError(f"size is {size}, but a number cannot be read in a frame below 32 pixels; use 64 or more.")


def render_frame(episode: Episode, time: float, size: int = 128) -> np.ndarray:
    """The world at `time` (seconds) as `(size, size, 3)` uint8."""
    _check_size(size)
    canvas = _cached_ground_image(episode.ground_at(time), size).copy()
    index = episode.event_at(time)
    if index is not None:
        event = episode.events[index]
        draw_object(canvas, event.shape, event.color, event.number, *event.position(time))
    # One noise image a second, so that files stay small.
    return _finish(canvas, (episode.seed + 7919 * int(time)) >> 3)


def render(episode: Episode, size: int = 128, frames: Sequence[float] | np.ndarray | None = None) -> np.ndarray:
    """The sampled frames as `(T, size, size, 3)` uint8; `frames` picks frames or times, all frames by default."""
    times = range(episode.num_frames) if frames is None else frames
    output = np.empty((len(times), size, size, 3), dtype=np.uint8)
    for row, time in enumerate(times):
        output[row] = render_frame(episode, float(time), size)
    return output


def sample_single_frames(
    rng: np.random.Generator, n: int, size: int = 64, split: str = "train", empty: float = 0.15
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draw labelled frames for pretraining a vision tower.

    Returns:
        Frames `(n, size, size, 3)` uint8 and labels, each `(n,)`: `shape` (index in `SHAPES`), `color` (index in
        `COLORS`), the digits (`DIGIT_PLACES`), `present` (1, or 0 for a share `empty` of frames with ground only), all
        int64, and `x`, `y` (the centre in 0..1, float32). If `present` is 0, the other integers are -100, which
        cross-entropy ignores, and `x`, `y` are 0.
    """
    _check_size(size)
    frames = np.empty((n, size, size, 3), dtype=np.uint8)
    labels = {name: np.full(n, -100, dtype=np.int64) for name in ("shape", "color", *DIGIT_PLACES)}
    labels["present"] = (rng.random(n) >= empty).astype(np.int64)
    labels |= {name: np.zeros(n, dtype=np.float32) for name in ("x", "y")}
    possible = pairs(split)
    chosen, numbers = (
        rng.integers(len(possible), size=n),
        rng.integers(_SMALLEST_NUMBER, 10 * _SMALLEST_NUMBER, size=n),
    )
    centres, noise = rng.uniform(MARGIN, 1 - MARGIN, (n, 2)), rng.integers(16, size=n)
    for row in range(n):
        canvas = _ground_image(_sample_ground(rng, split), size)
        if labels["present"][row]:
            color, shape = possible[chosen[row]]
            number, (x, y) = int(numbers[row]), centres[row]
            draw_object(canvas, shape, color, number, float(x), float(y))
            labels["shape"][row], labels["color"][row] = SHAPES.index(shape), _COLOR_NAMES.index(color)
            for place, digit in zip(DIGIT_PLACES, str(number), strict=True):
                labels[place][row] = int(digit)
            labels["x"][row], labels["y"][row] = x, y
        frames[row] = _finish(canvas, int(noise[row]))
    return frames, labels


def example_episode() -> Episode:
    """The fixed episode of 32 seconds of the example video: five events, one of them a red star with 472."""
    dusk = Ground(0, 1006, (58.0, 66.0, 84.0), (18.0, 18.0, 24.0))
    moss = Ground(13, 1015, (78.0, 84.0, 66.0), (22.0, 22.0, 16.0), (0.3, 0.1))
    events = (
        Event(2, 6, "circle", "blue", 582, "right", 0.35, 0.44, 0.075),
        Event(8, 11, "heart", "yellow", 915, "up", 0.58, 0.63, 0.09, hold=1),
        Event(14, 17, "star", "red", 472, "left", 0.64, 0.50, 0.09),
        Event(20, 23, "star", "cyan", 236, "down", 0.44, 0.36, 0.09, hold=2),
        Event(27, 30, "square", "red", 861, "nowhere", 0.52, 0.48, 0.0),
    )
    return Episode(32, events, (dusk, moss), 7, "test")


__all__ = [
    "COLORS",
    "DIGIT_PLACES",
    "EVENT_SECONDS",
    "HELD_OUT",
    "MOTIONS",
    "NUM_DIGITS",
    "SHAPES",
    "SPLITS",
    "Episode",
    "Event",
    "FrameTruth",
    "Ground",
    "events_for",
    "example_episode",
    "pairs",
    "plural",
    "render",
    "render_frame",
    "sample_episode",
    "sample_single_frames",
    "truth_table",
]
