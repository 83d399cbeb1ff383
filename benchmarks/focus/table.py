"""
The tables and plots of the comparison: `python benchmarks/focus/table.py --rows runs/focus/rows --docs docs`.

Prints markdown from the finished rows, and puts it into `results.md` and `results_in_detail.md`; by default from the
included answers of rows that start from `shared_start.safetensors`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from goals import goals
from layouts import ROWS
from matplotlib.figure import Figure
from results import read_rows
from sizes import SIZES, Sizes

sys.path.append(str(Path(__file__).parents[1]))
from asked import DETAIL, Asked, difference, goal_list, kind_table, percent, points
from asked_plots import HATCHES, curves
from measuring import markdown_table, put_texts


def at_main_budget(found: dict[tuple[str, int, int], Asked], sizes: Sizes, frames: int) -> dict[str, Asked]:
    """Each row at the number of key frames of the tables."""
    num_key = sizes.key_frames[frames][0]
    return {name: found[name, frames, num_key] for name in ROWS if (name, frames, num_key) in found}


def main_table(rows: dict[str, Asked]) -> str:
    lines = []
    for name, asked in rows.items():
        dense = ROWS["dense"].plan(asked.frames, asked.key_frames).num_visual_tokens
        cells = [percent(asked.shares()), percent(asked.shares(DETAIL)), percent(asked.shares(DETAIL, "found"))]
        share = f"{100 * asked.tokens / dense:.1f} %"
        seeds = ", ".join(map(str, sorted(asked.seeds)))
        lines.append([f"`{name}`", ROWS[name].says, seeds, str(asked.tokens), share, *cells])
    head = ["row", "", "seeds", "visual tokens", "of dense", "all questions", "detail"]
    return markdown_table([*head, "asked event among key frames (detail)"], lines)


def difference_table(rows: dict[str, Asked]) -> str:
    ours, lines = rows["dynfocus"], []
    for name, other in rows.items():
        if name != "dynfocus":
            by_kind = {kind: difference(ours, other, [kind]) for kind in ours.kinds}
            worst = min(by_kind, key=lambda kind: by_kind[kind].estimate)
            cells = [points(difference(ours, other)), points(by_kind[DETAIL]), f"{worst} {points(by_kind[worst])}"]
            lines.append([f"`{name}`", *cells])
    return markdown_table(["`dynfocus` against", "all questions", "detail", "the kind where it gains least"], lines)


def kinds_plot(rows: dict[str, Asked], title: str) -> Figure:
    """Accuracy by kind of question, with one bar for each row."""
    kinds = next(iter(rows.values())).kinds
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    width = 0.85 / len(rows)
    for place, (name, asked) in enumerate(rows.items()):
        means = [100 * asked.mean(kind) for kind in kinds]
        left = [number + (place - (len(rows) - 1) / 2) * width for number in range(len(kinds))]
        index = list(ROWS).index(name)
        look: dict[str, Any] = {"color": f"C{index % 10}", "hatch": HATCHES[index % len(HATCHES)]}
        axes.bar(left, means, width, label=name, edgecolor="white", linewidth=0, **look)
    axes.set_xticks(range(len(kinds)), [kind.replace("_", ", ") for kind in kinds])
    axes.set(ylabel="right answers in %", ylim=(0, 100), title=title)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def tables(found: dict[tuple[str, int, int], Asked], sizes: Sizes, frames: int) -> str:
    """All tables of one length of video, as markdown."""
    rows = at_main_budget(found, sizes, frames)
    if not rows:
        return ""
    title = f"**{frames} frames, {sizes.key_frames[frames][0]} key frames; {sizes.test[frames]} videos**"
    parts = [title, main_table(rows), kind_table(rows)]
    if "dynfocus" in rows and len(rows) > 1:
        parts.append(difference_table(rows))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--rows", type=Path, default=Path(__file__).parent / "answers", help="folder of answers")
    parser.add_argument("--docs", type=Path, help="put tables and plots into the pages of results in this folder")
    parser.add_argument("--size", choices=list(SIZES), default="full")
    args = parser.parse_args()
    sizes, found = SIZES[args.size], read_rows(args.rows)
    if not found:
        raise SystemExit(f"{args.rows} holds no finished rows: give --rows WORK/rows of `python benchmarks/focus`.")
    texts = {f"{frames} frames": tables(found, sizes, frames) for frames in sizes.test}
    reached = goal_list(goals(lambda frames: at_main_budget(found, sizes, frames), sizes))
    print("\n\n".join(text for text in (*texts.values(), reached) if text))
    if args.docs is None:
        return
    put_texts(args.docs / "results_in_detail.md", texts)
    short = main_table(at_main_budget(found, sizes, 128))
    put_texts(args.docs / "results.md", {"goals": reached, "128 frames in short": short})
    (args.docs / "images").mkdir(exist_ok=True)
    for frames in sizes.test:
        drawn = {"all": (None, "right"), DETAIL: (DETAIL, "right"), "found": (DETAIL, "found")}
        for name, (kind, of) in drawn.items():
            title = f"{frames} frames: {'questions on a detail' if kind else 'all questions'}"
            lines = {row: [one for key, one in found.items() if key[:2] == (row, frames)] for row in ROWS}
            figure = curves(lines, kind, title, of)
            figure.savefig(args.docs / "images" / f"focus_{frames}_{name}.png", dpi=110)
        if rows := at_main_budget(found, sizes, frames):
            num_key = sizes.key_frames[frames][0]
            figure = kinds_plot(rows, f"{frames} frames, {num_key} key frames: right answers by kind of question")
            figure.savefig(args.docs / "images" / f"focus_{frames}_kinds.png", dpi=110)


if __name__ == "__main__":
    main()
