"""Plots of rows that are compared."""

from collections.abc import Mapping, Sequence
from math import isnan

from asked import Asked
from matplotlib.figure import Figure

#: Lines and bars differ in shape, too, for readers who do not see colors, and in print.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "d")
HATCHES = (None, "//", "\\\\", "xx", "..", "--", "||", "++", "oo", "**", "///", "OO")


def curves(lines: Mapping[str, Sequence[Asked]], kind: str | None, title: str, of: str = "right") -> Figure:
    """
    Accuracy, or the share of questions whose event is among the key frames, against visual tokens.

    Args:
        lines: the points of each line; colors and markers follow their order. Lines without points are left out.
        kind: of the questions; all by default.
        of: `"right"` or `"found"`.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(lines.items()):
        some = sorted(points, key=lambda one: one.tokens)
        means = [100 * one.mean(kind, of) for one in some]
        # Rows without key frames have no such share.
        if not means or isnan(means[0]):
            continue
        style = {"marker": MARKERS[number % len(MARKERS)], "color": f"C{number % 10}", "label": name}
        axes.plot([one.tokens for one in some], means, linestyle="-" if len(some) > 1 else "none", **style)
        for one in some:
            shares = [100 * share for share in one.shares(kind, of)]
            axes.plot([one.tokens] * 2, [min(shares), max(shares)], color=style["color"], linewidth=1)
    label = "right answers in %" if of == "right" else "asked event among the key frames, in %"
    axes.set(xscale="log", xlabel="visual tokens of a video", ylabel=label, title=title)
    # Ticks at powers of two, because a logarithmic axis has too few of its own.
    low, high = axes.get_xlim()
    axes.set_xticks([2**power for power in range(4, 16) if low <= 2**power <= high])
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


__all__ = ["HATCHES", "MARKERS", "curves"]
