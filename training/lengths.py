"""Number of tokens of each row, visual and text, computed without decoding and cached between runs."""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dynfocus.processing import DynFocusCollator

from .rows import Rows

_WORKERS = 8


def row_lengths(rows: Rows, collator: DynFocusCollator, cache: Path, log: Callable[[str], None] = print) -> list[int]:
    """
    The number of tokens of each row; 0 for a row that cannot be read, which training reports.

    Args:
        rows ([`Rows`]).
        collator ([`DynFocusCollator`]): computes the token plan.
        cache: a cache file, which is used again for the same number of rows and the same settings.
        log: called with a message if this takes long.
    """
    key = _key(rows, collator)
    try:
        kept = json.loads(cache.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return kept["lengths"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    log(f"Looking at the lengths of {len(rows):,} rows.")

    def length(index: int) -> int:
        try:
            return collator.estimate_length(rows[index])
        except (ValueError, OSError):
            return 0

    with ThreadPoolExecutor(_WORKERS) as pool:
        lengths = list(pool.map(length, range(len(rows))))
    part = cache.with_suffix(".part")
    part.write_text(json.dumps({"key": key, "lengths": lengths}), encoding="utf-8")
    part.replace(cache)
    return lengths


def _key(rows: Rows, collator: DynFocusCollator) -> str:
    """Key of the rows and of all settings on which lengths depend."""
    tables = [[table._fingerprint, media_root] for table, media_root in rows.parts]
    settings = [tables, collator.max_length, collator.on_too_long, collator.processor.to_dict()]
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


__all__ = ["row_lengths"]
