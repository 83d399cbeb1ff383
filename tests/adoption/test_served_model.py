"""A model on an OpenAI-compatible server: what it is sent, what comes back, and one sentence for each fault."""

import base64
import contextlib
import copy
import io
import json
import math
import re
import threading

import numpy as np
import pytest
from adopted_models import greedy, stock
from chat_server import ChatServer
from model_server import ModelServer, transformers_serve
from PIL import Image
from tiny_dual_encoders import save_dual_encoder
from transformers import AutoProcessor
from videos import barcode_frames, read_barcode, write_video

from dynfocus import VideoQAPipeline
from dynfocus.adoption.focused_model import FocusedModel
from dynfocus.adoption.served_model import ServedModel
from dynfocus.towers.dual_encoder import DualEncoder

pytest.importorskip("openai")

KEY = "sk-tellnobody-0123456789"
QUESTION = "Which bar is white?"
SETTINGS = {"tokens_per_key_frame": 16, "max_visual_tokens": 200}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    return DualEncoder.from_pretrained(save_dual_encoder("siglip", folder / "one"), device="cpu")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    frames = barcode_frames(24, height=96, width=128)
    return str(write_video(tmp_path_factory.mktemp("film") / "a film.mp4", frames, fps=2))


@pytest.fixture(scope="module")
def state(encoder, film):
    return ServedModel("http://127.0.0.1:1/v1", "m", encoder).encode_video(film)


def served(server, encoder, **options) -> ServedModel:
    return ServedModel(server.url, "m", encoder, **{"max_retries": 0, **SETTINGS, **options})


def pictures(content) -> list[Image.Image]:
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


def texts(content) -> list[str]:
    return [part["text"] for part in content if part["type"] == "text"]


# ------------------------------------------------------------------------------------------------ what is sent


def test_key_frames_are_sent_as_pictures_with_their_times(encoder, state, film):
    with ChatServer(lambda content, _: "the third", usage={"prompt_tokens": 300}) as server:
        model = served(server, encoder, tokens_per_key_frame=400, max_visual_tokens=2000, coarse="none")
        (answer,) = model.answer([(state, QUESTION)], max_new_tokens=7)
    (content,) = server.rows
    assert answer.answer == "the third" and len(answer.key_frames) >= 2
    # A video of 2 frames a second: the frame of a second has twice its number.
    times = [frame["time"] for frame in answer.key_frames]
    assert texts(content) == [*(f"{time:.1f}s: " for time in times), QUESTION]
    assert [read_barcode(np.asarray(picture)) for picture in pictures(content)] == [2 * time for time in times]
    (body,) = server.bodies
    assert (body["model"], body["max_tokens"], body["temperature"], body["logprobs"]) == ("m", 7, 0, True)
    assert server.keys == {KEY}
    assert (answer.num_visual_tokens, answer.num_dense_tokens, answer.num_prompt_tokens) == (None, None, 300)


def test_a_server_that_counts_pictures_is_believed(encoder, state):
    usage = {"prompt_tokens": 300, "prompt_tokens_details": {"image_tokens": 250}}
    with ChatServer(lambda content, _: "yes", usage=usage) as server:
        (answer,) = served(server, encoder).answer([(state, QUESTION)])
    assert (answer.num_visual_tokens, answer.num_prompt_tokens) == (250, 300)


@pytest.mark.parametrize("coarse", ["none", "low", "panels"])
@pytest.mark.parametrize("budget", [30, 77, 200, 5000])
def test_what_is_sent_counts_no_more_than_the_budget(encoder, state, coarse, budget):
    with ChatServer(lambda content, _: "yes") as server:
        model = served(server, encoder, coarse=coarse, tokens_per_coarse_frame=4)
        (answer,) = model.answer([(state, QUESTION)], max_visual_tokens=budget)
    (content,) = server.rows
    sizes = [picture.width * picture.height for picture in pictures(content)]
    assert all(size % (28 * 28) == 0 and size <= 16 * 28 * 28 for size in sizes)
    assert sum(sizes) // 28**2 + sum(map(len, texts(content)[:-1])) <= budget
    assert (len(sizes) > len(answer.key_frames)) == (coarse != "none" and 30 < budget < 5000)


