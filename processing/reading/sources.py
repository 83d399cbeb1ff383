"""Sources of videos: opens a path, a URL, bytes or a file object for the decoders."""

import hashlib
import io
import os
import re
import stat
import unicodedata
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO, Any, TypeAlias

from .containers import claimed_frames, claimed_picture, ends_early, is_playlist, is_text
from .downloads import copy_bounded, download, public_name, without_addresses
from .limits import ReadingLimits, default_limits
from .structure import Break, find_breaks

VideoInput: TypeAlias = str | os.PathLike | bytes | bytearray | memoryview | IO[bytes]

_SCHEME = re.compile(r"^\s*([A-Za-z][A-Za-z0-9+.-]+)(://|:(?=/[^/])|(?<=data):)", re.IGNORECASE)
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
_CHUNK_BYTES = 1 << 20
_DIGEST_BYTES = 1 << 16
# Addresses that fsspec opens in its own stores, and parts of chains that only unpack another file.
_STORES = {"hf", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "memory"}
_ARCHIVES = {"zip", "tar", "libarchive"}


@dataclass(frozen=True)
class VideoSource:
    """A video that exists and is not empty.

    Attributes:
        name: its name in error messages, without secrets of an address.
        path: the file, or None for bytes and file objects.
        file: a seekable binary file, or None for paths. A temporary file lives as long as this object.
        given: the path as it was given, or None for bytes and file objects.
        stamp: size and time of change of the file at `path`, in bytes and nanoseconds, when it was opened.
        limits: limits for reading it.
        is_copy: whether `file` is a temporary copy that belongs to this object.
    """

    name: str
    path: str | None = None
    file: IO[bytes] | None = None
    given: str | None = None
    stamp: tuple[int, int] | None = None
    limits: ReadingLimits = field(default_factory=default_limits)
    is_copy: bool = False

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """A file object for FFmpeg, which gives it only the bytes, without a name or path."""
        with self._binary() as file:
            yield _OnlyBytes(file)

    @contextmanager
    def _binary(self) -> Iterator[IO[bytes]]:
        if self.path is None:
            assert self.file is not None
            yield self.file
            return
        try:
            file = open(self.path, "rb")
        except OSError as error:
            raise ValueError(f"{self.name}: cannot be read: {error.strerror or type(error).__name__}.") from None
        with file:
            yield file

    def close(self) -> None:
        """Deletes the copy of a download, which an exception that is kept would otherwise keep."""
        if self.is_copy and self.file is not None:
            self.file.close()

    def check_content(self) -> None:
        """Raises a `ValueError` for a playlist, or for a file that claims more frames than `limits` allow."""
        with self._binary() as file:
            if is_playlist(file):
                raise ValueError(
                    f"{self.name}: is a playlist or a description of a stream, not a video; pass the video it names."
                )
            self.check_picture(*claimed_picture(file))
            claimed = claimed_frames(file)
            size = file.seek(0, os.SEEK_END)
        if claimed > self.limits.max_frames:
            raise ValueError(
                f"{self.name}: claims to hold {claimed} frames, more than {self.limits.max_frames}; cut it into "
                "parts, or raise ReadingLimits(max_frames=…)."
            )
        if claimed > size:
            raise ValueError(f"{self.name}: claims to hold {claimed} frames in {size} bytes: it is damaged.")

    def check_picture(self, width: int, height: int) -> None:
        """Raises a `ValueError` for frames that are larger than `limits` allow."""
        if width * height > self.limits.max_pixels:
            raise ValueError(
                f"{self.name}: its frames have {width} × {height} pixels, more than {self.limits.max_pixels}; raise "
                "ReadingLimits(max_pixels=…) to read it."
            )

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
        """Raises a `ValueError` if the file at `path` has changed since it was opened."""
        if self.path is not None and _stamp(self.path) != self.stamp:
            raise ValueError(
                f"{self.name}: changed while it was read; read it again once it is written to its end, or read a copy."
            )

    def identity(self) -> dict[str, Any]:
        """Identifies the same video later: `size` in bytes, `modified` (nanoseconds), and a `digest`."""
        with self._binary() as file:
            return {**_digest(file), "modified": self.stamp and self.stamp[1]}

    def is_text(self) -> bool:
        """Whether its beginning is text, which FFmpeg does not detect for a file without a name."""
        with self._binary() as file:
            return is_text(file)

    def ends_early(self) -> bool:
        """
        Whether the file is shorter than its container states; some formats (TS, live Matroska) do not state a length.
        """
        with self._binary() as file:
            return ends_early(file)

    def breaks(self, container: str, stream_id: int) -> list[Break]:
        """Where the parts of the file do not follow one another: see [`find_breaks`]."""
        with self._binary() as file:
            return find_breaks(file, container, stream_id)


