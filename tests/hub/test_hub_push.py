"""Models on their way to the Hub: what is exported is complete, what is pushed comes back, what is refused is said."""

import json
import re
from pathlib import Path

import pytest
from hub_client import Part
from hub_server import DROP, HubServer
from tiny_models import save_question_aware
from transformers import pipeline
from typer.testing import CliRunner
from videos import barcode_frames, write_video

from dynfocus import DynFocusForConditionalGeneration
from dynfocus.cli.app import app
from dynfocus.hub.upload import export_model

pytestmark = pytest.mark.integration

QUESTION = "which number is shown with the red star?"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """What a training leaves: weights and settings, an evaluation, and no card."""
    folder = save_question_aware(tmp_path_factory.mktemp("saved") / "model")
    (folder / ".eval_results").mkdir()
    (folder / ".eval_results" / "synthetic.yaml").write_text("- value: 0.9\n", encoding="utf-8")
    (folder / "optimizer.pt").write_bytes(b"what nobody needs")
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> str:
    return str(write_video(tmp_path_factory.mktemp("video") / "six seconds.mp4", barcode_frames(12), fps=2.0))


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ---- export ----


def test_an_exported_folder_is_complete_and_holds_no_more(saved, tmp_path):
    done = CliRunner().invoke(app, ["export", str(tmp_path / "out"), "--model", str(saved)])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "dynfocus push" in done.stdout
    assert names_in(tmp_path / "out") == names_in(saved) - {"optimizer.pt"} | {"README.md"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    for name in ("config.json", "processor_config.json", "chat_template.jinja", "model.safetensors"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["DynFocusForConditionalGeneration"]
    assert {"AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor", "AutoVideoProcessor"} <= (
        config["auto_map"].keys()
    )


def test_a_new_card_says_what_the_model_is(saved, tmp_path):
    card = (export_model(saved, tmp_path / "out", name="user/name") / "README.md").read_text(encoding="utf-8")
    front = card.split("---")[1]
    assert "library_name: transformers" in front and "pipeline_tag: video-text-to-text" in front
    assert "\n# user/name\n" in card and 'model="user/name"' in card and "{" not in front
    assert "38 more a key frame" in card


def test_a_written_card_is_kept_and_names_the_new_place(saved, tmp_path):
    first = export_model(saved, tmp_path / "first")
    own = '# Mine\n\n```python\npipe = pipeline("video-qa", model="somewhere/else", revision="abc")\n```\n'
    (first / "README.md").write_text(own, encoding="utf-8")
    again = export_model(first, tmp_path / "again", name="user/name")
    assert (again / "README.md").read_text(encoding="utf-8") == own.replace("somewhere/else", "user/name")


def test_weights_are_sharded_on_demand_and_answer_the_same(saved, video, tmp_path):
    out = export_model(saved, tmp_path / "out", max_shard_size="80KB")
    assert len(list(out.glob("*.safetensors"))) > 1 and not (out / "model.safetensors").exists()
    answers = [pipeline("video-qa", model=str(folder))(video, question=QUESTION) for folder in (saved, out)]
    whole, sharded = answers
    assert sharded["answer"] == whole["answer"] and sharded["num_visual_tokens"] == whole["num_visual_tokens"]
    # Not bit for bit: where a tensor lies in its file decides how it lies in memory, and so how sums are rounded.
    for first, second in zip(whole["key_frames"], sharded["key_frames"], strict=True):
        assert second == pytest.approx(first, rel=1e-4)


def test_a_folder_that_holds_something_is_left_alone(saved, tmp_path):
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    done = CliRunner().invoke(app, ["export", str(tmp_path), "--model", str(saved)])
    assert done.exit_code == 1
    assert "is not an empty folder; name a new one, or delete it first" in done.stderr
    assert names_in(tmp_path) == {"note.txt"}


def test_an_export_that_fails_leaves_nothing(saved, tmp_path, monkeypatch):
    def full(model, folder, **kwargs):
        (Path(folder) / "model.safetensors").write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DynFocusForConditionalGeneration, "save_pretrained", full)
    done = CliRunner().invoke(app, ["export", str(tmp_path / "out"), "--model", str(saved)])
    assert done.exit_code == 1 and "the disk is full: make room" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_other_models_are_refused_by_name(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    for command in (["export", str(tmp_path / "out")], ["push", "user/name"]):
        done = CliRunner().invoke(app, [*command, "--model", str(other)])
        assert done.exit_code == 1 and "is a llama model: --model needs a DynFocus model" in done.stderr
    with pytest.raises(ValueError, match="is a llama model: only DynFocus models can be exported"):
        export_model(other, tmp_path / "out")


# ---- push ----


@pytest.fixture(scope="module")
def hub(saved):
    with HubServer() as server:
        stale = {"old_module.py": "old = True\n", "model-00001-of-00002.safetensors": b"old", "notes.md": "mine"}
        config = (saved / "config.json").read_text(encoding="utf-8")
        server.add_repo("user/again", {**stale, "config.json": config})
        server.add_repo("user/llama", {"config.json": json.dumps({"model_type": "llama"})})
        for name in ("cut-commit", "cut-file", "refused"):
            server.add_repo(f"user/{name}")
        broken: set[str] = set()

        def fail(method, path):
            if method == "POST" and "user/cut-commit/commit/" in path and path not in broken:
                broken.add(path)
                return DROP
            if method == "POST" and "user/refused/commit/" in path:
                return 500, {}, b"Internal error"
            if method == "POST" and "user/cut-file.git/info/lfs" in path:
                return DROP
            return None

        server.fail = fail
        yield server


@pytest.fixture(scope="module")
def pushed(hub, saved, tmp_path_factory) -> dict[str, dict]:
    """What each push printed, and how it ended."""
    out = tmp_path_factory.mktemp("pushed")
    scratch = tmp_path_factory.mktemp("scratch")

    def push(name: str, repo_id: str, *options: str, token: str | None = "hf_user") -> dict:
        return {"name": name, "token": token, "command": ["push", repo_id, "--model", str(saved), *options]}

    steps = [
        push("new", "user/new", "--private", "--message", "First try"),
        push("again", "user/again"),
        push("no token", "user/none", token=None),
        push("wrong token", "user/none", token="hf_wrong"),
        push("may not write", "user/none", token="hf_reader"),
        push("another's", "user/none", token="hf_stranger"),
        push("no name", "a/b/c"),
        push("llama", "user/llama"),
        push("cut commit", "user/cut-commit"),
        push("cut commit, again", "user/cut-commit"),
        push("cut file", "user/cut-file"),
        push("refused", "user/refused"),
    ]
    return Part("commands", out, hub.url, {"TMPDIR": str(scratch)}, steps=steps).result()[0]


def test_a_push_prints_the_address_and_the_commit_to_pin(pushed, hub):
    assert (pushed["new"]["code"], pushed["new"]["stderr"]) == (0, ""), pushed["new"]
    assert f"{hub.url}/user/new" in pushed["new"]["stdout"]
    assert f'revision="{hub.sha("user/new")}"' in pushed["new"]["stdout"]
    assert hub.repos["user/new"].private
    assert hub.history("user/new")[1:] == ["First try"]


def test_what_was_pushed_is_what_is_exported(pushed, hub, saved):
    files = hub.files("user/new")
    assert files.keys() - {".gitattributes"} == names_in(saved) - {"optimizer.pt"} | {"README.md"}
    assert files["model.safetensors"] == (saved / "model.safetensors").read_bytes()
    assert b'model="user/new"' in files["README.md"]


def test_a_push_replaces_code_and_weights_and_leaves_the_rest(pushed, hub):
    assert pushed["again"]["code"] == 0, pushed["again"]
    files = hub.files("user/again")
    assert files["notes.md"] == b"mine"
    assert not {"old_module.py", "model-00001-of-00002.safetensors"} & files.keys()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no token", r"You are not logged in to the Hub: `hf auth login` with a token that may write\."),
        ("wrong token", r"The Hub does not accept your token: `hf auth login` with one that may write\."),
        ("may not write", r"user/none: your token may not write there; log in with one that may, or .*another name\."),
        ("another's", r"user/none: your token may not write there; log in with one that may, or .*another name\."),
        ("no name", r"a/b/c: is not a name on the Hub; names look like user/name\."),
        ("llama", r"user/llama holds a llama model, which would be overwritten: push to another name\."),
        ("cut commit", r"user/cut-commit: the connection to the Hub failed .*; run the same command again\."),
        ("cut file", r"user/cut-file: the connection to the Hub failed .*; run the same command again\."),
        (
            "refused",
            r"user/refused: the Hub refused the upload \(500 Internal error\) and committed nothing; run .* again\.",
        ),
    ],
)
def test_a_push_that_fails_says_what_to_do_and_leaves_nothing(pushed, hub, name, sentence):
    assert pushed[name]["code"] == 1, pushed[name]
    assert re.fullmatch(rf"error: {sentence}\n", pushed[name]["stderr"]), pushed[name]["stderr"]
    assert pushed[name]["left"] == []
    assert "user/none" not in hub.repos
    assert hub.files("user/cut-file").keys() <= {".gitattributes"} and "README.md" not in hub.files("user/refused")


