"""Rows of questions and answers from files, folders and the Hub, for `Trainer`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dynfocus.eval.rows import undecoded
from dynfocus.eval.synthetic.builder import QUESTIONS_FILE, synthesize
from dynfocus.processing.rows.blocks import check_root

#: Readers of `datasets` by file endings, with their settings. "NA" is an answer.
_READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
    ".csv": ("csv", {"keep_default_na": False, "sep": ","}),
    ".tsv": ("csv", {"keep_default_na": False, "sep": "\t"}),
}
#: Of several such files in a folder, the one that holds the rows.
_USUAL_NAMES = ("train", "questions", "metadata")
_COLUMNS = ("video", "videos", "image", "images", "question", "questions", "answer", "id")
_MEDIA_ENDINGS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".gif", ".jpg", ".jpeg", ".png", ".webp")
_FORMS = "`messages`, `conversations` (LLaVA), or `video`, `question` and `answer`"


@dataclass(frozen=True)
class Source:
    """
    A source of rows.

    Args:
        path (`str`): a json, jsonl, csv, tsv or parquet file; a folder that holds one such file (or one called
            `train`, `questions` or `metadata`), or one that `datasets` saved; or a data set's id on the Hub.
        split (`str`, defaults to `"train"`), name (`str`, *optional*), revision (`str`, *optional*): of a data set on
            the Hub.
        media_root (`str`, *optional*): folder or address (`hf://…`) of relative paths of videos and images; by default
            the folder of a local file.
        limit (`int`, *optional*): take only the first rows, up to this number.
        synth (`dict`, *optional*): arguments of `synthesize`, such as `seed` and `num_videos`: `path` is made as a set
            of synthetic videos.
    """

    path: str
    split: str = "train"
    name: str | None = None
    revision: str | None = None
    media_root: str | None = None
    limit: int | None = None
    synth: dict[str, Any] | None = None


class Rows(torch.utils.data.Dataset):
    """The rows of several sources, one source after another, each with its `media_root`."""

    def __init__(self, parts: Sequence[tuple[Any, str | None]]):
        self.parts = list(parts)

    def __len__(self) -> int:
        return sum(len(rows) for rows, _ in self.parts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        for rows, media_root in self.parts:
            if index < len(rows):
                return {**rows[index], "media_root": media_root}
            index -= len(rows)
        raise IndexError("The row does not exist.")


def load_rows(sources: Sequence[Source]) -> Rows:
    """
    All rows of the sources.

    Raises:
        `FileNotFoundError`: if a file, folder, data set or media root does not exist.
        `ValueError`: if a source is empty or of a form that cannot be read.
    """
    return Rows([_of_training(source, streaming=False) for source in sources])


def make_synthetic(sources: Sequence[Source], log: Callable[[str], None]) -> None:
    """
    Make the sets of the sources with `synth`, or complete them.

    Raises:
        `ValueError`, `FileExistsError`: for invalid settings, or a folder that holds something else.
    """
    for source in sources:
        if source.synth is None:
            continue
        folder = Path(source.path).expanduser()
        if not (folder / QUESTIONS_FILE).is_file():
            log(f"Making synthetic videos in {folder}.")
        try:
            synthesize(folder, **source.synth)
        except TypeError as error:
            raise ValueError(f"{source.path}: `synth`: {str(error).replace('synthesize() ', '')}.") from error


def stream_rows(sources: Sequence[Source], seed: int, buffer_size: int = 1000) -> Any:
    """
    The rows of the sources as an endless `IterableDataset` of `datasets`: read while they are used, and shuffled
    within a buffer of `buffer_size` rows.

    Raises: see `load_rows`.
    """
    from datasets import interleave_datasets

    streams = []
    for source in sources:
        rows, media_root = _of_training(source, streaming=True)
        # Shuffled after it was repeated, so that the order differs in each round.
        streams.append(rows.map(_WithRoot(media_root)).repeat(None).shuffle(seed=seed, buffer_size=buffer_size))
    if len(streams) == 1:
        return streams[0]
    with _named_errors(", ".join(source.path for source in sources)):
        return interleave_datasets(streams, seed=seed)


class _WithRoot:
    def __init__(self, media_root: str | None):
        self.media_root = media_root

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"media_root": self.media_root}


def _of_training(source: Source, streaming: bool) -> tuple[Any, str | None]:
    rows, media_root = open_table(source, streaming)
    _check_form(rows, source.path)
    return rows, media_root


def open_table(source: Source, streaming: bool = False) -> tuple[Any, str | None]:
    """
    The rows of one source, of any columns, and its media root.

    Raises:
        `FileNotFoundError`: if the file, folder, data set or media root does not exist.
        `ValueError`: if it cannot be read.
    """
    from datasets import Dataset, load_dataset, load_from_disk

    path = Path(source.path).expanduser()
    media_root = None if source.media_root is None else check_root(source.media_root)
    rows: Any
    if path.is_dir() and ((path / "state.json").is_file() or (path / "dataset_dict.json").is_file()):
        loaded = load_from_disk(str(path))
        if not isinstance(loaded, Dataset) and source.split not in loaded:
            raise ValueError(f"{path}: holds no split {source.split!r}, but {', '.join(loaded)}.")
        rows = loaded if isinstance(loaded, Dataset) else loaded[source.split]
        rows = rows.to_iterable_dataset() if streaming else rows
        media_root = media_root or str(path)
    elif path.exists():
        file = _table_in(path) if path.is_dir() else path
        if file.suffix.lower() not in _READERS:
            raise ValueError(f"{file}: rows are read from {', '.join(_READERS)} files only.")
        reader, options = _READERS[file.suffix.lower()]
        if not file.stat().st_size:
            raise ValueError(f"{file}: the file is empty.")
        with _named_errors(str(file)):
            if reader == "csv":
                options = {**options, "features": _text_columns(file, options["sep"])}
            rows = load_dataset(reader, data_files=str(file), split="train", streaming=streaming, **options)
        media_root = media_root or str(file.parent)
    elif _looks_local(source.path):
        raise FileNotFoundError(f"{source.path}: there is no such file or folder with rows.")
    else:
        with _named_errors(source.path):
            rows = load_dataset(
                source.path, source.name, split=source.split, revision=source.revision, streaming=streaming
            )
    rows = _with_plain_names(undecoded(rows))
    if source.limit is not None:
        rows = rows.take(source.limit)
    return rows, media_root


def _table_in(folder: Path) -> Path:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _READERS)
    usual = [path for path in found if path.stem in _USUAL_NAMES]
    if len(usual) == 1:
        return usual[0]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ValueError(f"{folder}: should hold one file with rows ({', '.join(_READERS)}), and holds {names}.")
    return found[0]


def _text_columns(file: Path, sep: str) -> Any:
    """Every column of a table as text, because an answer "007" is not 7."""
    import pandas
    from datasets import Features, Value

    try:
        names = pandas.read_csv(file, sep=sep, nrows=0, encoding="utf-8").columns
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8; save it as UTF-8.") from error
    if len(names) == 1 and ";" in names[0]:
        raise ValueError(f"its columns are separated by semicolons; they should be by {sep!r}.")
    return Features({name: Value("string") for name in names})


def _with_plain_names(rows: Any) -> Any:
    """Columns named as spreadsheets may have them, `Video` or ` question`, by their plain names."""
    names = list(rows.features or {})
    plain = {name: name.strip().lower() for name in names}
    changed = {name: new for name, new in plain.items() if new != name and new in _COLUMNS and new not in names}
    return rows.rename_columns(changed) if changed else rows


def _looks_local(path: str) -> bool:
    return path.startswith((".", "/", "~")) or path.count("/") > 1 or Path(path).suffix.lower() in _READERS


def _check_form(rows: Any, path: str) -> None:
    first = next(iter(rows), None)
    if first is None:
        raise ValueError(f"{path}: holds no rows to train on.")
    if "messages" not in first and "conversations" not in first and not {"question", "answer"} <= first.keys():
        raise ValueError(f"{path}: rows need {_FORMS}; these have the columns {', '.join(sorted(first))}.")
    if not {*first} & {"messages", "conversations", "video", "videos", "image", "images"}:
        for name, value in first.items():
            if isinstance(value, str) and value.strip().lower().endswith(_MEDIA_ENDINGS):
                raise ValueError(f"{path}: has no column `video`, but a file in `{name}`: rename it to `video`.")


class _named_errors:
    """Errors of `datasets` as one sentence that names the file or data set."""

    def __init__(self, path: str):
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

        if isinstance(error, DatasetNotFoundError):
            raise FileNotFoundError(
                f"{self.path}: is neither a local file nor a data set on the Hub (if private: `hf auth login`)."
            ) from error
        if isinstance(error, (DatasetGenerationError, ValueError, OSError)):
            cause = str(error.__cause__ or error).splitlines()[0]
            if "corresponds to no data" in cause:
                raise ValueError(f"{self.path}: holds no rows.") from error
            if "Error tokenizing data" in cause:
                cause += " (texts with a comma must be in quotes)"
            raise ValueError(f"{self.path}: cannot be read as rows: {cause}") from error


__all__ = ["Rows", "Source", "load_rows", "make_synthetic", "open_table", "stream_rows"]
