"""One of two processes that divide models among them, started by `test_transformers_contract.py`."""

import sys

import torch
from tiny_models import tiny_inputs
from torch import distributed as dist
from transformers.distributed import DistributedConfig

from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration


@torch.no_grad()
def main() -> int:
    dist.init_process_group("gloo")
    for folder in sys.argv[1:]:
        whole = DynFocusForConditionalGeneration.from_pretrained(folder)
        shared = DynFocusForConditionalGeneration.from_pretrained(
            folder, distributed_config=DistributedConfig(tp_size=2)
        )
        sizes = [sum(_local(p).numel() for p in model.model.language_model.parameters()) for model in (whole, shared)]
        assert sizes[1] < 0.6 * sizes[0], sizes
        inputs = tiny_inputs(whole.config, [3, 2])
        torch.testing.assert_close(shared(**inputs).logits, whole(**inputs).logits, atol=1e-4, rtol=1e-4)
        settings = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
        assert torch.equal(shared.generate(**inputs, **settings), whole.generate(**inputs, **settings))
    dist.destroy_process_group()
    return 0


def _local(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter
