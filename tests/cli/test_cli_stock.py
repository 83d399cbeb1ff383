"""The command line with a stock video language model: ask, encode, find, and mistakes in one sentence each."""

import json

import pytest
from adopted_models import stock
from chat_server import ChatServer
from tiny_dual_encoders import save_dual_encoder
from typer.testing import CliRunner
from videos import barcode_frames, write_video

from dynfocus.cli.app import app
from dynfocus.towers import dual_encoder_check

pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock")
    model, processor = stock("qwen3_vl")
    model.save_pretrained(folder / "vlm")
    model.save_pretrained(folder / "no processor")
    processor.save_pretrained(folder / "vlm")
    save_dual_encoder("siglip", folder / "siglip")
    write_video(folder / "a film.mp4", barcode_frames(24, height=96, width=128), fps=2)
    return folder


@pytest.fixture
def run(folder, monkeypatch):
    monkeypatch.chdir(folder)

    def run(*words, fails=False, stdin=None):
        found = CliRunner().invoke(app, list(map(str, words)), input=stdin)
        assert (found.exit_code != 0) == fails, found.output
        return found.stderr if fails else found.stdout

    return run


STOCK = ("--model", "vlm", "--dual-encoder", "siglip")


def test_ask_encode_and_ask_the_state(run):
    words = ("Which one?", *STOCK, "--max-visual-tokens", "200", "--max-new-tokens", "3", "--json")
    direct = json.loads(run("ask", "a film.mp4", *words))
    assert 0 < direct["num_visual_tokens"] <= 200 < direct["num_dense_tokens"] and direct["key_frames"]
    assert "12 frames" in run("encode", "a film.mp4", "-o", "film.safetensors", *STOCK)
    asked = json.loads(run("ask", "film.safetensors", *words))
    assert [asked[name] for name in ("answer", "score", "key_frames")] == [
        direct[name] for name in ("answer", "score", "key_frames")
    ]
    uniform = json.loads(run("ask", "film.safetensors", *words, "--rule", "uniform", "--coarse", "none"))
    count = len(uniform["key_frames"])
    assert [one["index"] for one in uniform["key_frames"]] == [int((k + 0.5) * 12 / count) for k in range(count)]


def test_a_dual_encoder_that_knows_no_shapes_is_named(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for words in (("ask", "a film.mp4", "a?", *STOCK), ("find", "a film.mp4", "red", "--dual-encoder", "siglip")):
        monkeypatch.setattr(dual_encoder_check, "_FOUND", {})
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 0 and done.stderr.startswith("warning: The dual encoder 'siglip' found only ")


def test_the_relevance_of_every_frame_is_printed(run):
    words = (
        "ask",
        "a film.mp4",
        "red circle",
        *STOCK,
        "--max-new-tokens",
        "1",
        "--max-visual-tokens",
        "150",
        "--coarse",
        "panels",
    )
    assert "relevance" in run(*words)
    result = json.loads(run(*words, "--json"))
    key, coarse = [frame["index"] for frame in result["key_frames"]], result["coarse_frames"]
    assert len(result["relevance"]) == result["num_frames"] == 12 and {min(result["relevance"]), 1.0} == {0.0, 1.0}
    assert key and coarse and not {*key} & {*coarse}
    assert [result["relevance"][index] for index in key] == [frame["score"] for frame in result["key_frames"]]


def test_find_prints_moments_and_cuts_clips(run, folder):
    words = ("find", "a film.mp4", "a red circle", "--top", "3", "--dual-encoder", "siglip")
    found = json.loads(run(*words, "--clips", "clips", "--json"))["moments"]
    scores = [one["score"] for one in found]
    assert len({one["time"] for one in found}) == 3 and scores == sorted(scores, reverse=True)
    from dynfocus.processing import read_video

    clip = read_video(folder / found[0]["clip"], fps=100)
    assert clip.frames.shape[1:] == (96, 128, 3) and 2.0 <= clip.metadata.duration <= 5.0
    assert "00:" in run(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ask", "a film.mp4", "a?", *STOCK, "--rule", "best"), "--rule best: There is no rule of choice 'best'"),
        (("ask", "a film.mp4", "a?", "--model", "siglip"), "siglip is a siglip model, which reads no videos"),
        (("ask", "a film.mp4", "a?", "--model", "vlm", "--dual-encoder", "vlm"), "--dual-encoder vlm: "),
        (("ask", "a film.mp4", "a?", *STOCK, "--max-visual-tokens", "3"), "is too small: one key frame costs"),
        (("ask", "a film.mp4", "a?", "--coarse", "none"), "--coarse is for stock video language models"),
        (("ask", "no.mp4", "a?", *STOCK), "no.mp4: there is no such video file"),
        (
            ("ask", "who is it?", "a film.mp4"),
            "The video comes first, then the question: dynfocus ask 'a film.mp4' QUESTION",
        ),
        (("find", "a film.mp4", " ", "--dual-encoder", "siglip"), "The text is empty"),
        (("find", "a film.mp4", "red", "--dual-encoder", "vlm"), "--dual-encoder vlm: "),
        (
            ("ask", "a film.mp4", "a?", "--model", "no processor"),
            "--model no processor: it holds no processor",
        ),
    ],
)
def test_mistakes_are_one_sentence(run, words, message):
    text = " ".join(run(*words, fails=True).split())
    assert message in text and "Traceback" not in text
    assert text.count("error:") == 1


