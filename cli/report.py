"""Prints an answer and its key frames."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dynfocus.processing.clock import clock_time, counted

_BAR_WIDTH = 24
_STEP_STYLES = {"decode": "blue", "encode": "magenta", "generate": "green"}


def print_report(console: Console, result: Mapping[str, Any]) -> None:
    """
    Args:
        result: what the pipeline returned for one video with `return_details=True`, and `"question"`.
    """
    console.print(Text(result["question"], style="italic"))
    answer = Text(result["answer"], style="bold green") if result["answer"] else Text("(no answer)", style="dim")
    lines = [answer]
    if result["score"] is not None:  # a server may give no probabilities
        lines.append(Text.assemble(("score ", "dim"), f"{result['score']:.2f}"))
    console.print(Panel(Group(*lines), expand=False, padding=(0, 2), border_style="green"))
    console.print(_key_frames(result))
    if (tokens := _tokens(result)) is not None:
        console.print(tokens)
    console.print(_timings(result["timings"]))


def _tokens(result: Mapping[str, Any]) -> Text | None:
    """What was read; of a server's model only what the server counts."""
    spent, dense = result["num_visual_tokens"], result["num_dense_tokens"]
    if spent is not None:
        return Text.assemble(
            (f"{spent}", "bold"), f" visual tokens of {dense} ", (f"({_percent(spent, dense)})", "bold"),
            " a dense model would take",
        )  # fmt: skip
    if "num_prompt_tokens" not in result:
        return None
    return Text.assemble((f"{result['num_prompt_tokens']}", "bold"), " tokens in the prompt, by the server's count")


def _key_frames(result: Mapping[str, Any]) -> Table:
    found = result["key_frames"]
    title = f"{counted(len(found), 'key frame')} of {counted(result['num_frames'], 'frame')}"
    table = Table(title=title, title_justify="left", box=None)
    for heading in ("frame", "time"):
        table.add_column(heading, justify="right", header_style="dim")
    table.add_column("relevance" if "relevance" in result else "event score", header_style="dim")
    for frame in found:
        score = frame["score"]
        bar = "━" * round(score * _BAR_WIDTH) if score == score else ""
        cell = Text.assemble(f"{score:.2f} ", (bar, "cyan"))
        table.add_row(str(frame["index"]), clock_time(frame["time"], decimals=True), cell)
    return table


def _timings(timings: Mapping[str, float]) -> Text:
    total = sum(timings.values())
    text = Text.assemble((f"{total:.2f} s", "bold"), ": ")
    for number, (step, seconds) in enumerate(timings.items()):
        text.append(" · " if number else "", style="dim")
        text.append(f"{step} {seconds:.2f} s ({_percent(seconds, total)})", style=_STEP_STYLES.get(step, ""))
    return text


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "–"


__all__ = ["print_report"]
