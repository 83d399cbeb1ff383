"""
Stock video language models, their processors and a SigLIP dual encoder with random weights, and their operations.

Sizes are those of published configurations, or reduced ones for a CPU, in which the costs of tower, language model and
dual encoder stand to each other nearly as there (`shares` counts them). Frames have the size of the model's picture,
so that nothing is resized for a dense model. All tokenizers are made on the spot; like the models' own, they cut words
into pieces and numbers into digits, so that times cost about what they cost there.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers as tf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from training_throughput import SCALES

from dynfocus.towers.dual_encoder import DualEncoder

ONEVISION, QWEN2, QWEN3 = "LLaVA-OneVision", "Qwen2.5-VL", "Qwen3-VL"
#: Of models for a CPU.
REDUCED = "reduced"
_WORDS = (
    "What does the man draw on the second board when the red light is on?",
    "before 3 seconds> after 12.5 seconds>",
)


@dataclass(frozen=True)
class Sizes:
    """
    One model beside a dual encoder.

    Args:
        layout (`str`): the family, which decides the classes.
        name (`str`): for tables.
        tower, words, look (`dict`): tower, language model, and the dual encoder (its two towers are alike), in the
            names of their configurations.
        side (`int`): of a frame, in pixels.
        look_side (`int`): of a frame, as the dual encoder takes it.
        dtype: of all weights.
    """

    layout: str
    name: str
    tower: dict[str, Any]
    words: dict[str, Any]
    look: dict[str, Any]
    side: int
    look_side: int = 224
    dtype: torch.dtype = torch.bfloat16

    @property
    def pair(self) -> int:
        """Frames that the tower merges into one."""
        return 1 if self.layout == ONEVISION else 2

    @property
    def grid(self) -> int:
        """Patches along a frame's side."""
        return self.side // (16 if self.layout == QWEN3 else 14)

    @property
    def frame_tokens(self) -> int:
        """Visual tokens of a frame, or of a pair of them."""
        return ceil(self.grid / 2) ** 2


