"""Looking at a video with a dual encoder, and choosing its key frames for a question, without a language model."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from dynfocus.processing.reading.decoded_frames import as_rgb_frames, is_decoded
from dynfocus.processing.reading.video_reading import open_video, resize_frame, target_size
from dynfocus.selecting.rules import Rule
from dynfocus.towers.dual_encoder import DualEncoder

from .relevance import relevance_of
from .video_frames import VideoFrames

_CHUNK_FRAMES = 64


@dataclass(frozen=True)
class LookedAt:
    """
    A video that a dual encoder has looked at, whatever the question.

    Args:
        video: its frames.
        numbers: of the T frames that were looked at.
        embeddings: unit vectors, float32 `(T, D)`.
    """

    video: VideoFrames
    numbers: list[int]
    embeddings: torch.Tensor

    def key_frames(self, encoder: DualEncoder, question: str, num_key: int, rule: Rule) -> list[int]:
        """The sorted numbers of the frames that a rule chooses by their relevance to the question."""
        relevance = relevance_of(encoder, self.embeddings, question)
        times = torch.as_tensor(self.video.times[self.numbers], device=relevance.device)
        chosen = rule(relevance, num_key, features=self.embeddings, times=times)
        return [self.numbers[index] for index in chosen.tolist()]


def look_at(video: Any, encoder: DualEncoder, fps: float = 1.0) -> LookedAt:
    """
    Looks at a video once, from its start to its end; of full-size frames no more than a few are held.

    Args:
        video: a file, URL or bytes; or decoded frames `(T, H, W, 3)`, all of which are seen, `1 / fps` seconds apart.
        fps: frames a second.

    Raises:
        `ValueError`: what is no readable video. `FileNotFoundError`: there is none.
    """
    if is_decoded(video):
        decoded = as_rgb_frames(video)
        frames = VideoFrames.decoded(decoded, np.arange(len(decoded)) / fps)
        numbers = np.arange(len(decoded))
    else:
        opened = open_video(video, fps=fps)
        frames, numbers = VideoFrames.opened(opened), opened.wanted

    def small() -> Iterator[tuple[int, np.ndarray]]:
        for number, frame in frames.read(numbers.tolist()):
            height, width, _ = frame.shape
            yield number, resize_frame(frame, target_size(height, width, encoder.size))

    seen: list[int] = []
    embeddings = []
    pictures = small()
    while chunk := list(islice(pictures, _CHUNK_FRAMES)):
        seen += [number for number, _ in chunk]
        embeddings.append(encoder.encode_images(np.stack([frame for _, frame in chunk])))
    return LookedAt(frames, seen, torch.cat(embeddings))


__all__ = ["LookedAt", "look_at"]
