"""Checks of a video state before it is used: names, shapes, types, ranges, and finite numbers."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from .fingerprint import is_fingerprint

#: Dtypes of a frame's features.
FEATURE_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# Columns of known meaning, with the names of their dimensions after videos and frames.
_FRAMES = ("videos", "frames")
_DIMENSIONS = {
    "frame_features": ("cells", "width"),
    "grouped_tokens": ("tokens", "width"),
    "parent_of_token": ("tokens",),
    "patches": ("patches", "width"),
    "frame_embeddings": ("width",),
}
_GROUP_DTYPES = (torch.uint8, torch.int64)
# These are present together or not at all.
_TOGETHER = ("frame_features", "grouped_tokens", "parent_of_token")
# Tolerance for the length of a unit vector; bfloat16 has 8 bits.
_UNIT_TOLERANCE = 0.02
# Frames that are searched at a time for the first bad value.
_BLOCK = 256


def shape_fault(state: Any) -> str | None:
    """
    What is wrong with the parts of a [`VideoState`] except the values of its columns, to follow its name in a message.
    """
    return next(_shape_faults(state), None)


def column_fault(columns: Mapping[str, torch.Tensor], expected: Mapping[str, tuple[int, ...]]) -> str | None:
    """How columns `(V, T, …)` differ from the expected ones, whose shapes are those of one frame."""
    for name in (*expected, *columns):
        if name not in columns:
            return f"has no `{name}`, which this model needs"
        if name not in expected:
            return f"has `{name}`, which this model does not use"
        found = tuple(columns[name].shape[2:])
        if found != expected[name]:
            return f"has {found} numbers in `{name}` of each frame, where this model has {expected[name]}"
    return None


def value_fault(name: str, column: torch.Tensor, frame_mask: torch.Tensor, limit: int | None = None) -> str | None:
    """
    What is wrong with the values of a column `(V, T, …)` of the right shape. The column is not copied.

    Args:
        limit: upper limit (exclusive) of the numbers in `parent_of_token`; by default the number of tokens.
    """
    # Rows that are views of one video are checked once.
    rows = column[:1] if column.stride(0) == 0 else column
    if name == "parent_of_token":
        limit = column.shape[2] if limit is None else limit
        low, high = (int(value) for value in rows.aminmax())
        if low < 0 or high >= limit:
            where = _first_frame(rows, lambda block: (block < 0) | (block >= limit))
            return f"has groups in `{name}` that are not in 0…{limit - 1} ({where})"
    if column.is_floating_point() and not is_finite(rows):
        return f"holds NaN or infinite numbers in `{name}` ({_first_frame(rows, lambda block: ~block.isfinite())})"
    if name == "frame_embeddings":
        for row, mask in zip(rows, frame_mask, strict=False):
            for block, is_real in zip(row.split(_BLOCK), mask.to(row.device).split(_BLOCK), strict=True):
                if bool((((block.float().norm(dim=-1) - 1).abs() > _UNIT_TOLERANCE) & is_real).any()):
                    return f"holds vectors in `{name}` that are not of length 1"
    return None


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all floating-point numbers of a tensor are finite; takes as long as reading them."""
    # One pass without a copy; the minimum and maximum of NaN are NaN. A sum could overflow.
    return bool(torch.stack(tensor.aminmax()).isfinite().all())


def _shape_faults(state: Any) -> Iterator[str]:
    mask = state.frame_mask
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool or mask.dim() != 2 or mask.numel() == 0:
        yield f"has a `frame_mask` that is {_described(mask)} instead of (videos, frames) torch.bool"
        return
    if not bool(mask.any(1).all()) or bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        yield "has a `frame_mask` with a hole in it, or with no frame of a video"
        return
    if not state.columns:
        yield "has no features"
    yield from _faults_of_columns(state.columns, mask.shape)
    yield from _faults_of_numbers("frame_times", state.frame_times, torch.float64, mask)
    yield from _faults_of_numbers("frame_indices", state.frame_indices, torch.int64, mask)
    yield from _faults_of_jpegs(state, mask)
    if state.fingerprint is not None and not is_fingerprint(state.fingerprint):
        yield "has an invalid `fingerprint`"
    yield from _faults_of_sampling(state.sampling)


