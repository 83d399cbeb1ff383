"""The rows of the measurement, as data: which model is asked about which videos, and how frames are chosen."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import product
from typing import Any

#: The rules of choice; `told` is an oracle, whose key frames come from the asked events.
RULES = ("uniform", "topk", "its", "aks", "mmr", "peaks", "context", "told")
#: The rules that are held against the goals.
JUDGED = ("peaks", "context")
#: The rules that are measured with other lengths, too.
MAIN_RULES = ("uniform", *JUDGED, "told")
#: How frames other than key frames can be shown: the default of the package first, then the form that it is compared
#: with in all tables.
COARSE = {"qwen3_vl": ("none", "low", "panels"), "llava_onevision": ("none", "panels")}
#: Settings of `FocusProcessor`: frames of 64 x 64 pixels, and small frames of 32 x 32.
SETTINGS: dict[str, dict[str, Any]] = {
    "qwen3_vl": {"tokens_per_key_frame": 16, "tokens_per_coarse_frame": 4},
    "llava_onevision": {},
}
SEEDS = (301, 302, 303)
#: Seeds from here on are kept for checks of the finished page.
FIRST_KEPT_SEED = 500
#: Test videos of each length for each seed; all of 512 frames are asked about fewer, because they take long.
VIDEOS, LONG_DENSE_VIDEOS = 20, 5
FRAMES = 128
BUDGET = "1/6"
BUDGETS = ("1/16", "1/8", BUDGET, "1/4", "1/2")
#: Coarse pictures for each key frame at most.
PER_KEY = 8


@dataclass(frozen=True)
class Row:
    """
    One row of one seed.

    Args:
        model: name of a model's folder.
        frames: seconds of the videos, of each of which one frame is sampled.
        rule: one of `RULES`; any for `dense`.
        coarse: `"low"`, `"panels"` or `"none"`.
        budget: a share of the tokens of all frames below 1, such as `"1/6"`; or `"dense"`, with all frames as key
            frames, which is what all tokens buy with each form of coarse frames.
        seed: of the test videos.
        signal: `"own"`, or `"other"`: relevance is that of a question about another video.
        per_key: coarse pictures for each key frame at most.
        videos: test videos at most.
    """

    model: str
    frames: int = FRAMES
    rule: str = "peaks"
    coarse: str = "none"
    budget: str = BUDGET
    seed: int = SEEDS[0]
    signal: str = "own"
    per_key: int = PER_KEY
    videos: int = VIDEOS

    def __post_init__(self) -> None:
        if self.seed >= FIRST_KEPT_SEED:
            raise ValueError(f"Seeds from {FIRST_KEPT_SEED} on are kept for later checks; got {self.seed}.")
        if self.model in COARSE and self.coarse not in COARSE[self.model]:
            raise ValueError(
                f"coarse is one of {', '.join(COARSE[self.model])} for {self.model}, not {self.coarse!r}."
            )
        if self.budget != "dense" and not 0 < Fraction(self.budget) < 1:
            raise ValueError(f"budget is 'dense' (all tokens) or a share below 1 such as 1/6, not {self.budget!r}.")

    @property
    def name(self) -> str:
        """Name of the row's file, without its ending."""
        words = (self.model, self.frames, self.rule, self.coarse, self.budget.replace("/", "of"), self.seed)
        ending = "" if self.per_key == PER_KEY else f"-{self.per_key}"
        return "-".join(map(str, words)) + ("" if self.signal == "own" else "-other") + ending

    @property
    def settings(self) -> dict[str, Any]:
        """The row as it is kept in files; the default of `per_key` is left out."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("per_key", PER_KEY)}


def dense(model: str, frames: int = FRAMES, seed: int = SEEDS[0], videos: int = VIDEOS) -> Row:
    """All frames as key frames."""
    return Row(model, frames, "uniform", "none", "dense", seed, videos=videos)


def main_rows(model: str) -> Iterator[Row]:
    """
    128 frames, a sixth of the tokens: all rules and all coarse forms. Without signal only the rules of the goals;
    `uniform` does not use relevance.
    """
    for seed in SEEDS:
        for coarse, rule in product(COARSE[model], RULES):
            yield Row(model, rule=rule, coarse=coarse, seed=seed)
        for coarse, rule in product(COARSE[model], JUDGED):
            yield Row(model, rule=rule, coarse=coarse, seed=seed, signal="other")
        yield dense(model, seed=seed)


def budget_rows(model: str) -> Iterator[Row]:
    """All budgets, one seed."""
    for budget, coarse, rule in product(BUDGETS, COARSE[model], RULES):
        if budget != BUDGET:
            yield Row(model, rule=rule, coarse=coarse, budget=budget)


def share_rows(model: str) -> Iterator[Row]:
    """Fewer coarse pictures for each key frame, one seed."""
    forms = [form for form in COARSE[model] if form != "none"]
    for per_key, coarse, rule in product((1, 2, 4), forms, ("uniform", *JUDGED)):
        yield Row(model, rule=rule, coarse=coarse, per_key=per_key)


def length_rows(model: str) -> Iterator[Row]:
    """
    Shorter videos with all budgets, and longer ones with one budget; one seed. All of 512 frames are more tokens than
    the models have been trained on.
    """
    yield dense(model, 32)
    for budget, coarse, rule in product(BUDGETS, COARSE[model], RULES):
        yield Row(model, 32, rule, coarse, budget)
    for coarse, rule in product(COARSE[model], RULES):
        yield Row(model, 512, rule, coarse)
    yield dense(model, 512, videos=LONG_DENSE_VIDEOS)


PARTS = {"main": main_rows, "shares": share_rows, "budgets": budget_rows, "lengths": length_rows}


def rows_of(name: str, models: tuple[str, ...] = tuple(COARSE)) -> list[Row]:
    """The rows of a part or of `"all"`, in the order in which they are measured: what the goals need first."""
    parts = PARTS.values() if name == "all" else [PARTS[name]]
    rows = [row for part in parts for model in models for row in part(model)]

    def turn(row: Row) -> tuple[bool | int, ...]:
        is_main = (row.frames, row.budget) == (FRAMES, BUDGET) and row.coarse in COARSE[row.model][:2]
        is_first = (is_main and row.rule in MAIN_RULES) or (row.frames, row.budget) == (FRAMES, "dense")
        is_first = is_first and row.per_key == PER_KEY
        return not is_first, row.seed, models.index(row.model), row.frames

    return sorted(rows, key=turn)


__all__ = [
    "BUDGET",
    "BUDGETS",
    "COARSE",
    "FRAMES",
    "JUDGED",
    "MAIN_RULES",
    "PARTS",
    "PER_KEY",
    "RULES",
    "SEEDS",
    "SETTINGS",
    "VIDEOS",
    "Row",
    "rows_of",
]
