"""CPCNet, the skorch net that the estimator holds, and its training."""

import copy
import signal
import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, GradientNormClipping

from ..nn import CPCOutput
from .callbacks import (
    EpochRecord,
    HarderNegatives,
    LearningRate,
    ProgressLine,
    QueueClearing,
    SlowFollowing,
    StageByStage,
    StopRequest,
    WeightAverage,
)
from .distributed import is_main_process, join
from .feed import TrainingBatches
from .held_out import HeldOut
from .in_step import greatest, tell
from .memory import OutOfMemory, is_out_of_memory, smaller_parts
from .parallel import FINE, FULL, SPOILED, DataParallel, ElsewhereError, SharedRecord
from .shards import largest_part

__all__ = ["CPCNet", "TrainingSettings", "interrupt_after_batch", "train"]

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


@dataclass(frozen=True)
class TrainingSettings:
    """How a net is trained.

    Attributes
    ----------
    n_epochs : int
    batch_size : int
    warmup : float or None
        Share of the training in which the learning rate rises, before it follows the schedule.
        None: it stays constant.
    clip_norm : float or None
        Largest norm of the gradient.
    verbose : int
    callbacks : list of skorch callbacks
    schedule : str
        See `LearningRate`.
    averaging : float or None
        Decay of the average of the weights, see `WeightAverage`. None: no average.
    accumulate : int
        Parts in which the encoder goes through a batch, see `CPCModel`.
    rows : ndarray of int or None
        Images to train on. None: all.
    held_out : HeldOut or None
        Ends the training early. None: it has all its epochs.
    gather_negatives : bool
        Whether several processes look for negatives in the whole batch, see `DataParallel`.
    queue_momentum : float, default=0.99
        Of the copy that makes the queue's targets, see `SlowFollowing`.
    """

    n_epochs: int
    batch_size: int
    warmup: float | None = 0.05
    clip_norm: float | None = None
    verbose: int = 0
    callbacks: tuple = ()
    schedule: str = "cosine"
    averaging: float | None = None
    accumulate: int = 1
    rows: object = None
    held_out: HeldOut | None = None
    gather_negatives: bool = False
    queue_momentum: float = 0.99


