"""Decoders behind one interface: each yields the wanted frames of an indexed video, in order, as full-size RGB.

All of them take frame numbers and times from the packet index, so that a sample gives the same frames with each, and
none keeps a frame that it has yielded. A decoder that would give other frames raises an error.
"""

import os
import re
import warnings
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from itertools import chain
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch.nn import functional

from .animated_webp import CONTAINER, AnimatedWebPDecoder
from .index import UNKNOWN, Orientation, PacketIndex, import_av, is_repeat, open_stream, plan_reading
from .sources import VideoSource

DECODERS = ("pyav", "decord", "torchcodec")
# The decoders that "auto" tries, in this order. torchcodec may support codecs that PyAV was built without; decord's
# FFmpeg is older than that of any PyAV, and supports no further codecs.
_AUTOMATIC = ("pyav", "torchcodec")

# Cost of a jump besides decoding from the key frame on: the decoder's pipeline is drained and filled again.
_SEEK_COST = 16.0
_THUMBNAIL = 16
# Other versions of FFmpeg convert YUV to slightly different RGB.
_MOST_DIFFERENT = 32.0
_MAX_THREADS = 8  # each of them holds full-size frames
_TORCHCODEC_CHUNK = 4
# Where a packet is always a whole frame, frames that no other frame refers to are parsed but not decoded unless they
# are wanted, which saves about 40 % of the time.
_DROPPABLE = {"h264", "hevc"}
# Codecs in whose pictures zeros come only before a start code, because a decoder would take them for one, and codecs
# with an arithmetic coder, which makes short runs at most, longer ones in large pictures without motion.
_WITHOUT_ZEROS = {"h264", "hevc", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2", "h263", "flv1"}
_WITHOUT_ZEROS |= {"mpeg1video", "mpeg2video"}
_WITH_FEW_ZEROS = {"vp8", "vp9"}
# Size of an MPEG-4 picture that only repeats the one before: a start code, its type and its time. A coded picture has
# at least 14 bits more.
_EMPTY_MPEG4_BYTES = 7

Frames: TypeAlias = Iterator[tuple[int, np.ndarray]]


class CannotDecode(Exception):
    """This decoder cannot decode the file's frames, but another may; the message completes "name: …"."""


class _Astray(Exception):
    """After a jump, the packets or frames are not those of the index."""


class VideoDecoder(Protocol):
    """The interface of all decoders.

    Attributes:
        name: one of `DECODERS`.
        picture: height and width of the frames.
    """

    name: str
    picture: tuple[int, int]

    def frames(self, wanted: np.ndarray) -> Frames:
        """Yields `(frame index, (height, width, 3) uint8)` for the sorted `(T,)` indices `wanted`."""
        ...


class PyAVDecoder:
    """FFmpeg through PyAV: seeks or reads through, whichever is cheaper by the packet index.

    If a frame of the index is not decoded, this is an error; with `skip_damaged`, the frame before takes its place
    with a warning, unless that was already yielded.

    Args:
        source: the file.
        index: its packet index.
        skip_damaged: warn of packets that cannot be decoded and continue, instead of raising a `ValueError`.
        seek_cost: see `plan_reading`; None for the default.
        thumbnails: yield frames of 16 × 16 pixels, which is enough to test whether they can be decoded.
    """

    name = "pyav"

    def __init__(
        self,
        source: VideoSource,
        index: PacketIndex,
        skip_damaged: bool = False,
        seek_cost: float | None = None,
        thumbnails: bool = False,
    ) -> None:
        self._source, self._index, self._skip_damaged = source, index, skip_damaged
        self.picture = index.height, index.width
        self._seek_cost = _SEEK_COST if seek_cost is None else seek_cost
        self._warned = False
        self._size = {"width": _THUMBNAIL, "height": _THUMBNAIL} if thumbnails else {}
        self._turned: tuple[float, Orientation] | None = None
        self._drops = index.codec in _DROPPABLE and ("mp4" in index.container or "matroska" in index.container)
        with open_stream(source) as (_, stream):
            if stream.codec_context is None:
                raise CannotDecode("PyAV has no decoder for its codec")

    def frames(self, wanted: np.ndarray) -> Frames:
        newest = -1
        rest = wanted
        with open_stream(self._source) as (container, stream):
            stream.codec_context.thread_type = "AUTO"
            stream.codec_context.thread_count = _num_threads()
            for start, targets in self._runs(wanted):
                packets = self._packets_from(container, stream, start)
                if packets is None:
                    break
                try:
                    for number, frame in self._run(packets, stream, targets, from_start=start == 0):
                        if number > newest:
                            newest = number
                            yield number, self._to_rgb(frame)
                except _Astray:
                    break
                rest = rest[len(targets) :]
        if len(rest):
            # After a jump, something differs from the index: read through the rest without jumps.
            from_start = PyAVDecoder(
                self._source, self._index, self._skip_damaged, seek_cost=float("inf"), thumbnails=bool(self._size)
            )
            yield from from_start.frames(rest[rest > newest])

    def _runs(self, wanted: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """The runs of frames to read, each from its packet on."""
        runs = plan_reading(self._index, wanted, self._seek_cost)
        # Skipping packets without parsing them costs less than any jump.
        return [(runs[0][0], wanted)] if runs and self._takes_key_frames(wanted) else runs

    def _takes_key_frames(self, targets: np.ndarray) -> bool:
        return self._drops and bool(self._index.is_key[targets].all())

    def _packets_from(self, container: Any, stream: Any, start: int) -> Iterator[tuple[int, Any]] | None:
        """
        The packets from number `start` or an earlier one on, with their numbers; None if the container cannot seek
        there.
        """
        if start == 0:
            return self._numbered(container.demux(stream), 0)
        # Some containers seek by presentation times, others by decoding times, which come earlier.
        for ticks in (self._index.packet_pts[start], self._index.seek_ticks[start]):
            try:
                container.seek(int(ticks), stream=stream, backward=True, any_frame=False)
                packets = container.demux(stream)
                for packet in packets:
                    # The times of packets are estimated anew after a jump; their places in the file are not.
                    number = self._places.get((packet.pos, packet.size))
                    if number is not None and number <= start:
                        return self._numbered(chain([packet], packets), number)
                    if number is not None or not packet.size:
                        break
            except (import_av().error.FFmpegError, OSError):
                continue
        return None

    @cached_property
    def _places(self) -> dict[tuple[int, int], int]:
        """The numbers of packets by place and size, for those that are unique."""
        places = np.stack([self._index.packet_pos, self._index.packet_size], axis=1)
        found, first, counts = np.unique(places, axis=0, return_index=True, return_counts=True)
        alone = (counts == 1) & (found[:, 0] != UNKNOWN)
        return {(int(pos), int(size)): int(n) for (pos, size), n in zip(found[alone], first[alone], strict=True)}

    def _numbered(self, packets: Iterator[Any], number: int) -> Iterator[tuple[int, Any]]:
        """
        Sets the numbers of packets as their presentation times, which their frames inherit; the packets that flush the
        decoder have none.
        """
        sizes = self._index.packet_size
        # Set before the yield, because a generator may be closed at its last item.
        broken = import_av().error.FFmpegError, OSError
        try:
            for packet in packets:
                if is_repeat(packet):
                    continue
                if not packet.size:
                    yield -1, packet
                elif number >= len(sizes):
                    return  # the rest of a packet that is cut off
                elif packet.size != sizes[number]:
                    raise _Astray
                else:
                    packet.pts = number
                    yield number, packet
                    number += 1
        except broken as error:
            self._damaged("it cannot be read to its end", error)

    def _run(
        self, packets: Iterator[tuple[int, Any]], stream: Any, targets: np.ndarray, from_start: bool
    ) -> Iterator[tuple[int, Any]]:
        """Yields the sorted frame numbers `targets` with their decoded frames."""
        waiting = deque(targets.tolist())
        before: tuple[int, Any] | None = None
        for number, frame in self._decoded(packets, stream, targets, from_start):
            while waiting and waiting[0] < number:
                yield self._instead(waiting.popleft(), before or (number, frame), from_start)
            if waiting and waiting[0] == number:
                if frame.is_corrupt:
                    if not from_start:
                        raise _Astray
                    self._damaged(f"its picture is damaged {self._moment(number)}")
                waiting.popleft()
                yield number, frame
            if not waiting:
                return
            if before is None or number > before[0]:
                before = number, frame
        while waiting and before is not None:
            yield self._instead(waiting.popleft(), before, from_start)
        if waiting and not from_start:
            raise _Astray

    def _instead(self, number: int, shown: tuple[int, Any], from_start: bool) -> tuple[int, Any]:
        """The frame that replaces one which the decoder did not return."""
        packet = self._index.packet_of[number]
        if self._index.codec == "mpeg4" and self._index.packet_size[packet] <= _EMPTY_MPEG4_BYTES:
            return number, shown[1]  # the codec's form of a picture that does not change
        if not from_start:
            raise _Astray
        self._damaged(f"its picture is missing {self._moment(number)}")
        return shown

    def _decoded(
        self, packets: Iterator[tuple[int, Any]], stream: Any, targets: np.ndarray, from_start: bool
    ) -> Iterator[tuple[int, Any]]:
        """The decoded frames in display order, each with its number."""
        index = self._index
        counted = index.pts is None
        kept = set(targets.tolist()) if self._drops and not counted else None
        only_key_frames = kept is not None and self._takes_key_frames(targets)
        count = -1
        stretch = 0
        first = int(index.key_packet_of[0])
        for number, packet in packets:
            if 0 <= number < first:
                continue  # of a clip that begins between key frames
            if number >= 0 and index.stretch[number] != stretch:
                stretch = index.stretch[number]
                # Without a flush, the decoder would drop the frames that it holds, or mix them with those of another
                # file.
                drained = self._decode(None, stream, number, from_start)
                stream.codec_context.flush_buffers()
            else:
                drained = []
            if kept is not None and number >= 0:
                drop = int(index.frame_of[number]) not in kept
                if drop and only_key_frames:
                    continue
                stream.codec_context.skip_frame = "NONREF" if drop else "DEFAULT"
            for frame in chain(drained, self._decode(packet, stream, number, from_start)):
                shows = -1 if frame.pts is None else int(index.frame_of[frame.pts])
                if not counted and shows >= 0:
                    yield shows, frame
                elif counted and (shows >= 0 or frame.pts is None):
                    gap = index.packet_size[index.packet_of[count + 1 : shows]]
                    if index.codec == "mpeg4" and (gap <= _EMPTY_MPEG4_BYTES).all():
                        count += len(gap)
                    count += 1
                    yield count, frame

    def _decode(self, packet: Any, stream: Any, number: int, from_start: bool) -> list[Any]:
        if number >= 0 and packet is not None and self._has_hole(bytes(packet)):
            self._damaged(f"its picture is damaged {self._moment(self._index.frame_of[number])}")
        try:
            return stream.codec_context.decode(packet)
        except import_av().error.FFmpegError as error:
            if not from_start:
                raise _Astray from None
            where = "at its end" if number < 0 else self._moment(self._index.frame_of[number])
            self._damaged(f"its picture is damaged {where}", error)
            return []

    def _has_hole(self, data: bytes) -> bool:
        """Whether a packet has a run of zeros that no encoder writes, as lost parts of a download or disk leave it."""
        if self._index.codec in _WITH_FEW_ZEROS:
            return bytes(64 + self._index.height * self._index.width // 8192) in data
        if self._index.codec not in _WITHOUT_ZEROS:
            return False
        place = data.find(bytes(16))
        if place < 0:
            return False
        return re.search(rb"\0{16,}[^\0\1]", data[place:]) is not None

    def _to_rgb(self, frame: Any) -> np.ndarray:
        """`(height, width, 3)` uint8, rotated upright (FFmpeg's decoders leave that to the player)."""
        if self._turned is None or self._turned[0] != frame.rotation:
            self._turned = frame.rotation, Orientation.of(frame)
        # A frame keeps its conversion threads, and a forked process that frees the frame would wait for them.
        return self._turned[1].apply(frame.to_ndarray(format="rgb24", threads=1, **self._size))

    def _moment(self, number: int) -> str:
        return f"at {self._index.times[number]:.2f} s" if number >= 0 else "in the middle"

    def _damaged(self, what: str, error: Exception | None = None) -> None:
        if not self._skip_damaged:
            cause = "" if error is None else f" ({error.args[1] if len(error.args) > 1 else error})"
            raise ValueError(
                f"{self._source.name}: {what}{cause}; on_truncated='warn' leaves out what cannot be decoded."
            ) from None
        if not self._warned:
            self._warned = True
            warnings.warn(f"{self._source.name}: {what}; what cannot be decoded is left out.", stacklevel=2)


class ComparedDecoder:
    """
    Another decoder, whose frames are compared with small ones from PyAV, because it may return wrong frames of damaged
    files without an error. This takes the time of decoding twice.
    """

    def __init__(self, other: VideoDecoder, source: VideoSource, index: PacketIndex, skip_damaged: bool) -> None:
        self.name, self.picture = other.name, other.picture
        self._other, self._source, self._index, self._skip_damaged = other, source, index, skip_damaged

    def frames(self, wanted: np.ndarray) -> Frames:
        try:
            expected = dict(PyAVDecoder(self._source, self._index, thumbnails=True).frames(wanted))
        except ValueError:
            if not self._skip_damaged:
                raise
            raise ValueError(
                f"{self._source.name}: is damaged, and {self.name} does not leave out what cannot be decoded; use "
                "decoder='auto'."
            ) from None
        for number, array in self._other.frames(wanted):
            pixels = torch.from_numpy(np.array(array)).permute(2, 0, 1).float()
            small = functional.adaptive_avg_pool2d(pixels, _THUMBNAIL).permute(1, 2, 0).numpy()
            if number not in expected or np.abs(small - expected[number]).mean() > _MOST_DIFFERENT:
                moment = f"{self._index.times[number]:.2f} s"
                raise ValueError(
                    f"{self._source.name}: {self.name} returns another picture at {moment} than the file holds; use "
                    "decoder='auto'."
                )
            yield number, array


class DecordDecoder:
    """decord, for the files that it reads correctly.

    It returns wrong frames after a seek in open groups of pictures and in fragments, skips the start of transport
    streams, cannot rotate pictures, and may crash on damaged files.
    """

    name = "decord"

    def __init__(self, source: VideoSource, index: PacketIndex) -> None:
        decord = _import_optional("decord", "pip install decord")
        fragmented = not index.states_frames and "mp4" in index.container
        if index.pts is None or not ("mp4" in index.container or "matroska" in index.container):
            raise CannotDecode(f"decord does not read every frame of {index.container} files")
        if index.ends_early:
            raise CannotDecode("decord does not read files that are cut off")
        if index.orientation not in (Orientation(), Orientation(False, True, True)):
            raise CannotDecode("decord cannot rotate or mirror the picture, as the file requires")
        try:
            # Its exceptions contain what it would print.
            decord.logging.set_level(decord.logging.QUIET)
            self._reader = decord.VideoReader(source.plain_argument(), num_threads=_num_threads())
            count = len(self._reader)
        except Exception as error:  # DECORDError is only an Exception
            raise CannotDecode(f"decord fails on it ({_first_line(error)})") from None
        if count != len(index.times):
            raise CannotDecode(f"decord finds {count} frames instead of {len(index.times)}")
        self.picture = index.height, index.width
        self._source, self._seeks = source, index.closed_groups and not fragmented

    def frames(self, wanted: np.ndarray) -> Frames:
        self._reader.seek(0)
        position = 0
        for number in wanted.tolist():
            try:
                if self._seeks:
                    frame = self._reader[number]
                else:
                    while position < number:
                        self._reader.next()
                        position += 1
                    frame = self._reader.next()
                    position += 1
                array = frame.asnumpy()
            except Exception as error:
                reason = _first_line(error)
                raise ValueError(f"{self._source.name}: decord fails at frame {number} ({reason}).") from None
            yield number, array


class TorchcodecDecoder:
    """torchcodec, which needs an installed FFmpeg."""

    name = "torchcodec"

    def __init__(self, source: VideoSource, index: PacketIndex) -> None:
        decoders = _import_optional("torchcodec.decoders", "pip install torchcodec, and install FFmpeg")
        transposed, mirrored_columns, mirrored_rows = index.orientation
        if transposed == (mirrored_columns == mirrored_rows):
            raise CannotDecode("torchcodec cannot mirror the picture, as the file requires")
        try:
            self._decoder = decoders.VideoDecoder(
                source.plain_argument(), dimension_order="NHWC", num_ffmpeg_threads=_num_threads()
            )
            count = len(self._decoder)
        except Exception as error:  # it has no error class
            raise CannotDecode(f"torchcodec fails on it ({_first_line(error)})") from None
        if count != len(index.times):
            raise CannotDecode(f"torchcodec finds {count} frames instead of {len(index.times)}")
        self.picture = self._decoder.metadata.height, self._decoder.metadata.width
        self._source = source

    def frames(self, wanted: np.ndarray) -> Frames:
        for start in range(0, len(wanted), _TORCHCODEC_CHUNK):
            chunk = wanted[start : start + _TORCHCODEC_CHUNK].tolist()
            try:
                arrays = self._decoder.get_frames_at(indices=chunk).data.numpy()
            except Exception as error:
                raise ValueError(
                    f"{self._source.name}: torchcodec fails at frame {chunk[0]} ({_first_line(error)})."
                ) from None
            yield from zip(chunk, arrays, strict=True)


def open_decoder(name: str, source: VideoSource, index: PacketIndex, skip_damaged: bool = False) -> VideoDecoder:
    """The decoder called `name`; `"auto"` is PyAV, or else torchcodec where PyAV lacks the codec, or Pillow for an
    animated WebP.

    Raises:
        ImportError: the requested decoder is not installed; the message says what to install.
        ValueError: it cannot decode this file, or (`"auto"`) no installed decoder can.
    """
    if index.container == CONTAINER and name == "auto":
        return AnimatedWebPDecoder(source, index, skip_damaged)
    reasons = []
    for candidate in _AUTOMATIC if name == "auto" else (name,):
        try:
            if index.container == CONTAINER:
                raise CannotDecode(f"{candidate} does not read animated WebP")
            if candidate == "pyav":
                return PyAVDecoder(source, index, skip_damaged)
            kind = DecordDecoder if candidate == "decord" else TorchcodecDecoder
            other: VideoDecoder = kind(source, index)
            # Without PyAV's decoder, the pictures cannot be compared.
            return ComparedDecoder(other, source, index, skip_damaged) if index.height else other
        except CannotDecode as error:
            reasons.append(str(error))
        except ImportError:
            if name != "auto":
                raise
            reasons.append(f"{candidate} is not installed")
    has_other = name in ("decord", "torchcodec") or index.container == CONTAINER
    way_out = "; use decoder='auto'" if has_other else ""
    raise ValueError(f"{source.name}: cannot be decoded: {', and '.join(reasons)}{way_out}.")


def _num_threads() -> int:
    return min(os.cpu_count() or 1, _MAX_THREADS)


def _import_optional(module: str, install: str) -> Any:
    try:
        return import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # the last two if a library of the system is missing
        package = module.partition(".")[0]
        raise ImportError(f"decoder={package!r} cannot be loaded ({_first_line(error)}): {install}") from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    # decord's messages begin with the time and a place in its source.
    return re.sub(r"^\[[\d:]+\] \S+\.cc:\d+: ", "", lines[0])[:200] if lines else type(error).__name__


__all__ = ["DECODERS", "CannotDecode", "VideoDecoder", "open_decoder"]
