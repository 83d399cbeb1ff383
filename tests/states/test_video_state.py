"""A video encoded once, asked many times: the state gives what the pixels give, also from a file."""

from dataclasses import replace

import pytest
import torch
from encodings_of_videos import file_size_limit
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_models import VIDEO_TOKEN_ID, of_prompt, of_videos, one_row, tiny_inputs, tiny_model

from dynfocus.configuration_dynfocus import PRESETS
from dynfocus.states.video_state import VideoState

PIXELS = ("pixel_values_videos", "video_frame_mask")


@pytest.fixture(scope="module", params=PRESETS)
def model(request):
    return tiny_model(request.param)


@pytest.fixture
def inputs(model):
    return tiny_inputs(model.config, [5, 3])


@pytest.fixture
def state(model, inputs):
    with torch.no_grad():
        return model.encode_video(*(inputs[name] for name in PIXELS))


def without_pixels(inputs):
    return {name: tensor for name, tensor in inputs.items() if name not in PIXELS}


def test_a_state_gives_what_the_pixels_give(model, inputs, state):
    with torch.no_grad():
        expected = model.get_video_features(**of_videos(inputs))
        found = model.get_video_features(video_state=state, **of_videos(without_pixels(inputs)))
        for name in ("pooler_output", "key_frames", "event_of_frame", "event_scores", "event_medoids"):
            assert all(map(torch.equal, found[name], expected[name])), name
        assert torch.equal(model(video_state=state, **without_pixels(inputs)).logits, model(**inputs).logits)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"use_cache": False}])
def test_generation_from_a_state(model, inputs, state, options):
    settings = {"max_new_tokens": 5, "do_sample": False, "suppress_tokens": [VIDEO_TOKEN_ID], **options}
    expected = model.generate(**inputs, **settings)
    assert torch.equal(model.generate(video_state=state, **without_pixels(inputs), **settings), expected)


def test_a_second_question_runs_no_tower(model, inputs, state, monkeypatch):
    def forward(*args):
        raise AssertionError("the vision tower ran")

    monkeypatch.setattr(model.model.vision_tower, "forward", forward)
    questions = {**without_pixels(inputs), "question_input_ids": inputs["question_input_ids"].flip(0)}
    model(video_state=state, **questions)
    model.generate(video_state=state, **questions, max_new_tokens=2, suppress_tokens=[VIDEO_TOKEN_ID])


def test_save_and_load(model, inputs, state, tmp_path):
    state.frame_times = torch.arange(10, dtype=torch.float64).reshape(2, 5) / 3
    path = tmp_path / "a video.safetensors"
    state.save(path)
    loaded = VideoState.load(path)
    assert loaded.tensors().keys() == state.tensors().keys()
    for name, tensor in state.tensors().items():
        assert torch.equal(loaded.tensors()[name], tensor) and loaded.tensors()[name].dtype == tensor.dtype
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    with torch.no_grad():
        expected = model(**inputs).logits
        torch.testing.assert_close(
            model(video_state=loaded, **without_pixels(inputs)).logits, expected, atol=1e-5, rtol=0
        )


def test_sizes(model, state):
    assert len(state) == 2
    assert state.num_frames == [5, 3]
    assert state.frame_features.shape == (2, 5, 16, 24)
    assert state.grouped_tokens.shape == (2, 5, 22, 24)
    assert (state.patches is not None) == (model.config.question_context == "patches")


def test_half_precision_is_for_features_alone(model, inputs, state):
    state.frame_times = torch.arange(10, dtype=torch.float64).reshape(2, 5)
    half = state.to(dtype=torch.bfloat16)
    assert half.frame_features.dtype == half.grouped_tokens.dtype == torch.bfloat16
    assert (half.parent_of_token.dtype, half.frame_mask.dtype) == (torch.int64, torch.bool)
    assert half.frame_times.dtype == torch.float64
    # The model brings a stored state to its own precision.
    assert model(video_state=half, **without_pixels(inputs)).logits.dtype == torch.float32


def test_a_state_without_the_patches_that_the_model_looks_at(inputs):
    default, released = tiny_model(), tiny_model("released_code")
    state = default.encode_video(*(inputs[name] for name in PIXELS))
    with pytest.raises(ValueError, match="lacks the patches that `question_context='patches'` needs"):
        released.get_video_features(video_state=state, **of_videos(without_pixels(inputs)))


def test_a_state_and_a_prompt_that_do_not_belong_together(model, state, inputs):
    other = tiny_inputs(model.config, [4, 4], plans=[[4, 1, 4], [3, 1, 3]])
    with pytest.raises(ValueError, match="video placeholder tokens, but the videos have"):
        model(video_state=state, **of_prompt(other), **of_videos(without_pixels(inputs)))


def test_files_that_are_not_states(tmp_path):
    with pytest.raises(FileNotFoundError, match="no video state at .*missing"):
        VideoState.load(tmp_path / "missing")
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"not safetensors at all")
    with pytest.raises(ValueError, match="garbage is not a video state"):
        VideoState.load(garbage)
    save_file({"weight": torch.zeros(2)}, tmp_path / "weights")
    with pytest.raises(ValueError, match="weights is not a video state: write one with `VideoState.save`"):
        VideoState.load(tmp_path / "weights")
    save_file({"weight": torch.zeros(2)}, tmp_path / "noted", metadata={"dynfocus": "[]"})
    with pytest.raises(ValueError, match="noted is not a video state"):
        VideoState.load(tmp_path / "noted")


def test_a_failed_save_leaves_the_older_file(state, tmp_path):
    path = tmp_path / "state"
    state.save(path)
    before = path.read_bytes()
    with (
        file_size_limit(1000),
        pytest.raises(OSError, match="state: cannot be written: File too large; an older file"),
    ):
        state.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError, match="missing/state: cannot be written: No such file or directory"):
        state.save(tmp_path / "missing" / "state")


