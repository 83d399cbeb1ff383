"""A processor for pretrained backbones: frames, token plan, and chat templates that were written for strings."""

import json

import numpy as np
import pytest
import torch
from tiny_backbones import plain_tokenizer, save_language_model, save_vision

from dynfocus import DynFocusProcessor, VisionTower, VisionTowerConfig, from_backbones
from dynfocus.adoption.backbone_processor import frames_of, readable_blocks

CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
CHATML_WITH_GENERATION = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] -}}{%- endgeneration -%}{{- '<|im_end|>' -}}
{%- else -%}{{- message['content'] + '<|im_end|>' -}}{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
"""
LLAMA3 = """\
{% set loop_messages = messages %}{% for message in loop_messages %}\
{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ \
message['content'] | trim + '<|eot_id|>' %}\
{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
LLAMA31_SYSTEM = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+
        message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
# Thoughts of earlier turns are taken out, and the last answer gets an empty place for them.
QWEN3 = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and
        not(message.content.startswith('<tool_response>') and
        message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n')
                    .split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' +
                    reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "llama3.1": LLAMA31_SYSTEM, "qwen3": QWEN3}


def text(words):
    return {"type": "text", "text": words}


VIDEO = {"type": "video", "video": np.zeros((2, 8, 8, 3), dtype=np.uint8)}
# What has blocks, and the same in strings.
CONVERSATIONS = {
    "one turn": (
        [{"role": "user", "content": [VIDEO, text("What is it?")]}],
        [{"role": "user", "content": "<video>\nWhat is it?"}],
    ),
    "a system's words": (
        [
            {"role": "system", "content": [text("Be brief. "), text("Be kind.")]},
            {"role": "user", "content": [text("Look: "), VIDEO, text("what is it?")]},
        ],
        [
            {"role": "system", "content": "Be brief. Be kind."},
            {"role": "user", "content": "Look: <video>\nwhat is it?"},
        ],
    ),
    "several turns, some in strings": (
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [VIDEO, VIDEO, text("Which?")]},
            {"role": "assistant", "content": [text("<think>\nhm\n</think>\n\nThe first.")]},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": [text("It is red.")]},
        ],
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "<video>\n<video>\nWhich?"},
            {"role": "assistant", "content": "<think>\nhm\n</think>\n\nThe first."},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "It is red."},
        ],
    ),
}


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    root = tmp_path_factory.mktemp("backbones")
    return save_vision("siglip", root / "vision"), save_language_model("llama", root / "language")


# ---- chat templates ----


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("generation_prompt", [False, True])
@pytest.mark.parametrize("template", TEMPLATES)
def test_blocks_read_as_the_strings_that_they_stand_for(template, generation_prompt, conversation):
    blocks, strings = CONVERSATIONS[conversation]
    tokenizer, options = plain_tokenizer(), {"tokenize": False, "add_generation_prompt": generation_prompt}
    original, readable = TEMPLATES[template], readable_blocks(TEMPLATES[template])
    expected = tokenizer.apply_chat_template(strings, chat_template=original, **options)
    assert tokenizer.apply_chat_template(blocks, chat_template=readable, **options) == expected
    assert tokenizer.apply_chat_template(strings, chat_template=readable, **options) == expected
    assert readable.endswith(original)
    assert "<video>\n" in expected
    if template == "qwen3" and len(strings) > 2:
        assert "hm" not in expected and "<think>\n\n</think>\n\nIt is red." in expected


def test_other_settings_of_a_template_reach_it():
    blocks, strings = CONVERSATIONS["one turn"]
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    expected = plain_tokenizer().apply_chat_template(strings, chat_template=QWEN3, **options)
    assert plain_tokenizer().apply_chat_template(blocks, chat_template=readable_blocks(QWEN3), **options) == expected
    assert expected.endswith("<think>\n\n</think>\n\n")


def test_turns_without_content_and_other_keys_stay_as_they_are():
    template = "{% for m in messages %}{{ m.role }}:{{ m.content }}:{{ m.tool_calls }};{% endfor %}"
    turns = [{"role": "assistant", "content": None, "tool_calls": [1]}, {"role": "tool", "content": [text("a")]}]
    turns.append({"role": "assistant", "content": [text("b")], "tool_calls": [2]})
    tokenizer = plain_tokenizer()
    found = tokenizer.apply_chat_template(turns, chat_template=readable_blocks(template), tokenize=False)
    strings = [turns[0], {**turns[1], "content": "a"}, {**turns[2], "content": "b"}]
    assert found == tokenizer.apply_chat_template(strings, chat_template=template, tokenize=False)
    assert found.endswith("assistant:b:[2];")


def test_generation_blocks_mark_the_answers():
    blocks, strings = ([turns[1], *turns[3:]] for turns in CONVERSATIONS["several turns, some in strings"])
    options = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    tokenizer, original = plain_tokenizer(), CHATML_WITH_GENERATION
    expected = tokenizer.apply_chat_template(strings, chat_template=original, **options)
    found = tokenizer.apply_chat_template(blocks, chat_template=readable_blocks(original), **options)
    assert found["input_ids"] == expected["input_ids"]
    assert found["assistant_masks"] == expected["assistant_masks"]
    assert sum(found["assistant_masks"]) == len("It is red.")


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_processor_has_the_language_models_template(template, names, tmp_path):
    language_model = save_language_model("llama", tmp_path / "language", chat_template=TEMPLATES[template])
    processor = from_backbones(names[0], language_model)[1]
    blocks, strings = CONVERSATIONS["one turn"]
    prompt = processor.apply_chat_template(blocks, add_generation_prompt=True)
    assert prompt == processor.tokenizer.apply_chat_template(strings, add_generation_prompt=True, tokenize=False)
    assert "assistant" in prompt and "USER" not in prompt
    inputs = processor.apply_chat_template(blocks, tokenize=True, return_dict=True, return_tensors="pt")
    cost = processor.token_budget().plan(2).num_visual_tokens
    assert int((inputs["input_ids"] == processor.video_token_id).sum()) == cost
    processor.save_pretrained(tmp_path / "saved")
    loaded = DynFocusProcessor.from_pretrained(tmp_path / "saved")
    assert loaded.chat_template == processor.chat_template == loaded.tokenizer.chat_template
    again = loaded.apply_chat_template(blocks, tokenize=True, return_dict=True, return_tensors="pt")
    assert torch.equal(again["input_ids"], inputs["input_ids"])


