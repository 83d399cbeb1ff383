"""
A run is a folder:

    run.json         what made it: model, data set, settings, versions
    answers.jsonl    a line a question, appended as it is answered; in the end in the benchmark's order
    timings.jsonl    seconds of each question, which no two runs share
    result.json      the scores, once all is answered

Each process appends to files of its own (`answers.1.jsonl`, …), which the next start, or the end, puts together.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SETTINGS_FILE = "run.json"
ANSWERS_FILE = "answers.jsonl"
TIMINGS_FILE = "timings.jsonl"
RESULT_FILE = "result.json"
#: What may differ between a run and its continuation, as it does not change the answers.
_FREE = ("about", "command", "date", "num_processes", "device_name", "judge", "videos")


@dataclass(frozen=True)
class Run:
    """
    What a run's folder holds.

    Args:
        folder (`Path`).
        settings (`dict`): of run.json.
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
    """A run, finished or not. Raises `ValueError` where the folder holds none."""
    path = Path(folder)
    if not (path / SETTINGS_FILE).is_file():
        raise ValueError(f"{folder}: holds no {SETTINGS_FILE}, so it is no run of `dynfocus eval`.")
    result = path / RESULT_FILE
    return Run(
        folder=path,
        settings=json.loads((path / SETTINGS_FILE).read_text(encoding="utf-8")),
        answers=_gathered(path, ANSWERS_FILE),
        result=json.loads(result.read_text(encoding="utf-8")) if result.is_file() else None,
        timings=_gathered(path, TIMINGS_FILE),
    )


def claim_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """
    Note the settings of a run in its folder, or see that those noted there are the same.

    Raises:
        `ValueError`: the folder holds a run with other settings; the message names the first that differs.
        `FileExistsError`: it holds other things.
    """
    noted = folder / SETTINGS_FILE
    if noted.is_file():
        found, wanted = flat_settings(json.loads(noted.read_text(encoding="utf-8"))), flat_settings(_as_json(settings))
        order = [*wanted, *(key for key in found if key not in wanted)]
        differing = [key for key in order if wanted.get(key) != found.get(key) and key.split(".")[0] not in _FREE]
        if differing:
            key = differing[0]
            more = f" (and {len(differing) - 1} more settings)" if len(differing) > 1 else ""
            raise ValueError(
                f"{folder} holds a run with `{key}` = {found.get(key)!r} instead of {wanted.get(key)!r}{more}: give "
                "another --out, or delete that folder."
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: is no empty folder, nor one of a run; give another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(noted, settings)


def gather(folder: Path) -> dict[str, dict[str, Any]]:
    """
    Put what all processes wrote into one file, without lines that a kill cut short; the answers so far, by id.

    Of one process at a time, before others write.
    """
    answers = _gathered(folder, ANSWERS_FILE)
    for name, lines in ((ANSWERS_FILE, answers), (TIMINGS_FILE, _gathered(folder, TIMINGS_FILE))):
        write_lines(folder / name, lines)
        # Only now: a kill in between leaves some lines twice, which does no harm.
        for part in _parts(folder, name):
            part.unlink()
    return {line["id"]: line for line in answers}


def read_answers(folder: Path) -> dict[str, dict[str, Any]]:
    """The answers so far, by id."""
    return {line["id"]: line for line in _gathered(folder, ANSWERS_FILE)}


def append_lines(folder: Path, name: str, rank: int, lines: Iterable[Mapping[str, Any]]) -> None:
    """Append to the file of one process, all lines at once."""
    path = folder / name if rank == 0 else folder / _part_name(name, rank)
    with path.open("ab") as file:
        file.write("".join(_line(one) for one in lines).encode())


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of JSON lines at once: whoever looks finds the old one or the new one."""
    _write(path, "".join(_line(one) for one in lines))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file at once."""
    _write(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", newline="\n")
    os.replace(part, path)


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def _part_name(name: str, rank: int) -> str:
    stem, _, ending = name.rpartition(".")
    return f"{stem}.{rank}.{ending}"


def _parts(folder: Path, name: str) -> Sequence[Path]:
    stem, _, ending = name.rpartition(".")
    return sorted(folder.glob(f"{stem}.[0-9]*.{ending}"))


def _gathered(folder: Path, name: str) -> list[dict[str, Any]]:
    """The lines of all processes, the last one of each id."""
    found: dict[str, dict[str, Any]] = {}
    for path in (folder / name, *_parts(folder, name)):
        for line in path.read_bytes().split(b"\n")[:-1] if path.is_file() else ():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # cut short by a kill, and another line was written behind it
            found[row["id"]] = row
    return list(found.values())


def _as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(value))


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with the names "sampling.fps"."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= (
            flat_settings(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
        )
    return flat


__all__ = [
    "ANSWERS_FILE",
    "RESULT_FILE",
    "SETTINGS_FILE",
    "TIMINGS_FILE",
    "Run",
    "append_lines",
    "claim_folder",
    "flat_settings",
    "gather",
    "read_answers",
    "read_run",
    "write_json",
    "write_lines",
]
