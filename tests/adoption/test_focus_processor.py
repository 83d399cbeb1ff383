"""Chosen frames shown to stock models: exact in the dense limit, within the budget, with true times, in any batch."""

import copy
import re
from collections import Counter

import numpy as np
import pytest
import torch
from adopted_models import FAMILIES, dense_call, greedy, logits, random_frames, stock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoProcessor
from transformers.image_utils import PILImageResampling
from videos import barcode_frames, read_barcode, write_video

from dynfocus.adoption.families import FAMILIES as ROWS
from dynfocus.adoption.families import known_family
from dynfocus.adoption.focus_processor import ChosenFrames, FocusProcessor, VideoFrames
from dynfocus.adoption.video_frames import DrawnFrames, Entry, draw, spread_coarse
from dynfocus.processing.reading.video_reading import open_video

ALL = sorted(FAMILIES)
QUESTION = "What?"
# Pictures which the stock processor does not enlarge.
SIZE = {"gemma4": (336, 480)}
# Families whose stock left padding is not exact itself.
PADDING_ERROR = {"qwen3_5": 1e-3, "qwen3_5_moe": 1e-3}


def focus(name: str, **settings) -> FocusProcessor:
    model, processor = stock(name)
    settings = {"max_visual_tokens": 100_000, "tokens_per_key_frame": 70, **settings}
    return FocusProcessor(processor, config=model.config, **settings)


def pairs(name: str) -> int:
    """Frames that the tower merges."""
    return getattr(getattr(stock(name).processor, "video_processor", None), "temporal_patch_size", 1) or 1


def irregular(num_frames: int = 40, seed: int = 0) -> VideoFrames:
    """A video whose frames are shown for 0.2 to 3 seconds each."""
    times = np.cumsum(np.random.default_rng(seed).uniform(0.2, 3, num_frames)).round(2)
    return VideoFrames.decoded(random_frames(num_frames, seed=seed), times - times[0])


# Named here, since tests are collected before any model is made.
WITHOUT_TIMES = (
    "qwen2_5_vl",
    "qwen2_vl",
    "llava_onevision",
    "llava_next_video",
    "perception_lm",
    "internvl",
    "gemma3",
)
WITH_TIMES = [name for name in ALL if name not in WITHOUT_TIMES]


@pytest.mark.parametrize("name", ALL)
def test_families_that_write_times_are_the_ones_named_here(name):
    assert bool(known_family(stock(name).processor).times) == (name in WITH_TIMES)


# ------------------------------------------------------------------------------------------------- the dense limit


def dense(name: str, frames: np.ndarray | None = None, fps: float = 2.0, shift: float = 0.0):
    """All frames of a video as key frames: ours, and the stock call on the same video."""
    video = random_frames(4 * pairs(name), SIZE.get(name, (96, 128)))
    times = np.arange(len(video)) / fps + shift
    shown = VideoFrames.decoded(video if frames is None else frames, times, duration=len(video) / 2.0)
    chosen = ChosenFrames(shown, list(range(0, len(video), pairs(name))))
    return focus(name).show(QUESTION, [chosen]).inputs, dense_call(name, video, 2.0, QUESTION)


def pixels(inputs) -> torch.Tensor:
    return next(value for key, value in inputs.items() if key.startswith("pixel_values")).flatten()


@pytest.mark.parametrize("name", ALL)
def test_with_all_frames_in_full_it_is_the_stock_call(name):
    model = stock(name).model
    ours, stocks = dense(name)
    assert torch.equal(ours["input_ids"], stocks["input_ids"])
    assert torch.equal(pixels(ours), pixels(stocks))
    assert set(ours) - {"position_ids"} == set(stocks) - {"second_per_grid_ts"}
    assert (logits(model, ours) - logits(model, stocks)).abs().max() == 0.0
    assert greedy(model, ours) == greedy(model, stocks)


