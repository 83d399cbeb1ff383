"""
The contract of vLLM's Transformers modeling backend, as far as it can be run without vLLM.

vLLM builds the base model from its configuration, without memory, puts its own layers into it, and loads the weights
by name. It calls the processor on marks and frames alone, keeps what comes back for each video apart, and writes the
placeholders into the prompt itself. Videos of several requests are encoded together, and several prompts run as one
row, with vLLM's attention. Each step is done by hand here.
"""

import inspect
import json
import typing

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file
from tiny import make_tiny_processor
from tiny_models import make_question_aware, of_videos, tiny_config, tiny_inputs, tiny_model, tiny_text_config
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput

import dynfocus

QUESTION = "which number is shown with the red star?"
# What vLLM itself reads of the processor's output, or drops.
NOT_OF_THE_VIDEOS = {"input_ids", "attention_mask", "token_type_ids", "text_replacement_offsets"}


class Attention:
    """Stands for vLLM's attention in one layer, which knows the prompts in the row by their lengths."""

    def __init__(self, lengths):
        self.lengths = lengths
        self.scalings = []

    def __call__(self, query, key, value, scaling):
        self.scalings.append(scaling)
        parts = zip(*(tensor.split(self.lengths, dim=2) for tensor in (query, key, value)), strict=True)
        seen = [F.scaled_dot_product_attention(*p, is_causal=True, scale=scaling, enable_gqa=True) for p in parts]
        return torch.cat(seen, dim=2).transpose(1, 2)


class ReplicatedLinear(nn.Module):
    """Stands for vLLM's linear layers: no `nn.Linear`, but its names; quantised weights are mere bytes."""

    def __init__(self, linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def pack(self):
        self.weight = nn.Parameter(self.weight.view(torch.uint8), requires_grad=False)

    def forward(self, inputs):
        return F.linear(inputs, self.weight.view(torch.float32), self.bias)


def attend(module, query, key, value, attention_mask, scaling=None, attention_instances=None, **kwargs):
    assert attention_mask is None, "vLLM's attention reads no mask"
    return attention_instances[module.layer_idx](query, key, value, scaling), None


@pytest.fixture(scope="module", autouse=True)
def vllm_attention():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ALL_ATTENTION_FUNCTIONS, "vllm", attend)
        yield


@pytest.fixture(scope="module")
def processor():
    return make_tiny_processor()


@pytest.fixture(scope="module")
def model():
    """The whole model, with a head, where the question has a say."""
    model = tiny_model()
    make_question_aware(model)
    return model


@pytest.fixture(scope="module")
def saved(model, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def served(saved):
    """The base model as vLLM has it."""
    config = AutoConfig.from_pretrained(saved)
    config.get_text_config()._attn_implementation = "vllm"
    with init_empty_weights(include_buffers=False):
        base = AutoModel.from_config(config)
    replace_linear_layers(base)
    embeddings = base.get_input_embeddings()
    base.set_input_embeddings(nn.Embedding(*embeddings.weight.shape, device="meta"))
    weights = {f"model.{name}": name for name, _ in base.named_parameters()}
    found = load_file(saved / "model.safetensors")
    loaded = {weights[name]: weight for name, weight in found.items() if name != "lm_head.weight"}
    assert loaded.keys() == set(weights.values())
    base.load_state_dict(loaded, strict=False, assign=True)
    for layer in base.modules():
        if isinstance(layer, ReplicatedLinear):
            layer.pack()
    return base.eval()


def replace_linear_layers(module):
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, ReplicatedLinear(child))
        else:
            replace_linear_layers(child)


def frames_of(num_frames, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_frames, 24, 40, 3), dtype=np.uint8)


def processed(processor, videos, **mm_processor_kwargs):
    """The processor's output for marks without a prompt, and frames that are already sampled."""
    metadata = [
        {
            "fps": 2.0,
            "duration": len(video) / 2.0,
            "total_num_frames": len(video),
            "frames_indices": list(range(len(video))),
            "video_backend": "opencv",
        }
        for video in videos
    ]
    settings = {"do_sample_frames": False, "truncation": False, "add_special_tokens": False, **mm_processor_kwargs}
    return processor(
        text=processor.video_token * len(videos),
        videos=videos,
        video_metadata=metadata,
        return_text_replacement_offsets=True,
        return_tensors="pt",
        **settings,
    )


def replacements(inputs):
    (found,) = inputs["text_replacement_offsets"]
    assert {entry["type"] for entry in found} == {"video"}
    return [entry["replacement"] for entry in found]


