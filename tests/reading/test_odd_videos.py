"""Files that are joined, mirrored, estimated, still or damaged: right frames at true times, or one clear error."""

import gc
import importlib.util
import multiprocessing
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from videos import barcode_frames, read_barcode, write_video

from dynfocus.processing.reading.decoders import DecordDecoder, PyAVDecoder
from dynfocus.processing.reading.index import build_index
from dynfocus.processing.reading.limits import ReadingLimits
from dynfocus.processing.reading.sources import open_source
from dynfocus.processing.reading.video_reading import frames_at, read_video

EVERY_FRAME = 1000.0


def numbers(frames: np.ndarray) -> list[int]:
    return [read_barcode(frame) for frame in frames]


def sought(path: Path, wanted: np.ndarray) -> list[tuple[int, int]]:
    """The numbers of frames that are read with a jump before each of them, and what they show."""
    source = open_source(path)
    decoder = PyAVDecoder(source, build_index(source), seek_cost=0.0)
    return [(number, read_barcode(frame)) for number, frame in decoder.frames(wanted)]


# ---- clocks


@pytest.mark.parametrize("overlap", [3.0, 1.0, 0.3, 0.1])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("a.ts", {}),
        ("a.ts", {"codec": "mpeg2video", "fps": 25.0}),
        ("a.ts", {"codec": "libx265"}),
        ("a.vob", {"codec": "mpeg2video", "fps": 25.0, "container": "vob"}),
    ],
)
def test_joined_streams_follow_each_other(tmp_path, name, settings, overlap):
    """Each of them counts from its own zero, or goes back into the time of the one before."""
    fps = settings.get("fps", 10.0)
    count = int(3 * fps)
    parts = [
        write_video(
            tmp_path / f"{part} {name}",
            barcode_frames(count, start=part * count),
            pts=[part * (3 - overlap) + i / fps for i in range(count)] if "fps" not in settings else None,
            **settings,
        )
        for part in range(2)
    ]
    joined = tmp_path / name
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    result = read_video(joined, fps=EVERY_FRAME)
    assert numbers(result.frames) == list(range(2 * count))
    np.testing.assert_allclose(result.timestamps, np.arange(2 * count) / fps, atol=2 / fps)
    assert (np.diff(result.timestamps) > 0.2 / fps).all()
    assert result.metadata.duration == pytest.approx(6.0, abs=3 / fps)
    assert sought(joined, np.array([3, count + 1, 2 * count - 1])) == [(n, n) for n in (3, count + 1, 2 * count - 1)]


@pytest.mark.parametrize("codec", ["mpeg1video", "mpeg2video"])
def test_times_that_are_estimated_anew_after_a_jump(tmp_path, codec):
    """Many tiny frames share one time stamp of a programme stream, and FFmpeg guesses those of the others."""
    path = write_video(tmp_path / "tiny.vob", barcode_frames(200), fps=25.0, codec=codec, container="vob")
    whole = read_video(path, fps=EVERY_FRAME)
    assert numbers(whole.frames) == list(range(200))
    np.testing.assert_allclose(whole.timestamps, np.arange(200) / 25, atol=1e-3)
    for wanted in (np.array([75]), np.array([10, 75, 76, 130, 199]), np.arange(0, 200, 25)):
        assert sought(path, wanted) == [(n, n) for n in wanted.tolist()]
    assert numbers(read_video(path).frames) == list(range(0, 200, 25))


def test_times_that_cannot_be_true(tmp_path):
    data = bytearray(write_video(tmp_path / "a.mp4", barcode_frames(12)).read_bytes())
    entry = data.index(b"stts") + 12
    count, delta = struct.unpack(">II", data[entry : entry + 8])
    assert (count, delta) == (12, 1024)
    data[entry + 4 : entry + 8] = struct.pack(">I", 1 << 30)
    data[data.index(b"mdhd") + 16 :][:4] = b""
    at = data.index(b"mdhd") + 16
    data[at : at + 4] = struct.pack(">I", 1)  # one tick a second
    with pytest.raises(ValueError, match="claims to last .* s, more than .*: its times are damaged"):
        read_video(bytes(data))


