"""Draws an answer along the time axis of its video: key frames, scores or relevance, events, and what was shown."""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter

from .clock import clock_time, counted, percent
from .lettering import Pen, fonts_for, script_of

# Lengths are in inches.
_WIDTH = 13.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.85, 0.35, 0.3, 0.58
_SCORES_HEIGHT, _EVENTS_HEIGHT, _SHOWN_HEIGHT, _GAP = 1.5, 0.32, 0.24, 0.08
_CAPTION_HEIGHT, _CONNECTOR_HEIGHT, _LABEL_HEIGHT, _ROW_GAP = 0.3, 0.5, 0.36, 0.08
_LEGEND_LINE = 0.25
_LEGEND_MARK, _LEGEND_GAP = 0.32, 0.34
_LARGEST_THUMBNAIL = (1.75, 1.45)  # width, height
_LEAST_THUMBNAIL = 0.92  # width
_LEAST_BAR = 0.03  # width of the bar of a key frame
_FILL = 0.88  # width of a thumbnail, as a part of the distance to the next one in its row

#: Font sizes of the answer in points, each with the longest answer in that size, in letters.
_ANSWER_SIZES = ((26, 40), (16, 300), (12, float("inf")))
_QUESTION_LINES = 6


@dataclass(frozen=True)
class _Colors:
    """
    Key frames are blue, everything else is grey: the two differ in lightness, so also in print and to readers who do
    not see colors. Neighbors of a kind take turns in two shades.
    """

    paper: str
    key: tuple[str, str]
    rest: tuple[str, str]
    on_key: str  # of numbers on `key`
    ink: str
    faint: str
    line: str
    area: str
    warning: str


_LIGHT = _Colors(
    paper="white",
    key=("#0b4f8a", "#2a76b6"),
    rest=("#c3cad3", "#dde2e8"),
    on_key="white",
    ink="#1f2430",
    faint="#5b6472",
    line="#d5d9e0",
    area="#e6ebf2",
    warning="#9a3412",
)
_DARK = _Colors(
    paper="#18181b",
    key=("#93c8f7", "#5aa0dd"),
    rest=("#414a57", "#303742"),
    on_key="#10141a",
    ink="#eef1f5",
    faint="#aab3c0",
    line="#3a414c",
    area="#2b323c",
    warning="#f4a582",
)
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)

# Scores below `_LINEAR` are told apart on a logarithmic axis, which ends at `_LOWEST` at the latest.
_LINEAR, _LOWEST = 0.05, 1e-9
_BOX = "□"  # for letters of no installed font
_MOST_TICKS = 400  # coarse frames that are drawn one by one


