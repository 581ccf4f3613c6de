"""Contexts that calls of the estimator run in."""

import threading
from contextlib import ExitStack, contextmanager

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


@contextmanager
def threads(n_jobs):
    """Torch's number of threads, set and put back; None leaves it, -1 are all cores, -2 but one."""
    before = torch.get_num_threads()
    if n_jobs is not None:
        torch.set_num_threads(max(1, n_jobs if n_jobs > 0 else joblib.cpu_count() + 1 + n_jobs))
    try:
        yield
    finally:
        torch.set_num_threads(before)
