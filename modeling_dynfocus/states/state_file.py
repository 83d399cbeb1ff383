"""Files of video states and their parts: safetensors with notes and a checksum, written tensor by tensor."""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

import torch
from safetensors import safe_open

_FORMAT = "dynfocus-video-state-3"
_WITHOUT_CHECKSUM = ("dynfocus-video-state-1", "dynfocus-video-state-2")
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
# Placeholder of the checksum while it is computed.
_NO_CHECKSUM = "0" * 64
_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True)
class Column:
    """
    A tensor that need not be in memory as a whole.

    Args:
        dtype, shape: of the whole tensor.
        pieces: yields its parts in order, cut along the outer dimensions.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[torch.Tensor]]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "Column":
        return cls(tensor.dtype, tuple(tensor.shape), lambda: [tensor])

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def write_state_file(
    path: str | os.PathLike, columns: dict[str, Column], fingerprint: str | None, sampling: dict[str, Any] | None
) -> None:
    """`write_tensors` in the format that `read_state_file` reads."""
    write_tensors(path, columns, {"format": _FORMAT, "fingerprint": fingerprint, "sampling": sampling})


def write_tensors(path: str | os.PathLike, columns: dict[str, Column], notes: dict[str, Any]) -> None:
    """
    Write tensors and notes (anything that JSON holds) to a file beside `path` and rename it, so that an older file at
    `path` survives any failure. The notes get a `checksum`, a SHA-256 of every byte.

    Raises:
        `OSError`: the file cannot be written.
    """
    # Wide dtypes first, because readers of safetensors expect each tensor at a multiple of its item size.
    names = sorted(columns, key=lambda name: (-columns[name].dtype.itemsize, name))
    header: dict[str, Any] = {
        "__metadata__": {"format": "pt", "dynfocus": json.dumps({**notes, "checksum": _NO_CHECKSUM})}
    }
    end = 0
    for name in names:
        column = columns[name]
        start, end = end, end + column.num_bytes
        header[name] = {"dtype": _DTYPES[column.dtype], "shape": list(column.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    encoded = len(encoded).to_bytes(8, "little") + encoded
    checksum = hashlib.sha256(encoded)
    with written_whole(path) as file:
        file.write(encoded)
        for name in names:
            for piece in columns[name].pieces():
                flat = piece.detach().to("cpu", columns[name].dtype).contiguous().flatten()
                data = flat.view(torch.uint8).numpy().data
                file.write(data)
                checksum.update(data)
                del piece, flat, data
        file.seek(encoded.rfind(_NO_CHECKSUM.encode()))
        file.write(checksum.hexdigest().encode())


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A new file that replaces the one at `path` once it is on the disk, and never after a failure."""
    # A unique name, because other processes may write to the same path.
    partial = f"{os.fspath(path)}.{uuid.uuid4().hex[:8]}.partial"
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(partial)
        if isinstance(error, OSError):
            raise type(error)(
                f"{os.fspath(path)}: cannot be written: {error.strerror or error}; an older file there is unchanged."
            ) from error
        raise


def read_state_file(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """
    The tensors, which stay in the file and are read when they are used, and the notes. Only the header is checked.

    Raises:
        `FileNotFoundError`: there is no such file. `ValueError`: it is not a video state.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no video state at {os.fspath(path)}.")
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            notes = _notes(file)
            known = notes.get("format") == _FORMAT or notes.get("format") in _WITHOUT_CHECKSUM
            tensors = {name: file.get_tensor(name) for name in file.keys()} if known else {}
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{os.fspath(path)} is not a video state: {reason}.") from None
    if not known:
        raise ValueError(f"{os.fspath(path)} is not a video state: write one with `VideoState.save`.")
    return tensors, notes


def is_unchanged(path: str | os.PathLike, notes: dict[str, Any]) -> bool:
    """Whether a file of `write_tensors` matches the checksum in its notes; files of older formats have none."""
    if "checksum" not in notes and notes.get("format") in _WITHOUT_CHECKSUM:
        return True
    noted = str(notes.get("checksum")).encode()
    with open(path, "rb") as file:
        length = file.read(8)
        header = file.read(min(int.from_bytes(length, "little"), os.path.getsize(path)))
        place = header.rfind(noted)
        checksum = hashlib.sha256(length + header[:place] + _NO_CHECKSUM.encode() + header[place + len(noted) :])
        while block := file.read(_BLOCK_BYTES):
            checksum.update(block)
    return checksum.hexdigest().encode() == noted


def read_notes(path: str | os.PathLike) -> dict[str, Any]:
    """The notes of a file of `write_tensors`; none for other safetensors files."""
    with safe_open(os.fspath(path), framework="pt") as file:
        return _notes(file)


def _notes(file: Any) -> dict[str, Any]:
    notes = json.loads((file.metadata() or {}).get("dynfocus", "{}"))
    if not isinstance(notes, dict):
        raise ValueError("its notes are not those of one")
    return notes


__all__ = [
    "Column",
    "is_unchanged",
    "read_notes",
    "read_state_file",
    "write_state_file",
    "write_tensors",
    "written_whole",
]
