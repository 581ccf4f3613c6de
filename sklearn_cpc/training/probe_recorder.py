"""A skorch callback that measures what features are worth while they are learned."""

import copy

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import column_or_1d
from skorch.callbacks import Callback

from ..nn import check_name, pool
from .callbacks import with_averages
from .decoded import ImageFiles
from .feed import ImageFeed
from .images import as_array, as_images, check_finite
from .sources import as_paths

__all__ = ["ProbeRecorder"]

BLOCK = 64
PROBES = {
    # As in Z. Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
    # Discrimination", CVPR 2018: cosine similarity.
    "knn": lambda n, width: KNeighborsClassifier(min(20, n), metric="cosine", weights="distance"),
    "logistic": lambda n, width: LogisticRegression(C=1 / width, max_iter=1000),
}


class ProbeRecorder(Callback):
    """Record the accuracy of a simple classifier on the features, every few epochs.

    For `CPCTransformer(callbacks=[ProbeRecorder(X, y)])`: the accuracies are found as
    "probe_accuracy" in the rows of `history_`. They choose nothing and change nothing: weights are
    the same with and without the recorder. With `averaging` the averages are probed. What is
    probed should be neither a test set nor, where epochs are chosen by it, the images that the
    choice is judged on.

    Parameters
    ----------
    X : array-like
        Labelled images of the size and kind of the training images, some hundreds or thousands:
        arrays or paths of files.
    y : array-like of shape (n,)
        Their classes; rows with -1 are left out.
    every : int, default=1
        Epochs from one record to the next.
    probe : {"knn", "logistic"}, default="knn"
        20 nearest neighbours by cosine, or a LogisticRegression with C = 1 / n_features; both on
        standardised features.
    X_test, y_test : array-like or None, default=None
        Images to measure the accuracy on. None: stratified cross-validation on X.
    cv : int, default=5
        Number of folds; at most the number of images of a class is used. Not used where there is
        `X_test`.
    pooling : {"max", "mean", "quadrants", "none"}, default="max"
        As the transformer's; patches are those of its training grid.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_cpc import CPCTransformer, ProbeRecorder
    >>> X, y = load_digits(return_X_y=True)
    >>> recorder = ProbeRecorder(X[:100], y[:100], every=2)
    >>> cpc = CPCTransformer(16, latent_dim=8, max_epochs=2, callbacks=[recorder])
    >>> cpc = cpc.fit(X[100:200])
    >>> ["probe_accuracy" in row for row in cpc.history_]
    [False, True]
    """

    def __init__(
        self, X, y, *, every=1, probe="knn", X_test=None, y_test=None, cv=5, pooling="max"
    ):
        self.X = X
        self.y = y
        self.every = every
        self.probe = probe
        self.X_test = X_test
        self.y_test = y_test
        self.cv = cv
        self.pooling = pooling

    def __deepcopy__(self, memo):
        """Training copies its callbacks; the images are not changed and need no copy."""
        return copy.copy(self)

    def initialize(self):
        check_name("probe", self.probe, PROBES)
        if self.every < 1:
            raise ValueError(f"every={self.every!r} must be at least 1 epoch; pass 1 or more.")
        if (self.X_test is None) != (self.y_test is None):
            raise ValueError(
                "X_test and y_test must be passed both or neither; without them the accuracy is "
                "measured by cross-validation."
            )
        rows, y = _labeled(self.X, self.y, "X")
        _, counts = np.unique(y, return_counts=True)
        if len(counts) < 2 or (self.X_test is None and counts.min() < 2):
            raise ValueError(
                f"y has {counts.tolist()} images of its classes; a probe needs at least 2 classes, "
                "and 2 images of each where there is no X_test: label more images."
            )
        self.labeled_, self.y_ = rows, y
        self.n_folds_ = min(self.cv, counts.min())
        if self.X_test is not None:
            self.test_, self.y_test_ = _labeled(self.X_test, self.y_test, "X_test")
        return self

    def on_epoch_end(self, net, dataset_train=None, **kwargs):
        if len(net.history) % self.every == 0:
            net.module_.eval()  # training begins each batch in its own mode
            with with_averages(net):
                net.history.record("probe_accuracy", self._accuracy(net, dataset_train))

    def _accuracy(self, net, feed):
        features = self._features(net, feed, self.X, self.labeled_)
        n_known = len(features)
        if self.X_test is None:
            n_known -= -(-n_known // self.n_folds_)
        classifier = PROBES[self.probe](n_known, features.shape[1])
        classifier = make_pipeline(StandardScaler(), classifier)
        if self.X_test is None:
            folds = StratifiedKFold(self.n_folds_, shuffle=True, random_state=0)
            return float(cross_val_score(classifier, features, self.y_, cv=folds).mean())
        classifier.fit(features, self.y_)
        test = self._features(net, feed, self.X_test, self.test_)
        return float(classifier.score(test, self.y_test_))

    def _features(self, net, feed, X, rows):
        """Pooled features of these rows, on the grid of the training."""
        images = _like(_opened(X, rows, feed.images.data), feed.images)
        model, parts = net.module_, []
        with torch.inference_mode(), net.autocast():
            for block in ImageFeed(images, feed.scale, net.device).blocks(BLOCK):
                parts.append(pool(model.embed(block), self.pooling).float().cpu().numpy())
        return np.concatenate(parts)


def _opened(X, rows, training):
    """These rows of X, image files read as those of the training."""
    paths = as_paths(X)
    if paths is None:
        return as_array(X)[rows]
    widens = getattr(training, "widens", False)
    return ImageFiles(
        [paths[row] for row in rows],
        getattr(training, "size", None),
        widens=widens,
        n_channels=training.shape[-1] if widens else None,
    )


def _labeled(X, y, name):
    """Rows with a label, and their labels."""
    y = column_or_1d(np.asarray(y))
    n = len(X if as_paths(X) is not None else as_array(X))
    if n != len(y):
        raise ValueError(
            f"{name} has {n} images and its y {len(y)} labels; pass one label per image, -1 where "
            "there is none."
        )
    rows = np.flatnonzero(np.ones(n, bool) if y.dtype.kind in "US" else y != -1)
    return rows, y[rows]


def _like(X, training):
    """Images laid out as those of the training, or an error."""
    height, width, n_channels = training.shape
    shape = None
    if X.ndim == 2:
        shape = (n_channels, height, width) if training.channels_first else training.shape
    is_first = training.channels_first and not isinstance(X, ImageFiles)
    images = as_images(X, shape, "first" if is_first else "last")
    if images.shape != training.shape:
        raise ValueError(
            f"ProbeRecorder has images of shape {images.shape} (height, width, channels), training "
            f"has {training.shape}; probe images of the same kind."
        )
    if not isinstance(X, ImageFiles):  # which are checked as they are read
        check_finite(images)
    return images
