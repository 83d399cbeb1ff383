"""Where a video comes from: a path, a URL, bytes or a file object, made into something a decoder can open."""

import base64
import hashlib
import io
import os
import re
import shutil
import stat
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeAlias

from .limits import ReadingLimits, default_limits

VideoInput: TypeAlias = str | os.PathLike | bytes | bytearray | memoryview | IO[bytes]

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
_CHUNK_BYTES = 1 << 20
_DIGEST_BYTES = 1 << 16


@dataclass(frozen=True)
class VideoSource:
    """A video that is there and not empty.

    Attributes:
        name: what error messages call it.
        path: the file, or None for bytes and file objects.
        file: a seekable binary file, or None for paths. A temporary file lives as long as this object.
        stamp: size and time of change of the file at `path`, in bytes and nanoseconds, when it was opened.
    """

    name: str
    path: str | None = None
    file: IO[bytes] | None = None
    stamp: tuple[int, int] | None = None
    limits: ReadingLimits = field(default_factory=default_limits)

    def open_argument(self) -> Any:
        """What FFmpeg is to open; a file object is set to its start."""
        if self.path is not None:
            # Without the protocol, a colon or a percent sign in a name would be taken for one, or for a pattern.
            return f"file:{self.path}"
        self.rewind()
        return self.file

    def plain_argument(self) -> Any:
        """A path or a file object set to its start."""
        if self.path is not None:
            return self.path
        self.rewind()
        return self.file

    def rewind(self) -> None:
        if self.file is not None:
            self.file.seek(0)

    def check_unchanged(self) -> None:
        """Raises a `ValueError` where the file at `path` is no longer what it was when it was opened."""
        if self.path is not None and _stamp(self.path) != self.stamp:
            raise ValueError(
                f"{self.name}: changed while it was read; read it again once it is written to its end, or read a copy."
            )

    def identity(self) -> dict[str, Any]:
        """By which the same video is known again: `size` in bytes, `modified` (nanoseconds), and a `digest`."""
        if self.path is not None:
            with open(self.path, "rb") as file:
                return {**_digest(file), "modified": self.stamp and self.stamp[1]}
        assert self.file is not None
        return {**_digest(self.file), "modified": None}

    def ends_early(self) -> bool:
        """Whether the container says that the file is longer than it is; some (TS, live Matroska) never say."""
        if self.path is not None:
            with open(self.path, "rb") as file:
                return _ends_early(file)
        assert self.file is not None
        return _ends_early(self.file)


def open_source(source: VideoInput, timeout: float = 30.0) -> VideoSource:
    """Finds, downloads or wraps a video.

    Args:
        source: a path, a `file://`, `http://` or `https://` URL, the bytes of a file, or a binary file object (read
            from its start; one that cannot seek is copied to a temporary file).
        timeout: seconds which a server may stay silent.

    Raises:
        FileNotFoundError: there is no such file, or the server answers 404 or 410.
        ValueError: a folder, an empty file, text instead of bytes, another URL scheme, or a failed download.
        TypeError: none of the kinds above.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_file(io.BytesIO(source), "the video given as bytes")
    if isinstance(source, (str, os.PathLike)):
        text = os.fsdecode(source)
        scheme = _SCHEME.match(text)
        if scheme is None:
            return _from_path(text)
        kind = scheme.group(1).lower()
        if kind == "file":
            return _from_path(urllib.request.url2pathname(urllib.parse.urlparse(text).path))
        if kind in ("http", "https"):
            return _from_url(text, timeout)
        raise ValueError(
            f"{_public_name(text)}: cannot read {kind}:// URLs; download the video first, or use http(s)."
        )
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        return _from_file(source, name if isinstance(name, str) else "the video given as a file object")
    raise TypeError(f"a video is a path, a URL, bytes or a binary file object, not {type(source).__name__}.")


def _from_path(path: str) -> VideoSource:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: there is no such video file.") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {error}.") from None
    if stat.S_ISDIR(status.st_mode):
        images = any(Path(entry).suffix.lower() in _IMAGE_SUFFIXES for entry in os.listdir(path))
        hint = " of images; pass these as a list of PIL images" if images else "; pass one video file"
        raise ValueError(f"{path}: is a folder{hint}.")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(
            f"{path}: is not a regular file; a pipe or device can be passed as an open binary file object."
        )
    if status.st_size == 0:
        raise ValueError(f"{path}: is empty (0 bytes).")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path}: cannot be read: permission denied.")
    return VideoSource(name=path, path=os.path.abspath(path), stamp=_stamp(path))


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _digest(file: IO[bytes]) -> dict[str, Any]:
    """Size, and a hash of it and of both ends of the file: all of it would take long for hours of video."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    found = hashlib.sha256(str(size).encode() + file.read(_DIGEST_BYTES))
    file.seek(max(0, size - _DIGEST_BYTES))
    found.update(file.read(_DIGEST_BYTES))
    return {"size": size, "digest": found.hexdigest()[:32]}


