"""Settings of all tests, and what the tests of training start from."""

import gc
import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# A shell starts what runs in its background with Ctrl-C ignored, which every child process would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

# By hand every run searches elsewhere; a run that decides on a change must not depend on luck.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_collection() -> None:
    """The tensors are tiny: more threads would only wait for each other, and parallel test processes use the cores."""
    # Not where processes are only handed their tests.
    import torch

    torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What was imported stays: collections of garbage, which benchmarks ask for, need not look through it."""
    gc.collect()
    gc.freeze()


# Imported where they are needed: most tests do not train.
@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    from training_runs import write_rows

    return write_rows(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    from training_runs import save_start

    return save_start(tmp_path_factory.mktemp("start") / "model")


@pytest.fixture
def fit(rows, start, tmp_path):
    """Carries out a recipe in a folder; changes to its settings go through `change`."""
    from training_runs import recipe_settings, write_recipe

    from dynfocus.training.recipe import load_recipe
    from dynfocus.training.train import train

    def fit(name="run", change=lambda settings: None, **training):
        settings = recipe_settings(start, rows, tmp_path / name, **training)
        change(settings)
        said = []
        result = train(load_recipe(write_recipe(tmp_path / f"{name}.yaml", settings)), said.append)
        return result, tmp_path / name, said

    return fit
