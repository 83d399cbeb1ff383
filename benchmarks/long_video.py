"""
Videos of any length through `encode_video`: is the memory flat, and does decoding hide behind encoding?

    python benchmarks/long_video.py                              # up to four hours: two or three of them on two cores
    python benchmarks/long_video.py --minutes 1,10

Each 720p H.264 file (`made_videos.py`) is encoded with the model that comes with the package, one frame a second, into
a state on the disk, in a process of its own. Besides, two things are done alone: reading the file as pixels, and
encoding as many ready pixels. Then two questions are asked about the state.

Memory is resident memory, which counts everything: decoder, thread, pixels, tower, and those pages of the finished
file that questions have read.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from made_videos import FOLDER, make_video
from measuring import MIB, HostMemory, Report, Spread, clock, in_child, in_turn
from transformers import pipeline

from dynfocus import VideoQAPipeline
from dynfocus.checkpoints import embedded_model

QUESTIONS = ("What is shown at the beginning?", "Which number is shown last?")
#: For the prompt to fit into the tiny model, which has 4096 positions.
VISUAL_TOKENS = 2048
GOAL_FLAT, GOAL_TOTAL = 1.1, 1.15
#: Of the memory's line.
SAMPLES_A_RUN = 400


def read_alone(pipe: Any, path: Path, fps: float) -> int:
    """Decodes, resizes and normalises as encoding does; gives the number of frames."""
    video_processor = pipe.processor.video_processor
    chunk = pipe.model.config.vision_config.frames_per_chunk
    with video_processor.stream(path, chunk, fps=fps) as stream:
        return sum(len(pixels) for pixels, *_ in stream)


def encode_alone(pipe: Any, num_frames: int) -> None:
    """Tower, pooling and grouping of so many frames whose pixels are there."""
    config, size = pipe.model.config, pipe.processor.video_processor.size
    chunk = config.vision_config.frames_per_chunk
    pixels = torch.rand(1, chunk, 3, size["height"], size["width"]) * 2 - 1
    with torch.no_grad():
        for start in range(0, num_frames, chunk):
            pipe.model.encode_video(pixels[:, : num_frames - start])


def encode_whole(pipe: Any, path: Path, fps: float, state: Path, progress: bool = False) -> Any:
    """From the file to the state in another, anew each time."""
    state.unlink(missing_ok=True)
    return pipe.model.encode_video(path, processor=pipe.processor, fps=fps, save_to=state, progress=progress)


def measure(path: Path, seconds: int, fps: float, rounds: int) -> dict[str, Any]:
    """All of one file: memory (with its line) of the first run, times of each round, and of the questions."""
    options: Any = {"model": str(embedded_model()), "pipeline_class": VideoQAPipeline}
    pipe = pipeline("video-qa", **options)
    with TemporaryDirectory() as folder:
        state_file = Path(folder, "state.safetensors")
        # Libraries allocate at their first use, whatever the length.
        first, _ = make_video(path.parent, 1)
        encode_whole(pipe, first, fps, state_file)
        interval = max(0.02, seconds / 40 / SAMPLES_A_RUN)
        start = clock()
        with HostMemory(interval) as memory:
            state = encode_whole(pipe, path, fps, state_file, progress=True)
        whole = clock() - start
        num_frames = state.frame_mask.shape[1]
        parts = {"reading": lambda: read_alone(pipe, path, fps), "encoding": lambda: encode_alone(pipe, num_frames)}
        contenders = {**parts, "whole": lambda: encode_whole(pipe, path, fps, state_file)}
        if rounds == 1:
            # The run that gave the memory serves: it takes hours to repeat.
            times = {**in_turn(parts, 1, warm_up=0), "whole": Spread((whole,))}
        else:
            times = in_turn(contenders, rounds, warm_up=0)
        asked = []
        for question in QUESTIONS:
            start = clock()
            pipe(state, question=question, max_visual_tokens=VISUAL_TOKENS)
            asked.append(clock() - start)
        return {
            "frames": num_frames,
            "state_bytes": state_file.stat().st_size,
            "before": memory.before,
            "peak": memory.peak,
            "line": memory.line[:: len(memory.line) // SAMPLES_A_RUN + 1],
            "times": {name: spread.rounds for name, spread in times.items()},
            "asked": [each / times["whole"].median for each in asked],
        }


def add_results(report: Report, found: dict[int, dict[str, Any]]) -> None:
    """Tables and goals."""
    memory, times = [], []
    for minutes, one in found.items():
        reading, encoding, whole = (Spread(tuple(one["times"][name])) for name in ("reading", "encoding", "whole"))
        longer = Spread(tuple(map(max, reading.rounds, encoding.rounds)))
        one["total_ratio"] = (whole / longer).median
        sizes = (one[name] / MIB for name in ("before", "peak", "state_bytes"))
        memory.append([f"{minutes} min", f"{one['frames']:,}", *(f"{size:.0f}" for size in sizes)])
        asked = " and ".join(f"{share:.1%}" for share in one["asked"])
        times.append([f"{minutes} min", *map(str, (reading / whole, encoding / whole, whole / longer)), asked])
    headings = ["video", "frames", "memory before, MiB", "peak, MiB", "state on disk, MiB"]
    report.add_table("Resident memory while a file is encoded at one frame a second", headings, memory)
    headings = ["video", "reading alone / total", "encoding alone / total", "total / longer of the two"]
    report.add_table("Times, in one process for each file", [*headings, "two questions / total"], times)
    shortest, longest = min(found), max(found)
    least, most = found[shortest], found[longest]
    bound = GOAL_FLAT * least["peak"] + most["state_bytes"]
    report.add_goal(
        f"peak of {most['peak'] / MIB:.0f} MiB at {longest} min beside {least['peak'] / MIB:.0f} MiB at {shortest} "
        f"min (goal: at most 10 % more and the state, {bound / MIB:.0f} MiB)",
        most["peak"] <= bound,
    )
    for minutes, one in found.items():
        report.add_goal(
            f"{minutes} min: in total {one['total_ratio']:.3f} times the longer of reading and encoding alone "
            f"(goal: at most {GOAL_TOTAL:g})",
            one["total_ratio"] <= GOAL_TOTAL,
        )


def run(
    lengths: list[float],
    rounds: int = 5,
    fps: float = 1.0,
    most_seconds: int = 600,
    folder: Path = FOLDER,
    json_file: Path | None = None,
) -> Report:
    """Measures files of these lengths in minutes, each anew in its own process; prints and writes."""
    settings = {"minutes": lengths, "rounds": rounds, "fps": fps, "most_seconds": most_seconds}
    report = Report("long_video", settings)
    found = {}
    for minutes in lengths:
        seconds = round(60 * minutes)
        path, _ = make_video(folder, seconds)
        make_video(folder, 1)
        found[minutes] = in_child(measure, path, seconds, fps, rounds if seconds <= most_seconds else 1)
    add_results(report, found)
    for one in found.values():
        # Ratios alone mean something on a CPU that others use as well.
        times = one.pop("times")
        one["decode_share"] = (Spread(times["reading"]) / Spread(times["whole"])).rounds
        one["encode_share"] = (Spread(times["encoding"]) / Spread(times["whole"])).rounds
    report.results = {f"{minutes} min": one for minutes, one in found.items()}
    report.finish(json_file)
    return report


def main(
    minutes: Annotated[str, typer.Option(help="Lengths of the files in minutes, with commas.")] = "1,10,60,240",
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each; the median counts.")] = 5,
    fps: float = 1.0,
    most_seconds: Annotated[int, typer.Option(help="Files that are longer are measured once.")] = 600,
    folder: Annotated[Path, typer.Option(help="Where the files are kept.")] = FOLDER,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results there too.")] = None,
) -> None:
    """Encode long videos, and look at memory and time."""
    lengths = [int(text) if float(text).is_integer() else float(text) for text in minutes.split(",")]
    run(lengths, rounds, fps, most_seconds, folder, json_file)


if __name__ == "__main__":
    typer.run(main)