def items(inputs):
    """The fields of each video, apart."""
    names = set(inputs) - NOT_OF_THE_VIDEOS
    return [{name: inputs[name][row] for name in names} for row in range(len(replacements(inputs)))]


def encode(base, videos):
    """The visual tokens of items of any requests: fields are stacked where all have one shape, or else stay a list."""
    fields = {name: [video[name] for video in videos] for name in videos[0]}
    fields = {
        name: torch.stack(rows) if len({row.shape for row in rows}) == 1 else rows for name, rows in fields.items()
    }
    pixels = fields.pop("pixel_values_videos")
    with torch.no_grad():
        if isinstance(pixels, torch.Tensor):
            return list(base.get_video_features(pixels, **fields).pooler_output)
        # Videos of different lengths go in one at a time.
        parts = [{name: rows[row : row + 1] for name, rows in fields.items()} for row in range(len(pixels))]
        outputs = [base.get_video_features(one[None], **part) for one, part in zip(pixels, parts, strict=True)]
    return [torch.cat(list(output.pooler_output)) for output in outputs]


def run(base, embeds, lengths):
    """The hidden states `(tokens, hidden)` of prompts that lie in one row, and the attention of each layer."""
    attention = {layer: Attention(lengths) for layer in range(base.config.get_text_config().num_hidden_layers)}
    positions = torch.cat([torch.arange(length) for length in lengths])
    with torch.no_grad():
        outputs = base(
            input_ids=None,
            inputs_embeds=embeds[None],
            position_ids=positions[None],
            use_cache=False,
            attention_instances=attention,
            return_dict=False,
        )
    return outputs[0][0], attention


def same(first, second):
    torch.testing.assert_close(first, second, atol=1e-4, rtol=0)


# ---- the model ----


def test_the_base_model_is_all_but_the_head(model, saved):
    base = AutoModel.from_pretrained(saved)
    assert {f"model.{name}" for name in base.state_dict()} == set(model.state_dict()) - {"lm_head.weight"}
    inputs = tiny_inputs(model.config, [5, 3])
    with torch.no_grad():
        hidden = base(**inputs).last_hidden_state
        assert torch.equal(model.lm_head(hidden), model(**inputs).logits)
        features = base.get_video_features(**of_videos(inputs)).pooler_output
        assert all(map(torch.equal, features, model.get_video_features(**of_videos(inputs)).pooler_output))


def test_the_saved_configuration_names_compatible_classes(saved):
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["DynFocusForConditionalGeneration"]
    names = {auto: entry.rpartition(".")[2] for auto, entry in config["auto_map"].items()}
    assert {"AutoConfig", "AutoModel", "AutoProcessor"} <= names.keys()
    for name in (name for auto, name in names.items() if auto.startswith("AutoModel")):
        assert getattr(dynfocus, name).is_backend_compatible(), name


def test_the_text_configuration_is_an_object_of_its_own(saved):
    config = AutoConfig.from_pretrained(saved)
    text = config.get_text_config()
    assert text is config.text_config is config.get_text_config(decoder=True)
    assert text != config
    # What the attention of vLLM is made from.
    assert (text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads) == (2, 4, 2)
    assert (text.hidden_size, text.head_dim, text.vocab_size) == (32, 8, 64)


def test_parts_are_found_by_name(model, served):
    for found in (model, served):
        base = found.base_model
        assert found.get_decoder() is base.language_model
        assert found.get_encoder(modality="video") is base.vision_tower
        assert found.get_encoder(modality="audio") is found
    assert type(served.language_model) is not type(served) is not type(served.vision_tower)


def test_input_embeddings_can_be_replaced(model):
    base = AutoModel.from_config(model.config).eval()
    other = nn.Embedding(64, 32)
    base.set_input_embeddings(other)
    assert base.get_input_embeddings() is other
    ids = torch.tensor([[1, 8, 9]])
    with torch.no_grad():
        assert torch.equal(base(ids).last_hidden_state, base(inputs_embeds=other(ids)).last_hidden_state)


def test_head_and_embeddings_are_tied_where_the_text_configuration_says_so():
    for tie in (True, False):
        config = tiny_config(text_config=tiny_text_config(tie_word_embeddings=tie))
        assert config.tie_word_embeddings is tie


def test_outputs_without_a_dictionary(model):
    inputs = tiny_inputs(model.config, [5, 3])
    base = model.model
    with torch.no_grad():
        outputs = base(**inputs, return_dict=False)
        assert isinstance(outputs, tuple)
        assert torch.equal(outputs[0], base(**inputs).last_hidden_state)
        features = base.get_video_features(**of_videos(inputs), return_dict=False)
        assert isinstance(features, tuple)
        expected = base.get_video_features(**of_videos(inputs)).pooler_output
        assert all(map(torch.equal, features[0], expected))


