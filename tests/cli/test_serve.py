"""`dynfocus serve`, as the client of OpenAI speaks to it: answers, errors, limits, and clients that leave."""

import base64
import contextlib
import functools
import io
import json
import math
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from adopted_models import stock
from hypothesis import given, settings
from hypothesis import strategies as st
from model_server import ModelServer, held_back, transformers_serve, wait_for
from PIL import Image
from tiny import make_tiny_processor
from tiny_dual_encoders import save_dual_encoder
from tiny_models import tiny_model
from typer.testing import CliRunner
from videos import barcode_frames, cut_file, write_video

from dynfocus import VideoQAPipeline
from dynfocus.adoption.served_model import ServedModel
from dynfocus.cli import serve as serve_module
from dynfocus.cli import served_answers
from dynfocus.cli.app import app
from dynfocus.cli.served_answers import Feed, KeptStates
from dynfocus.towers.dual_encoder import DualEncoder

openai = pytest.importorskip("openai")

QUESTION = "which number is it?"
LENGTH = 12


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """The folder of `a.mp4` and `b.mp4`, which are different, `broken.mp4`, and, outside of it, `../secret.mp4`."""
    folder = tmp_path_factory.mktemp("films") / "public"
    folder.mkdir()
    for start, name in enumerate(("a.mp4", "b.mp4", "../secret.mp4")):
        write_video(folder / name, barcode_frames(24, start=70 * start), fps=2)
    cut_file(folder / "a.mp4", 0.6, folder / "broken.mp4")
    return folder


@pytest.fixture(scope="module")
def pipe():
    return VideoQAPipeline(tiny_model(), processor=make_tiny_processor(num_prototypes=6, key_ratio=0.5))


@pytest.fixture(scope="module")
def server(pipe, films):
    with ModelServer(pipe, folders=(films.resolve(),), max_body=1 << 20) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    return server.client()


def data_url(path) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"


def video(url, **settings):
    return {"type": "video_url", "video_url": {"url": url}, **settings}


def text(words):
    return {"type": "text", "text": words}


def turn(*content, role="user"):
    return {"role": role, "content": list(content)}


def ask(client, messages, **fields):
    return client.chat.completions.create(model="tiny", messages=messages, **{"max_tokens": LENGTH, **fields})


def of_pipeline(pipe, messages, **settings):
    """What the pipeline says about the same chat."""
    chat = [
        {**one, "content": [{k: v["url"] if k == "video_url" else v for k, v in p.items()} for p in one["content"]]}
        for one in messages
    ]
    return pipe({"messages": chat}, **{"max_new_tokens": LENGTH, "return_details": True, **settings})


def assert_same_frames(found, expected):
    assert [{**one, "score": 0} for one in found] == [{**one, "score": 0} for one in expected]
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected], abs=1e-5)


# ------------------------------------------------------------------------------------------------------ answers

CHATS = {
    "a video and a question": lambda a, b: [turn(video(a), text(QUESTION))],
    "the question first": lambda a, b: [turn(text(QUESTION), video(a))],
    "a system turn": lambda a, b: [turn(text("be brief."), role="system"), turn(video(a), text(QUESTION))],
    "two videos": lambda a, b: [turn(text("first"), video(a), text("then"), video(b), text(QUESTION))],
    "several turns": lambda a, b: [
        turn(video(a), text("what is it?")),
        turn(text("a star."), role="assistant"),
        turn(text(QUESTION)),
    ],
    "a video with settings": lambda a, b: [turn(video(a, fps=2, video_end=6), text(QUESTION))],
}


@pytest.mark.parametrize("chat", CHATS)
def test_answers_are_those_of_the_pipeline(chat, client, pipe, films):
    messages = CHATS[chat](data_url(films / "a.mp4"), data_url(films / "b.mp4"))
    answer, expected = ask(client, messages), of_pipeline(pipe, messages)
    assert answer.choices[0].message.content == expected["answer"] != ""
    assert_same_frames(answer.dynfocus["key_frames"], expected["key_frames"])
    assert answer.dynfocus["num_visual_tokens"] == expected["num_visual_tokens"]
    assert answer.dynfocus["score"] == pytest.approx(expected["score"])
    assert sum(one["frames"] for one in answer.dynfocus["videos"]) == expected["num_frames"]
    assert answer.usage.prompt_tokens > answer.dynfocus["num_visual_tokens"]
    assert answer.usage.completion_tokens <= LENGTH


