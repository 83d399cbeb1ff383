"""What an evaluation reads from the disk: the right video, subtitles, rows, and the model that a record names."""

import json

import pytest
from tiny_models import save_question_aware

from dynfocus.eval.benchmarks import get_benchmark
from dynfocus.eval.benchmarks.base import Question
from dynfocus.eval.provenance import weights_hash
from dynfocus.eval.rows import load_rows
from dynfocus.eval.run import EvalSettings, evaluate, load_pipeline
from dynfocus.eval.synthetic.builder import synthesize
from dynfocus.eval.synthetic.score import read_questions
from dynfocus.eval.videos import check_subtitles, find_videos


@pytest.fixture
def find(tmp_path):
    """Touches files, and finds videos; both as paths relative to the folder."""

    def find(files, videos):
        for name in files:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        found = find_videos(get_benchmark("synthetic"), [Question(one, one, "?", "") for one in videos], tmp_path)
        return [None if path is None else path.removeprefix(f"{tmp_path}/") for path in found.values()]

    return find


def test_a_missing_video_is_not_the_one_of_that_name_in_another_folder(find):
    assert find(["one/1.mp4"], ["one/1.mp4", "two/1.mp4"]) == ["one/1.mp4", None]


def test_one_file_is_not_two_videos_that_lie_elsewhere(find):
    assert find(["else/1.mp4", "else/2.mp4"], ["one/1", "two/1", "one/2"]) == [None, None, "else/2.mp4"]


def test_a_video_with_and_without_its_ending_is_one(find):
    assert find(["else/a.mp4"], ["a", "a.mp4"]) == ["else/a.mp4"] * 2


def test_subtitles_that_nobody_has_are_no_evaluation_with_subtitles(tmp_path):
    questions = [Question(str(i), str(i), "?", "", subtitles=f"subtitle/{i}.srt") for i in range(3)]
    with pytest.raises(ValueError, match=r"holds none of the files with subtitles \(subtitle/0.srt, …\): put them"):
        check_subtitles(questions, tmp_path)
    (tmp_path / "subtitle").mkdir()
    (tmp_path / "subtitle" / "2.srt").touch()
    # A part of the videos has none.
    check_subtitles(questions, tmp_path)
    check_subtitles([Question("a", "a", "?", "")], None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"video": ', "is no JSON"),
        ('{"video": "a.mp4", "question": "?", "answer": "x"}', "lacks kind"),
        ("[]", "holds no JSON object, but list"),
        ("3", "holds no JSON object, but int"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path, line, message):
    good = '{"video": "a.mp4", "question": "?", "answer": "x", "kind": "color"}'
    (tmp_path / "questions.jsonl").write_text(f"{good}\n\n{line}\n")
    for read in (lambda: load_rows(get_benchmark("synthetic"), folder=tmp_path), lambda: read_questions(tmp_path)):
        with pytest.raises(ValueError, match=rf"questions.jsonl, line 3: {message}.*; make the set again\.$"):
            read()


def test_the_hash_of_a_model_heeds_all_that_changes_its_answers(tmp_path):
    folder = save_question_aware(tmp_path / "tiny")
    names = sorted(path.name for path in folder.glob("*config.json"))
    assert {"config.json", "processor_config.json"} <= set(names)
    hashes = {weights_hash(str(folder))}
    for name in names:
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**settings, "one_more": 1}))
        hashes.add(weights_hash(str(folder)))
    assert len(hashes) == len(names) + 1


def test_a_judge_of_answers_that_need_none_is_refused():
    with pytest.raises(ValueError, match="--judge grader: Synthetic events is scored without a judge; leave it out."):
        EvalSettings(get_benchmark("synthetic"), judge="grader")


def test_a_limit_that_cuts_nothing_off_is_none(tmp_path):
    synthesize(tmp_path / "set", seed=3, num_videos=1, num_frames=4, num_events=(1, 1), size=64, fps_container=1)
    model = save_question_aware(tmp_path / "tiny")
    settings = EvalSettings(
        get_benchmark("synthetic"),
        model=str(model),
        videos=str(tmp_path / "set"),
        out=tmp_path / "run",
        limit=1000,
        device="cpu",
    )
    run = evaluate(settings, lambda *_: load_pipeline(settings, "cpu"), lambda text: None)
    assert run.settings["limit"] is None and run.settings["num_questions"] == len(run.answers) < 1000
