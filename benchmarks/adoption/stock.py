"""
Small models of stock classes of transformers, with their stock processors: a Qwen3-VL, a LLaVA-OneVision and a SigLIP.

They have the settings of published checkpoints where these matter for choosing frames (pairs of frames, time stamps,
own sizes; a fixed number of tokens), and small widths and depths. They start from parts of the shared model of
`benchmarks/focus`: its vision tower, its language model, and its projector.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from safetensors.torch import load_file
from tokenizers import AddedToken
from torch import Tensor, nn

FOCUS = Path(__file__).parents[1] / "focus"
sys.path.insert(0, str(FOCUS))

from recipe.tokenizer import build_tokenizer  # noqa: E402
from recipe.vision import IMAGE_SIZE, tower_config  # noqa: E402

#: The model from which all rows of `benchmarks/focus` start.
SHARED_START = FOCUS / "shared_start.safetensors"
PATCH, MERGE = 8, 2
#: Sides in pixels of the frames of Qwen3-VL that the training has: 16, 9, 4 and 1 tokens.
SIDES = (64, 48, 32, 16)
HALF = [0.5, 0.5, 0.5]

VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
END = "<|im_end|>"
_MARKS = ("<|im_start|>", END, VISION_START, VISION_END, IMAGE, VIDEO)
#: Root mean squares of the shared language model's queries and keys in each layer, on prompts about training videos.
#: Qwen3's norms of both start from these, so that its attention starts as sharp.
_NORMS = ((2.06, 1.74), (1.47, 1.30), (1.38, 1.34), (1.18, 1.30))
#: Words of prompts that would be many tokens, and what their embeddings start from.
_WORDS = {"user\n": "USER:", "assistant\n": "ASSISTANT:", " seconds>": " shape"}


def chat_template(image: str, video: str) -> str:
    """The form of Qwen's chat templates."""
    return (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{image}{{% elif part['type'] == 'video' %}}{video}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def chat_tokenizer() -> tf.PreTrainedTokenizerFast:
    """The tokenizer of the shared model with Qwen's marks."""
    inner = build_tokenizer().backend_tokenizer
    inner.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in _MARKS])
    inner.add_tokens([AddedToken(word, normalized=False) for word in _WORDS])
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token=END,
        padding_side="left",
        extra_special_tokens={"image_token": IMAGE, "video_token": VIDEO},
        model_max_length=16384,
    )


def qwen3_vl_processor() -> Any:
    pixels = {"patch_size": PATCH, "merge_size": MERGE, "image_mean": HALF, "image_std": HALF}
    least = (PATCH * MERGE) ** 2
    return tf.Qwen3VLProcessor(
        tf.Qwen2VLImageProcessor(**pixels, size={"shortest_edge": least, "longest_edge": IMAGE_SIZE**2}),
        chat_tokenizer(),
        tf.Qwen3VLVideoProcessor(
            **pixels,
            size={"shortest_edge": least, "longest_edge": 4096 * IMAGE_SIZE**2},
            temporal_patch_size=2,
            cap_pixels_per_frame=False,
        ),
        chat_template=chat_template(*(f"{VISION_START}{mark}{VISION_END}" for mark in (IMAGE, VIDEO))),
    )


