"""
Plain OpenAI requests to `vllm serve`, against the pipeline. Run by `scripts/check_vllm.sh`, in an environment that has
vLLM: a server starts for about a minute.
"""

import base64
import functools
import http.server
import threading
from pathlib import Path

import pytest
import torch
from tiny import make_tiny_processor
from tiny_models import make_question_aware, tiny_model, tiny_text_config
from transformers import AutoModelForImageTextToText, AutoProcessor
from videos import barcode_frames, write_video
from vllm_server import MARKS, Server

from dynfocus.checkpoints import embedded_model

pytestmark = MARKS

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUESTION = "Which number is shown with the red star?"
ASKED = [
    ("events.mp4", QUESTION),
    ("events.mp4", "Is there a white heart?"),
    ("events.mp4", "How many shapes are shown?"),
    ("shapes.mp4", "Which comes right after the yellow heart?"),
    ("shapes.mp4", "Which number is shown with the yellow heart?"),
    ("shapes.mp4", "Is there a blue circle?"),
    ("shapes.mp4", "Which number is shown with the blue square?"),
    ("long.mp4", "Is there a white heart?"),
    ("long.mp4", "Which number is shown with the white heart?"),
    ("long.mp4", "Which comes right before the red star?"),
]
TOLERANCE = 1e-4  # of log-probabilities in float32


