"""Finds the assistant's turns, which are learned, in the output of any chat template."""

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch

from .conversations import text_of

# Private-use characters, which no template changes and no text contains.
_STAND_IN = "\ue000\ue001\ue000"


def answer_spans(
    render: Callable[..., str], messages: Sequence[dict[str, Any]], only_last: bool = False
) -> tuple[str, list[tuple[int, int]]]:
    """
    The text of a conversation by a chat template, and the places of the assistant's turns in it.

    A span begins where the generation prompt ends, so that it holds all that the model has to write (an empty think
    block, if the template adds one), and ends after the end-of-turn mark. The content is found by rendering the
    conversation once more with a stand-in for it, so the template may trim it, and may write earlier turns differently
    from the last one.

    Args:
        render: the template: `render(messages)` and `render(messages, add_generation_prompt=True)`.
        messages: in chat form, without media.
        only_last: whether to return only the assistant's last turn.

    Returns:
        The text and (start, end) of each turn in characters.

    Raises:
        `ValueError`: if an answer is empty, the template refuses the conversation, or it does not write an answer in
            its place.
    """
    refuse_empty_answers(messages)
    full = render_or_refuse(render, messages)
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    return full, [_span(render, messages, full, index) for index in (turns[-1:] if only_last else turns)]


def refuse_empty_answers(messages: Sequence[Mapping[str, Any]]) -> None:
    """`ValueError` where an assistant's turn has no words, which would teach the model to say nothing."""
    for index, message in enumerate(messages):
        # A turn that calls a tool says something without words.
        if message["role"] == "assistant" and not text_of(message).strip() and not message.get("tool_calls"):
            raise ValueError(
                f"The answer in turn {index} is empty, which would teach the model to say nothing: give its words, or "
                "leave the turn out."
            )


def render_or_refuse(render: Callable[..., str], messages: Sequence[dict[str, Any]], **kwargs: Any) -> str:
    """Render a template; its own errors (for a role, for two user turns in a row) become a `ValueError`."""
    try:
        return render(list(messages), **kwargs)
    except import_module("jinja2.exceptions").TemplateError as error:
        raise ValueError(f"The chat template refuses this conversation: {error}.") from None


def _span(render: Callable[..., str], messages: Sequence[dict[str, Any]], full: str, index: int) -> tuple[int, int]:
    message = messages[index]
    stands_in = _STAND_IN if isinstance(message["content"], str) else [{"type": "text", "text": _STAND_IN}]
    until_here = [*messages[:index], {**message, "content": stands_in}]
    before, after = _around_stand_in(render_or_refuse(render, [*until_here, *messages[index + 1 :]]), index)
    # Templates refuse to begin without a user's turn, or write a different prompt.
    begun = any(earlier["role"] == "user" for earlier in messages[:index])
    prompt = render_or_refuse(render, messages[:index], add_generation_prompt=True) if begun else before
    end = len(full) - len(after)
    start = len(prompt) if full.startswith(prompt) and len(prompt) <= end else len(before)
    # The text up to the prompt must not depend on the answer; after it, a template may move a think block out of the
    # content.
    if not full.endswith(after) or not full.startswith(before[:start]):
        raise ValueError(
            f"The chat template writes the rest of the conversation differently when the answer of turn {index} is "
            "another, so that the answer cannot be told from the prompt: use a simpler `chat_template`."
        )
    is_last = index == len(messages) - 1
    own_tail = after if is_last else _around_stand_in(render_or_refuse(render, until_here), index)[1]
    return start, end + len(os.path.commonprefix([full[end:], own_tail]))


def _around_stand_in(text: str, index: int) -> tuple[str, str]:
    if text.count(_STAND_IN) != 1:
        raise ValueError(
            f"The chat template writes the answer of turn {index} {text.count(_STAND_IN)} times instead of once, so "
            "that it cannot be told from the prompt: use a simpler `chat_template`."
        )
    before, _, after = text.partition(_STAND_IN)
    return before, after


def label_table(processor: Any, encoded_row: Mapping[str, torch.Tensor]) -> list[tuple[str, bool]]:
    """
    A row as a collator's `encode` returns it, to be read: (token, whether it is learned), a run of placeholders being
    one entry such as `<video>×216`. Padding is left out.

    Args:
        processor: with its `tokenizer`, and with `video_token_id` or `placeholder_ids`.
    """
    visual = getattr(processor, "placeholder_ids", None) or {processor.video_token_id}
    ids, labels = encoded_row["input_ids"].flatten().tolist(), encoded_row["labels"].flatten().tolist()
    mask = encoded_row["attention_mask"].flatten().tolist()
    table: list[tuple[str, bool]] = []
    part: list[int] = []
    run: tuple[int, int] | None = None

    def end_run() -> None:
        if run is not None:
            table.append((f"{processor.tokenizer.convert_ids_to_tokens(run[0])}×{run[1]}", False))

    for token, label, is_real in zip(ids, labels, mask, strict=True):
        if not is_real:
            continue
        if token in visual:
            if run is not None and run[0] != token:
                end_run()
                run = None
            run = (token, 1 if run is None else run[1] + 1)
            continue
        end_run()
        run = None
        # Some tokens are parts of a character.
        part.append(token)
        text = processor.tokenizer.decode(part)
        if text.endswith("\ufffd") and len(part) < 4:
            continue
        table.append((text, label != -100))
        part = []
    end_run()
    return table


__all__ = ["answer_spans", "label_table", "refuse_empty_answers", "render_or_refuse"]
