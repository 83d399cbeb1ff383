"""
What a training step costs: DynFocus against LLaVA-OneVision, on one SigLIP tower and one Qwen2 which they share.

    python benchmarks/training_throughput.py                                      # ratios, on a CPU
    python benchmarks/training_throughput.py --device cuda --scale 7b --gradient-checkpointing

A step is forward, backward and AdamW with a frozen tower, all else trained, batch 1. Both models get 27x27 patches a
frame, the same text, and random weights. The models take turns, so that what slows the machine slows both.

Memory is counted above weights, gradients and optimizer state: what lives between forward and backward (*held*), and
the most that lives at any time in them (*peak*).
"""

import json
import statistics
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from measuring import LiveBytes, clock
from rich.console import Console
from rich.table import Table
from transformers import (
    AutoModelForImageTextToText,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from dynfocus import DynFocusConfig, DynFocusForConditionalGeneration
from dynfocus.processing.token_plan import TokenBudget

IMAGE_SIZE, PATCH_SIZE = 384, 14
#: LLaVA-OneVision pools the 27x27 patches of a frame to 14x14 tokens, and adds one token a video.
LLAVA_TOKENS_A_FRAME = 196
QUESTION_TOKENS, ANSWER_TOKENS, TURN_TOKENS = 24, 8, 8
VIDEO_TOKEN = 3
#: At 32 frames, the goal: this many times LLaVA-OneVision's samples a second, and one part in as many of its memory.
GOAL_FRAMES, GOAL = 32, 3.0

Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Scale:
    """Sizes of the two backbones; each field is named as in their configurations."""

    tower: dict[str, Any]
    language_model: dict[str, Any]
    dtype: torch.dtype = torch.bfloat16


_SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 26, "num_attention_heads": 16}
SCALES = {
    # Parameters of tower and language model stand to each other as in the 7B model (1 to 17).
    "tiny": Scale(
        {"hidden_size": 192, "intermediate_size": 717, "num_hidden_layers": 2, "num_attention_heads": 3},
        {
            "vocab_size": 2048,
            "hidden_size": 576,
            "intermediate_size": 3072,
            "num_hidden_layers": 2,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
        },
        torch.float32,
    ),
    "0.5b": Scale(
        _SO400M,
        {
            "vocab_size": 152000,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
        },
    ),
    "7b": Scale(
        _SO400M,
        {
            "vocab_size": 152128,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
    ),
}


def build_models(
    scale: Scale, device: str, gradient_checkpointing: bool = False
) -> tuple[DynFocusForConditionalGeneration, LlavaOnevisionForConditionalGeneration]:
    """Both models in training mode; tower, language model and head are the same modules in both."""
    tower = SiglipVisionConfig(**scale.tower, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, vision_use_head=False)
    text = Qwen2Config(**scale.language_model, max_position_embeddings=2**17, use_cache=False)
    # As wide as the tower, up to 512.
    width = min(512, tower.hidden_size)
    question = {
        "vocab_size": text.vocab_size,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": 4,
        "num_attention_heads": width // 64 or 1,
        "encoder_hidden_size": tower.hidden_size,
    }
    config = DynFocusConfig(
        vision_config={"backbone_config": tower, "feature_layer": -1},
        text_config=text,
        question_config=question,
        video_token_id=VIDEO_TOKEN,
    )
    stock = LlavaOnevisionConfig(
        vision_config=tower, text_config=text, video_token_index=VIDEO_TOKEN, image_token_index=VIDEO_TOKEN + 1
    )
    torch.manual_seed(0)
    with torch.device(device):
        ours, llava = (AutoModelForImageTextToText.from_config(one, dtype=scale.dtype) for one in (config, stock))
    llava.model.vision_tower = ours.model.vision_tower.backbone
    llava.model.language_model, llava.lm_head = ours.model.language_model, ours.lm_head
    for model in (ours, llava):
        model.train()
        if gradient_checkpointing:
            model.gradient_checkpointing_enable()
    return ours, llava


def make_inputs(num_frames: int, scale: Scale, device: str) -> tuple[Inputs, Inputs]:
    """One video with one question and answer, as the processors of DynFocus and of LLaVA-OneVision would give it."""
    generator = torch.Generator().manual_seed(num_frames)
    pixels = torch.randn(1, num_frames, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator).to(device, scale.dtype)
    vocab_size, length = scale.language_model["vocab_size"], 2 * TURN_TOKENS + QUESTION_TOKENS + ANSWER_TOKENS
    text = torch.randint(VIDEO_TOKEN + 2, vocab_size, (1, length), generator=generator).to(device)
    question = text[:, TURN_TOKENS : TURN_TOKENS + QUESTION_TOKENS]

    def prompt(visual_tokens: int) -> Inputs:
        visual = text.new_full((1, visual_tokens), VIDEO_TOKEN)
        ids = torch.cat([text[:, :TURN_TOKENS], visual, text[:, TURN_TOKENS:]], dim=1)
        labels = torch.full_like(ids, -100)
        labels[:, -ANSWER_TOKENS:] = ids[:, -ANSWER_TOKENS:]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        return {**inputs, "pixel_values_videos": pixels}

    plan = TokenBudget().plan(num_frames)
    ours = {
        **prompt(plan.num_visual_tokens),
        "video_frame_mask": torch.ones(1, num_frames, dtype=torch.bool, device=device),
        "video_token_plan": torch.tensor([plan.as_row()]),
        "question_input_ids": question,
        "question_attention_mask": torch.ones_like(question),
    }
    return ours, prompt(LLAVA_TOKENS_A_FRAME * num_frames + 1)


class Training:
    """Steps of one model of the two; `optimizer` serves both, so that shared weights have one state."""

    def __init__(self, model: Any, inputs: Inputs, optimizer: torch.optim.Optimizer):
        self.model, self.inputs, self.optimizer = model, inputs, optimizer
        self.device = inputs["input_ids"].device

    def step(self) -> None:
        self.model(**self.inputs).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def clock(self) -> float:
        """Seconds, once the device has finished its work."""
        return clock(self.device.type)

    def seconds(self) -> float:
        """Of one step."""
        start = self.clock()
        self.step()
        return self.clock() - start

    def memory(self) -> tuple[int, int]:
        """Bytes held from forward to backward, and the peak, above weights, gradients and optimizer state."""
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            loss = self.model(**self.inputs).loss
            held = torch.cuda.memory_allocated() - before
            loss.backward()
            peak = torch.cuda.max_memory_allocated() - before
        else:
            with LiveBytes() as live:
                loss = self.model(**self.inputs).loss
                held = live.now
                loss.backward()
            peak = live.peak
        self.optimizer.zero_grad()
        return held, peak

    def parts(self) -> dict[str, float]:
        """Seconds of the parts of one step of DynFocus, run one after the other."""
        inputs, model = dict(self.inputs), self.model
        labels, ids = inputs.pop("labels"), inputs.pop("input_ids")
        attention_mask = inputs.pop("attention_mask")
        pixels, frame_mask = inputs.pop("pixel_values_videos"), inputs.pop("video_frame_mask")
        tower_calls: list[float] = []
        # Inside of the tower, patches are pooled and grouped, too.
        tower = model.model.vision_tower.backbone
        hooks = [
            tower.register_forward_pre_hook(lambda *_: tower_calls.append(-self.clock())),
            tower.register_forward_hook(lambda *_: tower_calls.append(self.clock())),
        ]
        times = [self.clock()]
        state = model.encode_video(pixels, frame_mask)
        times.append(self.clock())
        features = model.get_video_features(video_state=state, **inputs)
        times.append(self.clock())
        # The graph is cut where the language model begins, so that the two backward passes can be told apart.
        (tokens,) = features.pooler_output
        leaf = tokens.detach().requires_grad_()
        given = {"video": replace(features, pooler_output=[leaf])}
        model(input_ids=ids, attention_mask=attention_mask, labels=labels, mm_encoder_outputs=given).loss.backward()
        times.append(self.clock())
        tokens.backward(leaf.grad)
        times.append(self.clock())
        self.optimizer.step()
        self.optimizer.zero_grad()
        times.append(self.clock())
        for hook in hooks:
            hook.remove()
        encode, forward, language_model, backward, optimizer = (b - a for a, b in pairwise(times))
        return {
            "vision tower": sum(tower_calls),
            "pooling, grouping of patches": encode - sum(tower_calls),
            "question encoder, DPE, CCE": forward + backward,
            "language model": language_model,
            "optimizer": optimizer,
        }


def compare(models: tuple[Any, Any], optimizer: Any, num_frames: int, scale: Scale, rounds: int) -> dict[str, Any]:
    """
    Both models on a video of `num_frames`: `seconds`, `held` and `peak` of each, `speed_ratio` (of each round),
    `held_ratio` and `peak_ratio` (DynFocus / LLaVA-OneVision), `visual_tokens` and `shares` of DynFocus's step.
    """
    device = str(next(models[0].parameters()).device)
    pairs = zip(models, make_inputs(num_frames, scale, device), strict=True)
    ours, llava = (Training(model, inputs, optimizer) for model, inputs in pairs)
    # The first step makes the optimizer's state, and whatever the device keeps for later.
    for one in (ours, llava):
        one.step()
    memory = [one.memory() for one in (ours, llava)]
    seconds = [(ours.seconds(), llava.seconds()) for _ in range(rounds)]
    parts = [ours.parts() for _ in range(rounds)]
    totals = [sum(part.values()) for part in parts]
    (held, peak), (llava_held, llava_peak) = memory
    return {
        "num_frames": num_frames,
        "visual_tokens": [int((one.inputs["input_ids"] == VIDEO_TOKEN).sum()) for one in (ours, llava)],
        "seconds": [statistics.median(times) for times in zip(*seconds, strict=True)],
        "speed_ratio": [theirs / own for own, theirs in seconds],
        "held": [held, llava_held],
        "peak": [peak, llava_peak],
        "held_ratio": held / llava_held,
        "peak_ratio": peak / llava_peak,
        "shares": {
            name: statistics.median(part[name] / total for part, total in zip(parts, totals, strict=True))
            for name in parts[0]
        },
    }


def tables(results: list[dict[str, Any]], absolute: bool) -> list[Table]:
    """What is printed: the comparison, and where DynFocus's step goes."""
    ratios = _table("A training step of DynFocus against LLaVA-OneVision's")
    for heading in ("frames", "visual tokens", "samples/s", "lowest, highest", "memory held", "memory at peak"):
        ratios.add_column(heading, justify="right")
    for row in results:
        rounds = row["speed_ratio"]
        ratios.add_row(
            str(row["num_frames"]),
            "{} : {}".format(*row["visual_tokens"]),
            f"{statistics.median(rounds):.2f}x",
            f"{min(rounds):.2f}, {max(rounds):.2f}",
            f"{row['held_ratio']:.3f}x",
            f"{row['peak_ratio']:.3f}x",
        )
    each = _table("DynFocus : LLaVA-OneVision")
    for heading in ("frames", "samples/s", "GiB held", "GiB at peak"):
        each.add_column(heading, justify="right")
    for row in results:
        speeds = " : ".join(f"{1 / seconds:.3g}" for seconds in row["seconds"])
        sizes = (" : ".join(f"{size / 2**30:.3g}" for size in row[name]) for name in ("held", "peak"))
        each.add_row(str(row["num_frames"]), speeds, *sizes)
    shares = _table("Where the time of DynFocus's step goes")
    for name in ("frames", *results[0]["shares"]):
        shares.add_column(name, justify="right")
    for row in results:
        shares.add_row(str(row["num_frames"]), *(f"{share:.0%}" for share in row["shares"].values()))
    return [ratios, each, shares] if absolute else [ratios, shares]


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=None)


