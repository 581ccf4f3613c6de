"""The protocol: an encoder fitted once without labels, a classifier on few labels."""

from collections.abc import Mapping
from time import perf_counter

import numpy as np
from sklearn.base import clone
from sklearn.metrics import check_scoring
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch, _safe_indexing, indexable
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _num_samples

from ._optional import import_optional
from .splits import (
    DEFAULT_LABEL_FRACTIONS,
    LabelFractionSplit,
    check_label_fractions,
    check_labels,
    labeled_mask,
)


def label_efficiency_curve(
    estimator,
    X,
    y,
    *,
    label_fractions=DEFAULT_LABEL_FRACTIONS,
    X_unlabeled=None,
    groups=None,
    cv=5,
    n_repeats=3,
    scoring=None,
    n_jobs=None,
    random_state=None,
    verbose=0,
):
    """Measure the score of an estimator against the number of labels it was given.

    Of a :class:`~sklearn.pipeline.Pipeline`, all steps but the last are fitted once per split,
    without labels, on all training images of the split and never on a test image; a clone of the
    last step is then fitted on each label subset of the transformed training images, and scored on
    the transformed test images. Any other estimator, a supervised network for instance, has a
    clone fitted on the images of each label subset. :func:`sklearn.model_selection.learning_curve`
    is another thing: it takes away the images together with their labels.

    Parameters
    ----------
    estimator : estimator, dict of str to estimator or list of (str, estimator)
        What is measured. Several estimators are measured on the same label subsets. In a Pipeline
        a :class:`~sklearn.frozen.FrozenEstimator` is not refitted, `memory` is used, and a
        supervised step belongs into the last one: `make_pipeline(encoder, make_pipeline(scaler,
        classifier))` scales by the labelled images alone. A search for hyper-parameters as last
        step sees the label subset only.

    X : array-like of shape (n_samples, ...)
        Images or features: arrays of any number of dimensions, memmaps, data frames, lists.
        The training images of one split are held in memory.

    y : array-like of shape (n_samples,)
        Classes. -1 means unlabelled: such a row serves the transformer steps if it is in the
        training part, and is neither given to the classifier nor scored.

    label_fractions : sequence of float or int, \
            default=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
        Fractions in (0, 1] of the labelled training images, raised to one label per class if
        they come to less, or numbers of labels (int above 1).

    X_unlabeled : array-like of shape (n_unlabeled, ...), default=None
        More images for the transformer steps, of the kind and dtype of `X`.

    groups : array-like of shape (n_samples,), default=None
        Handed to `cv`.

    cv : int, cross-validator or iterable of (train, test), default=5
        The outer splits, as in :class:`LabelFractionSplit`.

    n_repeats : int, default=3
        The number of different label subsets for each split and fraction.

    scoring : str, callable or None, default=None
        One scorer; None takes the `score` method of the classifier.

    n_jobs : int, default=None
        The number of classifiers fitted at a time. The transformer steps are fitted one after
        the other.

    random_state : int, RandomState instance or None, default=None
        Seeds the folds and the label subsets, which are those of :class:`LabelFractionSplit`.
        Estimators are seeded by their own parameters.

    verbose : int, default=0
        Above 0, prints a line for each estimator and split.

    Returns
    -------
    curve : :class:`~sklearn.utils.Bunch`
        Of one estimator, or for several a Bunch of name to such a curve:

        name : str
            The key, or the class names of the steps.
        label_fractions : ndarray of shape (n_fractions,)
            As asked for; of a number of labels its mean share of the labelled training images.
        n_labels : ndarray of shape (n_splits, n_fractions)
            How many labels were used.
        scores : ndarray of shape (n_fractions, n_splits, n_repeats)
            Test scores.
        mean, std : ndarray of shape (n_fractions,)
            Over all splits and repeats.
        fit_times, score_times : ndarray of shape (n_fractions, n_splits, n_repeats)
            Seconds for the classifier.
        transform_fit_times, transform_times : ndarray of shape (n_splits,)
            Seconds to fit the transformer steps and transform the training images, and to
            transform the test images.
        n_train, n_test : ndarray of shape (n_splits,)
            Training images, labelled or not, and labelled test images of each split.
        n_unlabeled : int
            The number of images in `X_unlabeled`.
        score_name : str
            For the axis of a plot.

    Raises
    ------
    ValueError, TypeError
        If `X_unlabeled` does not match `X`, `scoring` holds several scorers, an estimator has no
        classifier at its end, or a parameter of :class:`LabelFractionSplit` is out of its bounds.

    Notes
    -----
    A label subset that comes again is not fitted again: its score is copied. So all repeats of the
    fraction 1.0 are equal, even if the classifier is random.

    See Also
    --------
    LabelEfficiencyDisplay : Draws the curves.
    label_saving : How many times fewer labels one curve needs than another.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_cpc.evaluation import label_efficiency_curve
    >>> X, y = load_digits(return_X_y=True)
    >>> pipe = make_pipeline(PCA(20, random_state=0), LogisticRegression(max_iter=1000))
    >>> curve = label_efficiency_curve(
    ...     pipe, X[:600], y[:600], label_fractions=(0.05, 1.0), cv=2, random_state=0)
    >>> curve.n_labels
    array([[ 15, 300],
           [ 15, 300]])
    >>> curve.scores.shape
    (2, 2, 3)
    """
    X, y, groups = indexable(X, y, groups)
    y = check_labels(y)
    _check_unlabeled(X, X_unlabeled)
    splitter = LabelFractionSplit(
        label_fractions, cv=cv, n_repeats=n_repeats, random_state=random_state
    )
    estimators = _named_estimators(estimator)
    for each in estimators.values():
        _check_scorer(_split_steps(each)[1], scoring)
    splits = list(splitter.nested_splits(X, y, groups))
    curves = Bunch()
    for name, each in estimators.items():
        results = []
        for i_split, split in enumerate(splits):
            results.append(_measure_split(each, X, y, split, X_unlabeled, scoring, n_jobs))
            if verbose > 0:
                _report(name, i_split, len(splits), results[-1])
        curves[name] = _collect(name, results, splits, label_fractions, y, scoring, X_unlabeled)
    return curves if _is_several(estimator) else curves[next(iter(curves))]


