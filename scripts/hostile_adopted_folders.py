"""
Folders of stock models and dual encoders that mean harm or are broken: a command ends with one sentence, and in time.

    python scripts/hostile_adopted_folders.py                 # all of them, one process each; prints what went wrong
    python scripts/hostile_adopted_folders.py --only template # those whose names hold a word
    python scripts/hostile_adopted_folders.py --seed 7        # other files are cut, other fields are changed

As `hostile_folders.py`, for models that are adopted: each folder is a copy of a small random model of a stock class,
or of a small dual encoder, with one change.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

import hostile_folders as own  # noqa: E402

HUGE = 10**9
NAN = float("nan")
#: What the code in a folder would do, if it ran.
EVIL = "import pathlib\npathlib.Path({mark!r}).write_text('ran')\nclass Config: pass\nclass Model: pass\n"
MODEL_FIELDS = {
    "config.json": (
        ("text_config.num_hidden_layers", 10**6),
        ("text_config.hidden_size", 10**7),
        ("text_config.vocab_size", HUGE),
        ("text_config.num_attention_heads", 10**6),
        ("text_config.num_key_value_heads", 0),
        ("text_config.head_dim", -1),
        ("text_config.rms_norm_eps", NAN),
        ("text_config.rope_parameters", "evil"),
        ("text_config", []),
        ("vision_config", None),
        ("vision_config.depth", 10**6),
        ("vision_config.patch_size", 0),
        ("vision_config.patch_size", 10**6),
        ("vision_config.spatial_merge_size", 0),
        ("vision_config.temporal_patch_size", 0),
        ("vision_config.num_position_embeddings", 10**12),
        ("vision_config.deepstack_visual_indexes", [10**6]),
        ("video_token_id", 10**9),
        ("image_token_id", "evil"),
        ("model_type", "evil"),
        ("model_type", "bert"),
        ("model_type", 7),
        ("architectures", ["EvilModel"]),
        ("dtype", "evil"),
        ("quantization_config", {"quant_method": "evil"}),
        ("_attn_implementation", "evil"),
    ),
    "processor_config.json": (
        ("processor_class", "EvilProcessor"),
        ("processor_class", 7),
        ("video_processor.video_processor_type", "EvilVideoProcessor"),
        ("image_processor.image_processor_type", "EvilImageProcessor"),
        ("video_processor.patch_size", 0),
        ("video_processor.patch_size", -16),
        ("video_processor.patch_size", 10**6),
        ("video_processor.merge_size", 0),
        ("video_processor.temporal_patch_size", 0),
        ("video_processor.temporal_patch_size", 10**9),
        ("video_processor.size", {"shortest_edge": 10**14, "longest_edge": 10**15}),
        ("video_processor.size", {"shortest_edge": -1, "longest_edge": -1}),
        ("video_processor.size", "evil"),
        ("video_processor.image_mean", [NAN] * 3),
        ("video_processor.image_std", [0.0] * 3),
        ("video_processor.image_std", [0.5]),
        ("video_processor.rescale_factor", NAN),
        ("video_processor.resample", 99),
        ("video_processor.fps", 0),
        ("video_processor.fps", "evil"),
        ("image_processor.size", {"shortest_edge": 10**14, "longest_edge": 10**15}),
    ),
    "generation_config.json": (
        ("eos_token_id", [10**12]),
        ("num_beams", 10**6),
        ("num_return_sequences", 50),
        ("max_new_tokens", 10**12),
        ("temperature", NAN),
        ("temprature", 1),
    ),
    "tokenizer_config.json": (
        ("tokenizer_class", "EvilTokenizer"),
        ("tokenizer_class", 7),
        ("model_max_length", -1),
        ("image_token", 7),
        ("extra_special_tokens", "evil"),
    ),
    "tokenizer.json": (("model", {}), ("model.vocab", {}), ("added_tokens", []), ("decoder", "evil"), ("version", 7)),
}
ENCODER_FIELDS = {
    "config.json": (
        ("text_config.num_hidden_layers", 10**6),
        ("text_config.hidden_size", 10**7),
        ("text_config.vocab_size", HUGE),
        ("text_config.max_position_embeddings", 10**12),
        ("vision_config.num_hidden_layers", 10**6),
        ("vision_config.image_size", 10**6),
        ("vision_config.patch_size", 0),
        ("vision_config.hidden_size", -1),
        ("vision_config.num_attention_heads", 0),
        ("vision_config", "evil"),
        ("model_type", "evil"),
        ("model_type", "bert"),
        ("model_type", None),
    ),
    "preprocessor_config.json": (
        ("image_processor_type", "EvilImageProcessor"),
        ("image_processor_type", 7),
        ("size", {"height": 10**6, "width": 10**6}),
        ("size", {"height": -1, "width": 32}),
        ("size", {"height": 0, "width": 0}),
        ("size", {"height": 16, "width": 16}),
        ("size", "evil"),
        ("image_mean", [NAN] * 3),
        ("image_std", [0.0] * 3),
        ("image_std", [0.5]),
        ("rescale_factor", NAN),
        ("resample", 99),
        ("do_rescale", "evil"),
    ),
    "tokenizer_config.json": (("tokenizer_class", "EvilTokenizer"), ("model_max_length", -1), ("eos_token", None)),
    "tokenizer.json": (("model", {}), ("model.vocab", {}), ("added_tokens", []), ("normalizer", "evil")),
}
AUTO_MAPS = {
    "config.json": {
        "AutoConfig": "evil.Config",
        "AutoModel": "evil.Model",
        "AutoModelForImageTextToText": "evil.Model",
    },
    "tokenizer_config.json": {"AutoTokenizer": ["evil.Model", "evil.Model"]},
    "processor_config.json": {"AutoProcessor": "evil.Model"},
    "preprocessor_config.json": {"AutoImageProcessor": "evil.Model"},
}


def with_code(folder: Path, file: str) -> None:
    """Code in the folder, which the file names; and a class that only it would have."""
    (folder / "evil.py").write_text(EVIL.format(mark=str(folder / "ran")), encoding="utf-8")
    own.with_field(folder, file, "auto_map", AUTO_MAPS[file])


def with_pickle(folder: Path) -> None:
    """A pickle that would write a file, in place of the weights."""
    import torch

    (folder / "model.safetensors").unlink()
    torch.save(_Bomb(str(folder / "ran")), folder / "pytorch_model.bin")


class _Bomb:
    def __init__(self, mark: str):
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (self.mark, "w")


def changes(kind: str, files: dict[str, Any], seed: int = 0) -> Iterator[tuple[str, own.Change]]:
    """Names and changes of folders of one kind (`model` or `encoder`)."""
    draw = random.Random(seed)
    for file, fields in files.items():
        for field, value in fields:
            yield f"{kind}: {file}: {field} is {str(value)[:40]}", partial(_with, file, field, value)
        for field in dict.fromkeys(field for field, _ in fields):
            value = draw.choice(own.VALUES)
            yield f"{kind}: {file}: {field} is drawn, {str(value)[:40]}", partial(_with, file, field, value)
        if file in AUTO_MAPS:
            yield f"{kind}: {file}: code", lambda folder, file=file: with_code(folder, file)
    if kind == "model":
        for name, text in own.TEMPLATES.items():
            yield f"{kind}: template: {name}", lambda folder, text=text: own.with_template(folder, text)
    for file in (*files, "model.safetensors"):
        yield f"{kind}: {file}: empty", lambda folder, file=file: (folder / file).write_bytes(b"")
        yield f"{kind}: {file}: not there", lambda folder, file=file: (folder / file).unlink()
        yield f"{kind}: {file}: deep", lambda folder, file=file: (folder / file).write_text("[" * 10**5)
        yield (
            f"{kind}: {file}: a folder",
            lambda folder, file=file: ((folder / file).unlink(), (folder / file).mkdir()),
        )
        yield f"{kind}: {file}: a link out", lambda folder, file=file: _link(folder / file)
        share = draw.uniform(0.05, 0.95)
        yield f"{kind}: {file}: cut", lambda folder, file=file, share=share: _cut(folder / file, share)
    yield f"{kind}: a pickle", with_pickle
    for name, target in (("outside", "../../etc/passwd"), ("missing", "model-00009-of-00009.safetensors")):
        yield (
            f"{kind}: index: {name}",
            lambda folder, target=target: own.with_index(folder, dict.fromkeys(own.names_of_weights(folder), target)),
        )


def _with(file: str, field: str, value: Any, folder: Path) -> None:
    own.with_field(folder, file, field, value)


def _cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def _folder(file: str, folder: Path) -> None:
    (folder / file).unlink()
    (folder / file).mkdir()


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def all_changes(seed: int = 0) -> Iterator[tuple[str, own.Change]]:
    """Names and changes of both kinds; the name begins with the kind."""
    yield from changes("model", MODEL_FIELDS, seed)
    yield from changes("encoder", ENCODER_FIELDS, seed)


def save_good(folder: Path) -> None:
    """A stock model and a dual encoder, both small and random, as `model` and `encoder`."""
    from adopted_models import stock
    from tiny_dual_encoders import save_dual_encoder

    for part in stock("qwen3_vl"):
        part.save_pretrained(folder / "model")
    save_dual_encoder("siglip", folder / "encoder")


def make_folders(target: Path, name: str, change: own.Change, good: Path) -> Path:
    """Copies of both, of which one is changed."""
    shutil.copytree(good, target)
    change(target / name.partition(":")[0])
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    import dynfocus.adoption.focused_model
    import dynfocus.cli.ask
    import dynfocus.processing  # noqa: F401  # imported before the processes are forked

    bad = count = 0
    with tempfile.TemporaryDirectory() as scratch:
        save_good(Path(scratch) / "good")
        for name, change in all_changes(options.seed):
            if options.only not in name:
                continue
            folder = make_folders(Path(scratch) / "changed", name, change, Path(scratch) / "good")
            start = time.perf_counter()
            found = own.outcome(folder / "model", options.seconds, dual_encoder=folder / "encoder")
            if any((folder / kind / "ran").exists() for kind in ("model", "encoder")):
                found = f"RAN CODE, and then {found}"
            shutil.rmtree(folder)
            count += 1
            bad += found.startswith(("TRACEBACK", "HANGS", "DIES", "RAN CODE"))
            print(f"{name} [{time.perf_counter() - start:.1f} s]: {found}", flush=True)
    print(f"{count} folders, {bad} that end otherwise than with one sentence or an answer.")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
