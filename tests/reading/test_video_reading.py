"""Every kind of video file gives the right frames with the right times, or one clear error; whoever decodes it."""

import functools
import http.server
import importlib.util
import io
import os
import socket
import struct
import sys
import threading
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from videos import barcode_frames, cut_file, read_barcode, write_sound, write_video

from dynfocus.processing.reading import decoders as video_decoders
from dynfocus.processing.reading import limits, video_reading
from dynfocus.processing.reading.decoders import PyAVDecoder, open_decoder
from dynfocus.processing.reading.index import build_index, plan_reading
from dynfocus.processing.reading.limits import ReadingLimits
from dynfocus.processing.reading.sampling import sample_indices
from dynfocus.processing.reading.sources import open_source
from dynfocus.processing.reading.video_reading import frames_at, open_video, read_video, resize_frame, target_size

EVERY_FRAME = 1000.0
NUM_FRAMES = 36
# The gaps of a variable frame rate: still for a third of a second, then a burst.
VARIABLE = np.cumsum([0.0] + [0.34 if i % 5 == 0 else 0.04 for i in range(NUM_FRAMES - 1)]).round(3)
STEADY = np.arange(NUM_FRAMES) / 10

has_decord = pytest.mark.skipif(importlib.util.find_spec("decord") is None, reason="decord has no wheel here")


def _open_groups(params: str) -> dict[str, str]:
    return {params: "open-gop=1:keyint=8:scenecut=0:bframes=3:b-adapt=0:log-level=none"}


# name: (arguments of write_video, times, decord reads it)
FILES: dict[str, tuple[dict[str, Any], np.ndarray, bool]] = {
    "constant.mp4": ({}, STEADY, True),
    "variable.mp4": ({"pts": VARIABLE}, VARIABLE, True),
    "variable.mkv": ({"pts": VARIABLE}, VARIABLE, True),
    "open groups.mp4": ({"codec_options": _open_groups("x264-params")}, STEADY, True),
    "hevc.mp4": ({"codec": "libx265", "codec_options": _open_groups("x265-params")}, STEADY, True),
    "ten bits.mp4": ({"codec": "libx265", "pix_fmt": "yuv420p10le"}, STEADY, True),
    "full chroma.mp4": ({"pix_fmt": "yuv444p"}, STEADY, True),
    "fragmented.mp4": (
        {"container_options": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}},
        STEADY,
        True,
    ),
    "with sound.mp4": ({"audio_seconds": 5.0}, STEADY, True),
    "vp9.webm": ({"codec": "libvpx-vp9"}, STEADY, True),
    "vp8.webm": ({"codec": "libvpx"}, STEADY, True),
    "Ünïcode – 文件 %03d: 1.mov": ({"codec": "mpeg4", "b_frames": 2}, STEADY, True),
    "no duration.mkv": ({"container_options": {"live": "1"}}, STEADY, False),
    "transport.ts": ({}, STEADY, False),
    "b frames.avi": ({"b_frames": 2}, STEADY, False),
    "raw.h264": ({"container": "h264"}, STEADY, False),
    "animation.gif": ({"codec": "gif", "pix_fmt": "rgb8"}, STEADY, False),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def video(folder: Path) -> Any:
    """Makes the files of `FILES` on demand, each once."""

    @functools.cache
    def make(name: str) -> Path:
        return write_video(folder / name, barcode_frames(NUM_FRAMES), **FILES[name][0])

    return make


def assert_clean(error: BaseException) -> None:
    """No traceback of a library stands before the message."""
    assert error.__cause__ is None and (error.__suppress_context__ or error.__context__ is None)


def numbers(frames: np.ndarray) -> list[int]:
    return [read_barcode(frame) for frame in frames]


# ---- the right frames with the right times


@pytest.mark.parametrize("name", FILES)
def test_every_frame_is_read_once_with_its_time(video, name):
    result = read_video(video(name), fps=EVERY_FRAME)
    assert numbers(result.frames) == list(range(NUM_FRAMES)) == result.frame_indices.tolist()
    np.testing.assert_allclose(result.timestamps, FILES[name][1], atol=2e-3)
    assert result.frames.shape == (NUM_FRAMES, 48, 64, 3) and result.frames.dtype == np.uint8
    assert result.metadata.total_num_frames == NUM_FRAMES
    assert (result.metadata.height, result.metadata.width) == (48, 64)
    assert result.timestamps[-1] < result.metadata.duration < result.timestamps[-1] + 0.4
    assert result.metadata.fps == pytest.approx((NUM_FRAMES - 1) / FILES[name][1][-1], rel=0.02)