@pytest.mark.parametrize("name", ALL)
def test_swapped_frames_do_not_pass_for_the_stock_call(name):
    frames = random_frames(4 * pairs(name), SIZE.get(name, (96, 128)))
    ours, stocks = dense(name, frames[::-1].copy())
    assert torch.equal(ours["input_ids"], stocks["input_ids"])
    assert not torch.equal(pixels(ours), pixels(stocks))
    assert (logits(stock(name).model, ours) - logits(stock(name).model, stocks)).abs().max() > 1e-2


@pytest.mark.parametrize("name", WITH_TIMES)
@pytest.mark.parametrize("wrong", [{"fps": 0.5}, {"shift": 7.0}], ids=["rate", "shift"])
def test_wrong_times_do_not_pass_for_the_stock_call(name, wrong):
    ours, stocks = dense(name, **wrong)
    assert not torch.equal(ours["input_ids"], stocks["input_ids"])


def test_a_wrong_rate_shows_in_positions():
    """Qwen2.5-VL writes no times, but counts them in its positions."""
    ours, stocks = dense("qwen2_5_vl", fps=0.5)
    assert torch.equal(ours["input_ids"], stocks["input_ids"])
    assert (logits(stock("qwen2_5_vl").model, ours) - logits(stock("qwen2_5_vl").model, stocks)).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["qwen3_vl", "smolvlm"])
def test_another_attention_does_not_pass_for_the_stock_call(name):
    model = stock(name).model
    ours, stocks = dense(name)
    other = copy.deepcopy(model)
    other.config.get_text_config()._attn_implementation = None
    assert (logits(other, ours) - logits(model, stocks)).abs().max() > 1e-2


# ------------------------------------------------------------------------------------------------------ the budget


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_plan_is_kept_for_every_video_and_budget(name, data):
    num_frames = data.draw(st.integers(1, 60), label="frames")
    size = data.draw(st.sampled_from([(96, 128), (128, 96), (64, 200)]), label="size")
    forms = ["none", "panels", *["low"] * focus(name).family.native]
    coarse = data.draw(st.sampled_from(forms), label="coarse")
    times = np.cumsum(np.random.default_rng(num_frames).uniform(0.1, 300, num_frames)).round(2)
    video = VideoFrames.decoded(random_frames(num_frames, size), times)
    processor = focus(name, coarse=coarse, tokens_per_key_frame=12, tokens_per_coarse_frame=2)
    candidates = list(range(num_frames))
    try:
        processor.plan(video, candidates, 1)
        raise AssertionError("one token cannot be enough")
    except ValueError as error:
        least = int(re.search(r"costs (\d+) tokens", str(error)).group(1))
    limit = data.draw(st.integers(least, 40 * least), label="budget")
    plan = processor.plan(video, candidates, limit)
    key = data.draw(st.permutations(candidates), label="key")[: plan.num_key_frames]
    processor.max_visual_tokens = limit
    shown = processor.show(QUESTION, [processor.choose(video, sorted(key), candidates)])
    (count,) = shown.num_visual_tokens[0]
    assert count <= plan.num_visual_tokens <= limit
    entries = shown.entries[0][0]
    assert sum(entry.is_key for entry in entries) == plan.num_key_frames
    assert sum(not entry.is_key for entry in entries) == plan.num_coarse
    # The stock model refuses placeholders that do not match its features.
    assert logits(stock(name).model, shown.inputs).isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_what_is_counted_stands_in_the_prompt(name):
    """The tokens of a video are those by which the prompt is longer than without it."""
    processor, tokenizer = focus(name), stock(name).processor.tokenizer
    video = irregular(8)
    shown = processor.show(QUESTION, [ChosenFrames(video, [1, 3], [[0], [5]])])
    ids = shown.inputs["input_ids"][0]
    text = tokenizer.decode(ids)
    bare = text.index(QUESTION)
    assert shown.num_visual_tokens[0][0] < len(tokenizer(text[:bare], add_special_tokens=False)["input_ids"])
    # Outside the video no mark of a picture is left, and no digit of a time.
    count, marks = shown.num_visual_tokens[0][0], processor._prompt.placeholder
    starts = [i for i in range(len(ids) - count) if marks.search(tokenizer.decode(ids[i : i + count]))]
    outside = [tokenizer.decode(ids[:i]) + tokenizer.decode(ids[i + count :]) for i in starts]
    assert any(not marks.search(rest) and not re.search(r"\d", rest) for rest in outside)


