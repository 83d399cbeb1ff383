"""Batches without Ray: grouping of tables, answers of a video, going on after kills, refusals."""

import json
import os
import random

import datasets
import numpy as np
import pandas as pd
import pytest
from videos import barcode_frames, write_video

from dynfocus.checkpoints import embedded_model
from dynfocus.eval import batch
from dynfocus.eval.batch import Asking, BatchFolder, Question, StopBatch, Video, answer_video, failed_row, videos_of
from dynfocus.eval.run import load_pipeline
from dynfocus.training.rows import Source, open_table

ASKING = Asking({"decoder": "auto"}, max_new_tokens=3)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for number in range(3):
        write_video(folder / f"{number}.mp4", barcode_frames(6, start=20 * number), fps=1)
    (folder / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42 no film")
    return folder


@pytest.fixture(scope="module")
def pipe():
    class Settings:
        model, dtype, revision = str(embedded_model()), None, None

    return load_pipeline(Settings, "cpu")


# ------------------------------------------------------------------------------------------------------------- tables


def test_rows_are_grouped_by_video_in_the_order_of_the_table(tmp_path):
    rows = [
        {"video": "b.mp4", "question": "1?"},
        {"video": "a.mp4", "question": "2?", "id": "x", "options": ["red", "blue"]},
        {"video": "b.mp4", "question": "3?"},
        {"video": "b.mp4", "question": "4?", "video_start": 2.0},
        {"video": "https://example.org/b.mp4", "question": "5?"},
    ]
    videos = videos_of(rows, str(tmp_path))
    assert [video.number for video in videos] == [0, 1, 2, 3]
    assert [video.path for video in videos] == [
        *(os.path.join(tmp_path, name) for name in ("b.mp4", "a.mp4", "b.mp4")),
        "https://example.org/b.mp4",
    ]
    assert [[one.row for one in video.questions] for video in videos] == [[0, 2], [1], [3], [4]]
    assert videos[1].questions == [Question(1, "x", "2?", ["red", "blue"])]
    assert videos[2].settings == {"video_start": 2.0} and videos[0].settings == {}


def test_tables_of_all_forms_are_the_same(tmp_path):
    rows = [{"video": f"{k % 2}.mp4", "question": f"number {k}?", "id": f"q{k}"} for k in range(5)]
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [videos_of(*open_table(Source(str(tmp_path / f"t.{kind}")))) for kind in ("csv", "parquet", "jsonl")]
    assert found[0] == found[1] == found[2] and len(found[0]) == 2
    frame = pd.DataFrame([{"video": "0.mp4", "questions": ["a?", "b?"], "id": 7}])
    frame.to_parquet(tmp_path / "lists.parquet")
    (video,) = videos_of(*open_table(Source(str(tmp_path / "lists.parquet"))))
    assert [(one.id, one.text) for one in video.questions] == [("7/0", "a?"), ("7/1", "b?")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([{"film": "a.mp4", "question": "?"}], "needs the columns `video` and `question`.*film, question"),
        ([{"video": "a.mp4", "text": "?"}], "needs the columns `video` and `question`"),
        ([{"video": "a.mp4", "questions": '["a?", "b?"]'}], "Row 0: `questions` must be a list"),
        ([{"video": "a.mp4", "question": "?", "options": "A, B"}], "Row 0: `options` must be a list"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        videos_of(rows, None)


# ------------------------------------------------------------------------------------------------------------ answers


def test_answers_are_those_of_the_pipeline(pipe, films):
    asked = ["Which number is shown?", "What color is it?", "What is first?"]
    (video,) = videos_of([{"video": "1.mp4", "questions": asked}], str(films))
    rows = answer_video(pipe.video_qa, video, ASKING)
    for row, text in zip(rows, asked, strict=True):
        alone = pipe(str(films / "1.mp4"), question=text, max_new_tokens=3)
        assert (row["question"], row["answer"], row["error"], row["warning"]) == (text, alone["answer"], "", "")
        assert row["num_visual_tokens"] == alone["num_visual_tokens"]
        assert row["score"] == pytest.approx(alone["score"], abs=1e-4)
        assert [one["time"] for one in row["key_frames"]] == [one["time"] for one in alone["key_frames"]]


def test_settings_reach_the_model(pipe, films):
    (video,) = videos_of([{"video": "1.mp4", "question": "What?", "video_end": 3.5}], str(films))
    asking = Asking({"max_frames": 3}, max_visual_tokens=50, rule="uniform", max_new_tokens=2)
    (row,) = answer_video(pipe.video_qa, video, asking)
    alone = pipe(
        {"video": str(films / "1.mp4"), "video_end": 3.5, "question": "What?"},
        **{"max_frames": 3, "max_visual_tokens": 50, "rule": "uniform", "max_new_tokens": 2},
    )
    assert row["error"] == "" and row["num_visual_tokens"] == alone["num_visual_tokens"] <= 50
    assert [one["time"] for one in row["key_frames"]] == [one["time"] for one in alone["key_frames"]]


def test_a_video_is_encoded_once_and_its_state_is_kept(pipe, films, tmp_path, monkeypatch):
    calls = []
    encode = pipe.video_qa.encode_video
    monkeypatch.setattr(pipe.video_qa, "encode_video", lambda *a, **k: calls.append(a) or encode(*a, **k))
    (video,) = videos_of([{"video": "2.mp4", "questions": ["a?", "b?"]}], str(films))
    rows = answer_video(pipe.video_qa, video, ASKING, str(tmp_path / "000000.safetensors"))
    assert len(calls) == 1 and [row["state"] for row in rows] == ["states/000000.safetensors"] * 2
    (again,) = videos_of([{"video": "000000.safetensors", "questions": ["a?", "b?"]}], str(tmp_path))
    asked = answer_video(pipe.video_qa, again, ASKING)
    assert len(calls) == 1 and [row["answer"] for row in asked] == [row["answer"] for row in rows]


def test_what_fails_is_the_error_of_its_rows(pipe, films):
    table = [
        {"video": "broken.mp4", "question": "a?"},
        {"video": "missing.mp4", "question": "a?"},
        {"video": "", "question": "a?"},
        {"video": "0.mp4", "question": "a?"},
        {"video": "0.mp4", "question": ""},
        {"video": "0.mp4", "question": "word " * 3000},
    ]
    rows = [row for video in videos_of(table, str(films)) for row in answer_video(pipe.video_qa, video, ASKING)]
    assert [bool(row["error"]) for row in rows] == [True, True, True, False, True, True]
    assert "broken.mp4" in rows[0]["error"] and "no such video file" in rows[1]["error"]
    assert str(films) not in rows[0]["error"] + rows[1]["error"], "paths differ between machines"
    assert rows[2]["error"] == "The row has no video." and "empty" in rows[4]["error"]
    assert "too long" in rows[5]["error"]


def test_a_failure_of_some_questions_leaves_the_others(pipe, films, monkeypatch):
    (video,) = videos_of([{"video": "0.mp4", "questions": ["a?", "bad?", "c?"]}], str(films))
    answer = pipe.video_qa.answer

    def fail(rows, **options):
        text = [pipe.processor.tokenizer.decode(row["inputs"]["question_input_ids"][0]) for row in rows]
        if any("bad" in one for one in text):
            raise ValueError("This one fails.")
        return answer(rows, **options)

    monkeypatch.setattr(pipe.video_qa, "answer", fail)
    rows = answer_video(pipe.video_qa, video, ASKING)
    assert [row["error"] for row in rows] == ["", "This one fails.", ""]


def of_the_system(*args, **options):
    raise OSError(28, "No space left on device", "x.safetensors")


def in_other_words(*args, **options):
    try:
        of_the_system()
    except OSError as error:
        raise OSError("x.safetensors: cannot be saved: it failed; the same call continues.") from error


def in_words_alone(*args, **options):
    raise ValueError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("full", [of_the_system, in_other_words, in_words_alone])
def test_a_full_disk_stops_everything(pipe, films, monkeypatch, tmp_path, full):
    monkeypatch.setattr(pipe.video_qa, "encode_video", full)
    (video,) = videos_of([{"video": "0.mp4", "question": "a?"}], str(films))
    with pytest.raises(StopBatch, match="No space left|x.safetensors: cannot be saved: it failed$"):
        answer_video(pipe.video_qa, video, ASKING, str(tmp_path / "x.safetensors"))


# ------------------------------------------------------------------------------------------------------------- folder


def made_up(count=10):
    return [
        Video(
            number, f"{number}.mp4", f"{number}.mp4", questions=[Question(2 * number + k, str(k), "?") for k in (0, 1)]
        )
        for number in range(count)
    ]


def answered(video):
    """Rows as `answer_video` makes them; those of every fourth video failed."""
    rows = [failed_row(video, question, "It is broken." * (video.number % 4 == 3)) for question in video.questions]
    frames = [{"index": 1, "time": 1.5, "score": 0.25}] if video.number % 2 else []
    return [row | {"answer": f"it's “{row['row']}”\u2028", "score": 0.5, "key_frames": frames} for row in rows]


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / "answers").iterdir()}


@pytest.fixture
def undisturbed(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "ROWS_PER_FILE", 6)
    folder = BatchFolder(tmp_path / "undisturbed", made_up(), {"a": 1})
    for video in folder.remaining:
        folder.add(video, answered(video))
    folder.close()
    return tmp_path / "undisturbed"


def test_answers_are_one_set_for_readers(undisturbed):
    assert sorted(contents(undisturbed)) == [f"{number:05d}.parquet" for number in range(4)]
    frame = pd.read_parquet(undisturbed / "answers")
    assert frame["row"].tolist() == list(range(20)) and frame["answer"][3] == "it's “3”\u2028"
    assert frame["num_visual_tokens"].isna().all() and frame["error"].tolist().count("") == 16
    rows = datasets.load_dataset(str(undisturbed / "answers"), split="train", cache_dir=str(undisturbed / "cache"))
    assert rows[3]["key_frames"] == [{"index": 1, "time": 1.5, "score": 0.25}] and rows[0]["key_frames"] == []


def test_finished_files_do_not_depend_on_order_and_kills(undisturbed, tmp_path):
    """Killed after any number of videos in any order, with a last line that was cut short."""
    for seed in range(6):
        lot, out, done = random.Random(seed), tmp_path / str(seed), []
        while True:
            folder = BatchFolder(out, made_up(), {"a": 1})
            assert sorted(video.number for video in folder.remaining) == sorted({*range(10)} - {*done})
            if not folder.remaining:
                break
            for video in lot.sample(folder.remaining, lot.randint(1, len(folder.remaining))):
                folder.add(video, answered(video))
                done.append(video.number)
            for path in (out / "unfinished").glob("*.jsonl"):
                if lot.random() < 0.5:
                    path.write_bytes(path.read_bytes() + b'{"video": 1, "rows": [{"ro')
            folder.close()
        assert len(done) == len(set(done)) == 10
        assert contents(out) == contents(undisturbed)
        assert list((out / "unfinished").iterdir()) == []


def test_a_kill_between_the_file_and_its_lines_loses_nothing(undisturbed, tmp_path, monkeypatch):
    folder = BatchFolder(tmp_path / "out", made_up(), {"a": 1})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        for video in folder.remaining:
            folder.add(video, answered(video))
    monkeypatch.undo()
    monkeypatch.setattr(batch, "ROWS_PER_FILE", 6)
    folder.close()
    folder = BatchFolder(tmp_path / "out", made_up(), {"a": 1})
    # The first file was complete but not renamed.
    assert [video.number for video in folder.remaining] == list(range(3, 10))
    assert contents(tmp_path / "out") == {"00000.parquet": contents(undisturbed)["00000.parquet"]}
    folder.close()


def test_failed_rows_are_tried_again_on_request_only(undisturbed):
    before = contents(undisturbed)
    assert BatchFolder(undisturbed, made_up(), {"a": 1}).remaining == []
    folder = BatchFolder(undisturbed, made_up(), {"a": 1}, retry_errors=True)
    assert [video.number for video in folder.remaining] == [3, 7]
    assert folder.counts() == {"": 16}
    for video in folder.remaining:
        folder.add(video, [row | {"error": ""} for row in answered(video)])
    assert folder.counts() == {"": 20} and folder.is_continued
    unchanged = {name for name in before if contents(undisturbed)[name] == before[name]}
    assert unchanged == {"00000.parquet", "00003.parquet"}


def test_other_settings_and_other_things_are_refused(undisturbed, tmp_path):
    with pytest.raises(ValueError, match=r"holds a batch with `a` = 1 instead of 2: give another --out"):
        BatchFolder(undisturbed, made_up(), {"a": 2})
    settings = {"a": 1, "table": batch.table_settings(made_up())}
    with pytest.raises(ValueError, match="holds a batch with `table"):
        BatchFolder(undisturbed, made_up(), settings)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="neither an empty folder nor one of a batch"):
        BatchFolder(tmp_path / "other", made_up(), {"a": 1})
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def test_two_at_once_are_refused(tmp_path):
    first = BatchFolder(tmp_path / "out", made_up(), {"a": 1})
    with pytest.raises(ValueError, match="another `dynfocus batch` writes into it"):
        BatchFolder(tmp_path / "out", made_up(), {"a": 2})
    first.close()
    assert not BatchFolder(tmp_path / "out", made_up(), {"a": 2}).is_continued, "nothing was answered yet"