@pytest.mark.parametrize("name", FILES)
def test_the_frame_shown_at_each_second_is_taken(video, name):
    times = FILES[name][1]
    expected = [int((times <= second + 1e-3).sum()) - 1 for second in range(int(times[-1]) + 1)]
    result = read_video(video(name))
    assert numbers(result.frames) == expected
    np.testing.assert_allclose(result.timestamps, times[expected], atol=2e-3)


@has_decord
@pytest.mark.parametrize("name", FILES)
def test_decord_gives_the_same_frames_or_says_that_it_cannot(video, name):
    if not FILES[name][2]:
        with pytest.raises(ValueError, match=r"cannot be decoded: decord .* use decoder='auto'"):
            read_video(video(name), decoder="decord")
        return
    for sampling in ({"fps": EVERY_FRAME}, {"fps": 3.0}, {"num_frames": 5}):
        one, two = (
            read_video(video(name), **sampling, decoder=decoder, size=(24, 32)) for decoder in ("pyav", "decord")
        )
        assert numbers(two.frames) == two.frame_indices.tolist() == one.frame_indices.tolist()
        np.testing.assert_array_equal(one.timestamps, two.timestamps)
        assert np.abs(one.frames.astype(int) - two.frames).mean() < 2
        assert (one.metadata.decoder, two.metadata.decoder) == ("pyav", "decord")


@pytest.mark.parametrize("name", FILES)
def test_seeking_gives_what_reading_through_gives(video, name):
    source = open_source(video(name))
    index = build_index(source)
    rng = np.random.default_rng(0)
    for wanted in (np.arange(NUM_FRAMES), np.array([NUM_FRAMES - 1]), np.sort(rng.permutation(NUM_FRAMES)[:5])):
        seeking = list(PyAVDecoder(source, index, seek_cost=0.0).frames(wanted))
        through = list(PyAVDecoder(source, index, seek_cost=float("inf")).frames(wanted))
        assert [number for number, _ in seeking] == [number for number, _ in through] == wanted.tolist()
        for (_, one), (number, two) in zip(seeking, through, strict=True):
            np.testing.assert_array_equal(one, two)
            assert read_barcode(one) == number


def test_a_container_that_does_not_seek_is_read_through(video, monkeypatch):
    source = open_source(video("constant.mp4"))
    decoder = PyAVDecoder(source, build_index(source), seek_cost=0.0)
    find = PyAVDecoder._packets_from
    monkeypatch.setattr(
        PyAVDecoder, "_packets_from", lambda self, c, s, start: find(self, c, s, 0) if start == 0 else None
    )
    assert [read_barcode(frame) for _, frame in decoder.frames(np.array([3, 15, 30]))] == [3, 15, 30]


def test_single_frames_are_read_again(video):
    for name in ("constant.mp4", "open groups.mp4", "variable.mkv", "transport.ts", "b frames.avi", "animation.gif"):
        found = frames_at(video(name), [30, 2, 17, 2], size=24)
        assert numbers(np.stack(found)) == [30, 2, 17, 2] and found[0].shape == (24, 32, 3)
        whole = read_video(video(name), fps=EVERY_FRAME)
        for array in (frames_at(video(name), times=whole.timestamps), frames_at(video(name), whole.frame_indices)):
            np.testing.assert_array_equal(np.stack(array), whole.frames)
    assert frames_at(video("constant.mp4"), []) == []
    for wrong in (-1, NUM_FRAMES):
        with pytest.raises(ValueError, match=f"constant.mp4: has no frame {wrong}; its frames are numbered 0 to 35"):
            frames_at(video("constant.mp4"), [3, wrong])


def test_full_size_frames_are_not_kept(video, monkeypatch):
    """While a video is read, hardly any of the decoded frames is alive at once: each is shrunk before the next one."""
    alive, most = 0, 0

    class Counted(np.ndarray):
        def __del__(self) -> None:
            nonlocal alive
            alive -= self.shape == (48, 64, 3)

    decode = video_decoders.PyAVDecoder._to_rgb

    def counting(self: Any, frame: Any) -> np.ndarray:
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return np.array(decode(self, frame)).view(Counted)

    monkeypatch.setattr(video_decoders.PyAVDecoder, "_to_rgb", counting)
    assert len(read_video(video("constant.mp4"), fps=EVERY_FRAME, size=8).frames) == NUM_FRAMES
    assert 1 <= most <= 3


