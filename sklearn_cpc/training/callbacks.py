"""What happens around batches and epochs, as skorch callbacks."""

import time
from math import cos, pi

import torch
from skorch.callbacks import Callback

__all__ = ["EpochRecord", "ProgressLine", "StopRequest", "WarmupCosine"]


class WarmupCosine(Callback):
    """Learning rate: a linear rise, then half a cosine down to zero.

    Parameters
    ----------
    n_batches : int
        Of the whole training.
    warmup : float, default=0.05
        Share of the batches spent rising.
    """

    def __init__(self, n_batches, warmup=0.05):
        self.n_batches = n_batches
        self.warmup = warmup

    def on_train_begin(self, net, **kwargs):
        self.n_done_ = 0

    def on_batch_begin(self, net, training=None, **kwargs):
        rising = max(1, round(self.warmup * self.n_batches))
        if self.n_done_ < rising:
            factor = (self.n_done_ + 1) / rising
        else:
            done = (self.n_done_ - rising) / max(1, self.n_batches - rising)
            factor = 0.5 * (1 + cos(pi * min(1.0, done)))
        for group in net.optimizer_.param_groups:
            group["lr"] = net.lr * factor
        self.n_done_ += 1


class EpochRecord(Callback):
    """Writes what an epoch's batches gave into the net's history, weighted by their size."""

    def on_epoch_begin(self, net, **kwargs):
        self.start_ = time.perf_counter()
        self.n_images_ = 0
        self.sums_ = None

    def on_batch_end(self, net, batch=None, y_pred=None, **kwargs):
        n = len(batch[0])
        rows = torch.stack([y_pred.losses, y_pred.accuracies, y_pred.bounds]) * n
        self.sums_ = rows if self.sums_ is None else self.sums_ + rows
        self.n_images_ += n

    def on_epoch_end(self, net, **kwargs):
        seconds = time.perf_counter() - self.start_
        losses, accuracies, bounds = (self.sums_ / self.n_images_).tolist()
        net.history.record("loss", _mean(losses))
        net.history.record("accuracy", _mean(accuracies))
        net.history.record("mutual_information", _mean(bounds))
        net.history.record("loss_per_head", losses)
        net.history.record("accuracy_per_head", accuracies)
        net.history.record("mutual_information_per_head", bounds)
        net.history.record("learning_rate", net.optimizer_.param_groups[0]["lr"])
        net.history.record("seconds", seconds)
        net.history.record("images_per_second", self.n_images_ / seconds)
        self.sums_ = None


class ProgressLine(Callback):
    """Prints a line per epoch: loss, bound, speed and time left."""

    def __init__(self, n_epochs):
        self.n_epochs = n_epochs

    def on_train_begin(self, net, **kwargs):
        self.n_before_ = len(net.history)

    def on_epoch_end(self, net, **kwargs):
        row = net.history[-1]
        n_done = len(net.history) - self.n_before_
        left = row["seconds"] * (self.n_epochs - n_done)
        print(
            f"epoch {n_done:>{len(str(self.n_epochs))}}/{self.n_epochs}  "
            f"loss {row['loss']:.3f}  bound {row['mutual_information']:.3f} nats  "
            f"accuracy {row['accuracy']:.3f}  {row['images_per_second']:.0f} images/s  "
            f"{_duration(left)} left",
            flush=True,
        )


class StopRequest(Callback):
    """Ends training after the batch in which `requested` was set."""

    def __init__(self):
        self.requested = False

    def on_batch_end(self, net, **kwargs):
        if self.requested:
            raise KeyboardInterrupt


def _mean(values):
    return sum(values) / len(values)


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
