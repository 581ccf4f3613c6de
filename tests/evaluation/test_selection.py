import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression

from sklearn_cpc import select_to_label
from sklearn_cpc.evaluation import selected_label_subsets, selection
from sklearn_cpc.evaluation.selection import classifier_for

from . import reference

METHODS = ["typical", "coverage", "random"]


@pytest.fixture(scope="module")
def features():
    return np.random.RandomState(0).normal(size=(80, 3))


def clusters_of(Z, n_clusters, seed):
    """Those that select_to_label finds: its one draw from the generator seeds k-means."""
    seed = np.random.RandomState(seed).randint(np.iinfo(np.int32).max)
    return np.unique(KMeans(n_clusters, random_state=seed).fit_predict(Z), return_inverse=True)[1]


@pytest.mark.parametrize("labeled", [[], [3, 40, 41], list(range(30))])
@pytest.mark.parametrize("n_labels", [1, 7, 50])
def test_typical_is_the_slow_reference(features, labeled, n_labels):
    clusters = clusters_of(features, n_labels + len(labeled), seed=5)
    expected = reference.typical_order(features, clusters, labeled, n_labels)
    chosen = select_to_label(features, n_labels, already_labeled=labeled, random_state=5)
    assert chosen.tolist() == expected


@pytest.mark.parametrize("labeled", [[], [3, 40, 41]])
def test_coverage_is_the_slow_reference(features, labeled):
    chosen = select_to_label(
        features, 12, already_labeled=labeled, method="coverage", random_state=1
    )
    first = None if labeled else chosen[0]
    assert chosen.tolist() == reference.farthest_first(features, labeled, 12, first)


def test_more_labels_than_clusters_go_round_the_clusters(features, monkeypatch):
    monkeypatch.setattr(selection, "MAX_CLUSTERS", 4)
    clusters = clusters_of(features, 4, seed=2)
    chosen = select_to_label(features, 60, already_labeled=[0, 1], random_state=2)
    assert chosen.tolist() == reference.typical_order(features, clusters, [0, 1], 60)


def test_neighbours_are_those_of_the_cluster_and_few(monkeypatch, features):
    monkeypatch.setattr(selection, "N_NEIGHBORS", 2)
    clusters = clusters_of(features, 3, seed=0)
    chosen = select_to_label(features, 3, random_state=0)
    assert chosen.tolist() == reference.typical_order(features, clusters, [], 3, n_neighbors=2)


def test_typical_takes_the_middle_of_each_blob_the_largest_first():
    centres = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
    X, blob = make_blobs([20, 60, 40], centers=centres, random_state=0)
    chosen = select_to_label(X, 3, random_state=0)
    assert blob[chosen].tolist() == [1, 2, 0]
    assert np.linalg.norm(X[chosen] - centres[blob[chosen]], axis=1).max() < 1
    # Two of the blobs have a label: the third is next, then the largest.
    more = select_to_label(X, 1, already_labeled=np.flatnonzero(blob == 1)[:1], random_state=0)
    assert blob[more] != 1


def test_coverage_takes_the_outlier_and_typical_does_not():
    X = np.concatenate([np.random.RandomState(0).normal(size=(50, 2)), [[90.0, 90.0]]])
    assert 50 in select_to_label(X, 2, already_labeled=[0], method="coverage", random_state=0)
    assert select_to_label(X, 1, method="typical", random_state=0) != 50


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("as_mask", [False, True])
def test_all_rows_are_chosen_once_and_labelled_ones_never(features, method, as_mask):
    labeled = np.array([5, 9, 70])
    given = np.isin(np.arange(80), labeled) if as_mask else labeled
    chosen = select_to_label(features, 77, already_labeled=given, method=method, random_state=0)
    assert chosen.dtype.kind == "i"
    assert sorted([*chosen, *labeled]) == list(range(80))


@pytest.mark.parametrize("method", METHODS)
def test_seed_decides(features, method):
    one, same, other = (
        select_to_label(features, 20, method=method, random_state=seed) for seed in (0, 0, 1)
    )
    assert_array_equal(one, same)
    assert one.tolist() != other.tolist()


@pytest.mark.parametrize("method", METHODS)
def test_copies_of_a_row_are_no_trouble(method):
    X = np.repeat([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]], [10, 6, 4], axis=0)
    chosen = select_to_label(X, 8, method=method, random_state=0)
    assert len(set(chosen.tolist())) == 8
    if method != "random":
        assert {tuple(X[i]) for i in chosen[:3]} == {(0.0, 0.0), (5.0, 0.0), (0.0, 5.0)}
    if method == "typical":  # Of equals the first, of clusters the largest.
        assert chosen.tolist() == [0, 10, 16, 1, 11, 17, 2, 12]


def test_random_is_every_row_alike():
    counts = np.zeros(6)
    for seed in range(600):
        chosen = select_to_label(
            np.eye(6), 2, already_labeled=[2], method="random", random_state=seed
        )
        counts[chosen] += 1
    assert counts[2] == 0
    # 600 draws of 2 of 5 rows: 240 each, with a standard deviation of 12.
    assert np.abs(np.delete(counts, 2) - 240).max() < 48


