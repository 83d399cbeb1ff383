"""Videos of any length to their states: chunk by chunk, in bounded memory, and on from where it was interrupted."""

import errno
import gc
import json
import signal
import threading
import warnings

import pytest
import torch
from encodings_of_videos import chunked_model, file_size_limit, same, stopping_at
from tiny import make_tiny_processor
from tiny_models import tiny_model
from videos import barcode_frames, cut_file, write_video

from dynfocus import VideoQAPipeline, VideoState
from dynfocus.configuration_dynfocus import PRESETS
from dynfocus.states import state_parts
from dynfocus.states.fingerprint import difference

NUM_FRAMES = 60


@pytest.fixture(scope="module")
def model():
    return chunked_model()


@pytest.fixture(scope="module")
def processor():
    return make_tiny_processor()


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Six seconds; frame n shows n."""
    return write_video(tmp_path_factory.mktemp("films") / "film.mp4", barcode_frames(NUM_FRAMES), fps=10, gop=10)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(state_parts, "_PART_BYTES", 1)


# ---- what comes out


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("settings", [{"fps": 10}, {"num_frames": 21}, {"sampling": "key_frames"}, {}])
def test_a_stream_gives_to_the_bit_what_all_pixels_give(preset, settings, film, processor):
    model = chunked_model(preset)
    inputs = processor.video_processor(film, return_metadata=True, return_tensors="pt", **settings)
    with torch.no_grad():
        expected = model.encode_video(inputs["pixel_values_videos"], inputs["video_frame_mask"])
    state = model.encode_video(film, processor=processor, **settings)
    expected.frame_times = torch.tensor([inputs["video_metadata"][0].timestamps], dtype=torch.float64)
    same(VideoState(**{**state.tensors(), "parent_of_token": state.parent_of_token.long()}), expected)
    assert state.num_frames == expected.num_frames and state.parent_of_token.dtype == torch.uint8
    assert difference(state.fingerprint, expected.fingerprint) is None


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_the_size_of_a_chunk_changes_nothing(model, film, processor, chunk):
    expected = model.encode_video(film, processor=processor, fps=10)
    state = chunked_model(chunk=chunk).encode_video(film, processor=processor, fps=10)
    assert torch.equal(state.parent_of_token, expected.parent_of_token)
    for name in ("frame_features", "grouped_tokens"):
        torch.testing.assert_close(getattr(state, name), getattr(expected, name), atol=1e-5, rtol=1e-5)


def test_all_forms_of_a_video(model, film, processor):
    expected = model.encode_video(film, processor=processor)
    same(model.encode_video(film.read_bytes(), processor=processor), expected)
    same(VideoQAPipeline(model=model, processor=processor).encode_video(film), expected)
    frames = barcode_frames(10)
    state = model.encode_video(frames, processor=processor, fps=2)
    assert state.frame_times.tolist() == [[number / 2 for number in range(10)]]
    two = VideoQAPipeline(model=model, processor=processor).encode_video([film, frames], fps=1)
    assert two.num_frames == [6, 10] and torch.equal(two.frame_features[:1, :6], expected.frame_features)
    with pytest.raises(FileNotFoundError, match=r"Video 1 of 2 \(.*none.mp4.*there is no such video file"):
        VideoQAPipeline(model=model, processor=processor).encode_video([film, "none.mp4"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_bytes_of_a_frame(model, film, processor, dtype, tmp_path):
    state = model.encode_video(film, processor=processor, fps=10, dtype=dtype, save_to=tmp_path / "state")
    width = model.config.vision_config.hidden_size
    # Features, parents (a byte each), the time, and the mask.
    per_frame = 38 * width * dtype.itemsize + 22 + 8 + 1
    assert sum(tensor.nbytes for tensor in state.tensors().values()) == NUM_FRAMES * per_frame
    assert (tmp_path / "state").stat().st_size - NUM_FRAMES * per_frame < 4096


def test_what_a_state_knows_of_its_video(model, film, processor, tmp_path):
    state = model.encode_video(film, processor=processor, fps=2, max_frames=50, save_to=tmp_path / "state")
    assert state.sampling == {
        "source": str(film),
        "size": film.stat().st_size,
        "digest": state.sampling["digest"],
        "duration": pytest.approx(6.0),
        "fps": 2,
        "max_frames": 50,
        "do_sample_frames": True,
    }
    assert VideoState.load(tmp_path / "state").sampling == state.sampling


# ---- memory


def live_bytes():
    """Of the memory behind all new tensors, each counted once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) is torch.Tensor:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.fixture
