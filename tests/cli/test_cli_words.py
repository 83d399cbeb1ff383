"""What the command says where something is not as it should be: what is wrong, and which option or step helps."""

import errno
import json
import os
import sys

import pytest
from tiny import make_tiny_processor
from tiny_models import tiny_model
from typer.testing import CliRunner
from videos import barcode_frames, cut_file, write_video

from dynfocus.cli import ask as ask_module
from dynfocus.cli.app import app, main
from dynfocus.cli.loading import rate_note
from dynfocus.cli.wording import in_options, looks_like_option, of_the_system

QUESTION = "which number is it?"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save_pretrained(folder)
    make_tiny_processor(num_prototypes=6, key_ratio=0.5).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """12 seconds, 2 frames a second."""
    return str(write_video(tmp_path_factory.mktemp("films") / "film.mp4", barcode_frames(24), fps=2))


@pytest.fixture(scope="module")
def cut(tmp_path_factory, film):
    """Without its end; each fragment has an index of its own, so that the rest can be read."""
    folder = tmp_path_factory.mktemp("cut")
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    whole = write_video(folder / "whole.mp4", barcode_frames(60), fps=2, container_options=options)
    return str(cut_file(whole, 0.6, folder / "cut.mp4"))


@pytest.fixture(scope="module")
def run(model):
    def run(command, *arguments, stdin=None):
        arguments = [command, *map(str, arguments), "--model", model]
        return CliRunner().invoke(
            app, [*arguments, *(["--max-new-tokens", "4"] if command != "encode" else [])], stdin
        )

    return run


def refused(done) -> str:
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr.removeprefix("error: ").strip()


def test_a_question_need_not_be_quoted(run, film):
    quoted, bare = run("ask", film, QUESTION, "--json"), run("ask", film, *QUESTION.split(), "--json")
    assert bare.exit_code == 0, bare.stderr
    first, second = json.loads(quoted.stdout), json.loads(bare.stdout)
    assert {**first, "timings": None} == {**second, "timings": None}


def test_a_cut_file_names_the_option_that_reads_the_rest(run, cut, tmp_path):
    commands = {
        "ask": (cut, QUESTION, "--json"),
        "chat": (cut,),
        "encode": (cut, "--out", tmp_path / "cut.safetensors"),
    }
    for command, arguments in commands.items():
        said = refused(run(command, *arguments, stdin=QUESTION))
        assert "--on-truncated warn" in said and "on_truncated" not in said, said
        done = run(command, *arguments, "--on-truncated", "warn", stdin=QUESTION)
        assert done.exit_code == 0, done.stderr
        assert done.stderr.startswith("warning: ") and "cut.mp4" in done.stderr and "on_truncated" not in done.stderr
    rest = json.loads(run("ask", *commands["ask"], "--on-truncated", "warn").stdout)
    assert 1 < rest["num_frames"] < 30


