"""The face over a stock model: states, choice and answers, from videos, states and files."""

import copy
import io
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch
from adopted_models import random_frames, stock
from PIL import Image
from tiny_dual_encoders import save_dual_encoder
from tiny_models import tiny_model
from videos import barcode_frames, read_barcode, write_video

from dynfocus import VideoQAPipeline, VideoState
from dynfocus.adoption.focus_processor import FocusProcessor
from dynfocus.adoption.focused_model import FocusedModel
from dynfocus.adoption.looking import check_state, frames_of
from dynfocus.adoption.moments import find_moments
from dynfocus.towers.dual_encoder import DualEncoder

BUDGET = 200
QUESTION = "Which bar is white?"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    return DualEncoder.from_pretrained(save_dual_encoder("siglip", folder / "one"), device="cpu")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    frames = barcode_frames(24, height=96, width=128)
    return str(write_video(tmp_path_factory.mktemp("film") / "a film.mp4", frames, fps=2))


@pytest.fixture(scope="module")
def focused(encoder):
    model, processor = stock("qwen3_vl")
    return FocusedModel(model, processor, encoder, max_visual_tokens=BUDGET, tokens_per_key_frame=16)


@pytest.fixture(scope="module")
def state(focused, film):
    return focused.encode_video(film)


def facts(answer):
    found = answer.as_dict()
    found.pop("timings")
    return found


def test_the_range_of_budgets(focused, state):
    """With the fewest tokens one frame is a key frame, with one less none; with the most, all are."""
    least, usual, most = focused.token_range(state)
    assert least < usual == BUDGET < most
    assert focused.choose(state, "a?", max_visual_tokens=least).key_frames.shape == (1, 1)
    with pytest.raises(ValueError, match="too small"):
        focused.choose(state, "a?", max_visual_tokens=least - 1)
    assert focused.choose(state, "a?", max_visual_tokens=most).key_frames.shape == (1, 12)
    assert focused.choose(state, "a?", max_visual_tokens=most - 1).key_frames.shape[1] < 12


def test_a_state_has_a_unit_vector_for_each_frame(state, encoder):
    assert state.frame_embeddings.shape == (1, 12, encoder.width) and state.frame_embeddings.dtype == torch.float16
    torch.testing.assert_close(state.frame_embeddings.float().norm(dim=-1), torch.ones(1, 12), atol=2e-3, rtol=0)
    assert state.frame_times[0].tolist() == [float(second) for second in range(12)]
    assert state.frame_indices[0].tolist() == list(range(0, 24, 2))


def test_an_answer_says_what_it_rests_on(focused, state):
    (answer,) = focused.answer([(state, QUESTION)], max_new_tokens=4, do_sample=False)
    assert 0 < answer.score <= 1 and answer.num_visual_tokens <= BUDGET < answer.num_dense_tokens
    indices = [frame["index"] for frame in answer.key_frames]
    assert indices == sorted(set(indices)) and all(f["time"] == f["index"] for f in answer.key_frames)
    assert max(frame["score"] for frame in answer.key_frames) == 1.0
    members = sorted(frame for event in answer.events for frame in event["frames"])
    assert members == list(range(12)) and [event["medoid"] for event in answer.events] == indices
    focus = focused.choose(state, QUESTION)
    assert focus.key_frames[0].tolist() == indices


def test_a_state_answers_as_its_video_and_its_file(focused, state, film, tmp_path):
    state.save(tmp_path / "film.safetensors")
    loaded = VideoState.load(tmp_path / "film.safetensors")
    rows = [{"video": film, "question": QUESTION}, (state, QUESTION), (loaded, QUESTION)]
    direct, kept, read = (facts(focused.answer([row], max_new_tokens=4, do_sample=False)[0]) for row in rows)
    assert direct == kept == read


def test_a_batch_answers_as_its_rows(focused, state, film, encoder):
    other = focused.encode_video(random_frames(7, (64, 96)))
    rows = [(state, QUESTION), (other, "What is left of it?"), (state, "When?")]
    alone = [facts(focused.answer([row], max_new_tokens=3, do_sample=False)[0]) for row in rows]
    together = [facts(one) for one in focused.answer(rows, max_new_tokens=3, do_sample=False)]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.pop("score") == pytest.approx(theirs.pop("score"), rel=1e-4)
        assert ours == theirs


