"""The tiny checkpoint's tokenizer: byte-level BPE, trained on the questions of the synthetic world."""

from collections.abc import Iterator

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dynfocus.eval.synthetic.questions import KINDS, make_questions
from dynfocus.eval.synthetic.world import sample_episode

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<video>")


def world_texts(episodes: int) -> Iterator[str]:
    """Questions and answers of the default kinds, in the form of a chat."""
    rng = np.random.default_rng(0)
    for _ in range(episodes):
        for question in make_questions(sample_episode(rng, 32, "train"), rng, 3, KINDS):
            yield f"USER: \n{question.question}\nASSISTANT: {question.answer}"


def build_tokenizer(vocab_size: int = 640, episodes: int = 400) -> PreTrainedTokenizerFast:
    """Any text can be written in its bytes; the words of the questions are single tokens, digits stay apart."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(world_texts(episodes), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<video>"],
        padding_side="left",
        model_max_length=4096,
    )


def add_word(tokenizer: PreTrainedTokenizerFast, word: str) -> None:
    """Add a token for a word that follows a space; the tokens of all other text stay as they are."""
    tokenizer.add_tokens([AddedToken(f" {word}", normalized=False)])


__all__ = ["add_word", "build_tokenizer"]
