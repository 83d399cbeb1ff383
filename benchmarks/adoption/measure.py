"""
Chosen frames in front of stock models: `python benchmarks/adoption/measure.py --work runs/adoption --list main`.

A row is one way to choose the frames of 20 test videos of one seed; `grid.py` has all of them. Its answers are kept in
WORK/rows, so that a stopped run continues, and several processes may share a folder. `table.py` makes the tables.
"""

import argparse
import fcntl
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from asking import DoesNotFit, answer_row
from grid import COARSE, PARTS, PER_KEY, RULES, SEEDS, SETTINGS, VIDEOS, Row, rows_of
from kept_answers import read_row, write_row
from made_sets import MadeSet, make_set
from transformers import AutoProcessor

from dynfocus.adoption.focus_processor import FocusProcessor
from dynfocus.adoption.focused_model import FocusedModel
from dynfocus.adoption.stock_loading import load_stock_model
from dynfocus.towers.dual_encoder import DualEncoder

MODELS = Path(__file__).parent / "models"


class Bench:
    """
    Measures rows, with models and test sets that are loaded once.

    Args:
        models: folder of the models and of `siglip`, the dual encoder.
        work: folder of videos, states and rows.
        videos: test videos of each seed at most.
    """

    def __init__(self, models: Path, work: Path, videos: int):
        self.models, self.work, self.videos = models, work, videos
        self.encoder = DualEncoder.from_pretrained(models / "siglip", device="cpu")
        self._loaded: dict[str, Any] = {}
        # Their states hold the frames that were shown.
        self._sets: dict[tuple[int, int], MadeSet] = {}

    def model(self, name: str, coarse: str, per_key: int = PER_KEY) -> FocusedModel:
        if name not in self._loaded:
            model = load_stock_model(str(self.models / name)).eval()
            processor = AutoProcessor.from_pretrained(self.models / name)
            settings = SETTINGS.get(name, {})
            self._loaded[name] = (
                model,
                FocusProcessor(processor, config=model.config, dual_encoder=self.encoder, **settings),
            )
        model, processor = self._loaded[name]
        processor = processor.with_coarse(coarse)
        processor.coarse_per_key_frame = per_key
        return FocusedModel(model, processor)

    def made_set(self, model: FocusedModel, row: Row) -> MadeSet:
        videos = min(self.videos, row.videos)
        made = self._sets.get((row.frames, row.seed))
        if made is None or len(made.states) != videos:
            made = self._sets[row.frames, row.seed] = make_set(model, row.frames, row.seed, videos, self.work)
        return made

    def measure(self, row: Row) -> dict[str, Any]:
        """
        The row with a record for each question, and the seconds that it took without making the set.

        Raises:
            `DoesNotFit`: if the budget has no room for what the row is to show.
        """
        model = self.model(row.model, row.coarse, row.per_key)
        made = self.made_set(model, row)
        start = time.perf_counter()
        records = answer_row(model, row, made)
        seconds = time.perf_counter() - start
        return {**self.about(row), "seconds": round(seconds, 1), "records": records}

    def about(self, row: Row) -> dict[str, Any]:
        """What determines the answers of a row."""
        weights = "-".join(weights_digest(self.models / name) for name in (row.model, "siglip"))
        return {**row.settings, "videos": min(self.videos, row.videos), "weights": weights}


@cache
def weights_digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        found.update(path.read_bytes())
    return found.hexdigest()[:8]


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process may measure a row: no other one does so at the moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def run(bench: Bench, rows: list[Row]) -> None:
    """Measure all rows that have no current answers."""
    for number, row in enumerate(rows, 1):
        path = bench.work / "rows" / f"{row.name}.json"
        with claimed(bench.work / "locks" / row.name) as mine:
            if not mine:
                continue
            if path.exists():
                kept = read_row(path)
                if all(kept[name] == value for name, value in bench.about(row).items()):
                    continue
            try:
                found = bench.measure(row)
            except DoesNotFit as error:
                print(f"{number}/{len(rows)} {row.name} is not measured: {error}", flush=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            write_row(path, found)
        right = [record["right"] for record in found["records"]]
        seen = [record["found"] for record in found["records"] if record["found"] is not None]
        print(
            f"{number}/{len(rows)} {row.name}: {100 * sum(right) / len(right):.1f} % of {len(right)} right, "
            f"asked events among the key frames {100 * sum(seen) / max(1, len(seen)):.1f} %, {found['seconds']:.0f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--work", type=Path, default=Path("runs/adoption"), help="folder of videos, states and rows")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of the models and of siglip")
    parser.add_argument("--videos", type=int, default=VIDEOS, help="test videos of each seed at most (%(default)s)")
    parser.add_argument("--list", choices=[*PARTS, "all"], help="a list of rows in place of one row")
    parser.add_argument("--model", action="append", help="the model of the row; of a list, only rows of this model")
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--rule", choices=RULES, default="peaks")
    parser.add_argument("--coarse", choices=["low", "panels", "none"], help="the package's default for the model")
    parser.add_argument("--budget", default="1/6", help="'dense', or a share of its tokens below 1 (%(default)s)")
    parser.add_argument("--seed", type=int, default=SEEDS[0])
    parser.add_argument("--per-key", type=int, default=PER_KEY, help="coarse pictures for each key frame at most")
    parser.add_argument("--signal", choices=["own", "other"], default="own", help="'other': texts of another video")
    args = parser.parse_args()
    models = tuple(args.model or COARSE)
    if args.list is not None:
        rows = rows_of(args.list, models)
    else:
        rows = []
        for model in models:
            coarse = "none" if args.budget == "dense" else args.coarse or COARSE[model][0]
            settings = (args.frames, args.rule, coarse, args.budget, args.seed, args.signal, args.per_key)
            rows.append(Row(model, *settings, args.videos))
    run(Bench(args.models, args.work, args.videos), rows)


if __name__ == "__main__":
    main()
