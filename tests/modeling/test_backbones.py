"""Every family of vision towers with a Llama, every language model with a SigLIP: forward, backward, generate."""

import pytest
import torch
from tiny_models import VIDEO_TOKEN_ID, of_videos, tiny_inputs, tiny_model, tiny_text_config

TINY = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 4,
    "initializer_range": 0.02,
}
DINO = {**{name: value for name, value in TINY.items() if name != "intermediate_size"}, "mlp_ratio": 2}
TOWERS = {
    "clip": {"backbone_config": {"model_type": "clip_vision_model", **TINY}},
    # 27×27 patches, which a pooling grid of 4×4 does not divide.
    "siglip": {"backbone_config": {"model_type": "siglip_vision_model", **TINY, "image_size": 54, "patch_size": 2}},
    "dinov2": {"backbone_config": {"model_type": "dinov2", **DINO}},
    "dinov2_with_registers": {
        "backbone_config": {"model_type": "dinov2_with_registers", "num_register_tokens": 3, **DINO}
    },
    "instructblip": {"backbone_config": {"model_type": "instructblip_vision_model", **TINY}},
    "open_clip": {
        "open_clip_config": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "patch_size": 4, "width": 24, "layers": 2, "head_width": 12},
        }
    },
}
LANGUAGE_MODELS = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "smollm3": {},
    "gemma": {},
    "gemma2": {"sliding_window": 16},
    "gemma3_text": {"sliding_window": 16},
    "olmo2": {},
    "phi3": {},
    # Other names for the embeddings, which are tied to the head.
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 512},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
}


def check_it_runs(model):
    """Forward, backward, and generation that agrees with the forward pass, for a batch of two videos."""
    inputs = tiny_inputs(model.config, [3, 2])
    outputs = model.train()(**inputs, labels=inputs["input_ids"])
    outputs.loss.backward()
    assert outputs.logits.isfinite().all()
    trained = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert all(model.get_parameter(name).grad.isfinite().all() for name in trained)
    for part in ("question_encoder", "event_prototypes", "cooperative_encoder", "language_model"):
        assert any(name.startswith(f"model.{part}.") for name in trained)
    assert not any(name.startswith("model.vision_tower.") for name in trained)

    settings = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": [VIDEO_TOKEN_ID], "eos_token_id": None}
    model.eval()
    cached = model.generate(**inputs, **settings)
    assert cached.shape[1] == inputs["input_ids"].shape[1] + 4
    assert torch.equal(cached, model.generate(**inputs, **settings, use_cache=False))


@pytest.mark.parametrize("tower", TOWERS)
def test_vision_towers(tower):
    if tower == "open_clip":
        pytest.importorskip("open_clip")
    model = tiny_model(vision_config=TOWERS[tower])
    check_it_runs(model)
    # What a video shows must matter to its tokens.
    inputs = of_videos(tiny_inputs(model.config, [3, 2]))
    with torch.no_grad():
        first = model.get_video_features(**inputs).pooler_output[0]
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].flip(-1)
        assert not torch.allclose(first, model.get_video_features(**inputs).pooler_output[0], atol=1e-4)


@pytest.mark.parametrize("model_type", LANGUAGE_MODELS)
def test_language_models(model_type, tmp_path):
    model = tiny_model(text_config=tiny_text_config(model_type, **LANGUAGE_MODELS[model_type]))
    check_it_runs(model)
    model.save_pretrained(tmp_path)
    inputs = tiny_inputs(model.config, [5])
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config.text_config.model_type == model_type
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-4)
