"""Estimators that record or refuse what the protocol must and must not do."""

from pathlib import Path
from uuid import uuid4

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.naive_bayes import GaussianNB
from sklearn.utils import Bunch


class Recorder(TransformerMixin, BaseEstimator):
    """Passes features through; notes the row ids (first pixel) of every fit in a shared log."""

    def __init__(self, log=None):
        self.log = log

    def fit(self, X, y=None):
        if y is not None:
            raise AssertionError("labels reached the transformer")
        self.log["fits"].append(row_ids(X))
        self.fitted_ = True
        return self

    def transform(self, X):
        self.log["transforms"].append(row_ids(X))
        return np.asarray(X, dtype=float).reshape(len(X), -1)

    def __sklearn_clone__(self):
        return Recorder(self.log)


class Memorizer(TransformerMixin, BaseEstimator):
    """A leaky encoder: knows the answers for all images, and gives them for the rows it was fitted
    on, noise for any other."""

    def __init__(self, answers=None):
        self.answers = answers

    def fit(self, X, y=None):
        self.known_ = set(row_ids(X))
        return self

    def transform(self, X):
        noise = np.random.RandomState(0)
        return np.array(
            [[self.answers[i] if i in self.known_ else noise.randint(2)] for i in row_ids(X)],
            dtype=float,
        )


class FitRecorder(BaseEstimator):
    """A classifier that logs the row ids and labels it is fitted on and predicts a constant."""

    def __init__(self, log=None):
        self.log = log

    def fit(self, X, y):
        self.log.append((row_ids(X), np.array(y)))
        return self

    def score(self, X, y):
        if (np.asarray(y) == -1).any():
            raise AssertionError("an unlabelled row is scored")
        return float(len(y))

    def __sklearn_clone__(self):
        return FitRecorder(self.log)


class CountedPCA(PCA):
    """Leaves a file for every fit, which counts in other processes too."""

    def __init__(self, n_components=None, folder=None, random_state=0):
        super().__init__(n_components, random_state=random_state)
        self.folder = folder

    def fit_transform(self, X, y=None):
        leave_a_file(self.folder, "encoder")
        return super().fit_transform(X)


class CountedNB(GaussianNB):
    """Leaves a file for every fit; breaks down when there are as many as `folder/limit` says."""

    def __init__(self, folder=None, var_smoothing=1e-2):
        super().__init__(var_smoothing=var_smoothing)
        self.folder = folder

    def fit(self, X, y):
        limit = Path(self.folder) / "limit"
        if limit.exists() and n_files(self.folder, "classifier") >= int(limit.read_text()):
            raise InterruptedError("the power is gone")
        leave_a_file(self.folder, "classifier")
        return super().fit(X, y)


def leave_a_file(folder, kind):
    (Path(folder) / f"{kind}-{uuid4()}").touch()


def n_files(folder, kind):
    return len(list(Path(folder).glob(f"{kind}-*")))


def row_ids(X):
    return [int(i) for i in np.asarray(X).reshape(len(X), -1)[:, 0]]


def numbered_images(n=60, shape=(3, 4, 2)):
    """Images of which every pixel is the number of its row, and two classes."""
    X = np.arange(n, dtype=float).reshape(n, 1, 1, 1) + np.zeros(shape)
    return X, np.arange(n) % 2


def make_curve(n_labels, mean, name="toy", **more):
    mean = np.asarray(mean, dtype=float)
    n_labels = np.atleast_2d(n_labels)
    return Bunch(
        name=name,
        label_fractions=n_labels[0] / n_labels[0].max(),
        n_labels=n_labels,
        scores=mean[:, None, None],
        mean=mean,
        std=np.full_like(mean, 0.01),
        score_name="Accuracy",
        **more,
    )
