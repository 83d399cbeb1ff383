"""Finds the question in a rendered prompt, for servers that pass on prompts instead of messages."""

import os
from typing import Any

# Stand for what is said in a chat. Digits are written unchanged by every chat template and tokenizer.
_SYSTEM, _ASKED, _ANSWERED, _LAST = "61728", "39405", "84517", "20693"


class PromptQuestion:
    """
    Finds the text of the last user turn in a prompt, by what the chat template writes around turns and videos.

    The texts of the turn, split by its videos, are joined by a space, as `DynFocusProcessor.apply_chat_template` does.

    Args:
        processor ([`DynFocusProcessor`]): its chat template and tokenizer.
    """

    def __init__(self, processor: Any):
        self._processor = processor
        begun = self._shown(("user", _LAST))
        later = self._shown(("user", _ASKED), ("assistant", _ANSWERED), ("user", _LAST))
        openings = {_between(later, _ANSWERED, _LAST), self._opening("system", _SYSTEM), self._opening("user", _ASKED)}
        self._first = begun.partition(_LAST)[0]
        self._openings = [opening for opening in openings if opening and not opening.isspace()]
        # What ends a user turn, without what the template adds for some answers only, such as an empty think block.
        self._closing = os.path.commonprefix([begun.partition(_LAST)[2], _between(later, _ASKED, _ANSWERED)])
        with_video = self._shown(("user", [{"type": "video"}, _text(_LAST)]))
        self._mark = with_video.partition(_LAST)[0].removeprefix(self._first) or processor.video_token

    def find(self, prompt: str | list[int]) -> str:
        """
        Args:
            prompt: the rendered chat, or its token ids.

        Raises:
            `ValueError`: the prompt has no user turn of this chat template, or the turn has no text.
        """
        text = self._read(prompt)
        starts = [text.rfind(opening) + len(opening) for opening in self._openings if opening in text]
        if text.startswith(self._first):
            starts.append(len(self._first))
        end = text.find(self._closing, max(starts)) if starts else -1
        if end < 0:
            raise ValueError(
                "The question was not found, because the prompt is not written by the model's chat template: give it "
                "as mm_processor_kwargs={'question': …}."
            )
        turn = text[max(starts) : end] if self._closing else text[max(starts) :]
        texts = turn.replace(self._mark, self._processor.video_token).split(self._processor.video_token)
        question = " ".join(one for one in texts if one).strip()
        if not question:
            raise ValueError("The last user turn has no text: ask something about the video.")
        return question

    def _opening(self, role: str, said: str) -> str:
        """What is written between a turn of `role` and a user turn; "" if the template refuses such a chat."""
        try:
            return _between(self._shown((role, said), ("user", _LAST)), said, _LAST)
        except ValueError:
            return ""

    def _shown(self, *turns: tuple[str, Any]) -> str:
        chat = [{"role": role, "content": [_text(said)] if isinstance(said, str) else said} for role, said in turns]
        text = self._processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return self._read(self._processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _read(self, prompt: str | list[int]) -> str:
        """A prompt as its tokens read, which may differ from what was written by a space."""
        tokenizer = self._processor.tokenizer
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"] if isinstance(prompt, str) else prompt
        return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _text(said: str) -> dict[str, str]:
    return {"type": "text", "text": said}


def _between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0]


__all__ = ["PromptQuestion"]
