"""The plots of a run's report."""

import importlib
import math
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from .scoring import Unit, accuracy_interval, units

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOR, _FAINT = "#2a6f97", "#9aa5ad"
_STEPS = {"decode": "#2a6f97", "encode": "#a23b72", "generate": "#3a7d44"}
#: Most bars of a group, in the order of their numbers of questions; more are not readable.
_MOST_VALUES = 30
_BINS = 5

#: Accuracy, its interval, and the number of questions (or pairs).
Bar = tuple[str, float, list[float], int]


def group_bars(counted: Sequence[Unit], group: str) -> list[Bar]:
    """A bar for each value of a group."""
    members: dict[str, list[Unit]] = {}
    for unit in counted:
        if group in unit.groups:
            members.setdefault(unit.groups[group], []).append(unit)
    return [_bar(name, some) for name, some in members.items()]


def number_bars(lines: Sequence[Mapping[str, Any]], name: str, unit: str) -> list[Bar]:
    """
    Bars of questions in up to five bins of equal size by a number, such as `duration`; none if it hardly varies. A
    pair is in the bin of its first half.
    """
    first: dict[str, float | None] = {}
    for line in lines:
        first.setdefault(line.get("pair") or line["id"], line[name])
    numbered = [(first[line.get("pair") or line["id"]], line) for line in lines]
    known = sorted(((value, line) for value, line in numbered if value is not None), key=lambda one: one[0])
    values = [value for value, _ in known]
    if len(set(values)) < _BINS:
        return []
    # A bin ends where the number changes, so that equal numbers stay together.
    edges = sorted({values[len(values) * number // _BINS] for number in range(1, _BINS)})
    bins: list[list[tuple[float, Mapping[str, Any]]]] = [[] for _ in range(len(edges) + 1)]
    for value, line in known:
        bins[sum(value >= edge for edge in edges)].append((value, line))
    bars = []
    for some in bins:
        counted = units([line for _, line in some])
        if counted:
            low, high = some[0][0], some[-1][0]
            bars.append(_bar(f"{low:,.0f}{unit}" if low == high else f"{low:,.0f}–{high:,.0f}{unit}", counted))
    return bars


def _figure(**settings: Any) -> "Figure":
    try:
        return importlib.import_module("matplotlib.figure").Figure(**settings)
    except ImportError:
        raise ImportError("Plots of a report need the package matplotlib: pip install 'dynfocus[eval]'.") from None


def accuracy_figure(panels: Sequence[tuple[str, Sequence[Bar]]], overall: float | None) -> "Figure":
    """
    Accuracy with its 95 % intervals: one bar in a row, one group in a panel.

    Args:
        panels: title and bars of each panel.
        overall: accuracy of all questions, drawn as a line.
    """
    shown = [(title, sorted(bars, key=lambda bar: -bar[3])[:_MOST_VALUES]) for title, bars in panels]
    shown = [
        (title, [bar for bar in bars if bar in kept]) for (title, bars), (_, kept) in zip(panels, shown, strict=True)
    ]
    rows = [len(bars) for _, bars in shown]
    figure = _figure(figsize=(7.5, 0.9 + sum(0.75 + 0.3 * count for count in rows)), layout="constrained")
    grid = figure.subplots(len(shown), 1, sharex=True, squeeze=False, height_ratios=[1.5 + count for count in rows])
    for axes, (title, bars) in zip(grid[:, 0], shown, strict=True):
        places = range(len(bars))
        for place, (_, share, (low, high), _) in zip(places, bars, strict=True):
            axes.plot([100 * low, 100 * high], [place, place], color=_COLOR, linewidth=1.5)
            axes.plot(100 * share, place, "o", color=_COLOR, markersize=5)
        if overall is not None:
            axes.axvline(100 * overall, color=_FAINT, linestyle="--", linewidth=1, zorder=0)
        axes.set_yticks(list(places), [f"{shorten(name, 44)} (n={total:,})" for name, _, _, total in bars])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(axis="x", alpha=0.25)
        axes.set_xlim(-2, 102)
        _bare(axes)
    grid[-1, 0].set_xlabel("accuracy in %, with its 95 % interval" + (" (dashed: all)" if overall is not None else ""))
    return figure


def times_figure(timings: Sequence[Mapping[str, float]]) -> "Figure":
    """The seconds of each step over the questions: median, quartiles, and 5th to 95th percentile."""
    figure = _figure(figsize=(7.5, 2.2), layout="constrained")
    axes = figure.subplots()
    seconds = [[line[step] for line in timings] for step in _STEPS]
    boxes = axes.boxplot(
        seconds, orientation="horizontal", whis=(5, 95), showfliers=False, patch_artist=True, widths=0.55
    )
    for patch, color in zip(boxes["boxes"], _STEPS.values(), strict=True):
        patch.set(facecolor=color, alpha=0.35, edgecolor=color)
    for line in boxes["medians"]:
        line.set(color="black")
    means = [sum(values) / len(values) for values in seconds]
    axes.set_yticks(
        range(1, len(_STEPS) + 1),
        [f"{step} (mean {_short(mean)} s)" for step, mean in zip(_STEPS, means, strict=True)],
    )
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds a question; a video's are shared by its questions")
    axes.grid(axis="x", alpha=0.25)
    _bare(axes)
    return figure


def _bar(name: str, counted: Sequence[Unit]) -> Bar:
    interval = accuracy_interval(counted)
    assert interval is not None
    return name, sum(unit.correct for unit in counted) / len(counted), interval, len(counted)


def _bare(axes: Any) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _short(seconds: float) -> str:
    return f"{seconds:.{max(0, 1 - math.floor(math.log10(seconds)))}f}" if 0 < seconds < 10 else f"{seconds:.0f}"


__all__ = ["Bar", "accuracy_figure", "group_bars", "number_bars", "times_figure"]