def timeline_figure(
    result: Mapping[str, Any],
    thumbnails: Sequence[np.ndarray | None] = (),
    *,
    width: float = _WIDTH,
    heading: bool = True,
    dark: bool = False,
) -> Figure:
    """
    The figure of one answer about one video.

    From top to bottom: question, answer and its score; the key frames, each joined to its time; the score of each
    frame's event, or for a stock model the relevance of each frame, with dots at the key frames; the events of a
    DynFocus model, a band for each contiguous run of frames, numbered as they first appear; what the language model
    was shown: a tall bar for a frame in fine detail, a short one for a coarse frame; a legend.

    Scores have a logarithmic axis if a key frame has one below 0.05.

    Args:
        result: what `pipe(video, question=…, return_details=True)` returned; with `"question"`, that is the title.
        thumbnails: a `(height, width, 3)` uint8 image for each entry of `result["key_frames"]`, or none at all. Only
            those that `pictured` names are drawn; the others may be `None`.
        width: inches, at least 4.
        heading: whether question, answer and its facts are drawn; not where they stand beside the figure.
        dark: light on a dark ground, for a page that is dark itself.

    Raises:
        `ValueError`: a result without details, about no video or several, a wrong number of thumbnails, or a figure
            that is too narrow.
    """
    key_frames = result["key_frames"]
    if "events" not in result:
        raise ValueError("The result has no events: ask with `return_details=True`.")
    if not result["events"] or "video" in result["events"][0]:
        raise ValueError("A timeline shows one video: the result is about none, or about several.")
    if len(thumbnails) not in (0, len(key_frames)):
        raise ValueError(f"There are {len(thumbnails)} thumbnails for {len(key_frames)} key frames.")
    if width < 4:
        raise ValueError(f"`width` must be at least 4 inches, got {width}.")

    edges = _frame_edges(result["frame_times"])
    shown = [i for i in pictured(key_frames, width) if thumbnails and thumbnails[i] is not None]
    images = [image for i in shown if (image := thumbnails[i]) is not None]
    space = width - _LEFT - _RIGHT
    by_event = "relevance" not in result
    colors = _DARK if dark else _LIGHT

    texts = f"{result.get('question') or ''} {result['answer']}"
    fonts, missing = fonts_for(texts)
    with rc_context({"font.family": fonts}):
        figure = Figure(figsize=(width, 1), facecolor=colors.paper)
        pen = Pen(figure)
        grid = _ThumbnailGrid([image.shape for image in images], space)
        words_space = width - _margin(width) - _RIGHT
        lines = _heading(result, pen, words_space, colors, missing) if heading else []
        legend = _legend(result, pen, words_space)
        events_height = _EVENTS_HEIGHT + _GAP if by_event else 0.0
        strip_height = _CAPTION_HEIGHT + grid.height if shown else 0.15
        bottom = _BOTTOM + _LEGEND_LINE * len(legend) + 0.1
        axes_height = _SCORES_HEIGHT + events_height + _SHOWN_HEIGHT + _GAP
        height = _TOP + sum(line for *_, line in lines) + strip_height + axes_height + bottom
        figure.set_size_inches(width, height)

        _write_heading(figure, lines)
        _write_legend(figure, pen, legend, bottom - _BOTTOM - 0.05, colors)

        def add_axes(low: float, axes_height: float) -> Axes:
            axes = figure.add_axes((_LEFT / width, low / height, space / width, axes_height / height))
            axes.set_xlim(edges[0], edges[-1])
            axes.spines[:].set_visible(False)
            axes.patch.set_visible(False)
            return axes

        fine_and_coarse = add_axes(bottom, _SHOWN_HEIGHT)
        _draw_shown_frames(fine_and_coarse, result, edges, space, colors)
        _set_time_axis(fine_and_coarse, edges, space, colors)
        if by_event:
            bands = add_axes(bottom + _SHOWN_HEIGHT + _GAP, _EVENTS_HEIGHT)
            _draw_events(bands, result["events"], edges, space, colors)
        scores = add_axes(bottom + _SHOWN_HEIGHT + _GAP + events_height, _SCORES_HEIGHT)
        draw = _draw_scores if by_event else _draw_relevance
        low = draw(scores, result, edges, shown, colors)
        scores.set_ylim(low, _above(1.0, low))
        if shown:
            strip = add_axes(bottom + axes_height, grid.height)
            strip.set_ylim(0, grid.height)
            strip.set_yticks([])
            strip.set_xticks([])
            _draw_thumbnails(strip, grid, images, [key_frames[i] for i in shown], edges, colors)
            where = (_margin(width) / width, (bottom + axes_height + grid.height + 0.1) / height)
            figure.text(*where, _caption(len(shown), len(key_frames)), color=colors.faint, size=9.5, va="bottom")
    return figure


def pictured(key_frames: Sequence[Mapping[str, Any]], width: float = _WIDTH) -> list[int]:
    """
    Positions, in time order, of the key frames that a figure of `width` inches has room for: those with the highest
    scores.
    """
    # As many as are wide enough in two rows, in which they take turns.
    reach = 2 * _FILL
    room = int((width - _LEFT - _RIGHT) * reach / _LEAST_THUMBNAIL - reach + 1)
    order = sorted(range(len(key_frames)), key=lambda i: -key_frames[i]["score"])
    return sorted(order[:room])


