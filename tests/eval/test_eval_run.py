"""An evaluation: the same answers however it is carried out, and a record of all that made them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from chat_server import ChatServer
from forked import Forked, run_in_two
from tiny_dual_encoders import save_dual_encoder
from tiny_models import save_question_aware

from dynfocus import VideoQAPipeline
from dynfocus.eval import run as run_module
from dynfocus.eval.answering import Answerer
from dynfocus.eval.benchmarks import get_benchmark
from dynfocus.eval.benchmarks.base import SUBTITLES_MARK, Benchmark, Question
from dynfocus.eval.processes import Processes
from dynfocus.eval.progress import AnsweringProgress
from dynfocus.eval.provenance import prompts_hash
from dynfocus.eval.report import write_report
from dynfocus.eval.run import EvalSettings, evaluate, load_pipeline, main
from dynfocus.eval.run_folder import append_lines, claim_run, read_run, write_lines
from dynfocus.eval.synthetic.builder import synthesize
from dynfocus.eval.videos import find_videos
from dynfocus.processing.dynfocus_video_qa import DynFocusVideoQA
from dynfocus.processing.video_qa import Answer

END_FILES = ("answers.jsonl", "result.json")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_question_aware(tmp_path_factory.mktemp("models") / "tiny", seed=3)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Three videos of six seconds, with a question of each kind."""
    folder = tmp_path_factory.mktemp("world") / "set"
    synthesize(folder, seed=3, num_videos=3, num_frames=6, num_events=(1, 1), size=64, fps_container=2)
    return folder


@pytest.fixture(scope="module")
def pipe(model):
    return load_pipeline(EvalSettings(get_benchmark("synthetic"), model=str(model)), "cpu")


@pytest.fixture
def go(model, world, pipe):
    """Evaluates on the synthetic set into a folder; `changes` are fields of the settings."""

    def go(out: Path, **changes):
        fields = {"benchmark": get_benchmark("synthetic"), "model": str(model), "videos": str(world), "batch_size": 3}
        settings = EvalSettings(**{**fields, "out": out, "device": "cpu", "command": "dynfocus eval", **changes})
        return evaluate(settings, lambda *_: pipe, lambda text: None)

    return go


