"""The protocol: an encoder fitted once without labels, a classifier on few labels."""

from numbers import Integral

import numpy as np
from sklearn.utils import Bunch, check_random_state, indexable
from sklearn.utils.validation import _num_samples

from .progress import progress_bar
from .splits import (
    DEFAULT_LABEL_FRACTIONS,
    LabelFractionSplit,
    check_label_fractions,
    check_labels,
    labeled_mask,
)
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


def label_efficiency_curve(
    estimator,
    X,
    y,
    *,
    label_fractions=DEFAULT_LABEL_FRACTIONS,
    X_unlabeled=None,
    transductive=False,
    label_selection=None,
    groups=None,
    cv=5,
    n_repeats=3,
    scoring=None,
    n_jobs=None,
    cache=None,
    random_state=None,
    progress=False,
    verbose=0,
):
    """Measure the score of an estimator against the number of labels it was given.

    Of a :class:`~sklearn.pipeline.Pipeline`, all steps but the last are fitted once per split,
    without labels, on all training images of the split and never on a test image; a clone of the
    last step is then fitted on each label subset of the transformed training images, and scored on
    the transformed test images. Any other estimator, a supervised network for instance, has a
    clone fitted on the images of each label subset. :func:`sklearn.model_selection.learning_curve`
    is another thing: it takes away the images together with their labels.

    An estimator or last step whose attribute `unlabeled` is -1, such as a
    :class:`~sklearn_cpc.CPCClassifier`, learns from unlabelled images too: it is fitted on all
    training images of the split, with y = -1 outside of the label subset. If it is no Pipeline it
    has `X_unlabeled` as well, and where it has a method `pretrained(X)`, which returns an
    estimator that has learned from `X` what it can without labels, that is called once per split.

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
        Classes. -1 means unlabelled: such a row serves what learns without labels if it is in
        the training part; it is given to no other classifier, and not scored.

    label_fractions : sequence of float or int, \
            default=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
        Fractions in (0, 1] of the labelled training images, raised to one label per class if
        they come to less, or numbers of labels (int above 1).

    X_unlabeled : array-like of shape (n_unlabeled, ...), default=None
        More images for what learns without labels, of the kind and dtype of `X`.

    transductive : bool, default=False
        True: what learns without labels sees the test images too, never their labels. Say so
        where you report the scores, which then hold for these test images alone.

    label_selection : str, callable or None, default=None
        Which training images are labelled. None: a stratified random choice. "typical",
        "coverage" or "random": what :func:`select_to_label` chooses by a look at the transformed
        training images, without their labels. A callable has the parameters of that function,
        `f(Z, n_labels, already_labeled=indices, random_state=random_state)`, and returns the
        row numbers of `n_labels` more images; it is called for the smallest subset first, then for
        what each larger one has more. The subsets are as large as without it, and nested; one in
        which there is a single class scores what predicting that class scores. Repeats differ by
        `random_state` alone.

    groups : array-like of shape (n_samples,), default=None
        The group of each row, such as the patient. No group is in both parts of a split, and
        the training images of a group are labelled together or not at all. Cannot be
        combined with `label_selection`, which chooses single images.

    cv : int, cross-validator or iterable of (train, test), default=5
        The outer splits, as in :class:`LabelFractionSplit`.

    n_repeats : int, default=3
        The number of different label subsets for each split and fraction.

    scoring : str, callable or None, default=None
        One scorer; None takes the `score` method of the classifier.

    n_jobs : int, default=None
        The number of classifiers fitted at a time, by the active backend of joblib: threads,
        processes or a dask cluster. The transformer steps are fitted one after another in this
        process, and their features are handed to the workers.

    cache : str, Path or None, default=None
        A folder that keeps every finished fit. The same call again takes them from there,
        so an interrupted study goes on where it stopped, and one with a further estimator fits
        that one alone. Anything that could change a score is another setting, and is computed: an
        estimator's class, parameters and fitted state, the data, the splits, `scoring`, the
        versions of the packages and the source of classes that have none. Give `random_state` an
        int; an estimator whose own `random_state` is None keeps the result of its first fit.
        The files are pickles: use a folder of your own.

    random_state : int, RandomState instance or None, default=None
        Seeds the folds and the label subsets, which are those of :class:`LabelFractionSplit`.
        Estimators are seeded by their own parameters.

    progress : bool, default=False
        Show a bar that counts fits; needs tqdm.

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
            How many labels were used; with `groups`, the mean over the repeats, rounded.
        scores : ndarray of shape (n_fractions, n_splits, n_repeats)
            Test scores.
        mean, std : ndarray of shape (n_fractions,)
            Over all splits and repeats; std divides by their number.
        fit_times, score_times : ndarray of shape (n_fractions, n_splits, n_repeats)
            Seconds for the classifier.
        transform_fit_times, transform_times : ndarray of shape (n_splits,)
            Seconds to fit the transformer steps and transform the training images, and to
            transform the test images. Seconds of `pretrained`, and 0, where there are no such
            steps.
        n_train, n_test : ndarray of shape (n_splits,)
            Training images, labelled or not, and labelled test images of each split.
        n_unlabeled : int
            The number of images in `X_unlabeled`.
        n_classes : int
            The number of classes in `y`.
        transductive : bool
            As given.
        score_name : str
            For the axis of a plot.

    Raises
    ------
    ValueError, TypeError
        If `X_unlabeled` does not match `X`, `scoring` holds several scorers, an estimator has no
        classifier at its end, `scoring` is not for such labels, `cache` is no folder that can be
        written to, `label_selection` returns other than asked for or meets `groups`,
        an estimator cannot be told from others in the `cache`, or a parameter of
        :class:`LabelFractionSplit` is out of its bounds.

    ImportError
        If `progress` is asked for and tqdm is not installed.

    Notes
    -----
    A label subset that comes again is not fitted again: its score is copied. So all repeats of the
    fraction 1.0 are equal, even if the classifier is random.

    See Also
    --------
    LabelEfficiencyDisplay : Draws the curves.
    label_saving : How many times fewer labels one curve needs than another.
    pretraining_curve : The other axis: the number of unlabelled images.

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
    check_unlabeled(X, X_unlabeled)
    if groups is not None and label_selection is not None:
        raise ValueError(
            f"label_selection={label_selection!r} chooses single rows, groups label whole groups: "
            "pass label_selection=None, or no groups."
        )
    seed = drawn_seed(random_state)
    splitter = LabelFractionSplit(label_fractions, cv=cv, n_repeats=n_repeats, random_state=seed)
    estimators = named_estimators(estimator)
    for each in estimators.values():
        checked_scorer(split_steps(each)[1], scoring)
    check_scoring_of_labels(scoring, y)
    study = Study(
        X,
        y,
        scoring=scoring,
        n_jobs=n_jobs,
        transductive=transductive,
        label_selection=label_selection,
        cache=cache,
    )
    study.check_storable(estimators)
    splits = list(splitter.nested_splits(X, y, groups))
    n_steps = len(estimators) * sum(1 + len(s) * len(s[0]) for _, _, s in splits)
    curves = Bunch()
    with progress_bar(progress, n_steps, "label_efficiency_curve") as bar:
        for name, each in estimators.items():
            results = []
            for i_split, split in enumerate(splits):
                bar.set_description(f"{name}, split {i_split + 1}/{len(splits)}")
                seeds = _selection_seeds(label_selection, seed, i_split, n_repeats)
                results.append(
                    study.measure(each, split, X_unlabeled=X_unlabeled, seeds=seeds, bar=bar)
                )
                if verbose > 0:
                    bar.write(_report(name, i_split, len(splits), results[-1]))
            curves[name] = _collect(name, results, splits, label_fractions, X_unlabeled, study)
    return curves if is_several(estimator) else curves[next(iter(curves))]


def drawn_seed(random_state):
    """An int that stands for `random_state` from here on."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return check_random_state(random_state).randint(np.iinfo(np.int32).max)


