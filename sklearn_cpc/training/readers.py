"""One image after the other: a file, or the item of a dataset, as an array."""

import random
from functools import partial

import numpy as np
import torch

from . import decoding
from .decoding import BrokenImageError, ImageKind
from .images import as_array
from .messages import in_one_line

__all__ = ["FileReader", "ItemReader", "arrays", "kinds", "kinds_by_reading"]


class _Reader:
    """What a worker has: images by their numbers.

    Parameters
    ----------
    items : sequence
    size : (int, int) or None
        Height and width that all are brought to, see `decoding.resized`.

    Attributes
    ----------
    seed : int or None
        Where items are read in processes of their own: what their random numbers follow from.
    """

    seed = None

    def __init__(self, items, size):
        self.items = items
        self.size = size

    def kind_by_reading(self, row):
        array = self.array(row)
        return ImageKind(array.shape, array.dtype)

    def array(self, row):
        """Pixels of shape (height, width, channels)."""
        array = self.pixels(row)
        return array if self.size is None else decoding.resized(array, self.size)


class FileReader(_Reader):
    """Images of files; `items` are their paths."""

    what = "The list of paths"

    def kind(self, row):
        kind = decoding.examine(self.items[row])
        return kind if self.size is None else kind.of_size(self.size)

    def kind_by_reading(self, row):
        kind = self.kind(row)
        array = self.array(row)
        return kind._replace(shape=array.shape, dtype=array.dtype)

    def pixels(self, row):
        return decoding.pixels(self.items[row])

    def name(self, row):
        return self.items[row]


class ItemReader(_Reader):
    """Images of a dataset; `items` is the dataset.

    Parameters
    ----------
    items, size
        As in `_Reader`.
    channels : {"auto", "first", "last"}
        See `DatasetImages`.
    """

    def __init__(self, items, size, channels):
        super().__init__(items, size)
        self.channels = channels

    @property
    def what(self):
        return f"X={type(self.items).__name__}"

    @property
    def kind(self):
        return self.kind_by_reading  # items have no headers

    def pixels(self, row):
        if self.seed is not None:
            _seed_all(self.seed, row)
        try:
            return self._pixels(self.items[row])
        except BrokenImageError:
            raise
        except Exception as error:
            what = in_one_line(error)
            raise BrokenImageError(
                f"{self.name(row)} cannot be read ({what:.200}); replace it, or leave it out."
            ) from error

    def _pixels(self, item):
        image = item[0] if isinstance(item, tuple | list) else item
        if hasattr(image, "getbands"):
            return decoding.array_of(image)
        is_tensor = isinstance(image, torch.Tensor)
        array = np.asarray(as_array(image))
        if array.ndim not in (2, 3) or array.dtype.kind not in "buif":
            raise TypeError(f"shape {array.shape} and dtype {array.dtype} are no image's")
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if array.ndim == 2:
            return array[:, :, np.newaxis]
        is_first = self.channels == "first" or (self.channels == "auto" and is_tensor)
        return array.transpose(1, 2, 0) if is_first else array

    def name(self, row):
        return f"dataset[{row}]"


def _seed_all(seed, row):
    """Let what an item draws, by whatever library, be its own; only in a worker process."""
    seed = int(np.random.SeedSequence([seed, row]).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def _each(read, reader, rows):
    """What a method of the reader gives for each row, or the error that it raises for one image."""
    read = getattr(reader, read)
    for row in rows:
        try:
            yield read(int(row))
        except BrokenImageError as error:
            yield error.with_traceback(None)


arrays = partial(_each, "array")
kinds = partial(_each, "kind")
kinds_by_reading = partial(_each, "kind_by_reading")
