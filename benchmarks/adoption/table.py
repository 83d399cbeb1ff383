"""
Tables and plots of the rows: `python benchmarks/adoption/table.py --rows runs/adoption/rows --docs docs`.

Prints markdown from the finished rows, and puts it into `results.md` and `results_in_detail.md`; by default from the
included answers. `--keep` writes the answers into one file for each model.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from grid import BUDGET, BUDGETS, COARSE, FRAMES, JUDGED, MAIN_RULES, RULES, SEEDS
from kept_answers import keep, read_all
from verdicts import WIDE, Way, by_way, dense_of, gain, share_of_dense, verdicts

sys.path.append(str(Path(__file__).parents[1]))
from asked import DETAIL, Asked, kind_table, percent, points
from asked_plots import curves
from measuring import markdown_table, put_texts

ANSWERS = Path(__file__).parent / "answers"


def rule_table(found: Mapping[Way, Asked], model: str) -> str:
    """Rules in rows and coarse forms in columns: all questions and details, and whether the event was found."""
    forms = [form for form in COARSE[model] if Way(model, coarse=form) in found]
    lines = []
    for rule in RULES:
        cells = [found.get(Way(model, rule=rule, coarse=form)) for form in forms]
        if any(cells):
            shown = [text for one in cells for text in _three(one)]
            lines.append([f"`{rule}`", *shown])
    for rule in JUDGED:
        blind = [found.get(Way(model, rule=rule, coarse=form, signal="other")) for form in forms]
        if any(blind):
            lines.append([f"`{rule}`, texts of another video", *(text for one in blind for text in _three(one))])
    dense = dense_of(found, model, FRAMES)
    if dense is not None:
        lines.append(["`dense`", *_three(dense), *[""] * (3 * len(forms) - 3)])
    head = [f"`{form}`: {what}" for form in forms for what in ("all", "detail", "found")]
    return markdown_table(["rule", *head], lines)


def _three(asked: Asked | None) -> list[str]:
    if asked is None:
        return ["–"] * 3
    return [percent(asked.shares()), percent(asked.shares(DETAIL)), f"{100 * asked.mean(DETAIL, 'found'):.0f}"]


def costs(found: Mapping[Way, Asked], model: str) -> str:
    """In words: tokens and key frames of each form of coarse frames."""
    parts = []
    for form in COARSE[model]:
        one = found.get(Way(model, coarse=form))
        if one is not None:
            many = "key frame" if one.key_frames == 1 else "key frames"
            parts.append(f"`{form}` {one.tokens} ({100 * share_of_dense(one):.1f} %, {one.key_frames} {many})")
    dense = dense_of(found, model, FRAMES)
    if dense is not None:
        parts.append(f"`dense` {dense.tokens}")
    return "Tokens of a video: " + ", ".join(parts) + "."


def gain_table(found: Mapping[Way, Asked], model: str, rule: str) -> str:
    """What a rule gains over the other rows with the same coarse frames."""
    coarse = COARSE[model][0]
    ours = found.get(Way(model, rule=rule, coarse=coarse))
    if ours is None:
        return ""
    others = {other: found.get(Way(model, rule=other, coarse=coarse)) for other in RULES if other != rule}
    others["dense"] = dense_of(found, model, FRAMES)
    lines = []
    for name, other in others.items():
        if other is not None and (all_kinds := gain(ours, other)):
            by_kind = {kind: one for kind in ours.kinds if (one := gain(ours, other, [kind]))}
            worst = min(by_kind, key=lambda kind: by_kind[kind].estimate)
            lines.append(
                [f"`{name}`", points(all_kinds), points(by_kind[DETAIL]), f"{worst} {points(by_kind[worst])}"]
            )
    head = [f"`{rule}`, `{coarse}`, against", "all questions", "detail", "the kind where it gains least"]
    return markdown_table(head, lines)


def coarse_table(found: Mapping[Way, Asked], model: str, rule: str) -> str:
    """What coarse frames add to a rule without them, by kind of question."""
    alone = found.get(Way(model, rule=rule))
    forms = {form: found.get(Way(model, rule=rule, coarse=form)) for form in COARSE[model] if form != "none"}
    forms = {form: one for form, one in forms.items() if one is not None}
    lines: list[list[str]] = []
    if alone is None:
        return ""
    for kind in [None, *alone.kinds]:
        cells = []
        for one in forms.values():
            added = gain(one, alone, None if kind is None else [kind])
            cells.append("–" if added is None else points(added))
        lines.append([kind or "all questions", *cells])
    return markdown_table([f"`{rule}` against itself with `none`", *(f"`{form}`" for form in forms)], lines)


def share_table(found: Mapping[Way, Asked], model: str) -> str:
    """From key frames alone to many coarse pictures for each: one seed."""
    lines = []
    for form in (form for form in COARSE[model] if form != "none"):
        for rule in ("uniform", *JUDGED):
            some = [way for way in found if way == replace(Way(model, rule=rule, coarse=form), per_key=way.per_key)]
            if len(some) > 1:
                seeds = set.intersection(*(set(found[way].seeds) for way in some))
                ways = sorted([Way(model, rule=rule), *some], key=lambda way: (way.coarse != "none", way.per_key))
                for way in ways:
                    one = found.get(way)
                    if one is not None:
                        one = replace(one, seeds={seed: one.seeds[seed] for seed in seeds & one.seeds.keys()})
                        per_key = "none" if way.coarse == "none" else str(way.per_key)
                        wide = [f"{100 * one.mean(kind):.1f}" for kind in WIDE]
                        lines.append([f"`{rule}`, `{form}`", per_key, str(one.key_frames), *_three(one), *wide])
    if not lines:
        return ""
    head = ["row", "coarse pictures for each key frame", "key frames", "all questions", "detail", "found", *WIDE]
    return markdown_table(head, lines)


def chosen_ways(found: Mapping[Way, Asked], model: str) -> Iterator[tuple[str, Asked]]:
    """The rows of the table by kind of question."""
    for form in COARSE[model]:
        for rule in MAIN_RULES:
            one = found.get(Way(model, rule=rule, coarse=form))
            if one is not None:
                yield one.row, one
    dense = dense_of(found, model, FRAMES)
    if dense is not None:
        yield "dense", dense


def tables(found: Mapping[Way, Asked], model: str) -> str:
    """All tables of one model at 128 frames, as markdown."""
    if Way(model, coarse=COARSE[model][0]) not in found:
        return ""
    some = found[Way(model, coarse=COARSE[model][0])]
    videos = len({record["video"] for records in some.seeds.values() for record in records})
    seeds = ", ".join(map(str, sorted(some.seeds)))
    title = f"**{FRAMES} frames, {BUDGET} of the tokens; {videos} videos (seeds {seeds})**"
    parts = [
        title,
        costs(found, model),
        rule_table(found, model),
        *(gain_table(found, model, rule) for rule in JUDGED),
        *(coarse_table(found, model, rule) for rule in JUDGED),
        share_table(found, model),
        kind_table(dict(chosen_ways(found, model))),
        grid_tables(found, model, FRAMES),
    ]
    return "\n\n".join(part for part in parts if part)


def grid_tables(found: Mapping[Way, Asked], model: str, frames: int) -> str:
    """
    Rules in rows, forms and budgets in columns, on the videos of one seed: a table of all questions, one of details.
    """
    ways = [Way(model, frames, coarse=form, budget=budget) for form in COARSE[model] for budget in BUDGETS]
    columns = {way: {rule: found.get(replace(way, rule=rule)) for rule in RULES} for way in ways}
    columns = {way: some for way, column in columns.items() if (some := {r: one for r, one in column.items() if one})}
    if not columns:
        return ""
    dense = dense_of(found, model, frames)
    title = f"**`{model}`, {frames} frames, seed {SEEDS[0]}; right answers in %**"
    if dense is not None:
        few = f" ({len({one['video'] for one in dense.seeds[SEEDS[0]]})} videos)" if frames > FRAMES else ""
        title += f". `dense`{few}: {_of_first(dense)} of all questions, {_of_first(dense, DETAIL)} of details"
    keys = [str(next(iter(column.values())).key_frames) for column in columns.values()]
    parts = [title + "."]
    for what, kind in {"all questions": None, "details": DETAIL}.items():
        head = [what, *(f"`{way.coarse}` {way.budget}" for way in columns)]
        cells = {rule: [_of_first(column.get(rule), kind) for column in columns.values()] for rule in RULES}
        lines = [[f"`{rule}`", *line] for rule, line in cells.items() if {*line} != {"–"}]
        parts.append(markdown_table(head, [["key frames", *keys], *lines]))
    return "\n\n".join(parts)


def _first(asked: Asked) -> Asked:
    """The answers on the videos of the first seed, which all budgets have."""
    return replace(asked, seeds={seed: records for seed, records in asked.seeds.items() if seed == SEEDS[0]})


def _of_first(asked: Asked | None, kind: str | None = None) -> str:
    """Right answers on the videos of the first seed in %, without decimals."""
    return "–" if asked is None else f"{100 * _first(asked).mean(kind):.0f}"


def length_tables(found: Mapping[Way, Asked]) -> str:
    """The other lengths of video, all models."""
    lengths = sorted({way.frames for way in found} - {FRAMES})
    texts = [grid_tables(found, model, frames) for frames in lengths for model in COARSE]
    return "\n\n".join(text for text in texts if text)


def goal_table(found: Mapping[Way, Asked]) -> str:
    """A table for each model: goals in rows, and each judged rule with two forms of coarse frames in columns."""
    return "\n\n".join(text for model in COARSE if (text := _goals_of(found, model)))


def _goals_of(found: Mapping[Way, Asked], model: str) -> str:
    ways = [(rule, form) for form in COARSE[model][:2] for rule in JUDGED]
    measured = {way: dict(verdicts(found, model, *way)) for way in ways}
    shown = [way for way in ways if measured[way]]
    lines = []
    for goal in dict.fromkeys(goal for way in shown for goal in measured[way]):
        values = [measured[way].get(goal) for way in shown]
        lines.append([goal, *("–" if one is None else f"{'met' if one[1] else 'MISSED'}: {one[0]}" for one in values)])
    head = [f"goal of `{model}`", *(f"`{rule}`, `{form}`" for rule, form in shown)]
    return markdown_table(head, lines) if lines else ""


def plot_lines(found: Mapping[Way, Asked], model: str, frames: int) -> dict[str, list[Asked]]:
    """For each rule and form the points of all budgets, on the videos of the first seed."""
    lines: dict[str, list[Asked]] = {}
    for form in COARSE[model][:2]:
        for rule in MAIN_RULES:
            ways = [way for way in found if way == Way(model, frames, rule, form, way.budget)]
            lines[f"{rule}, {form}"] = [_first(found[way]) for way in ways if way.budget != "dense"]
    dense = dense_of(found, model, frames)
    return {**lines, "dense": [] if dense is None else [_first(dense)]}


def draw(found: Mapping[Way, Asked], folder: Path) -> None:
    """Accuracy against tokens, for each length with several budgets."""
    folder.mkdir(exist_ok=True)
    for model in COARSE:
        for frames in sorted({way.frames for way in found if way.model == model}):
            if len({way.budget for way in found if (way.model, way.frames) == (model, frames)} - {"dense"}) < 2:
                continue
            for name, kind in {"all": None, DETAIL: DETAIL}.items():
                title = f"{model}, {frames} frames: {'questions on a detail' if kind else 'all questions'}"
                figure = curves(plot_lines(found, model, frames), kind, title)
                figure.savefig(folder / f"adoption_{model}_{frames}_{name}.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--rows", type=Path, default=ANSWERS, help="folder of answers")
    parser.add_argument("--docs", type=Path, help="put tables and plots into the pages of results in this folder")
    parser.add_argument("--keep", type=Path, help="write the answers into this folder, a file for each model")
    args = parser.parse_args()
    rows = read_all(args.rows)
    if not rows:
        raise SystemExit(f"{args.rows} holds no finished rows: give --rows WORK/rows of `measure.py`.")
    if args.keep is not None:
        keep(rows, args.keep)
    found = by_way(rows)
    texts = {f"adopted {model}": tables(found, model) for model in COARSE}
    texts["adopted lengths"] = length_tables(found)
    reached = goal_table(found)
    print("\n\n".join(text for text in (*texts.values(), reached) if text))
    if args.docs is None:
        return
    put_texts(args.docs / "results_in_detail.md", {name: text for name, text in texts.items() if text})
    if reached:
        put_texts(args.docs / "results.md", {"adopted goals": reached})
    draw(found, args.docs / "images")


if __name__ == "__main__":
    main()
