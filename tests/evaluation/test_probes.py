import pickle
from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits, make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_cpc import knn_probe, linear_probe
from sklearn_cpc.evaluation import LinearProbeClassifier, probes

from . import reference


@parametrize_with_checks([LinearProbeClassifier(max_epochs=20, device="cpu")])
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:300], y[:300], X[300:500], y[300:500]


def test_bn_linear_is_the_slow_reference(rng):
    Z = rng.normal(size=(12, 3)) * [1, 5, 0.1] + [0, 10, -1]
    # No class with a third of the rows: its bias has a gradient of rounding, which Adam scales up.
    y = np.repeat([0, 1, 2], [6, 5, 1])
    probe = LinearProbeClassifier(
        max_epochs=7, learning_rate=0.05, weight_decay=0.3, momentum=0.2, device="cpu"
    ).fit(Z, y)
    weight, bias, mean, var, losses = reference.bn_linear(Z, y, 3, 7, 0.05, 0.3, 0.2)
    # Seven steps in single precision.
    assert_allclose(probe.coef_, weight, rtol=1e-3, atol=1e-5)
    assert_allclose(probe.intercept_, bias, rtol=1e-3, atol=1e-5)
    assert_allclose(probe.mean_, mean, rtol=1e-5)
    assert_allclose(probe.var_, var, rtol=1e-4)
    assert_allclose(probe.loss_curve_, losses, rtol=1e-4)
    assert_allclose(probe.loss_curve_[0], np.log(3), rtol=1e-5)  # Weights start at zero.
    logits = ((Z - probe.mean_) / np.sqrt(probe.var_ + 1e-5)) @ probe.coef_.T + probe.intercept_
    assert_allclose(probe.decision_function(Z), logits, rtol=1e-4, atol=1e-6)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert_allclose(probe.predict_proba(Z), shares, rtol=1e-4)
    assert_allclose(probe.predict_log_proba(Z), np.log(shares), rtol=1e-4, atol=1e-6)
    assert_array_equal(probe.predict(Z), shares.argmax(1))


def test_bn_linear_ignores_shift_and_scale_of_features(digits):
    X, y, X_test, _ = digits
    X, X_test = X[:, 20:44], X_test[:, 20:44]
    one, other = (
        LinearProbeClassifier(max_epochs=80, random_state=0, device="cpu").fit(f(X), y)
        for f in (lambda Z: Z, lambda Z: 7 * Z + 3)
    )
    same = one.predict(X_test) == other.predict(7 * X_test + 3)
    assert same.mean() > 0.99  # All but ties of rounding.


def test_seed_decides_the_batches(digits):
    X, y, _, _ = digits
    one, same, other = (
        LinearProbeClassifier(max_epochs=2, batch_size=32, random_state=seed, device="cpu")
        .fit(X, y)
        .coef_
        for seed in (0, 0, 1)
    )
    assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-4


@pytest.mark.parametrize(("n", "sizes"), [(4, [4]), (6, [4, 2]), (5, [5]), (9, [4, 5])])
def test_no_batch_has_a_single_row(n, sizes):
    batches = probes._batches(np.arange(n), 4)
    assert [len(rows) for rows in batches] == sizes
    assert_array_equal(np.concatenate(batches), np.arange(n))


@pytest.mark.parametrize("method", ["logistic", "bn-linear"])
def test_linear_probe_scores_the_test_rows(digits, method):
    X, y, X_test, y_test = digits
    result = linear_probe(X, y, X_test, y_test, method=method, random_state=0)
    assert result.score > 0.85
    assert result.score == np.mean(result.predictions == y_test)
    assert_array_equal(result.predictions, result.estimator.predict(X_test))
    assert result.n_labels == 300
    assert (result.get("C_is_chosen") is True) == (method == "logistic")
    assert pickle.loads(pickle.dumps(result)).score == result.score


def test_c_is_chosen_inside_the_training_rows():
    """Where the features say nothing, three rows in five are right for who believes in none."""
    rng = np.random.RandomState(0)
    y = np.arange(80) % 5 < 2
    noise, signal = rng.normal(size=(80, 30)), rng.normal(size=(80, 30)) + 3 * y[:, None]
    for Z, best in ((noise, 1e-6), (signal, 100.0)):
        for y_test in (y, ~y):  # What the test rows would like is no matter.
            result = linear_probe(Z, y, Z, y_test, Cs=[100.0, 1e-6], random_state=0)
            assert (result.C, result.C_is_chosen, result.estimator[-1].C) == (best, True, best)
    result = linear_probe(noise, y, noise, y, Cs=[100.0])
    assert (result.C, result.C_is_chosen) == (100.0, False)


