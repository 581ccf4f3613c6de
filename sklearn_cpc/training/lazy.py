"""Images that are not in memory: they look like an array, and are read when they are asked for."""

import numpy as np

from .images import check_no_mark

__all__ = ["LazyImages", "LazyPart", "SlicedArray"]

ROWS_AT_ONCE = 256


class LazyImages:
    """What is read in rows; shaped as an array.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    broken : dict of int to str
        Rows that could not be read so far, and why; they are read as zeros.
    seed : int
        That of the pass, from which random numbers of items that are read elsewhere follow.
    """

    seed = 0
    channels = None  # where the kind of images says it: "first" or "last"

    def __init__(self, shape, dtype):
        self.shape = tuple(int(length) for length in shape)
        self.dtype = np.dtype(dtype)
        self.broken = {}

    @property
    def ndim(self):
        return len(self.shape)

    @property
    def nbytes(self):
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        """Rows of a slice, an array of integers or an integer, as an array."""
        rows = np.arange(len(self))[index]
        read = self._checked_rows(np.atleast_1d(rows))
        return read if rows.ndim else read[0]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype=dtype)

    def _checked_rows(self, rows):
        read = self._rows(rows)
        if self.dtype.kind == "f" and not np.isfinite(read).all():
            axes = tuple(range(1, read.ndim))
            bad = rows[int(np.argmin(np.isfinite(read).all(axes)))]
            raise ValueError(
                f"Input X contains NaN or infinity (in {self._name(bad)}); pixels must be finite: "
                "replace them, or leave those images out."
            )
        if self.dtype.kind == "f" and read.size:
            ends = read.min(), read.max()
            check_no_mark(read, ends, lambda row: f"in {self._name(rows[row])}")
        return read

    def _name(self, row):
        return f"image {row}"

    def _rows(self, rows):
        raise NotImplementedError


class LazyPart(LazyImages):
    """Some rows of what was opened, and checked, as a whole.

    Parameters
    ----------
    whole : LazyImages
    rows : slice
        With a step of 1.
    """

    def __init__(self, whole, rows):
        self.whole = whole
        self.start, stop, _ = rows.indices(len(whole))
        super().__init__((max(0, stop - self.start), *whole.shape[1:]), whole.dtype)
        self.channels = whole.channels

    def _rows(self, rows):
        read = self.whole._rows(rows + self.start)
        known = self.whole.broken
        self.broken |= {row: known[row + self.start] for row in rows if row + self.start in known}
        return read

    def _name(self, row):
        return self.whole._name(row + self.start)


class SlicedArray(LazyImages):
    """An array that is read in slices, such as one of zarr, HDF5 or dask.

    Rows of one chunk are read by one slice, in ascending order, as HDF5 wants it.

    Parameters
    ----------
    data : object with `shape`, `dtype` and `__getitem__`
    """

    def __init__(self, data):
        super().__init__(data.shape, data.dtype)
        self.data = data
        self.chunk = min(ROWS_AT_ONCE, _chunk_length(data))

    def _rows(self, rows):
        if not len(rows):
            return np.empty((0, *self.shape[1:]), self.dtype)
        if (np.diff(rows) == 1).all():
            return self._slice(int(rows[0]), int(rows[-1]) + 1)
        unique, places = np.unique(rows, return_inverse=True)
        read = np.empty((len(unique), *self.shape[1:]), self.dtype)
        starts = np.flatnonzero(np.diff(unique // self.chunk, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(unique)], strict=True):
            wanted = unique[start:stop]
            first = int(wanted[0])
            block = self._slice(first, int(wanted[-1]) + 1)
            read[start:stop] = block[wanted - first]
        return read[places]

    def _slice(self, start, stop):
        """These rows, which must be the numbers that the array says to have."""
        block = self.data[start:stop]
        if np.ma.is_masked(block):
            raise ValueError(
                f"X has masked pixels in images {start} to {stop - 1}, and a mask would be lost; "
                "replace them, or leave those images out."
            )
        block = np.asarray(block)
        if block.dtype.newbyteorder("=") != self.dtype.newbyteorder("="):
            raise ValueError(
                f"X is said to have pixels of {self.dtype}, and gives {block.dtype} when it is "
                "read, as netCDF variables do that are scaled; pass one that gives what is stored, "
                "such as after set_auto_maskandscale(False)."
            )
        return block


def _chunk_length(data):
    """Rows of a chunk; 1 where there are no chunks."""
    chunks = getattr(data, "chunks", None)
    length = chunks[0] if chunks else 1
    return max(1, int(max(length) if isinstance(length, tuple) else length))
