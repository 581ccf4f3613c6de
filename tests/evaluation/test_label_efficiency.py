import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectKBest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_cpc import CPCTransformer
from sklearn_cpc.evaluation import FlattenImages, LabelFractionSplit, label_efficiency_curve

from .toys import FitRecorder, Memorizer, Recorder, numbered_images

FRACTIONS = (0.1, 0.5, 1.0)


def new_log():
    return {"fits": [], "transforms": []}


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:300], y[:300]


def test_images_of_a_group_are_labelled_together():
    X, y = numbered_images(120, shape=(1, 1, 1))
    groups = np.repeat(np.arange(20), [2, 10] * 10)
    fits = []
    curve = label_efficiency_curve(
        FitRecorder(fits), X, y, label_fractions=(0.3,), groups=groups, cv=2, random_state=0
    )
    for rows, _ in fits:
        assert sorted(rows) == np.flatnonzero(np.isin(groups, groups[rows])).tolist()
    sizes = np.array([len(rows) for rows, _ in fits]).reshape(2, 3)
    assert np.ptp(sizes, axis=1).min() > 1
    assert_array_equal(curve.n_labels[:, 0], np.rint(sizes.mean(axis=1)))


@pytest.mark.parametrize(
    ("last", "name"),
    [(PCA(2), "PCA"), (Ridge(), "Ridge"), (KMeans(2), "KMeans"), (CPCTransformer(), "CPCTr")],
)
@pytest.mark.parametrize("in_pipeline", [False, True])
def test_what_is_no_classifier_is_refused_before_any_fit(last, name, in_pipeline, digits):
    fits = []
    estimator = make_pipeline(Recorder(new_log()), last) if in_pipeline else last
    with pytest.raises(TypeError, match=f"{name}.* at its end is no classifier.* make_pipeline"):
        label_efficiency_curve({"it": estimator}, *digits, cv=2, label_fractions=(0.5,))
    assert not fits


@pytest.mark.parametrize("scoring", ["roc_auc", "f1", "recall"])
def test_a_scorer_for_other_labels_is_refused_before_any_fit(scoring, digits):
    log = new_log()
    pipe = make_pipeline(Recorder(log), LogisticRegression())
    message = rf"scoring='{scoring}' cannot score labels of the classes \[0, 1, .*; pass another"
    with pytest.raises(ValueError, match=message):
        label_efficiency_curve(pipe, *digits, cv=2, label_fractions=(0.5,), scoring=scoring)
    assert not log["fits"]


@pytest.mark.parametrize("scoring", ["roc_auc_ovr", "neg_log_loss", "f1_macro", "top_k_accuracy"])
def test_scorers_by_name(scoring, digits):
    curve = label_efficiency_curve(
        GaussianNB(), *digits, cv=2, label_fractions=(0.5,), n_repeats=1, scoring=scoring
    )
    assert np.isfinite(curve.mean).all()


def test_several_without_names_are_refused(digits):
    pipe = make_pipeline(PCA(5), LogisticRegression())
    for estimators in ([GaussianNB(), GaussianNB()], [pipe], [("a", GaussianNB()), GaussianNB()]):
        with pytest.raises(TypeError, match="without a name; pass a dict of name to estimator"):
            label_efficiency_curve(estimators, *digits, cv=2, label_fractions=(0.5,))


def test_encoder_is_fitted_once_per_split_and_transforms_each_part_once():
    """What the whole curve costs beside five pretrainings: classifiers, and nothing else."""
    X, y = numbered_images(1797, shape=(1, 1, 1))
    log, fits = new_log(), []
    pipe = make_pipeline(Recorder(log), FitRecorder(fits))
    curve = label_efficiency_curve(pipe, X, y, random_state=0)
    assert len(log["fits"]) == 5
    assert len(log["transforms"]) == 10
    assert len(fits) == 5 * (6 * 3 + 1)  # the whole training part is one subset, not three
    assert curve.scores.shape == (7, 5, 3)


