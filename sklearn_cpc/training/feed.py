"""Batches of images on the device: resident there when they fit, else brought batch by batch."""

import torch
from torch.utils.data import Dataset

__all__ = ["ImageFeed", "TrainingBatches"]

SHARE_OF_FREE_MEMORY = 0.4
SIGNED = {"uint16": "int32", "uint32": "int64", "uint64": "float64"}


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
            return self.scale.apply(self.resident[index])
        rows = self.images.rows(index)
        # Slices are views: torch wants to own what it reads, and knows no negative strides.
        own = rows.flags.writeable and min(rows.strides) >= 0
        rows = torch.from_numpy(rows if own else rows.copy())
        if self.device.type == "cuda":
            rows = rows.pin_memory()  # the copy need not be waited for
        return self.scale.apply(rows.to(self.device, non_blocking=True))

    def blocks(self, size, start=0):
        """All images from `start` on in order, `size` at a time."""
        for first in range(start, len(self), size):
            yield self.batch(slice(first, first + size))

    def _fits(self):
        if self.device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.device)
        return self.images.data.nbytes <= SHARE_OF_FREE_MEMORY * free

    def _send_all(self):
        parts = []
        for start in range(0, len(self), 4096):
            rows = self.images.rows(slice(start, start + 4096))
            # torch cannot index wide unsigned integers on a device.
            rows = rows.astype(SIGNED.get(rows.dtype.name, rows.dtype))
            parts.append(torch.from_numpy(rows).to(self.device))
        return torch.cat(parts)


class TrainingBatches:
    """Shuffled passes over a feed, each seeded by the next draw of `random_state`.

    Batches differ in size by one image at the most, so that the number of candidates, and the
    loss with it, hardly changes from batch to batch.

    Yields
    ------
    images : Tensor of shape (batch, channels, height, width)
    generator : torch.Generator
        On the images' device, for everything else that is drawn in the pass.
    """

    def __init__(self, feed, batch_size, random_state):
        self.feed = feed
        self.n_batches = -(-len(feed) // batch_size)
        self.random_state = random_state

    def __len__(self):
        return self.n_batches

    def __iter__(self):
        seed = int(self.random_state.randint(2**31 - 1))
        generator = torch.Generator(self.feed.device).manual_seed(seed)
        order = torch.randperm(len(self.feed), generator=torch.Generator().manual_seed(seed))
        for index in order.tensor_split(self.n_batches):
            yield self.feed.batch(index.numpy()), generator
