"""Questions about an episode of the synthetic world, with answers that follow from what its frames show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .other_questions import OTHER_QUESTIONS
from .world import COLORS, SHAPES, Episode, Event, pairs, plural


@dataclass(frozen=True)
class Question:
    """A question with its answer.

    Args:
        question, answer (`str`): the answer is short and in lower case.
        kind (`str`): one of `ALL_KINDS`.
        event_ids (`tuple[int, ...]`): the events that one must see, as indices into `episode.events`; none if the
            answer is that something is absent, or that there is no answer.
        frames (`tuple[int, ...]`): the sampled frames that show these events.
    """

    question: str
    answer: str
    kind: str
    event_ids: tuple[int, ...]
    frames: tuple[int, ...]


_Draft = tuple[str, str, Sequence[int]]


UNANSWERABLE = "unanswerable"
"""The answer to questions about what the video does not show."""
OTHER_SHARE = 0.25
"""How many of the unanswerable questions are of no kind of this world; the others are about absent objects."""

_TEXTS = {
    "color": (
        "What color is the shape with number {}?",
        "Which color has the shape that carries the number {}?",
        "What is the color of the shape numbered {}?",
    ),
    "shape": (
        "What shape carries the number {}?",
        "Which shape has the number {}?",
        "On which shape is the number {} shown?",
    ),
    "number": (
        "Which number is shown with the {}?",
        "What number does the {} carry?",
        "What is the number on the {}?",
    ),
    "first": ("Which comes first, the {} or the {}?", "Which appears earlier, the {} or the {}?"),
    "last": ("Which comes last, the {} or the {}?", "Which appears later, the {} or the {}?"),
    "after": ("Which comes right after the {}?", "What appears right after the {}?"),
    "before": ("Which comes right before the {}?", "What appears right before the {}?"),
    "motion": ("Which way does the {} move?", "Where does the {} move?", "In which direction does the {} move?"),
    "locating": ("Between which two shapes does the {} appear?", "Which two shapes is the {} shown between?"),
}
_OF_ABSENT = (("number",), ("color",), ("shape",), ("motion",), ("first", "last", "after", "before"), ("locating",))
"""What is asked about absent objects and numbers: texts of these kinds, each kind as often."""


class NothingToAsk(Exception):
    """Raised if a kind of question cannot be asked about an episode."""


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _pick_index(rng: np.random.Generator, options: Sequence[int]) -> int:
    return options[int(rng.integers(len(options)))]


def _once(episode: Episode) -> list[int]:
    """The events whose object appears in no other event, so that its name identifies the event."""
    names = [event.name for event in episode.events]
    return [index for index, name in enumerate(names) if names.count(name) == 1]


def _pick_event(episode: Episode, rng: np.random.Generator) -> tuple[int, Event]:
    once = _once(episode)
    if not once:
        raise NothingToAsk
    index = once[int(rng.integers(len(once)))]
    return index, episode.events[index]


def _color(episode: Episode, rng: np.random.Generator) -> _Draft:
    index, event = _pick_event(episode, rng)
    text = _pick(rng, _TEXTS["color"])
    return text.format(event.number), event.color, [index]


def _shape(episode: Episode, rng: np.random.Generator) -> _Draft:
    index, event = _pick_event(episode, rng)
    text = _pick(rng, _TEXTS["shape"])
    return text.format(event.number), event.shape, [index]


def _number(episode: Episode, rng: np.random.Generator) -> _Draft:
    index, event = _pick_event(episode, rng)
    text = _pick(rng, _TEXTS["number"])
    return text.format(event.name), str(event.number), [index]


def _order(episode: Episode, rng: np.random.Generator) -> _Draft:
    events, once = episode.events, _once(episode)
    if len(once) < 2:
        raise NothingToAsk
    if rng.random() < 0.5:
        a, b = (once[int(index)] for index in rng.permutation(len(once))[:2])
        first = rng.random() < 0.5
        text = _pick(rng, _TEXTS["first" if first else "last"])
        answer = min(a, b) if first else max(a, b)
        return text.format(events[a].name, events[b].name), events[answer].name, sorted((a, b))
    index = int(rng.integers(len(events) - 1))
    if rng.random() < 0.5:
        if index not in once:
            raise NothingToAsk
        text = _pick(rng, _TEXTS["after"])
        return text.format(events[index].name), events[index + 1].name, [index, index + 1]
    if index + 1 not in once:
        raise NothingToAsk
    text = _pick(rng, _TEXTS["before"])
    return text.format(events[index + 1].name), events[index].name, [index, index + 1]


def _locating(episode: Episode, rng: np.random.Generator) -> _Draft:
    inner = [index for index in _once(episode) if 0 < index < len(episode.events) - 1]
    if not inner:
        raise NothingToAsk
    index = inner[int(rng.integers(len(inner)))]
    before, event, after = episode.events[index - 1 : index + 2]
    text = _pick(rng, _TEXTS["locating"])
    return text.format(event.name), f"{before.name} and {after.name}", [index - 1, index, index + 1]


def _first_last(episode: Episode, rng: np.random.Generator) -> _Draft:
    place = _pick(rng, ("first", "last"))
    index = 0 if place == "first" else len(episode.events) - 1
    event = episode.events[index]
    asked = int(rng.integers(3))
    if asked == 0:
        return _pick(rng, (f"Which shape appears {place}?", f"What is the {place} shape?")), event.shape, [index]
    if asked == 1:
        text = _pick(rng, (f"What number is shown {place}?", f"What is the {place} number?"))
        return text, str(event.number), [index]
    return _pick(rng, (f"What color appears {place}?", f"What is the {place} color?")), event.color, [index]


def _motion(episode: Episode, rng: np.random.Generator) -> _Draft:
    index, event = _pick_event(episode, rng)
    text = _pick(rng, _TEXTS["motion"])
    return text.format(event.name), event.motion, [index]


def _how_often(episode: Episode, rng: np.random.Generator) -> _Draft:
    """Asks for a number of events. If objects return, "how many stars" could mean objects or events."""
    events, draw = episode.events, rng.random()
    every = range(len(events))
    if draw < 0.15:
        return "How many events are there?", str(len(events)), every
    # By shape, by color, or by object.
    names: dict[str, list[int]]
    if draw < 0.4:
        names = {shape: [i for i in every if events[i].shape == shape] for shape in SHAPES}
    elif draw < 0.65:
        names = {f"{color} shape": [i for i in every if events[i].color == color] for color in COLORS}
    else:
        names = {f"{color} {shape}": [] for color, shape in pairs(episode.split)}
        for index in every:
            names[events[index].name].append(index)
    # The answer is drawn before its question; otherwise nearly all answers would be 1 or 0.
    answers = sorted({len(found) for found in names.values()})
    answer = _pick_index(rng, answers)
    name = _pick(rng, [name for name, found in names.items() if len(found) == answer])
    text = _pick(rng, ("How often does {} appear?", "How many times is {} shown?"))
    return text.format(f"{'an' if name[0] in 'aeiou' else 'a'} {name}"), str(answer), names[name]


def _count(episode: Episode, rng: np.random.Generator) -> _Draft:
    events = episode.events
    every = range(len(events))
    asked = int(rng.integers(3))
    if len(_once(episode)) < len(events):
        return _how_often(episode, rng)
    if asked == 0:
        return _pick(rng, ("How many events are there?", "How many shapes appear?")), str(len(events)), every
    names = list(SHAPES if asked == 1 else COLORS)
    of_event = [event.shape if asked == 1 else event.color for event in events]
    # Otherwise almost every answer would be 0 or 1: absent objects are asked for rarely, the most frequent ones often.
    draw = rng.random()
    absent = [name for name in names if name not in of_event]
    if draw < 0.15 and absent:
        name = _pick(rng, absent)
    elif draw < 0.6:
        most = max(of_event.count(name) for name in names)
        name = _pick(rng, [name for name in names if of_event.count(name) == most])
    else:
        name = _pick(rng, of_event)
    text = _pick(rng, ("How many {} appear?", "How many {} are there?"))
    return text.format(plural(name) if asked == 1 else f"{name} shapes"), str(of_event.count(name)), every


def _absent_object(episode: Episode, rng: np.random.Generator, event: Event) -> str:
    """The name of an object that the video does not show, with the color or the shape of `event` if there is one."""
    present = {(other.color, other.shape) for other in episode.events}
    absent = [pair for pair in pairs(episode.split) if pair not in present]
    near = [pair for pair in absent if (pair[0] == event.color) != (pair[1] == event.shape)] or absent
    return " ".join(near[int(rng.integers(len(near)))])


def _absent_number(episode: Episode, rng: np.random.Generator, event: Event) -> int:
    """A number that no object carries; in half of the cases it differs in one digit from that of `event`."""
    shown = {other.number for other in episode.events}
    absent = [number for number in range(100, 1000) if number not in shown]
    if rng.random() < 0.5:
        absent = [n for n in absent if sum(a != b for a, b in zip(str(n), str(event.number), strict=True)) == 1]
    return _pick_index(rng, absent)


def _unanswerable(episode: Episode, rng: np.random.Generator) -> _Draft:
    _, event = _pick_event(episode, rng)
    if rng.random() < OTHER_SHARE:
        return _pick(rng, OTHER_QUESTIONS[episode.split]).format(event.name), UNANSWERABLE, []
    kinds = _OF_ABSENT[int(rng.integers(len(_OF_ABSENT)))]
    kind = _pick(rng, kinds)
    text = _pick(rng, _TEXTS[kind])
    if kind in ("color", "shape"):
        return text.format(_absent_number(episode, rng, event)), UNANSWERABLE, []
    names = [_absent_object(episode, rng, event)]
    if kind in ("first", "last"):
        names.insert(int(rng.integers(2)), event.name)
    return text.format(*names), UNANSWERABLE, []


def _existence(episode: Episode, rng: np.random.Generator) -> _Draft:
    text = _pick(rng, ("Is there {} {}?", "Does {} {} appear?", "Can you see {} {}?"))
    index, event = _pick_event(episode, rng)
    name, answer, looked_at = event.name, "yes", [index]
    if rng.random() < 0.5:
        name, answer, looked_at = _absent_object(episode, rng, event), "no", []
    return text.format("an" if name[0] in "aeiou" else "a", name), answer, looked_at


def _object(episode: Episode, rng: np.random.Generator) -> _Draft:
    index, event = _pick_event(episode, rng)
    text = _pick(
        rng,
        (
            "Which object carries the number {}?",
            "What is the object with number {}?",
            "Name the object that has the number {}.",
        ),
    )
    return text.format(event.number), event.name, [index]


_MAKERS: dict[str, Callable[[Episode, np.random.Generator], _Draft]] = {
    "color": _color,
    "shape": _shape,
    "number": _number,
    "order": _order,
    "first_last": _first_last,
    "motion": _motion,
    "count": _count,
    "existence": _existence,
    "locating": _locating,
    "object": _object,
    "unanswerable": _unanswerable,
}

ALL_KINDS: tuple[str, ...] = tuple(_MAKERS)
"""All kinds of questions."""
KINDS: tuple[str, ...] = tuple(kind for kind in _MAKERS if kind not in ("object", "unanswerable"))
"""The kinds of a set by default. The demo checkpoint was trained on these and on `unanswerable`, which is left out so
that sets of earlier versions stay the same; it can learn `object` by fine-tuning."""


def make_questions(
    episode: Episode, rng: np.random.Generator, per_kind: int = 1, kinds: Sequence[str] | None = None
) -> list[Question]:
    """Draw `per_kind` questions of each kind in `kinds` (`KINDS` by default), without repeated texts.

    Returns fewer if an episode does not allow as many, and none of a kind that it does not allow.
    """
    unknown = sorted(set(kinds or ()) - set(ALL_KINDS))
    if unknown:
        raise ValueError(f"Unknown kind of question {unknown[0]!r}; the kinds are {', '.join(ALL_KINDS)}.")
    questions: list[Question] = []
    for kind in KINDS if kinds is None else kinds:
        seen: set[str] = set()
        for _ in range(8 * per_kind):
            if len(seen) == per_kind:
                break
            try:
                text, answer, looked_at = _MAKERS[kind](episode, rng)
            except NothingToAsk:
                continue
            if text in seen:
                continue
            seen.add(text)
            frames = tuple(frame for index in looked_at for frame in episode.events[index].frames)
            questions.append(Question(text, answer, kind, tuple(looked_at), frames))
    return questions


__all__ = ["ALL_KINDS", "KINDS", "UNANSWERABLE", "Question", "make_questions"]
