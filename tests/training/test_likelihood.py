"""The selector's loss from the likelihood of the answers: its target, its gradient, and its place in a run."""

import copy
import json

import pytest
import torch
from tiny_models import of_videos, one_row, tiny_inputs, tiny_model
from training_runs import losses

from dynfocus.selecting.focus import Focus
from dynfocus.training.likelihood import answer_likelihoods, likelihood_loss, score_loss
from dynfocus.training.recipe import load_recipe

FRAMES = [6, 4]
LEARNED = ("model.event_prototypes.", "model.question_encoder.")


@pytest.fixture(scope="module", params=["default", "released_code"])
def model(request):
    model = tiny_model(request.param)
    model.model.vision_tower.set_trainable(False)
    return model


@pytest.fixture(scope="module")
def inputs(model):
    """Two rows of unlike lengths; the last two tokens of each are its answer."""
    inputs = tiny_inputs(model.config, FRAMES)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -2:] = inputs["input_ids"][:, -2:]
    return {**inputs, "labels": labels}


def shown_alone(event):
    """The rule of choice that shows one event, without its score."""

    def choose(estimator, state, queries, plan, *, sigma, noise):
        events = estimator.events_of(state, plan[:, 0], queries.device, queries.dtype)
        key = torch.tensor([[event]])
        return Focus(events, None, key, torch.ones_like(key, dtype=torch.bool), plan[:, 2])

    return choose


def test_likelihoods_are_those_of_a_prompt_with_this_event_alone(model, inputs):
    shown = torch.tensor([[0, 2, 3], [1, 2, 0]])
    found = answer_likelihoods(model, inputs, shown)
    for row, events in enumerate(shown.tolist()):
        alone = one_row(inputs, row)
        prompt, answer, video = alone["input_ids"][0], inputs["labels"][row, -2:], model.config.video_token_id
        for place, event in enumerate(events):
            with torch.no_grad():
                features = model.get_video_features(**of_videos(alone), choose=shown_alone(event), return_dict=True)
            count = len(features.pooler_output[0])
            text = prompt[prompt != video]
            ids = torch.cat([text[:1], torch.full((count,), video), text[1:]])[None]
            labels = torch.full_like(ids, -100)
            labels[0, -2:] = answer
            with torch.no_grad():
                loss = model(input_ids=ids, mm_encoder_outputs={"video": features}, labels=labels).loss
            torch.testing.assert_close(found[row, place], -2 * loss, rtol=1e-4, atol=1e-5)
    # Which events are shown matters here.
    assert found.std(1).min() > 0.01


def test_the_event_that_makes_the_answer_likely_gets_the_highest_score(model, inputs):
    learned = copy.deepcopy(model)
    scorer = learned.model.event_prototypes.scorer.out_proj
    with torch.no_grad():
        # A new selector has no opinion.
        scorer.weight.mul_(0.01)
    likely = answer_likelihoods(model, inputs, torch.arange(4).expand(2, -1))
    optimizer = torch.optim.Adam(learned.model.event_prototypes.parameters(), lr=0.01)
    for step in range(60):
        outputs = learned(**inputs)
        scores = torch.stack(outputs.video_outputs.event_scores)
        loss = likelihood_loss(learned, inputs, outputs)
        if step == 0:
            torch.testing.assert_close(loss.detach(), score_loss(scores.detach(), likely).mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert scores.argmax(1).tolist() == likely.argmax(1).tolist()


def test_scores_are_ordered_and_brought_near_0_and_1():
    probability = torch.tensor([[0.9, 0.1, 0.15, 0.05], [0.3, 0.3, 0.01, 0.01], [0.2, 0.2, 0.2, 0.2]])
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).repeat(3, 1).requires_grad_()
    drawn = -(scores.softmax(1) * probability).sum(1).log()
    wanted = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0]])
    alone = torch.nn.functional.binary_cross_entropy(scores[:2].sigmoid(), wanted, reduction="none").mean(1)
    expected = drawn + torch.cat([torch.tensor([0.6, 0.145]) * alone, torch.zeros(1)])
    found = score_loss(scores, probability.log())
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), [scores])
    assert gradient[2].abs().max() < 1e-6 and gradient[:2].abs().min() > 1e-3
    optimizer = torch.optim.Adam([scores], lr=0.2)
    for _ in range(200):
        optimizer.zero_grad()
        score_loss(scores, probability.log()).sum().backward()
        optimizer.step()
    found = scores.detach().sigmoid()
    assert (found[0] - wanted[0]).abs().max() < 0.1 and (found[1] - wanted[1]).abs().max() < 0.1


