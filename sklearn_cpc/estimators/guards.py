"""Contexts that calls of the estimator run in."""

import threading
from contextlib import ExitStack, contextmanager, nullcontext

import joblib
import torch

from ..training import workers_ended
from ..training.distributed import in_step


@contextmanager
def fitting(estimator):
    """A call that changes the estimator, in all processes alike, or in none."""
    with all_or_nothing(estimator), in_step(), workers_ended(), own_torch():
        yield


class _Float32:
    """Torch's default dtype, which all threads share, from the first that enters to the last."""

    def __init__(self):
        self.lock = threading.Lock()
        self.n_within = 0

    def __enter__(self):
        with self.lock:
            if not self.n_within:
                self.before = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)
            self.n_within += 1

    def __exit__(self, *error):
        with self.lock:
            self.n_within -= 1
            if not self.n_within:
                torch.set_default_dtype(self.before)


_float32 = _Float32()


@contextmanager
def own_torch():
    """What torch has by default, whatever the caller has set it to.

    Another default dtype or an outer autocast would train another network, another default device
    or no gradient none at all.
    """
    with ExitStack() as stack:
        stack.enter_context(_float32)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


@contextmanager
def all_or_nothing(estimator):
    """A call that fails leaves the estimator as it was."""
    before = estimator.__dict__.copy()
    try:
        yield
    except BaseException:
        estimator.__dict__.clear()
        estimator.__dict__.update(before)
        raise


class _Threads:
    """Torch's number of threads, which a thread takes over from whoever has set it last.

    Calls that overlap in several threads all leave the number that the first of them found.
    """

    def __init__(self):
        self.lock = threading.Lock()
        self.n_within = 0
        self.own = threading.local()

    @contextmanager
    def set_to(self, n):
        with self.lock:
            is_nested = getattr(self.own, "depth", 0) > 0
            if not self.n_within:
                self.before = torch.get_num_threads()
            before = torch.get_num_threads() if is_nested else self.before
            self.n_within += 1
            self.own.depth = getattr(self.own, "depth", 0) + 1
            torch.set_num_threads(n)
        try:
            yield
        finally:
            with self.lock:
                self.n_within -= 1
                self.own.depth -= 1
                torch.set_num_threads(before)


_threads = _Threads()


def threads(n_jobs):
    """Torch's number of threads, set and put back; None leaves it, -1 are all cores, -2 but one."""
    if n_jobs is None:
        return nullcontext()
    return _threads.set_to(max(1, n_jobs if n_jobs > 0 else joblib.cpu_count() + 1 + n_jobs))
