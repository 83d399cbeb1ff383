"""The vision tower: every encoder family through one matrix of properties, then what belongs to one family alone."""

import copy
import json
import sys

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipVisionModel,
    PreTrainedConfig,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from dynfocus.towers.configuration_vision_tower import VisionTowerConfig
from dynfocus.towers.open_clip_trunk import OpenClipTrunk, build_open_clip_visual
from dynfocus.towers.vision_tower import VisionTower

TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 8,
}
DINO = {**{k: v for k, v in TINY.items() if k != "intermediate_size"}, "mlp_ratio": 2}
NATIVE_OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 24, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16},
}
EVA02 = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 42,
        "timm_model_name": "eva02_tiny_patch14_224",
        "timm_pool": "token",
        "timm_proj": None,
    },
}
TIMM_SIGLIP = {
    "embed_dim": 192,
    "vision_cfg": {
        "image_size": 48,
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_pool": "avg",
        "timm_proj": "none",
    },
}
FAMILIES = {
    "clip": {"backbone_config": {"model_type": "clip_vision_model", **TINY}},
    "siglip": {"backbone_config": {"model_type": "siglip_vision_model", **TINY}},
    "dinov2": {"backbone_config": {"model_type": "dinov2", **DINO}},
    "dinov2_registers": {"backbone_config": {"model_type": "dinov2_with_registers", "num_register_tokens": 4, **DINO}},
    "vit": {"backbone_config": {"model_type": "vit", **TINY}},
    "instructblip": {"backbone_config": {"model_type": "instructblip_vision_model", **TINY}},
    "open_clip_native": {"open_clip_config": NATIVE_OPEN_CLIP},
    "open_clip_eva02": {"open_clip_config": EVA02},
    "open_clip_timm_vit": {"open_clip_config": TIMM_SIGLIP},
}
HF_FAMILIES = [name for name, fields in FAMILIES.items() if "backbone_config" in fields]
OPEN_CLIP_FAMILIES = [name for name in FAMILIES if name not in HF_FAMILIES]
# 2 of 3 layers, whatever the encoder's depth: eva02_tiny and vit_tiny have twelve.
SECOND_LAYER = 2


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_config(family, **fields):
    return VisionTowerConfig(**{"feature_layer": SECOND_LAYER, **copy.deepcopy(FAMILIES[family]), **fields})


def make_tower(family, **fields):
    torch.manual_seed(0)
    tower = VisionTower(make_config(family, **fields))
    with torch.no_grad():  # zeros and ones of a fresh model would hide mistakes
        for parameter in tower.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return tower.eval()


def make_frames(config, num_frames=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_frames, 3, config.image_size, config.image_size, generator=generator)


def same(first, second, tolerance=1e-5):
    torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)


def same_tower(first, second, frames):
    """Equal weights, and equal features up to what another memory alignment of the weights does to the sums."""
    state = first.state_dict()
    assert state.keys() == second.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in second.state_dict().items())
    same(first(frames).last_hidden_state, second(frames).last_hidden_state, 1e-6)


@pytest.mark.parametrize("family", HF_FAMILIES)
@torch.no_grad()
def test_hidden_states_and_attentions_are_the_encoders_own(family):
    tower = make_tower(family, frames_per_chunk=2)
    tower.set_attn_implementation("eager")
    frames = make_frames(tower.config, 5)
    plain = tower(frames)
    assert set(plain) == {"last_hidden_state"} and len(tower(frames, return_dict=False)) == 1
    found = tower(frames, output_hidden_states=True, output_attentions=True)
    expected = tower.backbone(frames, output_hidden_states=True, output_attentions=True)
    same(found.last_hidden_state, plain.last_hidden_state)
    assert len(found.hidden_states) == SECOND_LAYER + 1 and len(found.attentions) == SECOND_LAYER
    same(found.hidden_states, expected.hidden_states)
    same(found.attentions, expected.attentions)
    assert len(tower(frames, output_attentions=True, return_dict=False)) == 2
    tower.config.output_hidden_states = True
    assert tower(frames.split(3), lambda output: len(output.hidden_states[0])) == (3, 2)
    assert tower(frames, output_hidden_states=False).hidden_states is None