@pytest.mark.parametrize("command", ["ask", "chat", "encode"])
def test_videos_are_files(run, command, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    rest = {"ask": [QUESTION], "chat": [], "encode": ["--out", tmp_path / "state.safetensors"]}[command]
    for video in ("-", "/dev/null", str(tmp_path / "pipe")):
        assert refused(run(command, video, *rest)) == (
            f"{video}: a video cannot be read from a pipe; save it to a file, and name that."
        )
    assert refused(run(command, tmp_path, *rest)) == f"{tmp_path}: is a folder; name a video file in it."


def test_names_that_begin_with_a_dash(film, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-dash.mp4").write_bytes(b"")
    assert looks_like_option(["ask", "-dash.mp4", "a?"]) == "-dash.mp4"
    for words in (["ask", "./-dash.mp4", "a?"], ["ask", "--", "-dash.mp4"], ["ask", "-other.mp4"], ["-m", "-"]):
        assert looks_like_option(words) is None
    monkeypatch.setattr(sys, "argv", ["dynfocus", "ask", "-dash.mp4", "a?"])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said == "error: -dash.mp4: a name that begins with a dash is taken for an option; write ./-dash.mp4.\n"


def test_more_frames_a_second_than_there_are(run, film, tmp_path):
    done = run("ask", film, QUESTION, "--fps", "1e9", "--json")
    assert json.loads(done.stdout)["num_frames"] == 24
    assert done.stderr == (
        "note: --fps 1e+09 is more than the video has, or than --max-frames allows: 24 frames were read, 2 a second.\n"
    )
    assert "24 frames were read" in run("chat", film, "--fps", "30", stdin="").stderr
    assert "24 frames were read" in run("encode", film, "--fps", "30", "--out", tmp_path / "s.safetensors").stderr
    assert run("ask", film, QUESTION, "--fps", "2", "--json").stderr == ""


DEMO = "note: No --model was given: the included demo model answers, which has only seen generated shapes."


def test_the_demo_says_every_time_what_it_has_seen(film, tmp_path):
    asked = CliRunner().invoke(app, ["ask", film, QUESTION, "--json"])
    assert json.loads(asked.stdout)["model"] == "dynfocus-tiny (demo)"
    chat = CliRunner().invoke(app, ["chat", film], input="")
    encoded = CliRunner().invoke(app, ["encode", film, "--out", str(tmp_path / "s.safetensors")])
    for done, command in ((asked, "ask VIDEO QUESTION"), (chat, "chat VIDEO"), (encoded, "encode VIDEO --out STATE")):
        way_out = f" For real videos: dynfocus {command} --model Qwen/Qwen3-VL-4B-Instruct\n"
        assert done.exit_code == 0 and done.stderr.count(DEMO + way_out) == 1


def test_rate_note():
    times = [0.0, 0.5, 1.0, 1.5]
    assert rate_note(times, 2) is None and rate_note(times, None) is None and rate_note([0.0], 5) is None
    assert "4 frames were read, 2 a second" in str(rate_note(times, 3))


def test_a_question_that_is_too_long_is_counted_in_words(run, film):
    said = refused(run("ask", film, "which number is shown with the red star? " * 10))
    assert said.startswith("The question is too long: it has 80 words, and to choose frames the model reads about ")
    assert said.endswith(" of them: shorten it.")


def test_no_answer_without_numbers_is_printed_as_json(run, film, monkeypatch):
    monkeypatch.setattr(ask_module, "answer", lambda *_: {"frame_times": [0.0], "score": float("nan")})
    done = run("ask", film, QUESTION, "--json")
    assert done.exit_code == 1 and done.stdout == "" and done.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("python", "option"),
    [
        ("`max_visual_tokens=3` is too small", "`--max-visual-tokens 3` is too small"),
        ("a.mp4: damaged; on_truncated='warn' reads these.", "a.mp4: damaged; --on-truncated warn reads these."),
        ("cannot be decoded; use decoder='auto'.", "cannot be decoded; use --decoder auto."),
        ("load it with another `dtype`", "load it with another --dtype"),
        ("fps=0.5 gives no frame", "--fps 0.5 gives no frame"),
        ("The size=3 of it, and num_framesx=4", "The size=3 of it, and num_framesx=4"),
    ],
)
def test_python_is_told_as_options(python, option):
    assert in_options(python) == option


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.EROFS, "Read-only file system", "out/x"),
            "out/x: files there can only be read: choose another folder",
        ),
        (OSError(errno.EROFS, "Read-only file system"), "Files there can only be read: choose another folder"),
        (
            PermissionError(errno.EACCES, "Permission denied", "x.png"),
            "x.png: you may not do that there: choose another place, or ask its owner",
        ),
        (OSError(errno.EIO, "Input/output error", "a b.mp4"), "a b.mp4: input/output error"),
        (OSError("no number"), "no number"),
    ],
)
def test_errors_of_the_system_say_what_to_do(error, said):
    assert of_the_system(str(error)) == said
    assert of_the_system(f"It failed: {error}.") in (f"It failed: {said}.", "It failed: no number.")
