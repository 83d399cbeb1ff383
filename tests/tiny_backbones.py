"""Tiny backbones in folders, as the Hub holds them: vision models, and language models with their tokenizers."""

import json
import string
from pathlib import Path

import torch
import transformers
from tiny_models import tiny_text_config
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, CLIPConfig, CLIPModel, PreTrainedTokenizerFast

TINY = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 4,
}
OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 4, "width": 24, "layers": 3, "head_width": 12},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
}
EVA02 = {
    "image_size": 224,
    "timm_model_name": "eva02_tiny_patch14_224",
    "timm_pool": "token",
    "timm_proj": None,
}
NORMALIZATION = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
#: What a tiny one of a family needs besides `tiny_text_config`'s settings.
TEXT_SETTINGS = {
    "gemma2": {"sliding_window": 16},
    "gemma3_text": {"sliding_window": 16},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2, "max_position_embeddings": 512},
}


def save_vision(kind: str, folder: Path, seed: int = 0) -> str:
    """A vision checkpoint with an image processor; returns what `from_backbones` takes for it."""
    torch.manual_seed(seed)
    if kind in ("open_clip", "eva02"):
        import open_clip
        from safetensors.torch import save_file

        folder.mkdir()
        model = OPEN_CLIP if kind == "open_clip" else {**OPEN_CLIP, "vision_cfg": EVA02}
        content = {"model_cfg": model, "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}}
        (folder / "open_clip_config.json").write_text(json.dumps(content))
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
        return f"open_clip:local-dir:{folder}"
    if kind == "clip":
        text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
        model = CLIPModel(CLIPConfig(vision_config=TINY, text_config=text))
    elif kind == "siglip":
        model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**TINY))
    else:
        settings = {name: value for name, value in TINY.items() if name != "intermediate_size"}
        model = transformers.Dinov2Model(transformers.Dinov2Config(**settings, mlp_ratio=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**NORMALIZATION, "resample": 2}))
    return str(folder)


def plain_tokenizer(*, pad: bool = False, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """59 tokens, or 60 with `<pad>`, and no `<video>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<unk>", "<s>", "</s>", *(["<pad>"] if pad else [])]
    alphabet = [*string.ascii_letters, "Ġ", "Ċ", "?", "."]
    trainer = trainers.BpeTrainer(
        vocab_size=59 + pad, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(string.ascii_letters)], trainer)
    tokens = {"bos_token": "<s>", "eos_token": "</s>", **({"pad_token": "<pad>"} if pad else {})}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=chat_template, **tokens)


def save_language_model(model_type: str, folder: Path, *, pad=False, chat_template=None, seed=0, dtype=None, **fields):
    """A causal language model with `plain_tokenizer`; returns the folder's name."""
    torch.manual_seed(seed)
    settings = {"vocab_size": 80, "pad_token_id": None, **TEXT_SETTINGS.get(model_type, {}), **fields}
    model = AutoModelForCausalLM.from_config(tiny_text_config(model_type, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    model.to(dtype or torch.float32).save_pretrained(folder)
    plain_tokenizer(pad=pad, chat_template=chat_template).save_pretrained(folder)
    return str(folder)