@pytest.mark.parametrize("name", ["qwen3_vl", "llava_onevision"])
def test_marks_in_a_question_are_words(name, encoder, film):
    focused = FocusedModel(*stock(name), encoder, max_visual_tokens=BUDGET, tokens_per_key_frame=16)
    state = focused.encode_video(film)
    tokenizer = focused.processor.tokenizer
    question = f"What does {' '.join(tokenizer.get_added_vocab())} </s> <image> mean?"
    plain, marked = (focused.answer([(state, text)], max_new_tokens=2)[0] for text in (QUESTION, question))
    assert 0 < marked.num_visual_tokens <= BUDGET and marked.num_dense_tokens == plain.num_dense_tokens


@pytest.mark.parametrize("rule", ["uniform", "topk", "its", "aks", "mmr", "peaks", "context"])
def test_rules_choose_within_the_budget(focused, state, rule):
    (answer,) = focused.answer([(state, QUESTION)], rule=rule, max_visual_tokens=150, max_new_tokens=1)
    assert answer.num_visual_tokens <= 150
    if rule == "uniform":
        count = len(answer.key_frames)
        assert [f["index"] for f in answer.key_frames] == [int((k + 0.5) * 12 / count) for k in range(count)]


def test_the_question_decides_the_frames(focused, state):
    chosen = {
        tuple(focused.choose(state, question, max_visual_tokens=200).key_frames[0].tolist())
        for question in ("red circle", "the man", "a picture of 7", "blue", "zebra", "What is written there?")
    }
    assert len(chosen) > 1


def test_the_key_frames_are_those_of_the_file(focused, state, film):
    """The bar code of a frame that is shown is its number."""
    video = frames_of(state)
    for number, frame in video.read([0, 6, 22]):
        assert read_barcode(frame) == number


def test_a_further_question_decodes_only_what_is_new(focused, film, monkeypatch):
    state = focused.encode_video(film)
    focused.answer([(state, QUESTION)], max_new_tokens=1)
    video = frames_of(state)
    monkeypatch.setattr(
        "dynfocus.processing.reading.video_reading.OpenVideo.frames", lambda *_: pytest.fail("decoded")
    )
    focused.answer([(state, QUESTION)], max_new_tokens=1)
    assert frames_of(state) is video


def test_the_budget_is_computed_once_a_question(focused, state, monkeypatch):
    calls, budget = [], FocusProcessor.budget
    monkeypatch.setattr(FocusProcessor, "budget", lambda *args: calls.append(args) or budget(*args))
    focused.answer([(state, QUESTION), (state, "And then?")], max_new_tokens=1)
    assert len(calls) == 2


