"""Unlabelled rows as scikit-learn has them, y = -1: left out of classifiers and of scores."""

import warnings

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.metrics import check_scoring
from sklearn.utils import (
    _safe_indexing,
    assert_all_finite,
    column_or_1d,
    get_tags,
    indexable,
)
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    get_routing_for_object,
    process_routing,
)
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_method_params, check_is_fitted

ROUTED = ("fit", "predict", "predict_proba", "predict_log_proba", "decision_function", "score")


def labeled_mask(y):
    """True where y is a label, False where it is scikit-learn's -1 for "unlabelled".

    Of text the sign is "-1", which NumPy makes of -1 in a list of texts; an array of objects may
    hold either.
    """
    if y.dtype.kind == "S":
        return y != b"-1"
    if y.dtype.kind == "U":
        return y != "-1"
    if y.dtype.kind == "O":
        return (y != -1) & (y != "-1")
    return y != -1


def refuse_missing(y, way_out="write -1 for unlabelled rows"):
    """Refuse None, NaN and their like, which are no labels and no sign for none.

    In text NaN is "nan", which NumPy makes of it in a list of texts.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
    way_out : str
    """
    if y.dtype.kind == "f":
        missing = np.isnan(y)
    elif y.dtype.kind == "O":
        missing = np.array([_is_missing(each) for each in y.tolist()], dtype=bool)
    else:
        missing = y == "nan" if y.dtype.kind == "U" else np.zeros(len(y), dtype=bool)
    if missing.any():
        row = int(np.argmax(missing))
        raise ValueError(f"Input y contains NaN or None (first in row {row}); {way_out}.")


def _is_missing(label):
    try:
        return label is None or bool(label != label)
    except TypeError:  # of pandas.NA, which is neither equal nor unequal
        return True


def are_signs(y, otherwise):
    """Whether y codes two classes by the numbers -1 and 1; warns if so, called from a `fit` or
    what that calls.

    A y of these alone, at least half of it 1, is taken for that: scikit-learn's estimator checks
    fit such a y, half of it -1, and exempt semi-supervised classifiers by name, their own only.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
    otherwise : str
        What to do about a class that is called -1.
    """
    is_number = y.dtype.kind in "if"
    if not is_number or not np.array_equal(np.unique(y), [-1, 1]) or 2 * np.sum(y == 1) < len(y):
        return False
    warnings.warn(
        "y holds -1 and 1 alone, and at least as often 1: it is taken for two classes, both "
        "labelled. If -1 means unlabelled, label rows of another class; if it is a class, "
        f"{otherwise}.",
        UserWarning,
        stacklevel=4,
    )
    return True


def _estimator_has(method):
    def check(self):
        getattr(getattr(self, "estimator_", self.estimator), method)
        return True

    return check


