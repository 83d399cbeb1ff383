"""What is made of runs: tables, a page, plots, results for the Hub, a comparison; and the commands that do it."""

import json
import random
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from PIL import Image
from rich.console import Console
from tiny_models import save_question_aware
from typer.testing import CliRunner

from dynfocus.cli.app import app
from dynfocus.eval.benchmarks.base import Benchmark, Question
from dynfocus.eval.compare import compare_runs, print_comparison
from dynfocus.eval.files import write_json
from dynfocus.eval.plots import group_bars, number_bars
from dynfocus.eval.report import eval_results, print_summary, remarks, write_report
from dynfocus.eval.run_folder import read_run, write_lines
from dynfocus.eval.scoring import score, units
from dynfocus.eval.synthetic.builder import synthesize

OPTIONS = ("red", "blue", "green")


def benchmark(**changes) -> Benchmark:
    fields = {
        "name": "colors",
        "title": "Colors",
        "url": "https://example.org/colors",
        "dataset": "user/colors",
        "split": "test",
        "metric": "multiple_choice_accuracy",
        "read": lambda rows: iter(()),
        "fields": (),
        "groups": ("length",),
        "published": {"DynFocus-7B (paper)": 44.1},
        "notes": "A trap.",
    }
    return Benchmark(**{**fields, **changes})


