"""Contexts that calls of the estimator run in."""

from contextlib import contextmanager

import torch

from ..training import workers_ended
from ..training.distributed import in_step


@contextmanager
def fitting(estimator):
    """A call that changes the estimator, in all processes alike, or in none."""
    with all_or_nothing(estimator), in_step(), workers_ended():
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
    """Torch's number of threads, set and put back; None leaves it."""
    before = torch.get_num_threads()
    if n_jobs is not None:
        torch.set_num_threads(n_jobs)
    try:
        yield
    finally:
        torch.set_num_threads(before)