def frozen():
    """All objects so far are left out of what `gc` lists, which makes it quick."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("saved", [False, True])
def test_memory_does_not_grow_but_for_the_state(processor, tmp_path, small_parts, frozen, saved):
    model = chunked_model(chunk=4)
    chunk_bytes = 4 * 3 * 32 * 32 * 4
    peaks = {}
    for num_frames in (32, 128):
        film = write_video(tmp_path / f"{num_frames}.mp4", barcode_frames(num_frames), fps=10)
        before, seen = live_bytes(), []
        state = model.encode_video(
            film,
            processor=processor,
            fps=10,
            progress=lambda done, total, seen=seen: seen.append(live_bytes()),
            save_to=tmp_path / f"{num_frames}.safetensors" if saved else None,
        )
        state_bytes = 0 if saved else sum(tensor.nbytes for tensor in state.tensors().values())
        peaks[num_frames] = max(seen) - before - state_bytes
        assert len(seen) == num_frames // 4 + 1
        del state
    # Of 8 and of 32 chunks: in use, waiting, and being made, and slack for patches. How many of them live at a time is
    # up to the threads.
    assert max(peaks.values()) <= 6 * chunk_bytes


# ---- interruptions


def test_what_is_saved_is_what_is_made(model, film, processor, tmp_path, small_parts):
    state = model.encode_video(film, processor=processor, fps=10)
    saved = model.encode_video(film, processor=processor, fps=10, save_to=tmp_path / "streamed")
    same(saved, state)
    state.save(tmp_path / "saved")
    assert (tmp_path / "streamed").read_bytes() == (tmp_path / "saved").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved", "streamed"]


def test_a_finished_state_is_not_made_again(model, film, processor, tmp_path, monkeypatch):
    """The same call a second time gives what is there; any other one writes over it."""
    target, calls = tmp_path / "state", []
    first = model.encode_video(film, processor=processor, fps=5, save_to=target)
    written = target.stat().st_mtime_ns
    forward = model.model.vision_tower.forward
    monkeypatch.setattr(model.model.vision_tower, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    same(model.encode_video(film, processor=processor, fps=5, save_to=target), first)
    assert not calls and target.stat().st_mtime_ns == written
    other = chunked_model(chunk=2)
    with torch.no_grad():
        next(other.model.vision_tower.parameters()).add_(1)
    changed = tmp_path / "other.mp4"
    changed.write_bytes(film.read_bytes() + b"\0" * 8)
    for encoder, video, settings in (
        (model, film, {"fps": 2}),
        (model, film, {"fps": 2, "dtype": torch.float16}),
        (other, film, {"fps": 2, "dtype": torch.float16}),
        (other, changed, {"fps": 2, "dtype": torch.float16}),
    ):
        before = target.stat().st_mtime_ns
        encoder.encode_video(video, processor=processor, save_to=target, **settings)
        assert target.stat().st_mtime_ns > before
        before = target.stat().st_mtime_ns
        encoder.encode_video(video, processor=processor, save_to=target, **settings)
        assert target.stat().st_mtime_ns == before
    target.write_text("not a state")
    same(model.encode_video(film, processor=processor, fps=5, save_to=target), first)


@pytest.mark.parametrize("part_bytes", [1, 1 << 30])
@pytest.mark.parametrize("settings", [{"fps": 10}, {"sampling": "key_frames"}, {"num_frames": 30}])
def test_an_interrupted_encoding_goes_on(film, processor, tmp_path, monkeypatch, part_bytes, settings):
    monkeypatch.setattr(state_parts, "_PART_BYTES", part_bytes)
    model = chunked_model(chunk=2)
    whole, target = tmp_path / "whole", tmp_path / "target"
    expected = model.encode_video(film, processor=processor, save_to=whole, **settings)
    seen = []
    forward = model.model.vision_tower.backbone.forward
    monkeypatch.setattr(
        model.model.vision_tower.backbone, "forward", lambda x, **kw: seen.append(len(x)) or forward(x, **kw)
    )
    calls = []
    for stop in (2, 3, 1000):
        try:
            state = model.encode_video(
                film, processor=processor, save_to=target, progress=stopping_at(stop, KeyboardInterrupt), **settings
            )
        except KeyboardInterrupt as stopped:
            calls.append(str(stopped))
    total = expected.num_frames[0]
    assert calls[0] == (
        f"stopped after 2 of {total} frames; the same call continues there ({target}.parts keeps them)."
    )
    same(state, expected)
    assert target.read_bytes() == whole.read_bytes()
    # No frame goes through the tower twice.
    assert sum(seen) == total
    assert sorted(path.name for path in tmp_path.iterdir()) == ["target", "whole"]


def test_a_power_cut_costs_what_was_not_written(model, film, processor, tmp_path, small_parts, monkeypatch):
    target = tmp_path / "target"
    expected = model.encode_video(film, processor=processor, fps=10)
    monkeypatch.setattr(state_parts.StateParts, "kept_when_interrupted", lambda *_: warnings.catch_warnings())
    with pytest.raises(KeyboardInterrupt):
        model.encode_video(film, processor=processor, fps=10, save_to=target, progress=stopping_at(20))
    # A part that was being written is no part.
    (tmp_path / "target.parts" / "part-000003.safetensors.partial").write_bytes(b"half of it")
    starts = []
    state = model.encode_video(
        film, processor=processor, fps=10, save_to=target, progress=lambda done, total: starts.append(done)
    )
    assert starts[0] == 24
    same(state, expected)


def test_stopped_after_the_last_frame(model, film, processor, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        model.encode_video(film, processor=processor, fps=10, save_to=tmp_path / "a", progress=stopping_at(NUM_FRAMES))
    state = model.encode_video(film, processor=processor, fps=10, save_to=tmp_path / "a")
    same(state, model.encode_video(film, processor=processor, fps=10))


def test_a_real_ctrl_c_leaves_no_thread(model, film, processor, tmp_path):
    before = set(threading.enumerate())

    def progress(done, total):
        if done:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        model.encode_video(film, processor=processor, fps=10, progress=progress)
    assert set(threading.enumerate()) <= before


def test_another_encoding_does_not_go_on(model, film, processor, tmp_path):
    target = tmp_path / "target"

    def begin(video=film, model=model, processor=processor, **settings):
        settings = {"fps": 10, **settings}
        return model.encode_video(video, processor=processor, save_to=target, progress=stopping_at(8), **settings)

    with pytest.raises(KeyboardInterrupt):
        begin()
    copy = write_video(tmp_path / "another.mp4", barcode_frames(30), fps=10)
    others = {
        "the video has changed": {"video": copy},
        "the sampling has changed": {"fps": 5},
        "the precision of the state has changed": {"dtype": torch.float16},
        "the model has changed": {"model": chunked_model(seed=1)},
        "the video and the sampling have changed": {"video": copy, "num_frames": 3},
    }
    for message, settings in others.items():
        with pytest.raises(ValueError, match=f"target: an interrupted encoding lies in .*target.parts, but {message}"):
            begin(**settings)
    with pytest.raises(ValueError, match="the model has changed"):
        begin(processor=make_tiny_processor(), image_mean=[0.1, 0.1, 0.1])
    # The same video under another path is the same.
    link = tmp_path / "link.mp4"
    link.symlink_to(film)
    assert begin_over(model, link, processor, target).num_frames == [NUM_FRAMES]


def begin_over(model, video, processor, target):
    return model.encode_video(video, processor=processor, save_to=target, fps=10)


def test_folders_that_are_something_else(model, film, processor, tmp_path):
    parts = tmp_path / "state.parts"
    parts.mkdir()
    (parts / "thesis.txt").write_text("do not delete")
    for manifest in (None, "no json", json.dumps([]), json.dumps({"format": "other"})):
        if manifest is not None:
            (parts / "manifest.json").write_text(manifest)
        with pytest.raises(ValueError, match=r"state.parts: is not the folder of an interrupted encoding"):
            model.encode_video(film, processor=processor, save_to=tmp_path / "state")
    assert (parts / "thesis.txt").read_text() == "do not delete"
    with pytest.raises(ValueError, match="is a folder; name a file"):
        model.encode_video(film, processor=processor, save_to=tmp_path)
    with pytest.raises(ValueError, match="there is no folder .*missing; create it first"):
        model.encode_video(film, processor=processor, save_to=tmp_path / "missing" / "state")


def test_a_full_disk_while_parts_are_written(model, film, processor, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"older")
    with (
        file_size_limit(20_000),
        pytest.raises(
            OSError, match=r"target: cannot be saved: File too large; the first 0 frames are kept, and"
        ) as e,
    ):
        model.encode_video(film, processor=processor, fps=10, save_to=target)
    assert isinstance(e.value.__cause__.__cause__, OSError) and e.value.__cause__.__cause__.errno == errno.EFBIG
    assert target.read_bytes() == b"older"
    assert model.encode_video(film, processor=processor, fps=10, save_to=target).num_frames == [NUM_FRAMES]


def test_a_full_disk_while_parts_are_put_together(model, film, processor, tmp_path, small_parts):
    target = tmp_path / "target"
    target.write_bytes(b"older")
    with file_size_limit(100_000), pytest.raises(OSError, match="target: cannot be written: File too large; an older"):
        model.encode_video(film, processor=processor, fps=10, save_to=target)
    assert target.read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["target", "target.parts"]
    # All frames are in the parts.
    starts = []
    model.encode_video(
        film, processor=processor, fps=10, save_to=target, progress=lambda done, total: starts.append(done)
    )
    assert starts == [NUM_FRAMES]


# ---- broken files


def test_a_file_that_changes(model, film, processor, tmp_path):
    copy = tmp_path / "growing.mp4"
    copy.write_bytes(film.read_bytes())

    def progress(done, total):
        with open(copy, "ab") as file:
            file.write(b"more")

    with pytest.raises(ValueError, match="growing.mp4: changed while it was read"):
        model.encode_video(copy, processor=processor, fps=10, progress=progress)


def test_a_file_that_is_cut_off(model, processor, tmp_path):
    fragmented = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    film = write_video(tmp_path / "film.mp4", barcode_frames(60), fps=10, container_options=fragmented)
    cut = cut_file(film, 0.6, tmp_path / "cut.mp4")
    with pytest.raises(ValueError, match="cut.mp4: is cut off; it can be read until"):
        model.encode_video(cut, processor=processor, fps=10)
    with pytest.warns(UserWarning, match=r"cut.mp4: is cut off; it can be read until (\d.\d+) s"):
        state = model.encode_video(cut, processor=processor, fps=10, on_truncated="warn")
    (count,) = state.num_frames
    whole = model.encode_video(film, processor=processor, fps=10)
    assert 10 < count < 60
    torch.testing.assert_close(state.frame_times, whole.frame_times[:, :count])


@pytest.mark.parametrize("saved", [False, True])
def test_a_file_with_a_damaged_middle(model, film, processor, tmp_path, saved):
    data = bytearray(film.read_bytes())
    start = data.index(b"mdat") + 4 + len(data) // 4
    data[start : start + len(data) // 6] = bytes(len(data) // 6)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    settings = {"fps": 10, "save_to": tmp_path / "state" if saved else None}
    with pytest.raises(ValueError, match=r"broken.mp4: its picture is damaged .* on_truncated='warn'"):
        model.encode_video(broken, processor=processor, **settings)
    with pytest.warns(UserWarning, match="what cannot be decoded is left out"):
        state = model.encode_video(broken, processor=processor, on_truncated="warn", **settings)
    assert 10 < state.num_frames[0] < NUM_FRAMES
    assert state.frame_features.shape[:2] == state.frame_mask.shape == state.frame_times.shape
    assert bool((state.frame_times.diff() > 0).all())


def test_times_of_a_variable_frame_rate(model, processor, tmp_path):
    times = [0.0, 0.34, 0.38, 0.42, 1.5, 1.54, 3.0, 3.04]
    film = write_video(tmp_path / "film.mp4", barcode_frames(len(times)), pts=times)
    state = model.encode_video(film, processor=processor, fps=100)
    assert state.frame_times[0].tolist() == pytest.approx(times, abs=2e-3)
    state = model.encode_video(film, processor=processor, fps=1)
    assert state.frame_times[0].tolist() == pytest.approx([0.0, 0.42, 1.54, 3.0], abs=2e-3)


# ---- fingerprints


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_fingerprint_survives_casts(dtype):
    expected = tiny_model().video_fingerprint()
    assert difference(tiny_model().to(dtype).video_fingerprint(), expected) is None
    assert (
        difference(tiny_model(vision_config=tiny_model().config.vision_config).video_fingerprint(), expected) is None
    )


@pytest.mark.parametrize(
    "what, settings",
    [
        ("weights of the vision tower", {"seed": 1}),
        ("settings of the vision tower or of the grouping", {"spatial_clusters": [12, 6]}),
        ("settings of the vision tower or of the grouping", {"pooling_grid": 2}),
    ],
)
def test_a_state_of_another_model_is_refused(film, processor, what, settings):
    state = tiny_model().encode_video(film, processor=processor)
    other = tiny_model(**settings)
    assert difference(state.fingerprint, other.video_fingerprint()) == what
    inputs = {"video_token_plan": torch.tensor([[3, 1, 6]]), "question_input_ids": torch.ones(1, 3, dtype=torch.long)}
    with pytest.raises(ValueError, match=f"This video state was encoded with other {what}: encode the video again"):
        other.get_video_features(video_state=state, **inputs)
    tiny_model().get_video_features(video_state=state, **inputs)
    state.fingerprint = None
    with pytest.raises(ValueError, match="weights|settings"):
        other.get_video_features(video_state=tiny_model().encode_video(torch.zeros(1, 6, 3, 32, 32)), **inputs)


def test_other_weights_are_seen_anywhere_in_the_tower():
    model = tiny_model()
    before = model.video_fingerprint()
    with torch.no_grad():
        for parameter in model.model.language_model.parameters():
            parameter.add_(1)
    assert model.video_fingerprint() == before
    with torch.no_grad():
        model.model.vision_tower.backbone.encoder.layers[-1].mlp.fc2.weight.mul_(1.05)
    assert difference(model.video_fingerprint(), before) == "weights of the vision tower"


def test_other_pixel_settings_are_refused(film, processor):
    model = tiny_model()
    state = model.encode_video(film, processor=processor, image_mean=[0.2, 0.2, 0.2])
    with pytest.raises(ValueError, match="other pixel settings"):
        state.check_fingerprint(model.video_fingerprint(processor))
    pipe = VideoQAPipeline(model=model, processor=processor)
    with pytest.raises(ValueError, match="other pixel settings"):
        pipe(state, question="what is it?")
    assert pipe(pipe.encode_video(film), question="what is it?", max_new_tokens=2)["answer"] is not None


# ---- what makes no sense


def test_settings_without_a_processor(model, film, processor):
    with pytest.raises(ValueError, match="To encode a PosixPath, give `processor=`"):
        model.encode_video(film)
    for settings in ({"fps": 2}, {"save_to": "a"}, {"progress": True}, {"dtype": torch.float16}):
        with pytest.raises(ValueError, match=f"`{next(iter(settings))}` needs `processor=`"):
            model.encode_video(torch.zeros(1, 1, 3, 32, 32), **settings)
    with pytest.raises(ValueError, match="`video_frame_mask` goes with pixels"):
        model.encode_video(film, torch.ones(1, 1), processor=processor)
    with pytest.raises(TypeError, match="Unknown keyword of the video processor: speed"):
        model.encode_video(film, processor=processor, speed=3)


def test_a_bar(model, film, processor, capfd):
    model.encode_video(film, processor=processor, fps=10, progress=True)
    drawn = capfd.readouterr().err
    assert f"{NUM_FRAMES}/{NUM_FRAMES}" in drawn and "0:00:05 of video" in drawn
    model.encode_video(film, processor=processor, fps=10)
    assert capfd.readouterr().err == ""
