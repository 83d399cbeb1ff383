"""
The tables and plots of the comparison: `python benchmarks/focus/table.py --work runs/focus --images docs/images`.

Prints markdown, from the rows that are there.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from layouts import ROWS
from matplotlib.figure import Figure
from results import DETAIL, Asked, difference, percent, points, read_rows
from sizes import SIZES, Sizes


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def at_main_budget(found: dict[tuple[str, int, int], Asked], sizes: Sizes, frames: int) -> dict[str, Asked]:
    """Each row at the number of key frames of the tables."""
    num_key = sizes.key_frames[frames][0]
    return {name: found[name, frames, num_key] for name in ROWS if (name, frames, num_key) in found}


def main_table(rows: dict[str, Asked]) -> str:
    dense = rows["dense"].tokens if "dense" in rows else None
    lines = []
    for name, asked in rows.items():
        share = f"{100 * asked.tokens / dense:.1f} %" if dense else "–"
        cells = [percent(asked.shares()), percent(asked.shares(DETAIL)), percent(asked.shares(DETAIL, "found"))]
        lines.append([f"`{name}`", ROWS[name].says, str(asked.tokens), share, *cells])
    head = ["row", "", "visual tokens", "of dense", "all questions", "detail", "asked event among key frames (detail)"]
    return markdown(head, lines)


def kind_table(rows: dict[str, Asked]) -> str:
    kinds = next(iter(rows.values())).kinds
    lines = []
    for name, asked in rows.items():
        means = [asked.shares(kind) for kind in kinds]
        lines.append([f"`{name}`", *(f"{100 * sum(mean) / len(mean):.1f}" if mean else "–" for mean in means)])
    return markdown(["row", *kinds], lines)


def difference_table(rows: dict[str, Asked]) -> str:
    ours, lines = rows["dynfocus"], []
    for name, other in rows.items():
        if name != "dynfocus":
            by_kind = {kind: difference(ours, other, [kind]) for kind in ours.kinds}
            worst = min(by_kind, key=lambda kind: by_kind[kind].estimate)
            cells = [points(difference(ours, other)), points(by_kind[DETAIL]), f"{worst} {points(by_kind[worst])}"]
            lines.append([f"`{name}`", *cells])
    return markdown(["`dynfocus` against", "all questions", "detail", "the kind where it gains least"], lines)


def curves(found: dict[tuple[str, int, int], Asked], frames: int, kind: str | None, title: str) -> Figure:
    """Accuracy against visual tokens, a line a row."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, name in enumerate(ROWS):
        some = sorted((one for key, one in found.items() if key[:2] == (name, frames)), key=lambda one: one.tokens)
        if not some:
            continue
        means = [100 * sum(one.shares(kind)) / len(one.shares(kind)) for one in some]
        style = {"marker": "o" if number < 10 else "s", "color": f"C{number % 10}", "label": name}
        axes.plot([one.tokens for one in some], means, linestyle="-" if len(some) > 1 else "none", **style)
        for one in some:
            shares = [100 * share for share in one.shares(kind)]
            axes.plot([one.tokens] * 2, [min(shares), max(shares)], color=style["color"], linewidth=1)
    axes.set(xscale="log", xlabel="visual tokens of a video", ylabel="right answers in %", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--work", type=Path, default=Path("runs/focus"))
    parser.add_argument("--images", type=Path, help="draw the plots into this folder")
    parser.add_argument("--size", choices=list(SIZES), default="full")
    args = parser.parse_args()
    sizes, found = SIZES[args.size], read_rows(args.work)
    if not found:
        raise SystemExit(
            f"{args.work} holds no finished rows: run `python benchmarks/focus --work {args.work}` first."
        )
    for frames in sizes.test:
        rows = at_main_budget(found, sizes, frames)
        if not rows:
            continue
        seeds = sorted({seed for asked in rows.values() for seed in asked.seeds})
        print(f"## {frames} frames, {sizes.key_frames[frames][0]} key frames, seeds {', '.join(map(str, seeds))}\n")
        print(main_table(rows), kind_table(rows), sep="\n\n", end="\n\n")
        if "dynfocus" in rows and len(rows) > 1:
            print(difference_table(rows), end="\n\n")
        if args.images is not None:
            args.images.mkdir(parents=True, exist_ok=True)
            for kind, title in ((None, "all questions"), (DETAIL, "questions on a detail")):
                figure = curves(found, frames, kind, f"{frames} frames: {title}")
                figure.savefig(args.images / f"focus_{frames}_{kind or 'all'}.png", dpi=110)


if __name__ == "__main__":
    main()
