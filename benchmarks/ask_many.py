"""
Many questions about one video: what the second and all later ones cost, beside the first.

    python benchmarks/ask_many.py                                     # the model that comes with the package
    python benchmarks/ask_many.py --model tiny                        # random weights in the proportions of a 7B model
    python benchmarks/ask_many.py --model 7b --device cuda

The first question reads a 720p H.264 file (`made_videos.py`), encodes it and is answered; the others are asked about
the state that remains. Then as many questions again are asked in batches of several sizes. Answers have 8 tokens, so
that all of them take the same time.

How much could be won where questions share the key/value cache of what the prompt begins with? The visual tokens that
two prompts have in common at their start say how much is the same; the share of the visual tokens in a question's
time says how much it would be at most, if all were.
"""

from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from made_videos import FOLDER, make_video
from measuring import Report, Spread, clock, in_turn
from training_throughput import IMAGE_SIZE, SCALES, build_models
from transformers import pipeline

from dynfocus import DynFocusProcessor, DynFocusVideoProcessor, VideoQAPipeline
from dynfocus.checkpoints import embedded_model

CHECKPOINT = "checkpoint"
NUM_QUESTIONS, ANSWER_TOKENS = 20, 8
BATCH_SIZES = (2, 4, 8, 16)
GOAL_FRAMES, GOAL = 512, 0.1
#: Of the files; the longer ones repeat it.
PART_SECONDS = 32
_SUBJECTS = ("shape", "number", "colour", "word")
_MOMENTS = ("at the beginning", "in the end", "next to the red star", "for the longest time", "before the blue circle")


