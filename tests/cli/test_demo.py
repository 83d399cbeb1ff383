"""What is behind the demo's page: reading once, answers as HTML, mistakes, limits, and the folder of a Space."""

import ast
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny import make_tiny_processor
from tiny_models import tiny_model
from typer.testing import CliRunner
from videos import barcode_frames, read_barcode, write_video

from dynfocus import VideoQAPipeline
from dynfocus.cli import demo_html
from dynfocus.cli.app import app
from dynfocus.cli.ask import Setup
from dynfocus.cli.demo_html import error_html, film_html, replies_html
from dynfocus.cli.space import requirements, write_space
from dynfocus.cli.studio import Film, Reply, Studio
from dynfocus.cli.terminal import UserError
from dynfocus.processing import answers

SETUP = Setup(
    video="",
    model=None,
    sampling={"max_visual_tokens": None, "fps": None, "max_frames": None, "decoder": "auto", "on_truncated": "warn"},
    max_new_tokens=3,
    device=None,
    dtype=None,
    revision=None,
    trust_remote_code=False,
    verbose=False,
)


@pytest.fixture(scope="module")
def studio():
    processor = make_tiny_processor(num_prototypes=6, key_ratio=0.5)
    return Studio(VideoQAPipeline(tiny_model(), processor=processor), SETUP)


@pytest.fixture(scope="module")
def upload(tmp_path_factory):
    """12 seconds, 2 frames a second, in a folder such as Gradio's."""
    return str(write_video(tmp_path_factory.mktemp("abf9d88e") / "my <film>.mp4", barcode_frames(24), fps=2))


@pytest.fixture(scope="module")
def film(studio, upload):
    seen = []
    film = studio.read(upload, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12)
    return film


def test_a_film_is_read_once_for_all_questions(studio, film, upload, monkeypatch):
    assert (film.name, film.state.num_frames) == ("my <film>.mp4", [12])
    least, usual, most = film.tokens
    assert 0 < least < usual == most
    opened = []
    monkeypatch.setattr(type(studio.pipe.video_qa), "open_video", lambda *_, **__: opened.append(1))
    reply = studio.ask(film, "which number is it?", usual, "dpe")
    assert reply.answer.num_visual_tokens == usual and reply.answer.question == "which number is it?"
    for frame, picture in zip(reply.answer.key_frames, reply.thumbnails, strict=True):
        assert read_barcode(picture) == 2 * frame["index"]
    # Another rule within the least budget: one key frame.
    (frame,) = studio.ask(film, "which number is it?", least, "uniform").answer.key_frames
    assert frame["index"] == 6 and opened == []
    with pytest.raises(UserError, match="too small"):
        studio.ask(film, "which number is it?", least - 1, "uniform")
    # Frames that were drawn before are not decoded again.
    monkeypatch.setattr("dynfocus.cli.studio.read_thumbnails", lambda path, times, **_: [None] * len(times))
    again = studio.ask(film, "which number is it?", usual, "dpe")
    assert all(isinstance(picture, np.ndarray) for picture in again.thumbnails)


def test_pictures_that_are_kept_are_bounded(upload):
    film = Film(upload, "a", None, 0.0, (1, 2, 3), pictures={-1.0 - n: np.zeros(1) for n in range(200)})
    assert len(film.pictures_at([0.0, 3.0])) == 2 and len(film.pictures) == 128 and {0.0, 3.0} <= {*film.pictures}


def test_frames_and_rules_follow_the_options(studio, upload):
    assert studio.rule == "dpe" and studio.rules[:3] == ["dpe", "context", "uniform"]
    other = Studio(studio.pipe, replace(SETUP, rule="mmr", sampling={**SETUP.sampling, "max_frames": 5}))
    assert other.rule == "mmr" and other.read(upload).state.num_frames == [5]


def test_mistakes_are_one_sentence_with_the_name_of_the_upload(studio, film, tmp_path):
    broken = tmp_path / "holiday.mp4"
    broken.write_bytes(b"\0\0\0\x20ftypisom" + bytes(200))
    for path in (broken, tmp_path / "gone.mp4"):
        with pytest.raises(UserError) as said:
            studio.read(str(path))
        assert str(tmp_path) not in str(said.value) and "\n" not in str(said.value)
        assert str(said.value).startswith(path.name)
    with pytest.raises(UserError, match="question is empty"):
        studio.ask(film, " \n", 100, "dpe")
    with pytest.raises(UserError, match=r"^the token budget 1 is too small: .* the least possible number\.$"):
        studio.ask(film, "what?", 1, "dpe")


def make_reply(**more):
    events = [{"frames": [second], "medoid": second, "score": 0.5, "selected": True} for second in range(30)]
    frames = [{"index": second, "time": float(second), "score": second / 30} for second in range(30)]
    given = {"answer": "<script>4</script>", "score": 0.9, "num_visual_tokens": 30, "num_dense_tokens": 400, **more}
    answer = answers.Answer(key_frames=frames, frame_times=[[float(n) for n in range(30)]], events=events, **given)
    thumbnails = [np.zeros((9, 16, 3), np.uint8) if second >= 20 else None for second in range(30)]
    return Reply("dpe", answer, 1.25, thumbnails)


