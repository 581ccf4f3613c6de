"""Who is labelled: nested, stratified label subsets of every training part."""

from collections.abc import Iterator
from numbers import Integral, Real

import numpy as np
from sklearn.model_selection import (
    BaseCrossValidator,
    StratifiedGroupKFold,
    StratifiedKFold,
    check_cv,
)
from sklearn.utils import (
    _safe_indexing,
    check_consistent_length,
    check_random_state,
    column_or_1d,
)
from sklearn.utils.multiclass import check_classification_targets

from .selection import METHODS, selected_label_subsets
from .unlabeled import labeled_mask, refuse_missing

DEFAULT_LABEL_FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def nested_label_subsets(y, counts, random_state=None, *, groups=None):
    """Draw stratified label subsets of which every smaller one lies in every larger one.

    All subsets are prefixes of one random order of the labelled rows. That order starts with one
    row of each class and goes on so that every prefix is as near to the proportions of the classes
    as Webster's divisor method makes it [1]_.

    With `groups`, the images of one patient for instance, whole groups are drawn: of each, all
    labelled rows or none.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Classes; -1 means unlabelled and is never drawn.

    counts : sequence of int
        The number of labels of each subset, from the number of classes to the number of labelled
        rows.

    random_state : int, RandomState instance or None, default=None
        Which rows are drawn.

    groups : array-like of shape (n_samples,), default=None
        The group of each row. A subset is then the smallest number of whole groups, in random
        order, that has `count` rows or more and a row of each class; it is as near to the
        proportions of the classes as whole groups allow where a group has one class, and
        roughly so where it has several.

    Returns
    -------
    subsets : list of ndarray of shape (count,)
        Sorted row indices into `y`, one array for each entry of `counts`, in its order.

    Raises
    ------
    ValueError
        If a count is outside its bounds, `y` has fewer than two classes, or `groups` is not as
        long as `y`.

    References
    ----------
    .. [1] Balinski, M. L. and Young, H. P. (1982). Fair Representation: Meeting the Ideal of One
       Man, One Vote. Yale University Press.

    Examples
    --------
    >>> from sklearn_cpc.evaluation import nested_label_subsets
    >>> y = [0, 0, 0, 0, 1, 1, -1, -1]
    >>> small, large = nested_label_subsets(y, [2, 6], random_state=0)
    >>> large
    array([0, 1, 2, 3, 4, 5])
    >>> bool(set(small) <= set(large))
    True
    """
    y = check_labels(y)
    labeled = np.flatnonzero(labeled_mask(y))
    n_classes = len(np.unique(y[labeled]))
    for count in counts:
        _check_count(count, n_classes, len(labeled))
    rng = check_random_state(random_state)
    if groups is None:
        order = labeled[_stratified_order(y[labeled], rng)]
        return [np.sort(order[:count]) for count in counts]
    check_consistent_length(y, groups)
    order, ends = _group_order(y[labeled], column_or_1d(groups)[labeled], rng)
    order = labeled[order]
    first = next(end for end in ends if len(np.unique(y[order[:end]])) == n_classes)
    ends = ends[ends >= first]
    return [np.sort(order[: ends[np.searchsorted(ends, count)]]) for count in counts]


def _group_order(classes, groups, rng):
    """A random order of the rows, group after group, and where each group ends.

    A group stands for the class of which it holds the largest share. The groups of each class are
    in random order and spread evenly over the whole, each by the middle of its rows; the first ones
    of all classes come first.
    """
    classes = np.unique(classes, return_inverse=True)[1]
    groups = np.unique(groups, return_inverse=True)[1]
    table = np.zeros((groups.max() + 1, classes.max() + 1))
    np.add.at(table, (groups, classes), 1)
    sizes = table.sum(axis=1)
    stands_for = np.argmax(table / table.sum(axis=0), axis=1)
    key = np.empty(len(sizes))
    for value in np.unique(stands_for):
        rows = rng.permutation(np.flatnonzero(stands_for == value))
        key[rows] = (np.cumsum(sizes[rows]) - sizes[rows] / 2) / sizes[rows].sum()
        key[rows[0]] = 0.0
    place = np.empty(len(sizes), dtype=np.intp)
    by_key = np.lexsort((rng.uniform(size=len(sizes)), key))
    place[by_key] = np.arange(len(sizes))
    return np.argsort(place[groups], kind="stable"), np.cumsum(sizes[by_key]).astype(np.intp)