def test_features_are_one_tensor_a_video(model):
    inputs = of_videos(tiny_inputs(model.config, [5, 1, 3]))
    with torch.no_grad():
        features = model.model.get_video_features(inputs.pop("pixel_values_videos"), **inputs)
    assert isinstance(features, ModelOutput)
    assert [tokens.dim() for tokens in features.pooler_output] == [2, 2, 2]
    assert {tokens.shape[1] for tokens in features.pooler_output} == {model.config.get_text_config().hidden_size}


# ---- attention ----


@pytest.mark.parametrize("text", ["llama", "qwen3", "gemma3_text"])
def test_every_layer_attends_through_the_interface(text):
    sliding = {"sliding_window": 16} if text == "gemma3_text" else {}
    config = tiny_config(text_config=tiny_text_config(text, num_hidden_layers=3, **sliding))
    config.get_text_config()._attn_implementation = "vllm"
    base = AutoModel.from_config(config).eval()
    inputs = tiny_inputs(config, [3])
    with torch.no_grad():
        (tokens,) = base.get_video_features(**of_videos(inputs)).pooler_output
    embeds = torch.cat([tokens, base.get_input_embeddings()(torch.tensor([8, 9])).detach()])
    hidden, attention = run(base, embeds, [len(embeds)])
    assert hidden.shape == embeds.shape and hidden.isfinite().all()
    # Each layer once, with a scale of its own.
    layers = base.language_model.layers
    assert [one.scalings for one in attention.values()] == [[layer.self_attn.scaling] for layer in layers]


def test_keyword_arguments_reach_the_attention_past_videos_and_head(model, monkeypatch):
    inputs = tiny_inputs(model.config, [3])
    with torch.no_grad():
        expected = model(**inputs)
        monkeypatch.setattr(model.get_decoder().config, "_attn_implementation", "vllm")
        del inputs["attention_mask"]
        for which in (model, model.model):
            attention = {layer: Attention([inputs["input_ids"].shape[1]]) for layer in range(2)}
            outputs = which(**inputs, attention_instances=attention)
            assert [len(one.scalings) for one in attention.values()] == [1, 1]
            same(outputs.logits if which is model else model.lm_head(outputs[0]), expected.logits)


def test_the_other_parts_keep_their_own_attention(served):
    parts = {"vision_tower.backbone": "sdpa", "question_encoder.qformer": "sdpa", "language_model": "vllm"}
    found = {name: served.get_submodule(name).config._attn_implementation for name in parts}
    assert found == parts


# ---- the processor ----


