"""What happens around batches and epochs, as skorch callbacks."""

import time
from contextlib import contextmanager, nullcontext
from math import cos, pi

import torch
from skorch.callbacks import Callback

from ..nn import TargetQueue

__all__ = [
    "SCHEDULES",
    "EpochRecord",
    "HarderNegatives",
    "LearningRate",
    "ProgressLine",
    "QueueClearing",
    "SlowFollowing",
    "StageByStage",
    "StopRequest",
    "WeightAverage",
    "with_averages",
]


def _cosine(done):
    return 0.5 * (1 + cos(pi * done))


def _linear(done):
    return 1 - done


def _step(done):
    return 0.1 ** sum(done >= drop for drop in (0.6, 0.8))


def _constant(done):
    return 1.0


# Share of the batches after the rise that are done -> factor of the learning rate.
SCHEDULES = {"cosine": _cosine, "linear": _linear, "step": _step, "constant": _constant}


class _CountsBatches(Callback):
    """Knows how many batches of the training have begun.

    Parameters
    ----------
    n_batches : int
        Of the whole training.
    """

    def __init__(self, n_batches):
        self.n_batches = n_batches

    def on_train_begin(self, net, **kwargs):
        self.n_done_ = 0

    def state_dict(self):
        return {"n_done": self.n_done_}

    def load_state_dict(self, state):
        self.n_done_ = state["n_done"]


class LearningRate(_CountsBatches):
    """Learning rate: a linear rise, then a schedule.

    Parameters
    ----------
    n_batches : int
        Of the whole training.
    warmup : float, default=0.05
        Share of the batches spent rising.
    schedule : {"cosine", "linear", "step", "constant"}, default="cosine"
        After the rise: half a cosine down to zero, a straight line down to zero, a tenth after
        three fifths of the rest and a hundredth after four fifths, or the same throughout.
    """

    def __init__(self, n_batches, warmup=0.05, schedule="cosine"):
        super().__init__(n_batches)
        self.warmup = warmup
        self.schedule = schedule

    def on_batch_begin(self, net, training=None, **kwargs):
        rising = max(1, round(self.warmup * self.n_batches))
        if self.n_done_ < rising:
            factor = (self.n_done_ + 1) / rising
        else:
            done = (self.n_done_ - rising) / max(1, self.n_batches - rising)
            factor = SCHEDULES[self.schedule](min(1.0, done))
        for group in net.optimizer_.param_groups:
            group["lr"] = net.lr * factor
        self.n_done_ += 1


class StageByStage(_CountsBatches):
    """Trains the stages of a greedy encoder one after the other, in equal shares of batches."""

    def on_batch_begin(self, net, training=None, **kwargs):
        n_stages = net.module_.n_stages
        stage = self.n_done_ * n_stages // self.n_batches
        net.module_.trained_stage = min(stage, n_stages - 1)
        self.n_done_ += 1


class HarderNegatives(_CountsBatches):
    """Narrows hard negatives from all to `hard_fraction` of them, in a straight line.

    A network that knows nothing yet has no negatives that are hard for a reason, and the greatest
    of many scores fall fastest where all become equal: such a network collapses.
    """

    def on_batch_begin(self, net, training=None, **kwargs):
        model, done = net.module_, self.n_done_ / max(1, self.n_batches - 1)
        model.hard_share = 1 - (1 - model.hard_fraction) * min(1.0, done)
        self.n_done_ += 1

    def on_train_end(self, net, **kwargs):
        net.module_.hard_share = net.module_.hard_fraction


class QueueClearing(Callback):
    """Empties queues of targets before every pass, lest an image meet itself as a negative."""

    def on_epoch_begin(self, net, **kwargs):
        for module in net.module_.modules():
            if isinstance(module, TargetQueue):
                module.clear()


class SlowFollowing(Callback):
    """Lets the copy of the network that makes the queue's targets follow, after every batch.

    Parameters
    ----------
    momentum : float
        See `sklearn_cpc.nn.negatives.SlowTargets`.
    """

    def __init__(self, momentum):
        self.momentum = momentum

    def on_train_begin(self, net, **kwargs):
        # What was set after the network was built, such as a first layer from the images.
        if not net.module_.slow.has_followed:
            net.module_.slow.follow(net.module_, 0.0)

    def on_batch_end(self, net, **kwargs):
        net.module_.slow.follow(net.module_, self.momentum)


