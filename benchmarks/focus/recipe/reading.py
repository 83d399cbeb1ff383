"""
Stage 3 of the tiny recipe: the language model learns to read, before it sees.

Language models of vision-language models are trained on text, and can find in their input what a question names. This
one starts from random weights. In this stage it reads videos with ideal tokens, sums of the directions that rods and
cones learn afterwards in the alignment, and learns questions and answers. The attention of one head in two layers is
supervised (`guidance.py`). The stage needs no tower, and few tokens.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from dynfocus.eval.synthetic.questions import Question
from dynfocus.eval.synthetic.world import Episode, sample_episode
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.processing import DynFocusProcessor

from .answers import AnswerTraining, build_optimizers, set_learning_rates
from .attention import SHOWN
from .chats import Chats, ChatWriter
from .data import answerable, draw_questions, kind_shares, stacked_labels
from .guidance import guidance_loss
from .naming import COARSE, NAMES, PLACE_SCALE, Naming
from .positions import spread_positions
from .progress import load_progress, part_at, save_progress, take_step

#: Ideal cones of a key frame: one for each digit, more that show the object, the rest ground.
CONES, OBJECT_CONES = 8, 5
#: Length of the noise on each token, in lengths of a direction.
NOISE = 0.3
#: Weight of the questions' words beside the answers.
QUESTION_WEIGHT = 0.3

#: How often each kind is asked, in every turn.
DETAIL_WEIGHTS = {
    "color": 1.0,
    "shape": 1.0,
    "number": 3.0,
    "order": 1.5,
    "first_last": 1.5,
    "motion": 2.0,
    "count": 1.0,
    "existence": 1.0,
    "locating": 1.0,
    "story": 0.3,
}


@dataclass(frozen=True)
class Reader:
    """
    A part of the stage: `share` of its steps on videos of `num_frames` with so many events and key frames.

    guidance: weight of the loss on the attention.
    """

    share: float
    num_frames: int
    num_events: tuple[int, int] | None
    key_frames: tuple[int, ...]
    batch_size: int
    turns: int
    guidance: float = 1.0
    longest_position: int = 0


#: One object at first, then one among two, and so on; with many from the start, the model would only guess.
READERS = (
    Reader(0.15, 8, (1, 1), (1, 2), 48, 6, guidance=0.0),
    Reader(0.15, 8, (2, 2), (1, 2, 4), 48, 8),
    Reader(0.10, 12, (2, 4), (2, 4, 6), 40, 10),
    Reader(0.15, 20, (3, 6), (2, 4, 8), 32, 14),
    Reader(0.45, 32, None, (2, 4, 8, 16), 20, 16, longest_position=5400),
)


#: Afterwards, with a new warm-up and on longer videos, too: more of what takes longest to learn, before and after.
LONG_READERS = (
    Reader(0.6, 32, None, (2, 4, 8, 16), 20, 16, longest_position=5400),
    Reader(0.4, 128, None, (4, 8, 16), 10, 16, longest_position=5400),
)


def told_tokens(
    naming: Naming, episodes: list[Episode], key_frames: np.ndarray, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Ideal rods and cones of videos, in their order: `(V, n, H)`, and the frame of each token, `(V, n)`.

    key_frames: `(V, K)`, sorted.
    """
    labels = stacked_labels(episodes)
    keys, num_frames = torch.from_numpy(key_frames), episodes[0].num_frames

    def said(name: str, label: torch.Tensor) -> torch.Tensor:
        return naming.codes[name].detach()[label.clamp(min=0)] * (label >= 0)[..., None]

    norm = naming.present.detach().norm()
    place = PLACE_SCALE * (torch.stack([labels["x"], labels["y"]], -1) - 0.5) @ (naming.place.detach() * norm**2)
    shown = sum((said(name, labels[name]) for name in COARSE), torch.zeros(()))
    shown = shown + labels["present"][..., None] * (naming.present.detach() + place)
    width = shown.shape[-1]
    rods = torch.stack([torch.zeros_like(shown), shown], 2)
    of_keys = shown.gather(1, keys[..., None].expand(-1, -1, width))
    digits = [said(name, labels[name].gather(1, keys)) for name in NAMES if name not in COARSE]
    cones = of_keys.new_zeros(*keys.shape, CONES, width)
    cones[:, :, :OBJECT_CONES] = of_keys[:, :, None]
    cones[:, :, : len(digits)] += torch.stack(digits, 2)
    places = torch.rand(cones.shape[:3], generator=generator).argsort(-1)
    cones = cones.gather(2, places[..., None].expand_as(cones))
    tokens = torch.cat([cones.flatten(1, 2), rods.flatten(1, 2)], 1)
    # Cones come before the rods of their frame.
    when = torch.arange(num_frames).repeat_interleave(rods.shape[2]).expand(len(episodes), -1)
    when = torch.cat([2 * keys.repeat_interleave(CONES, 1), 2 * when + 1], 1)
    order = when.argsort(dim=1, stable=True)
    tokens = tokens.gather(1, order[..., None].expand_as(tokens))
    noise = torch.randn(tokens.shape, generator=generator) * (NOISE * norm.cpu() / width**0.5)
    return tokens + noise, when.gather(1, order) // 2


def draw_chats(rng: np.random.Generator, reader: Reader) -> tuple[list[Episode], list[list[Question]], np.ndarray]:
    """Episodes, questions that their key frames answer, and these key frames `(V, K)`."""
    num_key = int(rng.choice(reader.key_frames))
    kinds = [kind_shares(DETAIL_WEIGHTS)] * reader.turns
    episodes: list[Episode] = []
    turns, keys = [], []
    while len(episodes) < reader.batch_size:
        episode = sample_episode(rng, reader.num_frames, "train", reader.num_events)
        key_frames = np.sort(rng.permutation(reader.num_frames)[:num_key])
        questions = answerable(draw_questions(episode, rng, kinds), set(key_frames.tolist()))
        if questions:
            episodes.append(episode)
            turns.append(questions)
            keys.append(key_frames)
    return episodes, turns, np.stack(keys)


