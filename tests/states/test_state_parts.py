"""What becomes of a state's parts when more goes wrong than one interruption."""

import os
import shutil
import threading

import numpy as np
import pytest
import torch
from encodings_of_videos import chunked_model, same, stopping_at
from tiny import make_tiny_processor
from videos import barcode_frames, write_video

from dynfocus import VideoState
from dynfocus.processing.reading.video_reading import read_video
from dynfocus.states import state_parts
from dynfocus.states.fingerprint import difference, model_fingerprint


@pytest.fixture(scope="module")
def model():
    return chunked_model()


@pytest.fixture(scope="module")
def processor():
    return make_tiny_processor()


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("films") / "film.mp4", barcode_frames(60), fps=10, gop=10)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(state_parts, "_PART_BYTES", 1)


def test_two_encodings_into_one_target(model, film, processor, tmp_path, small_parts):
    """The second is refused while the first runs, and the first one's state is whole."""
    target, refused = tmp_path / "state.safetensors", []

    def second(done, total):
        if done == 16:
            with pytest.raises(ValueError, match="another process is encoding into") as error:
                model.encode_video(film, processor=processor, fps=10, save_to=target)
            refused.append(error)

    state = model.encode_video(film, processor=processor, fps=10, save_to=target, progress=second)
    assert refused
    same(state, model.encode_video(film, processor=processor, fps=10))
    assert os.listdir(tmp_path) == [target.name]


def test_broken_off_while_the_parts_are_removed(model, film, processor, tmp_path, small_parts, monkeypatch):
    """What is left is never taken for the beginning of a state."""
    target = tmp_path / "state.safetensors"

    def killed(folder, **_):
        names = sorted(os.listdir(folder))
        for name in names[:3]:
            os.unlink(os.path.join(folder, name))
        raise KeyboardInterrupt

    monkeypatch.setattr(state_parts.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        model.encode_video(film, processor=processor, fps=10, save_to=target)
    monkeypatch.undo()
    whole = VideoState.load(target)
    assert whole.num_frames == [60]
    same(model.encode_video(film, processor=processor, fps=10, save_to=target), whole)


@pytest.mark.parametrize("harm", ["missing", "broken"])
def test_parts_that_do_not_belong_together(model, film, processor, tmp_path, small_parts, harm):
    target = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        model.encode_video(film, processor=processor, fps=10, save_to=target, progress=stopping_at(40))
    part = next(path for path in (tmp_path / "state.safetensors.parts").iterdir() if "part-000001" in path.name)
    part.unlink() if harm == "missing" else part.write_bytes(b"x" * 50)
    with pytest.raises(ValueError, match="are not complete: delete that folder to start again"):
        model.encode_video(film, processor=processor, fps=10, save_to=target)


def test_what_a_killed_start_leaves_is_no_hindrance(model, film, processor, tmp_path):
    target = tmp_path / "state.safetensors"
    (tmp_path / "state.safetensors.parts").mkdir()
    (tmp_path / "state.safetensors.parts" / "manifest.json.12345678.partial").write_text("{")
    assert model.encode_video(film, processor=processor, fps=10, save_to=target).num_frames == [60]


def test_a_copy_of_the_video_goes_on(model, film, processor, tmp_path):
    target = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        model.encode_video(film, processor=processor, fps=10, save_to=target, progress=stopping_at(16))
    copy = shutil.copy(film, tmp_path / "copy.mp4")
    os.utime(copy, (1, 1))
    state = model.encode_video(copy, processor=processor, fps=10, save_to=target)
    same(state, model.encode_video(film, processor=processor, fps=10))


def test_frames_in_memory_are_known_by_all_of_them(model, processor, tmp_path):
    """Two clips that both fade in from black and out to it."""
    first, second = (np.stack(barcode_frames(40))[shift : shift + 24].copy() for shift in (0, 8))
    for clip in (first, second):
        clip[[0, -1]] = 0
    target = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        model.encode_video(first, processor=processor, save_to=target, progress=stopping_at(8))
    with pytest.raises(ValueError, match="the video has changed"):
        model.encode_video(second, processor=processor, save_to=target)


def test_two_writers_of_one_state(model, film, processor, tmp_path):
    """Whoever comes last is read, and always as a whole."""
    states = [model.encode_video(film, processor=processor, fps=fps) for fps in (10, 2)]
    path = tmp_path / "state.safetensors"
    writers = [threading.Thread(target=lambda s=state: [s.save(path) for _ in range(20)]) for state in states]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert VideoState.load(path).num_frames in ([60], [12])
    assert os.listdir(tmp_path) == [path.name]


def test_any_tensor_of_a_large_tower_counts():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        *[torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.LayerNorm(16)) for _ in range(99)]
    )
    before = model_fingerprint(layers, {})
    assert difference(before, model_fingerprint(layers, {})) is None
    for number, weight in enumerate(layers.parameters()):
        if number % 7 == 0:
            kept = weight.detach().clone()
            with torch.no_grad():
                weight.add_(0.05 * (kept.abs().mean() + 0.1))
            assert difference(before, model_fingerprint(layers, {})) == "weights of the vision tower"
            weight.data.copy_(kept)
    assert difference(before, model_fingerprint(layers.half(), {})) is None


def test_a_bar_where_bars_are_switched_off(model, film, processor):
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        assert model.encode_video(film, processor=processor, fps=2, progress=True).num_frames == [12]
    finally:
        logging.enable_progress_bar()


@pytest.mark.parametrize("dtype", [torch.int64, torch.float8_e4m3fn])
def test_a_precision_that_cannot_hold_features(model, film, processor, tmp_path, dtype):
    with pytest.raises(ValueError, match="`dtype` of a state is .*: it must be torch.float32"):
        model.encode_video(film, processor=processor, dtype=dtype, save_to=tmp_path / "state.safetensors")


def test_a_clip_that_does_not_begin_with_a_key_frame(tmp_path, monkeypatch):
    """As an edit list makes them: no frame comes twice, and there is always one."""
    from dynfocus.processing.reading import video_reading

    film = write_video(tmp_path / "film.mp4", barcode_frames(30), fps=10, gop=10)
    build = video_reading.build_index

    def trimmed(*arguments):
        index = build(*arguments)
        index.is_key[0] = False
        return index

    every = read_video(film, sampling="key_frames").frame_indices
    monkeypatch.setattr(video_reading, "build_index", trimmed)
    for most in range(1, len(every) + 3):
        found = read_video(film, sampling="key_frames", max_frames=most).frame_indices
        assert (np.diff(found) > 0).all() and len(found) == min(most, len(every))
