"""Chats about a video for the language model, with labels on the answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from dynfocus.eval.synthetic.questions import Question
from dynfocus.processing import DynFocusProcessor

#: Chats, and the questions of the selector, are padded to a multiple of this many tokens, because buffers and kernels
#: are kept for every new shape.
MULTIPLE, QUESTION_MULTIPLE = 32, 8
#: Kinds whose answer does not depend on the frames of a few events.
SEEN_NOWHERE = ("count", "story")


@dataclass
class Chats:
    """
    Chats of B videos, padded on the right; `L` tokens, at most `Q` questions.

    Args:
        input_ids, attention_mask, labels (`torch.Tensor` of shape `(B, L)`): labels are -100 beside the answers.
        turn_of_token (`torch.Tensor` of shape `(B, L)`): the question that a token answers, -1 beside the answers.
        looked_at (`torch.Tensor` of shape `(B, Q, T)`): 1 on the frames on which an answer depends.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    turn_of_token: torch.Tensor
    looked_at: torch.Tensor

    def inputs(self, device: str) -> dict[str, torch.Tensor]:
        """The inputs of the model."""
        tensors = {"input_ids": self.input_ids, "attention_mask": self.attention_mask, "labels": self.labels}
        return {name: tensor.to(device) for name, tensor in tensors.items()}

    def questions(self, start: int, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
        """Labels on tokens that are not answers, from token `start` on, -100 elsewhere."""
        hidden = (self.labels != -100) | (self.input_ids == tokenizer.pad_token_id)
        labels = self.input_ids.masked_fill(hidden, -100)
        labels[:, :start] = -100
        return labels


class ChatWriter:
    """Writes questions and answers about a video in the processor's chat template."""

    def __init__(self, processor: DynFocusProcessor):
        self.tokenizer: PreTrainedTokenizerFast = processor.tokenizer
        before, self.after, self.again = self._template(processor)
        self.before = self.ids(before)

    @staticmethod
    def _template(processor: DynFocusProcessor) -> tuple[str, str, str]:
        """A chat's text before the first video, after it, and the text of each later turn, questions left open."""
        content = [{"type": "video"}, {"type": "text", "text": "QUESTION"}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        before, after = text.split(processor.video_token)
        again = processor.apply_chat_template([{"role": "user", "content": "QUESTION"}], add_generation_prompt=True)
        return before, after, again.removeprefix(processor.tokenizer.bos_token)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def write(self, turns: Sequence[Sequence[Question]], num_visual: int, num_frames: int) -> Chats:
        """A chat for each list of questions, each about a video of `num_visual` tokens and `num_frames` frames."""
        video = self.tokenizer.get_vocab()["<video>"]
        ids, labels, turn_of_token = [], [], []
        looked_at = torch.zeros(len(turns), max(map(len, turns)), num_frames)
        for row, questions in enumerate(turns):
            tokens = self.before + [video] * num_visual
            target, turn = [-100] * len(tokens), [-1] * len(tokens)
            for number, question in enumerate(questions):
                prompt = self.ids((self.again if number else self.after).replace("QUESTION", question.question))
                answer = self.ids(f" {question.answer}") + [self.tokenizer.eos_token_id]
                tokens = tokens + prompt + answer
                target = target + [-100] * len(prompt) + answer
                turn = turn + [-1] * len(prompt) + [number] * len(answer)
                if question.kind not in SEEN_NOWHERE:
                    looked_at[row, number, list(question.frames)] = 1
            ids.append(tokens)
            labels.append(target)
            turn_of_token.append(turn)
        input_ids = padded(ids, self.tokenizer.pad_token_id, MULTIPLE)
        lengths = torch.tensor([len(one) for one in ids])[:, None]
        mask = (torch.arange(input_ids.shape[1]) < lengths).long()
        return Chats(input_ids, mask, padded(labels, -100, MULTIPLE), padded(turn_of_token, -1, MULTIPLE), looked_at)


def padded(rows: Sequence[Sequence[int]], value: int, multiple: int = 1) -> torch.Tensor:
    """The rows as a tensor, padded on the right to a multiple of this many columns."""
    longest = max(map(len, rows))
    filled = torch.full((len(rows), -(-longest // multiple) * multiple), value)
    for row, tokens in zip(filled, rows, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    return filled


__all__ = ["QUESTION_MULTIPLE", "ChatWriter", "Chats", "padded"]
