"""Images that are read by processes of their own."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from joblib.externals.loky import get_reusable_executor
from skorch.callbacks import Callback
from torch.utils.data import Dataset

from sklearn_cpc.training import WorkerError, workers, workers_ended
from sklearn_cpc.training.decoded import DatasetImages
from sklearn_cpc.training.workers import Processes

from ..estimators.toys import images, save_images, tiny


@pytest.fixture(autouse=True, scope="module")
def _none_of_joblib():
    """Processes that joblib keeps for its next call are none of these."""
    get_reusable_executor().shutdown(wait=True, kill_workers=True)


X = images(24)
X.setflags(write=False)
PROCESSES = {"worker_kind": "process"}


class Items(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, row):
        return X[row]


class Drawing(Items):
    """Draws from each library's own generators."""

    def __getitem__(self, row):
        drawn = [random.random(), np.random.uniform(), torch.rand(()).item(), row / 100]
        return np.broadcast_to(np.float32(drawn), (4, 4, 4))


class Mortal(Items):
    """Ends its process when it has been asked so often, by whatever process."""

    def __init__(self, folder, often, end):
        self.folder, self.often, self.end = folder, often, end

    def __getitem__(self, row):
        with open(self.folder / "asked", "a") as file:
            file.write(".")
        if os.path.getsize(self.folder / "asked") > self.often:
            self.end()
        return X[row]


class Locked(Items):
    def __init__(self):
        self.lock = threading.Lock()


class Unreadable(Items):
    """Pickles, but does not come back."""

    def __init__(self):
        self.path = "elsewhere"

    def __setstate__(self, state):
        raise OSError("the disk\nis elsewhere")


class AsOnWindows(Items):
    """Comes to a system where the number of a parent stays when it is gone."""

    def __init__(self):
        self.parent = os.getpid()

    def __setstate__(self, state):
        os.getppid = lambda: state["parent"]