def test_an_edit_list_hides_the_frames_it_cuts(video, folder):
    data = bytearray(video("constant.mp4").read_bytes())
    entry = data.find(b"elst") + 12
    duration, start = struct.unpack(">Ii", data[entry : entry + 8])
    data[entry : entry + 8] = struct.pack(
        ">Ii", duration - 1000, start + 10240
    )  # milliseconds, ticks: one second each
    result = read_video(bytes(data), fps=EVERY_FRAME)
    assert numbers(result.frames) == list(range(10, NUM_FRAMES))
    np.testing.assert_allclose(result.timestamps, STEADY[: NUM_FRAMES - 10], atol=1e-6)


@pytest.mark.parametrize(("rotation", "corner"), [(90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1)), (0, (0, 0))])
@pytest.mark.parametrize("decoder", ["pyav", pytest.param("decord", marks=has_decord)])
def test_rotation_is_applied(tmp_path, rotation, corner, decoder):
    frames = np.zeros((3, 48, 64, 3), dtype=np.uint8)
    frames[:, :24, :32] = 255  # counter-clockwise by 90°, the upper left corner becomes the lower left one
    path = write_video(tmp_path / "turned.mp4", frames, rotation=rotation)
    if decoder == "decord" and rotation % 180:
        with pytest.raises(ValueError, match="rotate or mirror the picture"):
            read_video(path, decoder=decoder)
        return
    result = read_video(path, decoder=decoder)
    assert result.frames.shape[1:3] == ((64, 48) if rotation % 180 else (48, 64))
    assert (result.metadata.height, result.metadata.width) == result.frames.shape[1:3]
    bright = result.frames[0, [0, 0, -1, -1], [0, -1, 0, -1]].mean(axis=-1) > 127
    assert bright.tolist() == [corner == at for at in ((0, 0), (0, -1), (-1, 0), (-1, -1))]


@pytest.mark.parametrize("shape", [(47, 63), (48, 65), (2, 2)])
def test_odd_and_tiny_pictures(tmp_path, shape):
    path = write_video(tmp_path / "odd.mkv", barcode_frames(5, *shape), codec="ffv1", pix_fmt="yuv444p")
    result = read_video(path, fps=EVERY_FRAME)
    assert result.frames.shape == (5, *shape, 3)
    assert read_video(path, size=(30, 20)).frames.shape == (1, 30, 20, 3)


@pytest.mark.parametrize("name", ["one.mp4", "one.gif", "one.webm"])
def test_one_frame(tmp_path, name):
    codec, pixels = {"mp4": ("libx264", "yuv420p"), "gif": ("gif", "rgb8"), "webm": ("libvpx-vp9", "yuv420p")}[
        name[4:]
    ]
    path = write_video(tmp_path / name, barcode_frames(1, start=77), codec=codec, pix_fmt=pixels)
    for sampling in ({}, {"fps": EVERY_FRAME}, {"num_frames": 8}, {"fps": 0.001, "max_frames": 1}):
        result = read_video(path, **sampling)
        assert numbers(result.frames) == [77] and result.timestamps.tolist() == [0.0]


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv"])
def test_four_hours_with_two_frames(tmp_path, name):
    path = write_video(tmp_path / name, barcode_frames(2), pts=[0, 4 * 3600])
    for sampling in ({}, {"fps": 30.0}, {"num_frames": 64}, {"fps": 30.0, "max_frames": 64}):
        result = read_video(path, **sampling)
        assert numbers(result.frames) == [0, 1] and result.timestamps.tolist() == [0.0, 14400.0]


def test_a_rate_above_the_videos_own_gives_every_frame_once(video):
    for fps in (10.0, 25.0, 1e6):
        assert numbers(read_video(video("constant.mp4"), fps=fps).frames) == list(range(NUM_FRAMES))


def test_a_late_start_counts_from_the_first_frame(tmp_path):
    path = write_video(tmp_path / "late.mkv", barcode_frames(4), pts=[100, 100.5, 101, 101.5])
    np.testing.assert_allclose(read_video(path, fps=2.0).timestamps, [0, 0.5, 1, 1.5])


