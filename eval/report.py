"""The results of a run: on the terminal, as a page with plots, for the Hub, and for a model card."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .plots import Bar, accuracy_figure, group_bars, number_bars, times_figure
from .run_folder import Run
from .scoring import units

_DPI = 130
_CAPTIONS = {
    "Accuracy by group": "The shorter the line, the surer the number.",
    "Accuracy by length and tokens": "Questions in bins of equal size.",
    "Times": "Median, quartiles, and the middle 90 % of the questions.",
}
_FEW_FAILURES = 5
_NAMES = {
    "multiple_choice_accuracy": "accuracy",
    "video_qa_accuracy": "accuracy by equal words",
    "judged_video_qa": "judged",
    "paired_hallucination_accuracy": "accuracy of pairs",
}


def print_summary(console: Console, run: Run) -> None:
    """Print the scores of a finished run as a table, with remarks. Raises a `ValueError` for an unfinished run."""
    result = _result(run)
    console.print(Text.assemble((_title(run), "bold"), f" · {run.settings['model']['id']}"))
    console.print(Text(_headline(run), style="bold green"))
    for group in _groups(run):
        table = Table(box=None, title=group, title_justify="left", title_style="dim")
        for heading in (group, "accuracy", "95 % interval", "questions"):
            table.add_column(heading, justify="left" if heading == group else "right", header_style="dim")
        for name, share, interval, total in group_bars(units(run.answers), group):
            table.add_row(Text(name), _percent(share), _range(interval), f"{total:,}")
        console.print(table)
    for aspect, found in result["scores"].get("by_aspect", {}).items():
        console.print(Text(f"{aspect}: {_points(found['score'])}"))
    for sentence in remarks(run):
        console.print(Text(sentence, style="yellow"))


def write_report(run: Run) -> list[Path]:
    """
    Write `report.md` with its plots, `card_section.md` and, for a whole benchmark on the Hub,
    `.eval_results/NAME.yaml` into the run's folder.

    Raises:
        `ValueError`: the run is not finished.
    """
    _result(run)
    plots = _write_plots(run)
    written = [run.folder / "report.md", run.folder / "card_section.md"]
    written[0].write_text(_page(run, plots), encoding="utf-8")
    written[1].write_text(_card_section(run), encoding="utf-8")
    entries = eval_results(run)
    if entries:
        path = run.folder / ".eval_results" / f"{run.settings['benchmark']}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(entries, sort_keys=False, allow_unicode=True), encoding="utf-8")
        written.append(path)
    return written + [run.folder / name for name in plots.values()]


def eval_results(run: Run) -> list[dict[str, Any]]:
    """
    The score in the form of `.eval_results/*.yaml`, by which the Hub shows it at the model and on the data set's
    leaderboard; empty for a set that is not on the Hub, a part of the questions, or answers that were not judged.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    result, settings = _result(run), run.settings
    if settings["about"]["local"] or settings["limit"] is not None or result["score"] is None:
        return []
    data = settings["data"]
    value = result["score"] if _is_points(result) else 100 * result["score"]
    entry = EvalResultEntry(
        dataset_id=data["id"],
        # The name in the data set's eval.yaml, if it has one.
        task_id=data["config"] if isinstance(data["config"], str) else "default",
        value=round(value, 2),
        dataset_revision=data["revision"],
        date=settings["date"],
        notes="; ".join([f"DynFocus {settings['versions'].get('dynfocus')}", *_setup(run), *_provisos(result)]),
    )
    return eval_result_entries_to_yaml([entry])


def remarks(run: Run) -> list[str]:
    """What a reader must know before quoting the score, as one sentence each."""
    result, settings = _result(run), run.settings
    found = []
    if settings["limit"] is not None:
        found.append(f"Only the first {len(run.answers)} questions were asked: this is no result of {_title(run)}.")
    if result["failures"]:
        reasons = Counter(line["error"] for line in run.answers if line["error"] is not None)
        examples = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common(_FEW_FAILURES))
        alone = result["answered_accuracy"]
        without = "" if alone is None else f" (without them: {_percent(alone)})"
        found.append(
            f"{result['failures']} of {result['total']} questions could not be asked and count as wrong{without}: "
            f"{examples}"
        )
    unparsable = result["scores"].get("unparsable")
    if unparsable:
        found.append(
            f"{unparsable} of {result['total']} answers name no option and count as wrong: nothing is guessed."
        )
    if result["score"] is None and result["metric"] == "video_qa_accuracy":
        found.append(
            "The answers were not judged: what is shown counts equal words, and compares with nothing published."
        )
    for record in result["judge"] or ():
        unjudged = {status: record[status] for status in ("refused", "malformed", "failed") if record.get(status)}
        notes = "".join(f", {count} {status}" for status, count in unjudged.items())
        found.append(
            f"Judged by {record['model']} ({record.get('prompt')}, prompt {record['prompt_hash']}, {record['date']}): "
            f"{record.get('judged')} judged{notes}. Scores of other judges or prompts do not compare."
        )
    if settings["data"]["id"] != settings["about"]["dataset"]:
        found.append(
            f"{settings['about']['dataset']} was not found: the questions are those of {settings['data']['id']}."
        )
    if settings["about"]["notes"]:
        found.append(settings["about"]["notes"])
    return found


