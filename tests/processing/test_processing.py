"""Video processor and processor: every form of video, the plan's placeholders, questions, errors."""

import inspect
import io
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import make_tiny_processor
from transformers import AutoVideoProcessor
from videos import barcode_frames, read_barcode, write_video

from dynfocus.configuration_dynfocus import DynFocusConfig
from dynfocus.processing import (
    DynFocusProcessor,
    DynFocusVideoMetadata,
    DynFocusVideoProcessor,
    merge_rows,
    read_video,
)


@pytest.fixture(scope="module")
def processor():
    return make_tiny_processor()


@pytest.fixture(scope="module")
def video_file(tmp_path_factory):
    """40 frames in 4 seconds."""
    return write_video(tmp_path_factory.mktemp("videos") / "a film ü.mp4", barcode_frames(40), fps=10)


def frames_of(num_frames, height=24, width=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def chat(*videos, text="which number?", answer=None):
    content = [{"type": "video", "video": video} for video in videos] + [{"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    return messages if answer is None else [*messages, {"role": "assistant", "content": answer}]


def prepare(processor, conversation, **kwargs):
    return processor.apply_chat_template(
        conversation,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=kwargs,
    )


# --- frames


def test_a_file_gives_the_pixels_of_its_decoded_frames(processor, video_file):
    pixels = processor.video_processor(video_file, fps=2)["pixel_values_videos"]
    decoded = read_video(video_file, fps=2).frames
    assert decoded.shape[1:3] != pixels.shape[-2:]
    data = video_file.read_bytes()
    assert [read_barcode(frame) for frame in decoded] == list(range(0, 40, 5))
    for video in (
        str(video_file),
        data,
        io.BytesIO(data),
        decoded,
        torch.from_numpy(decoded),
        decoded.transpose(0, 3, 1, 2),
        torch.from_numpy(decoded).permute(0, 3, 1, 2),
        [Image.fromarray(frame) for frame in decoded],
        list(decoded),
        decoded / 255.0,
        decoded.astype(np.int64),
        torch.from_numpy(decoded).float(),
        {"path": str(video_file), "bytes": None},
        {"path": "elsewhere.mp4", "bytes": data},
    ):
        same = processor.video_processor(video, fps=2)["pixel_values_videos"]
        assert torch.equal(same, pixels), type(video)


def test_normalisation_is_undone_by_hand():
    frames = frames_of(3, 16, 16)
    processor = DynFocusVideoProcessor(size=16, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7])
    pixels = processor(frames)["pixel_values_videos"][0]
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    restored = (pixels.permute(0, 2, 3, 1) * std + mean) * 255
    assert torch.allclose(restored, torch.from_numpy(frames).float(), atol=1e-3)


def test_gray_and_alpha_channels_and_single_images():
    processor = DynFocusVideoProcessor(size=16)
    gray = frames_of(2, 16, 16)[..., :1]
    alpha = np.concatenate([frames_of(2, 16, 16), gray], axis=-1)
    expected = processor(gray.repeat(3, axis=-1))["pixel_values_videos"]
    assert torch.equal(processor(gray)["pixel_values_videos"], expected)
    assert torch.equal(processor(alpha)["pixel_values_videos"], processor(alpha[..., :3])["pixel_values_videos"])
    image = Image.fromarray(alpha[0, ..., :3])
    assert processor(image)["video_frame_mask"].tolist() == [[True]]


def test_padding_is_zero_and_masked(processor):
    videos = [frames_of(2), frames_of(5, seed=1), frames_of(1, 50, 20, seed=2)]
    batch = processor.video_processor(videos)
    assert batch["pixel_values_videos"].shape == (3, 5, 3, 32, 32)
    assert batch["video_frame_mask"].dtype == torch.bool
    assert batch["video_frame_mask"].sum(1).tolist() == [2, 5, 1]
    assert not batch["pixel_values_videos"][~batch["video_frame_mask"]].any()
    for index, video in enumerate(videos):
        alone = processor.video_processor(video)["pixel_values_videos"][0]
        assert torch.equal(batch["pixel_values_videos"][index, : len(video)], alone)


@pytest.mark.parametrize("sampling", [{"fps": 3}, {"fps": 100}, {"num_frames": 7}, {"fps": 5, "max_frames": 6}, {}])
def test_a_whole_decoded_video_is_sampled_like_its_file(processor, video_file, sampling):
    whole = read_video(video_file, fps=100).frames
    metadata = {"total_num_frames": 40, "fps": 10.0}
    found = processor.video_processor(whole, video_metadata=[metadata], return_metadata=True, **sampling)
    expected = processor.video_processor(video_file, return_metadata=True, **sampling)
    assert torch.equal(found["pixel_values_videos"], expected["pixel_values_videos"])
    times = expected["video_metadata"][0].timestamps
    assert found["video_metadata"][0].timestamps == pytest.approx(times, abs=1e-6)
    assert found["video_metadata"][0].frames_indices == expected["video_metadata"][0].frames_indices


def test_times_are_those_of_the_frames(tmp_path, processor):
    seconds = [0.0, 0.1, 0.2, 2.5, 2.6, 5.0, 5.5]
    path = write_video(tmp_path / "variable.mkv", barcode_frames(7), pts=seconds)
    found = processor.video_processor(path, fps=50, return_metadata=True)["video_metadata"][0]
    assert found.timestamps == pytest.approx(seconds, abs=2e-3)
    assert found.frames_indices == list(range(7))
    # An array of sampled frames: by its metadata, or else `fps` frames a second.
    array = processor.video_processor(frames_of(4), fps=2, return_metadata=True)["video_metadata"][0]
    assert array.timestamps == [0.0, 0.5, 1.0, 1.5]
    known = DynFocusVideoMetadata(total_num_frames=90, fps=30.0, frames_indices=[0, 45, 60])
    array = processor.video_processor(frames_of(3), video_metadata=[known], return_metadata=True)["video_metadata"][0]
    assert array.timestamps == [0.0, 1.5, 2.0]
    assert dict(array)["frame_times"] == [0.0, 1.5, 2.0]


def test_num_frames_of_a_decoded_array(processor):
    numbers = barcode_frames(20)
    kept = processor.video_processor(numbers, num_frames=4, return_metadata=True)["video_metadata"][0]
    assert kept.frames_indices == [2, 7, 12, 17]
    assert processor.video_processor(numbers, max_frames=50)["video_frame_mask"].sum() == 20
    assert processor.video_processor(numbers, num_frames=4, do_sample_frames=False)["video_frame_mask"].sum() == 20


def test_fps_of_a_call_overrules_a_saved_number(video_file):
    saved = DynFocusVideoProcessor(size=16, num_frames=3)
    assert saved(video_file)["video_frame_mask"].sum() == 3
    assert saved(video_file, fps=1)["video_frame_mask"].sum() == 4
    assert saved.fetch_videos([str(video_file)])[1][0].total_num_frames == 40


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (np.zeros((0, 8, 8, 3), np.uint8), "0 frames"),
        (np.full((2, 8, 8, 3), np.nan), "NaN or infinite values .first in frame 0"),
        (np.stack([np.zeros((8, 8, 3)), np.full((8, 8, 3), np.inf)]), "first in frame 1"),
        (np.full((2, 8, 8, 3), -1.5), r"\[-1.5, -1.5\].*without normalisation"),
        (np.full((2, 8, 8, 3), 300), r"\[300, 300\]"),
        (np.zeros((2, 8, 8, 5), np.uint8), "1, 3 or 4 channels"),
        (np.zeros((2, 8), np.uint8), "shape"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)], "all have one size"),
        (7, "must be a path.*got int"),
        ({"name": "x"}, "`path` or `bytes`"),
        ([], "no video"),
    ],
)
def test_bad_frames_are_one_clear_error(processor, video, message):
    with pytest.raises(ValueError, match=message):
        processor.video_processor(video)