@pytest.mark.parametrize("family", OPEN_CLIP_FAMILIES)
@torch.no_grad()
def test_open_clip_encoders_return_patches_alone(family):
    tower = make_tower(family)
    frames = make_frames(tower.config)
    found = tower(frames, output_hidden_states=True, output_attentions=True)
    assert set(found) == {"last_hidden_state"}
    same(found.last_hidden_state, tower(frames).last_hidden_state)


class Composite(PreTrainedConfig):
    """A model config that holds a tower, as DynFocus's does."""

    model_type = "vision_tower_test_composite"
    sub_configs = {"vision_config": VisionTowerConfig}
    vision_config: dict | PreTrainedConfig | None = None

    def __post_init__(self, **kwargs):
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = VisionTowerConfig(**(self.vision_config or {}))
        super().__post_init__(**kwargs)


class CompositeModel(PreTrainedModel):
    """A model that holds a tower."""

    config_class = Composite
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.vision_tower = VisionTower(config.vision_config)
        self.head = nn.Linear(config.vision_config.hidden_size, 2)
        self.post_init()


# ---- every family ----


@pytest.mark.parametrize("family", FAMILIES)
def test_frames_become_patches_of_the_stated_shape(family):
    tower = make_tower(family)
    config = tower.config
    features = tower(make_frames(config, 2)).last_hidden_state
    rows, columns = config.grid_size
    assert (rows, columns) == (3, 3)
    assert features.shape == (2, config.num_patches, config.hidden_size) == (2, rows * columns, config.hidden_size)
    assert features.isfinite().all()
    assert tower(make_frames(config, 2)[:0]).last_hidden_state.shape == (0, config.num_patches, config.hidden_size)


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_do_not_change_the_features(family, trainable):
    tower = make_tower(family, trainable=trainable)
    frames = make_frames(tower.config, 5)
    whole = tower(frames).last_hidden_state
    for size in (1, 2, 5):
        tower.config.frames_per_chunk = size
        same(tower(frames).last_hidden_state, whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_load_round_trip(family, tmp_path):
    tower = make_tower(family, frames_per_chunk=7)
    frames = make_frames(tower.config)
    tower.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded, info = VisionTower.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    config, again = tower.config, loaded.config
    for name in ("hidden_size", "image_size", "grid_size", "num_patches", "image_mean", "image_std"):
        assert getattr(config, name) == getattr(again, name), name
    assert (again.feature_layer, again.frames_per_chunk, again.trainable) == (SECOND_LAYER, 7, False)
    same_tower(loaded, tower, frames)


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip_inside_another_model(family, tmp_path):
    torch.manual_seed(0)
    model = CompositeModel(Composite(vision_config=make_config(family))).eval()
    frames = make_frames(model.config.vision_config)
    model.save_pretrained(tmp_path)
    loaded = CompositeModel.from_pretrained(tmp_path)
    assert type(loaded.config.vision_config) is VisionTowerConfig
    assert loaded.config.vision_config.grid_size == model.config.vision_config.grid_size
    same_tower(loaded.vision_tower, model.vision_tower, frames)
    assert loaded.head.weight.requires_grad
    assert not any(parameter.requires_grad for parameter in loaded.vision_tower.parameters())
    loaded.train()
    assert loaded.training and not any(module.training for module in loaded.vision_tower.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_weights_are_initialised_after_the_meta_device(family, tmp_path):
    model = CompositeModel(Composite(vision_config=make_config(family)))
    tower_keys = {key for key in model.state_dict() if key.startswith("vision_tower.")}
    model.save_pretrained(tmp_path, state_dict={"head.weight": model.head.weight, "head.bias": model.head.bias})
    loaded, info = CompositeModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == tower_keys
    for name, tensor in (*loaded.named_parameters(), *loaded.named_buffers()):
        assert not tensor.is_meta and tensor.isfinite().all() and tensor.float().abs().max() < 1e3, name
    buffers = dict(model.named_buffers())
    for name, buffer in loaded.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    features = loaded.vision_tower(make_frames(loaded.config.vision_config)).last_hidden_state
    assert features.isfinite().all() and features.std() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_by_default(family):
    tower = make_tower(family)
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    nn.Sequential(tower).train()
    assert not any(module.training for module in tower.modules())
    frames = make_frames(tower.config).requires_grad_()
    assert not tower(frames).last_hidden_state.requires_grad


# Renamed in transformers 5.23; 5.18 has the old name only.
OLD_NAME = pytest.mark.filterwarnings("ignore:.gradient_checkpointing_(en|dis)able. is deprecated:FutureWarning")


@OLD_NAME
@pytest.mark.parametrize("layer", [SECOND_LAYER, -1])
@pytest.mark.parametrize("family", FAMILIES)
def test_trainable_gives_every_parameter_a_gradient_with_and_without_checkpointing(family, layer):
    tower = make_tower(family, trainable=True, feature_layer=layer).train()
    assert tower.training
    frames = make_frames(tower.config)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            tower.gradient_checkpointing_enable()
        tower.zero_grad()
        features = tower(frames).last_hidden_state
        features.square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in tower.named_parameters() if p.grad is not None})
        wanted = {name for name, p in tower.named_parameters() if p.requires_grad}
        assert set(gradients[-1]) == wanted
    dead = {name for name, p in tower.named_parameters() if not p.requires_grad}
    assert all(name.endswith("mask_token") for name in dead)
    for name, gradient in gradients[0].items():
        same(gradient, gradients[1][name])


