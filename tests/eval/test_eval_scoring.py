"""From answers to scores: what counts as one, what failures and judges do to it."""

from pathlib import Path

import pytest
from test_eval_report import benchmark, make_run

from dynfocus.eval.benchmarks.base import Question
from dynfocus.eval.judge import Verdict
from dynfocus.eval.run_folder import read_run
from dynfocus.eval.scoring import judge_lines, main_score, score, units


def test_failures_count_as_wrong_and_apart(tmp_path):
    whole, broken = (read_run(make_run(tmp_path / str(n), failures=n)) for n in (0, 6))
    lost = sum(line["correct"] for line in whole.answers[:6])
    assert lost > 0 and broken.result["failures"] == 6 and broken.result["total"] == 60
    assert broken.result["score"] == pytest.approx(whole.result["score"] - lost / 60)
    assert broken.result["answered_accuracy"] == pytest.approx(60 * broken.result["score"] / 54)
    assert broken.result["scores"]["unparsable"] == whole.result["scores"]["unparsable"] == 0
    low, high = whole.result["interval"]
    assert 0 < low < whole.result["score"] < high < 1


def test_main_scores_by_their_names():
    scores = {"accuracy": 0.5, "macro": {"task": 0.25}}
    assert main_score(scores, "accuracy") == 0.5
    assert main_score(scores, "macro") == main_score(scores, "macro.task") == 0.25
    assert main_score({"macro": {"task": 0.25, "length": 0.75}}, "macro.length") == 0.75
    assert main_score({"macro": {"task": 0.25, "length": 0.75}}, "macro") is None


def test_a_pair_counts_if_both_halves_are_right():
    def line(name, pair, correct):
        return {"id": name, "video": "v", "correct": correct, "groups": {}, "pair": pair}

    halves = [line("1a", "1", True), line("1b", "1", True), line("2a", "2", False), line("2b", "2", True)]
    # The half of a pair that a limit cut in two.
    assert {unit.id: unit.correct for unit in units([*halves, line("3a", "3", True)])} == {"1": True, "2": False}


def test_videos_that_pairs_join_are_drawn_together():
    def line(pair, half, video):
        return {"id": f"{pair}{half}", "video": video, "correct": True, "groups": {}, "pair": pair}

    lines = [line("1", "a", "v"), line("1", "b", "w"), line("2", "a", "x"), line("2", "b", "w"), line("3", "a", "y")]
    clusters = [unit.video for unit in units([*lines, line("3", "b", "y")])]
    assert clusters[0] == clusters[1] != clusters[2]


def test_without_failures_pairs_are_still_pairs_and_tasks_still_count_alike():
    of = benchmark(metric="paired_hallucination_accuracy", main_score="macro")
    # One pair of "a" is right, none of the two of "b"; of the last pair one half could not be asked.
    said = {"1": ("a", "yes no"), "2": ("b", "yes yes"), "3": ("b", "no no"), "4": ("b", "yes ?")}
    questions, lines = [], []
    for pair, (group, answers) in said.items():
        for half, reference, answer in zip(("basic", "hallucination"), ("yes", "no"), answers.split(), strict=True):
            question = Question(f"{pair}-{half}", pair, "?", reference, pair=pair, half=half, groups={"length": group})
            questions.append(question)
            lines.append(
                {
                    "id": question.id,
                    "video": pair,
                    "output": None if answer == "?" else answer,
                    "correct": answer == reference,
                    "error": "missing" if answer == "?" else None,
                    "num_visual_tokens": 1,
                    "groups": {"length": group},
                    "pair": pair,
                }
            )
    found = score(of, questions, lines)
    assert (found["failures"], found["score"], found["answered_accuracy"]) == (1, 0.5, 0.5)
    assert score(of, questions[2:], lines[2:])["answered_accuracy"] == 0


class FakeJudge:
    asked: list = []

    def __init__(self, model, *, cache, prompt):
        self.prompt = prompt

    def verdicts(self, rows, on_progress=None):
        rows = list(rows)
        self.asked.append((self.prompt, rows))
        decides = self.prompt == "open_ended"
        return [Verdict(row["id"], "judged", row["prediction"] == "red" if decides else None, 4.0) for row in rows]

    def record(self):
        return {"model": "fake", "prompt": self.prompt, "prompt_hash": "00", "date": "2026-08-01", "refused": 0}


def test_a_judge_is_asked_by_each_of_its_prompts(monkeypatch):
    monkeypatch.setattr(FakeJudge, "asked", [])
    questions = [
        Question("a", "v", "which?", "red", aspects=("correctness", "detail")),
        Question("b", "v", "which one?", "red", aspects=("consistency",), pair="p", half="first"),
        Question("c", "v", "say which?", "red", aspects=("consistency",), pair="p", half="second"),
        # Its other half was cut off by a limit.
        Question("d", "v", "who?", "red", aspects=("consistency",), pair="q", half="first"),
    ]
    lines = [
        {"id": q.id, "video": "v", "output": f"{q.id}!", "correct": None, "error": None, "num_visual_tokens": 1}
        | {"groups": {}, "pair": q.pair}
        for q in questions
    ]
    records = judge_lines(questions, lines, "fake", Path("unused"), make_judge=FakeJudge)
    asked = {prompt: [row["id"] for row in rows] for prompt, rows in FakeJudge.asked}
    assert asked == {"correctness": ["a"], "detail": ["a"], "consistency": ["b"]}
    both = FakeJudge.asked[2][1][0]
    assert (both["question_2"], both["prediction_2"]) == ("say which?", "c!")
    assert [record["prompt"] for record in records] == list(asked)
    result = score(benchmark(metric="judged_video_qa", main_score="score"), questions, lines)
    assert result["score"] == 4.0 and result["scores"]["by_aspect"].keys() == asked.keys()


def test_answers_without_a_judge_have_no_main_score():
    judged = benchmark(metric="judged_video_qa")
    questions = [Question("a", "v", "which?", "red"), Question("b", "v", "which?", "blue")]
    lines = [
        {
            "id": q.id,
            "video": "v",
            "output": "red",
            "correct": None,
            "error": None,
            "num_visual_tokens": 1,
            "groups": {},
        }
        for q in questions
    ]
    alone = score(judged, questions, lines)
    assert (alone["metric"], alone["score"], alone["scores"]["accuracy"]) == ("video_qa_accuracy", None, 0.5)
    judge_lines(questions, lines, "fake", Path("unused"), make_judge=FakeJudge)
    assert score(judged, questions, lines)["score"] == 1.0
    # References without a word are for the judge alone.
    for line in lines:
        del line["verdicts"]
    questions[0] = Question("a", "v", "which?", "?!")
    assert score(judged, questions, lines)["scores"]["accuracy"] == 0
    assert score(judged, questions[:1], lines[:1])["score"] is None


def test_what_another_judge_said_before_is_forgotten(monkeypatch):
    questions = [Question("a", "v", "which?", "red")]
    lines = [{"id": "a", "video": "v", "output": "red", "correct": None, "error": None, "groups": {}}]
    lines[0]["num_visual_tokens"] = 1
    judge_lines(questions, lines, "fake", Path("unused"), make_judge=FakeJudge)
    assert lines[0]["correct"] is True
    monkeypatch.setattr(FakeJudge, "verdicts", lambda self, rows, _: [Verdict(row["id"], "refused") for row in rows])
    judge_lines(questions, lines, "other", Path("unused"), make_judge=FakeJudge)
    found = score(benchmark(metric="judged_video_qa"), questions, lines)
    assert (found["score"], found["interval"], found["answered_accuracy"]) == (None, None, None)
