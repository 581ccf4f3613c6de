"""Shared by all tests."""

import numpy as np
import pytest
import torch

# Two test processes or a slow machine share the cores; results do not depend on it.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits():
    """100 real digits as (100, 8, 8) floats and their labels; not to be changed."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    X = X[:100].reshape(-1, 8, 8)
    X.setflags(write=False)
    return X, y[:100]


@pytest.fixture
def rng():
    return np.random.RandomState(0)
