"""`dynfocus synth`: a set of synthetic videos."""

import json
import shlex
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text


def run(
    out: Path,
    seed: int,
    videos: int,
    frames: int,
    split: str,
    questions_per_kind: int,
    num_events: tuple[int, int] | None,
    kinds: str | None,
) -> None:
    """Write the set, with a progress bar on stderr if that is a terminal, and print what it holds."""
    from dynfocus.eval.synthetic.builder import synthesize
    from dynfocus.eval.synthetic.questions import KINDS

    console = Console(stderr=True)
    columns = TextColumn("Writing videos"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=videos)
        questions = synthesize(
            out,
            seed,
            videos,
            num_frames=frames,
            split=split,
            questions_per_kind=questions_per_kind,
            num_events=num_events,
            kinds=KINDS if kinds is None else [kind.strip() for kind in kinds.split(",")],
            on_video=lambda done, _: progress.update(task, completed=done),
        )
    rows = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
    counts = Counter(row["kind"] for row in rows)
    output = Console(soft_wrap=True, highlight=False)
    lengths = f"{videos} video{'s' * (videos != 1)} of {frames} s"
    output.print(Text(f"Wrote {lengths} and {len(rows)} questions to {out} (seed {seed}, {split} split)."))
    output.print(Text("Kinds: " + ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))), style="dim")
    output.print("Score a model on it:")
    output.print(Text(f"  dynfocus eval synthetic --videos {shlex.quote(str(out))}", style="bold"))


__all__ = ["run"]
