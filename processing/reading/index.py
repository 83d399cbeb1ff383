"""The packet index of a video: each frame's true time, size and key frame, read from the packets without decoding."""

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from .sources import VideoSource
from .structure import Break

UNKNOWN = int(np.iinfo(np.int64).min)
# Decoders reorder frames by 16 frames at most; a larger step back in time is a clock that was reset.
_LONGEST_REORDERING = 64
# Files that FFmpeg opens as if they were videos: it draws text files and reads single images.
_NOT_VIDEO = {"tty": "is a text file", "image2": "is a still image"} | dict.fromkeys(
    ("hls", "concat", "dash", "sdp", "rtsp", "webm_dash_manifest", "vobsub"), "is a playlist"
)
# A step in decoding times that is longer than the usual one by this factor is a gap. Fields that are shown three times
# make steps longer by half.
_GAP = 1.75
_LONGEST_GAP = 10.0  # seconds; a longer one is another clock
_READ_BYTES = 1 << 16  # of a file at a time


class Orientation(NamedTuple):
    """How a decoded frame is rotated upright: first rows and columns are swapped, then it is mirrored.

    Read from the display matrix, with rotations rounded to quarter turns.
    """

    transposed: bool = False
    mirrored_columns: bool = False
    mirrored_rows: bool = False

    @classmethod
    def of(cls, frame: Any) -> "Orientation":
        """Of a decoded frame of PyAV."""
        try:
            # Side data and their frame refer to each other. A frame of the decoder would stay in memory until cycles
            # are collected, perhaps in a forked process without the decoder's threads; so the side data are read from
            # a small copy.
            matrix = frame.reformat(width=16, height=16, format="gray").side_data.get("DISPLAYMATRIX")
        except ValueError:  # side data of a type that PyAV has no name for
            turned = cls(), cls(True, False, True), cls(False, True, True), cls(True, True)
            return turned[round(frame.rotation / 90) % 4]
        if matrix is None:
            return cls()
        # A pixel at (x, y) is shown at (a x + c y, b x + d y), apart from an offset.
        a, b, _, c, d, *_ = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
        if abs(int(a)) + abs(int(d)) >= abs(int(b)) + abs(int(c)):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    def apply(self, array: np.ndarray) -> np.ndarray:
        """`(height, width, 3)`, upright."""
        if not any(self):
            return array
        array = array.swapaxes(0, 1) if self.transposed else array
        array = array[:, ::-1] if self.mirrored_columns else array
        return np.ascontiguousarray(array[::-1] if self.mirrored_rows else array)


@dataclass(frozen=True)
class PacketIndex:
    """The frames and packets of a video. Frames are numbered in display order, packets in the order of the file.

    Attributes:
        times: `(N,)` float64, start of each frame in seconds; the first is 0, strictly increasing.
        duration: end of the last frame in seconds.
        fps: average frames a second.
        pts: `(N,)` int64, the same times in the container's ticks, by which decoded frames are identified; None if the
            container does not state them (AVI, raw streams), and frames can only be counted.
        packet_of: `(N,)` int64, the packet that holds a frame, or the first of several.
        frame_of: `(P,)` int64, the frame that a packet holds, or -1.
        key_packet_of: `(N,)` int64, the packet from which decoding must start to decode a frame correctly.
        is_key: `(N,)` bool, whether the frame is one of the codec's key frames.
        cost: `(M + 1,)` float64, estimated cost of decoding the packets before each one; an average packet costs 1.
        packet_pts: `(M,)` int64, ticks of each packet.
        seek_ticks: `(M,)` int64, decoding time of each packet, which containers seek by.
        packet_pts, packet_size, packet_pos, stretch: `(P,)` int64, ticks, size in bytes and place in the file of each
            packet (`UNKNOWN` if not stated), and the stretch of the file between resets of the clock.
        closed_groups: no frame before a key frame needs it, so that any decoder can start at any key frame.
        states_frames: the container states the number of its frames up front (MP4 that is not fragmented, AVI).
        height, width: size of the picture after the rotation; 0 if PyAV lacks the decoder.
        orientation: how a decoded frame must be turned and mirrored, by the first one.
        container: FFmpeg's name of the format.
        codec: FFmpeg's name of the codec.
        ends_early: the file is cut off; the frames above are those before the cut.
        lost_after: seconds after which frames may be missing, because the file is damaged there; None if it is whole.
    """

    times: np.ndarray
    duration: float
    fps: float
    pts: np.ndarray | None
    packet_of: np.ndarray
    frame_of: np.ndarray
    key_packet_of: np.ndarray
    is_key: np.ndarray
    cost: np.ndarray
    packet_pts: np.ndarray
    packet_size: np.ndarray
    packet_pos: np.ndarray
    stretch: np.ndarray
    seek_ticks: np.ndarray
    closed_groups: bool
    states_frames: bool
    height: int
    width: int
    orientation: Orientation
    container: str
    codec: str
    ends_early: bool
    lost_after: float | None = None