def test_an_error_in_a_list_says_which_video(processor, video_file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Video 1 of 2 \('/no/such\.mp4'\): .*no such"):
        processor.video_processor([str(video_file), "/no/such.mp4"])
    with pytest.raises(ValueError, match=r"Video 0 of 2 \(array of shape \(0, 8, 8, 3\)\): .*0 frames"):
        processor.video_processor([np.zeros((0, 8, 8, 3)), str(video_file)])
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(bytes(range(256)) * 8)
    with pytest.raises(ValueError, match="garbage.mp4"):
        processor.video_processor(garbage)


def test_settings_that_cannot_be_meant(processor):
    frames = frames_of(2)
    with pytest.raises(TypeError, match="Unknown keyword of the video processor: sise"):
        processor.video_processor(frames, sise=3)
    with pytest.raises(ValueError, match="max_frames is -2"):
        processor.video_processor(frames, max_frames=-2)
    with pytest.raises(ValueError, match="`size` must be"):
        processor.video_processor(frames, size={"shortest_edge": 20})
    with pytest.raises(ValueError, match="different frame sizes"):
        processor.video_processor([frames, frames_of(2, 10, 10)], do_resize=False)
    with pytest.raises(ValueError, match="1 entries for 2 videos"):
        processor.video_processor([frames, frames], video_metadata=[{"total_num_frames": 2}])


# --- placeholders


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=3), st.one_of(st.none(), st.integers(40, 1500)), st.booleans()
)
def test_placeholders_follow_the_plan(lengths, limit, rods_on_key_frames):
    processor = make_tiny_processor(8, rods_on_key_frames=rods_on_key_frames)
    videos = [np.zeros((length, 8, 8, 3), np.uint8) for length in lengths]
    inputs = prepare(processor, [chat(video) for video in videos], max_visual_tokens=limit)
    plans = [processor.token_budget(max_visual_tokens=limit).plan(length) for length in lengths]
    assert inputs["video_token_plan"].tolist() == [list(plan.as_row()) for plan in plans]
    counts = (inputs["input_ids"] == processor.video_token_id).sum(1).tolist()
    assert counts == [plan.num_visual_tokens for plan in plans]
    assert limit is None or max(counts) <= limit
    sizes = [(length, 8, 8) for length in lengths]
    predicted = processor._get_num_multimodal_tokens(video_sizes=sizes, max_visual_tokens=limit)
    assert predicted["num_video_tokens"] == counts


