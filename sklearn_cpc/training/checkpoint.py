"""The state of a training: written while it runs, and taken up where it was broken off."""

import time
import warnings

import numpy as np
import torch
from skorch.callbacks import Callback
from skorch.history import History

from .checkpoint_files import digest
from .distributed import draw_apart, from_main, is_main_process

__all__ = ["CheckpointKeeper", "trained_weights"]

# What a state that does not fit may lead to.
FAULTS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # of the optimisers that there are
# What skorch notes of every batch.
BATCH_COLUMNS = ("train_loss", "train_batch_size")


class CheckpointKeeper(Callback):
    """Writes the state of a training into a folder, and restores it from there.

    The last of the callbacks, so that it keeps what the others have done. Those with `state_dict`
    and `load_state_dict` are kept, too; others start anew. Of several processes number 0 alone
    reads and writes, and tells the others; any number of processes may go on.

    Parameters
    ----------
    folder : CheckpointFolder
        Entered in process 0.
    every : float
        Seconds after which a checkpoint is written within an epoch; one is at the end of each.
    about : dict of str -> dict
        What a training is of: its "settings" and "data", and the "start" of one that continues an
        earlier training.

    Attributes
    ----------
    found : dict or None
        State that is to be gone on from.
    is_agreed : bool or None
        Of several processes: whether they write together after this batch.

    Raises
    ------
    ValueError
        If the folder has the checkpoint of a training of something else.
    """

    def __init__(self, folder, every, about):
        self.folder = folder
        self.every = every
        self.about = about
        self.is_agreed = None
        self.found = from_main(self._read)

    @property
    def is_finished(self):
        """Whether the training that was found had come to its end."""
        return self.found is not None and self.found["is_finished"]

    @property
    def batch_size(self):
        """Images of a batch in the training that was found; None where it is not said."""
        size = (self.found or {}).get("batch_size")
        if size is not None and not (type(size) is int and size > 0):
            raise ValueError(self._no_training(f"batch_size={size!r}"))
        return size

    def _read(self):
        found = self.folder.read()
        if found is not None:
            self._check_same(found)
        return found

    def _check_same(self, state):
        try:
            found = state["about"]
            reached = None if state["is_finished"] else state["reached"]
            differing = [
                f"{name}={then!r:.60}, and this one has {now!r:.60}"
                for part in ("settings", "data")
                for name, then, now in _differences(found[part], self.about[part])
            ]
            start = self.about["start"]
            if start != found["start"] and (start is None or start != reached):
                differing.append("another start: it began from, or has become, another fit")
        except FAULTS as error:
            raise ValueError(self._no_training(error)) from error
        if differing:
            raise ValueError(
                f"checkpoint={str(self.folder.folder)!r} holds a training with "
                f"{'; '.join(differing[:5])}; set it back to go on, pass another folder, or delete "
                "this one to start anew."
            )

    def _no_training(self, error):
        return (
            f"checkpoint={str(self.folder.folder)!r} does not hold the state of this training "
            f"({error!r:.200}); pass another folder, or delete this one to start anew."
        )

    # Taking up

    def take_up(self, net):
        """Restore what was found, and give the number of epochs that were done in this training."""
        if self.found is None:
            self.n_before = len(net.history)
            return 0
        self._restoring(self._restore_run, net)
        return len(net.history) - self.n_before

    def finish_from_found(self, net):
        """Restore a training that had come to its end."""
        self._restoring(self._restore_end, net)

    def _restoring(self, restore, net):
        try:
            restore(net)
        except FAULTS as error:
            raise ValueError(self._no_training(error)) from error

    def _restore_run(self, net):
        self.n_before = self.found["n_before"]
        self._restore_net(net)
        if not 0 <= len(net.history) - self.n_before <= net.max_epochs:
            raise ValueError(f"{len(net.history)} epochs after {self.n_before}")
        self._restore_callbacks(net)
        if self.found["batches"] is not None:
            net.batches_.load_state_dict(self.found["batches"])
            self._within = self.found
        self.found = None

    def _restore_end(self, net):
        self._restore_net(net)
        if self.found["n_averaged"]:
            _check_like(dict(net.module_.named_parameters()), self.found["raw"])
            net.raw_weights_ = self.found["raw"]
            net.n_averaged_ = self.found["n_averaged"]

    def _restore_net(self, net):
        found = self.found
        _fill(net.module_.state_dict(), found["model"])
        _restore_optimizer(net.optimizer_, found["optimizer"])
        net.history_ = History()
        for row in found["history"]:
            net.history_.new_epoch()
            for name, value in row.items():
                net.history_.record(name, value)
        _set_generators(net, found["generators"])

    def _restore_callbacks(self, net):
        for name, callback in _with_state(net):
            if name in self.found["callbacks"]:
                callback.load_state_dict(self.found["callbacks"][name])

    def on_train_begin(self, net, **kwargs):
        self._within = None
        self._written = time.monotonic()
        self._has_failed = False
        self.is_agreed = None

    def on_epoch_begin(self, net, **kwargs):
        if self._within is None:
            return
        # The beginning of the epoch has cleared what its first batches had left.
        self.found, self._within = self._within, None
        self._restoring(self._restore_epoch, net)

    def _restore_epoch(self, net):
        _fill(net.module_.state_dict(), self.found["model"])
        self._restore_callbacks(net)
        for values in self.found["batch_rows"].tolist():
            net.history.new_batch()
            for name, value in zip(BATCH_COLUMNS, values, strict=True):
                net.history.record_batch(name, value)
        _set_generators(net, self.found["generators"])
        self.found = None

    # Writing

    def is_due(self):
        """Whether it is time for a checkpoint within an epoch."""
        return time.monotonic() - self._written >= self.every

    def on_batch_end(self, net, **kwargs):
        is_last = net.batches_.n_given == len(net.batches_)  # the end of the epoch is at hand
        is_due = self.is_due() if self.is_agreed is None else self.is_agreed
        if is_due and not is_last:
            self.write(net, within=True)

    def on_epoch_end(self, net, **kwargs):
        # skorch counts the batches that it saw itself.
        net.history.record("train_batch_count", len(net.history[-1]["batches"]))
        self.write(net)

    def interrupted(self, net):
        """Write the state after a batch at which the user has stopped the training."""
        self.write(net, within=True, reached=trained_weights(net))

    def finish(self, net):
        """Write the end of the training."""
        ending = {
            "raw": getattr(net, "raw_weights_", {}),
            "n_averaged": getattr(net, "n_averaged_", 0),
        }
        self._keep(net, self._state(net, within=False) | {"is_finished": True} | ending)

    def write(self, net, within=False, reached=None):
        """Write the state after a batch (`within` an epoch) or after an epoch."""
        if all(p.isfinite().all() for p in net.module_.parameters()):
            self._keep(net, self._state(net, within) | {"reached": reached})
        self._written = time.monotonic()

    def _keep(self, net, state):
        try:
            from_main(lambda: self.folder.write(state))
        except OSError as error:
            if not self._has_failed and is_main_process():
                warnings.warn(
                    f"checkpoint={str(self.folder.folder)!r}: no checkpoint could be written "
                    f"({error}); the training goes on, the earlier checkpoint stays, and the next "
                    "one is tried in its turn.",
                    RuntimeWarning,
                    stacklevel=8,
                )
            self._has_failed = True
        else:
            self._has_failed = False

    def _state(self, net, within):
        epochs = list(net.history)
        batches = epochs.pop()["batches"] if within else []
        rows = [[batch[name] for name in BATCH_COLUMNS] for batch in batches]
        return {
            "about": self.about,
            "is_finished": False,
            "reached": None,
            "n_before": self.n_before,
            "batch_size": net.batch_size,
            "model": dict(net.module_.state_dict()),
            "optimizer": _optimizer_state(net.optimizer_),
            "history": [_plain_row(row) for row in epochs],
            "batch_rows": torch.tensor(rows, dtype=torch.float64).view(-1, len(BATCH_COLUMNS)),
            "batches": net.batches_.state_dict() if within else None,
            "callbacks": {name: callback.state_dict() for name, callback in _with_state(net)},
            "generators": _generators(net),
        }


