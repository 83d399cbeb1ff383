"""
Many videos and their questions, as `dynfocus batch` reads, answers and writes them. `actors.py` spreads the work.

A batch is a folder:

    run.json                   settings, table, model, versions
    answers/00000.parquet      rows of consecutive videos in the order of the table, once all of them are finished
    unfinished/00000.jsonl     of a file that is not finished yet: one line for each finished video
    states/000000.safetensors  on request, the state of each video

The rule by which a batch goes on: a video is finished exactly if its line or its file of answers exists. Only the
process that was started by the user writes them, under a lock. A line is written at once and flushed to the disk, a
file of answers under another name and then renamed, so that a kill at any moment loses only the videos at work. Which
videos share a file depends on the table alone; for this reason the finished files are the same for any number of
actors and of kills. Ray Data's checkpoints were not used: they keep the ids of rows beside files of any content and
order, and need ids that are unique.
"""

import errno
import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dynfocus.processing.reading.chat_video import ChatVideo
from dynfocus.processing.rows.blocks import as_text, is_empty
from dynfocus.processing.rows.conversations import as_messages, media_of

from .files import claim_folder, is_unused, parse_object, read_json, write_json, write_text
from .provenance import package_versions, text_hash

SETTINGS_FILE = "run.json"
ANSWERS, UNFINISHED, STATES = "answers", "unfinished", "states"
#: A file of answers ends with the video that reaches this number of rows.
ROWS_PER_FILE = 10_000
_WAY_OUT = "give another --out, or delete that folder"
#: Settings that may differ between a batch and its continuation, because they do not change its content.
_FREE = ("command", "date", "media_root", "record")
_STATE_ENDING = ".safetensors"
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_OUT_OF_MEMORY = "The device's memory is full: lower --max-frames or --max-visual-tokens, or use --dtype bfloat16."


class StopBatch(Exception):
    """What would fail for every further video as well, such as a full disk; the whole batch stops."""


@dataclass(frozen=True)
class Question:
    """
    A question about a video.

    Args:
        row: number of its row in the table, from 0.
        id: the row's `id`, or its number; `/0`, `/1`, … is added to those of a list of questions.
        text: the question, as it is in the table.
        options: of a multiple-choice question; as in a row of the pipeline, they only help to choose frames.
    """

    row: int
    id: str
    text: Any
    options: list[str] | None = None


@dataclass(frozen=True)
class Video:
    """
    A video and all its questions.

    Args:
        number: its place among the videos of the table, in the order of their first rows.
        name: its name in the table.
        path: an absolute path, or a URL; that of a state if it ends in `.safetensors`.
        settings: `video_start` and `video_end` of its rows.
        error: why it cannot be read, if that is known from the table.
    """

    number: int
    name: str
    path: str
    settings: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    questions: list[Question] = field(default_factory=list)


@dataclass(frozen=True)
class Asking:
    """Settings of all questions: those of `encode_video`, and of `answer`; `None` as the model was saved."""

    sampling: dict[str, Any]
    max_visual_tokens: int | None = None
    rule: str | None = None
    max_new_tokens: int = 64


# ------------------------------------------------------------------------------------------------------------- table


def videos_of(rows: Iterable[Mapping[str, Any]], media_root: str | None) -> list[Video]:
    """
    Group the rows of a table by their videos.

    Args:
        rows: with `video`, and `question` or a list `questions`; optional `id`, `options`, `video_start`, `video_end`.
        media_root: folder of relative paths.

    Raises:
        `ValueError`: no row, a missing column, or `questions` or `options` that are no list. An empty cell is no error
            here: its row gets one when it is asked.
    """
    videos: dict[Any, Video] = {}
    for number, row in enumerate(rows):
        if "video" not in row or not {"question", "questions"} & row.keys():
            raise ValueError(
                f"The table needs the columns `video` and `question` (or `questions`, a list); it has "
                f"{', '.join(sorted(row))}."
            )
        name, path, settings, error = _video_of(row, media_root)
        key = path, *settings.items(), error
        video = videos.setdefault(key, Video(len(videos), name, path, settings, error))
        video.questions.extend(_questions_of(row, number))
    if not videos:
        raise ValueError("The table has no rows.")
    return list(videos.values())


def _video_of(row: Mapping[str, Any], root: str | None) -> tuple[str, str, Mapping[str, float], str]:
    cell = row["video"]
    name = cell if isinstance(cell, str) else str(cell.get("path") or "") if isinstance(cell, Mapping) else ""
    try:
        if is_empty(cell):
            raise ValueError("The row has no video.")
        window = {key: row.get(key) for key in ("video_start", "video_end")}
        ((_, value),) = media_of(as_messages({"video": cell, "question": "?", **window}, root))
        settings = value.settings if isinstance(value, ChatVideo) else {}
        value = value.video if isinstance(value, ChatVideo) else value
        if not isinstance(value, str):
            raise ValueError(f"`video` must be a path or an address, got {type(value).__name__}.")
    except ValueError as error:
        return name, "", {}, str(error)
    return name, value, settings, ""