def _selection_seeds(label_selection, seed, i_split, n_repeats):
    if label_selection is None:
        return []
    rng = np.random.RandomState([seed, i_split])
    return [int(each) for each in rng.randint(np.iinfo(np.int32).max, size=n_repeats)]


def _collect(name, results, splits, label_fractions, X_unlabeled, study):
    tables = np.stack([table for table, _ in results])
    scores, fit_times, score_times = tables.transpose(3, 2, 0, 1)  # (fractions, splits, repeats)
    transform_fit_times, transform_times = np.array([times for _, times in results]).T
    sizes = [[[len(rows) for rows in repeat] for repeat in subsets] for _, _, subsets in splits]
    n_labels = np.rint(np.mean(sizes, axis=1)).astype(int)
    y = study.y
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
        n_classes=len(np.unique(y[labeled_mask(y)])),
        transductive=bool(study.transductive),
        score_name=score_name(study.scoring),
    )


def _as_fractions(label_fractions, n_labels, y, splits):
    n_labeled = np.array([labeled_mask(y[train]).sum() for train, _, _ in splits])
    shares = (n_labels / n_labeled[:, np.newaxis]).mean(axis=0)
    asked = np.array(check_label_fractions(label_fractions), dtype=float)
    return np.where(asked > 1, shares, asked)


def _report(name, i_split, n_splits, result):
    table, (transform_fit_time, _) = result
    means = " ".join(f"{score:.3f}" for score in table[:, :, 0].mean(axis=0))
    return (
        f"[label_efficiency_curve] {name}, split {i_split + 1}/{n_splits}: encoder "
        f"{transform_fit_time:.1f} s, classifiers {table[:, :, 1].sum():.1f} s, scores {means}"
    )
