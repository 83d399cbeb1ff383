"""
What DPE and CCE cost alone: from a video's state and a question to visual tokens, without tower and language model.

    python benchmarks/selection.py                                       # widths of the paper, to 1024 frames
    python benchmarks/selection.py --scale base --frames 32,128,512,2048,8192

Results agree with a naive implementation, frame by frame, which is timed too. The question encoder is timed apart (it
is the same work for each frame), and so are pooling and grouping of patches, which are done once a video: the released
code does them, with the selection, for each question.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from measuring import MIB, Report, Spread, growth_exponent, in_turn, peak_tensor_bytes
from transformers import InstructBlipVisionConfig, InstructBlipVisionModel, SiglipVisionConfig, SiglipVisionModel

from dynfocus import DynFocusConfig
from dynfocus.encoding.patch_grouping import group_patches, pool_patches
from dynfocus.modeling_dynfocus import DynFocusModel
from dynfocus.processing.token_plan import TokenBudget
from dynfocus.states.video_state import VideoState

QUESTION_TOKENS = 16
#: Of the authors' released code, from patches to visual tokens, float32, D = 1408, on 2 cores: seconds, bytes at peak.
RELEASED_SECONDS, RELEASED_PEAK = {128: 3.7, 512: 15.7}, 8.8e9
FASTER, MEMORY, TOWER_SHARE = 10, 1.5, 20


@dataclass(frozen=True)
class Scale:
    """Widths of tower and language model, the question encoder's fields, a tower (and how often its layers count)."""

    width: int
    text_width: int
    question: dict[str, Any]
    tower: Callable[[], tuple[torch.nn.Module, int]]


def _vit_g() -> tuple[torch.nn.Module, int]:
    # EVA ViT-g has 39 such layers; three of them fit everywhere.
    config = InstructBlipVisionConfig(num_hidden_layers=3)
    return InstructBlipVisionModel(config).eval(), 13


def _siglip(**sizes: int) -> tuple[torch.nn.Module, int]:
    return SiglipVisionModel(SiglipVisionConfig(**sizes, vision_use_head=False)).eval(), 1


_QFORMER = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SCALES = {
    "paper": Scale(1408, 4096, _QFORMER, _vit_g),
    "base": Scale(
        768,
        896,
        # As `DynFocusConfig` of these backbones has it.
        {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 2048},
        lambda: _siglip(image_size=224, patch_size=16),
    ),
    "smoke": Scale(
        16,
        24,
        {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16},
        lambda: _siglip(
            image_size=32,
            patch_size=8,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=1,
        ),
    ),
}


def build(scale: Scale) -> DynFocusModel:
    """A model with those widths, whose tower and language model are of no use; the score depends on the question."""
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = DynFocusConfig(
        vision_config={
            "backbone_config": {
                **{"model_type": "siglip_vision_model", "image_size": 64, "patch_size": 16, "vision_use_head": False},
                **{**sizes, "hidden_size": scale.width},
            },
            "feature_layer": -1,
        },
        text_config={"model_type": "llama", "hidden_size": scale.text_width, "vocab_size": 64, **sizes},
        question_config={**scale.question, "vocab_size": 64, "encoder_hidden_size": scale.width},
    )
    torch.manual_seed(0)
    model = DynFocusModel(config).eval()
    for part in (model.event_prototypes.question_scorer.out_proj, model.cooperative_encoder.cluster_gate.score):
        torch.nn.init.normal_(part.weight)
    return model


