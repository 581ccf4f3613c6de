"""Images that are not trained on: what the model makes of them, and when that is enough."""

import numpy as np
import torch
from skorch.callbacks import Callback

from .callbacks import with_averages
from .distributed import from_main

__all__ = ["HeldOut", "held_out_bound", "split_rows"]


def split_rows(n_images, fraction):
    """Rows to train on and rows held out, by a permutation that is always the same.

    So a training that is continued holds out the same images again.

    Parameters
    ----------
    n_images : int
    fraction : float
        Share of the images held out, rounded up.

    Returns
    -------
    train, held_out : ndarray of int, sorted
    """
    order = np.random.RandomState(0).permutation(n_images)
    n = int(np.ceil(fraction * n_images))
    return np.sort(order[n:]), np.sort(order[:n])


def held_out_bound(net, feed, rows, batch_size, precision=None):
    """Lower bound on the mutual information in nats, without augmentation.

    Parameters
    ----------
    net : CPCNet
        Its module is put into evaluation mode.
    feed : ImageFeed
    rows : ndarray of int
        Images, compared in the order of a fixed permutation.
    batch_size : int
    precision : {"float32", "bf16"} or None, default=None
        None: the net's own.

    Returns
    -------
    bound : float
        The mean over directions and steps.
    """
    model = net.module_.eval()
    generator = torch.Generator(feed.device).manual_seed(0)
    total = 0.0
    with torch.inference_mode(), net.autocast(precision):
        order = rows[np.random.RandomState(0).permutation(len(rows))]
        for block in feed.batches(np.array_split(order, -(-len(order) // batch_size))):
            total += len(block) * model(block, generator).bounds.mean().item()
    return total / len(rows)


class HeldOut(Callback):
    """Records the bound on held-out images after every epoch, and keeps the best weights.

    Parameters
    ----------
    rows : ndarray of int
    batch_size : int
    n_iter_no_change : int
        The training is to end after more than this many epochs in a row without a bound that is
        better by `tol` than the best, as in scikit-learn's MLPClassifier.
    tol : float
        In nats.

    Attributes
    ----------
    has_ended : bool
        Whether the training is to end.
    """

    def __init__(self, rows, batch_size, n_iter_no_change, tol):
        self.rows = rows
        self.batch_size = batch_size
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol

    @property
    def has_ended(self):
        return self.n_without_ > self.n_iter_no_change

    def on_train_begin(self, net, **kwargs):
        self.best_ = -np.inf
        self.n_without_ = 0
        self.best_weights_ = None

    def on_epoch_end(self, net, dataset_train=None, **kwargs):
        with with_averages(net):
            # Of several processes one looks at all held-out images: lest they disagree on the end.
            feed = getattr(dataset_train, "feed", dataset_train)
            bound = from_main(lambda: held_out_bound(net, feed, self.rows, self.batch_size))
            net.history.record("validation_mutual_information", bound)
            self.n_without_ = self.n_without_ + 1 if bound < self.best_ + self.tol else 0
            if bound > self.best_:
                self.best_ = bound
                parameters = net.module_.named_parameters()
                self.best_weights_ = {name: p.detach().clone() for name, p in parameters}

    @torch.no_grad()
    def on_train_end(self, net, **kwargs):
        if self.best_weights_ is not None:
            for name, parameter in net.module_.named_parameters():
                parameter.copy_(self.best_weights_[name])

    def state_dict(self):
        return {"best": self.best_, "n_without": self.n_without_, "weights": self.best_weights_}

    def load_state_dict(self, state):
        self.best_, self.n_without_ = state["best"], state["n_without"]
        self.best_weights_ = state["weights"]
