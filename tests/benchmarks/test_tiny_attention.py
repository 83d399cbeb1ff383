"""The tiny recipe's attention without a mask gives what attention with one gives."""

import pytest
import torch
from recipe.attention import CAUSAL, SHOWN
from recipe.guidance import SHOWN_LAYERS
from recipe.model import build_config
from recipe.tokenizer import build_tokenizer
from transformers import AutoModel


@pytest.fixture(scope="module")
def language_model():
    torch.manual_seed(0)
    return AutoModel.from_config(build_config(build_tokenizer(episodes=20)).text_config)


def read(language_model, attention, weights=False):
    """Three chats of 50 tokens, of which one is padded on the right, with gaps between the positions."""
    language_model.set_attn_implementation(attention)
    words = torch.randn(3, 50, language_model.config.hidden_size, generator=torch.Generator().manual_seed(1))
    words.requires_grad_()
    mask = torch.ones(3, 50, dtype=torch.long)
    mask[0, -9:] = 0
    positions = torch.arange(50).expand(3, -1) * 2 + (torch.arange(50) > 20) * 700
    outputs = language_model(
        inputs_embeds=words,
        attention_mask=mask,
        position_ids=positions,
        output_attentions=weights,
        use_cache=False,
    )
    real = mask.bool()
    (gradient,) = torch.autograd.grad(outputs.last_hidden_state[real].square().sum(), words, retain_graph=True)
    attentions = [one[:, 0][real] for one in (outputs.attentions or ()) if one.numel()]
    return outputs.last_hidden_state[real], gradient, attentions


@pytest.mark.parametrize("attention", [CAUSAL, SHOWN])
def test_what_tokens_and_gradients_are(language_model, attention):
    expected, gradient, _ = read(language_model, "eager")
    found, found_gradient, _ = read(language_model, attention)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found_gradient, gradient, rtol=1e-3, atol=1e-4)


def test_the_weights_that_are_shown_are_those_of_the_first_head_in_guided_layers(language_model):
    *_, expected = read(language_model, "eager", weights=True)
    *_, shown = read(language_model, SHOWN, weights=True)
    assert len(shown) == len(SHOWN_LAYERS) < len(expected)
    for layer, found in zip(SHOWN_LAYERS, shown, strict=True):
        torch.testing.assert_close(found, expected[layer], rtol=1e-4, atol=1e-5)
