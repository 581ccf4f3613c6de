"""Who reads images: threads of this process, or processes of their own."""

import os
import pickle
import re
import signal
import threading
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing import Pipe, active_children

import torch
from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.backend import get_context
from joblib.externals.loky.backend.reduction import dumps  # by cloudpickle

from .messages import in_one_line

__all__ = ["KINDS", "WorkerError", "make_workers", "workers_ended"]

# Beyond that they wait for one another.
MOST_WORKERS = 16
# One thread each: there are as many workers as there are to be threads.
ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
SECONDS_TO_NOTICE = 1.0  # that the process which asked for the images is gone, at the most

_begun = ContextVar("begun", default=None)


class WorkerError(RuntimeError):
    """A process that reads images has ended before its work."""


class Threads:
    """Reads in threads of this process; in the caller's where there is one.

    Parameters
    ----------
    reader : FileReader or ItemReader
    n : int
    """

    def __init__(self, reader, n):
        self.reader = reader
        self.n = n
        self._pool = ThreadPoolExecutor(n) if n > 1 else None

    def each(self, act, blocks, seed):
        """The list of what ``act(reader, rows)`` gives, for each block of rows, in order."""
        return self._map(lambda rows: list(act(self.reader, rows)), blocks)

    def put_each(self, act, rows, blocks, seed, put):
        """Call ``put(place, result)`` for each place of the blocks, with what its row gives."""

        def read(places):
            for place, result in zip(places, act(self.reader, rows[places]), strict=True):
                put(place, result)  # at once: what was read is still in the processor's cache

        for _ in self._map(read, blocks):
            pass

    def _map(self, function, blocks):
        return map(function, blocks) if self._pool is None else self._pool.map(function, blocks)


class Processes:
    """Reads in processes that are started anew, not forked, and have a copy of the reader each.

    Parameters
    ----------
    reader : FileReader or ItemReader
        What pickle cannot send, such as a class of a notebook, cloudpickle does.
    n : int

    Raises
    ------
    TypeError
        If neither can.
    """

    def __init__(self, reader, n):
        self.n = n
        content = _pickled(reader)
        # Nothing is ever sent: the system closes the second end with this process, however it ends.
        self._ends = Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(
            n,
            context=get_context("loky"),
            initializer=_begin,
            initargs=(content, self._ends[0], os.getpid()),
            env=ENVIRONMENT,
        )
        if _begun.get() is not None:
            _begun.get().append(self)

    def each(self, act, blocks, seed):
        """The list of what ``act(reader, rows)`` gives, for each block of rows, in order.

        Random numbers that an item draws follow from `seed` and its row.
        """
        waiting = []
        try:
            waiting += [self._pool.submit(_act, act, rows, seed) for rows in blocks]
            for each in waiting:
                yield each.result()
        except BrokenExecutor as error:
            raise WorkerError(_death(error)) from error
        finally:
            for each in waiting:
                each.cancel()

    def put_each(self, act, rows, blocks, seed, put):
        """As in `Threads`."""
        each = self.each(act, [rows[places] for places in blocks], seed)
        for places, results in zip(blocks, each, strict=True):
            for place, result in zip(places, results, strict=True):
                put(place, result)

    def close(self):
        """End the processes, whatever they are at."""
        self._pool.shutdown(wait=True, kill_workers=True)
        active_children()  # lets go of those that have ended, and of their semaphores
        for end in self._ends:
            end.close()


KINDS = {"thread": Threads, "process": Processes}


def make_workers(kind, n, reader):
    """Workers of a kind, as many as there are cores where `n` is None."""
    return KINDS[kind](reader, n or min(MOST_WORKERS, n_cores()))


@contextmanager
def workers_ended():
    """At its end, by whatever way, no process that was begun within it is left."""
    token = _begun.set([])
    try:
        yield
    finally:
        begun = _begun.get()
        _begun.reset(token)
        for each in begun:
            each.close()


def n_cores():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _pickled(reader):
    try:
        return bytes(dumps(reader))
    except Exception as error:
        raise TypeError(_unsendable(reader.what, error)) from error


def _unsendable(what, error):
    error = in_one_line(error)
    return (
        f"{what} cannot be sent to worker processes ({error:.200}); open files, locks and "
        "connections within its __getitem__, where each process has its own, or pass "
        "worker_kind='thread'."
    )


def _death(error):
    codes = re.search(r"\{.*\}", str(error))
    codes = f" (exit codes {codes.group()})" if codes else ""
    return (
        f"A worker process that reads images has died{codes}: a library has crashed, it was "
        "killed, or the memory was full; pass a smaller n_workers, or worker_kind='thread' to see "
        "where. The estimator is as it was before this call, and a checkpoint stays: the same call "
        "goes on from it."
    )


# In a worker

_reader = None


def _begin(content, end, parent):
    """What a worker does first; a Ctrl-C is left to the process that asked for it."""
    global _reader
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(end, parent), daemon=True).start()
    torch.set_num_threads(1)
    _reader = content


def _end_with(end, parent):
    """End where the process that asks is killed, which tells nobody.

    Its end of the pipe closes then. Where it was forked, as by a loader of its own, a copy may
    stay open: so its number is looked at as well, which on Windows never changes.
    """
    while not end.poll(SECONDS_TO_NOTICE) and os.getppid() == parent:
        pass
    os._exit(1)


def _act(act, rows, seed):
    global _reader
    if isinstance(_reader, bytes):
        try:
            _reader = pickle.loads(_reader)
        except Exception as error:
            raise TypeError(_unsendable("what reads the images", error)) from None
    _reader.seed = seed
    return list(act(_reader, rows))
