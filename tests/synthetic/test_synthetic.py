"""The synthetic world: what it shows, what it asks, the files it becomes, and how answers are scored."""

import collections
import itertools
import json
import re

import numpy as np
import pytest
from synthetic_viewer import answer_from_frames, read_number, witnessed_events

from dynfocus.eval.synthetic import (
    COLORS,
    KINDS,
    MOTIONS,
    SHAPES,
    example_episode,
    make_questions,
    render,
    render_frame,
    sample_episode,
    sample_single_frames,
)
from dynfocus.eval.synthetic import score as score_module
from dynfocus.eval.synthetic.builder import make_recipe, synthesize
from dynfocus.eval.synthetic.calibration import calibration_error
from dynfocus.eval.synthetic.score import normalize_answer, print_score, read_questions, score_predictions
from dynfocus.eval.synthetic.video_file import write_episode
from dynfocus.eval.synthetic.world import DIGIT_PLACES, truth_table


def episodes(count, seed=0, **options):
    rng = np.random.default_rng(seed)
    return [sample_episode(rng, **options) for _ in range(count)]


# What a video shows


def test_the_same_seed_gives_the_same_video_and_questions():
    def draw(seed):
        rng = np.random.default_rng(seed)
        episode = sample_episode(rng)
        return episode, make_questions(episode, rng)

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
    episode = draw(3)[0]
    assert np.array_equal(render(episode, 64), render(episode, 64))
    # Whole, in part or frame by frame: the same pixels.
    assert np.array_equal(render(episode, 64)[[4, 9]], render(episode, 64, frames=[4, 9]))
    assert np.array_equal(render(episode, 64)[9], render_frame(episode, 9.0, 64))


def test_short_and_impossible_videos():
    assert len(sample_episode(np.random.default_rng(0), num_frames=2).events) == 1
    with pytest.raises(ValueError, match="num_frames is 1, too short"):
        sample_episode(np.random.default_rng(0), num_frames=1)
    with pytest.raises(ValueError, match="num_events must be"):
        sample_episode(np.random.default_rng(0), num_events=(4, 3))
    with pytest.raises(ValueError, match="only 58 pairs"):
        sample_episode(np.random.default_rng(0), num_frames=512, num_events=(60, 60), split="train")
    with pytest.raises(ValueError, match="split must be one of train, test, not 'val'"):
        sample_episode(np.random.default_rng(0), split="val")
    with pytest.raises(ValueError, match="size is 16"):
        render(example_episode(), 16)


def test_single_frames_and_their_labels():
    frames, labels = sample_single_frames(np.random.default_rng(0), 400, size=64)
    assert frames.shape == (400, 64, 64, 3) and frames.dtype == np.uint8
    absent = labels["present"] == 0
    assert 0.08 < absent.mean() < 0.22
    for name, classes in (("shape", len(SHAPES)), ("color", len(COLORS)), *((place, 10) for place in DIGIT_PLACES)):
        assert (labels[name][absent] == -100).all()
        assert set(labels[name][~absent]) == set(range(1 if name == "hundreds" else 0, classes))
    assert frames[~absent].max(axis=(1, 2, 3)).min() > 240  # white digits
    assert frames[absent].max() < 200  # no ground is as bright
    again, _ = sample_single_frames(np.random.default_rng(0), 400, size=64)
    assert np.array_equal(frames, again)


def test_no_two_shapes_look_alike():
    """At 64 pixels the silhouettes of two shapes differ in at least a tenth of the pixels that either covers."""
    from dynfocus.eval.synthetic.drawing import shape_sprite

    silhouettes = {shape: shape_sprite(shape, "red", 64, (0, 0))[1][..., 0] < 0.5 for shape in SHAPES}
    for a, b in itertools.combinations(SHAPES, 2):
        different = silhouettes[a] ^ silhouettes[b]
        assert different.sum() > 0.1 * (silhouettes[a] | silhouettes[b]).sum(), (a, b)


# What is asked


