"""Trainings that are killed: `python -m tests.estimators.killed FOLDER` leaves their checkpoints.

One process forks a child for each case, so that the libraries are imported once.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from skorch.callbacks import Callback

from sklearn_cpc.training import checkpoint_files

from .toys import images, tiny

X = images(20)  # three batches


class Dropping(torch.nn.Module):
    """An encoder that draws from torch's global generator."""

    def __init__(self, n_channels):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(n_channels, 6, 2), torch.nn.Dropout(0.3), torch.nn.ReLU()
        )

    def forward(self, patches):
        return self.layers(patches)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


class KillAt(Callback):
    """Kills in a batch, counted over the training from 1."""

    def __init__(self, event, batch):
        self.event, self.batch = event, batch

    def on_batch_begin(self, net, **kwargs):
        self.n_done = getattr(self, "n_done", 0) + 1
        self._kill_at("begin")

    def on_batch_end(self, net, **kwargs):
        self._kill_at("end")

    def on_epoch_end(self, net, **kwargs):
        self._kill_at("epoch")

    def _kill_at(self, event):
        if event == self.event and self.n_done >= self.batch:
            kill()


class EndedError(Exception):
    """In the place of whatever may end a training."""


class EndAt(KillAt):
    """Ends the training by an error, in the process of the test."""

    def _kill_at(self, event):
        if event == self.event and self.n_done >= self.batch:
            raise EndedError


class HalfFile:
    """A file whose process dies in the midst of writing it."""

    def __init__(self, path):
        self.file = open(path, "wb")  # noqa: SIM115

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        kill()


def kill_in_write(step, number):
    """Kill at a step of writing the checkpoint of this number, counted from 1."""
    count = {"open": 0, "replace": 0, "sync": 0}
    own = {"open": open, "replace": os.replace, "sync": checkpoint_files._sync_folder}

    def wrapped(name, instead):
        def call(*args, **kwargs):
            is_write = name != "open" or "wb" in args
            count[name] += is_write
            if is_write and count[name] == number and step == name:
                return instead(*args)
            return own[name](*args, **kwargs)

        return call

    checkpoint_files.open = wrapped("open", lambda path, mode: HalfFile(path))
    os.replace = wrapped("replace", lambda *args: kill())
    checkpoint_files._sync_folder = wrapped("sync", lambda *args: kill())


QUEUE = {"negatives": "queue", "queue_size": 60, "n_candidates": 20, "negative_images": None}
STAGES = {"greedy": "sequential", "encoder": "resnet18", "max_epochs": 1}
EARLY = {"early_stopping": True, "validation_fraction": 0.2, "n_iter_no_change": 1, "tol": 5.0}

# Name of the case: settings, where it is killed ("begin", "end" of a batch, "epoch" after one, a
# step of writing, or "outside"), and in which batch or checkpoint.
CASES = {
    "first batch": ({}, "begin", 1),
    "within an epoch": ({}, "begin", 5),
    "end of a batch": ({}, "end", 4),
    "last batch of an epoch": ({}, "end", 6),
    "end of an epoch": ({}, "epoch", 6),
    "only epochs are kept": ({"checkpoint_every": 1000}, "end", 5),
    "writing": ({}, "open", 5),
    "renaming": ({}, "replace", 5),
    "renamed": ({}, "sync", 5),
    "writing the first": ({}, "open", 1),
    "writing the end": ({}, "open", 10),
    "at any moment": ({"max_epochs": 8}, "outside", 9),
    "averaging": ({"averaging": 0.9}, "begin", 5),
    "queue": (QUEUE, "begin", 6),
    "stages": (STAGES, "begin", 3),
    "accumulate": ({"accumulate": 2}, "begin", 5),
    "warm start": ({"warm_start": True, "averaging": 0.9}, "begin", 5),
    "dropout": ({"encoder": Dropping}, "begin", 5),
    "early stopping": ({**EARLY, "averaging": 0.5, "max_epochs": 6}, "begin", 6),
    "early end": ({**EARLY, "max_epochs": 6}, "open", 7),
    "no warmup": ({"warmup": None, "optimizer": "adam"}, "begin", 5),
}


def transformer(case, folder):
    """The estimator of a case, where `warm_start` says so after a first fit."""
    settings, _, _ = CASES[case]
    cpc = tiny(**{"max_epochs": 3, "checkpoint_every": 0, "device": "cpu"} | settings)
    return (cpc.fit(X) if cpc.warm_start else cpc).set_params(checkpoint=folder)


def train_and_die(case, folder):
    _, event, number = CASES[case]
    cpc = transformer(case, folder)
    if event in ("begin", "end", "epoch"):
        cpc.set_params(callbacks=[KillAt(event, number)])
    elif event != "outside":
        kill_in_write(event, number)
    cpc.fit(X)


def kill_from_outside(child, folder, number):
    while not (folder / f"checkpoint-{number:08d}.safetensors").exists():
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)


def warm_up():
    """Let torch import what it imports late; no backward pass, whose threads do not fork."""
    tiny(max_epochs=0, device="cpu").fit(X)
    weight = torch.zeros(1, requires_grad=True)
    weight.grad = torch.ones(1)
    torch.optim.AdamW([weight]).step()


def main(folder):
    torch.set_num_threads(1)
    warm_up()
    for case, (_, event, number) in CASES.items():
        child = os.fork()
        if not child:
            train_and_die(case, folder / case)
            os._exit(1)  # it should have died
        if event == "outside":
            kill_from_outside(child, folder / case, number)
        _, status = os.waitpid(child, 0)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            sys.exit(f"{case}: status {status}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