def test_test_images_never_enter_a_fit_and_all_training_images_do():
    X, y = numbered_images()
    log, fits = new_log(), []
    splitter = LabelFractionSplit(FRACTIONS, cv=4, n_repeats=2, random_state=1)
    label_efficiency_curve(
        make_pipeline(Recorder(log), FitRecorder(fits)),
        X,
        y,
        label_fractions=FRACTIONS,
        cv=4,
        n_repeats=2,
        random_state=1,
    )
    for i_split, (train, test, _) in enumerate(splitter.nested_splits(X, y)):
        assert log["fits"][i_split] == train.tolist()
        assert log["transforms"][2 * i_split + 1] == test.tolist()
        for rows, labels in fits[i_split * 5 : (i_split + 1) * 5]:
            assert set(rows) <= set(train.tolist())
            assert_array_equal(labels, y[rows])


def test_subsets_are_those_of_the_splitter():
    X, y = numbered_images()
    fits = []
    params = {"label_fractions": (0.2, 0.5), "cv": 3, "n_repeats": 2, "random_state": 5}
    label_efficiency_curve(FitRecorder(fits), X, y, **params)
    expected = [labeled.tolist() for labeled, _ in LabelFractionSplit(**params).split(X, y)]
    assert [rows for rows, _ in fits] == expected


def test_memorised_training_rows_are_no_advantage():
    X, _ = numbered_images(200)
    y = np.random.RandomState(0).randint(2, size=200)
    curve = label_efficiency_curve(
        make_pipeline(Memorizer(y), KNeighborsClassifier(1)),
        X,
        y,
        label_fractions=(0.5, 1.0),
        cv=4,
        random_state=0,
    )
    # 200 fair coins: chance is 0.5 with a standard error of 0.035; a leak scores 1.
    assert_allclose(curve.mean, 0.5, atol=0.14)


class FittedOnAll(Memorizer):
    """The mistake: fitted on all images there are, test images included."""

    def fit(self, X, y=None):
        self.known_ = set(range(len(self.answers)))
        return self


def test_an_encoder_that_was_fitted_on_test_rows_is_found_out():
    """The test above can fail: the same memory, fitted on test rows, is far from chance."""
    X, _ = numbered_images(200)
    y = np.random.RandomState(0).randint(2, size=200)
    params = {"label_fractions": (0.5, 1.0), "cv": 4, "random_state": 0}
    leaks = {
        "own fault": label_efficiency_curve(
            make_pipeline(FittedOnAll(y), KNeighborsClassifier(1)), X, y, **params
        ),
        "frozen": label_efficiency_curve(
            make_pipeline(FrozenEstimator(Memorizer(y).fit(X)), KNeighborsClassifier(1)),
            X,
            y,
            **params,
        ),
        "transductive": label_efficiency_curve(
            make_pipeline(Memorizer(y), KNeighborsClassifier(1)), X, y, transductive=True, **params
        ),
    }
    for curve in leaks.values():
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            assert_allclose(curve.mean, 0.5, atol=0.14)
        assert_allclose(curve.mean, 1)


def test_transductive_encoders_see_the_test_images_and_no_label():
    X, y = numbered_images()
    log, fits = new_log(), []
    curve = label_efficiency_curve(
        make_pipeline(Recorder(log), FitRecorder(fits)),
        X,
        y,
        label_fractions=(1.0,),
        X_unlabeled=X[:3] + 1000,
        transductive=True,
        cv=2,
        random_state=0,
    )
    assert curve.transductive
    for rows, (labeled, _) in zip(log["fits"], fits, strict=True):
        assert sorted(rows) == [*range(60), 1000, 1001, 1002]
        assert rows[:30] == labeled  # the features of the training rows stay with their labels


def test_unlabelled_rows_serve_the_encoder_only():
    X, y = numbered_images()
    y = np.where(np.arange(60) % 3 == 0, -1, y)
    log, fits = new_log(), []
    curve = label_efficiency_curve(
        make_pipeline(Recorder(log), FitRecorder(fits)),
        X,
        y,
        label_fractions=(0.5, 1.0),
        cv=2,
        n_repeats=1,
        random_state=0,
    )
    assert all(len(rows) == 30 for rows in log["fits"])
    assert any(set(rows) & set(np.flatnonzero(y == -1)) for rows in log["fits"])
    assert all((labels != -1).all() for _, labels in fits)
    assert_array_equal(curve.n_labels, [[10, 20], [10, 20]])
    assert_array_equal(curve.n_train, [30, 30])
    assert_array_equal(curve.n_test, [20, 20])