def make_state(config: DynFocusConfig, num_frames: int) -> VideoState:
    """Scenes of about 20 frames, so that there are events to be found."""
    generator = torch.Generator().manual_seed(num_frames)
    width, num_scenes = config.vision_config.hidden_size, max(1, num_frames // 20)
    scene = torch.arange(num_frames) * num_scenes // num_frames

    def tokens(number: int) -> torch.Tensor:
        scenes = torch.randn(num_scenes, number, width, generator=generator)
        return scenes[scene].add_(torch.randn(num_frames, number, width, generator=generator), alpha=0.3)[None]

    groups = torch.cat([torch.arange(6), torch.arange(16) % 6]).sort().values
    return VideoState(
        frame_features=tokens(16),
        grouped_tokens=tokens(22),
        parent_of_token=groups.expand(1, num_frames, -1),
        frame_mask=torch.ones(1, num_frames) > 0,
    )


def state_bytes(state: VideoState) -> int:
    """Of the features, without the small change."""
    return state.frame_features.nbytes + state.grouped_tokens.nbytes


class StandIn(torch.nn.Module):
    """In place of the question encoder: the same numbers for any frame, at no cost."""

    def __init__(self, encoder: torch.nn.Module, queries: int, width: int):
        super().__init__()
        self.frames_per_chunk, self.query_tokens = encoder.frames_per_chunk, encoder.query_tokens
        generator = torch.Generator().manual_seed(1)
        self.register_buffer("queries", torch.randn(queries, width, generator=generator))

    def forward(self, ids: Any, mask: Any, tokens: Any, frame_mask: torch.Tensor) -> torch.Tensor:
        """`(V, T, queries, D)`."""
        return self.queries.expand(*frame_mask.shape, -1, -1)


class Selector:
    """DPE and CCE of one model on one state; each run finds the events anew."""

    def __init__(self, model: DynFocusModel, state: VideoState):
        self.model, self.state = model, state
        plan = TokenBudget().plan(state.frame_mask.shape[1])
        self.inputs = {
            "video_state": state,
            "video_token_plan": torch.tensor([plan.as_row()]),
            "question_input_ids": torch.arange(QUESTION_TOKENS)[None],
        }

    @torch.no_grad()
    def first(self) -> Any:
        """A first question."""
        self.state.event_cache.clear()
        return self.model.get_video_features(**self.inputs, return_dict=True)

    @torch.no_grad()
    def further(self) -> Any:
        """A further question on the same state."""
        return self.model.get_video_features(**self.inputs, return_dict=True)

    def steps(self) -> dict[str, float]:
        """Seconds of each step of a first question."""
        estimator, encoder = self.model.event_prototypes, self.model.cooperative_encoder
        with stopwatch(
            {
                "events (T-DPC, prototypes, medoids)": (estimator, "events_of"),
                "score": (estimator, "forward"),
                "choose": (estimator, "choose"),
                "gate": (encoder, "cluster_gate"),
                "rods": (encoder, "_coarse"),
                "projector": (encoder, "_project"),
                "cones, assembly": (encoder, "forward"),
                "question encoder": (self.model, "question_encoder"),
            }
        ) as seconds:
            self.first()
        return seconds


@contextmanager
def stopwatch(steps: dict[str, tuple[Any, str]]) -> Iterator[dict[str, float]]:
    """Seconds of calls of these methods or modules, by name, without those of others among them that they call."""
    seconds, nested = dict.fromkeys(steps, 0.0), [0.0]
    restore = []
    for name, (owner, attribute) in steps.items():
        wrapped = getattr(owner, attribute)
        target, key = (wrapped, "forward") if isinstance(wrapped, torch.nn.Module) else (owner, attribute)
        function = getattr(target, key)

        def timed(*args: Any, _name: str = name, _function: Any = function, **kwargs: Any) -> Any:
            nested.append(0.0)
            start = time.perf_counter()
            result = _function(*args, **kwargs)
            whole = time.perf_counter() - start
            seconds[_name] += whole - nested.pop()
            nested[-1] += whole
            return result

        object.__setattr__(target, key, timed)
        restore.append((target, key))
    yield seconds
    for target, key in restore:
        object.__delattr__(target, key)


@torch.no_grad()
def naive(model: DynFocusModel, state: VideoState, plan: torch.Tensor) -> tuple[list[int], torch.Tensor]:
    """Key frames and visual tokens of the default preset, by its definition, frame by frame."""
    num_prototypes, num_key, _ = plan[0].tolist()
    estimator, encoder = model.event_prototypes, model.cooperative_encoder
    features, grouped = state.frame_features[0], state.grouped_tokens[0]
    flat = features.flatten(1)
    frames, width = range(len(flat)), flat.shape[1]
    squared = torch.stack([(flat - flat[t]).square().sum(-1) / width for t in frames])
    spread = [squared[t].sort().values[: estimator.num_neighbors].mean().item() for t in frames]
    score = []
    for t in frames:
        denser = [s for s in frames if (spread[s], s) < (spread[t], t)]
        delta = squared[t, denser].min() if denser else squared[t].max()
        score.append(0.5 * math.log(max(delta.item(), 1e-38)) - spread[t])
    centers = sorted(frames, key=lambda t: (-score[t], t))[:num_prototypes]
    members = [[] for _ in centers]
    for t in frames:
        members[centers.index(t) if t in centers else int(squared[t, centers].argmin())].append(t)
    means = [flat[event].mean(0) for event in members]
    medoids = []
    for event, mean in zip(members, means, strict=True):
        from_mean = (flat[event] - mean).square().sum(-1)
        # The two members of a pair are equally near, up to rounding.
        medoids.append(event[int((from_mean <= from_mean.min() * (1 + 1e-5)).int().argmax())])
    order = sorted(range(num_prototypes), key=medoids.__getitem__)
    members, medoids = [members[i] for i in order], [medoids[i] for i in order]
    prototypes = torch.stack([means[i] for i in order]).unflatten(1, features.shape[1:])[None]

    queries = [model.question_encoder(None, None, None, torch.ones(1, 1, dtype=torch.bool))[0, 0] for _ in frames]
    pooled = torch.cat([prototypes.mean(2), prototypes.amax(2)], dim=-1)
    every = torch.ones(1, num_prototypes, dtype=torch.bool)
    times = [[event[0], medoid, event[-1], len(event)] for event, medoid in zip(members, medoids, strict=True)]
    scores = estimator.scorer(pooled, every) + estimator.question_scorer(
        torch.stack([queries[t] for t in medoids])[None],
        grouped[medoids][None],
        pooled,
        torch.tensor([times]) / len(flat),
        every,
    )
    keys = sorted(sorted(range(num_prototypes), key=lambda i: (-scores[0, i].item(), i))[:num_key])
    event_of = {t: i for i, event in enumerate(members) for t in event}
    embedding = encoder.score_embedding
    tokens = []
    for t in frames:
        gated = encoder.cluster_gate(grouped[t], state.parent_of_token[0, t])
        fit = scores[0, event_of[t]].sigmoid()[None]
        if t in medoids and medoids.index(t) in keys:
            tokens.append(encoder.projector(torch.cat([features[t], gated])) + embedding.cones(fit))
        attention = (queries[t] @ encoder.key_projector(gated).T * gated.shape[1] ** -0.5).softmax(-1)
        attended = (attention @ gated).mean(0)
        tokens.append(
            torch.stack([encoder.projector(gated.mean(0)), encoder.value_projector(attended)]) + embedding.rods(fit)
        )
    return [medoids[i] for i in keys], torch.cat(tokens)


def check(selector: Selector) -> None:
    """`AssertionError` where the result is not that of `naive`."""
    found = selector.first()
    key_frames, tokens = naive(selector.model, selector.state, selector.inputs["video_token_plan"])
    assert found.key_frames[0].tolist() == key_frames, "other key frames than by the definition"
    torch.testing.assert_close(found.pooler_output[0], tokens, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def frame_costs(scale: Scale, rounds: int) -> dict[str, Spread]:
    """Seconds a frame: of the tower, of pooling and grouping its patches, and of the question encoder."""
    torch.manual_seed(0)
    model = build(scale)
    tower, times_layers = scale.tower()
    side, number = tower.config.image_size, 4
    pixels = torch.randn(number, 3, side, side)
    grid = side // tower.config.patch_size
    patches = torch.randn(number, grid * grid, scale.width)
    tokens, ids = torch.randn(1, 4 * number, 22, scale.width), torch.arange(QUESTION_TOKENS)[None]
    mask = torch.ones(1, 4 * number, dtype=torch.bool)

    def reduce() -> None:
        pool_patches(patches, (grid, grid), 4)
        group_patches(patches, *((16, 6), (8, 3)))

    found = in_turn(
        {
            "tower": lambda: tower(pixel_values=pixels),
            "grouping": reduce,
            "question encoder": lambda: model.question_encoder(ids, torch.ones_like(ids), tokens, mask),
        },
        rounds,
    )
    parts = {"tower": times_layers / number, "grouping": 1 / number, "question encoder": 1 / (4 * number)}
    return {name: Spread(tuple(s * parts[name] for s in spread.rounds)) for name, spread in found.items()}


def run(scale_name: str, frames: list[int], rounds: int, naive_frames: int, json_file: Path | None) -> Report:
    """Measures, prints, and writes `json_file`."""
    scale = SCALES[scale_name]
    report = Report("selection", {"scale": scale_name, "frames": frames, "rounds": rounds})
    costs = frame_costs(scale, rounds)
    tower, asked = costs["tower"].median, costs["question encoder"].median
    model = build(scale)
    real = model.question_encoder
    model.question_encoder = StandIn(real, model.config.num_question_queries, scale.width)
    rows, step_rows, results = [], [], []
    slowest = ("", 0.0)
    for number in frames:
        selector = Selector(model, make_state(model.config, number))
        contenders = {"first": selector.first, "further": selector.further}
        if number <= naive_frames:
            check(selector)
            contenders["naive"] = lambda s=selector: naive(s.model, s.state, s.inputs["video_token_plan"])
        times = in_turn(contenders, rounds)
        size = state_bytes(selector.state)
        alone = peak_tensor_bytes(selector.first) / size
        model.question_encoder = real
        peak = peak_tensor_bytes(selector.first) / size if number <= 1024 else None
        model.question_encoder = StandIn(real, model.config.num_question_queries, scale.width)
        steps = [selector.steps() for _ in range(rounds)]
        medians = {name: Spread(tuple(step[name] for step in steps)).median for name in steps[0]}
        del medians["question encoder"]
        for name, seconds in medians.items():
            if seconds / number > slowest[1]:
                slowest = (f"{name} at {number} frames", seconds / number)
        ratio = str(times["naive"] / times["first"]) if "naive" in times else ""
        further = str(times["further"] / times["first"])
        with_encoder = "" if peak is None else f"{peak:.2f}x"
        share = f"{times['first'].median / (tower * number):.3f}"
        rows.append(
            (number, times["first"], f"{size / MIB:.0f}", f"{alone:.2f}x", with_encoder, further, ratio, share)
        )
        total = sum(medians.values())
        step_rows.append((number, *(f"{seconds / total:.0%}" for seconds in medians.values())))
        results.append({"frames": number, "seconds": times["first"].rounds, "peak": alone, "steps": medians})
        del selector
    report.add_table(
        f"DPE and CCE alone (width {scale.width} to {scale.text_width})",
        ("frames", "seconds", "state MiB", "peak", "peak with question encoder", "further question : first")
        + ("naive : ours", "of the tower's time"),
        rows,
    )
    report.add_table("Where that time goes", ("frames", *results[0]["steps"]), step_rows)
    apart = [
        (name, f"{spread / costs['tower']}", f"{TOWER_SHARE * spread.median / tower:.2f}")
        for name, spread in costs.items()
    ]
    report.add_table("Each frame, against the tower's forward", ("step", "of the tower", "of a 20th of it"), apart)
    if len(frames) > 1:
        time_growth = growth_exponent(frames, [Spread(r["seconds"]).median for r in results])
        memory_growth = growth_exponent(frames, [r["peak"] * r["frames"] for r in results])
        growths = [
            (name, f"{growth_exponent(frames, [r['steps'][name] for r in results]):.2f}")
            for name in results[0]["steps"]
        ]
        rows = [("time", f"{time_growth:.2f}"), ("peak memory", f"{memory_growth:.2f}"), *growths]
        report.add_table("Growth with the number of frames: exponents", ("", "exponent"), rows)
    for row in results:
        if scale_name == "paper" and row["frames"] in RELEASED_SECONDS:
            number, median = row["frames"], Spread(row["seconds"]).median
            released = RELEASED_SECONDS[number]
            with_grouping = released / (median + number * costs["grouping"].median)
            report.add_goal(
                f"{number} frames: {released / median:.1f} times faster than the released code for a question, "
                f"{with_grouping:.1f} with the grouping of patches, done once (goal: {FASTER})",
                with_grouping >= FASTER,
            )
    last = results[-1]
    report.add_goal(
        f"{last['frames']} frames: peak {last['peak']:.2f} times the state (goal: {MEMORY})", last["peak"] <= MEMORY
    )
    report.add_goal(
        f"slowest step: {slowest[0]}, {TOWER_SHARE * slowest[1] / tower:.2f} of a 20th of the tower (goal: 1)",
        TOWER_SHARE * slowest[1] <= tower,
    )
    report.add_goal(
        f"question encoder: {TOWER_SHARE * asked / tower:.2f} of a 20th of the tower (goal: 1)",
        TOWER_SHARE * asked <= tower,
    )
    report.results = {"rows": results, "frame_costs": {name: spread.rounds for name, spread in costs.items()}}
    report.finish(json_file)
    return report


def main(
    frames: Annotated[str, typer.Option(help="Numbers of frames, with commas.")] = "32,128,512,1024",
    scale: Annotated[str, typer.Option(help=f"One of {', '.join(SCALES)}.")] = "paper",
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each; the median counts.")] = 5,
    naive_frames: Annotated[int, typer.Option(help="To compare with the naive implementation up to so many.")] = 128,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results there too.")] = None,
) -> None:
    """Time and memory of DPE and CCE alone."""
    if scale not in SCALES:
        raise typer.BadParameter(f"{scale!r} is not one of {', '.join(SCALES)}.", param_hint="--scale")
    run(scale, [int(number) for number in frames.split(",")], rounds, naive_frames, json_file)


if __name__ == "__main__":
    typer.run(main)