def import_av() -> ModuleType:
    """PyAV."""
    try:
        return import_module("av")
    except ImportError:
        raise ImportError("reading videos needs PyAV: pip install av") from None


@contextmanager
def open_stream(source: VideoSource, flags: str = "autobsf") -> Iterator[tuple[Any, Any]]:
    """The opened container and its main video stream; errors of FFmpeg become a `ValueError` that names the file."""
    av = import_av()
    pixels = source.limits.max_pixels
    with source.opened() as file:
        try:
            # Invalid bytes in titles must not prevent reading; since PyAV 19 they never do. FFmpeg gets no protocols,
            # so that nothing in a file can make it open another file or an address.
            titles = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
            container = av.open(
                file,
                **titles,
                container_options={"protocol_whitelist": "none", "fflags": f"+{flags}"},
                options={"max_pixels": str(pixels)},
                buffer_size=_READ_BYTES,
            )
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise ValueError(f"{source.name}: cannot be opened as a video: {_cause(source, error)}.") from None
        with container:
            format_name = container.format.name
            what = _NOT_VIDEO.get(format_name) or ("is a still image" if format_name.endswith("_pipe") else None)
            if what is not None:
                raise ValueError(f"{source.name}: {what}, not a video.")
            stream = container.streams.best("video")
            if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
                sound = " (it holds sound only)" if container.streams.audio else ""
                raise ValueError(f"{source.name}: has no video stream{sound}.")
            context = stream.codec_context
            if context is not None:
                source.check_picture(context.width, context.height)
                context.options = {"max_pixels": str(pixels)}
            yield container, stream


