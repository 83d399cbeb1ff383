"""From a file and a question to stock inputs: what a dual encoder sees decides what is shown."""

import numpy as np
import pytest
import torch
from adopted_models import logits, stock
from tiny_dual_encoders import save_dual_encoder
from videos import barcode_frames, read_barcode, write_video

from dynfocus.adoption.focus_processor import ChosenFrames, FocusProcessor, VideoFrames
from dynfocus.adoption.looking import frame_numbers, frames_of, look, open_frames
from dynfocus.adoption.relevance import relevance_of
from dynfocus.processing.reading.video_reading import open_video, resize_frame
from dynfocus.selecting.rules import RULES, given_frames
from dynfocus.towers.dual_encoder import DualEncoder

QUESTION = "Which bar is white?"
# What says that a random encoder does not know shapes.
pytestmark = pytest.mark.filterwarnings("ignore:.*dual encoder.*")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return DualEncoder.from_pretrained(save_dual_encoder("siglip", tmp_path_factory.mktemp("siglip") / "one"))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """40 seconds at three frames a second."""
    frames = barcode_frames(120, height=96, width=128)
    return str(write_video(tmp_path_factory.mktemp("film") / "film.mp4", frames, fps=3))


def focus(encoder, name="qwen3_vl", **settings) -> FocusProcessor:
    settings = {"max_visual_tokens": 200, **settings}
    return FocusProcessor(stock(name).processor, config=stock(name).model.config, dual_encoder=encoder, **settings)


def same(one, other) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_every_frame_of_a_second_is_looked_at_once(encoder, film):
    state = look(open_frames(film, encoder), encoder)
    numbers = frame_numbers(state)
    assert numbers == list(range(0, 120, 3)) and state.frame_embeddings.shape == (1, 40, encoder.width)
    frames = np.stack([frame for _, frame in frames_of(state).read(numbers)])
    assert [read_barcode(frame) for frame in frames] == numbers
    # Frames are shrunk as soon as they are decoded.
    small = np.stack([resize_frame(frame, encoder.size) for frame in frames])
    torch.testing.assert_close(state.frame_embeddings[0].float(), encoder.encode_images(small), atol=1e-3, rtol=0)


@pytest.mark.parametrize("rule", ["peaks", "uniform", "topk"])
@pytest.mark.parametrize("name", ["qwen3_vl", "smolvlm"])
def test_the_frames_that_the_rule_chooses_are_shown_within_the_budget(name, rule, encoder, film):
    processor = focus(encoder, name, rule=rule)
    inputs = processor(video=film, question=QUESTION)
    state = processor.look(film)
    video, numbers, embeddings = frames_of(state), frame_numbers(state), state.frame_embeddings[0].float()
    count = processor.plan(video, numbers).num_key_frames
    relevance = relevance_of(encoder, embeddings, QUESTION)
    chosen = RULES[rule](relevance, count, features=embeddings, times=state.frame_times[0])
    key_frames = [numbers[index] for index in chosen.tolist()]
    shown = processor.show(QUESTION, [processor.choose(video, key_frames, numbers)])
    assert same(inputs, shown.inputs) and shown.num_visual_tokens[0][0] <= 200
    assert logits(stock(name).model, inputs).isfinite().all()


def test_what_was_looked_at_answers_further_questions(encoder, film):
    processor = focus(encoder)
    looked = processor.look(film)
    for question in (QUESTION, "How many bars are there?"):
        assert same(processor(looked, question), processor(film, question))


def test_decoded_frames_are_a_video_too(encoder, film):
    processor = focus(encoder, rule=given_frames([3, 12]), num_key_frames=2, coarse="none")
    inputs = processor(barcode_frames(40, height=96, width=128), QUESTION)
    text = processor.processor.tokenizer.decode(inputs["input_ids"][0])
    assert "<3.0 seconds>" in text and "<12.0 seconds>" in text


def test_videos_may_stand_in_a_chat_and_share_the_budget(encoder, film):
    processor = focus(encoder)
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "video", "video": film}, {"type": "text", "text": "And before?"}]},
        {"role": "assistant", "content": "A bar."},
        {"role": "user", "content": [{"type": "video", "path": film}, {"type": "text", "text": QUESTION}]},
    ]
    inputs = processor(messages=chat)
    chosen = processor.choose_for(processor.look(film), QUESTION, max_visual_tokens=100).frames
    assert same(inputs, processor.show(chat, [chosen, chosen]).inputs)
    answered = [*chat, {"role": "assistant", "content": "The left one."}]
    assert (processor(messages=answered, labels=True)["labels"] != -100).any()
    answered[-1]["content"] = " "
    with pytest.raises(ValueError, match="answer in turn 4 is empty"):
        processor(messages=answered, labels=True)


def test_a_server_gets_the_same_frames(encoder, film):
    processor = focus(encoder, "smolvlm", coarse="none")
    messages = processor.chat_messages(film, QUESTION, image_format="png")
    served = stock("smolvlm").processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
    )
    assert torch.equal(served["input_ids"], processor(film, QUESTION)["input_ids"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Give `question` or `messages`, one of the two"),
        ({"question": QUESTION, "messages": [{"role": "user", "content": QUESTION}]}, "one of the two"),
        ({"question": QUESTION}, "There is no video: give `video`, or one in `messages`"),
        ({"question": " "}, "The question is empty"),
        ({"messages": [{"role": "user", "content": QUESTION}]}, "There is no video"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, message, encoder):
    with pytest.raises(ValueError, match=message):
        focus(encoder)(**arguments)


def test_mistakes_are_named(encoder, film, tmp_path):
    with pytest.raises(ValueError, match="The question is empty"):
        focus(encoder)(film, "  ")
    with pytest.raises(FileNotFoundError, match="absent.mp4"):
        focus(encoder)(tmp_path / "absent.mp4", QUESTION)
    with pytest.raises(ValueError, match="`max_visual_tokens=10` is too small: one key frame costs"):
        focus(encoder, max_visual_tokens=10)(film, QUESTION)
    with pytest.raises(ValueError, match="There is no rule of choice 'best'"):
        focus(encoder, rule="best")


def test_chosen_frames_need_no_dual_encoder(film):
    processor = FocusProcessor(stock("qwen3_vl").processor, dual_encoder="nowhere/to-be-found")
    chosen = ChosenFrames(VideoFrames.opened(open_video(film)), [3, 30])
    assert processor(chosen, QUESTION)["input_ids"].shape[0] == 1
