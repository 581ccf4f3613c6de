from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import (
    GroupKFold,
    PredefinedSplit,
    StratifiedKFold,
    StratifiedShuffleSplit,
    cross_val_score,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from sklearn_cpc.evaluation import LabelFractionSplit, nested_label_subsets

Y = np.repeat([0, 1, 2], [60, 30, 10])
X = np.arange(100.0).reshape(-1, 1)


@st.composite
def labels_and_counts(draw):
    sizes = draw(st.lists(st.integers(1, 30), min_size=2, max_size=6))
    n_unlabeled = draw(st.integers(0, 10))
    y = np.repeat([*range(len(sizes)), -1], [*sizes, n_unlabeled])
    y = np.random.RandomState(draw(st.integers(0, 99))).permutation(y)
    count = st.integers(len(sizes), sum(sizes))
    return y, draw(st.lists(count, min_size=1, max_size=5))


@settings(max_examples=60, deadline=None)
@given(labels_and_counts(), st.integers(0, 1000))
def test_subsets_are_nested_stratified_and_labelled(labels, seed):
    y, counts = labels
    subsets = nested_label_subsets(y, counts, seed)
    sizes = np.bincount(y[y >= 0])
    for count, subset in zip(counts, subsets, strict=True):
        assert len(subset) == len(set(subset)) == count
        assert (y[subset] >= 0).all()
        drawn = np.bincount(y[subset], minlength=len(sizes))
        assert (drawn >= 1).all()
        # Webster's rule: no class with a second label took it before another was due for its next.
        last_taken = np.where(drawn > 1, (drawn - 0.5) / sizes, 0)
        next_due = np.where(drawn < sizes, (drawn + 0.5) / sizes, np.inf)
        assert last_taken.max() <= next_due.min() + 1e-12
    by_size = sorted(subsets, key=len)
    for smaller, larger in pairwise(by_size):
        assert set(smaller) <= set(larger)


def test_balanced_classes_stay_balanced():
    (subset,) = nested_label_subsets(np.arange(100) % 4, [22], 0)
    assert np.ptp(np.bincount(np.arange(100)[subset] % 4)) == 1


def test_proportional_classes_are_exact():
    subsets = nested_label_subsets(Y, [10, 50, 100], 0)
    assert [np.bincount(Y[rows]).tolist() for rows in subsets] == [
        [6, 3, 1],
        [30, 15, 5],
        [60, 30, 10],
    ]


def test_seed_decides():
    one, same, other = (nested_label_subsets(Y, [20], seed)[0] for seed in (0, 0, 1))
    assert_array_equal(one, same)
    assert set(one) != set(other)


def test_text_labels():
    (subset,) = nested_label_subsets(["cat", "dog", "cat", "dog"], [2], 0)
    assert sorted(np.array(["cat", "dog", "cat", "dog"])[subset]) == ["cat", "dog"]


def test_split_order_nesting_and_counts():
    cv = LabelFractionSplit((0.1, 0.5, 1.0), cv=4, n_repeats=2, random_state=0)
    pairs = list(cv.split(X, Y))
    assert len(pairs) == cv.get_n_splits(X, Y) == 4 * 2 * 3
    outer = list(StratifiedKFold(4, shuffle=True, random_state=0).split(X, Y))
    for i, (train, test) in enumerate(outer):
        for repeat in range(2):
            small, middle, full = (pairs[(i * 2 + repeat) * 3 + f] for f in range(3))
            assert set(small[0]) < set(middle[0]) < set(full[0]) == set(train)
            assert_array_equal(full[1], test)
    assert set(pairs[0][0]) != set(pairs[3][0])  # another repeat, another subset
    assert [len(pairs[i][0]) for i in range(3)] == [8, 38, 75]


def test_same_seed_same_subsets_and_independent_of_the_other_fractions():
    def run(fractions, **params):
        return list(LabelFractionSplit(fractions, cv=3, **params).split(X, Y))

    one, again = run((0.2, 1.0), random_state=3), run((0.2, 1.0), random_state=3)
    alone = run((0.2,), random_state=3)
    for i in range(6):
        assert_array_equal(one[i][0], again[i][0])
    for i in range(3):
        assert_array_equal(one[2 * i][0], alone[i][0])
    other = run((0.2,), random_state=4)
    assert any(set(a[0]) != set(b[0]) for a, b in zip(alone, other, strict=True))
    instance = np.random.RandomState(0)
    first, second = (run((0.2,), random_state=instance) for _ in range(2))
    assert any(set(a[0]) != set(b[0]) for a, b in zip(first, second, strict=True))


def test_fractions_are_raised_to_one_per_class_and_ints_are_counts():
    cv = LabelFractionSplit((0.001, 7, 1), cv=2, random_state=0)
    sizes = [len(labeled) for labeled, _ in cv.split(X, Y)]
    assert sizes == [3, 7, 50] * 2


@pytest.mark.parametrize(
    "cv",
    [
        StratifiedShuffleSplit(1, test_size=0.3, random_state=0),
        PredefinedSplit(np.arange(100) % 3 - 1),
        [(np.arange(0, 100, 2), np.arange(1, 100, 2))],
        [(np.arange(100) % 2 == 0, np.arange(100) % 2 == 1)],
        GroupKFold(2),
    ],
    ids=lambda cv: type(cv).__name__,
)
def test_any_outer_splitter(cv):
    splitter = LabelFractionSplit((0.2, 1.0), cv=cv, random_state=0)
    groups = np.arange(100) % 5 if isinstance(cv, GroupKFold) else None
    pairs = list(splitter.split(X, Y, groups))
    assert len(pairs) == splitter.get_n_splits(X, Y, groups)
    for small, full in zip(pairs[::2], pairs[1::2], strict=True):
        assert set(small[0]) <= set(full[0])
        assert not set(full[0]) & set(full[1])


def test_unshuffled_folds():
    cv = LabelFractionSplit((1.0,), cv=2, shuffle=False, random_state=0)
    expected = StratifiedKFold(2).split(X, Y)
    for (labeled, test), (train, expected_test) in zip(cv.split(X, Y), expected, strict=True):
        assert_array_equal(labeled, train)
        assert_array_equal(test, expected_test)


def test_unlabelled_rows_are_nowhere():
    y = np.where(np.arange(100) % 3 == 0, -1, Y)
    for labeled, test in LabelFractionSplit((0.1, 1.0), cv=3, random_state=0).split(X, y):
        assert (y[labeled] != -1).all()
        assert (y[test] != -1).all()


class CountingTransformer(TransformerMixin, BaseEstimator):
    n_fits = 0

    def fit(self, X, y=None):
        type(self).n_fits += 1
        self.fitted_ = True
        return self

    def transform(self, X):
        return X


def test_cross_val_score_with_frozen_encoder_never_refits():
    encoder = CountingTransformer().fit(X)
    CountingTransformer.n_fits = 0
    pipe = make_pipeline(FrozenEstimator(encoder), KNeighborsClassifier(1))
    cv = LabelFractionSplit((0.1, 1.0), cv=3, n_repeats=2, random_state=0)
    assert cross_val_score(pipe, X, Y, cv=cv).shape == (12,)
    assert CountingTransformer.n_fits == 0


def test_repr_shows_parameters():
    assert "n_repeats=2" in repr(LabelFractionSplit(n_repeats=2))


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"label_fractions": (0.0,)}, ValueError, r"label_fractions=0.0: a fraction must be in"),
        ({"label_fractions": (2.0,)}, ValueError, r"label_fractions=2.0: a fraction must be in"),
        ({"label_fractions": ()}, ValueError, r"label_fractions=\(\): at least one"),
        ({"label_fractions": ("all",)}, TypeError, r"label_fractions='all': must be a float"),
        ({"label_fractions": (True,)}, TypeError, r"label_fractions=True: must be a float"),
        ({"label_fractions": (2,)}, ValueError, r"label_fractions=2: .* number of classes=3"),
        ({"label_fractions": (90,)}, ValueError, r"label_fractions=90: .* training rows=80"),
        ({"n_repeats": 0}, ValueError, "n_repeats=0: must be at least 1"),
        ({"n_repeats": 1.5}, TypeError, "n_repeats=1.5: must be an int"),
        ({"cv": iter([([0], [1])])}, TypeError, "a generator of splits runs dry"),
        ({"cv": [(range(50), range(40, 60))]}, ValueError, "split 0 has 10 rows in both"),
    ],
)
def test_refusals(params, error, message):
    with pytest.raises(error, match=message):
        list(LabelFractionSplit(**{"random_state": 0, **params}).split(X, Y))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "y=None: label subsets are drawn by class"),
        (np.where(Y == 0, -1, 1), r"y has the classes \[1\]: at least 2"),
        (np.linspace(0, 1, 100), "Unknown label type: continuous"),
    ],
)
def test_labels_that_are_none(y, message):
    with pytest.raises(ValueError, match=message):
        list(LabelFractionSplit().split(X, y))


def test_test_part_without_labels_is_refused():
    y = np.where(np.arange(100) < 50, Y, -1)
    y[:50] = np.arange(50) % 2
    with pytest.raises(ValueError, match="split 0 has no labelled test row"):
        list(LabelFractionSplit(cv=[(np.arange(50), np.arange(50, 100))]).split(X, y))