def leave():
    os._exit(3)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def children(parent=None):
    """Worker processes of a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if int(status[1]) == (parent or os.getpid()) and "LokyProcess" in command:
            found.append(int(folder.name))
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def weights(cpc):
    return torch.cat([p.detach().flatten() for p in cpc.net_.module_.parameters()]).numpy()


class Here(Processes):
    """As a worker does it, without a process: these take seconds to start."""

    def __init__(self, reader, n):
        self.n = n
        self.content = bytes(workers.dumps(reader))

    def each(self, act, blocks, seed):
        for rows in blocks:
            with (
                torch.random.fork_rng(devices=[]),
                mock.patch.object(workers, "_reader", self.content),
            ):
                states = random.getstate(), np.random.get_state()
                found = workers._act(act, rows, seed)
                random.setstate(states[0])
                np.random.set_state(states[1])
            yield found


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setitem(workers.KINDS, "process", Here)


def drawn(n_workers):
    with workers_ended():
        opened = DatasetImages(Drawing(), n_workers=n_workers, **PROCESSES)
        first, again = opened[:], opened[np.arange(23, -1, -1)][::-1]
        opened.seed = 7
        return first, again, opened[:]


@needs_proc
def test_what_items_draw_follows_from_the_pass_and_the_row():
    first, again, other = found = drawn(2)
    assert children() == []
    np.testing.assert_array_equal(again, first)
    for channel in range(3):
        assert len(np.unique(first[:, 0, 0, channel])) == len(X)
        assert (other[..., channel] != first[..., channel]).all()
    with mock.patch.dict(workers.KINDS, process=Here):
        for n_workers in (1, 3):
            for mine, theirs in zip(drawn(n_workers), found, strict=True):
                np.testing.assert_array_equal(mine, theirs)


@needs_proc
def test_the_weights_are_the_same_for_any_kind_of_workers(tmp_path):
    pytest.importorskip("PIL.Image")
    expected = tiny(max_epochs=2).fit(X)
    for source in (Items(), save_images(X, tmp_path)):
        cpc = tiny(max_epochs=2, n_workers=1, **PROCESSES).fit(source)
        np.testing.assert_array_equal(weights(cpc), weights(expected))
        assert children() == []


def test_all_that_reads_takes_processes(here, tmp_path):
    pytest.importorskip("PIL.Image")
    paths = save_images(X, tmp_path)
    expected = tiny(max_epochs=2).fit(X)
    for n_workers in (1, 3):
        cpc = tiny(max_epochs=2, n_workers=n_workers, **PROCESSES).fit(paths)
        np.testing.assert_array_equal(weights(cpc), weights(expected))
        for name in ("transform", "embed_patches", "score"):
            np.testing.assert_array_equal(getattr(cpc, name)(paths), getattr(expected, name)(X))
    Path(paths[3]).write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1 of 24 images cannot be read. The first: .*003.png"):
        cpc.fit(paths)
    cpc.set_params(broken_images="skip")
    with pytest.warns(RuntimeWarning, match="1 of 24 images cannot be read; their features are"):
        features = cpc.transform(paths)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(features[:, 0])), [3])


def test_every_pass_has_random_numbers_of_its_own(here, tmp_path, monkeypatch):
    """The seed of each pass comes to where items are read, also in a training taken up."""
    pytest.importorskip("safetensors")
    seeds, each = [], Here.each

    def seen(self, act, blocks, seed):
        seeds.append(seed)
        return each(self, act, blocks, seed)

    monkeypatch.setattr(Here, "each", seen)
    whole = tiny(max_epochs=3, **PROCESSES).fit(Drawing())
    assert len(set(seeds)) == 4  # before the training, and in each pass
    broken_off = tiny(max_epochs=3, **PROCESSES, checkpoint=tmp_path, checkpoint_every=0)
    with pytest.raises(ZeroDivisionError):
        broken_off.set_params(callbacks=[FailAt(5)]).fit(Drawing())
    gone_on = broken_off.set_params(callbacks=None, n_workers=3).fit(Drawing())
    np.testing.assert_array_equal(weights(gone_on), weights(whole))


class FailAt(Callback):
    """An error in a batch, counted from 1; and Ctrl-C."""

    def __init__(self, batch, error=ZeroDivisionError):
        self.batch, self.error, self.n = batch, error, 0

    def on_batch_begin(self, net, **kwargs):
        self.n += 1
        if self.n == self.batch:
            self.act()

    def act(self):
        raise self.error


@needs_proc
def test_an_error_leaves_no_process():
    cpc = tiny(n_workers=1, callbacks=[FailAt(2)], **PROCESSES)
    with pytest.raises(ZeroDivisionError) as caught:
        cpc.fit(Items())
    assert caught.tb is not None  # and holds all frames
    assert children() == []


class CtrlC(FailAt):
    """As a terminal does it: for the workers, too."""

    def act(self):
        for pid in [*children(), os.getpid()]:
            os.kill(pid, signal.SIGINT)
        time.sleep(0.2)


@needs_proc
def test_ctrl_c_is_for_the_training_and_leaves_no_process():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.warns(RuntimeWarning, match="Training was interrupted in epoch 1"):
            cpc = tiny(n_workers=1, callbacks=[CtrlC(2)], **PROCESSES).fit(Items())
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(cpc.net_.history[-1]["batches"]) == 2
    assert children() == []


@needs_proc
@pytest.mark.parametrize(("end", "code"), [(leave, "EXIT(3)"), (kill, "SIGKILL(-9)")])
def test_the_death_of_a_worker_is_an_error_and_the_checkpoint_stays(end, code, tmp_path):
    pytest.importorskip("safetensors")
    settings = {"max_epochs": 3, "n_workers": 1, "checkpoint": tmp_path / "kept", **PROCESSES}
    cpc = tiny(**settings).fit(X[:8]) if end is kill else tiny(**settings)
    if end is kill:
        cpc.set_params(checkpoint=tmp_path / "other")
    before = vars(cpc).copy()
    # Asked once for the shape, once for the range, twice for some that tell them from others, and
    # then in each of three passes.
    with pytest.raises(WorkerError) as caught:
        cpc.fit(Mortal(tmp_path, 4 * len(X) + 14, end))
    message = (
        f"A worker process that reads images has died (exit codes {{{code}}}): a library has "
        "crashed, it was killed, or the memory was full; pass a smaller n_workers, or "
        "worker_kind='thread' to see where. The estimator is as it was before this call, and a "
        "checkpoint stays: the same call goes on from it."
    )
    assert str(caught.value) == message
    assert vars(cpc) == before
    assert children() == []
    assert list(cpc.checkpoint.glob("checkpoint-*"))
    gone_on = cpc.set_params(worker_kind="thread").fit(Items())
    np.testing.assert_array_equal(weights(gone_on), weights(tiny(max_epochs=3).fit(X)))


def test_what_cannot_be_sent_is_refused_before_the_training():
    message = r"X=Locked cannot be sent to worker processes \(TypeError: cannot pickle '_thread.loc"
    with pytest.raises(TypeError, match=message):
        tiny(**PROCESSES).fit(Locked())
    with pytest.raises(ValueError, match="The 'worker_kind' parameter of CPCTransformer must be"):
        tiny(worker_kind="fork").fit(Items())


def test_what_does_not_come_back_is_refused(here):
    message = r"cannot be sent to worker processes \(OSError: the disk is elsewhere\); open files"
    with pytest.raises(TypeError, match=message):
        tiny(**PROCESSES).fit(Unreadable())


KILLED = """
import os, time
from tests.training import test_workers as t
opened = t.DatasetImages(t.{items}(), n_workers=1, **t.PROCESSES)
forked = os.fork() if {forks} else 0
if {forks} and not forked:
    os.close(1)  # it has a copy of all else that is open
    time.sleep(60)
print(*t.children(), forked, flush=True)
t.kill()
"""


@needs_proc
@pytest.mark.parametrize(("items", "forks"), [("Items", True), ("AsOnWindows", False)])
def test_workers_end_with_the_process_that_is_killed(items, forks):
    root = Path(__file__).parents[2]
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED.format(items=items, forks=forks)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with killed.stdout:
        # One line: all that is written would be waited for until the worker ends, which has a copy.
        worker, forked = map(int, killed.stdout.readline().split())
    returncode = killed.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    is_left = Path(f"/proc/{worker}").exists()
    if forked:
        os.kill(forked, signal.SIGKILL)
    assert returncode == -signal.SIGKILL
    assert not is_left
