"""
Trains the small stock models of `benchmarks/adoption/models`:
`python benchmarks/adoption/train.py --work runs/adoption`.

Every stage keeps checkpoints in the work folder: a stopped run continues, and a finished stage is not run again. The
models are independent of each other: `--model NAME` trains one of them, so that two processes may share the work.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matching
import seeing
import stock
import torch
import transformers as tf
from answering import train_answers
from recipe.data import VideoSet
from recipe.vision import tower_config
from showing import PROMPTS, see_videos

NAMES = ("siglip", "llava_onevision", "qwen3_vl")


@dataclass(frozen=True)
class Size:
    """
    Args:
        pool (`int`): frames drawn for towers and captions.
        tower, matching, answers (`int`): steps of the stages.
        frames, captions (`int`): frames of a batch of the first two.
        videos (`tuple` of `VideoSet`): for the chats; their seeds are used nowhere else.
    """

    pool: int = 16_000
    tower: int = 500
    frames: int = 96
    matching: int = 1500
    captions: int = 128
    answers: int = 600
    videos: tuple[VideoSet, ...] = (VideoSet(61, 600, 32), VideoSet(62, 120, 128))


SIZES = {
    "full": Size(),
    "smoke": Size(64, 2, 8, 2, 8, 2, (VideoSet(61, 2, 32), VideoSet(62, 1, 128))),
}
#: Peak learning rates of AdamW and of Muon in the last stage.
RATES = {"qwen3_vl": (1e-3, 3e-3), "llava_onevision": (7e-4, 2e-3)}


def log(message: str) -> None:
    print(time.strftime("%H:%M:%S"), message, flush=True)


def seeing_tower(work: Path, size: Size) -> Any:
    """The tower that SigLIP and LLaVA-OneVision share."""
    tower = tf.SiglipVisionModel(tower_config())
    tower.load_state_dict(stock.shared_weights("model.vision_tower.backbone."))
    folder = work / "siglip"
    folder.mkdir(parents=True, exist_ok=True)
    seeing.train_tower("siglip", tower, folder, steps=size.tower, size=size.frames, pool_size=size.pool, log=log)
    return tower.eval()


def train_siglip(work: Path, size: Size, out: Path) -> None:
    tokenizer = matching.siglip_tokenizer()
    torch.manual_seed(1)
    model = matching.siglip(seeing_tower(work, size), tokenizer)
    matching.train_siglip(
        model,
        tokenizer,
        work / "siglip",
        steps=size.matching,
        size=size.captions,
        pool_size=size.pool,
        log=log,
    )
    save(model, out)
    tokenizer.save_pretrained(out)
    matching.siglip_image_processor().save_pretrained(out)


def train_model(name: str, work: Path, size: Size, out: Path) -> None:
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    processor = stock.PROCESSORS[name]()
    model = stock.MODELS[name](processor)
    if name == "qwen3_vl":
        tower = model.model.visual
        # It starts farther away: rotary positions and pairs are new to it.
        steps = size.tower * 7 // 5
        seeing.train_tower(name, tower, folder, steps=steps, size=size.frames, pool_size=size.pool, log=log)
    else:
        tower = model.model.vision_tower
        tower.load_state_dict(seeing_tower(work, size).state_dict())
    tower.eval()
    seen = {
        videos.num_frames: see_videos(name, tower, videos, folder / f"seen{videos.num_frames}.safetensors", log)
        for videos in size.videos
    }
    if name == "llava_onevision":
        seeing.start_projector(model, seen[32].outputs["64"])
    writer = PROMPTS[name](model, processor)
    train_answers(model, writer, seen, folder, steps=size.answers, rates=RATES[name], log=log)
    save(model, out)
    processor.save_pretrained(out)


def save(model: Any, out: Path) -> None:
    """As safetensors in half precision; loaded in single precision."""
    model.to(torch.float16).save_pretrained(out)
    config = out / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "dtype": "float32"}, indent=2) + "\n")
    log(f"saved {out}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python benchmarks/adoption/train.py", description=__doc__.splitlines()[1])
    parser.add_argument("--work", type=Path, default=Path("runs/adoption"), help="checkpoints and features")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "models", help="folder of the models")
    parser.add_argument("--model", action="append", choices=NAMES, help="only these (default: all)")
    parser.add_argument("--size", choices=list(SIZES), default="full", help="`smoke` only tests that everything runs")
    parser.add_argument("--answers", type=int, help="steps of the last stage (default: %(default)s)")
    options = parser.parse_args(arguments)
    size = SIZES[options.size]
    if options.answers is not None:
        size = replace(size, answers=options.answers)
    for name in options.model or NAMES:
        out = options.out / name
        if name == "siglip":
            train_siglip(options.work, size, out)
        else:
            train_model(name, options.work, size, out)


if __name__ == "__main__":
    main()
