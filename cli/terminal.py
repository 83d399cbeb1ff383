"""Output besides the result: progress and errors on stderr; messages of libraries are hidden."""

import contextlib
import io
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from threading import Lock, Timer

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from .wording import in_options, of_the_system

_PATIENCE = 1.0  # seconds


class UserError(Exception):
    """A mistake of the user, in one sentence with the way out."""


@contextlib.contextmanager
def user_errors(verbose: bool = False) -> Iterator[None]:
    """Turns errors into exit code 1 and one sentence on stderr, with the traceback before it if `verbose`."""
    try:
        yield
    except (UserError, ValueError, OSError, ImportError) as error:
        if isinstance(error, BrokenPipeError):
            # The reader of our output has closed the pipe, as `head` does; typer handles this.
            raise
        print_error(error, verbose)
        raise typer.Exit(1) from None


def print_error(error: Exception, verbose: bool = False) -> None:
    """One sentence on stderr, with the traceback before it if `verbose`."""
    if verbose:
        traceback.print_exception(error)
    console = Console(stderr=True)
    console.print("error:", style="bold red", end=" ")
    console.print(
        of_the_system(one_sentence(str(error))) or type(error).__name__, markup=False, highlight=False, soft_wrap=True
    )


def one_sentence(message: str) -> str:
    """The first paragraph of a message, on one line."""
    lines = message.strip().split("\n\n")[0].splitlines()
    return " ".join(line.strip() for line in lines)


def print_note(text: str, kind: str = "note") -> None:
    """Print one sentence on stderr that is not an error."""
    Console(stderr=True, highlight=False).print(Text.assemble((f"{kind}: ", "bold yellow"), text), soft_wrap=True)


@contextlib.contextmanager
def shown_warnings() -> Iterator[None]:
    """Print the warnings about a video, also while libraries are quiet."""
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", UserWarning)
        yield
    for message in dict.fromkeys(one_sentence(str(warning.message)) for warning in noted):
        print_note(in_options(message), "warning")


@contextlib.contextmanager
def spinner(text: str) -> Iterator[None]:
    """Shows on stderr what is running, once it takes over a second; nothing if stderr is not a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    progress = Progress(*columns, console=console, transient=True)
    progress.add_task(text, total=None)
    lock, over = Lock(), False

    def start() -> None:
        with lock:
            if not over:
                progress.start()

    timer = Timer(_PATIENCE, start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with lock:
            over = True
            progress.stop()


@contextlib.contextmanager
def quiet(verbose: bool = False) -> Iterator[None]:
    """Keeps other libraries' output, log messages and progress bars off the terminal, unless `verbose`."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    if verbose:
        # Only the result belongs on stdout.
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    hub_bars, bars = not are_progress_bars_disabled(), transformers_logging.is_progress_bar_enabled()
    level = logging.root.manager.disable
    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        if bars:
            transformers_logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()


__all__ = [
    "UserError",
    "one_sentence",
    "print_error",
    "print_note",
    "quiet",
    "shown_warnings",
    "spinner",
    "user_errors",
]