def goal_lines(row: dict[str, Any]) -> list[str]:
    """Whether `row` meets the goal, in sentences."""
    speed = statistics.median(row["speed_ratio"])
    return [
        f"{'met' if speed >= GOAL else 'MISSED'}: {speed:.2f} times the samples a second (goal: at least {GOAL:g})",
        f"{'met' if row['held_ratio'] <= 1 / GOAL else 'MISSED'}: {row['held_ratio']:.3f} of the memory held for "
        f"backward (goal: at most {1 / GOAL:.3f})",
    ]


def run(
    scale: Scale,
    frames: list[int],
    device: str = "cpu",
    rounds: int = 5,
    gradient_checkpointing: bool = False,
    absolute: bool = False,
    console: Console | None = None,
) -> list[dict[str, Any]]:
    """Compares at each number of frames, and prints; what does not fit into the GPU's memory is left out."""
    console = console or Console()
    models = build_models(scale, device, gradient_checkpointing)
    # Once, where both models have it.
    trained = list(dict.fromkeys(weight for model in models for weight in model.parameters() if weight.requires_grad))
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    results = []
    for number in frames:
        try:
            results.append(compare(models, optimizer, number, scale, rounds))
        except torch.cuda.OutOfMemoryError:
            optimizer.zero_grad()
            console.print(f"{number} frames: out of memory.")
    if results:
        console.print(*tables(results, absolute), sep="\n")
    for row in results:
        if row["num_frames"] == GOAL_FRAMES:
            console.print(f"Goal at {GOAL_FRAMES} frames", *goal_lines(row), sep="\n  ")
    return results


def main(
    frames: Annotated[str, typer.Option(help="Numbers of frames, with commas.")] = "8,32,128",
    scale: Annotated[str, typer.Option(help=f"One of {', '.join(SCALES)}.")] = "tiny",
    device: str = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="Steps of each model; the median counts.")] = 5,
    gradient_checkpointing: bool = False,
    absolute: Annotated[bool, typer.Option(help="Print samples/s and GiB too (always on a GPU).")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results there too.")] = None,
) -> None:
    """Compare the training steps of DynFocus and LLaVA-OneVision."""
    if scale not in SCALES:
        raise typer.BadParameter(f"{scale!r} is not one of {', '.join(SCALES)}.", param_hint="--scale")
    absolute = absolute or device != "cpu"
    numbers = [int(number) for number in frames.split(",")]
    results = run(SCALES[scale], numbers, device, rounds, gradient_checkpointing, absolute)
    if json_file is not None:
        hidden = () if absolute else ("seconds", "held", "peak")
        rows = [{name: value for name, value in row.items() if name not in hidden} for row in results]
        settings = {"scale": scale, "device": device, "gradient_checkpointing": gradient_checkpointing}
        json_file.write_text(json.dumps({**settings, "results": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