@OLD_NAME
@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_really_recomputes(family):
    tower = make_tower(family, trainable=True).train()
    calls = []
    blocks = next(m for m in tower.modules() if isinstance(m, (nn.ModuleList, nn.Sequential)))
    for block in blocks:
        norm = next(module for module in block.modules() if isinstance(module, nn.LayerNorm))
        norm.register_forward_pre_hook(lambda *_: calls.append(1))
    for checkpointing, expected in ((False, 1), (True, 2)):
        (tower.gradient_checkpointing_enable if checkpointing else tower.gradient_checkpointing_disable)()
        calls.clear()
        tower(make_frames(tower.config, 1)).last_hidden_state.sum().backward()
        assert len(calls) == SECOND_LAYER * expected


def test_set_trainable_frees_and_freezes():
    tower = make_tower("siglip")
    tower.set_trainable()
    tower.train()
    assert tower.training and tower(make_frames(tower.config)).last_hidden_state.requires_grad
    tower.set_trainable(False)
    assert not tower.training and not tower(make_frames(tower.config)).last_hidden_state.requires_grad


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_come_before_columns(family):
    tower = make_tower(family, feature_layer=0)
    config = tower.config
    rows, columns = config.grid_size
    side = config.image_size // rows
    frame = make_frames(config, 1)
    before = tower(frame).last_hidden_state
    for row, column in ((0, 1), (1, 0), (2, 1)):
        changed = frame.clone()
        changed[..., row * side : (row + 1) * side, column * side : (column + 1) * side] += 1.0
        moved = (tower(changed).last_hidden_state - before).abs().amax(-1)[0]
        assert moved.argmax() == row * columns + column
        moved[row * columns + column] = 0
        assert moved.max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_wrong_frame_size_names_both_sizes(family):
    tower = make_tower(family)
    side = tower.config.image_size
    for shape in ((1, 3, side + 8, side), (1, 3, side * 2, side * 2), (1, 1, side, side), (3, side, side)):
        with pytest.raises(ValueError, match=rf"\(N, 3, {side}, {side}\), but got .*{shape[-2]}, {shape[-1]}\)"):
            tower(torch.zeros(shape))


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        *((family, torch.bfloat16) for family in FAMILIES),
        *((name, torch.float16) for name in ("siglip", "open_clip_native")),
    ],
)
def test_half_precision_follows_the_weights(family, dtype, tmp_path):
    tower = make_tower(family)
    frames = make_frames(tower.config)
    exact = tower(frames).last_hidden_state
    tower.save_pretrained(tmp_path)
    for half in (VisionTower.from_pretrained(tmp_path, dtype=dtype), tower.to(dtype)):
        features = half(frames).last_hidden_state
        assert features.dtype == dtype and features.isfinite().all()
        # bfloat16 keeps 8 bits: compare with the spread of the features, not element by element
        assert (features.float() - exact).abs().mean() < 0.05 * exact.std()