def test_a_push_that_was_cut_off_can_be_repeated(pushed, hub, saved):
    assert pushed["cut commit, again"]["code"] == 0, pushed["cut commit, again"]
    assert hub.files("user/cut-commit")["model.safetensors"] == (saved / "model.safetensors").read_bytes()


# ---- the ways of transformers ----

WAYS = ("by-trainer", "by-pipeline", "by-parts", "by-saving")


@pytest.fixture(scope="module")
def stock(hub, saved, tmp_path_factory) -> None:
    out = tmp_path_factory.mktemp("stock")
    token = {"HF_TOKEN": "hf_user"}
    Part(
        "installed_pushes", out, hub.url, token, model=str(saved), folder=str(out / "runs"), pushed="user/own"
    ).result()


def test_what_transformers_pushes_has_its_code(stock, hub, saved):
    code = {path.name: path.read_bytes() for path in saved.glob("*.py")}
    for way in WAYS:
        files = hub.files(f"user/own-{way}")
        assert {name: data for name, data in files.items() if name.endswith(".py")} == code, way


def test_what_was_pushed_answers_the_same_without_the_package(pushed, stock, hub, saved, video, tmp_path):
    """By the command, to a new place and over another model; and in the ways of transformers."""
    names = ["user/new", "user/again", *(f"user/own-{way}" for way in WAYS)]
    asked = {"video": video, "question": QUESTION}
    found, _ = Part("remote_answers", tmp_path, hub.url, {"HF_TOKEN": "hf_user"}, sources=names, **asked).result()
    expected = pipeline("video-qa", model=str(saved))(video, question=QUESTION)
    assert found == dict.fromkeys(names, expected)


@pytest.mark.parametrize("part", ["config", "processor", "video"])
def test_a_part_that_is_pushed_while_it_is_saved_has_the_code(stock, hub, saved, part):
    assert {path.name for path in saved.glob("*.py")} <= hub.files(f"user/own-{part}").keys()