def reading_losses(
    model: DynFocusForConditionalGeneration,
    naming: Naming,
    writer: ChatWriter,
    reader: Reader,
    rng: np.random.Generator,
    seed: int,
    device: str,
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Losses of a batch by their names, and the shares of right answers by their kinds."""
    episodes, turns, keys = draw_chats(rng, reader)
    visual, frame_of_token = told_tokens(naming, episodes, keys, torch.Generator().manual_seed(seed))
    chats = writer.write(turns, visual.shape[1], reader.num_frames)
    start, stop = len(writer.before), len(writer.before) + visual.shape[1]
    ids = chats.input_ids.to(device)
    words = model.get_input_embeddings()(ids)
    words = torch.cat([words[:, :start], visual.to(device, words.dtype), words[:, stop:]], 1)
    positions = spread_positions(rng, len(ids), ids.shape[1], slice(start, stop), reader.longest_position)
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        outputs = model.model.language_model(
            inputs_embeds=words,
            attention_mask=chats.attention_mask.to(device),
            position_ids=None if positions is None else positions.to(device),
            output_attentions=True,
            use_cache=False,
        )

        def word_loss(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            wanted = labels[:, 1:].to(device)
            logits = model.lm_head(outputs.last_hidden_state[:, :-1][wanted != -100]).float()
            return F.cross_entropy(logits, wanted[wanted != -100]), logits.argmax(-1)

        answers, said = word_loss(chats.labels)
        questions, _ = word_loss(chats.questions(stop, writer.tokenizer))
    guidance, share = guidance_loss(outputs.attentions, chats, frame_of_token.to(device), start)
    right = _right(said.cpu(), chats, turns)
    losses = {"answer": answers, "question": QUESTION_WEIGHT * questions, "guidance": reader.guidance * guidance}
    return losses, {"looked right": share, **right}


def _right(said: torch.Tensor, chats: Chats, turns: list[list[Question]]) -> dict[str, float]:
    wanted = chats.labels[:, 1:]
    ok = torch.ones_like(wanted, dtype=torch.bool)
    ok[wanted != -100] = said == wanted[wanted != -100]
    by_kind = defaultdict(list)
    for row, questions in enumerate(turns):
        for number, question in enumerate(questions):
            by_kind[question.kind].append(bool(ok[row][chats.turn_of_token[row, 1:] == number].all()))
    return {kind: float(np.mean(values)) for kind, values in sorted(by_kind.items())}


def read(
    model: DynFocusForConditionalGeneration,
    naming: Naming,
    processor: DynFocusProcessor,
    out: Path,
    *,
    steps: int,
    seed: int,
    device: str,
    log: Callable[[str], None],
    readers: tuple[Reader, ...] = READERS,
    learning_rate: float = 2e-3,
    stage: str = "reading",
) -> None:
    """
    Train the language model in place; a checkpoint in `out/STAGE.partial` is continued, or used if it is finished.
    """
    partial = out / f"{stage}.partial"
    writer, naming = ChatWriter(processor), naming.to(device)
    # Warmed up within the first part, which is short.
    warm_up = max(1, min(100, steps // 20))
    settings = AnswerTraining(learning_rate=learning_rate, matrix_learning_rate=3 * learning_rate, warm_up=warm_up)
    language_model = model.model.language_model
    optimizers = build_optimizers(model, settings)
    step = load_progress(partial, language_model, optimizers, device)
    attention = language_model.config._attn_implementation
    language_model.set_attn_implementation(SHOWN)
    started, window = time.monotonic(), defaultdict(list)
    ends = [round(reader.share * steps) for reader in readers]
    language_model.train()
    while step < steps:
        reader = readers[min(part_at(step, ends), len(readers) - 1)]
        set_learning_rates(optimizers, settings, step, steps)
        rng = np.random.default_rng((seed, 2, step))
        losses, right = reading_losses(model, naming, writer, reader, rng, seed * 1_000_003 + step, device)
        take_step(losses.values(), language_model.parameters(), optimizers)
        step += 1
        for name, value in {**{name: loss.item() for name, loss in losses.items()}, **right}.items():
            window[name].append(value)
        if step % 100 == 0:
            shown = " ".join(f"{name} {np.mean(values):.3f}" for name, values in window.items())
            log(f"{stage} step {step}/{steps} {shown} ({time.monotonic() - started:.0f} s)")
            window.clear()
        if step % 250 == 0 or step == steps:
            save_progress(partial, language_model, optimizers, step)
    language_model.set_attn_implementation(attention)
    language_model.eval()


def learn_to_read(
    model: DynFocusForConditionalGeneration,
    naming: Naming,
    processor: DynFocusProcessor,
    out: Path,
    steps: tuple[int, int],
    **common: Any,
) -> None:
    """`read` with `READERS`, then with `LONG_READERS`, for the given numbers of steps."""
    read(model, naming, processor, out, steps=steps[0], seed=1, **common)
    read(
        model,
        naming,
        processor,
        out,
        steps=steps[1],
        seed=2,
        readers=LONG_READERS,
        learning_rate=1.2e-3,
        stage="long-reading",
        **common,
    )


__all__ = ["DETAIL_WEIGHTS", "LONG_READERS", "READERS", "Reader", "draw_chats", "learn_to_read", "read", "told_tokens"]
