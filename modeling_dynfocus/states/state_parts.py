"""A state that is written while its video is encoded, so that an interrupted encoding can continue."""

import importlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from safetensors import safe_open

from .fingerprint import difference, is_fingerprint
from .state_file import Column, is_unchanged, read_notes, write_state_file, write_tensors, written_whole
from .video_state import VideoState

_FORMAT = "dynfocus-state-parts-2"
_WITHOUT_CHECKSUMS = "dynfocus-state-parts-1"
_PART_NOTES = {"format": "dynfocus-state-part-2"}
_MANIFEST = "manifest.json"
# Files in a folder that do not belong to an encoding: the lock, and unfinished files of a killed process.
_LEFTOVERS = (".lock", ".partial")
# A part is written once it has this many bytes or is this many seconds old; a power cut loses no more.
_PART_BYTES = 64 << 20
_PART_SECONDS = 30.0
# Tensors of a part that do not become columns of a state.
_NUMBERS = "frame_indices"
_RAGGED = "jpeg_bytes"


class StateParts:
    """
    The parts of one video's state, in the folder `<target>.parts` until they are joined in the file `target`.

    Each part has a checksum, which is checked when an encoding continues after an interruption.

    Args:
        target: file of the whole state.
        source, sampling (`dict`), fingerprint, dtype: describe the encoding; see [`VideoState`] and `FrameStream`.
        keeps: optional tensors that this state has.

    Raises:
        `ValueError`: the folder is of another encoding, or of something else. `OSError`: it cannot be written.
    """

    def __init__(
        self,
        target: str | os.PathLike,
        source: dict[str, Any],
        sampling: dict[str, Any],
        fingerprint: str | None,
        dtype: torch.dtype,
        keeps: tuple[str, ...] = (),
    ):
        self.target = os.fspath(target)
        self.folder = f"{self.target}.parts"
        self._keeps = keeps
        self._has_checksums = True
        # The same video may be given by another path, or be a copy.
        source = {name: value for name, value in source.items() if name not in ("name", "modified")}
        key = {
            "source": source, "sampling": sampling, "fingerprint": fingerprint, "dtype": str(dtype), "keeps": [*keeps]
        }  # fmt: skip
        self._chunks: list[dict[str, torch.Tensor]] = []
        self._since = time.monotonic()
        if os.path.isdir(self.target):
            raise ValueError(f"{self.target}: is a folder; name a file to save the state in.")
        parent = os.path.dirname(os.path.abspath(self.target))
        if not os.path.isdir(parent):
            raise ValueError(f"{self.target}: there is no folder {parent}; create it first.")
        if os.path.isdir(self.folder) and any(not name.endswith(_LEFTOVERS) for name in os.listdir(self.folder)):
            self._check(key)
        else:
            os.makedirs(self.folder, exist_ok=True)
            with written_whole(os.path.join(self.folder, _MANIFEST)) as file:
                file.write(json.dumps({"format": _FORMAT, **key}).encode())
        self._sizes = self._sizes_of_parts()

    @property
    def num_frames(self) -> int:
        """Number of encoded frames, in the parts or not yet written."""
        return sum(self._sizes) + sum(len(chunk[_NUMBERS]) for chunk in self._chunks)

    @property
    def last_frame_index(self) -> int:
        """Number in the video of the last frame in the parts; -1 if there is none."""
        if not self._sizes:
            return -1
        with safe_open(self._paths()[-1], framework="pt") as file:
            return int(file.get_tensor(_NUMBERS)[-1])

    def add(self, chunk: dict[str, torch.Tensor]) -> None:
        """The tensors `(n, …)` of the next n frames, in host memory, with `frame_times` and `frame_indices`."""
        self._chunks.append(chunk)
        num_bytes = sum(tensor.nbytes for one in self._chunks for tensor in one.values())
        if num_bytes >= _PART_BYTES or time.monotonic() - self._since >= _PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was added. Raises `OSError` if that fails; earlier parts are kept."""
        if not self._chunks:
            return
        part = {name: torch.cat([chunk[name] for chunk in self._chunks]) for name in self._chunks[0]}
        try:
            path = os.path.join(self.folder, _part_name(len(self._sizes)))
            write_tensors(path, {name: Column.of(tensor) for name, tensor in part.items()}, _PART_NOTES)
        except OSError as error:
            cause = error.__cause__
            reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else error
            raise OSError(
                f"{self.target}: cannot be saved: {reason}; the first {sum(self._sizes)} frames are kept, and the "
                "same call continues after them."
            ) from error
        self._sizes.append(len(part[_NUMBERS]))
        self._chunks = []
        self._since = time.monotonic()

    @contextmanager
    def kept_when_interrupted(self, expected: int) -> Iterator[None]:
        """
        If the encoding of `expected` frames is interrupted within this context, write what was added and raise an
        error that says how to continue.

        Raises:
            `ValueError`: another process encodes into the same target, or a part is damaged.
        """
        with self._claimed():
            self._check_parts()
            yield from self._kept(expected)

    def _kept(self, expected: int) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            with suppress(OSError):
                self.flush()
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(
                    f"stopped after {self.num_frames} of {expected} frames; the same call continues there "
                    f"({self.folder} keeps them)."
                ) from None
            raise

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        """Locks the folder for this process, if the system has such locks; a killed process releases its lock."""
        try:
            fcntl: Any = importlib.import_module("fcntl")
        except ImportError:
            yield
            return
        with open(os.path.join(self.folder, f"claim{_LEFTOVERS[0]}"), "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_ours = self._sizes_of_parts() == self._sizes
            except BlockingIOError:
                is_ours = False
            if not is_ours:
                raise ValueError(
                    f"{self.target}: another process is encoding into {self.folder}; wait for it, or save the state "
                    "elsewhere."
                )
            yield

    def finish(self, fingerprint: str | None, sampling: dict[str, Any]) -> VideoState:
        """Join the parts in the target, one tensor of one part at a time, and delete them."""
        self.flush()
        paths, frames = self._paths(), self.num_frames
        numbers = torch.cat(list(_Pieces(paths, _NUMBERS)()))
        if len(numbers) != frames or bool((numbers.diff() <= 0).any()):
            raise ValueError(
                f"{self.target}: the parts in {self.folder} do not belong together: delete that folder to start again."
            )
        with safe_open(paths[0], framework="pt") as file:
            first = {name: file.get_tensor(name) for name in file.keys()}
        columns = {
            name: Column(tensor.dtype, (1, frames, *tensor.shape[1:]), _Pieces(paths, name))
            for name, tensor in first.items()
            if name != _NUMBERS or _NUMBERS in self._keeps
        }
        if _RAGGED in columns:
            num_bytes = sum(map(len, _Pieces(paths, _RAGGED)()))
            columns[_RAGGED] = Column(torch.uint8, (num_bytes,), _Pieces(paths, _RAGGED))
        columns["frame_mask"] = Column.of(torch.ones(1, frames, dtype=torch.bool))
        write_state_file(self.target, columns, fingerprint, sampling)
        state = VideoState.load(self.target)
        # All at once: some remaining parts would look like an interrupted encoding.
        done = f"{self.folder}.{uuid.uuid4().hex[:8]}.done"
        os.replace(self.folder, done)
        shutil.rmtree(done, ignore_errors=True)
        return state

    def _paths(self) -> list[str]:
        names = sorted(name for name in os.listdir(self.folder) if name.endswith(".safetensors"))
        return [os.path.join(self.folder, name) for name in names]

    def _sizes_of_parts(self) -> list[int]:
        """Number of frames of each part. Raises `ValueError` if one of them is missing or broken."""
        sizes: list[int] = []
        for number, path in enumerate(self._paths()):
            if os.path.basename(path) != _part_name(number):
                raise self._not_complete()
            try:
                with safe_open(path, framework="pt") as file:
                    sizes.append(file.get_slice(_NUMBERS).get_shape()[0])
            except Exception:
                raise self._not_complete(path, sum(sizes)) from None
        return sizes

    def _check_parts(self) -> None:
        """Raises a `ValueError` if a part is damaged."""
        for number, path in enumerate(self._paths()):
            try:
                notes = read_notes(path)
                is_whole = is_unchanged(path, notes) or not (notes or self._has_checksums)
            except Exception:
                is_whole = False
            if not is_whole:
                raise self._not_complete(path, sum(self._sizes[:number]))

    def _not_complete(self, damaged: str | None = None, frames_before: int = 0) -> ValueError:
        ways = "delete that folder to start again"
        if damaged is not None:
            ways += (
                f", or {os.path.basename(damaged)}, which is damaged, and the parts after it to continue after "
                f"{frames_before} frames"
            )
        return ValueError(f"{self.target}: the parts in {self.folder} are not complete: {ways}.")

    def _check(self, key: dict[str, Any]) -> None:
        """Raises a `ValueError` if the folder is not of this encoding."""
        try:
            with open(os.path.join(self.folder, _MANIFEST), "rb") as file:
                found = json.load(file)
            known = isinstance(found, dict) and found.get("format") in (_FORMAT, _WITHOUT_CHECKSUMS)
        except (OSError, ValueError, RecursionError):
            known = False
        if not known:
            raise ValueError(f"{self.folder}: is not the folder of an interrupted encoding; save the state elsewhere.")
        # Parts of earlier versions; those added later have one.
        self._has_checksums = found["format"] == _FORMAT
        mine = json.loads(json.dumps(key))
        made_by = found.get("fingerprint")
        is_known = made_by is None or is_fingerprint(made_by)
        changed = {
            "the video": found.get("source") != mine["source"],
            "the sampling": found.get("sampling") != mine["sampling"],
            "the precision of the state": found.get("dtype") != mine["dtype"],
            "what is kept of the frames": found.get("keeps", []) != mine["keeps"],
            "the model": not is_known or difference(made_by, mine["fingerprint"]) is not None,
        }
        if names := [name for name, differs in changed.items() if differs]:
            raise ValueError(
                f"{self.target}: an interrupted encoding lies in {self.folder}, but {' and '.join(names)} "
                f"{'has' if len(names) == 1 else 'have'} changed: delete that folder to start again, or save the "
                "state elsewhere."
            )


def _part_name(number: int) -> str:
    return f"part-{number:06d}.safetensors"


class _Pieces:
    """The pieces of a tensor in the parts, one at a time."""

    def __init__(self, paths: list[str], name: str):
        self.paths, self.name = paths, name

    def __call__(self) -> Iterator[torch.Tensor]:
        for path in self.paths:
            with safe_open(path, framework="pt") as file:
                yield file.get_tensor(self.name)


__all__ = ["StateParts"]