# config.json of google/siglip2-base-patch16-224; its vocabulary of 256,000 costs memory alone, and is smaller here.
_SIGLIP_2_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
# config.json of Qwen/Qwen2.5-VL-7B-Instruct.
_QWEN2_TOWER = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
_QWEN2_WORDS = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
# config.json of Qwen/Qwen3-VL-8B-Instruct and Qwen/Qwen3-VL-4B-Instruct.
_QWEN3_8B_TOWER = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "deepstack_visual_indexes": [8, 16, 24],
}
_QWEN3_8B_WORDS = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
_QWEN3_4B_TOWER = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "deepstack_visual_indexes": [5, 11, 17],
}
_QWEN3_4B_WORDS = {**_QWEN3_8B_WORDS, "hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True}
# Widths are an eighth of those of the 7B and 8B models, and layers a fourteenth (Qwen2.5-VL, LLaVA-OneVision) or a
# twelfth. The dual encoder, whose pooling weighs more beside one layer, is narrower than an eighth.
_SMALL_LOOK = {"hidden_size": 72, "intermediate_size": 288, "num_hidden_layers": 1, "num_attention_heads": 2}
_SMALL_QWEN2_WORDS = {
    "vocab_size": 2048,
    "hidden_size": 448,
    "intermediate_size": 2368,
    "num_hidden_layers": 2,
    "num_attention_heads": 7,
    "num_key_value_heads": 1,
}

SIZES: dict[str, tuple[Sizes, ...]] = {
    REDUCED: (
        Sizes(
            QWEN2,
            f"{QWEN2} reduced",
            {
                "depth": 2,
                "hidden_size": 160,
                "intermediate_size": 428,
                "num_heads": 2,
                "fullatt_block_indexes": [1],
            },
            _SMALL_QWEN2_WORDS,
            _SMALL_LOOK,
            side=224,
            dtype=torch.float32,
        ),
        Sizes(
            QWEN3,
            f"{QWEN3} reduced",
            {
                "depth": 2,
                "hidden_size": 144,
                "intermediate_size": 538,
                "num_heads": 2,
                "deepstack_visual_indexes": [0],
            },
            {
                "vocab_size": 2048,
                "hidden_size": 512,
                "intermediate_size": 1536,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 1,
                "head_dim": 128,
            },
            {**_SMALL_LOOK, "hidden_size": 80, "intermediate_size": 320},
            side=256,
            dtype=torch.float32,
        ),
        # A frame has a quarter of its patches, here and for the dual encoder; a narrower tower keeps the proportions.
        Sizes(
            ONEVISION,
            f"{ONEVISION} reduced",
            {"hidden_size": 120, "intermediate_size": 448, "num_hidden_layers": 2, "num_attention_heads": 2},
            _SMALL_QWEN2_WORDS,
            _SMALL_LOOK,
            side=196,
            look_side=112,
            dtype=torch.float32,
        ),
    ),
    # config.json of llava-hf/llava-onevision-qwen2-0.5b-ov-hf.
    "0.5b": (
        Sizes(
            ONEVISION,
            "LLaVA-OneVision 0.5B",
            SCALES["0.5b"].tower,
            SCALES["0.5b"].language_model,
            _SIGLIP_2_BASE,
            side=384,
        ),
    ),
    "4b": (Sizes(QWEN3, "Qwen3-VL 4B", _QWEN3_4B_TOWER, _QWEN3_4B_WORDS, _SIGLIP_2_BASE, side=256),),
    # The last one is llava-hf/llava-onevision-qwen2-7b-ov-hf.
    "7b": (
        Sizes(QWEN2, "Qwen2.5-VL 7B", _QWEN2_TOWER, _QWEN2_WORDS, _SIGLIP_2_BASE, side=224),
        Sizes(QWEN3, "Qwen3-VL 8B", _QWEN3_8B_TOWER, _QWEN3_8B_WORDS, _SIGLIP_2_BASE, side=256),
        Sizes(
            ONEVISION, "LLaVA-OneVision 7B", SCALES["7b"].tower, SCALES["7b"].language_model, _SIGLIP_2_BASE, side=384
        ),
    ),
}


# ------------------------------------------------------------------------------------------------------------ building


def _tokenizer(*marks: str, **named: str) -> tf.PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    digits, pieces = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.pre_tokenizer = pre_tokenizers.Sequence([digits, pieces])
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, initial_alphabet=alphabet, show_progress=False, min_frequency=1)
    inner.train_from_iterator(_WORDS * 4, trainer)
    special = ["<pad>", "<eos>", "<|im_start|>", "<|im_end|>", *marks]
    inner.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in special])
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", padding_side="left", extra_special_tokens=named
    )