def _questions_of(row: Mapping[str, Any], number: int) -> Iterator[Question]:
    def checked(column: str) -> list[Any] | None:
        cell: Any = row.get(column)
        if is_empty(cell):
            return None
        if isinstance(cell, (str, bytes)) or not hasattr(cell, "__iter__"):
            raise ValueError(
                f"Row {number}: `{column}` must be a list, as parquet and JSON files hold it; got "
                f"{type(cell).__name__}."
            )
        return list(cell)

    several, options = checked("questions"), checked("options")
    own = str(number) if is_empty(row.get("id")) else as_text(row["id"])
    if several is None:
        yield Question(number, own, row.get("question"), options)
    for place, text in enumerate(several or ()):
        yield Question(number, f"{own}/{place}", text, options)


def table_settings(videos: list[Video]) -> dict[str, Any]:
    """The record of a table: its size, and a hash of its videos' names, questions and ids."""
    digest = hashlib.sha256()
    for video in videos:
        asked = [[one.row, one.id, one.text, one.options] for one in video.questions]
        digest.update(json.dumps([video.name, dict(video.settings), asked], default=str).encode())
    rows = sum(len(video.questions) for video in videos)
    return {"rows": rows, "videos": len(videos), "hash": f"sha256:{digest.hexdigest()}"}


# ------------------------------------------------------------------------------------------------------------ answers


def answer_video(video_qa: Any, video: Video, asking: Asking, state_file: str | None = None) -> list[dict[str, Any]]:
    """
    The rows of a video: it is encoded once, then its questions are answered. What fails is the `error` of its rows.

    Numbers are rounded as in an evaluation, because their last digits depend on the number of threads.

    Args:
        video_qa ([`VideoQA`]).
        state_file (`str`, *optional*): the state is written there.

    Raises:
        [`StopBatch`]: the disk is full.
    """
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        state, error = _tried(lambda: _state_of(video_qa, video, asking, state_file), video)
    warning = " ".join(dict.fromkeys(_said(one.message, video) for one in noted))
    rows = [failed_row(video, question, error) | {"warning": warning} for question in video.questions]
    if error:
        return rows
    settings = {"max_visual_tokens": asking.max_visual_tokens, "max_new_tokens": asking.max_new_tokens}
    settings = {name: value for name, value in settings.items() if value is not None}
    at_once = video_qa.questions_at_once(state, settings)
    for start in range(0, len(rows), at_once):
        _ask(video_qa, video, state, rows, range(start, min(start + at_once, len(rows))), asking, settings)
    if state_file is not None:
        rows = [row | {"state": f"{STATES}/{os.path.basename(state_file)}"} for row in rows]
    return rows


def model_record(video_qa: Any, asking: Asking) -> dict[str, Any]:
    """Which model answers and how, for the record of a batch; equal for all of its actors."""
    record = video_qa.record()
    choice = video_qa.description(asking.rule, "What is shown?")
    choice.pop("relevance_texts", None)
    return {
        **{name: record[name] for name in ("revision", "dtype")},
        "chat_template_hash": text_hash(record["chat_template"]),
        "device": video_qa.device.type,
        "encoder": text_hash(video_qa.fingerprint() or ""),
        "defaults": video_qa.defaults,
        "choice": choice,
        "versions": package_versions(),
    }


def failed_row(video: Video, question: Question, error: str) -> dict[str, Any]:
    """A row of the answers without an answer."""
    text = "" if question.text is None else str(question.text)
    return {
        **{"row": question.row, "id": question.id, "video": video.name, "question": text, "answer": "", "score": None},
        **{"key_frames": [], "num_visual_tokens": None, "error": error, "warning": "", "state": ""},
    }


def _state_of(video_qa: Any, video: Video, asking: Asking, state_file: str | None) -> Any:
    from dynfocus.states.video_state import VideoState

    if video.error:
        raise ValueError(video.error)
    if video.path.lower().endswith(_STATE_ENDING) and "://" not in video.path:
        state = VideoState.load(video.path)
        if len(state) != 1:
            raise ValueError(f"{video.path}: holds {len(state)} videos; encode each by itself.")
        video_qa.check_state(state)
        return state
    source = ChatVideo(video.path, video.settings) if video.settings else video.path
    return video_qa.encode_video(source, save_to=state_file, **asking.sampling)