@pytest.mark.parametrize("kind", ["array", "list", "frame"])
def test_more_unlabelled_images(kind):
    X, y = numbered_images(40, shape=(1, 1, 2))
    X = X.reshape(40, 2)
    more = X[:7] + 1000
    if kind == "list":
        X, more = X.tolist(), more.tolist()
    if kind == "frame":
        X, more = pd.DataFrame(X), pd.DataFrame(more)
    log = new_log()
    curve = label_efficiency_curve(
        make_pipeline(Recorder(log), GaussianNB()),
        X,
        y,
        label_fractions=(1.0,),
        X_unlabeled=more,
        cv=2,
        random_state=0,
    )
    for rows in log["fits"]:
        assert len(rows) == 27
        assert rows[20:] == list(range(1000, 1007))
    assert curve.n_unlabeled == 7


def test_scores_are_those_of_a_plain_loop(digits):
    X, y = digits
    pipe = make_pipeline(StandardScaler(), PCA(10, random_state=0), GaussianNB())
    params = {"label_fractions": (0.2, 1.0), "cv": 3, "n_repeats": 2, "random_state": 0}
    curve = label_efficiency_curve(pipe, X, y, **params)
    for i_split, (train, test, subsets) in enumerate(
        LabelFractionSplit(**params).nested_splits(X, y)
    ):
        encoder = make_pipeline(StandardScaler(), PCA(10, random_state=0)).fit(X[train])
        for i_repeat, i_fraction in np.ndindex(2, 2):
            rows = train[subsets[i_repeat][i_fraction]]
            classifier = GaussianNB().fit(encoder.transform(X[rows]), y[rows])
            expected = accuracy_score(y[test], classifier.predict(encoder.transform(X[test])))
            assert_allclose(curve.scores[i_fraction, i_split, i_repeat], expected)
    assert_allclose(curve.mean, curve.scores.mean(axis=(1, 2)))
    assert_allclose(curve.std, curve.scores.std(axis=(1, 2)))
    assert (curve.fit_times > 0).all()
    assert (curve.score_times > 0).all()
    assert curve.transform_fit_times.shape == curve.transform_times.shape == (3,)
    assert curve.name == "StandardScaler + PCA + GaussianNB"


def test_repeats_with_all_labels_are_equal(digits):
    curve = label_efficiency_curve(
        GaussianNB(var_smoothing=1e-2), *digits, label_fractions=(0.2, 1.0), cv=2, random_state=0
    )
    assert np.ptp(curve.scores[1], axis=1).max() == 0
    assert np.ptp(curve.scores[0], axis=1).max() > 0


def test_several_estimators_share_the_subsets():
    X, y = numbered_images()
    first, second = [], []
    curves = label_efficiency_curve(
        [("a", FitRecorder(first)), ("b", FitRecorder(second))],
        X,
        y,
        label_fractions=(0.3,),
        cv=2,
    )
    assert list(curves) == ["a", "b"]
    assert curves.b.name == "b"
    assert [rows for rows, _ in first] == [rows for rows, _ in second]
    single = label_efficiency_curve({"a": GaussianNB()}, X[:, 0, 0], y, cv=2, random_state=0)
    assert list(single) == ["a"]


def test_frozen_step_is_not_refitted(digits):
    X, y = digits
    frozen = FrozenEstimator(PCA(5, random_state=0).fit(X[:50]))
    before = frozen.estimator.components_.copy()
    label_efficiency_curve(
        make_pipeline(frozen, GaussianNB()), X, y, label_fractions=(1.0,), cv=2, random_state=0
    )
    assert_array_equal(frozen.estimator.components_, before)


class CountingPCA(PCA):
    n_fits = 0

    def fit_transform(self, X, y=None):
        type(self).n_fits += 1
        return super().fit_transform(X, y)


def test_memory_of_the_pipeline_saves_the_encoder_of_an_earlier_call(digits, tmp_path):
    pipe = make_pipeline(CountingPCA(5, random_state=0), GaussianNB(), memory=str(tmp_path))
    CountingPCA.n_fits = 0
    first, second = (
        label_efficiency_curve(pipe, *digits, label_fractions=(1.0,), cv=2, random_state=0)
        for _ in range(2)
    )
    assert CountingPCA.n_fits == 2
    assert_array_equal(first.scores, second.scores)