def test_states_of_the_other_road_are_refused(run):
    run("encode", "a film.mp4", "-o", "stock.safetensors", *STOCK)
    run("encode", "a film.mp4", "-o", "own.safetensors")
    assert "was encoded by a dual encoder, for a stock model" in " ".join(
        run("ask", "stock.safetensors", "a?", fails=True).split()
    )
    assert "was encoded by a DynFocus model, not by a dual encoder" in " ".join(
        run("ask", "own.safetensors", "a?", *STOCK, fails=True).split()
    )
    assert "from a dual encoder, which `dynfocus encode` writes for a stock model; give the video" in " ".join(
        run("find", "own.safetensors", "red", "--dual-encoder", "siglip", fails=True).split()
    )


# A model on a server.


@pytest.fixture(scope="module")
def server():
    def reply(content, attempt):
        return content[-1]["text"].upper() if isinstance(content, list) else "yes"

    with ChatServer(reply, models=["big", "small"], usage={"prompt_tokens": 345}) as server:
        yield server


def test_a_model_on_a_server_is_asked(run, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-tellnobody-0123456789")
    there = ("--server", server.url, "--model", "big", "--dual-encoder", "siglip")
    found = json.loads(run("ask", "a film.mp4", "which one?", *there, "--max-visual-tokens", "900", "--json"))
    assert (found["answer"], found["model"], found["num_prompt_tokens"]) == ("WHICH ONE?", "big", 345)
    assert found["score"] is found["num_visual_tokens"] is found["num_dense_tokens"] is None and found["key_frames"]
    printed = run("ask", "a film.mp4", "which one?", *there, "--plot", "served.png")
    assert "WHICH ONE?" in printed and "345 tokens in the prompt, by the server's count" in printed
    assert "score " not in printed.partition("key frame")[0]
    run("encode", "a film.mp4", "-o", "served.safetensors", *there)
    assert "TWO?" in run("chat", "served.safetensors", *there, stdin="one?\ntwo?\n/details\n")
    # With the processor of the model here, the same frames are chosen as for the model itself.
    words = ("served.safetensors", "which one?", "--max-visual-tokens", "200", "--max-new-tokens", "1", "--json")
    mine = json.loads(run("ask", *words, *there, "--processor", "vlm"))
    assert mine["key_frames"] == json.loads(run("ask", *words, *STOCK))["key_frames"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "/v1: name one of its models by --model; it offers big, small."),
        (("--model", "big", "--revision", "main"), "--revision main: the server decides which weights it loads"),
        (("--model", "big", "--processor", "no/such"), "The processor 'no/such' cannot be used: "),
        (("--model", "big", "--dual-encoder", "vlm"), "--dual-encoder vlm: "),
        (
            ("--model", "big", "--server", "http://127.0.0.1:1/v1"),
            "http://127.0.0.1:1/v1 cannot be reached (Connection",
        ),
        # Before a dual encoder is downloaded.
        (("--dual-encoder", "no/such"), "/v1: name one of its models by --model; it offers big, small."),
        (("--model", "big", "--server", "http://me:pass@host/v1"), "base URL holds a user name or password"),
        (("--model", "big", "--max-visual-tokens", "3"), "is too small: one key frame costs 22 tokens"),
    ],
)
def test_mistakes_about_servers_are_one_sentence(run, server, words, message):
    text = " ".join(
        run("ask", "a film.mp4", "a?", "--server", server.url, "--dual-encoder", "siglip", *words, fails=True).split()
    )
    assert message in text and "Traceback" not in text and "pass@" not in text
    assert text.count("error:") == 1


def test_a_processor_alone_is_refused(run):
    assert "--processor vlm: goes with --server" in run("ask", "a film.mp4", "a?", "--processor", "vlm", fails=True)
