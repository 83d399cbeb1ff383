"""
From pixels to the first token: DynFocus beside dense video models and a rods-only layout, on matched backbones.

    python benchmarks/versus_peers.py                                       # ratios, on a CPU
    python benchmarks/versus_peers.py --device cuda --size 7b --dtype bfloat16

`peers.py` says what is compared. Time to first token is `generate(max_new_tokens=1)` with the pixels in memory: tower,
projection or selection, and the language model over the whole prompt. Memory is the peak above the weights, and above
weights and pixels.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from measuring import (
    GIB,
    Report,
    Spread,
    clock,
    give_back_memory,
    in_turn,
    is_out_of_memory,
    memory_limit,
    peak_tensor_bytes,
)
from peers import (
    DENSE,
    FRAME_TOKENS,
    GRID,
    ONEVISION,
    OURS,
    QUESTION_TOKENS,
    QWEN,
    RODS,
    TURN_TOKENS,
    VIDEO,
    Inputs,
    build_models,
    make_inputs,
)
from training_throughput import SCALES, Scale

from dynfocus.processing.token_plan import TokenBudget

#: Positions of the published models: of Qwen2 and of LLaVA-NeXT-Video's longest variant, and of Qwen2.5-VL.
CONTEXT = {**dict.fromkeys((OURS, RODS, *DENSE), 32768), QWEN: 128000}
GOAL_FRAMES, GOAL_SPEED, GOAL_MEMORY, FAR_FRAMES = 128, 4.0, 0.25, 512


def first_token(model: Any, inputs: Inputs) -> torch.Tensor:
    """The prompt and one token, `(1, tokens + 1)`."""
    with torch.inference_mode():
        return model.generate(**inputs, max_new_tokens=1, do_sample=False, pad_token_id=0)


def parts(model: Any, inputs: Inputs, device: str) -> dict[str, float]:
    """Seconds of the parts of DynFocus's way to the first token, one after the other."""
    inputs = dict(inputs)
    text = {name: inputs.pop(name) for name in ("input_ids", "attention_mask")}
    pixels, frame_mask = inputs.pop("pixel_values_videos"), inputs.pop("video_frame_mask")
    calls: list[float] = []
    # Inside of the tower, patches are pooled and grouped, too.
    tower = model.model.vision_tower.backbone
    hooks = [
        tower.register_forward_pre_hook(lambda *_: calls.append(-clock(device))),
        tower.register_forward_hook(lambda *_: calls.append(clock(device))),
    ]
    with torch.inference_mode():
        times = [clock(device)]
        state = model.encode_video(pixels, frame_mask)
        times.append(clock(device))
        features = model.get_video_features(video_state=state, **inputs)
        times.append(clock(device))
        given = {"video": features}
        model.generate(**text, mm_encoder_outputs=given, max_new_tokens=1, do_sample=False, pad_token_id=0)
        times.append(clock(device))
    for hook in hooks:
        hook.remove()
    encode, select, language_model = (after - before for before, after in pairwise(times))
    return {
        "vision tower": sum(calls),
        "pooling, grouping": encode - sum(calls),
        "question encoder, DPE, CCE": select,
        "language model": language_model,
    }


@dataclass
class Outcome:
    """What one model did at one number of frames: `seconds` and peaks in bytes, or why not."""

    tokens: int
    why_not: str | None = None
    peak: int = 0
    peak_with_pixels: int = 0
    seconds: Spread | None = None


def compare(
    models: dict[str, Any],
    inputs: dict[str, Inputs],
    rounds: int,
    device: str = "cpu",
    limit: int | None = None,
    ignore_context: bool = False,
) -> dict[str, Outcome]:
    """All models on one video. A first run of each measures its memory, and whether it can; the others take turns."""
    outcomes = {}
    for name, model in models.items():
        ids = inputs[name]["input_ids"]
        outcomes[name] = outcome = Outcome(int((ids == VIDEO).sum()))
        if ids.shape[1] > CONTEXT[name] and not ignore_context:
            outcome.why_not = f"out of context ({ids.shape[1]:,} of {CONTEXT[name]:,} positions)"
            continue
        pixels = inputs[name]["pixel_values_videos"]
        pixel_bytes = pixels.numel() * pixels.element_size()
        try:
            with memory_limit(None if limit is None else max(limit - pixel_bytes, 0), device):
                outcome.peak = peak_tensor_bytes(lambda: first_token(model, inputs[name]), device)  # noqa: B023
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            outcome.why_not = "out of memory" + ("" if limit is None else f" (beyond {limit / GIB:g} GiB)")
        outcome.peak_with_pixels = outcome.peak + pixel_bytes
        give_back_memory()
    able = [name for name, outcome in outcomes.items() if outcome.why_not is None]
    seconds = in_turn(
        {name: lambda name=name: first_token(models[name], inputs[name]) for name in able}, rounds, 0, device
    )
    for name in able:
        outcomes[name].seconds = seconds[name]
    return outcomes


