"""A benchmark's rows, from the Hub or from a local set, with their revision."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .benchmarks.base import Benchmark
from .files import read_rows


@dataclass(frozen=True)
class Rows:
    """
    The rows of a benchmark.

    Args:
        rows: the rows, with undecoded videos; with several configurations, each row has the name of its own as
            `"_config"`.
        source (`dict`): `id`, `config`, `split`, `revision` (the commit; for a local set the hash of its file).
    """

    rows: Iterator[Mapping[str, Any]]
    source: dict[str, Any]


def load_rows(benchmark: Benchmark, revision: str | None = None, folder: str | os.PathLike[str] | None = None) -> Rows:
    """
    Load the rows of a benchmark, and check their fields.

    Args:
        revision: revision of the data set, in place of the benchmark's own.
        folder: folder of the videos, which also holds the rows of a local set.

    Raises:
        `ValueError`: the data set does not exist, is gated, cannot be reached or has other fields.
    """
    if benchmark.local:
        return _local_rows(benchmark, folder)
    from huggingface_hub import errors

    revision = revision or benchmark.revision
    names = [benchmark.dataset, *([benchmark.fallback] if benchmark.fallback else [])]
    gone: Exception | None = None
    for name in names:
        try:
            return _hub_rows(benchmark, name, revision)
        except Exception as error:
            causes = list(_causes(error))
            if any(isinstance(one, errors.GatedRepoError) for one in causes) or "is a gated dataset" in str(error):
                raise ValueError(
                    f"{name} is gated: agree to its terms on https://huggingface.co/datasets/{name}, then log in "
                    "(`hf auth login`)."
                ) from error
            if any(isinstance(one, errors.RevisionNotFoundError) for one in causes):
                raise ValueError(f"{name} has no revision {revision!r}: name one with --dataset-revision.") from error
            if not _is_gone(error, causes):
                raise _unreadable(name, error, causes) from error
            gone = error
    raise ValueError(
        f"{' and '.join(names)}: there is no such data set on the Hub, or it is private (then `hf auth login`)."
    ) from gone


def _local_rows(benchmark: Benchmark, folder: str | os.PathLike[str] | None) -> Rows:
    if folder is None:
        raise ValueError(f"{benchmark.title} is a set on this machine: name its folder with --videos.")
    path = Path(folder) / str(benchmark.data_files)
    if not path.is_file():
        raise ValueError(f"--videos {folder}: holds no {benchmark.data_files}, so it is no set of {benchmark.title}.")
    lines = read_rows(path, benchmark.fields, "make the set again")
    digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    return Rows(iter(lines), {"id": benchmark.dataset, "config": None, "split": benchmark.split, "revision": digest})


def _hub_rows(benchmark: Benchmark, name: str, revision: str | None) -> Rows:
    import datasets

    commit = _commit(name, revision)
    configs = benchmark.configs or (benchmark.config,)
    split = "train" if benchmark.data_files else benchmark.split
    tables = []
    for config in configs:
        options: dict[str, Any] = {"split": split, "revision": commit or revision}
        if benchmark.data_files:
            options["data_files"] = benchmark.data_files.format(config=config)
        else:
            options["name"] = config
        table = datasets.load_dataset(name, **options)
        benchmark.check_fields(table.column_names)
        tables.append((config, undecoded(table)))

    def rows() -> Iterator[Mapping[str, Any]]:
        for config, table in tables:
            for row in table:
                yield {**row, "_config": config} if benchmark.configs else row

    named = list(benchmark.configs) or benchmark.config
    return Rows(rows(), {"id": name, "config": named, "split": benchmark.split, "revision": commit or revision})


def undecoded(table: Any) -> Any:
    """A table of `datasets`, streamed or not, whose videos, images and sounds stay files: no row opens them."""
    import datasets

    if table.features is None:
        return table
    if isinstance(table, datasets.IterableDataset):
        # Streamed tables may have been set up to decode ahead, in threads.
        return table.decode(False)
    for column, kind in table.features.items():
        if (plain := _undecoded_kind(kind)) != kind:
            table = table.cast_column(column, plain)
    return table


def _undecoded_kind(kind: Any) -> Any:
    import datasets

    if isinstance(kind, dict):
        return {name: _undecoded_kind(inner) for name, inner in kind.items()}
    if isinstance(kind, (list, tuple)):
        return [_undecoded_kind(inner) for inner in kind]
    if isinstance(kind, (datasets.List, datasets.LargeList)):
        return replace(kind, feature=_undecoded_kind(kind.feature))
    return replace(kind, decode=False) if getattr(kind, "decode", None) else kind


def _commit(name: str, revision: str | None) -> str | None:
    """
    The commit of a revision; `None` if the Hub cannot be reached, because `datasets` may have the rows in its cache.
    """
    from huggingface_hub import HfApi, errors

    if os.path.isdir(name):
        return None
    try:
        return HfApi().dataset_info(name, revision=revision).sha
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, errors.HTTPError, OSError):
        return None


def _is_gone(error: Exception, causes: list[BaseException]) -> bool:
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import errors

    return isinstance(error, DatasetNotFoundError) or any(
        isinstance(one, (errors.RepositoryNotFoundError, errors.HFValidationError)) for one in causes
    )


def _unreadable(name: str, error: Exception, causes: list[BaseException]) -> Exception:
    from huggingface_hub import errors

    # The HTTP client's own errors are about the connection; responses of the Hub are `HfHubHTTPError`.
    lost = (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError)
    if any(
        isinstance(one, lost) or (isinstance(one, errors.HTTPError) and not isinstance(one, errors.HfHubHTTPError))
        for one in causes
    ):
        return ValueError(
            f"{name}: the Hub cannot be reached, and the data set was not loaded on this machine before."
        )
    if isinstance(error, ValueError):
        return error
    first = str(error).strip().splitlines()
    return ValueError(f"{name}: cannot be read ({type(error).__name__}: {first[0] if first else ''}).")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


__all__ = ["Rows", "load_rows", "undecoded"]