def test_one_label_per_class_takes_a_fixed_c_and_says_so():
    Z, y = make_blobs(60, centers=3, random_state=0)
    few = np.full(60, -1)
    for k in range(3):
        few[np.flatnonzero(y == k)[0]] = k
    with pytest.warns(UserWarning, match="class 0 has a single labelled row, .* C=0.1"):
        result = linear_probe(Z, few, Z, y)
    assert (result.C, result.C_is_chosen, result.n_labels) == (0.1, False, 3)
    assert result.score > 0.6
    assert linear_probe(Z, few, Z, y, method="bn-linear", random_state=0).score > 0.6


@pytest.mark.parametrize("method", ["logistic", "bn-linear"])
def test_without_test_rows_each_row_is_predicted_by_others(digits, method):
    X, y = digits[0][:100], digits[1][:100]
    params = {"method": method, "max_epochs": 40, "random_state": 0, "Cs": [0.1]}
    result = linear_probe(X, y, **params)
    assert 0.7 < result.score < 1
    assert result.predictions.shape == (100,)
    fitted = linear_probe(X, y, X, y, **params)  # The same seed, the same estimator.
    assert_array_equal(fitted.estimator.predict(X), result.estimator.predict(X))
    coin = np.random.RandomState(0).randint(2, size=100)
    # 100 fair coins: 0.5 with a standard error of 0.05; remembered rows would score above 0.8.
    assert linear_probe(X, coin, **params).score < 0.7


def test_two_rows_of_a_class_are_enough_out_of_fold():
    Z, y = make_blobs([2, 6, 6], cluster_std=0.1, random_state=0)
    with pytest.warns(UserWarning, match="class 0 has a single labelled row"):
        assert linear_probe(Z, y, random_state=0).score > 0.8


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("temperature", [None, 0.07, 2.0])
def test_knn_votes_are_the_slow_reference(rng, metric, temperature):
    Z, y = rng.normal(size=(40, 3)), np.arange(40) % 3
    queries, truth = rng.normal(size=(15, 3)), np.arange(15) % 3
    params = {"metric": metric, "n_neighbors": 9}
    params |= {"weights": "uniform"} if temperature is None else {"temperature": temperature}
    result = knn_probe(Z, y, queries, truth, **params)
    alone = knn_probe(Z, y, **params)
    for i in range(15):
        votes = reference.knn_votes(queries[i], Z, y.tolist(), 9, metric, temperature)
        shares = np.array(list(votes.values()))
        assert_allclose(result.probabilities[i], shares / shares.sum(), rtol=1e-6, atol=1e-12)
        others = np.arange(40) != i
        votes = reference.knn_votes(Z[i], Z[others], y[others].tolist(), 9, metric, temperature)
        shares = np.array(list(votes.values()))
        assert_allclose(alone.probabilities[i], shares / shares.sum(), rtol=1e-6, atol=1e-12)
    assert_array_equal(result.predictions, result.probabilities.argmax(1))
    assert result.score == np.mean(result.predictions == truth)
    assert alone.score == np.mean(alone.predictions == y)


def test_a_copy_of_a_row_is_a_neighbour_and_the_row_itself_is_not():
    Z = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert knn_probe(Z, [0, 0, 1, 1], n_neighbors=1).score == 1
    assert knn_probe(Z, [0, 1, 0, 1], n_neighbors=1).score == 0


def test_neighbours_that_are_far_away_have_weights_too():
    result = knn_probe([[0.0], [1e4]], [0, 1], [[5e5]], [1], metric="euclidean", temperature=1e-3)
    assert result.predictions.tolist() == [1]


def test_knn_takes_all_there_are_if_they_are_fewer():
    Z, y = np.eye(4), [0, 0, 1, 1]
    assert knn_probe(Z, y).estimator.n_neighbors == 3
    assert knn_probe(Z, y, Z, y).estimator.n_neighbors == 4