def test_sizes_and_transform(video):
    path = video("constant.mp4")
    full, small = read_video(path, num_frames=3), read_video(path, num_frames=3, size=24)
    assert small.frames.shape == (3, 24, 32, 3)
    np.testing.assert_array_equal(small.frames, [resize_frame(frame, (24, 32)) for frame in full.frames])
    means = read_video(path, num_frames=3, size=(10, 12), transform=lambda frame: frame.mean(axis=(0, 1)))
    assert means.frames.shape == (3, 3) and means.frames.dtype == np.float64
    assert target_size(720, 1280, 224) == (224, 398) and target_size(1280, 720, 224) == (398, 224)
    assert target_size(7, 9, None) == (7, 9)


def test_resizing_is_that_of_pil():
    frame = np.random.default_rng(0).integers(0, 256, (72, 128, 3), dtype=np.uint8)
    for resample in (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR):
        expected = np.asarray(Image.fromarray(frame).resize((20, 30), resample)).astype(int)
        assert np.abs(resize_frame(frame, (30, 20), resample) - expected).max() <= 1
    with pytest.raises(ValueError, match="resample is 5"):
        resize_frame(frame, (30, 20), 5)


# ---- sampling and planning


def _clips() -> Iterator[tuple[np.ndarray, float]]:
    rng = np.random.default_rng(0)
    for total in (1, 2, 3, 10, 57, 200):
        yield np.arange(total) / 30, total / 30
        gaps = rng.exponential(0.3, total) + 0.01
        yield np.cumsum(gaps) - gaps[0], float(gaps.sum())


@pytest.mark.parametrize(("timestamps", "duration"), list(_clips()))
def test_sampled_indices_are_unique_sorted_and_as_many_as_asked(timestamps, duration):
    for count in (1, 2, 7, 64, 1000):
        for indices in (
            sample_indices(timestamps, duration, num_frames=count),
            sample_indices(timestamps, duration, num_frames=1000, max_frames=count),
            sample_indices(timestamps, duration, fps=1e6, max_frames=count),
        ):
            assert len(indices) == min(count, len(timestamps)) and indices.dtype == np.int64
            assert (np.diff(indices) > 0).all() and indices[0] >= 0 and indices[-1] < len(timestamps)
    for fps in (0.01, 0.5, 1.0, 4.0, 29.97, 100.0):
        moments = np.arange(0, duration - 1e-3, 1 / fps)
        shown = np.searchsorted(timestamps, moments + 1e-3, side="right") - 1
        assert sample_indices(timestamps, duration, fps=fps).tolist() == sorted({0, *shown.tolist()})


def test_num_frames_takes_the_centres_of_segments():
    timestamps = np.arange(100) / 10
    assert sample_indices(timestamps, 10.0, num_frames=5).tolist() == [10, 30, 50, 70, 90]
    assert sample_indices(timestamps, 10.0, num_frames=1).tolist() == [50]
    assert sample_indices(timestamps, 10.0, fps=10.0, max_frames=5).tolist() == [10, 30, 50, 70, 90]


