"""A video encoded once, asked many times: the state gives what the pixels give, also from a file."""

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import VIDEO_TOKEN_ID, of_prompt, of_videos, tiny_inputs, tiny_model

from dynfocus.configuration_dynfocus import PRESETS
from dynfocus.video_state import VideoState

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
    state.frame_times = torch.zeros(2, 5, dtype=torch.float64)
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


def test_a_failed_save_leaves_the_older_file(state, tmp_path, monkeypatch):
    path = tmp_path / "state"
    state.save(path)
    before = path.read_bytes()

    def save_file(tensors, partial, metadata):
        raise OSError("no space left on device")

    monkeypatch.setattr("dynfocus.video_state.save_file", save_file)
    with pytest.raises(OSError, match="no space"):
        state.save(path)
    assert path.read_bytes() == before