class CPCNet(NeuralNet):
    """A skorch net whose module forms its own loss and whose data is an `ImageFeed`.

    Parameters
    ----------
    module : callable
        Gives a `CPCModel` when called with the `module__...` parameters.
    precision : {"float32", "bf16"}, default="float32"
        Of the matrix products in training; weights and the loss are float32 always.
    random_state : numpy.random.RandomState or None, default=None
        Seeds each epoch; needed to train.
    """

    def __init__(self, module, *, precision="float32", random_state=None, **kwargs):
        kwargs.setdefault("criterion", _no_criterion)
        kwargs.setdefault("train_split", None)
        super().__init__(module, **kwargs)
        self.precision = precision
        self.random_state = random_state

    @property
    def _default_callbacks(self):
        return []

    def get_iterator(self, dataset, training=False):
        return self.batches_

    def initialize_optimizer(self, *args, **kwargs):
        """Weights decay; biases and the gains of norms do not."""
        parameters = [p for p in self.module_.parameters() if p.requires_grad]
        settings = self.get_params_for("optimizer")
        settings["lr"] = self.lr
        groups = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer_ = self.optimizer([g for g in groups if g["params"]], **settings)
        return self

    def autocast(self, precision=None):
        """A context for products in this precision; None is the net's own."""
        is_bf16 = (precision or self.precision) == "bf16"
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=is_bf16)

    def train_step(self, batch, **fit_params):
        self._set_training(True)
        output = self._with_gradient(batch)
        self.notify("on_grad_computed", named_parameters=list(self.module_.named_parameters()))
        self.optimizer_.step()
        return {"loss": output.loss, "y_pred": output}

    def _with_gradient(self, batch):
        """The output of a batch, its gradient taken; in smaller parts if memory is too small."""
        images, generator = batch
        drawn, queues = generator.get_state(), self._queued()
        while True:
            output, error = self._attempt(batch)
            if error is None:
                return output
            smaller_parts(self.module_, largest_part(images), error)
            # The same augmentation, candidates and queues once more.
            generator.set_state(drawn)
            self.module_.load_state_dict(queues, strict=False)

    def _attempt(self, batch):
        """The output of a batch, its gradient taken, or the error of a memory that was too small.

        Of several processes all come to the same end: each says once how its part went, here, or
        where the next rows are gathered.
        """
        output, error, mine, worst = None, None, FINE, None
        try:
            output = self._forward_and_backward(batch)
        except RuntimeError as raised:
            if not is_out_of_memory(raised):
                raise
            error, mine = raised.with_traceback(None), FULL
        except FloatingPointError as raised:
            error, mine = raised, SPOILED
        except ElsewhereError as heard:
            worst = heard.worst
        worst = greatest(mine) if worst is None else worst
        if worst == FULL:
            return None, error if mine == FULL else OutOfMemory("in another process")
        if worst == SPOILED:
            raise error or FloatingPointError(self._diverged())
        return output, None

    def _queued(self):
        """A copy of the targets that queues keep."""
        state = self.module_.state_dict() if self.module_.negatives == "queue" else {}
        return {name: value.clone() for name, value in state.items() if "queues." in name}

    def _forward_and_backward(self, batch):
        self._zero_grad_optimizer()
        outputs = []
        for output in self._outputs(batch):
            output.loss.backward()
            outputs.append(replace(output, loss=output.loss.detach()))
        output = CPCOutput.joined(outputs)
        # The device is waited for here, with the gradient under way, and not again by skorch.
        output = replace(output, loss=output.loss.cpu())
        if not output.loss.isfinite():
            raise FloatingPointError(self._diverged(output))
        return output

    def _outputs(self, batch):
        """What the module gives for a batch, part by part, each to be done with before the next."""
        parts = self.module_.parts(*batch)
        while True:
            with self.autocast():
                output = next(parts, None)
            if output is None:
                return
            yield output

    def _diverged(self, output=None):
        epoch = self.history[-1]
        loss, bad = "not finite in another process,", []
        if output is not None:
            loss, is_finite = output.loss.item(), output.losses.isfinite()
            bad = [h for h, ok in zip(self.module_.heads, is_finite, strict=True) if not ok]
        rate = self.optimizer_.param_groups[0]["lr"]
        return (
            f"The loss is {loss} in epoch {epoch['epoch']}, batch "
            f"{len(epoch['batches'])} (heads {bad}), at learning rate {rate:.3g}; lower "
            f"learning_rate={self.lr:g}, or set clip_norm=1.0. The estimator is as it was "
            "before this call."
        )


def _no_criterion():
    """skorch asks for a criterion; the module has its own."""
    return None


class _Enough(Exception):  # noqa: N818
    """Held-out images have ended the training."""


class _EndWithHeldOut(Callback):
    """Ends the training after all other callbacks have seen the epoch."""

    def __init__(self, held_out):
        self.held_out = held_out

    def on_epoch_end(self, net, **kwargs):
        if self.held_out.has_ended:
            raise _Enough


def train(net, feed, settings, keeper=None):
    """Train a net in place; Ctrl-C ends training after the batch.

    Parameters
    ----------
    net : CPCNet
        Initialised; keeps its optimiser's state and its history.
    feed : ImageFeed
    settings : TrainingSettings
    keeper : CheckpointKeeper or None, default=None
        Of a training that may have begun before.

    Raises
    ------
    FloatingPointError
        If the loss is not finite, or the features in the end.

    Warns
    -----
    RuntimeWarning
        If training was interrupted.
    """
    world = join()
    parallel, stop = None, StopRequest()
    if world.size > 1:
        parallel = DataParallel(world, net, feed, settings.gather_negatives, keeper)
        stop = parallel.stop
    parts = parallel.parts if parallel else feed
    net.batch_size, net.max_epochs = settings.batch_size, settings.n_epochs
    net.batches_ = TrainingBatches(parts, settings.batch_size, net.random_state, settings.rows)
    callbacks = _callbacks(net, settings, parallel, stop, keeper)
    net.callbacks_ = [(f"callback_{i}", callback) for i, callback in enumerate(callbacks)]
    net.module_.accumulate = settings.accumulate
    for group in net.optimizer_.param_groups:
        group["lr"] = net.lr  # an earlier training has left it at the end of its cosine
    net.notify("on_train_begin")
    try:
        with interrupt_after_batch(stop):
            n_done = 0 if keeper is None else keeper.take_up(net)
            if settings.held_out is None or not settings.held_out.has_ended:
                net.fit_loop(parts, epochs=settings.n_epochs - n_done)
    except _Enough:
        pass
    except KeyboardInterrupt as interrupt:
        if parallel is not None and stop.is_sudden:
            tell(interrupt)
        _interrupted(net, settings, stop, keeper)
    finally:
        net.notify("on_train_end")
        net.callbacks_ = []
        del net.batches_
    _check_features(net, feed)
    if keeper is not None and not stop.acted:
        keeper.finish(net)


