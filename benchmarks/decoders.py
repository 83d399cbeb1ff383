"""
Reading videos with each decoder: time, memory, and whether the frames are the right ones.

    python benchmarks/decoders.py
    python benchmarks/decoders.py --seconds 10,60 --rounds 3

Files of 720p H.264 are made on the spot (`made_videos.py`) and kept in `--folder`. Frames are sampled, decoded and
resized to 224x224 by `read_video`. Each decoder reads once in a process of its own, which gives its peak of memory and
shows whether every frame carries the number that it should. Then those that were not far slower than the fastest take
turns in one process. "pyav" is what "auto" takes where it can: it reads through, or jumps to key frames, by what the
packet index says is cheaper; the two other ways of PyAV are there to show whether that is rightly foreseen.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from made_videos import FOLDER, make_video, read_number
from measuring import MIB, HostMemory, Report, Spread, child_process, clock, in_turn

from dynfocus.processing.reading.decoders import DECODERS, PyAVDecoder
from dynfocus.processing.reading.index import build_index
from dynfocus.processing.reading.sampling import sample_indices
from dynfocus.processing.reading.sources import open_source
from dynfocus.processing.reading.video_reading import read_video, resize_frame

SIZE = (224, 224)
#: Ways of PyAV other than its own choice: what a jump would cost by them.
PLANS = {"pyav, reading through": math.inf, "pyav, jumping": 0.0}
NAMES = (*DECODERS, *PLANS)
#: Beyond this many times the fastest, one run is enough.
FAR = 2.5
#: Times the fastest right one that "auto" may take; closer than that they change places from run to run.
TOLERANCE = 1.1
#: Decibels between the frames of two decoders; what they round differently lies far above.
ALIKE = 40.0

Sampling = dict[str, Any]
Call = Callable[..., Any]


def read(path: Path, sampling: Sampling, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Frames `(T, height, width, 3)` and their numbers in the file, `(T,)`."""
    if name not in PLANS:
        video = read_video(path, **sampling, size=SIZE, decoder=name)
        return video.frames, video.frame_indices
    source = open_source(path)
    index = build_index(source)
    wanted = sample_indices(index.times, index.duration, **sampling)
    decoder = PyAVDecoder(source, index, seek_cost=PLANS[name])
    numbers, frames = zip(*((n, resize_frame(frame, SIZE)) for n, frame in decoder.frames(wanted)), strict=True)
    return np.stack(frames), np.array(numbers)


def read_once(path: Path, sampling: Sampling, name: str, part_frames: int) -> dict[str, Any]:
    """Seconds, peak of memory in bytes, and whether the frames carry the right numbers; or `why_not`."""
    try:
        with HostMemory() as memory:
            start = clock()
            frames, numbers = read(path, sampling, name)
            seconds = clock() - start
    except ImportError:
        return {"why_not": "not installed"}
    except ValueError as error:
        return {"why_not": str(error)}
    right = [read_number(frame) for frame in frames] == [int(number) % part_frames for number in numbers]
    return {"seconds": seconds, "bytes": memory.above, "right": right, "frames": len(frames)}


def read_in_turn(
    path: Path, sampling: Sampling, names: list[str], rounds: int
) -> tuple[dict[str, Spread], list[float]]:
    """Seconds of each, and the decibels (PSNR) by which the frames of each agree with those of the first."""
    results: dict[str, np.ndarray] = {}

    def contender(name: str) -> Callable[[], None]:
        return lambda: results.update({name: read(path, sampling, name)[0]})

    seconds = in_turn({name: contender(name) for name in names}, rounds, warm_up=0)
    first = results[names[0]].astype(np.float32)
    errors = [float(((first - results[name]) ** 2).mean()) for name in names]
    return seconds, [10 * math.log10(255**2 / error) if error else math.inf for error in errors]


def chosen_by_auto(path: Path) -> str:
    """What `decoder="auto"` reads this file with."""
    return read_video(path, num_frames=1, size=SIZE).metadata.decoder


