"""Training in step with other processes: parts of each batch, one gradient, one record."""

import torch
from skorch.callbacks import Callback
from torch import distributed as dist

from ..nn import TargetQueue
from .callbacks import EpochRecord, StopRequest
from .distributed import draw_apart, join
from .in_step import agreed
from .shards import ShardedAugmentation, ShardedFeed, own_generator

__all__ = ["FINE", "FULL", "SPOILED", "DataParallel", "ElsewhereError", "SharedRecord"]

# How a process's part of a step went, the worst last: all of them answer to the worst.
FINE, SPOILED, FULL = range(3)
# Numbers in a message of gradients or weights: 64 MiB in float32.
BUCKET = 2**24


class ElsewhereError(Exception):
    """A step has gone wrong in another process, in the way of its `worst`."""

    def __init__(self, worst):
        super().__init__(worst)
        self.worst = worst


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
    keeper : CheckpointKeeper or None, default=None
        When it writes within an epoch is up to process 0's clock.

    Attributes
    ----------
    parts : ShardedFeed
        This process's part of every batch.
    stop : SharedStop
    """

    def __init__(self, world, net, feed, gather, keeper=None):
        module = net.module_
        group = module.negative_images if module.negatives in ("groups", "image") else None
        self.world = world
        self.gather = gather
        self.keeper = keeper
        self.parts = ShardedFeed(feed, world.rank, world.size, None if gather else group)
        self.stop = SharedStop()

    def on_train_begin(self, net, **kwargs):
        module = net.module_
        _check_alike(net, self.parts.feed)
        with torch.no_grad():
            broadcast([*module.parameters(), *module.buffers()])
        self.augmentation_ = module.augmentation
        module.augmentation = ShardedAugmentation(module.augmentation)
        # What is drawn for a part depends on its size, and parts are not all of one size.
        module.gather = Gather() if self.gather else None
        module.own_generator = None if self.gather else self._own_generator
        draw_apart(net.device)  # from torch's own generators, which the caller has put aside

    def on_batch_begin(self, net, batch=None, training=None, **kwargs):
        shard = batch[0].shard
        self.weight_ = 1 / self.world.size if self.gather else shard.weight
        net.module_.augmentation.shard = shard
        if self.gather:
            net.module_.gather.shard = shard

    def _own_generator(self, generator):
        return own_generator(generator, self.world.rank)

    @torch.no_grad()
    def on_grad_computed(self, net, named_parameters, **kwargs):
        grads = [p.grad for _, p in named_parameters if p.grad is not None]
        is_due = self.keeper is not None and self.world.rank == 0 and self.keeper.is_due()
        asked = torch.tensor([self.stop.requested, is_due], dtype=torch.float32, device=net.device)
        if grads:
            torch._foreach_mul_(grads, self.weight_)
        add_up([*grads, asked])
        self.stop.is_agreed, is_due = asked.bool().tolist()
        if self.keeper is not None:
            self.keeper.is_agreed = is_due

    def on_train_end(self, net, **kwargs):
        net.module_.augmentation = self.augmentation_
        del net.module_.gather, net.module_.own_generator
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
    """The means of an epoch over all processes.

    It is kept as one process's: another number of them may go on with it.
    """

    kept_as = EpochRecord.__name__

    def __init__(self, parallel):
        self.parallel = parallel

    def weight(self, batch):
        return self.parallel.weight_ * batch[0].shard.n_images

    def on_epoch_end(self, net, **kwargs):
        # The others would not answer after a second Ctrl-C.
        if not self.parallel.stop.is_sudden:
            self.sums_ = self.sums_.to(net.device)
            self.sums_, self.n_images_ = self._added_up()
        super().on_epoch_end(net, **kwargs)

    def _added_up(self):
        sums, counted = self.sums_.clone(), self.sums_.new_tensor([self.n_images_])
        add_up([sums, counted])
        return sums, round(counted.item())

    def state_dict(self):
        """The sums over all processes, which must ask for it together."""
        state = super().state_dict()
        if self.sums_ is not None:
            state["sums"], state["n_images"] = self._added_up()
        return state

    def load_state_dict(self, state):
        super().load_state_dict(state)
        if self.sums_ is not None and self.parallel.world.rank:  # they are process 0's now
            self.sums_, self.n_images_ = torch.zeros_like(self.sums_), 0


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
        # A process that has run out of memory does not come here: it says so instead.
        with agreed(FINE) as worst:
            if worst != FINE:
                raise ElsewhereError(worst)
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
    buckets, filled = {}, {}
    for tensor in tensors:
        of_kind = buckets.setdefault(tensor.dtype, [[]])
        total = filled.get(tensor.dtype, 0) + tensor.numel()
        if of_kind[-1] and total > BUCKET:
            of_kind.append([])
            total = tensor.numel()
        of_kind[-1].append(tensor)
        filled[tensor.dtype] = total
    for bucket in (bucket for of_kind in buckets.values() for bucket in of_kind):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        with agreed():
            send(flat)
        parts = flat.split([tensor.numel() for tensor in bucket])
        for tensor, part in zip(bucket, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))


def _check_alike(net, feed):
    """Every process must hold the same images, or the orders that they draw are not one order."""
    world = join()
    mine = {
        "images": len(feed),
        "image shape (height, width, channels)": tuple(feed.images.shape),
        "first image's sum": float(feed.batch(slice(1)).double().sum()),
        "batch_size": net.batch_size,
        "accumulate": net.module_.accumulate,
        "epochs before": len(net.history),
        "weights": sum(p.numel() for p in net.module_.parameters()),
    }
    everyone = [None] * world.size
    with agreed():
        dist.all_gather_object(everyone, mine)
    for rank, theirs in enumerate(everyone):
        for name, value in theirs.items():
            if value != everyone[0][name]:
                raise ValueError(
                    f"process {rank} has {name}={value} and process 0 {everyone[0][name]}; all "
                    "processes must be given the same images and settings: each takes its own part "
                    "of every batch."
                )
