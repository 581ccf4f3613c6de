"""The other axis: would more unlabelled images help?"""

from numbers import Real

import numpy as np
from sklearn.utils import Bunch, _safe_indexing, indexable
from sklearn.utils.validation import _num_samples

from .label_efficiency import drawn_seed
from .progress import progress_bar
from .splits import LabelFractionSplit, check_labels, labeled_mask
from .study import (
    Study,
    check_scoring_of_labels,
    check_unlabeled,
    checked_scorer,
    is_several,
    named_estimators,
    score_name,
    split_steps,
)

DEFAULT_UNLABELED_FRACTIONS = (0.0, 0.1, 0.3, 1.0)


def pretraining_curve(
    estimator,
    X,
    y,
    *,
    unlabeled_fractions=DEFAULT_UNLABELED_FRACTIONS,
    label_fraction=0.1,
    X_unlabeled=None,
    groups=None,
    cv=5,
    n_repeats=1,
    scoring=None,
    n_jobs=None,
    cache=None,
    random_state=None,
    progress=False,
    verbose=0,
):
    """Measure the score of a pipeline against the number of images that its encoder learned from.

    In each split and repeat one label subset is drawn, as :class:`LabelFractionSplit` draws it. The
    steps before the last are fitted without labels on the images of this subset and on a part of
    all other training images, the last step on the features of the label subset, and
    it is scored on the test images of the split. Labels and test images are the same for every
    part, and a smaller part lies in every larger one.

    Parameters
    ----------
    estimator : Pipeline, dict of str to Pipeline or list of (str, Pipeline)
        What is measured, as in :func:`label_efficiency_curve`. A
        :class:`~sklearn.frozen.FrozenEstimator` learns nothing and gives a flat curve.

    X : array-like of shape (n_samples, ...)
        Images or features.

    y : array-like of shape (n_samples,)
        Classes; -1 means unlabelled.

    unlabeled_fractions : sequence of float, default=(0.0, 0.1, 0.3, 1.0)
        Fractions in [0, 1] of the training images outside of the label subset, and of
        `X_unlabeled`. 0 pretrains on the images of the label subset alone.

    label_fraction : float or int, default=0.1
        The size of the label subset, as one of the `label_fractions` of
        :class:`LabelFractionSplit`.

    X_unlabeled : array-like of shape (n_unlabeled, ...), default=None
        More images to pretrain on, of the kind and dtype of `X`.

    groups : array-like of shape (n_samples,), default=None
        The group of each row, as in :func:`label_efficiency_curve`.

    cv : int, cross-validator or iterable of (train, test), default=5
        The outer splits, as in :class:`LabelFractionSplit`.

    n_repeats : int, default=1
        The number of label subsets, and of orders of the other images, for each split. Each takes
        as many pretrainings as there are fractions; that on all images serves all repeats.

    scoring : str, callable or None, default=None
        One scorer; None takes the `score` method of the classifier.

    n_jobs : int, default=None
        The number of classifiers fitted at a time; the encoders are fitted one after another.

    cache : str, Path or None, default=None
        A folder that keeps every finished fit, as in :func:`label_efficiency_curve`.

    random_state : int, RandomState instance or None, default=None
        Seeds the folds, the label subsets and the parts. Estimators are seeded by their own
        parameters.

    progress : bool, default=False
        Show a bar that counts fits; needs tqdm.

    verbose : int, default=0
        Above 0, prints a line for each pretraining.

    Returns
    -------
    curve : :class:`~sklearn.utils.Bunch`
        Of one pipeline, or for several a Bunch of name to such a curve:

        name : str
            The key, or the class names of the steps.
        unlabeled_fractions : ndarray of shape (n_fractions,)
            As asked for.
        n_images : ndarray of shape (n_splits, n_fractions)
            How many images were pretrained on, the labelled ones included.
        n_labels : ndarray of shape (n_splits,)
            How many labels were used.
        scores : ndarray of shape (n_fractions, n_splits, n_repeats)
            Test scores.
        mean, std : ndarray of shape (n_fractions,)
            Over all splits and repeats.
        fit_times, score_times, transform_fit_times, transform_times : ndarray of shape \
                (n_fractions, n_splits, n_repeats)
            Seconds, as in :func:`label_efficiency_curve`; pretrainings that serve several repeats
            have their time in each.
        n_test : ndarray of shape (n_splits,)
            Labelled test images of each split.
        n_classes : int
            The number of classes in `y`.
        score_name : str
            For the axis of a plot.

    Raises
    ------
    ValueError, TypeError
        If an estimator is no Pipeline of an encoder and a classifier, a fraction is out of its
        bounds, or as in :func:`label_efficiency_curve`.

    See Also
    --------
    PretrainingDisplay : Draws the curves.
    label_efficiency_curve : Score against the number of labels.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_cpc.evaluation import pretraining_curve
    >>> X, y = load_digits(return_X_y=True)
    >>> pipe = make_pipeline(PCA(20, random_state=0), LogisticRegression(max_iter=1000))
    >>> curve = pretraining_curve(pipe, X[:600], y[:600], label_fraction=50, cv=2, random_state=0)
    >>> curve.n_images
    array([[ 50,  75, 125, 300],
           [ 50,  75, 125, 300]])
    >>> curve.scores.shape
    (4, 2, 1)
    """
    X, y, groups = indexable(X, y, groups)
    y = check_labels(y)
    check_unlabeled(X, X_unlabeled)
    fractions = _check_unlabeled_fractions(unlabeled_fractions)
    if not isinstance(label_fraction, Real):
        raise TypeError(
            f"label_fraction={label_fraction!r}: must be one number; for several, call "
            "label_efficiency_curve, or this function for each."
        )
    seed = drawn_seed(random_state)
    splitter = LabelFractionSplit([label_fraction], cv=cv, n_repeats=n_repeats, random_state=seed)
    estimators = named_estimators(estimator)
    for name, each in estimators.items():
        _check_pipeline(name, each, scoring)
    check_scoring_of_labels(scoring, y)
    study = Study(X, y, scoring=scoring, n_jobs=n_jobs, cache=cache, caller="pretraining_curve")
    study.check_storable(estimators)
    splits = list(splitter.nested_splits(X, y, groups))
    n_more = 0 if X_unlabeled is None else _num_samples(X_unlabeled)
    tasks = [_pretrainings(split, fractions, n_more, [seed, i]) for i, split in enumerate(splits)]
    n_steps = len(estimators) * sum(1 + len(task["subsets"]) for each in tasks for task in each)
    curves = Bunch()
    with progress_bar(progress, n_steps, "pretraining_curve") as bar:
        for name, each in estimators.items():
            table = np.empty((len(fractions), len(splits), n_repeats, 5))
            for i_split, task in ((i, task) for i, each in enumerate(tasks) for task in each):
                text = f"{name}, split {i_split + 1}/{len(splits)}, {task['n_images']} images"
                bar.set_description(text)
                scores = _measure_pretraining(study, each, task, X_unlabeled, bar)
                for (i_fraction, i_repeat), row in zip(task["cells"], scores, strict=True):
                    table[i_fraction, i_split, i_repeat] = row
                if verbose > 0:
                    mean, times = scores[:, 0].mean(), scores[0, 3]
                    bar.write(
                        f"[pretraining_curve] {text}: encoder {times:.1f} s, score {mean:.3f}"
                    )
            curves[name] = _collect(name, table, fractions, tasks, splits, study)
    return curves if is_several(estimator) else curves[next(iter(curves))]


