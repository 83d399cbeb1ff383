"""Many questions about videos that were encoded once: in batches they get the answers that each gets by itself."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import make_tiny_processor
from tiny_models import make_question_aware, tiny_model, tiny_text_config
from videos import barcode_frames, write_video

from dynfocus import VideoQAPipeline, VideoState
from dynfocus.processing import dynfocus_video_qa

QUESTIONS = [
    "which number?",
    "what colour is the circle, the star, or is it the square?",
    "no",
    "which shape comes first, which one last?",
    "red?",
    "is there a heart or a green triangle?",
    "which number is shown with the red star?",
]


def make_pipe(seed=5, **kwargs):
    model = tiny_model(seed=seed, **kwargs)
    make_question_aware(model)
    processor = make_tiny_processor(num_prototypes=6, key_ratio=0.5)
    return VideoQAPipeline(model=model, processor=processor, device="cpu", max_new_tokens=6)


@pytest.fixture(scope="module")
def pipe():
    return make_pipe()


@pytest.fixture(scope="module")
def films():
    """Noise of 12, 5 and 12 frames."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (frames, 24, 24, 3), dtype=np.uint8) for frames in (12, 5, 12)]


@pytest.fixture(scope="module")
def states(pipe, films):
    return [pipe.encode_video(film) for film in films]


@pytest.fixture(scope="module")
def singles(pipe, states):
    found = [pipe(states[0], question=question) for question in QUESTIONS]
    choices = {tuple(frame["index"] for frame in one["key_frames"]) for one in found}
    assert len(choices) > 2 and len({one["answer"] for one in found}) > 2, "the model must tell questions apart"
    return found


@pytest.fixture
def calls(pipe, monkeypatch):
    """What goes into the model: the states that are looked at, and the sizes of the batches that are answered."""
    seen = {"states": [], "batches": []}
    look, generate = pipe.model.get_video_features, pipe.model.generate

    def watched_look(**inputs):
        seen["states"].append(inputs.get("video_state"))
        return look(**inputs)

    def watched_generate(**inputs):
        seen["batches"].append(len(inputs["input_ids"]))
        return generate(**inputs)

    monkeypatch.setattr(pipe.model, "get_video_features", watched_look)
    monkeypatch.setattr(pipe.model, "generate", watched_generate)
    return seen