class IgnoreUnlabeled(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """Fit a classifier on the labelled rows alone; y = -1 means unlabelled.

    At the end of a pipeline whose transformers learn without labels, all rows serve the
    transformers and the labelled ones the classifier.

    Parameters
    ----------
    estimator : estimator
        Any classifier, or a pipeline or search that ends in one. It never sees an unlabelled row.

    Attributes
    ----------
    estimator_ : estimator
        The clone of `estimator` fitted on the labelled rows.
    classes_ : ndarray of shape (n_classes,)
        The classes of the labelled rows, without -1.
    n_features_in_ : int
        Number of features, if `estimator_` has it.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if `estimator_` has them.

    Raises
    ------
    ValueError
        In `fit`, if fewer than two classes are labelled, or `estimator` works on a kernel or
        distance matrix; in `score`, if no row is labelled.

    See Also
    --------
    ignore_unlabeled_scorer : Scores on labelled rows, for searches and cross-validation.

    Notes
    -----
    What counts as unlabelled: -1 in numbers; "-1" in text, for NumPy turns `["cat", -1]` into
    `["cat", "-1"]`; either of them in arrays of objects. Stratified splitters take all of them as
    one more class, which spreads the unlabelled rows evenly over the folds; arrays of objects that
    mix numbers with text they refuse, so write "-1" there.

    One coding is ambiguous: a `y` of the numbers -1 and 1 alone is also the old way to write two
    classes. Where at least half of it is 1 it is taken for that, with a warning, as every
    other classifier of scikit-learn takes it. Where most of it is -1 a single class is labelled,
    which is refused.

    Ensembles, `CalibratedClassifierCV` and `cross_val_predict(method="predict_proba")` of
    scikit-learn number the labels before any classifier sees them, and -1 becomes a class: put
    IgnoreUnlabeled around an ensemble, not into it, and predict from labelled rows only.

    Parameters of `fit`, such as `sample_weight`, go to `estimator`; what has one entry per row is
    cut to the labelled rows. With metadata routing they go where they were requested, as in
    scikit-learn's own meta-estimators.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_cpc import IgnoreUnlabeled
    >>> X, y = load_digits(return_X_y=True)
    >>> y_train = np.where(np.arange(1000) < 100, y[:1000], -1)
    >>> pipe = make_pipeline(PCA(30), IgnoreUnlabeled(LogisticRegression(max_iter=1000)))
    >>> pipe.fit(X[:1000], y_train).classes_
    array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    >>> pipe.score(X[1000:], y[1000:]) > 0.8
    True
    """

    _parameter_constraints = {"estimator": [HasMethods(["fit", "predict"])]}

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, X, y, **params):
        """Fit a clone of the estimator on the rows that have a label.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Whatever the estimator takes; only rows are selected.

        y : array-like of shape (n_samples,)
            Classes; -1 means unlabelled.

        **params : dict
            Parameters for `fit` of the estimator.

        Returns
        -------
        self : IgnoreUnlabeled
        """
        self._validate_params()
        if get_tags(self.estimator).input_tags.pairwise:
            raise ValueError(
                f"estimator={self.estimator!r} takes a square matrix of kernels or distances: "
                "leaving out rows would leave it with the wrong columns; pass features and "
                "another kernel or metric."
            )
        X, y = indexable(X, y)
        y, labeled = self._check_y(y)
        rows = np.flatnonzero(labeled)
        params = _check_method_params(X, self._route("fit", params), rows)
        self.estimator_ = clone(self.estimator).fit(_safe_indexing(X, rows), y[rows], **params)
        self.classes_ = getattr(self.estimator_, "classes_", np.unique(y[rows]))
        return self

    def _check_y(self, y):
        if y is None:
            raise ValueError(
                "y=None: IgnoreUnlabeled requires y to be passed, but the target y is None; pass "
                "classes, and -1 for unlabelled rows."
            )
        y = column_or_1d(y, warn=True)
        refuse_missing(y)
        assert_all_finite(y, input_name="y", estimator_name=type(self).__name__)
        labeled = labeled_mask(y)
        if not labeled.any():
            raise ValueError(
                f"y has no labelled row among {len(y)}, only -1: labels of at least 2 classes are "
                "needed; label some rows."
            )
        check_classification_targets(y[labeled])
        if are_signs(y, "call it 0"):
            return y, np.ones(len(y), dtype=bool)
        classes = np.unique(y[labeled])
        if len(classes) > 1:
            return y, labeled
        raise ValueError(
            f"y has 1 class, {classes.tolist()}, beside {np.sum(~labeled)} unlabelled rows (-1): "
            "labels of at least 2 classes are needed; label rows of another class, or rename a "
            "class that is called -1."
        )

    @property
    def n_features_in_(self):
        return self.estimator_.n_features_in_

    @property
    def feature_names_in_(self):
        return self.estimator_.feature_names_in_

    def predict(self, X, **params):
        """Predict classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            As in `fit`.

        **params : dict
            Parameters for `predict` of the estimator.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            Classes, never -1.
        """
        return self._call("predict", X, params)

    @available_if(_estimator_has("predict_proba"))
    def predict_proba(self, X, **params):
        """Predict probabilities; only if the estimator can.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            As in `fit`.

        **params : dict
            Parameters for `predict_proba` of the estimator.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        return self._call("predict_proba", X, params)

    @available_if(_estimator_has("predict_log_proba"))
    def predict_log_proba(self, X, **params):
        """Predict logarithms of probabilities; only if the estimator can.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            As in `fit`.

        **params : dict
            Parameters for `predict_log_proba` of the estimator.

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        return self._call("predict_log_proba", X, params)

    @available_if(_estimator_has("decision_function"))
    def decision_function(self, X, **params):
        """Compute the scores of the classes; only if the estimator can.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            As in `fit`.

        **params : dict
            Parameters for `decision_function` of the estimator.

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            In the order of `classes_`.
        """
        return self._call("decision_function", X, params)

    def score(self, X, y, **params):
        """Return the estimator's own score, as a rule the accuracy, on the labelled rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            As in `fit`.

        y : array-like of shape (n_samples,)
            Classes; rows with -1 are not scored.

        **params : dict
            Parameters for `score` of the estimator; what has one entry per row is cut to the
            labelled rows.

        Returns
        -------
        score : float
        """
        check_is_fitted(self)
        params = self._route("score", params)
        y = column_or_1d(y)
        if labeled_mask(np.asarray(self.classes_)).all():  # else -1 is one of two classes
            X, y, params = _labeled_part(X, y, params)
        return self.estimator_.score(X, y, **params)

    def _call(self, method, X, params):
        check_is_fitted(self)
        return getattr(self.estimator_, method)(X, **self._route(method, params))

    def _route(self, method, params):
        if not get_config()["enable_metadata_routing"]:
            return params
        return process_routing(self, method, **params).estimator[method]

    def get_metadata_routing(self):
        """Get the metadata that the estimator requests.

        Returns
        -------
        routing : MetadataRouter
        """
        mapping = MethodMapping()
        for method in ROUTED:
            mapping.add(caller=method, callee=method)
        return MetadataRouter(owner=self).add(estimator=self.estimator, method_mapping=mapping)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        tags.input_tags = inner.input_tags
        tags.non_deterministic = inner.non_deterministic
        if inner.classifier_tags is not None:
            tags.classifier_tags = inner.classifier_tags
            tags.classifier_tags.multi_label = False
        return tags