def test_several_videos_and_rows_without_any(processor):
    first, second, third = frames_of(3), frames_of(6, seed=1), frames_of(2, seed=2)
    rows = [chat(first, second, text="which is it?"), chat(text="hello"), chat(third, text="yes or no?")]
    batch = prepare(processor, rows)
    assert batch["video_frame_mask"].sum(1).tolist() == [3, 6, 2]
    assert batch["video_token_plan"][:, 2].tolist() == [3, 6, 2]
    asked = [
        processor.tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["question_input_ids"], batch["question_attention_mask"], strict=True)
    ]
    assert asked == ["which is it?", "which is it?", "yes or no?"]
    # Padded on the left, and each row is what it is alone.
    assert batch["attention_mask"][:, -1].all() and not batch["attention_mask"][1, 0]
    for row, ids, mask in zip(rows, batch["input_ids"], batch["attention_mask"], strict=True):
        assert torch.equal(ids[mask.bool()], prepare(processor, row)["input_ids"][0])
    alone = [prepare(processor, row) for row in rows]
    merged = merge_rows(alone, processor.tokenizer.pad_token_id, "left")
    assert merged.keys() == batch.keys()
    assert all(torch.equal(merged[name], batch[name]) for name in batch)
    text_only = prepare(processor, rows[1])
    assert set(text_only) == {"input_ids", "attention_mask"}
    assert set(batch) == set(processor.model_input_names) - {"token_type_ids"}


def test_replacements_are_reported(processor):
    inputs = processor(text="a <video> b", videos=frames_of(2), return_text_replacement_offsets=True)
    (found,) = inputs["text_replacement_offsets"][0]
    assert found["span"] == (2, 9)
    assert found["replacement"] == "<video>" * (inputs["input_ids"][0].count(processor.video_token_id))


def test_wrong_number_of_marks(processor):
    with pytest.raises(ValueError, match="2 <video> marks, but 1 videos"):
        processor(text="<video> <video> what?", videos=frames_of(2))
    with pytest.raises(ValueError, match="0 <video> marks, but 1 videos"):
        processor(text="what?", videos=frames_of(2))
    with pytest.raises(ValueError, match="1 <video> marks, but 0 videos"):
        processor(text="<video> what?")
    with pytest.raises(ValueError, match=r"\[2, 0\] <video> marks, but \[1, 1\] videos"):
        processor(text=["<video> <video> a?", "b?"], videos=[[frames_of(1)], [frames_of(1)]])


