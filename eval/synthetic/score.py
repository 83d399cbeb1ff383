"""Scores a model on synthetic sets: `python -m dynfocus.eval.synthetic.score DIR …`.

An answer counts if it is the expected one, apart from case, punctuation and articles. The event of a question is
*seen* if a key frame lies within it; if a question needs several events, each must be seen.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from dynfocus.checkpoints import DEFAULT_MODEL, find_model

from ..files import read_rows
from .builder import QUESTIONS_FILE
from .calibration import calibration_error, calibration_figure
from .questions import ALL_KINDS, UNANSWERABLE

_PUNCTUATION = re.compile(r"[^\w\s]|_")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous spaces."""
    return " ".join(_ARTICLES.sub(" ", _PUNCTUATION.sub(" ", text.lower())).split())


def _events_seen(events: Sequence[Sequence[float]], key_frames: Sequence[Mapping[str, Any]]) -> bool:
    times = [float(key_frame["time"]) for key_frame in key_frames]
    return all(any(start <= time < end for time in times) for start, end in events)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def is_right(row: Mapping[str, Any], prediction: Mapping[str, Any]) -> bool:
    """Whether the answer of a prediction is the one of a row, apart from case, punctuation and articles."""
    return normalize_answer(str(prediction["answer"])) == normalize_answer(str(row["answer"]))


