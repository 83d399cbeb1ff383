"""The tiny checkpoint's model and processor before training."""

from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, PreTrainedTokenizerFast, SiglipVisionModel

from dynfocus.configuration_dynfocus import DynFocusConfig
from dynfocus.eval.synthetic.world import SHAPES, plural
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.processing import DynFocusProcessor, DynFocusVideoProcessor
from dynfocus.towers.configuration_vision_tower import VisionTowerConfig

from .vision import IMAGE_SIZE, NAMES, tower_config

#: About 1 / sqrt(width): the usual 0.02 is meant for models that are ten times wider.
INITIALIZER_RANGE = 0.06
VISUAL_TOKEN_SCALE = 0.1


def build_processor(tokenizer: PreTrainedTokenizerFast) -> DynFocusProcessor:
    """
    A processor with at most 64 events for each video, an eighth of them key frames: 560 visual tokens for 128 frames.
    """
    video_processor = DynFocusVideoProcessor(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3, fps=1.0
    )
    return DynFocusProcessor(video_processor, tokenizer, num_prototypes=64, key_ratio=0.125, max_question_tokens=60)


def build_config(tokenizer: PreTrainedTokenizerFast, **settings: Any) -> DynFocusConfig:
    """A configuration of about 2.8 M parameters; `settings` are further fields."""
    vocab_size = len(tokenizer)
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    text_config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=160,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=5,
        num_key_value_heads=5,
        head_dim=32,
        max_position_embeddings=8192,
        # With the usual 10,000, hardly two of the 32 dimensions of a head stay nearly constant over 1,000 tokens.
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        initializer_range=INITIALIZER_RANGE,
        **special,
    )
    question_config = {
        "vocab_size": vocab_size,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "max_position_embeddings": 64,
        "cross_attention_frequency": 1,
        "initializer_range": INITIALIZER_RANGE,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return DynFocusConfig(
        vision_config=VisionTowerConfig(backbone_config=tower_config(), feature_layer=-1),
        text_config=text_config,
        question_config=question_config,
        num_question_queries=len(NAMES),
        temporal_neighbors=3,
        initializer_range=INITIALIZER_RANGE,
        video_token_id=tokenizer.get_vocab()["<video>"],
        **settings,
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, tower: SiglipVisionModel, **settings: Any
) -> DynFocusForConditionalGeneration:
    """A model with random weights except for the vision tower; `settings` are further fields of the configuration."""
    model = DynFocusForConditionalGeneration(build_config(tokenizer, **settings))
    model.model.vision_tower.backbone.load_state_dict(tower.state_dict())
    # Visual tokens start with the magnitude of words: with much larger ones, the layers' additions would hardly
    # matter.
    encoder = model.model.cooperative_encoder
    with torch.no_grad():
        for layer in (encoder.projector.linear_2, encoder.value_projector):
            layer.weight.mul_(VISUAL_TOKEN_SCALE)
        # Tokens attend to similar ones from the start ("Mimetic Initialization of Self-Attention Layers", Trockman and
        # Kolter 2023), so that "the red star" is found sooner.
        for layer in model.model.language_model.layers:
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    return model


@torch.no_grad()
def add_embeddings(model: DynFocusForConditionalGeneration, vocab_size: int, seed: int) -> None:
    """
    Make the vocabularies of language model and question encoder this large. New words get random embeddings of the
    usual length.
    """
    torch.manual_seed(seed)
    model.resize_token_embeddings(vocab_size, mean_resizing=False)
    embeddings = model.model.question_encoder.qformer.embeddings
    known = embeddings.word_embeddings
    larger = nn.Embedding(vocab_size, known.embedding_dim, known.padding_idx).to(known.weight)
    larger.weight.normal_(std=INITIALIZER_RANGE)
    larger.weight[: known.num_embeddings] = known.weight
    embeddings.word_embeddings = larger
    model.config.question_config.vocab_size = vocab_size


@torch.no_grad()
def start_plurals(model: DynFocusForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """
    Set the embeddings of "stars", "crosses", … in both vocabularies to those of "star", "cross", …: plurals are asked
    too rarely to be learned from answers.
    """
    words = tokenizer.get_vocab()
    for embeddings in (model.get_input_embeddings(), model.model.question_encoder.qformer.embeddings.word_embeddings):
        for shape in SHAPES:
            # A tokenizer of few texts has no token for a rare plural.
            if f"Ġ{plural(shape)}" in words:
                singular = embeddings.weight[words[f"Ġ{shape}"]].clone()
                embeddings.weight[words[f"Ġ{plural(shape)}"]] = singular


__all__ = ["add_embeddings", "build_config", "build_model", "build_processor", "start_plurals"]