class Direct:
    """The answers of the same folder through `generate`."""

    def __init__(self, folder):
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModelForImageTextToText.from_pretrained(folder).eval()

    def answer(self, chat, **settings):
        """Ids and log-probabilities of the answer, and the length of the prompt."""
        inputs = self.processor.apply_chat_template(
            chat,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=settings,
        )
        inputs.pop("text_replacement_offsets", None)
        length = inputs["input_ids"].shape[1]
        with torch.no_grad():
            output = self.model.generate(
                **inputs, max_new_tokens=32, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        ids = output.sequences[0, length:].tolist()
        return (
            ids,
            [float(row[0].log_softmax(-1)[token]) for row, token in zip(output.logits, ids, strict=True)],
            length,
        )


def of_server(chat):
    """A chat in the form of the OpenAI protocol."""
    turns = []
    for turn in chat:
        content = [
            {"type": "video_url", "video_url": {"url": block["video"]}} if block["type"] == "video" else block
            for block in turn["content"]
        ]
        turns.append({"role": turn["role"], "content": content})
    return turns


def assert_same_answers(direct, server, chat, sent=None, **settings):
    """The largest difference of log-probabilities."""
    ids, log_probs, length = direct.answer(chat, **settings)
    status, reply = server.post(of_server(sent or chat), **({"mm_processor_kwargs": settings} if settings else {}))
    assert status == 200, reply
    (choice,) = reply["choices"]
    assert reply["usage"]["prompt_tokens"] == length
    assert choice["token_ids"] == ids
    found = [token["logprob"] for token in choice["logprobs"]["content"]]
    worst = max(abs(one - other) for one, other in zip(found, log_probs, strict=True))
    assert worst <= TOLERANCE
    return worst


def text(said):
    return {"type": "text", "text": said}


def video(name="events.mp4"):
    return {"type": "video", "video": f"file://{EXAMPLES / name}"}


def turn(role, *content):
    return {"role": role, "content": list(content)}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    options = ["--allowed-local-media-path", str(EXAMPLES), "--trust-request-mm-kwargs"]
    with Server(embedded_model(), log, *options) as server:
        yield server


@pytest.fixture(scope="module")
def direct(server):
    return Direct(server.model)


@pytest.fixture(scope="module")
def web():
    """The examples at an address of this machine."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=EXAMPLES)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_plain_requests_give_the_answers_of_the_pipeline(direct, server, web):
    worst = 0.0
    for number, (name, question) in enumerate(ASKED):
        data = f"data:video/mp4;base64,{base64.b64encode((EXAMPLES / name).read_bytes()).decode()}"
        url = (f"{web}/{name}", f"file://{EXAMPLES / name}", data)[number % 3]
        chat, sent = (
            [turn("user", {"type": "video", "video": one}, text(question))] for one in (EXAMPLES / name, url)
        )
        worst = max(worst, assert_same_answers(direct, server, chat, sent))
    print(f"largest difference of log-probabilities in {len(ASKED)} answers: {worst:.1e}")


CHATS = {
    "question before the video": [turn("user", text(QUESTION), video())],
    "question around the video": [turn("user", text("Which number is"), video(), text("shown with the red star?"))],
    "system turn": [turn("system", text("Answer with a number.")), turn("user", video(), text(QUESTION))],
    "later turn": [
        turn("user", video(), text("Is there a white heart?")),
        turn("assistant", text("no")),
        turn("user", text(QUESTION)),
    ],
    "two videos": [turn("user", video(), video("shapes.mp4"), text(QUESTION))],
    "no video": [turn("user", text("Hello!"))],
}


@pytest.mark.parametrize("name", CHATS)
def test_other_chats(direct, server, name):
    assert_same_answers(direct, server, CHATS[name])


@pytest.mark.parametrize(
    "settings",
    [
        {"fps": 2.0},
        {"num_frames": 7},
        {"max_frames": 5, "video_start": 4.0},
        {"sampling": "key_frames"},
        {"max_visual_tokens": 60},
        {"question": "Is there a white heart?"},
    ],
    ids=str,
)
def test_settings_of_a_request(direct, server, settings):
    assert_same_answers(direct, server, [turn("user", video(), text(QUESTION))], **settings)


def test_the_sampling_may_also_be_given_as_vllm_names_it(direct, server):
    chat = [turn("user", video(), text(QUESTION))]
    ids, _, length = direct.answer(chat, num_frames=7)
    status, reply = server.post(of_server(chat), media_io_kwargs={"video": {"num_frames": 7}})
    assert (status, reply["usage"]["prompt_tokens"], reply["choices"][0]["token_ids"]) == (200, length, ids)


def test_a_video_is_encoded_once_for_all_questions(server, direct):
    """Other questions give other answers, and a video that is asked about again the same."""
    for question in ("Is there a white heart?", QUESTION, "Is there a white heart?"):
        assert_same_answers(direct, server, [turn("user", video("long.mp4"), text(question))])


@pytest.mark.parametrize(
    ("content", "fields", "status", "message"),
    [
        ([video()], {}, 400, "The last user turn has no text"),
        ([video(), text(" ")], {}, 400, "The last user turn has no text"),
        ([video(), text("which star? " * 200)], {}, 400, "The question is too long: it has 400 words"),
        ([video(), text(QUESTION)], {"mm_processor_kwargs": {"questoin": "?"}}, 400, "has no setting `questoin`"),
        ([video(), text(QUESTION)], {"mm_processor_kwargs": {"fps": -1}}, 400, "fps is -1"),
        ([video(), text(QUESTION)], {"mm_processor_kwargs": {"fps": "x"}}, 400, "Field 'fps'"),
        ([video(), text(QUESTION)], {"mm_processor_kwargs": {"num_prototypes": "x"}}, 400, "num_prototypes"),
        ([video(), text(QUESTION)], {"mm_processor_kwargs": {"max_visual_tokens": 6}}, 400, "is too small"),
        ([video(), text(QUESTION)], {"media_io_kwargs": {"video": {"frames": 4}}}, 400, "has no setting `frames`"),
        ([{"type": "video", "video": "data:video/mp4;base64,bm90aGluZw=="}, text("?")], {}, 400, "not a video"),
    ],
)
def test_mistakes_are_errors_of_the_request(server, content, fields, status, message):
    found = server.post(of_server([turn("user", *content)]), **fields)
    assert found[0] == status and message in found[1]
    assert server.post([turn("user", text("Hello!"))])[0] == 200


def test_two_processes_share_a_model(tmp_path):
    """Tensor parallelism: the language model of the demo model has five heads, which two processes cannot share."""
    model = tiny_model(text_config=tiny_text_config("qwen3", hidden_size=64, head_dim=32))
    make_question_aware(model)
    model.save_pretrained(tmp_path / "model")
    make_tiny_processor().save_pretrained(tmp_path / "model")
    path = write_video(tmp_path / "video.mp4", barcode_frames(60))
    direct = Direct(tmp_path / "model")
    options = ["--tensor-parallel-size", "2", "--allowed-local-media-path", str(tmp_path)]
    with Server(tmp_path / "model", tmp_path / "server.log", *options) as server:
        for question in ("which number is shown?", "what colour is the circle?"):
            assert_same_answers(
                direct, server, [turn("user", {"type": "video", "video": f"file://{path}"}, text(question))]
            )
