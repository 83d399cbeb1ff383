"""
An evaluation: `dynfocus eval BENCHMARK`, or with many processes

    torchrun --nproc_per_node N -m dynfocus.eval.run BENCHMARK [--videos DIR] …
    accelerate launch --num_processes N -m dynfocus.eval.run BENCHMARK [--videos DIR] …
"""

import argparse
import shlex
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dynfocus.adoption.served_model import DoubtfulAnswer
from dynfocus.checkpoints import DEFAULT_MODEL, find_model

from .answering import Answer, Answerer, VideoTask
from .benchmarks import NO_SUBTITLES, get_benchmark, subtitle_text
from .benchmarks.base import Benchmark, Question
from .files import write_json
from .processes import Processes
from .progress import AnsweringProgress
from .provenance import run_settings
from .rows import load_rows
from .run_folder import (
    ANSWERS_FILE,
    RESULT_FILE,
    SETTINGS_FILE,
    TIMINGS_FILE,
    Run,
    append_lines,
    claim_run,
    gather,
    has_result,
    read_answers,
    read_run,
    write_lines,
)
from .scoring import check_scorable, grade, judge_lines, score
from .videos import check_subtitles, find_videos, group_by_video, subtitle_file

VERDICTS_FILE = "verdicts.jsonl"


@dataclass(frozen=True)
class EvalSettings:
    """
    Settings of an evaluation.

    Args:
        benchmark: see `dynfocus.eval.benchmarks`.
        model: a folder or a Hub id; by default the model that comes with the package. With `server`, its name there.
        server: an OpenAI-compatible server that answers, up to `/v1`.
        revision, dataset_revision: branch, tag or commit on the Hub.
        videos: the folder with the videos.
        out: the run's folder; by default `runs/BENCHMARK-MODEL`.
        limit: ask only the first questions, up to this number.
        fps, max_frames, max_visual_tokens: settings for each video; by default the processor's.
        rule: a rule of choice, such as `"uniform"`; by default the model's own.
        batch_size: questions about one video that are answered at once.
        device, dtype: by default an accelerator if there is one, and as the model was saved.
        seed: random seed, for models that sample their answers.
        judge: a model that judges free answers, see [`Judge`].
        command: the command of the run, for its record.
    """

    benchmark: Benchmark
    model: str | None = None
    server: str | None = None
    revision: str | None = None
    dataset_revision: str | None = None
    videos: str | None = None
    out: Path | None = None
    limit: int | None = None
    fps: float | None = None
    max_frames: int | None = None
    max_visual_tokens: int | None = None
    rule: str | None = None
    batch_size: int = 8
    device: str | None = None
    dtype: str | None = None
    seed: int = 0
    judge: str | None = None
    command: str = ""

    def __post_init__(self) -> None:
        for name in ("limit", "fps", "max_frames", "max_visual_tokens", "batch_size"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"--{name.replace('_', '-')} {value}: must be above 0.")
        if self.judge is not None and self.benchmark.metric != "judged_video_qa":
            raise ValueError(f"--judge {self.judge}: {self.benchmark.title} is scored without a judge; leave it out.")

    @property
    def model_name(self) -> str:
        return self.model or DEFAULT_MODEL

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / f"{self.benchmark.name}-{Path(self.model_name).name}"


@dataclass
class _Session:
    """A running evaluation: the questions, their files, the model and the folder."""

    settings: EvalSettings
    processes: Processes
    questions: list[Question]
    source: dict[str, Any]
    files: Mapping[str, str | None] = field(default_factory=dict)


