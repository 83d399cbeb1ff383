"""The plug-in for vLLM, without vLLM: it finds the question in a prompt, passes on files, refuses unknown settings."""

import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from tiny import make_tiny_processor
from videos import barcode_frames, write_video

from dynfocus.processing.prompt_question import PromptQuestion
from dynfocus.processing.vllm_plugin import SETTINGS, FileLoader, register, settings_of

QUESTION = "which number is shown with the red star?"
VIDEO = {"type": "video"}
CHATML = """\
{%- for message in messages -%}
    {{- '<' + message['role'] + '>\\n' -}}
    {%- for block in message['content'] -%}
        {%- if block['type'] == 'video' -%}{{- 'in <video> out' -}}{%- else -%}{{- block['text'] -}}{%- endif -%}
    {%- endfor -%}
    {{- '<end>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<assistant>\\n' -}}{%- endif -%}
{%- if add_generation_prompt and short -%}{{- 'thought: none.' -}}{%- endif -%}
"""


def text(said):
    return {"type": "text", "text": said}


def turn(role, *blocks):
    return {"role": role, "content": [text(block) if isinstance(block, str) else block for block in blocks]}


CHATS = {
    "after the video": [turn("user", VIDEO, QUESTION)],
    "before the video": [turn("user", QUESTION, VIDEO)],
    "around the video": [turn("user", "which number is shown", VIDEO, "with the red star?")],
    "two videos": [turn("user", VIDEO, "which number is shown", VIDEO, "with the red star?")],
    "videos side by side": [turn("user", VIDEO, VIDEO, QUESTION)],
    "system": [turn("system", "answer with a number."), turn("user", VIDEO, QUESTION)],
    "later": [turn("user", VIDEO, "what is it?"), turn("assistant", "a star"), turn("user", QUESTION)],
    "video in a later turn": [turn("user", "hello"), turn("assistant", "hello"), turn("user", QUESTION, VIDEO)],
    "two in a row": [turn("user", VIDEO, "hello"), turn("user", QUESTION)],
    "several lines": [turn("user", VIDEO, "first line\nsecond line")],
}


@pytest.fixture(scope="module", params=["plain", "chatml"])
def processor(request):
    return make_tiny_processor(**({"chat_template": CHATML} if request.param == "chatml" else {}))


@pytest.fixture(scope="module")
def question(processor):
    return PromptQuestion(processor)


def rendered(processor, chat, **options):
    return processor.apply_chat_template(chat, tokenize=False, **{"add_generation_prompt": True, **options})


def asked(chat):
    return " ".join(block["text"] for block in chat[-1]["content"] if block["type"] == "text")


@pytest.mark.parametrize("name", CHATS)
def test_the_question_is_the_text_of_the_last_user_turn(processor, question, name):
    chat = CHATS[name]
    prompt = rendered(processor, chat)
    # vLLM passes token ids.
    ids = processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert question.find(prompt) == question.find(ids) == asked(chat)


def test_what_follows_the_turn_is_no_part_of_it(processor, question):
    """A thought that a template writes before some answers, and an answer that the prompt has begun."""
    chat = CHATS["after the video"]
    assert question.find(rendered(processor, chat, short=True)) == QUESTION
    begun = [*chat, turn("assistant", "the number")]
    prompt = rendered(processor, begun, add_generation_prompt=False, continue_final_message=True)
    assert "the number" in prompt
    assert question.find(prompt) == QUESTION


@pytest.mark.parametrize("prompt", [f"<video>\n{QUESTION}", "", "<video>", f"human: <video> {QUESTION} machine:"])
def test_a_prompt_of_another_form_is_refused(question, prompt):
    with pytest.raises(ValueError, match="The question was not found.*mm_processor_kwargs="):
        question.find(prompt)


@pytest.mark.parametrize("blocks", [[VIDEO], [VIDEO, ""], [VIDEO, "  "]])
def test_a_turn_without_text_is_refused(processor, question, blocks):
    with pytest.raises(ValueError, match="The last user turn has no text"):
        question.find(rendered(processor, [turn("user", *blocks)]))
    # An earlier question is not asked again.
    chat = [turn("user", VIDEO, QUESTION), turn("assistant", "47"), turn("user", *blocks)]
    with pytest.raises(ValueError, match="The last user turn has no text"):
        question.find(rendered(processor, chat))