def test_the_least_number_of_tokens_is_named():
    processor, video = focus("qwen3_vl"), VideoFrames.decoded(random_frames(8), np.arange(8) / 2)
    with pytest.raises(ValueError, match="one key frame costs 27 tokens, its time words and marks included"):
        processor.plan(video, range(8), 26)
    assert processor.plan(video, range(8), 27).num_key_frames == 1


def test_more_than_the_budget_is_refused():
    processor = focus("qwen3_vl", max_visual_tokens=60)
    with pytest.raises(ValueError, match="costs 81 tokens, more than `max_visual_tokens=60`"):
        processor.show(QUESTION, [ChosenFrames(irregular(8), [0, 1, 2])])
    with pytest.raises(ValueError, match="3 key frames were chosen, but the budget of 60 tokens has room for 2"):
        processor.choose(irregular(8), [0, 1, 2], range(8))


# ----------------------------------------------------------------------------------------------- times and pictures


def expected_stamps(name: str, times: list[float], later: list[float]) -> list[str]:
    """The words for frames shown at `times`; where pairs are shown, `later` is when the second begins."""
    clock = [f"{int(t) // 60:02d}:{int(t) % 60:02d}" for t in times]
    return {
        "qwen3_vl": [f"<{(a + b) / 2:.1f} seconds>" for a, b in zip(times, later, strict=True)],
        "glm4v": [f"<|end_of_image|>{int(t)}<" for t in times],
        "glm46v": [f"<|end_of_image|>{t:.1f} seconds<" for t in times],
        "video_llama_3": [f"Time {t:.1f}s:" for t in times],
        "gemma4": [f"{t} <|image>" for t in clock],
        "smolvlm": [f"Frame from {t}:" for t in clock],
        "molmo2": [f"{t:.1f} <frame_start>" for t in times],
    }[name.replace("qwen3_5", "qwen3_vl").replace("_moe", "")]


@pytest.fixture(scope="module")
def variable_rate(tmp_path_factory):
    """24 frames, each shown for another time, some for minutes."""
    path = tmp_path_factory.mktemp("video") / "variable.mp4"
    times = np.cumsum([0.0] + [0.25, 0.4, 70.3, 1.1] * 5 + [0.9, 2.5, 0.7]).round(3)
    write_video(path, barcode_frames(24, height=96, width=128), pts=times.tolist())
    return path, times


@pytest.mark.parametrize("name", WITH_TIMES)
def test_frames_of_a_variable_rate_get_their_times_in_the_file(name, variable_rate):
    path, times = variable_rate
    video = VideoFrames.opened(open_video(path))
    np.testing.assert_allclose(video.times, times, atol=1e-3)
    shown = focus(name, coarse="none").show(QUESTION, [ChosenFrames(video, [2, 3, 9, 20])])
    text = stock(name).processor.tokenizer.decode(shown.inputs["input_ids"][0])
    step = 1 / (getattr(stock(name).processor.video_processor, "fps", None) or 2.0)
    later = [times[times <= times[number] + step + 1e-3][-1] for number in (2, 3, 9, 20)]
    position = 0
    for stamp in expected_stamps(name, times[[2, 3, 9, 20]].tolist(), later):
        position = text.index(stamp, position) + 1


def test_frames_of_a_file_are_those_that_were_asked_for(variable_rate):
    video = VideoFrames.opened(open_video(variable_rate[0]))
    assert [(number, read_barcode(frame)) for number, frame in video.read([3, 4, 17])] == [(3, 3), (4, 4), (17, 17)]
    assert [video.shown_at(seconds) for seconds in (-1, 0, 0.3, 50, 1e6)] == [0, 0, 1, 2, 23]


