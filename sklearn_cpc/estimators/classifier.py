"""CPCClassifier: a classifier for images of which few are labelled."""

import copy
from numbers import Integral, Real

import numpy as np
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.utils import (
    assert_all_finite,
    check_array,
    check_consistent_length,
    check_random_state,
    column_or_1d,
)
from sklearn.utils._param_validation import Interval, InvalidParameterError, StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from ..evaluation.unlabeled import are_signs, labeled_mask, refuse_missing
from ..nn import AUGMENTATIONS, Augmentation
from ..training import workers_ended
from . import inputs
from .fine_tuning import (
    FineTuning,
    FineTuningSettings,
    best_temperature,
    choose_C,
    fit_head,
    penalty_strength,
    zero_head,
)
from .guards import own_torch, threads
from .names import with_near_miss
from .transformer import CPCTransformer

__all__ = ["CPCClassifier"]

POSITIVE_INT = Interval(Integral, 1, None, closed="left")
POSITIVE = Interval(Real, 0, None, closed="neither")
# With fewer held-out images a single one decides on epoch and temperature.
HELD_OUT_PER_CLASS = 5
# Epochs of a pretrained encoder where no image can be held out to end them in time.
FEW_EPOCHS = 30
# By `init`. The encoder's rate: what was learned without labels is not to be lost; from scratch it
# is all to be learned.
ENCODER_LEARNING_RATES = {"pretrained": 3e-4, "random": 1e-3}
MAX_BATCHES = {"pretrained": 500, "random": 2000}