# ---- display matrices


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda frame: frame),
        ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
        ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
        ((0, -1, 1, 0), np.rot90),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda frame: frame.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda frame: np.rot90(frame, 2).swapaxes(0, 1)),
    ],
)
@pytest.mark.parametrize("decoder", ["auto", "decord"])
def test_all_eight_orientations(tmp_path, matrix, shown, decoder):
    """A pixel at (x, y) is shown at (a x + c y, b x + d y)."""
    frames = np.zeros((3, 48, 64, 3), dtype=np.uint8)
    frames[:, :24, :32] = 255
    frames[:, 24:, :32] = 120
    path = write_video(tmp_path / "turned.mp4", frames)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    if decoder == "decord" and matrix not in ((1, 0, 0, 1), (-1, 0, 0, -1)):
        with pytest.raises(ValueError, match="cannot rotate or mirror the picture"):
            read_video(path, decoder=decoder)
        return
    result = read_video(path, decoder=decoder)
    expected = shown(frames[0])
    assert result.frames.shape[1:] == expected.shape
    assert (result.metadata.height, result.metadata.width) == expected.shape[:2]
    assert np.abs(result.frames[0].astype(int) - expected).mean() < 8


# ---- packets without a picture


def test_empty_packets_keep_the_picture(tmp_path):
    """AVI has a packet for each tick of its clock, and those that bring nothing new are empty."""
    pts = [0.0, 0.2, 0.3, 1.7, 1.8, 3.6]
    for codec in ("mpeg4", "mjpeg"):
        pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        path = write_video(tmp_path / f"{codec}.avi", barcode_frames(6), pts=pts, codec=codec, pix_fmt=pix_fmt)
        result = read_video(path, fps=EVERY_FRAME)
        assert numbers(result.frames) == list(range(6))
        np.testing.assert_allclose(result.timestamps, pts, atol=1e-3)
        assert sought(path, np.array([2, 5])) == [(2, 2), (5, 5)]


def test_frames_that_are_only_referred_to_are_not_shown(tmp_path):
    path = write_video(
        tmp_path / "a.webm",
        barcode_frames(60),
        codec="libvpx",
        codec_options={"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "4"},
    )
    result = read_video(path, fps=EVERY_FRAME)
    assert numbers(result.frames) == list(range(60)) and result.metadata.total_num_frames == 60
    np.testing.assert_allclose(result.timestamps, np.arange(60) / 10, atol=2e-3)


# ---- damage


def _damaged(path: Path, seed: int) -> bytes:
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for _ in range(int(rng.integers(1, 4))):
        at, length = int(rng.integers(0, len(data))), int(rng.integers(1, 40))
        data[at : at + length] = rng.bytes(length)[: len(data) - at]
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("a.mp4", {}),
        ("a.mkv", {"codec": "mpeg4"}),
        ("a.ts", {}),
        ("a.webm", {"codec": "libvpx-vp9"}),
        ("a.avi", {"codec": "mpeg4", "b_frames": 2}),
    ],
)
def test_damaged_files_never_give_fewer_frames_without_a_word(tmp_path, name, settings):
    path = write_video(tmp_path / name, barcode_frames(36), **settings)
    complete = 0
    for seed in range(12):
        data = _damaged(path, seed)
        for sampling in ({"fps": 5.0}, {"num_frames": 13}, {"num_frames": 2}):
            try:
                result = read_video(data, **sampling)
            except ValueError as error:
                assert str(error).startswith("the video given as bytes: ") and "\n" not in str(error)
                continue
            complete += 1
            total = result.metadata.total_num_frames
            if "num_frames" in sampling:
                assert len(result.frames) == min(sampling["num_frames"], total)
            assert (np.diff(result.timestamps) > 0).all() and len(result.frames) == len(result.timestamps)
    assert complete  # some damage does no harm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(12):
            try:
                read_video(_damaged(path, seed), fps=5.0, on_truncated="warn")
            except ValueError as error:
                assert str(error).startswith("the video given as bytes: ") and "on_truncated" not in str(error)


