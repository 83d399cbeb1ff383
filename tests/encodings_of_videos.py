"""What the tests of encoding share: a model with small chunks, interruptions, and a full disk."""

import resource
from contextlib import contextmanager

import torch
from tiny_models import tiny_model

CHUNK = 8


def chunked_model(preset="default", seed=0, chunk=CHUNK, **kwargs):
    model = tiny_model(preset, seed, **kwargs)
    model.config.vision_config.frames_per_chunk = chunk
    return model


def same(state, other):
    assert state.tensors().keys() == other.tensors().keys()
    for name, tensor in state.tensors().items():
        assert torch.equal(tensor, other.tensors()[name]), name


def stopping_at(frames, error=KeyboardInterrupt):
    def progress(done, total):
        if done >= frames:
            raise error

    return progress


@contextmanager
def file_size_limit(num_bytes):
    """A full disk, for files of that size."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