def read_thumbnails(video: Any, times: Sequence[float], decoder: str = "auto", size: int = 256) -> list[np.ndarray]:
    """The frames shown at ascending `times`, in seconds, with a shorter side of `size` pixels at most."""
    from .reading.video_reading import frames_at, resize_frame, target_size

    thumbnails = []
    for frame in frames_at(video, times=times, decoder=decoder) if len(times) else ():  # type: ignore[arg-type]
        height, width = frame.shape[:2]
        thumbnails.append(resize_frame(frame, target_size(height, width, min(size, height, width))))
    return thumbnails


def pictures_of(
    video: Any, key_frames: Sequence[Mapping[str, Any]], decoder: str = "auto", width: float = _WIDTH
) -> list[np.ndarray | None]:
    """`thumbnails` for `timeline_figure`, read from a video; `None` for key frames that are not pictured."""
    chosen = pictured(key_frames, width)
    found: list[np.ndarray | None] = [None] * len(key_frames)
    for i, image in zip(chosen, read_thumbnails(video, [key_frames[i]["time"] for i in chosen], decoder), strict=True):
        found[i] = image
    return found


def score_text(score: float) -> str:
    """A score of 0…1 with two digits; very small ones as `"<0.01"`."""
    return "<0.01" if 0 < score < 0.01 else f"{score:.2f}"


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
        space: width of the axes.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], space: float):
        count = len(shapes)
        self.space = space
        self.rows = 1 if count <= max(3, int(space / 1.65)) else 2
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
        # Labels of a vertical video are wider than its pictures.
        gap = max(self.gap, min(0.5, self.space / max(1, len(wanted))) / self.rows)
        return spread(wanted, gap, self.width / 2, self.space - self.width / 2)

    def bottom(self, index: int) -> float:
        return _CONNECTOR_HEIGHT + (index % self.rows) * self.row_height


def _margin(width: float) -> float:
    """Left margin of words, which is smaller than that of the axes if the figure is narrow."""
    return _LEFT if width > 7 else 0.3


def _write_heading(figure: Figure, heading: list[tuple[str, dict[str, Any], float]]) -> None:
    width, height = figure.get_size_inches()
    top = height - _TOP
    for text, style, line_height in heading:
        # A dollar sign in a question does not start a formula.
        figure.text(_margin(width) / width, top / height, text, va="top", parse_math=False, **style)
        top -= line_height


def _write_legend(figure: Figure, pen: Pen, lines: list[list[tuple[str, str]]], top: float, colors: _Colors) -> None:
    width, height = figure.get_size_inches()
    for number, line in enumerate(lines):
        x, y = _margin(width), top - 0.1 - number * _LEGEND_LINE
        for mark, text in line:
            _draw_mark(figure, mark, x, y, colors)
            where = ((x + (_LEGEND_MARK if mark else 0.0)) / width, y / height)
            figure.text(*where, text, size=9, color=colors.faint, va="center", parse_math=False)
            x += _legend_width(pen, mark, text)


def _draw_mark(figure: Figure, mark: str, x: float, y: float, colors: _Colors) -> None:
    width, height = figure.get_size_inches()

    def box(left: float, low: float, wide: float, tall: float, color: str) -> None:
        corner = ((x + left) / width, (y + low) / height)
        figure.add_artist(Rectangle(corner, wide / width, tall / height, facecolor=color, linewidth=0))

    if mark == "line":
        ends = [x / width, (x + 0.22) / width]
        figure.add_artist(Line2D(ends, [y / height] * 2, color=colors.ink, linewidth=1.3))
    elif mark == "fine":
        style: dict[str, Any] = {"markersize": 7, "markeredgecolor": colors.paper, "color": colors.key[0]}
        figure.add_artist(Line2D([(x + 0.05) / width], [y / height], marker="o", **style))
        box(0.16, -0.09, 0.06, 0.18, colors.key[0])
    elif mark == "coarse":
        for left in (0.02, 0.08, 0.14, 0.2):
            box(left, -0.06, 0.02, 0.1, colors.faint)
    elif mark == "band":
        box(0.0, -0.05, 0.22, 0.1, colors.faint)
    elif mark:
        for half, color in enumerate(colors.key if mark == "key" else colors.rest):
            box(0.11 * half, -0.07, 0.11, 0.14, color)