@pytest.mark.skipif(importlib.util.find_spec("decord") is None, reason="decord has no wheel here")
@pytest.mark.parametrize(("name", "settings"), [("a.mp4", {}), ("a.mkv", {"codec": "mpeg4"})])
def test_decord_gives_what_pyav_gives_of_damaged_files_or_nothing(tmp_path, name, settings):
    path = write_video(tmp_path / name, barcode_frames(36), **settings)
    outcomes = []
    for data in (path.read_bytes(), *(_damaged(path, seed) for seed in range(16))):
        try:
            expected = read_video(data, num_frames=9)
        except ValueError:
            with pytest.raises(ValueError, match="the video given as bytes: "):
                read_video(data, num_frames=9, decoder="decord")
            outcomes.append("refused by both")
            continue
        try:
            result = read_video(data, num_frames=9, decoder="decord")
        except ValueError as error:
            assert "use decoder='auto'" in str(error) or "decord fails at frame" in str(error)
            outcomes.append("refused by decord")
            continue
        assert np.abs(result.frames.astype(int) - expected.frames).mean() < 32
        outcomes.append("read")
    assert {"refused by both", "read"} <= set(outcomes)


def test_another_picture_of_another_decoder_is_seen(tmp_path, monkeypatch):
    pytest.importorskip("decord")
    path = write_video(tmp_path / "a.mp4", barcode_frames(36))
    frames = DecordDecoder.frames

    def late(self: Any, wanted: np.ndarray) -> Any:
        """As if it lost count by one."""
        return ((number + 1, frame) for number, frame in frames(self, wanted - 1))

    monkeypatch.setattr(DecordDecoder, "frames", late)
    with pytest.raises(ValueError, match=r"decord returns another picture at 0.\d0 s .* use decoder='auto'"):
        read_video(path, num_frames=9, decoder="decord")