@pytest.fixture(scope="module")
def whole(model, world, tmp_path_factory) -> Path:
    """The folder of an undisturbed run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert main(words(model, world, out)) == 0
    return out


def words(model, world, out, *more):
    return ["synthetic", "--model", str(model), "--videos", str(world), "--out", str(out), "--batch-size", "3", *more]


def end_files(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in END_FILES]


def choice_benchmark(folder: Path, rows: list[dict], **changes) -> Benchmark:
    """Two options a question, from a file in `folder`."""

    def read(rows, **options):
        for row in rows:
            yield Question(
                id=row["id"],
                video=row["video"],
                prompt=row["prompt"] + (f" {SUBTITLES_MARK}" if options.get("subtitles") else ""),
                reference=row["answer"],
                options=("red", "blue"),
                groups={"length": row["length"]},
                subtitles=f"{row['video']}.srt" if options.get("subtitles") else None,
            )

    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {
        "name": "choice",
        "title": "Choice",
        "url": "",
        "dataset": str(folder),
        "data_files": "rows.jsonl",
        "split": "test",
        "metric": "multiple_choice_accuracy",
        "read": read,
        "fields": ("id", "video", "prompt", "answer", "length"),
        "options": {"subtitles": False},
    }
    return Benchmark(**{**fields, **changes})


def choice_rows(count=4, **changes):
    return [
        {"id": f"q{i}", "video": f"{i // 2:06d}", "prompt": f"which one? {i}", "answer": i % 2, "length": "short"}
        | changes
        for i in range(count)
    ]


# The same answers


def test_batches_answer_as_single_questions_do(go, whole, tmp_path):
    single, larger = go(tmp_path / "single", batch_size=1), go(tmp_path / "larger", batch_size=4)
    assert single.answers == larger.answers == read_run(whole).answers
    assert single.result == larger.result
    assert len({line["output"] for line in single.answers}) > 3, "the model must tell questions apart"


def test_an_evaluation_says_what_the_pipeline_says(go, pipe, world, tmp_path):
    rows = [json.loads(line) for line in (world / "questions.jsonl").read_text().splitlines()]
    run = go(tmp_path / "run")
    for row, line in zip(rows[::5], run.answers[::5], strict=True):
        found = pipe(str(world / row["video"]), question=row["question"], max_new_tokens=16, do_sample=False)
        assert (line["output"], line["num_visual_tokens"]) == (found["answer"], found["num_visual_tokens"])
        for mine, other in zip(line["key_frames"], found["key_frames"], strict=True):
            assert (mine["index"], mine["time"]) == (other["index"], other["time"])
            assert mine["score"] == pytest.approx(other["score"], abs=1e-3)


@pytest.mark.parametrize("batches", [0, 4])
def test_a_run_that_is_broken_off_goes_on(go, whole, tmp_path, monkeypatch, batches):
    out, written = tmp_path / "run", []

    def break_off(folder, name, rank, lines):
        append_lines(folder, name, rank, lines)
        written.append(name)
        if written.count("answers.jsonl") > batches:
            # Half a line is what a kill leaves behind.
            with (folder / name).open("ab") as file:
                file.write(b'{"id": "000023", "vid')
            raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "append_lines", break_off)
    with pytest.raises(KeyboardInterrupt):
        go(out)
    assert read_run(out).result is None
    monkeypatch.undo()
    go(out)
    assert end_files(out) == end_files(whole)
    assert len(read_run(out).timings) == len(read_run(out).answers)


def test_a_finished_run_asks_nothing(go, whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    go(out)
    monkeypatch.setattr(DynFocusVideoQA, "answer", lambda *_, **__: pytest.fail("it was asked again"))
    go(out)
    assert end_files(out) == end_files(whole)


def test_what_killed_processes_left_is_put_together(go, whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    out.mkdir()
    shutil.copy(whole / "run.json", out)
    lines = (whole / "answers.jsonl").read_bytes().splitlines(keepends=True)
    videos = [json.loads(line)["video"] for line in lines]
    second = videos.index("videos/000001.mp4")
    (out / "answers.jsonl").write_bytes(lines[4][:30] + b"\n" + b"".join(lines[second : second + 2]) + lines[3][:40])
    (out / "answers.1.jsonl").write_bytes(b"".join(lines[:3]) + lines[second + 2][:-2])
    # A kill while they were put together leaves some lines twice.
    (out / "answers.2.jsonl").write_bytes(lines[second])
    asked, ask = [], Answerer._ask
    monkeypatch.setattr(Answerer, "_ask", lambda *given: asked.append(given[2]) or ask(*given))
    go(out)
    # All batches of three but the first, the one that lies there whole.
    assert len(asked) == sum(-(-videos.count(video) // 3) for video in set(videos)) - 1
    assert end_files(out) == end_files(whole)
    assert not list(out.glob("*.[0-9].jsonl"))


def test_processes_share_the_videos(go, tmp_path, monkeypatch):
    shares = []
    monkeypatch.setattr(Processes, "wait", lambda self: None)
    monkeypatch.setattr(run_module, "_finish", lambda *_: None)
    monkeypatch.setattr(Answerer, "answer", lambda self, tasks: shares.append([task.path for task in tasks]) or [])
    for rank in range(2):
        monkeypatch.setattr(Processes, "from_environment", lambda rank=rank: Processes(rank, 2))
        go(tmp_path / "run")
    assert [len(share) for share in shares] == [2, 1] and len({*shares[0], *shares[1]}) == 3


# The second batch of answers is never written.
WAITING = """
import signal, sys
from dynfocus.eval import run
append_lines, written = run.append_lines, []
def waiting(folder, name, *lines):
    if name in written:
        signal.pause()
    written.append(name)
    append_lines(folder, name, *lines)
