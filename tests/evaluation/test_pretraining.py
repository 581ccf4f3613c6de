import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectKBest
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline, make_pipeline

from sklearn_cpc.evaluation import (
    LabelFractionSplit,
    curve_table,
    curves_to_frame,
    label_saving,
    pretraining_curve,
)

from .toys import CountedNB, CountedPCA, FitRecorder, Recorder, n_files, numbered_images

PARAMS = {"unlabeled_fractions": (0.0, 0.5, 1.0), "cv": 2, "n_repeats": 2, "random_state": 3}


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    X.setflags(write=False)
    return X[:300], y[:300]


@pytest.fixture(scope="module")
def recorded():
    """What the encoder and the classifier saw: 60 images, 50 more, labels on two thirds."""
    X, y = numbered_images()
    y = np.where(np.arange(60) % 3 == 0, -1, y)
    log, fits = {"fits": [], "transforms": []}, []
    curve = pretraining_curve(
        make_pipeline(Recorder(log), FitRecorder(fits)),
        X,
        y,
        label_fraction=0.4,
        X_unlabeled=X[:50] + 1000,
        **PARAMS,
    )
    splits = list(LabelFractionSplit([0.4], cv=2, n_repeats=2, random_state=3).nested_splits(X, y))
    return curve, log, fits, splits


def test_parts_are_nested_and_hold_the_labelled_images(recorded):
    curve, log, _, splits = recorded
    assert_array_equal(curve.n_images, [[8, 44, 80]] * 2)  # 8 of 80, 8 + 72 / 2, 30 + 50
    assert_array_equal(curve.n_labels, [8, 8])
    assert len(log["fits"]) == 2 * (2 + 2 + 1)  # all images serve both repeats
    for (train, test, subsets), seen in zip(
        splits, (log["fits"][:5], log["fits"][5:]), strict=True
    ):
        seen = [set(rows) for rows in seen]
        assert seen[2] == set(train) | set(range(1000, 1050))
        for (labeled,), parts in zip(subsets, (seen[:3], [*seen[3:], seen[2]]), strict=True):
            assert parts[0] == set(train[labeled])
            assert parts[0] < parts[1] < parts[2]
            assert not parts[2] & set(test)
        assert seen[1] != seen[4]


def test_labels_and_test_images_are_the_same_for_every_part(recorded):
    curve, log, fits, splits = recorded
    assert curve.scores.shape == (3, 2, 2)
    expected = [train[labeled].tolist() for train, _, subsets in splits for (labeled,) in subsets]
    # For each split: three parts of the first repeat, the last with the second; then the others.
    order = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert sorted(rows for rows, _ in fits) == sorted(expected[i] for i in order)
    assert all((labels != -1).all() for _, labels in fits)
    tests = log["transforms"][1::2]
    assert tests == [test.tolist() for _, test, _ in splits for _ in range(5)]
    assert_array_equal(curve.n_test, [len(test) for _, test, _ in splits])


def test_scores_are_those_of_a_plain_loop(digits):
    X, y = digits
    pipe = make_pipeline(PCA(10, random_state=0), GaussianNB())
    curve = pretraining_curve(pipe, X, y, label_fraction=60, **PARAMS)
    splitter = LabelFractionSplit([60], cv=2, n_repeats=2, random_state=3)
    for i_split, (train, test, subsets) in enumerate(splitter.nested_splits(X, y)):
        for i_repeat, (labeled,) in enumerate(subsets):
            rows = train[labeled]
            for i_fraction, part in ((0, rows), (2, train)):
                encoder = PCA(10, random_state=0).fit(X[part])
                classifier = GaussianNB().fit(encoder.transform(X[rows]), y[rows])
                expected = accuracy_score(y[test], classifier.predict(encoder.transform(X[test])))
                assert_allclose(curve.scores[i_fraction, i_split, i_repeat], expected)
    assert_allclose(curve.mean, curve.scores.mean(axis=(1, 2)))
    assert_allclose(curve.std, curve.scores.std(axis=(1, 2)))
    assert (curve.transform_fit_times > 0).all()
    assert curve.name == "PCA + GaussianNB"