def test_pictures_of_mpeg4_that_say_that_nothing_changes(tmp_path):
    import av

    whole = write_video(tmp_path / "whole.avi", barcode_frames(10), codec="mpeg4", b_frames=0, gop=1)
    path = tmp_path / "a.avi"
    with av.open(str(whole)) as source, av.open(str(path), "w") as output:
        stream = source.streams.video[0]
        copy = output.add_stream_from_template(stream)
        for number, packet in enumerate(source.demux(stream)):
            if not packet.size:
                continue
            if number == 5:  # a P picture at 5 of 10 ticks that is not coded
                bits = f"{0x1B6:032b}" + "01" + "0" + "1" + f"{5:04b}" + "1" + "0"
                bits += "0" + "1" * (-(len(bits) + 1) % 8)
                empty = av.Packet(int(bits, 2).to_bytes(len(bits) // 8, "big"))
                empty.pts, empty.dts, empty.time_base = packet.pts, packet.dts, packet.time_base
                packet = empty
            packet.stream = copy
            output.mux(packet)
    result = read_video(path, fps=EVERY_FRAME)
    assert numbers(result.frames) == [0, 1, 2, 3, 4, 4, 6, 7, 8, 9]
    np.testing.assert_allclose(result.timestamps, np.arange(10) / 10, atol=1e-6)
    assert numbers(read_video(path, num_frames=2).frames) == [2, 7]


def test_pictures_with_nothing_new_in_other_containers(tmp_path):
    """Packets of 0 bytes, as Theora has them for a still screen."""
    import av

    shown = [0, 0.5, 1.0, 2.0, 2.5, 3.0]
    whole = write_video(tmp_path / "whole.mkv", barcode_frames(6), codec="mpeg4", b_frames=0, pts=shown)
    for name in ("a.mkv", "a.nut", "a.mp4"):
        path = tmp_path / name
        with av.open(str(whole)) as source, av.open(str(path), "w") as output:
            stream = source.streams.video[0]
            copy = output.add_stream_from_template(stream)
            for packet in source.demux(stream):
                if not packet.size:
                    continue
                if packet.pts == 2000:
                    for pts in (1500, 1700):
                        empty = av.Packet(b"")
                        empty.pts = empty.dts = pts
                        empty.time_base, empty.stream = packet.time_base, copy
                        output.mux(empty)
                packet.stream = copy
                output.mux(packet)
        result = read_video(path, fps=EVERY_FRAME)
        assert numbers(result.frames) == list(range(6)), name
        np.testing.assert_allclose(result.timestamps, shown, atol=2e-3)


def test_a_frame_that_does_not_come_out_is_missed(tmp_path):
    """The packet is there, with its time, and the decoder says nothing: it makes no picture of it."""
    path = write_video(tmp_path / "a.mp4", barcode_frames(24), b_frames=0, gop=24)
    source = open_source(path)
    index = build_index(source)
    data = bytearray(path.read_bytes())
    packet = int(index.packet_of[12])
    at, size = int(index.packet_pos[packet]), int(index.packet_size[packet])
    data[at : at + size] = (size - 4).to_bytes(4, "big") + b"\x0c" + b"\xff" * (size - 5)  # filler
    with pytest.raises(ValueError, match=r"its picture is (missing|damaged) at 1\.[23]0 s.*; on_truncated='warn'"):
        read_video(bytes(data), fps=EVERY_FRAME)
    with pytest.warns(UserWarning, match=r"at 1\.[23]0 s; what cannot be decoded is left out\."):
        result: Any = read_video(bytes(data), fps=EVERY_FRAME, on_truncated="warn")
    assert 12 not in result.frame_indices and len(result.frames) == 23


def test_a_forked_process_reads_after_its_parent_did(tmp_path):
    """FFmpeg's converters have threads: what the parent has left over of them must not be freed by its children."""
    path = write_video(tmp_path / "a.mp4", barcode_frames(12), rotation=180)
    gc.collect()
    for _ in range(3):
        read_video(path)

    def child() -> None:
        gc.collect()
        assert numbers(read_video(path, num_frames=2).frames[:, ::-1, ::-1]) == [3, 9]

    for _ in range(3):
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(100)
        assert process.exitcode == 0


ANIMATED = {"webp": {"lossless": True}, "gif": {}, "png": {}, "avif": {"quality": 90}}


@pytest.mark.parametrize("suffix", ANIMATED)
def test_animated_images_are_videos_with_their_own_durations(tmp_path, suffix):
    path, durations = tmp_path / f"animated.{suffix}", [100, 300, 200, 1000, 400, 500]
    first, *others = [Image.fromarray(frame) for frame in barcode_frames(6)]
    first.save(path, save_all=True, append_images=others, duration=durations, **ANIMATED[suffix])
    for video in (path, path.read_bytes(), path.open("rb")):
        found = read_video(video, fps=100)
        assert [read_barcode(frame) for frame in found.frames] == list(range(6))
        assert found.timestamps == pytest.approx([0.0, 0.1, 0.4, 0.6, 1.6, 2.0])
        assert found.metadata.duration == pytest.approx(2.5) and found.metadata.total_num_frames == 6
    assert [read_barcode(frame) for frame in read_video(path, fps=1, video_start=0.5).frames] == [2, 3]
    assert [read_barcode(frame) for frame in frames_at(path, [5, 2, 0])] == [5, 2, 0]
    assert [read_barcode(frame) for frame in frames_at(path, times=[1.7, 0.05])] == [4, 0]


def test_animated_webp_that_is_odd(tmp_path):
    path, frames = tmp_path / "a.webp", [Image.fromarray(frame) for frame in barcode_frames(5)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=0, lossless=True)
    assert read_video(path, fps=100).timestamps == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    data = path.read_bytes()
    with pytest.raises(ValueError, match="a.webp: its frames have 64 × 48 pixels, more than 3000"):
        read_video(path, limits=ReadingLimits(max_pixels=3000))
    with pytest.raises(ValueError, match="a.webp: holds more than 4 frames"):
        read_video(path, limits=ReadingLimits(max_frames=4))
    with pytest.raises(ValueError, match="pyav does not read animated WebP; use decoder='auto'"):
        read_video(path, decoder="pyav")
    for share in (0.3, 0.5, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ValueError, match="a.webp: (is cut off|holds nothing to show)"):
            read_video(path)
    damaged = bytearray(data)
    damaged[data.index(b"ANMF", 200) + 40 :] = bytes(len(data) - data.index(b"ANMF", 200) - 40)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="a.webp: "):
        read_video(path, fps=100)
    frames[0].save(path, lossless=True)
    with pytest.raises(ValueError, match="a.webp: is a still image"):
        read_video(path)


def test_packets_without_a_picture_make_the_one_before_last_longer():
    """A still screen in Theora, which PyAV cannot write: 16 frames at ten a second, 4 with pictures of their own."""
    path = Path(__file__).parents[1] / "fixtures" / "still_screen.ogv"
    found = read_video(path, fps=100)
    assert [read_barcode(frame) for frame in found.frames] == [3, 4, 5, 5]
    assert found.timestamps == pytest.approx([0.0, 0.5, 0.6, 0.8]) and found.metadata.duration == pytest.approx(1.6)
    assert [read_barcode(frame) for frame in frames_at(path, times=[0.0, 0.4, 0.5, 0.7, 1.5])] == [3, 3, 4, 5, 5]
