"""Accuracy on pairs of yes/no questions, of which one is about what the video shows and one about what it does not."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate

_DESCRIPTION = """\
Share of pairs of yes/no questions of which both are answered rightly: a basic one about what the video shows, and one
about something that was made up. A model that always says yes, or always no, gets none. Answers that say neither (or
both) are wrong, and are counted as unparsable.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: the model's raw answers; None (no answer) is wrong and unparsable.
    references: "yes" or "no".
    pairs: names the pair of each question.
    halves: "basic" or "hallucination".
    groups: what to report pairs by: for each question a mapping such as {"subset": "temporal"}, the same for both halves.
        It is given to `compute`, also where answers came by `add_batch`, in the order of the answers.
Returns:
    accuracy: pairs with both halves right / complete pairs; None without a complete pair.
    basic, hallucination: right answers / questions of that half; None without any.
    macro: for each name of groups the mean of its values' accuracies of pairs.
    by_group: for each name of groups and each of its values "accuracy" and "total", of pairs.
    unparsable: number of answers that are neither yes nor no.
    incomplete_pairs: number of pairs with one half only; they have no part in the accuracy.
    total: number of complete pairs.
Examples:
    >>> metric = evaluate.load("paired_hallucination_accuracy")
    >>> metric.compute(predictions=["Yes.", "yes"], references=["yes", "no"], pairs=["1", "1"], halves=["basic", "hallucination"])
    {'accuracy': 0.0, 'basic': 1.0, 'hallucination': 0.0, 'macro': {}, 'by_group': {}, 'unparsable': 0, 'incomplete_pairs': 0, 'total': 1}
"""  # noqa: E501

_CITATION = """\
@article{wang2024videohallucer,
  title   = {VideoHallucer: Evaluating Intrinsic and Extrinsic Hallucinations in Large Video-Language Models},
  author  = {Wang, Yuxuan and Wang, Yueqian and Zhao, Dongyan and Xie, Cihang and Zheng, Zilong},
  journal = {arXiv preprint arXiv:2406.16338},
  year    = {2024}
}
"""

#: Accepted as a whole line, or before the first pause.
_YES = set("yes sí oui ja sim sì да 是 是的 对 對 はい 네 예".split())
_NO = set("no non nein não nao нет 不 不是 否 没有 沒有 いいえ 아니요 아니오 아뇨".split())
HALVES = ("basic", "hallucination")


def parse_yes_no(answer: str | None) -> str | None:
    """
    "yes" or "no", if the answer begins with it, names it as the answer, or ends in a line with it; None for neither or
    both. The first word and the last line may be in another language.
    """
    text = unicodedata.normalize("NFKC", answer or "").lower().replace("’", "'").replace("。", ".")
    # A think block that was cut off holds no answer.
    text = re.sub(r"<think(?:ing)?>.*", "", re.split(r"</think(?:ing)?>", text)[-1], flags=re.DOTALL)
    text = re.sub(r"</?[a-z|][^<>\s]{0,30}>|[*_`\"“”]|\\boxed|[{}$]", " ", text).strip(" \n'([")
    opening = re.match(r"(yes|no)\b(?!\s*(?:/|or\b|and\b|idea\b|one\b|way to\b))", text)
    stated = re.findall(
        r"\banswer\b(?:\s+to\s+[^.!?\n]*?)?\s*(?:is|:|would be|should be|=)\s*:?\s*"
        r"['(\[]?\s*(yes|no)\b(?!\s*(?:/|or\b))",
        text,
    )
    words = [opening[1]] if opening else []
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    for part in (re.split(r"[,.;:!、\n]", text, maxsplit=1)[0], last):
        part = part.strip(" .!'([)]")
        words += ["yes"] * (part in _YES) + ["no"] * (part in _NO)
    named = {*stated, *words}
    return named.pop() if len(named) == 1 else None


def compute(
    predictions: Sequence[str | None],
    references: Sequence[str],
    pairs: Sequence[str],
    halves: Sequence[str],
    groups: Sequence[Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """Accuracy of pairs and of each half; see the metric's description.

    Raises:
        ValueError: for no predictions, unequal lengths, other references or halves than those above, a pair with two
            questions of one half, or with halves in different groups.
    """
    columns: dict[str, Sequence] = {
        "predictions": predictions,
        "references": references,
        "pairs": pairs,
        "halves": halves,
        **({} if groups is None else {"groups": groups}),
    }
    if len({len(column) for column in columns.values()}) > 1:
        lengths_given = ", ".join(f"{name} has {len(column)}" for name, column in columns.items())
        raise ValueError(f"There must be one entry a question in each, but {lengths_given}.")
    if not len(predictions):
        raise ValueError("There are no predictions, but an accuracy needs at least one.")
    said = [parse_yes_no(answer) for answer in predictions]
    right: dict[str, dict[str, bool]] = {}
    group_of: dict[str, Mapping[str, str]] = {}
    for place, (reference, pair, half) in enumerate(zip(references, pairs, halves, strict=True)):
        if reference not in ("yes", "no"):
            raise ValueError(f"references[{place}] is {reference!r}, but must be 'yes' or 'no'.")
        if half not in HALVES:
            raise ValueError(f"halves[{place}] is {half!r}, but must be one of {', '.join(HALVES)}.")
        if half in right.setdefault(pair, {}):
            raise ValueError(f"The pair {pair!r} has two questions of the half {half!r}, but must have one of each.")
        right[pair][half] = said[place] == reference
        named = groups[place] if groups is not None else {}
        if group_of.setdefault(pair, named) != named:
            raise ValueError(
                f"The halves of the pair {pair!r} are in the groups {group_of[pair]} and {named}: give both the same."
            )
    complete = {pair: all(both.values()) for pair, both in right.items() if len(both) == len(HALVES)}
    tallies: dict[str, dict[str, list[bool]]] = {}
    for pair, correct in complete.items():
        for name, value in group_of[pair].items():
            tallies.setdefault(name, {}).setdefault(value, []).append(correct)
    details = {
        name: {value: {"accuracy": sum(some) / len(some), "total": len(some)} for value, some in values.items()}
        for name, values in tallies.items()
    }
    return {
        "accuracy": _share(list(complete.values())),
        **{half: _share([both[half] for both in right.values() if half in both]) for half in HALVES},
        "macro": {name: _share([one["accuracy"] for one in values.values()]) for name, values in details.items()},
        "by_group": details,
        "unparsable": said.count(None),
        "incomplete_pairs": len(right) - len(complete),
        "total": len(complete),
    }


def _share(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class PairedHallucinationAccuracy(evaluate.Metric):
    """The metric as `evaluate` loads it."""

    def _info(self) -> evaluate.MetricInfo:
        names = ("predictions", "references", "pairs", "halves")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            license="Apache-2.0",
            features=datasets.Features({name: datasets.Value("string") for name in names}),
            reference_urls=["https://arxiv.org/abs/2406.16338"],
        )

    def _compute(self, predictions, references, pairs, halves, groups=None) -> dict[str, Any]:
        return compute(predictions, references, pairs, halves, groups)


__all__ = ["HALVES", "PairedHallucinationAccuracy", "compute", "parse_yes_no"]
