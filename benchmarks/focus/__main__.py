"""
The comparison of ways to choose frames and to spend visual tokens: `python benchmarks/focus --work runs/focus`.

Trains the vision tower, the model from which all rows start, then each row for each seed, and asks each the test sets.
Finished parts stay in the work folder: a stopped run continues, several processes may share the rows (`--row NAME
    --seed N`), and `python benchmarks/focus/table.py --rows runs/focus/rows` draws the finished rows. With `--start
    benchmarks/focus/shared_start.safetensors`, rows start from the included weights, and the shared training is
    skipped.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluation import answer_set
from layouts import BASE, ROWS, Layout, lay_out
from recipe.absence import learn_absence
from recipe.alignment import SELECTION_WEIGHTS, align
from recipe.answers import AnswerTraining
from recipe.data import KIND_WEIGHTS, LATER_WEIGHTS, EncodedVideos, QuestionBatches
from recipe.model import add_embeddings, build_model, build_processor, start_plurals
from recipe.naming import Naming
from recipe.reading import learn_to_read
from recipe.teaching import teach_scores
from recipe.tokenizer import add_word, build_tokenizer
from recipe.vision import tower_config, train_vision
from recipe.words import fix_words, learn_words
from results import write_row
from rounds import CHECKPOINT, COUNTING, KINDS_OF_ABSENCE, ROUNDS, Round
from row_training import Guidance, at_random, train
from safetensors.torch import load_file, save_file
from sets import encode_test_set, features_of_test
from sizes import SIZES, Part
from transformers import SiglipVisionModel

from dynfocus.eval.synthetic.questions import UNANSWERABLE

#: This seed of these rows is tested with all numbers of key frames.
FIRST_SEED = 1
SWEPT = ("dynfocus", "uniform")
#: The parts of a model that choose frames.
SELECTOR = ("question_encoder", "event_prototypes")


def log(message: str) -> None:
    print(time.strftime("%H:%M:%S"), message, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/focus", description=__doc__.splitlines()[1])
    parser.add_argument("--work", type=Path, default=Path("runs/focus"))
    parser.add_argument("--row", action="append", choices=list(ROWS), help="only these rows (default: all)")
    parser.add_argument("--seed", action="append", type=int, help="only these seeds (default: 1, 2, 3)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--start", type=Path, help="weights from which all rows start (default: trained in WORK)")
    parser.add_argument("--base-only", action="store_true", help="stop before the rows")
    parser.add_argument(
        "--checkpoint", type=Path, help="no rows: train the demo checkpoint from the shared start, and save it here"
    )
    parser.add_argument("--size", choices=list(SIZES), default="full", help="`smoke` only tests that everything runs")
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    if args.start and not args.start.exists():
        parser.error(f"There is no file {args.start}; leave out --start to train the shared start.")
    return args


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """All weights, tied ones once."""
    return {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}


class Comparison:
    """Everything that the rows share."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.work, self.device = args, args.work, args.device
        #: Encodes the test sets at the same time, if there is one.
        self.encoding: BaseProcess | None = None
        self.work.mkdir(parents=True, exist_ok=True)
        self.tokenizer = build_tokenizer()
        self.processor = build_processor(self.tokenizer)
        self.sizes = SIZES[args.size]
        self.base_path: Path = args.start or self._path("base")
        self.tower = self._tower()
        model = self.new_model()
        self.training = {
            length: EncodedVideos(model, videos, self.work / f"train{length}")
            for length, videos in self.sizes.training.items()
        }

    def _path(self, name: str) -> Path:
        return self.work / f"{name}.safetensors"

    def _tower(self) -> SiglipVisionModel:
        """The vision tower, from the base if it exists."""
        if not self.base_path.exists():
            return train_vision(
                self.work,
                steps=self.sizes.vision_steps,
                batch_size=128,
                pool=self.sizes.vision_pool,
                seed=1,
                device=self.device,
                log=log,
            )
        tower, prefix = SiglipVisionModel(tower_config()), "model.vision_tower.backbone."
        weights = load_file(self.base_path)
        tower.load_state_dict({name.removeprefix(prefix): weights[name] for name in weights if prefix in name})
        return tower

    def new_model(self, **config: Any) -> Any:
        torch.manual_seed(1)
        return build_model(self.tokenizer, self.tower, **config).to(self.device)

    def batches(
        self,
        length: int,
        turns: int,
        later: dict[str, float] = LATER_WEIGHTS,
        kinds: dict[str, float] = KIND_WEIGHTS,
        counts: float = 0.0,
    ) -> QuestionBatches:
        return QuestionBatches(self.training[length], self.processor, length, kinds, turns, later, counts)

    def lessons(
        self,
        parts: Sequence[Part],
        later: dict[str, float] = LATER_WEIGHTS,
        kinds: dict[str, float] = KIND_WEIGHTS,
        counts: float = 0.0,
    ) -> list[tuple[Part, QuestionBatches]]:
        return [(part, self.batches(part.num_frames, part.turns, later, kinds, counts)) for part in parts]

    def compiled(self, model: Any) -> None:
        if not self.args.no_compile:
            model.model.language_model.compile(dynamic=True)

    def _train(
        self,
        model: Any,
        draw: Any,
        parts: Sequence[Part],
        settings: AnswerTraining,
        partial: Path,
        *,
        seed: int,
        guidance: Guidance | None = None,
    ) -> float:
        """`train` for the sum of the parts' steps."""
        return train(
            model,
            draw,
            sum(part.steps for part in parts),
            settings,
            partial,
            seed=seed,
            device=self.device,
            log=log,
            longest_position=self.sizes.longest_position,
            guidance=guidance,
        )

    def aligned(self) -> Any:
        """A model whose language model has learned to read, and whose other parts are aligned with its words."""
        model = self.new_model()
        self.compiled(model)
        naming = Naming(model, self.tokenizer, 1)
        common: dict[str, Any] = {"device": self.device, "log": log}
        learn_to_read(model, naming, self.processor, self.work, self.sizes.reading_steps, **common)
        align(
            model,
            naming,
            self.batches(self.sizes.base[0][0].num_frames, 1, kinds=SELECTION_WEIGHTS),
            self.work,
            steps=self.sizes.alignment_steps,
            batch_size=32,
            learning_rate=2e-3,
            seed=1,
            **common,
        )
        return model

    def base(self) -> dict[str, torch.Tensor]:
        """Weights from which all rows start: trained in the layouts of all rows by turns."""
        if self.base_path.exists():
            return load_file(self.base_path, device=self.device)
        model = self.aligned()
        lay_out(model, BASE)
        for seed, (one, parts) in enumerate(zip(ROUNDS, self.sizes.base, strict=True), start=2):
            self._round(model, one, parts, seed)
        save_file(weights_of(model), self.base_path)
        return load_file(self.base_path, device=self.device)

    def _round(self, model: Any, one: Round, parts: Sequence[Part], seed: int) -> None:
        layouts = {ROWS[name]: share for name, share in one.mixture.items()}
        draw = at_random(layouts, self.lessons(parts, one.later, one.kinds, one.counts), parts[0].num_frames)
        partial = self.work / f"{one.name}.partial"
        self._train(model, draw, parts, one.settings, partial, seed=seed, guidance=one.guidance)

    def start(self, layout: Layout, base: dict[str, torch.Tensor]) -> Any:
        """A model with the base's weights in a row's layout."""
        # The question encoder reads grouped tokens in every row, so that all rows share the same cached features.
        released = {"preset": "released_code", "question_context": "grouped"} if layout.released else {}
        model = self.new_model(**released)
        weights = {name: weight for name, weight in base.items() if "blind_scorer" not in name}
        if layout.selector == "blind":
            renamed = {name.replace("blind_scorer", "scorer"): base[name] for name in base if "blind_scorer" in name}
            weights |= renamed
        dropped = ["question_scorer"] * (layout.selector == "blind") + ["cluster_gate"] * layout.released
        if not layout.relevance:
            # Without anything that the base's selector has learned.
            dropped += ["event_prototypes", "score_embedding"]
        if layout.taught:
            # The base's question encoder learned from labels together with its selector.
            dropped += SELECTOR
        weights = {name: weight for name, weight in weights.items() if not any(part in name for part in dropped)}
        lay_out(model, layout)
        self._take(model, weights, self.base_path, ("lm_head", *dropped))
        if layout.taught:
            model.load_state_dict(self.new_selector(base), strict=False)
            self._fix_selector(model)
        return model

    def new_selector(self, base: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights of a selector that has learned words, then from the language model, but no labels of frames."""

        def teach(model: Any, batches: QuestionBatches, **settings: Any) -> None:
            new = (*SELECTOR, "score_embedding")
            known = {name: weight for name, weight in base.items() if not any(part in name for part in new)}
            model.load_state_dict({**known, **self.words()}, strict=False)
            fix_words(model)
            teach_scores(
                model.eval(),
                batches,
                ROWS["likelihood"].plan(self.sizes.base[0][0].num_frames, 1),
                num_questions=self.sizes.teaching_questions,
                num_events=10,
                steps=self.sizes.teaching_steps,
                batch_size=min(32, self.sizes.teaching_questions),
                **settings,
            )

        return self._learned("taught", teach)

    def words(self) -> dict[str, torch.Tensor]:
        """Weights of a selector that has learned words only."""

        def learn(model: Any, batches: QuestionBatches, **settings: Any) -> None:
            naming = Naming(model, self.tokenizer, 1).to(self.device)
            learn_words(model, naming, batches, steps=self.sizes.words_steps, batch_size=384, **settings)

        return self._learned("words", learn)

    def _learned(self, name: str, learn: Callable[..., None]) -> dict[str, torch.Tensor]:
        """The parts that choose frames after `learn` has trained a new model; kept in the work folder."""
        path = self._path(name)
        if not path.exists():
            model = self.new_model()
            batches = self.batches(self.sizes.base[0][0].num_frames, 1, kinds=SELECTION_WEIGHTS)
            partial = self.work / f"{name}.partial"
            learn(model, batches, partial=partial, learning_rate=2e-3, seed=1, device=self.device, log=log)
            weights = weights_of(model)
            save_file({name: weights[name] for name in weights if any(part in name for part in SELECTOR)}, path)
        return load_file(path, device=self.device)

    def _take(self, model: Any, weights: dict[str, torch.Tensor], path: Path, allowed: Sequence[str]) -> None:
        """Load the weights of `path`, which may lack only the `allowed` parts."""
        missing, _ = model.load_state_dict(weights, strict=False)
        if wrong := [one for one in missing if not any(part in one for part in allowed)]:
            raise ValueError(f"{path} lacks {wrong[0]}: delete it to train it again.")

    def make_checkpoint(self, base: dict[str, torch.Tensor], out: Path) -> None:
        """Train the question-aware model longer than a row, and save it for `from_pretrained`."""
        model = self.start(ROWS["dynfocus"], base)
        self.compiled(model)
        self._fix_selector(model)
        for seed, (one, parts) in enumerate(zip(CHECKPOINT, self.sizes.checkpoint, strict=True), start=FIRST_SEED):
            if one is COUNTING:
                start_plurals(model, self.tokenizer)
            self._round(model, one, parts, seed)
            if one is CHECKPOINT[0]:
                self.learn_absence(model)
        model.save_pretrained(out)
        self.processor.save_pretrained(out)
        log(f"saved {out}")

    def _fix_selector(self, model: Any, fixed: bool = True) -> None:
        """The few steps of a row, and the small batches of long videos in the rounds, would make it worse."""
        for part in SELECTOR:
            model.model.get_submodule(part).requires_grad_(not fixed)

    def learn_absence(self, model: Any) -> None:
        """A token for the answer to questions without one, and a selector that knows such questions."""
        add_word(self.tokenizer, UNANSWERABLE)
        add_embeddings(model, len(self.tokenizer), FIRST_SEED)
        self._fix_selector(model, False)
        learn_absence(
            model,
            self.lessons(self.sizes.absence, kinds=KINDS_OF_ABSENCE),
            self.work / "absence.partial",
            steps=sum(part.steps for part in self.sizes.absence),
            learning_rate=5e-4,
            seed=FIRST_SEED,
            device=self.device,
            log=log,
        )
        self._fix_selector(model)

    def run_row(self, layout: Layout, seed: int, base: dict[str, torch.Tensor]) -> None:
        """Train and test one row; the result is `rows/NAME-SEED.json`."""
        folder = self.work / "rows"
        folder.mkdir(exist_ok=True)
        result = folder / f"{layout.name}-{seed}.json"
        if result.exists():
            return
        model = self.start(layout, base)
        self.compiled(model)
        parts = self.sizes.rows
        if layout.taught:
            # The scores fit only the first question of a chat, so that a new score embedding would be ignored with
            # others. Twice as many videos have as many questions.
            parts = tuple(replace(part, turns=1, batch_size=part.turns * part.batch_size) for part in parts)
        draw = at_random({layout: 1.0}, self.lessons(parts), self.sizes.longest_dense)
        settings = AnswerTraining(
            learning_rate=4e-4,
            matrix_learning_rate=5e-4,
            # A new score embedding has fewer steps than that of the shared start.
            score_rate=30.0 if layout.taught else 10.0,
            # Noise would only disturb a selector that is fixed.
            sigma=0.0 if layout.taught else 0.05,
            warm_up=30,
            log_every=50,
            save_every=50,
        )
        partial = folder / f"{layout.name}-{seed}.partial"
        seconds = self._train(model, draw, parts, settings, partial, seed=seed)
        answers = []
        if self.encoding is not None:
            # If it failed, the next lines fail in the same way, or do its work.
            self.encoding.join()
        for length, count in self.sizes.test.items():
            if layout.selector == "all" and length > self.sizes.longest_dense:
                continue
            features, questions = encode_test_set(model, self.processor, length, count, self.work, log)
            batches = QuestionBatches(features, self.processor, length)
            swept = layout.name in SWEPT and seed == FIRST_SEED
            for num_key in self.sizes.key_frames[length][: None if swept else 1]:
                records = answer_set(
                    model, layout, batches, questions, num_frames=length, num_key=num_key, device=self.device
                )
                tokens = layout.plan(length, num_key).num_visual_tokens
                answers.append({"frames": length, "key_frames": num_key, "tokens": tokens, "records": records})
                right = np.mean([record["right"] for record in records])
                log(f"{layout.name} seed {seed}: {length} frames, {num_key} key frames, {tokens} tokens: {right:.3f}")
        save_file(weights_of(model), result.with_suffix(".safetensors"))
        write_row(result, layout.name, seed, seconds, answers)
        partial.unlink(missing_ok=True)


def encode_test_sets(args: argparse.Namespace) -> None:
    """Write and encode the videos of all test sets; needs the vision tower."""
    torch.set_num_threads(1)
    comparison = Comparison(args)
    model = comparison.new_model()
    for length, count in comparison.sizes.test.items():
        encode_test_set(model, comparison.processor, length, count, comparison.work, log)


def start_encoding(args: argparse.Namespace) -> BaseProcess | None:
    """Encode the test sets in another process while the first row is trained. Call it before anything uses torch."""
    base = args.start or args.work / "base.safetensors"
    made = all(features_of_test(args.work, length).exists() for length in SIZES[args.size].test)
    if sys.platform != "linux" or args.base_only or args.checkpoint or made or not base.exists():
        return None
    process = multiprocessing.get_context("fork").Process(target=encode_test_sets, args=(args,), daemon=True)
    process.start()
    # Threads wait for each other in a loop, which is slow if there are more of them than cores.
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))
    return process


def main() -> None:
    args = parse()
    encoding = start_encoding(args)
    comparison = Comparison(args)
    comparison.encoding = encoding
    base = comparison.base()
    if args.base_only:
        return
    if args.checkpoint:
        comparison.make_checkpoint(base, args.checkpoint)
        return
    for seed in args.seed or (FIRST_SEED, 2, 3):
        for name in args.row or ROWS:
            comparison.run_row(ROWS[name], seed, base)


if __name__ == "__main__":
    main()