def build_index(source: VideoSource) -> PacketIndex:
    """Reads all packets of the video stream, which takes about 0.4 s for 30 minutes of 720p, and decodes one frame.

    Raises:
        ValueError: the file cannot be opened, exceeds the source's limits, or has no frame that can be shown.
    """
    facts = _read_packets(source)
    if not len(facts.size):
        cause = "it is cut off before its first frame" if facts.ends_early else "its video stream has no frames"
        raise ValueError(f"{source.name}: holds nothing to show: {cause}.")
    height, width, orientation = _picture(source, facts.ends_early)
    key = facts.key.copy()
    first_key = int(key.argmax())  # also 0 if no packet is marked
    key[first_key] = True
    shown = ~facts.hidden
    known = facts.pts != UNKNOWN
    stretch, pts = _joined_clocks(facts, key, known)
    has_resets = bool(stretch[-1] > 0)
    counted = facts.container == "avi" or 2 * known.sum() < len(known) or _clock_was_reset(pts[known])
    if counted:
        # The decoder returns frames in the order of their decoding times, one for each.
        shown[:first_key] = False
        packet_of = np.flatnonzero(shown)
        frame_ticks = _decoding_ticks(facts)[packet_of]
        frame_of = np.where(shown, np.cumsum(shown) - 1, -1)
        key_packet_of = np.zeros(len(packet_of), dtype=np.int64)
    else:
        shown &= known
        for number in range(int(stretch[-1]) + 1):
            # Frames that are shown before the first key frame refer to missing frames.
            (members,) = np.nonzero(stretch == number)
            first = members[key[members].argmax()]
            shown[members[members < first]] = False
            shown[members] &= pts[members] >= pts[first]
        frame_ticks, first_packets = np.unique(pts[shown], return_index=True)
        packet_of = np.flatnonzero(shown)[first_packets]
        frame_of = np.where(shown, np.searchsorted(frame_ticks, pts).clip(max=max(0, len(frame_ticks) - 1)), -1)
        key_packet_of = np.zeros(len(packet_of), dtype=np.int64)
        if not has_resets:
            key_packet_of = _key_packets(pts, key, packet_of)
    if len(frame_ticks) == 0:
        raise ValueError(f"{source.name}: holds nothing to show: all of its {len(shown)} frames are marked as hidden.")
    times = (frame_ticks - frame_ticks[0]) * facts.time_base
    measured = (len(times) - 1) / times[-1] if len(times) > 1 else facts.rate
    last = facts.duration[packet_of[-1]] * facts.time_base or (1 / measured if measured else 0.0)
    # Packets without a picture of their own, after the last one, make that one last longer.
    end = float(times[-1] + last)
    if facts.last_repeat is not None and not has_resets:
        end = max(end, float((facts.last_repeat - frame_ticks[0]) * facts.time_base))
    if not end <= source.limits.max_duration:
        raise ValueError(
            f"{source.name}: claims to last {end:.3g} s, more than {source.limits.max_duration:.3g} s: its times are "
            "damaged, or ReadingLimits(max_duration=…) must be raised."
        )
    return PacketIndex(
        times=times,
        duration=end,
        fps=float(facts.rate if abs(facts.rate - measured) <= 0.01 * measured else measured),
        pts=None if counted else frame_ticks,
        packet_of=packet_of,
        frame_of=frame_of,
        key_packet_of=key_packet_of,
        is_key=key[packet_of],
        cost=np.concatenate([[0.0], np.cumsum(0.5 + 0.5 * facts.size / facts.size.mean())]),
        packet_pts=facts.pts,
        packet_size=facts.size,
        packet_pos=facts.pos,
        stretch=stretch,
        seek_ticks=np.where(facts.dts == UNKNOWN, facts.pts, facts.dts),
        states_frames=facts.states_frames,
        height=height,
        width=width,
        orientation=orientation,
        closed_groups=not counted and not has_resets and _groups_are_closed(pts, key),
        container=facts.container,
        codec=facts.codec,
        ends_early=facts.ends_early,
        lost_after=_lost_after(facts, frame_of, times),
    )


@dataclass(frozen=True)
class _Facts:
    """Facts of the container about each packet with a picture, in ticks and bytes (`UNKNOWN` if not stated)."""

    pts: np.ndarray
    dts: np.ndarray
    duration: np.ndarray
    size: np.ndarray
    pos: np.ndarray
    key: np.ndarray
    hidden: np.ndarray
    last_repeat: int | None
    container: str
    codec: str
    time_base: float
    rate: float
    repeats: int
    states_frames: bool
    stated_frames: int
    ends_early: bool
    starts_damaged: bool
    breaks: list[Break]


def is_repeat(packet: Any) -> bool:
    """Whether a packet has no picture: the one before stays on screen (Theora, AVI). No decoder may be
    given such a packet, which would end the stream for it."""
    return packet.size == 0 and (packet.dts is not None or packet.pts is not None)


