"""Second stage: chats about whole videos, several clips of them, slow ones and small ones, with answers to learn."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import stock
import torch
from recipe.answers import AnswerTraining, muon_and_adamw, set_learning_rates
from recipe.attention import SHOWN
from recipe.chats import padded
from recipe.data import draw_questions, kind_shares, needs_cones
from recipe.guidance import GUIDED_LAYERS
from recipe.progress import load_progress, save_progress, take_step
from recipe.reading import DETAIL_WEIGHTS
from showing import Entry, Prompts, SeenVideos, spread
from torch import Tensor
from torch.nn import functional as F

from dynfocus.eval.synthetic.questions import Question
from dynfocus.eval.synthetic.world import Episode

#: Weight of the loss on the attention of one head of two layers, as in the training of the shared model.
GUIDANCE = 0.5
TURNS = 10
#: Forms in which a number can be read.
FINE = ("64", "48")
_KINDS = [kind_shares(DETAIL_WEIGHTS)] * TURNS
_END = f"{stock.END}\n"


@dataclass(frozen=True)
class Lesson:
    """
    A kind of prompt: `share` of the steps, with `rows` videos of `num_frames` seconds each.

    draw: returns the entries of a prompt.
    """

    name: str
    share: float
    num_frames: int
    rows: int
    draw: Callable[[np.random.Generator, int], list[Entry]]


def whole(*forms: str) -> Callable[[np.random.Generator, int], list[Entry]]:
    """All frames, in one of the sizes."""

    def draw(rng: np.random.Generator, num_frames: int) -> list[Entry]:
        form = forms[int(rng.integers(len(forms)))]
        return [Entry(place, form) for place in range(num_frames // 4 if form == "panels" else num_frames)]

    return draw


def slow(*forms: str) -> Callable[[np.random.Generator, int], list[Entry]]:
    """One frame in two to eight seconds, in one of the sizes."""

    def draw(rng: np.random.Generator, num_frames: int) -> list[Entry]:
        step, form = int(rng.integers(2, 9)), forms[int(rng.integers(len(forms)))]
        return [Entry(place, form) for place in range(int(rng.integers(step)), num_frames, step)]

    return draw


def clips(*forms: str) -> Callable[[np.random.Generator, int], list[Entry]]:
    """Up to ten clips of one to three seconds, each with a size of its own, as in chats with several videos."""

    def draw(rng: np.random.Generator, num_frames: int) -> list[Entry]:
        found: dict[int, Entry] = {}
        for start in rng.integers(0, num_frames, int(rng.integers(3, 11))):
            form = forms[int(rng.integers(len(forms)))]
            for place in range(int(start), min(int(start + rng.integers(1, 4)), num_frames)):
                if form == "panels":
                    found[place // 4 * 4] = Entry(place // 4, form)
                else:
                    found.setdefault(place, Entry(place, form))
        taken = {4 * e.place + i for e in found.values() if e.form == "panels" for i in range(4)}
        kept = [e for e in found.values() if e.form == "panels" or e.place not in taken]
        return sorted(kept, key=lambda entry: entry.frames[0])

    return draw


LESSONS: Mapping[str, tuple[Lesson, ...]] = {
    "qwen3_vl": (
        Lesson("whole", 0.35, 32, 6, whole("64")),
        Lesson("whole long", 0.2, 128, 2, whole("64", "64", "32")),
        Lesson("small", 0.15, 32, 12, whole("48", "32", "16")),
        Lesson("slow", 0.15, 128, 6, slow("64", "64", "48", "32")),
        Lesson("clips", 0.15, 32, 8, clips("64", "48", "32", "16")),
    ),
    "llava_onevision": (
        Lesson("whole", 0.45, 32, 8, whole("64")),
        Lesson("whole long", 0.25, 128, 3, whole("64")),
        Lesson("small", 0.1, 32, 12, whole("panels")),
        Lesson("slow", 0.1, 128, 6, slow("64")),
        Lesson("clips", 0.1, 32, 8, clips("64", "64", "panels")),
    ),
}


def shown_questions(episode: Episode, entries: list[Entry], rng: np.random.Generator) -> list[Question]:
    """Questions that the entries answer."""
    fine = {second for entry in entries if entry.form in FINE for second in entry.frames}
    every = {second for entry in entries for second in entry.frames}
    seen = [set(event.frames) & every for event in episode.events]
    read = [set(event.frames) & fine for event in episode.events]
    complete = all(seen)

    def is_shown(question: Question) -> bool:
        events = question.event_ids
        if question.kind in ("count", "order", "locating", "first_last", "story") or not events:
            if not complete:
                return False
        if question.kind == "motion" and any(len(seen[event]) < 2 for event in events):
            return False
        return all((read if needs_cones(question) else seen)[event] for event in events)

    return [question for question in draw_questions(episode, rng, _KINDS) if is_shown(question)]


@dataclass
class Batch:
    """Tokens of B chats and what is learned on them, `(B, L)` each; `frames`, the frame of a token, -1 for text."""

    ids: Tensor
    mask: Tensor
    labels: Tensor
    turns: Tensor
    frames: Tensor
    prompts: Prompts
    videos: list[int]
    entries: list[list[Entry]]
    questions: list[list[Question]]


def draw_batch(writer: Any, seen: SeenVideos, lesson: Lesson, rng: np.random.Generator) -> Batch:
    videos: list[int] = []
    rows: list[list[Entry]] = []
    asked: list[list[Question]] = []
    while len(videos) < lesson.rows:
        video = int(rng.integers(len(seen.episodes)))
        entries = lesson.draw(rng, lesson.num_frames)
        questions = shown_questions(seen.episodes[video], entries, rng) if entries else []
        if questions:
            videos.append(video)
            rows.append(entries)
            asked.append(questions)
    return write_batch(writer, seen, videos, rows, asked)


def write_batch(
    writer: Any, seen: SeenVideos, videos: list[int], rows: list[list[Entry]], asked: list[list[Question]]
) -> Batch:
    prompts = writer.write(rows)
    tokenizer = writer.tokenizer

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    ids, labels, turns, frames = [], [], [], []
    for start, seconds, questions in zip(prompts.ids, prompts.second_of_token, asked, strict=True):
        tokens, target, turn = list(start), [-100] * len(start), [-1] * len(start)
        for number, question in enumerate(questions):
            opening = "" if number == 0 else "\n<|im_start|>user\n"
            prompt = ids_of(f"{opening}{question.question}{_END}<|im_start|>assistant\n")
            answer = ids_of(f" {question.answer}{stock.END}")
            tokens += prompt + answer
            target += [-100] * len(prompt) + answer
            turn += [-1] * len(prompt) + [number] * len(answer)
        ids.append(tokens)
        labels.append(target)
        turns.append(turn)
        frames.append(seconds + [-1] * (len(tokens) - len(seconds)))
    padded_ids = padded(ids, tokenizer.pad_token_id, 32)
    lengths = torch.tensor([len(one) for one in ids])[:, None]
    mask = (torch.arange(padded_ids.shape[1]) < lengths).long()
    more = (padded(labels, -100, 32), padded(turns, -1, 32), padded(frames, -1, 32))
    return Batch(padded_ids, mask, *more, prompts, videos, rows, asked)


def hidden_states(model: Any, writer: Any, seen: SeenVideos, batch: Batch, rng: np.random.Generator | None) -> Any:
    """The language model's outputs for a batch; with `rng`, random gaps are left between positions."""
    visual = writer.visual(seen, batch.videos, batch.entries)
    embeddings = model.get_input_embeddings()(batch.ids)
    places = (batch.ids == writer.pad[0])[..., None].expand_as(embeddings)
    embeddings = embeddings.masked_scatter(places, visual.to(embeddings.dtype))
    positions = writer.positions(batch.ids, batch.mask, batch.entries)
    if rng is not None:
        positions = spread(rng, positions, batch.prompts, writer.longest_position)
    return model.model.language_model(
        inputs_embeds=embeddings,
        attention_mask=batch.mask,
        position_ids=positions if len(positions) == 3 else positions[0],
        output_attentions=True,
        use_cache=False,
    )


