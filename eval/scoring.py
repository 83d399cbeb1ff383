"""Scores answers with the benchmark's metric."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .benchmarks.base import Benchmark, Question
from .judge import Judge
from .metrics.judged_video_qa import judged_video_qa
from .metrics.multiple_choice_accuracy import multiple_choice_accuracy
from .metrics.paired_hallucination_accuracy import paired_hallucination_accuracy
from .metrics.video_qa_accuracy import video_qa_accuracy
from .statistics import bootstrap_accuracy

_OPEN_ENDED = "open_ended"
Line = dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """The unit of an accuracy: a question, or both halves of a pair. Videos that are joined by pairs have one name."""

    id: str
    correct: bool
    video: str
    groups: Mapping[str, str]


def grade(metric: str, question: Question, output: str) -> tuple[Any, bool | None]:
    """
    Grade one answer.

    Returns:
        The parsed answer (`None` if there is none), and whether it is right (`None` if a judge has to decide).
    """
    if metric == "multiple_choice_accuracy":
        chosen = multiple_choice_accuracy.parse_choice(output, list(question.options or ()))
        return chosen, chosen == question.reference
    if metric == "paired_hallucination_accuracy":
        said = paired_hallucination_accuracy.parse_yes_no(output)
        return said, said == question.reference
    said = video_qa_accuracy.normalize_answer(output)
    if metric == "judged_video_qa":
        return said, None
    return said, said == video_qa_accuracy.normalize_answer(str(question.reference))


def score(benchmark: Benchmark, questions: Sequence[Question], lines: Sequence[Line]) -> dict[str, Any]:
    """
    The scores of answered questions: those of the benchmark's metric, and `score` (its main one), `interval` (95 % of
    it if it is an accuracy, by a bootstrap over videos), `failures` (questions that could not be asked, which count as
    wrong), `answered_accuracy` (without these; like the score, over pairs or as a mean of groups),
    `mean_visual_tokens`.

    Args:
        lines: lines of answers.jsonl, one for each question in order; with `verdicts` if a judge was used.
    """
    failures = sum(line["error"] is not None for line in lines)
    metric = benchmark.metric
    if metric == "judged_video_qa" and not any("verdicts" in line for line in lines):
        # Without a judge there is no main score, but the number of answers that match word by word is of interest.
        metric = "video_qa_accuracy"
        # A judge can compare with a reference that has no words.
        kept = [place for place, question in enumerate(questions) if _has_words(question.reference)]
        found = _short_answers([questions[place] for place in kept], [lines[place] for place in kept]) if kept else {}
    else:
        found = _METRICS[metric](questions, lines)
    if "unparsable" in found:
        # For the metric, a question that was not asked has an empty answer.
        found["unparsable"] -= failures
    counted, answered = units(lines), units([line for line in lines if line["error"] is None])
    macro = macro_group(benchmark.main_score, counted)
    tokens = [line["num_visual_tokens"] for line in lines if line["num_visual_tokens"] is not None]
    return {
        "benchmark": benchmark.name,
        "metric": metric,
        "main_score": benchmark.main_score,
        "score": main_score(found, benchmark.main_score) if metric == benchmark.metric else None,
        "interval": accuracy_interval(counted, macro),
        "total": len(lines),
        "failures": failures,
        "answered_accuracy": accuracy(answered, macro) if answered else None,
        "mean_visual_tokens": sum(tokens) / len(tokens) if tokens else None,
        "scores": found,
    }


def check_scorable(benchmark: Benchmark, questions: Sequence[Question]) -> None:
    """Raises the metric's `ValueError` for references that it cannot compare with, before any question is asked."""
    if benchmark.metric != "judged_video_qa":
        _METRICS[benchmark.metric](questions, [{"output": None}] * len(questions))


def units(lines: Sequence[Mapping[str, Any]]) -> list[Unit]:
    """The units of the accuracy: questions, or pairs of them. Those without a verdict are left out."""
    found: dict[str, Unit] = {}
    pairs: dict[str, int] = {}
    joined: dict[str, str] = {}

    def cluster(video: str) -> str:
        while joined.get(video, video) != video:
            video = joined[video]
        return video

    for line in lines:
        if line["correct"] is None:
            continue
        pair = line.get("pair")
        key = line["id"] if pair is None else pair
        before = found.get(key)
        right = line["correct"] and (before is None or before.correct)
        found[key] = Unit(key, right, line["video"] if before is None else before.video, line["groups"])
        pairs[key] = pairs.get(key, 0) + (pair is not None)
        # The videos of both halves are resampled together.
        joined[cluster(line["video"])] = cluster(found[key].video)
    # A pair of which a limit left only one half cannot be graded.
    return [replace(unit, video=cluster(unit.video)) for key, unit in found.items() if pairs[key] != 1]


def macro_group(name: str, counted: Sequence[Unit]) -> str | None:
    """The group whose values' mean is the main score: "task" for "macro.task"; `None` for one over all questions."""
    if name.partition(".")[0] != "macro" or not counted:
        return None
    return name.partition(".")[2] or next(iter(counted[0].groups))


def accuracy(counted: Sequence[Unit], macro: str | None = None) -> float:
    """The share of right units, or the mean of these shares over the values of a group."""
    members: dict[str | None, list[bool]] = {}
    for unit in counted:
        members.setdefault(None if macro is None else unit.groups[macro], []).append(unit.correct)
    return sum(sum(some) / len(some) for some in members.values()) / len(members)


