"""What families do to their logits behind the head: ours are those of the family's own causal class."""

from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_config, tiny_text_config
from transformers import AutoModelForCausalLM

from dynfocus import DynFocusForConditionalGeneration
from dynfocus.logit_scaling import scale_logits

FAMILIES = {
    "llama": {},
    "gemma2": {"final_logit_softcapping": 2.0, "sliding_window": 16},
    "gemma3_text": {"final_logit_softcapping": 2.0, "sliding_window": 16},
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    "granitemoe": {"logits_scaling": 8.0, "num_local_experts": 2, "num_experts_per_tok": 1},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25, "sliding_window": 16},
}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_logits_are_those_of_the_familys_own_class(model_type):
    torch.manual_seed(0)
    text_config = tiny_text_config(model_type, **FAMILIES[model_type])
    causal = AutoModelForCausalLM.from_config(text_config).eval()
    with torch.no_grad():
        for parameter in causal.parameters():
            if parameter.dim() > 1:
                parameter.mul_(10)
    model = DynFocusForConditionalGeneration(tiny_config(text_config=text_config)).eval()
    model.model.language_model.load_state_dict(causal.base_model.state_dict())
    model.lm_head.load_state_dict(causal.lm_head.state_dict())
    tokens = torch.arange(4, 40)[None]
    with torch.no_grad():
        ours, theirs = model(tokens, labels=tokens), causal(tokens, labels=tokens)
        torch.testing.assert_close(ours.logits, theirs.logits)
        torch.testing.assert_close(ours.loss, theirs.loss)
        bare = model.lm_head(model.model(tokens).last_hidden_state)
    assert torch.allclose(bare, theirs.logits) == (model_type == "llama")
    torch.testing.assert_close(model(tokens, logits_to_keep=2).logits, theirs.logits[:, -2:])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"logits_scaling": 4.0}, lambda logits: logits / 4),
        ({"logits_scaling": 4.0, "model_type": "hyperclovax"}, lambda logits: logits * 4),
        ({"lm_head_multiplier": 0.5}, lambda logits: logits / 2),
        ({"logits_soft_cap": 3.0}, lambda logits: 3 * torch.tanh(logits / 3)),
        ({"final_logit_softcapping": None}, lambda logits: logits),
    ],
)
def test_rarer_fields(fields, expected):
    logits = torch.linspace(-9, 9, 7)
    torch.testing.assert_close(
        scale_logits(logits, SimpleNamespace(**{"model_type": "x", **fields})), expected(logits)
    )
