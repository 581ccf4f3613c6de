"""Backends, the cache, chosen labels and the bar."""

import io
import pickle
import sys
import warnings

import joblib
import numpy as np
import pytest
from joblib import parallel_config
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_cpc.evaluation import (
    LabelFractionSplit,
    label_efficiency_curve,
    selected_label_subsets,
)
from sklearn_cpc.evaluation.cache import ResultStore, hash_setting
from sklearn_cpc.evaluation.study import _labels_of_all
from sklearn_cpc.evaluation.unlabeled import labeled_mask

from .toys import (
    CountedNB,
    CountedPCA,
    FitRecorder,
    leave_a_file,
    n_files,
    numbered_images,
    row_ids,
)

PARAMS = {"label_fractions": (0.2, 0.5, 1.0), "cv": 2, "n_repeats": 2, "random_state": 0}
N_FITS = 2 * (2 + 2 + 1)  # the whole training part is one subset, not two


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    X.setflags(write=False)
    return X[:300], y[:300]


@pytest.fixture
def counted(tmp_path):
    """A pipeline that leaves files, and how to count them: (encoder fits, classifier fits)."""
    folder = tmp_path / "fits"
    folder.mkdir()
    pipe = make_pipeline(CountedPCA(5, str(folder)), CountedNB(str(folder)))
    return pipe, lambda: (n_files(folder, "encoder"), n_files(folder, "classifier"))


# Backends


def is_memmap(estimator, X, y):
    return float(isinstance(X, np.memmap))


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_backends_share_one_encoder_fit(digits, counted, backend):
    pipe, count = counted
    alone = label_efficiency_curve(pipe, *digits, **PARAMS)
    before = count()
    with parallel_config(backend=backend, n_jobs=2):
        curve = label_efficiency_curve(pipe, *digits, **PARAMS)
    assert before == (2, N_FITS)
    assert count() == (4, 2 * N_FITS)
    assert_array_equal(curve.scores, alone.scores)
    assert (curve.fit_times > 0).all()


def test_processes_read_the_features_from_one_file():
    X = np.random.RandomState(0).rand(4000, 100)  # 1.6 MB each part: joblib maps above 1 MB
    curve = label_efficiency_curve(
        make_pipeline(FunctionTransformer(), GaussianNB()),
        X,
        np.arange(4000) % 2,
        label_fractions=(0.1, 0.5),
        cv=2,
        n_repeats=1,
        scoring=is_memmap,
        n_jobs=2,
    )
    assert curve.mean.min() == 1


def test_a_dask_cluster_of_two_workers(digits, counted):
    distributed = pytest.importorskip("distributed", reason="dask is not installed")
    pipe, count = counted
    alone = label_efficiency_curve(pipe, *digits, **PARAMS)
    with warnings.catch_warnings():
        # Dask's own: occupied ports, sockets and event loops that are closed late.
        warnings.simplefilter("ignore")
        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
            ) as cluster,
            distributed.Client(cluster) as client,
            parallel_config(backend="dask", n_jobs=-1),
        ):
            assert len(client.scheduler_info()["workers"]) == 2
            curve = label_efficiency_curve(pipe, *digits, **PARAMS)
    assert count() == (4, 2 * N_FITS)
    assert_array_equal(curve.scores, alone.scores)


class _NoGenerator(joblib._parallel_backends.SequentialBackend):
    supports_return_generator = False


def test_a_backend_that_returns_all_results_at_once(digits, counted):
    pipe, count = counted
    joblib.register_parallel_backend("no generator", _NoGenerator)
    with parallel_config(backend="no generator"):
        label_efficiency_curve(pipe, *digits, **PARAMS)
    assert count() == (2, N_FITS)


# The cache