def accuracy_interval(counted: Sequence[Unit], macro: str | None = None) -> list[float] | None:
    """The 95 % interval of the accuracy (or of the mean over the values of a group), by a bootstrap over videos."""
    if not counted:
        return None
    found = bootstrap_accuracy(
        [unit.correct for unit in counted],
        [unit.video for unit in counted],
        None if macro is None else [unit.groups[macro] for unit in counted],
    )
    return [found.low, found.high]


def main_score(scores: Mapping[str, Any], name: str) -> float | None:
    """`scores["macro"]["task"]` by "macro.task"; "macro" alone if there is only one group."""
    value: Any = scores
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping):
        value = next(iter(value.values())) if len(value) == 1 else None
    return value


def judge_lines(
    questions: Sequence[Question],
    lines: Sequence[Line],
    model: str,
    cache: Path,
    on_progress: Callable[[int, int], None] | None = None,
    make_judge: Callable[..., Judge] = Judge,
) -> list[dict[str, Any]]:
    """
    Have all answers judged; `correct` and `verdicts` of the lines are filled in.

    Args:
        model: the judge's model, see [`Judge`].
        cache: the file that keeps the verdicts.

    Returns:
        The judge's record for each of its prompts.
    """
    records = []
    for line in lines:
        # Verdicts of an earlier judge are dropped.
        line.update(verdicts={}, correct=None)
    for prompt in dict.fromkeys(aspect for question in questions for aspect in question.aspects or (_OPEN_ENDED,)):
        judge = make_judge(model, cache=cache, prompt=prompt)
        rows = _rows_of(prompt, questions, lines)
        verdicts = judge.verdicts([row for row, _ in rows], on_progress)
        for verdict, (_, line) in zip(verdicts, rows, strict=True):
            line["verdicts"][prompt] = verdict.prediction
            if verdict.correct is not None:
                line["correct"] = verdict.correct
        records.append(judge.record())
    return records


def _rows_of(prompt: str, questions: Sequence[Question], lines: Sequence[Line]) -> list[tuple[dict[str, Any], Line]]:
    """The rows for the judge, and the line that each verdict belongs to (for a pair, the line of its first half)."""
    asked = [
        (question, line)
        for question, line in zip(questions, lines, strict=True)
        if prompt in (question.aspects or (_OPEN_ENDED,))
    ]
    seconds = {question.pair: (question, line) for question, line in asked if question.half == "second"}
    rows = []
    for question, line in asked:
        row = {
            "id": question.id,
            "question": question.question or question.prompt,
            "reference": str(question.reference),
            "prediction": line["output"],
        }
        if prompt == "consistency":
            if question.half == "second":
                continue
            if question.pair not in seconds:
                continue  # cut in two by a limit
            other, other_line = seconds[question.pair]
            row |= {"question_2": other.question or other.prompt, "prediction_2": other_line["output"]}
        rows.append((row, line))
    return rows


def _has_words(reference: Any) -> bool:
    return bool(video_qa_accuracy.normalize_answer(str(reference)))


def _outputs(lines: Sequence[Line]) -> list[str]:
    return [line["output"] or "" for line in lines]


def _groups(questions: Sequence[Question]) -> list[dict[str, str]] | None:
    groups = [dict(question.groups) for question in questions]
    return groups if any(groups) else None


def _choices(questions: Sequence[Question], lines: Sequence[Line]) -> dict[str, Any]:
    return multiple_choice_accuracy.compute(
        predictions=_outputs(lines),
        references=[question.reference for question in questions],
        options=[list(question.options or ()) for question in questions],
        groups=_groups(questions),
    )


def _short_answers(questions: Sequence[Question], lines: Sequence[Line]) -> dict[str, Any]:
    return video_qa_accuracy.compute(
        predictions=_outputs(lines),
        references=[str(question.reference) for question in questions],
        groups=_groups(questions),
    )


def _pairs(questions: Sequence[Question], lines: Sequence[Line]) -> dict[str, Any]:
    return paired_hallucination_accuracy.compute(
        predictions=_outputs(lines),
        references=[question.reference for question in questions],
        pairs=[str(question.pair) for question in questions],
        halves=[str(question.half) for question in questions],
        groups=_groups(questions),
    )


def _judged(questions: Sequence[Question], lines: Sequence[Line]) -> dict[str, Any]:
    """The scores by each of the judge's prompts; those of "open_ended" only are returned directly."""
    found = {}
    for prompt in dict.fromkeys(prompt for line in lines for prompt in line["verdicts"]):
        pairs = [
            (question, line) for question, line in zip(questions, lines, strict=True) if prompt in line["verdicts"]
        ]
        found[prompt] = judged_video_qa.compute(
            predictions=[line["verdicts"][prompt] for _, line in pairs],
            groups=_groups([question for question, _ in pairs]),
        )
    if list(found) == [_OPEN_ENDED]:
        return found[_OPEN_ENDED]
    scores = [one["score"] for one in found.values() if one["score"] is not None]
    return {"score": sum(scores) / len(scores) if scores else None, "by_aspect": found}


_METRICS: dict[str, Callable[..., dict[str, Any]]] = {
    "multiple_choice_accuracy": _choices,
    "video_qa_accuracy": _short_answers,
    "judged_video_qa": _judged,
    "paired_hallucination_accuracy": _pairs,
}

__all__ = [
    "Unit",
    "accuracy",
    "accuracy_interval",
    "check_scorable",
    "grade",
    "judge_lines",
    "macro_group",
    "main_score",
    "score",
    "units",
]