@pytest.mark.parametrize(
    "wrong",
    [{"fps": 0.0}, {"fps": -1.0}, {"fps": float("nan")}, {"num_frames": 0}, {"max_frames": 0}, {"num_frames": 1.5}],
)
def test_sampling_that_cannot_be_meant(video, wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        read_video(video("constant.mp4"), **wrong)


def test_a_plan_covers_all_frames_and_seeks_only_where_that_is_cheaper(video):
    index = build_index(open_source(video("hevc.mp4")))
    keys = set(index.key_packet_of.tolist())
    assert len(keys) > 2
    for wanted in (np.arange(NUM_FRAMES), np.arange(0, NUM_FRAMES, 9), np.array([2, 33])):
        for cost in (0.0, 5.0, 16.0, float("inf")):
            runs = plan_reading(index, wanted, cost)
            assert np.concatenate([frames for _, frames in runs]).tolist() == wanted.tolist()
            assert {start for start, _ in runs} <= keys | {0}
            for start, frames in runs:
                assert (index.packet_of[frames] >= start).all() and (index.key_packet_of[frames] >= start).all()
        assert [start for start, _ in plan_reading(index, wanted, float("inf"))] == [0]
    assert len(plan_reading(index, np.array([2, 33]), 5.0)) == 2
    assert len(plan_reading(index, np.arange(NUM_FRAMES), 0.0)) == 1  # no packet can be left out


# ---- sources


class _Pipe(io.RawIOBase):
    """A stream that can be read once, from its start."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._data.readinto(buffer)


@pytest.mark.parametrize("decoder", ["pyav", pytest.param("decord", marks=has_decord)])
@pytest.mark.parametrize(
    "kind", ["str", "path", "file url", "bytes", "bytearray", "BytesIO", "file", "read to its end", "pipe"]
)
def test_sources(video, kind, decoder):
    path = video("constant.mp4")
    data = path.read_bytes()
    used = io.BytesIO(data)
    used.read()
    with open(path, "rb") as file:
        source = {
            "str": str(path),
            "path": path,
            "file url": path.as_uri(),
            "bytes": data,
            "bytearray": bytearray(data),
            "BytesIO": io.BytesIO(data),
            "file": file,
            "read to its end": used,
            "pipe": _Pipe(data),
        }[kind]
        assert numbers(read_video(source, num_frames=3, decoder=decoder).frames) == [6, 18, 30]


class _Handler(http.server.BaseHTTPRequestHandler):
    data = b""

    def do_GET(self) -> None:
        if self.path.startswith("/missing"):
            return self.send_error(404)
        if self.path.startswith("/broken"):
            return self.send_error(500)
        self.send_response(200)
        if self.path.startswith("/short"):
            self.send_header("Content-Length", str(len(self.data) + 10))
        elif not self.path.startswith("/unsized"):
            self.send_header("Content-Length", "0" if self.path.startswith("/empty") else str(len(self.data)))
        self.end_headers()
        if self.path.startswith("/silent"):
            self.server.stop.wait(10)  # type: ignore[attr-defined]
        elif not self.path.startswith("/empty"):
            self.wfile.write(self.data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def private_addresses(monkeypatch):
    """The servers of these tests run on this machine."""
    monkeypatch.setattr(limits, "_default", ReadingLimits(allow_private_addresses=True))


@pytest.fixture(scope="module")
def server(video) -> Iterator[str]:
    _Handler.data = video("constant.mp4").read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        running.daemon_threads = True
        running.stop = threading.Event()  # type: ignore[attr-defined]
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"127.0.0.1:{running.server_address[1]}"
        running.stop.set()  # type: ignore[attr-defined]
        running.shutdown()


def test_urls(server):
    for page in ("video.mp4", "unsized", "a%20b.mp4?token=secret"):
        assert numbers(read_video(f"http://{server}/{page}", num_frames=2).frames) == [9, 27]


@pytest.mark.parametrize(
    ("page", "error", "message"),
    [
        ("missing.mp4", FileNotFoundError, "missing.mp4: the server answered 404"),
        ("broken.mp4", ValueError, "broken.mp4: the server answered 500"),
        ("short.mp4", ValueError, r"short.mp4: the download broke off after \d+ of \d+ bytes"),
        ("empty.mp4", ValueError, r"empty.mp4: is empty \(0 bytes\)"),
        ("silent.mp4", ValueError, "silent.mp4: the download stalled for 0.3 s"),
    ],
)
def test_urls_that_fail(server, page, error, message):
    with pytest.raises(error, match=message) as caught:
        read_video(f"http://user:secret@{server}/{page}?key=secret", timeout=0.3 if "silent" in page else 30.0)
    assert "secret" not in str(caught.value)
    assert_clean(caught.value)


def test_urls_that_lead_nowhere():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ValueError, match=r"/a\.mp4: cannot be reached: .*refused"):
        read_video(f"http://127.0.0.1:{port}/a.mp4")
    with pytest.raises(ValueError, match="cannot read rtsp:// URLs"):
        read_video("rtsp://127.0.0.1/a.mp4")


# ---- what is not a video


def _bad_files(folder: Path) -> Iterator[tuple[Path, type[Exception], str]]:
    good = barcode_frames(5)
    front = write_video(folder / "front.mp4", barcode_frames(NUM_FRAMES), container_options={"movflags": "faststart"})
    back = write_video(folder / "back.mp4", good)
    for name in ("nothing.mp4", "nothing.mkv"):
        nothing = write_video(folder / name, good[:0], codec="mpeg4")
        yield nothing, ValueError, "holds nothing to show|has no video stream|cannot be opened as a video"
    still = folder / "still.png"
    still.write_bytes(_image())
    images = folder / "images"
    images.mkdir()
    (images / "1.png").write_bytes(_image())
    for name, data in (
        ("empty.mp4", b""),
        ("garbage.mp4", np.random.default_rng(0).bytes(5000)),
        ("zeros.mp4", bytes(5000)),
        ("page.mp4", b"<!DOCTYPE html><html><body>Not found</body></html>"),
        ("notes.txt", b"no video at all\n" * 50),
    ):
        (folder / name).write_bytes(data)
    yield folder / "missing.mp4", FileNotFoundError, "there is no such video file"
    yield back / "inside.mp4", FileNotFoundError, "there is no such video file"
    yield images, ValueError, "is a folder of images; pass these as a list of PIL images"
    yield folder, ValueError, "is a folder; pass one video file|is a folder of images"
    yield folder / "empty.mp4", ValueError, r"is empty \(0 bytes\)"
    yield folder / "garbage.mp4", ValueError, "cannot be opened as a video: invalid data"
    yield folder / "zeros.mp4", ValueError, "cannot be opened as a video|no video stream"
    yield folder / "page.mp4", ValueError, "cannot be opened as a video"
    yield folder / "notes.txt", ValueError, "is a text file, not a video"
    yield still, ValueError, "is a still image, not a video"
    yield write_sound(folder / "sound.m4a"), ValueError, r"has no video stream \(it holds sound only\)"
    yield cut_file(back, 0.3, folder / "no index.mp4"), ValueError, "it is cut off before its index"
    yield cut_file(front, 0.6, folder / "no frame.mp4"), ValueError, "it is cut off before its first (whole )?frame"
    yield write_sound(folder / "song.mp3", cover=_image()), ValueError, r"has no video stream \(it holds sound only\)"
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.mp4")
        yield folder / "pipe.mp4", ValueError, "is not a regular file"


def _image() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "png")
    return data.getvalue()


@pytest.mark.parametrize("decoder", ["auto", pytest.param("decord", marks=has_decord)])
def test_bad_files_give_one_error_that_names_the_file_and_the_cause(tmp_path, decoder):
    for path, error, message in _bad_files(tmp_path):
        with pytest.raises(error, match=message) as caught:
            read_video(path, decoder=decoder, on_truncated="warn")
        assert str(path) in str(caught.value)
        assert_clean(caught.value)
        with pytest.raises(error):  # by the call, and not only by the first frame
            open_video(path, decoder=decoder)
        if path.is_file():
            with pytest.raises(error, match="given as bytes"):
                read_video(path.read_bytes(), decoder=decoder)


@pytest.mark.parametrize("wrong", [None, 3, ["a.mp4"], np.zeros((2, 4, 4, 3))])
def test_what_is_no_source(wrong):
    with pytest.raises(TypeError, match="a video is a path"):
        read_video(wrong)


def test_text_files_and_wrong_arguments(video):
    path = video("constant.mp4")
    with open(path, encoding="latin-1") as file, pytest.raises(ValueError, match="open it in binary mode"):
        read_video(file)
    for arguments, message in (
        ({"decoder": "opencv"}, "decoder is 'opencv'"),
        ({"on_truncated": "ignore"}, "on_truncated is 'ignore'"),
        ({"size": 0}, "size is 0"),
        ({"size": (4, -1)}, r"size is \(4, -1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            read_video(path, **arguments)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"container_options": {"movflags": "faststart"}}),
        ("a.mp4", FILES["fragmented.mp4"][0]),
        ("a.mkv", {"pts": VARIABLE}),
        ("a.mkv", {"audio_seconds": 6.0}),
        ("a.webm", {"codec": "libvpx-vp9"}),
        ("a.avi", {"codec": "mpeg4"}),
        ("a.gif", {"codec": "gif", "pix_fmt": "rgb8"}),
        ("a.wmv", {"codec": "wmv2"}),
    ],
)
def test_a_file_that_is_cut_off_says_so_or_gives_what_is_there(tmp_path, name, options):
    whole = write_video(tmp_path / name, barcode_frames(NUM_FRAMES), **options)
    expected = read_video(whole, fps=EVERY_FRAME)
    cut = cut_file(whole, 0.92, tmp_path / f"cut {name}")
    with pytest.raises(ValueError, match=r"is cut off; it can be read until (\d\.\d\d) s \((\d+) frames\)") as caught:
        read_video(cut)
    assert str(cut) in str(caught.value)
    with pytest.warns(UserWarning, match="is cut off; it can be read until"):
        result = read_video(cut, fps=EVERY_FRAME, on_truncated="warn")
    assert 0 < len(result.frames) <= NUM_FRAMES
    assert f"until {result.metadata.duration:.2f} s ({result.metadata.total_num_frames} frames)" in str(caught.value)
    # Each frame is the one of the whole file at that time; a last one whose reference is missing may be anything.
    position = np.searchsorted(expected.timestamps, result.timestamps + 1e-3, side="right") - 1
    assert numbers(result.frames)[:-3] == position.tolist()[:-3]


@pytest.mark.parametrize("fill", [b"", bytes(400)], ids=["hole", "zeros"])
def test_a_gif_whose_blocks_break_off_in_the_middle(tmp_path, fill):
    data = write_video(tmp_path / "whole.gif", barcode_frames(NUM_FRAMES), codec="gif", pix_fmt="rgb8").read_bytes()
    assert data[-1:] == b";"
    middle = len(data) // 2
    with pytest.raises(ValueError, match="is cut off; it can be read until"):
        read_video(data[:middle] + fill + data[middle + 400 :])


def test_damage_in_the_middle(video, tmp_path):
    data = bytearray(video("constant.mp4").read_bytes())
    index = build_index(open_source(bytes(data)))
    start = data.find(b"mdat") + 4
    sizes = (np.diff(index.cost) - 0.5) / 0.5
    offsets = np.cumsum(sizes / sizes.sum())
    middle = start + int((data.find(b"moov") - start) * offsets[12])
    data[middle : middle + 200] = b"\xff" * 200
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged\.mp4: its picture is damaged at \d\.\d\d s") as caught:
        read_video(path, fps=EVERY_FRAME)
    assert_clean(caught.value)
    with pytest.warns(UserWarning, match="damaged at") as warned:
        result = read_video(path, fps=EVERY_FRAME, on_truncated="warn")
    assert len(warned) == 1
    assert (np.diff(result.frame_indices) > 0).all() and 12 < len(result.frames) < NUM_FRAMES
    assert numbers(result.frames)[:6] == list(range(6))


def test_strange_titles_do_no_harm(video, tmp_path):
    import av

    path = tmp_path / "title.mkv"
    with av.open(str(path), "w") as output:
        output.metadata["title"] = "TITLE"
        stream = output.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        output.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        output.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"TITLE", b"\xff\xfe\xfa\x80\xc3"))
    assert len(read_video(path).frames) == 1


# ---- choosing a decoder


def test_nothing_is_warned_of_and_auto_is_pyav(video):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_video(video("constant.mp4")).metadata.decoder == "pyav"


@pytest.mark.parametrize("name", ["decord", "torchcodec"])
def test_a_decoder_that_is_not_installed(video, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, f"{name}.decoders", None)
    with pytest.raises(ImportError, match=f"decoder='{name}' cannot be loaded .*pip install {name}"):
        read_video(video("constant.mp4"), decoder=name)


def test_without_pyav(video, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="pip install av"):
        read_video(video("constant.mp4"))


@pytest.fixture
def torchcodec(monkeypatch) -> Any:
    """A stand-in with torchcodec's interface, as the real one needs an FFmpeg of the system."""

    class VideoDecoder:
        asked: ClassVar[list[list[int]]] = []
        metadata = types.SimpleNamespace(height=48, width=64)

        def __init__(self, source: Any, *, dimension_order: str, num_ffmpeg_threads: int) -> None:
            assert dimension_order == "NHWC" and num_ffmpeg_threads >= 1

        def __len__(self) -> int:
            return NUM_FRAMES

        def get_frames_at(self, indices: list[int]) -> Any:
            self.asked.append(indices)
            return types.SimpleNamespace(data=torch.from_numpy(barcode_frames(NUM_FRAMES)[indices]))

    module = types.ModuleType("torchcodec.decoders")
    module.VideoDecoder = VideoDecoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    return VideoDecoder


def test_auto_goes_on_where_pyav_lacks_a_decoder(tmp_path, monkeypatch, torchcodec):
    """The codec's name in the file becomes one that FFmpeg knows of, but has no decoder for."""
    data = write_video(tmp_path / "a.mp4", barcode_frames(NUM_FRAMES), b_frames=0).read_bytes()
    position = data.index(b"avc1", data.index(b"stsd"))
    data = data[:position] + b"evc1" + data[position + 4 :]
    result = read_video(data, num_frames=2)
    assert result.metadata.decoder == "torchcodec" and numbers(result.frames) == [9, 27]
    assert (result.metadata.height, result.metadata.width) == (48, 64)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ValueError, match=r"PyAV has no decoder for its codec, and torchcodec is not installed\."):
        read_video(data, num_frames=2)
    with pytest.raises(ValueError, match=r"PyAV has no decoder for its codec\."):
        read_video(data, num_frames=2, decoder="pyav")


