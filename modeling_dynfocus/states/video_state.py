"""`VideoState`: what is computed from videos once, before any question."""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from .fingerprint import difference
from .state_checks import column_fault, shape_fault, value_fault
from .state_file import Column, is_unchanged, read_state_file, write_state_file

# Tensors other than columns.
_OTHERS = ("frame_mask", "frame_times", "frame_indices", "jpeg_sizes", "jpeg_bytes")


class _NamedColumn:
    """A column as an attribute; `None` if the state has no such column."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, state: Any, owner: type) -> Any:
        return self if state is None else state.columns.get(self.name)

    def __set__(self, state: Any, tensor: torch.Tensor | None) -> None:
        if tensor is None:
            state.columns.pop(self.name, None)
        else:
            state.columns[self.name] = tensor


@dataclass(init=False, repr=False, eq=False)
class VideoState:
    """
    Question-free features of a batch of videos (V videos, T frames, padded; `frame_mask` marks the real ones).

    The features are named columns. Those of [`DynFocusModel`]:

    - `frame_features` (`torch.Tensor` of shape `(V, T, g², D)`): patches pooled to a g×g grid.
    - `grouped_tokens` (`torch.Tensor` of shape `(V, T, N, D)`): multi-grained tokens (S-DPC): for each coarse group of
      patches its mean, then the means of its fine groups.
    - `parent_of_token` (`torch.Tensor` of shape `(V, T, N)`, int64, or uint8 in kept states): the coarse group of each
      grouped token.
    - `patches` (`torch.Tensor` of shape `(V, T, P, D)`, *optional*): kept only if the question encoder reads all
      patches (`question_context="patches"`).

    That of a dual encoder:

    - `frame_embeddings` (`torch.Tensor` of shape `(V, T, D)`): a unit vector for each frame.

    Args:
        columns (`dict[str, torch.Tensor]`, *optional*): the features `(V, T, …)` of each frame, by name. Columns may
            also be given as keywords, and those above are also attributes.
        frame_mask (`torch.Tensor` of shape `(V, T)`, bool): the real frames, without padding.
        frame_times (`torch.Tensor` of shape `(V, T)`, float64, *optional*): seconds of each frame in its video.
        frame_indices (`torch.Tensor` of shape `(V, T)`, int64, *optional*): number of each frame in its video.
        jpeg_sizes (`torch.Tensor` of shape `(V, T)`, int64) and jpeg_bytes (`(B,)`, uint8, *optional*):
            the concatenated JPEG files of the frames, and the number of bytes of each; see `kept_frames`.
        fingerprint (`str`, *optional*): fingerprint of the encoder, see `DynFocusModel.video_fingerprint`.
        sampling (`dict`, *optional*):
            for a single video, where its frames came from: `source`, `size` in bytes, `duration` in seconds, and the
            settings of the sampling.
    """

    columns: dict[str, torch.Tensor]
    frame_mask: torch.Tensor
    frame_times: torch.Tensor | None
    frame_indices: torch.Tensor | None
    jpeg_sizes: torch.Tensor | None
    jpeg_bytes: torch.Tensor | None
    fingerprint: str | None
    sampling: dict[str, Any] | None
    _base: "VideoState | None" = field(init=False)
    _event_cache: dict[Any, Any] = field(init=False)
    # Tensors whose values were checked, with their versions.
    _checked: dict[Any, Any] = field(init=False)

    frame_features = _NamedColumn()
    grouped_tokens = _NamedColumn()
    parent_of_token = _NamedColumn()
    patches = _NamedColumn()
    frame_embeddings = _NamedColumn()

    def __init__(
        self,
        columns: Mapping[str, torch.Tensor] | None = None,
        *,
        frame_mask: torch.Tensor,
        frame_times: torch.Tensor | None = None,
        frame_indices: torch.Tensor | None = None,
        jpeg_sizes: torch.Tensor | None = None,
        jpeg_bytes: torch.Tensor | None = None,
        fingerprint: str | None = None,
        sampling: dict[str, Any] | None = None,
        **named_columns: torch.Tensor | None,
    ):
        given = {**(columns or {}), **named_columns}
        self.columns = {name: tensor for name, tensor in given.items() if tensor is not None}
        self.frame_mask = frame_mask
        self.frame_times = frame_times
        self.frame_indices = frame_indices
        self.jpeg_sizes = jpeg_sizes
        self.jpeg_bytes = jpeg_bytes
        self.fingerprint = fingerprint
        self.sampling = sampling
        self._base = None
        self._event_cache = {}
        self._checked = {}

    def __len__(self) -> int:
        return self.frame_mask.shape[0]

    def __repr__(self) -> str:
        tensors = (f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in self.tensors().items())
        return f"VideoState({', '.join(tensors)})"

    @property
    def num_frames(self) -> list[int]:
        """Number of frames of each video, without padding."""
        return self.frame_mask.sum(1).tolist()

    @property
    def dtype(self) -> torch.dtype | None:
        """Dtype of the floating-point columns."""
        return next((column.dtype for column in self.columns.values() if column.is_floating_point()), None)

    @property
    def is_shared(self) -> bool:
        """Whether all rows are one video, made by `expand`."""
        return self._base is not None

    @property
    def base(self) -> "VideoState":
        """The state of one video that `expand` was called on; of any other state, itself."""
        return self if self._base is None else self._base

    @property
    def event_cache(self) -> dict[Any, Any]:
        """
        Events of the videos, which do not depend on the question and are kept for the next one; expansions share the
        cache of their base.
        """
        return self.base._event_cache

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors that are present, by name."""
        others = ((name, getattr(self, name)) for name in _OTHERS)
        return {**self.columns, **{name: tensor for name, tensor in others if tensor is not None}}

    def kept_frames(self, numbers: Sequence[int], video: int = 0) -> list[Image.Image]:
        """
        Images of some frames of one video, as they were decoded.

        Args:
            numbers: which of the video's frames, counted from 0 in this state.
            video: the video's row.

        Raises:
            `ValueError`: this state keeps no frames, or they are damaged.
        """
        if self.jpeg_bytes is None or self.jpeg_sizes is None:
            raise ValueError("This video state keeps no frames: encode the video with `keep_frames=True`.")
        sizes = self.jpeg_sizes
        if self.is_shared:
            sizes, video = sizes[:1], 0
        ends = sizes.flatten().cumsum(0).view_as(sizes)[video].tolist()
        frames = []
        for number in numbers:
            data = self.jpeg_bytes[ends[number] - int(sizes[video, number]) : ends[number]].numpy().tobytes()
            try:
                frames.append(Image.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB"))
            except (OSError, SyntaxError) as error:
                raise ValueError(f"The picture of frame {number} in this video state is damaged: {error}.") from None
        return frames

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "VideoState":
        """
        Move to `device`; `dtype` applies to the features only, and frames kept as JPEG are not moved. Returns itself,
        with its cache, if nothing changes.
        """
        if self._base is not None:
            moved_base = self._base.to(device, dtype)
            return self if moved_base is self._base else moved_base.expand(len(self))
        columns = {
            name: column.to(device=device, dtype=dtype if column.is_floating_point() else None)
            for name, column in self.columns.items()
        }
        others = {name: getattr(self, name) for name in ("frame_mask", "frame_times", "frame_indices")}
        moved: dict[str, Any] = {
            name: None if tensor is None else tensor.to(device) for name, tensor in others.items()
        }
        is_same = all(columns[name] is column for name, column in self.columns.items())
        if is_same and all(moved[name] is tensor for name, tensor in others.items()):
            return self
        return replace(self, columns=columns, **moved)

    def expand(self, count: int) -> "VideoState":
        """`count` rows that are views of one video, for as many questions. Raises `ValueError` for several videos."""
        if self._base is not None:
            return self._base.expand(count)
        if len(self) != 1:
            raise ValueError(f"Only a state of one video can be expanded, and this one holds {len(self)}.")
        rows: dict[str, Any] = {
            name: tensor if name == "jpeg_bytes" else tensor.expand(count, *tensor.shape[1:])
            for name, tensor in self.tensors().items()
        }
        shared = VideoState(**rows, fingerprint=self.fingerprint, sampling=self.sampling)
        shared._base = self
        return shared

    @classmethod
    def stack(cls, states: Sequence["VideoState"]) -> "VideoState":
        """
        Several states as one batch; shorter videos are padded with zeros. Rows of the same video stay views of it.

        If some states have `frame_times`, the others count as one frame a second. Numbers and images of the frames are
        kept if all states have them.

        Raises:
            `ValueError`: no states, or states of different models.
        """
        if not states:
            raise ValueError("There are no states to stack.")
        first = states[0]
        if all(state.base is first.base for state in states) and (first.is_shared or len(first) == 1):
            return first if len(states) == 1 else first.base.expand(sum(map(len, states)))
        fingerprints = [state.fingerprint for state in states if state.fingerprint is not None]
        for fingerprint in fingerprints[1:]:
            if what := difference(fingerprints[0], fingerprint, is_dual="frame_embeddings" in first.columns):
                raise ValueError(f"States of different {what} cannot form a batch: encode the videos with one model.")
        shapes = [{name: column.shape[2:] for name, column in state.columns.items()} for state in states]
        if any(shape != shapes[0] for shape in shapes[1:]):
            raise ValueError("States of different models cannot form a batch: their tensors differ in shape.")
        tensors = [state.tensors() for state in states]
        if any("frame_times" in one for one in tensors):
            tensors = [{**one, "frame_times": _times(state)} for one, state in zip(tensors, states, strict=True)]
        names = [name for name in tensors[0] if all(name in one for one in tensors) and name != "jpeg_bytes"]
        device = first.frame_mask.device
        rows: dict[str, Any] = {
            name: pad_sequence([row.to(device) for one in tensors for row in one[name]], batch_first=True)
            for name in names
        }
        if "jpeg_sizes" in rows:
            rows["jpeg_bytes"] = torch.cat([each for state in states for each in _jpegs_of_rows(state)])
        return cls(**rows, fingerprint=fingerprints[0] if fingerprints else None)

    def check_fingerprint(self, fingerprint: str | None) -> None:
        """
        Raises a `ValueError` if this state was encoded by something else. Parts that are unknown on one side are not
        compared.
        """
        if what := difference(self.fingerprint, fingerprint):
            raise ValueError(
                f"This video state was encoded with other {what}: encode the video again with this model."
            )

    def check(self, columns: Mapping[str, tuple[int, ...]] | None = None, *, num_groups: int | None = None) -> None:
        """
        Raises a `ValueError` if something in this state is invalid: names, shapes, types, ranges, or numbers that are
        not finite.

        Tensors that were checked are not read again unless something was written to them.

        Args:
            columns: the columns that a model takes, with the shape of each one's frames, such as
                `{"frame_embeddings": (768,)}`.
            num_groups: upper limit (exclusive) of the numbers in `parent_of_token`.
        """
        if fault := self._fault(columns, num_groups):
            raise ValueError(f"This video state {fault}: encode the video again.")

    def _fault(
        self, columns: Mapping[str, tuple[int, ...]] | None = None, num_groups: int | None = None
    ) -> str | None:
        """What is wrong, to follow the name of the state in a message; `None` if nothing is."""
        fault = shape_fault(self) or (None if columns is None else column_fault(self.columns, columns))
        for name, column in self.columns.items():
            if fault is not None:
                return fault
            limit = num_groups if name == "parent_of_token" else None
            # Tensors of `inference_mode` have no version.
            mark = None if column.is_inference() else (column, column._version, limit)
            known = self._checked.get(name)
            if mark is not None and known is not None and known[0] is column and known[1:] == mark[1:]:
                continue
            fault = value_fault(name, column, self.frame_mask, limit)
            if fault is None and mark is not None:
                self._checked[name] = mark
        return fault

    def save(self, path: str | os.PathLike) -> None:
        """
        Write as safetensors. The file is written beside `path`, then renamed, so that an older file survives a
        failure. For a state made by `expand`, the one video is written.

        Raises:
            `ValueError`: this state is damaged, see `check`. `OSError`: the file cannot be written, for example
                because the disk is full.
        """
        state = self.base
        state.check()
        columns = {name: Column.of(tensor) for name, tensor in state.tensors().items()}
        write_state_file(path, columns, state.fingerprint, state.sampling)

    @classmethod
    def load(cls, path: str | os.PathLike, device: str = "cpu") -> "VideoState":
        """
        Load a saved state, and check it: the whole file is read once, in small blocks. In host memory, tensors stay in
        the file and are read when they are used.

        Raises:
            `FileNotFoundError`: there is no such file.
            `ValueError`: the file is not a video state, or it is damaged.
        """
        tensors, notes = read_state_file(path)
        others: Any = {name: tensors.pop(name) for name in _OTHERS if name in tensors}
        fault: str | None = "has no `frame_mask`"
        if "frame_mask" in others:
            state = cls(tensors, **others, fingerprint=notes.get("fingerprint"), sampling=notes.get("sampling"))
            # A file with a checksum was checked when it was written.
            fault = state._fault() if "checksum" not in notes else shape_fault(state)
        if fault is None and not is_unchanged(path, notes):
            fault = "is damaged (its contents do not match its checksum)"
        if fault is not None:
            raise ValueError(f"{os.fspath(path)} {fault}: encode the video again.")
        return state.to(device)


def _times(state: VideoState) -> torch.Tensor:
    if state.frame_times is not None:
        return state.frame_times
    seconds = torch.arange(state.frame_mask.shape[1], dtype=torch.float64)
    return seconds * state.frame_mask.cpu()


def _jpegs_of_rows(state: VideoState) -> list[torch.Tensor]:
    """The JPEG bytes of each video, if the state keeps its frames."""
    data, sizes = (state.tensors()[name] for name in ("jpeg_bytes", "jpeg_sizes"))
    return [data] * len(state) if state.is_shared else list(data.split(sizes.sum(1).tolist()))


__all__ = ["VideoState"]
