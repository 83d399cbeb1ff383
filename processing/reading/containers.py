"""
Checks of a file's bytes before FFmpeg opens it: playlists, files that are cut off, and impossible numbers of frames.
"""

import os
import re
from collections.abc import Iterator
from typing import IO

_HEAD_BYTES = 1 << 20  # the size of the beginning from which FFmpeg detects the format
# Files that name other files or addresses, which FFmpeg would open.
_PLAYLISTS = re.compile(
    rb"\A\s*(#EXTM3U|ffconcat\b|\[playlist\]|\[reference\]|rtsptext\b)|^c=IN IP"
    rb"|<(MPD|smil|asx|SmoothStreamingMedia|AssetMap|CompositionPlaylist|playlist)\b",
    re.IGNORECASE | re.MULTILINE,
)
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof", b"sidx", b"pnot", b"uuid")
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")


def is_playlist(file: IO[bytes]) -> bool:
    """Whether the content is a playlist or a session description (M3U8, concat, SDP, DASH, PLS, SMIL, …)."""
    file.seek(0)
    # FFmpeg also reads the beginning as text up to the first zero.
    text = file.read(_HEAD_BYTES).partition(b"\0")[0].removeprefix(b"\xef\xbb\xbf")
    return _PLAYLISTS.search(text) is not None


def is_text(file: IO[bytes]) -> bool:
    """Whether the beginning of the file is text."""
    file.seek(0)
    text = file.read(4096).decode("utf-8", "ignore")
    return len(text) > 0 and all(letter.isprintable() or letter.isspace() for letter in text)


def ends_early(file: IO[bytes]) -> bool:
    """
    Whether the file is shorter than its container states; some formats (TS, live Matroska) do not state a length.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(64)
    if head[4:8] in _BOXES:
        return _mp4_ends_early(file, size)
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return _matroska_ends_early(head, size)
    if head[:4] == b"RIFF":
        return int.from_bytes(head[4:8], "little") + 8 > size
    if head[:4] == b"GIF8":
        return not _gif_is_whole(file)
    if head[:16] == _ASF:
        return _asf_ends_early(file, size)
    return False


def _gif_is_whole(file: IO[bytes]) -> bool:
    """Whether the blocks of a GIF follow one another up to its last one."""

    def skip_table(flags: int) -> None:
        if flags & 0x80:
            file.seek(3 << (flags & 7) + 1, os.SEEK_CUR)

    file.seek(0)
    skip_table(file.read(13)[10:11].ljust(1, b"\0")[0])
    while True:
        kind = file.read(1)
        if kind == b"!":
            file.seek(1, os.SEEK_CUR)
        elif kind == b",":
            skip_table(file.read(9)[8:].ljust(1, b"\0")[0])
            file.seek(1, os.SEEK_CUR)
        else:
            return kind == b";"
        while (length := file.read(1)) not in (b"", b"\0"):
            file.seek(length[0], os.SEEK_CUR)


def _asf_ends_early(file: IO[bytes], size: int) -> bool:
    """Whether an ASF file (WMV) has another size than its header states; live ones state none."""
    file.seek(0)
    head = file.read(1 << 16)
    place = head.find(_ASF_PROPERTIES)
    if place < 0 or len(head) < place + 92 or head[place + 88] & 1:
        return False
    return int.from_bytes(head[place + 40 : place + 48], "little") > size


def claimed_frames(file: IO[bytes]) -> int:
    """
    The largest number of frames that a track of an MP4 claims in a few bytes, for which FFmpeg allocates memory when
    it opens the file. 0 for other containers, whose index takes bytes for each frame.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(8)[4:8] not in _BOXES:
        return 0
    in_tables, in_fragments, is_pcm = [0], 0, False
    for kind, start, end in boxes(file, 0, size):
        file.seek(start)
        content = file.read(min(24, end - start))
        if kind == b"trak":
            is_pcm = False
        elif kind == b"stts":
            # Audio samples of one tick each are stored in chunks.
            is_pcm = content[4:8] == b"\0\0\0\1" and content[12:16] == b"\0\0\0\1"
        elif kind in (b"stsz", b"stz2"):
            constant = kind == b"stsz" and any(content[4:8])
            if not (is_pcm and constant):
                in_tables.append(int.from_bytes(content[8:12], "big"))
        elif kind == b"trun":
            in_fragments += int.from_bytes(content[4:8], "big")
    return max(*in_tables, in_fragments)


def claimed_picture(file: IO[bytes]) -> tuple[int, int]:
    """Width and height from the header of a GIF or PNG; zeros for other formats, for which FFmpeg reports them."""
    file.seek(0)
    head = file.read(24)
    if head[:4] == b"GIF8":
        return int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
    if head[:8] == b"\x89PNG\r\n\x1a\n" and head[12:16] == b"IHDR":
        return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    return 0, 0


def boxes(file: IO[bytes], start: int, end: int, depth: int = 0) -> Iterator[tuple[bytes | None, int, int]]:
    """
    Kind, and start and end of the content, of all boxes of an MP4 between two places, parents first. Where no box
    begins, the kind is None, and what is left up to the end is not examined.
    """
    position = start
    while position + 8 <= end:
        file.seek(position)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        content = position + 8
        if length == 1:
            length, content = int.from_bytes(header[8:16], "big"), position + 16
        elif length == 0 and depth == 0 and kind == b"mdat":
            length = end - position
        is_beyond = position + length > end and kind not in _BOXES
        if length < content - position or min(kind) < 32 or is_beyond:
            yield None, position, end
            return
        yield kind, content, min(position + length, end)
        if kind in _PARENTS and depth < len(_PARENTS):
            yield from boxes(file, content, min(position + length, end), depth + 1)
        position += length


def _mp4_ends_early(file: IO[bytes], size: int) -> bool:
    """Walks over the top-level boxes: the last one must not extend beyond the end of the file."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:
            return False  # extends to the end of the file
        if length < 8:
            return False  # bytes that belong to no box, after the last one
        if position + length > size:
            return kind in (b"moov", b"mdat", b"moof")
        position += length
    return False


def _matroska_ends_early(head: bytes, size: int) -> bool:
    """The segment, which follows the header, states its own length unless it was written live."""

    def read_length(at: int) -> tuple[int | None, int]:
        width = 9 - head[at].bit_length()
        value = int.from_bytes(head[at : at + width], "big") & ((1 << (7 * width)) - 1)
        return (None if value == (1 << (7 * width)) - 1 else value), at + width

    try:
        length, start = read_length(4)
        segment = start + (length or 0)
        if head[segment : segment + 4] != b"\x18\x53\x80\x67":
            return False
        length, start = read_length(segment + 4)
    except IndexError:
        return False
    return length is not None and start + length > size


__all__ = ["boxes", "claimed_frames", "claimed_picture", "ends_early", "is_playlist", "is_text"]