def test_times_in_positions_are_seconds_since_the_first_frame():
    video = irregular()
    shown = focus("qwen2_5_vl", coarse="none").show(QUESTION, [ChosenFrames(video, [3, 4, 30])])
    is_video = shown.inputs["mm_token_type_ids"][0] == 2
    time = shown.inputs["position_ids"][0, 0, is_video]
    expected = [int((video.times[n] - video.times[3]) * 2 + 1e-6) for n in (3, 4, 30)]
    assert (time - time[0]).unique().tolist() == sorted(set(expected))


def test_where_the_tower_merges_two_frames_the_second_is_the_next_that_would_be_sampled():
    video = VideoFrames.decoded(random_frames(30), np.arange(30) / 10)
    entries = focus("qwen3_vl").entries(ChosenFrames(video, [0, 12, 29]))
    assert [entry.pictures for entry in entries] == [((0,), (5,)), ((12,), (17,)), ((29,), (29,))]
    assert entries[1].times == (1.2, 1.7)


def test_a_panel_shows_four_frames_in_reading_order():
    frames = np.repeat(np.arange(8, dtype=np.uint8)[:, None, None, None] * 30, 96, 1).repeat(128, 2).repeat(3, 3)
    video = VideoFrames.decoded(frames, np.arange(8))
    processor = focus("llava_onevision")
    chosen = ChosenFrames(video, [0], [[1, 2, 3, 4], [5, 6]])
    key, panel, rest = processor._pictures(chosen, processor.entries(chosen))
    assert key.unique().tolist() == [0]
    quarters = [panel[0, 0, y : y + 48, x : x + 64].unique().tolist() for y in (0, 48) for x in (0, 64)]
    assert quarters == [[30], [60], [90], [120]]
    assert rest[0, 0, :48, 64:].unique().tolist() == [180] and rest[0, 0, 48:].unique().tolist() == [0]


def test_coarse_frames_are_spread_over_those_that_are_no_key_frames():
    assert spread_coarse(range(10), [0, 5], 4) == [[1], [3], [6], [8]]
    assert spread_coarse(range(10), [3, 4, 8], 4) == [[1], [2], [6], [7]]
    assert spread_coarse(range(10), [0, 5], 100) == [[n] for n in (1, 2, 3, 4, 6, 7, 8, 9)]
    assert spread_coarse([0, 30, 60, 90, 120, 150], [60], 2, 4) == [[0, 30, 90, 120], [150]]
    assert spread_coarse(range(3), [0, 1, 2], 5) == spread_coarse(range(9), [4], 0) == []


@pytest.mark.parametrize("num_coarse", [1, 20, 80, 95])
def test_two_questions_have_most_coarse_frames_in_common(num_coarse):
    random = np.random.default_rng(num_coarse)
    first, second = (sorted(random.choice(range(0, 300, 3), 5, replace=False).tolist()) for _ in range(2))
    shown = [
        {n for group in spread_coarse(range(0, 300, 3), key, num_coarse) for n in group} for key in (first, second)
    ]
    assert [len(numbers) for numbers in shown] == [num_coarse] * 2
    assert not shown[0] & set(first) and not shown[1] & set(second)
    assert len(shown[0] - shown[1]) <= 10


def test_what_was_drawn_is_not_read_again():
    frames, read = random_frames(8, (96, 128)), []

    def decode(numbers):
        read.extend(numbers)
        return ((number, frames[number]) for number in numbers)

    def drawn(name, video, **sizes):
        processor = focus(name, tokens_per_coarse_frame=2, **sizes)
        chosen = ChosenFrames(video, [0, 3], [[1], [5]] if name == "qwen3_vl" else [[1, 2, 4, 5]])
        return processor._pictures(chosen, processor.entries(chosen))

    times = np.arange(8.0)
    video, direct = VideoFrames(decode, times, (96, 128), 8.0, DrawnFrames()), VideoFrames.decoded(frames, times)
    # Key frames of one size serve both models; tiles and whole frames, and other sizes, do not stand for each other.
    for name, sizes, new in (
        ("qwen3_vl", {}, [0, 1, 3, 5]),
        ("llava_onevision", {}, [1, 2, 4, 5]),
        ("qwen3_vl", {"tokens_per_key_frame": 6}, [0, 3]),
    ):
        expected = drawn(name, direct, **sizes)
        for numbers in (new, []):
            read.clear()
            assert all(map(torch.equal, drawn(name, video, **sizes), expected))
            assert read == numbers
    stock = focus("qwen3_vl").processor.video_processor
    entries = [Entry(((0,),), (0.0,), is_key=True)]
    pictures = []
    for resample in (PILImageResampling.BILINEAR, PILImageResampling.NEAREST):
        other = copy.copy(stock)
        other.resample = resample
        pictures += draw(video, entries, [(32, 64)], other)
    assert not torch.equal(*pictures)