def test_a_second_call_fits_nothing(digits, counted, tmp_path):
    pipe, count = counted
    first = label_efficiency_curve(pipe, *digits, cache=tmp_path / "cache", **PARAMS)
    second = label_efficiency_curve(pipe, *digits, cache=str(tmp_path / "cache"), **PARAMS)
    assert count() == (2, N_FITS)
    for key in ("scores", "fit_times", "score_times", "transform_fit_times", "n_labels"):
        assert_array_equal(first[key], second[key])
    # Of a finished split the scores are left, not the features.
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".joblib"}


@pytest.mark.parametrize("n_before", [0, 3, 7, 9])
def test_an_interrupted_study_goes_on_where_it_stopped(digits, counted, tmp_path, n_before):
    pipe, count = counted
    limit = tmp_path / "fits" / "limit"
    limit.write_text(str(n_before))
    with pytest.raises(InterruptedError):
        label_efficiency_curve(pipe, *digits, cache=tmp_path / "cache", **PARAMS)
    n_encoders = 1 if n_before < N_FITS / 2 else 2
    assert count() == (n_encoders, n_before)
    limit.unlink()
    resumed = label_efficiency_curve(pipe, *digits, cache=tmp_path / "cache", **PARAMS)
    assert count() == (2, N_FITS)
    assert_array_equal(resumed.scores, label_efficiency_curve(pipe, *digits, **PARAMS).scores)


def test_only_a_further_estimator_is_fitted(digits, counted, tmp_path):
    pipe, count = counted
    label_efficiency_curve({"a": pipe}, *digits, cache=tmp_path / "cache", **PARAMS)
    more = {"a": pipe, "b": clone(pipe).set_params(countedpca__n_components=6)}
    curves = label_efficiency_curve(more, *digits, cache=tmp_path / "cache", **PARAMS)
    assert count() == (4, 2 * N_FITS)
    assert (curves.a.scores != curves.b.scores).any()


def changed_pixel(X, y):
    X = X.copy()
    X[0, 0] += 1
    return X, y


def changed_label(X, y):
    y = y.copy()
    y[0] = (y[0] + 1) % 10
    return X, y


@pytest.mark.parametrize(
    "change",
    [
        {"random_state": 1},
        {"scoring": "balanced_accuracy"},
        {"scoring": make_scorer(np.allclose)},
        {"transductive": True},
        {"n_repeats": 3},
        {"label_fractions": (0.2, 0.6, 1.0)},
        {"X_unlabeled": np.ones((2, 64))},
        {"label_selection": "random"},
        {"estimator": {"countednb__var_smoothing": 0.1}},
        {"estimator": {"countedpca__n_components": 6}},
        {"data": changed_pixel},
        {"data": changed_label},
    ],
    ids="-".join,
)
def test_a_changed_setting_is_measured_anew(digits, counted, tmp_path, change):
    pipe, count = counted
    cache = tmp_path / "cache"
    label_efficiency_curve(pipe, *digits, cache=cache, **PARAMS)
    data = change.get("data", lambda X, y: (X, y))(*digits)
    pipe = clone(pipe).set_params(**change.get("estimator", {}))
    rest = {key: value for key, value in change.items() if key not in ("data", "estimator")}
    label_efficiency_curve(pipe, *data, cache=cache, **PARAMS | rest)
    assert count()[0] == 4


def test_another_version_is_another_setting(digits, counted, tmp_path, monkeypatch):
    pipe, count = counted
    label_efficiency_curve(pipe, *digits, cache=tmp_path / "cache", **PARAMS)
    monkeypatch.setattr("sklearn_cpc.__version__", "another")
    label_efficiency_curve(pipe, *digits, cache=tmp_path / "cache", **PARAMS)
    assert count()[0] == 4


