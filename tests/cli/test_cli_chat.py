"""`dynfocus chat`, and `dynfocus ask` about saved states."""

import json
import os
import pty
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Forked
from PIL import Image
from safetensors.torch import save_file
from test_cli import assert_one_sentence
from tiny import make_tiny_processor
from tiny_models import make_question_aware, tiny_model
from typer.testing import CliRunner
from videos import barcode_frames, write_video

from dynfocus import VideoState
from dynfocus.cli import ask as ask_module
from dynfocus.cli import chat as chat_module
from dynfocus.cli.app import app
from dynfocus.processing.clock import clock_time

QUESTION = "which number is it?"


def save_model(folder, seed=0, **kwargs):
    model = tiny_model(seed=seed, **kwargs)
    make_question_aware(model)
    model.save_pretrained(folder)
    make_tiny_processor(num_prototypes=6, key_ratio=0.5).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """12 seconds, 2 frames a second; frame n shows n."""
    return str(write_video(tmp_path_factory.mktemp("films") / "a film.mp4", barcode_frames(24), fps=2))


@pytest.fixture(scope="module")
def chat(model, film):
    def call(*lines, options=(), video=film):
        arguments = ["chat", video, "--model", model, "--max-new-tokens", "4", *options]
        return CliRunner().invoke(app, [str(word) for word in arguments], input="\n".join(map(str, lines)) + "\n")

    return call


@pytest.fixture(scope="module")
def ask(model):
    def call(video, *options, question=QUESTION):
        words = ["ask", video, question, "--model", model, "--max-new-tokens", "4", *options]
        return CliRunner().invoke(app, [str(word) for word in words])

    return call


@pytest.fixture(scope="module")
def state(chat, tmp_path_factory):
    """The film's state, as the chat saves it."""
    path = tmp_path_factory.mktemp("states") / "a film.safetensors"
    done = chat(f'/save "{path}"')
    assert (done.exit_code, done.stderr) == (0, "") and f"Saved: {path}" in done.stdout
    return str(path)


def answers(done):
    """(question, answer, line of the key frames) of each question that was answered."""
    return re.findall(r"^\? (.+)\n(.+)\n(key frames at .+); \d+\.\d\d s$", done.stdout, re.MULTILINE)


def same(found, expected):
    assert {**found, "timings": {}} == {**expected, "timings": {}}


