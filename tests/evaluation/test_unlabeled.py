import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.datasets import make_blobs
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_cpc import IgnoreUnlabeled
from sklearn_cpc.evaluation import ignore_unlabeled_scorer
from sklearn_cpc.evaluation.unlabeled import labeled_mask

from .toys import numbered_images, row_ids


@parametrize_with_checks(
    [
        IgnoreUnlabeled(LogisticRegression()),
        IgnoreUnlabeled(DecisionTreeClassifier(random_state=0)),
        IgnoreUnlabeled(make_pipeline(StandardScaler(), LogisticRegression())),
        IgnoreUnlabeled(KNeighborsClassifier()),
    ]
)
@pytest.mark.filterwarnings("ignore:y holds -1 and 1 alone:UserWarning")
def test_scikit_learn_check(estimator, check):
    check(estimator)


class Noter(ClassifierMixin, BaseEstimator):
    """Notes what it is given; predicts the first class it was fitted on."""

    def fit(self, X, y, sample_weight=None, groups=None, note=None):
        self.given_ = {"X": X, "y": y, "weight": sample_weight, "groups": groups, "note": note}
        self.classes_ = np.unique(y)
        return self

    def predict(self, X, shift=0):
        return np.full(np.shape(X)[0], self.classes_[shift])

    def score(self, X, y, sample_weight=None):
        return accuracy_score(y, self.predict(X), sample_weight=sample_weight)


class FirstPixels(TransformerMixin, BaseEstimator):
    """Any number of rows of images in, two features out; notes the rows of its last fit."""

    def fit(self, X, y=None):
        self.seen_ = row_ids(X)
        return self

    def transform(self, X):
        return np.asarray(X, dtype=float).reshape(len(X), -1)[:, :2]


@pytest.fixture
def blobs():
    X, y = make_blobs(120, random_state=0, cluster_std=0.8)
    return X, np.where(np.arange(120) % 4 == 0, y, -1), y


@pytest.mark.parametrize(
    "classifier",
    [
        LogisticRegression(),
        RidgeClassifier(),
        KNeighborsClassifier(3),
        make_pipeline(StandardScaler(), LogisticRegression()),
        GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2),
    ],
    ids=lambda classifier: type(classifier).__name__,
)
def test_it_is_the_classifier_fitted_on_the_labelled_rows(blobs, classifier):
    X, y, _ = blobs
    expected = clone(classifier).fit(X[y != -1], y[y != -1])
    wrapped = IgnoreUnlabeled(classifier).fit(X, y)
    assert_array_equal(wrapped.classes_, [0, 1, 2])
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        assert hasattr(wrapped, method) == hasattr(expected, method)
        if hasattr(expected, method):
            assert_allclose(getattr(wrapped, method)(X), getattr(expected, method)(X))
    assert wrapped.n_features_in_ == 2
    assert wrapped.score(X, y) == expected.score(X[y != -1], y[y != -1])
    assert not hasattr(classifier, "classes_")


def test_methods_are_those_of_the_estimator_before_the_fit_too():
    assert hasattr(IgnoreUnlabeled(LogisticRegression()), "predict_proba")
    assert not hasattr(IgnoreUnlabeled(RidgeClassifier()), "predict_proba")
    assert not hasattr(IgnoreUnlabeled(KNeighborsClassifier()), "decision_function")


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (np.array([0, -1, 2]), [True, False, True]),
        (np.array([0.0, -1.0, 2.0]), [True, False, True]),
        (np.array([0, 255], dtype=np.uint8), [True, True]),
        (np.array([True, False]), [True, True]),
        (np.array(["cat", -1, "dog"]), [True, False, True]),
        (np.array([b"cat", b"-1"]), [True, False]),
        (np.array(["cat", -1, "-1", "dog"], dtype=object), [True, False, False, True]),
    ],
)
def test_what_counts_as_unlabelled(y, expected):
    assert labeled_mask(y).tolist() == expected


@pytest.mark.parametrize("sign", [-1, "-1"])
@pytest.mark.parametrize("dtype", [object, None])
def test_text_labels(blobs, sign, dtype):
    X, y, _ = blobs
    names = [["ant", "bee", "cow"][value] if value >= 0 else sign for value in y]
    fitted = IgnoreUnlabeled(LogisticRegression()).fit(X, np.array(names, dtype=dtype))
    assert fitted.classes_.tolist() == ["ant", "bee", "cow"]
    number = IgnoreUnlabeled(LogisticRegression()).fit(X, y)
    assert_array_equal(fitted.predict(X), np.array(["ant", "bee", "cow"])[number.predict(X)])
    assert fitted.score(X, np.array(names, dtype=dtype)) == number.score(X, y)