def test_another_model_on_some_machine_is_refused(pipe, tmp_path):
    folder = BatchFolder(tmp_path / "out", made_up(), {"a": 1})
    record = batch.model_record(pipe.video_qa, ASKING)
    folder.claim_record(record)
    folder.claim_record(json.loads(json.dumps(record)))
    with pytest.raises(ValueError, match=r"a model with `dtype` = 'float32' instead of 'bfloat16'"):
        folder.claim_record({**record, "dtype": "bfloat16"})
    folder.close()
    assert BatchFolder(tmp_path / "out", made_up(), {"a": 1}).is_continued


def test_every_part_of_a_table_counts():
    tables = [
        [{"video": "a", "question": "1?"}, {"video": "b", "question": "2?"}],
        [{"video": "a", "question": "1?"}, {"video": "b", "question": "2"}],
        [{"video": "a", "question": "1?"}, {"video": "c", "question": "2?"}],
        [{"video": "b", "question": "2?"}, {"video": "a", "question": "1?"}],
        [{"video": "a", "question": "1?", "id": "x"}, {"video": "b", "question": "2?"}],
        [{"video": "a", "question": "1?", "options": ["x"]}, {"video": "b", "question": "2?"}],
        [{"video": "a", "question": "1?", "video_end": 3}, {"video": "b", "question": "2?"}],
    ]
    hashes = [batch.table_settings(videos_of(rows, None))["hash"] for rows in tables]
    assert len(set(hashes)) == len(hashes)
    rooted = batch.table_settings(videos_of(tables[0], "elsewhere"))["hash"]
    assert rooted == hashes[0], "the folder of the videos may be another one on another machine"


def test_numbers_that_are_not_finite_are_missing():
    assert [batch._rounded(number) for number in (0.123456, np.nan, None)] == [0.1235, None, None]