def _stratified_order(classes, rng):
    """A random order of the rows of which every prefix is stratified.

    Largest remainders would not do: with them a class can lose a row when the subset grows (the
    Alabama paradox), and the subsets would not nest. Divisor methods cannot.
    """
    key = np.empty(len(classes))
    for value in np.unique(classes):
        rows = rng.permutation(np.flatnonzero(classes == value))
        key[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
        key[rows[0]] = 0.0
    return np.lexsort((rng.uniform(size=len(classes)), key))


def check_labels(y):
    """Return y as a 1-D array of classes, at least two of them, or say what is wrong."""
    if y is None:
        raise ValueError("y=None: label subsets are drawn by class; pass y.")
    y = column_or_1d(np.asarray(y))
    refuse_missing(y)
    if y.dtype.kind == "O" and all(isinstance(label, str) for label in y[labeled_mask(y)]):
        y = y.astype(str)  # and -1 is "-1": splitters refuse numbers beside text
    check_classification_targets(y)
    classes = np.unique(y[labeled_mask(y)])
    if len(classes) < 2:
        raise ValueError(
            f"y has the classes {classes.tolist()}: at least 2 are needed; y=-1 means unlabelled, "
            "so rename a class that is called -1."
        )
    return y


def _check_count(count, n_classes, n_labeled):
    if count < n_classes:
        raise ValueError(
            f"label_fractions={count}: a number of labels must be at least the number of "
            f"classes={n_classes}, one label each; pass a larger number."
        )
    if count > n_labeled:
        raise ValueError(
            f"label_fractions={count}: a number of labels must be at most the number of labelled "
            f"training rows={n_labeled}; pass a smaller number, or 1.0 for all of them."
        )


def check_label_fractions(label_fractions):
    """Return the fractions and numbers of labels as a list, or say which is out of bounds."""
    fractions = [label_fractions] if isinstance(label_fractions, Real) else list(label_fractions)
    if not fractions:
        raise ValueError("label_fractions=(): at least one is needed; pass for example (0.1, 1.0).")
    for fraction in fractions:
        if isinstance(fraction, bool) or not isinstance(fraction, Real):
            raise TypeError(
                f"label_fractions={fraction!r}: must be a float (a fraction) or an int "
                "(a number of labels)."
            )
        is_count = isinstance(fraction, Integral) and fraction > 1
        if not is_count and not 0 < fraction <= 1:
            raise ValueError(
                f"label_fractions={fraction}: a fraction must be in (0, 1]; pass an int above 1 "
                "for a number of labels."
            )
    return fractions


def label_counts(y, label_fractions):
    """How many labels each fraction of this training part is; never less than one per class."""
    labeled = y[labeled_mask(y)]
    n_classes = len(np.unique(labeled))
    return [
        int(fraction) if fraction > 1 else max(n_classes, round(fraction * len(labeled)))
        for fraction in label_fractions
    ]


class LabelFractionSplit(BaseCrossValidator):
    """Cross-validator of (label subset, test rows) pairs, for scores on few labels.

    For every outer split, every repeat and every fraction, in this order with the fraction
    running fastest, the training part is cut down to a label subset and the test part is left as
    it is. Within a split and a repeat the subsets are nested: a smaller one lies in every larger
    one. Unless `selection` says otherwise they are stratified, and each holds at least one row per
    class.

    With `groups` in :meth:`split`, no group is in both parts, and each is labelled as a whole or
    not at all: the images of one patient, or the crops of one slide.

    The estimator that is scored sees only the label subset. Freeze what was fitted without labels
    (:class:`sklearn.frozen.FrozenEstimator`), on images that are in none of the test parts, or use
    :func:`label_efficiency_curve`, which fits the encoder itself, once per split.

    Parameters
    ----------
    label_fractions : sequence of float or int, \
            default=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
        A value in (0, 1] is a fraction of the labelled training rows; 1, int or float, is all of
        them. An int above 1 is a number of labels. A fraction that comes to less than one label
        per class is raised to one per class; a number of labels that is too small is refused.

    cv : int, cross-validator or iterable of (train, test), default=5
        The outer splits. An int gives a :class:`~sklearn.model_selection.StratifiedKFold`, or with
        groups a :class:`~sklearn.model_selection.StratifiedGroupKFold`; pass
        :class:`~sklearn.model_selection.StratifiedShuffleSplit` with `n_splits=1`,
        :class:`~sklearn.model_selection.PredefinedSplit` or `[(train, test)]` for one hold-out.

    n_repeats : int, default=1
        The number of different label subsets for each outer split and fraction.

    shuffle : bool, default=True
        Whether the rows are shuffled before they are cut into folds, if `cv` is an int.

    selection : {"stratified", "typical", "coverage", "random"} or callable, default="stratified"
        How the rows of the label subsets are chosen. Everything but "stratified" is a method of
        :func:`selected_label_subsets`, for an `X` of features, which are embedded already: it sees
        the features of the training part's labelled rows and no label, so a subset may lack
        classes. :class:`IgnoreUnlabeled` and most classifiers refuse one with a single class.

    random_state : int, RandomState instance or None, default=None
        Seeds the folds, if `cv` is an int, and the label subsets. The subset of one split, repeat
        and fraction depends on no other split, repeat or, if it is stratified, fraction.

    Notes
    -----
    Rows with y = -1 are unlabelled: they are in no label subset, and left out of the test rows.

    Groups are labelled until the number of labels asked for is reached and every class has one,
    so a subset may be larger than asked for, by less than one group as a rule.

    See Also
    --------
    label_efficiency_curve : Fits the encoder too, once per split and without labels.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_cpc.evaluation import LabelFractionSplit
    >>> X, y = load_digits(return_X_y=True)
    >>> encoder = PCA(20, random_state=0).fit(X[:900])
    >>> pipe = make_pipeline(FrozenEstimator(encoder), LogisticRegression(max_iter=1000))
    >>> cv = LabelFractionSplit((0.05, 1.0), cv=3, n_repeats=2, random_state=0)
    >>> scores = cross_val_score(pipe, X[900:], y[900:], cv=cv).reshape(3, 2, 2)
    >>> few, all_labels = scores.mean(axis=(0, 1))
    >>> bool(few < all_labels)
    True
    """

    def __init__(
        self,
        label_fractions=DEFAULT_LABEL_FRACTIONS,
        *,
        cv=5,
        n_repeats=1,
        shuffle=True,
        selection="stratified",
        random_state=None,
    ):
        self.label_fractions = label_fractions
        self.cv = cv
        self.n_repeats = n_repeats
        self.shuffle = shuffle
        self.selection = selection
        self.random_state = random_state

    __metadata_request__split = {"groups": True}

    def split(self, X, y, groups=None):
        """Generate the indices of label subsets and of the test rows that belong to them.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Images or features; only their number counts, unless `cv` or `selection` looks at them.

        y : array-like of shape (n_samples,)
            Classes; -1 means unlabelled.

        groups : array-like of shape (n_samples,), default=None
            Rows of a group stay together in `cv` and in the label subsets.

        Yields
        ------
        labeled : ndarray of shape (n_labels,)
            Sorted row indices of the label subset.

        test : ndarray of shape (n_test,)
            Row indices of the labelled rows of the test part.
        """
        for train, test, subsets in self.nested_splits(X, y, groups):
            for subset in (subset for repeat in subsets for subset in repeat):
                yield train[subset], test

    def nested_splits(self, X, y, groups=None):
        """Generate the outer splits with all their label subsets.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            As in :meth:`split`.

        y : array-like of shape (n_samples,)
            As in :meth:`split`.

        groups : array-like of shape (n_samples,), default=None
            As in :meth:`split`.

        Yields
        ------
        train : ndarray of shape (n_train,)
            Row indices of the whole training part, unlabelled rows included.

        test : ndarray of shape (n_test,)
            Row indices of the labelled rows of the test part.

        subsets : list of list of ndarray of shape (n_labels,)
            `subsets[repeat][fraction]` holds sorted positions in `train`.
        """
        self._check_params()
        y = check_labels(y)
        check_label_fractions(self.label_fractions)
        seed = self._seed()
        if groups is not None:
            check_consistent_length(y, groups)
            groups = column_or_1d(groups)
        splits = self._outer_cv(y, seed, groups).split(X, y, groups)
        for i_split, (train, test) in enumerate(splits):
            train, test = _check_split(i_split, np.arange(len(y)), train, test, groups)
            test = test[labeled_mask(y[test])]
            if len(test) == 0:
                raise ValueError(
                    f"cv={self.cv!r}: split {i_split} has no labelled test row; label some of its "
                    "test rows, or pass other splits."
                )
            yield train, test, self._subsets(X, y, groups, train, [seed, i_split])

    def get_n_splits(self, X=None, y=None, groups=None):
        """Return the number of (label subset, test rows) pairs.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), default=None
            Needed if `cv` needs it.

        y : array-like of shape (n_samples,), default=None
            Needed if `cv` needs it.

        groups : array-like of shape (n_samples,), default=None
            Needed if `cv` needs it.

        Returns
        -------
        n_splits : int
            Outer splits times repeats times fractions.
        """
        self._check_params()
        n_fractions = len(check_label_fractions(self.label_fractions))
        n_outer = self._outer_cv(y, 0, groups).get_n_splits(X, y, groups)
        return n_outer * self.n_repeats * n_fractions

    def _subsets(self, X, y, groups, train, seed):
        y = y[train]
        counts = label_counts(y, check_label_fractions(self.label_fractions))
        rngs = [np.random.RandomState([*seed, i_repeat]) for i_repeat in range(self.n_repeats)]
        if self.selection == "stratified":
            groups = groups if groups is None else groups[train]
            return [nested_label_subsets(y, counts, rng, groups=groups) for rng in rngs]
        if groups is not None:
            raise ValueError(
                f"selection={self.selection!r} chooses single rows, groups label whole groups: "
                'pass selection="stratified", or no groups.'
            )
        Z = _safe_indexing(X, train)
        return [selected_label_subsets(Z, y, counts, self.selection, rng) for rng in rngs]

    def _seed(self):
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return check_random_state(self.random_state).randint(np.iinfo(np.int32).max)

    def _outer_cv(self, y, seed, groups):
        if isinstance(self.cv, Integral):
            random_state = seed if self.shuffle else None
            kind = StratifiedKFold if groups is None else StratifiedGroupKFold
            return kind(self.cv, shuffle=self.shuffle, random_state=random_state)
        return check_cv(self.cv, y, classifier=True)

    def _check_params(self):
        if isinstance(self.n_repeats, bool) or not isinstance(self.n_repeats, Integral):
            raise TypeError(f"n_repeats={self.n_repeats!r}: must be an int; pass 1 or more.")
        if self.n_repeats < 1:
            raise ValueError(f"n_repeats={self.n_repeats}: must be at least 1; pass 1 or more.")
        if self.selection not in ("stratified", *METHODS) and not callable(self.selection):
            raise ValueError(
                f"selection={self.selection!r}: must be one of {['stratified', *METHODS]}, or a "
                "callable with the parameters of select_to_label."
            )
        if isinstance(self.cv, Iterator):
            raise TypeError(
                f"cv={self.cv!r}: a generator of splits runs dry after one use; pass list(...)."
            )


def _check_split(i_split, rows, train, test, groups):
    train, test = rows[train], rows[test]  # masks become indices
    n_shared = len(np.intersect1d(train, test))
    if n_shared:
        raise ValueError(
            f"cv: split {i_split} has {n_shared} rows in both its training and its test part, "
            "which would be measured as if they were new; pass disjoint parts."
        )
    if groups is not None:
        shared = np.intersect1d(groups[train], groups[test])
        if len(shared):
            raise ValueError(
                f"cv: split {i_split} has {len(shared)} groups, {shared[0]} for one, in both its "
                "training and its test part; pass an int, a GroupKFold or another cv that keeps "
                "groups together, or no groups."
            )
    return train, test