def score_predictions(rows: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compare predictions with the right answers.

    Args:
        rows: rows of `questions.jsonl`, with `answer`, `kind` and (optionally) `events`, `[start, end]` in seconds.
        predictions: in the same order, with `answer` and (optionally) `key_frames`, each with a `time` in seconds,
            `score` and `num_visual_tokens`.

    Returns:
        A dictionary for JSON, with `None` for values that cannot be computed. `kinds`: by kind `correct`, `total`,
        `accuracy`, `seen` (the share of questions whose events are seen) and `seen_total` (of how many). `micro`:
        accuracy over all questions; `macro`: mean of the kinds' accuracies; `macro_without_count`; `seen`; `total`;
        `refused`: share of the questions that have an answer and were answered `unanswerable`; `calibration_error` of
        the scores, see there; `mean_visual_tokens`.
    """
    if len(rows) != len(predictions):
        raise ValueError(f"There are {len(rows)} questions but {len(predictions)} predictions; give one for each.")
    counts: dict[str, list[int]] = {}
    tokens, refusals, scored = [], [], []
    for row, prediction in zip(rows, predictions, strict=True):
        tally = counts.setdefault(row["kind"], [0, 0, 0, 0])
        right = is_right(row, prediction)
        tally[0] += right
        tally[1] += 1
        if row["answer"] != UNANSWERABLE:
            refusals.append(normalize_answer(str(prediction["answer"])) == UNANSWERABLE)
        if "score" in prediction:
            scored.append((prediction["score"], right))
        if row.get("events") and "key_frames" in prediction:
            tally[2] += _events_seen(row["events"], prediction["key_frames"])
            tally[3] += 1
        if "num_visual_tokens" in prediction:
            tokens.append(int(prediction["num_visual_tokens"]))
    order = sorted(counts, key=lambda kind: (ALL_KINDS.index(kind) if kind in ALL_KINDS else len(ALL_KINDS), kind))
    kinds = {
        kind: {
            "correct": correct,
            "total": total,
            "accuracy": correct / total,
            "seen": _share(seen, seen_total),
            "seen_total": seen_total,
        }
        for kind in order
        for correct, total, seen, seen_total in [counts[kind]]
    }
    correct, total, seen, seen_total = (sum(tally[column] for tally in counts.values()) for column in range(4))
    return {
        "kinds": kinds,
        "micro": _share(correct, total),
        "macro": _mean([counts[kind][0] / counts[kind][1] for kind in order]),
        "macro_without_count": _mean([counts[kind][0] / counts[kind][1] for kind in order if kind != "count"]),
        "seen": _share(seen, seen_total),
        "total": total,
        "refused": _mean(refusals),
        "calibration_error": calibration_error(*zip(*scored, strict=True)) if scored else None,
        "mean_visual_tokens": _mean(tokens),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def read_questions(folder: str | os.PathLike[str], limit: int | None = None) -> list[dict[str, Any]]:
    """The first `limit` rows of a set (all by default), with `video` as a path that can be opened."""
    path = Path(folder) / QUESTIONS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {QUESTIONS_FILE}; make a set there with `dynfocus synth`.")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}, but at least 1 question must be asked.")
    rows = read_rows(path, ("video", "question", "answer", "kind"), "make the set again")[:limit]
    if not rows:
        raise ValueError(f"{path} holds no questions.")
    return [row | {"video": str(Path(folder) / row["video"])} for row in rows]


def predict(
    rows: Sequence[Mapping[str, Any]], model: str, batch_size: int = 8, device: str | None = None
) -> list[dict[str, Any]]:
    """The model's answers to rows of `read_questions`, with a progress bar on stderr if that is a terminal."""
    from rich.console import Console
    from rich.progress import track
    from transformers import pipeline

    # By naming the class of the installed package, code in the checkpoint's folder is not needed.
    from dynfocus.processing import VideoQAPipeline

    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but it must be at least 1.")
    make: Any = pipeline  # the overloads of `pipeline` list only the tasks of transformers
    answer = make("video-qa", model=model, pipeline_class=VideoQAPipeline, device=device)
    console = Console(stderr=True)
    predictions: list[dict[str, Any]] = []
    videos = [(video, [row["question"] for row in some]) for video, some in groupby(rows, lambda row: row["video"])]
    for video, questions in track(
        videos, "Answering", console=console, transient=True, disable=not console.is_terminal
    ):
        predictions += answer(video, question=questions, batch_size=batch_size)
    return predictions


def print_score(score: Mapping[str, Any], title: str | None = None) -> None:
    """Print a score as a table."""
    from rich.console import Console
    from rich.table import Table

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f} %"

    table = Table(title=title)
    table.add_column("kind")
    for name in ("accuracy", "correct", "questions", "event in key frames"):
        table.add_column(name, justify="right")
    for kind, result in score["kinds"].items():
        correct, total = str(result["correct"]), str(result["total"])
        table.add_row(kind, percent(result["accuracy"]), correct, total, percent(result["seen"]))
    table.add_section()
    all_correct = sum(result["correct"] for result in score["kinds"].values())
    total, seen = str(score["total"]), percent(score["seen"])
    table.add_row("all (micro)", percent(score["micro"]), str(all_correct), total, seen)
    table.add_row("mean of kinds (macro)", percent(score["macro"]), "", "", "")
    table.add_row("mean without count", percent(score["macro_without_count"]), "", "", "")
    console = Console()
    console.print(table)
    if score["refused"] is not None:
        console.print(f"{percent(score['refused'])} of the questions with an answer were answered {UNANSWERABLE!r}")
    if score["calibration_error"] is not None:
        console.print(f"calibration error of the scores: {score['calibration_error']:.3f}")
    if score["mean_visual_tokens"] is not None:
        console.print(f"{score['mean_visual_tokens']:.0f} visual tokens a question on average")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dynfocus.eval.synthetic.score",
        description="Scores a model on synthetic sets, by kind of question.",
    )
    parser.add_argument("folders", nargs="+", metavar="folder", help="a set made by `dynfocus synth`")
    parser.add_argument("--model", help="a folder or a Hub id (the model that comes with the package)")
    parser.add_argument("--batch-size", type=int, default=8, help="questions answered at once (%(default)s)")
    parser.add_argument("--limit", type=int, help="ask only the first questions of a set, up to this number")
    parser.add_argument("--device", help="such as cpu or cuda:0")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--calibration", metavar="FILE", help="draw how often answers of a score are right")
    options = parser.parse_args(arguments)
    try:
        rows = [row for folder in options.folders for row in read_questions(folder, options.limit)]
        model = find_model(options.model)
        predictions = predict(rows, model, options.batch_size, options.device)
        score = score_predictions(rows, predictions)
        if options.calibration:
            scores = [prediction["score"] for prediction in predictions]
            right = [is_right(row, prediction) for row, prediction in zip(rows, predictions, strict=True)]
            calibration_figure(scores, right).savefig(options.calibration, dpi=110)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(score | {"model": options.model or DEFAULT_MODEL, "folders": options.folders}))
    else:
        print_score(score, f"{options.model or DEFAULT_MODEL} on {', '.join(options.folders)}")
    return 0


__all__ = ["is_right", "main", "normalize_answer", "predict", "print_score", "read_questions", "score_predictions"]


if __name__ == "__main__":
    sys.exit(main())