def test_a_video_that_moved_changed_or_is_gone(focused, film, tmp_path):
    copy = str(shutil.copy(film, tmp_path / "copy.mp4"))
    path = tmp_path / "copy.safetensors"
    focused.encode_video(copy).save(path)
    (tmp_path / "copy.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="copy.mp4: the video of this state is gone, .* `keep_frames=True`"):
        focused.answer([(VideoState.load(path), QUESTION)])
    write_video(copy, barcode_frames(9), fps=2)
    with pytest.raises(ValueError, match="copy.mp4: has changed since its state was encoded"):
        focused.answer([(VideoState.load(path), QUESTION)])


def test_kept_frames_answer_when_the_video_is_gone(encoder, film, tmp_path):
    model, processor = stock("qwen3_vl")
    keeping = FocusedModel(
        model, processor, encoder, keep_frames=True, max_visual_tokens=BUDGET, tokens_per_key_frame=16
    )
    copy = str(shutil.copy(film, tmp_path / "copy.mp4"))
    keeping.encode_video(copy).save(tmp_path / "kept.safetensors")
    (tmp_path / "copy.mp4").unlink()
    kept = VideoState.load(tmp_path / "kept.safetensors")
    (answer,) = keeping.answer([(kept, QUESTION)], max_new_tokens=2)
    assert answer.num_visual_tokens <= BUDGET and len(answer.key_frames) >= 1
    numbers, frames = zip(*frames_of(kept).read([0, 4, 22]), strict=True)
    assert numbers == (0, 4, 22) and [read_barcode(frame) for frame in frames] == [0, 4, 22]


def test_states_of_others_are_refused(focused, state, tmp_path):
    model = tiny_model()
    foreign = model.encode_video(torch.zeros(1, 2, 3, 32, 32))
    with pytest.raises(ValueError, match="was encoded by a DynFocus model, not by a dual encoder"):
        focused.answer([(foreign, QUESTION)])
    another = DualEncoder.from_pretrained(save_dual_encoder("siglip", tmp_path / "two", seed=3), device="cpu")
    second = FocusedModel(*stock("qwen3_vl"), another)
    for use in (lambda: second.answer([(state, QUESTION)]), lambda: second.focus_processor(state, QUESTION)):
        with pytest.raises(ValueError, match=r"by another dual encoder \(name .*, not .*two\): choose that one as"):
            use()
    another.name = focused.dual_encoder.name
    with pytest.raises(ValueError, match=": its weights of the dual encoder differ from those of '.*: choose that"):
        find_moments(state, "red", another)
    other_pixels = DualEncoder.from_pretrained(save_dual_encoder("clip", tmp_path / "three"), device="cpu")
    other_pixels.name = another.name
    with pytest.raises(
        ValueError, match=r"by another dual encoder \(image size 32×32, not 32; vectors of 32, not 24\): choose that"
    ):
        check_state(state, other_pixels)
    older = replace(state, sampling={key: value for key, value in state.sampling.items() if key != "encoder"})
    with pytest.raises(ValueError, match="another dual encoder: its .* differ from those of"):
        check_state(older, other_pixels)


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("frame_embeddings", lambda t: t * float("nan"), "holds NaN or infinite numbers in `frame_embeddings`"),
        ("frame_embeddings", lambda t: t * 2, "holds vectors in `frame_embeddings` that are not of length 1"),
        ("frame_embeddings", lambda t: t.to(torch.int8), "has `frame_embeddings` of type torch.int8"),
        ("frame_embeddings", lambda t: torch.full_like(t[..., :4], 0.5), "has .4,. numbers in `frame_embeddings`"),
        ("frame_times", lambda t: t - 1, "has `frame_times` that are NaN, infinite or negative"),
        ("frame_times", lambda t: None, "lacks the times or the numbers of its frames"),
        ("frame_indices", lambda t: None, "lacks the times or the numbers of its frames"),
        ("frame_indices", lambda t: t.flip(1), "has `frame_indices` that do not increase"),
        ("frame_mask", lambda t: t[:, :-1], "has `frame_embeddings` that is"),
    ],
)
def test_damaged_states_are_refused(focused, state, name, change, message):
    damaged = replace(state, **{name: change(getattr(state, name))})
    with pytest.raises(ValueError, match=f"^This video state {message}.*: encode the video again.$"):
        focused.answer([(damaged, QUESTION)])


def test_the_pipeline_takes_a_stock_model(encoder, film, state):
    model, processor = stock("qwen3_vl")
    pipe = VideoQAPipeline(
        model, processor=processor, dual_encoder=encoder, max_visual_tokens=BUDGET, tokens_per_key_frame=16
    )
    direct = pipe(film, question=QUESTION, max_new_tokens=3, return_details=True)
    assert {"answer", "score", "key_frames", "num_visual_tokens", "num_dense_tokens"} <= direct.keys()
    asked = pipe(pipe.encode_video(film), question=[QUESTION, "When?"], max_new_tokens=3, return_details=True)
    assert {**asked[0], "timings": 0} == {**direct, "timings": 0}
    uniform = pipe(film, question=QUESTION, rule="uniform", max_visual_tokens=150, max_new_tokens=1)
    assert uniform["num_visual_tokens"] <= 150
    # "dpe" is the choice by the learned scores of a DynFocus model.
    for rule in ("best", "dpe"):
        with pytest.raises(ValueError, match=f"There is no rule of choice '{rule}'"):
            pipe(film, question=QUESTION, rule=rule)
    with pytest.raises(ValueError, match="`max_visual_tokens=0` is too small: one key frame costs "):
        pipe(film, question=QUESTION, max_visual_tokens=0)
    assert pipe.video_qa.answer([]) == []
    bad = pipe([{"video": "/no/such.mp4", "question": "a?"}, {"video": film, "question": "a?"}], on_error="skip")
    assert bad[0]["answer"] is None and "no such" in bad[0]["error"] and bad[1]["answer"] is not None


