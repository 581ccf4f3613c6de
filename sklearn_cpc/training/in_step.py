"""Several processes go on together, or all end: an error in one is told to the others.

Whatever the processes send, they first send a vote. A process that fails, wherever it is, casts one
last vote that says so, and the others learn of it where they come next: none waits for what will
never be sent, and all can begin something new together.
"""

import signal
import threading
from contextlib import contextmanager, suppress
from contextvars import ContextVar

import torch
from torch import distributed as dist

from .messages import in_one_line
from .world import join

__all__ = ["FailedElsewhereError", "agreed", "greatest", "in_step", "tell"]

# Whether the others know, or have said, that what they do together has failed.
_has_failed = ContextVar("has_failed", default=False)


class FailedElsewhereError(RuntimeError):
    """Another process has failed at what all do together."""


@contextmanager
def in_step():
    """What all processes do together: it succeeds in all, or raises in all.

    Raises
    ------
    FailedElsewhereError
        If another process has failed, with its number and what it said.
    """
    if join().size == 1:
        yield
        return
    _has_failed.set(False)  # and is not put back: one within another tells for both
    try:
        yield
        if not _has_failed.get():
            with agreed():
                pass  # all have come to the end
    except BaseException as error:
        tell(error)
        raise


@contextmanager
def agreed(number=0):
    """A context in which all processes send something, for none of them has failed.

    Parameters
    ----------
    number : int, default=0
        At least 0.

    Yields
    ------
    greatest : int
        Of all processes' numbers.

    Raises
    ------
    FailedElsewhereError
        If one of them has failed.
    """
    with _uninterrupted():
        yield _vote(number)


def greatest(number):
    """The greatest of the numbers, at least 0, that the processes come with."""
    if join().size == 1:
        return number
    with agreed(number) as found:
        return found


def tell(error):
    """Let the others know that this process has failed, once."""
    if _has_failed.get():
        return
    text = in_one_line(error).rstrip(": ")
    with suppress(Exception), _uninterrupted():  # nobody may be left to be told
        _vote(failure=f"{text:.500}")


def _vote(number=0, failure=None):
    world = join()
    failed = 0 if failure is None else world.rank + 1
    if failed:
        _has_failed.set(True)
    try:
        votes = torch.tensor([failed, number], device=_device())
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        failed, number = votes.tolist()
        if failed:
            said = [failure]
            dist.broadcast_object_list(said, failed - 1)
    except RuntimeError as error:
        _has_failed.set(True)
        raise FailedElsewhereError(
            "Another process does not answer, it has died or cannot be reached "
            f"({error!s:.200}); start all of them again."
        ) from error
    if failed and failure is None:
        _has_failed.set(True)
        raise FailedElsewhereError(
            f"Process {failed - 1} of {world.size} has failed, and the others end with it: "
            f"{said[0]}"
        )
    return number


def _device():
    """Where all processes can send from: the CPU, unless the group has NCCL alone."""
    has_cpu = "cpu:" in dist.get_backend_config()
    return torch.device("cpu" if has_cpu else f"cuda:{torch.cuda.current_device()}")


@contextmanager
def _uninterrupted():
    """Ctrl-C waits until what is being sent is sent; for a message cut in two is none."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    noted = []
    signal.signal(signal.SIGINT, lambda *signal_and_frame: noted.append(signal_and_frame))
    try:
        yield
    except FailedElsewhereError:
        noted.clear()  # which ends this process, too
        raise
    finally:
        signal.signal(signal.SIGINT, handler)
        for each in noted:
            signal.getsignal(signal.SIGINT)(*each)
