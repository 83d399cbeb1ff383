"""A stock model on a real vLLM server, asked through `ServedModel`, against the same model here."""

import base64
import copy
import io

import pytest
import torch
from adopted_models import greedy, stock
from PIL import Image
from tiny_dual_encoders import save_dual_encoder
from transformers import AutoProcessor
from videos import barcode_frames, write_video
from vllm_server import MARKS, Server

from dynfocus.adoption.served_model import ServedModel
from dynfocus.towers.dual_encoder import DualEncoder

pytestmark = MARKS

QUESTION = "which number is shown?"
NAME = "qwen3_vl"
SETTINGS = {"max_visual_tokens": 300, "tokens_per_key_frame": 64, "coarse": "none"}


@pytest.fixture(scope="module")
def model():
    """The small random model, with heads of the least size that vLLM has on a CPU."""
    config = copy.deepcopy(stock(NAME).model.config)
    config.text_config.head_dim = 32
    config.text_config.rope_parameters["mrope_section"] = [6, 5, 5]
    torch.manual_seed(0)
    model = type(stock(NAME).model)(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * (weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.2))
    return model.eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / NAME
    model.save_pretrained(folder)
    stock(NAME).processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with Server(folder, folder.parent / "server.log", "--max-model-len", "4096") as server:
        yield server


def with_pictures(messages):
    """A chat whose pictures are images, as a processor takes them, in place of data URLs."""

    def part_of(part):
        if part["type"] != "image_url":
            return part
        data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
        return {"type": "image", "image": Image.open(io.BytesIO(data)).convert("RGB")}

    return [
        {**turn, "content": [part_of(part) for part in turn["content"]]} if isinstance(turn["content"], list) else turn
        for turn in messages
    ]


def test_prompt_and_answer_are_those_of_the_model_here(server, model, folder, tmp_path):
    encoder = DualEncoder.from_pretrained(save_dual_encoder("siglip", tmp_path / "siglip"), device="cpu")
    film = write_video(tmp_path / "film.mp4", barcode_frames(24, height=96, width=128), fps=2)
    there = ServedModel(f"http://127.0.0.1:{server.port}/v1", server.model, encoder, processor=folder, **SETTINGS)
    state = there.encode_video(film)
    (answer,) = there.answer([(state, QUESTION)], max_new_tokens=6)
    row = there.prepare({"video": state, "question": QUESTION})
    (messages,) = there.show([row], None)[0]["messages"]
    inputs = AutoProcessor.from_pretrained(folder).apply_chat_template(
        with_pictures(messages), tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
    )
    # Bytes alone: a generated mark of a picture would stand for one that is not there.
    (mine,) = greedy(model, inputs, suppress_tokens=list(range(256, model.config.text_config.vocab_size)))
    status, reply = server.post(messages, max_tokens=6, allowed_token_ids=list(range(256)))
    assert status == 200, reply
    assert reply["prompt_token_ids"] == inputs["input_ids"][0].tolist()
    assert answer.num_prompt_tokens == inputs["input_ids"].shape[1] and answer.key_frames
    assert reply["choices"][0]["token_ids"] == mine