def cell(
    processes: dict[str, Call], path: Path, sampling: Sampling, part_frames: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """All decoders on one file with one sampling, by name."""
    found = {name: processes[name](read_once, path, sampling, name, part_frames) for name in NAMES}
    able = [name for name in NAMES if "seconds" in found[name]]
    fastest = min(found[name]["seconds"] for name in able)
    near = [name for name in able if found[name]["seconds"] <= FAR * fastest]
    seconds, decibels = processes["all"](read_in_turn, path, sampling, near, rounds)
    for name, agreement in zip(near, decibels, strict=True):
        found[name].update(rounds=seconds[name].rounds, decibels=agreement)
        found[name]["right"] &= agreement > ALIKE
    return found


def relative(one: dict[str, Any], base: dict[str, Any]) -> Spread:
    """The time of `one` as multiples of that of `base`: of each round, or of the one run that there was."""
    if "rounds" in one and "rounds" in base:
        return Spread(one["rounds"]) / Spread(base["rounds"])
    return Spread((one["seconds"] / base["seconds"],))


def add_cell(rows: list[list[str]], what: list[str], found: dict[str, dict[str, Any]], auto: str) -> None:
    """Rows of the table: each decoder as a multiple of what "auto" takes."""
    for name, one in found.items():
        if "why_not" in one:
            rows.append([*what, name, "", "", one["why_not"], ""])
            continue
        once = "" if "rounds" in one else ", once"
        chosen = "auto" if name == auto else ""
        right = "yes" if one["right"] else "NO"
        rows.append([*what, name, f"{relative(one, found[auto])}{once}", f"{one['bytes'] / MIB:.0f}", right, chosen])


def judge(report: Report, where: str, found: dict[str, dict[str, Any]], auto: str) -> None:
    """Whether "auto" is the fastest right one here."""
    ratios = {name: relative(one, found[auto]) for name, one in found.items() if "seconds" in one}
    best = min((name for name in ratios if found[name]["right"]), key=lambda name: ratios[name].median)
    slower = 1 / ratios[best].median
    report.add_goal(
        f"{where}: auto takes {auto}, which reads {'right' if found[auto]['right'] else 'WRONG'} frames in "
        f"{slower:.2f} times the time of the fastest right one, {best} (goal: at most {TOLERANCE:g})",
        found[auto]["right"] and slower <= TOLERANCE,
    )
    # Seconds of a CPU that others use as well mean nothing.
    report.results[where] = {
        name: {key: value for key, value in one.items() if key not in ("seconds", "rounds")}
        | ({"time_ratio": ratios[name].rounds} if name in ratios else {})
        for name, one in found.items()
    }


def run(lengths: list[int], rounds: int, folder: Path, json_file: Path | None = None) -> Report:
    """Measures files of these lengths in seconds, prints, and writes `json_file`."""
    samplings: dict[str, Sampling] = {"64 frames, uniform": {"num_frames": 64}, "1 frame a second": {"fps": 1.0}}
    report = Report("decoders", {"seconds": lengths, "rounds": rounds, "size": SIZE})
    rows: list[list[str]] = []
    with ExitStack() as stack:
        # One for each decoder: what another leaves in memory must not count, nor be reused.
        processes = {name: stack.enter_context(child_process()) for name in (*NAMES, "all")}
        for length in lengths:
            path, part_frames = make_video(folder, length)
            auto = processes["all"](chosen_by_auto, path)
            for title, sampling in samplings.items():
                found = cell(processes, path, sampling, part_frames, rounds)
                add_cell(rows, [f"{length} s", title], found, auto)
                judge(report, f"{length} s, {title}", found, auto)
    headings = ["file", "sampling", "decoder", "time / auto's", "peak, MiB", "right frames", "chosen"]
    report.add_table("Reading 720p H.264", headings, rows)
    report.finish(json_file)
    return report


def main(
    seconds: Annotated[str, typer.Option(help="Lengths of the files in seconds, with commas.")] = "10,60,600,1800",
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each decoder; the median counts.")] = 5,
    folder: Annotated[Path, typer.Option(help="Where the files are kept.")] = FOLDER,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results there too.")] = None,
) -> None:
    """Compare the decoders, and what "auto" chooses."""
    run([int(length) for length in seconds.split(",")], rounds, folder, json_file)


if __name__ == "__main__":
    typer.run(main)
