"""Multiple-choice rows of data sets, which write options and answers in many ways."""

import re
import string
from collections.abc import Sequence

_LETTERED = re.compile(r"\s*(?:\(([A-Z])\)|([A-Z])[.):])\s*(.*)", re.DOTALL)


def without_letters(options: Sequence[str]) -> tuple[str, ...]:
    """Options without "A.", "A)", "A:" or "(A)", if each of them begins with its own letter; otherwise unchanged."""
    found = [_LETTERED.fullmatch(option) for option in options]
    letters = [match and (match[1] or match[2]) for match in found]
    if letters != list(string.ascii_uppercase[: len(options)]):
        return tuple(option.strip() for option in options)
    return tuple(match[3].strip() for match in found if match)


def split_question(text: str) -> tuple[str, tuple[str, ...]]:
    """
    Splits a question that holds its options, one a line, into the question and the options without letters.

    The options are the last lines that begin with "A", "B", … in order; a line between them continues the one above.

    Raises:
        `ValueError`: the text has fewer than two options.
    """
    question: list[str] = []
    options: list[str] = []
    for line in text.strip().splitlines():
        match = _LETTERED.fullmatch(line)
        letter = (match[1] or match[2]) if match else None
        if match and letter == "A":
            # Earlier lines that looked like options were part of the question.
            question += [f"({name}) {option}" for name, option in zip(string.ascii_uppercase, options, strict=False)]
            options = [match[3].strip()]
        elif match and options and letter == string.ascii_uppercase[len(options)]:
            options.append(match[3].strip())
        elif options:
            options[-1] = f"{options[-1]} {line.strip()}".strip()
        else:
            question.append(line.rstrip())
    if len(options) < 2:
        raise ValueError(f"The question {text!r} has no options '(A) …', '(B) …'.")
    return "\n".join(question).strip(), tuple(options)


def index_of(answer: str | int, options: Sequence[str]) -> int:
    """
    The index of the right option, given by its text, its letter ("B", "(B)", "B.") or the index itself.

    Raises:
        `ValueError`: the answer is none of the options.
    """
    if isinstance(answer, int):
        index = answer
    elif answer.strip() in (texts := [option.strip() for option in options]):
        index = texts.index(answer.strip())
    else:
        letter = re.fullmatch(r"\(?([A-Z])[.):]?", answer.strip())
        index = string.ascii_uppercase.index(letter[1]) if letter else -1
    if not 0 <= index < len(options):
        raise ValueError(f"The answer {answer!r} is none of the options {list(options)}.")
    return index


def lettered(options: Sequence[str], form: str = "{letter}. {option}") -> str:
    """The options, a line each: "A. a red car"."""
    named = zip(string.ascii_uppercase, options, strict=False)
    return "\n".join(form.format(letter=letter, option=option) for letter, option in named)


def steering(question: str, options: Sequence[str]) -> str:
    """The text by which frames are chosen: the question and its options, without instructions."""
    return "\n".join([question, *options])


__all__ = ["index_of", "lettered", "split_question", "steering", "without_letters"]
