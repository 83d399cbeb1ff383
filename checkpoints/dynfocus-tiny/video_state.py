"""What is known of videos before any question is asked: computed once, asked many times."""

import json
import os
from dataclasses import dataclass, fields, replace

import torch
from safetensors import safe_open
from safetensors.torch import save_file

_FORMAT = "dynfocus-video-state-1"


@dataclass
class VideoState:
    """
    Question-free features of a batch of videos (V videos, T frames, padded; `frame_mask` marks the real ones).

    Args:
        frame_features (`torch.Tensor` of shape `(V, T, g², D)`): patches pooled to a g×g grid.
        grouped_tokens (`torch.Tensor` of shape `(V, T, N, D)`):
            multi-grained tokens (S-DPC): for each coarse group of patches its mean, then the means of its fine groups.
        parent_of_token (`torch.Tensor` of shape `(V, T, N)`, int64): the coarse group of each grouped token.
        frame_mask (`torch.Tensor` of shape `(V, T)`, bool).
        patches (`torch.Tensor` of shape `(V, T, P, D)`, *optional*):
            kept only where the question encoder looks at all patches (`question_context="patches"`).
        frame_times (`torch.Tensor` of shape `(V, T)`, float64, *optional*): seconds of each frame in its video.
    """

    frame_features: torch.Tensor
    grouped_tokens: torch.Tensor
    parent_of_token: torch.Tensor
    frame_mask: torch.Tensor
    patches: torch.Tensor | None = None
    frame_times: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.frame_mask.shape[0]

    @property
    def num_frames(self) -> list[int]:
        """Frames of each video, padding not counted."""
        return self.frame_mask.sum(1).tolist()

    def tensors(self) -> dict[str, torch.Tensor]:
        """The fields that are present, by name."""
        found = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: tensor for name, tensor in found if tensor is not None}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "VideoState":
        """Move to `device`; `dtype` applies to the features alone."""
        features = ("frame_features", "grouped_tokens", "patches")
        moved = {
            name: tensor.to(device=device, dtype=dtype if name in features else None)
            for name, tensor in self.tensors().items()
        }
        return replace(self, **moved)

    def save(self, path: str | os.PathLike) -> None:
        """Write as safetensors; an older file at `path` survives a failure (written beside it, then renamed)."""
        partial = f"{os.fspath(path)}.partial"
        tensors = {name: tensor.contiguous().cpu() for name, tensor in self.tensors().items()}
        save_file(tensors, partial, metadata={"format": "pt", "dynfocus": json.dumps({"format": _FORMAT})})
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | os.PathLike, device: str = "cpu") -> "VideoState":
        """Read what `save` wrote. Raises `FileNotFoundError`, or `ValueError` where the file is not a video state."""
        if not os.path.isfile(path):
            raise FileNotFoundError(f"There is no video state at {os.fspath(path)}.")
        try:
            with safe_open(os.fspath(path), framework="pt", device=device) as file:
                known = json.loads((file.metadata() or {}).get("dynfocus", "{}")).get("format") == _FORMAT
                tensors = {name: file.get_tensor(name) for name in file.keys()} if known else {}
        except Exception as error:
            raise ValueError(f"{os.fspath(path)} is not a video state: {error}") from None
        if not known:
            raise ValueError(f"{os.fspath(path)} is not a video state: write one with `VideoState.save`.")
        return cls(**tensors)


__all__ = ["VideoState"]