def test_answers_are_balanced():
    rng = np.random.default_rng(0)
    answers = collections.defaultdict(collections.Counter)
    for episode in episodes(600, split="test"):
        for question in make_questions(episode, rng):
            answers[question.kind][question.answer] += 1

    def spread(counter, names):
        assert counter.keys() == set(names)
        return max(counter.values()) / min(counter.values())

    assert spread(answers["existence"], ["yes", "no"]) < 1.2
    assert spread(answers["motion"], MOTIONS) < 1.6
    assert spread(answers["color"], COLORS) < 1.8
    assert spread(answers["shape"], SHAPES) < 1.8
    assert len(answers["number"]) > 400
    assert max(answers["count"].values()) < 0.35 * answers["count"].total()


def test_absent_objects_share_a_property_with_present_ones():
    rng = np.random.default_rng(0)
    for episode in episodes(50, split="test"):
        for question in make_questions(episode, rng, 2, ["existence"]):
            if question.answer == "no":
                name = re.search(r"\ban? (\w+) (\w+)", question.question)
                assert question.event_ids == () and question.frames == ()
                assert any(event.color == name[1] or event.shape == name[2] for event in episode.events)


def test_where_the_second_mentioned_comes_first_as_often():
    rng = np.random.default_rng(0)
    first_mentioned = []
    for episode in episodes(300):
        for question in make_questions(episode, rng, 1, ["order"]):
            if " or " in question.question:
                first_mentioned.append(question.question.split(", the ")[1].startswith(question.answer))
    assert 0.4 < np.mean(first_mentioned) < 0.6 and len(first_mentioned) > 80


def test_questions_about_one_event_and_unknown_kinds():
    episode = sample_episode(np.random.default_rng(0), num_frames=2)
    kinds = {question.kind for question in make_questions(episode, np.random.default_rng(0))}
    assert kinds == set(KINDS) - {"order", "locating"}
    with pytest.raises(ValueError, match="Unknown kind of question 'taste'; the kinds are color"):
        make_questions(episode, np.random.default_rng(0), kinds=["taste"])


def test_the_example_has_its_red_star():
    episode = example_episode()
    assert episode.num_frames == 32 and len(episode.events) == 5
    assert [event.number for event in episode.events if event.name == "red star"] == [472]


# Files


def decode(path):
    import av

    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), [frame.time for frame in frames]


