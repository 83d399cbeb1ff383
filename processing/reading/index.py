"""The packet index of a video: each frame's true time, size and key frame, found by reading packets undecoded."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from .sources import VideoSource

# Decoders give frames back out of packet order by 16 frames at most; a longer way back is a clock that was reset.
_LONGEST_REORDERING = 64
# What is opened by mistake as if it were a video: FFmpeg draws text files and reads single images.
_NOT_VIDEO = {"tty": "is a text file", "image2": "is a still image", "hls": "is a playlist", "concat": "is a playlist"}


@dataclass(frozen=True)
class PacketIndex:
    """What a video holds. Frames are numbered in the order in which they are shown; packets, in the order of the file.

    Attributes:
        times: `(N,)` float64, start of each frame in seconds; the first is 0, strictly increasing.
        duration: end of the last frame in seconds.
        fps: average frames a second.
        pts: `(N,)` int64, the same times in the container's ticks, by which decoded frames are recognised; None where
            the container does not state them (AVI, raw streams), and frames can only be counted.
        packet_of: `(N,)` int64, the packet that holds a frame.
        key_packet_of: `(N,)` int64, the packet from which decoding must start for a frame to come out right.
        is_key: `(N,)` bool, whether the frame is one of the codec's key frames.
        cost: `(M + 1,)` float64, estimated cost of decoding the packets before each one; an average packet costs 1.
        packet_pts: `(M,)` int64, ticks of each packet.
        seek_ticks: `(M,)` int64, decoding time of each packet, which containers seek by.
        closed_groups: no frame before a key frame needs it, so that any decoder can start at any key frame.
        states_frames: the container states the number of its frames up front (MP4 that is not fragmented, AVI).
        height, width: of the picture as it is to be shown, that is, after the rotation; 0 if PyAV lacks the decoder.
        rotation: degrees counter-clockwise by which a decoded frame must be turned.
        container: FFmpeg's name of the format.
        codec: FFmpeg's name of the codec.
        ends_early: the file is cut off, and the frames above are those before the cut.
    """

    times: np.ndarray
    duration: float
    fps: float
    pts: np.ndarray | None
    packet_of: np.ndarray
    key_packet_of: np.ndarray
    is_key: np.ndarray
    cost: np.ndarray
    packet_pts: np.ndarray
    seek_ticks: np.ndarray
    closed_groups: bool
    states_frames: bool
    height: int
    width: int
    rotation: int
    container: str
    codec: str
    ends_early: bool


def import_av() -> ModuleType:
    """PyAV."""
    try:
        return import_module("av")
    except ImportError:
        raise ImportError("reading videos needs PyAV: pip install av") from None


@contextmanager
def open_stream(source: VideoSource) -> Iterator[tuple[Any, Any]]:
    """The opened container and its main video stream; errors of FFmpeg become a `ValueError` that names the file."""
    av = import_av()
    try:
        # Strange bytes in titles must not keep a video from being read, nor may a file make FFmpeg open network
        # addresses.
        container = av.open(
            source.open_argument(),
            metadata_errors="replace",
            container_options={"protocol_whitelist": "file"} if source.path else {},
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        cause = "it is cut off before its index" if source.ends_early() else _reason(error)
        raise ValueError(f"{source.name}: cannot be opened as a video: {cause}.") from None
    with container:
        format_name = container.format.name
        what = _NOT_VIDEO.get(format_name) or ("is a still image" if format_name.endswith("_pipe") else None)
        if what is not None:
            raise ValueError(f"{source.name}: {what}, not a video.")
        stream = container.streams.best("video")
        if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
            sound = " (it holds sound only)" if container.streams.audio else ""
            raise ValueError(f"{source.name}: has no video stream{sound}.")
        yield container, stream


def build_index(source: VideoSource) -> PacketIndex:
    """Reads all packets of the video stream, which takes about 0.4 s for 30 minutes of 720p, and decodes one frame.

    Raises:
        ValueError: the file cannot be opened, or holds no frame that can be shown.
    """
    facts = _read_packets(source)
    if not facts.packets:
        cause = "it is cut off before its first frame" if facts.ends_early else "its video stream has no frames"
        raise ValueError(f"{source.name}: holds nothing to show: {cause}.")
    height, width, rotation = _picture(source, facts.ends_early)
    pts, dts, durations, sizes, keys, discards = (list(column) for column in zip(*facts.packets, strict=True))
    key = np.array(keys, dtype=bool)
    first_key = int(key.argmax())  # 0 as well where no packet is marked
    key[first_key] = True
    shown = ~np.array(discards, dtype=bool)
    shown[:first_key] = False
    known = np.array([tick is not None for tick in pts])
    packet_pts = np.array([-1 if tick is None else tick for tick in pts], dtype=np.int64)
    counted = facts.container == "avi" or 2 * known.sum() < len(known) or _clock_was_reset(packet_pts[known])
    if counted:
        # Frames come out of the decoder in the order of their decoding times, one each.
        packet_of = np.flatnonzero(shown)
        frame_ticks = _decoding_ticks(dts, durations, facts)[packet_of]
        key_packet_of = np.zeros(len(packet_of), dtype=np.int64)
    else:
        # Frames that are shown before the first key frame refer to frames that are not there.
        shown &= known & (packet_pts >= packet_pts[first_key])
        frame_ticks, first = np.unique(packet_pts[shown], return_index=True)
        packet_of = np.flatnonzero(shown)[first]
        key_packet_of = _key_packets(packet_pts, key, packet_of)
    if len(frame_ticks) == 0:
        raise ValueError(f"{source.name}: holds nothing to show: all of its {len(pts)} frames are marked as hidden.")
    times = (frame_ticks - frame_ticks[0]) * facts.time_base
    measured = (len(times) - 1) / times[-1] if len(times) > 1 else facts.rate
    last = durations[packet_of[-1]] * facts.time_base or (1 / measured if measured else 0.0)
    return PacketIndex(
        times=times,
        duration=float(times[-1] + last),
        fps=float(facts.rate if abs(facts.rate - measured) <= 0.01 * measured else measured),
        pts=None if counted else frame_ticks,
        packet_of=packet_of,
        key_packet_of=key_packet_of,
        is_key=key[packet_of],
        cost=np.concatenate([[0.0], np.cumsum(0.5 + 0.5 * np.array(sizes) / np.mean(sizes))]),
        packet_pts=packet_pts,
        seek_ticks=np.array([p if d is None else d for p, d in zip(packet_pts, dts, strict=True)], dtype=np.int64),
        states_frames=facts.states_frames,
        height=height,
        width=width,
        rotation=rotation,
        closed_groups=not counted and _groups_are_closed(packet_pts, key),
        container=facts.container,
        codec=facts.codec,
        ends_early=facts.ends_early,
    )


@dataclass(frozen=True)
class _Facts:
    """What the container says; a packet is (pts, dts, duration, size, is key, is discarded)."""

    packets: list[tuple[int | None, int | None, int, int, bool, bool]]
    container: str
    codec: str
    time_base: float
    rate: float
    states_frames: bool
    ends_early: bool


def _read_packets(source: VideoSource) -> _Facts:
    av = import_av()
    packets = []
    ends_early = source.ends_early()
    with open_stream(source) as (container, stream):
        try:
            for packet in container.demux(stream):
                if packet.size and not packet.is_corrupt:
                    times = packet.pts, packet.dts, packet.duration or 0
                    packets.append((*times, packet.size, packet.is_keyframe, packet.is_discard))
        except (av.error.FFmpegError, OSError):
            ends_early = True
        return _Facts(
            packets=packets,
            container=container.format.name,
            codec=stream.codec_context.name if stream.codec_context is not None else "unknown",
            time_base=float(stream.time_base),
            rate=float(stream.average_rate or stream.guessed_rate or 0),
            states_frames=stream.frames > 0,
            ends_early=ends_early,
        )


def plan_reading(index: PacketIndex, wanted: np.ndarray, seek_cost: float) -> list[tuple[int, np.ndarray]]:
    """Splits the wanted frames into runs, each read through from one packet.

    From one wanted frame to the next, the reader either decodes all packets between them, or jumps to the key frame
    before the second; whichever costs less by the index. No packet is decoded twice but what the jump itself costs.

    Args:
        wanted: `(T,)` sorted frame indices.
        seek_cost: cost of a jump, in average packets; 0 jumps wherever that saves a packet, infinity never.

    Returns:
        The runs in order: the packet to start from (0: the start of the file), and the frames, `(T_run,)`.
    """
    runs: list[tuple[int, list[int]]] = []
    reached = 0  # packets before this one have been decoded
    for frame in wanted.tolist():
        packet, key = int(index.packet_of[frame]), int(index.key_packet_of[frame])
        saved = index.cost[key] - index.cost[reached] if key > reached else 0.0
        if saved > seek_cost:
            runs.append((key, [frame]))
        elif runs:
            runs[-1][1].append(frame)
        else:
            runs.append((0, [frame]))
        reached = max(reached, packet + 1)
    return [(start, np.array(frames, dtype=np.int64)) for start, frames in runs]


def _picture(source: VideoSource, ends_early: bool) -> tuple[int, int, int]:
    """Height, width and rotation, of which only a decoded frame tells for certain; zeros if FFmpeg cannot decode."""
    av = import_av()
    with open_stream(source) as (container, stream):
        if stream.codec_context is None:
            return 0, 0, 0
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except (av.error.FFmpegError, OSError, StopIteration):
                break
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                turned = round(frame.rotation / 90) % 2 == 1
                size = (frame.width, frame.height) if turned else (frame.height, frame.width)
                return *size, round(frame.rotation / 90) * 90 % 360
    cause = "it is cut off before its first whole frame" if ends_early else "none of its frames can be decoded"
    raise ValueError(f"{source.name}: holds nothing to show: {cause}.")


def _key_packets(packet_pts: np.ndarray, key: np.ndarray, packet_of: np.ndarray) -> np.ndarray:
    """For each frame the last key packet before its own that is not shown after it.

    A frame between an open group's key frame and the group before it is stored after the key frame, but needs the
    group before.
    """
    keys = np.flatnonzero(key)
    rank = np.searchsorted(keys, packet_of, side="right") - 1
    while True:
        too_late = (packet_pts[keys[rank.clip(min=0)]] > packet_pts[packet_of]) & (rank > 0)
        if not too_late.any():
            return keys[rank.clip(min=0)]
        rank[too_late] -= 1


def _groups_are_closed(packet_pts: np.ndarray, key: np.ndarray) -> bool:
    """Whether all that is stored before a key frame is shown before it, and all that is stored after it, after it."""
    shown_later = np.minimum.accumulate(packet_pts[::-1])[::-1]
    shown_before = np.maximum.accumulate(packet_pts)
    keys = np.flatnonzero(key)[1:]
    return bool((shown_before[keys - 1] < packet_pts[keys]).all() and (shown_later[keys] == packet_pts[keys]).all())


def _clock_was_reset(packet_pts: np.ndarray) -> bool:
    rank = np.empty(len(packet_pts), dtype=np.int64)
    rank[np.argsort(packet_pts, kind="stable")] = np.arange(len(packet_pts))
    return bool(np.abs(rank - np.arange(len(packet_pts))).max(initial=0) > _LONGEST_REORDERING)


def _decoding_ticks(dts: list[int | None], durations: list[int], facts: _Facts) -> np.ndarray:
    """Ticks by which counted frames follow each other: the decoding times, or else equal steps."""
    stated = [tick for tick in dts if tick is not None]
    if len(stated) == len(dts) and (np.diff(stated) > 0).all():
        return np.array(stated, dtype=np.int64)
    step = float(np.median(durations)) or 1 / (facts.rate or 25.0) / facts.time_base
    return np.arange(len(dts)) * step


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text[0].lower() + text[1:] if text else type(error).__name__


__all__ = ["PacketIndex", "build_index", "import_av", "open_stream", "plan_reading"]
