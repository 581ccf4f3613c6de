"""One split of a study: an encoder fitted once without labels, classifiers on few labels."""

from collections.abc import Mapping
from numbers import Integral
from time import perf_counter

import joblib
import numpy as np
from joblib.parallel import get_active_backend
from sklearn.base import (
    BaseEstimator,
    TransformerMixin,
    clone,
    is_classifier,
    is_clusterer,
    is_outlier_detector,
    is_regressor,
)
from sklearn.dummy import DummyClassifier
from sklearn.metrics import check_scoring
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _num_samples

from ._optional import import_optional
from .cache import ResultStore, hash_arrays, hash_setting, versions
from .selection import METHODS, classifier_for, selected_label_subsets
from .unlabeled import labeled_mask


class _Identity(TransformerMixin, BaseEstimator):
    """In the place of the classifier; "passthrough" would have scikit-learn ask the step before
    whether it is fitted, which one that learns nothing cannot show."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X

    def __sklearn_is_fitted__(self):
        return True


class Study:
    """What is the same for all splits and estimators of a study.

    Parameters
    ----------
    X, y : array-like of shape (n_samples, ...) and ndarray of shape (n_samples,)
        All images and their labels.

    scoring, n_jobs, transductive, label_selection, cache : as in `label_efficiency_curve`

    caller : str
        The public function, for messages.
    """

    def __init__(
        self,
        X,
        y,
        *,
        scoring=None,
        n_jobs=None,
        transductive=False,
        label_selection=None,
        cache=None,
        caller="label_efficiency_curve",
    ):
        self.X = X
        self.y = y
        self.scoring = scoring
        self.n_jobs = n_jobs
        self.transductive = transductive
        self.label_selection = _checked_selection(label_selection)
        self.store = ResultStore(cache)
        self.caller = caller
        self.setting = self._setting() if self.store else None

    def _setting(self):
        return {
            "versions": versions(),
            "X": hash_arrays(self.X),
            "y": hash_arrays(self.y),
            "scoring": hash_setting(self.scoring, "scoring"),
            "transductive": bool(self.transductive),
            "label_selection": hash_setting(self.label_selection, "label_selection"),
        }

    def check_storable(self, estimators):
        """Refuse before the work what could not be found again after it."""
        for name, estimator in estimators.items() if self.store else ():
            hash_setting(estimator, f"the estimator {name!r}")
        self.store.check_folder()

    def measure(self, estimator, split, *, X_unlabeled=None, seeds=(), bar):
        """Scores on one split, from the cache if they are there.

        Parameters
        ----------
        split : tuple of (train, test, subsets)
            As `LabelFractionSplit.nested_splits` yields them.

        seeds : sequence of int
            For `label_selection`, one for each repeat.

        Returns
        -------
        table : ndarray of shape (n_repeats, n_fractions, 3)
            Score, seconds to fit and seconds to score.
        times : tuple of float
            Seconds to fit the encoder and transform the training images, and to transform the
            test images.
        """
        train, test, subsets = split
        n_cells = len(subsets) * len(subsets[0])
        key = self._key(estimator, split, X_unlabeled, seeds)
        if (done := self.store.load(key)) is not None:
            bar.update(1 + n_cells)
            return done
        transformer, classifier = split_steps(estimator)
        if transformer is None and takes_unlabeled(classifier):
            classifier, Z_train, Z_test, times = self._pretrain(
                key, classifier, train, test, X_unlabeled
            )
        else:
            Z_train, Z_test, times = self._encode(key, transformer, train, test, X_unlabeled)
        bar.update(1)
        y_train, y_test = self.y[train], self.y[test]
        if self.label_selection is not None:
            # Of the same sizes, chosen by a look at the features.
            n_labels = [len(rows) for rows in subsets[0]]
            Z, method = _safe_indexing(Z_train, slice(0, len(train))), self.label_selection
            subsets = [selected_label_subsets(Z, y_train, n_labels, method, seed) for seed in seeds]
        done = self._fit_all(key, classifier, Z_train, y_train, Z_test, y_test, subsets, bar), times
        self.store.save(key, done)
        self.store.drop(key)
        return done

    def _key(self, estimator, split, X_unlabeled, seeds):
        if not self.store:
            return None
        parts = hash_setting(estimator, "the estimator"), hash_arrays(X_unlabeled), list(seeds)
        return joblib.hash((self.setting, parts, split))

    def _encode(self, key, transformer, train, test, X_unlabeled):
        """Transform both parts; of an unfinished split the features are kept beside its scores."""
        X_train, X_test = _safe_indexing(self.X, train), _safe_indexing(self.X, test)
        if transformer is None:
            return X_train, X_test, (0.0, 0.0)
        if (kept := self.store.load(f"{key}/features")) is not None:
            return kept
        self.store.drop(key)  # scores of features that are lost; a second fit may give others
        start = perf_counter()
        parts = [X_train, X_test if self.transductive else None, X_unlabeled]
        transformer = clone(transformer)
        Z_train = _fit_transform(transformer, _concatenate(parts, self.caller), self.caller)
        Z_train = _safe_indexing(Z_train, slice(0, len(train)))
        middle = perf_counter()
        Z_test = transformer.transform(X_test)
        features = Z_train, Z_test, (middle - start, perf_counter() - middle)
        self.store.save(f"{key}/features", features)
        return features

    def _pretrain(self, key, classifier, train, test, X_unlabeled):
        """The classifier that has learned what it learns without labels, if it can do that apart,
        and the images to fit and to score it on."""
        X_train, X_test = _safe_indexing(self.X, train), _safe_indexing(self.X, test)
        parts = [X_train, X_test if self.transductive else None, X_unlabeled]
        X_train = _concatenate(parts, self.caller)
        if not hasattr(classifier, "pretrained"):
            return classifier, X_train, X_test, (0.0, 0.0)
        if (kept := self.store.load(f"{key}/pretrained")) is None:
            self.store.drop(key)
            start = perf_counter()
            classifier = clone(classifier).pretrained(X_train)
            kept = classifier, perf_counter() - start
            self.store.save(f"{key}/pretrained", kept)
        return kept[0], X_train, X_test, (kept[1], 0.0)

    def _fit_all(self, key, classifier, Z_train, y_train, Z_test, y_test, subsets, bar):
        """A fit on every different label subset: those of the cache, and the rest in parallel."""
        cells = {}
        for i_repeat, i_fraction in np.ndindex(len(subsets), len(subsets[0])):
            rows = subsets[i_repeat][i_fraction]
            cells.setdefault(joblib.hash(rows), (rows, []))[1].append((i_repeat, i_fraction))
        scorer = checked_scorer(classifier, self.scoring)
        table = np.empty((len(subsets), len(subsets[0]), 3))

        def keep(name, result):
            for cell in cells[name][1]:
                table[cell] = result
            bar.update(len(cells[name][1]))

        missing = []
        for name in cells:
            result = self.store.load(f"{key}/{name}")
            missing.append(name) if result is None else keep(name, result)
        calls = (
            delayed(_fit_and_score)(
                name, clone(classifier), scorer, Z_train, y_train, cells[name][0], Z_test, y_test
            )
            for name in missing
        )
        for name, result in Parallel(n_jobs=self.n_jobs, return_as=_return_as())(calls):
            self.store.save(f"{key}/{name}", result)
            keep(name, result)
        return table


def _checked_selection(label_selection):
    """Refused before the encoder is fitted, not after."""
    is_known = label_selection is None or callable(label_selection)
    if not is_known and label_selection not in list(METHODS):
        raise ValueError(
            f"label_selection={label_selection!r}: must be one of {list(METHODS)}, a callable with "
            "the parameters of select_to_label, or None for a stratified random choice."
        )
    return label_selection


def _return_as():
    """One result at a time, as they come, where the backend can."""
    backend, _ = get_active_backend()
    return "generator_unordered" if backend.supports_return_generator else "list"


def _fit_transform(transformer, X, caller):
    try:
        return transformer.fit_transform(X, None)
    except Exception as error:
        error.add_note(
            f"{caller} fits all steps before the last without labels, y=None; a step that needs "
            "them belongs into the last step: make_pipeline(encoder, "
            "make_pipeline(supervised_step, classifier))."
        )
        raise


def _fit_and_score(name, classifier, scorer, Z_train, y_train, rows, Z_test, y_test):
    start = perf_counter()
    labels = y_train[rows]
    classifier = classifier_for(labels, classifier)
    if takes_unlabeled(classifier):
        classifier.fit(Z_train, _labels_of_all(_num_samples(Z_train), rows, labels))
    else:
        classifier.fit(_safe_indexing(Z_train, rows), labels)
    middle = perf_counter()
    score = scorer(classifier, Z_test, y_test)
    return name, (score, middle - start, perf_counter() - middle)


def takes_unlabeled(classifier):
    """Whether it says by an attribute that rows of y = -1 are unlabelled images to learn from."""
    sign = getattr(classifier, "unlabeled", None)
    return isinstance(sign, Integral) and sign == -1


def _labels_of_all(n_rows, rows, labels):
    """The labels of these rows, and the sign for none everywhere else."""
    kind = labels.dtype.kind
    sign = np.array("-1", kind) if kind in "US" else np.array(-1)
    everywhere = np.full(n_rows, sign, np.result_type(labels, sign))
    everywhere[rows] = labels
    return everywhere


def _concatenate(parts, caller):
    parts = [part for part in parts if part is not None]
    first = parts[0]
    if len(parts) == 1:
        return first
    if hasattr(first, "iloc"):
        pandas = import_optional("pandas", caller, "plot")
        return pandas.concat(parts, ignore_index=True)
    if isinstance(first, list):
        return [image for part in parts for image in part]
    return np.concatenate(parts)


def split_steps(estimator):
    """The steps that learn without labels, None if there are none, and the classifier."""
    if not isinstance(estimator, Pipeline):
        return None, estimator
    name, classifier = estimator.steps[-1]
    if classifier is None or isinstance(classifier, str):
        raise ValueError(
            f"estimator={estimator!r}: the last step of a Pipeline must be a classifier, not "
            f"{classifier!r}; add one, for example LogisticRegression()."
        )
    if len(estimator.steps) == 1:
        return None, classifier
    # Not a slice, estimator[:-1]: `memory` caches every step but the last, which is the encoder.
    return clone(estimator).set_params(**{name: _Identity()}), classifier


def checked_scorer(classifier, scoring):
    if scoring is not None and not isinstance(scoring, str) and not callable(scoring):
        raise TypeError(
            f"scoring={scoring!r}: must be one scorer, a str or a callable; measure several "
            "scores in several calls with the same random_state."
        )
    if scoring is None and not _may_classify(classifier):
        raise TypeError(
            f"estimator: {type(classifier).__name__} at its end is no classifier, whose accuracy "
            f"could be measured; pass make_pipeline({type(classifier).__name__}(...), "
            "LogisticRegression()), or a scoring that is meant for it."
        )
    return check_scoring(classifier, scoring=scoring)


def _may_classify(estimator):
    """What says of itself to be a classifier, or at least nothing else."""
    is_other = any(is_it(estimator) for is_it in (is_regressor, is_clusterer, is_outlier_detector))
    is_other |= hasattr(estimator, "transform") and not hasattr(estimator, "predict")
    return is_classifier(estimator) or not is_other


def check_scoring_of_labels(scoring, y):
    """Refuse before the work a scorer by name that is not for such labels, such as three classes.

    Parameters
    ----------
    scoring : str, callable or None
    y : ndarray of shape (n_samples,)
        As `check_labels` gives it.
    """
    if not isinstance(scoring, str):
        return
    y = y[labeled_mask(y)]
    nothing = np.zeros((len(y), 1))
    guessing = DummyClassifier(strategy="prior").fit(nothing, y)
    try:
        check_scoring(guessing, scoring=scoring)(guessing, nothing, y)
    except Exception as error:
        raise ValueError(
            f"scoring={scoring!r} cannot score labels of the classes {np.unique(y).tolist()[:10]}: "
            f"{error!s:.200}; pass another, such as 'balanced_accuracy' or 'roc_auc_ovr'."
        ) from error


def check_unlabeled(X, X_unlabeled):
    if X_unlabeled is None:
        return
    ours, theirs = _image_kind(X), _image_kind(X_unlabeled)
    if ours != theirs:
        raise ValueError(
            f"X_unlabeled has images of (shape, dtype)={theirs}, X of {ours}: they must be equal, "
            "or the encoder would learn from two kinds of image; convert one of them."
        )


def _image_kind(X):
    return tuple(getattr(X, "shape", ()))[1:], str(getattr(X, "dtype", None))


def is_several(estimator):
    return isinstance(estimator, Mapping | list | tuple)


def named_estimators(estimator):
    """Name -> estimator, for one or several."""
    if not is_several(estimator):
        steps = estimator.steps if isinstance(estimator, Pipeline) else [(None, estimator)]
        return {" + ".join(_step_name(step) for _, step in steps): estimator}
    pairs = list(estimator.items() if isinstance(estimator, Mapping) else estimator)
    for pair in pairs:
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise TypeError(
                f"estimator has {type(pair).__name__} without a name; pass a dict of name to "
                'estimator, such as {"CPC": pipe}, or pairs of the two.'
            )
    names = [name for name, _ in pairs]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"estimator names={names}: must be one or more different names.")
    return dict(pairs)


def _step_name(step):
    return step if isinstance(step, str) else type(step).__name__


def score_name(scoring):
    """For the axis of a plot."""
    if scoring is None:
        return "Accuracy"
    name = scoring if isinstance(scoring, str) else getattr(scoring, "__name__", "score")
    return name.replace("_", " ").capitalize()