def _check_unlabeled_fractions(unlabeled_fractions):
    fractions = np.atleast_1d(np.asarray(unlabeled_fractions, dtype=float))
    if fractions.ndim != 1 or not len(fractions) or not ((fractions >= 0) & (fractions <= 1)).all():
        raise ValueError(
            f"unlabeled_fractions={unlabeled_fractions!r}: must be one or more numbers in [0, 1]; "
            "pass for example (0.1, 1.0)."
        )
    return fractions


def _check_pipeline(name, estimator, scoring):
    transformer, classifier = split_steps(estimator)
    if transformer is None:
        raise ValueError(
            f"estimator {name!r} is a {type(estimator).__name__}: must be a Pipeline of an encoder "
            "and a classifier, or nothing is pretrained; pass make_pipeline(encoder, classifier)."
        )
    checked_scorer(classifier, scoring)


def _pretrainings(split, fractions, n_more, seed):
    """The different sets of images to pretrain on, and which cells of the table each one fills."""
    train, test, subsets = split
    tasks = {}
    for i_repeat, (labeled,) in enumerate(subsets):
        others = np.setdiff1d(np.arange(len(train) + n_more), labeled)
        order = np.random.RandomState([*seed, i_repeat, 1]).permutation(others)
        for i_fraction, fraction in enumerate(fractions):
            chosen = np.sort(np.r_[labeled, order[: round(fraction * len(order))]])
            own = chosen[chosen < len(train)]
            task = tasks.setdefault(
                chosen.tobytes(),
                {
                    "n_images": len(chosen),
                    "train": train[own],
                    "test": test,
                    "more": chosen[len(own) :] - len(train),
                    "subsets": [],
                    "cells": [],
                },
            )
            task["subsets"].append([np.searchsorted(own, labeled)])
            task["cells"].append((i_fraction, i_repeat))
    return list(tasks.values())


def _measure_pretraining(study, estimator, task, X_unlabeled, bar):
    """Score and the four times of each cell of this set of images."""
    more = _safe_indexing(X_unlabeled, task["more"]) if len(task["more"]) else None
    split = task["train"], task["test"], task["subsets"]
    table, times = study.measure(estimator, split, X_unlabeled=more, bar=bar)
    return np.column_stack([table[:, 0], np.tile(times, (len(table), 1))])  # (cells, 5)


def _collect(name, table, fractions, tasks, splits, study):
    scores, fit_times, score_times, transform_fit_times, transform_times = np.moveaxis(table, -1, 0)
    n_images = np.empty((len(splits), len(fractions)), dtype=int)
    for i_split, each in enumerate(tasks):
        for task in each:
            n_images[i_split, [i_fraction for i_fraction, _ in task["cells"]]] = task["n_images"]
    return Bunch(
        name=name,
        unlabeled_fractions=fractions,
        n_images=n_images,
        n_labels=np.array([len(subsets[0][0]) for _, _, subsets in splits]),
        scores=scores,
        mean=scores.mean(axis=(1, 2)),
        std=scores.std(axis=(1, 2)),
        fit_times=fit_times,
        score_times=score_times,
        transform_fit_times=transform_fit_times,
        transform_times=transform_times,
        n_test=np.array([len(test) for _, test, _ in splits]),
        n_classes=len(np.unique(study.y[labeled_mask(study.y)])),
        score_name=score_name(study.scoring),
    )
