"""The file of a video state: safetensors, with what encoded it in the header, written tensor by tensor."""

import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

import torch
from safetensors import safe_open

_FORMATS = ("dynfocus-video-state-1", "dynfocus-video-state-2")
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Column:
    """
    A tensor that need not be held as a whole.

    Args:
        dtype, shape: of all of it.
        pieces: gives it, cut along its outer dimensions, in order.
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
    """
    Write a state beside `path` and rename it, so that an older file there survives any failure.

    Raises:
        `OSError`: the file cannot be written.
    """
    noted = json.dumps({"format": _FORMATS[-1], "fingerprint": fingerprint, "sampling": sampling})
    # Wide numbers first, as readers of safetensors expect each at a multiple of its width.
    names = sorted(columns, key=lambda name: (-columns[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "dynfocus": noted}}
    end = 0
    for name in names:
        column = columns[name]
        start, end = end, end + column.num_bytes
        header[name] = {"dtype": _DTYPES[column.dtype], "shape": list(column.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with written_whole(path) as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name in names:
            for piece in columns[name].pieces():
                flat = piece.detach().to("cpu", columns[name].dtype).contiguous().flatten()
                file.write(flat.view(torch.uint8).numpy().data)
                del piece, flat


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A new file that takes the place of the one at `path` once it is on the disk; it never does after a failure."""
    # Of its own, for others may write to the same path.
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
                f"{os.fspath(path)}: cannot be written: {error.strerror or error}; an older file there is as it was."
            ) from error
        raise


def read_state_file(
    path: str | os.PathLike, device: str = "cpu"
) -> tuple[dict[str, torch.Tensor], str | None, dict[str, Any] | None]:
    """Tensors, fingerprint and sampling. Raises `FileNotFoundError`, or `ValueError` for any other file."""
    noted = read_state_notes(path)
    try:
        with safe_open(os.fspath(path), framework="pt", device=device) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, *noted
    except Exception as error:
        raise ValueError(f"{os.fspath(path)} is not a video state: {error}") from None


def read_state_notes(path: str | os.PathLike) -> tuple[str | None, dict[str, Any] | None]:
    """Fingerprint and sampling alone, which takes no time. Errors as of `read_state_file`."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no video state at {os.fspath(path)}.")
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            noted = json.loads((file.metadata() or {}).get("dynfocus", "{}"))
            known = noted.get("format") in _FORMATS
    except Exception as error:
        raise ValueError(f"{os.fspath(path)} is not a video state: {error}") from None
    if not known:
        raise ValueError(f"{os.fspath(path)} is not a video state: write one with `VideoState.save`.")
    return noted.get("fingerprint"), noted.get("sampling")


__all__ = ["Column", "read_state_file", "read_state_notes", "write_state_file", "written_whole"]