def test_answers_as_html(film, monkeypatch):
    page = replies_html(film, [make_reply()], 1200)
    assert "<script>" not in page and "&lt;script&gt;4&lt;/script&gt;" in page
    assert "<b>30</b> visual tokens of 400 (8%)" in page and "width: 7.50%" in page
    assert "answered in <b>1.2 s</b>" in page and "score <b>0.90</b>" in page
    # Buttons that keyboards and readers reach, a little after the frame begins.
    assert re.findall(r'data-seek="([\d.]+)"', page) == [f"{second}.010" for second in range(20, 30)]
    assert 'aria-label="Go to 0:29, score 0.97"' in page and "(+20 more in the timeline)" in page
    assert page.count("data:image/jpeg") == 10 and page.count("data:image/png") == 1
    assert "Frames chosen by" not in page
    # Nothing is fetched.
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert len(replies_html(film, [make_reply()], 390)) != len(page)
    assert replies_html(film, [make_reply()], 1200, dark=True) != page
    monkeypatch.setattr(demo_html, "_timeline_html", lambda *_: "")
    both = replies_html(film, [make_reply(), make_reply()], 1200)
    assert both.count("<section") == 2 and both.count("Frames chosen by learned scores") == 2
    served = replies_html(film, [make_reply(num_visual_tokens=None, score=None, num_prompt_tokens=1234)], 1200)
    assert "1,234 tokens in the prompt, by the server's count" in served and "score <b>" not in served
    assert "(no answer)" in replies_html(film, [make_reply(answer="")], 1200)


def test_notes_and_errors_as_html(film):
    noted = replace(film, notes=["the file is <cut> off"])
    assert "my &lt;film&gt;.mp4: 12 frames up to 0:11, read in" in film_html(noted)
    assert "the file is &lt;cut&gt; off" in film_html(noted)
    assert error_html("a <b>") == '<p class="df-error" role="alert">a &lt;b&gt;</p>'


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rule", "best"), "--rule best: There is no rule of choice 'best'"),
        (("--fps", "0"), "--fps 0.0: must be above 0"),
        ((), "The page needs Gradio and matplotlib: pip install 'dynfocus[demo]'"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(monkeypatch, words, message):
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = CliRunner().invoke(app, ["demo", *words])
    assert done.exit_code == 1 and message in " ".join(done.stderr.split()) and done.stderr.count("error:") == 1


# The folder of a Space.


def call_of(folder: Path) -> str:
    """The last line of a Space's app, which must be valid Python."""
    source = (folder / "app.py").read_text(encoding="utf-8")
    ast.parse(source)
    return source.splitlines()[-1].strip()


def front_matter(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])


def test_a_space_is_complete(tmp_path):
    done = CliRunner().invoke(app, ["export", str(tmp_path / "space"), "--space"])
    assert done.exit_code == 0 and "hf upload USER/NAME" in done.stdout
    space = tmp_path / "space"
    assert {path.name for path in space.iterdir()} == {"README.md", "app.py", "requirements.txt", "dynfocus"}
    card = front_matter(space)
    assert (card["sdk"], card["app_file"], card["license"]) == ("gradio", "app.py", "apache-2.0")
    assert len(card["short_description"]) <= 60 and "models" not in card
    assert call_of(space) == "serve()"
    lines = (space / "requirements.txt").read_text().splitlines()
    assert lines == requirements() and {"gradio", "matplotlib"} <= {re.split(r"\W", line)[0] for line in lines}
    assert not any(
        "extra" in line or "dynfocus" in line or line.startswith(("pytest", "peft", "openai")) for line in lines
    )
    # All of the code but for training, where it is imported from; and the demo model.
    root = Path(__file__).parents[2]
    for folder in ("adoption", "cli", "eval", "processing"):
        sources = {path.relative_to(root / folder) for path in (root / folder).rglob("*.py")}
        assert sources == {path.relative_to(space / "dynfocus" / folder) for path in space.rglob(f"{folder}/**/*.py")}
    assert {path.name for path in (root / "modeling_dynfocus").glob("*.py")} <= {
        path.name for path in (space / "dynfocus").glob("*.py")
    }
    assert (space / "dynfocus" / "encoding").is_dir() and not (space / "dynfocus" / "training").exists()
    assert (space / "dynfocus" / "checkpoints" / "dynfocus-tiny" / "model.safetensors").is_file()
    assert call_of(write_space(tmp_path / "named", "dynfocus-tiny", None)) == "serve()"
    with pytest.raises(UserError, match="not an empty folder"):
        write_space(space, None, None)


def test_a_space_of_another_model(tmp_path):
    named = write_space(tmp_path / "named", "user/my-vlm", "v1.0")
    assert call_of(named) == 'serve("user/my-vlm", revision="v1.0")'
    assert front_matter(named)["models"] == ["user/my-vlm"] and front_matter(named)["title"] == "my-vlm"
    model = tmp_path / "mine"
    (model / "checkpoint-4").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "optimizer.pt", "code.py", "checkpoint-4/model.safetensors"):
        (model / name).write_text("{}")
    copied = write_space(tmp_path / "copied", str(model), None)
    assert call_of(copied) == 'serve("model")' and "models" not in front_matter(copied)
    assert {path.name for path in (copied / "model").iterdir()} == {"config.json", "model.safetensors"}
    with pytest.raises(UserError, match="there is no such folder"):
        write_space(tmp_path / "none", "./no/such", None)
    assert not (tmp_path / "none").exists() and not list(tmp_path.glob(".*"))