def test_only_what_the_scores_depend_on_has_a_gradient(model, inputs):
    own = copy.deepcopy(model)
    likelihood_loss(own, inputs, own(**inputs)).backward()
    moved = {name for name, weight in own.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert moved and all(name.startswith(LEARNED) for name in moved)
    assert any(name.startswith("model.event_prototypes.scorer.") for name in moved)


def test_events_that_make_no_difference_do_not_move_the_scores(model, inputs, monkeypatch):
    from dynfocus.training import likelihood

    own = copy.deepcopy(model)
    for likely in (-0.1, -20.0):
        monkeypatch.setattr(likelihood, "answer_likelihoods", lambda *args, at=likely: torch.full((2, 4), at))
        loss = likelihood_loss(own, inputs, own(**inputs))
        assert loss.item() == pytest.approx(-likely)
        loss.backward()
    for name, weight in own.named_parameters():
        assert weight.grad is None or weight.grad.abs().max() < 1e-6, name
    text = {name: inputs[name][:, -4:] for name in ("input_ids", "attention_mask", "labels")}
    assert likelihood_loss(model, text, model(**text)).item() == 0


def test_the_best_events_are_tried_and_others_by_chance(model, inputs, monkeypatch):
    from dynfocus.training import likelihood

    tried = []

    def keep(model, inputs, shown, rows):
        tried.append(shown.tolist())
        return torch.zeros(shown.shape)

    monkeypatch.setattr(likelihood, "answer_likelihoods", keep)
    outputs = model(**inputs)
    best = [scores.argmax().item() for scores in outputs.video_outputs.event_scores]
    for seed in range(20):
        likelihood_loss(model, inputs, outputs, torch.Generator().manual_seed(seed), num_events=2)
    for row in range(2):
        assert all(best[row] in shown[row] and len(set(shown[row])) == 2 for shown in tried)
        assert {event for shown in tried for event in shown[row]} == set(range(4))


@pytest.mark.integration
def test_a_run_with_the_loss(fit, monkeypatch):
    """Batches of any size give the same steps, its numbers are logged, and without a weight nothing is computed."""
    from dynfocus.training import trainer

    def change(settings, weight=2.0):
        settings["likelihood_weight"] = weight

    options = {"max_steps": 2, "optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant"}
    _, large, _ = fit("large", change, per_device_train_batch_size=8, **options)
    _, small, _ = fit("small", change, per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
    assert losses(small) == pytest.approx(losses(large), abs=1e-4)
    history = json.loads((large / "trainer_state.json").read_text())["log_history"]
    assert all(entry["likelihood_loss"] > 0 for entry in history if "loss" in entry)
    monkeypatch.delattr(trainer, "likelihood_loss")
    _, without, _ = fit("without", lambda settings: change(settings, 0.0), per_device_train_batch_size=8, **options)
    _, plain, _ = fit("plain", per_device_train_batch_size=8, **options)
    assert losses(without) == losses(plain) and losses(plain)[0] < losses(large)[0]


@pytest.mark.integration
def test_the_recipe_for_own_videos_has_the_loss(fit, rows, tmp_path):
    """Also with adapters and gradient checkpointing, as there."""
    words = [f"data.train={rows}", f"data.eval={rows}", f"training.output_dir={tmp_path / 'run'}"]
    recipe = load_recipe("lora", [*words, "model.checkpoint=some/model", "training.bf16=false"])
    assert recipe.likelihood_weight == 1 and recipe.selection_noise.start == 0

    def change(settings):
        settings |= {
            "likelihood_weight": recipe.likelihood_weight,
            "selection_noise": {"start": 0.0},
            "lora": {"rank": 4},
        }

    _, folder, _ = fit("adapters", change, max_steps=2, gradient_checkpointing=True, save_strategy="no")
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    assert all(entry["likelihood_loss"] > 0 for entry in history if "loss" in entry)
