"""Writes an episode of the synthetic world as a real video file: H.264 in MP4, by PyAV."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .world import Episode, render_frame


def _load_av() -> Any:
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise ImportError("Writing videos needs PyAV: pip install av.") from error


def check_file(size: int, fps_container: int) -> None:
    """Raises a `ValueError` for settings with which no file can be written."""
    if size % 2:
        raise ValueError(f"size is {size}, but H.264 files need an even number of pixels; use {size + 1}.")
    if fps_container < 1:
        raise ValueError(f"fps_container is {fps_container}, but a file has at least 1 frame per second.")


def iter_video_frames(episode: Episode, fps_container: int = 8, size: int = 128) -> Iterator[np.ndarray]:
    """The file's frames, each `(size, size, 3)` uint8: frame `n` shows the world at second `n / fps_container`."""
    for index in range(episode.num_frames * fps_container):
        yield render_frame(episode, index / fps_container, size)


def write_episode(
    path: str | os.PathLike[str], episode: Episode, fps_container: int = 8, size: int = 128, crf: int = 22
) -> Path:
    """Write an MP4 file in which motion is smooth and the frame at second `t` is frame `t` of `render(episode)`.

    The same episode gives the same bytes (with the same encoder), because the encoder runs in one thread. The file
    appears under its name only when it is complete.

    Args:
        path (`str` or `os.PathLike`): where to write; its folder must exist.
        episode (`Episode`): the episode to show.
        fps_container (`int`, *optional*, defaults to 8): frames per second of the file.
        size (`int`, *optional*, defaults to 128): side of the square frames in pixels, an even number.
        crf (`int`, *optional*, defaults to 22): H.264 quality, 0 (lossless) to 51 (worst).
    """
    check_file(size, fps_container)
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"Cannot write {path}: its folder does not exist; create it first.")
    av = _load_av()
    part = path.with_name(path.name + ".part")
    try:
        options = {"movflags": "+faststart", "fflags": "+bitexact"}
        with av.open(str(part), "w", format="mp4", options=options) as container:
            stream = container.add_stream("libx264", rate=fps_container)
            stream.width = stream.height = size
            stream.pix_fmt = "yuv420p"
            stream.codec_context.thread_count = 1
            stream.options = {"crf": str(crf), "threads": "1", "bf": "0", "g": str(8 * fps_container)}
            for image in iter_video_frames(episode, fps_container, size):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


__all__ = ["check_file", "iter_video_frames", "write_episode"]
