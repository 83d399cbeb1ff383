"""
What the benchmarks share: things run in turn, peak memory, what they ran on, and one way to print and keep results.

Times are compared only within one process, where the contenders take turns (`in_turn`): what slows the machine slows
all of them. Memory is counted above what was there before, in two ways: bytes of living tensors, which is exact and
sees only torch, and resident memory of the process, which is all there is (Linux).
"""

import ctypes
import fcntl
import gc
import json
import multiprocessing
import os
import platform
import re
import resource
import shlex
import statistics
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MIB, GIB = 2**20, 2**30
_PACKAGES = ("torch", "transformers", "av", "decord", "torchcodec")


@dataclass(frozen=True)
class Spread:
    """One number of each round; as text, the median with the lowest and the highest."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def lowest(self) -> float:
        return min(self.rounds)

    @property
    def highest(self) -> float:
        return max(self.rounds)

    def __truediv__(self, other: "Spread") -> "Spread":
        """The ratio of each round, for two that took turns."""
        return Spread(tuple(own / its for own, its in zip(self.rounds, other.rounds, strict=True)))

    def __str__(self) -> str:
        if len(self.rounds) == 1:
            return f"{self.median:.3g}"
        return f"{self.median:.3g} ({self.lowest:.3g}–{self.highest:.3g})"


def clock(device: str = "cpu") -> float:
    """Seconds, once the device has finished its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def work_clock(device: str = "cpu") -> float:
    """
    Seconds that this process has used the processor, in all threads: other work on the machine changes them less than
    the time that passes. On a GPU, which this process has to itself, the time that passes.
    """
    return clock(device) if torch.device(device).type == "cuda" else time.process_time()


def in_turn(
    contenders: Mapping[str, Callable[[], Any]],
    rounds: int = 5,
    warm_up: int = 1,
    device: str = "cpu",
    now: Callable[[str], float] = clock,
) -> dict[str, Spread]:
    """Seconds of each contender, by `now`: all of them run once a round, each round another one first."""
    names = list(contenders)
    for name in names * warm_up:
        contenders[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % max(1, len(names))
        for name in names[first:] + names[:first]:
            start = now(device)
            contenders[name]()
            seconds[name].append(now(device) - start)
    return {name: Spread(tuple(times)) for name, times in seconds.items()}


def growth_exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The `p` of `value ~ size ** p` that fits best in logarithms; 1 is linear growth."""
    design = torch.tensor([[1.0, float(size)] for size in sizes], dtype=torch.float64)
    design[:, 1] = design[:, 1].log()
    return float(torch.linalg.lstsq(design, torch.tensor(values, dtype=torch.float64).log()[:, None]).solution[1])


class LiveBytes(TorchDispatchMode):
    """Counts, on a CPU, the bytes of tensors that are made while it is on: alive `now`, and at most (`peak`)."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # A view, or what was written in place, lies in a storage that came in.
        known = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in known and key not in self._alive:
                self._alive.add(key)
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, key, size)
        return result

    def _forget(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def peak_tensor_bytes(run: Callable[[], Any], device: str = "cpu") -> int:
    """The most bytes of tensors that live at any time of `run`, above those alive before; its result counts."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with LiveBytes() as live:
        run()
    return live.peak


class HostMemory:
    """
    Resident memory of this process while it is on, in bytes: `before`, `peak`, and `line`, a list of (seconds, bytes),
    taken every `interval` seconds. Without an interval there is no line. Linux only.
    """

    def __init__(self, interval: float | None = None) -> None:
        self.interval, self.before, self.peak = interval, 0, 0
        self.line: list[tuple[float, int]] = []
        self._done = threading.Event()

    @property
    def above(self) -> int:
        """The peak above what was there before."""
        return self.peak - self.before

    def __enter__(self) -> "HostMemory":
        give_back_memory()
        # Sets the high-water mark back to what is resident now.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self.before = _status("VmRSS")
        if self.interval is not None:
            self._sampler = threading.Thread(target=self._sample, daemon=True)
            self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self.interval is not None:
            self._sampler.join()
        # The kernel brings its mark up to date now and then: what was seen may be a little above it.
        self.peak = max([_status("VmHWM"), *(size for _, size in self.line)])

    def _sample(self) -> None:
        start = time.perf_counter()
        while True:
            self.line.append((time.perf_counter() - start, _status("VmRSS")))
            if self._done.wait(self.interval):
                return


def give_back_memory() -> None:
    """Frees what is garbage, and gives the system what the allocators keep: else it would hide a later peak."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        pass  # not glibc


def _status(name: str) -> int:
    """Bytes of one line of this process's status: VmRSS, VmHWM, VmData."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split(f"{name}:")[1].split()[0]) * 1024


@contextmanager
def memory_limit(limit: int | None, device: str = "cpu") -> Iterator[None]:
    """
    At most `limit` bytes above what this process holds; beyond, allocations fail; see `is_out_of_memory`.

    On a CPU what the allocator keeps of freed memory comes on top, a few megabytes: for limits far above that.
    """
    if limit is None:
        yield
    elif torch.device(device).type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + limit) / total))
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    else:
        give_back_memory()
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (_status("VmData") + limit, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, or Python, got no memory."""
    no_memory = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
    return no_memory or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


@contextmanager
def child_process() -> Iterator[Callable[..., Any]]:
    """A fresh process; calling `call(function, *args)` gives what an importable function returns there."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda function, *args, **kwargs: pool.submit(function, *args, **kwargs).result()


def in_child(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `function` returns in a process of its own, where no earlier run has left memory; it must be importable."""
    with child_process() as call:
        return call(function, *args, **kwargs)


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the results hold for: processor, cores, memory, versions, command, and how busy it was before."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            pass
    described = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": versions,
        "command": _command(sys.argv),
    }
    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described["gpu"] = f"{properties.name}, {properties.total_memory / GIB:.0f} GiB"
    return described