def _read_packets(source: VideoSource) -> _Facts:
    av = import_av()
    columns = [array("q") for _ in range(5)]
    pts, dts, duration, size, pos = columns
    flags = bytearray()
    ends_early = source.ends_early()
    last_repeat, repeats = None, 0
    with open_stream(source) as (container, stream):
        codec = stream.codec_context.name if stream.codec_context is not None else "unknown"
        try:
            for packet in container.demux(stream):
                if is_repeat(packet):
                    start = packet.dts if packet.pts is None else packet.pts
                    last_repeat = max(start + (packet.duration or 0), last_repeat or 0)
                    repeats += 1
                if not packet.size:
                    continue
                if len(flags) >= source.limits.max_frames:
                    raise ValueError(
                        f"{source.name}: holds more than {source.limits.max_frames} frames; cut it into parts, or "
                        "raise ReadingLimits(max_frames=…)."
                    )
                pts.append(UNKNOWN if packet.pts is None else packet.pts)
                dts.append(UNKNOWN if packet.dts is None else packet.dts)
                duration.append(packet.duration or 0)
                size.append(packet.size)
                pos.append(UNKNOWN if packet.pos is None else packet.pos)
                # A VP8 frame is marked if it is only a reference and never shown.
                hidden = packet.is_discard or (codec == "vp8" and not memoryview(packet)[0] & 0x10)
                flags.append(packet.is_keyframe | hidden << 1 | packet.is_corrupt << 2)
        except (av.error.FFmpegError, OSError):
            ends_early = True
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        # These two count frames instead of storing their times.
        stated_frames = stream.frames if container.format.name == "avi" else 0
        if container.format.name == "mxf" and stream.duration:
            stated_frames = round(float(stream.duration * stream.time_base) * rate)
        breaks = source.breaks(container.format.name, stream.id)
        marks = np.frombuffer(flags, dtype=np.uint8)
        if len(marks) and marks[-1] & 4:
            # The file ends within its last packet.
            ends_early, marks = True, marks[:-1]
        stated = [np.frombuffer(column, dtype=np.int64)[: len(marks)] for column in columns]
        return _Facts(
            pts=stated[0],
            dts=stated[1],
            duration=stated[2],
            size=stated[3],
            pos=stated[4],
            key=marks & 1 > 0,
            hidden=marks & 2 > 0,
            last_repeat=last_repeat,
            container=container.format.name,
            codec=codec,
            time_base=float(stream.time_base),
            rate=rate,
            repeats=repeats,
            states_frames=stream.frames > 0,
            stated_frames=stated_frames,
            ends_early=ends_early or any(one.cut and one.position >= stated[4].max(initial=0) for one in breaks),
            starts_damaged=codec != "unknown" and not any(marks[:1] & 1) and _starts_with_key_frame(source),
            breaks=breaks,
        )


def plan_reading(index: PacketIndex, wanted: np.ndarray, seek_cost: float) -> list[tuple[int, np.ndarray]]:
    """Splits the wanted frames into runs, each read through from one packet.

    From one wanted frame to the next, the reader either decodes all packets between them, or jumps to the key frame
    before the second, whichever costs less by the index. No packet is decoded twice, except for the cost of the jump
    itself.

    Args:
        wanted: `(T,)` sorted frame indices.
        seek_cost: cost of a jump, in average packets; 0 jumps if that saves a packet, infinity never.

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


def _picture(source: VideoSource, ends_early: bool) -> tuple[int, int, Orientation]:
    """Height, width, and orientation of the first frame; zeros if FFmpeg cannot decode."""
    av = import_av()
    with open_stream(source) as (container, stream):
        if stream.codec_context is None:
            return 0, 0, Orientation()
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except (av.error.FFmpegError, OSError, StopIteration):
                break
            if is_repeat(packet):
                continue
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                orientation = Orientation.of(frame)
                size = (frame.width, frame.height) if orientation.transposed else (frame.height, frame.width)
                return *size, orientation
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
    """
    Whether all frames stored before a key frame are shown before it, and all frames stored after it are shown after
    it.
    """
    shown_later = np.minimum.accumulate(packet_pts[::-1])[::-1]
    shown_before = np.maximum.accumulate(packet_pts)
    keys = np.flatnonzero(key)[1:]
    return bool((shown_before[keys - 1] < packet_pts[keys]).all() and (shown_later[keys] == packet_pts[keys]).all())


def _clock_was_reset(packet_pts: np.ndarray) -> bool:
    rank = np.empty(len(packet_pts), dtype=np.int64)
    rank[np.argsort(packet_pts, kind="stable")] = np.arange(len(packet_pts))
    return bool(np.abs(rank - np.arange(len(packet_pts))).max(initial=0) > _LONGEST_REORDERING)


def _joined_clocks(facts: _Facts, key: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    The stretch of the file that each packet belongs to, and presentation times that continue from stretch to stretch.

    Decoding times only increase within one file. Where they fall back, files were joined: a new stretch begins, which
    is shown after the one before.
    """
    stated = np.flatnonzero(facts.dts != UNKNOWN)
    steps = np.diff(facts.dts[stated])
    usual = int(np.median(steps[steps > 0])) if (steps > 0).any() else 1
    # Rounded or estimated times may also fall back a little within a file.
    falls = (steps < 0) & (key[stated[1:]] | (steps < -2 * usual))
    stretch = np.zeros(len(facts.dts), dtype=np.int64)
    stretch[stated[1:][falls]] = 1
    stretch = np.cumsum(stretch)
    pts = facts.pts.copy()
    for number in range(1, int(stretch[-1]) + 1):
        before, here = (np.flatnonzero((stretch == n) & known) for n in (number - 1, number))
        if len(before) and len(here):
            ends = pts[before] + np.where(facts.duration[before] > 0, facts.duration[before], usual)
            from_key = here[key[here].argmax() :]
            pts[here] += ends.max() - pts[from_key].min()
    return stretch, pts