def test_without_a_template_ours_is_used_and_a_given_one_wins(names):
    blocks, _ = CONVERSATIONS["one turn"]
    processor = from_backbones(*names)[1]
    assert processor.apply_chat_template(blocks, add_generation_prompt=True).endswith("What is it?\nASSISTANT:")
    processor = from_backbones(*names, chat_template="{{ messages | length }}")[1]
    assert processor.apply_chat_template(blocks) == "1"


def test_of_several_templates_the_default_is_taken():
    templates = {"tool_use": "{{ 1 }}", "default": CHATML}
    assert readable_blocks(templates) == readable_blocks(CHATML)


def test_another_word_for_videos_is_written():
    blocks, _ = CONVERSATIONS["one turn"]
    template = readable_blocks(CHATML, "<|film|>")
    assert "<|film|>\nWhat" in plain_tokenizer().apply_chat_template(blocks, chat_template=template, tokenize=False)


# ---- frames ----


@pytest.mark.parametrize("kind", ["siglip", "clip", "dinov2", "open_clip"])
@pytest.mark.parametrize("normalized", [True, False])
def test_frames_are_what_the_tower_was_trained_on(kind, normalized, names, tmp_path):
    """Read by each side on its own: size, mean and standard deviation are the tower's."""
    if kind == "open_clip":
        pytest.importorskip("open_clip")
    vision = save_vision(kind, tmp_path / "vision")
    if not normalized and kind == "open_clip":
        config = json.loads((tmp_path / "vision/open_clip_config.json").read_text())
        (tmp_path / "vision/open_clip_config.json").write_text(json.dumps({**config, "preprocess_cfg": {}}))
    elif not normalized:
        (tmp_path / "vision/preprocessor_config.json").unlink()
    if kind == "open_clip":
        tower = VisionTower.from_open_clip(vision.removeprefix("open_clip:"))
    else:
        tower = VisionTower.from_backbone(vision)
    frames = from_backbones(vision, names[1])[1].video_processor
    assert dict(frames.size) == {"height": tower.config.image_size, "width": tower.config.image_size}
    assert list(frames.image_mean) == pytest.approx(list(tower.config.image_mean))
    assert list(frames.image_std) == pytest.approx(list(tower.config.image_std))
    assert frames.resample == (2 if normalized and kind != "open_clip" else 3)
    assert (frames.fps, frames.max_frames, frames.num_frames) == (1.0, 512, None)
    assert normalized == (frames.image_mean[2] == 0.6)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16-SigLIP2-256", "EVA02-L-14-336"])
def test_published_open_clip_models(name):
    """Known without their weights; with a tag, as they were trained."""
    open_clip = pytest.importorskip("open_clip")
    config = VisionTowerConfig(open_clip_model=name)
    frames = frames_of(f"open_clip:{name}", {})
    assert frames["size"] == config.image_size
    assert frames["image_mean"] == pytest.approx(config.image_mean)
    tag = open_clip.list_pretrained_tags_by_model(name)[0]
    trained = frames_of(f"open_clip:{name}/{tag}", {})
    expected = open_clip.get_pretrained_cfg(name, tag)
    assert trained["image_mean"] == pytest.approx(list(expected.get("mean") or frames["image_mean"]))


# ---- token plan and settings ----


@pytest.mark.parametrize(
    ("positions", "expected"), [(40960, 4096), (2048, 1536), (2050, 1538), (60, 40), (8191, 4096)]
)
def test_one_video_leaves_room_for_words_and_an_answer(positions, expected, names, tmp_path):
    """448 positions for words (of few positions, half at most) and 64 for the answer, as in the pipeline."""
    language_model = save_language_model("llama", tmp_path / "language", max_position_embeddings=positions)
    processor = from_backbones(names[0], language_model)[1]
    assert processor.max_visual_tokens == expected
    assert processor.token_budget().plan(500).num_visual_tokens <= expected
    gpt2 = save_language_model("gpt2", tmp_path / "gpt2")
    assert from_backbones(names[0], gpt2)[1].max_visual_tokens == 224


def test_presets_and_settings(names):
    default = from_backbones(*names)[1]
    assert (default.num_prototypes, default.key_ratio, default.rods_on_key_frames) == (25, 0.8, True)
    released = from_backbones(*names, preset="released_code", key_ratio=0.5)[1]
    assert (released.num_prototypes, released.key_ratio, released.rods_on_key_frames) == (80, 0.5, False)
    own = from_backbones(*names, fps=2.0, max_frames=8, max_question_tokens=9, max_visual_tokens=99)[1]
    assert (own.video_processor.fps, own.video_processor.max_frames) == (2.0, 8)
    assert (own.max_question_tokens, own.max_visual_tokens) == (9, 99)
    assert from_backbones(*names, size=16)[1].video_processor.size["height"] == 16
