"""Accuracy and mean score of judged answers, from the judge's verdicts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate

_DESCRIPTION = """\
Accuracy and mean score (0 to 5) of open answers, from the verdicts of a judge, such as a language model that compares
each answer with a reference. Answers without a verdict (refused, malformed, failed) are counted apart and have no part
in the means.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: verdicts, each {"correct": bool or None, "score": 0 to 5, "status": "judged"}; for prompts that ask for
        a score alone "correct" is None. Other statuses are "refused", "malformed" and "failed"; None is "failed".
    groups: what to report by: for each question a mapping such as {"type": "motion"}. It is given to `compute`, also
        where verdicts came by `add_batch`, in the order of the verdicts.
Returns:
    accuracy: answers judged correct / answers judged; None where verdicts are scores alone.
    score: mean score of the answers judged; None where none was.
    macro: for each name of groups the mean of its values' accuracies (of scores, where verdicts are scores alone).
    by_group: for each name of groups and each of its values "accuracy", "score", "judged" and "total".
    judged, refused, malformed, failed: numbers of verdicts.
    total: number of questions.
Examples:
    >>> metric = evaluate.load("judged_video_qa")
    >>> verdicts = [{"status": "judged", "correct": True, "score": 4}, {"status": "refused", "correct": None, "score": None}]
    >>> metric.compute(predictions=verdicts)
    {'accuracy': 1.0, 'score': 4.0, 'macro': {}, 'by_group': {}, 'judged': 1, 'refused': 1, 'malformed': 0, 'failed': 0, 'total': 2}
"""  # noqa: E501

_CITATION = """\
@inproceedings{maaz2024videochatgpt,
  title     = {Video-ChatGPT: Towards Detailed Video Understanding via Large Vision and Language Models},
  author    = {Maaz, Muhammad and Rasheed, Hanoona and Khan, Salman and Khan, Fahad Shahbaz},
  booktitle = {ACL},
  year      = {2024}
}
"""

_UNJUDGED = ("refused", "malformed", "failed")
MAX_SCORE = 5


def compute(
    predictions: Sequence[Mapping[str, Any] | None], groups: Sequence[Mapping[str, str]] | None = None
) -> dict[str, Any]:
    """Accuracy, mean score and the numbers of verdicts of each kind; see the metric's description.

    Raises:
        ValueError: for no verdicts, other lengths of groups, a score outside of 0 to 5, an unknown status, or verdicts
            that say "correct" on some answers and only a score on others.
    """
    if not len(predictions):
        raise ValueError("There are no predictions, but means of verdicts need at least one.")
    if groups is not None and len(groups) != len(predictions):
        raise ValueError(f"There are {len(predictions)} predictions but {len(groups)} groups; give one for each.")
    verdicts = [_checked(place, verdict) for place, verdict in enumerate(predictions)]
    decided = {verdict["correct"] is not None for verdict in verdicts if verdict["status"] == "judged"}
    if len(decided) > 1:
        raise ValueError(
            "Some verdicts say whether the answer is correct and others do not; use one judge's prompt for all."
        )
    statuses = Counter(verdict["status"] for verdict in verdicts)
    members: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for verdict, named in zip(verdicts, groups or [{}] * len(verdicts), strict=True):
        for name, value in named.items():
            members.setdefault(name, {}).setdefault(value, []).append(verdict)
    details = {
        name: {value: {**_means(some), "judged": _judged(some), "total": len(some)} for value, some in values.items()}
        for name, values in members.items()
    }
    headline = "score" if decided == {False} else "accuracy"
    return {
        **_means(verdicts),
        "macro": {name: _mean([one[headline] for one in values.values()]) for name, values in details.items()},
        "by_group": details,
        **{status: statuses[status] for status in ("judged", *_UNJUDGED)},
        "total": len(verdicts),
    }


def _with_all_fields(verdict: Mapping[str, Any] | None) -> dict[str, Any]:
    verdict = {"status": "failed"} if verdict is None else verdict
    return {"status": "judged", "correct": None, "score": None, **verdict}


def _checked(place: int, verdict: Mapping[str, Any] | None) -> dict[str, Any]:
    verdict = _with_all_fields(verdict)
    score = verdict["score"]
    if verdict["status"] not in ("judged", *_UNJUDGED):
        raise ValueError(
            f"predictions[{place}] has the status {verdict['status']!r}, but the statuses are judged, "
            f"{', '.join(_UNJUDGED)}."
        )
    if verdict["status"] == "judged" and (score is None or not 0 <= score <= MAX_SCORE):
        raise ValueError(
            f"predictions[{place}] has the score {score}, but a verdict's score lies between 0 and {MAX_SCORE}."
        )
    return verdict


def _judged(verdicts: Sequence[Mapping[str, Any]]) -> int:
    return sum(verdict["status"] == "judged" for verdict in verdicts)


def _means(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    judged = [verdict for verdict in verdicts if verdict["status"] == "judged"]
    decided = [verdict["correct"] for verdict in judged if verdict["correct"] is not None]
    return {"accuracy": _mean(decided), "score": _mean([verdict["score"] for verdict in judged])}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class JudgedVideoQA(evaluate.Metric):
    """The metric as `evaluate` loads it."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            license="Apache-2.0",
            features=datasets.Features(
                {
                    "predictions": {
                        "status": datasets.Value("string"),
                        "correct": datasets.Value("bool"),
                        "score": datasets.Value("float64"),
                    }
                }
            ),
            reference_urls=["https://arxiv.org/abs/2306.05424"],
        )

    def add(self, *, prediction=None, reference=None, **kwargs) -> None:
        """Adds one verdict, which may be None or a score only, although rows of a table have all fields."""
        super().add(prediction=_with_all_fields(prediction), **kwargs)

    def add_batch(self, *, predictions=None, references=None, **kwargs) -> None:
        """Adds verdicts, as `add` does."""
        super().add_batch(predictions=[_with_all_fields(verdict) for verdict in predictions], **kwargs)

    def _compute(self, predictions, groups=None) -> dict[str, Any]:
        return compute(predictions, groups)


__all__ = ["MAX_SCORE", "JudgedVideoQA", "compute"]