def test_the_loader_passes_on_the_file(tmp_path):
    file = write_video(tmp_path / "video.mp4", barcode_frames(60))
    # vLLM gives its own number of frames to every loader.
    passed, metadata = FileLoader.load_bytes(file.read_bytes(), num_frames=32)
    assert passed.ndim == 1 and metadata == {"do_sample_frames": False}
    processor = make_tiny_processor().video_processor
    for settings in (
        {},
        {"fps": 2},
        {"num_frames": 4},
        {"sampling": "key_frames"},
        {"max_frames": 3, "video_start": 1.0},
    ):
        frames, metadata = processor.fetch_videos(passed.tobytes(), **settings)
        direct = processor(file, return_metadata=True, return_tensors="pt", **settings)
        again = processor(
            [frames],
            video_metadata=[metadata],
            do_sample_frames=False,
            sampling="key_frames",  # of the server, perhaps
            return_metadata=True,
            return_tensors="pt",
        )
        assert np.array_equal(again["pixel_values_videos"], direct["pixel_values_videos"])
        assert again["video_metadata"][0].timestamps == direct["video_metadata"][0].timestamps
    assert len(processor.fetch_videos(passed.tobytes())[0]) == 6


@pytest.mark.parametrize(
    ("server", "media", "request_", "expected"),
    [
        ({}, {}, {}, {}),
        ({"fps": 2, "max_frames": 9}, {}, {"fps": 1, "question": "?"}, {"fps": 1, "max_frames": 9, "question": "?"}),
        # Rates exclude each other.
        ({"fps": 2, "max_frames": 9}, {}, {"num_frames": 4}, {"num_frames": 4, "max_frames": 9}),
        ({"num_frames": 4}, {"fps": 2}, {}, {"fps": 2}),
        ({"num_frames": 4}, {"fps": 2}, {"sampling": "key_frames"}, {"sampling": "key_frames"}),
        ({"num_frames": 4}, {}, {"max_frames": 9, "fps": None}, {"num_frames": 4, "max_frames": 9, "fps": None}),
    ],
)
def test_settings_of_a_request_replace_those_of_the_server(server, media, request_, expected):
    assert settings_of(server, media, request_) == expected


@pytest.mark.parametrize(
    ("server", "media", "request_", "named"),
    [
        ({}, {}, {"questoin": QUESTION}, "`mm_processor_kwargs` has no setting `questoin`"),
        ({"do_sample_frames": False}, {}, {}, "`mm_processor_kwargs` has no setting `do_sample_frames`"),
        ({"size": 32}, {}, {"fps": 2}, "`mm_processor_kwargs` has no setting `size`"),
        ({}, {}, {"videos_kwargs": {"fps": 2}}, "`mm_processor_kwargs` has no setting `videos_kwargs`"),
        ({}, {"video_backend": "opencv"}, {}, "`media_io_kwargs` has no setting `video_backend`"),
        ({}, {"question": QUESTION}, {}, "`media_io_kwargs` has no setting `question`"),
    ],
)
def test_unknown_settings_are_refused_by_name(server, media, request_, named):
    with pytest.raises(ValueError, match=named):
        settings_of(server, media, request_)


def test_the_settings_are_declared_by_the_processor():
    known = make_tiny_processor().valid_processor_kwargs.__annotations__["videos_kwargs"].__annotations__
    assert set(SETTINGS) <= known.keys()


def test_the_entry_point_leads_to_the_plug_in():
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    module, _, name = project["project"]["entry-points"]["vllm.general_plugins"]["dynfocus"].partition(":")
    assert getattr(import_module(module), name) is register


def test_vllm_is_given_the_loader_and_the_model(monkeypatch):
    """With stand-ins for what it calls; called twice, as vLLM may do."""
    loaders, models, names = {}, {}, {"other": "OtherVideoProcessor"}

    class Loaders:
        @staticmethod
        def register(name, video_processor):
            return lambda loader: loaders.update({(name, video_processor): loader})

    stand_ins = {
        "vllm": {"ModelRegistry": SimpleNamespace(register_model=models.__setitem__)},
        "vllm.multimodal.video": {"VIDEO_LOADER_REGISTRY": Loaders},
        "vllm.transformers_utils.processor": {"VIDEO_PROCESSOR_MAPPING_NAMES": names},
    }
    for name in (*stand_ins, "vllm.multimodal", "vllm.transformers_utils"):
        module = ModuleType(name)
        module.__dict__.update(stand_ins.get(name, {}))
        monkeypatch.setitem(sys.modules, name, module)
    register()
    register()
    assert loaders == {("dynfocus", "DynFocusVideoProcessor"): FileLoader}
    assert names == {"other": "OtherVideoProcessor", "dynfocus": "DynFocusVideoProcessor"}
    assert models == {"DynFocusForConditionalGeneration": "dynfocus.processing.vllm_model:DynFocusForVLLM"}