def _chat_template(video: str) -> str:
    return (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
        f"{{% if part['type'] == 'video' %}}{video}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def _qwen(sizes: Sizes) -> tuple[Any, Any]:
    """Configuration and processor of Qwen2.5-VL or Qwen3-VL."""
    marks = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    tok = _tokenizer(*marks)
    template = _chat_template("<|vision_start|><|video_pad|><|vision_end|>")
    # No limits: the frames of a dense model keep their size, however many there are.
    limits = {"shortest_edge": 1, "longest_edge": 2**40}
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    ids = dict(zip(names, tok.convert_tokens_to_ids(list(marks)), strict=True))
    half = sizes.words.get("head_dim", sizes.words["hidden_size"] // sizes.words["num_attention_heads"]) // 2
    vision = {**sizes.tower, "spatial_merge_size": 2, "temporal_patch_size": 2}
    vision["out_hidden_size"] = sizes.words["hidden_size"]
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e6}
    if sizes.layout == QWEN3:
        rope |= {"mrope_section": [half - 2 * (half * 5 // 16), half * 5 // 16, half * 5 // 16]}
        rope["mrope_interleaved"] = True
        images = tf.Qwen2VLImageProcessor(patch_size=16, size=limits)
        videos = tf.Qwen3VLVideoProcessor(
            size=limits, image_mean=[0.5] * 3, image_std=[0.5] * 3, cap_pixels_per_frame=False
        )
        processor = tf.Qwen3VLProcessor(images, tok, videos, chat_template=template)
        vision |= {"patch_size": 16, "num_position_embeddings": 2304}
        made: Any = tf.Qwen3VLConfig
    else:
        rope["mrope_section"] = [half // 4, half * 3 // 8, half * 3 // 8]
        images = tf.Qwen2VLImageProcessor(size=limits)
        videos = tf.Qwen2VLVideoProcessor(size=limits, cap_pixels_per_frame=False)
        processor = tf.Qwen2_5_VLProcessor(images, tok, videos, chat_template=template)
        vision |= {"patch_size": 14, "window_size": 112, "tokens_per_second": 2}
        made = tf.Qwen2_5_VLConfig
    text = {**_language_model(sizes), "rope_parameters": rope}
    return made(text_config=text, vision_config=vision, **ids), processor


def _onevision(sizes: Sizes) -> tuple[Any, Any]:
    """Configuration and processor of LLaVA-OneVision."""
    tok = _tokenizer("<image>", "<video>", image_token="<image>", video_token="<video>")
    size, pinpoints = {"height": sizes.side, "width": sizes.side}, [[sizes.side] * 2]
    processor = tf.LlavaOnevisionProcessor(
        tf.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints),
        tok,
        tf.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=sizes.grid**2,
        vision_feature_select_strategy="full",
        chat_template=_chat_template("<video>"),
    )
    image, video = tok.convert_tokens_to_ids(["<image>", "<video>"])
    vision = {"model_type": "siglip_vision_model", **sizes.tower, "image_size": sizes.side, "patch_size": 14}
    config = tf.LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **_language_model(sizes)},
        vision_config={**vision, "vision_use_head": False},
        image_grid_pinpoints=pinpoints,
        image_token_index=image,
        video_token_index=video,
    )
    return config, processor


def _language_model(sizes: Sizes) -> dict[str, Any]:
    ids = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    return {**sizes.words, "max_position_embeddings": 2**17, **ids}


_MAKE: dict[str, Callable[[Sizes], tuple[Any, Any]]] = {QWEN2: _qwen, QWEN3: _qwen, ONEVISION: _onevision}


def build(sizes: Sizes, device: str = "cpu") -> tuple[Any, Any]:
    """The stock model, in eval mode, and its processor."""
    config, processor = _MAKE[sizes.layout](sizes)
    torch.manual_seed(0)
    with torch.device(device):
        model = tf.AutoModelForImageTextToText.from_config(config, dtype=sizes.dtype)
    # Greedy, and never at an end before the last token.
    model.generation_config.eos_token_id = None
    return model.eval(), processor


def dual_encoder_config(sizes: Sizes) -> Any:
    """Of a SigLIP 2 of a fixed size, which is a SigLIP with another tokenizer."""
    text = {**sizes.look, "vocab_size": 1024, "max_position_embeddings": 64, "pad_token_id": 0}
    text |= {"bos_token_id": 1, "eos_token_id": 1}
    vision = {**sizes.look, "image_size": sizes.look_side, "patch_size": 16}
    return tf.SiglipConfig(text_config=text, vision_config=vision)


def build_dual_encoder(sizes: Sizes, device: str = "cpu") -> DualEncoder:
    """SigLIP 2, as its checkpoints are loaded."""
    torch.manual_seed(0)
    model = tf.SiglipModel(dual_encoder_config(sizes))
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        _tokenizer().save_pretrained(folder)
        square = {"height": sizes.look_side, "width": sizes.look_side}
        tf.SiglipImageProcessor(size=square, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
        return DualEncoder.from_pretrained(Path(folder), device=device, dtype=sizes.dtype)


# ------------------------------------------------------------------------------------------------------------ counting


@dataclass(frozen=True)
class Work:
    """
    What is done up to the first token.

    Args:
        pictures: patches of each frame, or pair of frames, that the tower reads.
        positions: of the prompt.
        looked_at: frames that the dual encoder reads.
        texts: that it reads.
    """

    pictures: Sequence[int]
    positions: int
    looked_at: int = 0
    texts: int = 0


class Operations:
    """
    Multiplications and additions of the parts of a model, two for each weight of a linear layer and each row, and
    those of attention. They are counted from models without memory.

    Args:
        sizes: of them.
        causal: the part of the full square that attention of the language model computes.
    """

    def __init__(self, sizes: Sizes, causal: float = 0.5):
        self.sizes, self.causal = sizes, causal
        self.config, self.processor = _MAKE[sizes.layout](sizes)
        with torch.device("meta"):
            self.model = tf.AutoModelForImageTextToText.from_config(self.config).model
            self.look = tf.SiglipModel(dual_encoder_config(sizes))

    def __call__(self, work: Work) -> dict[str, float]:
        """By part: dual encoder, vision tower, language model."""
        return {
            "dual encoder": self._look(work),
            "vision tower": sum(n * self._picture(patches) for patches, n in Counter(work.pictures).items()),
            "language model": self._words(work.positions),
        }

    def _picture(self, patches: int) -> float:
        tower, sizes = self.sizes.tower, self.sizes
        width = tower["hidden_size"]
        if sizes.layout == ONEVISION:
            linear = _weights(self.model.vision_tower) + _weights(self.model.multi_modal_projector)
            return 2 * patches * linear + 4 * patches**2 * width * tower["num_hidden_layers"]
        visual = self.model.visual
        mergers = [visual.merger, *getattr(visual, "deepstack_merger_list", [])]
        merging = sum(map(_weights, mergers))
        linear = (_weights(visual) - merging) * patches + merging * patches / 4
        full = len(tower.get("fullatt_block_indexes", range(tower["depth"])))
        # Windows of 8 x 8 patches.
        reach = full * patches + (tower["depth"] - full) * min(patches, 64)
        return 2 * linear + 4 * patches * reach * width

    def _words(self, positions: int) -> float:
        words = self.sizes.words
        head = words.get("head_dim", words["hidden_size"] // words["num_attention_heads"])
        square = 4 * positions**2 * head * words["num_attention_heads"] * words["num_hidden_layers"] * self.causal
        last = 2 * words["hidden_size"] * words["vocab_size"]
        return 2 * positions * _weights(self.model.language_model) + square + last

    def _look(self, work: Work) -> float:
        look = self.sizes.look
        width, layers = look["hidden_size"], look["num_hidden_layers"]
        patches, tokens = (self.sizes.look_side // 16) ** 2, 64
        vision, text = self.look.vision_model, self.look.text_model
        body = _weights(vision.encoder) + _weights(vision.embeddings)
        # One question of its own gathers what all patches say.
        pooling = 2 * patches * 2 * width**2 + 4 * width**2 + 4 * patches * width + 2 * _weights(vision.head.mlp)
        frame = 2 * patches * body + 4 * patches**2 * width * layers + pooling
        linear = 2 * tokens * _weights(text.encoder) + 2 * _weights(text.head)
        return work.looked_at * frame + work.texts * (linear + 4 * tokens**2 * width * layers)


def _weights(module: nn.Module) -> int:
    """Of linear layers and convolutions."""
    kinds = (nn.Linear, nn.Conv2d, nn.Conv3d)
    return sum(each.weight.numel() for each in module.modules() if isinstance(each, kinds))


__all__ = [
    "ONEVISION",
    "QWEN2",
    "QWEN3",
    "REDUCED",
    "SIZES",
    "Operations",
    "Sizes",
    "Work",
    "build",
    "build_dual_encoder",
]
