"""Settings that all tests share."""

import torch

# The tensors of the tests are tiny: threads cost more than they give, the more so when pytest-xdist runs workers.
torch.set_num_threads(1)
