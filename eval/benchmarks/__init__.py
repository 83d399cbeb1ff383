"""
Benchmarks of video question answering. Each has one file with everything that is needed to reproduce its numbers.
"""

import difflib
import importlib
import pkgutil

from .base import SUBTITLES_MARK, Benchmark, Question
from .subtitles import NO_SUBTITLES, subtitle_text

_HELPERS = {"base", "multiple_choice", "short_answers", "subtitles"}


def benchmark_names() -> list[str]:
    """The sorted names of all benchmarks, that is, of the files in this folder that define a `BENCHMARK`."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _HELPERS)


def get_benchmark(name: str) -> Benchmark:
    """
    The benchmark of this name; case does not matter, and `-` may replace `_`.

    Raises:
        `ValueError`: there is none; the message names those with the most similar names.
    """
    names = benchmark_names()
    wanted = name.strip().lower().replace("-", "_")
    if wanted not in names:
        # "videomme" also means video_mme.
        by_letters = {known.replace("_", ""): known for known in names}
        near = difflib.get_close_matches(wanted.replace("_", ""), by_letters, n=3, cutoff=0.6)
        hint = (
            f"did you mean {' or '.join(by_letters[key] for key in near)}?"
            if near
            else f"there are {', '.join(names)}."
        )
        raise ValueError(f"There is no benchmark {name!r}: {hint}")
    found: Benchmark = importlib.import_module(f"{__name__}.{wanted}").BENCHMARK
    return found


__all__ = [
    "NO_SUBTITLES",
    "SUBTITLES_MARK",
    "Benchmark",
    "Question",
    "benchmark_names",
    "get_benchmark",
    "subtitle_text",
]
