"""Frames chunk by chunk: the pixels of a call, read ahead in a thread that never outlives its use."""

import os
import signal
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from videos import barcode_frames, cut_file, write_video

from dynfocus import DynFocusVideoProcessor
from dynfocus.processing.reading import decoders as video_decoders
from dynfocus.processing.reading.stream import read_ahead

NUM_FRAMES = 50


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("films") / "film.mp4", barcode_frames(NUM_FRAMES), fps=10)


@pytest.fixture(scope="module")
def processor():
    return DynFocusVideoProcessor(size=32)


def collected(stream):
    with stream:
        return [torch.cat(parts) for parts in zip(*stream, strict=True)]


@contextmanager
def no_thread_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def forms(film):
    frames = barcode_frames(12)
    return {
        "path": film,
        "url": film.as_uri(),
        "bytes": film.read_bytes(),
        "file object": open(film, "rb"),  # noqa: SIM115
        "array": frames,
        "tensor": torch.from_numpy(frames).permute(0, 3, 1, 2),
        "floats": frames.astype(np.float32) / 255,
        "images": [Image.fromarray(frame) for frame in frames],
        "row": {"path": str(film), "bytes": None},
    }


@pytest.mark.parametrize("form", ["path", "url", "bytes", "file object", "array", "tensor", "floats", "images", "row"])
def test_a_stream_gives_what_a_call_gives(film, processor, form):
    video = forms(film)[form]
    expected = processor(video, return_metadata=True, return_tensors="pt")
    with no_thread_left():
        pixels, times, indices = collected(processor.stream(video, chunk_frames=4))
    metadata = expected["video_metadata"][0]
    assert torch.equal(pixels, expected["pixel_values_videos"][0])
    assert times.tolist() == metadata.timestamps and indices.tolist() == metadata.frames_indices
    assert (pixels.dtype, times.dtype, indices.dtype) == (torch.float32, torch.float64, torch.int64)


@pytest.mark.parametrize("chunk_frames", [1, 7, 64])
@pytest.mark.parametrize(
    "settings",
    [
        {"fps": 5},
        {"fps": 1000},
        {"num_frames": 9},
        {"fps": 10, "max_frames": 11},
        {"sampling": "key_frames"},
        {"do_sample_frames": False},
        {"fps": 2, "do_resize": False, "do_normalize": False},
    ],
)
def test_chunks_change_nothing(film, processor, settings, chunk_frames):
    expected = processor(film, return_metadata=True, return_tensors="pt", **settings)
    stream = processor.stream(film, chunk_frames=chunk_frames, **settings)
    sizes = []
    with stream:
        chunks = list(stream)
        sizes = [len(chunk.pixel_values) for chunk in chunks]
    assert torch.equal(torch.cat([chunk.pixel_values for chunk in chunks]), expected["pixel_values_videos"][0])
    assert stream.num_frames == sum(sizes) and set(sizes[:-1]) <= {chunk_frames}
    assert all(chunk.pixel_values.is_contiguous() for chunk in chunks)


def test_key_frames_are_those_of_the_codec(tmp_path, processor):
    film = write_video(
        tmp_path / "film.mp4", barcode_frames(40), fps=10, codec_options={"x264-params": "keyint=8:scenecut=0"}
    )
    _, times, indices = collected(processor.stream(film, sampling="key_frames"))
    assert indices.tolist() == [0, 8, 16, 24, 32]
    torch.testing.assert_close(times, indices / 10, check_dtype=False)
    _, _, few = collected(processor.stream(film, sampling="key_frames", max_frames=2))
    assert len(few) == 2 and set(few.tolist()) <= set(indices.tolist())
    # A saved way of sampling gives way to one that a call asks for.
    saved = DynFocusVideoProcessor(size=32, sampling="key_frames")
    assert len(collected(saved.stream(film))[2]) == 5
    assert len(collected(saved.stream(film, num_frames=7))[2]) == 7
    for settings, message in (
        ({"sampling": "key_frames", "fps": 2}, "leave out fps and num_frames"),
        ({"sampling": "keys"}, "sampling is 'keys': it must be 'key_frames'"),
    ):
        with pytest.raises(ValueError, match=message):
            processor.stream(film, **settings)
    with pytest.raises(ValueError, match="frames in memory have no codec"):
        processor.stream(barcode_frames(3), sampling="key_frames")


def test_starting_later_decodes_no_more_than_it_must(tmp_path, processor, monkeypatch):
    film = write_video(tmp_path / "film.mp4", barcode_frames(200), fps=10, gop=10)
    made = []
    to_rgb = video_decoders.PyAVDecoder._to_rgb

    def counted(self, frame):
        made.append(frame.pts)
        return to_rgb(self, frame)

    monkeypatch.setattr(video_decoders.PyAVDecoder, "_to_rgb", counted)
    whole = collected(processor.stream(film, fps=5))
    assert len(made) == 100
    made.clear()
    stream = processor.stream(film, fps=5)
    stream.start_after(160)
    for found, expected in zip(collected(stream), whole, strict=True):
        assert torch.equal(found, expected[81:])
    assert len(made) == 19
    with pytest.raises(ValueError, match="The stream has begun"):
        stream.start_after(3)
    done = processor.stream(film, fps=5)
    done.start_after(198)
    assert list(done) == []


