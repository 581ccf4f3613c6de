"""Images that are decoded one by one: files, and the items of datasets."""

import os
import warnings

import numpy as np

from . import colours, deep_png, readers
from .decoding import BrokenImageError
from .lazy import LazyImages
from .workers import make_workers

__all__ = ["DatasetImages", "ImageFiles"]

ROWS_OF_A_CHECK = 2**16


class DecodedImages(LazyImages):
    """Images decoded one by one, of shape (n, height, width, channels).

    Parameters
    ----------
    reader : FileReader or ItemReader
        Of one image.
    broken : {"raise", "drop", "zeros"}
        What is done about an item that cannot be read. "raise": it is named. "drop": all items
        are read once, and those that cannot be are left out, with a warning. "zeros": it is
        read as zeros, and found in `broken`.
    workers : Threads or Processes
        The images are the same for any number of either.

    Attributes
    ----------
    has_colours : bool
        Whether all channels are known to be grey or RGB, and perhaps transparency.
    """

    channels = "last"
    widens = False  # whether grey and coloured images may be side by side

    def __init__(self, reader, broken, workers):
        self.reader = reader
        self.items = reader.items
        self.size = reader.size
        self.lenient = broken == "zeros"
        self._workers = workers
        rows, kind = self._check(broken == "drop")
        kind = self._final(kind)
        self.kept = None if len(rows) == len(self.items) else rows
        self.has_colours = kind.has_colours
        super().__init__((len(rows), *kind.shape), kind.dtype)

    def _check(self, drop):
        """Rows to go on with, and the `ImageKind` that holds all."""
        if not len(self.items):
            raise ValueError("X has no images; pass one at least.")
        act = readers.kinds_by_reading if drop else readers.kinds
        first, common, failed, n_broken, shallow = None, None, None, 0, []
        good = np.ones(len(self.items), bool)
        for row, kind in self._each(act, self._rows_to_check(drop)):
            if isinstance(kind, BrokenImageError):
                failed, n_broken, good[row] = failed or kind, n_broken + 1, False
                continue
            if kind.loses_bits:
                shallow.append(row)
            if first is None:
                first, common = (row, kind), kind
            elif kind != common:
                common = self._joined(first, common, row, kind)
        if first is None and self.lenient:  # the first that can be read says what all are like
            rest = range(len(self._rows_to_check(drop)), len(self.items))
            first = next((found for found in self._each(act, rest) if _is_kind(found)), None)
            common = first and first[1]
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
                stacklevel=9,
            )
        if shallow:
            name = self.reader.name(shallow[0])
            text = deep_png.warning(len(shallow), len(self.items), name)
            warnings.warn(text, RuntimeWarning, stacklevel=9)
        rows = np.flatnonzero(good) if drop else np.arange(len(self.items))
        return rows, common

    def _rows_to_check(self, drop):
        return range(len(self.items))

    def _final(self, kind):
        """The kind that all are brought to."""
        return kind

    def _each(self, act, rows):
        """(row, what `act` gives for it), in order, by all workers."""
        for window in _cut(rows, ROWS_OF_A_CHECK):
            blocks = _cut(window, 64)
            results = self._workers.each(act, blocks, self.seed)
            for block, found in zip(blocks, results, strict=True):
                yield from zip(block, found, strict=True)

    def _joined(self, first, common, row, kind):
        """What holds this image and all before it, or an error that names two."""
        both = colours.joined(common, kind) if self.widens else None
        if both is None and kind[:2] == common[:2]:  # where the meaning of channels differs
            both = common._replace(has_colours=False)
        if both is None:
            raise ValueError(self._difference(*first, row, kind))
        return both

    def _difference(self, row, kind, other, other_kind):
        """Words for two images that cannot be in one array."""
        height, width, n_channels = kind.shape
        other_height, other_width, n_other = other_kind.shape
        one, two = self.reader.name(row), self.reader.name(other)
        if (height, width) != (other_height, other_width):
            side = min(height, width, other_height, other_width)
            return (
                f"The images are of mixed sizes: {one} is {height}x{width} and {two} "
                f"{other_height}x{other_width} (height x width); pass resize={side}, or another "
                "size, which scales and crops all to it."
            )
        are_bytes = kind.dtype == other_kind.dtype == np.uint8
        are_pictures = are_bytes and max(n_channels, n_other) <= 4
        how = "for example by PIL.Image.convert('RGB')" if are_pictures else "or leave some out"
        way_out = f"convert them to one kind, {how}."
        if not self.widens and colours.joined(kind, other_kind) is not None:
            way_out = (
                "pass mixed_channels='widen', which repeats grey as colours and loses nothing, or "
                f"{way_out}"
            )
        return (
            f"The images are of mixed kinds: {one} has {n_channels} channels of {kind.dtype} and "
            f"{two} {n_other} of {other_kind.dtype}; {way_out}"
        )

    def _rows(self, rows):
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        rows = rows if self.kept is None else self.kept[rows]
        n = self._workers.n
        n_blocks = min(2 * n, -(-len(rows) // 4)) if n > 1 else 1
        blocks = np.array_split(np.arange(len(rows)), max(1, n_blocks))

        def put(place, array):
            out[place] = self._like_the_others(int(rows[place]), array)

        self._workers.put_each(readers.arrays, rows, blocks, self.seed, put)
        return out

    def _like_the_others(self, row, array):
        """What was read, as wide as all others; zeros where it cannot be."""
        error = array
        if not isinstance(array, BrokenImageError):
            if self.widens and self.has_colours:
                array = colours.widened(array, self.shape[3])
            if array.shape == self.shape[1:] and array.dtype == self.dtype:
                return array
            error = BrokenImageError(
                f"{self.reader.name(row)} has shape {array.shape} and dtype {array.dtype}, the "
                f"others {self.shape[1:]} and {self.dtype}; replace it, or leave it out."
            )
        if not self.lenient:
            raise error
        self.broken[row] = str(error)
        return 0

    def _name(self, row):
        return self.reader.name(row if self.kept is None else self.kept[row])


def _is_kind(found):
    """Whether an image could be read, of (row, what was found)."""
    return not isinstance(found[1], BrokenImageError)


def _cut(rows, length):
    return [rows[start : start + length] for start in range(0, len(rows), length)]


class ImageFiles(DecodedImages):
    """Image files, their headers checked at once and decoded when they are asked for.

    Parameters
    ----------
    paths : sequence of str or Path
    size : (int, int) or None, default=None
        Height and width that all are brought to, see `decoding.resized`.
    broken
        As in `DecodedImages`.
    n_workers : int or None, default=None
        None: one for each core that the process may use, at most 16.
    worker_kind : {"thread", "process"}, default="thread"
    widens : bool, default=False
        Whether grey and coloured files, with and without transparency, may be side by side: all
        are brought to what holds each of them without loss, see `colours.widened`.
    n_channels : int or None, default=None
        With `widens`: channels, 1 to 4, that all must be brought to.

    Raises
    ------
    ValueError
        If a file cannot be read, or the files differ.
    """

    def __init__(
        self,
        paths,
        size=None,
        broken="raise",
        n_workers=None,
        worker_kind="thread",
        *,
        widens=False,
        n_channels=None,
    ):
        self.widens = widens
        self.n_channels = n_channels
        reader = readers.FileReader([os.fspath(path) for path in paths], size)
        super().__init__(reader, broken, make_workers(worker_kind, n_workers, reader))

    def _final(self, kind):
        wanted, has = self.n_channels, kind.shape[2]
        if wanted is None or not (self.widens and kind.has_colours):
            return kind
        if colours.union(has, wanted) != wanted:
            raise ValueError(
                f"Some of the images are {colours.NAMES[has]}, and those of fit were "
                f"{colours.NAMES[wanted]}, which cannot hold them; convert them, or fit anew with "
                "such images among them."
            )
        return kind._replace(shape=(*kind.shape[:2], wanted))


class DatasetImages(DecodedImages):
    """The images of a torch `Dataset` with `__len__` and `__getitem__`.

    An item is an image, or a tuple that begins with one: a tensor of shape (channels, height,
    width), an array of shape (height, width, channels), either of (height, width), or a pillow
    image. In this process items are asked for by one thread, in an order that the seed fixes, for
    a dataset may draw random numbers. Processes of their own draw for each item from generators
    that the pass and the row fix.

    Parameters
    ----------
    dataset : Dataset or sequence of items
    size, broken, n_workers, worker_kind
        As in `ImageFiles`.
    channels : {"auto", "first", "last"}, default="auto"
        Where tensors and arrays have their channels, if not as above.

    Raises
    ------
    TypeError
        If the dataset cannot be sent to processes.
    """

    def __init__(
        self,
        dataset,
        size=None,
        broken="raise",
        channels="auto",
        n_workers=None,
        worker_kind="thread",
    ):
        reader = readers.ItemReader(dataset, size, channels)
        n_workers = 1 if worker_kind == "thread" else n_workers
        super().__init__(reader, broken, make_workers(worker_kind, n_workers, reader))

    def _rows_to_check(self, drop):
        # Items have no headers: all are read only where they are to be dropped.
        return range(len(self.items)) if drop else range(min(1, len(self.items)))
