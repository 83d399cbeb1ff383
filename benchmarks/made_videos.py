"""
720p H.264 files of any length, made on the spot: a few minutes are encoded once, and their packets repeated.

Every frame carries its number within the encoded part as blocks along its upper edge, so that a decoder that gives
another frame is found out. Scenes of drifting texture under grain change every few seconds: no two frames of the
encoded part are alike, and a file weighs what a film of this size does, about 2 Mbit/s.
"""

import os
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

WIDTH, HEIGHT, FPS = 1280, 720, 25
#: Where files are kept, if nothing else is said.
FOLDER = Path(tempfile.gettempdir(), "dynfocus-benchmarks")
#: Frames between key frames at most, and as a rule: what x264 does by default.
KEY_FRAMES = 250
#: Standard deviation of the brightness; with less the encoder wipes it away.
GRAIN = 8
_BITS, _BLOCK = 16, 40
_SCENE_SECONDS = 6
_TEXTURE = (HEIGHT + 400, WIDTH + 700)


def burn_number(luma: np.ndarray, number: int) -> None:
    """Draws `number` into the upper edge of `(height, width)` brightness."""
    for bit in range(_BITS):
        luma[:_BLOCK, bit * _BLOCK : (bit + 1) * _BLOCK] = 235 if number >> bit & 1 else 16


def read_number(frame: np.ndarray) -> int:
    """The number in a decoded `(height, width, 3)` frame, whatever size it was resized to."""
    height, width = frame.shape[:2]
    row = int(_BLOCK / 2 * height / HEIGHT)
    columns = ((np.arange(_BITS) + 0.5) * _BLOCK * width / WIDTH).astype(int)
    return int(((frame[row, columns].mean(-1) > 127).astype(int) << np.arange(_BITS)).sum())


def texture(seed: int) -> np.ndarray:
    """`_TEXTURE` uint8: smooth noise in several sizes, as foliage or a crowd have."""
    random = np.random.default_rng(seed)
    total = np.zeros(_TEXTURE, dtype=np.float32)
    for size, weight in ((160, 60), (40, 30), (10, 14)):
        coarse = random.standard_normal((_TEXTURE[0] // size + 2, _TEXTURE[1] // size + 2)).astype(np.float32)
        rows, columns = np.arange(_TEXTURE[0]) / size, np.arange(_TEXTURE[1]) / size
        y, x = rows.astype(int), columns.astype(int)
        fy, fx = (rows - y)[:, None], (columns - x)[None]
        above = coarse[y][:, x] * (1 - fx) + coarse[y][:, x + 1] * fx
        below = coarse[y + 1][:, x] * (1 - fx) + coarse[y + 1][:, x + 1] * fx
        total += weight * (above * (1 - fy) + below * fy)
    return (total + 110).clip(16, 235).astype(np.uint8)


def encode_part(path: Path, seconds: int, shrink: int = 1) -> None:
    """Encodes `seconds` of numbered frames, of one pixel in `shrink` along each side."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH // shrink, HEIGHT // shrink, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "27", "keyint": str(KEY_FRAMES)}
        grain = np.random.default_rng(0).normal(0, GRAIN, _TEXTURE).astype(np.int16)
        places = np.random.default_rng(1).integers(0, (400, 700), (seconds * FPS, 2))
        scene, drift = None, np.zeros(2)
        for number in range(seconds * FPS):
            current, step = divmod(number, _SCENE_SECONDS * FPS)
            if current != scene:
                scene, picture = current, texture(current)
                random = np.random.default_rng(current)
                drift = random.uniform(0, 1.6, 2)
                colour = random.integers(96, 160, 2)
            top, left = (drift * step).astype(int)
            y, x = places[number]
            light = picture[top : top + HEIGHT, left : left + WIDTH] + grain[y : y + HEIGHT, x : x + WIDTH]
            luma = light.clip(16, 235).astype(np.uint8)
            burn_number(luma, number)
            height, width = HEIGHT // shrink, WIDTH // shrink
            planes = np.empty((height * 3 // 2, width), dtype=np.uint8)
            planes[:height] = luma[::shrink, ::shrink]
            planes[height : height * 5 // 4], planes[height * 5 // 4 :] = colour[0], colour[1]
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def repeat_packets(part: Path, path: Path, times: int) -> None:
    """Writes the video of `part` `times` over, without decoding it."""
    with av.open(str(part)) as source, av.open(str(path), "w") as target:
        given = source.streams.video[0]
        stream = target.add_stream_from_template(given)
        packets: list[Any] = [packet for packet in source.demux(given) if packet.size]
        length = sum(packet.duration for packet in packets)
        for repeat in range(times):
            for packet in packets:
                copy = av.Packet(bytes(packet))
                copy.pts, copy.dts = packet.pts + repeat * length, packet.dts + repeat * length
                copy.duration, copy.time_base = packet.duration, packet.time_base
                copy.is_keyframe = packet.is_keyframe
                copy.stream = stream
                target.mux(copy)


def make_video(folder: Path, seconds: int, part_seconds: int = 120, shrink: int = 1) -> tuple[Path, int]:
    """
    A file of `seconds`, made unless `folder` has it, and how many frames its numbers count before they begin anew.
    Each side has one pixel in `shrink`, which must divide 20.

    Raises:
        `ValueError`: where `seconds` is longer than the part, and no multiple of it.
    """
    part_seconds = min(part_seconds, seconds)
    if seconds % part_seconds:
        raise ValueError(f"{seconds} s is no multiple of the {part_seconds} s that are repeated.")
    folder.mkdir(parents=True, exist_ok=True)
    small = f"-{HEIGHT // shrink}p" if shrink > 1 else ""
    path = folder / f"{seconds}s-of-{part_seconds}s{small}.mp4"
    if not path.exists():
        part = folder / f"part-{part_seconds}s{small}.mp4"
        unfinished = folder / f"unfinished-{os.getpid()}.mp4"
        if not part.exists():
            encode_part(unfinished, part_seconds, shrink)
            unfinished.replace(part)
        repeat_packets(part, unfinished, seconds // part_seconds)
        unfinished.replace(path)
    return path, part_seconds * FPS


__all__ = ["FOLDER", "FPS", "HEIGHT", "KEY_FRAMES", "WIDTH", "make_video", "read_number"]
