"""What transformers, its Trainer, its quantisers and its tensor parallelism expect of every model."""

import warnings

import pytest
import torch
from forked import run_in_two
from tiny_models import of_videos, tiny_config, tiny_inputs, tiny_model, tiny_text_config
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache, Trainer, TrainingArguments

from dynfocus.configuration_dynfocus import PRESETS
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration, DynFocusModel
from dynfocus.modeling_outputs_dynfocus import CACHE_NAME


@pytest.fixture(scope="module")
def model():
    """Not to be changed by a test."""
    return tiny_model()


@pytest.fixture(scope="module")
def inputs(model):
    return tiny_inputs(model.config, [5, 3])


# ---- outputs ----


@torch.no_grad()
def test_outputs_have_the_names_of_transformers(model, inputs):
    outputs = model(**inputs)
    features = model.get_video_features(**of_videos(inputs))
    assert outputs.video_outputs.keys() == features.keys() and outputs.video_features is outputs.video_outputs
    assert features.last_hidden_state.shape == (2, 5, 16, model.config.vision_config.hidden_size)
    state = model.encode_video(inputs["pixel_values_videos"], inputs["video_frame_mask"])
    assert torch.equal(features.last_hidden_state, state.frame_features)
    assert features.hidden_states is None and features.attentions is None
    assert all(map(torch.equal, features.pooler_output, outputs.video_outputs.pooler_output))


@torch.no_grad()
def test_hidden_states_and_attentions_of_the_frames(inputs):
    model = tiny_model(vision_config={**tiny_config().vision_config.to_dict(), "frames_per_chunk": 3})
    model.set_attn_implementation("eager")
    plain = model.get_video_features(**of_videos(inputs))
    features = model.get_video_features(**of_videos(inputs), output_hidden_states=True, output_attentions=True)
    frames = inputs["pixel_values_videos"][inputs["video_frame_mask"]]
    expected = model.model.vision_tower.backbone(frames, output_hidden_states=True, output_attentions=True)
    assert len(features.hidden_states) == 3 and len(features.attentions) == 2
    torch.testing.assert_close(features.hidden_states, expected.hidden_states)
    torch.testing.assert_close(features.attentions, expected.attentions)
    assert all(map(torch.equal, features.pooler_output, plain.pooler_output))
    outputs = model(**inputs, output_hidden_states=True)
    torch.testing.assert_close(outputs.video_outputs.hidden_states, expected.hidden_states)
    assert outputs.hidden_states[0].shape == (*inputs["input_ids"].shape, 32)


def test_predictions_are_logits_alone(model, inputs, tmp_path):
    trainer = Trainer(model, TrainingArguments(tmp_path, report_to=[], use_cpu=True))
    inputs = {**inputs, "labels": inputs["input_ids"]}
    loss, logits, labels = trainer.prediction_step(model, inputs, prediction_loss_only=False)
    assert logits.shape == (*inputs["input_ids"].shape, 64) and loss.isfinite()
    assert torch.equal(labels, inputs["labels"])


# ---- the loss ----


@torch.no_grad()
def test_labels_may_be_shifted_already(model, inputs):
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    following = torch.cat([labels[:, 1:], torch.full((2, 1), -100)], dim=1)
    expected = model(**inputs, labels=labels).loss
    for options in ({}, {"labels": torch.zeros_like(labels)}):
        torch.testing.assert_close(model(**inputs, shift_labels=following, **options).loss, expected)
    # A process that has the first half of each row only still learns what comes after it.
    half = labels.shape[1] // 2
    text = {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"])}
    whole = model(**text, shift_labels=following, num_items_in_batch=10).loss
    options = {"shift_labels": following, "num_items_in_batch": 10}
    first = model(**text, **options, logits_to_keep=torch.arange(half)).loss
    rest = model(**text, **options, logits_to_keep=labels.shape[1] - half).loss
    torch.testing.assert_close(first + rest, whole)


@torch.no_grad()
def test_the_loss_of_positions_apart(model, inputs):
    """Each kept position has to foresee the token after it, not the next position that is kept."""
    at, labels = torch.tensor([3, 9, 11]), inputs["input_ids"]
    logits = model(**inputs).logits[:, at].flatten(0, 1)
    expected = nn.functional.cross_entropy(logits, labels[:, at + 1].flatten())
    torch.testing.assert_close(model(**inputs, labels=labels, logits_to_keep=at).loss, expected)


# ---- the cache ----


@pytest.mark.parametrize("part", [DynFocusForConditionalGeneration, DynFocusModel])
@torch.no_grad()
def test_the_cache_has_one_name(model, inputs, part):
    part = model if part is DynFocusForConditionalGeneration else model.model
    with pytest.raises(ValueError, match="`cache` and `past_key_values` are two names"):
        part(**inputs, cache=DynamicCache(), past_key_values=DynamicCache())
    lengths = []
    for name in ("cache", "past_key_values"):
        cache = DynamicCache()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert part(**inputs, **{name: cache}, use_cache=True)[CACHE_NAME] is cache
        told = [str(one.message) for one in caught if "`past_key_values` is deprecated" in str(one.message)]
        assert len(told) == (name != CACHE_NAME and name == "past_key_values")
        lengths.append(cache.get_seq_length())
    assert lengths == [inputs["input_ids"].shape[1]] * 2


# ---- compiled ----


def test_what_the_language_model_can_compile():
    for model_type, can_compile in (("llama", True), ("gpt_neo", False)):
        kwargs = {"num_layers": 2, "attention_types": [[["global"], 2]], "num_heads": 4}
        config = tiny_config(text_config=tiny_text_config(model_type, **(kwargs if model_type == "gpt_neo" else {})))
        with torch.device("meta"):
            model = DynFocusForConditionalGeneration(config)
        assert model._can_compile_fullgraph is model.model._can_compile_fullgraph is can_compile


@torch.no_grad()
def test_prompt_and_decoding_compile_as_one_graph(model, inputs):
    features = model.get_video_features(**of_videos(inputs))
    prompt = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    expected = model(**prompt, mm_encoder_outputs={"video": features}).logits
    compiled = torch.compile(model.forward, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**prompt, mm_encoder_outputs={"video": features}).logits, expected)
    torch.testing.assert_close(compiled(**prompt).logits, model(**prompt).logits)
    torch._dynamo.reset()


