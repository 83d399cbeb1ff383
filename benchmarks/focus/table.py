"""
The tables and plots of the comparison: `python benchmarks/focus/table.py --rows runs/focus/rows --docs docs`.

Prints markdown from the finished rows, and puts it into `results.md`; by default from the included answers of rows
that start from `shared_start.safetensors`.
"""

import argparse
import sys
from math import isnan
from pathlib import Path

from goals import goals
from layouts import ROWS
from matplotlib.figure import Figure
from results import DETAIL, Asked, difference, percent, points, read_rows
from sizes import SIZES, Sizes

sys.path.insert(0, str(Path(__file__).parent.parent))
from measuring import markdown_table, put_text


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


def kind_table(rows: dict[str, Asked]) -> str:
    kinds = next(iter(rows.values())).kinds
    lines = []
    for name, asked in rows.items():
        means = [asked.mean(kind) for kind in kinds]
        lines.append([f"`{name}`", *("–" if isnan(mean) else f"{100 * mean:.1f}" for mean in means)])
    return markdown_table(["row", *kinds], lines)


def difference_table(rows: dict[str, Asked]) -> str:
    ours, lines = rows["dynfocus"], []
    for name, other in rows.items():
        if name != "dynfocus":
            by_kind = {kind: difference(ours, other, [kind]) for kind in ours.kinds}
            worst = min(by_kind, key=lambda kind: by_kind[kind].estimate)
            cells = [points(difference(ours, other)), points(by_kind[DETAIL]), f"{worst} {points(by_kind[worst])}"]
            lines.append([f"`{name}`", *cells])
    return markdown_table(["`dynfocus` against", "all questions", "detail", "the kind where it gains least"], lines)


def curves(
    found: dict[tuple[str, int, int], Asked], frames: int, kind: str | None, title: str, of: str = "right"
) -> Figure:
    """
    Accuracy, or the share of questions whose event is among the key frames, against visual tokens, with one line for
    each row.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, name in enumerate(ROWS):
        some = sorted((one for key, one in found.items() if key[:2] == (name, frames)), key=lambda one: one.tokens)
        means = [100 * one.mean(kind, of) for one in some]
        # Rows without key frames have no such share.
        if not means or isnan(means[0]):
            continue
        style = {"marker": "o" if number < 10 else "s", "color": f"C{number % 10}", "label": name}
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


def kinds_plot(rows: dict[str, Asked], title: str) -> Figure:
    """Accuracy by kind of question, with one bar for each row."""
    kinds = next(iter(rows.values())).kinds
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    width = 0.85 / len(rows)
    for place, (name, asked) in enumerate(rows.items()):
        means = [100 * asked.mean(kind) for kind in kinds]
        left = [number + (place - (len(rows) - 1) / 2) * width for number in range(len(kinds))]
        color = f"C{list(ROWS).index(name) % 10}"
        axes.bar(left, means, width, label=name, color=color, hatch="//" if list(ROWS).index(name) > 9 else None)
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


def goal_list(found: dict[tuple[str, int, int], Asked], sizes: Sizes) -> str:
    """The goals, one on each line."""
    each = goals(lambda frames: at_main_budget(found, sizes, frames), sizes)
    return "\n".join(f"- {'met' if met else 'MISSED'}: {text}" for text, met in each)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--rows", type=Path, default=Path(__file__).parent / "answers", help="folder of answers")
    parser.add_argument("--docs", type=Path, help="put tables and plots into results.md in this folder")
    parser.add_argument("--size", choices=list(SIZES), default="full")
    args = parser.parse_args()
    sizes, found = SIZES[args.size], read_rows(args.rows)
    if not found:
        raise SystemExit(f"{args.rows} holds no finished rows: give --rows WORK/rows of `python benchmarks/focus`.")
    texts = {f"{frames} frames": tables(found, sizes, frames) for frames in sizes.test}
    texts["goals"] = goal_list(found, sizes)
    print("\n\n".join(text for text in texts.values() if text))
    if args.docs is None:
        return
    page = args.docs / "results.md"
    filled = page.read_text(encoding="utf-8")
    for name, text in texts.items():
        filled = put_text(filled, name, text)
    page.write_text(filled, encoding="utf-8")
    (args.docs / "images").mkdir(exist_ok=True)
    for frames in sizes.test:
        drawn = {"all": (None, "right"), DETAIL: (DETAIL, "right"), "found": (DETAIL, "found")}
        for name, (kind, of) in drawn.items():
            title = f"{frames} frames: {'questions on a detail' if kind else 'all questions'}"
            figure = curves(found, frames, kind, title, of)
            figure.savefig(args.docs / "images" / f"focus_{frames}_{name}.png", dpi=110)
        if rows := at_main_budget(found, sizes, frames):
            num_key = sizes.key_frames[frames][0]
            figure = kinds_plot(rows, f"{frames} frames, {num_key} key frames: right answers by kind of question")
            figure.savefig(args.docs / "images" / f"focus_{frames}_kinds.png", dpi=110)


if __name__ == "__main__":
    main()
