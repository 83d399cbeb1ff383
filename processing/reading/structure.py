"""Where the parts of a file do not follow one another as its container requires.

FFmpeg goes on at the next part that it finds, without an error; frames between the two are lost.
"""

import os
import zlib
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

import numpy as np

from .containers import boxes

#: Returns the length of the part that begins at the position of the file; None if no part begins there.
_LengthOf = Callable[[IO[bytes]], int | None]


class Break(NamedTuple):
    """A place where the parts of a file do not fit together.

    Attributes:
        position: in bytes.
        cut: the last part extends beyond the end of the file.
        last: what follows was not examined.
        certain: something is missing there. Otherwise two recordings may be joined.
    """

    position: int
    cut: bool = False
    last: bool = True
    certain: bool = False


def find_breaks(file: IO[bytes], container: str, stream_id: int) -> list[Break]:
    """
    The breaks in a file, in order.

    Args:
        container: FFmpeg's name of the format. In the formats without an entry below, nothing is found.
        stream_id: number of the video stream in the container.
    """
    size = file.seek(0, os.SEEK_END)
    names = container.split(",")
    if "mpegts" in names:
        return list(_transport_breaks(file, size, stream_id))
    if "asf" in names:
        return list(_asf_breaks(file, size, stream_id))
    if "mp4" in names:
        return list(_mp4_breaks(file, size))
    for name in names:
        if name in _PARTS:
            found = _first_break(file, size, _PARTS[name])
            return [] if found is None else [found]
    return []


def _first_break(file: IO[bytes], size: int, length_of: _LengthOf) -> Break | None:
    position = 0
    while position < size:
        file.seek(position)
        length = length_of(file)
        if length is None:
            return Break(position, certain=length_of is _ogg_part)
        if position + length > size:
            return Break(position, cut=True)
        position += length
    return None


# ---- containers of parts that state their length; a part of which only the head is skipped is followed by its content