def test_a_file_shows_the_rendered_frames_at_one_frame_a_second(tmp_path):
    episode = example_episode()
    path = write_episode(tmp_path / "évents 1.mp4", episode)
    assert [child.name for child in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_size < 80_000
    frames, times = decode(path)
    assert len(frames) == 256 and times[8] == 1.0
    expected = render(episode).astype(float)
    error = ((frames[::8] - expected) ** 2).mean(axis=(1, 2, 3))
    assert (10 * np.log10(255**2 / error)).min() > 30
    # The number is still there at the size at which a small tower sees it.
    small = frames[::8].reshape(32, 64, 2, 64, 2, 3).mean(axis=(2, 4))
    for frame, truth in zip(small, truth_table(episode), strict=True):
        assert truth is None or read_number(frame, truth.x, truth.y) == truth.number
    # In between the motion goes on: eight small steps, not one jump.
    assert all((frames[t] != frames[t + 1]).mean() > 0.01 for t in range(16, 40))


def test_writing_to_no_folder_and_in_an_odd_size(tmp_path):
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        write_episode(tmp_path / "none" / "a.mp4", example_episode())
    with pytest.raises(ValueError, match="size is 65"):
        write_episode(tmp_path / "a.mp4", example_episode(), size=65)


def small_set(folder, seed=0, num_videos=2, **options):
    options = {"num_frames": 8, "size": 64, "fps_container": 2, **options}
    return synthesize(folder, seed, num_videos, **options)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_set_is_the_same_byte_for_byte_whole_continued_or_made_longer(tmp_path):
    calls = []
    questions = small_set(tmp_path / "a", num_videos=3, on_video=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    whole = contents(tmp_path / "a")
    assert whole.keys() == {
        "dataset.json",
        "questions.jsonl",
        "README.md",
        *(f"videos/00000{index}.mp4" for index in range(3)),
    }

    # Interrupted in the second video: half a file, no questions.
    small_set(tmp_path / "b", num_videos=1)
    (tmp_path / "b" / "questions.jsonl").unlink()
    (tmp_path / "b" / "videos" / "000001.mp4.part").write_bytes(b"half")
    small_set(tmp_path / "b", num_videos=3)
    assert contents(tmp_path / "b") == whole

    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    assert {row["kind"] for row in rows} == set(KINDS)
    assert all(row.keys() == {"video", "question", "answer", "kind", "events"} for row in rows)
    recipe = make_recipe(0, 8, size=64, fps_container=2)
    for row in rows:
        episode, _ = recipe.draw(int(row["video"][7:13]))
        assert answer_from_frames(row["question"], witnessed_events(episode)) == row["answer"]
        assert all(0 <= start < end <= 8 for start, end in row["events"])
    assert recipe.draw(0) != make_recipe(0, 8, "train", size=64, fps_container=2).draw(0) != recipe.draw(1)


@pytest.mark.parametrize(("name", "content"), [("dataset.json.part", '{"seed"'), ("dataset.json", "")])
def test_what_a_kill_left_of_the_first_file_is_no_other_set(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    small = {"num_frames": 4, "num_events": (1, 1), "size": 64, "fps_container": 1}
    assert synthesize(tmp_path, seed=0, num_videos=1, **small).is_file()


def test_a_set_whose_settings_are_damaged_is_refused_in_one_sentence(tmp_path):
    small = {"num_frames": 4, "num_events": (1, 1), "size": 64, "fps_container": 1}
    synthesize(tmp_path, seed=0, num_videos=1, **small)
    for content, message in (("", "is empty"), ("{", "is no JSON"), ("[]", "holds no JSON object")):
        (tmp_path / "dataset.json").write_text(content)
        with pytest.raises(ValueError, match=rf"dataset.json: {message}.*; choose another folder, or remove this one"):
            synthesize(tmp_path, seed=0, num_videos=1, **small)


def test_a_folder_of_something_else_is_refused(tmp_path):
    small_set(tmp_path / "a", num_videos=1)
    before = contents(tmp_path / "a")
    with pytest.raises(ValueError, match=r"holds a set with `seed` = 0 instead of 1: choose another folder"):
        small_set(tmp_path / "a", seed=1)
    with pytest.raises(ValueError, match=r"with `num_events` = \[3, 5\] instead of \[3, 6\]: choose another"):
        small_set(tmp_path / "a", num_events=(3, 6))
    assert contents(tmp_path / "a") == before
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is neither an empty folder nor one of a set; choose another"):
        small_set(tmp_path / "b")
    with pytest.raises(FileExistsError, match="is neither an empty folder nor one of a set; choose another"):
        small_set(tmp_path / "b" / "thesis.txt")
    for options, message in (
        ({"seed": -1}, "seed is -1"),
        ({"num_videos": 0}, "num_videos is 0"),
        ({"questions_per_kind": 0}, "questions_per_kind is 0"),
        ({"split": "val"}, "not 'val'"),
        ({"num_events": (0, 3)}, "num_events must be"),
    ):
        with pytest.raises(ValueError, match=message):
            small_set(tmp_path / "c", **options)
    assert not (tmp_path / "c").exists()


# Scores


def test_normalized_answers():
    assert normalize_answer(" The red  Star.") == normalize_answer("red star")
    assert normalize_answer("47") != normalize_answer("74")
    assert normalize_answer("a") == ""


def test_score_by_kind_and_of_the_key_frames():
    rows = [
        {"kind": "number", "answer": "47", "events": [[4, 7]]},
        {"kind": "number", "answer": "12", "events": [[9, 11]]},
        {"kind": "order", "answer": "red star", "events": [[4, 7], [9, 11]]},
        {"kind": "count", "answer": "4", "events": []},
    ]
    predictions = [
        {
            "answer": "47",
            "key_frames": [{"index": 3, "time": 3.0}, {"index": 6, "time": 6.0}],
            "num_visual_tokens": 100,
        },
        {"answer": "21", "key_frames": [{"time": 11.0}], "num_visual_tokens": 200},
        {"answer": "The red star", "key_frames": [{"time": 4.0}], "num_visual_tokens": 300},
        {"answer": "5", "key_frames": [], "num_visual_tokens": 200},
    ]
    score = score_predictions(rows, predictions)
    assert score["kinds"]["number"] == {"correct": 1, "total": 2, "accuracy": 0.5, "seen": 0.5, "seen_total": 2}
    # One of the two events of the order question has no key frame; the count question has no event to see.
    assert score["kinds"]["order"]["accuracy"] == 1.0 and score["kinds"]["order"]["seen"] == 0.0
    assert score["kinds"]["count"]["seen"] is None
    assert list(score["kinds"]) == ["number", "order", "count"]
    assert score["micro"] == 0.5 and score["macro"] == 0.5 and score["macro_without_count"] == 0.75
    assert score["seen"] == pytest.approx(1 / 3) and score["total"] == 4 and score["mean_visual_tokens"] == 200
    assert json.loads(json.dumps(score)) == score
    with pytest.raises(ValueError, match="4 questions but 3 predictions"):
        score_predictions(rows, predictions[:3])


def test_the_truth_scores_full_marks_and_prints(tmp_path, capsys):
    small_set(tmp_path)
    rows = read_questions(tmp_path)
    assert all((tmp_path / "videos").joinpath(row["video"].rsplit("/", 1)[-1]).is_file() for row in rows)
    assert read_questions(tmp_path, limit=3) == rows[:3]
    score = score_predictions(rows, rows)
    assert score["micro"] == score["macro"] == score["macro_without_count"] == 1.0
    assert score["seen"] is None and score["mean_visual_tokens"] is None
    print_score(score, "truth")
    printed = capsys.readouterr().out
    assert "100.0 %" in printed and all(kind in printed for kind in KINDS)


def test_refusals_and_the_calibration_of_scores():
    rows = [{"kind": "number", "answer": "12"}] * 4 + [{"kind": "unanswerable", "answer": "unanswerable"}]
    said = [("12", 0.95), ("12", 0.91), ("unanswerable", 0.99), ("13", 0.31), ("Unanswerable.", 1.0)]
    score = score_predictions(rows, [{"answer": answer, "score": value} for answer, value in said])
    assert score["refused"] == 0.25 and score["kinds"]["unanswerable"]["correct"] == 1
    # The bin of the highest scores: four answers, three of them right, with a mean score of 0.9625.
    assert score["calibration_error"] == pytest.approx((4 * abs(0.9625 - 0.75) + abs(0.31 - 0)) / 5)
    # Scores that are the shares of right answers.
    assert calibration_error([0.75] * 4 + [0.0] * 3, [True, True, True, False] + [False] * 3) == 0
    assert calibration_error([1.0] * 4, [False] * 4) == 1


def test_a_folder_without_questions_and_a_bad_limit(tmp_path):
    with pytest.raises(FileNotFoundError, match="dynfocus synth"):
        read_questions(tmp_path)
    (tmp_path / "questions.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no questions"):
        read_questions(tmp_path)
    with pytest.raises(ValueError, match="limit is 0"):
        read_questions(tmp_path, limit=0)


def test_the_command_line_prints_json_or_a_clear_error(tmp_path, capsys, monkeypatch):
    small_set(tmp_path)
    monkeypatch.setattr(
        score_module, "predict", lambda rows, model, batch_size, device: [row | {"score": 0.8} for row in rows]
    )
    assert score_module.main([str(tmp_path), "--json", "--limit", "5", "--model", "some/model"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["micro"] == 1.0 and printed["total"] == 5 and printed["model"] == "some/model"
    plot = tmp_path / "calibration.png"
    assert score_module.main([str(tmp_path), str(tmp_path), "--json", "--limit", "5", "--calibration", str(plot)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["total"] == 10 and printed["calibration_error"] == pytest.approx(0.2)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert score_module.main([str(tmp_path / "none")]) == 2
    assert "holds no questions.jsonl" in capsys.readouterr().err
