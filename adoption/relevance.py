"""
Relevance: how well each frame of a video fits a question, by the similarity of their vectors from a dual encoder.

    embeddings = encoder.encode_images(frames)                # once for each video
    relevance = relevance_of(encoder, embeddings, "What is the man holding?")
    key_frames = RULES["peaks"](relevance, 8, features=embeddings, times=times)
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dynfocus.processing.questions import without_control_tokens
from dynfocus.towers.dual_encoder import DualEncoder

# Cosines that span less than this differ only by rounding.
_FLAT = 1e-6

# Multiple choice: "A. red", "(A) red", "A) red", "A: red", each on its own line or one after another.
_OPTION_LINE = re.compile(r"\s*(?:\(([A-J])\)|([A-J])[.):])\s*(\S.*)", re.DOTALL)
_OPTION_INSIDE = re.compile(r"(?<!\S)(?:\(([A-J])\)|([A-J])[.)])\s+(?=\S)")
_HEADINGS = re.compile(
    r"^\s*(?:questions?|options?|choices?|candidates|answer choices"
    r"|(?:the )?(?:best |correct |right )?(?:answer|option)(?: is)?)\s*:\s*\(?",
    re.IGNORECASE,
)
# Sentences that say how to answer. They are about answers, options or words, unlike questions in the imperative such
# as "Pick the red car and describe its driver".
_INSTRUCTIONS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?:please |now |then |just |only |directly )*(?:answer|respond|reply)(?: to)?"
        r"(?: \w+)? (?:the |this |these |my |following |above |multiple.choice )*"
        r"(?:questions?\b|with\b|in\b|using\b|by\b|only\b|briefly\b|directly\b|yes\b|as\b).*",
        r"(?:please )?answer\W*(?:only|briefly|directly|yes or no)?\W*",
        r"(?:please |now |then |carefully |directly )*(?:choose|select|pick|give|provide|output|write)"
        r"(?: only| just| me)* (?:the |one |a |your |only |single |final |best |correct |right |most |likely "
        r"|appropriate |suitable |accurate |following )*(?:answers?|options?|letters?|choices?)\b.*",
        r"(?:only|just) (?:give|output|answer|respond|reply|provide|write|return)\b.*",
        r"(?:your |the )?(?:answer|response) (?:should|must|has to|needs to)\b.*",
        r"(?:use|in) (?:a |one |no more than )*(?:single |few |\d+ )*(?:words?|phrases?|sentences?)(?: only)?",
        r"(?:please )?(?:think|reason)(?: about it| carefully| it through)*(?:,? step by step)?",
        r"(?:please )?(?:let's )?think step by step",
        r"(?:please )?(?:be (?:brief|concise|short|precise)|keep it (?:brief|concise|short))\b.*",
        r"(?:please )?(?:explain|justify) your (?:answer|reasoning|choice)\b.*",
        r"(?:please )?(?:do not|don't) (?:explain|give|add|write|include|output|say)\b.*",
        r"(?:please )?(?:carefully |closely )?(?:watch|observe|look at) (?:the|this) (?:video|clip)"
        r"(?: carefully| closely)?(?:,? and (?:pay|then|answer|select|choose|respond)\b.*)?",
        r"(?:based on|according to|given) (?:your observations?|(?:the|this) (?:video|clip)),? "
        r"(?:please )?(?:select|choose|pick|answer)\b.*",
        r"the (?:best |correct |right )?(?:answer|option) is\W*",
        r"(?:this|the) video'?s? (?:subtitles|transcript) (?:are|is) listed below\W*",
    )
]
_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?](?!\s|$)[^.!?\n]*)*[.!?]*[\"')\]]*")

_LEAD = re.compile(
    r"^(?:(?:in|during|throughout|at|according to|based on|from) (?:the |this )?(?:whole |entire |given |provided )?"
    r"(?:video|clip|footage|scene)s?,? |(?:please )?(?:tell me|can you tell me|can you say|do you know),? )",
    re.IGNORECASE,
)
_BE = r"(?P<be>is|are|was|were)"
_WHEN = r"(?:right |just |immediately |shortly )?(?:after|before|when|while|as)"
_PLACE = (
    "(?:in|on|at|behind|next|under|above|near|inside|beside|between|to|below|over|outside|among|around|against|with)"
)
# Words in -ing that are not verbs, and words that are not followed by a verb in -ing.
_NOUNS = set(
    "thing something anything nothing everything king ring string wing spring morning evening building ceiling during "
    "wedding sibling clothing being lightning ping sing swing sling wording".split()
)
_BEFORE_NOUNS = set("the a an this that these those his her its their my your our of and or no".split())


def texts_of(question: str, options: Sequence[str] | None = None, use_options: bool = False) -> list[str]:
    """
    The texts with which frames are compared for a question, the question first; a frame is relevant if it fits any of
    them.

    Instructions ("Answer with the option's letter …") are left out, and so are the options of a multiple-choice
    question, also in the question's own text, because they would reveal the possible answers. For simple English
    questions a declarative form is added: "What is the man holding?" → "the man is holding something". Other languages
    keep their words, except lettered options.

    Args:
        question: the question for the language model, with or without its instructions.
        options: its options, with or without letters. Lines of the question that equal one of them are left out.
        use_options: whether to add a text for each option, after the question.

    Returns:
        Different texts, none of them empty. No texts for an empty question. A question of which nothing would be left
        is kept unchanged.
    """
    bare, found = _without_options(question, options or ())
    sentences = [sentence for line in bare for sentence in _sentences(line)]
    asked = " ".join(sentence for sentence in sentences if not _is_instruction(sentence)) or " ".join(question.split())
    texts = [asked]
    asking = [sentence for sentence in _sentences(asked) if sentence.endswith("?")] or [asked]
    declared = _declarative(asking[-1])
    if declared:
        texts.append(declared)
    if use_options:
        texts += [f"{asked} {option}" for option in found]
    return list(dict.fromkeys(text for text in texts if text))


def similarity(image_embeddings: Tensor, text_embeddings: Tensor) -> Tensor:
    """
    The cosine of each frame and its best fitting text: frames `(T, D)`, texts `(n, D)` → float32 `(T,)`.

    Zeros without texts.
    """
    images = torch.nn.functional.normalize(image_embeddings.float(), dim=-1)
    if len(text_embeddings) == 0:
        return images.new_zeros(len(images))
    texts = torch.nn.functional.normalize(text_embeddings.to(images.device).float(), dim=-1)
    return (images @ texts.T).amax(-1)


def relevance(image_embeddings: Tensor, text_embeddings: Tensor) -> Tensor:
    """
    [`similarity`] scaled to 0…1 over the video: frames `(T, D)`, texts `(n, D)` → float32 `(T,)`.

    Zeros if all frames fit equally well, and without texts.
    """
    cosines = similarity(image_embeddings, text_embeddings)
    if len(cosines) == 0:
        return cosines
    low, high = cosines.aminmax()
    # Not "<": NaN must not count as flat.
    return torch.zeros_like(cosines) if bool(high - low <= _FLAT) else (cosines - low) / (high - low)


def relevance_of(
    encoder: DualEncoder,
    image_embeddings: Tensor,
    question: str,
    options: Sequence[str] | None = None,
    use_options: bool = False,
) -> Tensor:
    """
    The [`relevance`] of frames `(T, D)` for a question, by the texts of [`texts_of`]: float32 `(T,)`.

    Texts that are too long for the encoder are split by [`DualEncoder.split_text`].
    """
    return relevance(image_embeddings, text_vectors(encoder, texts_of(question, options, use_options)))


def text_vectors(encoder: DualEncoder, texts: Sequence[str]) -> Tensor:
    """Unit vectors `(n, D)` of texts, or of the parts of texts that are too long, without special tokens."""
    tokenizer: Any = encoder.tokenizer
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        texts = [without_control_tokens(text, tokenizer) for text in texts]
    return encoder.encode_texts([part for text in texts for part in encoder.split_text(text)])


def _without_options(question: str, options: Sequence[str]) -> tuple[list[str], list[str]]:
    """The lines of a question without its options; and the given or found options, without letters."""
    given = [_without_letter(option) for option in options]
    same = {_key(option) for option in (*options, *given)}
    lines: list[str] = []
    found: list[str] = []
    for line in question.splitlines():
        letter, text = _letter(line)
        if letter == "A" or (letter and found and letter == chr(ord("A") + len(found))):
            found = [*(found if letter != "A" else []), text]
        elif _key(line) not in same or not lines:
            inside = _options_inside(line)
            found = found or inside[1]
            lines.append(inside[0])
    if len(found) < 2 and not given:
        # A single "A. Lincoln" is not a list of options.
        return question.splitlines(), []
    return lines, given or found


def _options_inside(line: str) -> tuple[str, list[str]]:
    """A line without the options "(A) … (B) …" at its end, and these options."""
    marks = list(_OPTION_INSIDE.finditer(line))
    starts = [place for place, mark in enumerate(marks) if (mark[1] or mark[2]) == "A"]
    if not starts:
        return line, []
    marks = marks[starts[-1] :]
    letters = "".join(mark[1] or mark[2] for mark in marks)
    if len(letters) < 2 or letters != "ABCDEFGHIJ"[: len(letters)]:
        return line, []
    ends = [*(mark.start() for mark in marks[1:]), len(line)]
    return line[: marks[0].start()], [
        line[mark.end() : end].strip(" ,;") for mark, end in zip(marks, ends, strict=True)
    ]


def _letter(line: str) -> tuple[str, str]:
    match = _OPTION_LINE.fullmatch(line)
    return (match[1] or match[2], match[3].strip()) if match else ("", line.strip())


def _without_letter(option: str) -> str:
    return _letter(option)[1]


def _key(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")


def _sentences(line: str) -> list[str]:
    line = _HEADINGS.sub("", line.strip())
    return [" ".join(sentence.split()) for sentence in _SENTENCE.findall(line) if re.search(r"\w", sentence)]


def _is_instruction(sentence: str) -> bool:
    bare = sentence.strip(" .:!()\"'")
    return not sentence.endswith("?") and any(pattern.fullmatch(bare) for pattern in _INSTRUCTIONS)


def _declarative(question: str) -> str | None:
    """A simple English question as a statement; `None` if no rule fits."""
    question = question.replace("\u2019", "'")
    if not question.isascii() or len(question.split()) > 30:
        return None
    text = re.sub(r"^(\w+)'s ", r"\1 is ", _LEAD.sub("", question.rstrip("?. ")).strip())
    for pattern, statement in _RULES:
        match = re.fullmatch(pattern, text, re.IGNORECASE)
        if match:
            found = statement(**match.groupdict())
            return " ".join(found.split()) if found else None
    return None


def _doing(be: str, rest: str, what: str = "") -> str | None:
    """ "is" and "the man holding up" → "the man is holding something up"; `None` without a verb in -ing."""
    words = rest.split()
    for place in range(1, len(words)):
        word, before = words[place].lower(), words[place - 1].lower()
        if word.endswith("ing") and word not in _NOUNS and before not in _BEFORE_NOUNS:
            return " ".join([*words[:place], be.lower(), word, what, *words[place + 1 :]])
    return None


# The first match is used. Verbs after "did" and "does" keep their form, which matters little for similarity.
_RULES: list[tuple[str, Callable[..., str | None]]] = [
    (rf"{_BE} there (?P<rest>.+)", lambda be, rest: f"there {be} {rest}"),
    (rf"what (?:happen|occur)\w* {_WHEN} (?P<rest>.+)", lambda rest: rest),
    (rf"what (?:is|was) happening {_WHEN} (?P<rest>.+)", lambda rest: rest),
    (r"how many times (?:does|do|did) (?P<rest>.+)", lambda rest: rest),
    (rf"how many (?P<what>.+?) {_BE} there(?P<rest>.*)", lambda what, be, rest: what + rest),
    (rf"how many (?P<what>.+?) {_BE} (?P<rest>.+)", lambda what, be, rest: f"{what} {be} {rest}"),
    (rf"what colou?rs? {_BE} (?P<rest>.+)", lambda be, rest: rest),
    (
        rf"(?:what|which) (?:(?:colou?r|kind of|type of|sort of) )?(?P<what>\w+) {_BE} (?P<rest>.+)",
        lambda what, be, rest: _doing(be, rest, what),
    ),
    (rf"what {_BE} (?P<rest>{_PLACE}\b.*)", lambda be, rest: f"something {be} {rest}"),
    (rf"what {_BE} (?P<rest>.+)", lambda be, rest: _doing(be, rest, "something") or rest),
    (rf"whom? {_BE} (?P<rest>\w+ing\b.*|{_PLACE}\b.*)", lambda be, rest: f"someone {be} {rest}"),
    (rf"whom? {_BE} (?P<rest>.+)", lambda be, rest: _doing(be, rest, "someone") or rest),
    (rf"(?:where|when|why|how) {_BE} (?P<rest>.+)", lambda be, rest: _doing(be, rest) or rest),
    (r"(?:what|whom?|where|when|why|how|which \w+) (?:does|do|did) (?P<rest>.+)", lambda rest: rest),
    (r"who (?P<rest>(?!else\b|among\b|of\b)\w+ .+)", lambda rest: f"someone {rest}"),
    (rf"{_BE} (?P<rest>.+)", lambda be, rest: _doing(be, rest)),
    (r"(?:does|do|did) (?P<rest>.+)", lambda rest: rest),
]

__all__ = ["relevance", "relevance_of", "similarity", "text_vectors", "texts_of"]