def _result(run: Run) -> dict[str, Any]:
    if run.result is None:
        raise ValueError(
            f"{run.folder}: is not finished, {len(run.answers)} of {run.settings['num_questions']} questions are "
            "answered; run the command that began it again."
        )
    return run.result


def _write_plots(run: Run) -> dict[str, str]:
    """Write the plots; returns their titles and file names."""
    counted, figures = units(run.answers), {}
    if counted:
        overall = sum(unit.correct for unit in counted) / len(counted)
        panels = [(group, group_bars(counted, group)) for group in _groups(run)]
        if panels:
            figures["Accuracy by group"] = "accuracy_by_group.png", accuracy_figure(panels, overall)
        numbers: list[tuple[str, list[Bar]]] = [
            ("length of the video", number_bars(run.answers, "duration", " s")),
            ("visual tokens of the video", number_bars(run.answers, "num_visual_tokens", "")),
        ]
        numbers = [(title, bars) for title, bars in numbers if len(bars) > 1]
        if numbers:
            figures["Accuracy by length and tokens"] = "accuracy_by_length.png", accuracy_figure(numbers, overall)
    if run.timings:
        figures["Times"] = "times.png", times_figure(run.timings)
    for name, figure in figures.values():
        figure.savefig(run.folder / name, dpi=_DPI)
    return {title: name for title, (name, _) in figures.items()}


def _page(run: Run, plots: Mapping[str, str]) -> str:
    settings, result = run.settings, _result(run)
    parts = [
        f"# {_title(run)}: {_score(run)}",
        f"`{settings['model']['id']}` on {_linked(run)}.",
    ]
    parts.append(f"**{_headline(run)}**")
    parts.append("\n".join(f"- {sentence}" for sentence in remarks(run)))
    tables = []
    for group in _groups(run):
        rows = [
            (_cell(name), _percent(share), _range(interval), f"{total:,}")
            for name, share, interval, total in group_bars(units(run.answers), group)
        ]
        tables.append(_table((group, "accuracy", "95 % interval", "questions"), rows))
    for aspect, found in result["scores"].get("by_aspect", {}).items():
        tables.append(f"{aspect}: {_points(found['score'])}, {found['judged']} of {found['total']} judged")
    if tables:
        parts += ["## By group", *tables]
    parts += [f"## {title}\n\n{_CAPTIONS[title]}\n\n![{title}]({name})" for title, name in plots.items()]
    if settings["about"]["published"]:
        parts += ["## Published numbers", _published(run)]
    parts += ["## What made these numbers", _table(("", ""), _facts(run))]
    parts += ["The prompt, by the first question:", f"```text\n{settings['prompts']['example']}\n```"]
    parts += ["## Run it again", f"```\n{_launched(settings)}\n```"]
    failed = [line for line in run.answers if line["error"] is not None]
    if failed:
        why = [(_cell(line["id"]), _cell(line["video"]), _cell(line["error"])) for line in failed[:20]]
        more = [f"… and {len(failed) - 20} more in `answers.jsonl`."] if len(failed) > 20 else []
        parts += ["## Questions that could not be asked", _table(("question", "video", "why"), why), *more]
    return "\n\n".join(part for part in parts if part) + "\n"


def _published(run: Run) -> str:
    result, settings = _result(run), run.settings
    form = (lambda value: f"{value:.2f}") if _is_points(result) else (lambda value: f"{value:.1f} %")
    rows = [(f"**this run** (`{_cell(settings['model']['id'])}`)", f"**{_score(run)}**")]
    rows += [(_cell(name), form(value)) for name, value in settings["about"]["published"].items()]
    return (
        f"{_table(('model', 'score'), rows)}\n\nOthers' numbers are quoted, not run again: they come of other "
        f"backbones, frames, prompts and ways to read an answer. This run: {'; '.join(_setup(run))}."
    )