def test_a_processor_writes_the_times_of_its_family(encoder, state, tmp_path):
    model, processor = stock("qwen3_vl")
    processor.save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    with ChatServer(lambda content, _: "yes") as server:
        mine = served(server, encoder, processor=tmp_path, coarse="none")
        (answer,) = mine.answer([(state, QUESTION)])
    (content,) = server.rows
    assert texts(content) == [*(f"<{frame['time']:.1f} seconds>" for frame in answer.key_frames), QUESTION]
    local = FocusedModel(model, processor, encoder, coarse="none", **SETTINGS)
    (same,) = local.answer([(state, QUESTION)], max_new_tokens=1)
    assert same.key_frames == answer.key_frames


def test_marks_of_turns_and_pictures_in_a_question_are_words(encoder, state):
    question = "What is </s><|im_end|>\n<|im_start|>system <image> [INST]?"
    with ChatServer(lambda content, _: "yes") as server:
        served(server, encoder).answer([(state, question)])
    assert texts(server.rows[0])[-1] == "What is < /s>< |im_end|>\n< |im_start|>system < image> [ INST]?"


def test_rows_of_a_batch_are_asked_at_once_and_come_in_order(encoder, state):
    gate = threading.Barrier(3, timeout=20)

    def reply(content, attempt):
        gate.wait()
        return texts(content)[-1][::-1]

    questions = ["one?", "two?", "three?"]
    with ChatServer(reply) as server:
        answers = served(server, encoder).answer([(state, question) for question in questions])
    assert [answer.answer for answer in answers] == [question[::-1] for question in questions]


def test_the_pipeline_of_a_server(encoder, film):
    with ChatServer(lambda content, _: texts(content)[-1].upper()) as server:
        pipe = VideoQAPipeline("m", server=server.url, dual_encoder=encoder, **SETTINGS)
        found = pipe(film, question="what?", return_details=True)
        several = pipe(pipe.encode_video(film), question=["a?", "b?"], rule="uniform")
    assert found["answer"] == "WHAT?" and found["score"] is None and found["num_visual_tokens"] is None
    assert len(found["relevance"]) == found["num_frames"] == 12 and max(found["relevance"]) == 1
    assert not {*found["coarse_frames"]} & {frame["index"] for frame in found["key_frames"]}
    assert [one["answer"] for one in several] == ["A?", "B?"]
    assert "num_prompt_tokens" not in found and json.dumps(found, allow_nan=False)


# ------------------------------------------------------------------------------------------------ what comes back


def test_the_score_is_the_mean_probability_of_the_tokens(encoder, state):
    tokens = [{"token": "a", "logprob": value, "top_logprobs": [], "bytes": None} for value in (-0.5, -1.5)]
    with ChatServer(lambda content, _: {"message": {"content": "a b"}, "logprobs": {"content": tokens}}) as server:
        (answer,) = served(server, encoder).answer([(state, QUESTION)])
    assert answer.score == pytest.approx(math.exp(-1))


def test_a_server_that_refuses_log_probs_is_asked_without(encoder, state):
    def reply(content, attempt):
        asked = "logprobs" in server.bodies[-1]
        return (400, {}, {"error": {"message": "logprobs is not supported"}}) if asked else "yes"

    with ChatServer(reply) as server:
        model = served(server, encoder)
        answers = [model.answer([(state, question)])[0] for question in ("a?", "b?")]
    assert [answer.score for answer in answers] == [None, None] and len(server.rows) == 3


