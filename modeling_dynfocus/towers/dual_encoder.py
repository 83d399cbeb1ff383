"""The dual encoder: any CLIP-like model of transformers or open_clip, which maps frames and texts to unit vectors."""

import os
import re
from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
from transformers.utils import logging

from ..adapters import refuse_adapter
from ..hub.folder_check import check_folder
from ..hub.load_errors import unusable
from ..loaded_weights import check_layers, check_size
from ..states.fingerprint import model_fingerprint, settings_digest, with_pixel_settings
from .dual_encoder_check import warn_unless_it_knows_shapes

DEFAULT_DUAL_ENCODER = "google/siglip2-base-patch16-224"
OPEN_CLIP = "open_clip:"

_FRAMES_PER_CHUNK = 32
_TEXTS_PER_CHUNK = 64
_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "subfolder")
_PIXEL_SETTINGS = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_pad", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std", "max_num_patches", "patch_size"),
)
# These were trained on lower-case texts of full length: no start token, an end token also on texts that are cut, and
# unmasked padding on the right.
_FULL_ROW = ("siglip", "siglip2")
# Their positions start after the position of the padding token.
_OFFSET_POSITIONS = ("altclip",)
# The end of a sentence; Chinese and Japanese have no space after it.
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])\s*|\n+")


class DualEncoder:
    """
    Maps frames and texts into one space: the better a text fits a frame, the larger the product of their vectors.

    Frames are processed by the settings of the checkpoint's image processor; case, length and padding of texts are
    those of the model's training. Made by [`DualEncoder.from_pretrained`].
    """

    #: A model of transformers or of open_clip.
    tokenizer: Any

    def __init__(self, name: str, model: nn.Module, text_settings: dict[str, Any], pixel_settings: dict[str, Any]):
        self.name = name
        self.model = model.requires_grad_(False).eval()
        self._text_settings, self._pixel_settings = text_settings, pixel_settings
        self._fingerprint: str | None = None
        image, text = self._image_features(self._blank()), self._text_features(self._tokens(["a"]))
        if image.ndim != 2 or image.shape != text.shape:
            raise ValueError(
                f"{name!r} cannot be used as dual encoder: it returns {_shape(image)} numbers for a frame and "
                f"{_shape(text)} for a text, which cannot be compared."
            )
        #: D, the length of a vector.
        self.width: int = image.shape[1]

    @classmethod
    def from_pretrained(
        cls,
        name: str | PathLike[str] = DEFAULT_DUAL_ENCODER,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        revision: str | None = None,
        **hub: Any,
    ) -> "DualEncoder":
        """
        Load a dual encoder, and test once whether it recognizes a few drawn shapes, with a warning if it does not.

        Args:
            name: Hub id or folder of a model of transformers with `get_image_features` and `get_text_features` (CLIP,
                SigLIP, SigLIP 2, MetaCLIP 2, AltCLIP, ChineseCLIP, …); or one of open_clip: `"open_clip:NAME/TAG"`,
                `"open_clip:hf-hub:…"` or `"open_clip:local-dir:…"`. Weights of transformers are read from safetensors
                only, those of open_clip also with torch's `weights_only`.
            device: by default the first CUDA device, else the CPU.
            dtype: dtype of the weights; by default float16 on a CUDA device, else float32.
            revision: branch, tag or commit on the Hub.
            **hub: `cache_dir`, `force_download`, `local_files_only`, `token`, `subfolder` as in transformers'
                `from_pretrained`; open_clip takes only `cache_dir`.

        Raises:
            OSError: the model or its weights cannot be found.
            ValueError: it is no dual encoder, or its weights are not complete or not finite.
            ImportError: open_clip is not installed.
            TypeError: a keyword is unknown.
        """
        name = str(name)
        unknown = sorted(set(hub) - set(_HUB_ARGUMENTS))
        if unknown:
            raise TypeError(f"Unknown keyword of DualEncoder.from_pretrained: {', '.join(unknown)}.")
        target = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
        chosen = _dtype(dtype, target)
        encoder: DualEncoder
        if name.startswith(OPEN_CLIP):
            from .open_clip_dual_encoder import load_open_clip_encoder

            encoder = load_open_clip_encoder(name, target, chosen, revision=revision, **hub)
        else:
            encoder = _TransformersEncoder.load(name, target, chosen, revision=revision, **hub)
        bad = next((key for key, value in encoder.model.named_parameters() if not value.isfinite().all()), None)
        if bad is not None:
            raise ValueError(f"Weights of the dual encoder {name!r} are not finite, first {bad}: load another copy.")
        warn_unless_it_knows_shapes(encoder)
        return encoder

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights. Vectors are always float32."""
        return next(self.model.parameters()).dtype

    @property
    def max_tokens(self) -> int:
        """How many tokens of a text the model can take, start and end tokens included."""
        return self._text_settings["max_tokens"]

    @property
    def size(self) -> int | tuple[int, int] | None:
        """
        The size in pixels at which frames are encoded: `(height, width)`, or the length of the shorter side.

        Frames may be shrunk to it while they are decoded. `None` if the checkpoint does not resize frames.
        """
        settings = self._pixel_settings
        if settings.get("max_num_patches"):
            return round(settings["max_num_patches"] ** 0.5) * settings["patch_size"]
        size = settings.get("size") or {}
        if not settings.get("do_resize", True):
            return None
        return size.get("shortest_edge") or ((size["height"], size["width"]) if size.get("height") else None)

    def fingerprint(self) -> str:
        """
        Fingerprint of the weights and of the pixel and text settings, for [`states.fingerprint.difference`].

        It does not depend on the precision of the weights, except for rounding, which `difference` allows.
        """
        if self._fingerprint is None:
            # The tokens of a text identify a tokenizer better than its class and files, which change with versions.
            settings = [self._text_settings, self._tokens(["A red circle, 2 of 3!"])["input_ids"].tolist()]
            pixels = settings_digest(self._pixel_settings)
            self._fingerprint = with_pixel_settings(model_fingerprint(self.model, settings), pixels)
        assert self._fingerprint is not None  # the pixel settings are known
        return self._fingerprint

    @torch.no_grad()
    def encode_images(self, frames: np.ndarray | Tensor) -> Tensor:
        """
        Frames `(n, h, w, 3)`, uint8 RGB → unit vectors `(n, D)`, float32, on the encoder's device.

        Raises:
            ValueError: for another shape or dtype, or if half precision is not enough for the model.
        """
        # Frames of a decoder may be read-only, of which torch warns.
        pixels = frames if isinstance(frames, Tensor) else torch.from_numpy(np.require(frames, requirements="W"))
        if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != torch.uint8:
            raise ValueError(
                f"encode_images takes uint8 frames of shape (n, height, width, 3), got {pixels.dtype} of shape "
                f"{tuple(pixels.shape)}."
            )
        found = [
            self._unit(self._image_features(self._cast(self._pixels(chunk.to(self.device).permute(0, 3, 1, 2)))))
            for chunk in pixels.split(_FRAMES_PER_CHUNK)
            if len(chunk)
        ]
        return torch.cat(found) if found else torch.empty(0, self.width, device=self.device)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """
        n texts → unit vectors `(n, D)`, float32, on the encoder's device.

        Texts longer than `max_tokens` are cut; see [`DualEncoder.split_text`].
        """
        if isinstance(texts, str):
            raise ValueError("encode_texts takes a list of texts, but got a single one: put it in a list.")
        found = [
            self._unit(self._text_features(self._tokens(list(texts[start : start + _TEXTS_PER_CHUNK]))))
            for start in range(0, len(texts), _TEXTS_PER_CHUNK)
        ]
        return torch.cat(found) if found else torch.empty(0, self.width, device=self.device)

    def split_text(self, text: str) -> list[str]:
        """
        Splits a text into parts that fit into `max_tokens`: itself if it fits, else its sentences, else halves of a
        sentence.

        Sentences are split between words, and a word is split only if it does not fit by itself. Empty parts are left
        out.
        """
        text = text.strip()
        if not text or self._num_tokens(text) <= self.max_tokens:
            return [text] if text else []
        parts = [part for part in _SENTENCE_END.split(text) if part.strip()]
        if len(parts) < 2:
            spaces = [match.start() for match in re.finditer(r"\s", text)]
            middle = min(spaces, key=lambda place: abs(place - len(text) // 2)) if spaces else len(text) // 2
            if middle == 0:  # a single character
                return [text]
            parts = [text[:middle], text[middle:]]
        return [piece for part in parts for piece in self.split_text(part)]

    def _unit(self, features: Tensor) -> Tensor:
        vectors = nn.functional.normalize(features.float(), dim=-1)
        if not bool(vectors.isfinite().all()):
            way_out = "load another copy" if self.dtype == torch.float32 else "load it with dtype=torch.float32"
            raise ValueError(f"The dual encoder {self.name!r} gives NaN in {self.dtype}: {way_out}.")
        return vectors

    def _cast(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            key: value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)
            for key, value in inputs.items()
        }

    def _blank(self) -> dict[str, Tensor]:
        """The inputs of one gray frame."""
        return self._cast(self._pixels(torch.full((1, 3, 64, 64), 128, dtype=torch.uint8, device=self.device)))

    # Steps that differ between the libraries.

    def _pixels(self, frames: Tensor) -> dict[str, Tensor]:
        """Frames `(n, 3, h, w)`, uint8 → the model's inputs."""
        raise NotImplementedError

    def _image_features(self, inputs: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError

    def _tokens(self, texts: list[str]) -> dict[str, Tensor]:
        """n texts → the model's inputs, cut and padded, on its device, with `input_ids`."""
        raise NotImplementedError

    def _text_features(self, inputs: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError

    def _num_tokens(self, text: str) -> int:
        """Number of tokens of the whole text, start and end tokens included."""
        raise NotImplementedError


class _TransformersEncoder(DualEncoder):
    def __init__(self, name: str, model: Any, image_processor: Any, tokenizer: Any):
        self.image_processor, self.tokenizer = image_processor, tokenizer
        self.full_row = model.config.model_type in _FULL_ROW
        if self.full_row and (tokenizer.eos_token_id is None or tokenizer.pad_token_id is None):
            raise ValueError(f"The tokenizer of {name!r} has no end or no padding token, which SigLIP's texts need.")
        settings = image_processor.to_dict()
        super().__init__(
            name,
            model,
            text_settings={"max_tokens": _max_tokens(model.config, tokenizer), "full_row": self.full_row},
            pixel_settings={key: settings[key] for key in _PIXEL_SETTINGS if settings.get(key) is not None},
        )

    @classmethod
    def load(cls, name: str, device: torch.device, dtype: torch.dtype, **hub: Any) -> "DualEncoder":
        try:
            refuse_adapter(name, hub)
            if os.path.isdir(name):
                check_folder(name)
            config = AutoConfig.from_pretrained(name, **hub)
            loader = _dual_class(config, name)
            check_size(name, config, transformers.AutoModel)
            verbosity = logging.get_verbosity()
            # Missing weights are checked below; additional ones are not needed.
            logging.set_verbosity_error()
            try:
                model, info = loader.from_pretrained(
                    name, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **hub
                )
            finally:
                logging.set_verbosity(verbosity)
            image_processor = AutoImageProcessor.from_pretrained(name, **hub)
            tokenizer = AutoTokenizer.from_pretrained(name, **hub)
        except Exception as error:  # whatever transformers does with what is in the folder
            raise unusable(f"{name!r} cannot be used as dual encoder", error, hub.get("revision")) from error
        if info["missing_keys"]:
            raise ValueError(
                f"The dual encoder {name!r} lacks {len(info['missing_keys'])} weights of a {type(model).__name__}, "
                f"such as {min(info['missing_keys'])}: choose a complete checkpoint."
            )
        check_layers(f"The dual encoder {name!r}", info["unexpected_keys"], model)
        try:
            return cls(name, model.to(device), image_processor, tokenizer)
        except (OSError, ValueError):
            raise
        except Exception as error:  # settings with which nothing can be encoded
            raise unusable(f"{name!r} cannot be used as dual encoder", error) from error

    def _pixels(self, frames: Tensor) -> dict[str, Tensor]:
        found = self.image_processor(list(frames), input_data_format="channels_first", return_tensors="pt")
        return {key: found[key] for key in self.image_processor.model_input_names if key in found}

    @torch.no_grad()
    def _image_features(self, inputs: dict[str, Tensor]) -> Tensor:
        return _pooled(self.model.get_image_features(**inputs), self.name)  # type: ignore[operator]

    def _tokens(self, texts: list[str]) -> dict[str, Tensor]:
        if not self.full_row:
            found = self.tokenizer(
                texts,
                padding=True,
                padding_side="right",
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            )
            return dict(found.to(self.device))
        # Built here, because the special tokens that SigLIP's tokenizers add depend on the version of transformers.
        rows = torch.full((len(texts), self.max_tokens), self.tokenizer.pad_token_id)
        for row, text in zip(rows, texts, strict=True):
            ids = [*self._plain_ids(text)[: self.max_tokens - 1], self.tokenizer.eos_token_id]
            row[: len(ids)] = torch.tensor(ids)
        return {"input_ids": rows.to(self.device)}

    @torch.no_grad()
    def _text_features(self, inputs: dict[str, Tensor]) -> Tensor:
        return _pooled(self.model.get_text_features(**inputs), self.name)  # type: ignore[operator]

    def _num_tokens(self, text: str) -> int:
        if self.full_row:
            return len(self._plain_ids(text)) + 1
        return len(self.tokenizer(text, verbose=False)["input_ids"])

    def _plain_ids(self, text: str) -> list[int]:
        return self.tokenizer(text.lower(), add_special_tokens=False, verbose=False)["input_ids"]


def _dual_class(config: Any, name: str) -> Any:
    """The class of transformers for a dual encoder's config."""
    kind = config.model_type
    way_out = f"choose a CLIP or SigLIP model, such as {DEFAULT_DUAL_ENCODER}"
    if type(config) not in transformers.MODEL_MAPPING:
        raise ValueError(f"transformers has no model class for a {kind}; {way_out}")
    found = transformers.MODEL_MAPPING[type(config)]
    image, text = (hasattr(found, f"get_{side}_features") for side in ("image", "text"))
    if image and text:
        return found
    if text and hasattr(found, "get_video_features"):
        raise ValueError(f"it is a {kind}, which compares texts with clips, not with frames; {way_out}")
    if image:
        raise ValueError(f"it is a {kind}, a language model that reads images or videos; {way_out}")
    if getattr(config, "image_size", None) is not None or "vision" in kind:
        raise ValueError(f"it is a {kind}, a vision model without a text side; {way_out}")
    raise ValueError(f"it is a {kind}, which takes no images; {way_out}")


def _max_tokens(config: Any, tokenizer: Any) -> int:
    text_config = config.get_text_config()
    positions = getattr(text_config, "max_position_embeddings", None) or tokenizer.model_max_length
    if config.model_type in _FULL_ROW:
        return positions
    if config.model_type in _OFFSET_POSITIONS:
        positions -= text_config.pad_token_id + 1
    return min(positions, tokenizer.model_max_length)


def _pooled(output: Any, name: str) -> Tensor:
    pooled = output if isinstance(output, Tensor) else getattr(output, "pooler_output", None)
    if pooled is None:
        raise ValueError(
            f"{name!r} cannot be used as dual encoder: it does not return one vector for a frame or a text."
        )
    return pooled


def _dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    if dtype is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"dtype must be float32, float16 or bfloat16, got {dtype!r}.")
    return found


def _shape(features: Tensor) -> str:
    return "×".join(str(length) for length in features.shape[1:])


__all__ = ["DEFAULT_DUAL_ENCODER", "OPEN_CLIP", "DualEncoder"]