def test_the_question_is_a_declared_keyword(processor):
    """vLLM gives keywords that are not declared to the constructor, and loads a processor for every other value."""
    annotation = inspect.signature(type(processor).__call__).parameters["kwargs"].annotation
    (declared,) = typing.get_args(annotation)
    assert declared is processor.valid_processor_kwargs
    of_video = typing.get_type_hints(declared)["videos_kwargs"].__annotations__
    assert {"question", "max_visual_tokens", "num_frames", "fps", "do_sample_frames"} <= of_video.keys()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"question": QUESTION},
        {"max_visual_tokens": 60},
        {"num_prototypes": 3, "key_ratio": 0.5},
        {"do_sample_frames": True},
        {"do_sample_frames": True, "max_frames": 6},
        {"do_sample_frames": True, "num_frames": 1},
        {"do_sample_frames": False, "max_frames": 6},
    ],
)
def test_placeholders_are_as_many_as_announced_and_used(processor, model, settings):
    videos = [frames_of(num_frames, seed=num_frames) for num_frames in (1, 2, 30, 7)]
    sizes = [video.shape[:3] for video in videos]
    announced = processor._get_num_multimodal_tokens(video_sizes=sizes, **settings)["num_video_tokens"]
    inputs = processed(processor, videos, **settings)
    texts = replacements(inputs)
    ids = [processor.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert ids == [[model.config.video_token_id] * count for count in announced]
    assert texts == [processor.replace_video_token(inputs, row) for row in range(len(videos))]
    assert [len(tokens) for tokens in encode(model.model, items(inputs))] == announced
    assert inputs["input_ids"].tolist() == [sum(ids, [])]


def test_sizes_of_images_count_as_videos_of_one_frame(processor):
    """vLLM may ask for the largest image before it knows that there are none."""
    sizes = [(10_000, 10_000), (24, 40)]
    announced = processor._get_num_multimodal_tokens(image_sizes=sizes, video_sizes=[(1, 24, 40)], question=QUESTION)
    assert announced["num_image_tokens"] == announced["num_video_tokens"] * 2
    assert announced["num_image_patches"] == [1, 1]
    alone = processor._get_num_multimodal_tokens(image_sizes=sizes)
    assert alone["num_image_tokens"] == announced["num_image_tokens"]
    assert "num_video_tokens" not in alone


@pytest.mark.parametrize("num_videos", [1, 2, 3])
def test_every_field_has_one_row_a_video(processor, model, num_videos):
    inputs = processed(processor, [frames_of(3 + row) for row in range(num_videos)], question=QUESTION)
    names = set(inputs) - NOT_OF_THE_VIDEOS
    assert names == {
        "pixel_values_videos",
        "video_frame_mask",
        "video_token_plan",
        "question_input_ids",
        "question_attention_mask",
    }
    assert all(isinstance(inputs[name], torch.Tensor) and len(inputs[name]) == num_videos for name in names)
    assert names <= inspect.signature(model.model.get_video_features).parameters.keys()


def test_the_question_belongs_to_each_video_of_its_request(processor, model):
    videos = [frames_of(9), frames_of(4, seed=1)]
    asked = items(processed(processor, videos, question=QUESTION))
    for video, tokens in zip(videos, encode(model.model, asked), strict=True):
        plain = processor(text=f"<video> {QUESTION}", videos=video, return_tensors="pt")
        with torch.no_grad():
            same(tokens, model.get_video_features(**of_videos(plain)).pooler_output[0])
    other = encode(model.model, items(processed(processor, videos, question="blue?")))
    silent = encode(model.model, items(processed(processor, videos)))
    for answers in zip(encode(model.model, asked), other, silent, strict=True):
        assert not any(torch.equal(*pair) for pair in ((answers[0], answers[1]), (answers[0], answers[2])))


def test_a_trial_run_without_a_question(processor, model):
    """vLLM measures its memory with 16 blank frames of the largest size that makes a difference."""
    size = processor.video_processor.size
    blank = np.full((16, size.get("height"), size.get("width"), 3), 255, np.uint8)
    assert processor.video_processor.fps and processor.video_processor.do_sample_frames
    inputs = processed(processor, [blank, blank])
    assert inputs["question_attention_mask"].tolist() == [[1], [1]]
    tokens = encode(model.model, items(inputs))
    assert all(one.isfinite().all() for one in tokens)


# ---- both together ----


@pytest.mark.parametrize("num_frames", [(5, 5), (5, 3), (4, 4, 9)])
def test_videos_of_several_requests_are_encoded_together(processor, model, num_frames):
    """Their questions, and maybe their lengths, differ: what cannot be stacked comes as a list."""
    questions = ["red?", QUESTION, "which shape comes first, which one last?"]
    requests = [
        items(processed(processor, [frames_of(count, seed=row)], question=questions[row]))[0]
        for row, count in enumerate(num_frames)
    ]
    together = encode(model.model, requests)
    assert len(together) == len(requests)
    for request, tokens in zip(requests, together, strict=True):
        same(tokens, encode(model.model, [request])[0])


def test_prompts_in_one_row_are_answered_as_alone(processor, model, served):
    prompts = [
        (f"<s>user: <video>\n{QUESTION}", [frames_of(5)]),
        ("<video> or <video>, blue?", [frames_of(3, seed=1), frames_of(4, seed=2)]),
        ("hello", []),
    ]
    expected, embeds, lengths = [], [], []
    for prompt, videos in prompts:
        question = {"question": QUESTION} if videos else {}
        plain = processor(text=prompt, videos=videos or None, return_tensors="pt", **question)
        with torch.no_grad():
            expected.append(model.model(**plain).last_hidden_state[0])
        inputs = processed(processor, videos, **question) if videos else None
        updates = iter(replacements(inputs) if videos else [])
        ids = []
        for token in processor.tokenizer(prompt)["input_ids"]:
            is_mark = token == processor.video_token_id
            ids += processor.tokenizer.encode(next(updates), add_special_tokens=False) if is_mark else [token]
        ids = torch.tensor(ids)
        assert torch.equal(ids, plain["input_ids"][0])
        row = served.get_input_embeddings()(ids).detach()
        if videos:
            row[ids == processor.video_token_id] = torch.cat(encode(served, items(inputs)))
        embeds.append(row)
        lengths.append(len(row))
    hidden, _ = run(served, torch.cat(embeds), lengths)
    for found, alone in zip(hidden.split(lengths), expected, strict=True):
        same(found, alone)
