"""The `dynfocus` command: what it prints, draws and writes, and how it fails."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from forked import Forked
from huggingface_hub import constants, errors
from PIL import Image
from rich.console import Console
from tiny import make_tiny_processor
from tiny_models import tiny_model
from typer.testing import CliRunner
from videos import barcode_frames, write_video

from dynfocus import __version__, checkpoints
from dynfocus.cli import ask as ask_module
from dynfocus.cli import loading, terminal
from dynfocus.cli.app import app
from dynfocus.cli.report import _key_frames
from dynfocus.cli.terminal import UserError
from dynfocus.processing.clock import clock_time, counted

QUESTION = "which number is it?"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save_pretrained(folder)
    make_tiny_processor(num_prototypes=6, key_ratio=0.5).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """12 seconds, 2 frames a second; frame n shows n."""
    return str(write_video(tmp_path_factory.mktemp("films") / "a film.mp4", barcode_frames(24), fps=2))


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def ask(model, film):
    def call(*options, video=film, question=QUESTION):
        return run("ask", video, question, "--model", model, "--max-new-tokens", "4", *options)

    return call


@pytest.fixture(scope="module")
def answer(ask):
    """The object that `--json` prints."""
    done = ask("--json")
    assert (done.exit_code, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_json(answer, model, film):
    assert answer.keys() == {
        *("video", "question", "model", "answer", "score", "key_frames", "num_visual_tokens"),
        *("num_frames", "frame_times", "num_dense_tokens", "events", "timings"),
    }
    assert (answer["video"], answer["question"], answer["model"]) == (film, QUESTION, model)
    assert isinstance(answer["answer"], str) and 0 < answer["score"] <= 1
    assert answer["num_frames"] == len(answer["frame_times"]) == 12
    assert [frame.keys() for frame in answer["key_frames"]] == [{"index", "time", "score"}] * 3
    assert answer["num_visual_tokens"] == 3 * 38 + 12 * 2 and answer["num_dense_tokens"] == 12 * 40
    assert answer["timings"].keys() == {"decode", "encode", "generate"}


def test_sampling_options(ask):
    done = ask("--json", "--fps", "2", "--max-frames", "5", "--max-visual-tokens", "60", "--decoder", "pyav")
    result = json.loads(done.stdout)
    assert result["num_frames"] == 5 and 40 <= result["num_visual_tokens"] <= 60
    assert json.loads(ask("--json", "--dtype", "bf16", "--device", "cpu").stdout)["num_frames"] == 12


def test_report(ask, answer):
    done = ask()
    assert (done.exit_code, done.stderr) == (0, "")
    assert QUESTION in done.stdout and f"score {answer['score']:.2f}" in done.stdout
    for frame in answer["key_frames"]:
        row = rf"^ +{frame['index']} +{clock_time(frame['time'], decimals=True)} +{frame['score']:.2f} "
        assert re.search(row, done.stdout, re.MULTILINE)
    assert "138 visual tokens of 480 (29 %) a dense model would take" in done.stdout
    assert all(step in done.stdout for step in ("decode", "encode", "generate"))


def test_question_is_no_markup(ask):
    assert "which [red]star[/red] [/]?" in ask(question="which [red]star[/red] [/]?").stdout


# How it fails


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "./no/such/folder"], "./no/such/folder: there is no such folder"),
        (["--model", __file__], "is a file"),
        (["--model", ""], "--model is empty: name a folder or a Hub id"),
        (["--server", "", "--model", "x"], "--server is empty: give the address of a server"),
        (["--revision", "v1"], "--revision v1: is for models on the Hub, and "),
        (["--dtype", "float7"], "--dtype float7: is not one of float32"),
        (["--device", "quantum"], "--device quantum: is not a device such as"),
        (["--device", "meta"], "computes nothing"),
        (["--max-visual-tokens", "39"], "--max-visual-tokens 39` is too small"),
        (["--max-visual-tokens", "0"], "--max-visual-tokens 0` is too small: one key frame and one rod group cost 38"),
        (
            ["--max-visual-tokens", "-3"],
            "--max-visual-tokens -3` is too small: one key frame and one rod group cost 38",
        ),
        (["--fps", "inf"], "--fps inf: must be finite"),
        (["--fps", "-1"], "--fps -1.0: must be above 0"),
        (["--fps", "nan"], "--fps nan: must be above 0"),
        (["--max-frames", "0"], "--max-frames 0: must be above 0"),
        (["--plot", "no/such/folder/timeline.png"], "there is no folder no/such/folder"),
        (["--plot", "timeline.docx"], "must end in one of .png"),
        (["--plot", "timeline"], "must end in one of .png"),
    ],
)
def test_bad_options(ask, options, words):
    assert_one_sentence(ask(*options), words)


def test_empty_name_of_a_video(ask):
    assert_one_sentence(ask(video=""), "The name of the video is empty")


@pytest.mark.parametrize("question", ["", "  \n "])
def test_empty_question(ask, question):
    assert_one_sentence(ask(question=question), "The question is empty")


def test_too_long_question(ask):
    assert_one_sentence(ask(question="why " * 500), "shorten it")


@pytest.mark.parametrize("kind", ["missing", "garbage", "cut off", "empty", "folder", "scheme"])
def test_bad_video(ask, film, tmp_path, kind):
    path = tmp_path / f"{kind}.mp4"
    if kind == "garbage":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "cut off":
        path.write_bytes(Path(film).read_bytes()[:-500])
    video = "gopher://host/film.mp4" if kind == "scheme" else str(path)
    assert_one_sentence(ask(video=video), video)


def assert_one_sentence(done, words):
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert words in done.stderr


def test_wrong_plot_is_said_before_the_model_runs(ask, monkeypatch, tmp_path):
    monkeypatch.setattr(ask_module, "load_pipeline", lambda *_: pytest.fail("the model was loaded"))
    (tmp_path / "folder.png").mkdir()
    assert_one_sentence(ask("--plot", tmp_path / "folder.png"), "is a folder")
    assert_one_sentence(ask("--plot", tmp_path / "none" / "a.png"), "create it first")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert_one_sentence(ask("--plot", tmp_path / "a.png"), "pip install 'dynfocus[plot]'")


def test_accelerator_that_is_not_there(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    with pytest.raises(UserError, match="--device cuda: is not available, torch finds no accelerator"):
        loading.find_device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert loading.find_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match="there are 2 cuda devices"):
        loading.find_device("cuda:2")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "no config.json"),
        ('{"model_type": "gpt2"}', "is a gpt2 model"),
        ("{", "json is not valid JSON"),
    ],
)
def test_folder_that_is_no_dynfocus_model(film, tmp_path, config, words):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert_one_sentence(run("ask", film, QUESTION, "--model", tmp_path), words)


def test_model_without_weights(film, model, tmp_path):
    (tmp_path / "config.json").write_text((Path(model) / "config.json").read_text())
    assert_one_sentence(run("ask", film, QUESTION, "--model", tmp_path), "weights are missing or damaged")


def test_hub_that_cannot_be_reached(film, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_one_sentence(run("ask", film, QUESTION, "--model", "nobody/nothing"), "Hub cannot be reached")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (errors.RepositoryNotFoundError, "is neither a local folder nor a model on the Hub"),
        (errors.GatedRepoError, "grant you access"),
        (errors.RevisionNotFoundError, "has no revision 'v9'"),
        (errors.EntryNotFoundError, "no config.json"),
    ],
)
def test_what_the_hub_answers(film, monkeypatch, kind, words):
    from transformers import AutoConfig

    def fail(*_, **__):
        # As transformers does it; made without the response that the class asks for.
        raise OSError("a long\nstory") from kind.__new__(kind)

    monkeypatch.setattr(AutoConfig, "from_pretrained", fail)
    assert_one_sentence(run("ask", film, QUESTION, "--model", "some/model", "--revision", "v9"), words)


def test_remote_code_needs_the_flag(film, monkeypatch):
    from transformers import AutoConfig

    def fail(name, trust_remote_code, **_):
        assert trust_remote_code is False
        raise ValueError("contains custom code. Please pass the argument `trust_remote_code=True`")

    monkeypatch.setattr(AutoConfig, "from_pretrained", fail)
    assert_one_sentence(run("ask", film, QUESTION, "--model", "some/model"), "--trust-remote-code runs it")


def test_embedded_model(monkeypatch, tmp_path, film):
    monkeypatch.setattr(checkpoints.resources, "files", lambda package: tmp_path / package)
    assert_one_sentence(run("ask", film, QUESTION), "holds no default model")
    folder = tmp_path / "dynfocus.checkpoints" / "dynfocus-tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    assert checkpoints.embedded_model() == folder


def test_the_embedded_model_has_a_name_which_a_local_folder_may_take(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    embedded = str(checkpoints.embedded_model())
    assert checkpoints.find_model(None) == checkpoints.find_model("dynfocus-tiny") == embedded
    assert checkpoints.find_model("user/model") == "user/model"
    (tmp_path / "dynfocus-tiny").mkdir()
    assert checkpoints.find_model("dynfocus-tiny") == "dynfocus-tiny" and checkpoints.find_model(None) == embedded


def test_verbose_shows_where_an_error_comes_from(film):
    done = run("ask", film, "", "--verbose")
    assert done.exit_code == 1 and "Traceback" in done.stderr and done.stderr.endswith("about the video.\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "film.mp4"),
        ("ask", "film.mp4", "what?", "--decoder", "eyes"),
        ("ask", "film.mp4", "what?", "--fps", "fast"),
        ("ask", "film.mp4", "what?", "--max-new-tokens", "0"),
        ("synth",),
        ("synth", "--out", "set", "--events", "some"),
        ("synth", "--out", "set", "--events", "3-"),
        ("synth", "--out", "set", "--split", "dev"),
        ("dance",),
    ],
)
def test_usage_errors(arguments):
    done = run(*arguments)
    assert done.exit_code == 2 and done.stdout == "" and "Traceback" not in done.stderr


# The timeline


def test_plot(ask, tmp_path):
    path = tmp_path / "time line.png"
    done = ask("--plot", path)
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"Timeline: {path}\n" in done.stdout
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width >= 1600 and 600 <= image.height <= image.width
        # Not a blank page, and not without colours.
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert (pixels.max(-1) - pixels.min(-1) > 60).mean() > 0.02


def test_clock_time():
    assert [clock_time(t) for t in (0, 59.99, 65.25, 3661)] == ["0:00", "0:59", "1:05", "1:01:01"]
    assert [clock_time(t, decimals=True) for t in (0, 65.25, 0.3, 3600)] == [
        "00:00.0",
        "01:05.2",
        "00:00.3",
        "1:00:00.0",
    ]


# The synthetic world


def test_synth(tmp_path):
    first, second = tmp_path / "a set", tmp_path / "b"
    options = ("--seed", "3", "--videos", "2", "--frames", "8", "--events", "2", "--questions-per-kind", "1")
    done = run("synth", "--out", first, *options)
    assert (done.exit_code, done.stderr) == (0, "")
    rows = [json.loads(line) for line in (first / "questions.jsonl").read_text().splitlines()]
    line = f"Wrote 2 videos of 8 s and {len(rows)} questions to {first} (seed 3, test split)."
    assert line in done.stdout
    assert f"dynfocus eval synthetic --videos '{first}'\n" in done.stdout
    assert all((first / row["video"]).is_file() and row.keys() >= {"question", "answer", "kind"} for row in rows)
    run("synth", "--out", second, *options)
    files = [sorted(path for path in folder.rglob("*") if path.is_file()) for folder in (first, second)]
    assert len(files[0]) == 5
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


@pytest.mark.parametrize(("events", "words"), [("6-3", "num_events"), ("0", "num_events"), ("90", "num_events")])
def test_synth_refuses(tmp_path, events, words):
    frames = "400" if events == "90" else "32"
    done = run("synth", "--out", tmp_path / "set", "--events", events, "--frames", frames)
    assert_one_sentence(done, words)
    assert not (tmp_path / "set").exists()


def test_synth_refuses_unknown_kinds(tmp_path):
    done = run("synth", "--out", tmp_path / "set", "--kinds", "color,taste")
    assert_one_sentence(done, "Unknown kind of question 'taste'; the kinds are color, ")
    assert not (tmp_path / "set").exists()


def test_synth_leaves_other_folders_alone(tmp_path):
    (tmp_path / "thesis.txt").touch()
    assert_one_sentence(run("synth", "--out", tmp_path), "is neither an empty folder nor one of a set")


# The command


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help(arguments):
    done = run(*arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    assert all(word in done.stdout for word in ("ask", "synth", "--version", "dynfocus ask lecture.mp4"))


def test_help_of_commands(monkeypatch):
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 100)
    assert "dynfocus synth --frames 128 --videos 50 --out test-set" in run("synth", "--help").stdout
    page = run("ask", "--help").stdout
    assert "--max-visual-tokens" in page
    # Groups, of few enough lines for a screen.
    assert [name for name in ("Options", "Model", "Choice of frames", "Reading") if f"─ {name} ─" not in page] == []
    assert len(page.splitlines()) <= 60 and len(run("--help").stdout.splitlines()) <= 50


def test_completion():
    """What the shell asks after `dynfocus sy<Tab>`."""
    asked = {"_DYNFOCUS_COMPLETE": "complete_bash", "COMP_WORDS": "dynfocus sy", "COMP_CWORD": "1"}
    assert CliRunner().invoke(app, [], prog_name="dynfocus", env=asked).stdout.split() == ["synth"]


def test_version():
    assert run("--version").stdout == f"dynfocus {__version__}\n"


def test_quiet(capsys):
    logger = logging.getLogger("some.library")
    with terminal.quiet():
        print("chatter")
        warnings.warn("chatter", stacklevel=1)
        logger.error("chatter")
    assert capsys.readouterr() == ("", "")
    assert logger.isEnabledFor(logging.ERROR)
    with terminal.quiet(verbose=True):
        print("chatter")
    assert capsys.readouterr() == ("", "chatter\n")


@pytest.mark.parametrize(("patience", "terminal_there"), [(0.0, True), (60.0, True), (0.0, False)])
def test_spinner(monkeypatch, patience, terminal_there):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal_there, width=60)
    monkeypatch.setattr(terminal, "Console", lambda **_: console)
    monkeypatch.setattr(terminal, "_PATIENCE", patience)
    with terminal.spinner("Thinking"):
        while patience == 0 and terminal_there and "Thinking" not in shown.getvalue():
            time.sleep(0.01)
    assert ("Thinking" in shown.getvalue()) == (patience == 0 and terminal_there)


def in_a_process(*arguments):
    command = [sys.executable, "-m", "dynfocus.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "77"}
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment)


def test_a_process_gives_the_same_json_and_nothing_else(answer, model, film):
    done = in_a_process("ask", film, QUESTION, "--model", model, "--max-new-tokens", "4", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["answer"] == answer["answer"] and found["score"] == pytest.approx(answer["score"], rel=1e-4)
    assert [frame["index"] for frame in found["key_frames"]] == [frame["index"] for frame in answer["key_frames"]]


def test_a_process_fails_with_one_sentence(model, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(200))
    with Forked("dynfocus.cli:main", "ask", tmp_path / "broken.mp4", QUESTION, "--model", model) as process:
        assert process.wait() == 1
        said = process.output
    assert said.startswith("error: ") and said.count("\n") == 1 and "broken.mp4" in said


def test_one_thing_is_not_several():
    assert [counted(number, "key frame") for number in (0, 1, 4)] == ["0 key frames", "1 key frame", "4 key frames"]
    console = Console(width=80, record=True, file=io.StringIO())
    frame = {"index": 0, "time": 0.0, "score": 1.0}
    console.print(_key_frames({"key_frames": [frame], "num_frames": 1}))
    assert "1 key frame of 1 frame\n" in re.sub(" +\n", "\n", console.export_text())