_OPENED = {b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"}  # segment, cluster
_ELEMENTS = _OPENED | {
    # header, then the children of a segment: places, information, tracks, index, files, chapters, tags
    *(b"\x1a\x45\xdf\xa3", b"\x11\x4d\x9b\x74", b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b"),
    *(b"\x1c\x53\xbb\x6b", b"\x19\x41\xa4\x69", b"\x10\x43\xa7\x70", b"\x12\x54\xc3\x67"),
    # children of a cluster: time, place, previous size, silent tracks, blocks; filler and checksum
    *(b"\xe7", b"\xa7", b"\xab", b"\x58\x54", b"\xa3", b"\xa0", b"\xaf", b"\xec", b"\xbf"),
}


def _matroska_part(file: IO[bytes]) -> int | None:
    head = file.read(12)
    width = 9 - head[0].bit_length()
    if head[:width] not in _ELEMENTS or len(head) <= width:
        return None
    end = width + 9 - head[width].bit_length()
    if head[:width] in _OPENED:
        return end
    bits = 7 * (end - width)
    length = int.from_bytes(head[width:end], "big") & ((1 << bits) - 1)
    return None if end - width > 8 or length == (1 << bits) - 1 else end + length


def _flv_part(file: IO[bytes]) -> int | None:
    head = file.read(11)
    if head[:3] == b"FLV":
        return int.from_bytes(head[5:9], "big") + 4
    is_tag = head[0] & 0x1F in (8, 9, 18) and not any(head[8:11])
    return 11 + int.from_bytes(head[1:4], "big") + 4 if is_tag else None


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_part(file: IO[bytes]) -> int | None:
    head = file.read(27)
    if head[:5] != b"OggS\0" or len(head) < 27:
        return None
    sizes = file.read(head[26])
    content = file.read(sum(sizes))
    # The checksum is that of zlib with the bits of each byte in the other order, and without the inversions.
    page = (head[:22] + bytes(4) + head[26:] + sizes + content).translate(_REVERSED)
    checksum = int(f"{zlib.crc32(page, 0xFFFFFFFF) ^ 0xFFFFFFFF:032b}"[::-1], 2)
    is_whole = len(content) == sum(sizes)
    if is_whole and checksum != int.from_bytes(head[22:26], "little"):
        return None
    return 27 + len(sizes) + sum(sizes)


def _programme_part(file: IO[bytes]) -> int | None:
    head = file.read(14).ljust(14, b"\0")
    if head[:3] != b"\0\0\1" or head[3] < 0xB9:
        return None
    if head[3] == 0xB9:
        return 4
    if head[3] == 0xBA:
        return 14 + (head[13] & 7) if head[4] >> 6 == 1 else 12
    return 6 + int.from_bytes(head[4:6], "big")


def _avi_part(file: IO[bytes]) -> int | None:
    head = file.read(8)
    if head[:4] in (b"RIFF", b"LIST"):
        return 12
    length = int.from_bytes(head[4:8], "little")
    return 8 + length + length % 2 if all(32 <= byte < 127 for byte in head[:4]) else None


def _mxf_part(file: IO[bytes]) -> int | None:
    head = file.read(26)
    if head[:4] != b"\x06\x0e\x2b\x34" or len(head) < 17:
        return None
    width = head[16] & 0x7F if head[16] & 0x80 else 0
    return 17 + (width + int.from_bytes(head[17 : 17 + width], "big") if width else head[16])


_PARTS: dict[str, _LengthOf] = {
    "matroska": _matroska_part,
    "flv": _flv_part,
    "ogg": _ogg_part,
    "mpeg": _programme_part,
    "avi": _avi_part,
    "mxf": _mxf_part,
}


# ---- transport streams: packets of equal length, numbered modulo 16

_TS_BYTES = 188
_TS_PACKETS = 1 << 14  # read at a time


def _transport_breaks(file: IO[bytes], size: int, video: int) -> Iterator[Break]:
    file.seek(0)
    head = file.read(1 << 16)
    # A packet may be preceded by 4 bytes with a time, or followed by 16 with a checksum.
    found = [(_next_packet(head, 0, length), length) for length in (_TS_BYTES, 192, 204)]
    start, length = min(((place, length) for place, length in found if place >= 0), default=(-1, 0))
    counter, before = -1, b""
    while 0 <= start <= size - _TS_BYTES:
        file.seek(start)
        data = file.read(_TS_PACKETS * length)
        rows = np.frombuffer(data.ljust(-(-len(data) // length) * length, b"\0"), dtype=np.uint8).reshape(-1, length)
        whole = (len(data) + length - _TS_BYTES) // length
        lost = np.flatnonzero(rows[:whole, 0] != 0x47)
        good = rows[: lost[0] if len(lost) else whole]
        pid = (good[:, 1] & 0x1F).astype(int) << 8 | good[:, 2]
        has_extra, has_payload = good[:, 3] & 0x20 > 0, good[:, 3] & 0x10 > 0
        tables = np.flatnonzero((pid == 0) & (good[:, 3] & 0xF == 0))
        (own,) = np.nonzero((pid == video) & has_payload)
        begins = good[own, 1] & 0x40 > 0
        heads = own[begins]
        content = np.where(has_extra[heads], 5 + good[heads, 4].astype(int), 4).clip(max=_TS_BYTES - 3)
        is_wrong = good[own, 1] & 0x80 > 0  # the receiver marked an error
        is_wrong[begins] |= (good[heads[:, None], content[:, None] + np.arange(3)] != (0, 0, 1)).any(axis=1)
        announced = has_extra[own] & (good[own, 4] > 0) & (good[own, 5] & 0x80 > 0)
        counters = (good[own, 3] & 0xF).astype(int)
        expected = (np.concatenate([[counter], counters[:-1]]) + 1) % 16
        is_next = (counters == expected) | announced
        if len(own) and counter < 0:
            is_next[0] = True
        for number in np.flatnonzero(~is_next | is_wrong).tolist():
            packet, previous = good[own[number]].tobytes(), good[own[number - 1]].tobytes() if number else before
            since = own[number - 1] if number else 0
            is_repeated = packet[:_TS_BYTES] == previous[:_TS_BYTES]
            is_joined = counters[number] == 0 and ((tables >= since) & (tables < own[number])).any()
            if is_next[number] or not (is_repeated or is_joined):
                certain = bool(is_next[number] or not begins[number])
                yield Break(start + int(own[number]) * length, last=False, certain=certain)
        if len(own):
            counter, before = int(counters[-1]), good[own[-1]].tobytes()
        start += len(good) * length
        if len(lost):
            yield Break(start, last=False)
            file.seek(start)
            offset = _next_packet(file.read(1 << 22), 1, length)
            if offset < 0:
                return
            start += offset
    if start >= 0 and start - 4 * (length == 192) < size:
        yield Break(start, cut=True)


def _next_packet(data: bytes, start: int, length: int) -> int:
    """The next place at which packets of this length begin; -1 if there is none."""
    place = data.find(b"\x47", start)
    while place >= 0:
        following = data[place + length : place + 4 * length : length]
        if following == b"\x47" * len(following):
            return place
        place = data.find(b"\x47", place + 1)
    return -1


# ---- ASF: packets of equal length, with numbered frames that may be spread over several of them

_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_WIDTHS = (0, 1, 2, 4)


def _asf_breaks(file: IO[bytes], size: int, video: int) -> Iterator[Break]:
    file.seek(0)
    head = file.read(1 << 20)
    place, data = head.find(_ASF_PROPERTIES), head.find(_ASF_DATA)
    if place < 0 or data < 0:
        return
    is_live = head[place + 88] & 1
    length = int.from_bytes(head[place + 92 : place + 96], "little")
    stated = int.from_bytes(head[data + 16 : data + 24], "little")
    end = size if is_live else min(size, data + stated)
    number, offset, whole = -1, 0, 0
    unread = False  # whether a packet since the last piece of the video could not be read
    position = data + 50
    for position in range(data + 50, end - length + 1, length or size):
        file.seek(position)
        payloads = _asf_payloads(file.read(length), video)
        unread |= payloads is None
        for payload in payloads or ():
            if number < 0:
                continues = payload.offset == 0 and not unread
            elif offset < whole:
                continues = payload.number == number and payload.offset == offset
            else:
                continues = payload.number == (number + 1) % 256 and payload.offset == 0
            if not continues:
                yield Break(position, last=False, certain=True)
            number, offset, whole, unread = payload.number, payload.offset + payload.length, payload.whole, False
    if unread:
        yield Break(position, last=False, certain=True)


class _Payload(NamedTuple):
    """A piece of a frame: the number of the frame modulo 256, where the piece begins, its length, the frame's size."""

    number: int
    offset: int
    length: int
    whole: int


def _asf_payloads(packet: bytes, video: int) -> list[_Payload] | None:
    """The pieces of frames of the video in a packet; None if it cannot be read."""
    place = 0

    def take(width: int) -> int:
        nonlocal place
        place += width
        return int.from_bytes(packet[place - width : place], "little")

    first = take(1)
    if first & 0x80:  # error correction data
        place += first & 0xF
        if first & 0x70 or any(packet[1:place]):
            return None
        first = take(1)
    properties = take(1)
    length = take(_WIDTHS[first >> 5 & 3]) or len(packet)
    take(_WIDTHS[first >> 1 & 3])
    padding = take(_WIDTHS[first >> 3 & 3])
    take(6)
    end = min(length, len(packet)) - padding
    flags = take(1) if first & 1 else 1
    found = []
    for _ in range(flags & 0x3F):
        stream = take(1) & 0x7F
        number = take(_WIDTHS[properties >> 4 & 3])
        offset = take(_WIDTHS[properties >> 2 & 3])
        replicated = take(_WIDTHS[properties & 3])
        if stream == 0:
            return None
        if replicated == 1 or _WIDTHS[properties >> 4 & 3] != 1:
            return []  # several frames in one piece
        whole = int.from_bytes(packet[place : place + 4], "little")
        place += replicated
        size = take(_WIDTHS[flags >> 6 & 3]) if first & 1 else end - place
        place += size
        if size <= 0 or place > end or replicated < 8:
            return None
        if stream == video:
            found.append(_Payload(number, offset, size, whole))
    return found


# ---- MP4: boxes in boxes


def _mp4_breaks(file: IO[bytes], size: int) -> Iterator[Break]:
    sequence, is_fragmented, has_content = None, False, True
    times = 0
    for kind, start, end in boxes(file, 0, size):
        file.seek(start)
        has_content = kind == b"mdat" or (has_content and kind != b"moof")
        if kind is None:
            # In a file without fragments, bytes after the last box are of no use to anyone.
            if is_fragmented or end < size:
                yield Break(start, last=False)
        elif kind == b"mfhd":
            number, is_fragmented = int.from_bytes(file.read(8)[4:], "big"), True
            if sequence is not None and number > sequence + 1:
                yield Break(start, last=False)
            sequence = number
        elif kind == b"stts":
            table = np.frombuffer(file.read((end - start) // 4 * 4)[8:], dtype=">u4")
            times = int(table[: len(table) // 2 * 2 : 2].sum())
        elif kind == b"stsz":
            samples = int.from_bytes(file.read(12)[8:], "big")
            if times != samples:
                yield Break(start, last=False, certain=True)
    if not has_content:
        yield Break(size, cut=True)


__all__ = ["Break", "find_breaks"]