# ---- the chosen layer ----


@pytest.mark.parametrize("layer", [0, 1, 2, 3, -1, -2, -3, -4])
@pytest.mark.parametrize("family", HF_FAMILIES)
def test_feature_layer_is_an_index_into_hidden_states(family, layer):
    backbone_config = make_config(family).backbone_config
    tower = make_tower(family, feature_layer=layer)
    whole = make_tower(family, feature_layer=-1)
    # The backbone as transformers builds it, with the tower's weights; what the tower left out lies above the layer.
    reference = type(whole.backbone)(backbone_config).eval()
    state = {**whole.backbone.state_dict(), **tower.backbone.state_dict()}
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.startswith(("post_layernorm", "head", "pooler")) or "mask_token" in key for key in missing)
    frames = make_frames(tower.config)
    with torch.no_grad():
        output = reference(frames, output_hidden_states=True)
    expected = output.last_hidden_state if layer in (3, -1) else output.hidden_states[layer]
    same(tower(frames).last_hidden_state, expected[:, -tower.config.num_patches :])
    layers = [m for m in tower.backbone.modules() if isinstance(m, nn.ModuleList)]
    assert sum(len(m) for m in layers) == layer % 4


@pytest.mark.parametrize("layer", [1, 2, -1])
@pytest.mark.parametrize("family", OPEN_CLIP_FAMILIES)
def test_feature_layer_of_open_clip(family, layer):
    tower = make_tower(family, feature_layer=layer)
    config = tower.config
    visual = build_open_clip_visual(config.open_clip_config).eval()
    state = tower.backbone.trunk.state_dict()
    inner = visual.trunk if family != "open_clip_native" else visual
    missing, unexpected = inner.load_state_dict(state, strict=False)
    assert not unexpected
    last = layer == -1
    frames = make_frames(config)
    index = config.num_layers_run - 1
    with torch.no_grad():
        output = visual.forward_intermediates(
            frames, indices=[index], normalize_intermediates=last, intermediates_only=True, output_fmt="NLC"
        )
    same(tower(frames).last_hidden_state, output["image_intermediates"][0])
    assert index + 1 == (config.geometry.num_layers if last else layer)


def test_feature_layer_that_does_not_exist():
    for layer in (4, -5):
        with pytest.raises(ValueError, match=f"feature_layer={layer} does not exist .* 3 .*-4 to 3"):
            make_config("clip", feature_layer=layer)


# ---- the config ----


def test_default_config_is_whole():
    config = VisionTowerConfig()
    assert (config.feature_layer, config.frames_per_chunk, config.trainable) == (-2, 32, False)
    assert (config.hidden_size, config.image_size, config.grid_size, config.num_patches) == (768, 224, (14, 14), 196)