def test_several_videos_share_the_budget(focused, state, film):
    other = focused.encode_video(np.stack([np.full((64, 96, 3), shade, np.uint8) for shade in range(0, 200, 20)]))
    content = [
        {"type": "video", "video": state},
        {"type": "video", "video": other},
        {"type": "text", "text": "Which one is darker?"},
    ]
    (answer,) = focused.answer([{"messages": [{"role": "user", "content": content}]}], max_new_tokens=2)
    assert {frame["video"] for frame in answer.key_frames} == {0, 1} and answer.num_visual_tokens <= BUDGET


def windowed(film, **settings):
    content = [{"type": "video", "video": film, **settings}, {"type": "text", "text": QUESTION}]
    return [{"role": "user", "content": content}]


def test_settings_of_a_block_are_obeyed(focused, film, encoder, tmp_path):
    """By the interface, the pipeline and the processor alone; times and numbers are those of the file."""
    messages = windowed(film, video_start=4, video_end=8)
    (answer,) = focused.answer([{"messages": messages}], max_new_tokens=2, do_sample=False)
    assert answer.frame_times == [[4.0, 5.0, 6.0, 7.0]]
    assert all(4 <= frame["time"] < 8 for frame in answer.key_frames)
    (row,) = focused.answer(
        [{"video": film, "question": QUESTION, "video_start": 4, "video_end": 8}], max_new_tokens=2
    )
    assert row.frame_times == answer.frame_times and row.answer == answer.answer
    pipe = VideoQAPipeline(focused.model, processor=focused.processor, dual_encoder=encoder, max_new_tokens=2)
    assert pipe(messages, return_details=True)["frame_times"] == [4.0, 5.0, 6.0, 7.0]
    (few,) = focused.answer([{"messages": windowed(film, nframes=3)}], max_new_tokens=2)
    assert few.frame_times == [[2.0, 6.0, 10.0]]
    processor = focused.focus_processor
    given = [{"role": "user", "content": [{"type": "video", "video_start": 9, "fps": 2}, QUESTION]}]
    shown = processor(messages=windowed(film, video_start=9, fps=2))
    assert processor(film, messages=given)["input_ids"].tolist() == shown["input_ids"].tolist()
    assert shown["input_ids"].tolist() != processor(film, QUESTION)["input_ids"].tolist()
    words = [part["text"] for part in processor.chat_messages(messages=messages)[0]["content"] if "text" in part]
    seconds = [float(second) for second in re.findall(r"<([\d.]+) seconds>", "".join(words))]
    assert seconds and all(4 <= second < 8 for second in seconds)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_pixels": 9}, "`max_pixels` in a video block is not supported"),
        ({"speed": 2}, "`speed` in a video block is not known"),
        ({"video_start": 12}, "video_start is 12 s, but the video lasts 12.00 s"),
        ({"fps": 0}, "fps is 0"),
    ],
)
def test_settings_that_are_not_obeyed_are_refused(focused, film, settings, message):
    for ask in (
        lambda: focused.answer([{"messages": windowed(film, **settings)}]),
        lambda: focused.focus_processor(messages=windowed(film, **settings)),
        lambda: focused.focus_processor.chat_messages(messages=windowed(film, **settings)),
    ):
        with pytest.raises(ValueError, match=message):
            ask()


def test_settings_of_chosen_frames_are_refused(focused, state):
    processor = focused.focus_processor
    chosen = processor.choose_for(state, QUESTION).frames
    valueless = windowed(None, fps=2)
    for ask in (
        lambda: processor.show(valueless, [chosen]),
        lambda: processor(chosen, messages=valueless),
        lambda: processor(state, messages=valueless),
        lambda: focused.answer([{"messages": windowed(state, fps=2)}]),
        lambda: focused.answer([{"messages": valueless, "video": state}]),
    ):
        with pytest.raises(ValueError, match="`fps` of a video "):
            ask()


@dataclass
class Message:
    role: str
    content: object


