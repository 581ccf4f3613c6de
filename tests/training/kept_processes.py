"""What each of several processes does about checkpoints and memory in `test_distributed`."""

import contextlib
import json
import shutil
import warnings
from unittest import mock

import numpy as np
import torch
from skorch.callbacks import Callback

from sklearn_cpc import CPCTransformer, CSVLog
from sklearn_cpc.estimators import planning
from sklearn_cpc.nn import ConvEncoder
from sklearn_cpc.training import held_out
from sklearn_cpc.training.distributed import alone, from_main
from sklearn_cpc.training.memory import OutOfMemory

from . import processes

# Two batches of an epoch, all images held out in one, and all that is kept of a training.
KEPT = {"early_stopping": True, "validation_fraction": 0.3, "averaging": 0.9}
KEPT |= {"negatives": "queue", "queue_size": 64, "gather_negatives": True}
HELD_OUT = {"early_stopping": True, "max_epochs": 4, "n_iter_no_change": 1, "tol": 0.0}
HELD_OUT |= {"validation_fraction": 0.3, "batch_size": 16}
ROOM = {"groups": {}, "sampled": {"negatives": "sampled", "gather_negatives": True}}


class EndedError(Exception):
    """A training that comes to nothing in all processes."""


class EndAt(Callback):
    """Ends the training where a batch begins, counted from 1."""

    def __init__(self, batch):
        self.batch = batch
        self.n_begun = 0

    def on_batch_begin(self, net, **kwargs):
        self.n_begun += 1
        if self.n_begun == self.batch:
            raise EndedError


class Unkept(Callback):
    """Has a state of which a checkpoint cannot be made."""

    def state_dict(self):
        return {"is": object()}

    def load_state_dict(self, state):
        pass


class Drawn(Callback):
    """Notes what layers would draw in the first batch."""

    kept = None

    def on_batch_begin(self, net, **kwargs):
        if Drawn.kept is None:
            with torch.random.fork_rng(devices=[]):
                Drawn.kept = torch.rand(()).item()


def broken_off(checkpoint, batch, **settings):
    settings = processes.SETTINGS | KEPT | settings
    with contextlib.suppress(EndedError):
        cpc = CPCTransformer(**settings, checkpoint=checkpoint, callbacks=[EndAt(batch)])
        cpc.fit(processes.pixels())


def gone_on(checkpoint, **settings):
    """Numbers of a training that goes on from there."""
    return processes.result(KEPT | {"checkpoint": checkpoint} | settings)


def checkpoints(folder, rank):
    """Leaves checkpoints to go on from, and goes on from some; what was said."""
    own = folder / f"disk-{rank}"
    own.mkdir()
    # The clocks of two machines.
    every = {"checkpoint_every": 0.0 if rank == 0 else 1e9}
    broken_off(own / "two", 4, **every)
    if rank == 0:
        shutil.copytree(own / "two", folder / "two")
    with alone():
        if rank == 0:
            broken_off(own / "one", 4, **every)
    once_more = {}
    for name in ("two", "one"):
        np.savez(folder / f"from {name}-{rank}.npz", **gone_on(own / name, **every))
        once_more[name] = gone_on(own / name, **every)["weights"]
    np.savez(folder / f"once more-{rank}.npz", **once_more)
    kept = processes.SETTINGS | KEPT | {"checkpoint": own / "two"}
    told = {"other": processes.refusal(**KEPT, checkpoint=own / "two", learning_rate=0.5)}
    told["some"] = processes.refusal(checkpoint=None if rank else str(own / "some"))
    if rank == 0:
        (own / "file").write_text("")
    told["file"] = processes.refusal(checkpoint=own / "file")
    try:
        CPCTransformer(**kept | {"checkpoint": own / "none"}, callbacks=[Unkept()]).fit(
            processes.pixels()
        )
    except TypeError as error:
        told["unkept"] = str(error)
    _, told["interrupted"] = processes.interrupted(rank, checkpoint=own / "interrupted")
    if rank == 0:
        shutil.copytree(own / "interrupted", folder / "interrupted")
    goes_on = CPCTransformer(
        **processes.SETTINGS, checkpoint=own / "interrupted", callbacks=[Drawn()]
    )
    goes_on.fit(processes.pixels())
    told["drawn"] = Drawn.kept
    try:
        from_main(lambda: {}["unknown"])
    except (KeyError, RuntimeError) as error:
        told["failed"] = repr(error)
    told["disk"] = sorted(path.name for path in own.iterdir())
    return told


def log(folder, rank):
    """The batch that "auto" gives where process 1 has no memory, in a fit that is logged."""
    log = CSVLog(folder / f"log-{rank}.csv")
    settings = processes.SETTINGS | {"batch_size": "auto"}
    with mock.patch.object(planning, "free_bytes", return_value=1 if rank else 2**40):
        return CPCTransformer(**settings, callbacks=[log]).fit(processes.pixels()).net_.batch_size


def held_out_bounds(rank):
    """Of a training in which process 1 would find another, which would end it."""
    bounds = iter([9.0, 8.0, 7.0, 6.0])
    own = {0: held_out.held_out_bound, 1: lambda *args: next(bounds)}[rank]
    with mock.patch.object(held_out, "held_out_bound", own):
        cpc = CPCTransformer(**processes.SETTINGS | HELD_OUT).fit(processes.pixels())
    return [row["validation_mutual_information"] for row in cpc.history_]


def little_room(rank, settings):
    """Weights of a fit in which process 1 runs out of memory, on the way there and on the way back.

    And what was said.
    """
    forward, sizes = ConvEncoder.forward, []

    def fail(gradient):
        raise OutOfMemory("CUDA out of memory on the way back")

    def limited(self, patches):
        if not torch.is_grad_enabled():
            return forward(self, patches)
        sizes.append(len(patches))
        if len(sizes) == 1:
            raise OutOfMemory("CUDA out of memory on the way there")
        features = forward(self, patches)
        if len(sizes) == 2:
            features.register_hook(fail)
        return features

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            ConvEncoder.forward = limited if rank == 1 else forward
            cpc = CPCTransformer(**processes.SETTINGS | settings).fit(processes.pixels())
        finally:
            ConvEncoder.forward = forward
    said = [str(w.message) for w in said if "Out of memory" in str(w.message)]
    return processes.flat(cpc.net_.module_.parameters()), said


def main(folder, rank):
    told = checkpoints(folder, rank)
    told["auto"] = log(folder, rank)
    told["held out"] = held_out_bounds(rank)
    rooms = {name: little_room(rank, settings) for name, settings in ROOM.items()}
    np.savez(folder / f"rooms-{rank}.npz", **{name: room[0] for name, room in rooms.items()})
    told["rooms"] = {name: room[1] for name, room in rooms.items()}
    (folder / f"kept-{rank}.json").write_text(json.dumps(told))