def _is_several(estimator):
    return isinstance(estimator, Mapping | list | tuple)


def _named_estimators(estimator):
    if not _is_several(estimator):
        steps = estimator.steps if isinstance(estimator, Pipeline) else [(None, estimator)]
        return {" + ".join(_step_name(step) for _, step in steps): estimator}
    pairs = list(estimator.items() if isinstance(estimator, Mapping) else estimator)
    names = [name for name, _ in pairs]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"estimator names={names}: must be one or more different names.")
    return dict(pairs)


def _step_name(step):
    return step if isinstance(step, str) else type(step).__name__


def _split_steps(estimator):
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
    return clone(estimator).set_params(**{name: "passthrough"}), classifier


def _check_scorer(classifier, scoring):
    if scoring is not None and not isinstance(scoring, str) and not callable(scoring):
        raise TypeError(
            f"scoring={scoring!r}: must be one scorer, a str or a callable; measure several "
            "scores in several calls with the same random_state."
        )
    return check_scoring(classifier, scoring=scoring)


def _check_unlabeled(X, X_unlabeled):
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


def _concatenate(X, X_unlabeled):
    if X_unlabeled is None:
        return X
    if hasattr(X, "iloc"):
        pandas = import_optional("pandas", "label_efficiency_curve", "plot")
        return pandas.concat([X, X_unlabeled], ignore_index=True)
    if isinstance(X, list):
        return X + list(X_unlabeled)
    return np.concatenate([X, X_unlabeled])


