"""Backbones that cannot be used: one sentence each, which names them and the way out."""

import pytest
import transformers
from safetensors.torch import load_file, save_file
from tiny_backbones import save_language_model, save_vision

from dynfocus import from_backbones


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    root = tmp_path_factory.mktemp("backbones")
    return save_vision("siglip", root / "vision"), save_language_model("llama", root / "lm")


def encoder_decoder(folder):
    config = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 60}
    transformers.BartConfig(**config).save_pretrained(folder)


def vision_language(folder):
    transformers.LlavaConfig().save_pretrained(folder)


def m_rope(folder):
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    transformers.Qwen2Config(hidden_size=32, num_attention_heads=4, rope_parameters=rope).save_pretrained(folder)


def no_language_model(folder):
    transformers.SiglipVisionConfig().save_pretrained(folder)


def quantized(folder):
    transformers.LlamaConfig(quantization_config={"quant_method": "gptq", "bits": 4}).save_pretrained(folder)


def without_tokenizer(folder):
    transformers.LlamaConfig().save_pretrained(folder)


def without_weights(folder):
    save_language_model("llama", folder)
    (folder / "model.safetensors").unlink()


def half_the_weights(folder):
    save_language_model("llama", folder)
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if ".1." not in k}, folder / "model.safetensors", {"format": "pt"})


def with_a_bias(folder):
    fields = {"partial_rotary_factor": 0.5, "rotary_dim": 4}
    save_language_model("phi", folder, **fields)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.bias"] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def another_width(folder):
    save_language_model("opt", folder, ffn_dim=48, word_embed_proj_dim=16)


def odd_head(folder):
    save_language_model("bert", folder, is_decoder=True)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (encoder_decoder, ValueError, "of type 'bart' is an encoder-decoder: choose"),
        (vision_language, ValueError, "of type 'llava' is more than a language model: choose the text-only one"),
        (m_rope, ValueError, "M-RoPE positions.*choose a text-only model"),
        (no_language_model, ValueError, "is not a causal language model"),
        (quantized, ValueError, "is quantized: choose the checkpoint that it was made of"),
        (without_tokenizer, (OSError, ValueError), "The tokenizer '.*' cannot be used"),
        (without_weights, OSError, "no file named model.safetensors.*; give a Hub id or a folder"),
        (half_the_weights, ValueError, "lacks 9 weights of a LlamaForCausalLM, such as model.layers.1"),
        (with_a_bias, ValueError, "has a bias, which is not supported"),
        (another_width, ValueError, r"is \(80, 16\), not vocabulary × hidden size \(80, 32\)"),
        (odd_head, ValueError, "does more than multiply by a matrix"),
        (lambda folder: None, OSError, "cannot be used: it is neither a local folder nor a model on the Hub"),
    ],
)
def test_language_models_that_cannot_be_used(make, error, match, names, tmp_path):
    make(tmp_path / "odd-model")
    with pytest.raises(error, match=match) as raised:
        from_backbones(names[0], tmp_path / "odd-model")
    assert str(tmp_path / "odd-model") in str(raised.value) and "\n" not in str(raised.value)


def resnet(folder):
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])
    transformers.ResNetModel(config).save_pretrained(folder)


def swin(folder):
    config = transformers.SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4)
    transformers.SwinModel(config).save_pretrained(folder)


def llama(folder):
    save_language_model("llama", folder)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (resnet, ValueError, "has no fixed square input"),
        (swin, ValueError, "it is not a plain vision transformer"),
        (llama, ValueError, "has no fixed square input"),
        (lambda folder: None, OSError, "cannot be used: it is neither a local folder nor a model on the Hub"),
    ],
)
def test_vision_models_that_cannot_be_used(make, error, match, names, tmp_path):
    make(tmp_path / "odd-model")
    with pytest.raises(error, match=match) as raised:
        from_backbones(tmp_path / "odd-model", names[1])
    assert "odd-model" in str(raised.value) and "\n" not in str(raised.value)


def test_a_base_model_that_automodel_does_not_make(names, monkeypatch):
    monkeypatch.setattr(transformers.LlamaForCausalLM, "base_model_prefix", "another")
    with pytest.raises(ValueError, match="is built around a LlamaForCausalLM, but AutoModel makes a LlamaModel"):
        from_backbones(names[0], names[1])


def test_other_mistakes(names):
    with pytest.raises(TypeError, match="unexpected keyword argument 'rod_token'"):
        from_backbones(*names, rod_token=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'key_frames'"):
        from_backbones(*names, key_frames=3)
    with pytest.raises(ValueError, match="Unknown preset 'paper': choose one of 'default', 'released_code'"):
        from_backbones(*names, preset="paper")
    with pytest.raises(ValueError, match="says vocab_size=7, but the question is read in the 80 tokens of '.*lm"):
        from_backbones(*names, question_config={"vocab_size": 7})
    with pytest.raises(ValueError, match="`pooling_grid` is 9"):
        from_backbones(*names, pooling_grid=9)
    pytest.importorskip("open_clip")
    with pytest.raises(ValueError, match="'open_clip:ViT-B-33' cannot be used: .* did you mean"):
        from_backbones("open_clip:ViT-B-33", names[1])
    with pytest.raises(ValueError, match="open_clip has no revisions, but vision_revision='v1' was given"):
        from_backbones("open_clip:ViT-B-32", names[1], vision_revision="v1")