@pytest.mark.parametrize(
    "content", [b"", b"no pickle", pickle.dumps({"format": "foreign"}), "torn"]
)
def test_unusable_files_are_computed_again(digits, counted, tmp_path, content):
    pipe, count = counted
    cache = tmp_path / "cache"
    first = label_efficiency_curve(pipe, *digits, cache=cache, **PARAMS)
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:-9] if content == "torn" else content)
    with pytest.warns(UserWarning, match=r"cache: .*\.joblib cannot be used .*it is ignored"):
        second = label_efficiency_curve(pipe, *digits, cache=cache, **PARAMS)
    assert count() == (4, 2 * N_FITS)
    assert_array_equal(first.scores, second.scores)
    label_efficiency_curve(pipe, *digits, cache=cache, **PARAMS)
    assert count() == (4, 2 * N_FITS)


def test_scores_whose_features_are_lost_are_not_mixed_with_others(digits, counted, tmp_path):
    pipe, count = counted
    limit = tmp_path / "fits" / "limit"
    limit.write_text("3")
    with pytest.raises(InterruptedError):
        label_efficiency_curve(pipe, *digits, cache=tmp_path / "cache", **PARAMS)
    limit.unlink()
    (features,) = (tmp_path / "cache").glob("*/features.joblib")
    features.unlink()
    label_efficiency_curve(pipe, *digits, cache=tmp_path / "cache", **PARAMS)
    assert count() == (3, 3 + N_FITS)


def test_a_file_under_another_name_is_foreign(tmp_path):
    store = ResultStore(tmp_path)
    store.save("a", 1)
    (tmp_path / "a.joblib").rename(tmp_path / "b.joblib")
    with pytest.warns(UserWarning, match="it was not written under this name"):
        assert store.load("b") is None


def test_a_write_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(TypeError, match="cannot pickle"):
        ResultStore(tmp_path).save("a", (i for i in range(3)))
    assert list(tmp_path.iterdir()) == []


def test_an_estimator_that_cannot_be_known_again_is_refused_before_any_fit(digits, tmp_path):
    fits = []
    estimators = {"a": FitRecorder(fits), "b": FitRecorder(iter(range(3)))}
    estimators["b"].log = (i for i in range(3))
    with pytest.raises(ValueError, match="cache: the estimator 'b' cannot be told from others"):
        label_efficiency_curve(estimators, *digits, cache=tmp_path / "cache", **PARAMS)
    assert fits == []
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_to_is_refused_before_any_fit(digits, tmp_path):
    fits = []
    (tmp_path / "file").write_text("")
    for cache in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(
            ValueError, match=r"cache=.*file.* must be a folder that can be written"
        ):
            label_efficiency_curve(FitRecorder(fits), *digits, cache=cache, **PARAMS)
    assert fits == []


def test_cache_is_a_folder(digits):
    with pytest.raises(TypeError, match="cache=True: must be a folder"):
        label_efficiency_curve(GaussianNB(), *digits, cache=True)


def fitted_pipeline():
    from sklearn_cpc import CPCTransformer

    X = np.random.RandomState(0).rand(20, 8, 8)
    cpc = CPCTransformer(4, latent_dim=4, max_epochs=0, random_state=0).fit(X)
    return make_pipeline(FrozenEstimator(cpc), LogisticRegression())


def test_the_hash_of_a_torch_estimator_knows_its_weights_and_no_address():
    stored = pickle.dumps(fitted_pipeline())
    one, two = pickle.loads(stored), pickle.loads(stored)
    assert hash_setting(one, "it") == hash_setting(two, "it")
    assert hash_setting(fitted_pipeline(), "it") == hash_setting(fitted_pipeline(), "it")
    next(two[0].estimator.encoder_.parameters()).data[0] += 1
    assert hash_setting(one, "it") != hash_setting(two, "it")


def closure(number):
    def f(x):
        return x + number

    return f