def test_images_frames_lists_and_sparse_matrices_are_only_cut():
    X, y = numbered_images(12)
    y = np.where(np.arange(12) < 4, y, -1)
    given = IgnoreUnlabeled(Noter()).fit(X, y).estimator_.given_
    assert_array_equal(given["X"], X[:4])
    assert_array_equal(given["y"], y[:4])
    frame = pd.DataFrame({"a": range(12), "b": range(12)}, index=list("abcdefghijkl"))
    given = IgnoreUnlabeled(Noter()).fit(frame, pd.Series(y, frame.index)).estimator_.given_
    pd.testing.assert_frame_equal(given["X"], frame[:4])
    assert IgnoreUnlabeled(Noter()).fit(list(X), y.tolist()).estimator_.given_["X"][3] is not None
    given = IgnoreUnlabeled(Noter()).fit(sp.coo_array(np.eye(12)), y).estimator_.given_
    assert_array_equal(given["X"].toarray(), np.eye(12)[:4])


def test_feature_names():
    frame = pd.DataFrame({"a": [0.0, 1, 2, 3], "b": [1.0, 0, 0, 1]})
    fitted = IgnoreUnlabeled(LogisticRegression()).fit(frame, [0, 1, -1, -1])
    assert fitted.feature_names_in_.tolist() == ["a", "b"]
    assert fitted.n_features_in_ == 2
    assert not hasattr(fitted.fit(frame.to_numpy(), [0, 1, -1, -1]), "feature_names_in_")
    assert not hasattr(IgnoreUnlabeled(LogisticRegression()), "n_features_in_")


def test_what_has_one_entry_per_row_is_cut():
    X, y = numbered_images(6)
    y = np.array([0, -1, 1, -1, -1, 0])
    weight = np.arange(6) / 10
    fitted = IgnoreUnlabeled(Noter()).fit(
        X, y, sample_weight=weight, groups=list("abcdef"), note="whole"
    )
    given = fitted.estimator_.given_
    assert_array_equal(given["weight"], [0, 0.2, 0.5])
    assert given["groups"] == ["a", "c", "f"]
    assert given["note"] == "whole"
    assert fitted.predict(X, shift=1).tolist() == [1] * 6
    assert_allclose(fitted.score(X, y, sample_weight=weight), 5 / 7)


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.mark.usefixtures("routing")
def test_metadata_are_routed_where_they_are_requested():
    X, _ = numbered_images(6)
    y, weight = np.array([0, -1, 1, -1, -1, 0]), np.arange(6) / 10
    noter = (
        Noter().set_fit_request(sample_weight="importance").set_score_request(sample_weight=True)
    )
    wrapped = IgnoreUnlabeled(noter.set_predict_request(shift=True))
    fitted = wrapped.fit(X, y, importance=weight)
    assert_array_equal(fitted.estimator_.given_["weight"], [0, 0.2, 0.5])
    assert fitted.predict(X, shift=1).tolist() == [1] * 6
    assert_allclose(fitted.score(X, y, sample_weight=weight), 5 / 7)
    with pytest.raises(TypeError, match="unexpected argument"):
        wrapped.fit(X, y, other=weight)
    pipe = make_pipeline(FirstPixels(), wrapped).fit(X, y, importance=weight)
    assert_array_equal(pipe[-1].estimator_.given_["weight"], [0, 0.2, 0.5])


@pytest.mark.usefixtures("routing")
def test_scorer_routes_weights_in_cross_validation():
    X, y = numbered_images(24)
    y = np.where(np.arange(24) % 3 == 0, -1, y)
    weight = np.where(y == 0, 3.0, 1.0)
    scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
    noter = Noter().set_fit_request(sample_weight=False)
    scores = cross_validate(
        IgnoreUnlabeled(noter),
        X,
        y,
        cv=2,
        scoring=ignore_unlabeled_scorer(scorer),
        params={"sample_weight": weight},
    )["test_score"]
    assert_allclose(scores, 0.75)  # Half the labelled rows are 0, predicted, of weight 3.


def test_scorer_leaves_unlabelled_rows_out(blobs):
    X, y, _ = blobs
    model = LogisticRegression().fit(X[y != -1], y[y != -1])
    scorer = ignore_unlabeled_scorer()
    assert scorer(model, X, y) == model.score(X[y != -1], y[y != -1])
    assert pickle.loads(pickle.dumps(scorer))(model, X, y) == scorer(model, X, y)
    assert repr(scorer) == "ignore_unlabeled_scorer('accuracy')"
    several = ignore_unlabeled_scorer(["accuracy", "neg_log_loss"])(model, X, y)
    assert set(several) == {"accuracy", "neg_log_loss"}
    half = np.where(y == 0, 0.5, 0)
    weighted = ignore_unlabeled_scorer("accuracy")(model, X, y, sample_weight=half)
    assert weighted == model.score(X[y == 0], y[y == 0])


def test_cross_val_score_by_the_scorer_and_by_the_classifiers_own_score(blobs):
    X, y, _ = blobs
    model = IgnoreUnlabeled(LogisticRegression())
    scores = cross_val_score(model, X, y, cv=3, scoring=ignore_unlabeled_scorer())
    assert_array_equal(scores, cross_val_score(model, X, y, cv=3))
    assert scores.min() > 0.7  # With -1 as a class it were 0.25 at most.
    assert cross_val_score(model, X, y, cv=3, scoring="accuracy").max() <= 0.25


