"""
Benchmarks from a Hub, in a process of its own, as the Hub's address is read once, at import.

Usage: python benchmark_loader.py OUT, with a JSON object on stdin: `answer` lists the benchmarks to answer with the
`model` on the `videos`, `load` gives names to pairs of a benchmark and changes of its fields, to be loaded only. To
OUT/found.json goes, for each, its `source`, and the `settings`, `answers` and `result` of the run, or the `questions`;
or its `error`.
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main(out: str) -> None:
    import datasets

    from dynfocus.eval.benchmarks import get_benchmark
    from dynfocus.eval.rows import load_rows
    from dynfocus.eval.run import EvalSettings, evaluate, load_pipeline

    datasets.disable_progress_bars()
    asked, pipes = json.load(sys.stdin), {}

    def answered(name: str) -> dict[str, Any]:
        # What is generated is noise: a few tokens of it will do.
        benchmark = dataclasses.replace(get_benchmark(name), generation={"max_new_tokens": 3, "do_sample": False})
        settings = EvalSettings(
            benchmark, model=asked["model"], videos=asked["videos"], out=Path(out) / name, device="cpu"
        )
        pipe = pipes.get("one") or pipes.setdefault("one", load_pipeline(settings, "cpu"))
        run = evaluate(settings, lambda *_: pipe, lambda text: None)
        return {"settings": run.settings, "answers": run.answers, "result": run.result, "source": run.settings["data"]}

    def loaded(name: str, changes: dict[str, Any]) -> dict[str, Any]:
        benchmark = dataclasses.replace(get_benchmark(name), **changes)
        rows = load_rows(benchmark)
        questions = [dataclasses.asdict(question) for question in benchmark.questions(rows.rows)]
        return {"source": rows.source, "questions": questions}

    def found_or_error(find: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        try:
            return find(*arguments)
        except ValueError as error:
            return {"error": str(error)}

    found = {name: found_or_error(answered, name) for name in asked["answer"]}
    found |= {case: found_or_error(loaded, *pair) for case, pair in asked["load"].items()}
    (Path(out) / "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
