"""A model from pretrained backbones: what it takes over, what it adds, and how it starts."""

import contextlib
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from forked import run
from tiny_backbones import save_language_model, save_vision
from tiny_models import real_logits, settings_of
from transformers import AutoModelForCausalLM, GenerationConfig

from dynfocus import DynFocusForConditionalGeneration, DynFocusProcessor, VisionTower, from_backbones
from dynfocus.adoption.initialization import noise_frames

VISION = ("siglip", "clip", "dinov2", "open_clip")
LANGUAGE = {
    "llama": {},
    "llama, tied": {"tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": True},
    "gemma2": {},
    "gemma3_text": {},
    "gpt2": {},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of backbones, made when they are asked for."""
    root, made = tmp_path_factory.mktemp("backbones"), {}

    def vision(kind):
        if kind in ("open_clip", "eva02"):
            pytest.importorskip("open_clip")
        if kind not in made:
            made[kind] = save_vision(kind, root / kind)
        return made[kind]

    def language_model(name="llama", **fields):
        key = (name, *sorted(fields.items()))
        if key not in made:
            folder = root / f"lm{len(made)}"
            made[key] = save_language_model(name.partition(",")[0], folder, **LANGUAGE[name], **fields)
        return made[key]

    return SimpleNamespace(vision=vision, language_model=language_model, root=root)


def ask(processor, frames=5, question="what is it?"):
    """A question about a video of noise."""
    video = np.random.default_rng(0).integers(0, 256, (frames, 40, 40, 3), dtype=np.uint8)
    content = [{"type": "video", "video": video}, {"type": "text", "text": question}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def rms(tokens):
    return tokens.detach().float().square().mean().sqrt().item()


@pytest.mark.parametrize(
    ("kind", "name"),
    [("siglip", "llama"), ("clip", "llama, tied"), ("dinov2", "gemma2"), ("open_clip", "gemma3_text")]
    + [("siglip", "qwen3"), ("clip", "gpt2")],
)
def test_backbones_go_in_unchanged_and_come_back(kind, name, folders, tmp_path):
    vision, language_model = folders.vision(kind), folders.language_model(name)
    model, processor = from_backbones(vision, language_model)
    assert not model.training and {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(parameter.is_meta for parameter in (*model.parameters(), *model.buffers()))
    trained = {name.split(".")[1] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "vision_tower" not in trained and "language_model" in trained

    causal = AutoModelForCausalLM.from_pretrained(language_model)
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, causal(tokens).logits)
        frames = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        own = (
            VisionTower.from_open_clip(vision.removeprefix("open_clip:"))
            if kind == "open_clip"
            else VisionTower.from_backbone(vision)
        )
        torch.testing.assert_close(model.model.vision_tower(frames).last_hidden_state, own(frames).last_hidden_state)
    is_tied = causal.lm_head.weight is causal.get_input_embeddings().weight
    assert is_tied == (name not in ("llama",))
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == is_tied == model.config.tie_word_embeddings

    inputs = ask(processor)
    assert (inputs["input_ids"] == model.config.video_token_id).sum() > 40
    before = real_logits(model, inputs)[0]
    assert model.generate(**inputs, max_new_tokens=3).shape[1] <= inputs["input_ids"].shape[1] + 3
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = DynFocusForConditionalGeneration.from_pretrained(tmp_path)
    torch.testing.assert_close(real_logits(loaded, ask(DynFocusProcessor.from_pretrained(tmp_path)))[0], before)
    assert settings_of(loaded.config) == settings_of(model.config)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == is_tied
    assert {file.name for file in tmp_path.iterdir()} >= {
        "modeling_dynfocus.py",
        "towers_vision_tower.py",
        "logit_scaling.py",
    }


def test_a_new_model_can_be_trained(folders):
    names = folders.vision("siglip"), folders.language_model()
    model, processor = from_backbones(*names)
    model, inputs = model.train(), ask(processor)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    reached = {name.split(".")[1] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {"question_encoder", "event_prototypes", "cooperative_encoder", "language_model", "weight"}


# ---- vocabulary ----


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize(("vocab_size", "rows"), [(80, 80), (61, 61), (60, None), (59, 64)])
def test_model_and_processor_agree_on_the_vocabulary(pad, vocab_size, rows, folders):
    """`<video>` is number 59 or 60 of the tokenizer; rows are added only where that is too many."""
    language_model = folders.language_model(pad=pad, vocab_size=vocab_size)
    model, processor = from_backbones(folders.vision("siglip"), language_model)
    tokenizer = processor.tokenizer
    assert len(tokenizer) == 61 and tokenizer.padding_side == "left"
    assert tokenizer.tokenize("a<video>b") == ["a", "<video>", "b"] and "<video>" in tokenizer.all_special_tokens
    assert model.config.video_token_id == tokenizer.convert_tokens_to_ids("<video>") == processor.video_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids("<pad>")
    assert model.config.question_config.pad_token_id == tokenizer.pad_token_id
    rows = rows or 64
    assert model.config.text_config.vocab_size == model.config.question_config.vocab_size == rows
    assert model.get_input_embeddings().weight.shape[0] == model.lm_head.weight.shape[0] == rows
    assert model.lm_head.out_features == rows
    assert model.model.question_encoder.qformer.embeddings.word_embeddings.weight.shape[0] == rows


@pytest.mark.parametrize("name", ["llama", "llama, tied"])
def test_new_rows_are_near_the_mean_and_no_two_alike(name, folders):
    language_model = folders.language_model(name, vocab_size=59)
    model, _ = from_backbones(folders.vision("siglip"), language_model)
    causal = AutoModelForCausalLM.from_pretrained(language_model)
    for table, old in (
        (model.get_input_embeddings().weight, causal.get_input_embeddings().weight),
        (model.lm_head.weight, causal.lm_head.weight),
    ):
        torch.testing.assert_close(table[:59], old, rtol=0, atol=0)
        new = table[59:] - old.mean(0)
        assert 0 < rms(new) < 0.2 * rms(old - old.mean(0))
        assert len(table.detach().unique(dim=0)) == 64


def test_padding_is_never_taken_for_a_video_where_only_embeddings_are_given(folders):
    names = folders.vision("siglip"), folders.language_model(vocab_size=59)
    model, processor = from_backbones(*names, dtype=torch.bfloat16)
    inputs = ask(processor)
    padded = torch.nn.functional.pad(inputs["input_ids"], (3, 0), value=model.generation_config.pad_token_id)
    count = int((padded == model.config.video_token_id).sum())
    mask = model.model.get_placeholder_mask(None, model.get_input_embeddings()(padded), count)
    assert torch.equal(mask[..., 0], padded == model.config.video_token_id)


def test_generation_settings_are_the_language_models_own(folders, tmp_path):
    language_model = save_language_model("llama", tmp_path / "lm")
    GenerationConfig(eos_token_id=[2, 5], do_sample=True, temperature=0.6).save_pretrained(language_model)
    model, _ = from_backbones(folders.vision("siglip"), language_model)
    model.save_pretrained(tmp_path / "saved")
    for one in (model, DynFocusForConditionalGeneration.from_pretrained(tmp_path / "saved")):
        settings = one.generation_config
        assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (1, [2, 5], 60)
        assert settings.do_sample and settings.temperature == 0.6


def test_another_word_for_videos(folders):
    names, word = (folders.vision("siglip"), folders.language_model()), "<|film|>"
    model, processor = from_backbones(*names, video_token=word)
    assert processor.video_token_id == model.config.video_token_id
    assert real_logits(model, ask(processor))[0].isfinite().all()


# ---- the weights that are new ----


def test_same_seed_same_weights_and_the_global_state_is_left_alone(folders):
    names = folders.vision("siglip"), folders.language_model(vocab_size=59)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = from_backbones(*names)[0].state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    second, third = from_backbones(*names)[0].state_dict(), from_backbones(*names, seed=1)[0].state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    differ = {name.split(".")[1] for name, tensor in first.items() if not torch.equal(tensor, third[name])}
    assert {"question_encoder", "event_prototypes", "cooperative_encoder"} <= differ
    assert "vision_tower" not in differ


@pytest.mark.parametrize(
    ("kind", "dtype", "expected"),
    [("siglip", "auto", torch.float16), ("eva02", "bfloat16", torch.bfloat16), ("open_clip", "auto", torch.float16)],
)
def test_dtypes(kind, dtype, expected, folders, tmp_path):
    """What is new is drawn and measured in float32 and cast in the end."""
    names = folders.vision(kind), folders.language_model(dtype=torch.float16)
    (exact, _), (model, processor) = from_backbones(*names), from_backbones(*names, dtype=dtype)
    for name, tensor in model.named_parameters():
        assert tensor.dtype == expected
        if not name.startswith(("model.language_model", "lm_head")):
            torch.testing.assert_close(tensor, exact.get_parameter(name).to(expected), rtol=0.01, atol=1e-3)
    assert model.config.dtype == expected
    inputs = ask(processor)
    model.save_pretrained(tmp_path)
    loaded = DynFocusForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.dtype == expected
    torch.testing.assert_close(real_logits(loaded, inputs)[0], real_logits(model, inputs)[0])


@pytest.mark.parametrize("preset", ["default", "released_code"])
@pytest.mark.parametrize(("kind", "name"), [("siglip", "llama"), ("dinov2", "gemma3_text"), ("open_clip", "gpt2")])
def test_visual_tokens_start_as_large_as_words(kind, name, preset, folders):
    names = folders.vision(kind), folders.language_model(name)
    model, processor = from_backbones(*names, preset=preset)
    assert model.config.question_context == ("patches" if preset == "released_code" else "grouped")
    with torch.device("meta"):
        parts = DynFocusForConditionalGeneration(model.config)
    assert model.state_dict().keys() == parts.state_dict().keys()
    assert [type(part) for part in model.modules()] == [type(part) for part in parts.modules()]
    # As the language model embeds them: Gemma 3 scales.
    with torch.no_grad():
        size = rms(model.get_input_embeddings()(torch.arange(61)))
        frames = noise_frames(16, 32, torch.Generator().manual_seed(5))[None]
        inputs = ask(processor, frames=16)
        videos = {name: inputs[name] for name in ("video_token_plan", "question_input_ids")}
        encoder, taken = model.model.cooperative_encoder, {}
        with contextlib.ExitStack() as hooks:
            for part in (encoder.projector, encoder.value_projector):
                hook = part.register_forward_hook(lambda part, _, output: taken.setdefault(part, []).append(output))
                hooks.callback(hook.remove)
            tokens = model.get_video_features(pixel_values_videos=frames, **videos).pooler_output[0]
    _, cones = taken[encoder.projector]
    for part in (cones, taken[encoder.value_projector][0], tokens):
        assert size / 1.4 < rms(part) < size * 1.4


@pytest.mark.parametrize(("text_width", "width"), [(32, 64), (128, 64), (64, 64)])
def test_words_near_to_the_language_model_are_near_to_the_question_encoder(text_width, width, folders):
    language_model = folders.language_model(hidden_size=text_width, vocab_size=300)
    model, _ = from_backbones(folders.vision("siglip"), language_model, question_config={"hidden_size": width})
    words = model.model.question_encoder.qformer.embeddings.word_embeddings.weight
    assert rms(words) == pytest.approx(0.02, rel=0.01)
    ids = [number for number in range(300) if number != model.config.question_config.pad_token_id]
    theirs = torch.pdist(model.get_input_embeddings().weight[ids]).detach()
    ours = torch.pdist(words[ids]).detach()
    correlation = torch.corrcoef(torch.stack([theirs, ours]))[0, 1]
    assert correlation > (0.99 if text_width <= width else 0.5)


def test_the_question_encoder_fits_the_backbones(folders):
    names = folders.vision("siglip"), folders.language_model()
    model, processor = from_backbones(*names)
    config = model.config.question_config
    assert config.hidden_size % config.num_attention_heads == 0 and config.hidden_size <= 512
    assert processor.max_question_tokens + 32 <= config.max_position_embeddings
    own = {"num_hidden_layers": 2, "cross_attention_frequency": 1, "hidden_size": 16, "num_attention_heads": 2}
    model, _ = from_backbones(*names, question_config=own, num_question_queries=4, selection_sigma=0.2)
    assert {name: model.config.question_config.to_dict()[name] for name in own} == own
    assert model.config.num_question_queries == 4 and model.model.selection_sigma == 0.2
    longest = ask(processor, question="a" * 128)
    assert longest["question_input_ids"].shape == (1, 128)
    assert real_logits(model, longest)[0].isfinite().all()


def test_loaded_weights_are_the_models_own(folders, monkeypatch):
    """Nothing is copied, and no random weights of the backbones lie in memory on the way."""
    loaded, load = [], AutoModelForCausalLM.from_pretrained
    drawn, draw = [], torch.nn.init.normal_

    def keep(*args, **kwargs):
        loaded.append(load(*args, **kwargs))
        return loaded[-1]

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", keep)
    monkeypatch.setattr(
        torch.nn.init, "normal_", lambda tensor, *a, **k: (drawn.append(tensor), draw(tensor, *a, **k))
    )
    model, _ = from_backbones(folders.vision("siglip"), folders.language_model())
    causal, _ = loaded[0]
    assert model.model.language_model is causal.model and model.lm_head.weight is causal.lm_head.weight
    real = sum(tensor.numel() for tensor in drawn if not tensor.is_meta)
    new = sum(p.numel() for name, p in model.named_parameters() if "language_model" not in name)
    assert real <= new


def test_a_bias_of_zeros_does_no_harm(folders, tmp_path):
    language_model = save_language_model("phi", tmp_path / "phi", partial_rotary_factor=0.5)
    model, causal = (
        from_backbones(folders.vision("siglip"), language_model)[0],
        AutoModelForCausalLM.from_pretrained(language_model),
    )
    with torch.no_grad():
        torch.testing.assert_close(model(torch.arange(9)[None]).logits, causal(torch.arange(9)[None]).logits)


# ---- names and places ----

BY_NAME = """
import json, sys
from dynfocus import from_backbones

names = "user/vision", "user/language"
old = {"vision_revision": sys.argv[1], "language_model_revision": sys.argv[2]}
model, processor = from_backbones(*names, **old)
print(json.dumps([model.config.video_token_id, processor.video_token_id, processor.video_processor.size["height"]]))
for given, revision in ((names, "main"), (("user/nothing", names[1]), sys.argv[2])):
    try:
        from_backbones(*given, language_model_revision=revision)
    except (OSError, ValueError) as error:
        print(error)
"""


def test_names_and_revisions_on_a_hub(folders, tmp_path):
    from hub_server import HubServer

    with HubServer() as hub:
        first = hub.add_repo("user/vision", folders.vision("siglip"))
        language = hub.add_repo("user/language", folders.language_model())
        hub.commit("user/language", {"config.json": '{"model_type": "t5"}'})
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("HF_")}
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        script, printed = tmp_path / "by_name.py", tmp_path / "printed"
        script.write_text(BY_NAME)
        run(script, first, language, package=False, environment={**kept, **settings}, stdout=printed)
    facts, t5, missing = printed.read_text().splitlines()
    assert json.loads(facts) == [59, 59, 32]
    assert "'user/language' of type 't5' is an encoder-decoder" in t5
    assert "'user/nothing' cannot be used: it is neither a local folder nor a model on the Hub" in missing


@pytest.mark.parametrize("kind", VISION)
def test_saved_settings_name_no_local_folder(kind, folders, tmp_path):
    model, processor = from_backbones(folders.vision(kind), folders.language_model())
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for path in tmp_path.glob("*.json"):
        assert str(folders.root) not in path.read_text(), path.name