def test_a_state_in_place_of_the_video(ask, state, film, monkeypatch):
    expected = json.loads(ask(film, "--json").stdout)
    from dynfocus.towers import vision_tower

    monkeypatch.setattr(vision_tower.VisionTower, "forward", lambda *_, **__: pytest.fail("the tower ran"))
    monkeypatch.setattr("dynfocus.processing.reading.index.build_index", lambda *_: pytest.fail("a video was read"))
    done = ask(state, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    same(json.loads(done.stdout), {**expected, "video": state})
    few = json.loads(ask(state, "--json", "--max-visual-tokens", "60").stdout)
    assert few["num_visual_tokens"] <= 60 < expected["num_visual_tokens"]


def test_chat_gives_the_answers_of_ask(chat, ask, film, state):
    questions = [QUESTION, "what colour is the circle?", "which [red]star[/red]?", QUESTION]
    for video in (film, state):
        done = chat(*questions, video=video)
        assert (done.exit_code, done.stderr) == (0, "")
        assert (
            "12 frames up to 0:11, ready after" in done.stdout and "Each question is answered by itself" in done.stdout
        )
        found = answers(done)
        assert [question for question, *_ in found] == questions
        for question, text, key_frames in found:
            expected = json.loads(ask(film, "--json", question=question).stdout)
            assert text == (expected["answer"] or "(no answer)")
            times = ", ".join(clock_time(frame["time"]) for frame in expected["key_frames"])
            assert key_frames == f"key frames at {times}"


def test_the_video_is_encoded_once(chat, monkeypatch):
    from dynfocus import VideoQAPipeline

    calls, encode = [], VideoQAPipeline.encode_video
    monkeypatch.setattr(
        VideoQAPipeline, "encode_video", lambda self, *a, **k: calls.append((a, k)) or encode(self, *a, **k)
    )
    done = chat(QUESTION, "and now?", options=["--fps", "2", "--max-frames", "9"])
    assert len(calls) == 1 and len(answers(done)) == 2 and ": 9 frames" in done.stdout


def test_an_error_ends_nothing(chat):
    done = chat(
        "why " * 200, "", QUESTION, "/dance", "/plot", '/plot "x', "/plot no/folder/a.png", "/save a.mp4", "yes?"
    )
    assert done.exit_code == 0 and len(answers(done)) == 2
    errors = done.stderr.splitlines()
    for line, words in zip(
        errors,
        [
            "shorten it",
            "/dance: there is no such command; /help lists them",
            "/plot: write /plot FILE",
            "cannot be read (no closing quotation)",
            "there is no folder no/folder",
            "must end in .safetensors",
        ],
        strict=True,
    ):
        assert line.startswith("error: ") and words in line


def test_commands(chat, tmp_path):
    plot, kept = tmp_path / "a plot.png", tmp_path / "kept.safetensors"
    too_early = ("/details", f"/plot {tmp_path}/early.png")
    done = chat(*too_early, QUESTION, "/details", f"/plot '{plot}'", *[f"/save {kept}"] * 2, "/help", "/quit", "more?")
    assert done.exit_code == 0 and len(answers(done)) == 1, "nothing is answered after /quit"
    assert "138 visual tokens of 480" in done.stdout and f"Timeline: {plot}\n" in done.stdout
    assert all(word in done.stdout for word in ("/details", "/plot FILE", "/save STATE", "/help", "/quit"))
    assert done.stderr.splitlines() == [
        "error: Nothing was answered yet: ask a question first.",
        "error: Nothing was answered yet: ask a question first.",
        f"error: {kept}: is there already; give another name, or remove it first.",
    ]
    with Image.open(plot) as image:
        assert image.width >= 1600
    assert len(VideoState.load(kept)) == 1 and not (tmp_path / "early.png").exists()


def test_plot_of_a_state_shows_the_video_where_it_is(ask, state, film, tmp_path):
    def height(video, name):
        done = ask(video, "--plot", tmp_path / name)
        assert (done.exit_code, done.stderr) == (0, "")
        with Image.open(tmp_path / name) as image:
            return image.height, done.stdout.splitlines()[-1]

    with_pictures, line = height(film, "film.png")
    assert line == f"Timeline: {tmp_path / 'film.png'}"
    loaded = VideoState.load(state)
    size = Path(film).stat().st_size
    for source, size_then, reason in (
        (film, size, None),
        (film, size + 1, "has changed since it was encoded"),
        ("gone.mp4", size, "gone.mp4 is not here"),
        (None, None, "does not name its video"),
    ):
        noted = None if source is None else {"source": source, "size": size_then}
        replace(loaded, sampling=noted).save(tmp_path / "noted.safetensors")
        found, line = height(tmp_path / "noted.safetensors", "noted.png")
        assert (found == with_pictures) == (reason is None)
        assert ("without pictures" in line) == (reason is not None) and (reason or "") in line
    # A video that moved along with its state.
    (tmp_path / "moved.mp4").write_bytes(Path(film).read_bytes())
    replace(loaded, sampling={"source": "elsewhere/moved.mp4", "size": size}).save(tmp_path / "noted.safetensors")
    assert height(tmp_path / "noted.safetensors", "noted.png")[0] == with_pictures


# What is refused


@pytest.mark.parametrize("command", ["ask", "chat"])
def test_states_that_do_not_fit(ask, chat, state, tmp_path, command):
    def call(video, *options):
        return ask(video, *options) if command == "ask" else chat(QUESTION, video=video, options=options)

    other = save_model(tmp_path / "other", seed=1)
    assert_one_sentence(call(state, "--model", other), "other weights of the vision tower")
    tower = tiny_model().config.vision_config.backbone_config.to_dict()
    narrow = save_model(tmp_path / "narrow", backbone_config={**tower, "hidden_size": 16}, encoder_hidden_size=16)
    assert_one_sentence(call(state, "--model", narrow), "was encoded by another model")
    for options in (("--fps", "2"), ("--max-frames", "3")):
        assert_one_sentence(
            call(state, *options), f"are chosen already; encode the video again with `dynfocus encode {options[0]}"
        )
    missing, garbage, weights = (tmp_path / f"{name}.safetensors" for name in ("missing", "garbage", "weights"))
    garbage.write_bytes(np.random.default_rng(0).bytes(500))
    save_file({"a": torch.zeros(3)}, weights)
    assert_one_sentence(call(missing), f"{missing}: there is no such video state")
    for path in (garbage, weights):
        assert_one_sentence(call(path), f"{path} is not a video state")


def test_a_state_of_several_videos_is_refused(ask, state, tmp_path):
    loaded = VideoState.load(state)
    tensors = {name: torch.cat([tensor, tensor]) for name, tensor in loaded.tensors().items()}
    VideoState(**tensors).save(tmp_path / "two.safetensors")
    assert_one_sentence(ask(tmp_path / "two.safetensors"), "holds 2 videos")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-frames", "0"], "--max-frames 0: must be above 0"),
        (["--device", "quantum"], "is not a device"),
        (["--model", "./no/such"], "there is no such folder"),
    ],
)
def test_chat_that_cannot_begin(chat, options, words):
    assert_one_sentence(chat(QUESTION, options=options), words)