def _faults_of_columns(columns: Mapping[str, torch.Tensor], frames: torch.Size) -> Iterator[str]:
    for name, column in columns.items():
        dimensions = _DIMENSIONS.get(name)
        is_tensor = isinstance(column, torch.Tensor) and column.shape[:2] == frames and column.numel() > 0
        if not is_tensor or (dimensions is not None and column.dim() != 2 + len(dimensions)):
            wanted = (*map(str, frames), *(dimensions or ("…",)))
            yield f"has `{name}` that is {_described(column)} instead of ({', '.join(wanted)})"
            return
        dtypes: tuple[torch.dtype, ...] = (
            FEATURE_DTYPES if dimensions is not None else (*FEATURE_DTYPES, *_GROUP_DTYPES)
        )
        dtypes = _GROUP_DTYPES if name == "parent_of_token" else dtypes
        if column.dtype not in dtypes:
            wanted_type = "torch.uint8 or torch.int64" if name == "parent_of_token" else "a floating-point type"
            yield f"has `{name}` of type {column.dtype} instead of {wanted_type}"
            return
    found_dtypes = {column.dtype for column in columns.values() if column.is_floating_point()}
    if len(found_dtypes) > 1:
        yield f"has features of several types, {' and '.join(sorted(map(str, found_dtypes)))}"
    found = [name for name in _TOGETHER if name in columns]
    if found and len(found) < len(_TOGETHER):
        yield f"has no `{next(name for name in _TOGETHER if name not in columns)}` beside its `{found[0]}`"
        return
    if found and columns["parent_of_token"].shape != columns["grouped_tokens"].shape[:3]:
        yield "has other numbers of tokens in `parent_of_token` than in `grouped_tokens`"
    widths = {column.shape[-1] for name, column in columns.items() if _DIMENSIONS.get(name, ())[1:] == ("width",)}
    if len(widths) > 1:
        yield f"has features of several widths, {' and '.join(map(str, sorted(widths)))}"


def _faults_of_numbers(
    name: str, numbers: torch.Tensor | None, dtype: torch.dtype, mask: torch.Tensor
) -> Iterator[str]:
    """What is wrong with a tensor of one number for each frame, which must increase from frame to frame."""
    if numbers is None:
        return
    if not isinstance(numbers, torch.Tensor) or numbers.shape != mask.shape or numbers.dtype != dtype:
        yield f"has `{name}` that is {_described(numbers)} instead of {tuple(mask.shape)} {dtype}"
        return
    mask = mask.to(numbers.device)
    if not bool(numbers.isfinite().all()) or bool((numbers < 0).any()):
        yield f"has `{name}` that are NaN, infinite or negative"
    elif bool(((numbers.diff() <= 0) & mask[:, 1:]).any()):
        yield f"has `{name}` that do not increase from frame to frame"


def _faults_of_jpegs(state: Any, mask: torch.Tensor) -> Iterator[str]:
    sizes, data = state.jpeg_sizes, state.jpeg_bytes
    if sizes is None and data is None:
        return
    for name, tensor, dimensions, dtype in (
        ("jpeg_sizes", sizes, tuple(mask.shape), torch.int64),
        ("jpeg_bytes", data, ("bytes",), torch.uint8),
    ):
        is_right = isinstance(tensor, torch.Tensor) and tensor.dtype == dtype and tensor.dim() == len(dimensions)
        if not is_right or (name == "jpeg_sizes" and tensor.shape != mask.shape):
            yield f"has `{name}` that is {_described(tensor)} instead of {dimensions} {dtype}"
            return
    sizes, mask = (rows[:1] if state.is_shared else rows for rows in (sizes, mask.to(sizes.device)))
    # As Python integers, which do not overflow.
    if bool(((sizes > 0) != mask).any()) or sum(sizes[mask].tolist()) != len(data):
        yield "has `jpeg_sizes` that do not fit its `jpeg_bytes`"


def _faults_of_sampling(sampling: Any) -> Iterator[str]:
    if sampling is None:
        return
    if not isinstance(sampling, dict):
        yield "has an invalid `sampling`"
        return
    size, duration = sampling.get("size"), sampling.get("duration")
    are_right = {
        "source": isinstance(sampling.get("source"), (str, type(None))),
        "encoder": isinstance(sampling.get("encoder"), (dict, type(None))),
        "digest": isinstance(sampling.get("digest"), (str, type(None))),
        "size": size is None or (_is_number(size, int) and size >= 0),
        "duration": duration is None or (_is_number(duration, (int, float)) and 0 <= duration < math.inf),
    }
    for name, is_right in are_right.items():
        if not is_right:
            yield f"has an invalid `{name}` in its `sampling`"


def _is_number(value: Any, types: Any) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _described(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"


def _first_frame(column: torch.Tensor, is_bad: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """The place of the first bad value of `(V, T, …)`, in words."""
    for video, row in enumerate(column):
        for start in range(0, len(row), _BLOCK):
            frames = is_bad(row[start : start + _BLOCK]).flatten(1).any(1).nonzero()
            if len(frames):
                return f"first in frame {start + int(frames[0])} of video {video}"
    return "anywhere"


__all__ = ["FEATURE_DTYPES", "column_fault", "is_finite", "shape_fault", "value_fault"]
