from itertools import pairwise

import numpy as np
import pytest
import sklearn
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
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from sklearn_cpc.evaluation import (
    LabelFractionSplit,
    label_efficiency_curve,
    nested_label_subsets,
)

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


@st.composite
def groups_and_counts(draw):
    y, counts = draw(labels_and_counts())
    n_groups = draw(st.integers(1, len(y)))
    return y, counts, np.random.RandomState(draw(st.integers(0, 99))).randint(n_groups, size=len(y))


@settings(max_examples=60, deadline=None)
@given(groups_and_counts(), st.integers(0, 1000))
def test_subsets_of_groups_are_whole_nested_and_no_larger_than_needed(labels, seed):
    y, counts, groups = labels
    subsets = nested_label_subsets(y, counts, seed, groups=groups)
    labeled = y != -1
    for count, subset in zip(counts, subsets, strict=True):
        assert len(subset) >= count
        assert set(y[subset]) == set(y[labeled])
        whole = labeled & np.isin(groups, groups[subset])
        assert_array_equal(subset, np.flatnonzero(whole))
    for smaller, larger in pairwise(sorted(subsets, key=len)):
        assert set(smaller) <= set(larger)


def test_groups_are_drawn_until_there_are_enough_labels():
    """Groups of three rows and one class: ten labels take four of them, two of each class."""
    groups = np.arange(60) // 3
    y = groups % 2
    few, more, full = nested_label_subsets(y, [2, 10, 60], 0, groups=groups)
    assert np.bincount(y[few]).tolist() == [3, 3]
    assert np.bincount(y[more]).tolist() == [6, 6]
    assert len(full) == 60


def test_groups_of_one_class_stay_near_the_proportions():
    rng = np.random.RandomState(0)
    groups = np.repeat(np.arange(200), rng.randint(1, 6, 200))
    y = (np.arange(200) % 4 == 0).astype(int)[groups]
    for seed in range(5):
        counts = [60, 200, 400]
        for count, subset in zip(
            counts, nested_label_subsets(y, counts, seed, groups=groups), strict=True
        ):
            assert count <= len(subset) < count + 5
            # One group of five is one part in twelve of sixty labels.
            assert abs(y[subset].mean() - y.mean()) < 0.09


def test_seed_decides_the_groups():
    groups = np.arange(100) // 2
    one, same, other = (nested_label_subsets(Y, [20], s, groups=groups)[0] for s in (0, 0, 1))
    assert_array_equal(one, same)
    assert set(one) != set(other)


def test_groups_of_single_rows_are_rows():
    subset = nested_label_subsets(Y, [10, 50], 0, groups=np.arange(100))[1]
    assert np.bincount(Y[subset]).tolist() == [30, 15, 5]


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


def test_text_beside_the_number_for_none_is_text():
    X, y = np.zeros((40, 2)), np.repeat(["a", "b"], 20)
    splits = list(
        LabelFractionSplit((0.5, 1.0), cv=2, random_state=0).split(
            X, np.where(np.arange(40) % 4, y, "-1")
        )
    )
    mixed = y.astype(object)
    mixed[::4] = -1
    found = LabelFractionSplit((0.5, 1.0), cv=2, random_state=0).split(X, mixed)
    for parts, expected in zip(found, splits, strict=True):
        for part, rows in zip(parts, expected, strict=True):
            np.testing.assert_array_equal(part, rows)
    curve = label_efficiency_curve(
        GaussianNB(), X + (y == "b")[:, np.newaxis], mixed, label_fractions=(1.0,), cv=2
    )
    assert curve.n_labels.sum() == 30
    assert curve.scores.min() == 1


def test_a_missing_label_comes_with_the_sign_for_none():
    labels = np.array([0, 1, np.nan] * 4)
    with pytest.raises(
        ValueError, match=r"NaN or None \(first in row 2\); write -1 for unlabelled"
    ):
        next(LabelFractionSplit(cv=2).split(np.zeros((12, 1)), labels))


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