# ---- quantised, divided ----


@pytest.mark.parametrize("preset", PRESETS)
def test_no_layer_that_quantisers_cannot_divide(preset):
    """They replace every `nn.Linear`, and scale groups of the weights in its rows by the largest of them."""
    torch.manual_seed(0)
    model = DynFocusForConditionalGeneration(tiny_config(preset))
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            assert layer.in_features > 1, name
            assert layer.weight.abs().amax(1).min() > 0, name


def test_weights_keep_their_names_and_shapes():
    shapes = {name: tuple(p.shape) for name, p in tiny_model().named_parameters() if "score" in name}
    encoder = "model.cooperative_encoder"
    assert shapes[f"{encoder}.score_embedding.rods.weight"] == (32, 1)
    assert shapes[f"{encoder}.score_embedding.cones.bias"] == (32,)
    assert shapes[f"{encoder}.cluster_gate.score.weight"] == (6, 6)
    assert shapes["model.event_prototypes.question_scorer.out_proj.weight"] == (1, 28)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2"])
def test_head_and_embeddings_are_divided_together(model_type):
    settings = {"n_embd": 32, "n_head": 4, "n_layer": 2} if model_type == "gpt2" else {}
    with torch.device("meta"):
        model = DynFocusForConditionalGeneration(tiny_config(text_config=tiny_text_config(model_type, **settings)))
    embeddings = next(name for name, part in model.named_modules() if part is model.get_input_embeddings())
    assert ("lm_head" in model.tp_plan) == (embeddings in model.tp_plan)
    # The language model's own plan is found at its place.
    prefix = "model.language_model."
    own = {f"{prefix}{name}": how for name, how in model.model.language_model.tp_plan.items()}
    assert {name: how for name, how in model.tp_plan.items() if name != "lm_head"} == own
    assert bool(own) == (model_type != "gpt2")


def test_two_processes_share_the_weights_of_one_model(tmp_path):
    for name, tied in (("tied", True), ("untied", False)):
        text_config = tiny_text_config(tie_word_embeddings=tied, num_key_value_heads=4)
        tiny_model(text_config=text_config).save_pretrained(tmp_path / name)
    run_in_two("tensor_parallel_step:main", tmp_path / "tied", tmp_path / "untied")


# ---- attention with a soft cap ----


@pytest.mark.parametrize("asked", [None, "eager", "sdpa"])
@torch.no_grad()
def test_a_soft_cap_of_attention_is_kept(asked):
    """SDPA would drop it without a word."""
    settings = {"sliding_window": 16, "attn_logit_softcapping": 0.5, "query_pre_attn_scalar": 8}
    options = {} if asked is None else {"attn_implementation": asked}
    torch.manual_seed(0)
    config = tiny_config(text_config=tiny_text_config("gemma2", **settings))
    model = DynFocusForConditionalGeneration._from_config(config, **options).eval()
    stock = AutoModelForCausalLM.from_config(
        tiny_text_config("gemma2", **settings), attn_implementation="eager"
    ).eval()
    assert model.model.language_model.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="scaled_dot_product_attention"):
        model.set_attn_implementation("sdpa")
    for part in (model.model.language_model, model.lm_head):
        for parameter in part.parameters():
            parameter.add_(torch.randn_like(parameter))
    stock.model.load_state_dict(model.model.language_model.state_dict())
    stock.lm_head.weight = model.lm_head.weight
    tokens = torch.arange(4, 30)[None]
    torch.testing.assert_close(model(input_ids=tokens).logits, stock(input_ids=tokens).logits)


def test_attention_of_one_part_is_set_to_its_end():
    model = tiny_model()
    backbone, language = model.model.vision_tower.backbone, model.model.language_model
    before = language.config._attn_implementation
    for name in ("eager", "sdpa"):
        model.set_attn_implementation({"vision_config": name})
        assert backbone.config._attn_implementation == name
        assert language.config._attn_implementation == before
    with pytest.raises(ValueError, match="has no part 'vision_tower': its parts are 'vision_config', "):
        model.set_attn_implementation({"vision_tower": "eager"})
