"""
A small SigLIP: a text encoder and a pooling head, trained by SigLIP's loss on frames and captions.

A caption says what is in a frame, in words of captions: nothing about questions, and never which frame one asks for.
The layers of the vision tower stay as the first stage left them.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import stock
import torch
import transformers as tf
from recipe.progress import learning_rate_at, load_progress, save_progress, take_step
from recipe.tokenizer import build_tokenizer
from recipe.vision import IMAGE_SIZE, NAMES, as_pixels, tower_config
from seeing import frame_pool
from tokenizers import processors
from torch import Tensor
from torch.nn import functional as F

from dynfocus.eval.synthetic.world import COLORS, SHAPES

TEXT_TOKENS = 24
_COLORS, _SHAPES = tuple(COLORS), tuple(SHAPES)
#: Captions by what they name: color `{c}`, shape `{s}`, number `{n}`, or one of its digits, `{a}`, `{b}`, `{d}`.
CAPTIONS = {
    "c": ("something {c}", "a {c} object", "a {c} shape", "a picture with {c} in it", "a shape of {c} color"),
    "s": ("a {s}", "a drawing of a {s}", "a picture of a {s}", "one {s} on the ground", "the {s} moves"),
    "cs": ("a {c} {s}", "the {c} {s}", "a {s} in {c}", "a {s} of {c} color", "a photo of a {c} {s}"),
    "n": ("the number {n}", "{n} can be read", "a shape marked {n}", "an object labeled {n}", "digits {n} on a shape"),
    "csn": ("a {c} {s} marked {n}", "{n} on a {c} {s}", "a {c} {s} with the number {n}"),
    "sn": ("a {s} labeled {n}", "the digits {n} on a {s}"),
    "1": ("a number that starts with {a}", "{a} is the first digit", "the digits begin with {a}"),
    "2": ("a number with {b} in the middle", "{b} is the middle digit", "the digit between the others is {b}"),
    "3": ("a number that ends in {d}", "{d} is the last digit", "the digits end with {d}"),
    "": ("nothing but ground", "an empty scene", "only the background"),
}
_SHARES = {"c": 0.05, "s": 0.05, "cs": 0.2, "n": 0.25, "csn": 0.1, "sn": 0.05, "1": 0.1, "2": 0.1, "3": 0.1}
#: The columns of color, shape and digits that a kind of caption names.
_COLUMNS = {"c": (0,), "s": (1,), "n": (2, 3, 4), "1": (2,), "2": (3,), "3": (4,)}
_OPENINGS = ("", "", "", "here is ", "we see ", "there is ", "this shows ", "in this frame: ", "look at ")


def siglip_tokenizer() -> tf.PreTrainedTokenizerFast:
    """The tokenizer of the shared model, with an end token and rows of full length, as SigLIP's."""
    made = build_tokenizer()
    inner = made.backend_tokenizer
    end = made.convert_tokens_to_ids("</s>")
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", model_max_length=TEXT_TOKENS, padding_side="right"
    )


def siglip_image_processor() -> tf.SiglipImageProcessor:
    return tf.SiglipImageProcessor(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, resample=3, image_mean=stock.HALF, image_std=stock.HALF
    )


def siglip(tower: Any, tokenizer: tf.PreTrainedTokenizerFast) -> Any:
    """A `SiglipModel` with the layers of `tower`."""
    vision = {**tower_config().to_dict(), "vision_use_head": True}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": TEXT_TOKENS,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    model = tf.SiglipModel(tf.SiglipConfig(text_config=text, vision_config=vision))
    model.vision_model.load_state_dict(tower.state_dict(), strict=False)
    with torch.no_grad():
        model.logit_scale.fill_(float(np.log(10)))
        model.logit_bias.fill_(-6.0)
    return model


def drawn_captions(
    labels: dict[str, np.ndarray], rows: np.ndarray, rng: np.random.Generator
) -> tuple[list[str], np.ndarray]:
    """
    Two captions for each frame, and what they name: color, shape and three digits `(2 N, 5)`, -1 if not named.

    The first is about the frame, the second the same with another color, shape or digit.
    """
    texts, named = [], []
    kinds, shares = list(_SHARES), np.array(list(_SHARES.values()))
    for row in rows:
        truth = np.array([max(0, labels[name][row]) for name in NAMES])
        kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))] if labels["present"][row] else ""
        other = truth.copy()
        if kind:
            columns = [column for letter in kind for column in _COLUMNS[letter]]
            changed = columns[int(rng.integers(len(columns)))]
            count = list(NAMES.values())[changed]
            other[changed] = (other[changed] + rng.integers(1, count)) % count
        else:
            kind_of_other = kinds[int(rng.integers(len(kinds)))]
            other = np.array([rng.integers(count) for count in NAMES.values()])
        for values, used in ((truth, kind), (other, kind or kind_of_other)):
            forms = CAPTIONS[used]
            text = forms[int(rng.integers(len(forms)))].format(
                c=_COLORS[values[0]],
                s=_SHAPES[values[1]],
                n="".join(map(str, values[2:])),
                **dict(zip("abd", map(str, values[2:]), strict=True)),
            )
            texts.append(_OPENINGS[int(rng.integers(len(_OPENINGS)))] + text)
            columns = [column for letter in used for column in _COLUMNS[letter]]
            mask = np.isin(np.arange(len(NAMES)), columns)
            named.append(np.where(mask, values, -1) if used else np.full(len(NAMES), -2))
    return texts, np.stack(named)


