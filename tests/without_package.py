"""
Loads a saved folder where the package cannot be imported: run by `test_remote_code.py` in a process of its own.

Usage: python without_package.py FOLDER VIDEO QUESTION OUT
"""

import json
import sys
from pathlib import Path


class NotInstalled:
    """Stands before all other finders, that of an editable install included."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("dynfocus", "processing", "modeling_dynfocus", "eval", "training", "cli"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main(folder: str, video: str, question: str, out: str) -> None:
    sys.meta_path.insert(0, NotInstalled)

    import torch
    from safetensors.torch import save_file
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForImageTextToText,
        AutoModelForMultimodalLM,
        AutoProcessor,
        AutoVideoProcessor,
        pipeline,
    )

    torch.set_num_threads(1)
    trust = {"trust_remote_code": True}
    found: dict = {"config": AutoConfig.from_pretrained(folder, **trust).to_dict()}

    model = AutoModelForImageTextToText.from_pretrained(folder, **trust)
    processor = AutoProcessor.from_pretrained(folder, **trust)
    inputs = processor(text=f"<video>\n{question}", videos=video, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
        hidden = AutoModel.from_pretrained(folder, **trust)(**inputs).last_hidden_state
    pixels = AutoVideoProcessor.from_pretrained(folder, **trust)(video, return_tensors="pt")["pixel_values_videos"]
    save_file({"logits": logits, "hidden": hidden, "pixels": pixels}, f"{out}/tensors.safetensors")

    pipe = pipeline("video-qa", model=folder, **trust)
    found["answer"] = pipe(video, question=question)
    # The model's code and the processor's are loaded apart, so a state must be known across them.
    found["by_state"] = pipe(pipe.encode_video(video), question=question)
    model.save_pretrained(f"{out}/by_parts")
    processor.save_pretrained(f"{out}/by_parts")
    pipe.save_pretrained(f"{out}/by_pipeline")
    for name in ("by_parts", "by_pipeline"):
        found[name] = pipeline("video-qa", model=f"{out}/{name}", **trust)(video, question=question)

    found["classes"] = {
        "AutoModelForImageTextToText": type(model).__name__,
        "AutoModelForMultimodalLM": type(AutoModelForMultimodalLM.from_pretrained(folder, **trust)).__name__,
        "AutoProcessor": type(processor).__name__,
        "pipeline": type(pipe).__name__,
    }
    found["modules"] = sorted({type(one).__module__.partition(".")[0] for one in (model, processor, pipe)})
    found["imported"] = sorted(name for name in sys.modules if name.partition(".")[0] == "dynfocus")
    Path(out, "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