@pytest.mark.parametrize(
    ("family", "mean"),
    [
        ("clip", 0.48145466),
        ("instructblip", 0.48145466),
        ("open_clip_native", 0.48145466),
        ("open_clip_eva02", 0.48145466),
        ("siglip", 0.5),
        ("dinov2", 0.485),
        ("vit", 0.485),
    ],
)
def test_normalisation_of_the_family(family, mean):
    config = make_config(family)
    assert config.image_mean[0] == mean and len(config.image_mean) == len(config.image_std) == 3
    own = make_config(family, image_mean=[0.1, 0.2, 0.3], image_std=[1.0, 1.0, 1.0])
    assert own.image_mean == [0.1, 0.2, 0.3] and own.image_std == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("family", FAMILIES)
def test_config_round_trip_compares_equal(family, tmp_path):
    config = make_config(family, frames_per_chunk=9, trainable=True)
    config.save_pretrained(tmp_path / "alone")
    assert VisionTowerConfig.from_pretrained(tmp_path / "alone").to_dict() == config.to_dict()
    Composite(vision_config=config).save_pretrained(tmp_path / "inside")
    inside = Composite.from_pretrained(tmp_path / "inside").vision_config
    assert inside.to_dict() == config.to_dict() and inside.grid_size == (3, 3)


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("whole", [CLIPConfig, SiglipConfig, InstructBlipConfig])
def test_vision_part_of_a_whole_config(whole, as_dict):
    config = whole(vision_config=TINY)
    tower_config = VisionTowerConfig(backbone_config=config.to_dict() if as_dict else config)
    assert tower_config.backbone_config.model_type.endswith("vision_model")
    assert tower_config.hidden_size == 32 and tower_config.grid_size == (3, 3)


def test_patch_grid_need_not_fill_the_frame():
    config = VisionTowerConfig(backbone_config=CLIPVisionConfig(**{**TINY, "image_size": 27}), feature_layer=0)
    assert config.grid_size == (3, 3)
    assert VisionTower(config)(make_frames(config)).last_hidden_state.shape[1] == 9


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone_config": CLIPVisionConfig(**TINY), "open_clip_model": "ViT-B-32"}, "one of the two"),
        ({"backbone_config": {"hidden_size": 3}}, "must name its model_type"),
        ({"backbone_config": {"model_type": "siglip2_vision_model"}}, "no fixed square input"),
        ({"backbone_config": ViTConfig(**{**TINY, "image_size": (24, 32)})}, "no fixed square input"),
        ({"backbone_config": {"model_type": "resnet"}}, "no fixed square input"),
        ({"frames_per_chunk": 0}, "frames_per_chunk must be at least 1, but is 0"),
        ({"open_clip_model": "ViT-B-33"}, "no model 'ViT-B-33'; did you mean .*ViT-B-32"),
        ({"open_clip_config": {"width": 3}}, "must hold embed_dim and vision_cfg"),
    ],
)
def test_config_mistakes(fields, message):
    with pytest.raises(ValueError, match=message):
        VisionTowerConfig(**fields)


def test_tokens_that_do_not_fit_the_grid():
    tower = make_tower("clip")
    tower.config.backbone_config.patch_size = 12
    with pytest.raises(ValueError, match=r"\(3, 10, 32\), but its \(2, 2\) grid has 4 patches"):
        tower(make_frames(tower.config))


def test_a_model_without_a_plain_grid_is_refused():
    swin = {"model_type": "swin", "image_size": 56, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1]}
    config = VisionTowerConfig(backbone_config=swin, feature_layer=-1)
    with pytest.raises(ValueError, match="not a plain vision transformer"):
        VisionTower(config)(make_frames(config))


def test_attention_implementation_reaches_the_backbone():
    assert VisionTower(make_config("clip")).backbone.config._attn_implementation == "sdpa"
    eager = VisionTower._from_config(make_config("clip"), attn_implementation="eager").eval()
    assert eager.backbone.config._attn_implementation == "eager"
    sdpa = VisionTower(make_config("clip")).eval()
    sdpa.load_state_dict(eager.state_dict())
    frames = make_frames(eager.config)
    same(sdpa(frames).last_hidden_state, eager(frames).last_hidden_state)


