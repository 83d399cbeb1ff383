"""
Trains `checkpoints/dynfocus-tiny` from nothing: `python -m dynfocus.training.tiny --work runs/tiny --out OUT`.

Every stage leaves its result in the work folder, and a run that was stopped goes on from there. Where the C library's
allocator gives memory back too eagerly, a CPU run gains much from tcmalloc:
`LD_PRELOAD=…/libtcmalloc_minimal.so.4 TCMALLOC_RELEASE_RATE=0 python -m dynfocus.training.tiny`.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from dynfocus.hub import save_for_hub

from .alignment import align
from .answers import AnswerTraining, Course, answer_accuracy, train_answers
from .data import HARD_WEIGHTS, KIND_WEIGHTS, QuestionBatches, VideoSet, encode_videos
from .model import build_model, build_processor
from .naming import Naming
from .reading import read
from .tokenizer import build_tokenizer
from .vision import train_vision

SHORT = VideoSet(seed=11, count=6000, num_frames=8, num_events=(1, 2))
LONG = VideoSet(seed=12, count=5000, num_frames=32, num_events=(3, 6))
VALIDATION = VideoSet(seed=99, count=300, num_frames=32, num_events=(3, 6))


def log(message: str) -> None:
    print(time.strftime("%H:%M:%S"), message, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dynfocus.training.tiny", description="Train the tiny checkpoint.")
    parser.add_argument("--work", type=Path, default=Path("runs/tiny"), help="features, logs and unfinished stages")
    parser.add_argument("--out", type=Path, default=Path("runs/dynfocus-tiny"), help="the finished checkpoint")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--vision-steps", type=int, default=2400)
    parser.add_argument("--reading-steps", type=int, default=2000, help="steps of the language model alone")
    parser.add_argument("--alignment-steps", type=int, default=1000, help="steps before any answer is trained")
    parser.add_argument("--short-steps", type=int, default=300, help="steps on videos of 8 frames")
    parser.add_argument("--many-steps", type=int, default=1500, help="steps on 32 frames, ten questions each")
    parser.add_argument("--few-steps", type=int, default=1500, help="steps on 32 frames, four questions each")
    parser.add_argument("--last-steps", type=int, default=1000, help="steps on 32 frames, one question each")
    parser.add_argument(
        "--hard-steps", type=int, nargs="*", default=[800, 600], help="steps of each round on hard kinds above all"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of frames and videos to draw, for a trial")
    parser.add_argument("--no-compile", action="store_true", help="run without a C compiler")
    return parser.parse_args()


def main() -> None:
    args = parse()
    args.work.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    processor = build_processor(tokenizer)
    tower = train_vision(
        args.work,
        steps=args.vision_steps,
        batch_size=128,
        pool=max(2000, round(60_000 * args.scale)),
        seed=args.seed,
        device=args.device,
        log=log,
    )
    torch.manual_seed(args.seed)  # a continued run must begin with the same words as the run before it
    model = build_model(tokenizer, tower).to(args.device)
    features = {
        name: encode_videos(model, videos.scaled(args.scale), args.work / f"{name}.safetensors", args.device, log)
        for name, videos in (("short", SHORT), ("validation", VALIDATION), ("long", LONG))
    }
    short = QuestionBatches(features["short"], processor, SHORT.num_frames, KIND_WEIGHTS, turns=5)
    validation = QuestionBatches(features["validation"], processor, VALIDATION.num_frames)
    many, few, one = (
        QuestionBatches(features["long"], processor, LONG.num_frames, KIND_WEIGHTS, turns=turns)
        for turns in (10, 4, 1)
    )
    if not args.no_compile:
        model.model.language_model.compile(dynamic=True)
    # The directions are those of the words before any training.
    naming = Naming(model, tokenizer, args.seed)
    read(
        model,
        naming,
        processor,
        args.work,
        steps=args.reading_steps,
        seed=args.seed,
        device=args.device,
        log=log,
    )
    align(
        model,
        naming,
        one,
        args.work,
        steps=args.alignment_steps,
        batch_size=32,
        learning_rate=2e-3,
        seed=args.seed,
        device=args.device,
        log=log,
    )

    def check() -> str:
        accuracy, recall = answer_accuracy(model, validation, count=512, seed=7, device=args.device)
        mean = np.mean([share for kind, share in accuracy.items() if kind != "count"])
        kinds = " ".join(f"{kind} {share:.2f}" for kind, share in accuracy.items())
        return f"validation: {kinds}; mean without count {mean:.3f}; key frames hit {recall:.2f}"

    courses = [
        Course(short, args.short_steps, 64),
        Course(many, args.many_steps, 32),
        Course(few, args.few_steps, 32),
        Course(one, args.last_steps, 32),
    ]
    settings = AnswerTraining(learning_rate=1.2e-3)
    train_answers(model, courses, settings, args.work, seed=args.seed, device=args.device, log=log, check=check)
    hard = QuestionBatches(features["long"], processor, LONG.num_frames, KIND_WEIGHTS, 8, HARD_WEIGHTS)
    settings = AnswerTraining(learning_rate=6e-4, matrix_learning_rate=2e-3, warm_up=50, sigma=0.0, save_every=200)
    for number, steps in enumerate(args.hard_steps, start=1):
        out = args.work / f"hard{number}"
        out.mkdir(exist_ok=True)
        courses = [Course(hard, steps, 32)]
        train_answers(model, courses, settings, out, seed=args.seed + number, device=args.device, log=log, check=check)
    save_for_hub(model, processor, args.out)
    log(f"saved {args.out}")


if __name__ == "__main__":
    main()
