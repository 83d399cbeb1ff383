"""A video's frames as pixels, chunk by chunk, read ahead in a thread: a long video is never in memory as a whole."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from itertools import islice
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

T = TypeVar("T")
Frames = Iterator[tuple[int, np.ndarray]]

# One chunk is read, one waits, one is in use.
_CHUNKS_AHEAD = 1
_PATIENCE = 0.05  # seconds


class FrameChunk(NamedTuple):
    """
    Some frames of a video.

    Args:
        pixel_values (`torch.Tensor` of shape `(n, 3, H, W)`, float32): normalised.
        times (`torch.Tensor` of shape `(n,)`, float64): seconds from the start of the video.
        frame_indices (`torch.Tensor` of shape `(n,)`, int64): numbers of the frames in the video.
    """

    pixel_values: torch.Tensor
    times: torch.Tensor
    frame_indices: torch.Tensor


class KeptFrameChunk(NamedTuple):
    """
    A [`FrameChunk`] with the frames as JPEG files.

    Args:
        jpegs (`list[bytes]`): each frame as it was decoded, as a JPEG file.
    """

    pixel_values: torch.Tensor
    times: torch.Tensor
    frame_indices: torch.Tensor
    jpegs: list[bytes]


class FrameStream:
    """
    Chunks of a video's sampled frames, in order; made by [`DynFocusVideoProcessor.stream`].

    The first `next` starts a thread that reads at most two chunks ahead of the one in use. An error in it is raised by
    `next`; `close`, the end of a `with`, an error and the last chunk end the thread and close the file.

    Args:
        frames: called with a number, yields the frames `(number, (height, width, 3) uint8)` above it; with
            `keeps_frames`, each frame is a pair with the bytes of its JPEG file.
        times (`np.ndarray` of shape `(N,)`): seconds of all frames of the video, by number.
        num_frames: number of frames, if all of them can be decoded.
        to_pixels: converts `(n, 3, H, W)` uint8 to normalised `(n, 3, H, W)`.
        chunk_frames: frames of a chunk; the last one may be shorter.
        duration: seconds of the whole video.
        source: identifies the video, such as its size and a digest.
        sampling: the settings by which the frames were chosen.
        pixel_fingerprint: fingerprint of the settings that determine a frame's pixels; `None` if the encoder's
            fingerprint includes them.
        pin_memory: whether to use pinned memory, for asynchronous copies to a GPU.
        keeps_frames: chunks are [`KeptFrameChunk`]s.
    """

    def __init__(
        self,
        frames: Callable[[int], Frames],
        times: np.ndarray,
        *,
        num_frames: int,
        to_pixels: Callable[[torch.Tensor], torch.Tensor],
        chunk_frames: int,
        duration: float | None,
        source: dict[str, Any],
        sampling: dict[str, Any],
        pixel_fingerprint: str | None,
        pin_memory: bool = False,
        keeps_frames: bool = False,
    ):
        if chunk_frames < 1:
            raise ValueError(f"`chunk_frames` is {chunk_frames}: it must be at least 1.")
        self.num_frames = num_frames
        self.duration = duration
        self.source = source
        self.sampling = sampling
        self.pixel_fingerprint = pixel_fingerprint
        self.keeps_frames = keeps_frames
        self._frames, self._times = frames, times
        self._to_pixels, self._chunk_frames, self._pin_memory = to_pixels, chunk_frames, pin_memory
        self._after = -1
        self._chunks: Generator[FrameChunk | KeptFrameChunk, None, None] | None = None
        self._first: FrameChunk | KeptFrameChunk | None = None

    def start(self) -> "FrameStream":
        """Start reading: the first chunk at once, the next ones in a thread."""
        if self._chunks is None:
            self._first = next(self)
        return self

    def start_after(self, frame_index: int) -> None:
        """Skip the frames up to this number, which are then not decoded. Only before the first chunk."""
        if self._chunks is not None:
            raise ValueError("The stream has begun: open another one to start elsewhere.")
        self._after = frame_index

    def __iter__(self) -> "FrameStream":
        return self

    def __next__(self) -> FrameChunk | KeptFrameChunk:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._chunks is None:
            self._chunks = self._start()
        return next(self._chunks)

    def close(self) -> None:
        """End the thread and close the file; there are no more chunks then."""
        self._first = None
        if self._chunks is None:
            self._chunks = self._start()
        self._chunks.close()

    def __enter__(self) -> "FrameStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> Generator[FrameChunk | KeptFrameChunk, None, None]:
        # The thread must not hold a reference to the stream: a stream dropped without `close` could not end the
        # thread.
        items = _chunks(
            self._frames(self._after),
            self._times,
            self._to_pixels,
            self._chunk_frames,
            self._pin_memory,
            self.keeps_frames,
        )
        return read_ahead(items, _CHUNKS_AHEAD)


def _chunks(
    frames: Frames,
    times: np.ndarray,
    to_pixels: Callable[[torch.Tensor], torch.Tensor],
    chunk_frames: int,
    pin_memory: bool,
    keeps_frames: bool,
) -> Generator[FrameChunk | KeptFrameChunk, None, None]:
    while chunk := list(islice(frames, chunk_frames)):
        numbers, arrays = zip(*chunk, strict=True)
        jpegs: Any = None
        if keeps_frames:
            arrays, jpegs = zip(*arrays, strict=True)
        pixels = to_pixels(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)).contiguous()
        indices = np.array(numbers, dtype=np.int64)
        made = FrameChunk(
            pixels.pin_memory() if pin_memory else pixels,
            torch.from_numpy(times[indices].astype(np.float64)),
            torch.from_numpy(indices),
        )
        yield KeptFrameChunk(*made, list(jpegs)) if keeps_frames else made
        del chunk, arrays, pixels, made, jpegs


def read_ahead(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """
    The same items, produced in a thread that is at most `depth` items ahead.

    When the iteration ends (by its end, an error on either side, Ctrl-C or `close`), `items` is closed in the thread
    and the thread ends before anything else happens.
    """
    queue: Queue[tuple[Any, BaseException | None, bool]] = Queue(depth)
    stopped = Event()

    def put(item: Any, error: BaseException | None = None, is_last: bool = False) -> None:
        while not stopped.is_set():
            with suppress(Full):
                return queue.put((item, error, is_last), timeout=_PATIENCE)

    def produce() -> None:
        error = None
        try:
            with closing(items):
                for item in items:
                    put(item)
                    del item
                    if stopped.is_set():
                        break
        except BaseException as raised:  # raised for the caller that waits for the next item
            error = raised
        put(None, error, is_last=True)

    thread = Thread(target=produce, name="dynfocus-reader", daemon=True)
    thread.start()
    try:
        while True:
            item, error, is_last = queue.get()
            if error is not None:
                raise error
            if is_last:
                return
            yield item
            del item
    finally:
        stopped.set()
        while thread.is_alive():
            with suppress(Empty):
                queue.get_nowait()
            thread.join(_PATIENCE)


__all__ = ["FrameChunk", "FrameStream", "KeptFrameChunk", "read_ahead"]