def test_drawn_frames_keep_within_their_bytes():
    kept = DrawnFrames(most_bytes=100)
    for key in range(3):
        kept.add(key, torch.zeros(30, dtype=torch.uint8))
    assert kept.get(0) is not None
    kept.add(3, torch.zeros(30, dtype=torch.uint8))
    assert kept.num_bytes == 90 and kept.get(1) is None and kept.get(0) is not None
    # Frames that fall out while others are read.
    frames = random_frames(12, (96, 128))
    few = VideoFrames(
        lambda numbers: ((n, frames[n]) for n in numbers), np.arange(12.0), (96, 128), 12.0, DrawnFrames(50_000)
    )
    processor = focus("qwen3_vl")
    for key_frames in ([2, 5, 9], [0, 2, 4, 5, 9, 11], [2, 3, 9]):
        chosen = [ChosenFrames(video, key_frames) for video in (few, VideoFrames.decoded(frames, np.arange(12.0)))]
        assert all(map(torch.equal, *(processor._pictures(one, processor.entries(one)) for one in chosen)))


def test_a_small_frame_costs_what_its_size_says():
    processor = focus("qwen3_vl", tokens_per_key_frame=64, tokens_per_coarse_frame=4)
    video = VideoFrames.decoded(random_frames(4, (360, 640)), np.arange(4))
    shown = processor.show(QUESTION, [ChosenFrames(video, [1], [[0], [3]])])
    assert shown.inputs["video_grid_thw"].tolist() == [[1, 2, 4], [1, 12, 20], [1, 2, 4]]


# --------------------------------------------------------------------------------------------- batches and caches


def two_plans(name: str) -> list[ChosenFrames]:
    video = irregular(12)
    few, many = ([1, 5], [[8]]), ([2, 3, 6], [[0], [10]])
    if name == "llava_onevision":
        many = ([2, 6], [[0]])
    return [ChosenFrames(video, *few), ChosenFrames(video, *many)]


@pytest.mark.parametrize("name", ALL)
def test_a_batch_of_different_plans_is_its_rows_alone(name):
    processor, model = focus(name), stock(name).model
    plans, questions = two_plans(name), ["What?", "And how many of them are there?"]
    batch = processor.show(questions, [[plan] for plan in plans]).inputs
    alone = [processor.show(question, [plan]).inputs for question, plan in zip(questions, plans, strict=True)]
    together = logits(model, batch)
    for row, inputs in enumerate(alone):
        length = inputs["input_ids"].shape[1]
        assert torch.equal(batch["input_ids"][row, -length:], inputs["input_ids"][0])
        error = (together[row, -length:] - logits(model, inputs)[0]).abs().max()
        assert error < PADDING_ERROR.get(name, 5e-5)
    assert greedy(model, batch) == [greedy(model, inputs)[0] for inputs in alone]


@pytest.mark.parametrize("name", ALL)
def test_with_a_cache_it_answers_as_without(name):
    inputs = focus(name).show(QUESTION, [two_plans(name)[1]]).inputs
    model = stock(name).model
    assert greedy(model, inputs) == greedy(model, inputs, use_cache=False)


def test_videos_that_cannot_be_stacked_are_refused():
    video = irregular(8)
    plans = [[ChosenFrames(video, [1])], [ChosenFrames(video, [1, 2])]]
    with pytest.raises(ValueError, match="LLaVA-OneVision takes only videos that show the same number of pictures"):
        focus("llava_onevision").show([QUESTION] * 2, plans)
    with pytest.raises(ValueError, match="LLaVA-OneVision takes several videos in one prompt only where all show"):
        focus("llava_onevision").show(QUESTION, [plan[0] for plan in plans])


