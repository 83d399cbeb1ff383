"""The card of a synthetic set: its content, how it was made, and the settings with which `datasets` finds its rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .questions import ALL_KINDS, KINDS
from .world import COLORS, HELD_OUT, NUM_DIGITS, SHAPES, Episode, events_for

if TYPE_CHECKING:
    from .builder import Recipe

CARD_FILE = "README.md"
_DEFAULT_FILE = (128, 8)
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_ASKS = {
    "color": "the color of the shape with a number",
    "shape": "the shape that carries a number",
    "number": "the number on an object",
    "order": "which of two objects comes first or last, or what comes right before or after one",
    "first_last": "shape, color or number of the first or last event",
    "motion": "where an object moves, or that it stands still (`nowhere`)",
    "count": "how many events there are, or how many show something; `0` is an answer",
    "existence": "whether an object appears; one that does not shares its color or shape with one that does",
    "locating": "the objects right before and right after one, in this order",
    "object": "color and shape of the object that carries a number",
    "unanswerable": "what the video does not show: about an absent object or number, or something else entirely",
}

_CARD = """---
license: apache-2.0
language:
- en
pretty_name: {title}
size_categories:
- {size_category}
task_categories:
- video-text-to-text
- visual-question-answering
annotations_creators:
- machine-generated
tags:
- video
- video-question-answering
- synthetic
- long-video
configs:
- config_name: default
  data_files:
  - split: {split}
    path: {questions_file}
dataset_info:
- config_name: default
  features:
  - name: video
    dtype: string
  - name: question
    dtype: string
  - name: answer
    dtype: string
  - name: kind
    dtype: string
  - name: events
    list:
      list: int64
---

# {title}

{num_videos} of {num_frames} s and {num_questions} about them, drawn by a program, so that every answer is known.

A video is a row of *events* ({fewest} to {most} here, {mean:.1f} on average), between which nothing happens.
An event is one coloured shape ({colors} colors, {shapes} shapes) that carries a number of {digits} digits, is seen for
{shortest} to {longest} s, and moves in one direction or stands still over a textured ground; {shown:.0%} of all
seconds show one. {returns} The files are H.264, {size}×{size} pixels, {fps} frames a second; at one frame a second,
frame *t* shows the world at second *t*.

## Rows

`{questions_file}` has a row a question: `video` (its file, relative to this folder), `question`, `answer` (short,
lower case), `kind`, and `events`: `[start, end]` in seconds of each event that one has to see, which may be none, as
nothing can be seen of what is absent. An answer counts if it is the expected one, apart from case, punctuation and
articles.

| kind | asks for | questions | answers | most frequent | example |
|---|---|---|---|---|---|
{kinds}

*Answers* are how many different ones there are. Always giving the most frequent one would be right in that share of
the questions, without a look at the video; and in half of those that name two objects to choose from, so would be a
guess.

```python
from datasets import load_dataset

rows = load_dataset("DIR", split="{split}")  # this folder, or its id on the Hub
```

```bash
dynfocus eval synthetic --videos DIR
```

## Splits

This is a **{split}** set (seed {seed}). Training and test never share random numbers, not even for one seed, nor
textures of the ground. These pairs of color and shape are held out, {held_out_use}:
{held_out}.

## How it was made

```{language}
{command}
```

The same settings give the same files, byte for byte (videos: with the same versions of the encoder and of NumPy), and
a longer set begins with the shorter one. `dataset.json` holds the settings.

## Limits

- One world of flat shapes: how a model does here says little about photographs and films. It shows whether the moments
  that matter are found and read.
- Questions come from a few patterns in English. Numbers compare only on sets of the same settings.
- There are no people, no personal data, no sound, and nothing that was taken from elsewhere.

