"""A tiny processor, made on the spot. Its token ids are those of the models in `tiny_models`."""

import string

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dynfocus.processing.processing_dynfocus import DynFocusProcessor
from dynfocus.processing.video_processing_dynfocus import DynFocusVideoProcessor

SENTENCES = [
    "user: which number is shown with the red star? assistant: 47",
    "what colour is the circle? blue green yellow",
    "which shape comes first, which one last? square triangle heart",
]


def make_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A BPE tokenizer of lower-case letters with 64 tokens; `<pad>`, `<s>`, `</s>` and `<video>` are 0 to 3."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(
        vocab_size=64,
        special_tokens=["<pad>", "<s>", "</s>", "<video>", "<unk>"],
        initial_alphabet=[*string.ascii_lowercase, *string.digits, "▁", "\n", *"?:,.!'-"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<video>"],
        padding_side="left",
    )


def make_tiny_processor(size: int = 32, **kwargs) -> DynFocusProcessor:
    """A processor of `size` x `size` frames with the tiny tokenizer; `kwargs` go to [`DynFocusProcessor`]."""
    # The question encoder of `tiny_models` has 64 positions.
    kwargs = {"max_question_tokens": 60, **kwargs}
    return DynFocusProcessor(DynFocusVideoProcessor(size=size), make_tiny_tokenizer(), **kwargs)
