"""Which part of a batch a process takes, and random numbers as if it had the whole batch."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.data import Dataset

__all__ = [
    "Shard",
    "ShardedAugmentation",
    "ShardedFeed",
    "cut",
    "largest_part",
    "own_generator",
]


def cut(n, n_processes, group=None):
    """Where a batch of n images is cut into one part per process.

    Parameters
    ----------
    n, n_processes : int
    group : int or None, default=None
        Images that are each other's negatives: they stay together where there is a group for every
        process; what fills no group goes to the last one.

    Returns
    -------
    ends : list of int
        Of the parts, from 0 to n, one more than processes.
    unit : int
        Images that were kept together: `group`, or 1.
    """
    unit = group if group and n // group >= n_processes else 1
    ends = [unit * (n // unit * part // n_processes) for part in range(n_processes)]
    return [*ends, n], unit


@dataclass(frozen=True)
class Shard:
    """A process's part of a batch.

    Attributes
    ----------
    rank : int
    ends : list of int
        See `cut`.
    weight : float
        Share of the batch's loss that is this part's.
    """

    rank: int
    ends: list
    weight: float

    @classmethod
    def of(cls, n, rank, n_processes, group=None):
        """The part of this process, weighted by its groups of negatives, or its images."""
        ends, unit = cut(n, n_processes, group)
        part = (ends[rank + 1] - ends[rank]) // unit
        return cls(rank, ends, part / (n // unit))

    @property
    def n_images(self):
        """Of the whole batch."""
        return self.ends[-1]

    @property
    def rows(self):
        """Those of the batch that are this process's."""
        return slice(self.ends[self.rank], self.ends[self.rank + 1])

    @property
    def sizes(self):
        """Images of each process."""
        return [stop - start for start, stop in pairwise(self.ends)]


def largest_part(images):
    """Images that a process has of this batch at the most, so that all count alike."""
    return max(images.shard.sizes) if hasattr(images, "shard") else len(images)


class ShardedFeed(Dataset):
    """An `ImageFeed` of which a process is given its part of every batch.

    Parameters
    ----------
    feed : ImageFeed
        All images: every process draws the same order, and reads its own part only.
    rank, n_processes : int
    group : int or None
        See `cut`.
    """

    def __init__(self, feed, rank, n_processes, group=None):
        self.feed = feed
        self.place = rank, n_processes, group

    def __len__(self):
        return len(self.feed)

    def __getattr__(self, name):
        if name == "feed":  # not yet there while it is unpickled
            raise AttributeError(name)
        return getattr(self.feed, name)

    def batch(self, index):
        """This process's part of the batch of these rows, with its `shard` as an attribute."""
        return next(self.batches([index]))

    def batches(self, indices):
        """This process's part of a batch for each index, see `batch`."""
        shards = [(Shard.of(len(index), *self.place), index) for index in indices]
        parts = self.feed.batches(index[shard.rows] for shard, index in shards)
        for (shard, _), images in zip(shards, parts, strict=True):
            images.shard = shard
            yield images


class ShardedAugmentation:
    """An augmentation that changes a part of a batch as it would change it within the batch.

    Where every step draws a fixed number of values for each image or patch, all processes draw for
    the whole batch from equal generators and keep what is theirs. Where the number
    of values depends on earlier draws, as in elastic deformation, each process draws
    with a generator of its own, seeded from the common one: the changes are as likely, and are
    others than those of another number of processes.

    Parameters
    ----------
    augmentation : Augmentation
    """

    def __init__(self, augmentation):
        self.augmentation = augmentation
        self.is_exact = draws_per_row(augmentation)
        self.shard = None

    @property
    def changes_patches(self):
        return self.augmentation.changes_patches

    def images(self, images, generator=None, max_shift=None):
        return self._changed(self.augmentation.images, images, generator, max_shift)

    def patches(self, patches, generator=None, fill=0.5):
        return self._changed(self.augmentation.patches, patches, generator, fill)

    def _changed(self, change, rows, generator, setting):
        if not self.is_exact:
            return change(rows, own_generator(generator, self.shard.rank), setting)
        with DrawForAll(self.shard, len(rows)):
            return change(rows, generator, setting)


def own_generator(generator, rank):
    """A generator of a process's own, seeded by one draw from that which all have in one state."""
    device = generator.device
    seed = torch.randint(2**31 - 1, (), device=device, generator=generator).item()
    return torch.Generator(device).manual_seed(seed + rank)


def draws_per_row(augmentation):
    """Whether what is drawn for an image or patch never depends on what was drawn for others."""
    a = augmentation
    some_only = a.elastic or a.shear or not {a.autoaugment, a.histogram} <= {0, 1}
    of_others = a.autoaugment and "SamplePairing" in (a.primitives or ())
    own = a.image_transform is not None or a.patch_transform is not None
    return not (some_only or of_others or own)


class DrawForAll(TorchFunctionMode):
    """Within it random numbers are drawn for the whole batch, and those of a part are given.

    Parameters
    ----------
    shard : Shard
    n_rows : int
        Images, or patches of images, of the part: the first length of all that is drawn.
    """

    FUNCTIONS = (torch.rand, torch.randn, torch.randint)

    def __init__(self, shard, n_rows):
        super().__init__()
        mine = shard.rows
        per_image = n_rows // (mine.stop - mine.start)
        self.n_all = shard.n_images * per_image
        self.mine = slice(mine.start * per_image, mine.stop * per_image)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function not in self.FUNCTIONS:
            return function(*args, **kwargs)
        if isinstance(args[-1], tuple):
            args = (*args[:-1], (self.n_all, *args[-1][1:]))
        else:
            args = (self.n_all, *args[1:])
        return function(*args, **kwargs)[self.mine]