def _command(words: Sequence[str]) -> str:
    """As typed, but for where files lie, which says nothing about the numbers."""
    kept = [word for before, word in zip(["", *words], words, strict=False) if "--json" not in (before, word)]
    return shlex.join(["python", *(word for word in kept if not word.startswith("--json="))])


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as Markdown shows it, and that can be read as it is."""
    texts = [[str(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(headings))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in texts
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


@dataclass
class Report:
    """
    What a benchmark found. `finish` prints tables and goals, and writes everything to a file.

    Args:
        name: of the script, without `.py`.
        settings: the options that the numbers depend on.
        device: what `machine` describes besides the processor.
    """

    name: str
    settings: dict[str, Any]
    device: str = "cpu"
    tables: list[dict[str, Any]] = field(default_factory=list)
    goals: list[dict[str, Any]] = field(default_factory=list)
    #: Any further numbers, for the file alone.
    results: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Before the benchmark itself makes the machine busy.
        self.machine = machine(self.device)

    def add_table(self, title: str, headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table, printed when all is done."""
        cells = [[str(cell) for cell in row] for row in rows]
        self.tables.append({"title": title, "headings": list(headings), "rows": cells})

    def add_goal(self, sentence: str, met: bool) -> None:
        """A goal with what was reached: "4.2 times faster (goal: at least 4)"."""
        self.goals.append({"goal": sentence, "met": bool(met)})

    def finish(self, json_file: Path | None = None) -> None:
        """Prints, and writes `json_file`."""
        names = ("name", "settings", "machine", "tables", "goals", "results")
        results = {name: getattr(self, name) for name in names}
        print(results_as_text(results))
        if json_file is not None:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until no other process is in a block that locks `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def put_text(page: str, name: str, text: str) -> str:
    """
    `page` with `text` between `<!-- name -->` and `<!-- end -->`.

    Raises:
        `ValueError`: where the page has no such place.
    """
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not place.search(page):
        raise ValueError(f"The page has no place for {name}: write <!-- {name} --> and <!-- end --> where it belongs.")
    return place.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page)


def put_texts(page: Path, texts: Mapping[str, str]) -> None:
    """`put_text` for each name, in the file `page`."""
    filled = page.read_text(encoding="utf-8")
    for name, text in texts.items():
        filled = put_text(filled, name, text)
    page.write_text(filled, encoding="utf-8")


def results_as_text(results: dict[str, Any]) -> str:
    """Command, machine, tables and goals of a report's JSON, as Markdown."""
    where = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    cores = f"{where['processor']}, {where['threads']} of {where['cores']} cores"
    parts = [f"`{where['command']}`", ", ".join(filter(None, [where.get("gpu"), cores, versions]))]
    for table in results["tables"]:
        parts.append(f"**{table['title']}**\n\n{markdown_table(table['headings'], table['rows'])}")
    if results["goals"]:
        parts.append("\n".join(f"- {'met' if goal['met'] else 'MISSED'}: {goal['goal']}" for goal in results["goals"]))
    return "\n\n".join(parts)


__all__ = [
    "GIB",
    "MIB",
    "HostMemory",
    "LiveBytes",
    "Report",
    "Spread",
    "child_process",
    "clock",
    "give_back_memory",
    "growth_exponent",
    "in_child",
    "in_turn",
    "is_out_of_memory",
    "machine",
    "markdown_table",
    "memory_limit",
    "peak_tensor_bytes",
    "locked",
    "put_text",
    "put_texts",
    "results_as_text",
    "work_clock",
]