# ------------------------------------------------------------------------------------------------------- the chats


def a_chat(num_videos: int = 2) -> list[dict]:
    first = [{"type": "video"}, {"type": "text", "text": "One of them. "}]
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": first * (num_videos - 1) + [{"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "And here?"}]},
        {"role": "assistant", "content": "A dog."},
    ]


def chat_for(name: str, num_videos: int = 2) -> list[dict]:
    return a_chat(num_videos)[1:] if name == "molmo2" else a_chat(num_videos)


@pytest.mark.parametrize("name", [name for name in ALL if name != "molmo2"])
def test_several_videos_stand_in_their_turns(name):
    processor = focus(name)
    videos = [ChosenFrames(irregular(8, seed), [seed, seed + 2], [[7]]) for seed in (0, 1)]
    shown = processor.show(a_chat()[:-1], videos)
    text = stock(name).processor.tokenizer.decode(shown.inputs["input_ids"][0])
    assert text.index("Be brief.") < text.index("What is it?") < text.index("A cat.") < text.index("And here?")
    assert len(shown.num_visual_tokens[0]) == 2
    assert logits(stock(name).model, shown.inputs).isfinite().all()
    # Each has its own pictures: the other way round is another prompt.
    swapped = processor.show(a_chat()[:-1], videos[::-1])
    assert not torch.equal(pixels(shown.inputs), pixels(swapped.inputs))


@pytest.mark.parametrize("name", ALL)
def test_labels_are_the_assistants_turns_alone(name):
    chat = chat_for(name)
    videos = [ChosenFrames(irregular(8, seed), [1, 4], [[6]]) for seed in (0, 1)]
    if name == "molmo2":
        chat, videos = [chat[0], chat[1]], videos[:1]
    inputs = focus(name).show(chat, videos, labels=True).inputs
    labels, ids = inputs["labels"][0], inputs["input_ids"][0]
    assert torch.equal(labels[labels != -100], ids[labels != -100])
    learned = stock(name).processor.tokenizer.decode(labels[labels != -100])
    # From the first character that the model has to write to the mark that ends its turn.
    end, prompt = ("<end_of_utterance>", " ") if name == "smolvlm" else ("<|im_end|>", "")
    turns = ["A cat."] if name == "molmo2" else ["A cat.", "A dog."]
    assert learned == "".join(f"{prompt}{turn}{end}\n" for turn in turns)
    assert stock(name).model(**inputs).loss.isfinite()


def test_pictures_beside_a_video_are_the_stock_processors():
    """In Qwen's chats a picture and a video keep their places."""
    processor, video = focus("qwen2_5_vl"), irregular(8)
    picture = Image.fromarray(random_frames(1, (112, 112), seed=5)[0])
    content = [{"type": "image", "image": picture}, {"type": "video"}, {"type": "text", "text": QUESTION}]
    inputs = processor.show([{"role": "user", "content": content}], [ChosenFrames(video, [1, 5])]).inputs
    stocks = stock("qwen2_5_vl").processor.image_processor([picture], return_tensors="pt")
    assert torch.equal(inputs["pixel_values"], stocks["pixel_values"])
    kinds = inputs["mm_token_type_ids"][0]
    assert kinds[kinds > 0].unique_consecutive().tolist() == [1, 2]
    assert logits(stock("qwen2_5_vl").model, inputs).isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_a_picture_stands_beside_a_video_or_is_refused(name):
    picture = Image.fromarray(random_frames(1, (112, 112), seed=5)[0])
    content = [{"type": "video"}, {"type": "image", "image": picture}, {"type": "text", "text": QUESTION}]
    prompt, chosen = [{"role": "user", "content": content}], [ChosenFrames(irregular(8), [1, 5])]
    if name in ("glm4v", "glm46v", "molmo2", "smolvlm"):
        with pytest.raises(ValueError, match="takes either pictures or videos in one prompt"):
            focus(name).show(prompt, chosen)
        return
    inputs = focus(name).show(prompt, chosen).inputs
    content[1] = {"type": "image", "image": picture.rotate(90)}
    other = focus(name).show(prompt, chosen).inputs
    model = stock(name).model
    assert (logits(model, inputs) - logits(model, other)).abs().max() > 1e-2


