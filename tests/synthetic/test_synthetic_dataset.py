"""Synthetic sets as data sets: the card, `datasets.load_dataset` here and from a Hub, the builder, and determinism."""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import datasets
import numpy as np
import pytest
from forked import run
from hub_datasets import DatasetHubServer
from huggingface_hub import DatasetCard
from tiny import make_tiny_processor
from tiny_models import tiny_model
from typer.testing import CliRunner

from dynfocus.cli.app import app
from dynfocus.eval.benchmarks import get_benchmark
from dynfocus.eval.synthetic import COLORS, HELD_OUT, SHAPES, render
from dynfocus.eval.synthetic.builder import make_recipe, synthesize
from dynfocus.eval.synthetic.dataset_builder import SyntheticVideos, load_synthetic
from dynfocus.eval.synthetic.drawing import texture
from dynfocus.eval.synthetic.questions import KINDS
from dynfocus.eval.synthetic.score import read_questions, score_predictions
from dynfocus.eval.synthetic.world import events_for, truth_table
from dynfocus.processing import VideoQAPipeline

#: What makes a set small; the command has no options for files.
SMALL = {"num_frames": 16, "size": 64, "fps_container": 1}
#: Each in a process of its own.
WRITE = """
import sys
from dynfocus.eval.synthetic.builder import synthesize
synthesize(sys.argv[1], 4, 2, num_frames=16, size=64, fps_container=2)
"""
LOAD = """
import json, sys
from datasets import load_dataset
from huggingface_hub import HfApi, hf_hub_download
HfApi().upload_folder(repo_id="user/set", folder_path=sys.argv[1], repo_type="dataset")
rows = load_dataset("user/set", split="train")
video = hf_hub_download("user/set", rows[0]["video"], repo_type="dataset")
with open(sys.argv[2], "w") as found:
    json.dump([list(rows), open(video, "rb").read().hex()], found)
"""


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_hub():
    """The variables of the tests, but for those of the Hub and the interpreter."""
    foreign = re.compile(r"HF_|HUGGING|PYTHON|.*_PROXY$", re.IGNORECASE)
    return {name: value for name, value in os.environ.items() if not foreign.match(name)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a test set."""
    folder = tmp_path_factory.mktemp("sets") / "made"
    synthesize(folder, 4, 3, **SMALL)
    return folder


@pytest.fixture(autouse=True)
def no_shared_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


# Sets


def test_two_processes_write_the_same_bytes(tmp_path):
    """Whatever the order in which each of them goes through its sets of texts."""
    # The order is that of the interpreter, so this is a new one.
    command = [sys.executable, "-c", WRITE, str(tmp_path / "other")]
    subprocess.run(command, env={**without_hub(), "PYTHONHASHSEED": "1"}, check=True)
    synthesize(tmp_path / "this", 4, 2, num_frames=16, size=64, fps_container=2)
    first, second = (contents(tmp_path / name) for name in ("this", "other"))
    assert len(first) == 5 and first == second


def test_the_second_of_two_calls_waits_and_finds_the_videos_of_the_first(tmp_path):
    begun, may_end, order = threading.Event(), threading.Event(), []

    def write(name):
        def on_video(done, of):
            # Noted while the folder is locked.
            order.append((name, done))
            begun.set()
            assert may_end.wait(60)

        synthesize(tmp_path / "set", 4, 2, **SMALL, on_video=on_video)

    first = threading.Thread(target=write, args=("first",))
    first.start()
    assert begun.wait(60)
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "set" / "videos").iterdir()}
    second = threading.Thread(target=write, args=("second",))
    second.start()
    second.join(0.3)
    assert second.is_alive() and order == [("first", 1)]
    may_end.set()
    first.join(60)
    second.join(60)
    assert order == [("first", 1), ("first", 2), ("second", 1), ("second", 2)]
    assert written and all((tmp_path / "set/videos" / name).stat().st_mtime_ns == at for name, at in written.items())


def test_a_set_of_an_earlier_version_goes_on_unless_it_is_no_longer_made(tmp_path):
    folder = tmp_path / "old"
    synthesize(folder, 4, 1, **SMALL)
    whole = contents(folder)
    manifest = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**manifest, "style": "long"}))
    (folder / "README.md").unlink()
    synthesize(folder, 4, 1, **SMALL)
    assert {**contents(folder), "dataset.json": whole["dataset.json"]} == whole
    (folder / "dataset.json").write_text(json.dumps({**manifest, "style": "short"}))
    with pytest.raises(ValueError, match="holds a set made with style=short, which is no longer made; choose another"):
        synthesize(folder, 4, 1, **SMALL)


def test_a_wrong_argument_leaves_no_folder(tmp_path):
    for options, message in (
        ({"size": 65}, "size is 65"),
        ({"size": 16}, "size is 16"),
        ({"fps_container": 0}, "fps_container is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            synthesize(tmp_path / "set", 0, 1, **{**SMALL, **options})
    assert not (tmp_path / "set").exists()


def test_events_follow_from_the_length():
    assert make_recipe(0, 128).num_events == events_for(128) == (10, 20)
    assert make_recipe(0, 128, num_events=(2, 3)).num_events == (2, 3)


def test_key_frames_are_scored_by_every_event_of_a_long_question(tmp_path):
    """Also where an object returns: each time that it was there."""
    synthesize(tmp_path, 4, 6, **{**SMALL, "num_frames": 32})
    rows = read_questions(tmp_path)
    assert {row["kind"] for row in rows} == set(KINDS)
    seen = [row | {"key_frames": [{"time": start} for start, _ in row["events"]]} for row in rows]
    score = score_predictions(rows, seen)
    assert score["seen"] == score["micro"] == 1.0 and list(score["kinds"]) == list(KINDS)
    several = [row for row in rows if len(row["events"]) > 1]
    assert {row["kind"] for row in several} == {"order", "locating", "count"}
    less = [row | {"key_frames": [{"time": start} for start, _ in row["events"][1:]]} for row in several]
    assert score_predictions(several, less)["seen"] == 0.0


# Train and test


def spectrum(image):
    """What of a texture does not change where it is shifted, brightened or tinted."""
    grey = image.astype(float) if image.ndim == 2 else image.astype(float).mean(2)
    found = np.abs(np.fft.fft2(grey - grey.mean()))[:12, :12].ravel()
    return found / np.linalg.norm(found)


def test_rendered_frames_of_the_splits_share_nothing_that_is_held_out():
    """Pairs by the frames' truth, textures by the spectrum of empty frames, both without asking the generator."""
    numbers = {"train": range(48), "test": range(1000, 1024)}
    known = {number: spectrum(texture(number, 64)) for group in numbers.values() for number in group}
    pairs, textures, names = ({"train": set(), "test": set()} for _ in range(3))
    for split in ("train", "test"):
        recipe = make_recipe(8, 32, split)
        for index in range(60):
            episode, questions = recipe.draw(index)
            table = truth_table(episode)
            pairs[split] |= {(truth.color, truth.shape) for truth in table if truth}
            words = rf"({'|'.join(COLORS)}) ({'|'.join(SHAPES)})\b"
            for question in questions:
                names[split] |= set(re.findall(words, f"{question.question} {question.answer}"))
            empty = next((time for time, truth in enumerate(table) if truth is None), None)
            if empty is not None:
                frame = spectrum(render(episode, 64, [empty])[0])
                textures[split].add(max(known, key=lambda number: frame @ known[number]))
    assert not pairs["train"] & HELD_OUT and len(pairs["test"] & HELD_OUT) >= 5
    assert not names["train"] & HELD_OUT and names["test"] & HELD_OUT
    for split, expected in numbers.items():
        assert len(textures[split]) > 10 and textures[split] <= set(expected), split


def test_one_seed_gives_the_splits_other_videos():
    drawn = [make_recipe(3, 16, split, num_events=(2, 4)).draw(0)[0] for split in ("train", "test")]
    assert drawn[0].events != drawn[1].events


# The card


def test_the_card_counts_what_is_there(made):
    card = DatasetCard.load(made / "README.md")
    assert card.data.license == "apache-2.0" and card.data.language == ["en"]
    assert card.data.size_categories == ["n<1K"] and "video-text-to-text" in card.data.task_categories
    rows = read_questions(made)
    assert f"3 videos of 16 s and {len(rows)} questions" in card.text
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.text.splitlines() if line[:2] == "| "]
    listed = {cells[0]: cells[1:] for cells in table[1:]}
    assert listed.keys() == {row["kind"] for row in rows}
    for kind, (_, questions, answers, most_frequent, example) in listed.items():
        right = [row["answer"] for row in rows if row["kind"] == kind]
        assert (int(questions), int(answers)) == (len(right), len(set(right)))
        answer, share = re.fullmatch(r"(.+) \((\d+)%\)", most_frequent).groups()
        assert right.count(answer) == max(map(right.count, right)) == round(int(share) * len(right) / 100)
        assert example == next(f"{row['question']} *{row['answer']}*" for row in rows if row["kind"] == kind)
    recipe = make_recipe(4, **SMALL)
    events = [event for index in range(3) for event in recipe.draw(index)[0].events]
    shown = sum((event.color, event.shape) in HELD_OUT for event in events)
    assert re.search(rf"held out, for test sets to show: {shown} events? of {len(events)} here:\n", card.text)
    assert all(f"{color} {shape}" in card.text for color, shape in HELD_OUT)
    assert "**test** set (seed 4)" in card.text and "{" not in card.text