def evaluate(
    settings: EvalSettings,
    load: Callable[[EvalSettings, str | None], Any] | None = None,
    log: Callable[[str], None] = print,
) -> Run:
    """
    Ask all questions of a benchmark, or continue an interrupted run. Failed questions are tried again.

    Args:
        load: returns the `video-qa` pipeline for the settings and the device.
        log: called with each message, in the main process.

    Returns:
        [`Run`]: the finished run.

    Raises:
        `ValueError`, `OSError`: for settings that do not fit, and for files that cannot be read or written.
    """
    processes = Processes.from_environment()
    log = log if processes.is_main else _discard
    if not processes.is_main:
        processes.wait()  # until the main process has fetched the rows
    benchmark = settings.benchmark
    rows = load_rows(benchmark, settings.dataset_revision, settings.videos)
    all_questions = benchmark.questions(rows.rows)
    if not all_questions:
        raise ValueError(f"{benchmark.title}: the data set has no questions.")
    if settings.limit is not None and settings.limit >= len(all_questions):
        settings = replace(settings, limit=None)  # the whole benchmark is asked
    questions = all_questions[: settings.limit]
    check_scorable(benchmark, questions)
    if processes.is_main:
        processes.wait()
    session = _Session(settings, processes, questions, rows.source)
    session.files = find_videos(benchmark, questions, settings.videos)
    # Checked for all questions, because the first few may have no subtitles.
    check_subtitles(all_questions, settings.videos)
    pipe = (load or load_pipeline)(settings, processes.device(settings.device))
    if settings.server is None:
        pipe.model.eval()
    folder = settings.folder
    if processes.is_main:
        claim_run(folder, run_settings(settings, pipe, questions, rows.source, processes.world_size))
        answered = {key: line for key, line in gather(folder).items() if line["error"] is None}
        if len(answered) < len(questions) or not has_result(folder):
            (folder / RESULT_FILE).unlink(missing_ok=True)
            write_lines(folder / ANSWERS_FILE, answered.values())
            if answered:
                log(f"Continuing in {folder}: {len(answered)} of {len(questions)} questions are answered.")
    processes.wait()
    done = read_answers(folder)
    processes.wait()
    with _doubts(log):
        _answer_share(session, pipe, done)
    processes.wait()
    if processes.is_main:
        _finish(session, log)
    processes.wait()
    return read_run(folder)


def load_pipeline(settings: EvalSettings, device: str | None) -> Any:
    """The `video-qa` pipeline of this package's classes."""
    from transformers import pipeline

    from dynfocus import VideoQAPipeline

    make: Any = pipeline  # its overloads list only the tasks of transformers
    options = {"device": device, "dtype": settings.dtype}
    return make(
        "video-qa",
        model=find_model(settings.model),
        revision=settings.revision,
        pipeline_class=VideoQAPipeline,
        **{name: value for name, value in options.items() if value is not None},
    )


def _answer_share(session: _Session, pipe: Any, done: Mapping[str, Any]) -> None:
    """Ask the remaining questions of this process."""
    settings, processes = session.settings, session.processes
    tasks = list(_open_tasks(session, done))[processes.rank :: processes.world_size]
    sampling = {"fps": settings.fps, "max_frames": settings.max_frames}
    answerer = Answerer(
        pipe,
        settings.benchmark.generation,
        {name: value for name, value in sampling.items() if value is not None},
        settings.max_visual_tokens,
        settings.seed,
        settings.rule,
    )
    label = f"Answering (process 1 of {processes.world_size})" if processes.world_size > 1 else "Answering"
    total = sum(task.num_questions for task in tasks)
    with AnsweringProgress(total, label, quiet=not processes.is_main) as progress:
        for batch, answers in answerer.answer(tasks):
            lines = [_line(settings.benchmark, *pair) for pair in zip(batch, answers, strict=True)]
            timings = [{"id": q.id, **a.timings} for q, a in zip(batch, answers, strict=True) if a.timings]
            # The timings first: a line of answers means that the question is finished.
            append_lines(settings.folder, TIMINGS_FILE, processes.rank, timings)
            append_lines(settings.folder, ANSWERS_FILE, processes.rank, lines)
            progress.update([line["correct"] for line in lines])


@contextmanager
def _doubts(log: Callable[[str], None]) -> Iterator[None]:
    """Logs what was odd about a server's answers, and how often."""
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", DoubtfulAnswer)
        yield
    for message, count in Counter(str(one.message) for one in noted).items():
        log(f"{message} ({count} of the answers)")


