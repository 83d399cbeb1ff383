"""Folders that mean harm: one sentence each, in time. `scripts/hostile_folders.py` makes and tries all of them."""

import importlib.util
import json
import re
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import save_file

from dynfocus.hub.folder_check import check_folder
from dynfocus.processing.processing_dynfocus import DEFAULT_CHAT_TEMPLATE
from dynfocus.processing.templates import UnusableTemplate, check_template

SCRIPT = Path(__file__).parents[2] / "scripts" / "hostile_folders.py"
spec = importlib.util.spec_from_file_location("hostile_folders", SCRIPT)
assert spec is not None and spec.loader is not None
hostile = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hostile)
CHANGES = dict(hostile.changes())

# Refused before anything is built, or as soon as it is.
SAID = {
    "config.json: text_config.num_hidden_layers is 1000000": "in its config.json, `num_hidden_layers` is 1,000,000",
    "config.json: text_config.vocab_size is 1000000000": "in its config.json, `vocab_size` is 1,000,000,000",
    "config.json: question_config.max_position_embeddings is 10000000000": "`max_position_embeddings` is 10,000,000",
    "config.json: vision_config.backbone_config.image_size is 1000000": "`image_size` is 1,000,000",
    "config.json: event_clustering is evil": "'event_clustering': 'evil'",
    "config.json: question_context is evil": "`question_context` must be 'grouped' or 'patches', got 'evil'",
    "config.json: selection_sigma is nan": "`selection_sigma` must be a number of at least 0, got nan",
    "config.json: a list": "its config.json must hold a JSON object, got list",
    "config.json: deep": "its config.json is nested too deeply",
    "tokenizer.json: a folder": "its tokenizer.json is a folder, a pipe or a device, not a file",
    "tokenizer.json: a pipe": "its tokenizer.json is a folder, a pipe or a device, not a file",
    "chat_template.jinja: a link to itself": "its chat_template.jinja cannot be read",
    "generation_config.json: not UTF-8": "its generation_config.json is not valid UTF-8",
    "processor_config.json: empty": "its processor_config.json is not valid JSON",
    "index: outside": "names '../../../../etc/passwd', which is no safetensors file of this folder",
    "index: missing": "names 'model-00009-of-00009.safetensors', which is not there",
    "index: a number": "names '7', which is no safetensors file",
    "weights: length of header": "its model.safetensors is damaged or cut off",
    "template: loops": "The chat template does not come to an end",
    "template: power in a branch": "The chat template computes a power",
    "template: zero": "The chat template cannot be rendered: ZeroDivisionError",
}


def test_there_are_many_and_all_have_names():
    assert len(CHANGES) == len(list(hostile.changes())) >= 200
    assert [name for name, _ in hostile.changes(3)] != list(CHANGES)


@pytest.mark.parametrize("name", SAID)
def test_folders_that_mean_harm_are_refused_in_one_sentence(tmp_path, name):
    found = hostile.ask(str(hostile.make_folder(tmp_path / "model", CHANGES[name])))
    assert found.startswith("refused: ") and SAID[name] in found and "\n" not in found


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (
            {"one": "a.safetensors", "two": "a.safetensors", "more": "b.safetensors"},
            "says that two is in a.safetensors, but it is in b",
        ),
        ({"one": "a.safetensors", "more": "b.safetensors"}, "leaves out two, which is in b.safetensors"),
        (
            {"one": "a.safetensors", "two": "b.safetensors", "more": "b.safetensors", "three": "b.safetensors"},
            "three is in b.safetensors, but",
        ),
        (
            {"one": "a.safetensors", "two": "b.safetensors", "more": "b.safetensors", "both": "a.safetensors"},
            "both is in a.safetensors and in",
        ),
        ({"one": "a.safetensors", "two": "b.safetensors", "more": "b.safetensors"}, None),
    ],
)
def test_an_index_names_the_one_file_of_every_weight(tmp_path, index, said):
    (tmp_path / "config.json").write_text("{}")
    both = {"both": torch.zeros(2)} if "both" in index else {}
    save_file({"one": torch.zeros(2), **both}, tmp_path / "a.safetensors")
    save_file({"two": torch.zeros(2), "more": torch.zeros(2), **both}, tmp_path / "b.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    if said is None:
        check_folder(tmp_path)
    else:
        with pytest.raises(ValueError, match=re.escape(said)):
            check_folder(tmp_path)


def test_a_good_folder_is_answered(tmp_path):
    folder = hostile.make_folder(tmp_path / "model", lambda folder: (folder / "notes.json").write_text("[1]"))
    check_folder(folder)
    assert hostile.ask(str(folder)).startswith("answered: ")


CHAT = [
    {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": 'Which? {"id": 123456789} 100%'}]},
    {"role": "assistant", "content": "a" * 10_000},
]
ENDLESS = {name: text for name, text in hostile.TEMPLATES.items() if name not in ("large", "macro that doubles")}


@pytest.mark.parametrize("name", ENDLESS)
def test_templates_end(name):
    """In another thread, too, where no signal could stop them."""
    outcomes = []

    def check():
        try:
            check_template(hostile.TEMPLATES[name], CHAT, add_generation_prompt=True, bos_token="<s>")
            outcomes.append("rendered")
        except Exception as error:
            outcomes.append(type(error).__name__)

    thread = Thread(target=check)
    thread.start()
    thread.join()
    fine = ("no words", "empty", "wordwrap", "not utf-8", "undefined", "syntax", "type", "attribute", "raise")
    if name in (*fine, "include", "extends"):
        assert outcomes != ["UnusableTemplate"]
    else:
        assert outcomes == ["UnusableTemplate"]


def test_templates_that_are_in_use_pass():
    long_chat = CHAT * 500
    check_template(DEFAULT_CHAT_TEMPLATE, long_chat, bos_token="<s>", eos_token="</s>")
    check_template({"default": DEFAULT_CHAT_TEMPLATE}, CHAT, bos_token="<s>", eos_token="</s>")
    useful = (
        "{%- set ns = namespace(n=0) -%}{%- for m in messages -%}{%- set ns.n = ns.n + 1 -%}"
        "{%- for b in m.content if b is mapping -%}{{ b.type ~ loop.index|string ~ loop.length }}"
        "{{ b.text|default('')|trim|replace('?', '!') if b.text }}{%- endfor -%}"
        "{% if loop.last %}{% break %}{% endif %}"
        "{%- endfor -%}{{ '-' * 80 }}{{ messages|tojson(indent=2) }}{{ ['a', 'b']|join(', ') }}"
        "{{ '%s-%d' % ('a', ns.n) }}"
        "{{ strftime_now('%Y') }}{% generation %}x{% endgeneration %}{{ 'a,b'.split(',')|length }}{{ '{}'.format(1) }}"
    )
    check_template(useful, CHAT, tools=None)
    with pytest.raises(UnusableTemplate, match="must be a text, got int"):
        check_template(7, CHAT)
