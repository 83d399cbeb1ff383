"""The whole model in one forward pass: batching, attention, precision, gradients, saving, and what it refuses."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import (
    VIDEO_TOKEN_ID,
    VOCAB_SIZE,
    num_visual_tokens,
    of_prompt,
    of_videos,
    one_row,
    tiny_config,
    tiny_inputs,
    tiny_model,
    tiny_plan,
    tiny_text_config,
)
from torch.nn import functional as F

from dynfocus.configuration_dynfocus import PRESETS, DynFocusConfig
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration, DynFocusModel

FRAMES = [9, 1, 5]


@pytest.fixture(scope="module", params=PRESETS)
def model(request):
    """Not to be changed by a test: copy it first."""
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def default_model():
    return tiny_model()


def same(first, second, tolerance=1e-4):
    torch.testing.assert_close(first, second, atol=tolerance, rtol=0)


def settings_of(config):
    """Without what loading and saving note in it, such as the dtype and the version of transformers."""

    def stripped(value):
        if not isinstance(value, dict):
            return value
        notes = ("dtype", "transformers_version", "architectures", "_name_or_path")
        return {key: stripped(part) for key, part in value.items() if key not in notes}

    return stripped(config.to_dict())


def real_logits(model, inputs):
    """Logits of the real tokens, one tensor a row."""
    with torch.no_grad():
        logits = model(**inputs).logits
    return [row[mask.bool()] for row, mask in zip(logits, inputs["attention_mask"], strict=True)]


def gradients(model, inputs, seed=0):
    model.zero_grad()
    torch.manual_seed(seed)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# ---- batching and attention ----


def test_a_batch_gives_what_its_rows_give_alone(model):
    inputs = tiny_inputs(model.config, FRAMES, plans=[[4, 2, 9], [1, 1, 1], [3, 2, 2]])
    with torch.no_grad():
        together = model.get_video_features(**of_videos(inputs))
    logits = real_logits(model, inputs)
    for row in range(len(FRAMES)):
        single = one_row(inputs, row)
        with torch.no_grad():
            alone = model.get_video_features(**of_videos(single))
        for name in ("key_frames", "event_of_frame", "event_medoids"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[row]), name
        same(alone.pooler_output[0], together.pooler_output[row])
        same(alone.event_scores[0], together.event_scores[row])
        same(real_logits(model, single)[0], logits[row])


def test_right_padding_gives_the_same_logits(default_model):
    inputs = tiny_inputs(default_model.config, FRAMES)
    right = dict(inputs)
    for name in of_prompt(inputs):
        rows = zip(inputs[name], inputs["attention_mask"], strict=True)
        right[name] = torch.stack([torch.cat([row[mask == 1], row[mask == 0]]) for row, mask in rows])
    for first, second in zip(real_logits(default_model, inputs), real_logits(default_model, right), strict=True):
        same(first, second)


def test_eager_attention_is_sdpa(model):
    inputs = tiny_inputs(model.config, FRAMES)
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    parts = ("vision_tower.backbone", "question_encoder.qformer", "language_model")
    for which, wanted in ((model, "sdpa"), (eager, "eager")):
        found = {name: which.model.get_submodule(name).config._attn_implementation for name in parts}
        assert found == dict.fromkeys(parts, wanted)
    for first, second in zip(real_logits(model, inputs), real_logits(eager, inputs), strict=True):
        same(first, second)


def test_chunks_change_memory_but_not_results(model):
    inputs = tiny_inputs(model.config, FRAMES)
    small = copy.deepcopy(model)
    small.config.vision_config.frames_per_chunk = 2
    small.model.question_encoder.frames_per_chunk = 2
    for first, second in zip(real_logits(model, inputs), real_logits(small, inputs), strict=True):
        same(first, second)


def test_hidden_states_and_attentions_come_back_on_request(default_model):
    inputs = tiny_inputs(default_model.config, [3])
    eager = copy.deepcopy(default_model)
    eager.set_attn_implementation("eager")
    outputs = eager(**inputs, output_hidden_states=True, output_attentions=True)
    assert len(outputs.hidden_states) == 3
    assert len(outputs.attentions) == 2


# ---- where videos go in ----


def test_visual_tokens_take_the_places_of_the_placeholders(model):
    """Two prompts of which the first holds two videos: their tokens go in by order, and nothing else changes."""
    config = model.config
    inputs = tiny_inputs(config, [4, 6, 2])
    counts = [num_visual_tokens(config, *pair) for pair in ((4, [4, 2, 4]), (6, [4, 2, 6]), (2, [2, 2, 2]))]
    video = config.video_token_id
    rows = [
        [1, 7, *[video] * counts[0], 8, *[video] * counts[1], 9],
        [1, *[video] * counts[2], 10, 11],
    ]
    width = max(map(len, rows))
    inputs["input_ids"] = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    inputs["attention_mask"] = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    with torch.no_grad():
        features = model.get_video_features(**of_videos(inputs)).pooler_output
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        embeds[inputs["input_ids"] == video] = torch.cat(features)
        by_hand = model.model.language_model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"])
        same(model.lm_head(by_hand.last_hidden_state), model(**inputs).logits, 1e-5)


def test_rows_without_a_video_may_share_a_batch(model):
    inputs = tiny_inputs(model.config, [5, 3])
    expected = real_logits(model, inputs)
    text = torch.tensor([1, 8, 9, 10])
    width = inputs["input_ids"].shape[1]
    empty = torch.zeros(1, width - len(text), dtype=torch.long)
    mixed = dict(inputs)
    mixed["input_ids"] = torch.cat([inputs["input_ids"][:1], torch.cat([empty, text[None]], 1), inputs["input_ids"][1:]])
    mask = torch.cat([empty, torch.ones(1, len(text), dtype=torch.long)], 1)
    mixed["attention_mask"] = torch.cat([inputs["attention_mask"][:1], mask, inputs["attention_mask"][1:]])
    first, middle, last = real_logits(model, mixed)
    same(first, expected[0])
    same(last, expected[1])
    (alone,) = real_logits(model, {"input_ids": text[None], "attention_mask": torch.ones(1, len(text))})
    same(middle, alone)


def test_a_batch_of_text_alone_is_the_language_model(default_model):
    ids = torch.tensor([[1, 8, 9, 10]])
    outputs = default_model(input_ids=ids, labels=ids)
    expected = default_model.lm_head(default_model.model.language_model(input_ids=ids).last_hidden_state)
    same(outputs.logits, expected, 1e-6)
    assert outputs.video_features is None
    outputs.loss.backward()
    default_model.zero_grad()


def test_embeddings_instead_of_ids(model):
    inputs = tiny_inputs(model.config, FRAMES)
    embedded = {name: tensor for name, tensor in inputs.items() if name != "input_ids"}
    embedded["inputs_embeds"] = model.get_input_embeddings()(inputs["input_ids"])
    for first, second in zip(real_logits(model, inputs), real_logits(model, embedded), strict=True):
        assert torch.equal(first, second)


def test_encoded_features_instead_of_videos(model):
    inputs = tiny_inputs(model.config, FRAMES)
    with torch.no_grad():
        features = model.get_video_features(**of_videos(inputs))
        outputs = model(**of_prompt(inputs), mm_encoder_outputs={"video": features})
        assert torch.equal(outputs.logits, model(**inputs).logits)
    assert outputs.video_features is features
    with pytest.raises(ValueError, match="not both"):
        model(**inputs, mm_encoder_outputs={"video": features})


def test_outputs_as_a_tuple(default_model):
    inputs = tiny_inputs(default_model.config, [3])
    with torch.no_grad():
        logits = default_model(**inputs, return_dict=False)[0]
        assert torch.equal(logits, default_model(**inputs).logits)
        assert isinstance(default_model.get_video_features(**of_videos(inputs), return_dict=False), tuple)


# ---- loss and logits ----


def test_loss_is_the_mean_over_labels(default_model):
    inputs = tiny_inputs(default_model.config, [5, 3])
    labels = inputs["input_ids"].clone()
    labels[:, :-4] = -100
    with torch.no_grad():
        outputs = default_model(**inputs, labels=labels)
        expected = F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        same(outputs.loss, expected, 1e-6)
        # Gradient accumulation divides by the labels of all its batches: twice as many as here.
        shared = default_model(**inputs, labels=labels, num_items_in_batch=16).loss
    same(shared, expected / 2, 1e-6)


def test_logits_to_keep(default_model):
    inputs = tiny_inputs(default_model.config, [5, 3])
    with torch.no_grad():
        full = default_model(**inputs).logits
        same(default_model(**inputs, logits_to_keep=3).logits, full[:, -3:], 1e-6)
        same(default_model(**inputs, logits_to_keep=torch.tensor([0, 7])).logits, full[:, [0, 7]], 1e-6)


# ---- gradients ----


def test_the_answer_loss_trains_every_part_but_the_tower():
    model = tiny_model(selection_samples=64)
    model.model.selection_sigma = 0.5
    found = gradients(model.train(), tiny_inputs(model.config, [9, 5]))
    parts = {
        "model.event_prototypes.scorer.": "score network",
        "model.event_prototypes.question_scorer.out_proj.": "question's part of the score",
        "model.question_encoder.query_tokens": "question encoder's queries",
        "model.question_encoder.qformer.": "question encoder",
        "model.question_encoder.projector.": "question encoder's projector",
        "model.cooperative_encoder.key_projector.weight": "rods' keys",
        "model.cooperative_encoder.value_projector.": "rods' values",
        "model.cooperative_encoder.projector.": "cones",
        "model.cooperative_encoder.cluster_gate.": "gate",
        "model.language_model.": "language model",
        "lm_head.": "head",
    }
    for prefix, part in parts.items():
        sizes = [float(grad.abs().sum()) for name, grad in found.items() if name.startswith(prefix)]
        assert sizes and sum(sizes) > 0, f"no gradient reaches the {part}"
    assert all(grad.isfinite().all() for grad in found.values())
    assert not [name for name in found if name.startswith("model.vision_tower.")]


def test_once_the_question_counts_its_whole_branch_learns():
    """The branch's last layer starts at zero, which holds back the gradient of the layers before it for one step."""
    model = tiny_model(selection_samples=64).train()
    model.model.selection_sigma = 0.5
    inputs = tiny_inputs(model.config, [9, 5])
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    gradients(model, inputs)
    torch.optim.SGD(model.model.event_prototypes.parameters(), lr=0.1).step()
    found = gradients(model, inputs)
    for name in ("norm.weight", "in_proj.weight", "out_proj.weight"):
        assert found[f"model.event_prototypes.question_scorer.{name}"].abs().sum() > 0