# ---- pretrained checkpoints of transformers ----


TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 16,
}


def instructblip():
    qformer = {**TEXT, "encoder_hidden_size": 32, "cross_attention_frequency": 1}
    text = {"model_type": "opt", **TEXT, "ffn_dim": 64, "word_embed_proj_dim": 32, "pad_token_id": 1}
    config = InstructBlipConfig(vision_config=TINY, qformer_config=qformer, text_config=text, num_query_tokens=2)
    return InstructBlipForConditionalGeneration(config)


CHECKPOINTS = {
    "clip": lambda: CLIPModel(CLIPConfig(vision_config=TINY, text_config=TEXT)),
    "clip_vision": lambda: CLIPVisionModel(CLIPVisionConfig(**TINY)),
    "siglip": lambda: SiglipModel(SiglipConfig(vision_config=TINY, text_config=TEXT)),
    "instructblip": instructblip,
    "instructblip_vision": lambda: InstructBlipVisionModel(make_config("instructblip").backbone_config),
    "dinov2": lambda: transformers_model("dinov2"),
    "dinov2_registers": lambda: transformers_model("dinov2_registers"),
    "vit": lambda: ViTModel(ViTConfig(**TINY)),
}


def transformers_model(family):
    return AutoModel.from_config(make_config(family).backbone_config)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_from_backbone_takes_the_vision_weights(name, tmp_path):
    torch.manual_seed(0)
    model = CHECKPOINTS[name]().eval()
    model.save_pretrained(tmp_path / "source")
    tower = VisionTower.from_backbone(tmp_path / "source", feature_layer=-2, frames_per_chunk=2)
    assert (tower.config.feature_layer, tower.config.frames_per_chunk) == (-2, 2)
    assert not tower.training and not any(parameter.requires_grad for parameter in tower.parameters())
    vision = model
    for attribute in ("model", "vision_model"):
        vision = getattr(vision, attribute, vision)
    vision = getattr(model, "vision_model", vision)
    frames = make_frames(tower.config)
    with torch.no_grad():
        expected = vision(frames, output_hidden_states=True).hidden_states[-2][:, -9:]
    same(tower(frames).last_hidden_state, expected)
    tower.save_pretrained(tmp_path / "tower")
    same_tower(VisionTower.from_pretrained(tmp_path / "tower"), tower, frames)
    half = VisionTower.from_backbone(tmp_path / "source", dtype=torch.bfloat16)
    assert half(frames).last_hidden_state.dtype == torch.bfloat16


def test_from_backbone_reads_the_checkpoints_normalisation(tmp_path):
    ViTModel(ViTConfig(**TINY)).save_pretrained(tmp_path)
    assert VisionTower.from_backbone(tmp_path).config.image_mean == [0.485, 0.456, 0.406]
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    config = VisionTower.from_backbone(tmp_path, image_std=[1.0, 1.0, 1.0]).config
    assert (config.image_mean, config.image_std) == ([0.1, 0.2, 0.3], [1.0, 1.0, 1.0])


def test_from_backbone_refuses_a_checkpoint_without_the_weights(tmp_path):
    model = CLIPVisionModel(CLIPVisionConfig(**TINY))
    state = {key: value for key, value in model.state_dict().items() if "layers.0" not in key}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"lacks 16 weights of a CLIPVisionModel, such as encoder\.layers\.0"):
        VisionTower.from_backbone(tmp_path)


# ---- open_clip ----


