"""`dynfocus train`: fine-tuning from a recipe, or a check of it."""

from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from .terminal import UserError

_EXTRA = "pip install 'dynfocus[train]'"


def run(recipe: str, overrides: Sequence[str], check: bool, check_rows: int) -> None:
    """Train, or with `check` print what training would do. Ends with exit code 130 after a signal."""
    try:
        from dynfocus.training.recipe import load_recipe
        from dynfocus.training.train import train
    except ImportError as error:
        raise UserError(f"Training needs more packages ({error.name}): {_EXTRA}") from error
    loaded = load_recipe(recipe, overrides)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if check:
        _check(loaded, check_rows)
    elif train(loaded, lambda text: console.print(Text(text, style="bold"))) is None:
        raise typer.Exit(130)


def show(recipe: str, overrides: list[str], accelerate: bool) -> None:
    """Print a recipe, or the path of accelerate's settings for it. Raises a `UserError` for settings besides."""
    from dynfocus.training.recipe import RECIPES, recipe_path

    if overrides:
        option = "--accelerate" if accelerate else "--show"
        raise UserError(f"{option} takes the recipe as it is: leave out {overrides[0]}, and give it when you train.")
    path = recipe_path(recipe)
    if not accelerate:
        print(path.read_text(encoding="utf-8"), end="")
        return
    settings = RECIPES / "accelerate" / f"{path.stem}.yaml"
    if not settings.is_file():
        raise UserError(f"{recipe}: comes without settings for accelerate; torchrun needs none.")
    print(settings)


def _check(recipe: Any, num_rows: int) -> None:
    from dynfocus.training.check import check_recipe

    progress_console = Console(stderr=True, soft_wrap=True, highlight=False)
    progress_console.print(Text(f"Loading {recipe.model.start}."))
    columns = TextColumn("Reading rows"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=progress_console, transient=True, disable=not progress_console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        found = check_recipe(
            recipe, num_rows=num_rows, on_row=lambda done, total: bar.update(task, completed=done, total=total)
        )
    console = Console(soft_wrap=True, highlight=False)
    console.print(Text(found.model))
    console.print(Text(f"{found.run} {found.steps:,} steps."))
    console.print(_lengths_table(found))
    console.print(_memory_line(found.memory))
    console.print(_time_line(found))
    for number, example in enumerate(found.examples):
        console.print(Text(f"\nRow {number} as the model reads it; learned tokens are green:", style="bold"))
        line = Text()
        for token, learned in example:
            line.append(token, style="green underline" if learned else "dim")
        console.print(line)
    for reason in found.bad_rows[:10]:
        console.print(Text(reason, style="red"))
    if len(found.bad_rows) > 10:
        console.print(Text(f"… and {len(found.bad_rows) - 10} more rows that cannot be read.", style="red"))
    for warning in found.warnings:
        console.print(Text(warning, style="yellow"))
    console.print(Text("\nNothing was trained."))


def _lengths_table(found: Any) -> Table:
    table = Table(
        box=None, title=f"{len(found.lengths)} row{'s' * (len(found.lengths) != 1)} read", title_justify="left"
    )
    for heading in ("", "least", "median", "most"):
        table.add_column(heading, justify="right" if heading else "left", header_style="dim")
    for name, heading in (
        ("frames", "frames"),
        ("visual", "visual tokens"),
        ("text", "text tokens"),
        ("learned", "of them learned"),
        ("total", "tokens"),
    ):
        values = [getattr(one, name) for one in found.lengths]
        table.add_row(heading, f"{min(values):,}", f"{found.median(name):,.0f}", f"{max(values):,}")
    return table


def _memory_line(memory: Any) -> Text:
    parts = ("weights", "gradients", "optimizer", "activations")
    sizes = ", ".join(f"{name} {_bytes(getattr(memory, name))}" for name in parts)
    return Text.assemble("Memory of a process, roughly: ", (_bytes(memory.total), "bold"), f" ({sizes}).")


def _time_line(found: Any) -> Text:
    computing, reading = _duration(found.flops / 1e14), _duration(found.reading)
    return Text.assemble(
        "Time, roughly, without evaluation: ",
        (computing, "bold"),
        f" of computing at 100 TFLOP/s ({found.flops / 1e15:.2g} PFLOP in all), while reading videos takes ",
        (reading, "bold"),
        " in all, as fast as here.",
    )


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _bytes(number: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 1e3:.0f} kB"


__all__ = ["run", "show"]
