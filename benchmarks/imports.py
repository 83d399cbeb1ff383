"""
What importing costs: `dynfocus --help` and `import dynfocus`, beside an empty Python and `import transformers`.

    python benchmarks/imports.py [ROUNDS]

Fresh processes take turns; the median of the rounds counts, with the lowest and highest beside it. Ratios are of CPU
seconds, which other work on the machine changes less than the time that passes.
"""

import resource
import statistics
import subprocess
import sys
import time

EMPTY, TRANSFORMERS = "an empty Python", "import transformers"
_HELP = "import sys; from dynfocus.cli import main; sys.argv = ['dynfocus', '--help']; main()"
CODE = {
    EMPTY: "pass",
    "dynfocus --help": _HELP,
    "import dynfocus": "import dynfocus",
    TRANSFORMERS: "import transformers",
    "both": "import dynfocus, transformers",
    "transformers' AutoModel": "from transformers import AutoModel",
    "AutoModel after import dynfocus": "import dynfocus; from transformers import AutoModel",
    "transformers' pipeline": "from transformers import pipeline",
    "pipeline after import dynfocus": "import dynfocus; from transformers import pipeline",
}


def main(rounds: int = 5) -> None:
    times: dict[str, list[float]] = {name: [] for name in CODE}
    cpu_times: dict[str, list[float]] = {name: [] for name in CODE}
    # The first round fills the file cache and writes compiled files; it does not count.
    for number in range(rounds + 1):
        for name, code in CODE.items():
            start, cpu_start = time.perf_counter(), cpu_seconds()
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
            if number:
                times[name].append(time.perf_counter() - start)
                cpu_times[name].append(cpu_seconds() - cpu_start)
    whole = statistics.median(cpu_times[TRANSFORMERS])
    print(f"| process | seconds | lowest, highest | CPU seconds | times `{TRANSFORMERS}` |\n|---|---|---|---|---|")
    for name, spent in times.items():
        median, cpu = statistics.median(spent), statistics.median(cpu_times[name])
        print(f"| {name} | {median:.2f} | {min(spent):.2f}, {max(spent):.2f} | {cpu:.2f} | {cpu / whole:.2f} |")


def cpu_seconds() -> float:
    """Of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