@pytest.mark.parametrize("probe", [partial(linear_probe, random_state=0), knn_probe])
def test_unlabelled_rows_are_left_out_and_predicted(probe, digits):
    X, y, X_test, y_test = (part[:150] for part in digits)
    few, few_test = (np.where(np.arange(150) % 2, part, -1) for part in (y, y_test))
    result = probe(X, few, X_test, few_test)
    expected = probe(X[1::2], y[1::2], X_test[1::2], y_test[1::2])
    assert result.score == expected.score
    assert result.n_labels == 75
    assert_array_equal(result.predictions[1::2], expected.predictions)
    assert len(result.predictions) == 150
    alone = probe(X, few)
    assert len(alone.predictions) == 75


@pytest.mark.parametrize("probe", [partial(linear_probe, random_state=0), knn_probe])
def test_text_labels(probe, digits):
    X, y, X_test, y_test = digits
    names = np.array(list("abcdefghij"))
    text = probe(X, names[y], X_test, names[y_test])
    assert_array_equal(text.predictions, names[probe(X, y, X_test, y_test).predictions])


def test_the_probe_is_a_classifier_for_any_search(digits):
    X, y, _, _ = digits
    probe = LinearProbeClassifier(max_epochs=20, random_state=0, device="cpu")
    assert cross_val_score(probe, X, y, cv=2).min() > 0.7


@pytest.mark.parametrize("probe", [linear_probe, knn_probe])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_train": [0, 0, -1, -1]}, r"y_train has the classes \[0\] beside -1"),
        ({"y_train": [-1] * 4}, r"y_train has the classes \[\] beside -1"),
        ({"Z_test": np.eye(4)}, "y_test=None: Z_test and y_test belong together"),
        ({"y_test": [0, 1]}, "Z_test=None: Z_test and y_test belong together"),
        ({"Z_test": np.eye(3), "y_test": [0, 1, 0]}, "Z_test has 3 features, Z_train 4"),
        ({"Z_test": np.eye(4), "y_test": [-1] * 4}, "y_test has no label, only -1"),
        (
            {"y_train": [0, 0, 1, np.nan]},
            r"NaN or None \(first in row 3\); write -1 for unlabelled",
        ),
        ({"y_train": [0, 1]}, "inconsistent numbers of samples"),
        ({"Z_train": np.full((4, 4), np.nan)}, "Input Z_train contains NaN"),
    ],
)
def test_refusals_of_rows(probe, change, message):
    params = {"Z_train": np.eye(4), "y_train": [0, 0, 1, 1], **change}
    with pytest.raises(ValueError, match=message):
        probe(**params)


@pytest.mark.parametrize(
    ("probe", "change", "error", "message"),
    [
        (linear_probe, {"method": "svm"}, ValueError, "method='svm': must be 'logistic' or"),
        (linear_probe, {"Cs": []}, ValueError, r"Cs=\[\]: must be one or more"),
        (linear_probe, {"Cs": [1, 0]}, ValueError, r"Cs=\[1.0, 0.0\]: must be one or more"),
        (linear_probe, {"y_train": [0, 1, 1, 1]}, ValueError, "class 0 has a single .* no Z_test"),
        (knn_probe, {"n_neighbors": 0}, ValueError, "n_neighbors=0: must be at least 1"),
        (knn_probe, {"n_neighbors": 2.0}, TypeError, "n_neighbors=2.0: must be an int"),
        (knn_probe, {"metric": "l1"}, ValueError, "metric='l1': must be 'cosine' or"),
        (knn_probe, {"weights": "distance"}, ValueError, "weights='distance': must be 'softmax'"),
        (knn_probe, {"temperature": 0}, ValueError, "temperature=0: must be above 0"),
    ],
)
def test_refusals_of_parameters(probe, change, error, message):
    params = {"Z_train": np.eye(4), "y_train": [0, 0, 1, 1], **change}
    if "y_train" in change:
        params["Cs"] = [1.0]
    with pytest.raises(error, match=message):
        probe(**params)


def test_a_single_class_is_refused_by_the_classifier():
    with pytest.raises(ValueError, match=r"y has 1 class, \[1\]: at least 2"):
        LinearProbeClassifier().fit(np.eye(3), [1, 1, 1])


def test_logistic_probe_is_the_pipeline_one_would_write(digits):
    X, y, X_test, y_test = digits
    result = linear_probe(X, y, X_test, y_test, Cs=(0.01,))
    scale = X.std(0)
    scale[scale == 0] = 1
    by_hand = LogisticRegression(C=0.01, max_iter=1000).fit((X - X.mean(0)) / scale, y)
    assert_array_equal(by_hand.predict((X_test - X.mean(0)) / scale), result.predictions)
