"""
What uses a Hub, in a process of its own, as its address is read once, at import. The tests start a `Part`.

Usage: python hub_client.py PART OUT, and the part's arguments as a JSON object on stdin; what was found goes to
`OUT/PART.json`, tensors to `OUT/PART.safetensors`. The parts whose name begins with `remote` run where the package
cannot be imported.
"""

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forked import Forked


class Part:
    """A part of this script in a process of its own, which finds a Hub at `url` and keeps its cache in `out`."""

    def __init__(self, name: str, out: Path, url: str, environment: dict | None = None, **arguments):
        foreign = re.compile(r"HF_|HUGGING|TRANSFORMERS_|PYTHON|.*_PROXY$", re.IGNORECASE)
        kept = {variable: value for variable, value in os.environ.items() if not foreign.match(variable)}
        settings = {
            "HF_ENDPOINT": url,
            "HF_HOME": str(out / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        self.found, self.tensors, asked = (out / f"{name}{ending}" for ending in (".json", ".safetensors", ".asked"))
        asked.write_text(json.dumps(arguments), encoding="utf-8")
        variables = {**kept, **settings, **(environment or {})}
        self.process = Forked(__file__, name, out, package=False, environment=variables, folder=out, stdin=asked)

    def result(self) -> tuple[dict, dict]:
        """What it found, and its tensors."""
        from safetensors.torch import load_file

        assert self.process.wait() == 0, self.process.output[-4000:]
        return json.loads(self.found.read_text(encoding="utf-8")), load_file(self.tensors)


def load_all(source: str, video: str, question: str, **options: Any) -> tuple[dict, dict]:
    """Facts and tensors that the Auto classes and the pipeline give for `source`, a folder or a Hub id."""
    import torch
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForImageTextToText,
        AutoProcessor,
        AutoVideoProcessor,
        pipeline,
    )

    config = AutoConfig.from_pretrained(source, **options)
    processor = AutoProcessor.from_pretrained(source, **options)
    model = AutoModelForImageTextToText.from_pretrained(source, **options)
    base = AutoModel.from_pretrained(source, **options)
    inputs = processor(text=f"<video>\n{question}", videos=video, return_tensors="pt")
    with torch.no_grad():
        logits, hidden = model(**inputs).logits, base(**inputs).last_hidden_state
    video_processor = AutoVideoProcessor.from_pretrained(source, **options)
    pixels = video_processor(video, return_tensors="pt")["pixel_values_videos"]
    pipe = pipeline("video-qa", model=source, **options)
    parts = (config, processor, model, base, video_processor, pipe, pipe.model, pipe.processor)
    facts = {
        "answer": pipe(video, question=question),
        "classes": [type(part).__name__ for part in parts],
        "model_type": config.model_type,
    }
    return facts, {"logits": logits, "hidden": hidden, "pixels": pixels}


def remote(sources: dict, refused: str, pickles: list[str], video: str, question: str) -> tuple[dict, dict]:
    """Loads `sources` with trust, `refused` without, and `pickles`, which hold no other weights."""
    found, tensors = remote_again(sources, video, question)
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, AutoVideoProcessor, pipeline

    ways: dict[str, Callable] = {
        "config": AutoConfig.from_pretrained,
        "model": AutoModelForImageTextToText.from_pretrained,
        "processor": AutoProcessor.from_pretrained,
        "video processor": AutoVideoProcessor.from_pretrained,
        "pipeline": lambda name, **options: pipeline("video-qa", model=name, **options),
    }
    found["untrusted"] = {
        name: [_error_of(load, refused, **options) for options in ({"trust_remote_code": False}, {})]
        for name, load in ways.items()
    }
    found["pickles"] = {
        name: [_error_of(ways[way], name, trust_remote_code=True) for way in ("model", "pipeline")] for name in pickles
    }
    return found, tensors


def remote_again(sources: dict, video: str, question: str) -> tuple[dict, dict]:
    """Loads `sources`, a dict of name → (source, options), with trust."""
    found: dict[str, Any] = {"sources": {}}
    tensors = {}
    for name, (source, options) in sources.items():
        facts, made = load_all(source, video, question, trust_remote_code=True, **options)
        found["sources"][name] = facts
        tensors |= {f"{name}/{key}": tensor for key, tensor in made.items()}
    found["imported"] = sorted(name for name in sys.modules if name.partition(".")[0] == "dynfocus")
    found["modules"] = sorted(name for name in sys.modules if name.startswith("transformers_modules."))
    return found, tensors


def remote_answers(sources: list[str], video: str, question: str) -> tuple[dict, dict]:
    """What pipelines made of `sources`, with trust, answer."""
    from transformers import pipeline

    return {
        name: pipeline("video-qa", model=name, trust_remote_code=True)(video, question=question) for name in sources
    }, {}


def installed(sources: dict, failures: dict, video: str, question: str) -> tuple[dict, dict]:
    """Loads `sources` with the package and without trust; and reports how the command refuses `failures`."""
    import dynfocus  # noqa: F401

    found: dict[str, Any] = {"sources": {}}
    tensors = {}
    for name, (source, options) in sources.items():
        facts, made = load_all(source, video, question, **options)
        found["sources"][name] = facts
        tensors |= {f"{name}/{key}": tensor for key, tensor in made.items()}
    found["modules"] = sorted(name for name in sys.modules if name.startswith("transformers_modules"))
    found["failures"] = {name: failure(**arguments)[0] for name, arguments in failures.items()}
    return found, tensors


def installed_pushes(model: str, folder: str, pushed: str) -> tuple[dict, dict]:
    """Pushes `model` with the package, in all the ways that transformers has."""
    from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments, pipeline

    import dynfocus  # noqa: F401

    loaded, processor = AutoModelForImageTextToText.from_pretrained(model), AutoProcessor.from_pretrained(model)
    settings = TrainingArguments(folder, hub_model_id=f"{pushed}-by-trainer", report_to=[], use_cpu=True)
    Trainer(loaded, settings, processing_class=processor).push_to_hub()
    pipeline("video-qa", model=model).push_to_hub(f"{pushed}-by-pipeline")
    loaded.push_to_hub(f"{pushed}-by-parts")
    processor.push_to_hub(f"{pushed}-by-parts")
    for part in (loaded, processor):
        part.save_pretrained(f"{folder}/saved", push_to_hub=True, repo_id=f"{pushed}-by-saving")
    for name, part in {"config": loaded.config, "processor": processor, "video": processor.video_processor}.items():
        part.save_pretrained(f"{folder}/{name}", push_to_hub=True, repo_id=f"{pushed}-{name}")
    return {}, {}


def remote_training(model: str, video: str, question: str, folder: str, pushed: str) -> tuple[dict, dict]:
    """Trains `model` for two steps with `Trainer`: its checkpoint in `folder`, and pushes of the result."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments, pipeline
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    trust = {"trust_remote_code": True}
    trained = AutoModelForImageTextToText.from_pretrained(model, **trust)
    processor = AutoProcessor.from_pretrained(model, **trust)
    collator = get_class_from_dynamic_module("collator.DynFocusCollator", model)(processor)
    settings = TrainingArguments(
        folder,
        hub_model_id=f"{pushed}-by-trainer",
        learning_rate=0.01,
        max_steps=2,
        per_device_train_batch_size=2,
        remove_unused_columns=False,
        report_to=[],
        save_steps=2,
        seed=0,
        use_cpu=True,
    )
    rows = [{"video": video, "question": question, "answer": answer} for answer in ("four", "seven")] * 2
    trainer = Trainer(trained, settings, data_collator=collator, train_dataset=rows, processing_class=processor)
    trainer.train()
    trainer.push_to_hub()
    trained.push_to_hub(f"{pushed}-by-parts")
    processor.push_to_hub(f"{pushed}-by-parts")
    pipeline("video-qa", model=f"{folder}/checkpoint-2", **trust).push_to_hub(f"{pushed}-by-pipeline")

    inputs = processor(text=f"<video>\n{question}", videos=video, return_tensors="pt")
    with torch.no_grad():
        logits = trained.eval()(**inputs).logits
    sources = {
        "checkpoint": (f"{folder}/checkpoint-2", {}),
        "by trainer": (f"{pushed}-by-trainer", {}),
        "by pipeline": (f"{pushed}-by-pipeline", {}),
    }
    found, tensors = remote_again(sources, video, question)
    found["losses"] = [entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry]
    return found, {**tensors, "trained/logits": logits}


def remote_adapter(model: str, video: str, question: str, folder: str, adapter: str) -> tuple[dict, dict]:
    """A LoRA adapter of `model`, saved to `folder` and pushed as `adapter`, and all ways to load it again."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

    trust = {"trust_remote_code": True}

    def base():
        return AutoModelForImageTextToText.from_pretrained(model, **trust)

    processor = AutoProcessor.from_pretrained(model, **trust)
    inputs = processor(text=f"<video>\n{question}", videos=video, return_tensors="pt")
    torch.manual_seed(0)
    # As it starts, an adapter changes nothing.
    settings = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = get_peft_model(base(), settings).eval()
    adapted.save_pretrained(folder)
    adapted.push_to_hub(adapter)
    merged = get_peft_model(base(), settings)
    merged.load_state_dict(adapted.state_dict())
    merged = merged.merge_and_unload().eval()
    merged.save_pretrained(f"{folder}/merged")
    processor.save_pretrained(f"{folder}/merged")
    pipes = {name: pipeline("video-qa", model=name, **trust) for name in (folder, adapter)}
    merged_pipe = pipeline("video-qa", model=f"{folder}/merged", **trust)
    models = {
        "base": base(),
        "adapted": adapted,
        "by peft": PeftModel.from_pretrained(base(), folder),
        "by peft, from the Hub": PeftModel.from_pretrained(base(), adapter),
        "by transformers": AutoModelForImageTextToText.from_pretrained(folder, **trust),
        "by pipeline": pipes[folder].model,
        "by pipeline, from the Hub": pipes[adapter].model,
        "merged": merged,
        "merged, by pipeline": merged_pipe.model,
    }
    with torch.no_grad():
        tensors = {name: one.eval()(**inputs).logits for name, one in models.items()}
    settings = json.loads(Path(folder, "adapter_config.json").read_text(encoding="utf-8"))
    found = {
        "base": settings["base_model_name_or_path"],
        "answers": [pipe(video, question=question) for pipe in (*pipes.values(), merged_pipe)],
        "imported": sorted(name for name in sys.modules if name.partition(".")[0] == "dynfocus"),
    }
    return found, tensors


def failure(
    model: str, revision: str | None = None, token: str | None = None, full: str | None = None
) -> tuple[dict, dict]:
    """
    How `dynfocus ask --model` ends, with a token in the environment, and no room left for a file of the name `full`;
    and for how many seconds it would have waited.
    """
    import time

    from huggingface_hub import constants

    from dynfocus.cli.loading import load_pipeline
    from dynfocus.cli.terminal import quiet

    os.environ.pop("HF_TOKEN", None)
    if token is not None:
        os.environ["HF_TOKEN"] = token
    waited: list[float] = []
    sleep, time.sleep = time.sleep, waited.append
    found: dict[str, Any] = {"error": None, "says": "", "chain": []}
    try:
        with quiet(), _full_disk(full):
            load_pipeline(model, None, None, revision, False)
    except Exception as error:
        found = {"error": type(error).__name__, "says": str(error), "chain": _chain(error)}
    finally:
        time.sleep = sleep
    parts = [path.name for path in Path(constants.HF_HUB_CACHE).rglob("*.incomplete")]
    return {**found, "waited": sum(waited), "unfinished": parts}, {}


def commands(steps: list[dict]) -> tuple[dict, dict]:
    """Runs the command line once a step, a dict of `name`, `token` and `command`; and what each leaves in `TMPDIR`."""
    import os
    import tempfile
    import time

    from typer.testing import CliRunner

    from dynfocus.cli.app import app

    time.sleep = lambda seconds: None  # between one try and the next
    found = {}
    for step in steps:
        os.environ.pop("HF_TOKEN", None)
        if step["token"] is not None:
            os.environ["HF_TOKEN"] = step["token"]
        done = CliRunner().invoke(app, step["command"])
        left = sorted(path.name for path in Path(tempfile.gettempdir()).iterdir())
        found[step["name"]] = {"code": done.exit_code, "stdout": done.stdout, "stderr": done.stderr, "left": left}
    return found, {}


@contextlib.contextmanager
def _full_disk(name: str | None):
    """The disk has no room for a download of the file `name`."""
    import errno

    from huggingface_hub import file_download

    download = file_download.http_get

    def http_get(url, temp_file, **kwargs):
        if name is not None and url.endswith(f"/{name}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return download(url, temp_file, **kwargs)

    file_download.http_get = http_get
    try:
        yield
    finally:
        file_download.http_get = download


def _error_of(load: Callable, *args: Any, **kwargs: Any) -> dict:
    """The error with which `load` ends, and what was printed; a question is answered with no."""
    printed, stdin = io.StringIO(), sys.stdin
    sys.stdin = io.StringIO("n\n")
    try:
        with contextlib.redirect_stdout(printed):
            load(*args, **kwargs)
    except Exception as error:
        return {"error": type(error).__name__, "says": str(error), "printed": printed.getvalue()}
    finally:
        sys.stdin = stdin
    return {"error": None, "says": "", "printed": printed.getvalue()}


def _chain(error: BaseException | None) -> list[str]:
    chain = []
    while error is not None:
        chain.append(f"{type(error).__module__}.{type(error).__name__}: {str(error)[:1500]}")
        error = error.__cause__ or error.__context__
    return chain


def main(part: str, out: str) -> None:
    if part.startswith("remote"):
        from without_package import NotInstalled

        sys.meta_path.insert(0, NotInstalled)
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    found, tensors = globals()[part](**json.load(sys.stdin))
    save_file(tensors, f"{out}/{part}.safetensors")
    Path(out, f"{part}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
