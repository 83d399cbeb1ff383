"""Finds the option of a multiple-choice question that an answer names. Nothing is guessed.

An answer is split into clauses. Clauses that only name an option ("B", "so it must be (B)") are statements, and
statements decide. If there are none, an option that is marked as one ("(B)", "option B") decides, and then an option's
text. Answers that name two options, deny one, contradict themselves or are out of the range of the options name none.

In answers that repeat the options, the list is ignored, and a last line that is a letter decides if nothing before it
does. Words of other languages are replaced by English words of the same meaning, see `languages.py`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest

from .answer_text import (
    NUMBERS,
    ORDINALS,
    begins_with,
    clean_answer,
    concluding_part,
    contradicts,
    equal_option,
    label_index,
    label_with_text,
    plain,
    without_labels,
    words_of,
)
from .languages import OPTION, PARTS, UNSPACED, english_words

#: Longer answers must state their choice, because they may mention an option's text for other reasons.
MAX_WORDS_OF_MENTION = 50

#: Words with which an option is chosen.
_VERDICT = set(
    "answer ans option choice choose chose select selecting pick letter correct right best final therefore thus hence "
    "so then conclusion think believe guess say go with is it's its that's be must should would likely probably "
    "definitely certainly clearly obviously maybe perhaps possibly assume conclude response solution most accurate "
    "suitable appropriate".split()
)
#: Words that may accompany them without a meaning of their own.
_FILLERS = _VERDICT | set(
    "the a an my i i'd i'll i'm we we'd we'll it this that of to for from on in by based given video clip frames "
    "images scene question one option's sure okay ok well yes yeah hmm here above following provided shown and or "
    "either both between among all options choices are was will can could might seems seem appears appear to "
    "me us considering according looking after watching will have going let's number only considered chosen selected "
    "output result also alternatively as you your closest match matches indeed just simply really explanation".split()
)
_ANSWER_WORDS = {"answer", "ans", "option", "choice", "letter", "response", "solution"}
_JOINING = {"or", "and", "either", "both", "between", "among"}
_IS = {"is", "be", "was", "it's", "that's", "seems", "appears"}
_NEGATIONS = set(
    "not no never neither nor without cannot isn't wasn't aren't doesn't didn't don't can't couldn't wouldn't won't "
    "except excluding unlike".split()
)
#: "All but B" names an option that is not the answer.
_ALL = {"all", "any", "anything", "everything", "anyone", "everyone"}
_WRONG = {"wrong", "incorrect", "false", "unlikely", "inaccurate", "impossible", "ruled", "eliminated", "eliminate"}
#: A clause ends before these: what follows is a reason, or about something else.
_TURNS = set(
    "because since due while whereas but where which who though although however therefore thus hence".split()
)
#: A capital A before other words than these is an article.
_AFTER_LETTER = _IS | _JOINING | _TURNS | {"would", "must", "should", "as", "it", "best", "correctly", "because"}
#: The end of a sentence, and a pause within it.
_ENDS, _PAUSES = ("", "\n", ".", "!", "?", ";"), (",", ":", "-", "but")
_RETRACTION = re.compile(r"\b(wait|actually|correction|sorry|instead|no,|on second thought|let me re)", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(can ?not|can't|unable|unclear|unsure|unknown|uncertain|not sure|don't know|no idea|not possible|impossible|"
    r"difficult to|hard to|not enough|insufficient|not (visible|shown|clear)|(doesn't|does not) (show|say))\b"
)
#: Frequent texts, which count only if they are the whole answer.
_COMMON = {"yes", "no", "true", "false", "none", "both", "all", "right", "it", "one", "not", "other", "sure"}

_ALONE = re.compile(r"\W*([A-Za-z])\W*")
_LETTER = rf"[^\W\d_{UNSPACED}]"
_TOKENS = re.compile(
    rf"""
      (?P<label>  (?<!{_LETTER})(?<!\d)[(\[{{]\s*(?:[Oo]ption\s+)?([A-Za-z])\s*[.:]?\s*[)\]}}]  # (B)
                | (?<!{_LETTER})(?<![\d'(])([A-Za-z])\)                                           # B)
                | (?<![A-Za-z])(?i:{OPTION})
                      \s*(?:(?i:no\.?|number|número|nº)|\#)?\s*
                      (\d{{1,2}}|(?i:{"|".join(NUMBERS[1:])}))\b(?![%.]?\w) )             # option 2
    | (?P<ordinal> \b(?i:(?:{"|".join(ORDINALS)}|last|\d{{1,2}}(?:st|nd|rd|th))
                      \s+(?:option|choice|answer|alternative))\b )                        # second option
    | (?P<letter>  (?<!{_LETTER})(?<!\d)(?<!{_LETTER}['-])(?<!\d['-])(?<!\b[A-Z]\.)
                   [A-Za-z](?!['-]?(?:{_LETTER}|\d))(?!\.[A-Z]\.) )
    | (?P<word>    §+ | {PARTS} | [{UNSPACED}] | {_LETTER}+(?:['-]{_LETTER}+)* | \d+(?:[.,]\d+)* )
    | (?P<break>   \n | [.!?;,:=] | -+>? | → )
    """,
    re.VERBOSE,
)


@dataclass
class _Token:
    """A word, letter or sign; `word` is English, `text` is as it was written."""

    kind: str
    text: str
    start: int
    end: int
    word: str


@dataclass
class _Clause:
    """Tokens between two breaks; `before` and `after` are these breaks (empty at the ends of the answer)."""

    tokens: list[_Token]
    before: str
    after: str = ""
    labels: list[tuple[str, _Token]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @property
    def is_negated(self) -> bool:
        return any(word in _NEGATIONS | _WRONG for word in self.words)

    @property
    def is_empty_talk(self) -> bool:
        return all(word in _FILLERS or word in _TURNS for word in self.words)

    @property
    def is_denial(self) -> bool:
        return all(word in _FILLERS | _NEGATIONS | _WRONG for word in self.words)

    @property
    def starts_line(self) -> bool:
        return self.before in ("", "\n")


def parse_choice(answer: str | None, options: Sequence[str]) -> int | None:
    """The index of the option that an answer names; None if it names none, or more than one.

    Args:
        answer: the model's text; None means no answer.
        options: 2 to 10 texts, in the order of their letters A to J. If all texts begin with letters, these are
            ignored.

    Raises:
        ValueError: for fewer or more options.
    """
    if not 2 <= len(options) <= 10:
        raise ValueError(f"There are {len(options)} options, but a multiple-choice question has 2 to 10.")
    texts = without_labels([clean_answer(option) for option in options])
    said = concluding_part(clean_answer(answer or ""))
    if not said:
        return None
    choice = _read(said, texts)
    if choice is None and (rest := _without_list(said, texts)) is not None:
        said = rest
        choice = _read(said, texts) if re.search(r"\w", said) else _emphasized(answer or "", texts)
    return _last_line(said, texts) if choice is None else choice


def _read(said: str, texts: Sequence[str]) -> int | None:
    whole = equal_option(said, texts)
    named = label_with_text(said, texts)
    label = _stated_label(said, texts, whole) if named is None else named
    if whole is None:
        return None if isinstance(label, _Several) else label
    letter = _ALONE.fullmatch(said)
    if letter and whole != label_index(letter[1]) < len(texts):
        return None
    return whole if label in (None, whole) or isinstance(label, _Several) else None


class _Several:
    """In place of an index, for statements that are not a single choice."""


_SEVERAL = _Several()


# Clauses


def _tokens(text: str) -> list[_Token]:
    english, found = english_words(text), list(_TOKENS.finditer(text))
    tokens = []
    for place, match in enumerate(found):
        kind, word = match.lastgroup or "", match[0].lower()
        if kind == "letter" and match[0] in english and 0 < place < len(found) - 1:
            kind = "word"  # "A o B", "A e B"
        if kind == "word":
            words = english.get(word, word).split()
            tokens += [_Token(kind, match[0], match.start(), match.end(), one) for one in words]
        else:
            tokens.append(_Token(kind, match[0], match.start(), match.end(), word))
    return tokens


def _clauses(text: str) -> list[_Clause]:
    clauses = [_Clause([], "")]
    tokens = _tokens(text)
    for token, following in zip_longest(tokens, tokens[1:]):
        clause = clauses[-1]
        if token.kind == "break":
            # "Answer =", "B :" and the like: of several breaks the first counts, but a line break before all others.
            if clause.tokens or not clause.before:
                clause.after = clause.after or token.text
                clauses.append(_Clause([], token.text if clause.tokens else "\n" if token.text == "\n" else ""))
            elif token.text in _ENDS:
                clause.before = token.text
        elif token.kind == "word" and token.word in _TURNS and clause.tokens:
            clause.after = token.word
            clauses.append(_Clause([token], token.word))
        else:
            clause.tokens.append(token)
            # "(B) a red car": the label is a separate clause, unless the sentence is about it.
            opens = token.kind == "label" and token.text[-1] in ")]}" and len(clause.tokens) == 1
            if opens and following and following.kind == "word" and following.word not in _AFTER_LETTER | _NEGATIONS:
                clause.after = ")"
                clauses.append(_Clause([], ")"))
    clauses = [clause for clause in clauses if clause.tokens]
    for clause in clauses:
        _find_labels(clause)
    return clauses


def _find_labels(clause: _Clause) -> None:
    """Sorts a clause's tokens into labels and words; single letters are classified by their context."""
    tokens = clause.tokens
    for place, token in enumerate(tokens):
        last = place == len(tokens) - 1
        previous = tokens[place - 1].word if place else ""
        following = "" if last else tokens[place + 1].word
        if token.kind == "letter":
            alone = last or following in _AFTER_LETTER or tokens[place + 1].kind != "word"
            if token.text == "I" or token.text.islower():
                named = previous in _IS | _ANSWER_WORDS | _JOINING | {"the"} or (
                    place == 0 and clause.before in (*_ENDS, ":", "=")
                )
                is_label = (last and (named or token.text == "I" and place == 0)) or (
                    previous in _ANSWER_WORDS and alone
                )
                # "I and A"
                is_label |= following in _JOINING and place + 2 < len(tokens) and tokens[place + 2].kind == "letter"
            else:
                # An article is followed by a space, and within a clause it is not a capital letter.
                attached = not last and tokens[place + 1].start == token.end
                translated = not last and tokens[place + 1].text.lower() != following
                is_label = alone or token.text != "A" or attached or (place > 0 and translated)
            if is_label:
                if previous in ("option", "choice"):
                    token.kind = "label"
                clause.labels.append((token.text, token))
                continue
        elif token.kind == "label":
            clause.labels.append((re.findall(r"[a-z]+|\d+", token.word)[-1], token))
            continue
        elif token.kind == "ordinal":
            clause.labels.append((token.word.split()[0], token))
            continue
        clause.words.append(token.word)


def _place(name: str, texts: Sequence[str]) -> int | None:
    """The index of a label; None if it is out of range, or another option's text is exactly this letter or number."""
    index = len(texts) - 1 if name == "last" else label_index(name)
    if not 0 <= index < len(texts):
        return None
    alike = [words_of(text) == words_of(name) or plain(text) == name.lower() for text in texts]
    return index if not any(alike) or alike[index] else None


# Statements


@dataclass
class _Named:
    """An option that is named: its index (None if there is no such option), the place, and the kind of clause."""

    index: int | None
    token: _Token
    is_final: bool
    is_hedged: bool


@dataclass
class _Findings:
    """Sentences that choose an option, options by themselves, and options that are only marked as such."""

    strong: list[_Named] = field(default_factory=list)
    weak: list[_Named] = field(default_factory=list)
    marks: list[_Named] = field(default_factory=list)


def _findings(clauses: Sequence[_Clause], texts: Sequence[str]) -> _Findings:
    found = _Findings()
    opening = True  # everything before in this sentence is without meaning, or names options
    asked: list[str] = []  # the words of "The answer is:", if it came just before
    for place, clause in enumerate(clauses):
        if clause.before in _ENDS:
            opening = True
        final, hedged = "final" in [*clause.words, *asked], len(clause.labels) > 1
        named = [_Named(_place(name, texts), token, final, hedged) for name, token in clause.labels]
        spoken = [word for word in clause.words if word not in _JOINING | {"but", "the"}]
        is_exception = clause.before == "but" and not _ALL.isdisjoint(clauses[place - 1].words[-1:])
        if named and not clause.is_negated and not is_exception:
            is_last = place == len(clauses) - 1
            if _is_verdict(clause) or (clause.is_empty_talk and (asked or _VERDICT.intersection(spoken))):
                found.strong += named
            elif spoken or not clause.is_empty_talk:
                found.marks += [one for one in named if one.token.kind == "label"]
            elif clause.starts_line or (is_last and clause.before in _ENDS) or (opening and clause.before in _PAUSES):
                found.weak += named
            else:
                found.marks += named
        opening = opening and (clause.is_empty_talk or (bool(named) and clause.is_denial))
        asks = not named and clause.is_empty_talk and not _ANSWER_WORDS.isdisjoint(clause.words)
        asked = clause.words if asks else []
    return found


def _stated_label(said: str, texts: Sequence[str], whole: int | None) -> int | None | _Several:
    """The option that statements name; otherwise the one that marks or texts name."""
    clauses = _clauses(_mask(said, texts))
    found = _findings(clauses, texts)
    decisive = found.strong or found.weak
    if decisive:
        chosen = _decided(decisive, said)
        if chosen is None or chosen.index is None:
            return _SEVERAL
        index, rest = chosen.index, said[chosen.token.end :]
        alone = {one.index for one in found.weak}
        repeated = _repeated(said, texts)
        others = {one.index for one in found.marks} | repeated
        if found.strong and len(alone) == 1 and alone != {index} and len(repeated) < 2:
            return _SEVERAL
        if not found.strong and (others - {index} or index in _denied(clauses, texts)):
            return _SEVERAL
        # Some answers of any kind begin with "A:".
        if not found.strong and re.match(r"A\s*:", said) and not begins_with(words_of(rest), words_of(texts[index])):
            return _SEVERAL
        return _SEVERAL if contradicts(index, rest, texts) else index
    if whole is not None:
        return None
    mentioned = _mentioned(said, texts)
    named = {one.index for one in found.marks}
    if isinstance(mentioned, _Several) or None in named:
        return _SEVERAL
    named |= {mentioned} - {None}
    return named.pop() if len(named) == 1 else _SEVERAL if named else None


def _denied(clauses: Sequence[_Clause], texts: Sequence[str]) -> set[int | None]:
    return {_place(name, texts) for clause in clauses if clause.is_negated for name, _ in clause.labels}


def _decided(statements: Sequence[_Named], said: str) -> _Named | None:
    """
    The deciding statement: all agree, or the final ones do, or those without hedging; or the others were taken back.
    """
    final, certain = [one for one in statements if one.is_final], [one for one in statements if not one.is_hedged]
    for agreed in (statements, final, certain):
        if agreed and len({one.index for one in agreed}) == 1:
            return agreed[-1]
    last = statements[-1]
    before = [one for one in statements if one.index != last.index][-1]
    return last if _RETRACTION.search(said[before.token.end : last.token.start]) else None


def _repeated(said: str, texts: Sequence[str]) -> set[int | None]:
    """The options that are written with letter and text."""
    return {
        index
        for index, text in enumerate(texts)
        if re.search(rf"(?<!\w){chr(ord('A') + index)}[).:]+\s*{re.escape(plain(text))}", said, re.IGNORECASE)
    }


def _mask(said: str, texts: Sequence[str]) -> str:
    """Masks texts of options that contain letters of options ("Both A and B", "vitamin C")."""
    for text in texts:
        if re.search(r"\b[A-Za-z]\b|\boption\b", text, re.IGNORECASE) and len(text.split()) > 1:
            pattern = r"\s+".join(map(re.escape, text.strip(" .").split()))
            said = re.sub(rf"(?<!\w){pattern}(?!\w)", lambda found: "§" * len(found[0]), said, flags=re.IGNORECASE)
    return said


def _is_verdict(clause: _Clause) -> bool:
    """ "The answer to what he holds is B", or "B is the option that shows it best"."""
    tokens = clause.tokens[1:] if clause.tokens[0].word in ("option", "choice") else clause.tokens
    if len(clause.labels) != 1 or len(tokens) < 2:
        return False
    label = clause.labels[0][1]
    if label is tokens[-1]:
        return tokens[-2].word in _IS and not _ANSWER_WORDS.isdisjoint(clause.words)
    judged = not {"correct", "right", "answer", "best", "accurate"}.isdisjoint(clause.words)
    return label is tokens[0] and judged and tokens[1].word in _IS | {"best", "would", "must", "most"}


# Lists of the options, and lines by themselves


def _without_list(said: str, texts: Sequence[str]) -> str | None:
    """The answer without a list of all options, in their order, with letters and texts; `None` if there is none."""
    items = []
    for index, text in enumerate(texts):
        label, words = re.escape(chr(ord("A") + index)), r"\s+".join(map(re.escape, plain(text).split()))
        items.append(rf"[(\[{{]?{label}[)\]}}.:]*[\s-]*{words}")
    pattern = r"\W+?".join(items)
    found = re.subn(rf"(?<!\w){pattern}(?!\w)", "\n", re.sub(r"\[[xX ]?\]", " ", said), count=1, flags=re.IGNORECASE)
    return found[0] if found[1] else None


def _emphasized(answer: str, texts: Sequence[str]) -> int | None:
    """The only item of a list of the options that is in bold or ticked."""
    bold = re.findall(r"(?:\*\*|__)(?=\w|\()(.+?)(?:\*\*|__)", answer)
    ticked = [line for line in answer.splitlines() if re.search(r"[✓✔✅☑]|\[x\]", line, re.IGNORECASE)]
    marked = [re.sub(r"[✓✔✅☑]|\[[xX]\]", " ", part) for part in bold or ticked]
    chosen = {_read(clean_answer(part), texts) for part in marked}
    return chosen.pop() if len(chosen) == 1 else None


def _last_line(said: str, texts: Sequence[str]) -> int | None:
    """The option that is the whole last line, if the lines before it do not choose another one."""
    lines = [line for line in said.splitlines() if re.search(r"\w", line)]
    if len(lines) < 2:
        return None
    *before, last = lines
    index = label_with_text(last, texts)
    if index is None and (alone := _ALONE.fullmatch(last)):
        index = _place(alone[1], texts)
    if index is None or last.endswith("?"):
        return None
    clauses = _clauses(_mask("\n".join(before), texts))
    found = _findings(clauses, texts)
    others = {one.index for one in found.strong}
    others |= {_place(alone[1], texts) for line in before if (alone := _ALONE.fullmatch(line))}
    # Labels at the beginning of list items choose nothing, if the last line is not the next item.
    heads = [label_index(head) for head in re.findall(r"(?:^|[,;\n])\W*([A-Za-z])[).:]+[ \t]+\w", "\n".join(before))]
    is_list = len(heads) > 1 and heads == list(range(len(heads))) and (len(heads) == len(texts) or index != len(heads))
    if not is_list:
        others |= {one.index for one in found.weak}
    return index if others <= {index} and index not in _denied(clauses, texts) else None


# Mentions


def _mentioned(said: str, texts: Sequence[str]) -> int | None | _Several:
    """The only option whose text, or a longer text that contains it, is in the answer and not denied there."""
    forms = [words_of(text) for text in texts]
    found: set[int] = set()
    english = english_words(said)
    for sentence in re.findall(r"(?:[^.!?;\n]|[.](?=\d))+[.!?;\n]?", said):
        words = words_of(sentence)
        spans = [
            (start, start + len(form), index)
            for index, form in enumerate(forms)
            for start in range(len(words) - len(form) + 1)
            if form and words[start : start + len(form)] == form
        ]
        spans = [one for one in spans if not any(_inside(one, other) for other in spans)]
        covered = {place for start, end, _ in spans for place in range(start, end)}
        outside = " ".join(word for place, word in enumerate(words) if place not in covered)
        unspaced = re.sub(r"\s", "", outside)
        if sentence.endswith("?") or _REFUSAL.search(outside) or _is_negated(re.findall(PARTS, unspaced), english):
            continue
        for start, end, index in spans:
            before = [words[place] for place in range(max(0, start - 4), start) if place not in covered]
            if (
                _is_negated(before, english)
                or any(one in _ALL and other == "but" for one, other in pairwise(before))
                or (end < len(words) and _is_denied(words[end : end + 4]))
            ):
                continue
            if all(word in _COMMON for word in forms[index]) and not _is_own_answer(
                sentence, texts[index], forms[index]
            ):
                continue
            found.add(index)
    if len(found) > 1:
        return _SEVERAL
    if found and len(words_of(said)) > MAX_WORDS_OF_MENTION:
        return None
    return found.pop() if found else None


def _is_negated(words: Sequence[str], english: Mapping[str, str]) -> bool:
    return any(meant in _NEGATIONS for word in words for meant in english.get(word, word).split())


def _inside(one: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
    return other[0] <= one[0] and one[1] <= other[1] and other[1] - other[0] > one[1] - one[0]


def _is_denied(following: Sequence[str]) -> bool:
    return following[0] in _IS | {"isn't", "wasn't"} and any(word in _NEGATIONS | _WRONG for word in following)


def _is_own_answer(sentence: str, text: str, form: list[str]) -> bool:
    """Whether a clause of the sentence is only this text, with at most meaningless words before it."""
    for place, clause in enumerate(re.split(r"[,:.!?;\n]|\s-+\s", sentence)):
        words = words_of(clause)
        before = words[: len(words) - len(form)]
        if words == form and place == 0:
            return True
        if words[-len(form) :] == form and before and all(word in _FILLERS - _COMMON for word in before):
            return True
        if words == form and all(word in _FILLERS - _COMMON for word in words_of(sentence.split(text)[0])):
            return True
    return False


__all__ = ["MAX_WORDS_OF_MENTION", "parse_choice"]