def _starts_with_key_frame(source: VideoSource) -> bool:
    """Whether the container marks its first frame as a key frame, without a look at its content."""
    with open_stream(source, flags="noparse") as (container, stream):
        packet = next((packet for packet in container.demux(stream) if packet.size), None)
        return packet is not None and packet.is_keyframe


def _lost_after(facts: _Facts, frame_of: np.ndarray, times: np.ndarray) -> float | None:
    """
    The time after which frames may be missing: where the parts of the file break off, and the times of decoding have a
    gap. Breaks without a gap are joins of recordings, or damage to other streams.
    """
    if facts.starts_damaged:
        return 0.0
    ticks = np.where(facts.dts == UNKNOWN, facts.pts, facts.dts)
    (stated,) = np.nonzero(ticks != UNKNOWN)
    places, steps = np.maximum.accumulate(facts.pos[stated]), np.diff(ticks[stated])
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0
    longest = min(_LONGEST_GAP / facts.time_base, np.iinfo(np.int64).max)
    is_gap = (steps > _GAP * usual) & (steps < longest)
    # Times of decoding may be estimated, as in Matroska; those of showing are not.
    order = np.argsort(facts.pts[stated], kind="stable")
    gaps = np.diff(facts.pts[stated][order])
    after_gap = order[1:][(gaps > _GAP * usual) & (gaps < longest)]
    first_key = int(facts.key.argmax()) if facts.key.any() else len(facts.key)
    is_fewer = len(facts.size) + facts.repeats < facts.stated_frames
    if is_fewer and facts.container == "mxf" and not facts.breaks:
        return float(times[-1])
    for one in facts.breaks:
        number = int(np.searchsorted(places, one.position, side="right")) - 1
        packet = int(stated[max(number, 0)]) if len(stated) else 0
        around = slice(max(number - 1, 0), None if one.last else number + 1)
        is_outside = packet < first_key or not 0 <= number < len(steps)
        has_gap = is_gap[around].any() or (one.last and (after_gap >= number).any())
        if is_outside or is_fewer or has_gap or (one.certain and (steps[around] >= 0).all()):
            return float(times[max(int(frame_of[: packet + 1].max()), 0)])
    return None


def _decoding_ticks(facts: _Facts) -> np.ndarray:
    """Ticks of frames that are counted: the decoding times, or else equal steps."""
    if (facts.dts != UNKNOWN).all() and (np.diff(facts.dts) > 0).all():
        return facts.dts
    step = float(np.median(facts.duration)) or 1 / (facts.rate or 25.0) / facts.time_base
    return np.arange(len(facts.dts)) * step


def _cause(source: VideoSource, error: Exception) -> str:
    if source.ends_early():
        return "it is cut off before its index"
    if source.is_text():
        return "it is a text file, not a video"
    text = getattr(error, "strerror", None) or str(error)
    return text[0].lower() + text[1:] if text else type(error).__name__


__all__ = [
    "UNKNOWN",
    "Orientation",
    "PacketIndex",
    "build_index",
    "import_av",
    "is_repeat",
    "open_stream",
    "plan_reading",
]
