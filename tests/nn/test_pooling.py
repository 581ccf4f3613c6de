import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_cpc.nn import POOLINGS, n_pooled, pool
from tests import reference

from .toys import normal


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(list(POOLINGS)), st.integers(1, 7), st.integers(1, 7), st.integers(1, 3))
def test_is_its_slow_twin(pooling, rows, cols, n_components):
    features = normal(2, rows, cols, n_components)
    expected = reference.pool(reference.array(features), pooling)
    # Means of at most 49 float32 numbers of size one.
    np.testing.assert_allclose(pool(features, pooling).numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (7, 7), (4, 3)])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_number_of_features_is_as_announced(pooling, shape):
    assert pool(normal(3, *shape, 5), pooling).shape == (3, n_pooled(pooling, shape, 5))


def test_quadrants_tell_corners_apart():
    features = normal(1, 2, 2, 1)
    assert pool(features, "quadrants")[0].tolist() == features.flatten().tolist()


@pytest.mark.parametrize(
    "call", [lambda name: pool(normal(1, 2, 2, 1), name), lambda name: n_pooled(name, (2, 2), 1)]
)
def test_unknown_pooling(call):
    message = (
        "pooling='quadrant' is unknown; it must be one of 'max', 'mean', 'max+mean', 'quadrants', "
        "'quadrant-means', 'pyramid', 'flatten', 'none'. Did you mean 'quadrants'?"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        call("quadrant")