def test_settings_of_a_request_are_those_of_the_pipeline(client, pipe, films):
    messages = [turn(video(data_url(films / "a.mp4")), text(QUESTION))]
    plain, seen = ask(client, messages), []
    for fields in ({"max_visual_tokens": 100}, {"fps": 2}, {"max_frames": 5}, {"num_frames": 7}, {"rule": "uniform"}):
        answer = ask(client, messages, extra_body=fields)
        expected = of_pipeline(pipe, messages, **fields)
        assert answer.choices[0].message.content == expected["answer"]
        assert_same_frames(answer.dynfocus["key_frames"], expected["key_frames"])
        seen.append(answer.dynfocus)
    assert all(found | {"timings": {}} != plain.dynfocus | {"timings": {}} for found in seen)
    other = ask(client, messages, extra_body={"question": "what colour is the circle?"})
    expected = of_pipeline(pipe, messages, question="what colour is the circle?")["score"]
    assert other.dynfocus["score"] == pytest.approx(expected, rel=1e-5) != plain.dynfocus["score"]


def test_pieces_of_a_stream_are_the_answer(client, films):
    messages = [turn(video(data_url(films / "a.mp4")), text(QUESTION))]
    whole = ask(client, messages, logprobs=True)
    options = {"stream": True, "stream_options": {"include_usage": True}, "logprobs": True}
    chunks = [*ask(client, messages, **options)]
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(pieces) == whole.choices[0].message.content and len(pieces) > 3
    *_, last, usage = chunks
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.dynfocus["key_frames"] == whole.dynfocus["key_frames"]
    assert last.choices[0].logprobs.content == whole.choices[0].logprobs.content
    assert usage.usage == whole.usage and usage.choices == []
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-2]] == [None] * (len(chunks) - 2)
    log_probs = [token.logprob for token in whole.choices[0].logprobs.content]
    assert math.exp(math.fsum(log_probs) / len(log_probs)) == pytest.approx(whole.dynfocus["score"])
    assert len(log_probs) == whole.usage.completion_tokens