def llava_onevision_processor() -> Any:
    pixels = {"size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}, "image_mean": HALF, "image_std": HALF}
    return tf.LlavaOnevisionProcessor(
        tf.LlavaOnevisionImageProcessor(**pixels, image_grid_pinpoints=[[IMAGE_SIZE, IMAGE_SIZE]]),
        chat_tokenizer(),
        tf.LlavaOnevisionVideoProcessor(**pixels),
        num_image_tokens=(IMAGE_SIZE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=chat_template(f"{IMAGE}\n", f"{VIDEO}\n"),
    )


def shared_weights(prefix: str) -> dict[str, Tensor]:
    """The weights of a part of the shared model, without their prefix."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in load_file(SHARED_START).items()
        if name.startswith(prefix)
    }


def _text_settings(tokenizer: tf.PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 160,
        "intermediate_size": 320,
        "num_hidden_layers": 4,
        "num_attention_heads": 5,
        "num_key_value_heads": 5,
        "head_dim": 32,
        "max_position_embeddings": 16384,
        "rms_norm_eps": 1e-6,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _ids(tokenizer: tf.PreTrainedTokenizerFast, **names: str) -> dict[str, int]:
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}


@torch.no_grad()
def _start_language_model(language_model: nn.Module, tokenizer: tf.PreTrainedTokenizerFast) -> None:
    """Copy the shared language model; the new words and marks start as the mean of others."""
    weights = shared_weights("model.language_model.")
    known = weights.pop("embed_tokens.weight")
    own = build_tokenizer()
    table: Tensor = language_model.get_parameter("embed_tokens.weight")
    table[:] = known.mean(0)
    table[: len(known)] = known
    for word, like in _WORDS.items():
        table[tokenizer.convert_tokens_to_ids(word)] = known[own(like, add_special_tokens=False)["input_ids"]].mean(0)
    table[tokenizer.convert_tokens_to_ids(END)] = known[own.eos_token_id]
    missing = language_model.load_state_dict(weights, strict=False).missing_keys
    for layer, scales in zip(language_model.layers, _NORMS, strict=True):
        for name, scale in zip(("q_norm", "k_norm"), scales, strict=True):
            if name + ".weight" in dict(layer.self_attn.named_parameters()):
                getattr(layer.self_attn, name).weight.fill_(scale)
    assert all("q_norm" in name or "k_norm" in name or name == "embed_tokens.weight" for name in missing), missing


@torch.no_grad()
def _start_qwen_tower(tower: nn.Module) -> None:
    """Copy the shared tower. The rotary positions, which it does not have, are learned in the first stage."""
    weights = shared_weights("model.vision_tower.backbone.")
    renamed = {}
    kernel = weights["embeddings.patch_embedding.weight"]
    renamed["patch_embed.proj.weight"] = kernel[:, :, None].repeat(1, 1, 2, 1, 1) / 2
    renamed["patch_embed.proj.bias"] = weights["embeddings.patch_embedding.bias"]
    renamed["pos_embed.weight"] = weights["embeddings.position_embedding.weight"]
    names = {"layer_norm1": "norm1", "layer_norm2": "norm2", "self_attn.out_proj": "attn.proj"}
    names |= {"mlp.fc1": "mlp.linear_fc1", "mlp.fc2": "mlp.linear_fc2"}
    for layer in range(tower_config().num_hidden_layers):
        for kind in ("weight", "bias"):
            for ours, theirs in names.items():
                renamed[f"blocks.{layer}.{theirs}.{kind}"] = weights[f"encoder.layers.{layer}.{ours}.{kind}"]
            parts = [weights[f"encoder.layers.{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            renamed[f"blocks.{layer}.attn.qkv.{kind}"] = torch.cat(parts)
    for kind in ("weight", "bias"):
        renamed[f"merger.norm.{kind}"] = weights[f"post_layernorm.{kind}"]
    unexpected = tower.load_state_dict(renamed, strict=False).unexpected_keys
    assert not unexpected, unexpected


def qwen3_vl(processor: Any) -> Any:
    tokenizer, tower = processor.tokenizer, tower_config()
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    model = tf.Qwen3VLForConditionalGeneration(
        tf.Qwen3VLConfig(
            text_config={**_text_settings(tokenizer), "rope_parameters": rope, "tie_word_embeddings": True},
            vision_config={
                "depth": tower.num_hidden_layers,
                "hidden_size": tower.hidden_size,
                "intermediate_size": tower.intermediate_size,
                "num_heads": tower.num_attention_heads,
                "patch_size": PATCH,
                "spatial_merge_size": MERGE,
                "temporal_patch_size": 2,
                "out_hidden_size": 160,
                "num_position_embeddings": (IMAGE_SIZE // PATCH) ** 2,
                "deepstack_visual_indexes": [],
            },
            **_ids(tokenizer, image_token_id=IMAGE, video_token_id=VIDEO),
            **_ids(tokenizer, vision_start_token_id=VISION_START, vision_end_token_id=VISION_END),
            tie_word_embeddings=True,
        )
    )
    _start_language_model(model.model.language_model, tokenizer)
    _start_qwen_tower(model.model.visual)
    return _finished(model, tokenizer)


def llava_onevision(processor: Any) -> Any:
    tokenizer = processor.tokenizer
    rope = {"rope_type": "default", "rope_theta": 1e6}
    model = tf.LlavaOnevisionForConditionalGeneration(
        tf.LlavaOnevisionConfig(
            text_config={
                "model_type": "llama",
                **_text_settings(tokenizer),
                "rope_parameters": rope,
                "tie_word_embeddings": True,
            },
            vision_config=tower_config(),
            vision_feature_layer=-1,
            image_grid_pinpoints=[[IMAGE_SIZE, IMAGE_SIZE]],
            projector_hidden_act="gelu",
            **_ids(tokenizer, image_token_index=IMAGE, video_token_index=VIDEO),
            tie_word_embeddings=True,
        )
    )
    _start_language_model(model.model.language_model, tokenizer)
    model.model.vision_tower.load_state_dict(shared_weights("model.vision_tower.backbone."))
    projector = model.model.multi_modal_projector
    projector.load_state_dict(shared_weights("model.cooperative_encoder.projector."))
    nn.init.normal_(model.model.image_newline, std=0.02)
    return _finished(model, tokenizer)


def _finished(model: Any, tokenizer: tf.PreTrainedTokenizerFast) -> Any:
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


PROCESSORS = {"qwen3_vl": qwen3_vl_processor, "llava_onevision": llava_onevision_processor}
MODELS = {"qwen3_vl": qwen3_vl, "llava_onevision": llava_onevision}
