"""Tiny random dual encoders in folders, as the Hub holds them: each class with a real tokenizer made on the spot."""

import json
import string
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDTH = 24
LETTERS = string.ascii_letters + string.digits + string.punctuation + "红蓝圆形的一个"
WORDS = ("red", "blue", "circle", "square", "the", "man", "picture")
NORMALIZATION = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}


def save_dual_encoder(kind: str, folder: Path, seed: int = 0) -> str:
    """A dual encoder with its processors; returns what `DualEncoder.from_pretrained` takes for it."""
    torch.manual_seed(seed)
    if kind == "open_clip":
        return save_open_clip(folder)
    tokenizer, text = _TOKENIZERS[kind]()
    model, image_processor = _MODELS[kind]({**TEXT, "vocab_size": len(tokenizer), **text})
    with torch.no_grad():
        for parameter in model.parameters():
            # So that different inputs give clearly different vectors.
            parameter.add_(0.15 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_open_clip(folder: Path, resize_mode: str = "shortest", size=32, **settings) -> str:
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    model = {
        "embed_dim": WIDTH,
        "vision_cfg": {"image_size": size, "patch_size": 8, "width": 32, "layers": 2, "head_width": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "resize_mode": resize_mode, **settings}
    content = {"model_cfg": model, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    made = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file({k: v.contiguous() for k, v in made.state_dict().items()}, folder / "open_clip_model.safetensors")
    return f"open_clip:local-dir:{folder}"


def clip_tokenizer():
    ends = [letter + "</w>" for letter in LETTERS]
    vocab = {token: number for number, token in enumerate([*LETTERS, *ends, "re", "red</w>"])}
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocab[token] = len(vocab)
    tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=[("r", "e"), ("re", "d</w>")], model_max_length=77)
    tokens = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    return tokenizer, {"max_position_embeddings": 77, "pad_token_id": 1, **tokens}


def gemma_tokenizer():
    """As SigLIP 2's checkpoints hold it: Gemma's, with an end token and rows of 64 that are padded on the right."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    vocab = {token: number for number, token in enumerate([*special, "▁", *LETTERS, "re", "red"])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[("r", "e"), ("re", "d")], unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Replace("▁", " ")
    backend.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    backend.enable_padding(length=64, pad_id=0, pad_token="<pad>", direction="right")
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    return tokenizer, {"max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}


def bert_tokenizer():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS.lower(), *WORDS]
    vocab: dict[str, int] = {}
    for piece in [*pieces, *("##" + letter for letter in LETTERS.lower())]:
        vocab.setdefault(piece, len(vocab))
    tokenizer = transformers.BertTokenizer(vocab=vocab, do_lower_case=True, model_max_length=52)
    return tokenizer, {"max_position_embeddings": 64, "pad_token_id": 0}


def xlm_roberta_tokenizer():
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in LETTERS] + [("▁" + word, -4.0) for word in WORDS] + [("<mask>", 0.0)]
    tokenizer = transformers.XLMRobertaTokenizer(vocab=pieces, model_max_length=77)
    return tokenizer, {"max_position_embeddings": 80, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}


def _clip_pixels():
    return transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, **NORMALIZATION
    )


def _clip(text):
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=WIDTH)
    return transformers.CLIPModel(config), _clip_pixels()


def _siglip(text):
    pixels = transformers.SiglipImageProcessor(size={"height": 32, "width": 32}, resample=2)
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=VISION)), pixels


def _siglip2(text):
    vision = {**{key: value for key, value in VISION.items() if key != "image_size"}, "num_patches": 16}
    pixels = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
    return transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision)), pixels


def _metaclip_2(text):
    config = transformers.MetaClip2Config(
        text_config={**text, "max_position_embeddings": 77}, vision_config=VISION, projection_dim=WIDTH
    )
    return transformers.MetaClip2Model(config), _clip_pixels()


def _altclip(text):
    config = transformers.AltCLIPConfig(
        text_config={**text, "project_dim": WIDTH}, vision_config=VISION, projection_dim=WIDTH
    )
    return transformers.AltCLIPModel(config), _clip_pixels()


def _chinese_clip(text):
    config = transformers.ChineseCLIPConfig(text_config=text, vision_config=VISION, projection_dim=WIDTH)
    pixels = transformers.ChineseCLIPImageProcessor(
        size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32}, **NORMALIZATION
    )
    return transformers.ChineseCLIPModel(config), pixels


_MODELS = {
    "clip": _clip,
    "siglip": _siglip,
    "siglip2": _siglip2,
    "metaclip_2": _metaclip_2,
    "altclip": _altclip,
    "chinese_clip": _chinese_clip,
}
_TOKENIZERS = {
    "clip": clip_tokenizer,
    "siglip": gemma_tokenizer,
    "siglip2": gemma_tokenizer,
    "metaclip_2": xlm_roberta_tokenizer,
    "altclip": xlm_roberta_tokenizer,
    "chinese_clip": bert_tokenizer,
}
KINDS = (*_MODELS, "open_clip")
