"""Compares two runs of one benchmark, question by question: is the difference more than chance?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .files import flat_settings
from .run_folder import Run
from .scoring import Unit, accuracy, macro_group, units
from .statistics import PairedDifference, paired_difference

#: Settings that differ between any two runs, or follow from others.
_ASIDE = ("about", "command", "date", "num_processes", "videos", "judge", "num_questions")


@dataclass(frozen=True)
class Difference:
    """
    The difference on the questions (or pairs) of one group, or on all.

    Args:
        name: "duration: short".
        first, second: accuracies of the two runs.
        interval ([`PairedDifference`]): interval of `second - first`, clustered by video, with its p-value.
        only_first, only_second: number of questions that only this run answered correctly.
        total: number of questions of both runs.
    """

    name: str
    first: float
    second: float
    interval: PairedDifference
    only_first: int
    only_second: int
    total: int

    @property
    def num_differing(self) -> int:
        """Number of questions that only one of the two runs answered correctly."""
        return self.only_first + self.only_second

    @property
    def is_significant(self) -> bool:
        """Whether p is below 0.05: then, and only then, the interval excludes 0."""
        return self.interval.p_value < 0.05


@dataclass(frozen=True)
class Comparison:
    """
    The comparison of two runs.

    Args:
        first, second ([`Run`]).
        all ([`Difference`]): difference of the main score's accuracy.
        groups ([`Difference`]): differences by group.
        num_videos, left_out: number of videos of the common questions, and of questions that are in only one run.
        settings: the settings that differ between the runs: name, first, second.
        judges: judges of the two runs: models and hashes of prompts.
    """

    first: Run
    second: Run
    all: Difference
    groups: list[Difference]
    num_videos: int
    left_out: int
    settings: list[tuple[str, Any, Any]]
    judges: tuple[list[str], list[str]]


def compare_runs(first: Run, second: Run) -> Comparison:
    """
    Compare two finished runs on their common questions.

    Raises:
        `ValueError`: a run is not finished, or the runs have different benchmarks or no common questions.
    """
    main_scores = [_finished(run)["main_score"] for run in (first, second)]
    names = first.settings["benchmark"], second.settings["benchmark"]
    if names[0] != names[1]:
        raise ValueError(f"{first.folder} is a run of {names[0]} and {second.folder} of {names[1]}: nothing compares.")
    _check_references(first, second)
    one, other = ({unit.id: unit for unit in units(run.answers)} for run in (first, second))
    for run, counted in ((first, one), (second, other)):
        if not counted:
            raise ValueError(
                f"{run.folder}: none of its answers is known to be right or wrong (not judged, judged by points "
                "alone, or halves of pairs), so that nothing compares."
            )
    common = [key for key in one if key in other]
    if not common:
        raise ValueError(f"{first.folder} and {second.folder} have no question in common that both have a verdict on.")
    a, b = [one[key] for key in common], [other[key] for key in common]
    macro = macro_group(main_scores[0], a)
    groups = []
    for group in dict.fromkeys(name for unit in a for name in unit.groups):
        for value in dict.fromkeys(unit.groups[group] for unit in a if group in unit.groups):
            some = [index for index, unit in enumerate(a) if unit.groups.get(group) == value]
            groups.append(_difference(f"{group}: {value}", [a[i] for i in some], [b[i] for i in some], None))
    return Comparison(
        first=first,
        second=second,
        all=_difference("all", a, b, macro),
        groups=groups,
        num_videos=len({unit.video for unit in a}),
        left_out=len(one.keys() ^ other.keys()),
        settings=_differing_settings(first, second),
        judges=(_judges(first), _judges(second)),
    )


def print_comparison(console: Console, found: Comparison) -> None:
    """Print a table, whether the difference is significant, and what else a reader must know."""
    title = found.first.settings["about"]["title"]
    console.print(Text(f"{title}: A is {found.first.folder}, B is {found.second.folder}", style="bold"))
    table = Table(box=None, padding=(0, 1, 0, 0))  # it fits 80 columns
    for heading in ("", "A", "B", "B − A", "95 % interval", "p", "only A", "only B", "of"):
        table.add_column(heading, justify="right" if heading else "left", header_style="dim", no_wrap=bool(heading))
    for one in (found.all, *found.groups):
        interval = f"{_points(one.interval.low)} … {_points(one.interval.high)}"
        table.add_row(
            Text(one.name, style="bold" if one is found.all else ""),
            *(f"{100 * share:.1f} %" for share in (one.first, one.second)),
            Text(_points(one.interval.estimate), style="bold" if one.is_significant else ""),
            *((interval, _p(one.interval.p_value)) if one.num_differing else ("none differs", "–")),
            *(f"{count:,}" for count in (one.only_first, one.only_second, one.total)),
        )
        if one is found.all and found.groups:
            table.add_section()
    console.print(table)
    console.print(Text(_conclusion(found.all), style="bold"))
    console.print(
        f"Differences are in points; only A: questions that A alone got right. Intervals and p are clustered by video "
        f"({found.num_videos:,} videos) and exact for few differences; an interval excludes 0 exactly where p < 0.05."
    )
    if found.groups:
        console.print("One of twenty 95 % intervals misses the truth: one group alone proves little.", style="dim")
    if found.left_out:
        console.print(
            f"{found.left_out:,} questions have a verdict in one of the runs only, and are left out.", style="yellow"
        )
    for name, run in (("A", found.first), ("B", found.second)):
        if failures := _finished(run)["failures"]:
            console.print(f"{failures:,} questions of {name} could not be asked, and count as wrong.", style="yellow")
    if found.judges[0] != found.judges[1]:
        names = " and ".join(", ".join(one) or "no judge" for one in found.judges)
        console.print(Text(f"A and B were judged differently, by {names}: that alone makes a difference.", "yellow"))
    for name, one, other in found.settings:
        console.print(Text(f"{name}: {one} → {other}", style="dim"))


def _finished(run: Run) -> dict[str, Any]:
    if run.result is None:
        raise ValueError(f"{run.folder}: is not finished; run the command that began it again.")
    return run.result


def _check_references(first: Run, second: Run) -> None:
    """Checks that questions of the same id are equal: the data set may have changed between the runs."""
    known = {line["id"]: line for line in first.answers}
    for line in second.answers:
        before = known.get(line["id"])
        if before is not None and (before["reference"], before["video"]) != (line["reference"], line["video"]):
            raise ValueError(
                f"{first.folder} and {second.folder} were asked other questions: {line['id']} is about "
                f"{before['video']} with the answer {before['reference']!r} in one, and about {line['video']} with "
                f"{line['reference']!r} in the other."
            )


def _difference(name: str, a: Sequence[Unit], b: Sequence[Unit], macro: str | None) -> Difference:
    right_a, right_b, videos = _columns(a, b)
    members = None if macro is None else [unit.groups[macro] for unit in a]
    return Difference(
        name=name,
        first=accuracy(a, macro),
        second=accuracy(b, macro),
        interval=paired_difference(right_a, right_b, videos, members),
        only_first=sum(x and not y for x, y in zip(right_a, right_b, strict=True)),
        only_second=sum(y and not x for x, y in zip(right_a, right_b, strict=True)),
        total=len(a),
    )


def _columns(a: Sequence[Unit], b: Sequence[Unit]) -> tuple[list[bool], list[bool], list[str]]:
    return [unit.correct for unit in a], [unit.correct for unit in b], [unit.video for unit in a]


def _differing_settings(first: Run, second: Run) -> list[tuple[str, Any, Any]]:
    one, other = flat_settings(first.settings), flat_settings(second.settings)
    names = [name for name in dict.fromkeys([*one, *other]) if name.split(".")[0] not in _ASIDE]
    return [(name, one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)]


def _judges(run: Run) -> list[str]:
    return [f"{one['model']} (prompt {one['prompt_hash']})" for one in _finished(run)["judge"] or ()]


def _conclusion(found: Difference) -> str:
    """Whether the difference is significant, in words."""
    if not found.num_differing:
        return (
            f"No answer differs: A and B are right and wrong on the same of {found.total:,} questions, and cannot be "
            "told apart."
        )
    p_value = _p(found.interval.p_value)
    numbers = (
        f"{found.num_differing:,} of {found.total:,} answers differ, p {p_value if '<' in p_value else f'= {p_value}'}"
    )
    if not found.is_significant:
        return f"A and B cannot be told apart: {numbers}."
    return f"{'B' if found.interval.estimate > 0 else 'A'} is better: {numbers}."


def _points(share: float) -> str:
    """A difference in percentage points; small differences are not shown as 0."""
    points = 100 * share + 0.0
    return f"{points:+.1f}" if points == 0 or abs(points) >= 0.05 else f"{points:+.1g}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3g}"


__all__ = ["Comparison", "Difference", "compare_runs", "print_comparison"]
