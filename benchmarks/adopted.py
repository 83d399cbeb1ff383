"""
A stock video language model with all frames, and with the frames that DynFocus chooses, beside each other.

    python benchmarks/adopted.py                                    # ratios, on a CPU
    python benchmarks/adopted.py --device cuda --size 7b --training

`stock_models.py` has the models: published sizes, and reduced ones with nearly the same proportions. Both ways start
from decoded frames and a question, and end with the first token: the stock processor and `generate(max_new_tokens=1)`
for *dense*; `encode_video` and `answer` of [`FocusedModel`] for *focused*; `answer` alone from a *state*. Then a file
is asked about again and again, and videos of different lengths are looked at.

On a CPU, times are seconds of the processor, which other work on the machine changes less.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from made_videos import FOLDER, make_video
from measuring import (
    GIB,
    MIB,
    HostMemory,
    Report,
    Spread,
    give_back_memory,
    in_child,
    in_turn,
    is_out_of_memory,
    peak_tensor_bytes,
    work_clock,
)
from stock_models import ONEVISION, QWEN2, QWEN3, REDUCED, SIZES, Operations, Sizes, Work, build, build_dual_encoder
from training_throughput import Training
from transformers import BatchFeature

from dynfocus.adoption.focus_processor import FocusProcessor
from dynfocus.adoption.focused_model import FocusedModel
from dynfocus.adoption.looking import look, open_frames
from dynfocus.adoption.video_frames import VideoFrames
from dynfocus.processing.token_plan import FramePlan
from dynfocus.towers.dual_encoder import DualEncoder

QUESTION = "What does the man draw on the second board when the red light is on?"
ANSWER = "a graph of three lines"
#: Frames of a dense video at which the budget is this part of its tokens.
BUDGET_FRAMES, BUDGET = 128, 0.17
#: Small pictures for each key frame: as many as the budget has room for. Panels are too dear for it.
COARSE = {QWEN2: 5, QWEN3: 1, ONEVISION: 0}
FAR_FRAMES, CONTEXT = 512, 32768
GOALS = {BUDGET_FRAMES: 4.0, FAR_FRAMES: 12.0}
GOAL_STATE, GOAL_MEMORY, GOAL_FURTHER = 6.0, 0.25, 0.15
GOAL_FLAT, GOAL_FLAT_BYTES = 1.1, 6 * 10**6
#: Further questions about a file in each round.
NUM_FURTHER = 4
#: Of the file that is asked about; it repeats a part of so many seconds.
FILE_SECONDS, PART_SECONDS = 128, 32
#: The files that are looked at have pictures of 320 x 180.
SHRINK = 4


def focus_processor(
    sizes: Sizes, processor: Any, config: Any, dual_encoder: DualEncoder | None = None
) -> FocusProcessor:
    """8 key pairs or 16 key frames in full, and as many small pictures, for each the same number, as fit beside."""
    return FocusProcessor(
        processor,
        config=config,
        dual_encoder=dual_encoder,
        num_key_frames=16 // sizes.pair,
        tokens_per_key_frame=sizes.frame_tokens,
        tokens_per_coarse_frame=max(1, sizes.frame_tokens // 16),
        coarse="low" if COARSE[sizes.layout] else "none",
        coarse_per_key_frame=COARSE[sizes.layout],
        max_visual_tokens=int(BUDGET * dense_tokens(sizes, processor, BUDGET_FRAMES)),
    )


def dense_inputs(sizes: Sizes, processor: Any, frames: np.ndarray, answer: str | None = None) -> BatchFeature:
    """What the stock processor makes of all frames, one a second."""
    text = _text(processor, with_video=True) + (answer or "")
    times = {"fps": 1.0, "total_num_frames": len(frames), "frames_indices": list(range(len(frames)))}
    timed = {"video_metadata": [times]} if sizes.layout == QWEN3 else {}
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    return processor(text=[text], videos=[pixels], do_sample_frames=False, return_tensors="pt", **timed)


def dense_tokens(sizes: Sizes, processor: Any, num_frames: int) -> int:
    """Tokens of a video in full in the prompt of the stock processor, time words and marks included."""
    words = processor.tokenizer(_text(processor, with_video=False), add_special_tokens=False)["input_ids"]
    # Small frames, for what they cost beside their pictures.
    if sizes.layout == ONEVISION:
        return num_frames * sizes.frame_tokens + 1
    side = sizes.side // sizes.grid * 2
    small = dense_inputs(sizes, processor, np.zeros((num_frames, side, side, 3), dtype=np.uint8))
    return small["input_ids"].shape[1] - len(words) + num_frames // sizes.pair * (sizes.frame_tokens - 1)


def _text(processor: Any, with_video: bool) -> str:
    content = [{"type": "video"}] * with_video + [{"type": "text", "text": QUESTION}]
    chat = [{"role": "user", "content": content}]
    return processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


class Contest:
    """One model and one video, ready for both ways."""

    def __init__(self, sizes: Sizes, device: str = "cpu"):
        self.sizes, self.device = sizes, device
        self.model, self.processor = build(sizes, device)
        encoder = build_dual_encoder(sizes, device)
        self.focused = FocusedModel(self.model, focus_processor(sizes, self.processor, self.model.config, encoder))

    def frames(self, num_frames: int) -> np.ndarray:
        """Scenes of 16 frames that drift, `(T, side, side, 3)` uint8."""
        random, side = np.random.default_rng(num_frames), self.sizes.side
        scenes = random.integers(0, 256, (num_frames // 16 + 1, side + 16, side + 16, 3), dtype=np.uint8)
        return np.stack([scenes[n // 16, n % 16 : n % 16 + side, :side] for n in range(num_frames)])

    def moved(self, inputs: Any) -> dict[str, Any]:
        """Inputs on the model's device, pixels in its precision."""
        cast = {name: value.to(self.device) for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        return {n: v.to(self.sizes.dtype) if v.is_floating_point() else v for n, v in cast.items()}

    def dense(self, frames: np.ndarray) -> Any:
        """All frames, to the first token."""
        inputs = self.moved(dense_inputs(self.sizes, self.processor, frames))
        with torch.inference_mode():
            return self.model.generate(**inputs, max_new_tokens=1, do_sample=False)

    def look(self, frames: np.ndarray) -> Any:
        """The state of the frames."""
        return self.focused.encode_video(frames, fps=1.0)

    def answer(self, state: Any) -> Any:
        """Chosen frames, to the first token."""
        return self.focused.answer([(state, QUESTION)], max_new_tokens=1, do_sample=False)

    def whole(self, frames: np.ndarray) -> Any:
        """Looking, choosing and the first token."""
        return self.answer(self.look(frames))


def compare(contest: Contest, num_frames: int, rounds: int) -> dict[str, Any]:
    """Times, tokens and memory of both ways at one number of frames."""
    frames, device = contest.frames(num_frames), contest.device
    state = contest.look(frames)
    (answer,) = contest.answer(state)
    words = contest.processor.tokenizer(_text(contest.processor, False), add_special_tokens=False)["input_ids"]
    tokens = dense_tokens(contest.sizes, contest.processor, num_frames)
    found: dict[str, Any] = {
        "tokens": answer.num_visual_tokens,
        "dense_tokens": tokens,
        "positions": answer.num_visual_tokens + len(words) + 1,
        "dense_positions": tokens + len(words) + 1,
        "num_key": len(answer.key_frames),
    }
    contenders: dict[str, Any] = {
        "focused": partial(contest.whole, frames),
        "state": partial(contest.answer, state),
        "looking": partial(contest.look, frames),
        "choosing": partial(contest.focused.choose, state, QUESTION),
    }
    peak = peak_tensor_bytes(contenders["focused"], device)
    try:
        sequences: list[torch.Tensor] = []
        most = peak_tensor_bytes(lambda: sequences.append(contest.dense(frames)), device)
        found["peaks"] = [most, peak]
        assert sequences[0].shape[1] == found["dense_positions"], "dense frames did not keep their size"
        contenders["dense"] = partial(contest.dense, frames)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    give_back_memory()
    found["seconds"] = in_turn(contenders, rounds, warm_up=0, device=device, now=work_clock)
    return found


def further_questions(contest: Contest, path: Path, rounds: int) -> dict[str, dict[str, Spread]]:
    """
    Seconds of a first question about a file, which is looked at, and the mean of further ones about its state; with
    states that know their file, and with states that keep its frames.
    """
    found = {}
    for name in ("frames read again", "frames kept"):
        contest.focused.keep_frames = name == "frames kept"
        times: dict[str, list[float]] = {"first": [], "further": [], "looking": []}
        for number in range(rounds):
            marks = [work_clock(contest.device)]
            state = contest.focused.encode_video(path, fps=1.0)
            marks.append(work_clock(contest.device))
            for question in range(1 + NUM_FURTHER):
                # Every question has key frames of its own, with which a cache of frames helps least.
                rule = AtRandom(number * (1 + NUM_FURTHER) + question)
                contest.focused.answer([(state, QUESTION)], rule=rule, max_new_tokens=1, do_sample=False)
                marks.append(work_clock(contest.device))
            times["looking"].append(marks[1] - marks[0])
            times["first"].append(marks[2] - marks[0])
            times["further"].append((marks[-1] - marks[2]) / NUM_FURTHER)
        found[name] = {part: Spread(tuple(seconds)) for part, seconds in times.items()}
    contest.focused.keep_frames = False
    return found


class AtRandom:
    """A rule that takes frames at random."""

    def __init__(self, seed: int):
        self.seed = seed

    def __call__(self, relevance: torch.Tensor, num_key: int, **_: Any) -> torch.Tensor:
        order = torch.randperm(len(relevance), generator=torch.Generator().manual_seed(self.seed))
        return order[:num_key].sort().values


def memory_of_looking(path: Path, warm_up: Path) -> dict[str, Any]:
    """Resident memory while a file is looked at once a second."""
    encoder = build_dual_encoder(SIZES[REDUCED][0])
    look(open_frames(warm_up, encoder, fps=1.0), encoder)
    with HostMemory() as memory:
        state = look(open_frames(path, encoder, fps=1.0), encoder)
    return {"frames": state.frame_mask.shape[1], "before": memory.before, "peak": memory.peak}


class Counted:
    """Prompt and operations to the first token of both ways, from a model's sizes alone."""

    def __init__(self, operations: Operations, num_frames: int):
        self.operations, self.sizes, self.num_frames = operations, operations.sizes, num_frames
        self.processor = self.operations.processor
        self.words = len(self.processor.tokenizer(_text(self.processor, False))["input_ids"])

    @cached_property
    def plan(self) -> FramePlan:
        """Of the focused way."""
        focus = focus_processor(self.sizes, self.processor, self.operations.config)
        blank = np.broadcast_to(np.uint8(0), (self.num_frames, self.sizes.side, self.sizes.side, 3))
        return focus.plan(VideoFrames.decoded(blank, np.arange(self.num_frames)), range(self.num_frames))

    @property
    def positions(self) -> tuple[int, int]:
        """Of a dense prompt and of a focused one."""
        dense = dense_tokens(self.sizes, self.processor, self.num_frames)
        return dense + self.words, self.plan.num_visual_tokens + self.words

    def parts(self) -> tuple[dict[str, float], dict[str, float]]:
        """Operations of both."""
        sizes, (dense, focused) = self.sizes, self.positions
        patches = sizes.grid**2
        pictures = [patches] * self.plan.num_key_frames
        pictures += [patches if sizes.layout == ONEVISION else patches // 16] * self.plan.num_coarse
        every = Work([patches] * (self.num_frames // sizes.pair), dense)
        return self.operations(every), self.operations(Work(pictures, focused, self.num_frames, texts=2))


def counted_sizes() -> list[Sizes]:
    """The reduced models, the published ones, and Qwen3-VL with pairs of 256 tokens as well."""
    published = [*SIZES["4b"], *SIZES["7b"]]
    return [*SIZES[REDUCED], *published, *(replace(one, side=512) for one in published if one.layout == QWEN3)]


def counted_rows(frames: Sequence[int], sizes: Sequence[Sizes]) -> list[list[Any]]:
    """A row for each model and number of frames."""
    rows = []
    for one in sizes:
        operations = Operations(one)
        for number in frames:
            counted = Counted(operations, number)
            dense, focused = counted.parts()
            most, less = sum(dense.values()), sum(focused.values())
            looking, shares = (
                focused["dual encoder"],
                [dense[part] / most for part in ("vision tower", "language model")],
            )
            rows.append(
                [
                    one.name,
                    one.frame_tokens,
                    number,
                    *(f"{positions:,}" for positions in counted.positions),
                    f"{most / 1e12:.4g}",
                    f"{most / less:.1f}x",
                    f"{most / (less - looking):.1f}x",
                    f"{looking / less:.0%}",
                    " : ".join([f"{looking / most:.1%}", *(f"{share:.0%}" for share in shares)]),
                ]
            )
    return rows


def training_steps(contest: Contest, num_frames: int, rounds: int) -> dict[str, Any]:
    """Seconds of a LoRA step (rank 16, batch 1) on all frames and on chosen ones, and memory held and at peak."""
    from peft import LoraConfig, get_peft_model

    frames = contest.frames(num_frames)
    inputs = dense_inputs(contest.sizes, contest.processor, frames, ANSWER)
    answered = len(contest.processor.tokenizer(ANSWER, add_special_tokens=False)["input_ids"])
    ids = inputs["input_ids"]
    inputs["labels"] = torch.cat([torch.full_like(ids[:, :-answered], -100), ids[:, -answered:]], dim=1)
    focus, state = contest.focused.focus_processor, contest.look(frames)
    chosen = focus.choose_for(state, QUESTION).frames
    chat = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    given = {"dense": inputs, "focused": focus.show(chat, [chosen], labels=True).inputs}
    layers = LoraConfig(r=16, target_modules=r".*language_model.*_proj")
    model: Any = get_peft_model(contest.model, layers)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    model.train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-6)
    found: dict[str, Any] = {"memory": {}, "seconds": {}}
    steps = {name: Training(model, contest.moved(one), optimizer) for name, one in given.items()}
    for name, one in list(steps.items()):
        try:
            one.step()
            found["memory"][name] = one.memory()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            optimizer.zero_grad()
            del steps[name]
    found["seconds"] = in_turn({n: s.step for n, s in steps.items()}, rounds, 0, contest.device, work_clock)
    contest.model = model.unload()
    contest.model.eval()
    return found


def add_results(report: Report, results: dict[str, dict[int, dict[str, Any]]], absolute: bool) -> None:
    """Ratios of dense to focused, where the time goes, and the goals."""
    rows, parts = [], []
    for layout, by_frames in results.items():
        for number, one in by_frames.items():
            seconds = one["seconds"]
            share = one["tokens"] / one["dense_tokens"]
            tokens = [f"{one['dense_tokens']:,}", f"{one['tokens']:,}", f"{share:.1%}"]
            whole, state = seconds["focused"], seconds["state"]
            parts.append([layout, number, seconds["looking"] / whole, seconds["choosing"] / whole, state / whole])
            if "dense" not in seconds:
                rows.append([layout, number, *tokens, "out of memory", *[""] * (2 + 3 * absolute)])
                continue
            dense, (most, least) = seconds["dense"], one["peaks"]
            rows.append([layout, number, *tokens, dense / whole, dense / state, f"{least / most:.3f}"])
            if absolute:
                rows[-1] += [f"{1000 * dense.median:.0f} : {1000 * whole.median:.0f}", f"{1000 * state.median:.0f}"]
                rows[-1] += [f"{most / GIB:.2f} : {least / GIB:.2f}"]
            add_goals(report, layout, number, one, share)
    headings = [
        "model",
        "frames",
        "visual tokens, dense",
        "focused",
        "share",
        "dense / focused",
        "dense / from a state",
    ]
    headings += ["peak above weights, focused / dense"]
    headings += ["ms, dense : focused", "ms from a state", "GiB above weights"] if absolute else []
    report.add_table("From decoded frames and a question to the first token", headings, rows)
    headings = ["model", "frames", "looking", "choosing", "from a state, choosing included"]
    report.add_table("Shares of the focused time", headings, parts)


def add_goals(report: Report, layout: str, number: int, one: dict[str, Any], share: float) -> None:
    """Of one row."""
    if number not in GOALS:
        return
    seconds, at = one["seconds"], f"{layout}, {number} frames"
    speed = (seconds["dense"] / seconds["focused"]).median
    goal = GOALS[number]
    report.add_goal(f"{at}: {speed:.1f} times as fast, looking included (goal: at least {goal:g})", speed >= goal)
    if number == FAR_FRAMES:
        positions = one["positions"]
        sentence = f"{at}: answers within {positions:,} positions (goal: at most {CONTEXT:,})"
        report.add_goal(f"{sentence}; dense has {one['dense_positions']:,}", positions <= CONTEXT)
        return
    speed = (seconds["dense"] / seconds["state"]).median
    memory = one["peaks"][1] / one["peaks"][0]
    report.add_goal(
        f"{at}: {speed:.1f} times as fast from a state (goal: at least {GOAL_STATE:g})", speed >= GOAL_STATE
    )
    report.add_goal(f"{at}: {share:.1%} of the visual tokens (goal: at most {BUDGET:.0%})", share <= BUDGET)
    report.add_goal(
        f"{at}: {memory:.3f} of the peak memory above weights (goal: at most {GOAL_MEMORY:g})", memory <= GOAL_MEMORY
    )


def add_questions(report: Report, found: dict[str, dict[str, dict[str, Spread]]], file_seconds: int) -> None:
    """Further questions about a file."""
    rows = []
    for layout, by_state in found.items():
        for name, times in by_state.items():
            ratio, looking = times["further"] / times["first"], times["looking"] / times["first"]
            rows.append([layout, name, ratio, looking])
            goal = f"(goal: at most {GOAL_FURTHER:g})"
            sentence = (
                f"{layout}, {file_seconds} s, {name}: a further question takes {ratio.median:.3f} of the first {goal}"
            )
            report.add_goal(sentence, ratio.median <= GOAL_FURTHER)
    headings = ["model", "state", "a further question / the first", "looking / the first"]
    report.add_table(f"Questions about a 720p file of {file_seconds} s", headings, rows)


def add_memory(report: Report, found: dict[float, dict[str, Any]]) -> None:
    """Memory of looking."""
    rows = [
        [f"{minutes:g} min", f"{one['frames']:,}", *(f"{one[name] / MIB:.0f}" for name in ("before", "peak"))]
        for minutes, one in found.items()
    ]
    headings = ["video", "frames", "memory before, MiB", "peak, MiB"]
    report.add_table("Resident memory while a dual encoder looks at a file, one frame a second", headings, rows)
    least, most = found[min(found)]["peak"], found[max(found)]["peak"]
    bound = GOAL_FLAT * least + GOAL_FLAT_BYTES
    report.add_goal(
        f"peak of {most / MIB:.0f} MiB at {max(found):g} min beside {least / MIB:.0f} MiB at {min(found):g} min "
        f"(goal: at most 10 % and 6 MB more, {bound / MIB:.0f} MiB)",
        most <= bound,
    )


def add_training(report: Report, found: dict[str, dict[str, Any]], num_frames: int, absolute: bool) -> None:
    """Steps of training."""
    rows = []
    for layout, one in found.items():
        seconds, memory = one["seconds"], one["memory"]
        if "dense" not in seconds:
            speed = f"{1 / seconds['focused'].median:.3g}" if "focused" in seconds else ""
            rows.append([layout, "out of memory", "", "", *([speed, ""] if absolute else [])])
            continue
        held, peak = (memory["focused"][i] / memory["dense"][i] for i in range(2))
        rows.append([layout, seconds["dense"] / seconds["focused"], f"{held:.3f}", f"{peak:.3f}"])
        if absolute:
            names = ("dense", "focused")
            rows[-1].append(" : ".join(f"{1 / seconds[name].median:.3g}" for name in names))
            rows[-1].append(" : ".join(f"{memory[name][1] / GIB:.2f}" for name in names))
    headings = ["model", "samples a second, focused / dense", "memory held, focused / dense", "peak, focused / dense"]
    headings += ["samples/s, dense : focused", "GiB at peak"] if absolute else []
    report.add_table(f"A LoRA step at {num_frames} frames, batch 1, gradient checkpointing", headings, rows)


def run(
    frames: list[int],
    size: str = REDUCED,
    layouts: Sequence[str] = (),
    device: str = "cpu",
    rounds: int = 5,
    file_seconds: int = FILE_SECONDS,
    minutes: Sequence[float] = (10, 60),
    training: bool = False,
    folder: Path = FOLDER,
    json_file: Path | None = None,
) -> Report:
    """Measures each model of a size at each number of frames; prints and writes."""
    settings = {"size": size, "layouts": list(layouts), "frames": frames, "device": device, "rounds": rounds}
    report = Report("adopted", settings, device)
    absolute = device != "cpu"
    results: dict[str, dict[int, dict[str, Any]]] = {}
    asked, trained = {}, {}
    chosen = [one for one in SIZES[size] if not layouts or one.layout in layouts]
    for sizes in chosen:
        contest = Contest(sizes, device)
        contest.whole(contest.frames(2 * sizes.pair))
        contest.dense(contest.frames(2 * sizes.pair))
        results[sizes.name] = {number: compare(contest, number, rounds) for number in frames}
        if file_seconds:
            path, _ = make_video(folder, file_seconds, min(PART_SECONDS, file_seconds))
            asked[sizes.name] = further_questions(contest, path, rounds)
        if training:
            trained[sizes.name] = training_steps(contest, min(frames), rounds)
        del contest
        give_back_memory()
    if frames:
        add_results(report, results, absolute)
    if asked:
        add_questions(report, asked, file_seconds)
    if trained:
        add_training(report, trained, min(frames), absolute)
    if minutes:
        looked = {}
        for length in minutes:
            warm_up, _ = make_video(folder, 2, shrink=SHRINK)
            path, _ = make_video(folder, round(60 * length), shrink=SHRINK)
            looked[length] = in_child(memory_of_looking, path, warm_up)
        add_memory(report, looked)
    if frames:
        report.add_table(
            "Counted operations to the first token",
            [
                "model",
                "tokens of a frame or pair",
                "frames",
                "positions, dense",
                "focused",
                "dense, 10^12",
                "dense / focused",
                "dense / from a state",
                "looking, of focused",
                "dual encoder : tower : language model, of dense",
            ],
            counted_rows(frames, counted_sizes()),
        )
    report.results = {layout: {str(n): as_json(one) for n, one in rows.items()} for layout, rows in results.items()}
    report.finish(json_file)
    return report


def as_json(one: dict[str, Any]) -> dict[str, Any]:
    """With ratios of the rounds instead of seconds."""
    seconds = one["seconds"]
    ratios = {name: (spread / seconds["focused"]).rounds for name, spread in seconds.items()}
    return {**{name: value for name, value in one.items() if name != "seconds"}, "of_focused": ratios}


def main(
    frames: Annotated[
        str, typer.Option(help="Numbers of frames, with commas; none for questions about a file alone.")
    ] = "128,512",
    size: Annotated[str, typer.Option(help=f"One of {', '.join(SIZES)}.")] = REDUCED,
    layouts: Annotated[str, typer.Option(help="Families, with commas; by default all of the size.")] = "",
    device: str = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each; the median counts.")] = 5,
    file_seconds: Annotated[
        int, typer.Option(help="Length of the file that is asked about; 0 for none.")
    ] = FILE_SECONDS,
    minutes: Annotated[str, typer.Option(help="Lengths of the files that are looked at, with commas.")] = "10,60",
    training: Annotated[bool, typer.Option(help="Measure steps of training, too; needs peft.")] = False,
    folder: Annotated[Path, typer.Option(help="Where the files are kept.")] = FOLDER,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results there too.")] = None,
) -> None:
    """Compare stock models with all frames and with chosen ones."""
    if size not in SIZES:
        raise typer.BadParameter(f"{size!r} is not one of {', '.join(SIZES)}.", param_hint="--size")
    names = [name for name in layouts.split(",") if name]
    lengths = [float(text) for text in minutes.split(",") if text]
    numbers = [int(number) for number in frames.split(",") if number]
    if training and not numbers:
        raise typer.BadParameter("Training needs a number of frames.", param_hint="--frames")
    run(numbers, size, names, device, rounds, file_seconds, lengths, training, folder, json_file)


if __name__ == "__main__":
    typer.run(main)