def test_chat_about_no_video(chat, tmp_path):
    (tmp_path / "garbage.mp4").write_bytes(b"no video" * 100)
    assert_one_sentence(chat(QUESTION, video=tmp_path / "garbage.mp4"), "garbage.mp4")
    assert_one_sentence(chat(QUESTION, video="/no/such.mp4"), "/no/such.mp4: there is no such video file")


# Terminals, pipes and signals


def chatting(model, state, **streams):
    words = ("chat", state, "--model", model, "--max-new-tokens", "4")
    return Forked("dynfocus.cli:main", *words, environment={**os.environ, "TERM": "dumb"}, **streams)


def test_chat_over_a_pipe(model, state, tmp_path):
    """Each answer comes before the next question is sent."""
    streams = {name: tmp_path / name for name in ("stdin", "stdout", "stderr")}
    os.mkfifo(streams["stdin"])
    os.mkfifo(streams["stdout"])
    with chatting(model, state, **streams) as process:
        with open(streams["stdin"], "w") as questions, open(streams["stdout"]) as answers:

            def read(count):
                return [answers.readline() for _ in range(count)]

            assert "12 frames" in read(2)[0]
            for question in (QUESTION, "what colour?"):
                questions.write(f"{question}\n")
                questions.flush()
                echo, _, key_frames = read(3)
                assert echo == f"? {question}\n" and key_frames.startswith("key frames at 0:")
            questions.write("why " * 200 + "\nno?")  # without a newline at the end
            questions.close()
            out = answers.read()
        assert process.wait() == 0
    assert out.endswith(" s\n") and "? no?\n" in out
    err = streams["stderr"].read_text()
    assert err.startswith("error: The question is too long") and err.count("\n") == 1


def test_chat_at_a_terminal(model, state):
    """A prompt, an answer, and a polite end by Ctrl-C."""
    controller, terminal = pty.openpty()
    shown = b""

    def wait_for(pattern):
        nonlocal shown
        while not re.search(pattern, shown):
            shown += os.read(controller, 4096)
        found, shown = shown, b""
        return found.decode()

    with chatting(model, state, **dict.fromkeys(("stdin", "stdout", "stderr"), os.ttyname(terminal))) as process:
        assert "12 frames" in wait_for(rb"\n\? ")
        os.close(terminal)  # the process has it open
        os.write(controller, f"{QUESTION}\n".encode())
        assert "key frames at" in wait_for(rb" s\r\n\? ")
        # `readline` may miss a signal that comes between its prompt and its waiting; a user presses the keys again.
        process.signal(signal.SIGINT)
        while process.wait(1) is None:
            process.signal(signal.SIGINT)
        assert process.wait() == 0 and b"Traceback" not in shown
    os.close(controller)


@pytest.fixture
def at_terminal(chat, monkeypatch):
    """Chats at a terminal where the user writes the given lines; an exception stands for Ctrl-C or Ctrl-D."""

    def call(*lines):
        written = iter(lines)

        def read(prompt):
            line = next(written)
            if isinstance(line, type):
                raise line
            return line

        monkeypatch.setattr(chat_module, "_at_terminal", lambda: True)
        monkeypatch.setattr("builtins.input", read)
        return chat()

    return call


@pytest.mark.parametrize("key", [EOFError, KeyboardInterrupt])
def test_keys_that_end_it(at_terminal, key):
    done = at_terminal(QUESTION, key, "too late")
    assert (done.exit_code, done.stderr) == (0, "") and "too late" not in done.stdout
    assert done.stdout.count("key frames at") == 1 and done.stdout.endswith(" s\n\n")


def test_ctrl_c_stops_a_slow_answer_alone(at_terminal, monkeypatch):
    answer = ask_module.answer

    def slow(pipe, video, question, setup):
        if question == "slow?":
            raise KeyboardInterrupt
        return answer(pipe, video, question, setup)

    monkeypatch.setattr(chat_module, "answer", slow)
    done = at_terminal("slow?", QUESTION, EOFError)
    assert done.exit_code == 0 and "Stopped; Ctrl-C once more" in done.stdout
    assert done.stdout.count("key frames at") == 1
