"""The words of an answer: removes markup, and compares with the texts of options."""

import re
import unicodedata
from collections.abc import Sequence

from .languages import PARTS, UNSPACED

_QUOTES = str.maketrans("‘’‚`´“”„«»「」『』《》【】〔〕、。–—−", "'''''" + 11 * '"' + "[][],.---")
#: Further capital letters of lists in Russian, without those that look like the Latin letter of another place (В, Е).
_CYRILLIC = {"А": "A", "Б": "B", "Г": "D", "С": "C"}
_LETTER = rf"[^\W\d_{UNSPACED}]"
_INVISIBLE = re.compile(r"[\u200b-\u200f\u2060\ufeff]")
NUMBERS = "zero one two three four five six seven eight nine ten".split()
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()


def clean_answer(text: str) -> str:
    """The answer without markup, and with characters of other scripts in their usual form."""
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text).translate(_QUOTES)).translate(_QUOTES)
    text = re.sub(rf"(?<!\w)[{''.join(_CYRILLIC)}](?!\w)", lambda found: _CYRILLIC[found[0]], text)
    text = re.sub(r"~~.*?~~", " ", text)  # struck out
    text = re.sub(r"<(b|i|u|em|strong|mark)>(.*?)</\1>", r"**\2**", text, flags=re.IGNORECASE | re.DOTALL)
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"[*_]{1,3}\s*[(\[]?([A-Za-z])[)\]]?\s*[.:)]?\s*[*_]{1,3}(?!\w)", r" (\1) ", text)
    text = re.sub(r"<([A-Za-z])>", r"(\1)", text)
    text = re.sub(r"(?<![A-Za-z0-9])([\"'])([A-Za-z])\1(?![A-Za-z0-9])", r"\2", text)
    text = re.sub(r"\$\s*([A-Za-z])\s*\$", r"\1", text)
    return re.sub(r"\*+|`+|__+|^\s*[#>]+\s|^\s*[-•]\s", " ", text, flags=re.MULTILINE).strip()


def concluding_part(text: str) -> str:
    """The answer without think blocks, or only the part that is marked as the answer, if there is one."""
    if re.search(r"</think(ing)?>", text):
        text = re.split(r"</think(?:ing)?>", text)[-1]
    elif re.search(r"<think(ing)?>", text):
        return ""
    marked = re.findall(r"<answer>(.*?)(?:</answer>|$)", text, re.IGNORECASE | re.DOTALL)
    marked = marked or re.findall(
        r"\\(?:boxed|fbox)\s*\{([^{}]*)\}|<\|begin_of_box\|>(.*?)<\|end_of_box\|>", text, re.DOTALL
    )
    text = "\n".join(map("".join, marked)) if marked else text
    text = re.sub(r"</?[|!]?[A-Za-z][^<>\s]{0,30}>", " ", text).strip()
    # A model that does not stop.
    return re.sub(r"^([A-Za-z])\1{2,}$", r"\1", text)


def without_labels(options: list[str]) -> list[str]:
    found = [re.match(r"\s*[(\[]?([A-Za-z])[)\].:]\s*(?=\S)", option) for option in options]
    if all(match and label_index(match[1]) == place for place, match in enumerate(found)):
        return [option[match.end() :] for option, match in zip(options, found, strict=True) if match]
    return options


def label_index(label: str) -> int:
    """The place of a letter, number or ordinal, from 0."""
    label = label.lower()
    if len(label) == 1 and label.isalpha():
        return ord(label) - ord("a")
    for names, first in ((NUMBERS, 0), (ORDINALS, 1)):
        if label in names:
            return names.index(label) + first - 1
    return int(re.sub(r"\D", "", label)) - 1


def words_of(text: str) -> list[str]:
    """
    Words in lower case, numbers as digits, without articles before other words; characters of unspaced scripts singly.
    """
    text = re.sub(r"(?<![\w'-])(?:a|an|the)\s+(?=\w)", "", text.lower())
    found = re.findall(
        rf"(?:(?<!\w)[-+$€£])?\d+(?:[.,:]\d+)*%?|[{UNSPACED}]|{_LETTER}+(?:'{_LETTER}+)*|\d+|[+%&#]+", text
    )
    return [str(NUMBERS.index(word)) if word in NUMBERS else word for word in found]


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text.strip().strip(".,;:!?\"'()[]")).casefold()


def equal_option(text: str, texts: Sequence[str]) -> int | None:
    """
    The only option with exactly this text; articles and punctuation count only if options do not differ otherwise.
    """
    for form in (plain, words_of):
        mine = form(text)
        same = [index for index, other in enumerate(texts) if mine and form(other) == mine]
        if same:
            return same[0] if len(same) == 1 else None
    return None


def begins_with(words: list[str], start: list[str]) -> bool:
    return bool(start) and words[: len(start)] == start


def contradicts(index: int, rest: str, texts: Sequence[str]) -> bool:
    """Whether a label is followed by the text of another option."""
    words = words_of(re.sub(rf"^\s*(?:{PARTS})+[^\w]+", "", rest))  # "Bです: "
    if begins_with(words, words_of(texts[index])):
        return False
    return any(begins_with(words, words_of(text)) for text in texts if words_of(text) != words_of(texts[index]))


def label_with_text(said: str, texts: Sequence[str]) -> int | None:
    """The option whose letter and whole text are the whole answer."""
    found = re.match(
        r"(?i:(?:the\s+)?(?:answer|option|choice)\s*(?:is)?\s*:?\s*)?[(\[{]?([A-Za-z])[)\]}]?[\s.:,)-]+(?=\S)", said
    )
    if found and (index := label_index(found[1])) < len(texts):
        rest = said[found.end() :]
        if words_of(rest) == words_of(texts[index]) and words_of(rest):
            return index
    return None


__all__ = [
    "NUMBERS",
    "ORDINALS",
    "begins_with",
    "clean_answer",
    "concluding_part",
    "contradicts",
    "equal_option",
    "label_index",
    "label_with_text",
    "plain",
    "without_labels",
    "words_of",
]