run.append_lines = waiting
sys.exit(run.main())
"""


def test_a_killed_run_goes_on_in_two_processes_and_ends_as_one_does(model, world, whole, tmp_path):
    out = tmp_path / "run"
    answers, script = out / "answers.jsonl", tmp_path / "waiting.py"
    script.write_text(WAITING)
    with Forked(script, *words(model, world, out)) as process:
        process.until(lambda: answers.is_file() and answers.stat().st_size > 0)
    assert read_run(out).result is None
    said = run_in_two("dynfocus.eval.run:main", *words(model, world, out))
    assert end_files(out) == end_files(whole)
    assert "Continuing in" in said
    assert not list(out.glob("*.[0-9].jsonl"))


def test_a_video_is_read_and_encoded_once(go, tmp_path, monkeypatch):
    encoded, encode = [], DynFocusVideoQA.encode_video
    monkeypatch.setattr(DynFocusVideoQA, "encode_video", lambda *given, **k: encoded.append(1) or encode(*given, **k))
    go(tmp_path / "run", batch_size=1)
    assert len(encoded) == 3


# What goes wrong


def test_missing_and_broken_videos_are_counted_and_tried_again(go, world, whole, tmp_path):
    videos = tmp_path / "videos"
    shutil.copytree(world, videos)
    first, second = sorted((videos / "videos").iterdir())[:2]
    kept = first.read_bytes(), second.read_bytes()
    first.unlink()
    second.write_bytes(b"no video")
    run = go(tmp_path / "run", videos=str(videos))
    failed = [line for line in run.answers if line["error"] is not None]
    per_video = len(run.answers) // 3
    assert run.result["failures"] == len(failed) == 2 * per_video
    assert all(line["output"] is None and line["correct"] is False for line in failed)
    assert failed[0]["error"] == "The video file is missing."
    assert second.name in failed[-1]["error"] and str(videos) not in failed[-1]["error"]
    answered = [line["correct"] for line in run.answers if line["error"] is None]
    assert run.result["answered_accuracy"] == sum(answered) / len(answered)
    first.write_bytes(kept[0])
    second.write_bytes(kept[1])
    go(tmp_path / "run", videos=str(videos))
    assert end_files(tmp_path / "run") == end_files(whole)


def test_a_folder_without_the_videos_is_refused(go, world, tmp_path):
    shutil.copy(world / "questions.jsonl", tmp_path)
    with pytest.raises(
        ValueError, match=r"lacks 3 of the 3 video files .* \(videos/000000.mp4, .*\): name the folder"
    ):
        go(tmp_path / "run", videos=str(tmp_path))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="there is no such folder; .* needs 4 video files"):
        find_videos(get_benchmark("synthetic"), [Question(str(i), f"{i}", "?", "") for i in range(4)], "no/folder")


def test_a_folder_keeps_its_settings(go, tmp_path):
    go(tmp_path / "run", limit=2)
    with pytest.raises(
        ValueError, match=r"holds a run with `num_questions` = 2 instead of 3 \(and 2 more settings\): give"
    ):
        go(tmp_path / "run", limit=3)
    with pytest.raises(ValueError, match="`sampling.fps` = 1.0 instead of 2.0: give another --out"):
        go(tmp_path / "run", limit=2, fps=2.0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="neither an empty folder nor one of a run"):
        claim_run(tmp_path / "other", {})


@pytest.mark.parametrize("left", [("run.json.part", b'{"benchm'), ("run.json.part", b""), ("run.json", b"")])
def test_what_a_kill_left_of_the_first_file_is_no_other_run(go, whole, tmp_path, left):
    name, content = left
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_bytes(content)
    go(tmp_path / "run")
    assert end_files(tmp_path / "run") == end_files(whole)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b'{"benchmark": "synth', "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[]", "holds no JSON object, but list"),
        (b"{}", "lacks benchmark, about"),
    ],
)
def test_answers_without_settings_are_refused_in_one_sentence(go, whole, tmp_path, content, message):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "run.json").write_bytes(content)
    for read in (read_run, go):
        with pytest.raises(ValueError, match=rf"run.json: {message}.*; give another --out, or delete that folder\.$"):
            read(out)


DAMAGED = [
    (b'{"video": "videos/000000.mp4"}', "lacks id, output"),
    (b'{"id": "000001"}', "lacks video, output"),
    (b"{}", "lacks id"),
    (b"[1, 2]", "holds no JSON object, but list"),
    (b"null", "holds no JSON object, but NoneType"),
    (b'{"id": ', "is no JSON"),
    (b"\xff\xfe\x00", "is no JSON"),
    (b"[" * 10_000, "is no JSON"),
]


@pytest.mark.parametrize(("line", "message"), DAMAGED)
def test_a_damaged_line_is_named_and_its_question_asked_again(go, whole, tmp_path, line, message):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    lines = (out / "answers.jsonl").read_bytes().splitlines()
    lines[1] = line
    (out / "answers.jsonl").write_bytes(b"\n".join(lines))
    (out / "timings.jsonl").write_bytes(line + b"\n" + (out / "timings.jsonl").read_bytes())
    with pytest.raises(
        ValueError, match=rf"answers.jsonl, line 2: {message}.*; the same `dynfocus eval` command repairs"
    ):
        read_run(out)
    go(out)
    assert end_files(out) == end_files(whole) and read_run(out).result


def test_answers_that_are_missing_from_a_finished_run_are_asked_again(go, whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    lines = (out / "answers.jsonl").read_bytes().splitlines(keepends=True)
    (out / "answers.jsonl").write_bytes(b"".join(lines[:-2]))
    with pytest.raises(
        ValueError, match=f"has {len(lines) - 2} answers, but the scores are of {len(lines)}; the same"
    ):
        read_run(out)
    go(out)
    assert end_files(out) == end_files(whole)


def test_values_of_the_wrong_type_are_damage(go, whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    lines = [json.loads(line) for line in (out / "answers.jsonl").read_bytes().splitlines()]
    for change in ({"id": 1}, {"id": None}, {"groups": None}):
        write_lines(out / "answers.jsonl", [lines[0] | change, *lines[1:]])
        with pytest.raises(ValueError, match="answers.jsonl, line 1: has an `id` that is not a text, or `groups`"):
            read_run(out)
    go(out)
    assert end_files(out) == end_files(whole)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}"])
def test_damaged_scores_are_computed_again(go, whole, tmp_path, content):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "result.json").write_bytes(content)
    with pytest.raises(ValueError, match="result.json: .*; the same `dynfocus eval` command repairs that"):
        read_run(out)
    go(out)
    assert end_files(out) == end_files(whole)


@pytest.mark.parametrize(("name", "value"), [("limit", 0), ("fps", -1.0), ("batch_size", 0), ("max_visual_tokens", 0)])
def test_settings_make_sense(name, value):
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} {value}: must be above 0"):
        EvalSettings(get_benchmark("synthetic"), **{name: value})


def test_the_command_line_says_one_sentence(model, world, tmp_path, capsys):
    assert main(["sinthetic", "--videos", str(world)]) == 1
    assert "did you mean synthetic" in capsys.readouterr().err
    assert main(words(model, world, tmp_path, "--subtitles")) == 1
    assert "has no option 'subtitles'" in capsys.readouterr().err
    assert main(words(model, tmp_path / "none", tmp_path)) == 1
    assert "holds no questions.jsonl" in capsys.readouterr().err


# Data sets


def test_a_changed_schema_is_one_error(go, tmp_path):
    rows = [{name: row[name] for name in ("id", "video", "prompt")} for row in choice_rows()]
    with pytest.raises(
        ValueError, match="has changed: Choice needs the fields answer, length, and there are id, video"
    ):
        go(tmp_path / "run", benchmark=choice_benchmark(tmp_path, rows))


def test_ids_must_differ(go, tmp_path):
    with pytest.raises(ValueError, match="Choice asks 'same' twice"):
        go(tmp_path / "run", benchmark=choice_benchmark(tmp_path, choice_rows(id="same")))


def test_what_a_metric_cannot_score_is_said_before_the_model_is_asked(go, tmp_path, monkeypatch):
    monkeypatch.setattr(DynFocusVideoQA, "answer", lambda *_, **__: pytest.fail("it was asked"))
    with pytest.raises(ValueError, match="references"):
        go(tmp_path / "run", benchmark=choice_benchmark(tmp_path, choice_rows(answer=7)))


def test_choices_are_parsed_and_grouped(go, tmp_path, monkeypatch):
    said = iter(["A", "the blue one is (B).", "A or B", "blue"])
    timings = {"encode": 0.0, "generate": 0.0}

    def answer(self, rows, **options):
        return [Answer(next(said), 1.0, [], 5, 5, [[0.0]], [], timings) for _ in rows]

    monkeypatch.setattr(DynFocusVideoQA, "answer", answer)
    run = go(tmp_path / "run", benchmark=choice_benchmark(tmp_path, choice_rows()))
    assert [line["prediction"] for line in run.answers] == [0, 1, None, 1]
    assert [line["correct"] for line in run.answers] == [True, True, False, True]
    assert run.result["score"] == 0.75 and run.result["scores"]["unparsable"] == 1
    assert run.result["scores"]["by_group"] == {"length": {"short": {"accuracy": 0.75, "total": 4}}}


def test_subtitles_of_the_frames_that_are_seen(go, pipe, world, tmp_path, monkeypatch):
    videos = tmp_path / "videos"
    shutil.copytree(world / "videos", videos)
    cue = "1\n00:00:0{0}.000 --> 00:00:0{1}.000\nhello {0}\n\n"
    (videos / "000000.srt").write_text(cue.format(2, 4) + cue.format(8, 9), encoding="utf-16")
    seen, prepare = [], DynFocusVideoQA.prepare
    monkeypatch.setattr(
        DynFocusVideoQA, "prepare", lambda self, row, **kw: seen.append(row) or prepare(self, row, **kw)
    )
    benchmark = choice_benchmark(tmp_path, choice_rows()).with_options(subtitles=True)
    go(tmp_path / "run", benchmark=benchmark, videos=str(videos))
    prompts = [row["messages"][0]["content"][1]["text"] for row in seen]
    assert prompts[0] == "which one? 0 hello 2" and prompts[2] == "which one? 2 No subtitles available"
    assert all(SUBTITLES_MARK not in row["question"] for row in seen)
    # What cannot be read is no video without subtitles.
    (videos / "000000.srt").write_text("words alone")
    broken = go(tmp_path / "broken", benchmark=benchmark, videos=str(videos)).answers[0]
    assert (
        broken["error"].startswith("000000.srt: It holds no subtitles") or "videos/000000.srt: It" in broken["error"]
    )
    (videos / "000000.srt").unlink()
    with pytest.raises(ValueError, match="holds none of the files with subtitles"):
        go(tmp_path / "without", benchmark=benchmark, videos=str(videos))


def test_a_long_question_steers_with_its_beginning(pipe):
    tokenizer, room = pipe.processor.tokenizer, pipe.processor.max_question_tokens
    assert pipe.video_qa.cut_for_choice("which one?") == "which one?"
    text = "which shape comes first, " * 20
    cut = pipe.video_qa.cut_for_choice(text)
    assert text.startswith(cut) and 0 <= room - len(tokenizer(cut, add_special_tokens=False)["input_ids"]) < 3


def test_videos_are_found_wherever_an_archive_put_them(tmp_path):
    (tmp_path / "videos_chunk" / "data").mkdir(parents=True)
    for name in ("a.mp4", "b.mkv", "twice.mp4"):
        (tmp_path / "videos_chunk" / "data" / name).touch()
    (tmp_path / "twice.mkv").touch()
    (tmp_path / "videos_chunk" / "twice.mp4").touch()
    names = ["data/a", "videos_chunk/data/b.mp4", "deep/twice.mp4", "https://example.org/c.mp4", "missing"]
    benchmark = replace(get_benchmark("synthetic"), video_endings=(".mp4", ".mkv"))
    found = find_videos(benchmark, [Question(name, name, "?", "") for name in names], tmp_path)
    folder = tmp_path / "videos_chunk" / "data"
    assert found == dict(
        zip(
            names,
            # One of two files of the same name would be a guess.
            [str(folder / "a.mp4"), str(folder / "b.mkv"), str(tmp_path / "twice.mkv"), names[3], None],
            strict=True,
        )
    )


# The judge


def test_answers_are_judged_later_and_once(go, world, tmp_path, monkeypatch):
    pytest.importorskip("openai")

    def reply(row, attempt):
        return '{"correct": "%s", "score": 3}' % ("yes" if row["question"] in first else "no")

    rows = choice_rows(answer="a red star")
    judged = choice_benchmark(tmp_path, rows, metric="judged_video_qa")
    options = {"benchmark": judged, "videos": str(world / "videos")}
    run = go(tmp_path / "run", **options)
    assert (run.result["score"], run.result["metric"]) == (None, "video_qa_accuracy")
    # An empty answer is wrong without a judge.
    asked = [place for place, line in enumerate(run.answers) if line["output"].strip()]
    assert asked
    first = rows[asked[0]]["prompt"]
    monkeypatch.setattr(DynFocusVideoQA, "answer", lambda *_, **__: pytest.fail("it was answered again"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-3")
    with ChatServer(reply) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        run = go(tmp_path / "run", judge="grader", command="dynfocus eval --judge grader", **options)
        assert len(server.rows) == len(asked)
        assert go(tmp_path / "run", judge="grader", **options).result == run.result
        assert len(server.rows) == len(asked)
    # The judge is gone, its verdicts are not.
    assert go(tmp_path / "run", **options).result == run.result
    assert run.result["score"] == 0.25 and [line["correct"] for line in run.answers].index(True) == asked[0]
    assert run.result["judge"][0]["model"] == "grader" and run.settings["command"] == "dynfocus eval --judge grader"
    assert "secret" not in "".join(path.read_text() for path in (tmp_path / "run").iterdir())


# The record


def test_the_record_says_what_made_the_answers(go, model, world, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret_1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-2")
    run = go(tmp_path / "run", max_frames=4, max_visual_tokens=60)
    settings = run.settings
    assert settings["benchmark"] == "synthetic" and settings["model"]["id"] == str(model)
    assert settings["model"]["weights"].startswith("sha256:") and settings["data"]["revision"].startswith("sha256:")
    assert settings["sampling"] == {"fps": 1.0, "max_frames": 4, "max_visual_tokens": 60}
    assert settings["versions"].keys() >= {"dynfocus", "transformers", "torch", "datasets", "av"}
    assert (settings["dtype"], settings["device"], settings["seed"]) == ("float32", "cpu", 0)
    assert settings["prompts"]["example"] == json.loads((world / "questions.jsonl").open().readline())["question"]
    assert all(line["num_frames"] == 4 and line["num_visual_tokens"] <= 60 for line in run.answers)
    assert run.timings[0].keys() == {"id", "decode", "encode", "generate"}
    everything = "".join(path.read_text() for path in (tmp_path / "run").iterdir())
    assert "secret" not in everything


def test_a_model_on_a_server_is_evaluated(world, tmp_path, monkeypatch):
    """Through the interface alone: its answers, its record, its report; what is odd about them is said."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    encoder, told = save_dual_encoder("siglip", tmp_path / "siglip"), []
    question = choice_rows(4)

    def reply(content, attempt):
        return "" if content[-1]["text"].endswith(" 3") else "A"

    with ChatServer(reply) as server:
        settings = EvalSettings(
            choice_benchmark(tmp_path, question),
            "big",
            server.url,
            videos=str(world),
            out=tmp_path / "run",
            rule="topk",
        )
        run = evaluate(
            settings, lambda *_: VideoQAPipeline("big", server=server.url, dual_encoder=encoder), told.append
        )
    assert [line["output"] for line in run.answers] == ["A", "A", "A", ""] and run.result["total"] == 4
    assert [line["num_visual_tokens"] for line in run.answers] == [None] * 4
    assert run.result["mean_visual_tokens"] is None and all(line["key_frames"] for line in run.answers)
    assert told == ["big returned an empty answer. (1 of the answers)"]
    recorded = run.settings
    assert recorded["model"] == {"id": "big", "revision": None, "weights": None} and recorded["dtype"] is None
    assert (recorded["choice"]["server"], recorded["choice"]["rule"]) == (server.url, "topk")
    assert "on a server" in "".join(path.read_text() for path in write_report(run) if path.suffix != ".png")


def test_the_hash_of_the_prompts_heeds_every_question(tmp_path):
    hashes = set()
    for change in ({}, {"prompt": "else?"}, {"answer": 0}, {"video": "000000"}):
        rows = choice_rows()
        rows[3] |= change
        hashes.add(prompts_hash(choice_benchmark(tmp_path, rows).questions(rows)))
    assert len(hashes) == 4


def test_progress_tells_rate_accuracy_and_time_left():
    progress = AnsweringProgress(10, "Answering", quiet=True)
    progress.update([True, False, None, True])
    assert progress.line(progress.start + 8) == "Answering 4/10, 0.50 questions/s, accuracy 66.7 %, 0 min left"