class WeightAverage(Callback):
    """Polyak averaging: an exponential moving average of the weights, in the module after training.

    After step t the average a becomes d a + (1 - d) w with d = min(decay, (1 + t) / (10 + t)), so
    that a short training averages about its last tenth; the first step's weights start it. While
    training, the module has the raw weights; afterwards it has the averages, and the net keeps
    the raw ones in `raw_weights_` and the number of steps in `n_averaged_`, to go on from.

    Parameters
    ----------
    decay : float

    References
    ----------
    B. Polyak, A. Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992.
    """

    def __init__(self, decay):
        self.decay = decay

    def on_train_begin(self, net, **kwargs):
        raw = getattr(net, "raw_weights_", None)
        self.n_steps_ = getattr(net, "n_averaged_", 0)
        parameters = dict(net.module_.named_parameters())
        self.averages_ = {name: p.detach().clone() for name, p in parameters.items()}
        if raw is not None:
            _copy_weights(raw, parameters)

    @torch.no_grad()
    def on_batch_end(self, net, **kwargs):
        self.n_steps_ += 1
        t = self.n_steps_
        decay = 0.0 if t == 1 else min(self.decay, (1 + t) / (10 + t))
        weights = dict(net.module_.named_parameters())
        averages = [self.averages_[name] for name in weights]
        torch._foreach_lerp_(averages, list(weights.values()), 1 - decay)

    def on_train_end(self, net, **kwargs):
        if not self.n_steps_:
            return
        parameters = dict(net.module_.named_parameters())
        # On the CPU, where every machine that the net is brought to can read them.
        net.raw_weights_ = {name: p.detach().cpu().clone() for name, p in parameters.items()}
        net.n_averaged_ = self.n_steps_
        _copy_weights(self.averages_, parameters)

    @contextmanager
    def in_place(self, net):
        """While training, the averages in the place of the raw weights, for a look at them."""
        parameters = dict(net.module_.named_parameters())
        raw = {name: p.detach().clone() for name, p in parameters.items()}
        _copy_weights(self.averages_, parameters)
        try:
            yield
        finally:
            _copy_weights(raw, parameters)

    def state_dict(self):
        return {"averages": self.averages_, "n_steps": self.n_steps_}

    def load_state_dict(self, state):
        _copy_weights(state["averages"], self.averages_)
        self.n_steps_ = state["n_steps"]


def with_averages(net):
    """A context in which the module has the average of the weights, where one is kept."""
    averages = [c for _, c in net.callbacks_ if isinstance(c, WeightAverage)]
    return averages[0].in_place(net) if averages else nullcontext()


@torch.no_grad()
def _copy_weights(values, parameters):
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


class EpochRecord(Callback):
    """Writes what an epoch's batches gave into the net's history, weighted by their size."""

    def on_epoch_begin(self, net, **kwargs):
        self.start_ = time.perf_counter()
        self.n_images_ = 0
        self.sums_ = None

    def on_batch_end(self, net, batch=None, y_pred=None, **kwargs):
        n = self.weight(batch)
        was_trained = (y_pred.n_candidates > 0).float()
        rows = torch.stack([y_pred.losses, y_pred.accuracies, y_pred.bounds, was_trained]) * n
        self.sums_ = rows if self.sums_ is None else self.sums_.to(rows.device) + rows
        self.n_images_ += n

    def weight(self, batch):
        """Images that the batch counts for."""
        return len(batch[0])

    def on_epoch_end(self, net, **kwargs):
        seconds = time.perf_counter() - self.start_
        means, counts = (self.sums_[:3] / self.sums_[3]).tolist(), self.sums_[3].tolist()
        # None for the heads of a stage that was not trained in this epoch.
        losses, accuracies, bounds = (
            [mean if n else None for mean, n in zip(row, counts, strict=True)] for row in means
        )
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

    def state_dict(self):
        seconds = time.perf_counter() - self.start_
        return {"sums": self.sums_, "n_images": self.n_images_, "seconds": seconds}

    def load_state_dict(self, state):
        self.sums_, self.n_images_ = state["sums"], state["n_images"]
        self.start_ = time.perf_counter() - state["seconds"]


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
        held_out = row.get("validation_mutual_information")
        held_out = "" if held_out is None else f"held out {held_out:.3f} nats  "
        print(
            f"epoch {n_done:>{len(str(self.n_epochs))}}/{self.n_epochs}  "
            f"loss {row['loss']:.3f}  bound {row['mutual_information']:.3f} nats  {held_out}"
            f"accuracy {row['accuracy']:.3f}  {row['images_per_second']:.0f} images/s  "
            f"{_duration(left)} left",
            flush=True,
        )

    def state_dict(self):
        return {"n_before": self.n_before_}

    def load_state_dict(self, state):
        self.n_before_ = state["n_before"]


class StopRequest(Callback):
    """Ends training after the batch in which `requested` was set.

    Attributes
    ----------
    requested : bool
    granted : bool
        Whether it came about between two batches, and not in the midst of one.
    acted : bool
        Whether the training was ended by the user.
    """

    def __init__(self):
        self.requested = False
        self.granted = False
        self.acted = False

    def on_batch_end(self, net, **kwargs):
        if self.requested:
            self.granted = True
            raise KeyboardInterrupt


def _mean(values):
    values = [value for value in values if value is not None]
    return sum(values) / len(values)


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