@pytest.mark.parametrize("cv", [4, GroupKFold(4)])
def test_groups_are_on_one_side_and_labelled_as_a_whole(cv):
    groups = np.random.RandomState(0).randint(25, size=100)
    y = np.where(np.arange(100) % 7 == 0, -1, Y)
    splitter = LabelFractionSplit((0.2, 0.5, 1.0), cv=cv, n_repeats=2, random_state=0)
    n_pairs = 0
    for train, test, subsets in splitter.nested_splits(X, y, groups):
        assert not set(groups[train]) & set(groups[test])
        for small, middle, full in subsets:
            assert set(small) < set(middle) < set(full)
            for rows in (small, middle, full):
                inside = np.isin(groups[train], groups[train][rows]) & (y[train] != -1)
                assert_array_equal(rows, np.flatnonzero(inside))
                assert set(y[train][rows]) == set(y[train]) - {-1}
                n_pairs += 1
    assert n_pairs == splitter.get_n_splits(X, y, groups) == 24


def test_groups_reach_the_split_through_cross_val_score():
    groups = np.arange(100) // 2
    y = groups % 3
    model = KNeighborsClassifier(1)
    cv = LabelFractionSplit((0.2, 1.0), cv=2, random_state=0)
    expected = [len(labeled) for labeled, _ in cv.split(X, y, groups)]
    seen = []

    def note(estimator, X, y):
        seen.append(estimator.n_samples_fit_)
        return 0.0

    cross_val_score(model, X, y, groups=groups, cv=cv, scoring=note)
    with sklearn.config_context(enable_metadata_routing=True):
        cross_val_score(model, X, y, params={"groups": groups}, cv=cv, scoring=note)
    assert seen == expected * 2
    assert all(n % 2 == 0 for n in seen)


@pytest.mark.parametrize("method", ["typical", "coverage", "random"])
def test_subsets_chosen_without_labels(method):
    Z = np.random.RandomState(0).normal(size=(100, 4))
    y = np.where(np.arange(100) % 5 == 0, -1, Y)
    params = {"cv": 3, "n_repeats": 2, "random_state": 0, "selection": method}
    splitter = LabelFractionSplit((4, 0.5, 1.0), **params)
    for (train, test, subsets), (same, _, again) in zip(
        splitter.nested_splits(Z, y), splitter.nested_splits(Z, y), strict=True
    ):
        assert_array_equal(train, same)
        assert not set(train) & set(test)
        for (small, half, full), (small_again, _, _) in zip(subsets, again, strict=True):
            assert len(small) == 4
            assert set(small) < set(half) < set(full)
            assert_array_equal(full, np.flatnonzero(y[train] != -1))
            assert_array_equal(small, small_again)
        assert subsets[0][0].tolist() != subsets[1][0].tolist()


def test_the_selection_sees_training_features_and_no_label():
    seen = []

    def first_rows(Z, n_labels, already_labeled, random_state):
        seen.append(Z[:, 0].astype(int))
        return np.setdiff1d(np.arange(len(Z)), already_labeled)[:n_labels]

    cv = LabelFractionSplit((0.1, 0.5), cv=2, selection=first_rows, random_state=0)
    for (train, _, subsets), rows in zip(list(cv.nested_splits(X, Y)), seen[::2], strict=True):
        assert_array_equal(rows, train)
        assert_array_equal(subsets[0][1], np.arange(25))


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
        (
            {"selection": "typicle"},
            ValueError,
            r"selection='typicle': must be one of \['stratified', 'typical'",
        ),
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


def test_groups_in_both_parts_are_refused():
    halves = [(np.arange(0, 100, 2), np.arange(1, 100, 2))]
    cv = LabelFractionSplit((1.0,), cv=halves, random_state=0)
    with pytest.raises(ValueError, match="split 0 has 5 groups, 0 for one, in both its training"):
        list(cv.split(X, Y, np.arange(100) % 5))


def test_groups_and_a_selection_of_rows_are_refused():
    cv = LabelFractionSplit((1.0,), cv=2, selection="typical", random_state=0)
    with pytest.raises(ValueError, match="selection='typical' chooses single rows, groups label"):
        list(cv.split(X, Y, np.arange(100) // 2))


def test_groups_of_another_length_are_refused():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        nested_label_subsets(Y, [5], groups=[0, 1])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        list(LabelFractionSplit().split(X, Y, [0, 1]))


def test_images_are_no_features_to_select_from():
    images = np.zeros((100, 2, 2, 1))
    with pytest.raises(ValueError, match="X_embedded has 4 dimensions: features of shape"):
        list(LabelFractionSplit(cv=2, selection="coverage").split(images, Y))