def test_an_answer_ends_before_a_stop_text(client, films):
    messages = [turn(video(data_url(films / "a.mp4")), text(QUESTION))]
    whole = ask(client, messages, max_tokens=40).choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    cut = whole[: whole.index(stop)]
    found = ask(client, messages, max_tokens=40, stop=["never", stop])
    assert (found.choices[0].message.content, found.choices[0].finish_reason) == (cut, "stop")
    assert found.usage.completion_tokens < 40
    chunks = ask(client, messages, max_tokens=40, stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == cut
    assert ask(client, messages, max_tokens=2).choices[0].finish_reason == "length"


def test_sampled_answers_depend_on_the_seed(client, films):
    messages = [turn(video(data_url(films / "a.mp4")), text(QUESTION))]

    def sampled(**fields):
        return ask(client, messages, **fields).choices[0].message.content

    greedy = sampled()
    assert sampled(temperature=0, top_p=0.5, seed=3) == greedy
    assert len({sampled(temperature=2, seed=seed) for seed in (1, 2, 3, 4)} - {greedy}) > 1
    assert sampled(temperature=2, seed=1) == sampled(temperature=2, seed=1)
    assert sampled(temperature=2, top_p=1e-6, seed=1) == greedy


def test_transformers_serve_gives_the_answers_of_the_pipeline(pipe, films, tmp_path):
    """Once `dynfocus` is imported; it asks for 32 frames unless it is given other settings."""
    pipe.model.save_pretrained(tmp_path)
    pipe.processor.save_pretrained(tmp_path)
    messages = [turn(video(data_url(films / "a.mp4")), text(QUESTION))]
    with transformers_serve() as url:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        for template, settings in (({"num_frames": None}, {}), ({}, {"num_frames": 32})):
            found = client.chat.completions.create(
                model=str(tmp_path),
                messages=messages,
                max_tokens=LENGTH,
                extra_body={"chat_template_kwargs": template},
            )
            assert found.choices[0].message.content.strip() == of_pipeline(pipe, messages, **settings)["answer"]


# ------------------------------------------------------------------------------------------------- kept states


def test_a_further_question_encodes_nothing(server, client, pipe, films, monkeypatch):
    encoded = []
    encode = pipe.video_qa.encode_video
    monkeypatch.setattr(pipe.video_qa, "encode_video", lambda *a, **k: encoded.append(k.get("fps")) or encode(*a, **k))
    film = f"file://{films.resolve()}/b.mp4"
    first = ask(client, [turn(video(film), text(QUESTION))], extra_body={"fps": 1.5})
    # The same content under another address.
    again = ask(client, [turn(video(data_url(films / "b.mp4")), text(QUESTION))], extra_body={"fps": 1.5})
    ask(client, [turn(video(film), text(QUESTION))], extra_body={"fps": 0.5})
    assert encoded == [1.5, 0.5]
    assert [one.dynfocus["videos"][0]["encoded"] for one in (first, again)] == [True, False]
    assert again.choices[0].message.content == first.choices[0].message.content


def test_states_that_were_not_asked_about_for_longest_are_dropped(pipe, films):
    states = [pipe.encode_video(films / name) for name in ("a.mp4", "b.mp4")]
    kept = KeptStates(2, 1 << 30)
    for key, state in zip("ab", states, strict=True):
        kept.add(key, state, 0)
    size = kept.num_bytes()
    assert size == sum(tensor.nbytes for state in states for tensor in state.tensors().values())
    assert kept.get("a") is states[0]
    kept.add("c", states[1], 0)
    kept.trim()
    assert (kept.get("b"), kept.get("a") is None, kept.get("c") is None) == (None, False, False)
    pipe(states[0], question=QUESTION)
    assert kept.num_bytes() > size  # with its events
    kept.most_bytes = size + 1000
    kept.add("d", states[0], 2000)
    kept.trim()
    assert kept.num_bytes() <= size + 1000 and kept.get("a") is None
    none = KeptStates(0, 1 << 30)
    none.add("a", states[0], 0)
    none.trim()
    assert len(none) == 0


# ------------------------------------------------------------------------------------------------------- errors

SECRET = "hunter2"
REFUSED = {
    "an unknown field": ({"extra_body": {"max_pixels": 5}}, "`max_pixels` is not supported by this server"),
    "an unknown key of a block": (
        {"content": [{**video("data:,"), "max_pixels": 5}]},
        "`max_pixels` in a video block",
    ),
    "an unknown role": ({"role": "tool"}, "`messages.0.role`: Input should be 'system', 'user' or 'assistant'"),
    "several answers": ({"n": 2}, "`n`: Input should be 1"),
    "a penalty": ({"presence_penalty": 0.5}, "`presence_penalty`: "),
    "a number as a text": ({"extra_body": {"fps": "2"}}, "`fps`: Input should be a valid number"),
    "a rate of nothing": ({"extra_body": {"fps": 0}}, "`fps`: Input should be greater than 0"),
    "two rates": ({"extra_body": {"fps": 1, "num_frames": 5}}, "has both `fps` and `num_frames`"),
    "two lengths": ({"max_completion_tokens": 3}, "`max_tokens` and `max_completion_tokens` mean the same"),
    "a long answer": ({"max_tokens": 513}, "`max_tokens` is 513: this server allows at most 512"),
    "a rule": ({"extra_body": {"rule": "best"}}, "There is no rule of choice 'best'"),
    "coarse frames of a DynFocus model": ({"extra_body": {"coarse": "low"}}, "`coarse` is for stock video language"),
    "a budget": ({"url": "file://{films}/a.mp4", "extra_body": {"max_visual_tokens": 1}}, "max_visual_tokens=1"),
    "an empty stop": ({"stop": [""]}, "`stop` is a text or up to 4 of them"),
    "no question": ({"content": [video("data:,")]}, "The question is empty"),
    "no video there": ({"url": "file://{films}/c.mp4"}, "there is no such video file"),
    "a broken video": ({"url": "file://{films}/broken.mp4"}, "has no video stream|cannot be|cut off"),
    "no video at all": ({"url": "data:video/mp4;base64,AAAA"}, "cannot be opened as a video"),
    "a data URL without data": ({"url": "data:video/mp4"}, "is damaged; a data: URL is"),
    "a path": ({"url": "{films}/a.mp4"}, "is an address: http"),
    "a path that looks like an address": ({"url": "http:{films}/a.mp4"}, "is an address: http"),
    "an address of a store": ({"url": "zip://a.mp4::file://{films}/a.zip"}, "is an address: http"),
    "a list of pictures": ({"url": ["{films}/a.png"]}, "is an address: http|list"),
    "a file outside": ({"url": "file://{films}/../secret.mp4"}, "lies outside of the folders"),
    "no file outside": ({"url": "file:///nowhere/at/all.mp4"}, "lies outside of the folders"),
    "a file of another host": ({"url": "file://other/a.mp4"}, "is not a whole path"),
    "a private address": (
        {"url": f"http://me:{SECRET}@127.0.0.1:1/a.mp4?key={SECRET}"},
        "http://127.0.0.1:1/a.mp4: leads to the private address 127.0.0.1; this server does not allow that",
    ),
    "a long address": ({"url": "http://a.example/" + "a" * 9000}, "An address has 9017 characters"),
    "many videos": (
        {"content": [text("?"), *[video("data:,")] * 65]},
        "has 65 videos: at most 64 are read",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_answered_is_named(case, server, client, films):
    fields, message = dict(REFUSED[case][0]), REFUSED[case][1]
    url = json.loads(json.dumps(fields.pop("url", "data:video/mp4;base64,AAAA")).replace("{films}", str(films)))
    chat = [turn(*fields.pop("content", [video(url), text(QUESTION)]), role=fields.pop("role", "user"))]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=message) as raised:
            ask(client, chat, stream=stream, **fields)
        error = raised.value.body
        assert error["type"] == "invalid_request_error" and "\n" not in error["message"]
        assert SECRET not in error["message"] and len(error["message"]) < 400
    wait_for(server.is_idle)


def test_errors_have_the_types_of_the_client(server, client, films, pipe, monkeypatch):
    chat = [turn(video(data_url(films / "a.mp4")), text(QUESTION))]
    with pytest.raises(openai.NotFoundError, match="There is no model gpt here: this server has tiny"):
        client.chat.completions.create(model="gpt", messages=chat)
    with pytest.raises(openai.NotFoundError, match="POST /v1/embeddings: Not Found"):
        client.embeddings.create(model="tiny", input="a")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")
    assert client.models.retrieve("tiny").id == client.models.list().data[0].id == "tiny"
    with pytest.raises(openai.APIStatusError, match="larger than 1048576 bytes") as raised:
        ask(client, [turn(text("a" * (1 << 20)))])
    assert raised.value.status_code == 413
    http = client._client

    def post(content, **headers):
        return http.post(f"{server.url}/chat/completions", content=content, headers=headers)

    # Without a length that was declared.
    assert post(iter([b"a" * 65536] * 20), **{"Content-Type": "application/json"}).status_code == 413
    assert post(b"{}", **{"Content-Type": "text/plain"}).json()["error"]["message"].startswith("A request is JSON")
    for body in (b"", b"{", b"[]", b"null", b'{"model": "tiny"}', b"[" * 100000, b"\xff"):
        answer = post(body, **{"Content-Type": "application/json"})
        assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"

    def fail(*_, **__):
        raise KeyError(f"{SECRET} in a traceback")

    monkeypatch.setattr(pipe.video_qa, "prepare", fail)
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError, match="The server failed on this request") as raised:
            ask(client, chat, stream=stream)
        assert SECRET not in str(raised.value.body)
    wait_for(server.is_idle)


def test_pictures_of_a_request_have_a_limit(stock_pipe, monkeypatch):
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "PNG")
    url = {"url": f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"}
    with ModelServer(stock_pipe) as server:
        chat = [turn(text("what is it?"), *[{"type": "image_url", "image_url": url}] * 3)]
        assert ask(server.client(), chat, max_tokens=2).usage.prompt_tokens > 0
        monkeypatch.setattr(served_answers, "_MOST_PIXELS", 3 * 64 * 64 - 1)
        with pytest.raises(openai.BadRequestError, match="pictures of a request have over 12287 pixels: send fewer"):
            ask(server.client(), chat, max_tokens=2)


def test_an_error_after_the_first_text_is_an_event(client, films, pipe, monkeypatch):
    decode, calls = pipe.video_qa.decode, []

    def fail(tokens):
        calls.append(tokens)
        if len(calls) > 3:
            raise KeyError("broken")
        return decode(tokens)

    monkeypatch.setattr(pipe.video_qa, "decode", fail)
    chunks = ask(client, [turn(video(data_url(films / "a.mp4")), text(QUESTION))], stream=True)
    with pytest.raises(openai.APIError, match="The server failed on this request"):
        list(chunks)
    assert len(calls) == 4


# ------------------------------------------------------------------------------------------------------- limits


def test_only_who_has_the_key_is_answered(pipe, films):
    with ModelServer(pipe, api_key="sk-1234") as server:
        for key in ("sk-1235", "none", "sk-12345"):
            with pytest.raises(openai.AuthenticationError, match="The API key is missing or wrong"):
                server.client(api_key=key).models.list()
            with pytest.raises(openai.AuthenticationError):
                ask(server.client(api_key=key), [turn(text("?"))])
        assert server.client(api_key="sk-1234").models.list().data
        health = server.client()._client.get(f"http://127.0.0.1:{server.port}/health")
        assert health.json() == {"status": "ok", "requests": 0, "kept_videos": 0}


def test_limits_of_a_server(pipe, films, monkeypatch):
    limits = {"max_visual_tokens": 300, "sampling": {"max_frames": 8}, "max_new_tokens": 5, "rule": "uniform"}
    with ModelServer(pipe, **limits, max_waiting=1, timeout=30) as server:
        client, chat = server.client(), [turn(video(data_url(films / "a.mp4")), text(QUESTION))]
        expected = of_pipeline(pipe, chat, max_visual_tokens=300, max_frames=8, max_new_tokens=5, rule="uniform")
        found = client.chat.completions.create(model="tiny", messages=chat)
        assert found.choices[0].message.content == expected["answer"]
        assert_same_frames(found.dynfocus["key_frames"], expected["key_frames"])
        for fields in ({"max_visual_tokens": 301}, {"max_frames": 9}, {"num_frames": 9}):
            (name,) = fields
            with pytest.raises(openai.BadRequestError, match=f"`{name}` is {fields[name]}: this server allows at"):
                ask(client, chat, max_tokens=5, extra_body=fields)
        with pytest.raises(openai.BadRequestError, match="`num_frames` is 9: this server allows at most 8"):
            ask(client, [turn(video(data_url(films / "a.mp4"), nframes=9), text(QUESTION))], max_tokens=5)
        with pytest.raises(openai.BadRequestError, match="this server reads no files"):
            ask(client, [turn(video(f"file://{films}/a.mp4"), text(QUESTION))], max_tokens=5)
        with ThreadPoolExecutor(2) as pool, held_back(pipe.video_qa, "prepare", monkeypatch):
            waiting = [pool.submit(ask, client, chat, max_tokens=5) for _ in range(2)]
            wait_for(lambda: server.desk.places_taken == 2)
            with pytest.raises(openai.RateLimitError, match="2 requests wait already: ask again in 1 s") as raised:
                ask(client, chat, max_tokens=5)
            assert raised.value.response.headers["retry-after"] == "1"
            assert client._client.get(f"http://127.0.0.1:{server.port}/health").json()["requests"] == 2
        assert {one.result().choices[0].message.content for one in waiting} == {expected["answer"]}


def test_a_request_has_a_time_limit(pipe, films, monkeypatch):
    chat = [turn(video(data_url(films / "a.mp4")), text(QUESTION))]
    with ModelServer(pipe, timeout=0.3) as server:
        with held_back(pipe.video_qa, "prepare", monkeypatch):
            # The client would ask again after other errors of a server.
            with pytest.raises(openai.InternalServerError, match="not ready within 0.3 s") as raised:
                ask(server.client(max_retries=2), chat)
            assert raised.value.status_code == 504
        wait_for(server.is_idle)


def test_clients_at_once_get_the_answers_of_one_at_a_time(client, films):
    addresses = [f"file://{films.resolve()}/{name}" for name in ("a.mp4", "b.mp4")]
    questions = [QUESTION, "what colour is the circle?", "green or blue?", "which shape comes last?"]
    chats = [[turn(video(addresses[n % 2]), text(questions[n // 2]))] for n in range(8)]
    alone = [ask(client, chat, extra_body={"fps": 1.25}) for chat in chats]
    with ThreadPoolExecutor(8) as pool:
        together = [*pool.map(lambda chat: ask(client, chat, extra_body={"fps": 1.25}), chats)]
    for one, other in zip(alone, together, strict=True):
        assert one.choices == other.choices and one.usage == other.usage
        assert one.dynfocus["key_frames"] == other.dynfocus["key_frames"]
    assert len({one.dynfocus["score"] for one in alone}) == 8


# ---------------------------------------------------------------------------------------------- clients that leave


def raw_request(server, chat, **fields) -> socket.socket:
    body = json.dumps({"model": "tiny", "messages": chat, "max_tokens": 400, **fields}).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    headers = f"Host: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    connection.sendall(f"POST /v1/chat/completions HTTP/1.1\r\n{headers}\r\n\r\n".encode() + body)
    return connection


def test_who_leaves_while_sending_costs_nothing(server, caplog):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as leaving:
        headers = "Host: a\r\nContent-Type: application/json\r\nContent-Length: 1000"
        leaving.sendall(f"POST /v1/chat/completions HTTP/1.1\r\n{headers}\r\n\r\n{{".encode())
        wait_for(lambda: server.desk.places_taken == 1)
    wait_for(server.is_idle)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_who_leaves_while_waiting_costs_nothing(server, client, pipe, films, monkeypatch):
    chat = [turn(video(data_url(films / "a.mp4")), text(QUESTION))]
    with ThreadPoolExecutor(1) as pool, held_back(pipe.video_qa, "prepare", monkeypatch) as gate:
        first = pool.submit(ask, client, chat)
        wait_for(lambda: gate.calls == 1)
        for stream in (False, True):
            leaving = raw_request(server, chat, stream=stream)
            wait_for(lambda: len(server.desk.jobs) == 2)
            leaving.close()
            wait_for(lambda: len(server.desk.jobs) == 1)
        assert server.desk.places_taken == 1
    assert first.result().choices and gate.calls == 1
    assert ask(client, chat).choices
    wait_for(server.is_idle)


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_ends_the_generation(stream, server, client, pipe, films, monkeypatch):
    chat = [turn(video(data_url(films / "a.mp4")), text(QUESTION))]
    feeds, has_begun, has_left = [], threading.Event(), threading.Event()
    make = server.answerer.feed
    monkeypatch.setattr(server.answerer, "feed", lambda *a: feeds.append(make(*a)) or feeds[-1])
    call = Feed.__call__

    def follow(feed, input_ids, scores, **rest):
        result = call(feed, input_ids, scores, **rest)
        has_begun.set()
        assert has_left.wait(60)
        return result

    monkeypatch.setattr(Feed, "__call__", follow)
    connection = raw_request(server, chat, stream=stream)
    assert has_begun.wait(60)
    if stream:
        assert b"HTTP/1.1 200" in connection.recv(1 << 16)
    connection.close()
    wait_for(lambda: feeds[0].given_up.is_set())
    has_left.set()
    assert ask(client, chat).choices
    assert len(feeds[0].tokens) == 1
    wait_for(server.is_idle)


def test_who_leaves_ends_the_encoding(server, client, pipe, films, monkeypatch):
    reports, encode = [], pipe.video_qa.encode_video
    has_begun = threading.Event()

    def slow(*args, progress, **options):
        def report(*numbers):
            reports.append(numbers)
            has_begun.set()
            assert progress.__self__.given_up.wait(60)
            progress(*numbers)

        return encode(*args, progress=report, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pipe.video_qa, "encode_video", slow)
        connection = raw_request(server, [turn(video(data_url(films / "a.mp4"), fps=1.75), text(QUESTION))])
        assert has_begun.wait(60)
        connection.close()
        wait_for(server.is_idle)
        assert ask(client, [turn(text("hello?"))]).choices
    assert len(reports) == 1
    found = ask(client, [turn(video(data_url(films / "a.mp4")), text(QUESTION))], extra_body={"fps": 1.75})
    assert found.dynfocus["videos"][0]["encoded"]


def test_a_server_that_stops_gives_up_its_work(pipe, films, monkeypatch):
    with ModelServer(pipe) as server, ThreadPoolExecutor(1) as pool:
        call = Feed.__call__

        def follow(feed, *args, **rest):
            wait_for(lambda: server._server.should_exit)
            return call(feed, *args, **rest)

        monkeypatch.setattr(Feed, "__call__", follow)
        answer = pool.submit(ask, server.client(), [turn(video(data_url(films / "a.mp4")), text(QUESTION))])
        wait_for(lambda: server.desk.jobs)
        server._server.should_exit = True
        # What is nearly done is still answered.
        assert answer.result().choices
    with pytest.raises(openai.APIConnectionError):
        ask(server.client(), [turn(text("?"))])


def test_who_leaves_ends_the_download(pipe, films, monkeypatch):
    """Of a video that never ends."""
    sent, has_begun = [], threading.Event()

    class Endless(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(1 << 16))
                    has_begun.set()
                    time.sleep(0.002)
            sent.append("closed")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as web, ModelServer(pipe, private_addresses=True) as server:
        threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        leaving = raw_request(server, [turn(video(f"http://127.0.0.1:{web.server_port}/a.mp4"), text(QUESTION))])
        assert has_begun.wait(60)
        # It waits for nobody else's video.
        assert ask(server.client(), [turn(video(data_url(films / "a.mp4")), text(QUESTION))]).choices
        leaving.close()
        wait_for(lambda: sent)
        web.shutdown()


# ------------------------------------------------------------------------------------------------- stock models


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    return DualEncoder.from_pretrained(save_dual_encoder("siglip", folder / "one"), device="cpu")


@pytest.fixture(scope="module")
def stock_pipe(encoder):
    model, processor = stock("qwen3_vl")
    options = {"dual_encoder": encoder, "tokens_per_key_frame": 16}
    return VideoQAPipeline(model, processor=processor, **options)


def test_a_stock_model_answers_as_its_pipeline_does(stock_pipe, encoder, films):
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(SimpleHTTPRequestHandler, directory=str(films))
    ) as web:
        threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        address = f"http://127.0.0.1:{web.server_port}/a.mp4"
        settings = {"private_addresses": True, "max_visual_tokens": 200, "folders": (films.resolve(),)}
        with ModelServer(stock_pipe, **settings) as server:
            client = server.client()
            for url in (address, data_url(films / "a.mp4"), f"file://{films.resolve()}/a.mp4"):
                messages = [turn(video(url), text("Which bar is white?"))]
                for fields in ({}, {"coarse": "low"}):
                    found = ask(client, messages, extra_body=fields)
                    stock_pipe.video_qa.focus_processor.coarse = fields.get("coarse", "none")
                    local = [turn(video(str(films / "a.mp4")), text("Which bar is white?"))]
                    expected = of_pipeline(stock_pipe, local, max_visual_tokens=200)
                    stock_pipe.video_qa.focus_processor.coarse = "none"
                    assert found.choices[0].message.content == expected["answer"]
                    assert_same_frames(found.dynfocus["key_frames"], expected["key_frames"])
                    assert found.dynfocus["num_visual_tokens"] == expected["num_visual_tokens"] <= 200
            with pytest.raises(openai.BadRequestError, match="`coarse` must be 'low', 'panels' or 'none', got 'x'"):
                ask(client, messages, extra_body={"coarse": "x"})
            # The client of this package, which sends pictures.
            served = ServedModel(server.url, "tiny", encoder, max_visual_tokens=200, tokens_per_key_frame=4)
            state = served.encode_video(films / "a.mp4")
            (answer,) = served.answer([(state, "Which bar is white?")], max_new_tokens=LENGTH)
            assert answer.key_frames and answer.score is not None and answer.num_prompt_tokens > 0
        web.shutdown()


# --------------------------------------------------------------------------------------------------- the command


def test_a_port_that_is_taken_is_named_before_the_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, ["serve", "no/such-model", "--port", str(port)])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: --host 127.0.0.1 --port {port}: cannot be listened on (")
    assert done.stderr.count("\n") == 1


def test_a_package_that_is_missing_is_named(monkeypatch):
    for name in ("serve", "chat_completions"):
        monkeypatch.delitem(sys.modules, f"dynfocus.cli.{name}")
        monkeypatch.delattr(f"dynfocus.cli.{name}")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    done = CliRunner().invoke(app, ["serve"])
    assert done.exit_code == 1
    assert done.stderr == "error: A server needs the package fastapi: pip install 'dynfocus[serve]'.\n"


@pytest.mark.parametrize("model", [(), ("dynfocus-tiny",)], ids=["by default", "by name"])
def test_the_command_serves_the_demo_model(films, monkeypatch, model):
    seen = []
    monkeypatch.setattr(serve_module.uvicorn.Server, "run", lambda server, sockets: seen.append((server, sockets)))
    words = ["--port", "0", "--allow-files", str(films), "--max-frames", "20", "--max-body", "3", "--rule", "uniform"]
    done = CliRunner().invoke(app, ["serve", *model, *words], env={"DYNFOCUS_API_KEY": "sk-1"})
    assert done.exit_code == 0, done.output
    assert "dynfocus-tiny answers at http://127.0.0.1:" in done.stderr and "sk-1" not in done.output
    ((server, _),) = seen
    limits = server.config.app.state.desk.limits
    assert (limits.api_key, limits.folders, limits.max_body) == ("sk-1", (films.resolve(),), 3 << 20)
    assert limits.sampling["max_frames"] == 20 and limits.rule == "uniform" and not limits.private_addresses


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--allow-files", "nowhere"), "there is no such folder"),
        (("--rule", "best"), "--rule best: There is no rule of choice 'best'"),
        (("--fps", "0"), "--fps 0.0: must be above 0"),
        (("no/such/model",), "there is no such folder"),
        (("--coarse", "low"), "--coarse is for stock video language models"),
    ],
)
def test_mistakes_of_the_command_are_one_sentence(words, message):
    done = CliRunner().invoke(app, ["serve", "--port", "0", *words])
    assert done.exit_code == 1 and message in done.stderr and done.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------------- pieces of text


@settings(deadline=None, max_examples=200)
@given(st.text("ab é", max_size=30), st.lists(st.text("ab ", min_size=1, max_size=3), max_size=3), st.booleans())
def test_pieces_join_to_the_text_before_the_first_stop(whole, stops, by_words):
    pieces: list[str] = []
    # A token is a byte here, so that characters come in parts.
    feed = Feed(lambda ids: bytes(ids).decode(errors="replace").strip(), stops, pieces.append, None, by_words)
    data = whole.encode()
    for end in range(1, len(data) + 1):
        if feed(torch.tensor([[0, 0, *data[:end]]]), None).all():
            break
    found = feed.finish(feed.decode(feed.tokens))
    # The first stop text that is complete ends the answer.
    begun = [feed.decode([*data[:end]]) for end in range(len(data) + 1)]
    text = next((one for one in begun if any(stop in one for stop in stops)), whole.strip())
    places = [text.find(stop) for stop in stops if stop in text]
    assert "".join(pieces) == found == text[: min(places, default=len(text))]
    assert feed.is_stopped == bool(places) and (not data or feed.num_prompt_tokens == 2)
