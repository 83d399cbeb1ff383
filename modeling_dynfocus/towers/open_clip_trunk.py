"""
The vision trunk of an open_clip model, cut after a chosen layer, and all other uses of open_clip by the vision tower.

open_clip is imported only inside functions, so that only its own models need it.
"""

import copy
import difflib
import importlib
from typing import Any, NamedTuple

import torch
from torch import nn


class VisionGeometry(NamedTuple):
    """Width, input side in pixels, patch grid (rows, columns) and number of transformer layers of a vision encoder."""

    hidden_size: int
    image_size: int
    grid_size: tuple[int, int]
    num_layers: int


def import_open_clip(submodule: str = "") -> Any:
    """The module open_clip (or a submodule of it).

    Raises:
        ImportError: if it is missing; the message says what to install.
    """
    try:
        return importlib.import_module("open_clip" + submodule)
    except ImportError as error:
        raise ImportError("An open_clip vision tower needs open_clip: `pip install open_clip_torch`.") from error


def open_clip_model_config(name: str | None, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """What open_clip needs to build the vision part of a model: `embed_dim`, `vision_cfg`, `quick_gelu`.

    If `config` is given, it is used instead of looking up `name`. Weights are not requested, and patch dropout is off,
    because all patches of the grid are needed.

    Raises:
        ValueError: if open_clip does not know `name`, or `config` does not describe a vision model.
    """
    if config is None:
        open_clip = import_open_clip()
        config = open_clip.get_model_config(name)
        if config is None:
            near = difflib.get_close_matches(name or "", open_clip.list_models(), n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "see open_clip.list_models()."
            raise ValueError(f"open_clip has no model {name!r}; {hint}")
    if "embed_dim" not in config or "vision_cfg" not in config:
        raise ValueError(f"open_clip_config must hold embed_dim and vision_cfg, but holds only {sorted(config)}.")
    vision = {**config["vision_cfg"], "patch_dropout": 0.0}
    if vision.get("timm_model_name"):
        vision["timm_model_pretrained"] = False
    return {"embed_dim": config["embed_dim"], "vision_cfg": vision, "quick_gelu": config.get("quick_gelu", False)}


def open_clip_normalization(config: dict[str, Any]) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation if the architecture's family is known to differ from CLIP's, else `None`."""
    timm_name = config["vision_cfg"].get("timm_model_name") or ""
    return ([0.5] * 3, [0.5] * 3) if "siglip" in timm_name or "pe_core" in timm_name else None


def build_open_clip_visual(config: dict[str, Any]) -> nn.Module:
    """open_clip's vision module for `config` (of `open_clip_model_config`), with random weights."""
    # The public constructors build the text tower too, which can mean downloading a text model and its tokenizer.
    visual = import_open_clip(".model")._build_vision_tower(
        config["embed_dim"], copy.deepcopy(config["vision_cfg"]), quick_gelu=config["quick_gelu"]
    )
    if config["vision_cfg"].get("timm_model_name"):
        # timm takes the size from its own model name, which may differ from the one in `vision_cfg`.
        built = getattr(getattr(visual.trunk, "patch_embed", None), "img_size", None)
        if built is not None and tuple(built) != tuple(visual.image_size):
            visual.set_input_size(visual.image_size)
    if not next(visual.parameters()).is_meta:
        # The constructors have already initialized the weights; transformers must not do so again.
        for tensor in (*visual.parameters(), *visual.buffers()):
            tensor._is_hf_initialized = True
    return visual


def open_clip_geometry(config: dict[str, Any]) -> VisionGeometry:
    """Shape of the vision model that `config` (of `open_clip_model_config`) describes; allocates no weights."""
    with torch.device("meta"):
        visual = build_open_clip_visual(config)
        height, width = _pair(visual.image_size)
        if height != width:
            raise ValueError(f"The open_clip model takes {height}×{width} pixels, but only square input is supported.")
        num_layers = len(_blocks(visual))
        grid = _grid_size(visual)
        # The embedding is enough to find width and patches; a network without transformer layers runs as a whole.
        trunk = OpenClipTrunk(visual, num_layers=0, final_norm=False).eval()
        tokens = trunk(torch.empty(1, 3, height, width))
    if grid is None:
        side = round(tokens.shape[1] ** 0.5)
        grid = (side, side)
    return VisionGeometry(tokens.shape[-1], height, grid, num_layers)


class OpenClipTrunk(nn.Module):
    """An open_clip vision module cut after `num_layers` transformer layers: frames `(N, 3, H, W)` to `(N, L, D)`.

    The first `num_prefix_tokens` of the L tokens are class and register tokens, the rest are patches in row-major
    order. Pooling and projection are removed. Networks without transformer layers (ResNet, ConvNeXt, Swin) give
    their last feature map.

    Args:
        visual: what open_clip calls `model.visual`; it is changed in place.
        num_layers: how many transformer layers to keep.
        final_norm: whether to keep the norm after the last layer.
    """

    def __init__(self, visual: nn.Module, num_layers: int, final_norm: bool):
        super().__init__()
        self._checkpointing = False
        self.num_prefix_tokens = 0
        self.channels_last = False
        self.kind = _kind(visual)
        module: Any = visual
        if self.kind == "native":
            has_token_norm = module.attn_pool is None and not module.final_ln_after_pool
            module.transformer.resblocks = module.transformer.resblocks[:num_layers]
            module.proj = module.attn_pool = None
            module.output_tokens, module.pool_type = True, "none"
            if not (final_norm and has_token_norm):
                module.ln_post = nn.Identity()
            self.num_prefix_tokens = 1
        elif self.kind == "timm":
            module = module.trunk
            module.reset_classifier(0, "")
            self.channels_last = getattr(module, "output_fmt", "NCHW") == "NHWC"
            if _blocks(visual):
                module.blocks = module.blocks[:num_layers]
                module.fc_norm = nn.Identity()
                if not final_norm:
                    module.norm = nn.Identity()
                self.num_prefix_tokens = module.num_prefix_tokens
        else:
            module.attnpool = nn.Identity()
        self.trunk = module

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether activations are recomputed in the backward pass; transformers sets it by this name."""
        return self._checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        self._checkpointing = enable
        self.trunk.set_grad_checkpointing(enable)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Frames `(N, 3, H, W)` to tokens `(N, L, D)`."""
        if self.kind == "native":
            return self.trunk(pixel_values)[1]
        features = self.trunk.forward_features(pixel_values) if self.kind == "timm" else self.trunk(pixel_values)
        if features.ndim == 3:
            return features
        return features.flatten(1, 2) if self.channels_last else features.flatten(2).transpose(1, 2)


def load_open_clip_visual(
    name: str, pretrained: str | None, cache_dir: str | None = None
) -> tuple[nn.Module, list[float], list[float]]:
    """open_clip's vision module with pretrained weights, and the mean and standard deviation it was trained with.

    open_clip also builds the text tower, which is discarded.

    `pretrained` is a tag, a path, or `None` for `hf-hub:` and `local-dir:` names, which include their weights.
    """
    # Checkpoints are read as safetensors or with torch's weights_only, which is open_clip's default.
    model = import_open_clip().create_model(
        name, pretrained=pretrained, pretrained_hf=False, require_pretrained=True, cache_dir=cache_dir
    )
    preprocess = model.visual.preprocess_cfg
    return model.visual, list(preprocess["mean"]), list(preprocess["std"])


def _kind(visual: Any) -> str:
    if hasattr(visual, "transformer"):
        return "native"
    return "timm" if hasattr(visual, "trunk") else "resnet"


def _blocks(visual: Any) -> Any:
    """The transformer layers of an open_clip vision module; empty for networks without them."""
    kind = _kind(visual)
    if kind == "native":
        return visual.transformer.resblocks
    return getattr(visual.trunk, "blocks", []) if kind == "timm" and hasattr(visual.trunk, "num_prefix_tokens") else []


def _grid_size(visual: Any) -> tuple[int, int] | None:
    kind = _kind(visual)
    if kind == "native":
        return _pair(visual.grid_size)
    return _pair(visual.trunk.patch_embed.grid_size) if kind == "timm" and len(_blocks(visual)) else None


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


__all__ = [
    "OpenClipTrunk",
    "VisionGeometry",
    "build_open_clip_visual",
    "import_open_clip",
    "load_open_clip_visual",
    "open_clip_geometry",
    "open_clip_model_config",
    "open_clip_normalization",
]