def test_hard_selection_leaves_the_score_without_a_gradient():
    model = tiny_model().train()
    model.model.selection_sigma = 0.0
    found = gradients(model, tiny_inputs(model.config, [9, 5]))
    assert not [name for name in found if name.startswith("model.event_prototypes.")]


def test_a_trainable_tower_learns():
    vision_config = {**tiny_config().vision_config.to_dict(), "trainable": True}
    model = tiny_model(vision_config=vision_config).train()
    found = gradients(model, tiny_inputs(model.config, [5]))
    assert sum(float(g.abs().sum()) for n, g in found.items() if n.startswith("model.vision_tower.")) > 0


@pytest.mark.parametrize("sigma", [0.0, 0.5])
@pytest.mark.parametrize("trainable", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(sigma, trainable):
    vision_config = {**tiny_config().vision_config.to_dict(), "trainable": trainable}
    model = tiny_model(vision_config=vision_config).train()
    model.model.selection_sigma = sigma
    inputs = tiny_inputs(model.config, [5, 3])
    expected = gradients(model, inputs)
    model.gradient_checkpointing_enable()
    layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    assert layers
    found = gradients(model, inputs)
    assert found.keys() == expected.keys()
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected[name], atol=1e-6, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_eval_mode_ignores_the_selection_noise(default_model):
    inputs = tiny_inputs(default_model.config, [9])
    assert default_model.config.selection_sigma > 0
    first, second = default_model(**inputs), default_model(**inputs)
    assert torch.equal(first.logits, second.logits)


# ---- precision and devices ----


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_finite(model, dtype):
    half = copy.deepcopy(model).to(dtype).train()
    half.model.selection_sigma = 0.1
    inputs = tiny_inputs(half.config, FRAMES)
    outputs = half(**inputs, labels=inputs["input_ids"])
    assert outputs.logits.dtype == dtype
    assert outputs.logits.isfinite().all() and outputs.loss.isfinite()
    assert {tokens.dtype for tokens in outputs.video_features.pooler_output} == {dtype}
    outputs.loss.backward()
    assert all(p.grad.isfinite().all() for p in half.parameters() if p.grad is not None)


def test_half_precision_survives_large_features():
    """float16 ends at 65504: squared distances of features of a few hundred would overflow."""
    model = tiny_model().to(torch.float16)
    inputs = tiny_inputs(model.config, [9])
    with torch.no_grad():
        state = model.encode_video(inputs["pixel_values_videos"])
        state.frame_features.mul_(300)
        state.grouped_tokens.mul_(30)
        inputs = {name: value for name, value in of_videos(inputs).items() if "question" in name or "plan" in name}
        features = model.get_video_features(video_state=state, **inputs)
    assert len(features.event_of_frame[0].unique()) == 4


def test_autocast_trains():
    model = tiny_model().train()
    inputs = tiny_inputs(model.config, [5, 3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


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


# ---- saving, embeddings ----


def test_save_and_load(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
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
    loaded = DynFocusForConditionalGeneration.from_pretrained(tmp_path).model
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


# ---- configuration ----


@pytest.mark.parametrize("preset", PRESETS)
def test_config_round_trip(preset, tmp_path):
    config = tiny_config(preset, rod_tokens=3, spatial_clusters=(8, 4))
    config.save_pretrained(tmp_path)
    loaded = DynFocusConfig.from_pretrained(tmp_path)
    again = DynFocusConfig.from_dict(json.loads(config.to_json_string()))
    assert settings_of(loaded) == settings_of(again) == settings_of(config)
    assert {name: getattr(loaded, name) for name in PRESETS[preset]} == PRESETS[preset]
    assert loaded.cone_tokens == 16 + 8 + 4


def test_default_config_is_whole():
    config = DynFocusConfig(question_config={"encoder_hidden_size": 768})
    assert config.cone_tokens == 38
    assert (config.vision_config.hidden_size, config.text_config.model_type) == (768, "llama")


def test_arguments_win_over_the_preset():
    assert tiny_config("released_code", rods_on_key_frames=True).rods_on_key_frames
    assert not tiny_config("released_code").rods_on_key_frames


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder_hidden_size": 20}, "`question_config.encoder_hidden_size` is 20, but .*`hidden_size` is 24"),
        ({"spatial_clusters": (16,)}, r"need two numbers each \(fine, coarse\), got \[16\]"),
        ({"spatial_neighbors": (8, 3, 2)}, r"need two numbers each .*\[8, 3, 2\]"),
        ({"spatial_clusters": (6, 16)}, "must fall from the tower's 64 patches .*got 6 and 16"),
        ({"spatial_clusters": (65, 6)}, "must fall from the tower's 64 patches .*got 65 and 6"),
        ({"spatial_clusters": (16, 0)}, "must fall from .*got 16 and 0"),
        ({"pooling_grid": 9}, r"`pooling_grid` is 9, .*patch grid \(8, 8\)"),
        ({"pooling_grid": 0}, "`pooling_grid` is 0"),
        ({"rod_tokens": 1}, "`rod_tokens` is 1: it must be at least 2"),
        ({"rod_tokens": 4}, r"`num_question_queries` \(4\) must be divisible by `rod_tokens - 1`"),
    ],
)
def test_settings_that_contradict_each_other(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**fields)


def test_language_models_with_other_positions_are_refused():
    text_config = tiny_text_config(
        "qwen2_vl_text",
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    )
    with pytest.raises(ValueError, match="`qwen2_vl_text` with M-RoPE positions is not supported"):
        tiny_config(text_config=text_config)


def test_unknown_preset():
    with pytest.raises(ValueError, match="Unknown preset 'paper': choose one of 'default', 'released_code'"):
        DynFocusConfig.from_preset("paper")


# ---- what the model refuses ----


def test_placeholders_that_do_not_fit_the_videos(default_model):
    inputs = tiny_inputs(default_model.config, [5])
    count = num_visual_tokens(default_model.config, 5, tiny_plan(5))
    truncated = {**inputs, **{name: inputs[name][:, 3:] for name in of_prompt(inputs)}}
    with pytest.raises(ValueError, match=f"has {count - 2} video placeholder tokens, .* have {count} visual tokens"):
        default_model(**truncated)
    truncated["inputs_embeds"] = default_model.get_input_embeddings()(truncated.pop("input_ids"))
    with pytest.raises(ValueError, match=f"has {count - 2} video placeholder tokens, .* have {count} visual tokens"):
        default_model(**truncated)
    with pytest.raises(ValueError, match=f"has 0 video placeholder tokens, .* have {count} visual tokens"):
        default_model(**{**inputs, "input_ids": torch.full_like(inputs["input_ids"], VIDEO_TOKEN_ID + 1)})


@pytest.mark.parametrize("name", ["video_token_plan", "question_input_ids"])
def test_videos_need_a_plan_and_a_question(default_model, name):
    inputs = tiny_inputs(default_model.config, [5])
    del inputs[name]
    with pytest.raises(ValueError, match=f"Videos came without `{name}`"):
        default_model(**inputs)


def test_exactly_one_kind_of_input(default_model):
    inputs = tiny_inputs(default_model.config, [2])
    with pytest.raises(ValueError, match="exactly one of `input_ids` and `inputs_embeds`"):
        default_model()
    with pytest.raises(ValueError, match="exactly one of `pixel_values_videos` and `video_state`"):
        default_model.get_video_features(video_token_plan=inputs["video_token_plan"])
    state = default_model.encode_video(inputs["pixel_values_videos"])
    with pytest.raises(ValueError, match="exactly one of `pixel_values_videos` and `video_state`"):
        default_model(**inputs, video_state=state)


@pytest.mark.parametrize("plan", [[6, 2, 5], [3, 4, 5], [3, 2, 6], [3, 0, 5], [0, 0, 5], [3, 2, 0]])
def test_plans_that_do_not_fit_their_video(default_model, plan):
    inputs = tiny_inputs(default_model.config, [7, 5])
    inputs["video_token_plan"][1] = torch.tensor(plan)
    with pytest.raises(ValueError, match=rf"\[{plan[0]}, {plan[1]}, {plan[2]}\].*does not fit video 1 with 5 frames"):
        default_model(**inputs)


def test_plans_and_questions_are_one_a_video(default_model):
    inputs = tiny_inputs(default_model.config, [7, 5])
    with pytest.raises(ValueError, match=r"2 videos need .*of shape \(2, 3\) and one question each, got \(1, 3\)"):
        default_model(**{**inputs, "video_token_plan": inputs["video_token_plan"][:1]})
    with pytest.raises(ValueError, match="got .* and 1 questions"):
        default_model(**{**inputs, "question_input_ids": inputs["question_input_ids"][:1]})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_frames_that_are_not_numbers(default_model, value):
    inputs = tiny_inputs(default_model.config, [3, 5])
    inputs["pixel_values_videos"][0, 4] = value
    default_model(**inputs)  # in the padding it does not matter
    inputs["pixel_values_videos"][0, 1, 0, 0, 0] = value
    with pytest.raises(ValueError, match="`pixel_values_videos` holds NaN or infinite values"):
        default_model(**inputs)


def test_frame_masks_that_do_not_fit(default_model):
    pixels = tiny_inputs(default_model.config, [3, 3])["pixel_values_videos"]
    with pytest.raises(ValueError, match=r"`video_frame_mask` has the shape \(2, 2\), .*holds \(2, 3\)"):
        default_model.encode_video(pixels, torch.ones(2, 2))
    for mask in ([[1, 1, 1], [0, 0, 0]], [[1, 0, 1], [1, 1, 1]]):
        with pytest.raises(ValueError, match="at least one frame of every video, and its padding must come last"):
            default_model.encode_video(pixels, torch.tensor(mask))
    with pytest.raises(ValueError, match=r"must have the shape \(videos, frames, 3, height, width\), got \(3, 3"):
        default_model.encode_video(pixels[0])
