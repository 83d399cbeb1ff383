"""A viewer of synthetic videos: reads pixels and answers questions without the code that made them."""

import itertools
import re

import numpy as np

from dynfocus.eval.synthetic import COLORS, SHAPES
from dynfocus.eval.synthetic.drawing import DIGIT_CELL, DIGITS
from dynfocus.eval.synthetic.world import NUM_DIGITS, truth_table


def read_number(frame, x, y):
    """Reads the number near `(x, y)` by comparing pixels at the cells' centres with every glyph."""
    size = frame.shape[0]
    bright = frame.min(axis=2) > 128
    cell = DIGIT_CELL * size
    best = (36 * NUM_DIGITS, None)
    for dx, dy in itertools.product(np.arange(-1, 2), np.arange(-size // 16, size // 8)):
        rows = np.floor(y * size + dy + (np.arange(7) - 3) * cell).astype(int)
        text, distance = "", 0
        for place in range(NUM_DIGITS):
            first = 6 * place - 3 * NUM_DIGITS + 0.5
            columns = np.floor(x * size + dx + (first + np.arange(5)) * cell).astype(int)
            distances = (bright[np.ix_(rows, columns)] != DIGITS).sum(axis=(1, 2))
            text += str(int(distances.argmin()))
            distance += int(distances.min())
        best = min(best, (distance, int(text)))
    return best[1]


def read_color(frame, x, y):
    """The named color that most pixels about `(x, y)` come close to, the white of digits aside."""
    size = frame.shape[0]
    top, left, half = int(y * size), int(x * size), int(0.3 * size)
    window = frame[max(top - half, 0) : top + half, max(left - half, 0) : left + half].reshape(-1, 3).astype(int)
    close = {name: (np.abs(window - color).max(axis=1) < 40).sum() for name, color in COLORS.items()}
    if max(count for name, count in close.items() if name != "white") < 150:
        return "white"
    return max((name for name in close if name != "white"), key=close.__getitem__)


def witnessed_events(episode):
    """The events as a viewer of the sampled frames sees them: a name, a number, the places it was at."""
    seen = []
    for _, run in itertools.groupby(truth_table(episode), key=lambda truth: truth and (truth.color, truth.shape)):
        run = list(run)
        if run[0] is not None:
            assert len({truth.number for truth in run}) == 1
            seen.append((run[0].color, run[0].shape, str(run[0].number), [(truth.x, truth.y) for truth in run]))
    return seen


#: All words of questions that a video may answer, besides names and numbers.
WORDS = set(
    "a after an and appear appears are before between can carries carry color comes direction does earlier event"
    " events first has how in is last later many move name number numbered object of often on or right see shape"
    " shapes shown that the there times two way what where which with you".split()
)
WORDS |= {*COLORS, *SHAPES, *(f"{shape}{'es' if shape == 'cross' else 's'}" for shape in SHAPES)}


def answer_from_frames(text, seen):
    """Answers a question from `witnessed_events`, without the code that made the question."""
    if set(re.findall(r"[a-z']+", text.lower())) - WORDS:
        return "unanswerable"
    names = [f"{color} {shape}" for color, shape, _, _ in seen]
    asked = re.findall(rf"(?:{'|'.join(COLORS)}) (?:{'|'.join(SHAPES)})\b", text)
    number = re.search(r"\d\d+", text)
    if not text.startswith(("How", "Is there", "Does", "Can you")) and not set(asked) <= set(names):
        return "unanswerable"
    if number and number[0] not in {event[2] for event in seen}:
        return "unanswerable"
    if number:
        color, shape = next(event[:2] for event in seen if event[2] == number[0])
        if "object" in text:
            return f"{color} {shape}"
        return color if "color" in text else shape
    if text.startswith(("How often", "How many times")):
        words = set(re.search(r"\ban? (.+) (?:appear|shown)", text)[1].split()) - {"shape"}
        return str(sum(words <= set(event[:2]) for event in seen))
    if "etween" in text:
        place = names.index(asked[0])
        return f"{names[place - 1]} and {names[place + 1]}"
    if text.startswith("How many"):
        name = text.split()[2].removesuffix("es" if "crosses" in text else "s")
        if name in ("event", "shape"):
            return str(len(seen))
        return str(sum(name in event[:2] for event in seen))
    if text.startswith(("Is there", "Does", "Can you")):
        return "yes" if asked[0] in names else "no"
    if "right after" in text:
        return names[names.index(asked[0]) + 1]
    if "right before" in text:
        return names[names.index(asked[0]) - 1]
    if len(asked) == 2:
        early, late = sorted(asked, key=names.index)
        return early if re.search("first|earlier", text) else late
    if asked and "number" in text:
        return seen[names.index(asked[0])][2]
    if asked:
        (x0, y0), (x1, y1) = (seen[names.index(asked[0])][3][place] for place in (0, -1))
        if max(abs(x1 - x0), abs(y1 - y0)) < 0.02:
            return "nowhere"
        return ("right" if x1 > x0 else "left") if abs(x1 - x0) > abs(y1 - y0) else ("down" if y1 > y0 else "up")
    event = seen[0 if "first" in text else -1]
    return event[1] if "shape" in text else event[2] if "number" in text else event[0]
