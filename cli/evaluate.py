"""`dynfocus eval`, `dynfocus compare` and `dynfocus report`."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .loading import load_pipeline, note_demo
from .terminal import UserError, quiet, spinner


def run(
    benchmark: str | None,
    options: Mapping[str, Any],
    trust_remote_code: bool,
    verbose: bool,
    adoption: Mapping[str, Any],
    **settings: Any,
) -> None:
    """Evaluate, and print the result. Ends with exit code 130 after Ctrl-C."""
    import datasets

    from dynfocus.eval.benchmarks import get_benchmark
    from dynfocus.eval.report import print_summary
    from dynfocus.eval.run import EvalSettings, evaluate

    if benchmark is None:
        raise UserError("Which benchmark? Give its name; `dynfocus eval --list` prints all.")
    chosen = get_benchmark(benchmark).with_options(**options)
    command = shlex.join(["dynfocus", *sys.argv[1:]])
    wanted = EvalSettings(chosen, command=command, **settings)
    console = Console(stderr=True, soft_wrap=True, highlight=False)

    def load(settings: EvalSettings, device: str | None) -> Any:
        given = {**adoption, "server": settings.server}
        if benchmark != "synthetic":
            note_demo(settings.model, f"eval {benchmark}")
        with spinner("Loading the model"), quiet(verbose):
            return load_pipeline(settings.model, device, settings.dtype, settings.revision, trust_remote_code, given)

    if not verbose:
        datasets.disable_progress_bars()
    try:
        with quiet(verbose):
            finished = evaluate(wanted, load, lambda text: console.print(Text(text, style="bold")))
    except KeyboardInterrupt:
        console.print(Text(f"Stopped. The same command continues in {wanted.folder}."))
        raise typer.Exit(130) from None
    print_summary(Console(soft_wrap=True, highlight=False), finished)
    console.print(Text(f"dynfocus report {shlex.quote(str(finished.folder))} writes a page with plots.", style="dim"))


def report(folder: Path) -> None:
    """Print a run, and write its page."""
    from dynfocus.eval.report import print_summary, write_report
    from dynfocus.eval.run_folder import read_run

    finished = read_run(folder)
    with spinner("Drawing"):
        written = write_report(finished)
    console = Console(soft_wrap=True, highlight=False)
    print_summary(console, finished)
    console.print(Text("Wrote " + ", ".join(str(path) for path in written), style="dim"))


def compare(first: Path, second: Path) -> None:
    """Prints how two runs differ."""
    from dynfocus.eval.compare import compare_runs, print_comparison
    from dynfocus.eval.run_folder import read_run

    with spinner("Resampling"):
        found = compare_runs(read_run(first), read_run(second))
    print_comparison(Console(soft_wrap=True, highlight=False), found)


def show_benchmarks() -> None:
    """Prints all benchmarks."""
    from dynfocus.eval.benchmarks import benchmark_names, get_benchmark

    table = Table(box=None)
    for heading in ("name", "benchmark", "data set", "metric"):
        table.add_column(heading, header_style="dim")
    for name in benchmark_names():
        one = get_benchmark(name)
        where = "a folder of yours" if one.local else one.dataset + (" (gated)" if one.gated else "")
        table.add_row(name, one.title, where, one.metric)
    Console().print(table)


__all__ = ["compare", "report", "run", "show_benchmarks"]