def guidance_loss(attentions: Any, batch: Batch) -> Tensor:
    """Minus the logarithm of the attention of answers to the frames on which they depend."""
    longest = int(batch.frames.max()) + 1
    rows, places = (batch.turns[:, 1:] >= 0).nonzero(as_tuple=True)
    wanted_of_turn = torch.zeros(len(batch.questions), max(map(len, batch.questions)), longest)
    for row, questions in enumerate(batch.questions):
        for number, question in enumerate(questions):
            if question.kind not in ("count", "story"):
                wanted_of_turn[row, number, [frame for frame in question.frames if frame < longest]] = 1
    wanted = wanted_of_turn[rows, batch.turns[:, 1:][rows, places]]
    wanted = wanted.gather(1, batch.frames[rows].clamp(min=0)) * (batch.frames[rows] >= 0)
    told = wanted.any(1)
    if not told.any():
        return 0 * attentions[GUIDED_LAYERS[0]].sum()
    rows, places, wanted = rows[told], places[told], wanted[told]
    losses = []
    for layer in GUIDED_LAYERS:
        paid = attentions[layer][:, 0][rows, places]
        losses.append(-((paid.float() * wanted).sum(-1) + 1e-4).log().mean())
    return torch.stack(losses).sum()


def answer_losses(
    model: Any, writer: Any, seen: SeenVideos, lesson: Lesson, rng: np.random.Generator
) -> tuple[dict[str, Tensor], dict[str, list[bool]]]:
    batch = draw_batch(writer, seen, lesson, rng)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = hidden_states(model, writer, seen, batch, rng)
        wanted = batch.labels[:, 1:]
        told = wanted != -100
        logits = model.lm_head(outputs.last_hidden_state[:, :-1][told]).float()
    answers = F.cross_entropy(logits, wanted[told])
    ok = torch.ones_like(wanted, dtype=torch.bool)
    ok[told] = logits.argmax(-1) == wanted[told]
    right = defaultdict(list)
    for row, questions in enumerate(batch.questions):
        for number, question in enumerate(questions):
            right[question.kind].append(bool(ok[row][batch.turns[row, 1:] == number].all()))
    return {"answer": answers, "guidance": GUIDANCE * guidance_loss(outputs.attentions, batch)}, right