class _OnlyBytes:
    """A file object with nothing but `read`, `seek` and `tell`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        file.seek(0)

    def read(self, size: int) -> bytes:
        data = bytes(self._file.read(size))
        return data if size < 0 else data[:size]

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def open_source(source: VideoInput, timeout: float = 30.0, limits: ReadingLimits | None = None) -> VideoSource:
    """Find, download or wrap a video.

    Args:
        source: a path; a `file://`, `http://`, `https://` or `data:` URL; an address of a store that fsspec opens
            (`hf://datasets/…`, `s3://…`, `zip://clip.mp4::hf://…`); the bytes of a file; or a binary file object. One
            that is neither a file on disk nor in memory is copied to a temporary file, from its current position.
        timeout: seconds without data after which a server, a pipe or another object counts as stalled.
        limits: limits for copying and decoding; default [`default_limits`].

    Raises:
        FileNotFoundError: there is no such file, or the server answers 404 or 410.
        ValueError: for a folder, an empty file, a playlist, text instead of bytes, another URL scheme, a failed
            download, or more than `limits` allow.
        TypeError: for a source of another type.
    """
    limits = limits or default_limits()
    found = _find(source, timeout, limits)
    try:
        found.check_content()
    except BaseException:
        found.close()
        raise
    return found


def _find(source: VideoInput, timeout: float, limits: ReadingLimits) -> VideoSource:
    if isinstance(source, (bytes, bytearray, memoryview)):
        source = source if isinstance(source, bytes) else memoryview(source).tobytes()
        return _from_file(io.BytesIO(source), "the video given as bytes", timeout, limits)
    if isinstance(source, (str, os.PathLike)):
        text = os.fsdecode(source)
        scheme = _SCHEME.match(text)
        if scheme is None or (scheme.group(2) == ":" and scheme.group(1).lower() not in ("data", "file")):
            return _from_path(text, limits)
        kind, name = scheme.group(1).lower(), public_name(text)
        if kind == "file":
            parts = urllib.parse.urlsplit(text.strip())
            # Some write a relative path after the two slashes, where a host would be.
            start = "" if parts.netloc.lower() == "localhost" else parts.netloc
            return _from_path(urllib.request.url2pathname(start + parts.path), limits)
        if kind == "data":
            return _from_file(io.BytesIO(_data_of(text, name)), name, timeout, limits)
        if kind in ("http", "https"):
            return _from_file(download(text, timeout, limits), name, timeout, limits, is_copy=True)
        return _from_file(_from_store(text, name, timeout, limits), name, timeout, limits, is_copy=True)
    if hasattr(source, "read"):
        given = getattr(source, "name", None)
        name = public_name(given) if isinstance(given, str) else "the video given as a file object"
        return _from_file(source, name, timeout, limits)
    raise TypeError(f"a video is a path, a URL, bytes or a binary file object, not {type(source).__name__}.")


def existing_path(path: str) -> str:
    """
    The name under which the file at `path` exists, or `path` itself if it does not.

    Letters such as `é` have two forms in Unicode, of one and of two characters. A table may hold one form and the
    folder the other, if an archive was made on another system.
    """
    if os.path.lexists(path):
        return path
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, path)
        if os.path.lexists(other):
            return other
    folder, name = os.path.split(path)
    if not name or not folder or folder == path or path.isascii():
        return path
    folder = existing_path(folder)
    with suppress(OSError):
        wanted = unicodedata.normalize("NFC", name)
        for entry in os.listdir(folder):
            if unicodedata.normalize("NFC", entry) == wanted:
                return os.path.join(folder, entry)
    return path


def _from_path(path: str, limits: ReadingLimits) -> VideoSource:
    name, given = public_name(path), path
    try:
        path = existing_path(path)
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{name}: there is no such video file.") from None
    except OSError as error:
        raise ValueError(f"{name}: cannot be read: {error.strerror or type(error).__name__}.") from None
    except ValueError as error:
        raise ValueError(f"{name}: cannot be read: {error}.") from None
    if stat.S_ISDIR(status.st_mode):
        images = any(Path(entry).suffix.lower() in _IMAGE_SUFFIXES for entry in os.listdir(path))
        hint = " of images; pass these as a list of PIL images" if images else "; pass one video file"
        raise ValueError(f"{name}: is a folder{hint}.")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(
            f"{name}: is not a regular file; a pipe or device can be passed as an open binary file object."
        )
    if status.st_size == 0:
        raise ValueError(f"{name}: is empty (0 bytes).")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{name}: cannot be read: permission denied.")
    return VideoSource(name=name, path=os.path.abspath(path), given=given, stamp=_stamp(path), limits=limits)


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _digest(file: IO[bytes]) -> dict[str, Any]:
    """Size, and a hash of it and of both ends of the file, because hashing hours of video would take long."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    found = hashlib.sha256(str(size).encode() + file.read(_DIGEST_BYTES))
    file.seek(max(0, size - _DIGEST_BYTES))
    found.update(file.read(_DIGEST_BYTES))
    return {"size": size, "digest": found.hexdigest()[:32]}