def _legend(result: Mapping[str, Any], pen: Pen, space: float) -> list[list[tuple[str, str]]]:
    """Lines of the legend: marks, and what they mean."""
    items = [("fine", "key frame, shown in fine detail")]
    if coarse := _coarse_frames(result):
        items.append(("coarse" if _one_by_one(coarse, space) else "band", "frame shown coarsely"))
    if "relevance" in result:
        items = [("line", "how well each frame fits the question"), *items]
    else:
        items.append(("key", "event with a key frame"))
        if not all(event["selected"] for event in result["events"]):
            items.append(("rest", "other event"))
        if sum(len(_runs(event["frames"])) for event in result["events"]) > len(result["events"]):
            items.append(("", "same number: the event returns"))
    lines: list[list[tuple[str, str]]] = [[]]
    room = space
    for mark, text in items:
        length = _legend_width(pen, mark, text)
        # The gap after the last item of a line may be cut off.
        if length - _LEGEND_GAP > room and lines[-1]:
            lines.append([])
            room = space
        lines[-1].append((mark, text))
        room -= length
    return lines


def _legend_width(pen: Pen, mark: str, text: str) -> float:
    return (_LEGEND_MARK if mark else 0.0) + pen.width(text, 9) + _LEGEND_GAP


def _caption(shown: int, count: int) -> str:
    text = f"{counted(count, 'key frame')}: time and score"
    return text if shown == count else f"Best {shown} of {text} (+{count - shown} more below)"


def _frame_edges(times: Sequence[float]) -> np.ndarray:
    """When each of T frames begins, and when the last one ends: `(T + 1,)` seconds."""
    last = times[-1] - times[-2] if len(times) > 1 else 1.0
    return np.append(np.asarray(times, dtype=np.float64), times[-1] + last)


def _centres(edges: np.ndarray) -> np.ndarray:
    return (edges[:-1] + edges[1:]) / 2


def _runs(frames: Sequence[int]) -> list[tuple[int, int]]:
    """Contiguous runs of ascending frame indices, as (first, last)."""
    cuts = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(frames)) if b != a + 1), len(frames)]
    return [(frames[start], frames[end - 1]) for start, end in pairwise(cuts)]


def _coarse_frames(result: Mapping[str, Any]) -> Sequence[int]:
    """The frames that were shown coarsely: those that the result names, or all, as with DynFocus models."""
    return result.get("coarse_frames", range(result["num_frames"]))


def _heading(
    result: Mapping[str, Any], pen: Pen, space: float, colors: _Colors, missing: str = ""
) -> list[tuple[str, dict[str, Any], float]]:
    """Lines of the heading: text, how it is set, and the height it takes."""
    scale = min(1.0, 0.5 + space / 16)
    boxes = {ord(letter): _BOX for letter in missing}
    lines: list[tuple[str, dict[str, Any], float]] = []

    def add(text: str, size: float, color: str, weight: str = "normal", most: int | None = None) -> None:
        # Control characters such as a tabulator have no glyph.
        plain = "".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text).translate(boxes)
        wrapped = pen.wrapped(plain, space, size, weight)
        if most is not None and len(wrapped) > most:
            wrapped = [*wrapped[: most - 1], f"{wrapped[most - 1]} …"]
        for line in wrapped:
            lines.append((line, {"size": size, "color": color, "weight": weight}, 0.06 + 1.2 * size / 72))

    def gap(height: float) -> None:
        if lines:
            text, style, before = lines[-1]
            lines[-1] = (text, style, before + height)

    add(str(result.get("question") or ""), 15 * scale, colors.ink, most=_QUESTION_LINES)
    gap(0.08)
    answer = " ".join(str(result["answer"]).split()) or "(no answer)"
    size = next(size for size, longest in _ANSWER_SIZES if len(answer) <= longest)
    add(answer, size * max(scale, 0.8), colors.ink, "bold")
    gap(0.1)
    add("   ·   ".join(_facts(result)), 10.5 * max(scale, 0.9), colors.faint)
    if missing:
        names = ", ".join(sorted({script_of(letter) for letter in missing})[:3])
        add(
            f"{_BOX} stands for a letter that no font of this machine has ({names}): install a font for it, such as "
            "Noto Sans CJK for Chinese, Japanese and Korean.",
            9.5,
            colors.warning,
        )
    gap(0.14)
    return lines


