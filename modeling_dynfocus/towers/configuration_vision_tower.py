"""Configuration of the vision tower: one vision encoder of transformers or open_clip, and which layer to use."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .open_clip_trunk import VisionGeometry, open_clip_geometry, open_clip_model_config, open_clip_normalization

_CLIP_NORMALIZATION = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
_HALF_NORMALIZATION = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
_IMAGENET_NORMALIZATION = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@strict
class VisionTowerConfig(PreTrainedConfig):
    r"""
    Configuration of a [`VisionTower`], which turns frames `(N, 3, H, W)` into patch features `(N, P, D)`.

    Exactly one encoder is configured: either `backbone_config`, or `open_clip_model` / `open_clip_config`. With
    neither, the backbone is transformers' default SigLIP vision model (ViT-B/16, 224 pixels).

    Args:
        backbone_config (`PreTrainedConfig` or `dict`, *optional*):
            Config of a vision transformer of transformers (CLIP, SigLIP, DINOv2, ViT, InstructBLIP's EVA-ViT-g, …). If
            it has a `vision_config` (a whole CLIP, SigLIP or InstructBLIP), only that part is used. A `dict` must hold
            `model_type`.
        open_clip_model (`str`, *optional*):
            A name in open_clip's model list (`"EVA02-L-14-336"`), `"hf-hub:…"` or `"local-dir:…"`. Read once, when
            the config is made; from then on `open_clip_config` describes the model.
        open_clip_config (`dict`, *optional*):
            open_clip's model description (`embed_dim`, `vision_cfg`, `quick_gelu`). Filled from `open_clip_model`.
        open_clip_shape (`dict`, *optional*):
            `hidden_size`, `image_size`, `grid_size`, `num_layers` of the open_clip model. Filled by looking at the
            model once, and saved, so that a saved config can be read without open_clip.
        feature_layer (`int`, *optional*, defaults to -2):
            The layer whose output is used, as an index into `hidden_states`: 0 is the embedding, -1 the last layer.
            Layers above it are neither built nor run. The encoder's final norm is applied for the last layer only,
            and only if the encoder itself applies it in its `last_hidden_state` (transformers' CLIP does not).
        frames_per_chunk (`int`, *optional*, defaults to 32):
            How many frames are encoded at a time; it bounds the memory and does not change the result.
        trainable (`bool`, *optional*, defaults to `False`):
            Whether gradients reach the encoder. Otherwise it stays in eval mode and runs without gradients.
        image_mean, image_std (`list[float]`, *optional*):
            Per-channel normalisation of the frames. Defaults to that of the encoder family's training: CLIP's for
            CLIP, open_clip and InstructBLIP; 0.5 for SigLIP; ImageNet's for the others.

    Raises:
        ValueError: if both kinds of encoder are given, the encoder has no fixed square patch grid, the layer does not
            exist, or `frames_per_chunk` is below 1.
    """

    model_type = "dynfocus_vision_tower"
    base_config_key = "vision_config"
    sub_configs = {"backbone_config": AutoConfig}

    backbone_config: dict[str, Any] | PreTrainedConfig | None = None
    open_clip_model: str | None = None
    open_clip_config: dict[str, Any] | None = None
    open_clip_shape: dict[str, Any] | None = None
    feature_layer: int = -2
    frames_per_chunk: int = 32
    trainable: bool = False
    image_mean: list[float] | tuple[float, ...] | None = None
    image_std: list[float] | tuple[float, ...] | None = None

    def __post_init__(self, **kwargs):
        is_open_clip = self.open_clip_model is not None or self.open_clip_config is not None
        if is_open_clip and self.backbone_config is not None:
            raise ValueError(
                f"VisionTowerConfig got both backbone_config and open_clip_model={self.open_clip_model!r}; "
                "give one of the two."
            )
        if is_open_clip:
            self.open_clip_config = open_clip_model_config(self.open_clip_model, self.open_clip_config)
            if self.open_clip_shape is None:
                shape = open_clip_geometry(self.open_clip_config)._asdict()
                # A list, as JSON returns it: a configuration that is saved and loaded must compare equal.
                self.open_clip_shape = {**shape, "grid_size": list(shape["grid_size"])}
        else:
            self.backbone_config = vision_config_of(self.backbone_config)
        if self.image_mean is None or self.image_std is None:
            mean, std = self._default_normalization()
            self.image_mean = list(mean if self.image_mean is None else self.image_mean)
            self.image_std = list(std if self.image_std is None else self.image_std)
        self._check()
        super().__post_init__(**kwargs)

    @property
    def is_open_clip(self) -> bool:
        """Whether the encoder comes from open_clip rather than from transformers."""
        return self.open_clip_config is not None

    @property
    def geometry(self) -> VisionGeometry:
        """Width, input side, patch grid and number of layers of the encoder."""
        if self.open_clip_shape is not None:
            return VisionGeometry(**{**self.open_clip_shape, "grid_size": tuple(self.open_clip_shape["grid_size"])})
        backbone = vision_config_of(self.backbone_config)
        image = _height_and_width(getattr(backbone, "image_size", None))
        patch = _height_and_width(getattr(backbone, "patch_size", None))
        if image is None or patch is None or image[0] != image[1]:
            raise ValueError(
                f"The vision model {backbone.model_type!r} has no fixed square input (image size {image}, patch size "
                f"{patch}); use one that has, such as clip_vision_model, siglip_vision_model or dinov2."
            )
        return VisionGeometry(
            hidden_size=backbone.hidden_size,
            image_size=image[0],
            grid_size=(image[0] // patch[0], image[1] // patch[1]),
            num_layers=backbone.num_hidden_layers,
        )

    @property
    def hidden_size(self) -> int:
        """D, the width of a patch feature."""
        return self.geometry.hidden_size

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return self.geometry.image_size

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches of a frame as (rows, columns)."""
        return self.geometry.grid_size

    @property
    def num_patches(self) -> int:
        """P, the number of patches of a frame."""
        rows, columns = self.geometry.grid_size
        return rows * columns

    @property
    def num_layers_run(self) -> int:
        """How many of the encoder's layers are built and run to get `feature_layer`."""
        num_layers = self.geometry.num_layers
        return self.feature_layer if self.feature_layer >= 0 else num_layers + 1 + self.feature_layer

    @property
    def uses_last_layer(self) -> bool:
        """Whether `feature_layer` is the encoder's last layer, after which its final norm is applied."""
        return self.num_layers_run == self.geometry.num_layers

    def _default_normalization(self) -> tuple[list[float], list[float]]:
        if self.open_clip_config is not None:
            return open_clip_normalization(self.open_clip_config) or _CLIP_NORMALIZATION
        model_type = vision_config_of(self.backbone_config).model_type
        if "siglip" in model_type:
            return _HALF_NORMALIZATION
        return _CLIP_NORMALIZATION if "clip" in model_type or "blip" in model_type else _IMAGENET_NORMALIZATION

    def _check(self) -> None:
        if self.frames_per_chunk < 1:
            raise ValueError(f"frames_per_chunk must be at least 1, but is {self.frames_per_chunk}.")
        num_layers = self.geometry.num_layers
        if not -(num_layers + 1) <= self.feature_layer <= num_layers:
            raise ValueError(
                f"feature_layer={self.feature_layer} does not exist in a vision model of {num_layers} selectable "
                f"layers; take one from {-(num_layers + 1)} to {num_layers}."
            )


def vision_config_of(config: dict[str, Any] | PreTrainedConfig | None) -> PreTrainedConfig:
    """The vision part of `config`: its `vision_config` if it has one, otherwise itself; `None` gives SigLIP's default.

    Raises:
        ValueError: if a `dict` does not name its `model_type`.
    """
    if config is None:
        config = {"model_type": "siglip_vision_model"}
    if isinstance(config, dict):
        if "model_type" not in config:
            raise ValueError(
                "backbone_config must name its model_type (for example 'clip_vision_model'), but holds only "
                f"{sorted(config)}."
            )
        config = AutoConfig.for_model(**config)
    return getattr(config, "vision_config", config)


def _height_and_width(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


__all__ = ["VisionTowerConfig"]
