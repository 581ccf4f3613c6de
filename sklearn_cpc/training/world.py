"""Who trains together: the processes of torch.distributed."""

import atexit
import multiprocessing
import os
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import distributed as dist

__all__ = ["World", "alone", "join"]

_alone = ContextVar("alone", default=False)


@dataclass(frozen=True)
class World:
    """The processes that train together.

    Attributes
    ----------
    rank : int
        Number of this process, from 0.
    size : int
        How many there are; 1 where nothing is shared.
    """

    rank: int = 0
    size: int = 1


def join():
    """The processes that train together: those of `torch.distributed`.

    Where torchrun has started this process and nobody has called
    `torch.distributed.init_process_group`, it is called here, with NCCL for CUDA tensors and Gloo
    for others, and undone when Python ends. A worker process that this one started, as
    joblib's, is not one of them.

    Returns
    -------
    world : World

    Raises
    ------
    ValueError
        If the environment has half of what torchrun sets.
    """
    if _alone.get() or not dist.is_available():
        return World()
    if not dist.is_initialized() and _is_launched():
        both = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if both else "gloo")
        atexit.register(_leave)
    if not dist.is_initialized():
        return World()
    return World(dist.get_rank(), dist.get_world_size())


def _is_launched():
    if int(os.environ.get("WORLD_SIZE", 1)) < 2 or multiprocessing.parent_process() is not None:
        return False
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} in the environment asks for several processes, "
            f"but {', '.join(missing)} must be there, too; start the script with torchrun, or "
            "unset WORLD_SIZE."
        )
    return True


def _leave():
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def alone():
    """Within it this process trains on its own, whoever else there is.

    For what only one of the processes fits, or each fits for itself, such as one setting of a
    search.

    Examples
    --------
    >>> from sklearn_cpc.training.distributed import alone, join
    >>> with alone():
    ...     join()
    World(rank=0, size=1)
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)