def test_leaving_early_closes_the_file(film, processor):
    before = len(os.listdir("/proc/self/fd"))
    with no_thread_left(), processor.stream(film, fps=1000, chunk_frames=1) as stream:
        next(stream)
    assert len(os.listdir("/proc/self/fd")) == before
    assert list(stream) == []
    with no_thread_left():
        stream = processor.stream(film, fps=1000, chunk_frames=1)
        next(stream)
        del stream
    with processor.stream(film) as stream:
        pass
    assert list(stream) == []


def test_errors_come_as_they_are(film, tmp_path, processor):
    with pytest.raises(FileNotFoundError, match="there is no such video file"):
        processor.stream(tmp_path / "none.mp4")
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(b"no video" * 100)
    with pytest.raises(ValueError, match="garbage.mp4: cannot be opened as a video"):
        processor.stream(garbage)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(ValueError, match=r"empty.mp4: is empty \(0 bytes\)"):
        processor.stream(tmp_path / "empty.mp4")
    with pytest.raises(ValueError, match="`chunk_frames` is 0"):
        processor.stream(film, chunk_frames=0)
    with pytest.raises(ValueError, match="One video is streamed at a time, got 2"):
        processor.stream([film, film])
    with pytest.raises(TypeError, match="Unknown keyword of the video processor: speed"):
        processor.stream(film, speed=2)


def test_a_file_that_changes_while_it_is_read(film, tmp_path, processor):
    copy = tmp_path / "growing.mp4"
    copy.write_bytes(film.read_bytes())
    with no_thread_left(), processor.stream(copy, fps=10, chunk_frames=4) as stream:
        next(stream)
        with open(copy, "ab") as file:
            file.write(b"more")
        with pytest.raises(ValueError, match="growing.mp4: changed while it was read"):
            list(stream)


def test_a_truncated_file_by_choice(tmp_path, processor):
    film = write_video(
        tmp_path / "film.mp4",
        barcode_frames(60),
        fps=10,
        container_options={"movflags": "frag_keyframe+empty_moov+default_base_moof"},
    )
    cut = cut_file(film, 0.6, tmp_path / "cut.mp4")
    with pytest.raises(ValueError, match=r"cut.mp4: is cut off; it can be read until [\d.]+ s"):
        processor.stream(cut)
    with pytest.warns(UserWarning, match=r"cut.mp4: is cut off; it can be read until [\d.]+ s"):
        _, _, indices = collected(processor.stream(cut, fps=10, on_truncated="warn"))
    assert 10 < len(indices) < 60 and indices.tolist() == list(range(len(indices)))


# ---- the thread


def counting(count, made, closed):
    try:
        for number in range(count):
            made.append(number)
            yield number
    finally:
        closed.append(threading.current_thread())


@pytest.mark.parametrize("depth", [1, 3])
def test_items_come_in_order_and_never_far_ahead(depth):
    made, closed = [], []
    with no_thread_left():
        for number in read_ahead(counting(50, made, closed), depth):
            # In use, waiting in the queue, and one that is made.
            assert len(made) - number <= depth + 2
    assert made == list(range(50)) and len(closed) == 1 and closed[0] is not threading.current_thread()


def test_an_error_in_the_thread_is_raised_as_it_is():
    error = RuntimeError("broken")

    def items():
        yield 1
        raise error

    with no_thread_left():
        ahead = read_ahead(items(), 1)
        assert next(ahead) == 1
        with pytest.raises(RuntimeError) as raised:
            next(ahead)
    assert raised.value is error


def test_an_error_while_closing_does_not_hang():
    def items():
        try:
            yield 1
            yield 2
        finally:
            raise RuntimeError("cannot be closed")

    with no_thread_left():
        ahead = read_ahead(items(), 1)
        next(ahead)
        ahead.close()


def test_an_error_of_the_user_ends_the_thread():
    made, closed = [], []
    with no_thread_left(), pytest.raises(ZeroDivisionError):
        for _ in read_ahead(counting(10**9, made, closed), 2):
            1 / 0  # noqa: B018
    assert closed and len(made) < 10


def test_ctrl_c_while_it_waits():
    closed = []

    def slow():
        try:
            yield 1
            threading.Event().wait(0.6)
            yield 2
        finally:
            closed.append(True)

    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        ahead = read_ahead(slow(), 1)
        next(ahead)
        timer.start()
        next(ahead)
    timer.join()
    assert closed and not [thread for thread in threading.enumerate() if thread.name == "dynfocus-reader"]
