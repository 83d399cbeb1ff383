"""Finds the moments of a video that fit a text, with a dual encoder only."""

import importlib
import os
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynfocus.processing.reading.video_reading import open_video
from dynfocus.selecting.rules import peaks
from dynfocus.states.video_state import VideoState
from dynfocus.towers.dual_encoder import DualEncoder

from .looking import check_state, frame_times, look, open_frames
from .relevance import similarity, text_vectors

_TICKS = 90_000


@dataclass(frozen=True)
class Moment:
    """
    A moment of a video.

    Args:
        time (`float`): seconds from the start of the video.
        score (`float`): cosine similarity of its frame and the text.
    """

    time: float
    score: float


def look_at(video: Any, encoder: DualEncoder, *, progress: Any = False, **sampling: Any) -> VideoState:
    """The state of a video; see [`open_frames`] and [`look`]."""
    return look(open_frames(video, encoder, **sampling), encoder, progress=progress)


def find_moments(state: VideoState, text: str, encoder: DualEncoder, top: int = 5) -> list[Moment]:
    """
    The `top` moments of one video that fit a text best and differ from each other, best first: density peaks with the
    similarity as the density (see `selecting.rules.peaks`).

    Raises:
        `ValueError`: for a state of several videos, or of another encoder.
    """
    if len(state) != 1 or state.frame_embeddings is None:
        raise ValueError(
            "Moments are found in the state of one video from a dual encoder, which `dynfocus encode` writes for a "
            "stock model; give the video itself."
        )
    check_state(state, encoder)
    embeddings, times = state.frame_embeddings[0].float(), frame_times(state)
    scores = similarity(embeddings, text_vectors(encoder, [text])).cpu()
    found = peaks(scores, top, features=embeddings, times=torch.as_tensor(times))
    moments = [Moment(times[index], float(scores[index])) for index in found.tolist()]
    return sorted(moments, key=lambda moment: (-moment.score, moment.time))


def write_clip(video: Any, start: float, end: float, path: str | os.PathLike[str]) -> Path:
    """
    Write the frames of a video between two times in seconds as an MP4 file (H.264, without sound), with their own
    times.

    Raises:
        `ImportError`: without PyAV. `OSError`: the file cannot be written.
    """
    av = importlib.import_module("av")
    opened = open_video(video, on_truncated="warn")
    times = opened.index.times
    numbers = np.flatnonzero((times >= max(0.0, start) - 1e-6) & (times <= end))
    if not len(numbers):
        numbers = np.array([max(0, int(np.searchsorted(times, start, side="right")) - 1)])
    with av.open(os.fspath(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=max(1, round(opened.index.fps)))
        # Frames in 4:2:0 need even sides.
        height, width = opened.metadata.height // 2 * 2, opened.metadata.width // 2 * 2
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
        for number, frame in replace(opened, wanted=numbers, size=None, transform=None).frames():
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
            picture.time_base = Fraction(1, _TICKS)
            picture.pts = round((times[number] - times[numbers[0]]) * _TICKS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return Path(path)


__all__ = ["Moment", "find_moments", "look_at", "write_clip"]
