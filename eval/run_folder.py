"""
A run is a folder:

    run.json         model, data set, settings, versions
    answers.jsonl    one line for each question, appended when it is answered; at the end in the benchmark's order
    timings.jsonl    seconds of each question, which differ between runs
    result.json      the scores, once everything is answered

Each process appends to its own files (`answers.1.jsonl`, …), which are merged at the next start or at the end.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import claim_folder, parse_object, read_json, write_text

SETTINGS_FILE = "run.json"
ANSWERS_FILE = "answers.jsonl"
TIMINGS_FILE = "timings.jsonl"
RESULT_FILE = "result.json"
_SAME_COMMAND = "the same `dynfocus eval` command repairs that"
#: Fields of run.json and result.json that report and comparison read, and fields of a line of answers.jsonl.
_SETTINGS = ("benchmark", "about", "options", "model", "data", "num_questions", "limit", "sampling", "prompts")
_RESULT = (
    *("benchmark", "metric", "main_score", "score", "interval", "total", "failures", "answered_accuracy"),
    *("mean_visual_tokens", "scores", "judge"),
)
_ANSWER = (
    *("id", "video", "output", "prediction", "reference", "correct", "key_frames", "num_visual_tokens", "num_frames"),
    *("duration", "error", "groups"),
)
#: Settings that may differ between a run and its continuation, because they do not change the answers.
_FREE = ("about", "command", "date", "num_processes", "device_name", "judge", "videos")


@dataclass(frozen=True)
class Run:
    """
    The content of a run's folder.

    Args:
        folder (`Path`).
        settings (`dict`): content of run.json.
        answers (`list[dict]`): lines of answers.jsonl: `id`, `video`, `output`, `prediction`, `reference`, `correct`,
            `key_frames`, `num_visual_tokens`, `error`, `groups`.
        result (`dict`, *optional*): the scores; `None` while the run is unfinished.
        timings (`list[dict]`): `id`, and seconds of `decode`, `encode` and `generate`.
    """

    folder: Path
    settings: dict[str, Any]
    answers: list[dict[str, Any]]
    result: dict[str, Any] | None
    timings: list[dict[str, Any]]


def read_run(folder: str | os.PathLike[str]) -> Run:
    """
    Read a run, finished or not.

    Raises:
        `ValueError`: the folder does not hold a run, or one of its files is damaged.
    """
    path = Path(folder)
    if not (path / SETTINGS_FILE).is_file():
        raise ValueError(f"{folder}: holds no {SETTINGS_FILE}, so it is no run of `dynfocus eval`.")
    result = None
    if (path / RESULT_FILE).is_file():
        try:
            result = read_json(path / RESULT_FILE, _RESULT)
        except ValueError as error:
            raise ValueError(f"{error}; {_SAME_COMMAND}.") from None
    answers, damaged = _gathered(path, ANSWERS_FILE, _ANSWER)
    if result is not None and damaged:
        # In an unfinished run, questions of damaged lines are asked again.
        raise ValueError(f"{damaged[0]}; {_SAME_COMMAND}.")
    if result is not None and result["total"] != len(answers):
        raise ValueError(
            f"{path / ANSWERS_FILE}: has {len(answers)} answers, but the scores are of {result['total']}; "
            f"{_SAME_COMMAND}."
        )
    return Run(
        folder=path,
        settings=_read_settings(path),
        answers=answers,
        result=result,
        timings=_gathered(path, TIMINGS_FILE, ("id",))[0],
    )


def _read_settings(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / SETTINGS_FILE, _SETTINGS)
    except ValueError as error:
        raise ValueError(
            f"{error}, so it is unknown what produced the answers beside it; give another --out, or delete that "
            "folder."
        ) from None


def has_result(folder: Path) -> bool:
    """Whether a run has scores that can be read."""
    try:
        read_json(folder / RESULT_FILE, _RESULT)
    except (OSError, ValueError):
        return False
    return True


def claim_run(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a run into its folder, or check that those in it are the same; see [`claim_folder`]."""
    claim_folder(
        folder / SETTINGS_FILE,
        settings,
        kind="run",
        way_out="give another --out, or delete that folder",
        is_begun=(folder / ANSWERS_FILE).exists() or bool(_parts(folder, ANSWERS_FILE)),
        free=_FREE,
        fields=_SETTINGS,
    )


def gather(folder: Path) -> dict[str, dict[str, Any]]:
    """
    Merge the files of all processes into one, without damaged lines; returns the answers so far, by id.

    Only one process may call it, before others write.
    """
    answers = _gathered(folder, ANSWERS_FILE, _ANSWER)[0]
    for name, lines in ((ANSWERS_FILE, answers), (TIMINGS_FILE, _gathered(folder, TIMINGS_FILE, ("id",))[0])):
        write_lines(folder / name, lines)
        # Only now: a kill in between leaves some lines twice, which is harmless.
        for part in _parts(folder, name):
            part.unlink()
    return {line["id"]: line for line in answers}


def read_answers(folder: Path) -> dict[str, dict[str, Any]]:
    """The answers so far, by id."""
    return {line["id"]: line for line in _gathered(folder, ANSWERS_FILE, _ANSWER)[0]}


def append_lines(folder: Path, name: str, rank: int, lines: Iterable[Mapping[str, Any]]) -> None:
    """Append to the file of one process, all lines in one write."""
    path = folder / name if rank == 0 else folder / _part_name(name, rank)
    with path.open("ab") as file:
        file.write("".join(_line(one) for one in lines).encode())


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of JSON lines atomically: a reader finds the old one or the new one."""
    write_text(path, "".join(_line(one) for one in lines))


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def _part_name(name: str, rank: int) -> str:
    stem, _, ending = name.rpartition(".")
    return f"{stem}.{rank}.{ending}"


def _parts(folder: Path, name: str) -> Sequence[Path]:
    stem, _, ending = name.rpartition(".")
    return sorted(folder.glob(f"{stem}.[0-9]*.{ending}"))


def _gathered(folder: Path, name: str, fields: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines of all processes, the last one of each id; and the damaged lines, with their faults."""
    found: dict[str, dict[str, Any]] = {}
    damaged = []
    for path in (folder / name, *_parts(folder, name)):
        for number, line in enumerate(path.read_bytes().split(b"\n") if path.is_file() else (), 1):
            if not line.strip():
                continue
            row = parse_object(line, fields)
            # A kill cuts a line short, and another one may be appended to it.
            if isinstance(row, str):
                damaged.append(f"{path}, line {number}: {row}")
            elif not isinstance(row["id"], str) or not isinstance(row.get("groups", {}), dict):
                damaged.append(
                    f"{path}, line {number}: has an `id` that is not a text, or `groups` that are not an object"
                )
            else:
                found[row["id"]] = row
    return list(found.values()), damaged


__all__ = [
    "ANSWERS_FILE",
    "RESULT_FILE",
    "SETTINGS_FILE",
    "TIMINGS_FILE",
    "Run",
    "append_lines",
    "claim_run",
    "gather",
    "has_result",
    "read_answers",
    "read_run",
    "write_lines",
]