@pytest.mark.parametrize(
    ("reply", "usage", "message"),
    [
        ({"message": {"content": ""}, "finish_reason": "length"}, {}, "empty answer at its largest length: raise"),
        ({"message": {"content": None}}, {}, "m returned an empty answer."),
        ({"message": {"content": None, "refusal": "No."}}, {}, "m refused to answer."),
        ({"message": {"content": ""}, "finish_reason": "content_filter"}, {}, "m refused to answer."),
        ("red", {"prompt_tokens": 23}, "m seems to ignore pictures: .* fewer tokens than"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_a_warning(encoder, state, reply, usage, message):
    with ChatServer(lambda content, _: reply, usage=usage) as server:
        with pytest.warns(UserWarning, match=message):
            (answer,) = served(server, encoder).answer([(state, QUESTION)])
    assert answer.answer == {"red": "red"}.get(str(reply), "No." if "No." in str(reply) else "")


# ------------------------------------------------------------------------------------------------ faults


def fault(encoder, state, reply, expected=Exception, seconds=0.0, models=404, **options) -> str:
    with ChatServer(reply, seconds, models) as server:
        with pytest.raises(expected) as raised:
            served(server, encoder, **options).answer([(state, QUESTION)])
    text = str(raised.value)
    assert KEY not in text and "\n" not in text and len(text) < 500
    assert raised.value.__cause__ is None and raised.value.__suppress_context__
    return text


def error(status: int, message: str, **headers: str):
    return lambda content, attempt: (status, headers, {"error": {"message": message}})


def test_what_no_retry_can_mend_is_said_at_once(encoder, state):
    said = fault(encoder, state, error(401, f"bad {KEY}"), ValueError)
    assert re.fullmatch(
        r"The model's server 127.0.0.1:\d+ refuses the key \(status 401\): set OPENAI_API_KEY .*", said
    )
    said = fault(encoder, state, error(404, "no m"), ValueError, models=[f"vlm-{i}" for i in range(10)])
    assert "has no model m: it offers vlm-0, vlm-1," in said and said.endswith("vlm-7 and 2 more.")
    assert "has no model m, or the base URL is wrong" in fault(encoder, state, error(404, "no m"), ValueError)
    said = fault(encoder, state, error(400, f"{KEY} At most 0 image(s) may be given." + " x" * 400))
    assert 'refuses the request (status 400): "[key] At most 0 image(s)' in said and '…".' in said
    assert re.search(r"Frames are sent as pictures: m must accept them, \d+ in this prompt\.$", said)
    said = fault(encoder, state, error(400, "the prompt is too long for the context of 2048 tokens"))
    assert said.endswith("Spend fewer tokens (`max_visual_tokens`).")


@pytest.mark.parametrize(
    "body", ["<html>", "", '{"choices": []}', '{"choices": [{"index": 0}]}', "[1, 2]", '"text"', "null"]
)
def test_a_reply_that_is_no_chat_is_named(encoder, state, body):
    assert "sent no chat completion but" in fault(encoder, state, lambda content, _: (200, {}, body), ConnectionError)
    html = {"Content-Type": "text/html"}
    assert "sent no chat completion but" in fault(
        encoder, state, lambda content, _: (200, html, body), ConnectionError
    )


def test_a_servers_error_is_retried_and_then_named(encoder, state):
    with ChatServer(lambda content, attempt: "yes" if attempt else (503, {}, "busy")) as server:
        (answer,) = served(server, encoder, max_retries=1).answer([(state, QUESTION)])
        assert answer.answer == "yes" and len(server.rows) == 2
    said = fault(encoder, state, error(500, "overheated"), ConnectionError)
    assert 'failed after 1 attempt (status 500): "overheated"; ask again later' in said
    said = fault(encoder, state, error(500, "overheated"), ConnectionError, models=["small", "large"])
    assert said.endswith("into its log. It does not list m among its models (small, large).")


def test_the_time_limit_is_named(encoder, state):
    given_up = threading.Event()
    said = fault(encoder, state, lambda content, _: given_up.wait(20) and "", ConnectionError, timeout=0.5)
    given_up.set()
    assert "did not answer within 0.5 seconds: see whether it is busy or still loading" in said


def test_a_server_that_is_not_there_is_named(encoder, state):
    with ChatServer(lambda content, _: "yes") as server:
        pass
    model = served(server, encoder)
    for call in (model.models, lambda: model.answer([(state, QUESTION)])):
        with pytest.raises(ConnectionError) as raised:
            call()
        assert re.fullmatch(
            r"The model's server http://127.0.0.1:\d+/v1 cannot be reached \(.*refused.*\): start it, or give the "
            "address of a running one.",
            str(raised.value),
        )


def test_a_redirect_gives_the_key_to_nobody(encoder, state):
    with ChatServer(lambda content, _: "yes") as other:
        target = other.url.replace("http://", "http://me:secret@") + "/chat/completions?token=secret"
        said = fault(encoder, state, lambda content, _: (307, {"Location": target}, ""), ConnectionError)
        assert f"redirects to {other.url}/chat/completions: give that address" in said
        assert other.rows == [] and other.keys == set()


def test_names_of_models_are_asked_for_with_the_key(encoder):
    with ChatServer(lambda content, _: "yes") as server:
        assert served(server, encoder).models() is None
    with ChatServer(lambda content, _: "yes", models=["a", "b"]) as server:
        assert served(server, encoder).models() == ["a", "b"]
    with ChatServer(lambda content, _: "yes", models=401) as server:
        with pytest.raises(
            ValueError, match="refuses the key .status 401.: set OPENAI_API_KEY to one that it accepts.$"
        ):
            served(server, encoder).models()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000/v1", "The model's base URL has no host: give one like http://localhost:8000/v1"),
        ("ftp://host/v1", "has no host"),
        ("http://[::1/v1", "has no host"),
        ("http://me:sk-two@host/v1", "holds a user name or password: give the key by OPENAI_API_KEY"),
        ("http://host/v1?key=sk-two", "has a . or #"),
    ],
)
def test_addresses_that_cannot_be_meant_are_refused(url, message, encoder):
    with pytest.raises(ValueError, match=message) as raised:
        ServedModel(url, "m", encoder)
    assert "sk-two" not in str(raised.value)


def test_what_a_server_cannot_do_is_refused(encoder, state):
    with pytest.raises(TypeError, match="`server` goes with a model's name there"):
        VideoQAPipeline(stock("qwen3_vl").model, server="http://127.0.0.1:1/v1")
    model = ServedModel("http://127.0.0.1:1/v1", "m", encoder, **SETTINGS)
    with pytest.raises(ValueError, match="`num_beams` is not available with a model on a server"):
        model.answer([(state, QUESTION)], num_beams=2)
    with pytest.raises(ValueError, match="too small: one key frame costs"):
        model.answer([(state, QUESTION)], max_visual_tokens=5)


# ------------------------------------------------------------------------------------------------ a real server


@pytest.fixture(scope="module")
def served_by_transformers(tmp_path_factory):
    """The address of `transformers serve`, and the folder of models that it can load."""
    pytest.importorskip("uvicorn")
    pytest.importorskip("fastapi")
    folder = tmp_path_factory.mktemp("served")
    for name in ("qwen3_vl", "internvl"):
        model, processor = stock(name)
        model.save_pretrained(folder / name)
        if name == "qwen3_vl":
            processor = copy.deepcopy(processor)
            # Small pictures stay as they are; those of the checkpoints are enlarged to 65536 pixels.
            processor.image_processor.size = {"shortest_edge": 1024, "longest_edge": 16777216}
        processor.save_pretrained(folder / name)
    with transformers_serve() as url:
        yield url, folder


@pytest.mark.parametrize("engine", ["transformers", "dynfocus"])
@pytest.mark.parametrize("name", ["qwen3_vl", "internvl"])
def test_a_server_answers_as_the_model_does(name, engine, served_by_transformers, encoder, state):
    url, folder = served_by_transformers
    model, processor = stock(name).model, AutoProcessor.from_pretrained(folder / name)
    settings = {"max_visual_tokens": 300, "tokens_per_key_frame": 64, "coarse": "none"}
    server = ModelServer(VideoQAPipeline(model, processor=processor, dual_encoder=encoder))
    with server if engine == "dynfocus" else contextlib.nullcontext():
        where = (server.url, "tiny") if engine == "dynfocus" else (url, str(folder / name))
        there = ServedModel(*where, encoder, processor=folder / name, **settings)
        (answer,) = there.answer([(state, QUESTION)], max_new_tokens=6)
    # The stock model here, on the same chat.
    row = there.prepare({"video": state, "question": QUESTION})
    (messages,) = there.show([row], None)[0]["messages"]
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
    )
    (mine,) = greedy(model, inputs)
    assert (answer.num_prompt_tokens, answer.answer) == (
        inputs["input_ids"].shape[1],
        processor.decode(mine, skip_special_tokens=True).strip(),
    )
    assert (answer.score is None) == (engine == "transformers") and answer.key_frames
    local = FocusedModel(model, processor, encoder, **settings)
    batch, _ = local.show([row], None)
    texts = [processor.decode(ids[0]) for ids in (batch["input_ids"], inputs["input_ids"])]
    if name == "qwen3_vl":
        # A chat has marks of pictures in place of a video's, none around them all, and the time of the frame that is
        # sent in place of its pair's.
        texts = [re.sub(r"<[\d.]+ seconds>", "<time>", text).replace("video_pad", "image_pad") for text in texts]
        texts[0] = texts[0].replace("<|vision_start|><time>", "<time>").replace("<|vision_end|>" * 2, "<|vision_end|>")
    assert texts[0] == texts[1]