def test_what_the_card_says_makes_the_same_set(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (made / "README.md").read_text(encoding="utf-8")
    code = re.search(r"## How it was made\n\n```python\n(.+?)```", text, re.DOTALL)[1]
    exec(compile(code, "card", "exec"), {})
    assert contents(tmp_path / "DIR") == contents(made)

    options = ["--frames", "8", "--videos", "2", "--seed", "9", "--split", "train", "--events", "2"]
    options += ["--questions-per-kind", "2", "--kinds", "object,number"]
    assert CliRunner().invoke(app, ["synth", "--out", "first", *options]).exit_code == 0
    text = Path("first/README.md").read_text(encoding="utf-8")
    command = re.search(r"```bash\n(dynfocus synth .+)\n```", text)[1]
    arguments = shlex.split(command.replace("DIR", "second"))[1:]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert contents(Path("first")) == contents(Path("second"))
    assert {json.loads(line)["kind"] for line in Path("first/questions.jsonl").open()} == {"object", "number"}
    assert "none of them is shown or asked for here" in text


# The command


def test_synth_writes_sets_as_long_as_is_asked(tmp_path):
    out = tmp_path / "set"
    done = CliRunner().invoke(app, ["synth", "--out", str(out), "--frames", "12", "--videos", "1"])
    assert done.exit_code == 0, done.output
    assert "Wrote 1 video of 12 s" in done.stdout and "(seed 0, test split)" in done.stdout
    manifest = json.loads((out / "dataset.json").read_text())
    assert tuple(manifest["num_events"]) == events_for(12)
    other = CliRunner().invoke(app, ["synth", "--out", str(out), "--frames", "13", "--videos", "1"])
    assert other.exit_code == 1 and "holds a set with `num_frames` = 12 instead of 13" in other.stderr
    assert CliRunner().invoke(app, ["synth", "--out", str(tmp_path / "no"), "--style", "short"]).exit_code == 2
    assert not (tmp_path / "no").exists()


def test_a_set_is_the_synthetic_benchmark(made):
    rows = [json.loads(line) for line in (made / "questions.jsonl").read_text().splitlines()]
    questions = get_benchmark("synthetic").questions(rows)
    assert [question.groups["kind"] for question in questions] == [row["kind"] for row in rows]
    assert "locating" in {row["kind"] for row in rows}


# `datasets`


def test_a_folder_loads_without_the_package(made, tmp_path):
    rows = [json.loads(line) for line in (made / "questions.jsonl").read_text().splitlines()]
    loaded = datasets.load_dataset(str(made), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["test"] and list(loaded["test"]) == rows
    assert loaded["test"].features["events"] == datasets.List(datasets.List(datasets.Value("int64")))
    assert all((made / row["video"]).is_file() for row in loaded["test"])


def test_a_folder_that_was_pushed_loads_from_the_hub(tmp_path):
    folder = tmp_path / "set"
    synthesize(folder, 4, 2, split="train", **SMALL)
    with DatasetHubServer() as hub:
        hub.add_dataset("user/set", {"README.md": "# Soon\n"})
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_user"}
        settings |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        script, found = tmp_path / "load.py", tmp_path / "found.json"
        script.write_text(LOAD)
        run(script, folder, found, package=False, environment={**without_hub(), **settings})
        rows, video = json.loads(found.read_text())
        assert {name: hub.files("user/set")[name] for name in contents(folder)} == contents(folder)
    assert rows == [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    assert bytes.fromhex(video) == (folder / rows[0]["video"]).read_bytes()


def build(cache, name="long-32", **settings):
    builder = SyntheticVideos(
        config_name=name, cache_dir=str(cache), **{"num_videos": 2, "num_train_videos": 1, **SMALL, **settings}
    )
    builder.download_and_prepare()
    return builder


def test_the_builder_makes_the_sets_of_synth(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    splits = build("cache", seed=4).as_dataset()
    assert list(splits) == ["train", "test"]
    for split, number in (("train", 1), ("test", 2)):
        synthesize(tmp_path / split, 4, number, split=split, **SMALL)
        expected = read_questions(tmp_path / split)
        assert [row | {"video": None} for row in splits[split]] == [row | {"video": None} for row in expected]
        monkeypatch.chdir(tmp_path.parent)  # a relative cache folder holds after a change of folder too
        for row, other in zip(splits[split], expected, strict=True):
            assert row["video"]["bytes"] is None
            assert Path(row["video"]["path"]).read_bytes() == Path(other["video"]).read_bytes()
        monkeypatch.chdir(tmp_path)


def test_the_same_settings_share_a_folder_and_others_do_not(tmp_path):
    first, second = build(tmp_path / "a"), build(tmp_path / "b")
    prints = [builder.as_dataset(split="test")._fingerprint for builder in (first, second)]
    assert prints[0] == prints[1]
    usual = events_for(SMALL["num_frames"])
    assert build(tmp_path / "a", seed=0, num_events=usual).cache_dir == first.cache_dir

    def folder(name="long-32", **settings):
        return SyntheticVideos(config_name=name, cache_dir=str(tmp_path / "a"), **settings).cache_dir

    settings = ({}, {"seed": 1}, {"num_videos": 3}, {"num_frames": 33}, {"num_events": (2, 4)})
    settings += ({"size": 64}, {"fps_container": 2}, {"questions_per_kind": 2}, {"num_train_videos": 0})
    folders = [*(folder(**options) for options in settings), *map(folder, ("long-128", "long-512"))]
    assert len(set(folders)) == len(folders)
    assert folder(num_frames=32) == folder()


def test_one_split_by_name(tmp_path):
    rows = load_synthetic("long-128", "train", cache_dir=str(tmp_path), num_videos=1, **SMALL)
    assert rows.split == "train" and {row["kind"] for row in rows} <= set(KINDS)
    assert rows.features["video"] == datasets.Video(decode=False)
    assert len({row["video"]["path"] for row in rows}) == 1
    test = load_synthetic("long-128", cache_dir=str(tmp_path), num_videos=2, **SMALL)
    assert test.split == "test" and len({row["video"]["path"] for row in test}) == 2


def test_the_pipeline_takes_rows_as_they_are(tmp_path):
    row = load_synthetic("long-32", cache_dir=str(tmp_path), num_videos=1, **SMALL)[0]
    pipe = VideoQAPipeline(model=tiny_model(), processor=make_tiny_processor(), device="cpu", fps=1, max_new_tokens=2)
    path = row["video"]["path"]
    expected = pipe(path, question=row["question"])
    assert expected["key_frames"]
    for video in (row["video"], {"path": "elsewhere.mp4", "bytes": Path(path).read_bytes()}):
        assert pipe(video, question=row["question"]) == expected


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"name": "long-33"},
            "There is no configuration 'long-33'; choose one of long-32, long-128, long-512.",
        ),
        ({"split": "dev"}, "split must be one of train, test, not 'dev'."),
        ({"sed": 1}, "There is no setting 'sed'; there are seed, num_videos, num_frames"),
        ({"num_videos": 0}, "num_videos and num_train_videos are both 0"),
        ({"num_videos": -1}, "num_videos is -1, but a split has 0 videos"),
        ({"size": 65}, "size is 65"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(tmp_path, options, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        load_synthetic(**{"name": "long-32", "cache_dir": str(tmp_path), **options})
