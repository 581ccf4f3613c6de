"""How good features are: a linear classifier or the nearest neighbours, fitted on top of them."""

import warnings
from functools import partial
from numbers import Integral, Real

import numpy as np
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch, check_array, check_random_state, column_or_1d
from sklearn.utils._param_validation import Interval
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from .unlabeled import labeled_mask, refuse_missing

N_FOLDS = 5
DEFAULT_CS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
FIXED_C = 0.1  # where a class has a single row, so that there is nothing to choose it on
EPS = 1e-5  # of the batch normalisation, torch's default


class LinearProbeClassifier(ClassifierMixin, BaseEstimator):
    """Linear classifier on batch-normalised features, trained by Adam: the probe of CPC v2 [1]_.

    Features are normalised by the mean and the variance of the batch, without learned scale and
    shift; a linear layer gives the scores of the classes; the loss is cross-entropy. `predict`
    normalises by the running mean and variance. The learning rate falls to zero as half a cosine.

    Parameters
    ----------
    max_epochs : int, default=100
        Passes over the rows.

    batch_size : int, default=256
        Rows per batch.

    learning_rate : float, default=1e-2
        First learning rate.

    weight_decay : float, default=0.0
        L2 penalty on weights, as in Adam.

    momentum : float, default=0.1
        Weight of a new batch in the running mean and variance.

    device : str, default="auto"
        "cpu", "cuda", ... "auto": CUDA where there is a device, else the CPU.

    random_state : int, RandomState instance or None, default=None
        Order of the rows; the weights start at zero. With an int, two fits on the same CPU give
        identical weights.

    Attributes
    ----------
    coef_ : ndarray of shape (n_classes, n_features_in_)
        Weights, of normalised features.
    intercept_ : ndarray of shape (n_classes,)
        Biases.
    mean_, var_ : ndarray of shape (n_features_in_,)
        Running mean and variance.
    loss_curve_ : list of float
        Mean loss of each epoch.
    classes_ : ndarray of shape (n_classes,)
        The classes.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if `X` was a data frame.

    References
    ----------
    .. [1] Hénaff, O. J. et al. (2020). Data-Efficient Image Recognition with Contrastive Predictive
       Coding. ICML. arXiv:1905.09272.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_cpc.evaluation import LinearProbeClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> probe = LinearProbeClassifier(max_epochs=10, random_state=0).fit(X[:1000], y[:1000])
    >>> probe.score(X[1000:], y[1000:]) > 0.85
    True
    """

    _parameter_constraints = {
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "momentum": [Interval(Real, 0, 1, closed="right")],
        "device": [str],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        max_epochs=100,
        batch_size=256,
        learning_rate=1e-2,
        weight_decay=0.0,
        momentum=0.1,
        device="auto",
        random_state=None,
    ):
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.momentum = momentum
        self.device = device
        self.random_state = random_state

    def fit(self, X, y):
        """Train the linear layer.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        y : array-like of shape (n_samples,)
            Classes.

        Returns
        -------
        self : LinearProbeClassifier
        """
        self._validate_params()
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        classes, targets = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"y has 1 class, {classes.tolist()}: at least 2 are needed; label rows of another "
                "class."
            )
        self.classes_ = classes
        self._train(X, targets)
        return self

    def _train(self, X, targets):
        import torch
        from torch.nn import functional

        device = self._torch_device(torch)
        X = torch.tensor(X, device=device)
        targets = torch.tensor(targets, device=device)
        mean, var = torch.zeros_like(X[0]), torch.ones_like(X[0])
        weight = torch.zeros(len(self.classes_), X.shape[1], device=device, requires_grad=True)
        bias = torch.zeros(len(self.classes_), device=device, requires_grad=True)
        groups = [{"params": [weight], "weight_decay": self.weight_decay}, {"params": [bias]}]
        optimizer = torch.optim.Adam(groups, lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.max_epochs)
        rng = check_random_state(self.random_state)
        self.loss_curve_ = []
        for _ in range(self.max_epochs):
            total = 0.0
            for rows in _batches(rng.permutation(len(X)), self.batch_size):
                rows = torch.as_tensor(rows, device=device)
                normal = functional.batch_norm(
                    X[rows], mean, var, training=True, momentum=self.momentum, eps=EPS
                )
                loss = functional.cross_entropy(normal @ weight.T + bias, targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach() * len(rows)
            schedule.step()
            self.loss_curve_.append(float(total) / len(X))
        self.coef_, self.intercept_, self.mean_, self.var_ = (
            tensor.detach().cpu().numpy() for tensor in (weight, bias, mean, var)
        )

    def _torch_device(self, torch):
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def decision_function(self, X):
        """Compute the scores of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            Logits; of two classes the difference, positive for the second.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X):
        """Predict classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        best = self._logits(X).argmax(axis=1)
        return self.classes_[best]

    def predict_proba(self, X):
        """Predict probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
        """
        return softmax(self._logits(X), axis=1)

    def predict_log_proba(self, X):
        """Predict logarithms of probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
        """
        return log_softmax(self._logits(X), axis=1)

    def _logits(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        # Double precision, so that the logits of a row do not depend on its companions.
        normal = (X.astype(np.float64) - self.mean_) / np.sqrt(self.var_ + EPS)
        return normal @ self.coef_.T.astype(np.float64) + self.intercept_


def _batches(rows, batch_size):
    """Batches of at least two rows, of which alone a variance can be taken."""
    starts = range(0, len(rows), batch_size)
    batches = [rows[start : start + batch_size] for start in starts]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


def linear_probe(
    Z_train,
    y_train,
    Z_test=None,
    y_test=None,
    *,
    method="logistic",
    Cs=DEFAULT_CS,
    max_iter=1000,
    max_epochs=100,
    batch_size=256,
    learning_rate=1e-2,
    weight_decay=0.0,
    device="auto",
    random_state=None,
):
    """Measure features by a linear classifier on top of them.

    Parameters
    ----------
    Z_train : array-like of shape (n_train, n_features)
        Features of the training images.

    y_train : array-like of shape (n_train,)
        Their classes. Rows with -1 are unlabelled and left out.

    Z_test : array-like of shape (n_test, n_features), default=None
        Features of the test images. None: the training rows are predicted out of fold, in as many
        stratified folds as the smallest class has rows, 5 at most.

    y_test : array-like of shape (n_test,), default=None
        Their classes. Rows with -1 are predicted and not scored.

    method : {"logistic", "bn-linear"}, default="logistic"
        "logistic": standardised features and logistic regression, with `C` chosen out of `Cs` by
        stratified cross-validation inside the training rows; where a class has a single row
        there is nothing to choose it on: C is then 0.1, with a warning.
        "bn-linear": :class:`LinearProbeClassifier`, the probe of CPC v2.

    Cs : sequence of float, default=(1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
        Of "logistic": inverse strengths of the penalty to choose from; of a single one there is no
        choice.

    max_iter : int, default=1000
        Of "logistic": largest number of iterations.

    max_epochs, batch_size, learning_rate, weight_decay, device
        Of "bn-linear": as in :class:`LinearProbeClassifier`.

    random_state : int, RandomState instance or None, default=None
        Seeds the folds and the order of the batches.

    Returns
    -------
    result : :class:`~sklearn.utils.Bunch`
        score : float
            Accuracy on the labelled test rows, or out of fold.
        predictions : ndarray of shape (n_test,)
            Classes of all test rows, or of the labelled training rows out of fold.
        estimator : estimator
            Fitted on all labelled training rows.
        n_labels : int
            The number of labelled training rows.
        C : float
            Of "logistic": that of `estimator`.
        C_is_chosen : bool
            Of "logistic": whether it was chosen by cross-validation.

    Raises
    ------
    ValueError
        If there are fewer than two classes, a class has a single row and there is no `Z_test`,
        `y_test` is missing or has no label, or a parameter is not one of the above.

    See Also
    --------
    knn_probe : Nearest neighbours, without training.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_cpc import linear_probe
    >>> X, y = load_digits(return_X_y=True)
    >>> result = linear_probe(X[:500], y[:500], X[500:], y[500:], random_state=0)
    >>> result.score > 0.85, result.C
    (True, 0.1)
    """
    rows = _check_rows(Z_train, y_train, Z_test, y_test)
    rng = check_random_state(random_state)
    if method == "logistic":
        fit = partial(_fit_logistic, Cs=_check_cs(Cs), max_iter=max_iter)
    elif method == "bn-linear":
        settings = (max_epochs, batch_size, learning_rate, weight_decay, device)
        fit = partial(_fit_bn_linear, settings=settings)
    else:
        raise ValueError(f"method={method!r}: must be 'logistic' or 'bn-linear'.")
    Z_train, y_train, Z_test, y_test = rows
    estimator, more = fit(Z_train, y_train, rng)
    if Z_test is None:
        predictions, y_test = _out_of_fold(fit, Z_train, y_train, rng), y_train
    else:
        predictions = estimator.predict(Z_test)
    return _result(predictions, y_test, estimator, len(y_train), **more)


def _fit_logistic(Z, y, rng, Cs, max_iter):
    pipe = make_pipeline(StandardScaler(), LogisticRegression(C=Cs[0], max_iter=max_iter))
    values, sizes = np.unique(y, return_counts=True)
    if len(Cs) > 1 and sizes.min() > 1:
        grid = {"logisticregression__C": Cs}
        search = GridSearchCV(pipe, grid, cv=_folds(y, rng)).fit(Z, y)
        C = search.best_params_["logisticregression__C"]
        return search.best_estimator_, {"C": C, "C_is_chosen": True}
    if len(Cs) > 1:
        warnings.warn(
            f"class {values[sizes.argmin()]} has a single labelled row, so that C cannot be "
            f"chosen by cross-validation: C={FIXED_C}; label another row of it, or pass Cs=(C,).",
            UserWarning,
            stacklevel=3,
        )
    C = FIXED_C if len(Cs) > 1 else Cs[0]
    pipe.set_params(logisticregression__C=C)
    return pipe.fit(Z, y), {"C": C, "C_is_chosen": False}


def _fit_bn_linear(Z, y, rng, settings):
    names = ("max_epochs", "batch_size", "learning_rate", "weight_decay", "device")
    seed = rng.randint(np.iinfo(np.int32).max)
    probe = LinearProbeClassifier(**dict(zip(names, settings, strict=True)), random_state=seed)
    return probe.fit(Z, y), {}


def _folds(y, rng):
    n_folds = min(N_FOLDS, np.unique(y, return_counts=True)[1].min())
    seed = rng.randint(np.iinfo(np.int32).max)
    return StratifiedKFold(n_folds, shuffle=True, random_state=seed)


def _out_of_fold(fit, Z, y, rng):
    values, sizes = np.unique(y, return_counts=True)
    if sizes.min() < 2:
        raise ValueError(
            f"class {values[sizes.argmin()]} has a single labelled row and there is no Z_test: "
            "it cannot be in both parts of a fold; label another row of it, or pass Z_test and "
            "y_test."
        )
    predictions = np.empty_like(y)
    for train, test in _folds(y, rng).split(Z, y):
        predictions[test] = fit(Z[train], y[train], rng)[0].predict(Z[test])
    return predictions


def knn_probe(
    Z_train,
    y_train,
    Z_test=None,
    y_test=None,
    *,
    n_neighbors=20,
    metric="cosine",
    weights="softmax",
    temperature=0.07,
):
    """Measure features by the classes of the nearest neighbours, without training anything.

    Parameters
    ----------
    Z_train : array-like of shape (n_train, n_features)
        Features of the training images.

    y_train : array-like of shape (n_train,)
        Their classes. Rows with -1 are unlabelled and left out.

    Z_test : array-like of shape (n_test, n_features), default=None
        Features of the test images. None: each labelled training row is predicted from all others.

    y_test : array-like of shape (n_test,), default=None
        Their classes. Rows with -1 are predicted and not scored.

    n_neighbors : int, default=20
        Number of neighbours; all there are, if there are fewer.

    metric : {"cosine", "euclidean"}, default="cosine"
        Distance. "cosine": 1 less the cosine of the angle; lengths do not count.

    weights : {"softmax", "uniform"}, default="softmax"
        "softmax": a neighbour at the distance d votes with the weight exp(-d / temperature), with
        the cosine as in [1]_. "uniform": all votes count the same. Of classes with equal votes the
        first wins.

    temperature : float, default=0.07
        Of "softmax", in units of the distance.

    Returns
    -------
    result : :class:`~sklearn.utils.Bunch`
        score : float
            Accuracy on the labelled test rows, or of leaving one out.
        predictions : ndarray of shape (n_test,)
            Classes of all test rows, or of the labelled training rows.
        probabilities : ndarray of shape (n_test, n_classes)
            Shares of the votes, in the order of `estimator.classes_`.
        estimator : KNeighborsClassifier
            Fitted on all labelled training rows.
        n_labels : int
            The number of labelled training rows.

    Raises
    ------
    ValueError, TypeError
        If there are fewer than two classes, `y_test` is missing or has no label, or a parameter is
        not one of the above.

    Notes
    -----
    Memory for distances is bounded by scikit-learn's `working_memory`.

    References
    ----------
    .. [1] Wu, Z., Xiong, Y., Yu, S. X. and Lin, D. (2018). Unsupervised Feature Learning via
       Non-Parametric Instance Discrimination. CVPR. arXiv:1805.01978.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_cpc import knn_probe
    >>> X, y = load_digits(return_X_y=True)
    >>> result = knn_probe(X[:500], y[:500])  # Each image from the other 499.
    >>> result.score > 0.9
    True
    """
    rows = _check_rows(Z_train, y_train, Z_test, y_test)
    _check_knn(n_neighbors, metric, weights, temperature)
    Z_train, y_train, Z_test, y_test = rows
    estimator = KNeighborsClassifier(
        min(n_neighbors, len(y_train) - (Z_test is None)),
        metric=metric,
        weights=SoftmaxWeights(temperature) if weights == "softmax" else weights,
    ).fit(Z_train, y_train)
    probabilities = estimator.predict_proba(Z_test)  # of None: of each row from the others
    predictions = estimator.classes_[probabilities.argmax(axis=1)]
    return _result(
        predictions,
        y_train if Z_test is None else y_test,
        estimator,
        len(y_train),
        probabilities=probabilities,
    )


class SoftmaxWeights:
    """Weights exp(-distance / temperature), up to a factor for each row; it can be pickled."""

    def __init__(self, temperature):
        self.temperature = temperature

    def __call__(self, distances):
        nearest = distances.min(axis=1, keepdims=True)
        return np.exp((nearest - distances) / self.temperature)

    def __repr__(self):
        return f"SoftmaxWeights({self.temperature})"


def _check_knn(n_neighbors, metric, weights, temperature):
    if isinstance(n_neighbors, bool) or not isinstance(n_neighbors, Integral):
        raise TypeError(f"n_neighbors={n_neighbors!r}: must be an int; pass 1 or more.")
    if n_neighbors < 1:
        raise ValueError(f"n_neighbors={n_neighbors}: must be at least 1; pass 1 or more.")
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric={metric!r}: must be 'cosine' or 'euclidean'.")
    if weights not in ("softmax", "uniform"):
        raise ValueError(f"weights={weights!r}: must be 'softmax' or 'uniform'.")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: must be above 0; pass for example 0.07.")


def _check_cs(Cs):
    Cs = [float(C) for C in np.ravel(Cs)]
    if not Cs or min(Cs) <= 0:
        raise ValueError(f"Cs={Cs}: must be one or more numbers above 0.")
    return sorted(Cs)  # Of equally good ones the strongest penalty is taken.


def _check_rows(Z_train, y_train, Z_test, y_test):
    """The labelled training rows and all test rows, or what is wrong with them."""
    Z_train, y_train = _check_part(Z_train, y_train, "train")
    labeled = labeled_mask(y_train)
    Z_train, y_train = Z_train[labeled], y_train[labeled]
    classes = np.unique(y_train)
    if len(classes) < 2:
        raise ValueError(
            f"y_train has the classes {classes.tolist()} beside -1, unlabelled: at least 2 are "
            "needed; label rows of other classes."
        )
    if (Z_test is None) != (y_test is None):
        missing = "y_test" if y_test is None else "Z_test"
        raise ValueError(f"{missing}=None: Z_test and y_test belong together; pass both or none.")
    if Z_test is None:
        return Z_train, y_train, None, None
    Z_test, y_test = _check_part(Z_test, y_test, "test")
    if Z_test.shape[1] != Z_train.shape[1]:
        raise ValueError(
            f"Z_test has {Z_test.shape[1]} features, Z_train {Z_train.shape[1]}: pass the output "
            "of the same transformer."
        )
    if not labeled_mask(y_test).any():
        raise ValueError("y_test has no label, only -1: there is nothing to score; pass labels.")
    return Z_train, y_train, Z_test, y_test


def _check_part(Z, y, part):
    Z = check_array(Z, dtype=[np.float64, np.float32], input_name=f"Z_{part}")
    y = column_or_1d(y)
    refuse_missing(y)
    check_consistent_length(Z, y)
    check_classification_targets(y[labeled_mask(y)])
    return Z, y


def _result(predictions, y, estimator, n_labels, **more):
    labeled = labeled_mask(y)
    return Bunch(
        score=float(accuracy_score(y[labeled], predictions[labeled])),
        predictions=predictions,
        estimator=estimator,
        n_labels=n_labels,
        **more,
    )