def make_run(folder: Path, shares=(0.9, 0.2), failures=0, of=None, seed=0, **settings) -> Path:
    """A finished run without a model: 20 videos, three questions each, half of them short; `shares` of them right."""
    of, rng = of or benchmark(), random.Random(seed)
    questions, lines = [], []
    for number in range(60):
        length = "short" if number < 30 else "long"
        right = rng.random() < shares[number >= 30]
        question = Question(
            f"q{number}", f"v{number // 3}", "which?", number % 3, options=OPTIONS, groups={"length": length}
        )
        said = number % 3 if right else (number + 1) % 3
        questions.append(question)
        lines.append(
            {
                "id": question.id,
                "video": question.video,
                "output": "ABC"[said],
                "prediction": said,
                "reference": question.reference,
                "correct": right,
                "key_frames": [],
                "num_visual_tokens": 100 + number,
                "num_frames": 10,
                "duration": 10.0 * (number // 3 + 1),
                "error": None,
                "groups": dict(question.groups),
            }
        )
    for line in lines[:failures]:
        line.update(output=None, prediction=None, correct=False, num_visual_tokens=None, duration=None)
        line["error"] = "The video file is missing."
    folder.mkdir(parents=True)
    write_json(
        folder / "run.json",
        {
            "benchmark": of.name,
            "about": {
                "title": of.title,
                "url": of.url,
                "dataset": of.dataset,
                "local": of.local,
                "groups": list(of.groups),
                "published": dict(of.published),
                "notes": of.notes,
            },
            "options": {"subtitles": True},
            "model": {"id": "user/model", "revision": "0123abcd", "weights": None},
            "data": {"id": of.dataset, "config": "main", "split": "test", "revision": "fedc9876"},
            "num_questions": 60,
            "limit": None,
            "sampling": {"fps": 1.0, "max_frames": 64, "max_visual_tokens": None},
            "prompts": {"example": "which?", "hash": "sha256:00", "chat_template_hash": "sha256:11"},
            "generation": {"max_new_tokens": 16},
            "batch_size": 8,
            "seed": 0,
            "dtype": "bfloat16",
            "device": "cuda",
            "versions": {"dynfocus": "0.1", "torch": "2.15"},
            "device_name": "a GPU",
            "num_processes": 1,
            "videos": "videos",
            "judge": None,
            "command": "dynfocus eval colors --videos videos",
            "date": "2026-08-01T10:00:00+00:00",
            **settings,
        },
    )
    write_lines(folder / "answers.jsonl", lines)
    timed = [{"id": line["id"], "decode": 0.5, "encode": 0.1, "generate": 0.2} for line in lines if not line["error"]]
    write_lines(folder / "timings.jsonl", timed)
    write_json(folder / "result.json", {**score(of, questions, lines), "judge": None})
    return folder


def printed(show, *arguments, width=110) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show(console, *arguments)
    return console.export_text()


# The report


def test_the_page_tells_what_a_reader_must_know(tmp_path):
    run = read_run(make_run(tmp_path / "run", failures=3))
    written = {path.name: path for path in write_report(run)}
    page = written["report.md"].read_text()
    value = 100 * run.result["score"]
    assert page.startswith(f"# Colors: {value:.1f} %\n")
    low, high = (100 * bound for bound in run.result["interval"])
    assert f"95 % interval {low:.1f}–{high:.1f} %" in page
    assert (
        "3 of 60 questions could not be asked and count as wrong" in page and "3 × The video file is missing." in page
    )
    assert "| DynFocus-7B (paper) | 44.1 % |" in page and "A trap." in page
    assert "dynfocus eval colors --videos videos" in page and "0123abcd" in page and "sha256:00" in page
    assert "| q0 | v0 | The video file is missing. |" in page
    shown = re.findall(r"!\[.*?\]\((.*?)\)", page)
    assert sorted(shown) == ["accuracy_by_group.png", "accuracy_by_length.png", "times.png"]
    for name in shown:
        assert min(Image.open(run.folder / name).size) > 200
    section = written["card_section.md"].read_text()
    assert section.startswith("## Evaluation") and f"{value:.1f} %" in section and "subtitles" in section
    table = printed(print_summary, run)
    assert f"{value:.1f} % accuracy" in table and re.search(r"short +\d", table) and "could not be asked" in table


def test_without_matplotlib_only_the_plots_are_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = read_run(make_run(tmp_path / "run"))
    assert "accuracy" in printed(print_summary, run)
    with pytest.raises(ImportError, match=re.escape("pip install 'dynfocus[eval]'")):
        write_report(run)


def test_results_for_the_hub(tmp_path):
    folder = make_run(tmp_path / "run")
    write_report(read_run(folder))
    entries = yaml.safe_load((folder / ".eval_results" / "colors.yaml").read_text())
    (entry,) = parse_eval_result_entries(entries)
    assert (entry.dataset_id, entry.task_id, entry.dataset_revision) == ("user/colors", "main", "fedc9876")
    assert entry.value == round(100 * read_run(folder).result["score"], 2)
    assert "1 fps" in entry.notes and "subtitles" in entry.notes and entry.date == "2026-08-01T10:00:00+00:00"


def test_results_for_the_hub_name_judge_and_failures(tmp_path):
    folder = make_run(tmp_path / "run", failures=2)
    record = {"model": "grader", "prompt": "open_ended", "prompt_hash": "0a1b", "date": "2026-08-01", "judged": 60}
    write_json(folder / "result.json", {**read_run(folder).result, "judge": [record]})
    (entry,) = parse_eval_result_entries(eval_results(read_run(folder)))
    assert "judged by grader (open_ended, prompt 0a1b, 2026-08-01)" in entry.notes
    assert "2 of 60 questions could not be asked and count as wrong" in entry.notes


@pytest.mark.parametrize("change", [{"limit": 60}, {"of": benchmark(local=True)}])
def test_a_part_or_a_set_of_ones_own_is_no_result_for_the_hub(tmp_path, change):
    run = read_run(make_run(tmp_path / "run", **change))
    assert eval_results(run) == []
    write_report(run)
    assert not (run.folder / ".eval_results").exists()


def test_remarks_name_what_changes_the_meaning(tmp_path):
    limited = read_run(make_run(tmp_path / "limited", limit=60))
    assert "Only the first 60 questions were asked: this is no result of Colors." in remarks(limited)
    data = {"id": "old/colors", "config": None, "split": "test", "revision": None}
    fallback = read_run(make_run(tmp_path / "fallback", data=data))
    assert "user/colors was not found: the questions are those of old/colors." in remarks(fallback)


def test_half_a_pair_is_not_an_answer_that_nobody_judged(tmp_path):
    folder = make_run(tmp_path / "run")
    result = {**read_run(folder).result, "metric": "paired_hallucination_accuracy", "score": None}
    write_json(folder / "result.json", result)
    assert not any("not judged" in sentence for sentence in remarks(read_run(folder)))


def test_an_unfinished_run_has_no_report(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "result.json").unlink()
    lines = (folder / "answers.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "answers.jsonl").write_bytes(b"".join(lines[:9]) + b'{"id": ')
    for command in ("report", "compare"):
        done = CliRunner().invoke(app, [command, *[str(folder)] * (1 + (command == "compare"))])
        assert done.exit_code == 1 and "is not finished" in done.stderr
    assert "9 of 60 questions are answered" in CliRunner().invoke(app, ["report", str(folder)]).stderr
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 1 and "holds no run.json, so it is no run" in done.stderr


def test_bars_hold_every_question_once(tmp_path):
    run = read_run(make_run(tmp_path / "run", failures=2))
    bars = group_bars(units(run.answers), "length")
    assert [(name, total) for name, _, _, total in bars] == [("short", 30), ("long", 30)]
    assert all(low <= share <= high for _, share, (low, high), _ in bars)
    by_length = number_bars(run.answers, "duration", " s")
    assert len(by_length) == 5 and sum(total for *_, total in by_length) == 58
    assert [name for name, *_ in by_length][-1].endswith("–200 s")
    assert number_bars(run.answers, "num_frames", "") == [], "where all are alike there is nothing to see"


def test_bars_hold_both_halves_of_a_pair(tmp_path):
    lines = read_run(make_run(tmp_path / "run")).answers
    # Where bins end, the halves of a pair differ; the first line and the last one have none.
    pairs = [line | {"pair": f"p{(number + 1) // 2}", "duration": float(number)} for number, line in enumerate(lines)]
    assert sum(total for *_, total in number_bars(pairs, "duration", " s")) == 29


# The comparison


def test_runs_are_compared_question_by_question(tmp_path):
    a, b = (read_run(make_run(tmp_path / str(n), shares=(0.9, right), seed=n)) for n, right in ((0, 0.2), (1, 0.95)))
    found = compare_runs(a, b)
    right = [[line["correct"] for line in run.answers] for run in (a, b)]
    assert found.all.interval.estimate == pytest.approx((sum(right[1]) - sum(right[0])) / 60)
    assert found.all.only_first == sum(x and not y for x, y in zip(*right, strict=True))
    assert found.all.interval.low > 0 and found.all.interval.p_value < 0.01
    assert [one.name for one in found.groups] == ["length: short", "length: long"]
    assert found.groups[1].interval.estimate > 0.5 and (found.num_videos, found.left_out) == (20, 0)
    back = compare_runs(b, a)
    assert (
        back.all.interval.estimate == -found.all.interval.estimate
        and back.all.interval.p_value == found.all.interval.p_value
    )
    text = printed(print_comparison, found)
    assert "length: long" in text and "20 videos" in text and "p < 0.001" in text and "B is better" in text
    narrow = printed(print_comparison, back, width=80)
    assert "A is better" in narrow and "length: short" in narrow and "…" in narrow and "only B of" in narrow


def with_verdicts(folder, made, right):
    """A run whose first questions are right as told."""
    shutil.copytree(made, folder)
    lines = read_run(folder).answers
    write_lines(
        folder / "answers.jsonl", [{**line, "correct": bool(one)} for line, one in zip(lines, right, strict=True)]
    )
    return read_run(folder)


@pytest.mark.parametrize(("differing", "told_apart"), [(1, False), (3, False), (5, False), (6, True), (9, True)])
def test_interval_and_p_say_the_same(tmp_path, differing, told_apart):
    """Of 60 questions on 20 videos one run gets some right that the other does not, one a video."""
    made = make_run(tmp_path / "made")
    a = with_verdicts(tmp_path / "a", made, [True] * 60)
    b = with_verdicts(tmp_path / "b", made, [n % 3 > 0 or n // 3 >= differing for n in range(60)])
    found = compare_runs(a, b)
    text = " ".join(printed(print_comparison, found).split())
    low, high, p = re.search(r"all .*? ([+-][\d.]+) … ([+-][\d.]+) ([\d.]+) ", text).groups()
    assert (float(high) < 0) == (float(p) < 0.05) == told_apart and float(low) < 0
    conclusion = f"{differing} of 60 answers differ, p = {p}."
    assert (f"A is better: {conclusion}" if told_apart else f"A and B cannot be told apart: {conclusion}") in text


def test_runs_with_the_same_answers_are_said_not_to_differ(tmp_path):
    a = read_run(make_run(tmp_path / "a"))
    found = compare_runs(a, a)
    assert (found.all.interval.low, found.all.interval.high, found.all.interval.p_value) == (0, 0, 1)
    text = " ".join(printed(print_comparison, found).split())
    assert (
        "No answer differs: A and B are right and wrong on the same of 60 questions, and cannot be told apart" in text
    )
    assert text.count("none differs – 0 0") == 3 and "…" not in text and "p =" not in text


def test_a_bound_that_is_not_zero_is_not_shown_as_zero(tmp_path):
    from dynfocus.eval.compare import _points

    assert [_points(share) for share in (0.0, -0.0, 0.0003, -0.00041, 0.0005, 0.05)] == [
        "+0.0",
        "+0.0",
        "+0.03",
        "-0.04",
        "+0.1",
        "+5.0",
    ]


def test_the_macro_score_is_compared_as_such(tmp_path):
    macro = benchmark(main_score="macro")
    a, b = (read_run(make_run(tmp_path / str(n), shares=(0.9, right), of=macro)) for n, right in ((0, 0.2), (1, 0.5)))
    found = compare_runs(a, b)
    assert (found.all.first, found.all.second) == pytest.approx((a.result["score"], b.result["score"]))


def test_what_runs_do_not_share_is_said(tmp_path):
    a = make_run(tmp_path / "a")
    b = make_run(tmp_path / "b", sampling={"fps": 2.0, "max_frames": 64, "max_visual_tokens": None})
    lines = [json.loads(line) for line in (b / "answers.jsonl").read_text().splitlines()]
    write_lines(b / "answers.jsonl", lines[:50])
    write_json(b / "result.json", {**json.loads((b / "result.json").read_text()), "total": 50})
    found = compare_runs(read_run(a), read_run(b))
    assert found.all.total == 50 and found.left_out == 10
    assert found.settings == [("sampling.fps", 1.0, 2.0)]
    text = printed(print_comparison, found)
    assert "10 questions have a verdict in one of the runs only" in text and "sampling.fps: 1.0 → 2.0" in text


def test_a_comparison_tells_of_failures_and_of_other_judges(tmp_path):
    a, b = make_run(tmp_path / "a", failures=5), make_run(tmp_path / "b")
    assert "judged differently" not in printed(print_comparison, compare_runs(read_run(a), read_run(b)))
    write_json(b / "result.json", {**read_run(b).result, "judge": [{"model": "grader", "prompt_hash": "0a1b"}]})
    text = " ".join(printed(print_comparison, compare_runs(read_run(a), read_run(b))).split())
    assert "5 questions of A could not be asked, and count as wrong." in text and "questions of B" not in text
    assert "A and B were judged differently, by no judge and grader (prompt 0a1b)" in text


def test_runs_that_do_not_compare_are_refused(tmp_path):
    a, other = make_run(tmp_path / "a"), make_run(tmp_path / "b", of=benchmark(name="shapes"))
    with pytest.raises(ValueError, match="a run of colors and .* of shapes: nothing compares"):
        compare_runs(read_run(a), read_run(other))
    changed = tmp_path / "changed"
    shutil.copytree(a, changed)
    lines = [json.loads(line) for line in (changed / "answers.jsonl").read_text().splitlines()]
    write_lines(changed / "answers.jsonl", [line | {"reference": 2} if line["id"] == "q7" else line for line in lines])
    with pytest.raises(ValueError, match="were asked other questions: q7 is about v2 with the answer 1 in one, and"):
        compare_runs(read_run(a), read_run(changed))
    write_lines(changed / "answers.jsonl", [line | {"id": f"x{line['id']}"} for line in lines])
    with pytest.raises(ValueError, match="have no question in common"):
        compare_runs(read_run(a), read_run(changed))
    write_lines(changed / "answers.jsonl", [line | {"correct": None} for line in lines])
    with pytest.raises(ValueError, match="changed: none of its answers is known to be right or wrong"):
        compare_runs(read_run(a), read_run(changed))


# The commands


def test_the_commands(tmp_path):
    synthesize(tmp_path / "set", seed=3, num_videos=2, num_frames=4, num_events=(1, 1), size=64, fps_container=1)
    model = save_question_aware(tmp_path / "tiny")
    runner = CliRunner()
    common = ["--videos", str(tmp_path / "set"), "--model", str(model), "--device", "cpu"]
    for name, more in (("a", []), ("b", ["--max-frames", "2"])):
        done = runner.invoke(app, ["eval", "synthetic", *common, "--out", str(tmp_path / name), *more])
        assert done.exit_code == 0, done.stderr
        assert "accuracy" in done.stdout and "kind" in done.stdout
    done = runner.invoke(app, ["report", str(tmp_path / "a")])
    assert done.exit_code == 0 and "report.md" in done.stdout and (tmp_path / "a" / "report.md").is_file()
    done = runner.invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert done.exit_code == 0 and "sampling.max_frames: None → 2" in done.stdout
    done = runner.invoke(app, ["eval", "synthetic", *common, "--out", str(tmp_path / "a"), "--fps", "2"])
    assert done.exit_code == 1 and "holds a run with `sampling.fps` = 1.0 instead of 2.0" in done.stderr


def test_benchmarks_are_listed_and_misspelled_ones_refused():
    listed = CliRunner().invoke(app, ["eval", "--list"])
    assert listed.exit_code == 0 and {"synthetic", "video_mme"} <= set(listed.stdout.split())
    for words, sentence in (
        (["videomme"], "did you mean video_mme"),
        ([], "Which benchmark?"),
        (["synthetic"], "name its folder with --videos"),
        (["video_mme", "--limit", "0"], "--limit 0: must be above 0"),
    ):
        done = CliRunner().invoke(app, ["eval", *words])
        assert done.exit_code == 1 and sentence in done.stderr and "Traceback" not in done.stderr