def _ask(
    video_qa: Any,
    video: Video,
    state: Any,
    rows: list[dict[str, Any]],
    places: Iterable[int],
    asking: Asking,
    settings: Mapping[str, Any],
) -> None:
    """Answers some of the rows together; if that fails, each alone."""
    prepared = {}
    for place in places:
        question = video.questions[place]
        text = "" if question.text is None else question.text
        row = {"video": state, "question": text, "options": question.options}
        found, rows[place]["error"] = _tried(partial(video_qa.prepare, row, **settings), video)
        if not rows[place]["error"]:
            prepared[place] = found
    if not prepared:
        return
    answers, error = _tried(
        lambda: video_qa.answer(list(prepared.values()), rule=asking.rule, max_new_tokens=asking.max_new_tokens), video
    )
    if error and len(prepared) > 1:
        for place in prepared:
            _ask(video_qa, video, state, rows, [place], asking, settings)
        return
    for place, answer in zip(prepared, answers or [None] * len(prepared), strict=True):
        rows[place] |= {"error": error} if answer is None else _answer_columns(answer)


def _answer_columns(answer: Any) -> dict[str, Any]:
    return {
        "answer": answer.answer,
        "score": _rounded(answer.score),
        "key_frames": [
            {"index": one["index"], "time": round(one["time"], 3), "score": _rounded(one["score"])}
            for one in answer.key_frames
        ],
        "num_visual_tokens": answer.num_visual_tokens,
    }


def _rounded(score: float | None) -> float | None:
    return None if score is None or score != score else round(score, 4)


def _tried(work: Callable[[], Any], video: Video) -> tuple[Any, str]:
    """The result of some work, or why it failed."""
    import torch

    try:
        return work(), ""
    except torch.OutOfMemoryError:
        return None, _OUT_OF_MEMORY
    except (ValueError, OSError) as error:
        if _is_full_disk(error):
            raise StopBatch(str(error).partition(";")[0]) from error
        return None, _said(error, video)


def _is_full_disk(error: BaseException | None) -> bool:
    """Whether an error or what caused it is about the disk; some libraries keep only the system's words."""
    while error is not None:
        words = str(error)
        if any(getattr(error, "errno", None) == number or os.strerror(number) in words for number in _FULL_DISK):
            return True
        error = error.__cause__ or error.__context__
    return False