def trained_weights(net):
    """A digest of the weights that a training of this net goes on from."""
    weights = getattr(net, "raw_weights_", None)
    # While training, and without an average, these are in the module.
    if weights is None or getattr(net, "callbacks_", None):
        weights = dict(net.module_.named_parameters())
    return digest(weights)


def _differences(then, now):
    """Names whose values differ, with both values."""
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            yield name, then.get(name), now.get(name)


def _with_state(net):
    """Callbacks that can be kept, by names that do not change with the others."""
    counts = {}
    for _, callback in net.callbacks_:
        kind = getattr(callback, "kept_as", type(callback).__name__)
        counts[kind] = counts.get(kind, 0) + 1
        if hasattr(callback, "state_dict") and hasattr(callback, "load_state_dict"):
            yield f"{kind} {counts[kind]}", callback


def _plain_row(row):
    """What JSON can hold of an epoch's row."""
    row = {k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()}
    return {k: v for k, v in row.items() if k != "batches" and _is_plain(v)}


def _is_plain(value):
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _check_like(target, values):
    """Refuse tensors of other names, shapes or kinds."""
    if target.keys() != values.keys():
        raise ValueError(f"other tensors: {sorted(target.keys() ^ values.keys())[:5]}")
    for name, tensor in target.items():
        value = values[name]
        if value.shape != tensor.shape or value.dtype != tensor.dtype:
            raise ValueError(
                f"{name} is {value.dtype} {tuple(value.shape)}, not {tensor.dtype} "
                f"{tuple(tensor.shape)}"
            )