def _callbacks(net, settings, parallel, stop, keeper):
    """Initialised copies of the user's callbacks, among ours."""
    n_batches = settings.n_epochs * len(net.batches_)
    # A requested stop ends the batch's callbacks: what counts batches comes before it.
    own = [] if parallel is None else [parallel]
    own += [] if net.module_.slow is None else [SlowFollowing(settings.queue_momentum)]
    own += [] if settings.averaging is None else [WeightAverage(settings.averaging)]
    own += [EpochRecord() if parallel is None else SharedRecord(parallel), stop, QueueClearing()]
    if settings.held_out is not None:
        own.append(settings.held_out)
    if settings.warmup is not None:
        own.append(LearningRate(n_batches, settings.warmup, settings.schedule))
    if net.module_.greedy == "sequential":
        own.append(StageByStage(n_batches))
    if net.module_.negatives == "hard" and settings.warmup is not None:
        own.append(HarderNegatives(n_batches))
    if settings.clip_norm is not None:
        own.append(GradientNormClipping(settings.clip_norm))
    if settings.verbose and is_main_process():
        own.append(ProgressLine(settings.n_epochs))
    # The user's own come after and see the record of the epoch.
    own += [c for c in copy.deepcopy(list(settings.callbacks)) if _is_wanted_here(c)]
    own += [] if keeper is None else [keeper]
    if settings.held_out is not None:
        own.append(_EndWithHeldOut(settings.held_out))
    return [callback.initialize() for callback in own]


def _is_wanted_here(callback):
    """Of several processes one alone writes logs."""
    return is_main_process() or not getattr(callback, "is_for_main_process", False)


def _interrupted(net, settings, stop, keeper):
    """Close what was broken off, by Ctrl-C or by a callback, and say so."""
    if stop.granted and keeper is not None:
        keeper.interrupted(net)
    _close_epoch(net)
    # Callbacks, such as skorch's EarlyStopping, end a training in the same way.
    if settings.callbacks and not stop.requested:
        return
    stop.acted = True
    way_on = ""
    if keeper is not None:
        way_on = (
            "; fit with the same settings and images goes on from the last checkpoint in "
            f"{str(keeper.folder.folder)!r}"
        )
    warnings.warn(
        f"Training was interrupted in epoch {len(net.history)}; the estimator is fitted "
        f"with what it had learned by then{way_on}.",
        RuntimeWarning,
        stacklevel=5,
    )


def _check_features(net, feed):
    """Refuse what the last steps have spoiled, which no loss has seen."""
    model = net.module_.eval()
    n = max(1, 8 // model.accumulate)  # as few as were taken at once
    with torch.inference_mode(), net.autocast():
        features = model.embed(feed.batch(slice(n)))
    if not features.isfinite().all():
        raise FloatingPointError(
            f"After training the features are not finite; lower learning_rate={net.lr:g}, or set "
            "clip_norm=1.0. The estimator is as it was before this call."
        )


@contextmanager
def interrupt_after_batch(stop):
    """Turn the first Ctrl-C into a request; a second one acts at once."""
    previous = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or previous is signal.SIG_IGN:
        yield
        return

    def request(signum, frame):
        stop.requested = True
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, request)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _close_epoch(net):
    """Record an epoch that was broken off, or drop it where no batch was finished."""
    record = next(c for _, c in net.callbacks_ if isinstance(c, EpochRecord))
    if record.sums_ is not None:
        record.on_epoch_end(net)
    elif "loss" not in net.history[-1]:
        del net.history[-1:]