def test_hashes_tell_apart_what_differs_and_only_that():
    things = [
        None,
        0,
        0.0,
        "a",
        b"a",
        [1, 2],
        (1, 2),
        {1, 2},
        {"a": 1},
        {"a": 2},
        np.zeros(2),
        np.zeros(2, np.float32),
        np.zeros((2, 1)),
        np.array(["a", None]),
        np.float32(0),
        np.dtype("f4"),
        np.random.RandomState(0),
        np.random.RandomState(1),
        PCA,
        PCA(),
        PCA(2),
        GaussianNB(),
        closure(1),
        closure(2),
        closure(1).__call__,
        len,
        np.tanh,
        np.exp,
        make_scorer(np.allclose),
    ]
    hashes = [hash_setting(thing, "it") for thing in things]
    assert len(set(hashes)) == len(things)
    copies = [thing if i == 24 else joblib_copy(thing) for i, thing in enumerate(things)]
    assert [hash_setting(thing, "it") for thing in copies] == hashes
    shared = [1, 2]
    assert hash_setting([shared, shared], "it") == hash_setting([[1, 2], [1, 2]], "it")
    assert hash_setting({"a": 1, "b": 2}, "it") == hash_setting({"b": 2, "a": 1}, "it")
    loop = [1]
    loop.append(loop)
    assert hash_setting(loop, "it") != hash_setting([1, [1]], "it")


def joblib_copy(thing):
    """A copy with nothing shared; of a closure a second one."""
    if getattr(thing, "__name__", "") == "f":
        return closure(thing.__closure__[0].cell_contents)
    file = io.BytesIO()
    joblib.dump(thing, file)
    return joblib.load(file)


# Chosen labels


def by_first_feature(Z, n_labels, already_labeled, random_state):
    order = np.argsort(Z[:, 0])
    return order[~np.isin(order, already_labeled)][:n_labels]


def test_chosen_labels_are_prefixes_of_the_order():
    X, y = numbered_images(60, shape=(1,))
    X = X.reshape(60, 1)
    y = np.where(np.arange(60) % 3 == 0, -1, y)
    fits = []
    curve = label_efficiency_curve(
        make_pipeline(FunctionTransformer(np.negative), FitRecorder(fits)),
        X,
        y,
        label_fractions=(4, 10, 1.0),
        label_selection=by_first_feature,
        cv=2,
        n_repeats=1,
        random_state=0,
    )
    assert_array_equal(curve.n_labels, [[4, 10, 20]] * 2)
    for four, ten, all_of_them in (fits[:3], fits[3:]):
        expected = sorted(all_of_them[0])  # the negatives of large numbers are the smallest
        assert sorted(four[0]) == expected[:4]
        assert sorted(ten[0]) == expected[:10]
        assert all((labels != -1).all() for _, labels in (four, ten, all_of_them))


def test_selection_gets_a_seed_for_each_split_and_repeat(digits):
    seeds = []

    def noted(Z, n_labels, already_labeled, random_state):
        seeds.append(random_state)
        return np.random.RandomState(random_state).permutation(len(Z))[:n_labels]

    for _ in range(2):
        label_efficiency_curve(
            make_pipeline(PCA(3, random_state=0), GaussianNB()),
            *digits,
            label_selection=noted,
            **PARAMS | {"label_fractions": (0.5,)},
        )
    assert len(set(seeds[:4])) == 4
    assert seeds[:4] == seeds[4:]


@pytest.mark.parametrize("method", ["typical", "coverage", "random"])
def test_the_rows_are_those_of_selected_label_subsets(digits, method):
    """The whole way, from images to the rows that reach the classifier."""
    X, y = digits[0].copy(), np.where(np.arange(300) % 5 == 0, -1, digits[1])
    X[:, 0] = np.arange(300)  # the name of the row, beside which no other pixel counts for PCA
    train, test = np.arange(200), np.arange(200, 300)
    fits = []
    label_efficiency_curve(
        make_pipeline(pca := PCA(1, random_state=0), FitRecorder(fits)),
        X,
        y,
        label_fractions=(12, 40, 1.0),
        label_selection=method,
        cv=[(train, test)],
        n_repeats=2,
        random_state=3,
    )
    Z = pca.fit_transform(X[train])
    seeds = np.random.RandomState([3, 0]).randint(np.iinfo(np.int32).max, size=2)
    expected = [selected_label_subsets(Z, y[train], [12, 40, 160], method, s) for s in seeds]
    expected = [rows for repeat in expected for rows in repeat][:5]  # the sixth is the third again
    assert len(fits) == 5
    for rows, (_, labels) in zip(expected, fits, strict=True):
        assert_array_equal(labels, y[rows])
    assert method == "random" or set(expected[0]) != set(expected[3])


