"""
Folders of models that mean harm or are broken: whatever is in them, a command ends with one sentence, and in time.

    python scripts/hostile_folders.py                 # all of them, one process each; prints what went wrong
    python scripts/hostile_folders.py --only template # those whose names hold a word
    python scripts/hostile_folders.py --seed 7        # other files are cut, other fields are changed

Each folder is a copy of the model that comes with the package with one change. It is loaded as the command loads it,
and asked one question, in a process of its own.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dynfocus.checkpoints import embedded_model

Change = Callable[[Path], None]
QUESTION = "Which number is shown with the red star?"
FILES = (
    "config.json",
    "processor_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors",
)
VALUES = (
    "evil",
    -1,
    0,
    1e308,
    float("nan"),
    float("inf"),
    10**18,
    None,
    [],
    {},
    [[]],
    True,
    "10",
    -(10**30),
    "x" * 10**6,
)
FIELDS = {
    "config.json": (
        "text_config.num_hidden_layers",
        "text_config.hidden_size",
        "text_config.vocab_size",
        "text_config.num_attention_heads",
        "text_config.rms_norm_eps",
        "text_config.rope_parameters",
        "text_config.model_type",
        "text_config.hidden_act",
        "vision_config",
        "vision_config.backbone_config",
        "vision_config.backbone_config.image_size",
        "vision_config.backbone_config.num_hidden_layers",
        "vision_config.feature_layer",
        "question_config.num_hidden_layers",
        "question_config.max_position_embeddings",
        "question_config.encoder_hidden_size",
        "event_clustering",
        "question_context",
        "preset",
        "pooling_grid",
        "spatial_clusters",
        "spatial_neighbors",
        "temporal_neighbors",
        "num_question_queries",
        "rod_tokens",
        "frames_per_chunk",
        "selection_sigma",
        "selection_samples",
        "video_token_id",
        "projector_hidden_act",
        "initializer_range",
        "model_type",
        "dtype",
        "architectures",
    ),
    "processor_config.json": (
        "cone_tokens",
        "key_ratio",
        "max_question_tokens",
        "max_visual_tokens",
        "num_prototypes",
        "processor_class",
        "rod_tokens",
        "rods_on_key_frames",
        "video_token",
        "video_processor",
        "video_processor.size",
        "video_processor.size.height",
        "video_processor.fps",
        "video_processor.max_frames",
        "video_processor.image_std",
        "video_processor.image_mean",
        "video_processor.resample",
        "video_processor.rescale_factor",
        "video_processor.decoder",
        "video_processor.on_truncated",
        "video_processor.video_processor_type",
    ),
    "generation_config.json": (
        "eos_token_id",
        "pad_token_id",
        "num_beams",
        "num_return_sequences",
        "max_new_tokens",
        "temperature",
        "do_sample",
        "repetition_penalty",
        "cache_implementation",
        "stop_strings",
    ),
    "tokenizer_config.json": ("tokenizer_class", "model_max_length", "extra_special_tokens", "pad_token", "eos_token"),
    "tokenizer.json": (
        "model",
        "model.vocab",
        "model.merges",
        "added_tokens",
        "normalizer",
        "pre_tokenizer",
        "decoder",
    ),
}
# Each of them with one of these at random, and these with all.
EXTREME = {
    "config.json": (
        ("text_config.num_hidden_layers", 10**6),
        ("vision_config.backbone_config.num_hidden_layers", 10**6),
        ("question_config.num_hidden_layers", 10**6),
        ("text_config.hidden_size", 10**7),
        ("text_config.intermediate_size", 10**9),
        ("text_config.vocab_size", 10**9),
        ("question_config.max_position_embeddings", 10**10),
        ("vision_config.backbone_config.image_size", 10**6),
        ("num_question_queries", 10**9),
        ("text_config.num_attention_heads", 10**6),
        ("event_clustering", "evil"),
        ("question_context", "evil"),
        ("selection_sigma", float("nan")),
        ("text_config.rms_norm_eps", float("nan")),
        ("frames_per_chunk", -1),
        ("frames_per_chunk", 10**15),
        ("auto_map", {"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.Model"}),
        ("quantization_config", {"quant_method": "evil"}),
        ("transformers_version", {"a": 1}),
    ),
    "processor_config.json": (
        ("video_processor.size", {"height": 10**6, "width": 10**6}),
        ("video_processor.size", {"height": -1, "width": 64}),
        ("video_processor.image_std", [0.0, 0.0, 0.0]),
        ("video_processor.image_std", [float("nan")] * 3),
        ("video_processor.image_mean", [0.5]),
        ("video_processor.rescale_factor", float("nan")),
        ("num_prototypes", 10**15),
        ("max_question_tokens", 10**15),
        ("key_ratio", float("nan")),
        ("cone_tokens", 10**12),
        ("video_token", "a"),
        ("auto_map", {"AutoProcessor": "evil.Processor"}),
        ("chat_template", "{{ 1/0 }}"),
    ),
    "generation_config.json": (
        ("num_beams", 10**6),
        ("num_return_sequences", 50),
        ("max_new_tokens", 10**12),
        ("temperature", float("nan")),
        ("top_k", -5),
        ("eos_token_id", [10**12]),
        ("watermarking_config", {"a": 1}),
        ("guidance_scale", 1e308),
    ),
    "tokenizer_config.json": (
        ("auto_map", {"AutoTokenizer": ["evil.Tokenizer", None]}),
        ("tokenizer_class", "EvilTokenizer"),
        ("chat_template", {"a": 1}),
    ),
}
_GROWS = "{%% set ns = namespace(s=%s) %%}{%% for a in range(60) %%}%s{%% endfor %%}"
TEMPLATES = {
    "loops": "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3,
    "power": "{{ 10**(10**8) }}",
    "power in a branch": "{% if false %}{{ 10**(10**8) }}{% endif %}{{ messages[0]['role'] }}",
    "power of a variable": "{% set n = 10 %}{% for a in range(9) %}{% set n = n ** 10 ** 8 %}{% endfor %}",
    "long text": "{{ 'a' * 10**10 }}",
    "text that doubles": _GROWS % ("'a'", "{% set ns.s = ns.s ~ ns.s %}"),
    "text that adds": _GROWS % ("'a'", "{% set ns.s = ns.s + ns.s %}"),
    "text that joins": _GROWS % ("'aa'", "{% set ns.s = [ns.s, ns.s]|join(ns.s) %}"),
    "text that is replaced": _GROWS % ("'aa'", "{% set ns.s = ns.s.replace('a', ns.s) %}"),
    "lists that double": _GROWS % ("[1]", "{% set ns.s = ns.s + ns.s %}"),
    "centre": "{{ 'a'|center(10**10) }}",
    "centre of a constant": "{{ 'a'|center(9999999999) }}",
    "ljust": "{{ 'a'.ljust(9999999999) }}",
    "format": "{{ '%9999999999d' % 1 }}",
    "format filter": "{{ '%9999999999d'|format(1) }}",
    "format method": "{{ '{:>9999999999}'.format(1) }}",
    "lorem ipsum": "{{ lipsum(n=10**9) }}",
    "macro": "{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(99999) }}",
    "macro that doubles": "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "recursive loop": "{% for a in [[1]] recursive %}{{ loop([a, a]) }}{% endfor %}",
    "set block": _GROWS % ("'a'", "{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = t %}"),
    "syntax": "{% for %}",
    "undefined": "{{ evil.evil.evil }}",
    "zero": "{{ 1 // 0 }}",
    "type": "{{ 'a' + 1 }}",
    "attribute": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "raise": "{{ raise_exception('no') }}",
    "no words": "hello",
    "include": "{% include '/etc/passwd' %}",
    "extends": "{% extends '/etc/passwd' %}",
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "large": "{# " + "a" * 3 * 10**7 + " #}",
    "not utf-8": "\udcff\udcfe",
    "empty": "",
    "wordwrap": "{{ ('a ' * 100000)|wordwrap(1)|wordwrap(1) }}",
    "indent": "{{ ('a\n' * 100000)|indent(999999) }}",
    "batch": "{{ range(9)|batch(10**9, 0)|list }}",
    "slice": "{{ range(9)|slice(10**9, 0)|list }}",
}


def with_field(folder: Path, file: str, field: str, value: Any) -> None:
    """Sets a field, whose name is a path, of a JSON file."""
    path = folder / file
    content = json.loads(path.read_text(encoding="utf-8"))
    *parents, name = field.split(".")
    place = content
    for parent in parents:
        place = place.setdefault(parent, {})
    place[name] = value
    path.write_text(json.dumps(content), encoding="utf-8")


def with_template(folder: Path, text: str) -> None:
    (folder / "chat_template.jinja").write_bytes(text.encode("utf-8", "surrogateescape"))


def with_index(folder: Path, weights: dict[str, Any] | Any) -> None:
    """An index of several weight files in place of the one file."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def names_of_weights(folder: Path) -> list[str]:
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return [name for name in header if name != "__metadata__"]