def test_what_made_it_is_saved_with_it(state, tmp_path):
    state.sampling = {"source": "a – talk.mp4", "size": 3, "duration": 1.5, "fps": 2.0}
    assert state.fingerprint is not None
    state.save(tmp_path / "state")
    loaded = VideoState.load(tmp_path / "state")
    assert (loaded.fingerprint, loaded.sampling) == (state.fingerprint, state.sampling)
    # Any reader of safetensors can read it.
    with safe_open(tmp_path / "state", framework="pt") as file:
        assert set(file.keys()) == set(state.tensors())
        assert torch.equal(file.get_tensor("grouped_tokens"), state.grouped_tokens)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_dtype_is_saved(state, tmp_path, dtype):
    state = state.to(dtype=dtype)
    state.parent_of_token = state.parent_of_token.to(torch.uint8)
    state.frame_times = torch.rand(2, 5, dtype=torch.float64).cumsum(1)
    state.save(tmp_path / "state")
    for name, tensor in VideoState.load(tmp_path / "state").tensors().items():
        assert tensor.dtype == state.tensors()[name].dtype and torch.equal(tensor, state.tensors()[name])


def test_files_of_the_first_format(state, tmp_path):
    metadata = {"format": "pt", "dynfocus": '{"format": "dynfocus-video-state-1"}'}
    save_file({name: tensor.contiguous() for name, tensor in state.tensors().items()}, tmp_path / "old", metadata)
    loaded = VideoState.load(tmp_path / "old")
    assert loaded.fingerprint is loaded.sampling is None
    assert torch.equal(loaded.frame_features, state.frame_features)


# ---- rows that share a video, and batches


@pytest.fixture
def single(model):
    return model.encode_video(tiny_inputs(model.config, [4])["pixel_values_videos"])


def test_expanded_rows_are_views(single):
    shared = single.expand(3)
    assert len(shared) == 3 and shared.num_frames == [4, 4, 4]
    for name, tensor in shared.tensors().items():
        assert tensor.data_ptr() == single.tensors()[name].data_ptr(), name
        assert torch.equal(tensor[2], single.tensors()[name][0])
    assert shared.is_shared and shared.base is single and shared.event_cache is single.event_cache
    assert not single.is_shared and single.base is single
    assert shared.expand(5).base is single and shared.fingerprint == single.fingerprint


def test_moving_a_shared_state_moves_one_video(single):
    shared = single.expand(3)
    assert shared.to("cpu") is shared and single.to(dtype=torch.float32) is single
    half = shared.to(dtype=torch.float16)
    assert half.is_shared and half.base is not single and len(half) == 3
    assert half.frame_features.untyped_storage().nbytes() == single.frame_features.untyped_storage().nbytes() // 2
    # What was found in other numbers is not true of these.
    assert half.event_cache is half.base.event_cache is not single.event_cache


def test_a_shared_state_is_saved_as_its_video(single, tmp_path):
    single.save(tmp_path / "one")
    single.expand(3).save(tmp_path / "three")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "three").read_bytes()


def test_only_one_video_can_be_shared(state):
    with pytest.raises(ValueError, match="Only a state of one video can be expanded, and this one holds 2"):
        state.expand(2)


def test_stacked_states_answer_as_alone(model, inputs):
    rows = [one_row(inputs, row) for row in range(2)]
    with torch.no_grad():
        states = [model.encode_video(row["pixel_values_videos"]) for row in rows]
        states[1].frame_times = torch.tensor([[0.0, 2.0, 4.0]], dtype=torch.float64)
        both = VideoState.stack(states)
        assert both.num_frames == [5, 3] and both.fingerprint == states[0].fingerprint and not both.is_shared
        assert both.frame_times.tolist() == [[0, 1, 2, 3, 4], [0, 2, 4, 0, 0]]
        found = model.get_video_features(video_state=both, **of_videos(without_pixels(inputs)))
        for index, (row, state) in enumerate(zip(rows, states, strict=True)):
            alone = model.get_video_features(video_state=state, **of_videos(without_pixels(row)))
            assert torch.equal(found.key_frames[index], alone.key_frames[0])
            torch.testing.assert_close(found.pooler_output[index], alone.pooler_output[0], atol=1e-4, rtol=1e-4)


def test_stacking_one_video_copies_nothing(single):
    for states in ([single] * 3, [single.expand(2), single], [single.expand(3)]):
        stacked = VideoState.stack(states)
        assert len(stacked) == 3 and stacked.base is single
    assert VideoState.stack([single]) is single


def test_states_that_do_not_go_together(single, state, model):
    other = tiny_model("default", seed=3).encode_video(torch.zeros(1, 2, 3, 32, 32))
    with pytest.raises(ValueError, match="States of different weights of the vision tower cannot form a batch"):
        VideoState.stack([single, other])
    other.fingerprint, other.grouped_tokens = None, other.grouped_tokens[..., :5]
    with pytest.raises(ValueError, match="their tensors differ in shape"):
        VideoState.stack([single, other])
    with pytest.raises(ValueError, match="no states to stack"):
        VideoState.stack([])
    # What is not known does not contradict.
    single.fingerprint = None
    assert VideoState.stack([single, state]).fingerprint == state.fingerprint


def test_bytes_serve_as_parents(model, inputs, state):
    small = replace(state, parent_of_token=state.parent_of_token.to(torch.uint8))
    with torch.no_grad():
        expected, found = (
            model.get_video_features(video_state=one, **of_videos(without_pixels(inputs))) for one in (state, small)
        )
    assert all(map(torch.equal, found.pooler_output, expected.pooler_output))
