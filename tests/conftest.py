"""Settings of all tests."""

import os

import torch
from hypothesis import settings

# The tensors are tiny: more threads would only wait for each other, and parallel test processes do use the cores.
torch.set_num_threads(1)

# By hand every run searches elsewhere; a run that decides on a change must not depend on luck.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
