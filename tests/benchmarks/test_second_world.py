"""The second world: other shapes and questions, answered by what its videos show."""

import json
from pathlib import Path

import numpy as np
import pytest
import second_world
from forked import run

from dynfocus.eval.synthetic.drawing import SHAPES, SILHOUETTES
from dynfocus.eval.synthetic.questions import make_questions
from dynfocus.eval.synthetic.world import HELD_OUT, render

pytestmark = pytest.mark.integration

SCRIPT = Path(second_world.__file__)


def test_answers_follow_from_the_events():
    asked = {}
    for index in range(60):
        episode, questions = second_world.draw(3, index, 32, "train")
        names = [event.name for event in episode.events]
        for one in questions:
            named = [
                event for event in episode.events if event.name in one.question or str(event.number) in one.question
            ]
            needed = [episode.events[i] for i in one.event_ids]
            assert one.frames == tuple(frame for event in needed for frame in event.frames)
            if one.kind == "first_last":
                start = "opens" in one.question or "begin" in one.question
                assert one.answer == names[0 if start else -1] and one.event_ids == ((0 if start else len(names) - 1),)
            else:
                (event,) = named
                expected = {"number": str(event.number), "color": event.color, "object": event.name}
                expected["order"] = needed[-1].name
                assert needed[0] is event and names.count(event.name) == 1 and one.answer == expected[one.kind]
                assert one.kind != "order" or one.event_ids[1] == one.event_ids[0] + 1
            asked.setdefault(one.kind, set()).add(one.question.split()[0])
    assert asked.keys() == {"number", "color", "object", "first_last", "order"}
    assert len(asked["first_last"]) == 2 and len(asked["order"]) == 2


def test_it_is_another_world(monkeypatch):
    """No shape and no question is one of the first world, and test videos have objects that training never shows."""
    for name, inside in second_world.OTHER_SHAPES.items():
        monkeypatch.setitem(SILHOUETTES, name, inside)
    assert not set(SHAPES) & set(second_world.OTHER_SHAPES)
    episode, questions = second_world.draw(3, 0, 32, "train")
    assert {event.shape for event in episode.events} <= set(second_world.OTHER_SHAPES)
    rng = np.random.default_rng(0)
    known = {
        one.question for _ in range(20) for one in make_questions(episode, rng, kinds=["number", "color", "order"])
    }
    assert not known & {one.question for one in questions}
    frames = {event.shape: render(episode, 64, [event.start])[0] for event in episode.events}
    assert all(frame.std() > 10 for frame in frames.values())
    names = dict(zip(SHAPES, second_world.OTHER_SHAPES, strict=True))
    held_out = {f"{color} {names[shape]}" for color, shape in HELD_OUT}
    shown = {
        split: {event.name for index in range(80) for event in second_world.draw(3, index, 32, split)[0].events}
        for split in ("train", "test")
    }
    assert not shown["train"] & held_out and shown["test"] & held_out


def test_training_rows_have_answers_alone(tmp_path):
    words = ("--train-videos", "1", "--test-videos", "1", "--frames", "12")
    run(SCRIPT, tmp_path, *words)
    train = [json.loads(line) for line in (tmp_path / "train" / "rows.jsonl").read_text().splitlines()]
    test = [json.loads(line) for line in (tmp_path / "test" / "questions.jsonl").read_text().splitlines()]
    assert train and all(row.keys() == {"video", "question", "answer"} for row in train)
    assert test and all(row["events"] and row["kind"] for row in test)
    assert all((tmp_path / "train" / row["video"]).stat().st_size for row in train)