def test_grid_search_over_a_pipeline_of_images():
    X, y = numbered_images(60)
    X = X + y.reshape(-1, 1, 1, 1) * np.array([0, 50.0])  # The second channel tells the classes.
    y = np.where(np.arange(60) < 20, y, -1)
    pipe = make_pipeline(FirstPixels(), StandardScaler(), IgnoreUnlabeled(LogisticRegression()))
    search = GridSearchCV(
        pipe,
        {"ignoreunlabeled__estimator__C": [1e-6, 1.0]},
        scoring=ignore_unlabeled_scorer("neg_log_loss"),
        cv=2,
        error_score="raise",
    ).fit(X, y)
    assert search.best_params_ == {"ignoreunlabeled__estimator__C": 1.0}
    assert search.best_estimator_[0].seen_ == list(range(60))
    assert search.best_estimator_[1].n_samples_seen_ == 60
    assert search.best_estimator_[2].estimator_.n_iter_[0] > 0
    assert_array_equal(search.classes_, [0, 1])
    assert search.predict_proba(X).shape == (60, 2)
    assert search.score(X, y) > -0.2


def test_signs_alone_are_two_classes_and_a_warning():
    X, y = np.arange(6.0).reshape(-1, 1), np.array([-1, -1, -1, 1, 1, 1])
    with pytest.warns(UserWarning, match="y holds -1 and 1 alone, .* call it 0"):
        fitted = IgnoreUnlabeled(LogisticRegression()).fit(X, y)
    assert_array_equal(fitted.classes_, [-1, 1])
    assert_array_equal(fitted.predict(X), y)
    assert fitted.score(X, -y) == 0


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([-1, -1, -1, -1], "y has no labelled row among 4, only -1: labels of at least 2"),
        ([1, 1, -1, -1, -1], r"y has 1 class, \[1\], beside 3 unlabelled rows"),
        ([0, 0, -1, 0], r"y has 1 class, \[0\], beside 1 unlabelled rows .* or rename"),
        (["a", "a", "-1", "a"], r"y has 1 class, \['a'\]"),
        (None, "y=None: IgnoreUnlabeled requires y to be passed, but the target y is None"),
        ([0.5, 1.5, -1, 2], "Unknown label type: continuous"),
        ([0, 1, np.nan, -1], "Input y contains NaN"),
        ([0, 1], "inconsistent numbers of samples"),
    ],
)
def test_refusals(y, message):
    X = np.arange(4 if y is None or len(y) < 4 else len(y)).reshape(-1, 1)
    with pytest.raises(ValueError, match=message):
        IgnoreUnlabeled(LogisticRegression()).fit(X, y)


def test_an_estimator_on_kernels_is_refused():
    with pytest.raises(ValueError, match=r"estimator=SVC\(kernel='precomputed'\) takes a square"):
        IgnoreUnlabeled(SVC(kernel="precomputed")).fit(np.eye(3), [0, 1, -1])


def test_what_is_no_estimator_is_refused():
    with pytest.raises(ValueError, match=r"'estimator' parameter .* 'fit' and 'predict'"):
        IgnoreUnlabeled(StandardScaler()).fit([[0], [1]], [0, 1])


def test_nothing_to_score_is_refused():
    model = IgnoreUnlabeled(DummyClassifier()).fit([[0], [1]], [0, 1])
    for score in (model.score, lambda X, y: ignore_unlabeled_scorer()(model, X, y)):
        with pytest.raises(ValueError, match=r"no labelled row among 2, .* nothing to score"):
            score([[0], [1]], [-1, -1])


@pytest.mark.parametrize(
    "y",
    [
        [0, 1, np.nan, np.nan],
        np.array([0, 1, None, 0], dtype=object),
        np.array(["a", "b", np.nan, "a"], dtype=object),
        ["a", "b", np.nan, "a"],  # of which NumPy makes text
    ],
)
def test_a_missing_label_comes_with_the_sign_for_none(y):
    message = r"^Input y contains NaN or None \(first in row 2\); write -1 for unlabelled rows."
    with pytest.raises(ValueError, match=message):
        IgnoreUnlabeled(LogisticRegression()).fit(np.arange(4)[:, np.newaxis], y)


def test_missing_labels_of_pandas():
    for kind, labels in (("Int64", [0, 1, None, 1]), ("string", ["a", "b", None, "b"])):
        y = pd.Series(labels, dtype=kind)
        with pytest.raises(ValueError, match=r"NaN or None \(first in row 2\)"):
            IgnoreUnlabeled(LogisticRegression()).fit(np.arange(4)[:, np.newaxis], y)


def test_around_an_ensemble_unlabelled_rows_are_no_class():
    X, y = np.arange(12.0)[:, np.newaxis], np.repeat([0, 1, -1], 4)
    ensemble = VotingClassifier([("a", LogisticRegression()), ("b", LogisticRegression())])
    assert set(IgnoreUnlabeled(ensemble).fit(X, y).predict(X)) == {0, 1}