@pytest.mark.parametrize("name", [name for name in ALL if name in ("smolvlm", "internvl", "gemma3")])
def test_a_server_makes_the_same_prompt_of_the_chat(name):
    """Where the stock processor takes pictures in chats: the chat through the stock template gives the same ids."""
    processor, chosen = focus(name, coarse="none"), ChosenFrames(irregular(8), [1, 3, 6])
    messages = processor.messages(QUESTION, [chosen], image_format="png")
    served = stock(name).processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
    )
    inputs = processor.show(QUESTION, [chosen]).inputs
    assert torch.equal(served["input_ids"], inputs["input_ids"])


def test_a_chat_for_a_server_has_frames_with_their_times():
    video = VideoFrames.decoded(random_frames(100), np.arange(100) / 10)
    messages = focus("qwen3_vl").messages(QUESTION, [ChosenFrames(video, [12, 34])])
    texts = [part.get("text") for part in messages[0]["content"]]
    assert texts == ["<1.2 seconds>", None, "<3.4 seconds>", None, QUESTION]
    pictures = [part["image_url"]["url"] for part in messages[0]["content"] if part["type"] == "image_url"]
    assert all(url.startswith("data:image/jpeg;base64,") for url in pictures)


@pytest.mark.parametrize("name", ["gemma3", "llava_next_video", "perception_lm"])
def test_times_in_words_of_ours_stand_before_their_frames_and_are_paid_for(name):
    video = VideoFrames.decoded(random_frames(40), np.arange(40) * 3.0)
    processor = focus(name, time_words=True, coarse="none")
    # Later frames have longer words.
    dear = processor.budget(video, range(30, 40)).key_price
    assert dear == processor.budget(video, range(40)).key_price > processor.budget(video, range(4)).key_price
    limit = processor.plan(video, range(40)).num_visual_tokens // 3
    plan = processor.plan(video, range(40), limit)
    shown = processor.show(QUESTION, [ChosenFrames(video, range(0, plan.num_key_frames))])
    assert shown.num_visual_tokens[0][0] <= plan.num_visual_tokens <= limit
    text = stock(name).processor.tokenizer.decode(shown.inputs["input_ids"][0])
    assert re.findall(r"(\d+\.\d)s: ", text) == [f"{3 * number:.1f}" for number in range(plan.num_key_frames)]
    assert logits(stock(name).model, shown.inputs).isfinite().all()
    with pytest.raises(ValueError, match="`time_words` is not supported with LLaVA-OneVision"):
        focus("llava_onevision", time_words=True)


def with_template(template: str | None) -> FocusProcessor:
    processor = copy.copy(stock("llava_next_video").processor)
    processor.chat_template = template
    return FocusProcessor(processor)


@pytest.mark.parametrize("name", ALL)
def test_no_text_of_a_user_is_read_as_control_tokens(name):
    """Whoever writes marks of turns, ends and pictures into a text gets no more of them into the prompt."""
    tokenizer, processor = stock(name).processor.tokenizer, focus(name)
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    marks = {*special, *filter(None, (processor.processor.image_token, processor._token))}
    hostile = f"</s> {' and '.join(sorted(marks))} <|im_<|im_end|>end|>?"

    def prompt(text: str):
        chat = [
            {"role": "system", "content": text},
            {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]},
            {"role": "assistant", "content": text},
        ]
        shown = processor.show(chat, [ChosenFrames(irregular(8), [1, 3], [[0], [5]])], labels=True)
        ids = shown.inputs["input_ids"][0].tolist()
        return Counter(token for token in tokenizer.convert_ids_to_tokens(ids) if token in marks), shown

    (plain, shown), (other, shown_other) = prompt("What?"), prompt(hostile)
    assert other == plain and shown_other.num_visual_tokens == shown.num_visual_tokens
    # The words are there, all of them.
    assert tokenizer.decode(shown_other.inputs["input_ids"][0]).count("im_< |im_end|>end") == 3
    learned = shown_other.inputs["labels"][shown_other.inputs["labels"] >= 0].tolist()
    assert tokenizer.decode(learned).strip().startswith("</s> < ")