def _said(error: Any, video: Video) -> str:
    """A message in one line, in which the video has its name in the table: paths differ between machines."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.replace(video.path, video.name) if video.path else text


# ------------------------------------------------------------------------------------------------------------- folder


class BatchFolder:
    """
    The folder of a batch; see the module. It is locked until `close`, or the end of the process.

    Args:
        folder (`Path`).
        videos: all videos of the table.
        settings: what determines the answers; those of an earlier start must be the same.
        with_states: whether there are states.
        retry_errors: whether videos with a failed row are not finished.

    Raises:
        `ValueError`, `FileExistsError`: the folder holds another batch or other things, or is in use.
    """

    def __init__(
        self,
        folder: Path,
        videos: list[Video],
        settings: Mapping[str, Any],
        with_states: bool = False,
        retry_errors: bool = False,
    ):
        self.folder, self.with_states = folder.absolute(), with_states
        self.files = list(_files_of(videos, ROWS_PER_FILE))
        self._file_of = {video.number: number for number, file in enumerate(self.files) for video in file}
        # A folder of other things is refused below, without a trace in it.
        if (self.folder / SETTINGS_FILE).is_file() or is_unused(self.folder):
            self._lock = _locked(self.folder)
        self.is_continued = claim_folder(
            self.folder / SETTINGS_FILE,
            {**settings, "states": with_states, "rows_per_file": ROWS_PER_FILE, "record": None},
            kind="batch",
            way_out=_WAY_OUT,
            is_begun=any(any(self.folder.glob(f"{name}/*")) for name in (ANSWERS, UNFINISHED, STATES)),
            free=_FREE,
        )
        for name in (ANSWERS, UNFINISHED, *([STATES] if with_states else [])):
            (self.folder / name).mkdir(exist_ok=True)
        # Of each unfinished file, the rows of each finished video.
        self._rows: dict[int, dict[int, list[dict[str, Any]]]] = {}
        self.remaining: list[Video] = []
        for number, file in enumerate(self.files):
            if retry_errors:
                self._reopen(number)
            if not self._answers(number).exists():
                done = self._rows[number] = self._read_lines(number)
                self.remaining += [video for video in file if video.number not in done]
                self._finish(number)

    def claim_record(self, record: Mapping[str, Any]) -> None:
        """
        Note what the model says of itself. Raises a `ValueError` if another model, precision or device has given the
        answers so far, or gives others of this batch.
        """
        path = self.folder / SETTINGS_FILE
        settings = read_json(path)
        if settings.get("record") is None:
            write_json(path, {**settings, "record": record})
            return
        found, given = settings["record"], json.loads(json.dumps(record))
        for name in (*given, *found):
            if found.get(name) != given.get(name):
                raise ValueError(
                    f"{self.folder} holds answers of a model with `{name}` = {found.get(name)!r} instead of "
                    f"{given.get(name)!r}: {_WAY_OUT}, or use the same model, versions and devices everywhere."
                )

    def state_file(self, video: Video) -> str | None:
        return str(self.folder / STATES / f"{video.number:06d}{_STATE_ENDING}") if self.with_states else None

    def add(self, video: Video, rows: list[dict[str, Any]]) -> None:
        """Write the rows of a finished video."""
        number = self._file_of[video.number]
        line = json.dumps({"video": video.number, "rows": rows}, ensure_ascii=False) + "\n"
        with self._lines(number).open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._rows[number][video.number] = rows
        self._finish(number)

    def counts(self) -> Counter[str]:
        """How many finished rows there are of each error; `""` for answered ones."""
        import pyarrow.parquet as pq

        errors = Counter(row["error"] for done in self._rows.values() for rows in done.values() for row in rows)
        for number in range(len(self.files)):
            if self._answers(number).exists():
                errors.update(pq.read_table(self._answers(number), columns=["error"])["error"].to_pylist())
        return errors

    def close(self) -> None:
        self._lock.release()

    def _finish(self, number: int) -> None:
        """Writes a file of answers if all of its videos are finished."""
        done, file = self._rows[number], self.files[number]
        if len(done) < len(file):
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = sorted((row for video in file for row in done[video.number]), key=lambda row: row["row"])
        part = self._lines(number).with_suffix(".part")
        with part.open("wb") as out:
            pq.write_table(pa.Table.from_pylist(rows, schema=_schema(self.with_states)), out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, self._answers(number))
        # Only now: if this is not reached, the file of answers counts.
        self._lines(number).unlink(missing_ok=True)
        del self._rows[number]

    def _reopen(self, number: int) -> None:
        """Takes the videos with failed rows out of what is finished."""
        import pyarrow.parquet as pq

        path = self._answers(number)
        if path.exists():
            rows = {(row["row"], row["id"]): row for row in pq.read_table(path).to_pylist()}
            done = {video.number: [rows[q.row, q.id] for q in video.questions] for video in self.files[number]}
        else:
            done = self._read_lines(number)
        good = {key: own for key, own in done.items() if not any(row["error"] for row in own)}
        if len(good) < len(done):
            self._write_lines(number, good)
            path.unlink(missing_ok=True)

    def _read_lines(self, number: int) -> dict[int, list[dict[str, Any]]]:
        """The videos of an unfinished file; a line that a kill cut short is removed."""
        path = self._lines(number)
        lines = path.read_bytes().splitlines() if path.exists() else []
        found = [parse_object(line, ("video", "rows")) for line in lines]
        done = {one["video"]: one["rows"] for one in found if not isinstance(one, str)}
        if len(done) < len(lines):
            self._write_lines(number, done)
        return done

    def _write_lines(self, number: int, done: Mapping[int, list[dict[str, Any]]]) -> None:
        lines = (json.dumps({"video": key, "rows": rows}, ensure_ascii=False) + "\n" for key, rows in done.items())
        write_text(self._lines(number), "".join(lines))

    def _answers(self, number: int) -> Path:
        return self.folder / ANSWERS / f"{number:05d}.parquet"

    def _lines(self, number: int) -> Path:
        return self.folder / UNFINISHED / f"{number:05d}.jsonl"


def _files_of(videos: Iterable[Video], rows_per_file: int) -> Iterator[list[Video]]:
    """Consecutive videos whose rows share a file."""
    file: list[Video] = []
    rows = 0
    for video in videos:
        file.append(video)
        rows += len(video.questions)
        if rows >= rows_per_file:
            yield file
            file, rows = [], 0
    if file:
        yield file


def _locked(folder: Path) -> Any:
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock.part")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{folder}: another `dynfocus batch` writes into it; wait for it, or stop it.") from None
    return lock


def _schema(with_states: bool) -> Any:
    """Of the files of answers. Every column has its type, also where all of its cells are empty."""
    import pyarrow as pa

    key_frame = pa.struct({"index": pa.int64(), "time": pa.float64(), "score": pa.float64()})
    columns = {
        **{"row": pa.int64(), **dict.fromkeys(("id", "video", "question", "answer"), pa.string())},
        **{"score": pa.float64(), "key_frames": pa.list_(key_frame), "num_visual_tokens": pa.int64()},
        **dict.fromkeys(("error", "warning", *(["state"] if with_states else [])), pa.string()),
    }
    return pa.schema(columns)


__all__ = [
    "ROWS_PER_FILE",
    "Asking",
    "BatchFolder",
    "Question",
    "StopBatch",
    "Video",
    "answer_video",
    "failed_row",
    "model_record",
    "table_settings",
    "videos_of",
]
