"""The whole model in one forward pass: batching, attention, where videos go in, loss, gradients, precision."""

import copy

import pytest
import torch
from tiny_models import (
    num_visual_tokens,
    of_prompt,
    of_videos,
    one_row,
    real_logits,
    tiny_config,
    tiny_inputs,
    tiny_model,
)
from torch.nn import functional as F

from dynfocus.configuration_dynfocus import PRESETS

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
    text = torch.tensor([[1, 8, 9, 10]])
    prompt = {"input_ids": text, "attention_mask": torch.ones_like(text)}
    padding = (inputs["input_ids"].shape[1] - text.shape[1], 0)
    mixed = {
        **inputs,
        **{name: torch.cat([inputs[name][:1], F.pad(prompt[name], padding), inputs[name][1:]]) for name in prompt},
    }
    first, middle, last = real_logits(model, mixed)
    same(first, expected[0])
    same(last, expected[1])
    same(middle, real_logits(model, prompt)[0])


def test_a_batch_of_text_alone_is_the_language_model(default_model):
    ids = torch.tensor([[1, 8, 9, 10]])
    outputs = default_model(input_ids=ids, labels=ids)
    expected = default_model.lm_head(default_model.model.language_model(input_ids=ids).last_hidden_state)
    same(outputs.logits, expected, 1e-6)
    assert outputs.video_outputs is None
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
    assert outputs.video_outputs is features
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
    gradients(model, inputs)
    torch.optim.SGD(model.model.event_prototypes.parameters(), lr=0.1).step()
    found = gradients(model, inputs)
    for name in ("norm.weight", "in_proj.weight", "out_proj.weight"):
        assert found[f"model.event_prototypes.question_scorer.{name}"].abs().sum() > 0


@pytest.mark.parametrize("preset", ["default", "released_code"])
def test_hard_selection_gives_the_score_no_gradient(preset):
    """But for the one that comes through the tokens that carry the score, where there are any."""
    model = tiny_model(preset).train()
    model.model.selection_sigma = 0.0
    encoder = model.model.cooperative_encoder
    has_score = encoder.score_embedding is not None
    assert has_score == (preset == "default")

    def learns() -> bool:
        model.zero_grad()
        found = gradients(model, tiny_inputs(model.config, [9, 5]))
        return any(grad.any() for name, grad in found.items() if name.startswith("model.event_prototypes."))

    assert has_score == learns()
    encoder.score_embedding = None
    assert not learns()


@pytest.mark.parametrize("preset", ["default", "released_code"])
@pytest.mark.parametrize("sigma", [0.0, 0.5])
@pytest.mark.parametrize("videos", [True, False])
def test_every_step_gives_every_parameter_a_gradient(preset, sigma, videos):
    """Training on several processes waits for all of them, whatever a batch holds."""
    vision_config = {**tiny_config().vision_config.to_dict(), "trainable": True}
    model = tiny_model(preset, vision_config=vision_config).train()
    model.model.selection_sigma = sigma
    text = {"input_ids": torch.tensor([[1, 5, 6, 7]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    found = gradients(model, tiny_inputs(model.config, [9, 5]) if videos else text)
    assert found.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert videos == any(grad.any() for name, grad in found.items() if "cooperative_encoder" in name)


def test_a_blank_video_does_not_change_what_text_teaches():
    model = tiny_model().train()
    text = {"input_ids": torch.tensor([[1, 5, 6, 7]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    found = model(**text, labels=text["input_ids"])
    assert torch.equal(found.logits, model.eval()(**text).logits)


def test_a_batch_without_labels_has_a_loss_of_zero():
    model = tiny_model().train()
    text = {"input_ids": torch.tensor([[1, 5, 6, 7]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    labels = torch.full_like(text["input_ids"], -100)
    for further in ({}, {"num_items_in_batch": torch.tensor(0)}, {"num_items_in_batch": 3}):
        model.zero_grad()
        loss = model(**text, labels=labels, **further).loss
        loss.backward()
        assert loss.item() == 0
        assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def test_the_loss_of_the_last_logits_is_that_of_their_labels():
    model = tiny_model()
    inputs = tiny_inputs(model.config, [9, 5])
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    for kept in (4, 7):
        outputs = model(**inputs, labels=labels, logits_to_keep=kept)
        assert outputs.logits.shape[1] == kept
        assert torch.allclose(outputs.loss, model(**inputs, labels=labels).loss, rtol=1e-6)


def test_a_trainable_tower_learns():
    vision_config = {**tiny_config().vision_config.to_dict(), "trainable": True}
    model = tiny_model(vision_config=vision_config).train()
    found = gradients(model, tiny_inputs(model.config, [5]))
    assert sum(float(g.abs().sum()) for n, g in found.items() if n.startswith("model.vision_tower.")) > 0


# `activation_checkpointing_enable`, which is to replace it, is younger than the oldest transformers that we support.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
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
    assert {tokens.dtype for tokens in outputs.video_outputs.pooler_output} == {dtype}
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
