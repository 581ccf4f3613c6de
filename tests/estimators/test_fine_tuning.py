"""The parts of fine-tuning: head, penalty, temperature."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sklearn_cpc.estimators.fine_tuning import (
    TEMPERATURES,
    FineTuningSettings,
    best_temperature,
    choose_C,
    fit_head,
    log_loss,
    penalty_strength,
    zero_head,
)
from sklearn_cpc.nn import Augmentation


def blobs(n_classes, n=60, n_features=5, seed=0):
    rng = np.random.RandomState(seed)
    target = np.arange(n) % n_classes
    features = rng.normal(size=(n, n_features)) * [1, 10, 100, 1, 1] + target[:, None] + 3
    return features.astype(np.float32), target


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_head_is_the_logistic_regression(n_classes):
    features, target = blobs(n_classes)
    head = fit_head(features, target, C=0.1)
    scaler = StandardScaler().fit(features)
    linear = LogisticRegression(C=0.1, max_iter=2000).fit(scaler.transform(features), target)
    expected = linear.predict_proba(scaler.transform(features))
    with torch.no_grad():
        logits = head(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(softmax(logits, axis=1), expected, atol=1e-5)
    weight, bias = head.folded()
    np.testing.assert_allclose(features @ weight.T + bias, logits, atol=1e-4)
    assert weight.shape == (n_classes, 5)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_penalised_loss_has_no_gradient_at_the_fitted_head(n_classes):
    features, target = blobs(n_classes)
    head = fit_head(features, target, C=0.1)
    loss = torch.nn.functional.cross_entropy(
        head(torch.from_numpy(features)), torch.from_numpy(target)
    )
    plain = torch.autograd.grad(loss, head.weight, retain_graph=True)[0].abs().max()
    penalty = penalty_strength(0.1, len(features), n_classes) * head.weight.square().sum()
    whole = torch.autograd.grad(loss + penalty, head.weight)[0].abs().max()
    assert whole < 2e-4 < 0.01 < plain


def test_the_zero_head_standardises_and_knows_nothing():
    features, _ = blobs(3)
    head = zero_head(features, 3)
    assert not head(torch.from_numpy(features)).any()
    np.testing.assert_allclose(head.mean, features.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(head.scale, features.std(axis=0), rtol=1e-5)


def test_C_is_small_for_noise_and_larger_for_what_separates():
    features, target = blobs(2, n=200)
    noise = choose_C(features, np.random.RandomState(1).permutation(target), random_state=0)
    assert noise < choose_C(features + 4 * target[:, None], target, random_state=0)
    assert noise == choose_C(features, np.random.RandomState(1).permutation(target), 0)
    assert choose_C(features[:3], np.array([0, 1, 1]), random_state=0) == 1 / 5


def test_log_loss_against_a_loop():
    logits = np.random.RandomState(0).normal(size=(7, 3)) * 4
    target = np.arange(7) % 3
    slow = [
        -np.log(np.exp(row[c]) / np.exp(row).sum()) for row, c in zip(logits, target, strict=True)
    ]
    assert log_loss(logits, target) == pytest.approx(np.mean(slow))


@pytest.mark.parametrize("factor", [0.7, 1.0, 3.0])
def test_the_temperature_undoes_a_factor(factor):
    rng = np.random.RandomState(0)
    logits = 2 * rng.normal(size=(20_000, 3))
    chances = softmax(logits, axis=1).cumsum(axis=1)
    target = (rng.uniform(size=(20_000, 1)) > chances).sum(axis=1)
    assert best_temperature(factor * logits, target) == pytest.approx(factor, rel=0.05)


def test_the_temperature_stays_within_its_bounds():
    sure = np.array([[9.0, 0.0], [0.0, 9.0]])
    low, high = TEMPERATURES
    assert best_temperature(sure, np.array([0, 1])) == pytest.approx(low, rel=0.01)
    assert best_temperature(sure, np.array([1, 0])) == pytest.approx(high, rel=0.01)


@pytest.mark.parametrize(
    ("max_epochs", "max_batches", "n_images", "n_epochs"),
    [(100, 500, 10, 100), (100, 500, 320, 50), (100, 500, 321, 45), (100, 5, 10_000, 1)],
)
def test_whichever_comes_first_of_epochs_and_batches(max_epochs, max_batches, n_images, n_epochs):
    settings = FineTuningSettings(
        max_epochs, max_batches, 32, 1e-4, 1e-3, 0.0, 0.0, 10, Augmentation()
    )
    assert settings.n_epochs(n_images) == n_epochs
