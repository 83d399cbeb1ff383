"""How far the encoding of a video is: a bar, or a function of the caller's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from transformers.utils.logging import tqdm

Progress: TypeAlias = bool | Callable[[int, int], None]


@contextmanager
def progress_reports(progress: Progress, done: int, total: int) -> Iterator[Callable[[int, float], None]]:
    """
    What is to be called with the number of frames done and the seconds of video that they reach to.

    Args:
        progress: `True` draws a bar, `False` nothing; a function is called with the frames done and all of them.
        done, total: frames at the start, and in all.
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
            # Where bars are switched off, `bar` counts nothing.
            nonlocal shown
            minutes, rest = divmod(int(seconds), 60)
            bar.set_postfix_str(f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} of video", refresh=False)
            bar.update(now - shown)
            shown = now

        yield move


__all__ = ["Progress", "progress_reports"]
