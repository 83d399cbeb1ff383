"""A model of open_clip as a dual encoder."""

from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from ..hub.load_errors import unusable
from .dual_encoder import OPEN_CLIP, DualEncoder
from .open_clip_trunk import import_open_clip


class OpenClipEncoder(DualEncoder):
    """A whole open_clip model and its tokenizer; frames are processed by the settings in its `preprocess_cfg`."""

    def __init__(self, name: str, model: Any, tokenizer: Any):
        self.tokenizer = tokenizer
        settings = dict(model.visual.preprocess_cfg)
        height, width = settings["size"] if not isinstance(settings["size"], int) else (settings["size"],) * 2
        self.target, self.settings = (int(height), int(width)), settings
        # In the form of transformers' image processors.
        squashed = settings["resize_mode"] == "squash"
        size = {"height": height, "width": width} if squashed else {"shortest_edge": max(height, width)}
        super().__init__(
            name,
            model,
            text_settings={"max_tokens": tokenizer.context_length},
            pixel_settings={**settings, "size": size, "crop_size": [height, width]},
        )

    def _pixels(self, frames: Tensor) -> dict[str, Tensor]:
        mode, sides = self.settings["resize_mode"], frames.shape[-2:]
        ratios = [side / wanted for side, wanted in zip(sides, self.target, strict=True)]
        size = list(self.target)
        if mode == "longest":
            size = [round(side / max(ratios)) for side in sides]
        elif mode == "shortest" and self.target[0] == self.target[1]:
            size = size[:1]  # the shorter side
        elif mode == "shortest":
            size = [round(side / min(ratios)) for side in sides]
        # On uint8, like the PIL images of training.
        frames = tvf.resize(frames, size, InterpolationMode(self.settings["interpolation"]), antialias=True)
        transform = import_open_clip(".transform")
        frames = transform.center_crop_or_pad(frames, self.target, fill=self.settings["fill_color"])
        values = tvf.to_dtype(frames, torch.float32, scale=True)
        return {"image": tvf.normalize(values, list(self.settings["mean"]), list(self.settings["std"]))}

    @torch.no_grad()
    def _image_features(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.model.encode_image(**inputs)  # type: ignore[operator]

    def _tokens(self, texts: list[str]) -> dict[str, Tensor]:
        return {"input_ids": self.tokenizer(texts).to(self.device)}

    @torch.no_grad()
    def _text_features(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.model.encode_text(inputs["input_ids"])  # type: ignore[operator]

    def _num_tokens(self, text: str) -> int:
        if isinstance(self.tokenizer, import_open_clip().SimpleTokenizer):
            return len(self.tokenizer.encode(text)) + 2
        return len(self.tokenizer.tokenizer(self.tokenizer.clean_fn(text), padding=False, verbose=False)["input_ids"])


def load_open_clip_encoder(
    source: str, device: torch.device, dtype: torch.dtype, *, revision: str | None = None, **hub: Any
) -> OpenClipEncoder:
    """The encoder of `"open_clip:…"`; for the arguments see [`DualEncoder.from_pretrained`]."""
    open_clip = import_open_clip()
    unused = [key for key, value in {"revision": revision, **hub}.items() if value is not None and key != "cache_dir"]
    if unused:
        raise ValueError(f"open_clip takes no {' and no '.join(unused)}: leave it out for {source!r}.")
    name, tag = source.removeprefix(OPEN_CLIP), None
    if not name.startswith(("hf-hub:", "local-dir:")):
        name, _, tag = name.partition("/")
        if not tag:
            tags = open_clip.list_pretrained_tags_by_model(name)
            known = f"such as {OPEN_CLIP}{name}/{tags[0]}" if tags else "see open_clip.list_pretrained()"
            raise ValueError(f"{source!r} does not name pretrained weights: write {OPEN_CLIP}NAME/TAG, {known}.")
    subject = f"{source!r} cannot be used as dual encoder"
    try:
        # Checkpoints are read as safetensors or with torch's weights_only, which is open_clip's default.
        model = open_clip.create_model(
            name, pretrained=tag, pretrained_hf=False, require_pretrained=True, cache_dir=hub.get("cache_dir")
        )
        tokenizer = open_clip.get_tokenizer(name, cache_dir=hub.get("cache_dir"))
    except UnpicklingError as error:
        raise unusable(
            subject, ValueError("its weights are a pickle, which may run code when it is loaded")
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise unusable(subject, error) from error
    # timm's tables are used together with the weights, so they need the same dtype.
    nn.Module.to(model, device=device, dtype=dtype)
    return OpenClipEncoder(source, model, tokenizer)


__all__ = ["OpenClipEncoder", "load_open_clip_encoder"]