The videos, questions and this card are under the Apache License 2.0.
"""


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'s' * (number != 1)}"


def _command(recipe: "Recipe", num_videos: int) -> tuple[str, str]:
    """Language and text of the code that makes the set."""
    fewest, most = recipe.num_events
    if (recipe.size, recipe.fps_container) != _DEFAULT_FILE:
        # The command has no options for files.
        settings = recipe.settings() | {"num_videos": num_videos}
        arguments = [f"    {name}={value!r}," for name, value in settings.items() if name != "version"]
        opening = ["from dynfocus.eval.synthetic.builder import synthesize", "", "synthesize(", '    "DIR",']
        lines = [*opening, *arguments, ")"]
        return "python", "\n".join(lines)
    text = f"dynfocus synth --frames {recipe.num_frames} --videos {num_videos}"
    text += f" --seed {recipe.seed} --split {recipe.split}"
    if recipe.num_events != events_for(recipe.num_frames):
        text += f" --events {fewest}-{most}"
    if recipe.questions_per_kind != 1:
        text += f" --questions-per-kind {recipe.questions_per_kind}"
    if recipe.kinds != KINDS:
        text += f" --kinds {','.join(recipe.kinds)}"
    return "bash", f"{text} --out DIR"


def _kinds_table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for kind in ALL_KINDS:
        asked = [row for row in rows if row["kind"] == kind]
        if asked:
            answers = Counter(row["answer"] for row in asked)
            # Of ties the first in the alphabet, so that the order of the rows does not matter.
            common, times = min(answers.items(), key=lambda item: (-item[1], item[0]))
            example = f"{asked[0]['question']} *{asked[0]['answer']}*"
            share = f"{common} ({times / len(asked):.0%})"
            lines.append(f"| {kind} | {_ASKS[kind]} | {len(asked)} | {len(answers)} | {share} | {example} |")
    return "\n".join(lines)


def make_data_card(
    recipe: "Recipe",
    episodes: Sequence[Episode],
    rows: Sequence[Mapping[str, Any]],
    questions_file: str,
) -> str:
    """
    The text of a set's README.md; all numbers are counted from the set.

    Args:
        recipe (`Recipe`): settings of the set.
        episodes (`Sequence[Episode]`): episodes of its videos.
        rows (`Sequence[Mapping]`): rows of `questions.jsonl`.
        questions_file (`str`): name of that file.
    """
    events = [event for episode in episodes for event in episode.events]
    numbers = [len(episode.events) for episode in episodes]
    returning = sum(len(episode.events) - len({event.name for event in episode.events}) for episode in episodes)
    shown = sum((event.color, event.shape) in HELD_OUT for event in events)
    language, command = _command(recipe, len(episodes))
    return _CARD.format(
        title=f"Synthetic events, videos of {recipe.num_frames} s",
        size_category=next((name for limit, name in _SIZES if len(rows) < limit), "1M<n<10M"),
        split=recipe.split,
        seed=recipe.seed,
        questions_file=questions_file,
        num_videos=_count(len(episodes), "video"),
        num_frames=recipe.num_frames,
        num_questions=_count(len(rows), "question"),
        fewest=min(numbers),
        most=max(numbers),
        mean=sum(numbers) / len(numbers),
        colors=len(COLORS),
        shapes=len(SHAPES),
        digits=NUM_DIGITS,
        shortest=min(len(event.frames) for event in events),
        longest=max(len(event.frames) for event in events),
        shown=sum(len(event.frames) for event in events) / (recipe.num_frames * len(episodes)),
        returns=f"{_count(returning, 'event')} of {len(events):,} show an object again."
        if returning
        else "No object returns.",
        size=recipe.size,
        fps=recipe.fps_container,
        kinds=_kinds_table(rows),
        held_out=", ".join(f"{color} {shape}" for color, shape in sorted(HELD_OUT)),
        held_out_use=f"for test sets to show: {_count(shown, 'event')} of {len(events):,} here"
        if recipe.split == "test"
        else "and none of them is shown or asked for here",
        language=language,
        command=command,
    )


__all__ = ["CARD_FILE", "make_data_card"]
