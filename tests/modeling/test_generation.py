"""Generation: every way of it that transformers offers gives the answer that the plain forward pass gives."""

import copy

import forked
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import (
    VIDEO_TOKEN_ID,
    make_question_aware,
    of_prompt,
    of_videos,
    one_row,
    tiny_inputs,
    tiny_model,
    tiny_text_config,
)
from transformers import LlamaForCausalLM

from dynfocus.configuration_dynfocus import PRESETS

FRAMES = [9, 1, 5]
NEW = 6
# Random models like to say the placeholder, and seldom the end.
GREEDY = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "suppress_tokens": [VIDEO_TOKEN_ID]}


@pytest.fixture(scope="module", params=PRESETS)
def model(request):
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def default_model():
    return tiny_model()


def answers(model, inputs, **kwargs):
    """The new tokens of each row."""
    with torch.no_grad():
        sequences = model.generate(**inputs, **{**GREEDY, **kwargs})
    return sequences[:, inputs["input_ids"].shape[1] :] if "input_ids" in inputs else sequences


def greedy_by_hand(model, inputs, steps=NEW):
    """Forward passes over everything so far, without a cache and without `generate`."""
    features = model.get_video_features(**of_videos(inputs))
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    for _ in range(steps):
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask, mm_encoder_outputs={"video": features}).logits[:, -1]
        logits[:, [VIDEO_TOKEN_ID, model.generation_config.eos_token_id]] = float("-inf")
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return ids[:, -steps:]


def test_generation_is_repeated_forward_passes(model):
    inputs = tiny_inputs(model.config, FRAMES)
    found = answers(model, inputs)
    assert torch.equal(found, greedy_by_hand(model, inputs))
    assert torch.equal(found, answers(model, inputs, use_cache=False))
    assert len(set(map(tuple, found.tolist()))) > 1, "the videos and questions make no difference"


def test_a_batch_answers_as_its_rows_do_alone(model):
    inputs = tiny_inputs(model.config, FRAMES, plans=[[4, 2, 9], [1, 1, 1], [3, 2, 2]])
    together = answers(model, inputs)
    for row in range(len(FRAMES)):
        assert torch.equal(answers(model, one_row(inputs, row))[0], together[row])


def test_rows_without_a_video(default_model):
    inputs = tiny_inputs(default_model.config, [4])
    text = torch.tensor([[1, 8, 9, 10]])
    alone = answers(default_model, {"input_ids": text, "attention_mask": torch.ones_like(text)})
    padding = torch.zeros(1, inputs["input_ids"].shape[1] - 4, dtype=torch.long)
    mixed = {
        **inputs,
        "input_ids": torch.cat([torch.cat([padding, text], 1), inputs["input_ids"]]),
        "attention_mask": torch.cat([torch.cat([padding, torch.ones_like(text)], 1), inputs["attention_mask"]]),
    }
    assert torch.equal(answers(default_model, mixed), torch.cat([alone, answers(default_model, inputs)]))


def test_videos_are_encoded_once(default_model):
    runs = []
    parts = [default_model.model.vision_tower, default_model.model.question_encoder]
    hooks = [part.register_forward_hook(lambda module, *_: runs.append(module)) for part in parts]
    answers(default_model, tiny_inputs(default_model.config, [5]))
    for hook in hooks:
        hook.remove()
    assert runs == parts


def test_beam_search(model):
    inputs = tiny_inputs(model.config, FRAMES)
    beams = {"num_beams": 3, "num_return_sequences": 2}
    together = answers(model, inputs, **beams)
    assert together.shape == (2 * len(FRAMES), NEW)
    for row in range(len(FRAMES)):
        assert torch.equal(answers(model, one_row(inputs, row), **beams), together[2 * row : 2 * row + 2])


def test_beams_of_prompts_with_several_videos(default_model):
    """The first prompt holds two videos, the last none."""
    config = default_model.config
    inputs = tiny_inputs(config, [2, 3, 4])
    count_of = [tokens.shape[0] for tokens in default_model.get_video_features(**of_videos(inputs)).pooler_output]
    rows = [
        [1, *[VIDEO_TOKEN_ID] * count_of[0], 8, *[VIDEO_TOKEN_ID] * count_of[1], 9],
        [1, *[VIDEO_TOKEN_ID] * count_of[2], 10, 11],
        [1, 12, 13],
    ]
    width = max(map(len, rows))
    inputs["input_ids"] = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    inputs["attention_mask"] = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    greedy = answers(default_model, inputs)
    assert torch.equal(greedy, greedy_by_hand(default_model, inputs))
    sampled = answers(default_model, inputs, do_sample=True, top_k=1, num_return_sequences=2)
    assert torch.equal(sampled, greedy.repeat_interleave(2, dim=0))
    assert answers(default_model, inputs, num_beams=2).shape == greedy.shape


def test_sampling(default_model):
    inputs = tiny_inputs(default_model.config, [5])
    draws = []
    for _ in range(2):
        torch.manual_seed(0)
        draws.append(answers(default_model, inputs, do_sample=True, num_return_sequences=8))
    assert torch.equal(*draws)
    assert len(draws[0].unique(dim=0)) > 1


def test_static_cache(model):
    inputs = tiny_inputs(model.config, FRAMES)
    assert torch.equal(answers(model, inputs, cache_implementation="static"), answers(model, inputs))


def test_prefill_in_chunks(model):
    inputs = tiny_inputs(model.config, FRAMES)
    assert torch.equal(answers(model, inputs, prefill_chunk_size=32), answers(model, inputs))