def _labeled_part(X, y, params):
    """The labelled rows of X, of y and of all parameters that have one entry per row."""
    X, y = indexable(X, y)
    rows = np.flatnonzero(labeled_mask(y))
    if len(rows) == 0:
        raise ValueError(
            f"y has no labelled row among {len(y)}, only -1: there is nothing to score; pass rows "
            "with labels, or splits whose test parts have some."
        )
    return _safe_indexing(X, rows), y[rows], _check_method_params(X, params, rows)


class _IgnoreUnlabeledScorer:
    """What `ignore_unlabeled_scorer` returns; a class, so that it can be pickled."""

    def __init__(self, scorer, text):
        self._scorer = scorer
        self._text = text

    def __call__(self, estimator, X, y, **params):
        X, y, params = _labeled_part(X, column_or_1d(y), params)
        return self._scorer(estimator, X, y, **params)

    def __repr__(self):
        return f"ignore_unlabeled_scorer({self._text})"

    def get_metadata_routing(self):
        return get_routing_for_object(self._scorer)


def ignore_unlabeled_scorer(scoring="accuracy"):
    """Make a scorer that leaves rows with y = -1 out.

    For :func:`~sklearn.model_selection.cross_val_score`,
    :class:`~sklearn.model_selection.GridSearchCV` and everything else with a parameter `scoring`,
    where `y` has unlabelled rows. It does for any estimator what `score` of
    :class:`IgnoreUnlabeled` does.

    Parameters
    ----------
    scoring : str, callable, list, tuple, set or dict, default="accuracy"
        As everywhere in scikit-learn: the name of a score, a scorer `scorer(estimator, X, y)`, or
        several of them.

    Returns
    -------
    scorer : callable
        `scorer(estimator, X, y)`; a dict of scores for several. It can be pickled if `scoring`
        can. What has one entry per row, such as a `sample_weight`, is cut to the labelled rows;
        with metadata routing, request it on the scorer that is passed in.

    Raises
    ------
    ValueError
        When called, if no row is labelled; in a search or cross-validation this is a failed score,
        see their `error_score`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn_cpc import IgnoreUnlabeled
    >>> from sklearn_cpc.evaluation import ignore_unlabeled_scorer
    >>> X, y = load_iris(return_X_y=True)
    >>> y = np.where(np.arange(150) % 2, y, -1)
    >>> search = GridSearchCV(
    ...     IgnoreUnlabeled(LogisticRegression(max_iter=1000)),
    ...     {"estimator__C": [0.01, 1]},
    ...     scoring=ignore_unlabeled_scorer("balanced_accuracy"),
    ... )
    >>> search.fit(X, y).best_params_
    {'estimator__C': 1}
    """
    return _IgnoreUnlabeledScorer(check_scoring(scoring=scoring), repr(scoring))
