"""`dynfocus batch` on Ray: killed twice, it gives what an undisturbed run gives; and mistakes in one sentence each."""

import json
import os
import signal
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest
from forked import Forked
from typer.testing import CliRunner
from videos import barcode_frames, write_video

from dynfocus.checkpoints import embedded_model
from dynfocus.cli import batch as batch_module
from dynfocus.cli.app import app
from dynfocus.eval.actors import Cluster
from dynfocus.eval.run import load_pipeline

_PATIENCE = 300.0
QUESTIONS = ["Which number is shown?", "What is first?"]
BROKEN, MISSING = 7, 23


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 videos, one of them broken and one missing, with two questions each in one table."""
    folder = tmp_path_factory.mktemp("batch")
    rows = []
    for number in range(40):
        name = f"film {number:02d}.mp4"
        if number == BROKEN:
            (folder / name).write_bytes(b"\0\0\0\x18ftypmp42 no film")
        elif number != MISSING:
            write_video(folder / name, barcode_frames(4, start=5 * number), fps=1)
        rows += [{"video": name, "question": text, "id": f"{number}-{k}"} for k, text in enumerate(QUESTIONS)]
    rows = rows[::2] + rows[1::2]  # the questions about a video are not beside each other
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Batch:
    """A `dynfocus batch`, and every process that it has started; all of them are ended by `close`."""

    def __init__(self, folder: Path, ray_folder: str):
        # Ray's processes give way to others by default, so that they would starve beside busy tests.
        settings = {"RAY_TMPDIR": ray_folder, "RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled", "NO_COLOR": "1"}
        self.driver = Forked(
            "dynfocus.cli.app:main",
            *("batch", "table.jsonl", "--out", "out", "--states", "--max-new-tokens", "3"),
            environment={**os.environ, **settings},
            folder=folder,
        )
        self.lines = folder / "out" / "unfinished" / "00000.jsonl"
        self.pid = self.driver._process.pid
        self.family: set[psutil.Process] = set()
        self.actors: set[psutil.Process] = set()

    def finished(self) -> int:
        """Videos whose answers are written."""
        return self.lines.read_bytes().count(b"\n") if self.lines.exists() else 0

    def gather(self) -> None:
        """Notes what it has started so far, while it lives."""
        with suppress(psutil.NoSuchProcess):
            self.family.update(psutil.Process(self.pid).children(recursive=True))
        for one in self.family:
            with suppress(psutil.Error):
                if one.cmdline()[:1] and one.cmdline()[0].startswith("ray::Answering"):
                    self.actors.add(one)

    def actors_end(self) -> bool:
        """Whether no actor runs on. Ray's own small agents take a while to see that they are alone."""
        return psutil.wait_procs(self.actors, timeout=_PATIENCE)[1] == []

    def close(self) -> None:
        self.gather()
        self.driver.kill()
        for one in self.family:
            if one.is_running():  # a process that has its number by chance is not meant
                one.kill()


