"""The vision tower: any encoder of transformers or open_clip, from frames `(N, 3, H, W)` to patches `(N, P, D)`."""

import copy
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.image_processing_base import ImageProcessingMixin
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple, logging

from .configuration_vision_tower import VisionTowerConfig, vision_config_of
from .open_clip_trunk import OpenClipTrunk, build_open_clip_visual, load_open_clip_visual

logger = logging.get_logger(__name__)

# Number of tokens before the patches, without registers, for known families; others may have none or one.
_CLASS_TOKENS = {
    "clip_vision_model": 1,
    "siglip_vision_model": 0,
    "dinov2": 1,
    "dinov2_with_registers": 1,
    "vit": 1,
    "deit": 2,
    "instructblip_vision_model": 1,
}
# The last layer is followed by a norm under one of these names, ...
_FINAL_NORMS = ("post_layernorm", "layernorm", "norm")
# ... which these families apply only to the pooled class token, and not in their `last_hidden_state`.
_UNNORMED_PATCHES = (
    "altclip_vision_model",
    "chinese_clip_vision_model",
    "clip_vision_model",
    "metaclip_2_vision_model",
    "mlcd_vision_model",
)
_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
_TOWER_ARGUMENTS = ("feature_layer", "frames_per_chunk", "trainable", "image_mean", "image_std")


