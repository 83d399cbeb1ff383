"""Benchmarks: from answers as models give them to the score of each."""

import string

import pytest
from benchmark_rows import rows_of

from dynfocus.eval.benchmarks import benchmark_names, get_benchmark
from dynfocus.eval.scoring import grade, score

BY_METRIC = {}
for _name in benchmark_names():
    BY_METRIC.setdefault(get_benchmark(_name).metric, []).append(_name)
CHOICES, SHORT = BY_METRIC["multiple_choice_accuracy"], BY_METRIC["video_qa_accuracy"]
PAIRED, JUDGED = BY_METRIC["paired_hallucination_accuracy"], BY_METRIC["judged_video_qa"]


def asked(name):
    benchmark = get_benchmark(name)
    return benchmark, benchmark.questions(rows_of(name))


def as_lines(benchmark, questions, outputs):
    """Lines of answers.jsonl."""
    lines = []
    for question, output in zip(questions, outputs, strict=True):
        prediction, correct = grade(benchmark.metric, question, output)
        line = {"id": question.id, "video": question.video, "output": output, "prediction": prediction}
        line |= {"correct": correct, "error": None, "num_visual_tokens": 100, "reference": question.reference}
        line |= {"groups": dict(question.groups), "pair": question.pair}
        lines.append(line)
    return lines


def scored(name, outputs):
    benchmark, questions = asked(name)
    return score(benchmark, questions, as_lines(benchmark, questions, outputs))


def right(question):
    return string.ascii_uppercase[question.reference]


def wrong(question):
    return string.ascii_uppercase[(question.reference + 1) % len(question.options)]


@pytest.mark.parametrize("name", CHOICES)
def test_letters_and_texts_of_options(name):
    benchmark, questions = asked(name)
    for question in questions:
        text = question.options[question.reference]
        for answer in (right(question), f"({right(question)})", f"{right(question)}. {text}", text, text.lower()):
            assert grade(benchmark.metric, question, answer) == (question.reference, True), answer
        other = question.options[(question.reference + 1) % len(question.options)]
        for answer in (wrong(question), f"{wrong(question)}) {other}", other):
            assert grade(benchmark.metric, question, answer)[1] is False, answer
        for answer in ("", "I cannot tell.", "A or B"):
            assert grade(benchmark.metric, question, answer) == (None, False), answer


@pytest.mark.parametrize("name", CHOICES)
def test_score_of_choices(name):
    benchmark, questions = asked(name)
    assert scored(name, [right(question) for question in questions])["score"] == 1
    assert scored(name, [wrong(question) for question in questions])["score"] == 0
    found = scored(name, ["I cannot tell."] * len(questions))
    assert (found["score"], found["scores"]["unparsable"]) == (0, len(questions))
    assert tuple(found["scores"]["by_group"]) == benchmark.groups


@pytest.mark.parametrize("name", ["mlvu_dev", "mvbench"])
def test_the_score_of_tasks_is_the_mean_over_them(name):
    benchmark, questions = asked(name)
    (group,) = benchmark.groups
    tasks = list(dict.fromkeys(question.groups[group] for question in questions))
    # One task has a single question left: it counts as much as the others.
    kept = [question for question in questions if question.groups[group] != tasks[0]] + questions[:1]
    outputs = [wrong(question) for question in kept[:-1]] + [right(kept[-1])]
    found = score(benchmark, kept, as_lines(benchmark, kept, outputs))
    assert found["score"] == pytest.approx(1 / len(tasks)) != found["scores"]["accuracy"]


@pytest.mark.parametrize("name", SHORT)
def test_short_answers(name):
    _, questions = asked(name)
    assert scored(name, [f"The {question.reference.upper()}." for question in questions])["score"] == 1
    assert scored(name, [f"not {question.reference}" for question in questions])["score"] == 0


@pytest.mark.parametrize("name", PAIRED)
def test_a_pair_counts_only_if_both_halves_are_right(name):
    _, questions = asked(name)
    answers = {"yes": "Yes, there is.", "no": "No."}
    assert scored(name, [answers[question.reference] for question in questions])["score"] == 1
    # Who says yes to everything is right about the half of the questions, and about no pair.
    found = scored(name, ["yes"] * len(questions))
    assert found["score"] == 0 and found["answered_accuracy"] == 0
    assert found["scores"]["basic"] == 1 and found["scores"]["hallucination"] == 0
    # One category of five, one pair of its two.
    outputs = [answers[question.reference] for question in questions[:2]] + ["maybe"] * (len(questions) - 2)
    assert scored(name, outputs)["score"] == pytest.approx(1 / 10)
    # The mean of the categories, however many pairs each has: without the second pair of the first one.
    benchmark, kept = get_benchmark(name), questions[:2] + questions[4:]
    lines = as_lines(benchmark, kept, outputs[:2] + outputs[4:])
    assert score(benchmark, kept, lines)["score"] == pytest.approx(1 / 5)


@pytest.mark.parametrize("name", JUDGED)
def test_a_judge_decides_about_open_answers(name):
    benchmark, questions = asked(name)
    lines = as_lines(benchmark, questions, [question.reference for question in questions])
    assert all(line["correct"] is None for line in lines)
    # Without a judge, a match word by word is no score of the benchmark.
    found = score(benchmark, questions, lines)
    assert found["score"] is None and found["scores"]["accuracy"] == 1
    for question, line in zip(questions, lines, strict=True):
        prompts = question.aspects or ("open_ended",)
        verdict = {"score": 4} if question.aspects else {"correct": True, "score": 4}
        line["verdicts"] = {prompt: verdict for prompt in prompts if question.half != "second"}
    found = score(benchmark, questions, lines)
    assert found["score"] == (4 if name == "video_chatgpt" else 1)


def test_the_five_scores_of_video_chatgpt():
    benchmark, questions = asked("video_chatgpt")
    lines = as_lines(benchmark, questions, ["On a lake."] * 4)
    points = {"correctness": 5, "detail": 4, "context": 3, "temporal": 2, "consistency": 1}
    for question, line in zip(questions, lines, strict=True):
        line["verdicts"] = {
            aspect: {"score": points[aspect]} for aspect in question.aspects if question.half != "second"
        }
    found = score(benchmark, questions, lines)
    assert {aspect: one["score"] for aspect, one in found["scores"]["by_aspect"].items()} == points
    assert found["score"] == 3
