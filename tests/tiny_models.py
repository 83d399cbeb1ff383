"""Tiny, randomly initialised DynFocus models for the tests."""

from pathlib import Path

import torch
from tiny import make_tiny_processor
from transformers import AutoConfig

from dynfocus.configuration_dynfocus import DynFocusConfig
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration

VIDEO_TOKEN_ID = 3
VOCAB_SIZE = 64
IMAGE_SIZE = 32


def tiny_text_config(model_type: str = "llama", **kwargs):
    settings = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 8192,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **kwargs,
    }
    return AutoConfig.for_model(model_type, **settings)


def tiny_config(preset: str = "default", text_config=None, backbone_config=None, **kwargs) -> DynFocusConfig:
    """A SigLIP tower of 32 pixels (8×8 patches), a Q-Former and a language model, all two layers deep."""
    backbone_config = backbone_config or {
        "model_type": "siglip_vision_model",
        "image_size": IMAGE_SIZE,
        "patch_size": 4,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vision_use_head": False,
    }
    vision_config = kwargs.pop("vision_config", {"backbone_config": backbone_config, "feature_layer": -1})
    question_config = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
        "cross_attention_frequency": 1,
        "encoder_hidden_size": kwargs.pop("encoder_hidden_size", 24),
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    settings = {"num_question_queries": 4, "selection_samples": 16, "video_token_id": VIDEO_TOKEN_ID, **kwargs}
    return DynFocusConfig.from_preset(
        preset,
        vision_config=vision_config,
        text_config=text_config or tiny_text_config(),
        question_config=question_config,
        **settings,
    )


def tiny_model(preset: str = "default", seed: int = 7, **kwargs) -> DynFocusForConditionalGeneration:
    """In eval mode, with weights large enough for different inputs to give clearly different outputs."""
    torch.manual_seed(seed)
    model = DynFocusForConditionalGeneration(tiny_config(preset, **kwargs))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # The choice of events is to depend on the question more than on the order.
            if parameter.dim() > 1 and "event_order" not in name:
                # As they start, the question encoder's weights hardly separate one question from another.
                parameter.mul_(20 if "question_encoder" in name or "key_projector" in name else 5)
            # Zero in a new model: multiplying leaves it there.
            if "score_embedding" in name:
                parameter.normal_(std=0.03)
    return model.eval()


def tiny_plan(num_frames: int, num_prototypes: int = 4, num_key: int = 2, num_groups: int | None = None) -> list[int]:
    """A row of `video_token_plan`."""
    events = min(num_frames, num_prototypes)
    return [events, min(events, num_key), num_groups or num_frames]


def num_visual_tokens(config: DynFocusConfig, num_frames: int, plan: list[int]) -> int:
    """How many tokens the contract gives to a video: counted by hand, apart from the processor's plan."""
    _, num_key, num_groups = plan
    if not config.rods_on_key_frames and num_groups == num_frames and num_key < num_frames:
        return config.cone_tokens * num_key + config.rod_tokens * (num_frames - num_key)
    return config.cone_tokens * num_key + config.rod_tokens * num_groups


def tiny_inputs(
    config: DynFocusConfig, num_frames: list[int], *, seed: int = 0, plans=None, text_tokens: int = 5
) -> dict:
    """One video and one question a row; rows are padded on the left, videos at their end."""
    generator = torch.Generator().manual_seed(seed)
    plans = plans or [tiny_plan(frames) for frames in num_frames]
    side, longest = config.vision_config.image_size, max(num_frames)
    pixels = torch.zeros(len(num_frames), longest, 3, side, side)
    frame_mask = torch.zeros(len(num_frames), longest, dtype=torch.bool)
    rows, questions = [], []
    for row, (frames, plan) in enumerate(zip(num_frames, plans, strict=True)):
        pixels[row, :frames] = torch.randn(frames, 3, side, side, generator=generator)
        frame_mask[row, :frames] = True
        text = torch.randint(4, VOCAB_SIZE, (text_tokens + row,), generator=generator).tolist()
        rows.append([1, *[config.video_token_id] * num_visual_tokens(config, frames, plan), *text])
        questions.append(text)
    width, question_width = max(map(len, rows)), max(map(len, questions))
    return {
        "input_ids": torch.tensor([[0] * (width - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
        "pixel_values_videos": pixels,
        "video_frame_mask": frame_mask,
        "video_token_plan": torch.tensor(plans),
        "question_input_ids": torch.tensor([row + [0] * (question_width - len(row)) for row in questions]),
        "question_attention_mask": torch.tensor([[1] * len(r) + [0] * (question_width - len(r)) for r in questions]),
    }


def one_row(inputs: dict, row: int) -> dict:
    """A row of `tiny_inputs` alone, without the padding that the others forced on it."""
    tokens = int(inputs["attention_mask"][row].sum())
    frames = int(inputs["video_frame_mask"][row].sum())
    words = int(inputs["question_attention_mask"][row].sum())
    keep = {
        "input_ids": slice(-tokens, None),
        "attention_mask": slice(-tokens, None),
        "pixel_values_videos": slice(frames),
        "video_frame_mask": slice(frames),
        "video_token_plan": slice(None),
        "question_input_ids": slice(words),
        "question_attention_mask": slice(words),
    }
    return {name: inputs[name][row : row + 1, part] for name, part in keep.items()}


def of_videos(inputs: dict) -> dict:
    """What `get_video_features` takes of a model's inputs."""
    return {name: tensor for name, tensor in inputs.items() if name not in ("input_ids", "attention_mask", "labels")}


def of_prompt(inputs: dict) -> dict:
    """What the language model alone takes of a model's inputs."""
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def save_question_aware(folder: Path, seed: int = 0, **kwargs) -> Path:
    """A tiny model whose choice depends on the question, with its processor and all code, in `folder`."""
    model = tiny_model(seed=seed)
    make_question_aware(model)
    model.save_pretrained(folder, **kwargs)
    make_tiny_processor().save_pretrained(folder)
    return folder


def make_question_aware(model: DynFocusForConditionalGeneration, seed: int = 0) -> None:
    """Give the question a say in the events' scores, which it does not have in a new model: as training would."""
    scorer = model.model.event_prototypes.question_scorer
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        scorer.in_proj.weight.normal_(generator=generator)
        scorer.out_proj.weight.normal_(generator=generator)


def scenes(config: DynFocusConfig, lengths: list[int], *, seed: int = 0, noise: float = 0.0) -> torch.Tensor:
    """A video `(1, T, 3, H, W)` of still scenes of so many frames each, `noise` apart from frame to frame."""
    generator = torch.Generator().manual_seed(seed)
    side = config.vision_config.image_size
    stills = torch.randn(len(lengths), 3, side, side, generator=generator)
    frames = stills.repeat_interleave(torch.tensor(lengths), dim=0)
    return (frames + noise * torch.randn(frames.shape, generator=generator))[None]


def real_logits(model, inputs: dict) -> list[torch.Tensor]:
    """Logits of the real tokens, one tensor a row."""
    with torch.no_grad():
        logits = model(**inputs).logits
    return [row[mask.bool()] for row, mask in zip(logits, inputs["attention_mask"], strict=True)]


def settings_of(config: DynFocusConfig) -> dict:
    """Without what loading and saving note in it, such as the dtype and the version of transformers."""

    def stripped(value):
        if not isinstance(value, dict):
            return value
        notes = ("dtype", "transformers_version", "architectures", "_name_or_path")
        return {key: stripped(part) for key, part in value.items() if key not in notes}

    return stripped(config.to_dict())
