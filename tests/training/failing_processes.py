"""Errors in one of several processes alone, in `test_distributed`."""

import os
import signal
import time
import warnings

import numpy as np
from skorch.callbacks import Callback
from torch.utils.data import Dataset

from sklearn_cpc import CPCTransformer, CSVLog
from sklearn_cpc.estimators.collections import transform_shared
from sklearn_cpc.training.in_step import FailedElsewhereError

from . import processes

BATCHES = 3  # of an epoch


class FailIn(Callback):
    """An error at an event, of the second time on or of the end of an epoch."""

    def __init__(self, event):
        self.event = event
        self.n = 0

    def on_train_begin(self, net, **kwargs):
        self._fail("train")

    def on_batch_begin(self, net, **kwargs):
        self._fail("batch")

    def on_batch_end(self, net, **kwargs):
        self.n += 1
        if self.n == BATCHES:  # the next that is sent is the record of the epoch
            self._fail("last")

    def on_epoch_end(self, net, **kwargs):
        self._fail("epoch")

    def on_train_end(self, net, **kwargs):
        self._fail("end")

    def _fail(self, event):
        if event == self.event:
            raise ArithmeticError(f"lost in {event}")


class Spoiled(Dataset):
    """Images of which one cannot be read in the midst of the training."""

    def __init__(self, spoiled):
        self.spoiled, self.n_asked = spoiled, 0

    def __len__(self):
        return processes.N

    def __getitem__(self, row):
        self.n_asked += 1
        if self.spoiled and self.n_asked > processes.N + 8:
            raise OSError("the disk is gone")
        return processes.pixels()[row]


class CtrlCTwice(Callback):
    def on_batch_begin(self, net, **kwargs):
        if len(net.history[-1]["batches"]) == 2:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)


def said(X=None, callbacks=None, **settings):
    """What a fit says, and how long it took."""
    start = time.monotonic()
    cpc = CPCTransformer(**processes.SETTINGS | settings, callbacks=callbacks)
    before = vars(cpc).copy()
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            cpc.fit(processes.pixels() if X is None else X)
        text = f"fitted {[str(w.message)[:24] for w in warned]}"
    except Exception as error:
        assert vars(cpc) == before
        text = f"{type(error).__name__}: {error}"
    assert time.monotonic() - start < 60
    return text


def transformed(cpc, X, folder):
    try:
        transform_shared(cpc, X, folder, rows_per_file=5)
    except (ValueError, FailedElsewhereError) as error:
        return f"{type(error).__name__}: {error}"


def main(folder, rank):
    told = {}
    for event in ("train", "batch", "last", "epoch", "end"):
        for gather in (False, True):
            callbacks = [FailIn(event)] if rank == 1 else None
            name = f"{event} {gather}"
            told[name] = said(callbacks=callbacks, negatives="sampled", gather_negatives=gather)
    told["header"] = said(["none.png"] if rank == 1 else None)
    told["number 0"] = said(["none.png"] if rank == 0 else None)
    told["both"] = said(["none.png"])
    told["data"] = said(Spoiled(rank == 1))
    told["interrupt"] = said(callbacks=[CtrlCTwice()] if rank == 1 else None)
    log = folder / "another's.csv"
    log.write_text("a,b\n1,2\n")
    told["log"] = said(callbacks=[CSVLog(log)])
    cpc = CPCTransformer(**processes.SETTINGS).fit(processes.pixels())
    for name, where in (("shards", folder / "failing"), ("memory", None)):
        told[name] = transformed(cpc, processes.pixels(8 if rank == 0 else 1), where)
    # They are in step as ever.
    np.save(folder / f"after failing-{rank}.npy", processes.fitted_weights())
    return told
