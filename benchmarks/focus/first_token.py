"""
Time to the first token of each row against the dense one, from the video's state on:
`python benchmarks/focus/first_token.py`.

The question encoder, DPE, CCE and the language model's pass over the prompt are timed; rows take turns in one process.
The tower's time is the same for all rows, and is printed separately. Weights are random, which does not change the
time.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from layouts import ROWS, choice_of, lay_out, video_features
from matplotlib.figure import Figure
from recipe.data import FeatureSet, QuestionBatches
from recipe.model import build_config, build_processor
from recipe.tokenizer import build_tokenizer

from dynfocus import DynFocusForConditionalGeneration
from dynfocus.eval.synthetic.questions import make_questions
from dynfocus.eval.synthetic.world import sample_episode

sys.path.insert(0, str(Path(__file__).parent.parent))
from measuring import Report, Spread, in_turn


def bars(ratios: dict[str, Spread], tokens: dict[str, int], title: str) -> Figure:
    """How many times as fast as the first row each row is, with the lowest and the highest round."""
    figure = Figure(figsize=(8, 0.6 + 0.5 * len(ratios)), layout="constrained")
    axes = figure.add_subplot()
    spreads = list(ratios.values())
    medians = [one.median for one in spreads]
    beside = [[one.median - one.lowest for one in spreads], [one.highest - one.median for one in spreads]]
    names = [f"{name} ({tokens[name]:,} tokens)" for name in ratios]
    axes.barh(names, medians, xerr=beside, capsize=3, color=[f"C{list(ROWS).index(name) % 10}" for name in ratios])
    axes.invert_yaxis()
    axes.set(xlabel=f"times as fast as {next(iter(ratios))}", title=title)
    axes.grid(axis="x", alpha=0.3)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--key-frames", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", nargs="+", default=["dense", "dynfocus", "uniform", "rods_only", "pooled"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--plot", type=Path, help="draw the results into this file")
    args = parser.parse_args()
    settings = {"frames": args.frames, "key_frames": args.key_frames, "rounds": args.rounds}
    report = Report("first_token", settings, args.device)
    tokenizer = build_tokenizer()
    processor = build_processor(tokenizer)
    rng = np.random.default_rng(0)
    episode = sample_episode(rng, args.frames, "test")
    question = make_questions(episode, rng, 1, ["number"])
    pixels = torch.rand(1, args.frames, 3, 64, 64, device=args.device) * 2 - 1
    contenders: dict[str, Any] = {}
    tokens = {}
    for name in args.rows:
        torch.manual_seed(0)
        model = DynFocusForConditionalGeneration(build_config(tokenizer)).to(args.device).eval()
        layout = ROWS[name]
        lay_out(model, layout)
        with torch.no_grad():
            state = model.encode_video(pixels)
        batches = QuestionBatches(FeatureSet(state, [episode]), processor, args.frames)
        plan = layout.plan(args.frames, args.key_frames)
        inputs = batches.collate(np.array([0]), [question], args.device, plan)
        asked = inputs.pop("asked")
        inputs.pop("labels")
        text = {name: inputs.pop(name) for name in ("input_ids", "attention_mask")}
        choice = choice_of(layout, asked, args.key_frames, 0)
        tokens[name] = plan.num_visual_tokens

        def first_token(model: Any = model, text: Any = text, inputs: Any = inputs, choice: Any = choice) -> None:
            with torch.no_grad():
                # Cached events of a state would speed up later questions only.
                inputs["video_state"].event_cache.clear()
                found = video_features(model, choice, inputs)
                model(**text, mm_encoder_outputs={"video": found}, logits_to_keep=1).logits.argmax(-1)

        contenders[name] = first_token
    with torch.no_grad():
        contenders["(vision tower)"] = lambda: model.encode_video(pixels)
        seconds = in_turn(contenders, args.rounds, device=args.device)
    first = args.rows[0]
    ratios = {name: seconds[first] / spread for name, spread in seconds.items()}
    lines = [[name, tokens.get(name, ""), f"{ratio}x"] for name, ratio in ratios.items()]
    title = f"{args.frames} frames, {args.key_frames} key frames; medians of {args.rounds} rounds (lowest–highest)"
    report.add_table(title, ["row", "visual tokens", f"times as fast as {first}"], lines)
    if args.plot:
        rows = {name: ratio for name, ratio in ratios.items() if name in tokens}
        bars(rows, tokens, f"{args.frames} frames: time to the first token").savefig(args.plot, dpi=110)
    if "dynfocus" in ratios and first == "dense":
        ratio = ratios["dynfocus"]
        report.add_goal(f"{ratio} times as fast as dense (goal: at least 2.1)", ratio.median >= 2.1)
    report.finish(args.json)


if __name__ == "__main__":
    main()
