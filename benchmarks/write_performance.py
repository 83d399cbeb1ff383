"""
Puts results into docs/performance.md, and draws its pictures.

    python benchmarks/write_performance.py FOLDER

`FOLDER` holds what the benchmarks wrote with `--json FOLDER/<script>.json`; what is not there stays as it is.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import typer
from measuring import MIB, put_text, results_as_text
from peers import OURS, RODS

matplotlib.use("agg")
from matplotlib import pyplot  # noqa: E402

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = "performance.md"


def draw_peers(results: dict[str, Any], axes: Any) -> None:
    """Times to the first token and peaks above the weights over the number of frames, as multiples of DynFocus's."""
    frames = [int(number) for number in results]
    names = [name for name in next(iter(results.values())) if name != OURS]
    for side, title in zip(axes, ("time to first token", "peak memory above weights"), strict=True):
        side.axhline(1, color="black", linewidth=1.5, label=OURS)
        side.set(title=title, xlabel="frames", xscale="log", yscale="log", xticks=frames, xticklabels=frames)
        side.set_yticks([0.5, 1, 2, 4, 8, 16], [f"{times:g}×" for times in (0.5, 1, 2, 4, 8, 16)])
        side.minorticks_off()
        side.grid(alpha=0.3)
    axes[0].set_ylabel("multiples of DynFocus's")
    for place, name in enumerate(names):
        able = [number for number in frames if "time_ratio" in results[str(number)][name]]
        rounds = [sorted(results[str(number)][name]["time_ratio"]) for number in able]
        peaks = [[results[str(number)][one]["peak_with_pixels"] for one in (name, OURS)] for number in able]
        style: dict[str, Any] = {"marker": "os^DvPX"[place % 7], "markersize": 5, "label": name}
        style["linestyle"] = "--" if name == RODS else "-"
        axes[0].plot(able, [times[len(times) // 2] for times in rounds], **style)
        axes[1].plot(able, [theirs / ours for theirs, ours in peaks], **style)
    for side in axes:
        # As many of the ticks as there is something to show.
        drawn = [value for line in side.get_lines() for value in line.get_ydata()]
        side.set_ylim(min(drawn) / 1.3, max(drawn) * 1.3)
    axes[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def draw_memory(results: dict[str, Any], axes: Any) -> None:
    """Resident memory over the time of encoding, of each file in its own share of time."""
    (side,) = axes
    for minutes, one in results.items():
        seconds, resident = zip(*one["line"], strict=True)
        shares = [100 * second / (seconds[-1] or 1) for second in seconds]
        side.plot(shares, [size / MIB for size in resident], label=minutes, linewidth=1.2)
    side.set(xlabel="share of the encoding time, %", ylabel="resident memory, MiB", ylim=(0, None), xlim=(0, 100))
    side.legend(title="video", ncols=len(results), loc="lower center", frameon=False)


def draw_adopted(results: dict[str, Any], axes: Any) -> None:
    """How many times as fast as with all frames each model is, at each number of frames."""
    names = list(results)
    frames = list(next(iter(results.values())))
    for side, number in zip(axes, frames, strict=False):
        for place, (part, label) in enumerate({"focused": "with looking", "state": "from a state"}.items()):
            ratios = [results[name][number]["of_focused"] for name in names]
            times = [[dense / own for dense, own in zip(one["dense"], one[part], strict=True)] for one in ratios]
            medians = [sorted(one)[len(one) // 2] for one in times]
            spread = [[m - min(one), max(one) - m] for m, one in zip(medians, times, strict=True)]
            rows = [row + 0.4 * place - 0.2 for row in range(len(names))]
            side.barh(rows, medians, 0.38, xerr=list(zip(*spread, strict=True)), capsize=2, label=label)
        side.set(title=f"{number} frames", xlabel="times as fast as with all frames", yticks=range(len(names)))
        side.set_yticklabels(names if side is axes[0] else [])
        side.invert_yaxis()
        side.grid(axis="x", alpha=0.3)
    axes[0].legend(frameon=False, fontsize=8)


#: What is drawn of a benchmark's results, in how many panels.
PICTURES: dict[str, tuple[Callable[[dict[str, Any], Any], None], int]] = {
    "adopted": (draw_adopted, 2),
    "versus_peers": (draw_peers, 2),
    "long_video": (draw_memory, 1),
}


def draw(name: str, results: dict[str, Any], file: Path) -> None:
    """The picture of one benchmark."""
    paint, panels = PICTURES[name]
    figure, axes = pyplot.subplots(1, panels, figsize=(4.6 * panels + 2 * (panels == 1), 3.6), squeeze=False)
    paint(results, axes[0])
    for side in axes[0]:
        side.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def main(folder: Path, docs: Annotated[Path, typer.Option(help="Where the page lies.")] = DOCS) -> None:
    """Put results into docs/performance.md, and draw its pictures."""
    page = (docs / PAGE).read_text(encoding="utf-8")
    for file in sorted(folder.glob("*.json")):
        written = json.loads(file.read_text(encoding="utf-8"))
        page = put_text(page, file.stem, results_as_text(written))
        if file.stem in PICTURES:
            draw(file.stem, written["results"], docs / "images" / f"{file.stem}.png")
    (docs / PAGE).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