class CPCClassifier(ClassifierMixin, BaseEstimator):
    """Classifier of images by the data-efficient protocol of CPC v2.

    All images pretrain an encoder, see `CPCTransformer`. A LogisticRegression is fitted to its
    frozen, pooled features of the labelled images; then encoder and classifier are trained on
    these together, at rates of their own, until images held out say that it is enough.

    Parameters
    ----------
    transformer : CPCTransformer, FrozenEstimator of one, or None, default=None
        Encoder, pooling, device and precision. Not fitted: a clone is fitted on all images of
        `fit`. Fitted: a copy is used as it is. None: `CPCTransformer()`. `clone`, and with it
        `cross_val_score` and the like, makes a fitted transformer an unfitted one, unless it
        is wrapped in a FrozenEstimator.
    init : {"pretrained", "random"}, default="pretrained"
        "random": the same network, fitted to nothing but its pixels' moments, is trained on the
        labelled images from the first to the last layer. It is the supervised baseline.
    unlabeled : int, str or None, default=-1
        Label of images without one; they serve pretraining only. None: every value is a
        class. What -1 means in text, and beside 1 alone, the Notes say.
    class_weight : dict, "balanced" or None, default=None
        Weights of classes by label, 1 for one that is not named; "balanced": in inverse proportion
        to their numbers among the labelled images that are not held out. They weigh the images in
        the classifier's fit, in fine-tuning, in the choice of `C_`, epoch and temperature, and so
        move `predict_proba` towards the rarer classes.
    fine_tune : bool, default=True
        False: the classifier on frozen features is the result.
    max_epochs : int, default=100
        Most passes over the labelled images in fine-tuning.
    max_batches : int or "auto", default="auto"
        Most batches, rounded to whole passes, one at least. "auto": 500, or 2,000 with
        `init="random"`.
    batch_size : int, default=32
        Labelled images per batch.
    encoder_learning_rate : float or "auto", default="auto"
        Of AdamW, falling as half a cosine. "auto": 3e-4, or 1e-3 with `init="random"`.
    classifier_learning_rate : float, default=1e-3
        Likewise.
    weight_decay : float, default=0.01
        Of the encoder. The classifier keeps the penalty of the LogisticRegression, and has
        `weight_decay` with `init="random"`.
    augment : {"auto", "full", "light", "none"} or Augmentation, default="auto"
        Shift and flip of whole images in fine-tuning. "auto": those of the transformer's `augment`.
    validation_fraction : float, default=0.1
        Share of the labelled images that is held out to end fine-tuning, stratified.
    patience : int, default=10
        Fine-tuning ends after this many epochs without a better accuracy on the held-out images
        (of equal ones, the smaller loss).
    random_state : int, RandomState or None, default=None
        Fixes held-out images, order and augmentation, and pretraining where the transformer has no
        `random_state` of its own.
    verbose : int, default=0
        1: a line per epoch of fine-tuning.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels.
    transformer_ : CPCTransformer
        With the fine-tuned encoder: `transformer_.transform` gives the features that are
        classified.
    coef_, intercept_ : ndarray of shape (n_classes, n_features_out), (n_classes,)
        Linear classifier on those features.
    temperature_ : float
        What logits are divided by for `predict_proba`.
    C_ : float or None
        Inverse strength of the penalty, chosen by three-fold cross-validation on the labelled
        images that are not held out (log loss); 1 / n_features_out where a class has one image.
        None with `init="random"`.
    history_ : list of dict
        A row per epoch of fine-tuning with "epoch", "loss" and "accuracy" on the augmented training
        images, "seconds", and where images are held out "held_out_loss" and "held_out_accuracy",
        these two weighted by `class_weight` ("balanced": the balanced accuracy).
        Epoch 0 is the classifier on frozen features. Empty without fine-tuning.
    best_epoch_, n_iter_ : int
        The epoch whose weights are kept, and the last one.
    n_features_in_ : int
        Numbers in an image.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where X had column names.

    Notes
    -----
    Images are held out where `validation_fraction` makes at least five for each class, and
    each class has two at least. Their best epoch is kept, so that on them the result is never less
    accurate than the classifier on frozen features; where that one is the best, it is fitted again
    to all labelled images. With fewer labels nothing is held out: a pretrained encoder is
    fine-tuned for thirty epochs at most and the last one is kept.

    Probabilities are scaled by a temperature fitted to the held-out images; without any,
    `temperature_` is 1 and the penalty, chosen by log loss, is all that keeps them modest.

    With `unlabeled=-1`, what counts as unlabelled is as in `IgnoreUnlabeled`: -1 in numbers; "-1"
    in text, for NumPy turns `["cat", -1]` into `["cat", "-1"]`; either of them in arrays of
    objects. One coding is ambiguous: a `y` of the numbers -1 and 1 alone is also the old way to
    write two classes. Where at least half of it is 1 it is taken for that, with a warning, as every
    other classifier of scikit-learn takes it. Where most of it is -1 a single class is labelled,
    which is refused.

    Ensembles, `CalibratedClassifierCV` and `cross_val_predict(method="predict_proba")` of
    scikit-learn number the labels before any classifier sees them, and -1 becomes a class: pass
    them labelled rows only, with a FrozenEstimator that has learned from all.

    Features are pooled over patches at the transformer's `transform_stride`. Its default is twice
    as fine as that of pretraining; `transform_stride=patch_stride` fine-tunes up to four times
    as fast.

    References
    ----------
    O. Hénaff et al., "Data-Efficient Image Recognition with Contrastive Predictive Coding",
    ICML 2020, https://arxiv.org/abs/1905.09272.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_cpc import CPCClassifier, CPCTransformer
    >>> X, y = load_digits(return_X_y=True)
    >>> y[50:] = -1
    >>> cpc = CPCTransformer(32, latent_dim=16, max_epochs=1)
    >>> classifier = CPCClassifier(cpc, max_epochs=2, random_state=0).fit(X[:200], y[:200])
    >>> classifier.predict_proba(X[:3]).shape
    (3, 10)
    """

    _parameter_constraints = {
        "transformer": [CPCTransformer, FrozenEstimator, None],
        "init": [StrOptions({"pretrained", "random"})],
        "unlabeled": [Integral, str, None],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "fine_tune": ["boolean"],
        "max_epochs": [POSITIVE_INT],
        "max_batches": [POSITIVE_INT, StrOptions({"auto"})],
        "batch_size": [POSITIVE_INT],
        "encoder_learning_rate": [POSITIVE, StrOptions({"auto"})],
        "classifier_learning_rate": [POSITIVE],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "augment": [StrOptions({"auto", *AUGMENTATIONS}), Augmentation],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "patience": [POSITIVE_INT],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        transformer=None,
        *,
        init="pretrained",
        unlabeled=-1,
        class_weight=None,
        fine_tune=True,
        max_epochs=100,
        max_batches="auto",
        batch_size=32,
        encoder_learning_rate="auto",
        classifier_learning_rate=1e-3,
        weight_decay=0.01,
        augment="auto",
        validation_fraction=0.1,
        patience=10,
        random_state=None,
        verbose=0,
    ):
        self.transformer = transformer
        self.init = init
        self.unlabeled = unlabeled
        self.class_weight = class_weight
        self.fine_tune = fine_tune
        self.max_epochs = max_epochs
        self.max_batches = max_batches
        self.batch_size = batch_size
        self.encoder_learning_rate = encoder_learning_rate
        self.classifier_learning_rate = classifier_learning_rate
        self.weight_decay = weight_decay
        self.augment = augment
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y):
        """Pretrain on all images and learn from the labelled ones.

        Parameters
        ----------
        X : array-like
            Images of one size, as in `CPCTransformer.fit`.
        y : array-like of shape (n,)
            Classes; -1, or what `unlabeled` says, where there is none.

        Returns
        -------
        self : CPCClassifier

        Raises
        ------
        ValueError
            If a parameter, an image or a label is not acceptable, nothing is labelled, or
            there is one class; an earlier fit is kept.
        FloatingPointError
            If a loss is not finite; an earlier fit is kept.
        """
        self._validate_params()
        labeled, classes, target = self._check_labels(X, y)
        random_state = check_random_state(self.random_state)
        seed = int(random_state.randint(2**31 - 1))
        train, held_out = self._hold_out(labeled, target, random_state)
        class_weights = self._class_weights(classes, target[train])
        transformer = self._start_transformer(X, seed)
        with own_torch(), threads(transformer.n_jobs), workers_ended():
            parts = (train, held_out)
            fitted = self._learn(transformer, X, parts, target, class_weights, random_state)
        for name in ("feature_names_in_", *fitted):
            vars(self).pop(name, None)
        vars(self).update(fitted, classes_=classes, transformer_=transformer)
        self.n_features_in_ = transformer.n_features_in_
        if hasattr(transformer, "feature_names_in_"):
            self.feature_names_in_ = transformer.feature_names_in_
        return self

    def pretrained(self, X):
        """A classifier that is pretrained on these images, and is still to learn from labels.

        Its `fit` pretrains no more. So one pretraining serves many fits: on several label subsets,
        as in `label_efficiency_curve`, or in a search for the best fine-tuning. A fit of it on the
        same images gives what a fit of this one gives, if `random_state` is an int.

        Parameters
        ----------
        X : array-like
            As in `fit`.

        Returns
        -------
        classifier : CPCClassifier
            Not fitted; a clone with a FrozenEstimator as `transformer`. With `init="random"`
            there is nothing to pretrain: a mere clone.
        """
        self._validate_params()
        own = clone(self)
        if self.init == "pretrained":
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            own.transformer = FrozenEstimator(self._start_transformer(X, seed))
        return own

    def predict(self, X):
        """Classes of images.

        Parameters
        ----------
        X : array-like
            As in `fit`.

        Returns
        -------
        y : ndarray of shape (n,)
        """
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]

    def predict_proba(self, X):
        """Probabilities of the classes.

        Parameters
        ----------
        X : array-like
            As in `fit`.

        Returns
        -------
        probabilities : ndarray of shape (n, n_classes), float32
            In the order of `classes_`.
        """
        return softmax(self._scaled_logits(X), axis=1).astype(np.float32)

    def predict_log_proba(self, X):
        """Logarithms of the probabilities, finite where these are too small for float32.

        Parameters
        ----------
        X : array-like
            As in `fit`.

        Returns
        -------
        log_probabilities : ndarray of shape (n, n_classes), float32
            In the order of `classes_`.
        """
        return log_softmax(self._scaled_logits(X), axis=1).astype(np.float32)

    def _scaled_logits(self, X):
        check_is_fitted(self)
        features = np.asarray(self.transformer_.transform(X))
        if np.isnan(features).any():
            row = int(np.argmax(np.isnan(features).any(axis=1)))
            raise ValueError(
                f"X[{row}] cannot be read, and nothing can be predicted for it; leave such images "
                "out."
            )
        return (features @ self.coef_.T + self.intercept_) / self.temperature_

    def score(self, X, y, sample_weight=None):
        """Accuracy on the labelled images.

        Parameters
        ----------
        X : array-like
            As in `fit`.
        y : array-like of shape (n,)
            Rows that are unlabelled as in `fit` are left out.
        sample_weight : array-like of shape (n,) or None, default=None
            Weights of the images.

        Returns
        -------
        accuracy : float

        Raises
        ------
        ValueError
            If `y` has no label, labels of another kind than in `fit`, missing ones, or another
            length than X.
        """
        check_is_fitted(self)
        y = column_or_1d(self._as_labels(y))
        if self.unlabeled is None or not labeled_rows(self.classes_, self.unlabeled).all():
            return super().score(X, y, sample_weight)
        labeled = labeled_rows(y, self.unlabeled)
        if not labeled.any():
            raise ValueError(
                f"y has no label, {self.unlabeled!r} means unlabelled; score needs labelled images."
            )
        predicted = np.asarray(self.predict(X))
        weight = np.ones(len(y)) if sample_weight is None else column_or_1d(sample_weight)
        check_consistent_length(predicted, y, weight)
        # Which refuses labels of another kind, such as text for numbers.
        return accuracy_score(y[labeled], predicted[labeled], sample_weight=weight[labeled])

    # Inner workings

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        tags.non_deterministic = False
        return tags

    def _validate_params(self):
        try:
            super()._validate_params()
        except InvalidParameterError as error:
            raise with_near_miss(error, self) from None

    def _check_labels(self, X, y):
        """Rows with a label, the classes, and the class of every row (0 without a label)."""
        if y is None:
            raise ValueError(
                "CPCClassifier requires y to be passed, but the target y is None; without labels "
                "use CPCTransformer."
            )
        y = column_or_1d(self._as_labels(y), warn=True)
        assert_all_finite(y, input_name="y")
        check_consistent_length(X, y)
        is_labeled = np.ones(len(y), dtype=bool)
        way_out = "call it 0 or pass unlabeled=None"
        if self.unlabeled is not None and not (self.unlabeled == -1 and are_signs(y, way_out)):
            is_labeled = labeled_rows(y, self.unlabeled)
        check_classification_targets(y[is_labeled])
        classes, target = np.unique(y[is_labeled], return_inverse=True)
        if len(classes) < 2:
            found = "1 class" if len(classes) else "no class"
            raise ValueError(
                f"y has {found} in {is_labeled.sum()} labelled images ({self.unlabeled!r} means "
                "unlabelled); a classifier needs at least 2: label an image of another class."
            )
        everywhere = np.zeros(len(y), dtype=int)
        everywhere[is_labeled] = target
        return np.flatnonzero(is_labeled), classes, everywhere

    def _as_labels(self, y):
        """Labels as an array, none of them missing."""
        y = check_array(y, ensure_2d=False, dtype=None, ensure_all_finite=False, input_name="y")
        sign = "label those rows" if self.unlabeled is None else f"write {self.unlabeled!r} there"
        refuse_missing(y.reshape(-1), f"{sign}, or leave them out")
        return y

    def _start_transformer(self, X, seed):
        """A fitted transformer that is ours alone."""
        given = CPCTransformer() if self.transformer is None else self.transformer
        is_frozen = isinstance(given, FrozenEstimator)
        given = given.estimator if is_frozen else given
        if not isinstance(given, CPCTransformer):
            raise TypeError(
                f"transformer=FrozenEstimator({type(given).__name__}) must hold a CPCTransformer; "
                "for another one use make_pipeline(transformer, LogisticRegression())."
            )
        if self.init == "pretrained" and (is_frozen or hasattr(given, "net_")):
            check_is_fitted(given)
            return copy.deepcopy(given)
        own = clone(given)
        if self.init == "random":
            own.set_params(max_epochs=0, callbacks=None)
        if own.random_state is None:
            own.set_params(random_state=seed)
        return own.fit(X)

    def _learn(self, transformer, X, parts, target, class_weights, random_state):
        """Fitted attributes of the classifier; changes the transformer's encoder."""
        images, grid = inputs.images_and_grid(transformer, X, skipped="raise")
        train, held_out = parts
        labeled = np.sort(np.concatenate(parts))
        tuning = FineTuning(transformer, images, grid, target, class_weights)
        n_classes = len(class_weights)
        frozen = tuning.features(labeled)
        is_train = np.isin(labeled, train)
        C, head = None, zero_head(frozen[is_train], n_classes)
        if self.init == "pretrained":
            fold_seed = int(random_state.randint(2**31 - 1))
            C = choose_C(frozen[is_train], target[train], class_weights, fold_seed)
            head = fit_head(frozen[is_train], target[train], class_weights, C)
        fitted = {"C_": C, "temperature_": 1.0, "history_": [], "best_epoch_": 0}
        if self.fine_tune:
            settings = self._settings(transformer, C, len(train), n_classes, len(held_out))
            fitted["history_"], fitted["best_epoch_"] = tuning.run(
                head, train, held_out, settings, random_state
            )
        if len(held_out):
            fitted["temperature_"] = best_temperature(
                tuning.logits(head, held_out), target[held_out], class_weights[target[held_out]]
            )
            if C is not None and not fitted["best_epoch_"]:
                head = fit_head(frozen, target[labeled], class_weights, C)
        fitted["coef_"], fitted["intercept_"] = head.folded()
        fitted["n_iter_"] = max(0, len(fitted["history_"]) - 1)
        return fitted

    def _hold_out(self, labeled, target, random_state):
        """Labelled rows to train on and rows that end the training, none where labels are few."""
        counts = np.bincount(target[labeled])
        n_held_out = round(self.validation_fraction * len(labeled))
        if (
            not self.fine_tune
            or n_held_out < HELD_OUT_PER_CLASS * len(counts)
            or len(labeled) - n_held_out < len(counts)
            or counts.min() < 2
        ):
            return labeled, labeled[:0]
        train, held_out = train_test_split(
            labeled, test_size=n_held_out, stratify=target[labeled], random_state=random_state
        )
        return np.sort(train), np.sort(held_out)

    def _class_weights(self, classes, target):
        """The weight of each class, (n_classes,)."""
        given = self.class_weight
        if isinstance(given, dict):
            _check_class_weights(given)
        return compute_class_weight(given, classes=classes, y=classes[target])

    def _settings(self, transformer, C, n_train, n_classes, n_held_out):
        rate, augment = self.encoder_learning_rate, self.augment
        augment = transformer.augment if augment == "auto" else augment
        max_batches = MAX_BATCHES[self.init] if self.max_batches == "auto" else self.max_batches
        is_blind = self.init == "pretrained" and not n_held_out
        return FineTuningSettings(
            max_epochs=min(self.max_epochs, FEW_EPOCHS) if is_blind else self.max_epochs,
            max_batches=max_batches,
            batch_size=self.batch_size,
            encoder_learning_rate=ENCODER_LEARNING_RATES[self.init] if rate == "auto" else rate,
            classifier_learning_rate=self.classifier_learning_rate,
            weight_decay=self.weight_decay,
            penalty=0.0 if C is None else penalty_strength(C, n_train, n_classes),
            patience=self.patience,
            augmentation=AUGMENTATIONS[augment] if isinstance(augment, str) else augment,
            verbose=self.verbose,
        )


def _check_class_weights(class_weight):
    for label, weight in class_weight.items():
        if not (isinstance(weight, Real) and np.isfinite(weight) and weight > 0):
            raise ValueError(
                f"class_weight={{{label!r}: {weight!r}}} must be a finite number above 0; leave "
                "out the images of a class that is not to count."
            )


def labeled_rows(y, unlabeled):
    """Where y is a label; no number is in an array of text, and no text in one of numbers.

    But scikit-learn's sign for none is -1 or "-1", see `labeled_mask`.
    """
    if unlabeled == -1:
        return np.asarray(labeled_mask(y), dtype=bool)
    if y.dtype.kind != "O" and (y.dtype.kind in "US") != isinstance(unlabeled, str):
        return np.ones(len(y), dtype=bool)
    return np.asarray(y != unlabeled, dtype=bool)
