"""A linear classifier on an encoder: fitted on frozen features, then trained with the encoder."""

import copy
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil, cos, pi

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.utils import gen_batches
from torch import nn
from torch.nn import functional as F

from ..nn import Augmentation
from ..training import ImageFeed
from ..training.callbacks import StopRequest
from ..training.net import interrupt_after_batch

# Inverse strengths of the penalty that are tried, divided by the number of features.
C_GRID = (0.1, 0.4, 1.6, 6.3, 25.0, 100.0)
C_FOLDS = 3
TEMPERATURES = (0.5, 10.0)
ROWS_AT_ONCE = 4096  # read from a memory map


class LinearHead(nn.Module):
    """Features, standardised by fixed moments, to logits.

    Parameters
    ----------
    mean, scale : ndarray of shape (n_features,)
    weight : ndarray of shape (n_classes, n_features)
    bias : ndarray of shape (n_classes,)
    """

    def __init__(self, mean, scale, weight, bias):
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32))
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float32))
        self.weight = nn.Parameter(torch.as_tensor(weight, dtype=torch.float32))
        self.bias = nn.Parameter(torch.as_tensor(bias, dtype=torch.float32))

    def forward(self, features):
        return F.linear((features.float() - self.mean) / self.scale, self.weight, self.bias)

    @torch.no_grad()
    def folded(self):
        """Weights (n_classes, n_features) and bias for features that are not standardised."""
        weight = self.weight.double() / self.scale.double()
        bias = self.bias.double() - weight @ self.mean.double()
        return weight.cpu().numpy(), bias.cpu().numpy()


def choose_C(features, target, class_weights, random_state):
    """The penalty of the classifier, by cross-validated log loss where labels allow.

    Parameters
    ----------
    features : ndarray of shape (n, n_features)
    target : ndarray of shape (n,)
        0 to n_classes - 1.
    class_weights : ndarray of shape (n_classes,)
        Weights of the images of each class, in the fits and in the log loss.
    random_state : int
        Draws the folds.

    Returns
    -------
    C : float
        1 / n_features where a class has a single image.
    """
    n_folds = min(C_FOLDS, np.bincount(target).min())
    if n_folds < 2:
        return 1 / features.shape[1]

    def score(classifier, X, y):
        least = np.finfo(np.float32).eps  # as scikit-learn's log_loss has it
        logits = np.log(np.maximum(classifier.predict_proba(X), least))
        return -log_loss(logits, y, class_weights[y])

    search = GridSearchCV(
        _logistic(class_weights),
        {"C": np.array(C_GRID) / features.shape[1]},
        scoring=score,
        cv=StratifiedKFold(n_folds, shuffle=True, random_state=random_state),
        refit=False,
        error_score="raise",
    ).fit(StandardScaler().fit_transform(features), target)
    return float(search.best_params_["C"])


def fit_head(features, target, class_weights, C):
    """Fit a LogisticRegression on standardised features to convergence."""
    scaler = StandardScaler().fit(features)
    linear = _logistic(class_weights).set_params(C=C).fit(scaler.transform(features), target)
    weight, bias = linear.coef_, linear.intercept_
    if len(weight) == 1:  # two classes share one row
        weight, bias = np.vstack([-weight, weight]) / 2, np.hstack([-bias, bias]) / 2
    return LinearHead(scaler.mean_, scaler.scale_, weight, bias)


def zero_head(features, n_classes):
    """A classifier that knows nothing, on standardised features."""
    scaler = StandardScaler().fit(features)
    weight = np.zeros((n_classes, features.shape[1]))
    return LinearHead(scaler.mean_, scaler.scale_, weight, np.zeros(n_classes))


def penalty_strength(C, n_images, n_classes):
    """What multiplies |weight|^2 in a mean loss so that `fit_head` has found its minimum."""
    # Of two classes LogisticRegression penalises w where the head has rows -w / 2 and w / 2.
    return (2 if n_classes == 2 else 1) / (2 * C * n_images)


def _logistic(class_weights):
    class_weight = dict(enumerate(class_weights)) if (class_weights != 1).any() else None
    return LogisticRegression(max_iter=2000, class_weight=class_weight)


def best_temperature(logits, target, weights):
    """What logits are to be divided by for the least log loss on held-out images.

    Parameters
    ----------
    logits : ndarray of shape (n, n_classes)
    target, weights : ndarray of shape (n,)
        Classes and weights of the images.

    Returns
    -------
    temperature : float
        Between 0.5 and 10, so that a few images without an error do not make it certain of all.

    References
    ----------
    C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
    """

    def loss(log_temperature):
        return log_loss(logits / np.exp(log_temperature), target, weights)

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def log_loss(logits, target, weights):
    """Weighted mean of the cross-entropy, in nats."""
    losses = -log_softmax(logits, axis=1)[np.arange(len(target)), target]
    return float(np.average(losses, weights=weights))


