"""Batches of images on the device: resident there when they fit, else brought batch by batch."""

import numpy as np
import torch
from torch.utils.data import Dataset

from .lazy import LazyImages
from .memory import free_bytes
from .read_ahead import read_ahead

__all__ = ["ImageFeed", "TrainingBatches"]

SHARE_OF_FREE_MEMORY = 0.4
BLOCK_BYTES = 2**28  # of images on their way to the device
# Unsigned integers that torch cannot index on a device: what their bits are kept as there, what
# that is widened to before the sign is taken off, the mask that does it, and the kind of the rest.
AS_BITS = {
    "uint16": (np.int16, torch.int32, 2**16 - 1, torch.float32),
    "uint32": (np.int32, torch.int64, 2**32 - 1, torch.float64),
}


class ImageFeed(Dataset):
    """Images as float tensors in [0, 1] on a device, in the pixels' own dtype until then.

    Parameters
    ----------
    images : Images
    scale : PixelScale
    device : torch.device
        On a CUDA device, images that take less than two fifths of its free memory are sent
        there once.
    """

    def __init__(self, images, scale, device):
        self.images = images
        self.scale = scale
        self.device = torch.device(device)
        self.resident = self._send_all() if self._fits() else None

    def __len__(self):
        return len(self.images)

    def batch(self, index):
        """Images of these rows, a slice or an integer array: (batch, channels, height, width)."""
        if self.resident is not None:
            if not isinstance(index, slice):
                index = torch.as_tensor(index, device=self.device)
            return self.scale.apply(self._as_numbers(self.resident[index]))
        return self._place(self.images.rows(index))

    def _place(self, rows):
        # Slices are views: torch wants to own what it reads, and knows no negative strides.
        own = rows.flags.writeable and min(rows.strides) >= 0
        rows = torch.from_numpy(rows if own else rows.copy())
        if self.device.type == "cuda":
            rows = rows.pin_memory()  # the copy need not be waited for
        return self.scale.apply(rows.to(self.device, non_blocking=True))

    def batches(self, indices):
        """A batch for each index; the next is read ahead where reading takes time of its own."""
        # A device that computes need not wait for pages of a memory map either.
        is_slow = isinstance(self.images.data, LazyImages) or self.device.type == "cuda"
        if self.resident is None and is_slow:
            yield from map(self._place, read_ahead(self.images.rows, indices))
        else:
            yield from map(self.batch, indices)

    def begin_pass(self, seed):
        """Let what items draw at random, where they are read elsewhere, follow from this seed."""
        if isinstance(self.images.data, LazyImages):
            self.images.data.seed = seed

    def blocks(self, size, start=0):
        """All images from `start` on in order, `size` at a time."""
        starts = range(start, len(self), size)
        yield from self.batches(slice(first, first + size) for first in starts)

    def _fits(self):
        if self.device.type != "cuda":
            return False
        return self.images.data.nbytes <= SHARE_OF_FREE_MEMORY * free_bytes(self.device)

    def _as_numbers(self, rows):
        """Pixels of resident rows, exactly."""
        if self.images.data.dtype.name not in AS_BITS:
            return rows
        _, wider, mask, kind = AS_BITS[self.images.data.dtype.name]
        return rows.to(wider).bitwise_and_(mask).to(kind)

    def _send_all(self):
        """All rows on the device, block by block into their place: nothing is there twice."""
        resident = None
        size = max(1, min(4096, BLOCK_BYTES * len(self) // self.images.data.nbytes))
        for start in range(0, len(self), size):
            rows = self.images.rows(slice(start, start + size))
            rows = torch.from_numpy(_storable(rows))
            if resident is None:
                resident = _like_rows(rows, len(self), self.device)
            resident[start : start + len(rows)].copy_(rows)
        return resident


def _storable(rows):
    """A copy that torch may own, of a dtype that it can index everywhere."""
    if rows.dtype.name in AS_BITS:
        return rows.copy().view(AS_BITS[rows.dtype.name][0])
    return rows.astype(np.float64 if rows.dtype.name == "uint64" else rows.dtype)


def _like_rows(rows, n, device):
    """An empty tensor of n such rows, laid out as they are."""
    is_last = rows.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_last else torch.contiguous_format
    shape = (n, *rows.shape[1:])
    return torch.empty(shape, dtype=rows.dtype, device=device, memory_format=layout)


class TrainingBatches:
    """Shuffled passes over a feed, each seeded by the next draw of `random_state`.

    Batches differ in size by one image at the most, so that the number of candidates, and the
    loss with it, hardly changes from batch to batch.

    Parameters
    ----------
    feed : ImageFeed
    batch_size : int
    random_state : numpy.random.RandomState
    rows : ndarray of int or None, default=None
        Images to train on. None: all.

    Yields
    ------
    images : Tensor of shape (batch, channels, height, width)
    generator : torch.Generator
        On the images' device, for everything else that is drawn in the pass.
    """

    def __init__(self, feed, batch_size, random_state, rows=None):
        self.feed = feed
        self.rows = rows
        self.n_images = len(feed) if rows is None else len(rows)
        self.n_batches = -(-self.n_images // batch_size)
        self.random_state = random_state
        self.n_given = 0  # batches of the pass
        self._is_taken_up = False

    def __len__(self):
        return self.n_batches

    def __iter__(self):
        if not self._is_taken_up:
            self._begin(int(self.random_state.randint(2**31 - 1)))
        self._is_taken_up = False
        order = torch.randperm(self.n_images, generator=torch.Generator().manual_seed(self.seed))
        indices = [index.numpy() for index in order.tensor_split(self.n_batches)[self.n_given :]]
        if self.rows is not None:
            indices = [self.rows[index] for index in indices]
        for images in self.feed.batches(indices):
            self.n_given += 1
            yield images, self.generator

    def _begin(self, seed):
        self.seed = seed
        self.feed.begin_pass(seed)
        self.n_given = 0
        self.generator = torch.Generator(self.feed.device).manual_seed(seed)

    def state_dict(self):
        """Where the pass is, between two batches."""
        return {
            "seed": self.seed,
            "n_given": self.n_given,
            "n_batches": self.n_batches,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state):
        """Let the next pass go on from there."""
        if not 0 <= state["n_given"] <= self.n_batches:
            raise ValueError(f"n_given={state['n_given']} of {self.n_batches} batches")
        if state.get("n_batches", self.n_batches) != self.n_batches:
            raise ValueError(f"{state['n_batches']} batches, and here {self.n_batches}")
        self._begin(state["seed"])
        self.generator.set_state(state["generator"])
        self.n_given = state["n_given"]
        self._is_taken_up = True
