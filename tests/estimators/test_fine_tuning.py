"""The parts of fine-tuning: head, penalty, temperature."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as reference_log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from sklearn_cpc.estimators.fine_tuning import (
    C_GRID,
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


@pytest.mark.parametrize("weights", [np.ones(3), np.array([0.5, 1.0, 4.0])])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_head_is_the_logistic_regression(n_classes, weights):
    features, target = blobs(n_classes)
    head = fit_head(features, target, weights[:n_classes], C=0.1)
    scaler = StandardScaler().fit(features)
    class_weight = dict(enumerate(weights[:n_classes]))
    linear = LogisticRegression(C=0.1, class_weight=class_weight, max_iter=2000)
    linear.fit(scaler.transform(features), target)
    expected = linear.predict_proba(scaler.transform(features))
    with torch.no_grad():
        logits = head(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(softmax(logits, axis=1), expected, atol=1e-5)
    weight, bias = head.folded()
    np.testing.assert_allclose(features @ weight.T + bias, logits, atol=1e-4)
    assert weight.shape == (n_classes, 5)


@pytest.mark.parametrize("weights", [np.ones(3), np.array([0.5, 1.0, 4.0])])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_penalised_loss_has_no_gradient_at_the_fitted_head(n_classes, weights):
    features, target = blobs(n_classes)
    head = fit_head(features, target, weights[:n_classes], C=0.1)
    losses = torch.nn.functional.cross_entropy(
        head(torch.from_numpy(features)), torch.from_numpy(target), reduction="none"
    )
    loss = (losses * torch.from_numpy(weights)[target]).mean()
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
    even, mixed = np.ones(2), np.random.RandomState(1).permutation(target)
    noise = choose_C(features, mixed, even, random_state=0)
    assert noise < choose_C(features + 4 * target[:, None], target, even, random_state=0)
    assert noise == choose_C(features, mixed, even, 0)
    assert choose_C(features[:3], np.array([0, 1, 1]), even, random_state=0) == 1 / 5


@pytest.mark.parametrize("n_classes", [2, 3])
def test_C_is_that_of_a_search_by_log_loss(n_classes):
    features, target = blobs(n_classes, n=90)
    rows = StandardScaler().fit_transform(features)
    folds = list(StratifiedKFold(3, shuffle=True, random_state=0).split(rows, target))
    for weights in (np.ones(n_classes), np.geomspace(0.1, 8, n_classes)):
        losses = []
        for C in np.array(C_GRID) / 5:
            linear = LogisticRegression(C=C, class_weight=dict(enumerate(weights)), max_iter=2000)
            fits = [linear.fit(rows[a], target[a]).predict_proba(rows[b]) for a, b in folds]
            each = [
                reference_log_loss(target[b], found, sample_weight=weights[target[b]])
                for found, (_, b) in zip(fits, folds, strict=True)
            ]
            losses.append(np.mean(each))
        expected = C_GRID[int(np.argmin(losses))] / 5
        assert choose_C(features, target, weights, random_state=0) == pytest.approx(expected)


def test_log_loss_against_a_loop():
    logits = np.random.RandomState(0).normal(size=(7, 3)) * 4
    target = np.arange(7) % 3
    slow = [
        -np.log(np.exp(row[c]) / np.exp(row).sum()) for row, c in zip(logits, target, strict=True)
    ]
    assert log_loss(logits, target, np.ones(7)) == pytest.approx(np.mean(slow))
    often = np.array([1, 2, 3, 1, 1, 4, 1])
    assert log_loss(logits, target, often) == pytest.approx(np.mean(np.repeat(slow, often)))


@pytest.mark.parametrize("factor", [0.7, 1.0, 3.0])
def test_the_temperature_undoes_a_factor(factor):
    rng = np.random.RandomState(0)
    logits = 2 * rng.normal(size=(20_000, 3))
    chances = softmax(logits, axis=1).cumsum(axis=1)
    target = (rng.uniform(size=(20_000, 1)) > chances).sum(axis=1)
    even = np.ones(20_000)
    assert best_temperature(factor * logits, target, even) == pytest.approx(factor, rel=0.05)


def test_the_temperature_stays_within_its_bounds():
    sure = np.array([[9.0, 0.0], [0.0, 9.0]])
    low, high = TEMPERATURES
    even = np.ones(2)
    assert best_temperature(sure, np.array([0, 1]), even) == pytest.approx(low, rel=0.01)
    assert best_temperature(sure, np.array([1, 0]), even) == pytest.approx(high, rel=0.01)


def test_a_weight_counts_for_the_temperature_as_a_repetition():
    rng = np.random.RandomState(0)
    logits, target, often = rng.normal(size=(30, 2)), rng.randint(2, size=30), rng.randint(1, 5, 30)
    repeated = best_temperature(np.repeat(logits, often, 0), np.repeat(target, often), None)
    assert best_temperature(logits, target, often) == pytest.approx(repeated, rel=1e-3)


@pytest.mark.parametrize(
    ("max_epochs", "max_batches", "n_images", "n_epochs"),
    [(100, 500, 10, 100), (100, 500, 320, 50), (100, 500, 321, 45), (100, 5, 10_000, 1)],
)
def test_whichever_comes_first_of_epochs_and_batches(max_epochs, max_batches, n_images, n_epochs):
    settings = FineTuningSettings(
        max_epochs, max_batches, 32, 1e-4, 1e-3, 0.0, 0.0, 10, Augmentation()
    )
    assert settings.n_epochs(n_images) == n_epochs