def _card_section(run: Run) -> str:
    settings, result = run.settings, _result(run)
    interval = _range(result["interval"]) if result["interval"] else "–"
    row = (
        _linked(run),
        _score(run),
        interval,
        f"{result['total']:,}",
        "; ".join(_setup(run)),
    )
    table = _table(("benchmark", "score", "95 % interval", "questions", "setup"), [row])
    notes = "\n".join(f"- {sentence}" for sentence in remarks(run))
    return f"## Evaluation\n\n{table}\n\n{notes}\n\n```\n{_launched(settings)}\n```\n"


def _setup(run: Run) -> list[str]:
    settings = run.settings
    sampling = settings["sampling"]
    parts = [f"{sampling['fps']:g} fps" if sampling["fps"] else "frames as the model was saved"]
    parts += [f"at most {sampling['max_frames']} frames"] if sampling["max_frames"] else []
    parts += [f"at most {sampling['max_visual_tokens']} visual tokens"] if sampling["max_visual_tokens"] else []
    tokens = _result(run)["mean_visual_tokens"]
    parts += [] if tokens is None else [f"{tokens:,.0f} visual tokens a question on average"]
    parts += [name if value is True else f"{name}: {value}" for name, value in settings["options"].items() if value]
    return [*parts, settings["dtype"] or "on a server"]


def _provisos(result: Mapping[str, Any]) -> list[str]:
    """The most important remarks, for places with room for a few words only."""
    failures = f"{result['failures']} of {result['total']} questions could not be asked and count as wrong"
    judges = dict.fromkeys(
        f"judged by {one['model']} ({one.get('prompt')}, prompt {one['prompt_hash']}, {one['date']})"
        for one in result["judge"] or ()
    )
    return [failures] * bool(result["failures"]) + list(judges)


def _facts(run: Run) -> list[tuple[str, str]]:
    settings = run.settings
    model, data = settings["model"], settings["data"]
    config = f", {data['config']}" if isinstance(data["config"], str) else ""
    facts = [
        ("model", f"`{model['id']}`, {model['revision'] or model['weights']}"),
        ("data", f"`{data['id']}`{config}, {data['split']}, {data['revision']}"),
        ("questions", f"{settings['num_questions']:,} on {len({line['video'] for line in run.answers}):,} videos"),
        ("setup", "; ".join(_setup(run))),
        ("generation", ", ".join(f"{name}={value}" for name, value in settings["generation"].items())),
        ("batch size, seed", f"{settings['batch_size']}, {settings['seed']}"),
        ("prompts", settings["prompts"]["hash"]),
        ("device", settings["device_name"]),
        ("versions", ", ".join(f"{name} {number}" for name, number in settings["versions"].items())),
        ("date", settings["date"]),
    ]
    return [(name, _cell(str(value))) for name, value in facts]


def _launched(settings: Mapping[str, Any]) -> str:
    count, command = settings["num_processes"], settings["command"]
    return command.replace("python -m", f"torchrun --nproc_per_node {count} -m", 1) if count > 1 else command


def _title(run: Run) -> str:
    return run.settings["about"]["title"]


def _linked(run: Run) -> str:
    url = run.settings["about"]["url"]
    return f"[{_title(run)}]({url})" if url else _title(run)


def _headline(run: Run) -> str:
    result = _result(run)
    interval = f" (95 % interval {_range(result['interval'])}, over videos)" if result["interval"] else ""
    metric = _NAMES[result["metric"]]
    if result["main_score"].startswith("macro"):
        metric += ", mean of groups"
    return f"{_score(run)} {metric}{interval} on {result['total']:,} questions"


def _score(run: Run) -> str:
    result = _result(run)
    value = result["score"]
    if value is None:
        value = result["scores"].get("accuracy")
    return _points(value) if _is_points(result) else _percent(value)


def _is_points(result: Mapping[str, Any]) -> bool:
    """Whether the main score is the judge's, from 0 to 5."""
    return result["metric"] == "judged_video_qa" and result["main_score"] == "score"


def _groups(run: Run) -> list[str]:
    """The names of groups with more than one value, in the benchmark's order."""
    present = {name for unit in units(run.answers) for name in unit.groups}
    named = [name for name in run.settings["about"]["groups"] if name in present]
    return named + sorted(present - set(named))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _points(score: float | None) -> str:
    return "–" if score is None else f"{score:.2f} of 5"


def _range(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f} %"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


__all__ = ["eval_results", "print_summary", "remarks", "write_report"]
