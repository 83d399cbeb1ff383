"""Saving and loading the model: its weights, its word embeddings, where its parts are placed."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import (
    VOCAB_SIZE,
    real_logits,
    settings_of,
    tiny_config,
    tiny_inputs,
    tiny_model,
    tiny_text_config,
)

from dynfocus.configuration_dynfocus import PRESETS
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration, DynFocusModel

FRAMES = [9, 1, 5]


@pytest.fixture(scope="module", params=PRESETS)
def model(request):
    """Not to be changed by a test: copy it first."""
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def default_model():
    return tiny_model()


def same(first, second, tolerance=1e-5):
    torch.testing.assert_close(first, second, atol=tolerance, rtol=0)


# ---- weights ----


def test_save_and_load(model, tmp_path):
    model.save_pretrained(tmp_path)
    # Settings, weights that no one has to unpickle, and the code that goes with them.
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors", ".py"}
    inputs = tiny_inputs(model.config, FRAMES)
    expected = real_logits(model, inputs)
    for _ in range(2):
        # Built on the meta device: what neither the checkpoint nor the initialisation sets would be garbage.
        loaded, info = DynFocusForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values()), info
        assert settings_of(loaded.config) == settings_of(model.config)
        state = loaded.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
        assert loaded.model.selection_sigma == model.model.selection_sigma
        for first, second in zip(real_logits(loaded, inputs), expected, strict=True):
            same(first, second, 1e-5)


def test_the_base_model_loads_a_whole_checkpoint(default_model, tmp_path):
    default_model.save_pretrained(tmp_path)
    base = DynFocusModel.from_pretrained(tmp_path)
    inputs = tiny_inputs(default_model.config, [5])
    with torch.no_grad():
        expected = default_model(**inputs, output_hidden_states=True)
        same(base(**inputs).last_hidden_state, expected.hidden_states[-1], 1e-5)


def test_parts_that_a_checkpoint_lacks_start_as_in_a_new_model(default_model, tmp_path):
    default_model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    parts = ("question_scorer", "cluster_gate", "query_tokens")
    save_file({k: v for k, v in load_file(path).items() if not any(p in k for p in parts)}, path, {"format": "pt"})
    loaded, info = DynFocusForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    loaded = loaded.model
    assert {part for part in parts if any(part in name for name in info["missing_keys"])} == {*parts}
    assert not loaded.event_prototypes.question_scorer.out_proj.weight.any()
    assert not loaded.cooperative_encoder.cluster_gate.score.weight.any()
    queries = loaded.question_encoder.query_tokens
    assert queries.isfinite().all() and 0 < queries.std() < 0.1


def test_a_new_model_starts_blind_to_the_question_and_with_open_gates():
    """The residual branch adds nothing and every group of patches weighs 1: as the paper's score and plain means."""
    torch.manual_seed(0)
    new = DynFocusForConditionalGeneration(tiny_config()).model
    assert not any(parameter.any() for parameter in new.event_prototypes.question_scorer.out_proj.parameters())
    tokens, parents = torch.randn(3, 22, 24), torch.arange(22).remainder(6).sort().values.expand(3, -1)
    assert torch.equal(new.cooperative_encoder.cluster_gate(tokens, parents), tokens)
    assert new.question_encoder.query_tokens.any()


# ---- word embeddings ----


@pytest.mark.parametrize("tied", [False, True])
def test_tied_word_embeddings(tied, tmp_path):
    model = tiny_model(text_config=tiny_text_config(tie_word_embeddings=tied))
    assert model.config.tie_word_embeddings == tied
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    model.save_pretrained(tmp_path)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) == (not tied)
    loaded = DynFocusForConditionalGeneration.from_pretrained(tmp_path)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
    inputs = tiny_inputs(model.config, [3])
    same(real_logits(loaded, inputs)[0], real_logits(model, inputs)[0], 1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_resize_token_embeddings(tied, tmp_path):
    model = tiny_model(text_config=tiny_text_config(tie_word_embeddings=tied))
    inputs = tiny_inputs(model.config, [3])
    before = real_logits(model, inputs)[0]
    model.resize_token_embeddings(VOCAB_SIZE + 6)
    assert model.config.text_config.vocab_size == VOCAB_SIZE + 6
    assert model.lm_head.weight.shape[0] == model.get_input_embeddings().weight.shape[0] == VOCAB_SIZE + 6
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    same(real_logits(model, inputs)[0][:, :VOCAB_SIZE], before, 1e-6)
    labels = torch.full_like(inputs["input_ids"], VOCAB_SIZE + 5)
    assert model(**inputs, labels=labels).loss.isfinite()
    model.save_pretrained(tmp_path)
    loaded = DynFocusForConditionalGeneration.from_pretrained(tmp_path)
    same(real_logits(loaded, inputs)[0], real_logits(model, inputs)[0], 1e-5)


# ---- placement ----


@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_device_map(device_map, default_model, tmp_path):
    pytest.importorskip("accelerate")
    default_model.save_pretrained(tmp_path)
    loaded = DynFocusForConditionalGeneration.from_pretrained(tmp_path, device_map=device_map)
    if loaded.device.type != "cpu":
        pytest.skip("a GPU rounds differently")
    inputs = tiny_inputs(default_model.config, [5])
    same(real_logits(loaded, inputs)[0], real_logits(default_model, inputs)[0], 1e-5)


def test_weights_on_disk(default_model, tmp_path):
    """Weights that do not fit in memory are on the meta device until they are used."""
    pytest.importorskip("accelerate")
    default_model.save_pretrained(tmp_path / "model")
    loaded = DynFocusForConditionalGeneration.from_pretrained(
        tmp_path / "model",
        device_map={
            "model.vision_tower": "disk",
            "model.question_encoder": "disk",
            "model.event_prototypes": "disk",
            "model.cooperative_encoder": "disk",
            "model.language_model": "cpu",
            "lm_head": "cpu",
        },
        offload_folder=tmp_path / "offload",
    )
    inputs = tiny_inputs(default_model.config, [5])
    same(real_logits(loaded, inputs)[0], real_logits(default_model, inputs)[0], 1e-5)
