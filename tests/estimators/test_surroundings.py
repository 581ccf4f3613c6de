"""What the caller has set torch to makes no other network."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from sklearn_cpc import CPCClassifier, CPCTransformer
from sklearn_cpc.estimators.guards import own_torch

from .toys import images, tiny

X = images()
X.setflags(write=False)
y = np.arange(20) % 2


def default_dtype(dtype):
    @contextmanager
    def set_and_put_back():
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)

    return set_and_put_back


SURROUNDINGS = {
    "float64": default_dtype(torch.float64),
    "bfloat16": default_dtype(torch.bfloat16),
    "default device": lambda: torch.device("meta"),
    "no gradient": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def transformed():
    cpc = tiny().fit(X)
    return [cpc.transform(X), cpc.embed_patches(X), cpc.score(X), cpc.partial_fit(X).transform(X)]


@pytest.fixture(scope="module")
def expected():
    return transformed()


@pytest.fixture(scope="module")
def expected_probabilities():
    return CPCClassifier(tiny(), max_epochs=1, random_state=0).fit(X, y).predict_proba(X)


def state():
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
    )


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_the_features_are_the_same(name, expected):
    with SURROUNDINGS[name]():
        before = state()
        found = transformed()
        assert state() == before
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_the_classifier_is_the_same(name, expected_probabilities):
    with SURROUNDINGS[name]():
        classifier = CPCClassifier(tiny(), max_epochs=1, random_state=0).fit(X, y)
        probabilities = classifier.predict_proba(X)
    np.testing.assert_array_equal(probabilities, expected_probabilities)


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_a_saved_model_and_a_plain_module_are_the_same(name, expected, tmp_path):
    pytest.importorskip("safetensors")
    tiny().fit(X).save(tmp_path / "model")
    with SURROUNDINGS[name]():
        cpc = CPCTransformer.load(tmp_path / "model")
        module = cpc.feature_module()
    np.testing.assert_array_equal(cpc.transform(X), expected[0])
    np.testing.assert_allclose(module(torch.from_numpy(X.copy())), expected[0], atol=1e-6)


def test_the_default_dtype_comes_back_with_the_last_of_several_threads():
    one, two = own_torch(), own_torch()
    with default_dtype(torch.float64)():
        one.__enter__()
        two.__enter__()
        one.__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float32
        two.__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float64
