"""Benchmarks from a Hub, through `datasets`, to their scores; and under other ids, changed, gated and gone."""

import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from benchmark_rows import ROWS, files_of, rows_of
from forked import run
from hub_datasets import DatasetHubServer, parquet_file
from tiny_models import save_question_aware
from videos import barcode_frames, write_video

from dynfocus.eval.benchmarks import benchmark_names, get_benchmark
from dynfocus.eval.provenance import prompts_hash
from dynfocus.eval.scoring import grade, score

NAMES = [name for name in benchmark_names() if not get_benchmark(name).local]
#: To be found under their other ids only: one configuration, one of several, and files of JSON.
MOVED = ["egoschema", "nextqa_oe", "videohallucer"]
#: By name: the benchmark, and what is changed of it.
CASES = {
    **{f"moved {name}": (name, {"dataset": "nobody/moved"}) for name in MOVED},
    "changed": ("video_mme", {"dataset": "user/changed"}),
    "gated": ("longvideobench", {"dataset": "user/gated"}),
    "gone": ("mlvu_dev", {"dataset": "nobody/gone"}),
    "gone twice": ("lvbench", {"dataset": "nobody/gone", "fallback": "nobody/neither"}),
    "no such revision": ("mvbench", {"revision": "vidoe"}),
}


def expected_of(name):
    return get_benchmark(name).questions(rows_of(name))


def without_options(row):
    return {("answers" if field == "options" else field): value for field, value in row.items()}


def fill(hub):
    """All data sets, some of them under their other ids too, and those of the `CASES`."""
    for name in NAMES:
        benchmark, files = get_benchmark(name), files_of(get_benchmark(name))
        if benchmark.dataset in hub.repos:
            hub.commit(benchmark.dataset, files)
        else:
            hub.add_dataset(benchmark.dataset, files, revision=benchmark.revision or "main")
        if name in MOVED:
            hub.add_dataset(benchmark.fallback, files)
    hub.add_dataset("user/gated", files_of(get_benchmark("longvideobench")), gated=True)
    files = files_of(get_benchmark("video_mme"))
    (path,) = (path for path in files if path.endswith(".parquet"))
    changed = parquet_file([without_options(row) for row in ROWS["video_mme"]["videomme"]])
    hub.add_dataset("user/changed", {**files, path: changed})


def write_videos(folder):
    one = write_video(folder / "one.mp4", barcode_frames(2), fps=1)
    for name in NAMES:
        for question in expected_of(name):
            path = folder / get_benchmark(name).video_candidates(question.video)[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(one, path)
    return folder


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the loader finds, with a cache of its own and the token of somebody who has no access to gated data."""
    out, videos = tmp_path_factory.mktemp("out"), write_videos(tmp_path_factory.mktemp("videos"))
    model = save_question_aware(tmp_path_factory.mktemp("models") / "tiny")
    foreign = re.compile(r"HF_|HUGGING|PYTHON|.*_PROXY$", re.IGNORECASE)
    environment = {name: value for name, value in os.environ.items() if not foreign.match(name)}
    with DatasetHubServer() as hub:
        fill(hub)
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(out / "home"), "HF_TOKEN": "hf_stranger"}
        (out / "asked.json").write_text(
            json.dumps({"answer": NAMES, "load": CASES, "model": str(model), "videos": str(videos)})
        )
        run(
            Path(__file__).parents[1] / "benchmark_loader.py",
            out,
            package=False,
            environment={**environment, **settings, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
            folder=out,
            stdin=out / "asked.json",
        )
        commits = {
            name: hub.sha(get_benchmark(name).dataset, get_benchmark(name).revision or "main") for name in NAMES
        }
    return {"commits": commits, **json.loads((out / "found.json").read_text(encoding="utf-8"))}


@pytest.mark.parametrize("name", NAMES)
def test_every_question_of_a_data_set_is_asked_and_scored(found, name):
    benchmark, run, expected = get_benchmark(name), found[name], expected_of(name)
    assert run.get("error") is None
    assert (run["source"]["id"], run["source"]["split"]) == (benchmark.dataset, benchmark.split)
    # A branch moves on: what is recorded is the commit.
    assert run["source"]["revision"] == found["commits"][name]
    # Ids, videos, prompts, options and references are those of the rows as they were written.
    assert run["settings"]["prompts"]["hash"] == prompts_hash(expected)
    assert [(line["id"], line["groups"]) for line in run["answers"]] == [(one.id, one.groups) for one in expected]
    for line, question in zip(run["answers"], expected, strict=True):
        assert line["error"] is None and line["output"] is not None and line["key_frames"]
        assert [line["prediction"], line["correct"]] == list(grade(benchmark.metric, question, line["output"]))
    result = json.loads(json.dumps(score(benchmark, expected, run["answers"])))
    assert {key: run["result"][key] for key in result} == result
    assert (result["total"], result["failures"]) == (len(expected), 0)


@pytest.mark.parametrize("name", MOVED)
def test_a_data_set_that_is_gone_is_read_under_its_other_id(found, name):
    moved = found[f"moved {name}"]
    assert moved.get("error") is None
    assert moved["source"]["id"] == get_benchmark(name).fallback
    assert moved["questions"] == json.loads(json.dumps([asdict(question) for question in expected_of(name)]))


@pytest.mark.parametrize(
    "case, sentence",
    [
        ("changed", r"user/changed has changed: Video-MME needs the fields options, and there are .*answers.*"),
        ("gated", r"user/gated is gated: agree to its terms on \S+/datasets/user/gated, then log in .*"),
        ("gone", r"nobody/gone: there is no such data set on the Hub.*"),
        ("gone twice", r"nobody/gone and nobody/neither: there is no such data set on the Hub.*"),
        ("no such revision", r"OpenGVLab/MVBench has no revision 'vidoe': .*"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(found, case, sentence):
    assert re.fullmatch(sentence, found[case]["error"])