@torch.no_grad()
def _fill(target, values):
    """Copy values into tensors, which keep their place and layout in memory."""
    _check_like(target, values)
    for name, tensor in target.items():
        tensor.copy_(values[name])


def _optimizer_state(optimizer):
    groups = [
        {k: v for k, v in group.items() if k != "params" and _is_plain_setting(v)}
        for group in optimizer.param_groups
    ]
    state = {str(i): dict(optimizer.state.get(p, {})) for i, p in _parameters(optimizer)}
    return {"groups": groups, "state": {i: entry for i, entry in state.items() if entry}}


def _is_plain_setting(value):
    return _is_plain(list(value) if isinstance(value, tuple) else value)


def _parameters(optimizer):
    return enumerate(p for group in optimizer.param_groups for p in group["params"])


def _restore_optimizer(optimizer, kept):
    parameters = dict(_parameters(optimizer))
    optimizer.state.clear()
    for index, entry in kept["state"].items():
        p = parameters[int(index)]
        if entry.keys() != MOMENTS:
            raise ValueError(f"the optimizer's state {index} has {sorted(entry)}")
        for name, value in entry.items():
            if value.ndim:  # laid out in memory as the weights: sums in the same order
                _check_like({name: p}, {name: value})
                value = torch.empty_like(p).copy_(value)
            optimizer.state[p][name] = value.detach()
    for group, settings in zip(optimizer.param_groups, kept["groups"], strict=True):
        for name in settings.keys() & group.keys():
            group[name] = _like(group[name], settings[name], name)


def _like(now, then, name):
    """A setting of the optimiser as it was, which must be of the kind that it is now."""
    if isinstance(now, tuple):
        then = tuple(_like(a, b, name) for a, b in zip(now, then, strict=True))
    elif not (type(then) is type(now) or {type(then), type(now)} <= {int, float}):
        raise TypeError(f"the optimizer's {name}={then!r:.100}")
    return then


def _generators(net):
    """States of the net's own generator and of torch's global ones."""
    kind, keys, position, has_gauss, gauss = net.random_state.get_state()
    device = torch.device(net.device)
    is_cuda = device.type == "cuda"
    return {
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if is_cuda else None,
    }


def _set_generators(net, states):
    kind, keys, *rest = states["numpy"]
    net.random_state.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], torch.device(net.device))
    draw_apart(net.device)