def build_optimizers(model: Any, settings: AnswerTraining) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the language model's layers, AdamW for all others that are trained."""
    matrices = [value for value in model.model.language_model.layers.parameters() if value.dim() == 2]
    taken = {id(value) for value in matrices}
    others = [value for value in model.parameters() if value.requires_grad and id(value) not in taken]
    return muon_and_adamw(matrices, [{"params": others}], settings)


def train_answers(
    model: Any,
    writer: Any,
    seen: Mapping[int, SeenVideos],
    out: Path,
    *,
    steps: int,
    rates: tuple[float, float],
    log: Callable[[str], None],
) -> None:
    """Train all but the tower's layers in place; a checkpoint in `out` is continued, or taken if it is finished."""
    partial = out / "answers.partial"
    lessons = LESSONS[writer.kind]
    shares = np.array([lesson.share for lesson in lessons])
    tower = model.model.visual if writer.kind == "qwen3_vl" else model.model.vision_tower
    tower.requires_grad_(False)
    if writer.kind == "qwen3_vl":
        tower.merger.requires_grad_(True)
    parameters = [value for value in model.parameters() if value.requires_grad]
    settings = AnswerTraining(*rates, weight_decay=0.02, warm_up=max(1, min(50, steps // 10)))
    optimizers = build_optimizers(model, settings)
    step = load_progress(partial, model, optimizers, "cpu")
    model.model.language_model.set_attn_implementation(SHOWN)
    started, window = time.monotonic(), defaultdict(list)
    model.train()
    while step < steps:
        rng = np.random.default_rng((11, step))
        set_learning_rates(optimizers, settings, step, steps)
        lesson = lessons[int(rng.choice(len(lessons), p=shares / shares.sum()))]
        losses, right = answer_losses(model, writer, seen[lesson.num_frames], lesson, rng)
        take_step(losses.values(), parameters, optimizers)
        step += 1
        for name, loss in losses.items():
            window[f"{name} {lesson.name}"].append(loss.item())
        for kind, hits in right.items():
            window[f"{lesson.name}: {kind}"].extend(hits)
        if step % 50 == 0 or step == steps:
            shown = " ".join(f"{name} {np.mean(values):.2f}" for name, values in sorted(window.items()))
            log(f"{writer.kind} answers step {step}/{steps} {shown} ({time.monotonic() - started:.0f} s)")
            window.clear()
        if step % 100 == 0 or step == steps:
            save_progress(partial, model, optimizers, step)
    model.model.language_model.set_attn_implementation("sdpa")
    model.eval()