def _facts(result: Mapping[str, Any]) -> list[str]:
    spent, dense = result["num_visual_tokens"], result["num_dense_tokens"]
    facts = [] if result["score"] is None else [f"score {result['score']:.2f}"]
    if spent is not None:
        share = percent(spent, dense)
        facts.append(f"{spent:,} visual tokens of {dense:,} ({share}%) that a dense model would take")
    elif "num_prompt_tokens" in result:
        facts.append(f"{result['num_prompt_tokens']:,} tokens in the prompt, by the server's count")
    frames = f"{counted(len(result['key_frames']), 'key frame')} of {counted(result['num_frames'], 'frame')}"
    if "relevance" not in result:
        frames += f", {counted(len(result['events']), 'event')}"
    elif result["coarse_frames"]:
        frames += f", {len(result['coarse_frames'])} shown coarsely"
    return [*facts, frames]


def _one_by_one(coarse: Sequence[int], space: float) -> bool:
    """Whether `space` inches have room for a tick for each coarse frame."""
    return len(coarse) <= _MOST_TICKS * space / _WIDTH


def _draw_events(
    axes: Axes, events: Sequence[Mapping[str, Any]], edges: np.ndarray, space: float, colors: _Colors
) -> None:
    """A band for each run of frames, with the number of its event: events are counted as they first appear."""
    inches = space / (edges[-1] - edges[0])
    ordered = sorted(events, key=lambda event: event["frames"][0])
    bands = sorted((run, number) for number, event in enumerate(ordered, 1) for run in _runs(event["frames"]))
    for place, ((first, last), number) in enumerate(bands):
        start, end = edges[first], edges[last + 1]
        selected = ordered[number - 1]["selected"]
        color = (colors.key if selected else colors.rest)[place % 2]
        axes.add_patch(Rectangle((start, 0), end - start, 1, facecolor=color, edgecolor="none"))
        # Many narrow bands would be nothing but gaps.
        if (end - start) * inches > 0.06:
            axes.axvline(end, color=colors.paper, linewidth=1)
        if (end - start) * inches > 0.09 + 0.07 * len(str(number)):
            ink = colors.on_key if selected else colors.ink
            axes.text((start + end) / 2, 0.47, str(number), color=ink, size=8.5, ha="center", va="center")
    axes.set_ylim(0, 1)
    _set_row_label(axes, "events", colors)


def _draw_shown_frames(
    axes: Axes, result: Mapping[str, Any], edges: np.ndarray, space: float, colors: _Colors
) -> None:
    """Tall bars for frames in fine detail, short ones for coarse frames."""
    seconds = (edges[-1] - edges[0]) / space
    middles, coarse = _centres(edges), sorted(_coarse_frames(result))
    axes.axhline(0, color=colors.line, linewidth=0.9, zorder=0)
    if _one_by_one(coarse, space):
        wide = 0.02 * seconds
        spans = [(middles[index] - wide / 2, wide) for index in coarse]
    else:
        spans = [(edges[first], edges[last + 1] - edges[first]) for first, last in _runs(coarse)]
    axes.broken_barh(spans, (0, 0.42), facecolor=colors.faint, linewidth=0)
    for index in (frame["index"] for frame in result["key_frames"]):
        wide = max(0.7 * (edges[index + 1] - edges[index]), _LEAST_BAR * seconds)
        wide = min(wide, 0.12 * seconds)
        left = np.clip(middles[index] - wide / 2, edges[0], edges[-1] - wide)
        axes.add_patch(Rectangle((left, 0), wide, 1, facecolor=colors.key[0], edgecolor="none", zorder=3))
    axes.set_ylim(0, 1)
    _set_row_label(axes, "shown", colors)