@pytest.mark.parametrize("method", ["typical", "coverage", "random"])
def test_chosen_labels_are_scored(digits, method):
    curve = label_efficiency_curve(
        make_pipeline(PCA(10, random_state=0), GaussianNB()),
        *digits,
        label_selection=method,
        **PARAMS,
    )
    assert curve.n_labels[0].tolist() == [30, 75, 150]
    assert 0.3 < curve.mean[0] < curve.mean[2]


def test_chosen_labels_and_groups_are_refused(digits):
    with pytest.raises(ValueError, match="label_selection='typical' chooses single rows, groups"):
        label_efficiency_curve(
            GaussianNB(), *digits, label_selection="typical", groups=np.arange(300) // 3
        )


def test_a_subset_of_one_class_scores_what_its_class_scores():
    X = np.arange(40.0)[:, np.newaxis]
    y = np.repeat([0, 1], [30, 10])
    curve = label_efficiency_curve(
        LogisticRegression(),
        X,
        y,
        label_fractions=(5, 1.0),
        label_selection=by_first_feature,
        cv=2,
        random_state=0,
    )
    assert_array_equal(curve.scores[0], 0.75)
    assert curve.mean[1] > 0.9


def test_selection_must_return_as_many_rows_as_asked_for(digits):
    with pytest.raises(ValueError, match="must return as many different ones as asked for"):
        label_efficiency_curve(
            GaussianNB(),
            *digits,
            label_selection=lambda Z, n_labels, already_labeled, random_state: [0, 0, 1],
            **PARAMS | {"label_fractions": (10,)},
        )


def test_an_unknown_selection_is_refused_before_any_fit(digits):
    fits = []
    with pytest.raises(ValueError, match=r"label_selection='atypical': must be one of \['typical'"):
        label_efficiency_curve(FitRecorder(fits), *digits, label_selection="atypical")
    assert fits == []


# What learns without labels by itself


class SemiSupervised(FitRecorder):
    """Takes y = -1, and is pretrained apart."""

    unlabeled = -1

    def __init__(self, log=None, pretrainings=None, n_pretrained=None):
        super().__init__(log)
        self.pretrainings = pretrainings
        self.n_pretrained = n_pretrained

    def pretrained(self, X):
        self.pretrainings.append(row_ids(X))
        return SemiSupervised(self.log, self.pretrainings, len(X))

    def score(self, X, y):
        super().score(X, y)
        return float(self.n_pretrained)

    def __sklearn_clone__(self):
        return SemiSupervised(self.log, self.pretrainings, self.n_pretrained)


@pytest.mark.parametrize("transductive", [False, True])
def test_semi_supervised_estimators_see_all_images_and_the_labels_of_the_subset(transductive):
    X, y = numbered_images(60, shape=(2, 2))
    y = np.where(np.arange(60) % 6 == 0, -1, y)
    fits, pretrainings = [], []
    splitter = LabelFractionSplit(PARAMS["label_fractions"], cv=2, n_repeats=2, random_state=0)
    curve = label_efficiency_curve(
        SemiSupervised(fits, pretrainings),
        X,
        y,
        X_unlabeled=X[:5] + 1000,
        transductive=transductive,
        **PARAMS,
    )
    assert len(pretrainings) == 2
    assert (curve.scores == len(pretrainings[0])).all()
    assert (curve.transform_fit_times > 0).all()
    assert (curve.transform_times == 0).all()
    fits = iter(fits)
    for images, (train, test, subsets) in zip(
        pretrainings, splitter.nested_splits(X, y), strict=True
    ):
        n_test = len(test) if transductive else 0
        assert images == [*train, *test[:n_test], *range(1000, 1005)]
        for rows in [*subsets[0], *subsets[1][:2]]:
            seen, labels = next(fits)
            assert seen == images
            assert_array_equal(np.flatnonzero(labels != -1), rows)
            assert_array_equal(labels[rows], y[train][rows])
    assert next(fits, None) is None