def test_torchcodec_is_asked_for_few_frames_at_a_time(video, monkeypatch, torchcodec):
    result = read_video(video("constant.mp4"), num_frames=9, decoder="torchcodec")
    assert numbers(result.frames) == result.frame_indices.tolist() == sum(torchcodec.asked, [])
    assert max(map(len, torchcodec.asked)) <= 4 and result.metadata.decoder == "torchcodec"
    monkeypatch.setattr(torchcodec, "__len__", lambda self: 7)
    with pytest.raises(ValueError, match="torchcodec finds 7 frames instead of 36"):
        read_video(video("constant.mp4"), decoder="torchcodec")


def test_open_decoder_is_what_read_video_uses(video):
    source = open_source(video("constant.mp4"))
    decoder = open_decoder("auto", source, build_index(source))
    assert [read_barcode(frame) for _, frame in decoder.frames(np.array([1, 20]))] == [1, 20]
    assert video_reading.open_decoder is open_decoder


# ---- the codec's key frames, and files that change or lie


@pytest.mark.parametrize("name", FILES)
def test_key_frames_are_read_alone(video, name):
    index = build_index(open_source(video(name)))
    result = read_video(video(name), sampling="key_frames")
    assert result.frame_indices.tolist() == np.flatnonzero(index.is_key).tolist() == numbers(result.frames)
    np.testing.assert_allclose(result.timestamps, FILES[name][1][result.frame_indices], atol=2e-3)
    few = read_video(video(name), sampling="key_frames", max_frames=2)
    assert set(few.frame_indices) <= set(result.frame_indices) and len(few.frames) == min(2, len(result.frames))


