"""`dynfocus chat`: one video, one question after another."""

import contextlib
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from dynfocus.processing.clock import clock_time

from .ask import Setup, answer, check_plot, check_setup, draw, in_options, open_pipeline, plot_line, shown_name
from .encode import encoding_bar
from .loading import STATE_ENDING, check_made_by, is_state, load_state, note_demo, rate_note, video_of_state
from .report import print_report
from .terminal import UserError, print_error, print_note, quiet, shown_warnings, spinner

_PROMPT = "? "
_COMMANDS = {
    "/details": "show all details of the last answer",
    "/plot FILE": "draw the last answer along the time axis",
    "/save STATE": "save the encoded video, for another chat",
    "/help": "these lines",
    "/quit": "end, as Ctrl-D and Ctrl-C do",
}


def run(setup: Setup) -> None:
    """Answer questions from stdin until it ends. Raises a `UserError` if the video cannot be read."""
    check_setup(setup)
    console = Console(highlight=False)
    with quiet(setup.verbose):
        film: str | None = setup.video
        state, hidden = (load_state(setup.video) if is_state(setup.video) else None), ""
        pipe = open_pipeline(setup)
        note_demo(setup.model, "chat VIDEO")
        start = time.perf_counter()
        if state is None:
            state = _encoded(pipe, setup)
        else:
            check_made_by(state, pipe, setup.video)
            film, hidden = video_of_state(state, setup.video)
        seconds = time.perf_counter() - start
    chat = Chat(pipe, state, setup, console, film, hidden)
    chat.introduce(seconds)
    with contextlib.suppress(KeyboardInterrupt):
        for line in _lines(console):
            if not chat.reply(line):
                return
    if _at_terminal():
        # The cursor is still on the line of the prompt.
        console.print()


class Chat:
    """
    Answers lines. Each question is independent of the earlier ones.

    Args:
        state: the video's `VideoState`.
        film: source of the pictures in a plot; `None` if there are none, and `hidden` says why.
    """

    def __init__(self, pipe: Any, state: Any, setup: Setup, console: Console, film: str | None, hidden: str = ""):
        self.pipe, self.state, self.setup, self.console = pipe, state, setup, console
        self.film, self.hidden = film, hidden
        self.last: dict[str, Any] | None = None

    def introduce(self, seconds: float) -> None:
        """Print what was encoded, and how to use the chat."""
        (count,) = self.state.num_frames
        end = "" if self.state.frame_times is None else f" up to {clock_time(float(self.state.frame_times[0, -1]))}"
        self._say(f"{shown_name(self.setup.video)}: {count} frames{end}, ready after {seconds:.1f} s.")
        times = [] if self.state.frame_times is None else self.state.frame_times[0].tolist()
        if note := rate_note(times, self.setup.sampling["fps"]):
            print_note(note)
        self._say("Each question is answered by itself; /help lists the commands.")

    def reply(self, line: str) -> bool:
        """Answer a question or run a command; `False` if the chat is to end. Errors are printed and do not end it."""
        line = line.strip()
        try:
            if line.startswith("/"):
                return self._obey(line)
            if line:
                self._answer(line)
        except BrokenPipeError:
            raise
        except (UserError, ValueError, OSError) as error:
            print_error(error, self.setup.verbose)
        except KeyboardInterrupt:
            if not _at_terminal():
                raise
            # Encoding the video may have taken hours: interrupting a slow answer does not end the chat.
            self._say("Stopped; Ctrl-C once more ends the chat.")
        return True

    def _answer(self, question: str) -> None:
        with quiet(self.setup.verbose):
            found = answer(self.pipe, self.state, question, self.setup)
        self.last = {"question": question, **found}
        self.console.print(Text(found["answer"] or "(no answer)", style="bold green" if found["answer"] else "dim"))
        times = ", ".join(clock_time(frame["time"]) for frame in found["key_frames"])
        seconds = sum(found["timings"].values())
        self.console.print(Text(f"key frames at {times}; {seconds:.2f} s", style="dim"))

    def _obey(self, line: str) -> bool:
        try:
            name, *words = shlex.split(line)
        except ValueError as error:
            raise UserError(f"{line}: cannot be read ({str(error).lower()}).") from error
        usage = next((usage for usage in _COMMANDS if usage.split()[0] == name), None)
        if usage is None:
            raise UserError(f"{name}: there is no such command; /help lists them.")
        if len(words) != len(usage.split()) - 1:
            raise UserError(f"{line}: write {usage}.")
        if name == "/help":
            for usage, meaning in _COMMANDS.items():
                self._say(f"{usage:<13}{meaning}")
        elif name == "/details":
            print_report(self.console, self._last_answer())
        elif name == "/plot":
            self._plot(Path(words[0]))
        elif name == "/save":
            self._save(Path(words[0]))
        return name != "/quit"

    def _last_answer(self) -> dict[str, Any]:
        if self.last is None:
            raise UserError("Nothing was answered yet: ask a question first.")
        return self.last

    def _plot(self, path: Path) -> None:
        result = self._last_answer()
        check_plot(path)
        with quiet(self.setup.verbose):
            draw(result, path, self.film, self.setup.sampling["decoder"])
        self._say(plot_line(path, self.hidden))

    def _save(self, path: Path) -> None:
        if not is_state(str(path)):
            raise UserError(f"{path}: the file's name must end in {STATE_ENDING}.")
        if not path.parent.is_dir():
            raise UserError(f"{path}: there is no folder {path.parent}; create it first.")
        if path.exists():
            raise UserError(f"{path}: is there already; give another name, or remove it first.")
        with spinner("Saving what was seen"):
            self.state.save(path)
        self._say(f"Saved: {path} (for `dynfocus chat {shlex.quote(str(path))}`)")

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)


def _encoded(pipe: Any, setup: Setup) -> Any:
    names = ("fps", "max_frames", "decoder", "on_truncated")
    sampling = {name: setup.sampling[name] for name in names if setup.sampling[name] is not None}
    with encoding_bar() as report, in_options(), shown_warnings():
        return pipe.encode_video(setup.video, progress=report, **sampling)


def _at_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _lines(console: Console) -> Iterator[str]:
    """Lines that the user types at a prompt; or the lines of stdin, each printed as if it had been typed."""
    if _at_terminal():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # lets `input` edit the line, and bring back earlier ones
        while True:
            try:
                yield input(_PROMPT)
            except EOFError:
                return
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    for line in sys.stdin:
        if line.strip():
            console.print(f"{_PROMPT}{line.strip()}", markup=False, soft_wrap=True)
            yield line


__all__ = ["Chat", "run"]