def _measure_split(estimator, X, y, split, X_unlabeled, scoring, n_jobs):
    """Fit the transformer steps once and the classifier on every different label subset."""
    train, test, subsets = split
    transformer, classifier = _split_steps(estimator)
    Z_train, Z_test, times = _encode(transformer, X, train, test, X_unlabeled)
    scorer = _check_scorer(classifier, scoring)
    different = {rows.tobytes(): rows for repeat in subsets for rows in repeat}
    results = Parallel(n_jobs=n_jobs)(
        delayed(_fit_and_score)(clone(classifier), scorer, Z_train, y[train], rows, Z_test, y[test])
        for rows in different.values()
    )
    result_of = dict(zip(different, results, strict=True))
    table = [[result_of[rows.tobytes()] for rows in repeat] for repeat in subsets]
    return np.array(table), times  # (repeats, fractions, score and two times)


def _encode(transformer, X, train, test, X_unlabeled):
    """Transform both parts by steps that have seen neither a label nor a test image."""
    X_train, X_test = _safe_indexing(X, train), _safe_indexing(X, test)
    if transformer is None:
        return X_train, X_test, (0.0, 0.0)
    start = perf_counter()
    transformer = clone(transformer)
    try:
        Z_train = transformer.fit_transform(_concatenate(X_train, X_unlabeled), None)
    except Exception as error:
        error.add_note(
            "label_efficiency_curve fits all steps before the last without labels, y=None; a step "
            "that needs them belongs into the last step: make_pipeline(encoder, "
            "make_pipeline(supervised_step, classifier))."
        )
        raise
    Z_train = _safe_indexing(Z_train, slice(0, len(train)))
    middle = perf_counter()
    Z_test = transformer.transform(X_test)
    return Z_train, Z_test, (middle - start, perf_counter() - middle)


def _fit_and_score(classifier, scorer, Z_train, y_train, rows, Z_test, y_test):
    start = perf_counter()
    classifier.fit(_safe_indexing(Z_train, rows), y_train[rows])
    middle = perf_counter()
    score = scorer(classifier, Z_test, y_test)
    return score, middle - start, perf_counter() - middle


def _collect(name, results, splits, label_fractions, y, scoring, X_unlabeled):
    tables = np.stack([table for table, _ in results])
    scores, fit_times, score_times = tables.transpose(3, 2, 0, 1)  # (fractions, splits, repeats)
    transform_fit_times, transform_times = np.array([times for _, times in results]).T
    n_labels = np.array([[len(rows) for rows in subsets[0]] for _, _, subsets in splits])
    return Bunch(
        name=name,
        label_fractions=_as_fractions(label_fractions, n_labels, y, splits),
        n_labels=n_labels,
        scores=scores,
        mean=scores.mean(axis=(1, 2)),
        std=scores.std(axis=(1, 2)),
        fit_times=fit_times,
        score_times=score_times,
        transform_fit_times=transform_fit_times,
        transform_times=transform_times,
        n_train=np.array([len(train) for train, _, _ in splits]),
        n_test=np.array([len(test) for _, test, _ in splits]),
        n_unlabeled=0 if X_unlabeled is None else _num_samples(X_unlabeled),
        score_name=_score_name(scoring),
    )


def _as_fractions(label_fractions, n_labels, y, splits):
    n_labeled = np.array([labeled_mask(y[train]).sum() for train, _, _ in splits])
    shares = (n_labels / n_labeled[:, np.newaxis]).mean(axis=0)
    asked = np.array(check_label_fractions(label_fractions), dtype=float)
    return np.where(asked > 1, shares, asked)


def _score_name(scoring):
    if scoring is None:
        return "Accuracy"
    name = scoring if isinstance(scoring, str) else getattr(scoring, "__name__", "score")
    return name.replace("_", " ").capitalize()


def _report(name, i_split, n_splits, result):
    table, (transform_fit_time, _) = result
    means = " ".join(f"{score:.3f}" for score in table[:, :, 0].mean(axis=0))
    print(
        f"[label_efficiency_curve] {name}, split {i_split + 1}/{n_splits}: encoder "
        f"{transform_fit_time:.1f} s, classifiers {table[:, :, 1].sum():.1f} s, scores {means}",
        flush=True,
    )