def with_header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    made = json.dumps(change(header) or header).encode()
    path.write_bytes(struct.pack("<Q", len(made)) + made + data[8 + length :])


def _first_tensor(header: dict[str, Any], **fields: Any) -> None:
    name = next(name for name in header if name != "__metadata__")
    header[name].update(fields)


def changes(seed: int = 0) -> Iterator[tuple[str, Change]]:
    """Names and changes; the same for the same seed."""
    draw = random.Random(seed)
    for name, text in TEMPLATES.items():
        yield f"template: {name}", lambda folder, text=text: with_template(folder, text)
    for file, fields in EXTREME.items():
        for field, value in fields:
            yield (
                f"{file}: {field} is {str(value)[:40]}",
                lambda folder, file=file, field=field, value=value: with_field(folder, file, field, value),
            )
    for file, names in FIELDS.items():
        for field in names:
            value = draw.choice(VALUES)
            yield (
                f"{file}: {field} is drawn, {str(value)[:40]}",
                lambda folder, file=file, field=field, value=value: with_field(folder, file, field, value),
            )
    for file in FILES:
        yield f"{file}: empty", lambda folder, file=file: (folder / file).write_bytes(b"")
        yield f"{file}: not UTF-8", lambda folder, file=file: (folder / file).write_bytes(b"\xff\xfe\x80" * 99)
        yield f"{file}: a folder", lambda folder, file=file: ((folder / file).unlink(), (folder / file).mkdir())
        yield (
            f"{file}: a link to itself",
            lambda folder, file=file: (
                (folder / file).unlink(),
                (folder / file).symlink_to(folder / file),
            ),
        )
        yield f"{file}: a pipe", lambda folder, file=file: ((folder / file).unlink(), os.mkfifo(folder / file))
        share = draw.uniform(0.05, 0.95)
        yield (
            f"{file}: cut",
            lambda folder, file=file, share=share: (folder / file).write_bytes(
                (folder / file).read_bytes()[: int(share * (folder / file).stat().st_size)]
            ),
        )
        if file.endswith(".json"):
            for what, text in (("a list", "[]"), ("a number", "7"), ("null", "null"), ("deep", "[" * 10**5)):
                yield f"{file}: {what}", lambda folder, file=file, text=text: (folder / file).write_text(text)
    yield "config.json: huge", lambda folder: (folder / "config.json").write_text('{"a": "' + "a" * 10**8 + '"}')
    yield "tokenizer.json: huge", lambda folder: with_field(folder, "tokenizer.json", "evil", "a" * 10**8)
    for name, target in (
        ("outside", "../../../../etc/passwd"),
        ("absolute", "/etc/passwd"),
        ("missing", "model-00009-of-00009.safetensors"),
        ("a number", 7),
        ("itself", "model.safetensors.index.json"),
        ("a pickle", "model.bin"),
    ):
        yield (
            f"index: {name}",
            lambda folder, target=target: with_index(folder, dict.fromkeys(names_of_weights(folder), target)),
        )
    yield "index: no map", lambda folder: with_index(folder, [])
    yield "weights: a pickle", lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    yield "weights: none", lambda folder: (folder / "model.safetensors").unlink()
    for name, fields in (
        ("negative shape", {"shape": [-1, 4]}),
        ("huge shape", {"shape": [10**9, 10**9]}),
        ("unknown type", {"dtype": "EVIL"}),
        ("offsets outside", {"data_offsets": [0, 10**15]}),
    ):
        yield (
            f"weights: {name}",
            lambda folder, fields=fields: with_header(folder, lambda header: _first_tensor(header, **fields)),
        )
    yield "weights: length of header", lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64)


