"""Progress of an evaluation, and of a batch: what is done, how fast, time left."""

import time
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_SECONDS_BETWEEN_LINES = 60.0


class AnsweringProgress:
    """
    A bar on stderr if that is a terminal; otherwise one line a minute, for logs.

    Args:
        total: number of questions of this process.
        label: text before the bar.
        quiet: show nothing, as in all processes but the first.
    """

    def __init__(self, total: int, label: str, quiet: bool = False, console: Console | None = None):
        self.total, self.label, self.quiet = total, label, quiet
        self.console = console or Console(stderr=True, soft_wrap=True, highlight=False)
        self.done = self.judged = self.correct = 0
        self.start = self.last_line = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TextColumn("{task.fields[accuracy]}"),
            TimeRemainingColumn(),
        )
        shown = self.console.is_terminal and not quiet
        self.bar = Progress(*columns, console=self.console, transient=True, disable=not shown)
        self.task = self.bar.add_task(label, total=total, accuracy="")

    def __enter__(self) -> "AnsweringProgress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, verdicts: list[bool | None]) -> None:
        """Count further answered questions as right or wrong (`None`: not known yet)."""
        known = [verdict for verdict in verdicts if verdict is not None]
        self.done += len(verdicts)
        self.judged += len(known)
        self.correct += sum(known)
        self.bar.update(self.task, completed=self.done, accuracy=self.accuracy)
        now = time.monotonic()
        if not (self.console.is_terminal or self.quiet) and now - self.last_line >= _SECONDS_BETWEEN_LINES:
            self.last_line = now
            self.console.print(Text(self.line(now)))

    def reach(self, done: int, total: int) -> None:
        """Set the number of finished questions, without their results."""
        self.done, self.total = 0, total
        self.bar.update(self.task, total=total)
        self.update([None] * done)

    @property
    def accuracy(self) -> str:
        return f"accuracy {100 * self.correct / self.judged:.1f} %" if self.judged else ""

    def line(self, now: float) -> str:
        """The progress as one line, without a bar."""
        rate = self.done / max(now - self.start, 1e-9)
        left = (self.total - self.done) / rate if rate else 0.0
        parts = [f"{self.label} {self.done}/{self.total}", f"{rate:.2f} questions/s", self.accuracy]
        return ", ".join([part for part in parts if part] + [f"{left / 60:.0f} min left"])


class VideosProgress:
    """
    A line on stderr that is written again and again if that is a terminal; otherwise one line a minute, for logs.

    Args:
        total: number of videos that are left.
        done: videos that were finished before.
    """

    def __init__(self, total: int, done: int = 0, console: Console | None = None):
        self.total, self.before = total, done
        self.console = console or Console(stderr=True, soft_wrap=True, highlight=False)
        self.done = self.rows = self.failed = 0
        self.start: float | None = None
        self.last_line = time.monotonic()
        self.status = self.console.status("")

    def __enter__(self) -> "VideosProgress":
        if self.console.is_terminal:
            self.status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.status.stop()

    def update(self, rows: int, failed: int) -> None:
        """Count a finished video with its rows."""
        self.done += 1
        self.rows += rows
        self.failed += failed

    def wait(self, what: str) -> None:
        """Show the progress; `what` is waited for ("videos" once models answer)."""
        now = time.monotonic()
        if what == "videos" and self.start is None:
            self.start = now
        line = self.line(now) if what == "videos" else f"Waiting for {what}"
        if self.console.is_terminal:
            self.status.update(Text(line))
        elif now - self.last_line >= _SECONDS_BETWEEN_LINES:
            self.last_line = now
            self.console.print(Text(line))

    def line(self, now: float) -> str:
        """The progress as one line. The speed is that of this start, without loading the model."""
        parts = [f"{self.before + self.done:,} of {self.before + self.total:,} videos"]
        if self.failed:
            parts.append(f"{self.failed:,} of {self.rows:,} rows with an error")
        if self.done and self.start is not None:
            rate = self.done / max(now - self.start, 1e-9)
            left = timedelta(seconds=round((self.total - self.done) / rate))
            parts += [f"{3600 * rate:,.0f} videos an hour", f"{left} left"]
        return ", ".join(parts)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.2f} questions/s", style="dim")


__all__ = ["AnsweringProgress", "VideosProgress"]
