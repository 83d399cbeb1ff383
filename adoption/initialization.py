"""
Initializes the parts that are in no checkpoint: visual tokens of the magnitude of words, and a question encoder with
the language model's word similarities.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from dynfocus.towers.vision_tower import VisionTower

#: The parts of a `DynFocusModel` besides its backbones.
NEW_PARTS = ("question_encoder", "event_prototypes", "cooperative_encoder")
# Longest question that the processor accepts, in tokens.
_MAX_QUESTION_TOKENS = 128
_HEAD_SIZE = 64
_MAX_WIDTH = 512
_FRAMES = 8
_QUESTION_TOKENS = 8
# The language model's embeddings are converted to float32 this many rows at a time.
_ROWS = 4096


def default_question_config(vision_width: int, num_queries: int) -> dict[str, Any]:
    """Settings of a question encoder for a vision tower of this width: 4 layers, at most 512 wide."""
    width = max(_HEAD_SIZE, min(_MAX_WIDTH, vision_width // _HEAD_SIZE * _HEAD_SIZE))
    return {
        "hidden_size": width,
        "num_hidden_layers": 4,
        "num_attention_heads": width // _HEAD_SIZE,
        "intermediate_size": 4 * width,
        "max_position_embeddings": _MAX_QUESTION_TOKENS + num_queries,
        "cross_attention_frequency": 2,
        "encoder_hidden_size": vision_width,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


@torch.no_grad()
def new_rows_like_the_old(causal: Any, num_rows: int, seed: int) -> None:
    """Enlarge the embeddings of a language model. New rows are near the mean of the old ones, and all different."""
    old = causal.get_input_embeddings().weight.shape[0]
    with torch.random.fork_rng(devices=[]):
        causal.resize_token_embeddings(num_rows, mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    tables = {id(one.weight): one.weight for one in (causal.get_input_embeddings(), causal.get_output_embeddings())}
    for table in tables.values():
        parts = table[:old].split(_ROWS)
        mean = sum(part.float().sum(0) for part in parts) / old
        spread = (sum((part.float() - mean).square().sum(0) for part in parts) / old).sqrt()
        # Not the mean itself: a padding token must differ from the video token even if only embeddings are given.
        noise = torch.randn(num_rows - old, table.shape[1], generator=generator)
        table[old:] = (mean + 0.1 * spread * noise.to(mean.device)).to(table.dtype)


@torch.no_grad()
def initialize_new_parts(model: Any, tower: VisionTower, language_model: Any, num_words: int, seed: int) -> None:
    """
    Put backbones into a `DynFocusModel` on the meta device, and initialize everything else in float32.

    Args:
        num_words (`int`): number of the language model's first rows, which it was trained on.
        seed (`int`): the same seed gives the same weights, independent of the global random state, which is not
            changed.
    """
    config = model.config
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        model.vision_tower = model.language_model = nn.Identity()
        # With the classes of the preset.
        for name in NEW_PARTS:
            setattr(model, name, type(getattr(model, name))(config).float())
        model.initialize_weights()
    model.vision_tower, model.language_model = tower, language_model
    generator = torch.Generator().manual_seed(seed)
    embeddings = language_model.get_input_embeddings()
    _words_of_the_language_model(model.question_encoder.qformer, embeddings, generator)
    _tokens_as_large_as(word_size(embeddings, num_words), model.eval(), generator)


def word_size(embeddings: nn.Module, num_words: int) -> float:
    """Root mean square of the embeddings of the language model's first words."""
    parts = torch.arange(num_words).split(_ROWS)
    total = sum(_embedded(embeddings, ids).square().sum().item() for ids in parts)
    return (total / (num_words * _embedded(embeddings, parts[0][:1]).shape[1])) ** 0.5


def _embedded(embeddings: Any, ids: torch.Tensor) -> torch.Tensor:
    # By calling the module: some families scale the table (Gemma 3).
    return embeddings(ids.to(embeddings.weight.device)).float().cpu()


def _words_of_the_language_model(qformer: Any, embeddings: nn.Module, generator: torch.Generator) -> None:
    """
    Word embeddings for the question encoder: a random orthogonal projection of the language model's, which keeps
    similarities.
    """
    words = qformer.embeddings.word_embeddings
    width, text_width = words.weight.shape[1], _embedded(embeddings, torch.zeros(1, dtype=torch.long)).shape[1]
    tall = torch.randn(max(width, text_width), min(width, text_width), generator=generator)
    basis = torch.linalg.qr(tall).Q
    basis = basis if text_width >= width else basis.T
    for ids in torch.arange(len(words.weight)).split(_ROWS):
        words.weight[ids] = _embedded(embeddings, ids) @ basis
    # The mean of all words carries no information, and would dominate in the layer norm that follows.
    words.weight -= words.weight.mean(0)
    words.weight *= qformer.config.initializer_range / words.weight.std()
    if words.padding_idx is not None:
        words.weight[words.padding_idx] = 0


def noise_frames(num_frames: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """
    Random frames `(T, 3, side, side)` of mean 0 and variance 1 that are similar at every scale, like natural images.
    """
    frames, cells = torch.zeros(num_frames, 3, side, side), 2
    while cells < 2 * side:
        coarse = torch.randn(num_frames, 3, cells, cells, generator=generator)
        frames += functional.interpolate(coarse, size=side, mode="bilinear")
        cells *= 2
    return (frames - frames.mean()) / frames.std()


def _tokens_as_large_as(size: float, model: Any, generator: torch.Generator) -> None:
    """Scale the last layers of the projectors so that cones and attended rods have this root mean square."""
    encoder = model.cooperative_encoder
    state = model.encode_video(noise_frames(_FRAMES, model.config.vision_config.image_size, generator)[None])
    question = torch.randint(model.config.question_config.vocab_size, (1, _QUESTION_TOKENS), generator=generator)
    context = state.grouped_tokens if state.patches is None else state.patches
    queries = model.question_encoder(question, torch.ones_like(question), context, state.frame_mask)
    gated = encoder.cluster_gate(state.grouped_tokens, state.parent_of_token)
    cones, rods = encoder.cones(state.frame_features, gated), encoder.rods(gated, queries)
    for layer, tokens in ((encoder.projector.linear_2, cones), (encoder.value_projector, rods[:, :, 1:])):
        # The biases are still zero, so tokens scale with the weights.
        layer.weight *= size / tokens.square().mean().sqrt()


__all__ = [
    "NEW_PARTS",
    "default_question_config",
    "initialize_new_parts",
    "new_rows_like_the_old",
    "noise_frames",
    "word_size",
]