def make_folder(target: Path, change: Change, base: Path | None = None) -> Path:
    """A copy of the model, changed."""
    shutil.copytree(base or embedded_model(), target)
    change(target)
    return target


def ask(folder: str, dual_encoder: str | None = None) -> str:
    """What a user of the command would read: the answer, or one sentence; `dual_encoder` for a stock model."""
    import numpy as np

    from dynfocus.cli.ask import in_options
    from dynfocus.cli.loading import load_pipeline
    from dynfocus.cli.terminal import UserError, one_sentence

    video = np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3), dtype=np.uint8)
    try:
        pipe = load_pipeline(folder, "cpu", None, None, False, {"dual_encoder": dual_encoder})
        with in_options():
            row = pipe.video_qa.prepare({"video": video, "question": QUESTION})
            (found,) = pipe.video_qa.answer([row], max_new_tokens=8)
    except (UserError, ValueError, OSError, ImportError) as error:
        return f"refused: {one_sentence(str(error))[:800]}"
    return f"answered: {found.answer[:80]!r}"


def _ask_there(folder: str, dual_encoder: str | None, queue: Any) -> None:
    import logging
    import warnings

    import torch
    import transformers

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
    try:
        queue.put(ask(folder, dual_encoder))
    except BaseException as error:
        queue.put(f"TRACEBACK {type(error).__name__}: {str(error)[:300]}\n{traceback.format_exc()[-1500:]}")


def outcome(folder: Path, seconds: float = 60.0, dual_encoder: Path | None = None) -> str:
    """`ask` in a process of its own: what it says, or that it hangs or dies."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=_ask_there, args=(str(folder), dual_encoder and str(dual_encoder), queue))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return f"HANGS for {seconds:.0f} s"
    return queue.get() if not queue.empty() else f"DIES with {process.exitcode}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    import dynfocus.cli.ask
    import dynfocus.processing  # noqa: F401  # imported before the processes are forked

    bad = count = 0
    for name, change in changes(options.seed):
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = make_folder(Path(scratch) / "model", change)
            start = time.perf_counter()
            found = outcome(folder, options.seconds)
        count += 1
        bad += found.startswith(("TRACEBACK", "HANGS", "DIES"))
        print(f"{name} [{time.perf_counter() - start:.1f} s]: {found}", flush=True)
    print(f"{count} folders, {bad} that end otherwise than with one sentence or an answer.")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
