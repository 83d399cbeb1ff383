"""One training step on two processes under FSDP2, wrapped as accelerate would; run by `test_training_distributed`."""

import copy
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoModelForImageTextToText, AutoProcessor

import dynfocus  # noqa: F401  # registers its classes
from dynfocus import DynFocusCollator
from dynfocus.training import SeededSelectionNoise
from dynfocus.training.selection_noise import selector


def step(model, batches: dict[int, dict], num_labels: int, scale: float = 1.0) -> None:
    """One step on the batches of these ranks; the loss is the mean over all labelled tokens."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    model.train()
    for rank, batch in batches.items():
        selector(model).selection_noise = SeededSelectionNoise(0, rank, len(batches))
        (scale * model(**batch, num_items_in_batch=num_labels).loss).backward()
    optimizer.step()
    model.eval()


def main(start: str, rows: str, out: Path) -> None:
    dist.init_process_group("gloo")
    processor = AutoProcessor.from_pretrained(start)
    collator = DynFocusCollator(processor, media_root=Path(rows).parent)
    listed = [json.loads(line) for line in Path(rows).read_text().splitlines()]
    # Videos in one process, text alone in the other: both have to run the same modules.
    batches = [collator([listed[0], listed[2]]), collator([{**listed[1], "video": None}])]
    probe = {name: value for name, value in collator([listed[3]]).items() if name != "labels"}
    model = AutoModelForImageTextToText.from_pretrained(start)
    # The processes' videos then are of different numbers of chunks.
    model.config.vision_config.frames_per_chunk = 1
    single = copy.deepcopy(model)
    with torch.no_grad():
        before = model(**probe).logits
    wrapped = set()
    for module in reversed(list(model.modules())):
        name = type(module).__name__
        if name in model._no_split_modules:
            fully_shard(module)
            wrapped.add(name)
    fully_shard(model)
    parameters = list(model.parameters())
    rank, world_size = dist.get_rank(), dist.get_world_size()
    num_labels = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    # FSDP takes the mean of the processes' gradients.
    step(model, {rank: batches[rank]}, num_labels, scale=world_size)
    # Evaluation, with unequal numbers of frames, or none: what is missing here is a hang.
    for module in model.modules():
        if type(module).__name__.endswith("QuestionEncoder"):
            module.frames_per_chunk = 1
    with torch.no_grad():
        evaluated = model(**batches[rank]).loss
    with torch.no_grad():
        sharded = model(**probe).logits
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        step(single, dict(enumerate(batches)), num_labels)
        with torch.no_grad():
            losses = {"sharded": evaluated.item(), "single": single(**batches[rank]).loss.item()}
        single.save_pretrained(out, state_dict=whole)
        with torch.no_grad():
            found = {
                "before": before,
                "sharded": sharded,
                "single": single(**probe).logits,
                "loaded": AutoModelForImageTextToText.from_pretrained(out)(**probe).logits,
            }
        torch.save(found, out / "logits.pt")
        summary = {
            "world_size": world_size,
            "losses": losses,
            "wrapped": sorted(wrapped),
            "parameters": len(parameters),
            "sharded_parameters": sum(isinstance(one, DTensor) for one in parameters),
        }
        (out / "found.json").write_text(json.dumps(summary))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