def test_a_semi_supervised_last_step_sees_the_features_of_all_training_images():
    X, y = numbered_images(60, shape=(1,))
    fits = []
    pipe = make_pipeline(FunctionTransformer(np.negative), SemiSupervised(fits, [], 0))
    label_efficiency_curve(pipe, X, y, X_unlabeled=X + 1000, **PARAMS)
    assert {len(rows) for rows, _ in fits} == {30}
    assert sorted({np.sum(labels != -1) for _, labels in fits}) == [6, 15, 30]


def test_without_the_sign_an_estimator_sees_the_label_subset_alone():
    X, y = numbered_images(60, shape=(1,))
    for sign in (None, "", 7, True):
        fits = []
        estimator = SemiSupervised(fits, [], 0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SemiSupervised, "unlabeled", sign)
            label_efficiency_curve(estimator, X, y, **PARAMS)
        assert sorted({len(rows) for rows, _ in fits}) == [6, 15, 30]


@pytest.mark.parametrize(
    "classes", [np.array(["a", "b"]), np.array([b"a", b"b"]), np.array(["a", 2], object)]
)
def test_the_sign_for_none_is_that_of_the_kind_of_labels(classes):
    labels = _labels_of_all(4, np.array([1, 3]), classes)
    assert_array_equal(labels[[1, 3]], classes)
    assert_array_equal(labeled_mask(labels), [False, True, False, True])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_the_sign_for_none_fits_among_the_labels(dtype):
    labels = _labels_of_all(4, np.array([1, 3]), np.array([0, 1], dtype))
    assert_array_equal(labels, [-1, 0, -1, 1])


def test_a_semi_supervised_study_goes_on_without_another_pretraining(tmp_path):
    X, y = numbered_images(60, shape=(1,))
    X = X.reshape(60, 1)
    limit = tmp_path / "limit"
    limit.write_text("3")
    estimator = StoredSemiSupervised(str(tmp_path))
    params = PARAMS | {"cache": tmp_path / "cache"}
    with pytest.raises(InterruptedError):
        label_efficiency_curve(estimator, X, y, **params)
    limit.unlink()
    label_efficiency_curve(estimator, X, y, **params)
    assert n_files(tmp_path, "encoder") == 2
    assert n_files(tmp_path, "classifier") == N_FITS


class StoredSemiSupervised(CountedNB):
    unlabeled = -1

    def pretrained(self, X):
        leave_a_file(self.folder, "encoder")
        return clone(self)


# The bar


def test_progress_counts_every_fit(digits, counted, tmp_path, capsys):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    for _ in range(2):  # and those that the cache has
        label_efficiency_curve(
            {"it": counted[0]}, *digits, progress=True, cache=tmp_path / "cache", **PARAMS
        )
        shown = capsys.readouterr()
        total = 2 * (1 + 3 * 2)
        assert f"{total}/{total}" in shown.err
        assert "it, split 2/2" in shown.err
        assert shown.out == ""


def test_missing_tqdm_names_caller_and_extra(digits, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    message = r'label_efficiency_curve needs tqdm.*"sklearn-cpc\[progress\]"'
    with pytest.raises(ImportError, match=message):
        label_efficiency_curve(GaussianNB(), *digits, progress=True, **PARAMS)