def test_videos_without_text_and_images(processor):
    inputs = processor(videos=[frames_of(3), frames_of(2)], question="what?")
    assert "input_ids" not in inputs and inputs["question_input_ids"].shape[0] == 2
    image = Image.fromarray(frames_of(1)[0])
    as_video = processor(text="<video> what?", videos=[[image]], return_tensors="pt")
    as_image = processor(text="<video> what?", images=image, return_tensors="pt")
    in_chat = prepare(processor, [{"role": "user", "content": [{"type": "image", "image": image}]}], question="what?")
    assert as_video["video_token_plan"].tolist() == [[1, 1, 1]]
    for found in (as_image, in_chat):
        assert torch.equal(found["pixel_values_videos"], as_video["pixel_values_videos"])
    with pytest.raises(ValueError, match="`images` or `videos`"):
        processor(text="<video>", images=image, videos=frames_of(1))
    with pytest.raises(ValueError, match="Audio inputs are not supported"):
        processor(text="a", audio=np.zeros(10))
    # Tools ask the signature which modalities there are.
    assert "audio" not in inspect.signature(processor.__call__).parameters
    assert "input_ids" in processor(text="a", audio=None)


def test_a_prompt_without_tokens_opens_no_video(processor, video_file):
    blocks = [
        {"type": "image_url", "image_url": {"url": "https://example.invalid/cat.png"}},
        {"type": "video", "path": "missing.mp4"},
        {"type": "text", "text": "which number?"},
    ]
    text = processor.apply_chat_template([{"role": "user", "content": blocks}], tokenize=False)
    assert text == processor.apply_chat_template(chat(str(video_file), str(video_file)), tokenize=False)
    with pytest.raises((ValueError, OSError), match="cat.png|missing.mp4"):
        processor.apply_chat_template([{"role": "user", "content": blocks}], tokenize=True)


def test_budget_too_small(processor):
    with pytest.raises(ValueError, match="max_visual_tokens=39.* 40 tokens"):
        processor(text="<video> what?", videos=frames_of(2), max_visual_tokens=39)
    with pytest.raises(ValueError, match="max_visual_tokens=12"):
        make_tiny_processor(max_visual_tokens=12)


# --- questions


def asked(processor, inputs):
    return processor.tokenizer.decode(inputs["question_input_ids"][0][inputs["question_attention_mask"][0].bool()])


def test_where_the_question_comes_from(processor):
    video = frames_of(2)
    explicit = processor(text="<video> a long prompt.", videos=video, question="what?", return_tensors="pt")
    assert asked(processor, explicit) == "what?"
    prompt = processor(text="<s><video>\nwhich  number?</s>", videos=video, return_tensors="pt")
    assert asked(processor, prompt) == "which number?"
    turns = [*chat(video, text="first?", answer="yes"), *chat(text="second?")]
    assert asked(processor, prepare(processor, turns)) == "second?"
    assert asked(processor, prepare(processor, turns, question="third?")) == "third?"
    plain = processor.apply_chat_template(turns, question="fourth?", tokenize=True, return_dict=True)
    assert (
        plain["question_input_ids"].tolist()
        == processor(videos=video, question="fourth?")["question_input_ids"].tolist()
    )
    rows = processor(text=["<video> a", "<video> b"], videos=[video, video], question=["one?", None])
    assert rows["question_attention_mask"].sum(1).tolist()[1] == 1
    # No words at all, as in a warm-up run: allowed, and something to attend to.
    silent = processor(text="<video>", videos=video)
    assert silent["question_attention_mask"].tolist() == [[1]]


def test_questions_that_cannot_be_asked(processor):
    video = frames_of(2)
    for empty in ("", "  \n "):
        with pytest.raises(ValueError, match="question is empty"):
            processor(text="<video> hm", videos=video, question=empty)
        with pytest.raises(ValueError, match="question is empty"):
            prepare(processor, chat(video, text=empty))
    with pytest.raises(ValueError, match=r"The question is too long: it has 10,000 words.*max_question_tokens=60"):
        prepare(processor, chat(video, text="word " * 10_000))
    with pytest.raises(ValueError, match="3 questions for 2 rows"):
        processor(text=["<video>", "<video>"], videos=[video, video], question=["a", "b", "c"])