@dataclass(frozen=True)
class FineTuningSettings:
    """How encoder and classifier are trained together.

    Attributes
    ----------
    max_epochs, max_batches : int
        Whichever comes first, in whole epochs.
    batch_size : int
    encoder_learning_rate, classifier_learning_rate : float
        At the start; both fall as half a cosine.
    weight_decay : float
        Of the encoder's weights, and of the classifier's where `penalty` is 0.
    penalty : float
        Multiplies the squared norm of the classifier's weights in the loss.
    patience : int
        Epochs without a better score on held-out images.
    augmentation : Augmentation
        Its steps for whole images are used.
    verbose : int
    """

    max_epochs: int
    max_batches: int
    batch_size: int
    encoder_learning_rate: float
    classifier_learning_rate: float
    weight_decay: float
    penalty: float
    patience: int
    augmentation: Augmentation
    verbose: int = 0

    def n_epochs(self, n_images):
        return min(self.max_epochs, max(1, round(self.max_batches / self.n_batches(n_images))))

    def n_batches(self, n_images):
        return ceil(n_images / self.batch_size)


class FineTuning:
    """The training of an encoder with a linear classifier on its pooled features.

    A plain loop: each batch needs labels beside the images of an `ImageFeed` and a generator
    for their augmentation, and the best of all epochs, the untrained one included, is kept. Under
    skorch that takes a net, an iterator and three callbacks more.

    Parameters
    ----------
    transformer : CPCTransformer
        Fitted; its encoder is trained in place.
    images : Images
    grid : PatchGrid
        Whose patches' features are pooled.
    target : ndarray of shape (len(images),)
        0 to n_classes - 1; read at the rows in use only.
    class_weights : ndarray of shape (n_classes,)
        What the loss of an image is multiplied by.
    """

    def __init__(self, transformer, images, grid, target, class_weights):
        self.transformer = transformer
        self.net = transformer.net_
        self.images = images
        self.feed = ImageFeed(images, transformer.pixel_scale_, self.net.device)
        self.grid = grid
        self.target = target
        self.class_weights = class_weights
        self.loss_weights = torch.as_tensor(class_weights, dtype=torch.float32).to(self.feed.device)

    def run(self, head, train, held_out, settings, random_state):
        """Train, and keep the best epoch on held-out images, or the last where there are none.

        Parameters
        ----------
        head : LinearHead
            Trained in place.
        train, held_out : ndarray of int
            Rows of the images; `held_out` may be empty.
        settings : FineTuningSettings
        random_state : numpy.random.RandomState
            Draws order and augmentation.

        Returns
        -------
        history : list of dict
            A row per epoch; the first is the start.
        best_epoch : int
        """
        self.head, self.settings = head.to(self.net.device), settings
        self.parts = nn.ModuleList([*self._networks(), head])
        self.optimizer = self._make_optimizer()
        n_epochs = settings.n_epochs(len(train))
        n_batches = n_epochs * settings.n_batches(len(train))
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda i: 0.5 * (1 + cos(pi * min(1.0, i / n_batches)))
        )
        history = [{"epoch": 0} | self._held_out_scores(held_out)]
        best_epoch, best = 0, self._weights()
        stop = StopRequest()
        with interrupt_after_batch(stop), _with_gradients_of_recurrence(self.parts):
            for epoch in range(1, n_epochs + 1):
                history.append({"epoch": epoch} | self._one_epoch(train, random_state, stop))
                if stop.requested:
                    self._warn(epoch)
                    break
                history[-1] |= self._held_out_scores(held_out)
                self._print(history[-1], n_epochs)
                if _rank(history[-1]) > _rank(history[best_epoch]):
                    best_epoch, best = epoch, self._weights()
                if len(held_out) and epoch - best_epoch >= settings.patience:
                    break
        if len(held_out):
            self.parts.load_state_dict(best)
        else:
            best_epoch = len(history) - 1
        if not np.isfinite(self.features(train[:8])).all():  # the last step was seen by no loss
            raise FloatingPointError(self._diverged("the features are not finite"))
        return history, best_epoch

    def features(self, rows):
        """Pooled features of these rows, without augmentation: (n, n_features) float32."""
        parts = []
        for block in gen_batches(len(rows), ROWS_AT_ONCE):
            some = replace(self.images, data=self.images.data[rows[block]])
            embedded = self.transformer._embedded(some, self.grid, self.transformer._pooled)
            parts += [features.cpu().numpy() for _, features in embedded]
        return np.concatenate(parts)

    def logits(self, head, rows):
        """Logits of these rows, without augmentation: (n, n_classes)."""
        weight, bias = head.folded()
        return self.features(rows) @ weight.T + bias

    def _networks(self):
        """What the features come out of."""
        model, output = self.net.module_, self.transformer.output
        networks = [model.encoder]
        networks += [model.latent] if output != "features" else []
        return networks + ([model.contexts] if output in ("c", "both") else [])

    def _make_optimizer(self):
        s, encoder = self.settings, list(nn.ModuleList(self._networks()).parameters())
        rate, decay = s.encoder_learning_rate, s.weight_decay
        groups = [
            {"params": [p for p in encoder if p.ndim > 1], "lr": rate, "weight_decay": decay},
            {"params": [p for p in encoder if p.ndim <= 1], "lr": rate},
            {"params": [self.head.weight], "weight_decay": 0.0 if s.penalty else decay},
            {"params": [self.head.bias]},
        ]
        return torch.optim.AdamW(groups, lr=s.classifier_learning_rate, weight_decay=0.0)

    def _one_epoch(self, train, random_state, stop):
        start = time.perf_counter()
        seed = int(random_state.randint(2**31 - 1))
        generator = torch.Generator(self.feed.device).manual_seed(seed)
        order = np.random.RandomState(seed).permutation(train)
        total, n_right, n_seen = 0.0, 0, 0
        for rows in np.array_split(order, self.settings.n_batches(len(train))):
            loss, right = self._step(rows, generator)
            total, n_right, n_seen = total + loss * len(rows), n_right + right, n_seen + len(rows)
            if stop.requested:
                break
        return {
            "loss": total / n_seen,
            "accuracy": n_right / n_seen,
            "seconds": time.perf_counter() - start,
        }

    def _step(self, rows, generator):
        images = self.settings.augmentation.images(self.feed.batch(rows), generator)
        target = torch.as_tensor(self.target[rows], device=self.feed.device)
        with self.net.autocast():
            features = self.transformer._pooled(images, self.grid)
        logits = self.head(features)
        # Not over the sum of the weights, which would make a batch of rare classes count for less.
        losses = F.cross_entropy(logits, target, self.loss_weights, reduction="none")
        loss = losses.mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(self._diverged(f"the loss is {loss.item()}"))
        self.optimizer.zero_grad(set_to_none=True)
        (loss + self.settings.penalty * self.head.weight.square().sum()).backward()
        self.optimizer.step()
        self.scheduler.step()
        return loss.item(), int((logits.argmax(1) == target).sum())

    def _diverged(self, what):
        s = self.settings
        return (
            f"In fine-tuning {what}; lower encoder_learning_rate={s.encoder_learning_rate:g} or "
            f"classifier_learning_rate={s.classifier_learning_rate:g}. The estimator is as it was "
            "before this call."
        )

    def _held_out_scores(self, rows):
        if not len(rows):
            return {}
        logits, target = self.logits(self.head, rows), self.target[rows]
        weights = self.class_weights[target]
        is_right = logits.argmax(1) == target
        return {
            "held_out_loss": log_loss(logits, target, weights),
            "held_out_accuracy": float(np.average(is_right, weights=weights)),
        }

    def _weights(self):
        return copy.deepcopy(self.parts.state_dict())

    def _print(self, row, n_epochs):
        if not self.settings.verbose:
            return
        text = (
            f"fine-tuning epoch {row['epoch']:>{len(str(n_epochs))}}/{n_epochs}  "
            f"loss {row['loss']:.3f}  accuracy {row['accuracy']:.3f}"
        )
        if "held_out_loss" in row:
            text += (
                f"  held out: loss {row['held_out_loss']:.3f}  "
                f"accuracy {row['held_out_accuracy']:.3f}"
            )
        print(f"{text}  {row['seconds']:.1f} s", flush=True)

    def _warn(self, epoch):
        warnings.warn(
            f"Fine-tuning was interrupted in epoch {epoch}; the classifier is the best one by "
            "then.",
            RuntimeWarning,
            stacklevel=4,
        )


@contextmanager
def _with_gradients_of_recurrence(parts):
    """Recurrent layers in training mode, without which cuDNN gives no gradient of them."""
    layers = [m for m in parts.modules() if isinstance(m, nn.RNNBase) and not m.dropout]
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.train(mode)


def _rank(row):
    """Accuracy on held-out images, of equal ones the smaller loss."""
    return row.get("held_out_accuracy", 0.0), -row.get("held_out_loss", 0.0)