def test_messages_may_be_objects_and_questions_are_strings(focused, film):
    processor = focused.focus_processor
    expected = processor(film, QUESTION)["input_ids"].tolist()
    message = Message("user", windowed(film)[0]["content"])
    assert processor(messages=[message])["input_ids"].tolist() == expected
    chosen = processor._chosen(film, QUESTION, None)[1]
    assert processor.show([message], chosen).inputs["input_ids"].tolist() == expected
    (answer,) = focused.answer([{"messages": [message]}], max_new_tokens=2)
    assert answer.answer == focused.answer([{"video": film, "question": QUESTION}], max_new_tokens=2)[0].answer
    for question in (b"What?", 7, ["What?"]):
        for ask in (
            lambda question=question: processor(film, question),
            lambda question=question: focused.answer([{"video": film, "question": question}]),
            lambda question=question: focused.answer([{"messages": windowed(film), "question": question}]),
            lambda question=question: focused.prepare({"video": film}, question=question),
        ):
            with pytest.raises(ValueError, match=f"A question must be a string, got {type(question).__name__}"):
                ask()


def test_deep_pictures_beside_a_video_follow_the_rule_of_arrays(focused, state, tmp_path):
    bits = (np.arange(56 * 56).reshape(56, 56) * 20).astype(np.uint16)
    deep, floats = Image.fromarray(bits), Image.fromarray((bits / 65535).astype(np.float32))
    deep.save(tmp_path / "deep.png")
    processor = focused.focus_processor
    chosen = [processor.choose_for(state, QUESTION).frames]

    def pixels(picture):
        content = [{"type": "video"}, {"type": "image", "image": picture}, {"type": "text", "text": QUESTION}]
        return processor.show([{"role": "user", "content": content}], chosen).inputs["pixel_values"]

    for picture in (deep, str(tmp_path / "deep.png"), (tmp_path / "deep.png").read_bytes()):
        with pytest.raises(ValueError, match="those of more than 8 bits scaled to"):
            pixels(picture)
    gray = Image.fromarray(np.rint(bits / 65535 * 255).astype(np.uint8))
    assert torch.equal(pixels(floats), pixels(gray)) and pixels(gray).std() > 0.1


def test_a_video_in_memory_is_read_again_for_its_key_frames(focused, film):
    data = Path(film).read_bytes()
    expected = focused.focus_processor(film, QUESTION)["input_ids"].tolist()
    for video in (data, io.BytesIO(data), {"path": "gone.mp4", "bytes": data}, f"file://{quote(film)}"):
        assert focused.focus_processor(video, QUESTION)["input_ids"].tolist() == expected
        state = focused.encode_video(video)
        assert len(focused.answer([(state, QUESTION)], max_new_tokens=1)[0].key_frames) > 0


def test_a_text_that_is_too_long_is_not_tokenized(focused, film, state):
    """Ten million characters, in every way in."""
    text = "which? " * 1_500_000
    chat = [{"role": "user", "content": [{"type": "video", "video": film}, {"type": "text", "text": text}]}]
    processor = focused.focus_processor
    for ask in (
        lambda: processor(film, text),
        lambda: processor(messages=chat),
        lambda: processor.show(chat, processor._chosen(film, QUESTION, None)[1]),
        lambda: processor.chat_messages(film, text),
        lambda: focused.answer([(state, text)]),
        lambda: focused.answer([{"messages": chat}]),
        lambda: focused.choose(state, text),
    ):
        with pytest.raises(ValueError, match="A text has 10,500,000 characters, more than any model reads"):
            ask()
    shorter = text[: 40 * 32768]
    with pytest.raises(ValueError, match="The texts have 1,310,720 characters, and the model reads 32,768 tokens"):
        focused.answer([{"video": film, "question": shorter}])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3, "does not come to an end"),
        ("{% if false %}{{ 10**(10**8) }}{% endif %}", "computes a power"),
        ("{{ 1 // 0 }}", "cannot be rendered: ZeroDivisionError"),
        ("{{ raise_exception('no') }}", "refuses this conversation: no"),
    ],
)
def test_templates_that_do_not_end_are_refused(focused, state, template, message):
    processor = copy.copy(focused.focus_processor)
    processor.processor = copy.copy(processor.processor)
    processor.processor.chat_template = template
    with pytest.raises(ValueError, match=message):
        processor(state, QUESTION)