class VisionTower(PreTrainedModel):
    r"""
    Any vision encoder: frames `(N, 3, H, W)` to patch features `(N, P, D)`, patches in row-major order.

    Class, distillation and register tokens are dropped. Only the layers up to `config.feature_layer` exist. Frames are
    encoded `config.frames_per_chunk` at a time, and moved to the weights' device and dtype by the chunk, so a long
    video may stay in host memory. Unless `config.trainable`, the tower is frozen, in eval mode and without gradients.

    Args:
        config ([`VisionTowerConfig`]): which encoder, and how it is used.
    """

    config_class = VisionTowerConfig
    config: VisionTowerConfig
    base_model_prefix = "vision_tower"
    main_input_name = "pixel_values"
    input_modalities: Any = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["VisionTower"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: VisionTowerConfig):
        super().__init__(config)
        self.backbone: Any
        if config.open_clip_config is not None:
            visual = build_open_clip_visual(config.open_clip_config)
            self.backbone = OpenClipTrunk(visual, config.num_layers_run, config.uses_last_layer)
        else:
            self.backbone = _trim(_model_class(config.backbone_config)._from_config(_cut_config(config)), config)
        self.post_init()
        # As one unit: otherwise processes with videos of different lengths would gather layers unequally often.
        self._no_split_modules = ["VisionTower"]
        self._freeze()

    @classmethod
    def from_backbone(cls, name_or_path: str | PathLike[str], **kwargs: Any) -> "VisionTower":
        """A tower with the pretrained weights of a vision checkpoint of transformers (a folder or Hub id).

        A whole CLIP, SigLIP or InstructBLIP checkpoint gives its vision part. The normalisation is read from the
        checkpoint's image processor if it has one.

        Args:
            name_or_path: the checkpoint.
            **kwargs: fields of [`VisionTowerConfig`] (`feature_layer`, `frames_per_chunk`, `trainable`, `image_mean`,
                `image_std`); everything else goes to the backbone's `from_pretrained` (`dtype`, `revision`, …).

        Raises:
            ValueError: if the checkpoint lacks weights of the vision model.
        """
        fields = {name: kwargs.pop(name) for name in _TOWER_ARGUMENTS if name in kwargs}
        hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
        backbone_config = vision_config_of(transformers.AutoConfig.from_pretrained(name_or_path, **hub))
        fields = {**_saved_normalization(name_or_path, hub), **fields}
        config = VisionTowerConfig(backbone_config=backbone_config, **fields)
        verbosity = logging.get_verbosity()
        # Weights above the layer and of other parts are not needed; missing ones are checked below.
        logging.set_verbosity_error()
        try:
            backbone, info = _model_class(backbone_config).from_pretrained(
                name_or_path,
                config=_cut_config(config),
                key_mapping={r"^(model\.)?(vision_model|vision_tower)\.(vision_model\.)?": ""},
                output_loading_info=True,
                **kwargs,
            )
        finally:
            logging.set_verbosity(verbosity)
        return cls._around(config, _trim(backbone, config), missing=info["missing_keys"], source=name_or_path)

    @classmethod
    def from_open_clip(
        cls,
        name: str,
        pretrained: str | None = None,
        *,
        dtype: torch.dtype | None = None,
        cache_dir: str | None = None,
        **kwargs: Any,
    ) -> "VisionTower":
        """A tower with the vision part of an open_clip model.

        Args:
            name: open_clip's model name, or `hf-hub:…` / `local-dir:…`, which include their weights.
            pretrained: open_clip's tag or the path of a checkpoint; `None` gives random weights.
            dtype: dtype of the weights; by default that of open_clip (float32).
            cache_dir: folder for open_clip's downloads.
            **kwargs: fields of [`VisionTowerConfig`].

        Raises:
            ImportError: if open_clip is not installed.
            ValueError: if open_clip does not know the model.
        """
        brings_weights = name.startswith(("hf-hub:", "local-dir:"))
        if pretrained is None and not brings_weights:
            tower = cls(VisionTowerConfig(open_clip_model=name, **kwargs))
        else:
            config = VisionTowerConfig(open_clip_model=name, **kwargs)
            visual, mean, std = load_open_clip_visual(name, pretrained, cache_dir)
            config.image_mean, config.image_std = kwargs.get("image_mean") or mean, kwargs.get("image_std") or std
            tower = cls._around(config, OpenClipTrunk(visual, config.num_layers_run, config.uses_last_layer))
        if dtype is not None:
            nn.Module.to(tower, dtype)
            tower.config.dtype = dtype
        return tower

    @classmethod
    def _around(
        cls, config: VisionTowerConfig, backbone: nn.Module, missing: Any = (), source: Any = None
    ) -> "VisionTower":
        with torch.device("meta"):
            tower = cls(config)
        missing = sorted(set(missing) & set(tower.backbone.state_dict()))
        if missing:
            raise ValueError(
                f"{source} lacks {len(missing)} weights of a {type(backbone).__name__}, such as {missing[0]}; "
                "is it a checkpoint of this vision model?"
            )
        tower.backbone = backbone
        tower.config.dtype = tower.dtype
        return tower.eval()

    def set_trainable(self, trainable: bool = True) -> None:
        """Freeze the tower, or train it; a trainable tower takes the mode of the next `train()`."""
        self.config.trainable = trainable
        self.requires_grad_(trainable)
        self.train(self.training)

    def train(self, mode: bool = True) -> "VisionTower":
        """As for any module, but a frozen tower stays in eval mode."""
        # from_pretrained replaces the parameters by new ones that require gradients, and then calls eval().
        self._freeze()
        return super().train(mode and self.config.trainable)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | Iterable[torch.Tensor],
        reduce: Callable[[BaseModelOutput], Any] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> Any:
        """Encode frames.

        Args:
            pixel_values (`torch.Tensor` of shape `(N, 3, H, W)`): normalised frames, H = W = `config.image_size`. With
                `reduce`, any number of such tensors.
            reduce (`Callable`, *optional*): called with the output for each of these tensors, so that they need not
                all be in memory. One call takes all tensors, because processes with sharded weights have to call the
                tower equally often for videos of any length.
            output_hidden_states, output_attentions (`bool`, *optional*): whether to return those of every layer, with
                class and register tokens, as the encoder returns them (open_clip encoders return none). The defaults
                are in the config.

        Returns:
            `BaseModelOutput`, or with `return_dict=False` a tuple: `last_hidden_state` `(N, P, D)` holds the patches
            of each frame in row-major order. With `reduce`, the tuple of its results.

        Raises:
            ValueError: if the frames have another shape, or the encoder's tokens do not fit its patch grid.
        """
        captured = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        captured = {name: getattr(self.config, name) if value is None else value for name, value in captured.items()}
        captured = {name: value for name, value in captured.items() if value is not False}
        if captured and isinstance(self.backbone, OpenClipTrunk):
            logger.warning_once("An open_clip encoder returns its patches alone: no hidden states, no attentions.")
        if reduce is None:
            return self._encode_all(pixel_values, captured)
        return tuple(reduce(self._encode_all(chunk, captured)) for chunk in pixel_values)

    def _encode_all(self, pixel_values: Any, captured: dict[str, Any]) -> BaseModelOutput:
        """Frames `(N, 3, H, W)`, as many at a time as the config says."""
        side = self.config.image_size
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != (3, side, side):
            raise ValueError(
                f"The vision tower takes frames of shape (N, 3, {side}, {side}), but got {tuple(pixel_values.shape)}; "
                f"set the video processor's size to {side}×{side} pixels."
            )
        if len(pixel_values) == 0:  # attention cannot reshape an empty batch
            shape = (0, self.config.num_patches, self.config.hidden_size)
            return BaseModelOutput(last_hidden_state=pixel_values.new_empty(shape, dtype=self.dtype))
        with_gradients = self.config.trainable and torch.is_grad_enabled()
        with torch.set_grad_enabled(with_gradients):
            chunks = (self._encode(chunk, captured) for chunk in pixel_values.split(self.config.frames_per_chunk))
            if with_gradients or len(pixel_values) <= self.config.frames_per_chunk:
                return joined_outputs(list(chunks))
            return self._filled_in(chunks, len(pixel_values))

    @staticmethod
    def _filled_in(chunks: Iterable[BaseModelOutput], num_frames: int) -> BaseModelOutput:
        """As `joined_outputs`, for an iterator: concatenating the patches would need twice the memory."""
        features, start, rest = torch.empty(0), 0, []
        for chunk in chunks:
            found: Any = chunk.last_hidden_state
            if start == 0:
                features = found.new_empty(num_frames, *found.shape[1:])
            features[start : start + len(found)] = found
            start += len(found)
            rest.append(BaseModelOutput(hidden_states=chunk.hidden_states, attentions=chunk.attentions))
        joined = joined_outputs(rest)
        return BaseModelOutput(features, hidden_states=joined.hidden_states, attentions=joined.attentions)

    def _encode(self, pixel_values: torch.Tensor, captured: dict[str, Any]) -> BaseModelOutput:
        """One chunk of frames `(n, 3, H, W)`, with patches `(n, P, D)`."""
        weight = next(self.backbone.parameters())
        # Weights that accelerate has offloaded are on meta until their own module runs.
        device = pixel_values.device if weight.is_meta else weight.device
        pixel_values = pixel_values.to(device=device, dtype=self.dtype)
        if isinstance(self.backbone, OpenClipTrunk):
            output = BaseModelOutput(last_hidden_state=self.backbone(pixel_values))
            allowed = {self.backbone.num_prefix_tokens}
        else:
            output = self.backbone(pixel_values, return_dict=True, **captured)
            backbone_config = self.backbone.config
            registers = getattr(backbone_config, "num_register_tokens", 0)
            class_tokens = _CLASS_TOKENS.get(backbone_config.model_type)
            allowed = {registers, registers + 1} if class_tokens is None else {registers + class_tokens}
        tokens: Any = output.last_hidden_state
        num_prefix_tokens = tokens.shape[1] - self.config.num_patches
        if tokens.ndim != 3 or num_prefix_tokens not in allowed:
            raise ValueError(
                f"The vision model returns tokens of shape {tuple(tokens.shape)}, but its {self.config.grid_size} "
                f"grid has {self.config.num_patches} patches, which may follow {sorted(allowed)} class and register "
                "tokens; it is not a plain vision transformer and cannot be used."
            )
        patches = tokens[:, num_prefix_tokens:]
        return BaseModelOutput(patches, hidden_states=output.hidden_states, attentions=output.attentions)

    def _freeze(self) -> None:
        """Turn off gradients of parts that are not trained; never turns them on."""
        for name, parameter in self.named_parameters():
            # DINOv2's mask token is used only in pretraining, and DDP waits for gradients of unused parameters.
            if not self.config.trainable or name.endswith("mask_token"):
                parameter.requires_grad_(False)

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        """Initialize every tensor of an open_clip trunk; transformers' models have their own initialisation."""
        super()._init_weights(module)
        known = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
        if not isinstance(module, known) and "Norm" not in type(module).__name__:
            for name, parameter in module.named_parameters(recurse=False):
                if "bias" in name:
                    init.zeros_(parameter)
                else:
                    init.normal_(parameter, std=0.02)
        # timm's rotary tables and key biases are not in any checkpoint.
        if module._non_persistent_buffers_set:
            if not hasattr(module, "init_non_persistent_buffers"):
                raise ImportError(
                    f"{type(module).__name__} of the installed timm cannot restore its tables: `pip install -U timm`."
                )
            module.init_non_persistent_buffers()