def assert_same(found, expected):
    """Key frames and answers exactly, scores up to rounding."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one["answer"], one["num_visual_tokens"]) == (other["answer"], other["num_visual_tokens"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
        for mine, its in zip(one["key_frames"], other["key_frames"], strict=True):
            assert (mine["index"], mine["time"]) == (its["index"], its["time"])
            assert mine["score"] == pytest.approx(its["score"], abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 20])
def test_a_batch_of_questions_gets_the_answers_of_each(pipe, states, singles, calls, batch_size):
    assert_same(pipe(states[0], question=QUESTIONS, batch_size=batch_size), singles)
    sizes = [len(QUESTIONS[start : start + batch_size]) for start in range(0, len(QUESTIONS), batch_size)]
    assert calls["batches"] == [len(state) for state in calls["states"]] == sizes


def test_a_batch_copies_nothing_of_the_state(pipe, states, calls):
    pipe(states[0], question=QUESTIONS)
    (state,) = calls["states"]
    assert state.is_shared and state.base is states[0] and len(state) == len(QUESTIONS)
    for name, tensor in state.tensors().items():
        assert tensor.data_ptr() == states[0].tensors()[name].data_ptr()


def test_rows_hold_any_videos(pipe, states, films, singles, calls):
    text = {"messages": [{"role": "user", "content": "hello"}]}
    rows = [
        {"video": states[0], "question": QUESTIONS[0]},
        {"video": films[1], "question": QUESTIONS[1]},
        {"video": states[1], "question": QUESTIONS[2]},
        text,
        {"video": states[0], "question": QUESTIONS[3]},
        {"video": [films[2], films[1]], "question": QUESTIONS[4]},
        {"video": states[2], "question": QUESTIONS[5]},
        {"video": pipe.encode_video([films[2], films[1]]), "question": QUESTIONS[4]},
        text,
    ]
    expected = [pipe(row) for row in rows]
    assert_same([expected[0], expected[4]], [singles[0], singles[3]])
    assert_same([expected[7]], [expected[5]])
    for batch_size in (2, 4, 9):
        assert_same(pipe(rows, batch_size=batch_size), expected)
    # Pixels, the state with two questions, and the other states: each kind went in once.
    assert sorted(0 if state is None else len(state) for state in calls["states"][-3:]) == [0, 2, 4]
    assert calls["batches"][-1] == 9


def test_long_states_are_not_copied(pipe, states, calls, monkeypatch):
    monkeypatch.setattr("dynfocus.processing.dynfocus_video_qa._MOST_COPIED_FRAMES", 11)
    rows = [{"video": state, "question": QUESTIONS[0]} for state in states]
    expected = [pipe(row) for row in rows]
    assert_same(pipe(rows, batch_size=3), expected)
    assert {id(state) for state in calls["states"][-3:]} == {id(state) for state in states}
    assert calls["batches"][-1] == 3


def test_eight_questions_at_once_and_fewer_about_a_long_video(pipe, states, calls, monkeypatch):
    questions = QUESTIONS + QUESTIONS[:3]
    expected = pipe(states[0], question=questions)
    assert calls["batches"] == [8, 2]
    # 12 frames with 3 key frames take 138 tokens.
    monkeypatch.setitem(dynfocus_video_qa._TOKENS_AT_ONCE, "cpu", 3 * 138)
    assert_same(pipe(states[0], question=questions), expected)
    assert calls["batches"][2:] == [3, 3, 3, 1]
    pipe(states[0], question=questions, max_visual_tokens=50)
    assert calls["batches"][6:] == [8, 2]
    monkeypatch.setitem(dynfocus_video_qa._TOKENS_AT_ONCE, "cpu", 1)
    pipe(states[0], question=questions[:2])
    assert calls["batches"][8:] == [1, 1]
    monkeypatch.setattr(pipe, "_batch_size", 5)
    pipe(states[0], question=questions)
    assert calls["batches"][10:] == [5, 5]


def test_a_file_is_encoded_once_and_asked_in_batches(pipe, calls, tmp_path, monkeypatch):
    film = str(write_video(tmp_path / "film.mp4", barcode_frames(24), fps=2))
    forwards, tower = [], pipe.model.model.vision_tower
    monkeypatch.setattr(tower, "forward", lambda *a, _inner=tower.forward, **k: forwards.append(1) or _inner(*a, **k))
    found = pipe(film, question=QUESTIONS, fps=2, num_workers=1)
    assert len(forwards) == 1 and calls["batches"] == [7]
    assert_same(found, [pipe(film, question=question, fps=2) for question in QUESTIONS])


def test_beams_and_samples_of_many_questions(pipe, states):
    beams = [pipe(states[0], question=question, num_beams=2) for question in QUESTIONS]
    assert_same(pipe(states[0], question=QUESTIONS, num_beams=2), beams)
    torch.manual_seed(0)
    drawn = {one["answer"] for one in pipe(states[0], question=["no"] * 6, do_sample=True, temperature=3.0)}
    assert len(drawn) > 1


def test_a_state_gives_the_very_same_answers(pipe, tmp_path):
    """To the last bit, from memory and from a file."""
    film = str(write_video(tmp_path / "film.mp4", barcode_frames(70), fps=5))
    state = pipe.encode_video(film, fps=5)
    state.save(tmp_path / "film.safetensors")
    loaded = VideoState.load(tmp_path / "film.safetensors")
    for question in QUESTIONS:
        direct = pipe(film, question=question, fps=5, return_details=True)
        for one in (state, loaded):
            found = pipe(one, question=question, return_details=True)
            assert {**found, "timings": {}} == {**direct, "timings": {}}


def test_a_video_can_be_read_ahead_in_a_thread(pipe, films, tmp_path):
    film = str(write_video(tmp_path / "film.mp4", barcode_frames(24), fps=2))
    read = []
    open_video = pipe.video_qa.open_video
    thread = threading.Thread(target=lambda: read.append(open_video(film, fps=2, max_frames=9).start()))
    thread.start()
    thread.join()
    state, expected = pipe.encode_video(read[0]), pipe.encode_video(film, fps=2, max_frames=9)
    assert all(
        torch.equal(one, other)
        for one, other in zip(state.tensors().values(), expected.tensors().values(), strict=True)
    )
    assert_same([pipe(state, question="a?")], [pipe(expected, question="a?")])
    with pytest.raises(FileNotFoundError, match="no such"):
        open_video("/no/such.mp4")


def test_a_long_answer_has_its_positions():
    pipe = make_pipe(text_config=tiny_text_config(max_position_embeddings=1200))
    long = pipe.encode_video(np.zeros((700, 24, 24, 3), dtype=np.uint8))
    # 1,200 less 448 for words, and 64 or 600 for the answer; of few positions words take half at most.
    for new_tokens, room in ((None, 688), (600, 300)):
        options = {} if new_tokens is None else {"max_new_tokens": new_tokens}
        found = pipe.preprocess({"video": long, "question": "which?"}, **pipe._sanitize_parameters(**options)[0])
        tokens = int((found["inputs"]["input_ids"] == pipe.model.config.video_token_id).sum())
        assert room - 2 < tokens <= room


def test_keywords_are_looked_at_before_the_video(pipe, films, calls, monkeypatch):
    monkeypatch.setattr(pipe, "encode_video", lambda *_, **__: pytest.fail("was encoded"))
    with pytest.raises(TypeError, match="Unknown keyword of the video-qa pipeline: max_new_token"):
        pipe(films[0], question=QUESTIONS, max_new_token=3)


def test_sampling_of_a_call(pipe, tmp_path):
    film = write_video(tmp_path / "film.mp4", barcode_frames(24), fps=2, gop=8)
    one = pipe(film, question=QUESTIONS[0], sampling="key_frames", on_truncated="warn", return_details=True)
    (several,) = pipe(film, question=QUESTIONS[:1], sampling="key_frames", return_details=True)
    assert (
        one["frame_times"]
        == several["frame_times"]
        == pipe.encode_video(film, sampling="key_frames").frame_times[0].tolist()
    )
    assert one["num_frames"] < 12


@pytest.mark.parametrize(("positions", "room"), [(1000, 488), (8192, 2 * 600 + 3 * 38)])
def test_a_long_video_has_as_many_tokens_as_there_are_positions(positions, room):
    pipe = make_pipe(text_config=tiny_text_config(max_position_embeddings=positions))
    long = pipe.encode_video(np.random.default_rng(0).integers(0, 256, (600, 8, 8, 3), dtype=np.uint8))

    def tokens(video=long, **settings):
        return pipe(video, question="a?", max_new_tokens=1, **settings)["num_visual_tokens"]

    assert room - 1 <= tokens() <= room
    assert tokens(VideoState.stack([long, replace(long)])) <= positions - 512, "of both together"
    assert tokens(max_visual_tokens=90) <= 90 and tokens(max_visual_tokens=1314) == 1314
    pipe.processor.max_visual_tokens = 70
    assert 69 <= tokens() <= 70


# Errors


def test_a_bad_question_costs_itself_alone(pipe, states, singles):
    bad = {1: " ", 3: "why " * 100}
    questions = [*QUESTIONS[:3], "", *QUESTIONS[3:]]
    for index, question in bad.items():
        questions[index] = question
    good = [index for index in range(len(questions)) if index not in bad]
    for batch_size in (1, 3, 8):
        found = pipe(states[0], question=questions, batch_size=batch_size, on_error="skip")
        expected = [singles[QUESTIONS.index(questions[index])] for index in good]
        assert_same([found[index] for index in good], expected)
        assert found[1]["answer"] is None and "Row 1: The question is empty" in found[1]["error"]
        assert found[3]["answer"] is None and "Row 3: The question is too long: it has 100 words" in found[3]["error"]
    with pytest.raises(ValueError, match="Row 1: The question is empty"):
        pipe(states[0], question=questions)
    with pytest.raises(ValueError, match="max_visual_tokens=10"):
        pipe(states[0], question=QUESTIONS, max_visual_tokens=10)


def test_a_state_of_another_model_is_refused(pipe, films, states, singles):
    foreign = make_pipe(seed=1).encode_video(films[0])
    with pytest.raises(ValueError, match="weights of the vision tower"):
        pipe(foreign, question="a?")
    rows = [{"video": state, "question": QUESTIONS[0]} for state in (states[0], foreign, states[0])]
    found = pipe(rows, batch_size=3, on_error="skip")
    assert_same([found[0], found[2]], [singles[0]] * 2)
    assert found[1]["answer"] is None and "Row 1: " in found[1]["error"]
