"""One training by several processes: who they are, and what they tell each other."""

import atexit
import multiprocessing
import os
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import torch
from skorch.callbacks import Callback
from torch import distributed as dist

from ..nn import TargetQueue
from .callbacks import EpochRecord, StopRequest
from .shards import Shard, ShardedAugmentation, ShardedFeed

__all__ = ["World", "alone", "is_main_process", "join", "local_cuda", "shared_random_state"]

# Numbers in a message of gradients or weights: 64 MiB in float32.
BUCKET = 2**24
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


def is_main_process():
    """Whether this is the process that prints and writes: the only one, or number 0."""
    return join().rank == 0


def local_cuda():
    """The CUDA device of this process: the one of its number on this machine."""
    if join().size == 1:
        return "cuda"
    number = os.environ.get("LOCAL_RANK")
    index = torch.cuda.current_device() if number is None else int(number)
    index %= torch.cuda.device_count()
    torch.cuda.set_device(index)  # NCCL talks from the current device
    return f"cuda:{index}"


def shared_random_state(random_state):
    """The random state of process 0, which all have to draw from alike."""
    world = join()
    if world.size == 1:
        return random_state
    state = [random_state.get_state()]
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


def all_true(flag):
    """Whether a boolean tensor is true in all processes."""
    if join().size == 1:
        return bool(flag)
    flag = flag.float()
    dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag)


class DataParallel(Callback):
    """Trains a net together with the other processes, as one process would with whole batches.

    Every process goes through its part of each batch; the gradients are added up, each weighted by
    its share of the batch, before they are clipped and a step is taken. All start from the
    weights of process 0, and end with the same.

    Parameters
    ----------
    world : World
    net : CPCNet
    feed : ImageFeed
        All images.
    gather : bool
        Whether the latents and contexts of all processes are brought together before the loss, so
        that it is that of the whole batch; otherwise each takes negatives from its own part.

    Attributes
    ----------
    parts : ShardedFeed
        This process's part of every batch.
    stop : SharedStop
    """

    def __init__(self, world, net, feed, gather):
        module = net.module_
        group = module.negative_images if module.negatives in ("groups", "image") else None
        self.world = world
        self.gather = gather
        self.parts = ShardedFeed(feed, world.rank, world.size, None if gather else group)
        self.stop = SharedStop()

    def on_train_begin(self, net, **kwargs):
        module = net.module_
        _check_alike(net, self.parts.feed)
        with torch.no_grad():
            broadcast([*module.parameters(), *module.buffers()])
        self.augmentation_ = module.augmentation
        module.augmentation = ShardedAugmentation(module.augmentation)
        module.gather = Gather() if self.gather else None
        # Dropout draws from torch's own generators, which the caller has set apart.
        for generator in _global_generators(net.device) if self.world.rank else ():
            generator.manual_seed(generator.initial_seed() + self.world.rank)

    def on_batch_begin(self, net, batch=None, training=None, **kwargs):
        shard = batch[0].shard
        self.weight_ = 1 / self.world.size if self.gather else shard.weight
        net.module_.augmentation.shard = shard
        if self.gather:
            net.module_.gather.shard = shard

    @torch.no_grad()
    def on_grad_computed(self, net, named_parameters, **kwargs):
        grads = [p.grad for _, p in named_parameters if p.grad is not None]
        stop = torch.tensor([float(self.stop.requested)], device=net.device)
        for grad in grads:
            grad.mul_(self.weight_)
        add_up([*grads, stop])
        self.stop.is_agreed = bool(stop)

    def on_train_end(self, net, **kwargs):
        net.module_.augmentation = self.augmentation_
        del net.module_.gather
        for queue in net.module_.modules():
            if isinstance(queue, TargetQueue):  # else it would be each process's own
                queue.kept.zero_()
                queue.clear()


class SharedStop(StopRequest):
    """Ends training after the batch in which any process was asked to, in all of them."""

    def __init__(self):
        super().__init__()
        self.is_agreed = False

    @property
    def is_sudden(self):
        """Whether this process alone is about to end."""
        return self.requested and not self.is_agreed

    def on_batch_end(self, net, **kwargs):
        if self.is_agreed:
            self.requested = self.granted = True
            raise KeyboardInterrupt


class SharedRecord(EpochRecord):
    """The means of an epoch over all processes."""

    def __init__(self, parallel):
        self.parallel = parallel

    def weight(self, batch):
        return self.parallel.weight_ * batch[0].shard.n_images

    def on_epoch_end(self, net, **kwargs):
        # The others would not answer after a second Ctrl-C.
        if not self.parallel.stop.is_sudden:
            counted = self.sums_.new_tensor([self.n_images_])
            add_up([self.sums_, counted])
            self.n_images_ = round(counted.item())
        super().on_epoch_end(net, **kwargs)


class Gather:
    """Brings the rows of all processes together, in order, with their gradient.

    What follows is computed by every process alike, and the mean of their gradients is taken: so
    a process's own rows get their gradient times the number of processes, and nothing is sent in
    the backward pass.
    """

    shard = None

    def __call__(self, x):
        return _Gathered.apply(x, self.shard)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, shard):
        ctx.shard = shard
        most = max(shard.sizes)
        padded = x.new_zeros(most, *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in shard.sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, shard.sizes, strict=True)])

    @staticmethod
    def backward(ctx, grad):
        return grad[ctx.shard.rows] * len(ctx.shard.sizes), None


def add_up(tensors):
    """Put the sum over all processes in the place of each tensor."""
    _in_buckets(tensors, dist.all_reduce)


def broadcast(tensors):
    """Put the tensors of process 0 in the place of all others'."""
    _in_buckets(tensors, lambda flat: dist.broadcast(flat, 0))


def _in_buckets(tensors, send):
    buckets = {}
    for tensor in tensors:
        of_kind = buckets.setdefault(tensor.dtype, [[]])
        if of_kind[-1] and sum(t.numel() for t in of_kind[-1]) + tensor.numel() > BUCKET:
            of_kind.append([])
        of_kind[-1].append(tensor)
    for bucket in (bucket for of_kind in buckets.values() for bucket in of_kind):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        send(flat)
        parts = flat.split([tensor.numel() for tensor in bucket])
        for tensor, part in zip(bucket, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))


def _global_generators(device):
    device = torch.device(device)
    if device.type == "cuda":
        return torch.default_generator, torch.cuda.default_generators[device.index or 0]
    return (torch.default_generator,)


def _check_alike(net, feed):
    """Every process must hold the same images, or the orders that they draw are not one order."""
    world = join()
    mine = {
        "images": len(feed),
        "image shape (height, width, channels)": tuple(feed.images.shape),
        "first image's sum": float(feed.batch(slice(1)).double().sum()),
        "batch_size": net.batch_size,
        "epochs before": len(net.history),
        "weights": sum(p.numel() for p in net.module_.parameters()),
    }
    everyone = [None] * world.size
    dist.all_gather_object(everyone, mine)
    for rank, theirs in enumerate(everyone):
        for name, value in theirs.items():
            if value != everyone[0][name]:
                raise ValueError(
                    f"process {rank} has {name}={value} and process 0 {everyone[0][name]}; all "
                    "processes must be given the same images and settings: each takes its own part "
                    "of every batch."
                )
