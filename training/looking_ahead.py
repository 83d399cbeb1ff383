"""Before a stock model is trained: encodes all videos once, and chooses frames for each row's question."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import TrainingArguments

from dynfocus.adoption.focus_collator import FocusCollator
from dynfocus.eval.files import write_text
from dynfocus.processing.rows.conversations import as_messages, media_of
from dynfocus.towers.dual_encoder import DualEncoder

from .rows import Rows

#: Folder in a run's folder with the states of its videos.
STATES = "videos"


class ChosenRows(torch.utils.data.Dataset):
    """
    Rows with the columns from [`FocusCollator.choose`].

    Args:
        rows: the rows of the files.
        chosen: the columns of each row as JSON, which takes little memory.
    """

    def __init__(self, rows: Rows, chosen: list[str]):
        self.rows, self.chosen = rows, chosen

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], **json.loads(self.chosen[index])}

    @property
    def lengths(self) -> list[int]:
        """Largest number of tokens of each row."""
        return [json.loads(one)["num_tokens"] for one in self.chosen]


def choose_ahead(
    rows: Rows, collator: FocusCollator, cache: Path, args: TrainingArguments, log: Callable[[str], None] = print
) -> ChosenRows:
    """
    Encode the videos of all rows, and choose the frames that are shown. The processes share the work, and it is not
    repeated after an interruption: states are kept in the folder `videos`, choices in `cache`.

    Args:
        rows ([`Rows`]).
        collator ([`FocusCollator`]): the run's collator.
        cache: a file, read again for the same rows and the same settings.
        args: their device is used for the dual encoder.
        log: called with a message where this takes long.

    Raises:
        `ValueError`, `OSError`: the dual encoder cannot be loaded, or none of the rows can be read.
    """
    key = _key(rows, collator)
    chosen = _kept(cache, key, len(rows))
    missing = [index for index, one in enumerate(chosen) if one is None]
    if missing:
        looking = with_dual_encoder(collator, args.device, cache.parent / STATES)
        _look(rows, missing, looking, args, log)
        PartialState().wait_for_everyone()
        with args.main_process_first(local=False, desc="choosing frames"):
            if args.process_index == 0:
                for index in missing:
                    chosen[index] = json.dumps(looking.choose(rows[index]))
                write_text(cache, "\n".join([json.dumps({"key": key}), *map(str, chosen)]))
            else:
                chosen = _kept(cache, key, len(rows), retry=False)
    found = [one for one in chosen if one is not None]
    if all(json.loads(one)["unreadable"] for one in found):
        why = json.loads(found[0])["unreadable"]
        raise ValueError(f"None of the rows could be read, so nothing was learned: {why}")
    return ChosenRows(rows, found)


def with_dual_encoder(collator: FocusCollator, device: torch.device, states: Path | None = None) -> FocusCollator:
    """A collator whose dual encoder is loaded. Raises a `ValueError` if it cannot be loaded."""
    name = collator.processor.settings["dual_encoder"]
    try:
        encoder = DualEncoder.from_pretrained(name, device=device)
    except (ValueError, OSError, ImportError) as error:
        why = str(error).strip().partition("\n")[0]
        raise ValueError(f"`model.dual_encoder`: {why}") from error
    return collator.with_processor(collator.processor.with_dual_encoder(encoder), states)


def _look(
    rows: Rows, missing: list[int], looking: FocusCollator, args: TrainingArguments, log: Callable[[str], None]
) -> None:
    """Encode this process's share of the videos. Those that cannot be read are reported when frames are chosen."""
    videos: dict[str, None] = {}
    for index in missing:
        row = rows[index]
        try:
            media = media_of(as_messages(row, row.get("media_root")))
        except ValueError:
            continue
        # Other videos, such as bytes in a table, are looked at when frames are chosen.
        videos.update({value: None for kind, value in media if kind == "video" and isinstance(value, str)})
    encoder = looking.processor.dual_encoder.name
    log(f"Looking at {len(videos):,} videos with {encoder}, once; after an interruption the same command continues.")
    mine = list(videos)[args.process_index :: args.world_size]
    for video in tqdm(mine, disable=args.disable_tqdm or args.process_index > 0, unit="video"):
        try:
            looking.look(video)
        except (ValueError, OSError):
            continue


def _kept(cache: Path, key: str, num_rows: int, retry: bool = True) -> list[str | None]:
    """The cached choice of each row; with `retry`, rows that could not be read are tried again."""
    try:
        first, *kept = cache.read_text(encoding="utf-8").split("\n")
        if json.loads(first)["key"] == key and len(kept) == num_rows:
            return [None if retry and json.loads(one)["unreadable"] else one for one in kept]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return [None] * num_rows


def _key(rows: Rows, collator: FocusCollator) -> str:
    """Key of the rows and of all settings on which the choice depends."""
    tables = [[table._fingerprint, media_root] for table, media_root in rows.parts]
    settings = [tables, collator.max_length, collator.on_too_long, collator.learn_from, collator.processor.settings]
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


__all__ = ["STATES", "ChosenRows", "choose_ahead", "with_dual_encoder"]