@pytest.fixture
def registered(tmp_path):
    """A tiny open_clip model under a name of its own."""
    import open_clip

    name = "dynfocus-test-vit"
    config = {
        **NATIVE_OPEN_CLIP,
        "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    yield name
    open_clip.factory._MODEL_CONFIGS.pop(name)
    open_clip.factory._MODEL_CONFIG_PATHS.remove(tmp_path / f"{name}.json")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_from_open_clip_loads_weights(registered, suffix, tmp_path):
    import open_clip
    from safetensors.torch import save_file

    model = open_clip.create_model(registered).eval()
    path = tmp_path / f"weights.{suffix}"
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    (save_file if suffix == "safetensors" else torch.save)(state, path)
    tower = VisionTower.from_open_clip(registered, pretrained=str(path), feature_layer=-2, dtype=torch.float64)
    frames = make_frames(tower.config)
    with torch.no_grad():
        expected = model.visual.double().forward_intermediates(
            frames.double(), indices=[1], intermediates_only=True, output_fmt="NLC"
        )
    same(tower(frames).last_hidden_state, expected["image_intermediates"][0], 1e-9)
    assert not tower.training and not any(parameter.requires_grad for parameter in tower.parameters())
    tower.save_pretrained(tmp_path / "tower")
    loaded = VisionTower.from_pretrained(tmp_path / "tower", dtype=torch.float64)
    same_tower(loaded, tower, frames)


def test_from_open_clip_without_weights_needs_no_registry_afterwards(registered):
    tower = VisionTower.from_open_clip(registered)
    assert tower.config.open_clip_model == registered and tower.config.grid_size == (3, 3)
    saved = tower.config.to_dict()
    assert set(saved["open_clip_config"]) == {"embed_dim", "vision_cfg", "quick_gelu"}
    saved["open_clip_model"] = "a name that nobody registered"
    again = VisionTowerConfig.from_dict(saved)
    assert VisionTower(again)(make_frames(again)).last_hidden_state.shape == (3, 9, 32)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("EVA02-L-14-336", (1024, 336, (24, 24), 24)),
        ("ViT-B-32", (768, 224, (7, 7), 12)),
        ("ViT-B-16-SigLIP2-256", (768, 256, (16, 16), 12)),
        ("coca_ViT-B-32", (768, 224, (7, 7), 12)),
    ],
)
def test_shape_of_published_open_clip_models(name, shape):
    config = VisionTowerConfig(open_clip_model=name)
    assert tuple(config.geometry) == shape
    assert config.image_mean[0] == (0.5 if "SigLIP" in name else 0.48145466)
    with torch.device("meta"):
        features = VisionTower(config)(torch.empty(1, 3, shape[1], shape[1])).last_hidden_state
    assert features.shape == (1, config.num_patches, shape[0])


def test_an_open_clip_network_without_transformer_layers_gives_its_last_map():
    resnet = {"embed_dim": 16, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}}
    config = VisionTowerConfig(open_clip_config=resnet, feature_layer=-1)
    features = VisionTower(config)(make_frames(config)).last_hidden_state
    assert features.shape == (3, 4, config.hidden_size) and config.grid_size == (2, 2)
    with pytest.raises(ValueError, match="feature_layer=-2 does not exist"):
        VisionTowerConfig(open_clip_config=resnet)


def test_missing_open_clip_says_what_to_install(monkeypatch):
    config = make_config("open_clip_native")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match="pip install open_clip_torch"):
        VisionTowerConfig(open_clip_model="ViT-B-32")
    # a saved config can still be read, because it holds the shape
    assert VisionTowerConfig.from_dict(config.to_dict()).grid_size == (3, 3)


def test_open_clip_trunk_has_no_unused_weights():
    tower = make_tower("open_clip_timm_vit", feature_layer=-1)
    assert isinstance(tower.backbone, OpenClipTrunk)
    names = {name for name, _ in tower.named_parameters()}
    assert not any("head" in name or "proj_head" in name for name in names)


def test_sub_config_is_resolved_by_model_type():
    assert VisionTowerConfig.sub_configs == {"backbone_config": AutoConfig}
    assert type(make_config("siglip").backbone_config).__name__ == "SiglipVisionConfig"
