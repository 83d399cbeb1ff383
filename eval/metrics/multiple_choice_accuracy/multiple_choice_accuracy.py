"""Accuracy of answers to multiple-choice questions. Answers that name no option are counted, never guessed."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate

# `evaluate` fetches the files that this one imports, but not the imports of those files.
from .answer_text import clean_answer
from .choice_parser import parse_choice
from .languages import english_words

_DESCRIPTION = """\
Share of multiple-choice questions (2 to 10 options) that are answered with the right option. Answers are read as
letters ("B", "(b)", "The answer is B.") or as the text of an option; one that names no option, or more than one, is
wrong, and is counted as unparsable instead of being replaced by a guess. By group, micro and macro.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: the model's raw answers; None (no answer) is wrong and unparsable.
    references: the index of each right option.
    options: the options' texts of each question, in the order of their letters.
    groups: what to report by: for each question a mapping such as {"duration": "short"}. It is given to `compute`, also
        where answers came by `add_batch`, in the order of the answers.
Returns:
    accuracy: right answers / all questions (micro).
    macro: for each name of groups the mean of its values' accuracies.
    by_group: for each name of groups and each of its values "accuracy" and "total".
    unparsable: number of answers that name no single option.
    total: number of questions.
Examples:
    >>> metric = evaluate.load("multiple_choice_accuracy")
    >>> metric.compute(predictions=["(B)", "a cat", "A or B"], references=[1, 0, 0], options=[["a dog", "a bird"], ["a cat", "a fox"], ["red", "blue"]])
    {'accuracy': 0.6666666666666666, 'macro': {}, 'by_group': {}, 'unparsable': 1, 'total': 3}
"""  # noqa: E501

_CITATION = """\
@article{fu2024videomme,
  title   = {Video-MME: The First-Ever Comprehensive Evaluation Benchmark of Multi-modal LLMs in Video Analysis},
  author  = {Fu, Chaoyou and others},
  journal = {arXiv preprint arXiv:2405.21075},
  year    = {2024}
}
"""


def compute(
    predictions: Sequence[str | None],
    references: Sequence[int],
    options: Sequence[Sequence[str]],
    groups: Sequence[Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """Accuracy, micro and macro, and the number of unparsable answers; see the metric's description.

    Raises:
        ValueError: for no predictions, unequal lengths, or a reference that is not an index of its options.
    """
    _check_lengths(predictions=predictions, references=references, options=options, groups=groups)
    for place, (reference, texts) in enumerate(zip(references, options, strict=True)):
        if not 0 <= reference < len(texts):
            raise ValueError(
                f"references[{place}] is {reference}, but its question has the options 0 to {len(texts) - 1}."
            )
    choices = [parse_choice(answer, texts) for answer, texts in zip(predictions, options, strict=True)]
    correct = [choice == reference for choice, reference in zip(choices, references, strict=True)]
    return {
        "accuracy": sum(correct) / len(correct),
        **_by_group(correct, groups),
        "unparsable": sum(choice is None for choice in choices),
        "total": len(correct),
    }


def _check_lengths(**columns: Sequence | None) -> None:
    """Raises a `ValueError` if a given column does not have one entry for each question, or there are no questions."""
    lengths = {name: len(column) for name, column in columns.items() if column is not None}
    if len(set(lengths.values())) > 1:
        lengths_given = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"There must be one entry a question in each, but {lengths_given}.")
    if not next(iter(lengths.values())):
        raise ValueError("There are no predictions, but an accuracy needs at least one.")


def _by_group(correct: Sequence[bool], groups: Sequence[Mapping[str, str]] | None) -> dict[str, Any]:
    """`macro` and `by_group`, in the order in which names and values occur."""
    counts: dict[str, dict[str, list[int]]] = {}
    for right, named in zip(correct, groups or [{}] * len(correct), strict=True):
        for name, value in named.items():
            tally = counts.setdefault(name, {}).setdefault(value, [0, 0])
            tally[0] += right
            tally[1] += 1
    shares = {name: {value: a / b for value, (a, b) in values.items()} for name, values in counts.items()}
    return {
        "macro": {name: sum(values.values()) / len(values) for name, values in shares.items()},
        "by_group": {
            name: {value: {"accuracy": shares[name][value], "total": total} for value, (_, total) in values.items()}
            for name, values in counts.items()
        },
    }


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class MultipleChoiceAccuracy(evaluate.Metric):
    """The metric as `evaluate` loads it."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            license="Apache-2.0",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Value("int64"),
                    "options": datasets.Sequence(datasets.Value("string")),
                }
            ),
            reference_urls=["https://arxiv.org/abs/2405.21075"],
        )

    def _compute(self, predictions, references, options, groups=None) -> dict[str, Any]:
        return compute(predictions, references, options, groups)


__all__ = ["MultipleChoiceAccuracy", "clean_answer", "compute", "english_words", "parse_choice"]