def _from_file(file: Any, name: str) -> VideoSource:
    if isinstance(file, io.TextIOBase):
        raise ValueError(f"{name}: is open as text; open it in binary mode, open(path, 'rb').")
    if not (hasattr(file, "seekable") and file.seekable()):
        copy = tempfile.TemporaryFile()
        try:
            shutil.copyfileobj(file, copy, _CHUNK_BYTES)
        except (OSError, TypeError) as error:
            raise ValueError(f"{name}: reading the file object failed: {error}.") from None
        file = copy
    if file.seek(0, os.SEEK_END) == 0:
        raise ValueError(f"{name}: is empty (0 bytes).")
    file.seek(0)
    return VideoSource(name=name, file=file)


def _from_url(url: str, timeout: float) -> VideoSource:
    name = _public_name(url)
    request = _request(url)
    copy = tempfile.TemporaryFile()
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            declared = response.headers.get("Content-Length")
            shutil.copyfileobj(response, copy, _CHUNK_BYTES)
    except urllib.error.HTTPError as error:
        message = f"{name}: the server answered {error.code} ({error.reason})."
        if error.code in (404, 410):
            raise FileNotFoundError(message) from None
        raise ValueError(message) from None
    except urllib.error.URLError as error:
        raise ValueError(f"{name}: cannot be reached: {error.reason}.") from None
    except TimeoutError:
        raise ValueError(f"{name}: the download stalled for {timeout:g} s.") from None
    except Exception as error:  # http.client has its own exceptions, and none of them should reach the user
        raise ValueError(f"{name}: the download failed: {error}.") from None
    size = copy.tell()
    if declared is not None and declared.isdigit() and size < int(declared):
        raise ValueError(f"{name}: the download broke off after {size} of {declared} bytes.")
    return _from_file(copy, name)


def _request(url: str) -> urllib.request.Request:
    """urllib takes no user and password from the URL; they go into a header."""
    parts = urllib.parse.urlsplit(url)
    headers = {"User-Agent": "dynfocus"}
    credentials, _, host = parts.netloc.rpartition("@")
    if credentials:
        encoded = base64.b64encode(urllib.parse.unquote(credentials).encode()).decode()
        headers["Authorization"] = f"Basic {encoded}"
    return urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)), headers=headers)


def _public_name(url: str) -> str:
    """The URL without user, password, query and fragment, any of which may hold a secret."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _ends_early(file: IO[bytes]) -> bool:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(64)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp"):
        return _mp4_ends_early(file, size)
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return _matroska_ends_early(head, size)
    if head[:4] == b"RIFF":
        return int.from_bytes(head[4:8], "little") + 8 > size
    if head[:4] == b"GIF8":
        file.seek(max(0, size - 64))
        return not file.read(64).rstrip(b"\0").endswith(b";")
    return False


def _mp4_ends_early(file: IO[bytes], size: int) -> bool:
    """Walks over the top-level boxes: the last one must not reach over the end."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:
            return False  # reaches to the end of the file, wherever that is
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


__all__ = ["VideoInput", "VideoSource", "open_source"]
