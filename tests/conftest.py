"""Shared by all tests: one thread, fixed seeds, and no test that changes torch's defaults for the next."""

import random

import numpy as np
import pytest
import torch

# The tests' tensors are small: more threads would wait for each other longer than they work.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_start_for_every_test():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