def joined_outputs(parts: Sequence[BaseModelOutput]) -> BaseModelOutput:
    """One output for the frames of all `parts`; what they lack, it lacks."""

    def of_layers(layers: list[Any]) -> Any:
        if layers[0] is None:
            return None
        return tuple(None if each[0] is None else torch.cat(each) for each in zip(*layers, strict=True))

    if len(parts) == 1:
        return parts[0]
    features: list[Any] = [part.last_hidden_state for part in parts]
    return BaseModelOutput(
        last_hidden_state=None if features[0] is None else torch.cat(features),
        hidden_states=of_layers([part.hidden_states for part in parts]),
        attentions=of_layers([part.attentions for part in parts]),
    )


def _model_class(config: Any) -> Any:
    """The class of transformers that is built from the vision config `config`."""
    if type(config) in transformers.MODEL_MAPPING:
        return transformers.MODEL_MAPPING[type(config)]
    # Vision parts such as InstructBLIP's are not in AutoModel's mapping.
    name = type(config).__name__.removesuffix("Config") + "Model"
    if not hasattr(transformers, name):
        raise ValueError(f"transformers has no model for the vision config {type(config).__name__}.")
    return getattr(transformers, name)


def _cut_config(config: VisionTowerConfig) -> PreTrainedConfig:
    """
    The backbone's config without the layers above the chosen one, and without parts that only pooling or masking
    needs.
    """
    cut = copy.deepcopy(vision_config_of(config.backbone_config))
    cut.num_hidden_layers = config.num_layers_run
    # Set even if the config lacks the field, because some versions of SigLIP read it.
    for name in ("vision_use_head", "use_mask_token"):
        setattr(cut, name, False)
    return cut


def _trim(backbone: Any, config: VisionTowerConfig) -> Any:
    """Remove from a backbone, in place, the pooler and a final norm that does not belong to the chosen layer."""
    children = dict(backbone.named_children())
    if "pooler" in children:
        backbone.pooler = None
    is_last = config.uses_last_layer and backbone.config.model_type not in _UNNORMED_PATCHES
    norms = [name for name in _FINAL_NORMS if name in children]
    if not is_last and not norms:
        raise ValueError(
            f"The final norm of {type(backbone).__name__} is not known, so layer {config.feature_layer} cannot be "
            "taken without it; use feature_layer=-1."
        )
    if not is_last:
        setattr(backbone, norms[0], nn.Identity())
    return backbone


def _saved_normalization(name_or_path: str | PathLike[str], hub: dict[str, Any]) -> dict[str, Any]:
    """`image_mean` and `image_std` of the checkpoint's image processor; empty if it has none."""
    try:
        saved, _ = ImageProcessingMixin.get_image_processor_dict(name_or_path, **hub)
    except OSError:
        return {}
    return {name: saved[name] for name in ("image_mean", "image_std") if saved.get(name) is not None}


__all__ = ["VisionTower", "joined_outputs"]
