"""Reads damaged copies of small videos, and says which of them were not read as they should be.

    python scripts/fuzz_reading.py --files 100000          # for minutes
    python scripts/fuzz_reading.py --files 1 --first 1234  # one of them again
    python scripts/fuzz_reading.py --losses                # counts the files that lose frames without a word

A file must give as many frames as were sampled, at rising times, or one sentence that names it; with
`on_truncated="warn"` it may give fewer. Nothing else may be raised, nothing may crash, and memory is bounded.
"""

import argparse
import faulthandler
import resource
import signal
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from videos import barcode_frames, read_barcode, write_video  # noqa: E402

from dynfocus.processing.reading.limits import ReadingLimits  # noqa: E402
from dynfocus.processing.reading.video_reading import read_video  # noqa: E402

NUM_FRAMES = 24
SEEDS: dict[str, dict[str, Any]] = {
    "a.mp4": {},
    "open groups.mp4": {"codec_options": {"x264-params": "open-gop=1:keyint=8:scenecut=0:bframes=3:log-level=none"}},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}},
    "front.mp4": {"container_options": {"movflags": "faststart"}, "audio_seconds": 2.0},
    "hevc.mp4": {"codec": "libx265"},
    "a.mkv": {"codec": "mpeg4"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp8.webm": {"codec": "libvpx"},
    "a.ts": {},
    "a.vob": {"codec": "mpeg2video", "fps": 25.0, "container": "vob"},
    "a.avi": {"codec": "mpeg4", "b_frames": 2},
    "motion.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "a.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "a.flv": {"codec": "flv"},
    "a.wmv": {"codec": "wmv2"},
    "a.mxf": {"codec": "mpeg2video", "fps": 25.0},
    "a.ogg": {"codec": "libvpx", "container": "ogg"},
    "a.h264": {"container": "h264"},
}
SAMPLINGS: list[dict[str, Any]] = [
    {"fps": 1000.0},
    {"fps": 3.0},
    {"num_frames": 13},
    {"num_frames": 2},
    {"sampling": "key_frames"},
]
LIMITS = ReadingLimits(max_pixels=1 << 22, max_frames=1 << 16)


def make_seeds(folder: Path) -> dict[str, bytes]:
    """The files to be damaged, by name."""
    frames = barcode_frames(NUM_FRAMES)
    return {name: write_video(folder / name, frames, **how).read_bytes() for name, how in SEEDS.items()}


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three of the ways in which files break."""
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, len(data)))
        # Half of the damage goes where the headers are.
        at = at if rng.random() < 0.5 else int(rng.integers(0, min(len(data), 600)))
        length = int(rng.integers(1, 1 + int(rng.choice([1, 4, 30, 400]))))
        kind = int(rng.integers(0, 8))
        part = data[at : at + length]
        if kind == 0:
            part = bytes([data[at] ^ (1 << int(rng.integers(0, 8)))]) + part[1:]
        elif kind == 1:
            part = rng.bytes(len(part))
        elif kind == 2:
            part = bytes([int(rng.choice([0, 255]))]) * len(part)
        elif kind == 3:
            part = b""
        elif kind == 4:
            part = part + part
        elif kind == 5:
            start = int(rng.integers(0, len(data)))
            part = data[start : start + length]
        elif kind == 6:
            part = rng.bytes(length) + part
        elif rng.random() < 0.3:
            data = data[: max(1, at)]
            continue
        data = data[:at] + part + data[at + length :]
        data = data or b"\0"
    return data


def fault(data: bytes, sampling: dict[str, Any], on_truncated: Any) -> str | None:
    """What is wrong with the reading of a file; `None` if nothing is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = read_video(data, **sampling, on_truncated=on_truncated, limits=LIMITS)
    except ValueError as error:
        text = str(error)
        named = text.startswith("the video given as bytes: ")
        return None if named and "\n" not in text and error.__cause__ is None else f"the sentence {text!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    count, total = len(result.frames), result.metadata.total_num_frames
    if not count == len(result.timestamps) == len(result.frame_indices):
        return "frames and times differ in number"
    if not (np.diff(result.timestamps) > 0).all() or result.timestamps[0] < 0:
        return f"times do not rise: {result.timestamps}"
    if on_truncated == "error" and "num_frames" in sampling and count != min(sampling["num_frames"], total):
        return f"{count} of {min(sampling['num_frames'], total)} frames"
    if on_truncated == "error" and sampling.get("fps") == 1000.0 and count != total:
        return f"{count} of {total} frames"
    return None


def is_lost(data: bytes) -> bool:
    """Whether a file with one kind of damage in one place gives other frames than the whole one, without a word."""
    try:
        result = read_video(data, fps=1000.0, limits=LIMITS)
    except ValueError:
        return False
    return [read_barcode(frame) for frame in result.frames] != list(range(NUM_FRAMES))


def losses(seeds: dict[str, bytes], files: int) -> None:
    """Prints, for each seed, how many of `files` damaged copies lose frames without a word, by kind of damage."""
    for name, data in seeds.items():
        found = dict.fromkeys(("zeros", "random", "hole", "cut"), 0)
        for how in found:
            for number in range(files // len(found)):
                rng = np.random.default_rng(number)
                length = min(int(rng.choice([64, 200, 600, 2000])), len(data) // 4)
                at = int(rng.integers(0, len(data) - length))
                part = {"zeros": bytes(length), "random": rng.bytes(length)}.get(how, b"")
                found[how] += is_lost(data[:at] + (b"" if how == "cut" else part + data[at + length :]))
        print(f"{name:20} {found}")


def intact(data: bytes) -> bool:
    """Whether a file that is not damaged gives its frames."""
    result = read_video(data, fps=1000.0)
    return [read_barcode(frame) for frame in result.frames] == list(range(NUM_FRAMES))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first damaged file")
    parser.add_argument("--seconds", type=int, default=60, help="after which one file counts as hanging")
    parser.add_argument("--memory", type=float, default=2.0, help="GiB of address space beyond what is used at first")
    parser.add_argument("--losses", action="store_true", help="only count losses without a word")
    arguments = parser.parse_args()
    faulthandler.enable()
    with tempfile.TemporaryDirectory() as folder:
        seeds = make_seeds(Path(folder))
    names = list(seeds)
    faults = [f"{name}: not even read whole" for name in names if not intact(seeds[name])]
    if arguments.losses:
        losses(seeds, arguments.files // len(seeds))
        return 0
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(arguments.memory * (1 << 30)), -1))
    read = 0
    for number in range(arguments.first, arguments.first + arguments.files):
        rng = np.random.default_rng(number)
        name = names[number % len(names)]
        data = damage(seeds[name], rng)
        sampling = SAMPLINGS[int(rng.integers(0, len(SAMPLINGS)))]
        on_truncated = "warn" if rng.random() < 0.25 else "error"
        print(f"\r{number}", end="", file=sys.stderr, flush=True)  # what is left on the screen if it crashes
        signal.alarm(arguments.seconds)
        found = fault(data, sampling, on_truncated)
        signal.alarm(0)
        read += found is None
        if found is not None:
            faults.append(f"file {number} ({name}, {sampling}, {on_truncated}): {found}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(*faults, sep="\n", end="\n" * bool(faults))
    print(f"{read} of {arguments.files} files are read or refused as they should be; {peak:.0f} MB")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