def test_a_conversation_is_left_as_it_was(processor):
    image = Image.fromarray(frames_of(1)[0])
    block = {"type": "image", "image": image, "text": None}
    conversation = [{"role": "user", "content": [block, {"type": "text", "text": "what?", "image": None}]}]
    prepare(processor, conversation)
    assert conversation[0]["content"][0] is block and block["type"] == "image"


# --- saving, decoding


def without_names(settings):
    """Settings of a processor without the names of its classes."""
    kept = {name: value for name, value in settings.items() if name != "auto_map"}
    if "video_processor" in kept:
        kept["video_processor"] = without_names(kept["video_processor"])
    return kept


def test_save_and_load(tmp_path):
    AutoVideoProcessor.register(DynFocusConfig, DynFocusVideoProcessor, exist_ok=True)
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    saved = make_tiny_processor(
        24, num_prototypes=6, key_ratio=0.5, max_visual_tokens=200, rods_on_key_frames=False, chat_template=template
    )
    saved.video_processor.fps = 4.0
    saved.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == template
    loaded = DynFocusProcessor.from_pretrained(tmp_path)
    # What is saved also says where its code is.
    assert without_names(loaded.to_dict()) == saved.to_dict()
    assert loaded.chat_template == template
    assert loaded.token_budget() == saved.token_budget()
    inputs = [one(text="<video> what?", videos=frames_of(9), return_tensors="pt") for one in (saved, loaded)]
    assert all(torch.equal(inputs[0][name], inputs[1][name]) for name in inputs[0])
    changed = DynFocusProcessor.from_pretrained(tmp_path, max_visual_tokens=100)
    assert changed.max_visual_tokens == 100 and changed.num_prototypes == 6
    assert "processor_config.json" in os.listdir(tmp_path)
    # Where vLLM, and older versions of transformers, look for the video processor.
    (tmp_path / "processor_config.json").unlink()
    alone = AutoVideoProcessor.from_pretrained(tmp_path)
    assert type(alone) is type(saved.video_processor) and alone.fps == 4.0
    assert without_names(alone.to_dict()) == saved.video_processor.to_dict()


def test_settings_of_a_call(processor, video_file):
    base = processor(text="<video> a", videos=str(video_file), num_frames=10)
    assert base["video_token_plan"].tolist() == [[10, 8, 10]]
    fewer = processor(text="<video> a", videos=str(video_file), num_frames=10, num_prototypes=5, key_ratio=0.2)
    assert fewer["video_token_plan"].tolist() == [[5, 1, 10]]
    nested = processor(
        text="<video> a", videos=str(video_file), videos_kwargs={"num_frames": 6, "max_visual_tokens": 50}
    )
    assert nested["video_token_plan"].tolist() == [[6, 1, 6]]
    assert processor.max_visual_tokens is None


def test_the_tokenizer_must_know_the_mark(processor):
    with pytest.raises(ValueError, match="has no token '<film>'.*add_special_tokens"):
        DynFocusProcessor(processor.video_processor, processor.tokenizer, video_token="<film>")


def test_answers_are_stripped_of_prompt_and_marks(processor):
    prompt = torch.tensor([processor.tokenizer("yes or no?")["input_ids"]])
    answer = torch.tensor([processor.tokenizer(" 47</s><pad>", add_special_tokens=False)["input_ids"]])
    generated = torch.cat([prompt, answer], dim=1)
    assert processor.post_process_generation(generated, prompt) == ["47"]
    assert processor.post_process_image_text_to_text(answer) == ["47"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\n\n</think>\n\nred", "red"),
        ("<think> it looks red </think>red", "red"),
        ("the tag <think> is text </think>", "the tag <think> is text </think>"),
        ("<think> and then cut off", "<think> and then cut off"),
    ],
)
def test_thoughts_are_no_part_of_the_answer(processor, monkeypatch, text, answer):
    monkeypatch.setattr(type(processor.tokenizer), "batch_decode", lambda self, rows, **_: [text])
    assert processor.post_process_generation(torch.ones(1, 3, dtype=torch.long)) == [answer]