def test_embeddings_instead_of_ids(model):
    inputs = tiny_inputs(model.config, FRAMES)
    expected = answers(model, inputs)
    embedded = {name: tensor for name, tensor in inputs.items() if name != "input_ids"}
    embedded["inputs_embeds"] = model.get_input_embeddings()(inputs["input_ids"]).detach()
    assert torch.equal(answers(model, embedded), expected)
    beams = answers(model, inputs, num_beams=2)
    assert torch.equal(answers(model, embedded, num_beams=2), beams)


def test_features_of_the_caller_serve_again(model):
    """Beams multiply the features inside `generate`; the caller's own stay as they were."""
    inputs = tiny_inputs(model.config, FRAMES)
    with torch.no_grad():
        features = model.get_video_features(**of_videos(inputs))
    given = {**of_prompt(inputs), "mm_encoder_outputs": {"video": features}}
    expected = answers(model, inputs, num_beams=2)
    for _ in range(2):
        assert torch.equal(answers(model, given, num_beams=2), expected)
    assert torch.equal(answers(model, given), answers(model, inputs))


def test_a_conversation_continues_from_its_cache(default_model):
    inputs = tiny_inputs(default_model.config, [5])
    first = default_model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
    ids = torch.cat([first.sequences, torch.tensor([[8, 9, 10]])], dim=1)
    again = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = answers(default_model, again)
    more = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(answers(default_model, more, past_key_values=first.past_key_values), expected)


def test_an_assistant_that_reads_the_same_visual_tokens(default_model):
    inputs = tiny_inputs(default_model.config, [5])
    expected = answers(default_model, inputs)
    for assistant in (copy.deepcopy(default_model), tiny_model(seed=1)):
        assert torch.equal(answers(default_model, inputs, assistant_model=assistant), expected)


def test_an_assistant_that_reads_text_alone(default_model):
    torch.manual_seed(0)
    assistant = LlamaForCausalLM(tiny_text_config()).eval()
    text = torch.tensor([[1, 8, 9, 10]])
    prompt = {"input_ids": text, "attention_mask": torch.ones_like(text)}
    assert torch.equal(answers(default_model, prompt, assistant_model=assistant), answers(default_model, prompt))
    inputs = tiny_inputs(default_model.config, [5])
    assert torch.equal(answers(default_model, inputs, assistant_model=assistant), answers(default_model, inputs))


def test_scores_come_back_on_request(default_model):
    inputs = tiny_inputs(default_model.config, [5, 3])
    output = default_model.generate(**inputs, **GREEDY, return_dict_in_generate=True, output_scores=True)
    assert len(output.scores) == NEW
    assert all(score.shape == (2, default_model.config.text_config.vocab_size) for score in output.scores)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_generates(model, dtype):
    half = copy.deepcopy(model).to(dtype)
    output = half.generate(
        **tiny_inputs(model.config, FRAMES), **GREEDY, output_logits=True, return_dict_in_generate=True
    )
    assert all(logits.isfinite().all() for logits in output.logits)


def test_generation_after_training_selects_hard(default_model):
    """A model still in training mode must not draw noise where no gradient is wanted."""
    inputs = tiny_inputs(default_model.config, [9])
    training = copy.deepcopy(default_model).train()
    assert torch.equal(answers(training, inputs), answers(default_model, inputs))


SCRIPT = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration

torch.set_num_threads(1)
torch.manual_seed(1234)
for folder in Path(sys.argv[1]).iterdir():
    model = DynFocusForConditionalGeneration.from_pretrained(folder)
    inputs = load_file(folder / "inputs")
    prompt = {name: inputs.pop(name) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        features = model.get_video_features(**inputs)
    answer = model.generate(
        **prompt, **inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False, suppress_tokens=[3]
    )
    outputs = {name: torch.cat(features[name]) for name in ("key_frames", "event_of_frame", "pooler_output")}
    save_file({"answer": answer, **outputs}, folder / "outputs")
"""


def test_another_process_gives_the_same_answer_and_key_frames(tmp_path):
    models = {preset: tiny_model(preset) for preset in PRESETS}
    make_question_aware(models["default"])
    for preset, model in models.items():
        model.save_pretrained(tmp_path / preset)
        save_file(tiny_inputs(model.config, [9, 12]), tmp_path / preset / "inputs")
    script = tmp_path.with_name("another process.py")
    script.write_text(SCRIPT)
    forked.run(script, tmp_path)
    for preset, model in models.items():
        inputs = tiny_inputs(model.config, [9, 12])
        with torch.no_grad():
            features = model.get_video_features(**of_videos(inputs))
        fresh = load_file(tmp_path / preset / "outputs")
        assert torch.equal(fresh["key_frames"], torch.cat(features.key_frames))
        assert torch.equal(fresh["event_of_frame"], torch.cat(features.event_of_frame))
        assert torch.equal(fresh["answer"][:, -NEW:], answers(model, inputs))
        # Another alignment of the weights in memory may round sums differently.
        torch.testing.assert_close(fresh["pooler_output"], torch.cat(features.pooler_output), atol=1e-5, rtol=0)


def test_the_same_question_gives_the_same_tokens_to_the_last_bit(model):
    inputs = of_videos(tiny_inputs(model.config, FRAMES))
    with torch.no_grad():
        first = model.get_video_features(**inputs)
        torch.manual_seed(99)
        second = model.get_video_features(**inputs)
    for name in ("pooler_output", "key_frames", "event_of_frame", "event_scores", "event_medoids"):
        assert all(map(torch.equal, getattr(first, name), getattr(second, name)))