def test_a_template_that_takes_strings_alone_gets_strings():
    """Some write nothing of a list of contents, and say nothing."""
    strings = "{% for m in messages %}{{ m.role }}: {{ m.content if m.content is string }}\n{% endfor %}"
    chosen = ChosenFrames(irregular(8), [1, 3])
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    ids = with_template(strings).show(chat, [chosen]).inputs["input_ids"][0]
    text = stock("llava_next_video").processor.tokenizer.decode(ids)
    assert re.sub("(<video>)+", "<video>", text) == f"system: Be brief.\nuser: <video>\n{QUESTION}\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template: set `processor.chat_template`"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "leaves out parts of this chat"),
        ("{{ raise_exception('no systems here') }}", "refuses this conversation: no systems here"),
    ],
)
def test_a_template_that_does_not_take_the_chat_is_refused(template, message):
    with pytest.raises(ValueError, match=message):
        with_template(template).show(QUESTION, [ChosenFrames(irregular(8), [1, 3])])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coarse": "half"}, "`coarse` must be 'low', 'panels' or 'none', got 'half'"),
        ({"tokens_per_key_frame": 0}, "`tokens_per_key_frame` must be at least 1, got 0"),
        ({"coarse_per_key_frame": -1}, "`coarse_per_key_frame` must be at least 0, got -1"),
        ({"num_key_frames": 0}, "`num_key_frames` must be at least 1, got 0"),
        ({"time_words": True}, "Qwen3-VL, Qwen3.5 writes times itself"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        focus("qwen3_vl", **change)


def test_what_a_family_cannot_take_is_refused():
    with pytest.raises(ValueError, match="gives every frame the same number of tokens: use 'panels' or 'none'"):
        focus("llava_onevision", coarse="low")
    with pytest.raises(ValueError, match="Qwen2.5-VL needs `config=model.config`"):
        FocusProcessor(stock("qwen2_5_vl").processor)


@pytest.mark.parametrize(
    ("chat", "num_videos", "message"),
    [
        (
            [{"role": "user", "content": [{"type": "video"}] * 2}],
            1,
            "The chat has room for 2 videos, but 1 were given",
        ),
        ([{"role": "assistant", "content": "Yes."}], 1, "A chat needs a user's turn"),
        ([{"role": "user", "content": [{"type": "audio"}]}], 0, "type 'text', 'video' or 'image', got 'audio'"),
    ],
)
def test_chats_that_cannot_be_meant_are_refused(chat, num_videos, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        focus("qwen3_vl").show(chat, [ChosenFrames(irregular(4), [0])] * num_videos)


@pytest.mark.parametrize(
    ("key", "coarse", "message"),
    [([], (), "needs at least one key frame"), ([9], (), "no frame 9"), ([2, 1], (), "sorted and different")],
)
def test_frames_that_cannot_be_meant_are_refused(key, coarse, message):
    with pytest.raises(ValueError, match=message):
        ChosenFrames(irregular(4), key, coarse)


def test_a_saved_processor_loads_and_shows_the_same(tmp_path):
    stock("qwen3_vl").processor.save_pretrained(tmp_path)
    chosen = ChosenFrames(irregular(8), [1, 4], [[6]])
    again = FocusProcessor(AutoProcessor.from_pretrained(tmp_path)).show(QUESTION, [chosen]).inputs
    first = focus("qwen3_vl").show(QUESTION, [chosen]).inputs
    assert all(torch.equal(again[key], first[key]) for key in first)


def test_every_row_has_a_test():
    tested = {known_family(stock(name).processor).name for name in ALL}
    # Molmo 2 came later than the oldest version.
    assert {row.name for row in ROWS} - tested <= {row.name for row in ROWS if row.least_version != "5.18"}
