"""Rows of data sets that hold videos themselves: they stay files, which our own reader opens."""

from pathlib import Path
from unicodedata import normalize
from urllib.parse import quote

import datasets
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value, Video
from tiny import make_tiny_processor
from videos import barcode_frames, write_video

from dynfocus.cli.ask import check_video
from dynfocus.eval.benchmarks import get_benchmark
from dynfocus.eval.benchmarks.base import Question
from dynfocus.eval.rows import undecoded
from dynfocus.eval.videos import find_videos, subtitle_file
from dynfocus.processing import DynFocusCollator
from dynfocus.training.rows import Source, load_rows, stream_rows


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("film") / "a.mp4", barcode_frames(20, 24, 32), fps=10)


def tables(film):
    """One row each, with the video at every depth, as the Hub stores data sets of videos."""
    stored, text = {"bytes": film.read_bytes(), "path": "a.mp4"}, Value("string")
    user = [{"type": "video", "video": stored, "text": None}, {"type": "text", "video": None, "text": "which?"}]
    said = [{"type": "text", "video": None, "text": "47"}]
    block = {"type": text, "text": text, "video": Video()}
    asked = {"question": ["which?"], "answer": ["47"]}
    chat = [{"role": "user", "content": user}, {"role": "assistant", "content": said}]
    yield {"video": [stored], **asked}, {"video": Video(), "question": text, "answer": text}
    yield {"videos": [[stored]], **asked}, {"videos": List(Video()), "question": text, "answer": text}
    yield {"messages": [chat]}, {"messages": List({"role": text, "content": List(block)})}


@pytest.mark.parametrize("streaming", [False, True])
def test_videos_of_data_sets_are_read_by_our_own_reader(film, tmp_path, streaming, monkeypatch):
    """Without torchcodec, which `datasets` would decode them with; streamed tables may decode ahead, in threads."""
    # Otherwise five seconds for each stream that is left before its end.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)
    collator = DynFocusCollator(make_tiny_processor())
    expected = collator.encode({"video": film, "question": "which?", "answer": "47"})
    for number, (columns, features) in enumerate(tables(film)):
        table = Dataset.from_dict(columns, features=Features(features))
        path = tmp_path / f"{number}.parquet"
        table.to_parquet(path)
        sources = [Source(str(path))]
        row = next(iter(stream_rows(sources, seed=0, buffer_size=1))) if streaming else load_rows(sources)[0]
        assert torch.equal(collator.encode(row)["pixel_values_videos"], expected["pixel_values_videos"])
        rows = table.to_iterable_dataset().decode(num_threads=2) if streaming else table
        assert next(iter(undecoded(rows))) == next(iter(undecoded(table)))


def test_what_is_no_media_stays_as_it_is():
    features = Features({"a": Value("int64"), "b": List({"c": Value("string"), "d": Image()})})
    table = Dataset.from_dict({"a": [1], "b": [[{"c": "x", "d": None}]]}, features=features)
    found = undecoded(table)
    assert found.features["a"] == features["a"] and not found.features["b"].feature["d"].decode
    assert found[0] == {"a": 1, "b": [{"c": "x", "d": None}]} and table.features == features


@pytest.mark.parametrize(("stored", "listed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_in_either_form_of_unicode(film, tmp_path, stored, listed):
    """Archives from a Mac hold names in NFD, and tables name them in NFC: in training, evaluation and the command."""
    folder = tmp_path / normalize(stored, "Übung")
    folder.mkdir()
    (folder / normalize(stored, "fête.mp4")).write_bytes(film.read_bytes())
    (folder / normalize(stored, "fête.srt")).write_text("1\n00:00:00,000 --> 00:00:01,000\nHello.\n")
    root, name = str(tmp_path / normalize(listed, "Übung")), normalize(listed, "fête.mp4")
    collator = DynFocusCollator(make_tiny_processor())
    for video in (f"{root}/{name}", f"file://{quote(root)}/{quote(name)}"):
        row = {"video": video, "question": "which?", "answer": "47"}
        assert collator.encode(row)["video_frame_mask"].all() and collator.estimate_length(row)
        check_video(video)
    question = Question(id="1", video=name, prompt="which?", reference=None, subtitles=normalize(listed, "fête.srt"))
    found = find_videos(get_benchmark("mvbench"), [question], folder)
    assert list(found) == [name] and Path(str(found[name])).is_file()
    assert subtitle_file(question, folder) is not None and subtitle_file(question, root) is not None