def fits(labels: dict[str, np.ndarray], rows: np.ndarray, named: np.ndarray) -> Tensor:
    """Whether each caption is true of each frame, `(N, captions)`."""
    truth = np.stack([labels[name][rows] for name in NAMES], 1)
    same = (truth[:, None] == named[None]) | (named[None] == -1)
    empty = (named == -2).all(1)
    present = labels["present"][rows].astype(bool)
    return torch.from_numpy(np.where(empty[None], ~present[:, None], same.all(2) & present[:, None]))


@torch.no_grad()
def pooled_inputs(tower: Any, frames: np.ndarray) -> Tensor:
    """The tower's output for frames, `(N, patches, D)`."""
    found = []
    for start in range(0, len(frames), 256):
        with torch.autocast("cpu", torch.bfloat16):
            found.append(tower(as_pixels(frames[start : start + 256])).last_hidden_state.to(torch.float16))
    return torch.cat(found)


def train_siglip(
    model: Any,
    tokenizer: Any,
    out: Path,
    *,
    steps: int,
    size: int,
    pool_size: int,
    log: Callable[[str], None],
) -> None:
    """Train text encoder and pooling head in place; a checkpoint in `out` is continued, or taken if finished."""
    partial = out / "matching.partial"
    vision = model.vision_model
    model.requires_grad_(True)
    for part in (vision.embeddings, vision.encoder, vision.post_layernorm):
        part.requires_grad_(False)
    parameters = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1.5e-3, weight_decay=0.02, betas=(0.9, 0.98))
    step = load_progress(partial, model, [optimizer], "cpu")
    if step >= steps:
        return
    pool, labels = frame_pool(out.parent, pool_size, log)
    head, vision.head, vision.use_head = vision.head, None, False
    hidden = pooled_inputs(_headless(vision), pool[IMAGE_SIZE])
    vision.head, vision.use_head = head, True
    held_out = len(hidden) // 20
    if step == 0:
        start_head(vision.head, hidden, labels, held_out, steps=min(200, steps))
    started, window = time.monotonic(), {}
    model.train()
    while step < steps:
        rng = np.random.default_rng((13, step))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, steps, 1.5e-3, max(1, min(100, steps // 10)))
        rows = rng.integers(held_out, len(hidden), size)
        loss, right = _matching_loss(model, tokenizer, hidden, labels, rows, rng)
        take_step([loss], parameters, [optimizer])
        step += 1
        window.setdefault("loss", []).append(loss.item())
        if step % 100 == 0 or step == steps:
            model.eval()
            with torch.no_grad():
                rng = np.random.default_rng(17)
                _, right = _matching_loss(model, tokenizer, hidden, labels, np.arange(min(held_out, 256)), rng)
            model.train()
            seconds, mean = time.monotonic() - started, np.mean(window["loss"])
            log(f"siglip step {step}/{steps} loss {mean:.3f} best frame fits, by caption: {right} ({seconds:.0f} s)")
            window = {}
            save_progress(partial, model, [optimizer], step)
    model.eval()


def start_head(head: Any, hidden: Tensor, labels: dict[str, np.ndarray], held_out: int, steps: int) -> None:
    """
    Train the pooling head so that color, shape and digits can be read from its output. From captions alone it keeps
    to colors and shapes, which the mean of all patches shows.
    """
    width = hidden.shape[-1]
    probes = torch.nn.ModuleDict({name: torch.nn.Linear(width, count) for name, count in NAMES.items()})
    parameters = [*head.parameters(), *probes.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=5e-3)
    for step in range(steps):
        rows = np.random.default_rng((23, step)).integers(held_out, len(hidden), 256)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, steps, 5e-3, 50)
        pooled = head(hidden[torch.from_numpy(rows)].float())
        losses = [
            F.cross_entropy(probes[name](pooled), torch.from_numpy(labels[name][rows]), ignore_index=-100)
            for name in NAMES
        ]
        take_step(losses, parameters, [optimizer])


def _headless(vision: Any) -> Any:
    def run(pixels: Tensor) -> Any:
        return vision(pixel_values=pixels)

    return run


def _matching_loss(
    model: Any,
    tokenizer: Any,
    hidden: Tensor,
    labels: dict[str, np.ndarray],
    rows: np.ndarray,
    rng: np.random.Generator,
) -> tuple[Tensor, dict[str, float]]:
    texts, named = drawn_captions(labels, rows, rng)
    ids = tokenizer(texts, padding="max_length", truncation=True, max_length=TEXT_TOKENS, return_tensors="pt")[
        "input_ids"
    ]
    true = fits(labels, rows, named)
    with torch.autocast("cpu", torch.bfloat16):
        images = model.vision_model.head(hidden[torch.from_numpy(rows)].float())
        words = model.text_model(input_ids=ids).pooler_output
    images, words = F.normalize(images.float(), dim=-1), F.normalize(words.float(), dim=-1)
    logits = images @ words.T * model.logit_scale.exp() + model.logit_bias
    loss = -F.logsigmoid(torch.where(true, logits, -logits)).sum() / len(rows)
    right = {}
    best = logits.argmax(0)
    for kind in _SHARES:
        columns = sorted(column for letter in kind for column in _COLUMNS[letter])
        about = [
            j for j in range(len(texts)) if true[:, j].any() and np.flatnonzero(named[j] >= 0).tolist() == columns
        ]
        if about:
            right[kind] = round(float(true[best[about], about].float().mean()), 3)
    return loss, right
