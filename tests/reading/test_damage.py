"""Damaged files never lose frames without a word, and whole ones, however odd, are read without one."""

import io
import warnings
from typing import Any

import av
import numpy as np
import pytest
from videos import barcode_frames, read_barcode, write_video

from dynfocus.processing.reading.video_reading import read_video

EVERY_FRAME = 1000.0
NUM_FRAMES = 36

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "mp4": ("a.mp4", {}),
    "fragments": ("a.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}}),
    "matroska": ("a.mkv", {"audio_seconds": 3.6}),
    "live matroska": ("a.mkv", {"container_options": {"live": "1"}}),
    "vp9": ("a.webm", {"codec": "libvpx-vp9"}),
    "vp8": ("a.webm", {"codec": "libvpx"}),
    "transport": ("a.ts", {}),
    "transport with sound": ("a.ts", {"audio_seconds": 3.6}),
    "transport of hevc": ("a.ts", {"codec": "libx265"}),
    "blu-ray": ("a.ts", {"container_options": {"mpegts_m2ts_mode": "1"}}),
    "programme": ("a.mpg", {"codec": "mpeg2video", "fps": 25.0}),
    "windows media": ("a.wmv", {"codec": "wmv2"}),
    "flash": ("a.flv", {"codec": "flv"}),
    "avi": ("a.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "ogg": ("a.ogg", {"codec": "libvpx", "container": "ogg"}),
    "mxf": ("a.mxf", {"codec": "mpeg2video", "fps": 25.0}),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The bytes of a kind of file, made once."""
    folder, made = tmp_path_factory.mktemp("whole"), {}
    noise = np.random.default_rng(0).integers(-20, 21, (NUM_FRAMES, 96, 128, 3))
    frames = (barcode_frames(NUM_FRAMES, 96, 128) + noise).clip(0, 255).astype(np.uint8)

    def make(kind: str, small: bool = False) -> bytes:
        if (kind, small) not in made:
            name, how = KINDS[kind]
            path = write_video(folder / name, barcode_frames(NUM_FRAMES) if small else frames, **how)
            made[kind, small] = path.read_bytes()
        return made[kind, small]

    return make


def read(data: bytes) -> tuple[list[int], np.ndarray]:
    result = read_video(data, fps=EVERY_FRAME)
    return [read_barcode(frame) for frame in result.frames], result.timestamps


def damaged(data: bytes, how: str, seed: int) -> bytes:
    """With 200 to 2,000 bytes that are zero, random or missing; or cut off."""
    rng = np.random.default_rng(seed)
    if how == "cut":
        return data[: int(rng.uniform(0.3, 0.95) * len(data)) // 188 * 188 + 77]
    length = min(int(rng.choice([200, 600, 2000])), len(data) // 4)
    start = int(rng.integers(len(data) // 8, len(data) - length))
    part = {"zeros": bytes(length), "random": rng.bytes(length), "hole": b""}[how]
    return data[:start] + part + data[start + length :]


def loses_without_a_word(data: bytes, times: np.ndarray) -> bool | None:
    """Whether frames are missing or have other times; `None` if the file is refused."""
    try:
        found, moments = read(data)
    except ValueError as error:
        assert str(error).startswith("the video given as bytes: ")
        return None
    return len(found) < NUM_FRAMES or bool(np.abs(moments - times).max() > 2e-3)


@pytest.mark.parametrize("how", ["zeros", "random", "hole", "cut"])
@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_never_lost_without_a_word(whole, kind, how):
    said, silent = 0, []
    for small in (False, True):
        if small and kind == "programme":
            continue  # all of its frames are in one part of the file
        data = whole(kind, small)
        numbers, times = read(data)
        assert numbers == list(range(NUM_FRAMES))
        for seed in range(8):
            broken = damaged(data, how, seed)
            # A cut exactly between two parts cannot be seen; one byte further it can.
            tries = [broken, data[: len(broken) + 1]] if how == "cut" else [broken]
            lost = [loses_without_a_word(one, times) for one in tries]
            said += lost[0] is None
            if all(lost):
                silent.append((small, seed))
    assert said and not silent


@pytest.mark.parametrize("kind", ["mp4", "matroska", "vp9", "vp8", "transport", "windows media", "flash", "programme"])
def test_zeros_in_a_picture_are_seen(whole, kind):
    """The container is whole, and most decoders make a picture of anything."""
    data = whole(kind)
    with av.open(io.BytesIO(data)) as container:
        packets = [p for p in container.demux(container.streams.video[0]) if p.size > 600]
        content = [bytes(packet) for packet in packets]
    for picture in content[:6]:
        start = data.find(picture[100:140])
        if start < 0:
            continue  # spread over several parts
        hurt = data[:start] + bytes(100) + data[start + 100 :]
        with pytest.raises(ValueError, match="is (cut off|damaged)"):
            read(hurt)


def test_the_words_and_the_frames_that_are_left(whole, tmp_path):
    data = bytearray(whole("vp9", True))
    block = data.index(b"\x81\x07\xd0")  # track and time: 2,000 ms
    data[block - 2 : block + 12] = bytes(14)
    path = tmp_path / "damaged.webm"
    path.write_bytes(data)
    words = r"damaged\.webm: is damaged after 1\.90 s, where frames may be missing"
    with pytest.raises(ValueError, match=words + "; on_truncated='warn' reads the others"):
        read_video(path)
    with pytest.warns(UserWarning, match=words + r"\."):
        result = read_video(path, fps=EVERY_FRAME, on_truncated="warn")
    assert 20 not in [read_barcode(frame) for frame in result.frames] and len(result.frames) > NUM_FRAMES // 2


def remuxed(data: bytes, container: str, keep: Any = lambda number: True, shift: float = 0.0, **options: str) -> bytes:
    """A copy of some packets in another container, without encoding anything anew."""
    out = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(out, "w", format=container, options=options) as output:
        stream = source.streams.video[0]
        copy = output.add_stream_from_template(stream)
        for number, packet in enumerate(packet for packet in source.demux(stream) if packet.size):
            if keep(number):
                packet.stream = copy
                ticks = round(shift / packet.time_base)
                packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                output.mux(packet)
    return out.getvalue()


@pytest.mark.parametrize("seconds", [0.0, 1.0, 5.0, 9.0, 100.0, 5000.0])
def test_joined_recordings_are_not_damaged(whole, seconds):
    """Their counters begin anew, and the clock of the second may be ahead of the first."""
    first = whole("transport", True)
    joined = first + remuxed(first, "mpegts", shift=seconds)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numbers, _ = read(joined)
    assert len(numbers) >= 2 * NUM_FRAMES - 1


def test_lost_pictures_of_a_transport_stream_are_told_from_a_variable_rate(whole):
    data = whole("transport", True)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        last_key = [number for number, packet in enumerate(packets) if packet.is_keyframe][-1]
        start, end = packets[last_key - 3].pos, packets[last_key].pos
    pieces = [data[place : place + 188] for place in range(start, end, 188)]
    assert all(piece[0] == 0x47 for piece in pieces)
    with pytest.raises(ValueError, match="is damaged after"):
        read(data[:start] + data[end:])
    # The same packets, left out before they are counted.
    numbers, _ = read(remuxed(data, "mpegts", lambda number: not last_key - 3 <= number < last_key))
    assert len(numbers) == NUM_FRAMES - 3


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "flv"])
def test_clips_that_begin_between_key_frames(whole, container):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numbers, _ = read(remuxed(whole("mp4", True), container, lambda number: number >= 5))
    assert numbers == list(range(NUM_FRAMES - len(numbers), NUM_FRAMES)) and len(numbers) > 12


@pytest.mark.parametrize("kind", ["vp9", "vp8"])
def test_clips_of_vp9_that_begin_between_key_frames(whole, kind):
    numbers, _ = read(remuxed(whole(kind, True), "webm", lambda number: number >= 5))
    assert numbers == list(range(12, NUM_FRAMES))


@pytest.mark.parametrize(
    ("container", "options"),
    [
        ("mpegts", {"mpegts_flags": "resend_headers"}),
        ("mpegts", {"muxrate": "1000000"}),
        ("mpegts", {"mpegts_flags": "initial_discontinuity"}),
        ("mpegts", {"omit_video_pes_length": "0"}),
        ("matroska", {"cluster_size_limit": "500"}),
        ("matroska", {"reserve_index_space": "2000"}),
        ("matroska", {"write_crc32": "0"}),
        ("mp4", {"movflags": "frag_every_frame+empty_moov"}),
        ("mp4", {"movflags": "cmaf+frag_keyframe"}),
        ("mp4", {"movflags": "isml+frag_keyframe"}),
        ("mp4", {"movflags": "rtphint"}),
        ("mov", {}),
        ("flv", {}),
        ("nut", {}),
    ],
)
def test_other_forms_of_containers_are_read_without_a_word(whole, container, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numbers, _ = read(remuxed(whole("mp4", True), container, **options))
    assert numbers == list(range(NUM_FRAMES))


def test_a_fragment_that_is_missing(whole):
    data = whole("fragments", True)
    places = [place for place in range(len(data)) if data[place : place + 4] == b"moof"]
    assert len(places) > 3
    hurt = data[: places[2] - 4] + data[places[3] - 4 :]
    with pytest.raises(ValueError, match="is damaged after .* where frames may be missing"):
        read(hurt)


def test_the_first_picture_is_damaged(whole):
    """The parser of FFmpeg does not take it for a key frame then, which would hide all frames up to the next."""
    data = whole("mp4", True)
    start = data.index(b"mdat") + 10
    with pytest.raises(ValueError, match="is damaged after 0.00 s|its picture is damaged"):
        read(data[:start] + np.random.default_rng(0).bytes(700) + data[start + 700 :])


def test_damage_to_another_stream_is_not_of_the_video(whole, tmp_path):
    path = write_video(tmp_path / "a.ts", barcode_frames(NUM_FRAMES), audio_seconds=3.6)
    data = bytearray(path.read_bytes())
    sound = [at for at in range(0, len(data), 188) if int.from_bytes(data[at + 1 : at + 3], "big") & 0x1FFF == 257]
    data[sound[3] : sound[3] + 188] = bytes(188)
    assert read(bytes(data))[0] == list(range(NUM_FRAMES))
