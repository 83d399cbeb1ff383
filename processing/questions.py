"""Texts of users as token ids, without control tokens, and questions within the length limit for choosing frames."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

# No tokenizer has more characters a token on average, so a longer text is too long without tokenizing it.
_CHARACTERS_PER_TOKEN = 100
# The same of whole chats, in which not all words are that long.
_CHARACTERS_OF_CHATS = 32


def without_control_tokens(text: str, tokenizer: Any, keep: Collection[str] = ()) -> str:
    """
    A text in which the tokenizer finds none of its special tokens: each is split by a space (`</s>` becomes `< /s>`).

    Args:
        keep: special tokens that the text may hold.
    """
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    names = {*added, *map(str, tokenizer.all_special_tokens)} - {*keep}
    # Some tokenizers use ordinary words and characters as special tokens, such as `!` for padding.
    names = {name for name in names if len(name) > 1 and not name.isalnum() and not name.isspace()}
    # Repeated, as one token may have covered another.
    while found := [name for name in names if name in text]:
        for name in found:
            text = text.replace(name, f"{name[0]} {name[1:]}")
    return text


def check_length(texts: Iterable[str], config: Any) -> None:
    """
    A cheap bound, before a chat is tokenized.

    Args:
        config: of the model; not every family has a limit of positions.

    Raises:
        `ValueError`: texts that cannot fit into the positions of the language model.
    """
    count = sum(map(len, texts))
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and count > _CHARACTERS_OF_CHATS * positions:
        raise ValueError(
            f"The texts have {count:,} characters, and the model reads {positions:,} tokens: shorten them."
        )


def question_ids(question: str, tokenizer: Any, max_tokens: int) -> list[int]:
    """
    Raises:
        `ValueError`: for an empty question, or one of more than `max_tokens`.
    """
    text = without_control_tokens(question.strip(), tokenizer)
    if not text:
        raise ValueError("The question is empty: ask something about the video.")
    ids, head = _first_ids(text, tokenizer, max_tokens)
    if len(ids) <= max_tokens and head == text:
        return ids
    # In words, if the language separates words.
    words = head.split()
    unit, size = ("words", len(words)) if len(head) < 20 * len(words) else ("characters", len(head))
    count = len(text.split()) if unit == "words" else len(text)
    raise ValueError(
        f"The question is too long: it has {count:,} {unit}, and to choose frames the model reads about "
        f"{size * max_tokens // len(ids):,} of them (max_question_tokens={max_tokens}): shorten it, or give a short "
        "one as `question=` next to a long prompt."
    )


def cut_question(turns: Sequence[str], tokenizer: Any, max_tokens: int) -> str:
    """
    Cuts texts that were not written as a question to the length for `question_ids`: the last turns that fit, one a
    line, or else the beginning of the last one.
    """
    turns = [turn for turn in map(str.strip, turns) if turn]
    while len(turns) > 1 and not _fits("\n".join(turns), tokenizer, max_tokens):
        turns = turns[1:]
    text = "\n".join(turns)
    while not _fits(text, tokenizer, max_tokens):
        _, head = _first_ids(text, tokenizer, max_tokens)
        offsets = tokenizer(head, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        # A cut text may be tokenized differently: hence the loop, which removes at least one character each time.
        end = offsets[max_tokens - 1][1] if len(offsets) >= max_tokens else len(head)
        text = text[: min(end, len(text) - 1)].rstrip()
    return text


def _fits(text: str, tokenizer: Any, max_tokens: int) -> bool:
    plain = without_control_tokens(text, tokenizer)
    ids, head = _first_ids(plain, tokenizer, max_tokens)
    return len(ids) <= max_tokens and head == plain


def _first_ids(text: str, tokenizer: Any, max_tokens: int) -> tuple[list[int], str]:
    """The ids of as much of a text as can fit `max_tokens`, and that part."""
    head = text[: _CHARACTERS_PER_TOKEN * max_tokens]
    return tokenizer(head, add_special_tokens=False)["input_ids"], head


__all__ = ["check_length", "cut_question", "question_ids", "without_control_tokens"]