def _open_tasks(session: _Session, done: Mapping[str, Any]) -> Iterator[VideoTask]:
    """
    Videos with unanswered batches. Batches are formed before answered questions are left out, so that a batch, and
    with it rounding, is the same in every run.
    """
    settings, size = session.settings, session.settings.batch_size

    def subtitles(question: Question, times: Sequence[float]) -> str:
        path = subtitle_file(question, settings.videos)
        if path is None:
            return NO_SUBTITLES
        try:
            return subtitle_text(path.read_bytes(), times) or NO_SUBTITLES
        except ValueError as error:
            raise ValueError(f"{question.subtitles}: {error}") from error

    for video, questions in group_by_video(session.questions).items():
        batches = [questions[start : start + size] for start in range(0, len(questions), size)]
        left = [batch for batch in batches if any(question.id not in done for question in batch)]
        if left:
            yield VideoTask(session.files[video], left, subtitles)


def _line(benchmark: Benchmark, question: Question, answer: Answer) -> dict[str, Any]:
    prediction, correct = grade(benchmark.metric, question, answer.output or "")
    return {
        "id": question.id,
        "video": question.video,
        "output": answer.output,
        "prediction": prediction if answer.error is None else None,
        "reference": question.reference,
        "correct": correct,
        "key_frames": answer.key_frames,
        "num_visual_tokens": answer.num_visual_tokens,
        "num_frames": answer.num_frames,
        "duration": answer.duration,
        "error": answer.error,
        "groups": dict(question.groups),
        **({} if question.pair is None else {"pair": question.pair}),
    }


def _finish(session: _Session, log: Callable[[str], None]) -> None:
    """Put all answers in order, have them judged if a judge is given, and write the scores."""
    settings, folder, benchmark = session.settings, session.settings.folder, session.settings.benchmark
    found = gather(folder)
    lines = [found[question.id] for question in session.questions]
    records = None
    if benchmark.metric == "judged_video_qa":
        if settings.judge is not None:
            records = _judged(session, lines)
        elif (folder / RESULT_FILE).is_file():
            return  # with the verdicts of an earlier start, if there were any
        else:
            for line in lines:
                line.pop("verdicts", None)
                line["correct"] = None
            log("The answers are not judged yet: run the same command with --judge MODEL.")
    write_lines(folder / ANSWERS_FILE, lines)
    result = score(benchmark, session.questions, lines)
    write_json(folder / RESULT_FILE, {**result, "judge": records})


def _judged(session: _Session, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    settings, folder = session.settings, session.settings.folder
    assert settings.judge is not None
    with AnsweringProgress(len(lines), "Judging") as progress:
        records = judge_lines(
            session.questions, lines, settings.judge, folder / VERDICTS_FILE, on_progress=progress.reach
        )
    noted = read_run(folder).settings
    if noted["judge"] != settings.judge:
        # The judge was requested by a later command, which is then the one that makes the result.
        write_json(folder / SETTINGS_FILE, {**noted, "judge": settings.judge, "command": settings.command})
    return records


def _discard(text: str) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of one of several processes; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m dynfocus.eval.run", description="Evaluates a model; several processes share the work."
    )
    parser.add_argument("benchmark", help="such as video_mme; `dynfocus eval --list` names all")
    words = ("model", "revision", "dataset-revision", "videos", "out", "device", "dtype", "judge")
    for name in words:
        parser.add_argument(f"--{name}")
    for name in ("limit", "max-frames", "max-visual-tokens"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--fps", type=float)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--subtitles", action="store_true")
    words_given = list(sys.argv[1:] if arguments is None else arguments)
    given = vars(parser.parse_args(words_given))
    try:
        benchmark = get_benchmark(given.pop("benchmark"))
        if given.pop("subtitles"):
            benchmark = benchmark.with_options(subtitles=True)
        out = given.pop("out")
        command = shlex.join(["python", "-m", "dynfocus.eval.run", *words_given])
        settings = EvalSettings(benchmark, **given, out=None if out is None else Path(out), command=command)
        run = evaluate(settings)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    if Processes.from_environment().is_main:
        print(f"{run.folder}: `dynfocus report {run.folder}` shows the result.")
    Processes.from_environment().close()
    return 0


__all__ = ["EvalSettings", "evaluate", "load_pipeline", "main"]


if __name__ == "__main__":
    sys.exit(main())
