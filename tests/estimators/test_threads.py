"""Fits in several threads of one process, as joblib's backend "threading" has them."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_cpc import CPCClassifier
from sklearn_cpc.estimators.guards import threads
from sklearn_cpc.nn import Augmentation

from .toys import images, tiny

X = images()
X.setflags(write=False)


class Slow(nn.Module):
    """Leaves other threads the time to draw between its layers."""

    def __init__(self, n_channels):
        super().__init__()
        self.first = nn.Linear(n_channels * 4, 8)
        time.sleep(0.05)
        self.second = nn.Linear(8, 8)
        self.drop = nn.Dropout(0.3)

    def forward(self, patches):
        if self.training:
            time.sleep(0.002)
        return self.second(self.drop(self.first(patches.flatten(1)).relu()))


def noisy(patches, generator):
    """Draws from the global generator, as it should not."""
    return (patches + 0.1 * torch.rand(patches.shape)).clamp(0, 1)


def in_threads(each, n=3):
    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(lambda _: each(), range(n)))


@pytest.mark.parametrize(
    "settings",
    [{}, {"encoder": Slow}, {"augment": Augmentation(patch_transform=noisy)}],
    ids=["named", "own encoder", "own augmentation"],
)
def test_fits_in_threads_give_what_one_alone_gives(settings):
    def features():
        return tiny(**settings, patch_size=2).fit(X).transform(X)

    expected = features()
    for got in in_threads(features):
        np.testing.assert_array_equal(got, expected)


def test_classifiers_in_threads_give_what_one_alone_gives():
    def probabilities():
        classifier = CPCClassifier(tiny(encoder=Slow), max_epochs=1, random_state=0)
        return classifier.fit(X, np.arange(20) % 2).predict_proba(X)

    expected = probabilities()
    for got in in_threads(probabilities, 2):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("who_leaves_first", [0, 1])
def test_the_number_of_threads_is_put_back_by_calls_that_overlap(who_leaves_first):
    before = torch.get_num_threads()
    barrier, has_left = threading.Barrier(2, timeout=20), threading.Event()

    def call(own):
        if own:
            barrier.wait()
        with threads(before + 1 + own):
            if not own:
                barrier.wait()
            barrier.wait()  # both are within
            with threads(before + 5):
                assert torch.get_num_threads() == before + 5
            assert torch.get_num_threads() == before + 1 + own
            if own != who_leaves_first:
                assert has_left.wait(20)
        has_left.set()
        return torch.get_num_threads()

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(call, own) for own in (0, 1)]
        assert [future.result() for future in futures] == [before, before]
    assert torch.get_num_threads() == before
    with ThreadPoolExecutor(1) as pool:  # a thread that has not computed before
        assert pool.submit(torch.get_num_threads).result() == before


def test_the_global_generator_is_put_back_by_all_threads():
    before = torch.get_rng_state()
    in_threads(lambda: tiny(encoder=Slow).fit(X))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"context": "transformer", "negatives": "mixed", "augment": "cpc-v2"},
        {"context": "gru", "negatives": "queue", "accumulate": 2},
        {"encoder": "resnet18", "negatives": "hard", "greedy": "joint"},
    ],
)
def test_what_is_here_draws_nothing_from_the_global_generator(settings, monkeypatch):
    """Only then may such fits run beside each other."""
    cpc = tiny(max_epochs=0, warm_start=True, **settings).fit(X)
    monkeypatch.setattr("sklearn_cpc.estimators.generators.seeded", None)  # an error where used
    before = torch.get_rng_state()
    cpc.set_params(max_epochs=1).fit(X)
    assert torch.equal(torch.get_rng_state(), before)
