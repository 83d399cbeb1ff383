"""Progress of the encoding of a video: a bar, or a callback."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from transformers.utils.logging import tqdm

Progress: TypeAlias = bool | Callable[[int, int], None]


@contextmanager
def progress_reports(progress: Progress, done: int, total: int) -> Iterator[Callable[[int, float], None]]:
    """
    A function to call with the number of frames done and the seconds of video that they cover.

    Args:
        progress: `True` draws a bar, `False` nothing; a function is called with the number of frames done and of all
            frames.
        done, total: number of frames at the start, and of all frames.
    """
    if callable(progress):
        report = progress
        report(done, total)
        yield lambda now, seconds: report(now, total)
        return
    if not progress:
        yield lambda now, seconds: None
        return
    shown = done
    with tqdm(total=total, initial=done, unit="frame", desc="Encoding") as bar:

        def move(now: int, seconds: float) -> None:
            # A bar that is switched off does not count.
            nonlocal shown
            minutes, rest = divmod(int(seconds), 60)
            bar.set_postfix_str(f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} of video", refresh=False)
            bar.update(now - shown)
            shown = now

        yield move


__all__ = ["Progress", "progress_reports"]