def _from_file(file: Any, name: str, timeout: float, limits: ReadingLimits, is_copy: bool = False) -> VideoSource:
    if isinstance(file, io.TextIOBase):
        raise ValueError(f"{name}: is open as text; open it in binary mode, open(path, 'rb').")
    if getattr(file, "closed", False) is True:
        raise ValueError(f"{name}: is closed; open it again.")
    if not is_copy and not _is_like_a_file(file):
        file, is_copy = _copied(file, name, timeout, limits), True
    source = VideoSource(name=name, file=file, limits=limits, is_copy=is_copy)
    if file.seek(0, os.SEEK_END) == 0:
        source.close()
        raise ValueError(f"{name}: is empty (0 bytes).")
    file.seek(0)
    return source


def _is_like_a_file(file: Any) -> bool:
    """Whether a file object is complete: in memory, or a file on disk. Others may never end, or block."""
    if isinstance(file, io.BytesIO):
        return True
    if not isinstance(file, (io.BufferedReader, io.BufferedRandom, io.FileIO)):
        return False
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file.seekable()
    except (OSError, ValueError):
        return False


def _copied(file: Any, name: str, timeout: float, limits: ReadingLimits) -> IO[bytes]:
    # A read from a pipe returns what has arrived so far.
    read = getattr(file, "read1", None) if isinstance(file, io.BufferedIOBase) else None

    def chunks() -> Iterator[bytes]:
        if hasattr(file, "seekable") and file.seekable():
            file.seek(0)
        while chunk := (read or file.read)(_CHUNK_BYTES):
            yield memoryview(chunk).tobytes()

    try:
        return copy_bounded(chunks(), name, limits, silence=timeout)
    except ValueError as error:
        if str(error).startswith(name):
            raise
        raise ValueError(f"{name}: reading the file object failed: {without_addresses(error)}.") from None
    except Exception as error:  # an object of the user may raise anything
        raise ValueError(f"{name}: reading the file object failed: {without_addresses(error)}.") from None


def _data_of(url: str, name: str) -> bytes:
    """The content of a `data:` URL (RFC 2397)."""
    head, comma, content = url.strip().partition(",")
    head = re.sub(r"(?i);\s*base64\s*$", ";base64", head)
    try:
        with urllib.request.urlopen(head + comma + content) as response:
            return response.read()
    except (ValueError, OSError, UnicodeError):
        raise ValueError(f"{name}: is damaged; a data: URL is data:video/mp4;base64,… .") from None


def _from_store(url: str, name: str, timeout: float, limits: ReadingLimits) -> IO[bytes]:
    """Copy an address that fsspec opens to a temporary file."""
    fsspec = import_module("fsspec")
    links = [link.partition("://")[0].strip().lower() for link in url.split("::")]
    known = set(fsspec.available_protocols())
    for kind in links:
        if kind not in known or kind in ("file", "local"):
            raise ValueError(f"{name}: cannot read {kind}:// URLs; download the video first, or use http(s).")
        if not limits.allow_private_addresses and kind not in _STORES | _ARCHIVES:
            raise ValueError(
                f"{name}: {kind}:// addresses may lead to private ones; download the video first, or pass "
                "ReadingLimits(allow_private_addresses=True)."
            )

    def chunks() -> Iterator[bytes]:
        with fsspec.open(url.strip(), "rb") as file, closing(file):
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk

    try:
        return copy_bounded(chunks(), name, limits, silence=2 * timeout + 1)
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: there is no such video file.") from None
    except ImportError as error:
        raise ValueError(f"{name}: needs another package: {without_addresses(error, url)}.") from None
    except ValueError as error:
        if str(error).startswith(name):
            raise
        raise ValueError(f"{name}: cannot be read: {without_addresses(error, url)}.") from None
    except Exception as error:  # each store has its own errors
        raise ValueError(f"{name}: cannot be read: {without_addresses(error, url)}.") from None


__all__ = ["VideoInput", "VideoSource", "existing_path", "open_source"]
