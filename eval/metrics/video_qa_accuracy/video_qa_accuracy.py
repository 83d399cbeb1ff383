"""Accuracy of short answers to open questions about videos, by comparing them after normalisation."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate

_DESCRIPTION = """\
Share of open questions about videos whose short answer is the expected one, apart from case, punctuation and articles,
and whether numbers up to ten are written as words. By group, micro and macro.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: the model's answers; None (no answer) is wrong.
    references: the expected answers.
    groups: what to report by: for each question a mapping such as {"kind": "count"}. It is given to `compute`, also
        where answers came by `add_batch`, in the order of the answers.
Returns:
    accuracy: right answers / all questions (micro).
    macro: for each name of groups the mean of its values' accuracies.
    by_group: for each name of groups and each of its values "accuracy" and "total".
    total: number of questions.
Examples:
    >>> metric = evaluate.load("video_qa_accuracy")
    >>> metric.compute(predictions=["A red car.", "2"], references=["red car", "three"])
    {'accuracy': 0.5, 'macro': {}, 'by_group': {}, 'total': 2}
"""

_CITATION = """\
@inproceedings{xu2017video,
  title     = {Video Question Answering via Gradually Refined Attention over Appearance and Motion},
  author    = {Xu, Dejing and Zhao, Zhou and Xiao, Jun and Wu, Fei and Zhang, Hanwang and He, Xiangnan and
               Zhuang, Yueting},
  booktitle = {ACM Multimedia},
  year      = {2017}
}
"""

_NUMBERS = {word: str(n) for n, word in enumerate("zero one two three four five six seven eight nine ten".split())}
_ARTICLES = ("a", "an", "the")


def normalize_answer(text: str) -> str:
    """Lower case, numbers up to ten as digits, without punctuation (but within numbers), articles (unless there is
    nothing else) and superfluous spaces."""
    text = unicodedata.normalize("NFKC", re.sub("[\ufe00-\ufe0f]", "", text)).lower()
    # "İ" in lower case is an "i" with a second dot.
    text = unicodedata.normalize("NFKC", re.sub("i\u0307+", "i", text))
    text = re.sub(r"(?<=\w)['’](?=\w)|(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"(?!(?<=\d)[.:](?=\d))(?!(?<!\w)-(?=\d))[^\w\s%$€£+]|_", _space_unless_vowel, text)
    words = [_NUMBERS.get(word, word) for word in text.split()]
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def _space_unless_vowel(found: re.Match[str]) -> str:
    """A space, but marks on a letter stay: they are vowels in Hindi or Thai, which `\\w` does not match."""
    text, start = found.string, found.start()
    while start >= 0 and unicodedata.category(text[start]) in ("Mn", "Mc"):
        start -= 1
    return found[0] if 0 <= start < found.start() and text[start].isalnum() else " "


def compute(
    predictions: Sequence[str | None],
    references: Sequence[str],
    groups: Sequence[Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """Accuracy, micro and macro; see the metric's description.

    Raises:
        ValueError: for no predictions, unequal lengths, or a reference that is empty once normalised.
    """
    columns = {"predictions": predictions, "references": references, **({} if groups is None else {"groups": groups})}
    if len({len(column) for column in columns.values()}) > 1:
        lengths_given = ", ".join(f"{name} has {len(column)}" for name, column in columns.items())
        raise ValueError(f"There must be one entry a question in each, but {lengths_given}.")
    if not len(predictions):
        raise ValueError("There are no predictions, but an accuracy needs at least one.")
    expected = [normalize_answer(reference) for reference in references]
    if "" in expected:
        place = expected.index("")
        raise ValueError(f"references[{place}] is {references[place]!r}, but no answer could be compared with it.")
    correct = [
        answer is not None and normalize_answer(answer) == reference
        for answer, reference in zip(predictions, expected, strict=True)
    ]
    return {"accuracy": sum(correct) / len(correct), **_by_group(correct, groups), "total": len(correct)}


def _by_group(correct: Sequence[bool], groups: Sequence[Mapping[str, str]] | None) -> dict[str, Any]:
    """`macro` and `by_group`, in the order in which names and values occur."""
    counts: dict[str, dict[str, list[int]]] = {}
    for right, named in zip(correct, groups or [{}] * len(correct), strict=True):
        for name, value in named.items():
            tally = counts.setdefault(name, {}).setdefault(value, [0, 0])
            tally[0] += right
            tally[1] += 1
    details = {
        name: {value: {"accuracy": right / total, "total": total} for value, (right, total) in values.items()}
        for name, values in counts.items()
    }
    macro = {name: sum(one["accuracy"] for one in values.values()) / len(values) for name, values in details.items()}
    return {"macro": macro, "by_group": details}


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class VideoQAAccuracy(evaluate.Metric):
    """The metric as `evaluate` loads it."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            license="Apache-2.0",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, groups=None) -> dict[str, Any]:
        return compute(predictions, references, groups)


__all__ = ["VideoQAAccuracy", "compute", "normalize_answer"]
