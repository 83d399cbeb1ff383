"""What is known of videos before any question is asked: computed once, asked many times."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from .fingerprint import difference
from .state_file import Column, read_state_file, write_state_file

_TENSORS = ("frame_features", "grouped_tokens", "parent_of_token", "frame_mask", "patches", "frame_times")
_FEATURES = ("frame_features", "grouped_tokens", "patches")


@dataclass
class VideoState:
    """
    Question-free features of a batch of videos (V videos, T frames, padded; `frame_mask` marks the real ones).

    Args:
        frame_features (`torch.Tensor` of shape `(V, T, g², D)`): patches pooled to a g×g grid.
        grouped_tokens (`torch.Tensor` of shape `(V, T, N, D)`):
            multi-grained tokens (S-DPC): for each coarse group of patches its mean, then the means of its fine groups.
        parent_of_token (`torch.Tensor` of shape `(V, T, N)`, int64, or uint8 where a state is kept):
            the coarse group of each grouped token.
        frame_mask (`torch.Tensor` of shape `(V, T)`, bool).
        patches (`torch.Tensor` of shape `(V, T, P, D)`, *optional*):
            kept only where the question encoder looks at all patches (`question_context="patches"`).
        frame_times (`torch.Tensor` of shape `(V, T)`, float64, *optional*): seconds of each frame in its video.
        fingerprint (`str`, *optional*): of what encoded it, see `DynFocusModel.video_fingerprint`.
        sampling (`dict`, *optional*):
            where a single video's frames came from: `source`, `size` in bytes, `duration` in seconds, and the settings
            by which they were chosen.
    """

    frame_features: torch.Tensor
    grouped_tokens: torch.Tensor
    parent_of_token: torch.Tensor
    frame_mask: torch.Tensor
    patches: torch.Tensor | None = None
    frame_times: torch.Tensor | None = None
    fingerprint: str | None = None
    sampling: dict[str, Any] | None = None
    _base: "VideoState | None" = field(default=None, init=False, repr=False, compare=False)
    _event_cache: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return self.frame_mask.shape[0]

    @property
    def num_frames(self) -> list[int]:
        """Frames of each video, padding not counted."""
        return self.frame_mask.sum(1).tolist()

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
        """What was found in the videos without a question, kept for the next one; expansions share their base's."""
        return self.base._event_cache

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors that are present, by name."""
        found = ((name, getattr(self, name)) for name in _TENSORS)
        return {name: tensor for name, tensor in found if tensor is not None}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "VideoState":
        """Move to `device`; `dtype` applies to the features alone. Itself, with its cache, where nothing changes."""
        if self._base is not None:
            moved_base = self._base.to(device, dtype)
            return self if moved_base is self._base else moved_base.expand(len(self))
        tensors = self.tensors()
        moved: dict[str, Any] = {
            name: tensor.to(device=device, dtype=dtype if name in _FEATURES else None)
            for name, tensor in tensors.items()
        }
        return self if all(moved[name] is tensors[name] for name in tensors) else replace(self, **moved)

    def expand(self, count: int) -> "VideoState":
        """`count` rows that are views of one video, for as many questions. Raises `ValueError` for several videos."""
        if self._base is not None:
            return self._base.expand(count)
        if len(self) != 1:
            raise ValueError(f"Only a state of one video can be expanded, and this one holds {len(self)}.")
        rows: dict[str, Any] = {
            name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in self.tensors().items()
        }
        shared = replace(self, **rows)
        shared._base = self
        return shared

    @classmethod
    def stack(cls, states: Sequence["VideoState"]) -> "VideoState":
        """
        Several states as one batch, shorter videos padded with zeros. Rows of one and the same video stay views of it.

        Where some states have `frame_times`, the others count as one frame a second.

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
            if what := difference(fingerprints[0], fingerprint):
                raise ValueError(f"States of different {what} cannot form a batch: encode the videos with one model.")
        shapes = {tuple((name, *state.tensors()[name].shape[2:]) for name in _present(state)) for state in states}
        if len(shapes) > 1:
            raise ValueError("States of different models cannot form a batch: their tensors differ in shape.")
        rows: dict[str, list[torch.Tensor]] = {
            name: [row for state in states for row in state.tensors()[name]] for name in _present(first)
        }
        if any(state.frame_times is not None for state in states):
            rows["frame_times"] = [row for state in states for row in _times(state)]
        device = first.frame_mask.device
        columns: dict[str, Any] = {
            name: pad_sequence([one.to(device) for one in column], batch_first=True) for name, column in rows.items()
        }
        return cls(**columns, fingerprint=fingerprints[0] if fingerprints else None)

    def check_fingerprint(self, fingerprint: str | None) -> None:
        """`ValueError` where this state was encoded by something else; what is not known on both sides agrees."""
        if what := difference(self.fingerprint, fingerprint):
            raise ValueError(
                f"This video state was encoded with other {what}: encode the video again with this model."
            )

    def save(self, path: str | os.PathLike) -> None:
        """
        Write as safetensors; an older file at `path` survives a failure (written beside it, then renamed). Of a state
        made by `expand`, the one video is written.

        Raises:
            `OSError`: the file cannot be written, for example because the disk is full.
        """
        state = self.base
        columns = {name: Column.of(tensor) for name, tensor in state.tensors().items()}
        write_state_file(path, columns, state.fingerprint, state.sampling)

    @classmethod
    def load(cls, path: str | os.PathLike, device: str = "cpu") -> "VideoState":
        """Read what `save` wrote. Raises `FileNotFoundError`, or `ValueError` where the file is not a video state."""
        tensors, fingerprint, sampling = read_state_file(path, device)
        return cls(**tensors, fingerprint=fingerprint, sampling=sampling)


def _present(state: VideoState) -> list[str]:
    """Names of the tensors that all states of a model have."""
    return [name for name in state.tensors() if name != "frame_times"]


def _times(state: VideoState) -> torch.Tensor:
    if state.frame_times is not None:
        return state.frame_times
    seconds = torch.arange(state.frame_mask.shape[1], dtype=torch.float64)
    return seconds * state.frame_mask.cpu()


__all__ = ["VideoState"]