def test_estimators_are_left_unfitted(digits):
    pipe = make_pipeline(PCA(5), GaussianNB())
    label_efficiency_curve(pipe, *digits, label_fractions=(1.0,), cv=2)
    assert not hasattr(pipe[0], "components_")
    assert not hasattr(pipe[1], "classes_")


def test_search_as_last_step_and_passthrough(digits):
    search = GridSearchCV(KNeighborsClassifier(), {"n_neighbors": [1, 3]}, cv=2)
    pipe = Pipeline([("nothing", "passthrough"), ("search", search)])
    curve = label_efficiency_curve(
        pipe, *digits, label_fractions=(0.5,), cv=2, n_repeats=1, scoring="balanced_accuracy"
    )
    assert curve.mean[0] > 0.6
    assert curve.score_name == "Balanced accuracy"


class Stateless(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return np.sqrt(X)


def test_a_transformer_that_learns_nothing_need_not_show_that_it_is_fitted(digits):
    curve = label_efficiency_curve(
        make_pipeline(Stateless(), GaussianNB(var_smoothing=1e-2)),
        *digits,
        label_fractions=(1.0,),
        cv=2,
    )
    assert curve.mean[0] > 0.7


def test_images_of_four_dimensions_in_a_memmap(digits, tmp_path):
    X, y = digits
    path = tmp_path / "images.npy"
    np.save(path, (15 * X).reshape(-1, 8, 8, 1).astype(np.uint8))
    images = np.load(path, mmap_mode="r")
    curve = label_efficiency_curve(
        make_pipeline(FlattenImages(), LogisticRegression()),
        images,
        y,
        label_fractions=(1.0,),
        cv=2,
    )
    assert curve.mean[0] > 0.8


def test_one_hold_out_and_numbers_of_labels(digits):
    cv = StratifiedShuffleSplit(1, test_size=100, random_state=0)
    curve = label_efficiency_curve(
        GaussianNB(), *digits, label_fractions=(20, 50, 1.0), cv=cv, random_state=0
    )
    assert_array_equal(curve.n_labels, [[20, 50, 200]])
    assert_allclose(curve.label_fractions, [0.1, 0.25, 1.0])


def test_random_state_is_not_global(digits):
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    label_efficiency_curve(GaussianNB(), *digits, label_fractions=(0.2,), cv=2, random_state=0)
    assert_array_equal(np.random.get_state()[1], before)


def test_verbose_prints_a_line_per_split(digits, capsys):
    pipe = make_pipeline(PCA(5), GaussianNB())
    label_efficiency_curve({"PCA": pipe}, *digits, label_fractions=(1.0,), cv=2, verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "PCA, split 2/2: encoder" in lines[1]


@pytest.mark.parametrize(
    ("estimator", "params", "error", "message"),
    [
        (Pipeline([("a", PCA()), ("b", "passthrough")]), {}, ValueError, "must be a classifier"),
        ([("a", GaussianNB()), ("a", GaussianNB())], {}, ValueError, "one or more different names"),
        ({}, {}, ValueError, "one or more different names"),
        (GaussianNB(), {"scoring": ["accuracy"]}, TypeError, "must be one scorer"),
        (GaussianNB(), {"X_unlabeled": np.zeros((3, 5))}, ValueError, "they must be equal"),
        (
            GaussianNB(),
            {"X_unlabeled": np.zeros((3, 64), dtype=np.uint8)},
            ValueError,
            r"X_unlabeled has images of \(shape, dtype\)=\(\(64,\), 'uint8'\)",
        ),
        (GaussianNB(), {"n_repeats": 0}, ValueError, "n_repeats=0"),
    ],
)
def test_refusals(digits, estimator, params, error, message):
    with pytest.raises(error, match=message):
        label_efficiency_curve(estimator, *digits, **params)


def test_supervised_transformer_is_explained(digits):
    pipe = make_pipeline(SelectKBest(k=5), GaussianNB())
    with pytest.raises(Exception, match="y") as caught:
        label_efficiency_curve(pipe, *digits, cv=2)
    assert "belongs into the last step" in caught.value.__notes__[0]
