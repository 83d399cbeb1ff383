"""Small videos made on the spot, whose every frame says which one it is.

`barcode_frames` draws a frame's number as eight black or white blocks, which survive any codec, any resize and any
pixel format; `read_barcode` reads the number back from a decoded frame.
"""

import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

_ROWS, _COLUMNS = 2, 4


def barcode_frames(num_frames: int, height: int = 48, width: int = 64, start: int = 0) -> np.ndarray:
    """`(num_frames, height, width, 3)` uint8 frames that show the numbers `start, start + 1, …` (below 256)."""
    if start + num_frames > 256:
        raise ValueError(f"a barcode has eight bits: cannot number frames up to {start + num_frames - 1}.")
    numbers = np.arange(start, start + num_frames)
    bits = (numbers[:, None] >> np.arange(_ROWS * _COLUMNS)) & 1
    blocks = bits.reshape(num_frames, _ROWS, _COLUMNS)
    rows = np.arange(height) * _ROWS // height
    columns = np.arange(width) * _COLUMNS // width
    gray = np.where(blocks[:, rows][:, :, columns] == 1, 235, 20).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1)


def read_barcode(frame: np.ndarray) -> int:
    """The number which a decoded frame of `barcode_frames`, `(height, width, 3)`, shows."""
    height, width = frame.shape[:2]
    number = 0
    for bit in range(_ROWS * _COLUMNS):
        row, column = divmod(bit, _COLUMNS)
        y, x = (2 * row + 1) * height // (2 * _ROWS), (2 * column + 1) * width // (2 * _COLUMNS)
        number |= int(frame[y - 1 : y + 2, x - 1 : x + 2].mean() > 127) << bit
    return number


def write_video(
    path: str | Path,
    frames: np.ndarray,
    fps: float = 10.0,
    codec: str = "libx264",
    pts: Sequence[float] | None = None,
    *,
    gop: int = 12,
    b_frames: int | None = None,
    pix_fmt: str = "yuv420p",
    rotation: float | None = None,
    audio_seconds: float = 0.0,
    container: str | None = None,
    container_options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
) -> Path:
    """Encodes `frames` with PyAV.

    Args:
        path: the file to write; its ending names the container, if `container` does not.
        frames: `(T, height, width, 3)` uint8 RGB.
        fps: frames a second, where `pts` is not given.
        codec: an FFmpeg encoder (`libx264`, `libx265`, `libvpx-vp9`, `gif`, `mpeg4`, …).
        pts: the time of each frame in seconds (milliseconds are kept), for a variable frame rate.
        gop: key frames are at most this many frames apart.
        b_frames: consecutive B-frames; the encoder's default if None.
        rotation: degrees counter-clockwise by which a player must turn the picture (MP4 and MOV only).
        audio_seconds: length of a silent sound track; 0 for none.
        container_options, codec_options: given to FFmpeg as they are.

    Returns:
        `path`, as a `Path`.
    """
    frames = np.asarray(frames)
    time_base = Fraction(1, 1000) if pts is not None else 1 / Fraction(fps).limit_denominator(1001)
    ticks = [round(t * 1000) for t in pts] if pts is not None else range(len(frames))
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    if codec == "libvpx-vp9":
        options = {"deadline": "realtime", "cpu-used": "8"}
    with av.open(str(path), "w", format=container, options=container_options or {}) as output:
        stream: Any = output.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = time_base
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        stream.codec_context.options = options | (codec_options or {})
        sound = output.add_stream("aac", rate=16000) if audio_seconds else None
        if len(frames) == 0:
            output.start_encoding()  # otherwise not even the header would be written
        for tick, array in zip(ticks, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            frame.pts, frame.time_base = tick, time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if sound is not None:
            _write_silence(output, sound, audio_seconds)
    if rotation is not None:
        _turn(Path(path), rotation)
    return Path(path)


def write_sound(path: str | Path, seconds: float = 1.0, cover: bytes | None = None) -> Path:
    """A file with a sound track and no moving picture; `cover` is the PNG of an album (MP3 only)."""
    with av.open(str(path), "w") as output:
        _write_silence(output, output.add_stream("mp3" if Path(path).suffix == ".mp3" else "aac", rate=16000), seconds)
    if cover is not None:
        picture = b"\0image/png\0\3\0" + cover
        frame = b"APIC" + len(picture).to_bytes(4, "big") + b"\0\0" + picture
        size = bytes((len(frame) >> shift) & 127 for shift in (21, 14, 7, 0))
        Path(path).write_bytes(b"ID3\3\0\0" + size + frame + Path(path).read_bytes())
    return Path(path)


def cut_file(path: str | Path, share: float, target: str | Path) -> Path:
    """Writes the first `share` (0 to 1) of the bytes of `path` to `target`: a broken download."""
    data = Path(path).read_bytes()
    Path(target).write_bytes(data[: int(len(data) * share)])
    return Path(target)


def _turn(path: Path, degrees: float) -> None:
    """Writes a rotation into the header of an MP4's first track (what a phone does that is held upright)."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    cos, sin = (round(65536 * function(math.radians(degrees))) for function in (math.cos, math.sin))
    data[matrix : matrix + 36] = struct.pack(">9i", cos, -sin, 0, sin, cos, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def _write_silence(output: Any, stream: Any, seconds: float) -> None:
    step = 1152 if stream.codec_context.name.startswith(("mp3", "libmp3")) else 1024
    for start in range(0, int(seconds * 16000), step):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, step), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
