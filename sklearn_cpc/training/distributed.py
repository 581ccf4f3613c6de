"""One training by several processes: who they are, and what they tell each other."""

import os

import numpy as np
import torch
from torch import distributed as dist

from .in_step import agreed, greatest, in_step
from .shards import Shard
from .world import World, alone, join

__all__ = [
    "World",
    "alone",
    "cuda_indices",
    "draw_apart",
    "from_main",
    "greatest",
    "in_step",
    "is_main_process",
    "join",
    "local_cuda",
    "shared_random_state",
    "smallest_part",
]

SAME_KIND = {kind.__name__: kind for kind in (ValueError, TypeError, OSError, ImportError)}


def is_main_process():
    """Whether this is the process that prints and writes: the only one, or number 0."""
    return join().rank == 0


def local_cuda():
    """The CUDA device of this process: the one of its number on this machine."""
    if join().size == 1:
        return "cuda"
    local = os.environ.get("LOCAL_RANK")
    # Asked only where it is needed: the question takes memory on the first device.
    index = torch.cuda.current_device() if local is None else int(local)
    index %= torch.cuda.device_count()
    torch.cuda.set_device(index)  # NCCL talks from the current device
    return f"cuda:{index}"


def shared_random_state(random_state):
    """The random state of process 0, which all have to draw from alike."""
    world = join()
    if world.size == 1:
        return random_state
    state = [random_state.get_state()]
    with agreed():
        dist.broadcast_object_list(state, 0)
    if world.rank == 0:
        return random_state  # itself, so that the next fit draws on from it
    shared = np.random.RandomState()
    shared.set_state(state[0])
    return shared


def smallest_part(n, negatives_are_gathered=False, group=None):
    """Images among which the loss of a batch of n finds its negatives, at the least.

    Raises
    ------
    ValueError
        If there are more processes than images.
    """
    world = join()
    if n < world.size:
        raise ValueError(
            f"a batch of {n} images cannot be shared by {world.size} processes, each of which "
            "needs one at least; pass a larger batch_size or more images, or start fewer processes."
        )
    if negatives_are_gathered or world.size == 1:
        return n
    return min(Shard.of(n, world.rank, world.size, group).sizes)


def from_main(find):
    """What process 0 finds, told to all; the others do not look, but must come here, too.

    For what is on a disk that the others may not see, and for numbers that may differ between
    machines in the last digit.

    Parameters
    ----------
    find : callable
        Without arguments; gives what can be pickled.

    Raises
    ------
    Exception
        What `find` raises in process 0; in the others of the same kind where it is one of Python's
        usual ones, else RuntimeError.
    """
    world = join()
    if world.size == 1:
        return find()
    told, error = [None, None], None
    if world.rank == 0:
        try:
            told[0] = find()
        except Exception as raised:
            error = raised
            told[1] = type(raised).__name__, str(raised)
    with agreed():
        dist.broadcast_object_list(told, 0)
    if error is not None:
        raise error
    if told[1] is not None:
        kind, text = told[1]
        raise SAME_KIND.get(kind, RuntimeError)(text)
    return told[0]


def draw_apart(device):
    """Let layers that draw from torch's global generators, as Dropout, draw in each for itself.

    The generators are in one state in all processes, and stay in it in number 0.
    """
    rank = join().rank
    if not rank:
        return
    seed = int(torch.randint(2**31 - 1, ())) + rank
    torch.default_generator.manual_seed(seed)
    for index in cuda_indices(device):
        torch.cuda.default_generators[index].manual_seed(seed)


def cuda_indices(device):
    """The number of a CUDA device, that of the current one where it has none; of others nothing."""
    device = torch.device(device)
    if device.type != "cuda":
        return []
    return [torch.cuda.current_device() if device.index is None else device.index]