@pytest.mark.parametrize("method", ["typical", "coverage"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_features_keep_their_dtype_and_are_not_changed(features, method, dtype):
    X = features.astype(dtype)
    before = X.copy()
    select_to_label(X, 5, method=method, random_state=0)
    assert_array_equal(X, before)


def test_many_rows_take_mini_batches(features, monkeypatch):
    monkeypatch.setattr(selection, "FULL_KMEANS_ROWS", 50)
    monkeypatch.setattr(selection, "KMeans", None)
    assert len(set(select_to_label(features, 9, random_state=0))) == 9


@pytest.mark.parametrize("method", ["typical", "coverage"])
def test_memory_is_far_below_a_matrix_of_distances(method):
    X = np.random.RandomState(0).normal(size=(6000, 8)).astype(np.float32)
    tracemalloc.start()
    select_to_label(X, 10, method=method, random_state=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6000**2 * 4 / 10  # A tenth of the matrix in float32.


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"n_labels": 0}, ValueError, "n_labels=0: must be at least 1"),
        ({"n_labels": 1.5}, TypeError, "n_labels=1.5: must be an int"),
        ({"n_labels": True}, TypeError, "n_labels=True: must be an int"),
        ({"n_labels": 81}, ValueError, "n_labels=81: must be at most the 80 rows"),
        (
            {"n_labels": 78, "already_labeled": [0, 1, 1, 2]},
            ValueError,
            r"n_labels=78: must be at most the 77 rows .* \(80 rows, 3 of them labelled\)",
        ),
        ({"method": "typicle"}, ValueError, r"method='typicle': .* Did you mean 'typical'\?"),
        ({"method": 3}, ValueError, r"method=3: must be one of \['typical', "),
        ({"already_labeled": [80]}, ValueError, "already_labeled=80: an index must be in 0 to 79"),
        ({"already_labeled": [-1]}, ValueError, "already_labeled=-1: an index must be in"),
        ({"already_labeled": [0.5]}, TypeError, "already_labeled has 1 dimensions and dtype float"),
        ({"already_labeled": [[1]]}, TypeError, "already_labeled has 2 dimensions"),
        ({"already_labeled": [True]}, ValueError, "already_labeled is a mask of length 1: .*=80"),
        ({"X_embedded": np.zeros((4, 2, 2))}, ValueError, "X_embedded has 3 dimensions"),
        ({"X_embedded": [1.0, 2.0]}, ValueError, "X_embedded has 1 dimensions"),
        ({"X_embedded": [[np.nan]]}, ValueError, "Input X_embedded contains NaN"),
    ],
)
def test_refusals(features, params, error, message):
    with pytest.raises(error, match=message):
        select_to_label(**{"X_embedded": features, "n_labels": 2, **params})


@pytest.mark.parametrize("method", METHODS)
def test_subsets_are_nested_and_of_labelled_rows(features, method):
    y = np.where(np.arange(80) % 4 == 0, -1, np.arange(80) % 3)
    subsets = selected_label_subsets(features, y, [60, 3, 3, 20], method, random_state=0)
    assert [len(rows) for rows in subsets] == [60, 3, 3, 20]
    assert_array_equal(subsets[0], np.flatnonzero(y != -1))
    for smaller, larger in pairwise([subsets[1], subsets[2], subsets[3], subsets[0]]):
        assert set(smaller) <= set(larger)
        assert_array_equal(smaller, np.sort(smaller))
    again = selected_label_subsets(features, y, [20, 3], method, random_state=0)
    assert_array_equal(again[0], subsets[3])


def test_subsets_are_rounds_of_select_to_label(features):
    y = np.zeros(80, dtype=int)
    rng = np.random.RandomState(4)
    seeds = [rng.randint(np.iinfo(np.int32).max) for _ in range(2)]
    first = select_to_label(features, 5, random_state=seeds[0])
    second = select_to_label(features, 10, already_labeled=first, random_state=seeds[1])
    small, large = selected_label_subsets(features, y, [5, 15], random_state=4)
    assert_array_equal(small, np.sort(first))
    assert_array_equal(large, np.sort([*first, *second]))


def test_a_function_of_ones_own(features):
    def last_rows(Z, n_labels, already_labeled, random_state):
        assert isinstance(random_state, int)
        return np.setdiff1d(np.arange(len(Z)), already_labeled)[-n_labels:]

    y = np.where(np.arange(80) < 70, 0, -1)
    small, large = selected_label_subsets(features, y, [2, 5], last_rows)
    assert small.tolist() == [68, 69]
    assert large.tolist() == [65, 66, 67, 68, 69]


@pytest.mark.parametrize("rows", [[0, 0], [0], [0, 80], [-1, 2], [0.0, 1.0]])
def test_a_function_that_returns_nonsense_is_refused(features, rows):
    def nonsense(Z, n_labels, already_labeled, random_state):
        return rows

    with pytest.raises(ValueError, match="must return as many different ones as asked"):
        selected_label_subsets(features, np.zeros(80), [2], nonsense)


def test_subsets_that_cannot_be_are_refused(features):
    y = np.where(np.arange(80) < 70, 0, -1)
    with pytest.raises(ValueError, match="n_labels=71: must be at most the 70 rows"):
        selected_label_subsets(features, y, [71])
    with pytest.raises(ValueError, match="method='best': must be one of"):
        selected_label_subsets(features, y, [2], "best")


def test_a_subset_of_one_class_gets_a_classifier_that_knows_it():
    real = LogisticRegression()
    assert classifier_for([0, 1, 1], real) is real
    constant = classifier_for(["b", "b"], real)
    assert isinstance(constant, DummyClassifier)
    constant.fit(np.zeros((2, 4, 4)), ["b", "b"])
    assert constant.score(np.zeros((4, 4, 4)), ["a", "b", "b", "b"]) == 0.75
