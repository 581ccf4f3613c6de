"""Long trainings: what a checkpoint is of, callbacks, and the images that end a training."""

import json
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass

import numpy as np
import torch
from skorch.callbacks import Callback

from ..nn import name_of
from ..training import (
    CheckpointFolder,
    CheckpointKeeper,
    HeldOut,
    LazyImages,
    digest,
    split_rows,
    trained_weights,
)
from ..training.distributed import alone, from_main, greatest
from . import building, planning

# Parameters that a training may go on with other values of.
FREE = {
    "callbacks",
    "channels",
    "checkpoint",
    "checkpoint_every",
    "compile",
    "device",
    "image_shape",
    "mixed_channels",  # the images are told by themselves
    "n_jobs",
    "n_workers",
    "output",
    "pooling",
    "transform_flip",
    "transform_stride",
    "verbose",
    "warm_start",
    "worker_kind",
}
ROWS_COMPARED = 16


def check_callbacks(callbacks):
    """Refuse what skorch could not call."""
    for i, callback in enumerate(callbacks or ()):
        if isinstance(callback, Callback):
            continue
        way_out = "pass an instance of skorch.callbacks.Callback or of a class derived from it"
        if isinstance(callback, type) and issubclass(callback, Callback):
            way_out = f"pass an instance, {callback.__name__}(...)"
        elif isinstance(callback, tuple) and isinstance(callback[-1], Callback):
            way_out = "pass the callback without a name"
        raise TypeError(f"callbacks[{i}]={callback!r:.100} must be a skorch callback; {way_out}.")


def kept_settings(estimator):
    """The parameters that make a training what it is, as JSON has them."""
    params = estimator.get_params(deep=False)
    settings = {name: _plain(value) for name, value in params.items() if name not in FREE}
    settings["device"] = torch.device(building.resolve_device(estimator.device)).type
    return json.loads(json.dumps(settings))


class LongRun:
    """What a training has beside its net: images held out, and checkpoints.

    To be made before anything is drawn: a RandomState is told by its state.

    Parameters
    ----------
    estimator : CPCTransformer
    images : Images
    n_epochs : int
    is_pass : bool
        A single pass, of `partial_fit`, has neither.

    Attributes
    ----------
    rows : ndarray of int or None
        Images to train on. None: all.
    held_out : HeldOut or None
    keeper : CheckpointKeeper or None

    Raises
    ------
    ValueError
        If there are too few images.
    """

    def __init__(self, estimator, images, n_epochs, is_pass):
        self.estimator = estimator
        self.images = images
        self.rows = self.held_out = self.keeper = None
        if estimator.checkpoint == "":
            raise ValueError(
                "checkpoint='' must be a folder or None; pass '.' for the working directory."
            )
        self.is_kept = estimator.checkpoint is not None and n_epochs and not is_pass
        self.settings = kept_settings(estimator) if self.is_kept else None
        if estimator.early_stopping and n_epochs and not is_pass:
            self._hold_out(n_epochs)
        else:
            building.check_batch(estimator, images, n_epochs)

    def _hold_out(self, n_epochs):
        estimator, n = self.estimator, len(self.images)
        self.rows, others = split_rows(n, estimator.validation_fraction)
        if min(len(self.rows), len(others)) < 2:
            raise ValueError(
                f"validation_fraction={estimator.validation_fraction} with n_samples={n} leaves "
                f"{len(self.rows)} images to train on and {len(others)} held out; either needs at "
                "least 2: pass more images, another fraction, or early_stopping=False."
            )
        building.check_batch(estimator, self.images, n_epochs, len(self.rows))
        with alone():  # they are not shared by several processes
            building.check_batch(estimator, self.images, n_epochs, len(others))
        self.held_out = HeldOut(
            others, planning.given_batch_size(estimator), estimator.n_iter_no_change, estimator.tol
        )

    @contextmanager
    def checkpoints(self, net, scale, is_new):
        """A context in which `keeper` has the folder, where there is one.

        Parameters
        ----------
        net : CPCNet
        scale : PixelScale
        is_new : bool
            Whether the net starts anew.

        Raises
        ------
        ValueError
            If the folder cannot be used, or holds another training.
        """
        self._check_kept_by_all()
        if not self.is_kept or not net.module_.plan:
            yield
            return
        about = {
            "settings": self.settings,
            "data": _described(self.images, scale),
            "start": None if is_new else trained_weights(net),
        }
        folder = CheckpointFolder(self.estimator.checkpoint)
        with ExitStack() as stack:

            def enter():
                stack.enter_context(folder)

            from_main(enter)  # it may be on a disk that the others do not see
            self.keeper = CheckpointKeeper(folder, self.estimator.checkpoint_every, about)
            yield

    def _check_kept_by_all(self):
        """Refuse what only some of several processes would wait for."""
        some, not_all = greatest(int(bool(self.is_kept))), greatest(int(not self.is_kept))
        if some and not_all:
            raise ValueError(
                f"checkpoint={self.estimator.checkpoint!r} here, but not alike in all processes: a "
                "folder, or None, must be given to all; pass the same everywhere, process 0 alone "
                "writes it."
            )

    @property
    def has_begun(self):
        """Whether there is a checkpoint to go on from."""
        return self.keeper is not None and self.keeper.found is not None

    @property
    def has_ended(self):
        """Whether the training was at its end already."""
        return self.keeper is not None and self.keeper.is_finished


def _described(images, scale):
    """What tells these images from others, without reading many of them."""
    n = len(images)
    chosen = np.unique(np.linspace(0, n - 1, ROWS_COMPARED).round().astype(int))

    def seen():
        return np.concatenate([images.rows(slice(i, i + 1)) for i in chosen.tolist()])

    rows = seen()
    kind = {"n_samples": n, "shape": list(images.shape), "dtype": rows.dtype.name}
    if isinstance(images.data, LazyImages) and not np.array_equal(rows, seen()):
        return kind | {"pixels": "drawn anew each time"}  # such as a Dataset's random crops
    shown = torch.from_numpy(np.frombuffer(np.ascontiguousarray(rows).tobytes(), np.uint8).copy())
    return kind | {
        "range": [float(scale.low), float(scale.high)],
        # Rounded: another version of NumPy may add in another order.
        "mean": [float(f"{m:.6g}") for m in scale.mean],
        "std": [float(f"{s:.6g}") for s in scale.std],
        "pixels": digest({"rows": shown}),
    }


def _plain(value):
    if isinstance(value, np.random.RandomState):
        _, keys, position, *_ = value.get_state()
        state = np.append(keys, np.uint32(position)).view(np.int32)
        return {"RandomState": digest({"state": torch.from_numpy(state)})}
    if isinstance(value, torch.nn.Module):
        return {"own": name_of(value), "weights": digest(value.state_dict())}
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return {"own": name_of(value)} if callable(value) else value