@pytest.fixture
def start(folder):
    pytest.importorskip("ray", reason="Ray is not installed")
    batches = []
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as scratch:

        def start() -> Batch:
            batches.append(Batch(folder, scratch))
            return batches[-1]

        yield start
        for one in batches:
            one.close()


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_killed_twice_it_gives_what_an_undisturbed_run_gives(folder, start):
    batch = start()
    batch.driver.until(lambda: batch.finished() >= 6)
    batch.gather()
    (actor,) = batch.actors
    actor.kill()
    batch.driver.until(lambda: batch.finished() >= 16)
    batch.gather()
    os.kill(batch.pid, signal.SIGKILL)
    assert batch.driver.wait() == -signal.SIGKILL
    assert batch.actors_end() and len(batch.actors) == 2
    lines = batch.lines.read_bytes().splitlines()
    assert 16 <= len(lines) < 40

    batch = start()
    batch.driver.until(lambda: batch.finished() > len(lines))
    batch.gather()
    assert batch.lines.read_bytes().splitlines()[: len(lines)] == lines
    assert batch.driver.wait() == 0
    assert batch.actors_end()
    said = batch.driver.output
    assert f"Continuing in out: {len(lines)} of 40 videos finished." in said
    assert "out/answers: 76 of 80 rows answered." in said and "4 rows have an error" in said
    assert "Traceback" not in said and "WARNING" not in said

    class Settings:
        model, dtype, revision = str(embedded_model()), None, None

    pipe = load_pipeline(Settings, "cpu")
    found = pd.read_parquet(folder / "out" / "answers")
    assert found["row"].tolist() == list(range(80)), "none is lost, and none is there twice"
    for row in found.itertuples():
        number, which = map(int, row.id.split("-"))
        assert (row.video, row.question) == (f"film {number:02d}.mp4", QUESTIONS[which])
        if number in (BROKEN, MISSING):
            assert row.answer == "" and row.video in row.error
            continue
        alone = pipe(str(folder / row.video), question=row.question, max_new_tokens=3)
        assert (row.error, row.answer, row.num_visual_tokens) == ("", alone["answer"], alone["num_visual_tokens"])
        assert row.score == pytest.approx(alone["score"], abs=1e-4)
        assert [one["index"] for one in row.key_frames] == [one["index"] for one in alone["key_frames"]]
        assert (folder / "out" / row.state).is_file()
    assert len(list((folder / "out" / "states").glob("*.safetensors"))) == 38


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ({"broken": 1}, "1 of 2 rows answered. 1 row has an error; "),
        ({"broken": 1, "missing": 2}, "1 of 4 rows answered. 3 rows have an error; "),
        ({}, "1 of 1 row answered."),
    ],
)
def test_it_says_how_many_rows_have_an_error(monkeypatch, errors, said):
    monkeypatch.setattr(batch_module, "_run", lambda *_: Counter({"": 1, **errors}))
    done = CliRunner().invoke(app, ["batch", "table.jsonl", "--out", "out"])
    assert done.exit_code == 0 and said in " ".join(done.stdout.split())
    assert ("--retry-errors" in done.stdout) == bool(errors)


def refused(*words) -> str:
    done = CliRunner().invoke(app, ["batch", *map(str, words)])
    assert done.exit_code == 1, done.output
    return " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.parquet"], "nothing.parquet: there is no such file or folder with rows."),
        (["films.csv"], "films.csv: The table needs the columns `video` and `question` (or `questions`, a list)"),
        (["table.jsonl", "--media-root", "nowhere"], "media_root nowhere: there is no such folder"),
        (["table.jsonl", "--media-root", "elsewhere"], "table.jsonl: none of its first 40 videos exists in elsewhere"),
        (["table.jsonl", "--model", "./no"], "--model ./no: there is no such folder."),
        (["table.jsonl", "--rule", "best"], "--rule best: There is no rule of choice 'best'"),
        (["table.jsonl", "--address", "ray://x:1"], "--address ray://x:1: must be auto, or HOST:PORT"),
        (["table.jsonl", "--address", "127.0.0.1:9"], "--address 127.0.0.1:9: no Ray cluster can be reached there"),
    ],
)
def test_mistakes_are_one_sentence(folder, monkeypatch, words, message):
    if "--address" in words:
        pytest.importorskip("ray", reason="Ray is not installed")
    else:
        monkeypatch.setattr(Cluster, "__init__", lambda self, *_: None)
    monkeypatch.chdir(folder)
    (folder / "films.csv").write_text("film,question\na.mp4,What?\n")
    (folder / "elsewhere").mkdir(exist_ok=True)
    said = refused(*words, "--out", "refused")
    assert f"error: {message}" in said and said.count("error:") == 1


def test_without_ray_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(folder)
    assert refused("table.jsonl", "--out", "refused") == 'error: Batches need Ray: pip install "dynfocus[ray]".'
    assert not (folder / "refused").exists()