def operations(scale: Scale, name: str, num_frames: int, tokens: int) -> tuple[float, float]:
    """Multiplications and additions of tower and language model to the first token; nothing else is counted."""
    tower, words = scale.tower, scale.language_model
    width, patches = tower["hidden_size"], GRID**2
    frames = num_frames / 2 if name == QWEN else num_frames
    layers = tower["num_hidden_layers"]
    # Qwen's tower attends in windows of 8x8 patches, but for one layer in eight.
    whole = -(-layers // 8) / layers
    reach = whole * patches + (1 - whole) * 64 if name == QWEN else patches
    layer = 2 * (4 * width**2 + 2 * width * tower["intermediate_size"]) + 4 * reach * width
    encode = frames * patches * layers * layer
    width, tokens = words["hidden_size"], tokens + 2 * TURN_TOKENS + QUESTION_TOKENS
    narrow = width * words["num_key_value_heads"] / words["num_attention_heads"]
    layer = 2 * (2 * width**2 + 2 * width * narrow + 3 * width * words["intermediate_size"]) + 2 * tokens * width
    return encode, tokens * words["num_hidden_layers"] * layer + 2 * width * words["vocab_size"]


def counted_rows(frames: list[int]) -> list[list[str]]:
    """For each size and number of frames: how many times the operations of DynFocus the dense models need."""
    rows = []
    for size, scale in SCALES.items():
        for number in frames:
            pair_tokens = -(-number // 2) * FRAME_TOKENS
            tower, words = operations(scale, OURS, number, TokenBudget().plan(number).num_visual_tokens)
            dense = sum(operations(scale, ONEVISION, number, number * FRAME_TOKENS + 1))
            qwen = sum(operations(scale, QWEN, number, pair_tokens))
            ours = tower + words
            rows.append([size, str(number), f"{dense / ours:.2f}x", f"{qwen / ours:.2f}x", f"{tower / ours:.0%}"])
    return rows


def add_results(report: Report, results: dict[int, dict[str, Outcome]], absolute: bool) -> None:
    """The comparison: ratios to DynFocus, and absolute numbers where they mean something."""
    rows = []
    for number, outcomes in results.items():
        ours = outcomes[OURS]
        for name, one in outcomes.items():
            row = [str(number), name, f"{one.tokens:,}"]
            if one.seconds is None or ours.seconds is None:
                rows.append([*row, one.why_not or "", *[""] * (3 + absolute)])
                continue
            row += [f"{one.seconds / ours.seconds}", f"{one.peak_with_pixels / ours.peak_with_pixels:.2f}"]
            row += [f"{one.peak / ours.peak:.2f}", f"{one.peak_with_pixels / GIB:.2f}"]
            rows.append(row + ([f"{1000 * one.seconds.median:.0f}"] if absolute else []))
    headings = ["frames", "model", "visual tokens", "time to first token / ours", "peak above weights / ours"]
    headings += ["peak above weights and pixels / ours", "peak above weights, GiB"]
    headings += ["ms to first token"] if absolute else []
    report.add_table("Time to first token and memory, as multiples of DynFocus's", headings, rows)


def as_json(one: Outcome, ours: Outcome, absolute: bool) -> dict[str, Any]:
    """Its numbers; seconds only where they mean something."""
    numbers: dict[str, Any] = {name: getattr(one, name) for name in ("tokens", "why_not", "peak", "peak_with_pixels")}
    if one.seconds is not None and ours.seconds is not None:
        numbers["time_ratio"] = (one.seconds / ours.seconds).rounds
        if absolute:
            numbers["seconds"] = one.seconds.rounds
    return numbers


def add_goals(report: Report, results: dict[int, dict[str, Outcome]]) -> None:
    """Whether the goals at 128 and 512 frames are met."""
    at = results.get(GOAL_FRAMES)
    dense = {name: at[name] for name in DENSE if at[name].seconds is not None} if at else {}
    if at and dense and at[OURS].seconds is not None:
        fastest = min(dense, key=lambda name: dense[name].seconds.median)
        speed = (dense[fastest].seconds / at[OURS].seconds).median
        share = at[OURS].peak_with_pixels / dense[fastest].peak_with_pixels
        report.add_goal(
            f"{speed:.2f} times as fast as the fastest dense model, {fastest}, at {GOAL_FRAMES} frames "
            f"(goal: at least {GOAL_SPEED:g})",
            speed >= GOAL_SPEED,
        )
        report.add_goal(
            f"{share:.3f} of its peak above weights, {at[OURS].peak / dense[fastest].peak:.3f} above weights and "
            f"pixels (goal: at most {GOAL_MEMORY:g} above weights)",
            share <= GOAL_MEMORY,
        )
    if far := results.get(FAR_FRAMES):
        out = [f"{name}: {far[name].why_not or 'answers'}" for name in DENSE]
        met = far[OURS].seconds is not None and all(far[name].why_not for name in DENSE)
        report.add_goal(f"at {FAR_FRAMES} frames DynFocus answers where the dense do not; {'; '.join(out)}", met)


def run(
    frames: list[int],
    size: str = "tiny",
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    rounds: int = 5,
    limit: int | None = None,
    ignore_context: bool = False,
    json_file: Path | None = None,
) -> Report:
    """Measures at each number of frames, prints, and writes `json_file`. `limit` is in bytes above the weights."""
    settings = {"size": size, "device": device, "dtype": str(dtype or SCALES[size].dtype), "rounds": rounds}
    report = Report("versus_peers", {**settings, "memory_limit": limit, "ignore_context": ignore_context}, device)
    scale = SCALES[size]
    models = build_models(scale, device, dtype)
    warm_up = make_inputs(2, scale, device, dtype)
    for name, model in models.items():
        first_token(model, warm_up[name])
    results, shares = {}, []
    for number in frames:
        inputs = make_inputs(number, scale, device, dtype)
        results[number] = compare(models, inputs, rounds, device, limit, ignore_context)
        if results[number][OURS].seconds is not None:
            each = [parts(models[OURS], inputs[OURS], device) for _ in range(rounds)]
            spreads = [Spread(tuple(one[name] / sum(one.values()) for one in each)) for name in each[0]]
            shares.append([str(number), *(f"{100 * spread.median:.0f} %" for spread in spreads)])
        del inputs
        give_back_memory()
    add_results(report, results, absolute=device != "cpu")
    names = ("vision tower", "pooling, grouping", "question encoder, DPE, CCE", "language model")
    report.add_table("Where DynFocus's time goes", ["frames", *names], shares)
    report.add_table(
        "Counted operations of tower and language model: the dense models' as multiples of DynFocus's",
        ["size", "frames", "196 tokens a frame", "Qwen2.5-VL", "the tower's share of DynFocus's"],
        counted_rows(frames),
    )
    add_goals(report, results)
    report.results = {
        str(number): {name: as_json(one, outcomes[OURS], device != "cpu") for name, one in outcomes.items()}
        for number, outcomes in results.items()
    }
    report.finish(json_file)
    return report


def main(
    frames: Annotated[str, typer.Option(help="Numbers of frames, with commas.")] = "8,32,128,512",
    size: Annotated[str, typer.Option(help=f"One of {', '.join(SCALES)}.")] = "tiny",
    device: str = "cpu",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; by default the size's.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each model; the median counts.")] = 5,
    memory_limit: Annotated[float | None, typer.Option(help="GiB above the weights that a model may use.")] = None,
    ignore_context: Annotated[bool, typer.Option(help="Run models beyond their published context, too.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results there too.")] = None,
) -> None:
    """Compare the way to the first token of DynFocus and dense video models."""
    if size not in SCALES:
        raise typer.BadParameter(f"{size!r} is not one of {', '.join(SCALES)}.", param_hint="--size")
    limit = None if memory_limit is None else int(memory_limit * GIB)
    numbers = [int(number) for number in frames.split(",")]
    run(numbers, size, device, getattr(torch, dtype) if dtype else None, rounds, limit, ignore_context, json_file)


if __name__ == "__main__":
    typer.run(main)