def _set_row_label(axes: Axes, label: str, colors: _Colors) -> None:
    axes.set_yticks([])
    axes.set_ylabel(label, rotation=0, ha="right", va="center", color=colors.faint, size=9.5)
    axes.tick_params(axis="x", bottom=False, labelbottom=False)


def _set_time_axis(axes: Axes, edges: np.ndarray, space: float, colors: _Colors) -> None:
    seconds = edges[-1] - edges[0]
    most = max(3, int(space / 0.85))
    step = next((step for step in _STEPS if seconds / step <= most), _STEPS[-1])
    ticks = np.arange(np.ceil(edges[0] / step) * step, edges[-1] + 1e-9, step)
    axes.xaxis.set_major_locator(FixedLocator(ticks.tolist()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda time, _: clock_time(time, decimals=step < 1)))
    axes.tick_params(axis="x", colors=colors.faint, labelsize=9.5, length=3, bottom=True, labelbottom=True)
    unit = "hours:minutes:seconds" if edges[-1] >= 3600 else "minutes:seconds"
    axes.set_xlabel(f"time in the video ({unit})", color=colors.faint, size=9.5)


def _above(value: float, low: float) -> float:
    """A little above `value` on an axis that begins at `low`: on a logarithmic one if that is above 0."""
    return value * 1.1 if low <= 0 else value * (value / low) ** 0.1


def _draw_scores(
    axes: Axes, result: Mapping[str, Any], edges: np.ndarray, joined: Sequence[int], colors: _Colors
) -> float:
    """
    Steps of event scores, and dots at the key frames; `joined`: positions of those with a thumbnail. Returns the lower
    end of the axis.
    """
    found = [event["score"] for event in result["events"]]
    least = min([frame["score"] for frame in result["key_frames"]] or found)
    low = 0.0
    if least < _LINEAR:
        low = max(_LOWEST, min(10.0 ** math.floor(math.log10(max(least, _LOWEST))), 0.001))
        axes.set_yscale("log")
    scores = np.zeros(len(edges) - 1)
    for event in result["events"]:
        scores[event["frames"]] = event["score"]
        for first, last in _runs(event["frames"]):
            color = colors.key[1] if event["selected"] else colors.rest[0]
            wide, tall = edges[last + 1] - edges[first], max(event["score"], low) - low
            axes.bar(edges[first], tall, wide, bottom=low, align="edge", color=color, alpha=0.6, linewidth=0)
    thin = sum(len(_runs(event["frames"])) for event in result["events"]) > 100
    axes.stairs(np.maximum(scores, low), edges, color=colors.ink, linewidth=0.4 if thin else 1.1, baseline=None)
    _draw_dots(axes, result["key_frames"], _centres(edges), low, joined, colors)
    _set_score_axis(axes, "event score", low, colors)
    return low


def _draw_relevance(
    axes: Axes, result: Mapping[str, Any], edges: np.ndarray, joined: Sequence[int], colors: _Colors
) -> float:
    """The relevance of every frame, and dots at the key frames; `joined`: positions of those with a thumbnail."""
    centres, thin = _centres(edges), len(edges) > 1000
    axes.fill_between(centres, result["relevance"], color=colors.area, linewidth=0)
    axes.plot(centres, result["relevance"], color=colors.ink, linewidth=0.5 if thin else 1.1, solid_joinstyle="round")
    _draw_dots(axes, result["key_frames"], centres, 0.0, joined, colors)
    _set_score_axis(axes, "relevance", 0.0, colors)
    return 0.0