def questions(count: int) -> list[str]:
    """Different ones, of different lengths."""
    found = [f"Which {subject} is shown {moment}?" for moment in _MOMENTS for subject in _SUBJECTS]
    return (found * (count // len(found) + 1))[:count]


def build_pipe(model: str, device: str) -> Any:
    """The pipeline around the model of the package, or one of a scale of `training_throughput.py`."""
    length = {"max_new_tokens": ANSWER_TOKENS, "min_new_tokens": ANSWER_TOKENS}
    shipped = str(embedded_model())
    if model == CHECKPOINT:
        options: Any = {"model": shipped, "pipeline_class": VideoQAPipeline, "device": device, **length}
        return pipeline("video-qa", **options)
    scale = SCALES[model]
    tokenizer = DynFocusProcessor.from_pretrained(shipped).tokenizer
    processor = DynFocusProcessor(DynFocusVideoProcessor(size=IMAGE_SIZE), tokenizer)
    ours, _ = build_models(scale, device)
    ours.config.video_token_id = processor.video_token_id
    return VideoQAPipeline(model=ours.eval(), processor=processor, device=device, **length)


class Session:
    """One video of `num_frames`, at one frame a second, and what is asked about it."""

    def __init__(self, pipe: Any, num_frames: int, folder: Path, device: str):
        self.pipe, self.device = pipe, device
        self.path, _ = make_video(folder, num_frames, min(PART_SECONDS, num_frames))
        self.sampling = {"num_frames": num_frames}
        self.questions = questions(NUM_QUESTIONS)
        self.state = pipe.encode_video(self.path, **self.sampling)

    def one_round(self) -> dict[str, float]:
        """Seconds of the first question and the median of the later ones, and of reading and encoding alone."""
        times = [clock(self.device)]
        inputs = self.pipe.processor.video_processor(self.path, return_tensors="pt", **self.sampling)
        times.append(clock(self.device))
        with torch.no_grad():
            self.pipe.model.base_model.encode_pixels(inputs["pixel_values_videos"].to(self.device))
        times.append(clock(self.device))
        del inputs
        state = self.pipe.encode_video(self.path, **self.sampling)
        for question in self.questions:
            self.pipe(state, question=question)
            times.append(clock(self.device))
        reading, encoding, first, *later = (after - before for before, after in pairwise(times))
        return {"reading": reading, "encoding": encoding, "first": first, "later": median(later)}

    def parts(self) -> dict[str, float]:
        """Seconds of a question: looking, reading the prompt, and as much of it as falls to the visual tokens."""
        details: Any = {"return_details": True}
        one: Any = {"max_new_tokens": 1, "min_new_tokens": 1, **details}
        question = self.questions[1]
        whole = self.pipe(self.state, question=question, **details)["timings"]
        prompt = self.pipe(self.state, question=question, **one)["timings"]["generate"]
        message = {"messages": [{"role": "user", "content": question}]}
        words = self.pipe(message, **one)["timings"]["generate"]
        return {
            "whole": sum(whole.values()),
            "looking": whole["encode"],
            "prompt": prompt,
            "visual": max(0.0, prompt - words),
        }

    def common_tokens(self) -> tuple[int, int]:
        """Visual tokens that the prompts of two questions share at their start, and all of them."""
        found = []
        for question in self.questions[:2]:
            prepared = self.pipe.preprocess({"video": self.state, "question": question})["inputs"]
            inputs = {name: prepared[name] for name in prepared if name not in ("input_ids", "attention_mask")}
            with torch.no_grad():
                (tokens,) = self.pipe.model.get_video_features(**inputs).pooler_output
            found.append(tokens.float())
        # Rounding aside, which differs with the length of the question.
        same = torch.isclose(*found, rtol=1e-3, atol=1e-4 * float(found[0].abs().max())).all(-1)
        return int(same.long().cumprod(0).sum()), len(same)

    def batches(self, rounds: int) -> dict[str, Spread]:
        """Seconds for 16 questions, by the size of their batches."""
        asked = questions(max(BATCH_SIZES))

        def ask(size: int) -> Any:
            return lambda: self.pipe(self.state, question=asked, batch_size=size)

        return in_turn({str(size): ask(size) for size in (1, *BATCH_SIZES)}, rounds, device=self.device)


def measure(pipe: Any, num_frames: int, folder: Path, rounds: int, device: str) -> dict[str, Any]:
    """All ratios at one number of frames."""
    session = Session(pipe, num_frames, folder, device)
    for _ in range(2):
        session.parts()
    found = [session.one_round() for _ in range(rounds)]
    times = {name: Spread(tuple(one[name] for one in found)) for name in found[0]}
    split = [session.parts() for _ in range(rounds)]
    parts = {name: Spread(tuple(one[name] for one in split)) for name in split[0]}
    batches = session.batches(rounds)
    common, visual_tokens = session.common_tokens()
    ready = Spread(tuple(a + b for a, b in zip(times["encoding"].rounds, times["later"].rounds, strict=True)))
    return {
        "num_frames": num_frames,
        "visual_tokens": visual_tokens,
        "common_tokens": common,
        "later": times["later"] / times["first"],
        "later_ready": times["later"] / ready,
        "reading": times["reading"] / times["first"],
        "encoding": times["encoding"] / times["first"],
        "looking": parts["looking"] / parts["whole"],
        "prompt": parts["prompt"] / parts["whole"],
        "visual": parts["visual"] / parts["whole"],
        "batches": {size: batches["1"] / spread for size, spread in batches.items() if size != "1"},
    }


def add_results(report: Report, results: list[dict[str, Any]]) -> None:
    """Tables and the goal."""
    headings = ["frames", "visual tokens", "a later question / the first", "the same, pixels being ready"]
    rows = [[one["num_frames"], one["visual_tokens"], one["later"], one["later_ready"]] for one in results]
    report.add_table("The 2nd to 20th question beside the first", headings, rows)
    headings = ["frames", "reading alone / first", "encoding alone / first"]
    rows = [[one[name] for name in ("num_frames", "reading", "encoding")] for one in results]
    report.add_table("Where the first one's time goes", headings, rows)
    headings = ["frames", *(f"batches of {size}" for size in BATCH_SIZES)]
    rows = [[one["num_frames"], *one["batches"].values()] for one in results]
    report.add_table("Questions a second, in batches, beside one by one", headings, rows)
    headings = [
        "frames",
        "looking",
        "prompt",
        "visual tokens of the prompt",
        "common to two questions",
        "faster at most",
    ]
    rows = []
    for one in results:
        share = one["visual"].median
        common = f"{one['common_tokens']} of {one['visual_tokens']}"
        most = f"{1 / (1 - share):.2f}x" if share < 1 else "–"
        rows.append([one["num_frames"], one["looking"], one["prompt"], one["visual"], common, most])
    report.add_table(
        "Shares of a later question's time, and what a shared prefix of all visual tokens gives", headings, rows
    )
    for one in results:
        if one["num_frames"] == GOAL_FRAMES:
            ratio = one["later"].median
            sentence = f"{GOAL_FRAMES} frames: a later question takes {ratio:.1%} of the first one's time"
            report.add_goal(f"{sentence} (goal: at most {GOAL:.0%})", ratio <= GOAL)


def run(
    model: str,
    frames: list[int],
    device: str = "cpu",
    rounds: int = 5,
    folder: Path = FOLDER,
    json_file: Path | None = None,
) -> Report:
    """Measures at each number of frames; prints and writes."""
    report = Report("ask_many", {"model": model, "frames": frames, "device": device, "rounds": rounds}, device)
    pipe = build_pipe(model, device)
    results = [measure(pipe, number, folder, rounds, device) for number in frames]
    add_results(report, results)
    ratios = {name: name for name in results[0] if isinstance(results[0][name], Spread)}
    report.results = {
        str(one["num_frames"]): {
            **{name: one[name].rounds for name in ratios},
            **{name: one[name] for name in ("visual_tokens", "common_tokens")},
            "batches": {size: spread.rounds for size, spread in one["batches"].items()},
        }
        for one in results
    }
    report.finish(json_file)
    return report


def main(
    frames: Annotated[str, typer.Option(help="Numbers of frames, with commas.")] = "32,128,512",
    model: Annotated[str, typer.Option(help=f"{CHECKPOINT}, or one of {', '.join(SCALES)}.")] = CHECKPOINT,
    device: str = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="The median counts.")] = 5,
    folder: Annotated[Path, typer.Option(help="Where the files are kept.")] = FOLDER,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results there too.")] = None,
) -> None:
    """Ask about one video again and again."""
    if model not in (CHECKPOINT, *SCALES):
        raise typer.BadParameter(f"{model!r} is not one of {', '.join((CHECKPOINT, *SCALES))}.", param_hint="--model")
    run(model, [int(number) for number in frames.split(",")], device, rounds, folder, json_file)


if __name__ == "__main__":
    typer.run(main)
