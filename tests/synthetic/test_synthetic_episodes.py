"""Episodes of the synthetic world: many short events with three digits, some of which return."""

import collections
import itertools
import re

import numpy as np
import pytest
import torch
from synthetic_viewer import answer_from_frames, read_color, read_number, witnessed_events

from dynfocus.eval.synthetic import COLORS, HELD_OUT, SHAPES, render
from dynfocus.eval.synthetic.builder import make_recipe
from dynfocus.eval.synthetic.other_questions import OTHER_QUESTIONS
from dynfocus.eval.synthetic.questions import ALL_KINDS, KINDS, make_questions
from dynfocus.eval.synthetic.world import events_for, sample_episode, sample_single_frames, truth_table


def episodes(count, num_frames=128, split="test", seed=0):
    rng = np.random.default_rng(seed)
    return [sample_episode(rng, num_frames, split) for _ in range(count)]


@pytest.mark.parametrize(("num_frames", "fewest", "most"), [(32, 5, 10), (128, 10, 20), (512, 20, 40)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_events_are_short_and_many(num_frames, fewest, most, split):
    assert events_for(num_frames) == (fewest, most)
    numbers = collections.Counter()
    for episode in episodes(40, num_frames, split):
        assert fewest <= len(episode.events) <= most
        numbers[len(episode.events)] += 1
        for event in episode.events:
            # Where they would not all fit, events are shorter.
            assert 1 <= len(event.frames) <= 4 and 100 <= event.number <= 999
            assert split == "test" or (event.color, event.shape) not in HELD_OUT
            for time in np.linspace(event.start, event.visible_end, 7):
                assert all(0.33 <= place <= 0.67 for place in event.position(time))
        assert episode.events[0].start >= 0 and episode.events[-1].visible_end <= episode.num_frames
        assert all(a.visible_end < b.start for a, b in itertools.pairwise(episode.events))
    assert len(numbers) > 3


def test_objects_return_with_their_numbers_and_never_at_once():
    returned = total = 0
    for episode in episodes(60):
        number_of, names = {}, [event.name for event in episode.events]
        for event in episode.events:
            assert number_of.setdefault(event.name, event.number) == event.number
        assert len(set(number_of.values())) == len(number_of)
        assert all(a != b for a, b in itertools.pairwise(names))
        returned += len(names) - len(set(names))
        total += len(names)
    assert 0.08 < returned / total < 0.18


def test_training_never_shows_what_is_held_out_and_test_does():
    def shown(split):
        return {(event.color, event.shape) for episode in episodes(80, split=split) for event in episode.events}

    assert not shown("train") & HELD_OUT
    assert shown("test") >= HELD_OUT
    grounds = [{g.texture for e in episodes(80, split=split) for g in e.grounds} for split in ("train", "test")]
    assert not grounds[0] & grounds[1]
    _, labels = sample_single_frames(np.random.default_rng(0), 600)
    present = labels["present"] == 1
    frame_pairs = {
        (list(COLORS)[color], SHAPES[shape])
        for color, shape in zip(labels["color"][present], labels["shape"][present], strict=True)
    }
    assert len(frame_pairs) > 50 and not HELD_OUT & frame_pairs
    # Nor is training asked about them.
    rng = np.random.default_rng(1)
    asked = {q.question for e in episodes(60, split="train") for q in make_questions(e, rng, 2, ["existence"])}
    assert not [text for text in asked for color, shape in HELD_OUT if f"{color} {shape}" in text]


def test_pixels_show_what_the_truth_table_says():
    read = 0
    for episode in episodes(4, 32):
        for frame, truth in zip(render(episode, 128), truth_table(episode), strict=True):
            if truth is not None:
                assert read_number(frame, truth.x, truth.y) == truth.number
                assert read_color(frame, truth.x, truth.y) == truth.color
                read += 1
    assert read > 40


@pytest.mark.parametrize(("num_frames", "split"), [(32, "train"), (128, "test")])
def test_answers_follow_from_the_frames(num_frames, split):
    rng = np.random.default_rng(5)
    kinds, repeats = collections.Counter(), 0
    for episode in episodes(80, num_frames, split):
        seen, table = witnessed_events(episode), truth_table(episode)
        for question in make_questions(episode, rng, 2, ALL_KINDS):
            assert answer_from_frames(question.question, seen) == question.answer, (question, seen)
            kinds[question.kind] += 1
            repeats += question.question.startswith(("How often", "How many times"))
            names = {f"{table[frame].color} {table[frame].shape}" for frame in question.frames}
            assert names == {episode.events[index].name for index in question.event_ids}
    assert kinds.keys() == set(ALL_KINDS) and min(kinds.values()) > 100 and repeats > 10


def blind_accuracy(num_frames, count):
    """By kind, of always giving the most frequent answer to a question of the same pattern."""
    recipe = make_recipe(11, num_frames)
    answers = collections.defaultdict(collections.Counter)
    for index in range(count):
        for question in recipe.draw(index)[1]:
            pattern = re.sub(r"\d+", "7", question.question).replace(" an ", " a ")
            pattern = re.sub(rf"\b({'|'.join(COLORS)})\b", "C", pattern)
            pattern = re.sub(rf"\b({'|'.join(SHAPES)})(es|s)?\b", "S", pattern)
            # Texts that differ in nothing but words are one pattern.
            pattern = re.sub("How many times is|How often does|shown|appear|are there", "", pattern)
            answers[question.kind, pattern][question.answer] += 1
    found = collections.defaultdict(lambda: [0, 0])
    for (kind, _), counter in answers.items():
        found[kind][0] += max(counter.values())
        found[kind][1] += counter.total()
    return {kind: right / asked for kind, (right, asked) in found.items()}


@pytest.mark.parametrize("num_frames", [32, 128])
def test_without_the_video_answers_cannot_be_guessed(num_frames):
    found = blind_accuracy(num_frames, 300)
    assert found.keys() == set(KINDS)
    assert found.pop("existence") < 0.58
    assert max(found.values()) < 0.36, found


@pytest.mark.parametrize("split", ["train", "test"])
def test_what_has_no_answer_is_asked_like_what_has_one(split):
    """And mostly about objects and numbers that are nearly those of the video; see also `answer_from_frames`."""
    rng = np.random.default_rng(3)

    def pattern(text):
        return re.sub(rf"\b(({'|'.join(COLORS)}) ({'|'.join(SHAPES)})|\d+)\b", "X", text)

    drawn = episodes(200, 32, split)
    known = {pattern(q.question) for episode in drawn for q in make_questions(episode, rng, 2, KINDS)}
    others = {pattern(text.format("red star")) for text in OTHER_QUESTIONS[split]}
    near, asked, other = collections.Counter(), collections.Counter(), collections.Counter()
    for episode in drawn:
        shown = {event.name for event in episode.events}
        numbers = {str(event.number) for event in episode.events}
        for question in make_questions(episode, rng, 2, ["unanswerable"]):
            assert question.answer == "unanswerable" and question.event_ids == question.frames == ()
            other[pattern(question.question) in others] += 1
            if pattern(question.question) in others:
                continue
            assert pattern(question.question) in known
            if digits := re.search(r"\d+", question.question):
                alike = any(sum(a == b for a, b in zip(number, digits[0], strict=True)) == 2 for number in numbers)
                asked["number"], near["number"] = asked["number"] + 1, near["number"] + alike
                continue
            names = re.findall(rf"(?:{'|'.join(COLORS)}) (?:{'|'.join(SHAPES)})", question.question)
            absent = next(name for name in names if name not in shown).split()
            alike = any(sum(a == b for a, b in zip(name.split(), absent, strict=True)) == 1 for name in shown)
            asked["object"], near["object"] = asked["object"] + 1, near["object"] + alike
            assert split == "test" or tuple(absent) not in HELD_OUT
    assert 0.2 < other[True] / other.total() < 0.3
    assert min(near[what] / asked[what] for what in ("number", "object")) > 0.5 and min(asked.values()) > 50


def test_questions_of_other_kinds_are_others_in_test():
    train, test = (set(OTHER_QUESTIONS[split]) for split in ("train", "test"))
    assert not train & test
    assert all(len(texts) == len(set(texts)) for texts in OTHER_QUESTIONS.values())
    assert all(text.count("{}") < 2 and text.format("red star") for text in train | test)


def test_absent_and_returning_objects_are_counted():
    rng = np.random.default_rng(2)
    asked = collections.Counter()
    for episode in episodes(150, 32):
        for question in make_questions(episode, rng, 1, ["count"]):
            if question.question.startswith(("How often", "How many times")):
                asked[question.answer] += 1
                assert len(question.event_ids) == int(question.answer)
    assert {"0", "1", "2", "3"} <= asked.keys()


def test_a_kind_with_nothing_to_ask_is_left_out():
    episode = sample_episode(np.random.default_rng(0), num_frames=6, num_events=(2, 2))
    assert make_questions(episode, np.random.default_rng(0), 1, ["locating"]) == []


def test_labels_of_patches_say_what_lies_there():
    """Of each patch's own pixels: digits are bright on dark, objects have their color."""
    from recipe.vision import patch_labels

    frames, labels = sample_single_frames(np.random.default_rng(0), 200, size=64)
    found = patch_labels({name: torch.from_numpy(values) for name, values in labels.items()})
    pixels = torch.from_numpy(frames).unfold(1, 8, 8).unfold(2, 8, 8).flatten(1, 2)  # (N, patches, 3, 8, 8)
    place, digit = found["place"], found["digit"]
    assert ((place > 0) == (digit >= 0)).all()
    assert (pixels[place > 0].amin(2 - 1).flatten(1).amax(1) > 200).float().mean() > 0.95  # white ink in nearly all
    for row in range(0, 200, 7):
        number = "".join(str(labels[name][row]) for name in ("hundreds", "tens", "ones"))
        places = sorted(set(place[row][place[row] > 0].tolist()))
        assert places == ([1, 2, 3] if labels["present"][row] else [])
        for one in places:
            assert set(digit[row][place[row] == one].tolist()) == {int(number[one - 1])}
    for index, name in enumerate(COLORS):
        near = (pixels.float() - torch.tensor(COLORS[name])[:, None, None]).abs().amax(2).flatten(2) < 60
        share = near.float().mean(2)
        on = (found["color"] == index) & (place == 0)
        assert share[on].mean() > 0.2 and share[on].mean() > 5 * share[found["color"] != index].mean(), name
    assert (found["object"] == (found["shape"] >= 0)).all() and found["shape"].max() == len(SHAPES) - 1
