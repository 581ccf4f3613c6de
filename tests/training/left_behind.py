"""What is left after trainings that are broken off: `python -m tests.training.left_behind FOLDER`.

The leader of its session; prints a line of JSON after each.
"""

import gc
import json
import os
import resource
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import torch

from sklearn_cpc import CSVLog
from sklearn_cpc.training import WorkerError

from ..estimators.toys import images, save_images, tiny
from . import test_workers
from .test_workers import FailAt, Items, Mortal, kill

PROCESSES = {"worker_kind": "process", "n_workers": 1}


class CtrlCTwice(FailAt):
    """As a terminal does it: for all of the session."""

    def act(self):
        for _ in range(2):
            os.killpg(0, signal.SIGINT)
            time.sleep(0.2)


def second_ctrl_c(folder):
    paths = save_images(images(), folder / "images")
    log = CSVLog(folder / "out" / "log.csv")
    settings = {"checkpoint": folder / "out" / "kept", "checkpoint_every": 0, **PROCESSES}
    tiny(callbacks=[log, CtrlCTwice(2)], **settings).fit(paths)


def death(folder):
    settings = {"checkpoint": folder / "out" / "kept", "max_epochs": 3, **PROCESSES}
    tiny(**settings).fit(Mortal(folder, 4 * len(Items()) + 14, kill))


def full_disk(folder):
    """No file may become longer, as on a disk without room, and what was begun is there."""
    cpc = tiny(checkpoint=folder / "out" / "kept", checkpoint_every=0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        cpc.fit(images())
        cpc.save(folder / "out" / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def ctrl_c_in_transform(folder):
    """Ends the process: nobody catches it."""
    cpc = tiny(**PROCESSES).fit(images())
    threading.Timer(0.5, os.killpg, (0, signal.SIGINT)).start()
    cpc.transform(Slow())


class Slow(Items):
    def __getitem__(self, row):
        time.sleep(0.5)
        return super().__getitem__(row)


def what_is_left(folder):
    gc.collect()
    return {
        "workers": len(test_workers.children()),
        "threads": [t.name for t in threading.enumerate() if t is not threading.main_thread()],
        "files": sorted(p.relative_to(folder).as_posix() for p in (folder / "out").rglob("*")),
        "temporary": os.listdir(os.environ["TMPDIR"]),
        "shared": [name for name in os.listdir("/dev/shm") if str(os.getpid()) in name],
        "opened": len(os.listdir("/proc/self/fd")),
    }


def main(folder):
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for act in (second_ctrl_c, death, full_disk, ctrl_c_in_transform):
        own = folder / act.__name__
        for name in ("images", "out"):
            (own / name).mkdir(parents=True)
        said = []
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                act(own)
            except (OSError, WorkerError) as error:
                said.append(type(error).__name__)
        said += [str(w.message)[:30] for w in warned]
        print(json.dumps({"said": said, **what_is_left(own)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