def _draw_dots(
    axes: Axes,
    key_frames: Sequence[Mapping[str, Any]],
    centres: np.ndarray,
    low: float,
    joined: Sequence[int],
    colors: _Colors,
) -> None:
    style: dict[str, Any] = {
        "color": colors.key[0],
        "markeredgecolor": colors.paper,
        "markersize": 6.5 if len(key_frames) <= 24 else 4.5,
    }
    top = _above(1.0, low)
    for position, frame in enumerate(key_frames):
        x, y = centres[frame["index"]], max(frame["score"], low)
        if position in joined:
            # Not snapped to pixels, like the connector that continues it.
            axes.vlines(x, y, top, color=colors.key[0], linewidth=0.8, snap=False)
        axes.plot(x, y, "o", markeredgewidth=0.8, clip_on=False, zorder=5, **style)


def _set_score_axis(axes: Axes, label: str, low: float, colors: _Colors) -> None:
    if low > 0:
        decades = -round(math.log10(low))
        step = max(1, math.ceil(decades / 4))
        powers = range(0, -decades - 1, -step)
        names = {0: "1", -1: "0.1", -2: "0.01", -3: "0.001"}
        texts = [names.get(power, rf"$\mathregular{{10^{{{power}}}}}$") for power in powers]
        axes.set_yticks([10.0**power for power in powers], texts)
        axes.minorticks_off()
        label += "\n(log scale)"
    else:
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_ylabel(label, color=colors.faint, size=9.5)
    axes.tick_params(axis="y", colors=colors.faint, labelsize=9.5, length=0)
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    axes.grid(axis="y", color=colors.line, linewidth=0.7)
    axes.set_axisbelow(True)


def _draw_thumbnails(
    axes: Axes,
    grid: _ThumbnailGrid,
    images: Sequence[np.ndarray],
    key_frames: Sequence[Mapping[str, Any]],
    edges: np.ndarray,
    colors: _Colors,
) -> None:
    """Pictures of key frames with time and score; the borders of those that fit the question best are thicker."""
    per_inch = (edges[-1] - edges[0]) / grid.space
    times = _centres(edges)[[frame["index"] for frame in key_frames]]
    centres = edges[0] + per_inch * grid.centres((times - edges[0]) / per_inch)
    half = per_inch * grid.width / 2
    decimals = len({clock_time(frame["time"]) for frame in key_frames}) < len(key_frames)
    best = max(frame["score"] for frame in key_frames)
    rows = zip(images, key_frames, times, centres, strict=True)
    for position, (image, frame, time, centre) in enumerate(rows):
        bottom = grid.bottom(position)
        top = bottom + grid.image_height
        is_best = frame["score"] >= 0.9 * best
        # Straight down past the lower row, then over to the time.
        line = [(centre, bottom), (centre, 0.85 * _CONNECTOR_HEIGHT), (time, 0.15 * _CONNECTOR_HEIGHT), (time, 0)]
        axes.plot(*zip(*line, strict=True), color=colors.key[0], linewidth=0.8, snap=False, zorder=1)
        extent = (centre - half, centre + half, bottom, top)
        axes.imshow(image, extent=extent, aspect="auto", zorder=2, clip_on=False)
        border = Rectangle((centre - half, bottom), 2 * half, grid.image_height, fill=False, zorder=3, clip_on=False)
        border.set(edgecolor=colors.key[0], linewidth=2.8 if is_best else 1)
        axes.add_patch(border)
        style: dict[str, Any] = {
            "ha": "center",
            "va": "bottom",
            "zorder": 4,
            "weight": "bold" if is_best else "normal",
        }
        axes.text(centre, top + 0.2, clock_time(frame["time"], decimals=decimals), color=colors.ink, size=9, **style)
        axes.text(centre, top + 0.05, score_text(frame["score"]), color=colors.faint, size=8, **style)
    # `imshow` has set them to those of the last image.
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, grid.height)


__all__ = ["pictured", "pictures_of", "read_thumbnails", "score_text", "spread", "timeline_figure"]