@pytest.mark.parametrize("name", ["constant.mp4", "open groups.mp4", "hevc.mp4", "vp9.webm", "transport.ts"])
@pytest.mark.parametrize("settings", [{"fps": EVERY_FRAME}, {"num_frames": 9}, {"sampling": "key_frames"}])
def test_reading_goes_on_anywhere(video, name, settings):
    whole = dict(open_video(video(name), **settings).frames())
    for after in list(whole)[:: max(1, len(whole) // 3)]:
        rest = dict(open_video(video(name), **settings).frames(after))
        assert list(rest) == [number for number in whole if number > after]
        assert all(np.array_equal(frame, whole[number]) for number, frame in rest.items())
    assert list(open_video(video(name), **settings).frames(max(whole))) == []


def test_key_frames_go_without_a_rate(video):
    for settings in ({"fps": 2.0}, {"num_frames": 3}):
        with pytest.raises(ValueError, match="leave out fps and num_frames"):
            read_video(video("constant.mp4"), sampling="key_frames", **settings)
    with pytest.raises(ValueError, match="sampling is 'often': it must be 'key_frames'"):
        read_video(video("constant.mp4"), sampling="often")


def test_a_file_that_changes_while_it_is_read(video, tmp_path):
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(video("constant.mp4").read_bytes())
    frames = open_video(copy, fps=EVERY_FRAME).frames()
    next(frames)
    os.utime(copy, (1, 1))
    with pytest.raises(ValueError, match=r"copy.mp4: changed while it was read; .*, or read a copy\.") as caught:
        list(frames)
    assert_clean(caught.value)


def test_a_container_that_lies_about_its_length(video, tmp_path):
    data = bytearray(video("constant.mp4").read_bytes())
    for box, offset in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)):
        at = data.index(box) + offset
        data[at : at + 4] = struct.pack(">I", 10**7)
    liar = tmp_path / "liar.mp4"
    liar.write_bytes(data)
    result = read_video(liar, fps=1.0)
    np.testing.assert_allclose(result.timestamps, [0.0, 1.0, 2.0, 3.0], atol=2e-3)
    assert result.metadata.duration == pytest.approx(3.6, abs=0.01)
    assert numbers(read_video(liar, num_frames=4).frames) == [4, 13, 22, 31]


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads of a process as Linux lists them")
def test_frames_keep_no_threads(tmp_path, monkeypatch):
    """A forked worker that frees a frame of its parent would wait for threads that it does not have."""
    kept: list[Any] = []
    to_rgb = PyAVDecoder._to_rgb
    monkeypatch.setattr(PyAVDecoder, "_to_rgb", lambda self, frame: kept.append(frame) or to_rgb(self, frame))
    path = write_video(tmp_path / "video.mp4", barcode_frames(3))
    before = len(os.listdir("/proc/self/task"))
    read_video(path, fps=EVERY_FRAME)
    assert len(kept) == 3 and len(os.listdir("/proc/self/task")) == before
