"""Draws an answer along the time axis of its video: key frames, and event scores and events or relevance."""

import textwrap
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter

from .report import clock_time, counted

MAX_THUMBNAILS = 32

# Lengths are in inches.
_WIDTH = 13.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.8, 0.35, 0.3, 0.6
_SCORES_HEIGHT, _BANDS_HEIGHT, _CONNECTOR_HEIGHT = 1.7, 0.36, 0.5
_LABEL_HEIGHT, _ROW_GAP = 0.22, 0.06
_LARGEST_THUMBNAIL = (1.75, 1.45)  # width, height
_ONE_ROW = 7
_LEAST_BAR = 0.03  # width of the bar of a key frame
_FILL = 0.88  # width of a thumbnail, as a part of the distance to the next one in its row

#: Font sizes of the answer: points, letters of a line, and the longest answer in that size.
_ANSWER_SIZES = ((26, 46, 40), (16, 76, 300), (12, 102, float("inf")))
_QUESTION_LINES = 6

_COLORS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#ff9da7", "#9c755f")
_INK, _FAINT, _LINE, _GROUND = "#1f2430", "#6b7280", "#d5d9e0", "#eef1f5"
_FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Arabic", "Noto Sans Devanagari")
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)


def timeline_figure(result: Mapping[str, Any], thumbnails: Sequence[np.ndarray] = ()) -> Figure:
    """
    The figure of one answer about one video.

    From top to bottom: question, answer and its score; the key frames, each joined to its time; each frame's event
    score (0 to 1), dots at the key frames; the events, a band for each contiguous run of frames, paler where an event
    was not selected. Of a stock model, instead of the last two: the relevance of each frame as a line, dots at the key
    frames; a bar for each key frame and a tick for each frame that was shown coarsely.

    Args:
        result: what `pipe(video, question=…, return_details=True)` returned; with `"question"`, that is the title.
        thumbnails: a `(height, width, 3)` uint8 image for each entry of `result["key_frames"]`, or none at all. Of
            more than 32, those of the highest scores are shown.

    Raises:
        `ValueError`: a result without details, about no video or several, or a wrong number of thumbnails.
    """
    key_frames = result["key_frames"]
    if "events" not in result:
        raise ValueError("The result has no events: ask with `return_details=True`.")
    if not result["events"] or "video" in result["events"][0]:
        raise ValueError("A timeline shows one video: the result is about none, or about several.")
    if len(thumbnails) not in (0, len(key_frames)):
        raise ValueError(f"There are {len(thumbnails)} thumbnails for {len(key_frames)} key frames.")

    edges = _frame_edges(result["frame_times"])
    centres = (edges[:-1] + edges[1:]) / 2
    shown = _best(key_frames, MAX_THUMBNAILS) if thumbnails else []
    grid = _ThumbnailGrid([thumbnails[i].shape for i in shown])
    heading = _heading(result)
    heading_height = sum(height for *_, height in heading)
    height = _TOP + heading_height + grid.height + _SCORES_HEIGHT + _BANDS_HEIGHT + _BOTTOM

    installed = {font.name for font in font_manager.fontManager.ttflist}
    with rc_context({"font.family": [name for name in _FONTS if name in installed] or ["sans-serif"]}):
        figure = Figure(figsize=(_WIDTH, height), facecolor="white")
        FigureCanvasAgg(figure)
        _draw_heading(figure, heading, height)

        def add_axes(bottom: float, axes_height: float) -> Axes:
            width = 1 - (_LEFT + _RIGHT) / _WIDTH
            axes = figure.add_axes((_LEFT / _WIDTH, bottom / height, width, axes_height / height))
            axes.set_xlim(edges[0], edges[-1])
            return axes

        bands = add_axes(_BOTTOM, _BANDS_HEIGHT)
        scores = add_axes(_BOTTOM + _BANDS_HEIGHT, _SCORES_HEIGHT)
        colors = _colors(result["events"])
        if "relevance" in result:
            _draw_shown_frames(bands, result, colors, edges)
            _draw_relevance(scores, result, colors, centres, joined=shown)
        else:
            _draw_events(bands, result["events"], colors, edges)
            _draw_scores(scores, result, colors, edges, centres)
        if shown:
            strip = add_axes(_BOTTOM + _BANDS_HEIGHT + _SCORES_HEIGHT, grid.height)
            images = [thumbnails[i] for i in shown]
            event_of = _event_of_frame(result["events"])
            borders = [colors[event_of[key_frames[i]["index"]]] for i in shown]
            _draw_thumbnails(strip, grid, images, [key_frames[i] for i in shown], borders, edges)
    return figure


