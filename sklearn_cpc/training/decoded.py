"""Images that are decoded one by one: files, and the items of datasets."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from . import decoding
from .decoding import BrokenImageError
from .lazy import LazyImages

__all__ = ["DatasetImages", "ImageFiles"]

ROWS_OF_A_CHECK = 2**16
# Threads that decode, at most: beyond that they wait for one another.
MOST_THREADS = 16


class DecodedImages(LazyImages):
    """Images decoded one by one, of shape (n, height, width, channels).

    Parameters
    ----------
    items : sequence
        One for each image.
    size : (int, int) or None
        Height and width that all are brought to, see `decoding.resized`.
    broken : {"raise", "drop", "zeros"}
        What is done about an item that cannot be read. "raise": it is named. "drop": all items
        are read once, and those that cannot be are left out, with a warning. "zeros": it is
        read as zeros, and found in `broken`.
    n_threads : int
        Threads that decode. The images are the same for any number.
    """

    channels = "last"

    def __init__(self, items, size, broken, n_threads):
        self.items = items
        self.size = size
        self.lenient = broken == "zeros"
        self._threads = ThreadPoolExecutor(n_threads) if n_threads > 1 else None
        self.n_threads = n_threads
        rows, kind = self._check(broken == "drop")
        self.kept = None if len(rows) == len(items) else rows
        shape, dtype = kind
        super().__init__((len(rows), *shape), dtype)

    def _check(self, drop):
        """Rows to go on with, and the shape and dtype that all have."""
        kinds = self._each(self._kind_by_reading if drop else self._kind, self._rows_to_check(drop))
        first, failed, n_broken = None, None, 0
        good = np.ones(len(self.items), bool)
        for row, kind in kinds:
            if isinstance(kind, BrokenImageError):
                failed, n_broken, good[row] = failed or kind, n_broken + 1, False
            elif first is None:
                first = row, kind
            elif kind != first[1]:
                raise ValueError(self._difference(*first, row, kind))
        if first is None or (failed and not (drop or self.lenient)):
            way_out = "" if drop or self.lenient else " Or pass broken_images='skip'."
            raise BrokenImageError(
                f"{n_broken} of {len(self.items)} images cannot be read. The first: "
                f"{failed}{way_out}"
            ) from failed
        if failed and drop:
            warnings.warn(
                f"{n_broken} of {len(self.items)} images cannot be read and are left out. The "
                f"first: {failed}",
                RuntimeWarning,
                stacklevel=8,
            )
        rows = np.flatnonzero(good) if drop else np.arange(len(self.items))
        return rows, first[1]

    def _rows_to_check(self, drop):
        return range(len(self.items))

    def _each(self, act, rows):
        """(row, what `act` gives for it or the error it raises), in order, by all threads."""
        for window in _cut(rows, ROWS_OF_A_CHECK):
            blocks = _cut(window, 64)
            for block, results in zip(blocks, self._map(_caught, act, blocks), strict=True):
                yield from zip(block, results, strict=True)

    def _map(self, act, first, blocks):
        if self._threads is None:
            return (act(first, block) for block in blocks)
        return self._threads.map(lambda block: act(first, block), blocks)

    def _kind_by_reading(self, row):
        array = self._read(row)
        return array.shape, array.dtype

    def _difference(self, row, kind, other, other_kind):
        """Words for two images that cannot be in one array."""
        (height, width, n_channels), dtype = kind
        (other_height, other_width, n_other), other_dtype = other_kind
        one, two = self._item_name(row), self._item_name(other)
        if (height, width) != (other_height, other_width):
            side = min(height, width, other_height, other_width)
            return (
                f"The images are of mixed sizes: {one} is {height}x{width} and {two} "
                f"{other_height}x{other_width} (height x width); pass resize={side}, or another "
                "size, which scales and crops all to it."
            )
        are_pictures = max(n_channels, n_other) <= 4 and dtype == other_dtype == np.uint8
        how = "for example by PIL.Image.convert('RGB')" if are_pictures else "or leave some out"
        return (
            f"The images are of mixed kinds: {one} has {n_channels} channels of {dtype} and {two} "
            f"{n_other} of {other_dtype}; convert them to one kind, {how}."
        )

    def _rows(self, rows):
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        rows = rows if self.kept is None else self.kept[rows]
        n_blocks = min(2 * self.n_threads, -(-len(rows) // 4)) if self._threads else 1
        blocks = np.array_split(np.arange(len(rows)), max(1, n_blocks))
        for _ in self._map(self._fill, (out, rows), blocks):
            pass
        return out

    def _fill(self, out_and_rows, block):
        out, rows = out_and_rows
        for place in block:
            out[place] = self._like_the_others(int(rows[place]))

    def _like_the_others(self, row):
        try:
            array = self._read(row)
            if array.shape != self.shape[1:] or array.dtype != self.dtype:
                raise BrokenImageError(
                    f"{self._item_name(row)} has shape {array.shape} and dtype {array.dtype}, the "
                    f"others {self.shape[1:]} and {self.dtype}; replace it, or leave it out."
                )
        except BrokenImageError as error:
            if not self.lenient:
                raise
            self.broken[row] = str(error)
            return 0
        return array

    def _name(self, row):
        return self._item_name(row if self.kept is None else self.kept[row])

    def _item_name(self, row):
        return f"image {row}"

    def _kind(self, row):
        raise NotImplementedError

    def _read(self, row):
        raise NotImplementedError


def _cut(rows, length):
    return [rows[start : start + length] for start in range(0, len(rows), length)]


def _caught(act, rows):
    results = []
    for row in rows:
        try:
            results.append(act(row))
        except BrokenImageError as error:
            results.append(error.with_traceback(None))
    return results


class ImageFiles(DecodedImages):
    """Image files, their headers checked at once and decoded when they are asked for.

    Parameters
    ----------
    paths : sequence of str or Path
    size, broken
        As in `DecodedImages`.
    n_threads : int or None, default=None
        None: one for each core that the process may use, at most 16.
    """

    def __init__(self, paths, size=None, broken="raise", n_threads=None):
        paths = [os.fspath(path) for path in paths]
        super().__init__(paths, size, broken, n_threads or min(MOST_THREADS, n_cores()))

    def _kind(self, row):
        (height, width, n_channels), dtype = decoding.header(self.items[row])
        return (*(self.size or (height, width)), n_channels), dtype

    def _read(self, row):
        array = decoding.pixels(self.items[row])
        return array if self.size is None else decoding.resized(array, self.size)

    def _item_name(self, row):
        return self.items[row]


def n_cores():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class DatasetImages(DecodedImages):
    """The images of a torch `Dataset` with `__len__` and `__getitem__`.

    An item is an image, or a tuple that begins with one: a tensor of shape (channels, height,
    width), an array of shape (height, width, channels), either of (height, width), or a pillow
    image. Items are asked for by one thread, in an order that the seed fixes, for a dataset may
    draw random numbers.

    Parameters
    ----------
    dataset : Dataset or sequence of items
    size, broken
        As in `DecodedImages`.
    channels : {"auto", "first", "last"}, default="auto"
        Where tensors and arrays have their channels, if not as above.
    """

    def __init__(self, dataset, size=None, broken="raise", channels="auto"):
        self._channels_given = channels
        super().__init__(dataset, size, broken, 1)

    def _rows_to_check(self, drop):
        # Items have no headers: all are read only where they are to be dropped.
        return range(len(self.items)) if drop else range(min(1, len(self.items)))

    _kind = DecodedImages._kind_by_reading

    def _read(self, row):
        try:
            array = self._pixels(self.items[row])
        except BrokenImageError:
            raise
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise BrokenImageError(
                f"{self._item_name(row)} cannot be read ({what:.200}); replace it, or leave it out."
            ) from error
        return array if self.size is None else decoding.resized(array, self.size)

    def _pixels(self, item):
        image = item[0] if isinstance(item, tuple | list) else item
        if hasattr(image, "getbands"):
            return decoding.array_of(image)
        is_tensor = isinstance(image, torch.Tensor)
        array = image.detach().cpu().numpy() if is_tensor else np.asarray(image)
        if array.ndim not in (2, 3) or array.dtype.kind not in "buif":
            raise TypeError(f"shape {array.shape} and dtype {array.dtype} are no image's")
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if array.ndim == 2:
            return array[:, :, np.newaxis]
        where = self._channels_given
        is_first = where == "first" or (where == "auto" and is_tensor)
        return array.transpose(1, 2, 0) if is_first else array

    def _item_name(self, row):
        return f"dataset[{row}]"
