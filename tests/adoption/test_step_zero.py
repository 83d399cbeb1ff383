"""A trained language model and vision tower, put together anew: how well they answer before any training."""

from pathlib import Path
from statistics import mean

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoTokenizer

from dynfocus import DynFocusForConditionalGeneration, from_backbones
from dynfocus.checkpoints import embedded_model
from dynfocus.eval.synthetic.builder import Recipe
from dynfocus.eval.synthetic.world import render

START = Path(__file__).parents[2] / "benchmarks" / "focus" / "shared_start.safetensors"


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """
    The default model's tower, and the language model that it was trained from, each in a folder of its own. Its own
    language model refuses to answer when it sees no event, so that its loss says little about the other words.
    """
    trained = DynFocusForConditionalGeneration.from_pretrained(embedded_model())
    root = tmp_path_factory.mktemp("parts")
    vision = transformers.SiglipVisionModel(trained.model.vision_tower.backbone.config)
    vision.load_state_dict(trained.model.vision_tower.backbone.state_dict())
    vision.save_pretrained(root / "vision")
    start, prefix = load_file(START), "model.language_model."
    weights = {name.removeprefix(prefix): weight for name, weight in start.items() if name.startswith(prefix)}
    trained.config.text_config.vocab_size = len(weights["embed_tokens.weight"])
    causal = transformers.LlamaForCausalLM(trained.config.text_config)
    causal.model.load_state_dict(weights)
    causal.save_pretrained(root / "language")
    AutoTokenizer.from_pretrained(embedded_model()).save_pretrained(root / "language")
    return root / "vision", root / "language"


@pytest.fixture(scope="module")
def prompts(names):
    """Questions about generated videos with their answers, which alone have labels."""
    # The plan that the language model was trained with.
    model, processor = from_backbones(*names, feature_layer=-1, num_prototypes=64, key_ratio=0.125)
    world = Recipe(
        seed=1, num_frames=24, split="test", questions_per_kind=1, num_events=(4, 8), size=128, fps_container=8
    )
    rows = []
    for number in range(4):
        episode, questions = world.draw(number)
        video = {"type": "video", "video": render(episode, 64)}
        # What a number is, no model tells that does not see it.
        asked = [question for question in questions if question.kind in ("color", "shape", "order", "existence")]
        for question in asked:
            messages = [{"role": "user", "content": [video, {"type": "text", "text": question.question}]}]
            answer = [{"role": "assistant", "content": question.answer}]
            options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "question": question.question}
            row = processor.apply_chat_template(messages + answer, **options)
            start = processor.apply_chat_template(messages, add_generation_prompt=True, **options)["input_ids"].shape[
                1
            ]
            labels = row["input_ids"].clone()
            labels[:, :start] = -100
            pixels, mask = row.pop("pixel_values_videos"), row.pop("video_frame_mask")
            # The state of a video rests on the vision tower alone, which is the same for every seed.
            state = model.encode_video(pixels, mask) if question is asked[0] else rows[-1]["video_state"]
            rows.append({**row, "labels": labels, "video_state": state})
    return rows


@torch.no_grad()
def loss_with_noise(model, row, seed):
    """With noise of the words' size in place of visual tokens."""
    words = model.get_input_embeddings()
    where = row["input_ids"] == model.config.video_token_id
    noise = torch.randn(int(where.sum()), words.weight.shape[1], generator=torch.Generator().manual_seed(seed))
    embeds = words(row["input_ids"]).masked_scatter(where[..., None], noise * words.weight.square().mean().sqrt())
    return model(inputs_embeds=embeds, attention_mask=row["attention_mask"], labels=row["labels"]).loss.item()


@torch.no_grad()
def mean_loss(model, prompts):
    return mean(model(**row).loss.item() for row in prompts)


def test_the_first_loss_is_that_of_noise_as_large_as_words(names, prompts):
    ours, with_noise, drowned = [], [], []
    for seed in range(4):
        model, _ = from_backbones(*names, feature_layer=-1, seed=seed)
        ours.append(mean_loss(model, prompts))
        with_noise += [loss_with_noise(model, row, seed) for row in prompts]
        encoder = model.model.cooperative_encoder
        for layer in (encoder.projector.linear_2, encoder.value_projector):
            layer.weight.data.mul_(100)
        drowned.append(mean_loss(model, prompts))
    assert mean(ours) == pytest.approx(mean(with_noise), abs=0.3)
    # Tokens that drown the words cost more than that.
    assert mean(drowned) > mean(with_noise) + 0.3