def spread(wanted: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """
    Positions in ascending order, `gap` apart at least and within `low..high`, as near as can be (in least squares) to
    the ascending `wanted`, `(N,)`. They need `(N - 1) * gap <= high - low`.
    """
    steps = gap * np.arange(len(wanted))
    # Without the steps, "`gap` apart" is "not descending": an isotonic regression, by pooling neighbours.
    pools: list[tuple[float, int]] = []
    for value in wanted - steps:
        pool = (float(value), 1)
        while pools and pools[-1][0] > pool[0]:
            mean, count = pools.pop()
            pool = ((mean * count + pool[0] * pool[1]) / (count + pool[1]), count + pool[1])
        pools.append(pool)
    flat = np.repeat([mean for mean, _ in pools], [count for _, count in pools])
    return np.clip(flat, low, high - (steps[-1] if len(steps) else 0)) + steps


class _ThumbnailGrid:
    """
    Where thumbnails go, in inches from the axes' left and bottom: in one row, or in two, taking turns, with gaps in
    the lower row through which the connectors of the upper one pass.

    Args:
        shapes: `(height, width, 3)` of each image.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]]):
        count = len(shapes)
        self.space = _WIDTH - _LEFT - _RIGHT
        self.rows = 1 if count <= _ONE_ROW else 2
        self.width = self.image_height = self.gap = self.height = 0.0
        if not count:
            return
        tallness = shapes[0][0] / shapes[0][1]
        reach = _FILL * self.rows
        largest_width, largest_height = _LARGEST_THUMBNAIL
        self.width = min(largest_width, largest_height / tallness, self.space * reach / (count - 1 + reach))
        self.gap = self.width / reach
        self.image_height = self.width * tallness
        self.row_height = self.image_height + _LABEL_HEIGHT + _ROW_GAP
        self.height = _CONNECTOR_HEIGHT + self.rows * self.row_height

    def centres(self, wanted: np.ndarray) -> np.ndarray:
        """Centres, `(N,)` inches, near the `wanted` ones."""
        return spread(wanted, self.gap, self.width / 2, self.space - self.width / 2)

    def bottom(self, index: int) -> float:
        return _CONNECTOR_HEIGHT + (index % self.rows) * self.row_height


def _frame_edges(times: Sequence[float]) -> np.ndarray:
    """When each of T frames begins, and when the last one ends: `(T + 1,)` seconds."""
    last = times[-1] - times[-2] if len(times) > 1 else 1.0
    return np.append(np.asarray(times, dtype=np.float64), times[-1] + last)


def _runs(frames: Sequence[int]) -> list[tuple[int, int]]:
    """Contiguous runs of ascending frame indices, as (first, last)."""
    cuts = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(frames)) if b != a + 1), len(frames)]
    return [(frames[start], frames[end - 1]) for start, end in pairwise(cuts)]


def _event_of_frame(events: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    return {frame: number for number, event in enumerate(events) for frame in event["frames"]}


def _colors(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """A colour for each event: the least used of those that no event next to it has, where that is possible."""
    event_of = _event_of_frame(events)
    touching: list[set[int]] = [set() for _ in events]
    for before, after in pairwise(event_of[frame] for frame in sorted(event_of)):
        touching[before].add(after)
        touching[after].add(before)
    chosen: dict[int, int] = {}
    # Events with the most neighbors have the fewest colors left, so they come first.
    for number in sorted(range(len(events)), key=lambda event: -len(touching[event])):
        taken, used = {chosen.get(other) for other in touching[number]}, Counter(chosen.values())
        chosen[number] = min(range(len(_COLORS)), key=lambda color: (color in taken, used[color]))
    return [_COLORS[chosen[number]] for number in range(len(events))]


def _best(key_frames: Sequence[Mapping[str, Any]], count: int) -> list[int]:
    """Positions of the `count` key frames with the highest scores, in time order."""
    order = sorted(range(len(key_frames)), key=lambda i: -key_frames[i]["score"])
    return sorted(order[:count])


def _heading(result: Mapping[str, Any]) -> list[tuple[str, dict[str, Any], float]]:
    """Lines of the heading: text, how it is set, and the height it takes."""
    lines: list[tuple[str, dict[str, Any], float]] = []
    for line in _wrapped(str(result.get("question") or ""), 90)[:_QUESTION_LINES]:
        lines.append((line, {"size": 15, "color": _INK}, 0.32))
    answer = " ".join(str(result["answer"]).split()) or "(no answer)"
    size, width = next((size, width) for size, width, longest in _ANSWER_SIZES if len(answer) <= longest)
    for line in _wrapped(answer, width):
        lines.append((line, {"size": size, "weight": "bold", "color": _INK}, 0.06 + 1.15 * size / 72))
    text, style, height = lines[-1]
    lines[-1] = (text, style, height + 0.1)
    spent, dense = result["num_visual_tokens"], result["num_dense_tokens"]
    facts = [] if result["score"] is None else [f"score {result['score']:.2f}"]
    if spent is not None:
        facts.append(f"{spent} visual tokens of {dense} ({spent / dense:.0%}) that a dense model would take")
    elif "num_prompt_tokens" in result:
        facts.append(f"{result['num_prompt_tokens']} tokens in the prompt, by the server's count")
    frames = f"{counted(len(result['key_frames']), 'key frame')} of {counted(result['num_frames'], 'frame')}"
    if "relevance" not in result:
        frames += f", {counted(len(result['events']), 'event')}"
    elif result["coarse_frames"]:
        frames += f", {len(result['coarse_frames'])} shown coarsely"
    facts.append(frames)
    lines.append(("   ·   ".join(facts), {"size": 10.5, "color": _FAINT}, 0.42))
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of `width` Latin letters at most; those of East Asian scripts are twice as wide."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return textwrap.wrap(text, width // 2 if 2 * wide > len(text) else width)


def _draw_heading(figure: Figure, heading: list[tuple[str, dict[str, Any], float]], height: float) -> None:
    top = height - _TOP
    for text, style, line_height in heading:
        # A dollar sign in a question does not start a formula.
        figure.text(_LEFT / _WIDTH, top / height, text, va="top", parse_math=False, **style)
        top -= line_height


def _draw_events(axes: Axes, events: Sequence[Mapping[str, Any]], colors: Sequence[str], edges: np.ndarray) -> None:
    inches = (_WIDTH - _LEFT - _RIGHT) / (edges[-1] - edges[0])
    for number, event in enumerate(events):
        for first, last in _runs(event["frames"]):
            start, end = edges[first], edges[last + 1]
            alpha = 1.0 if event["selected"] else 0.35
            axes.add_patch(
                Rectangle((start, 0), end - start, 1, facecolor=colors[number], alpha=alpha, edgecolor="none")
            )
            axes.axvline(end, color="white", linewidth=1)
            if (end - start) * inches > 0.22:
                color = ("white" if _is_dark(colors[number]) else _INK) if event["selected"] else _FAINT
                axes.text((start + end) / 2, 0.48, str(number + 1), color=color, size=9, ha="center", va="center")
    _set_time_axis(axes, "events", edges)


def _draw_shown_frames(axes: Axes, result: Mapping[str, Any], colors: Sequence[str], edges: np.ndarray) -> None:
    axes.axhline(1, color=_FAINT, linewidth=0.9)
    least = _LEAST_BAR * (edges[-1] - edges[0]) / (_WIDTH - _LEFT - _RIGHT)
    middles = (edges[:-1] + edges[1:]) / 2
    axes.vlines(middles[result["coarse_frames"]], 0, 0.4, color=_FAINT, linewidth=0.9)
    event_of = _event_of_frame(result["events"])
    for index in (frame["index"] for frame in result["key_frames"]):
        width = max(edges[index + 1] - edges[index], least)
        left = np.clip(middles[index] - width / 2, edges[0], edges[-1] - width)
        axes.add_patch(Rectangle((left, 0), width, 1, facecolor=colors[event_of[index]], edgecolor="none"))
    _set_time_axis(axes, "shown", edges)


def _set_time_axis(axes: Axes, label: str, edges: np.ndarray) -> None:
    axes.set_ylim(-0.12, 1)
    axes.set_yticks([])
    axes.set_ylabel(label, rotation=0, ha="right", va="center", color=_FAINT, size=9.5)
    axes.spines[:].set_visible(False)
    step = next((step for step in _STEPS if (edges[-1] - edges[0]) / step <= 14), _STEPS[-1])
    ticks = np.arange(np.ceil(edges[0] / step) * step, edges[-1] + 1e-9, step)
    axes.xaxis.set_major_locator(FixedLocator(ticks.tolist()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda time, _: clock_time(time, decimals=step < 1)))
    axes.tick_params(axis="x", colors=_FAINT, labelsize=9.5, length=3)
    axes.set_xlabel("time", color=_FAINT, size=9.5)


def _is_dark(color: str) -> bool:
    return float(np.dot(to_rgb(color), (0.299, 0.587, 0.114))) < 0.6


def _draw_scores(
    axes: Axes, result: Mapping[str, Any], colors: Sequence[str], edges: np.ndarray, centres: np.ndarray
) -> None:
    scores = np.zeros(len(centres))
    for number, event in enumerate(result["events"]):
        scores[event["frames"]] = event["score"]
        for first, last in _runs(event["frames"]):
            alpha = 0.55 if event["selected"] else 0.2
            width = edges[last + 1] - edges[first]
            axes.bar(edges[first], event["score"], width, align="edge", color=colors[number], alpha=alpha, linewidth=0)
    axes.stairs(scores, edges, color=_INK, linewidth=1.3, baseline=None)
    event_of = _event_of_frame(result["events"])
    for frame in result["key_frames"]:
        x, color = centres[frame["index"]], colors[event_of[frame["index"]]]
        # Not snapped to pixels, like the connector that continues it.
        axes.vlines(x, frame["score"], 1.1, color=color, linewidth=0.9, snap=False)
        axes.plot(x, frame["score"], "o", color=color, markersize=7, markeredgecolor="white", markeredgewidth=1.2)
    _set_score_axis(axes, "event score")


def _draw_relevance(
    axes: Axes, result: Mapping[str, Any], colors: Sequence[str], centres: np.ndarray, joined: Sequence[int]
) -> None:
    """`joined`: positions of the key frames that have a thumbnail."""
    axes.fill_between(centres, result["relevance"], color=_GROUND, linewidth=0)
    axes.plot(centres, result["relevance"], color=_INK, linewidth=1.3, solid_joinstyle="round")
    event_of = _event_of_frame(result["events"])
    size = 7 if len(result["key_frames"]) <= MAX_THUMBNAILS else 5
    for position, frame in enumerate(result["key_frames"]):
        x, color = centres[frame["index"]], colors[event_of[frame["index"]]]
        if position in joined:
            axes.vlines(x, frame["score"], 1.1, color=color, linewidth=0.9, snap=False)
        axes.plot(x, frame["score"], "o", color=color, markersize=size, markeredgecolor="white", markeredgewidth=1)
    _set_score_axis(axes, "relevance")


def _set_score_axis(axes: Axes, label: str) -> None:
    axes.set_ylim(0, 1.1)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_ylabel(label, color=_FAINT, size=9.5)
    axes.tick_params(axis="y", colors=_FAINT, labelsize=9.5, length=0)
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    axes.grid(axis="y", color=_LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def _draw_thumbnails(
    axes: Axes,
    grid: _ThumbnailGrid,
    images: Sequence[np.ndarray],
    key_frames: Sequence[Mapping[str, Any]],
    colors: Sequence[str],
    edges: np.ndarray,
) -> None:
    axes.axis("off")
    per_inch = (edges[-1] - edges[0]) / grid.space
    indices = np.array([frame["index"] for frame in key_frames])
    times = (edges[indices] + edges[indices + 1]) / 2
    centres = edges[0] + per_inch * grid.centres((times - edges[0]) / per_inch)
    axes.set_ylim(0, grid.height)
    half = per_inch * grid.width / 2
    decimals = len({clock_time(frame["time"]) for frame in key_frames}) < len(key_frames)
    rows = zip(images, key_frames, times, centres, colors, strict=True)
    for position, (image, frame, time, centre, color) in enumerate(rows):
        bottom = grid.bottom(position)
        top = bottom + grid.image_height
        # Straight down past the lower row, then over to the time.
        line = [(centre, bottom), (centre, 0.85 * _CONNECTOR_HEIGHT), (time, 0.15 * _CONNECTOR_HEIGHT), (time, 0)]
        axes.plot(*zip(*line, strict=True), color=color, linewidth=0.9, snap=False, zorder=1)
        axes.imshow(image, extent=(centre - half, centre + half, bottom, top), aspect="auto", zorder=2)
        border = Rectangle((centre - half, bottom), 2 * half, grid.image_height, fill=False, zorder=3)
        border.set(edgecolor=color, linewidth=2)
        axes.add_patch(border)
        label = clock_time(frame["time"], decimals=decimals)
        axes.text(centre, top + 0.05, label, color=_INK, size=9, ha="center", va="bottom", zorder=4)
    # `imshow` has set them to those of the last image.
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, grid.height)


__all__ = ["MAX_THUMBNAILS", "spread", "timeline_figure"]