def test_a_frozen_encoder_gives_a_flat_curve(digits):
    frozen = FrozenEstimator(PCA(5, random_state=0).fit(digits[0]))
    curve = pretraining_curve(
        {"frozen": make_pipeline(frozen, GaussianNB())}, *digits, label_fraction=60, **PARAMS
    ).frozen
    assert np.ptp(curve.scores, axis=0).max() == 0


def test_cache_progress_and_lines(digits, tmp_path, capsys):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    pipe = make_pipeline(CountedPCA(5, str(tmp_path)), CountedNB(str(tmp_path)))
    first, second = (
        pretraining_curve(
            {"it": pipe}, *digits, cache=tmp_path / "c", progress=True, verbose=1, **PARAMS
        )
        for _ in range(2)
    )
    assert (n_files(tmp_path, "encoder"), n_files(tmp_path, "classifier")) == (10, 12)
    assert_array_equal(first.it.scores, second.it.scores)
    shown = capsys.readouterr()
    assert "22/22" in shown.err
    assert "[pretraining_curve] it, split 2/2, 150 images: encoder" in shown.out


def test_table_and_frame(digits):
    pipe = make_pipeline(PCA(5, random_state=0), GaussianNB())
    curves = pretraining_curve({"PCA": pipe}, *digits, label_fraction=30, **PARAMS)
    heads = [cell.strip() for cell in curve_table(curves).splitlines()[0].split("|")[1:-1]]
    assert heads == ["images", "30 (0 %)", "90 (50 %)", "150 (100 %)"]
    frame = curves_to_frame(curves)
    assert list(frame)[:4] == ["name", "fraction", "n_images", "n_labels"]
    row = frame.query("fraction == 0.5 and split == 1 and repeat == 0").iloc[0]
    assert row.score == curves.PCA.scores[1, 1, 0]
    assert row.n_images == 90
    assert row.n_labels == 30
    assert row.transform_fit_time == curves.PCA.transform_fit_times[1, 1, 0]
    with pytest.raises(TypeError, match="curve=Bunch: must be one result of label_efficiency"):
        label_saving(curves.PCA, curves.PCA)


PIPE = make_pipeline(PCA(5), GaussianNB())


@pytest.mark.parametrize(
    ("estimator", "params", "error", "message"),
    [
        (GaussianNB(), {}, ValueError, "'GaussianNB' is a GaussianNB: must be a Pipeline of an"),
        (make_pipeline(GaussianNB()), {}, ValueError, "or nothing is pretrained"),
        (Pipeline([("a", PCA()), ("b", None)]), {}, ValueError, "must be a classifier"),
        (PIPE, {"unlabeled_fractions": (0.5, 1.5)}, ValueError, r"\(0.5, 1.5\): must be one or mo"),
        (PIPE, {"unlabeled_fractions": ()}, ValueError, r"must be one or more numbers in \[0, 1\]"),
        (PIPE, {"label_fraction": (0.1, 0.2)}, TypeError, r"label_fraction=\(0.1, 0.2\): must be"),
        (PIPE, {"label_fraction": 1.5}, ValueError, "a fraction must be in"),
        (PIPE, {"X_unlabeled": np.zeros((3, 5))}, ValueError, "they must be equal"),
        (PIPE, {"cache": 3}, TypeError, "cache=3: must be a folder"),
    ],
)
def test_refusals(digits, estimator, params, error, message):
    with pytest.raises(error, match=message):
        pretraining_curve(estimator, *digits, **params)


def test_supervised_transformer_is_explained(digits):
    with pytest.raises(Exception, match="y") as caught:
        pretraining_curve(make_pipeline(SelectKBest(k=5), GaussianNB()), *digits, cv=2)
    assert "pretraining_curve fits all steps before the last" in caught.value.__notes__[0]
