"""What counts as images: kinds, layouts and ranges, checked without copying."""

import warnings
from dataclasses import dataclass
from math import isqrt, prod
from numbers import Integral

import numpy as np
import torch

__all__ = ["Images", "PixelScale", "as_images"]

ROWS_AT_ONCE = 256
NUMBERS_AT_ONCE = 2**22
ROWS_FOR_MOMENTS = 10_000
# Floats that stand for missing pixels, and dwarf all others. A raster of float32 keeps its mark
# when it is read as float64.
MARKS = {
    sign * float(np.finfo(dtype).max): f"an end of {np.dtype(dtype)}"
    for dtype in (np.float32, np.float64)
    for sign in (-1, 1)
}
MARKS[9.969209968386869e36] = "the fill value of netCDF"
# Numbers that may stand for missing pixels, and are no pixels where all others are far away.
SIGNS = (-999, -9999, -99999, -999999, -32767, -32768)


def as_array(X):
    """Anything array-like as an array, tensors included, without copying what is one already."""
    if isinstance(X, torch.Tensor):
        X = X.detach().cpu()
        return X.float().numpy() if X.dtype == torch.bfloat16 else X.numpy()
    return X if hasattr(X, "shape") and hasattr(X, "dtype") else np.asarray(X)


@dataclass(frozen=True)
class Images:
    """Images in memory or on disk, read in rows.

    Attributes
    ----------
    data : array of shape (n, n_pixels), (n, height, width), (n, height, width, channels) or \
            (n, channels, height, width)
    shape : (int, int, int)
        Height, width, channels.
    channels_first : bool
        Where the channels are; for flat rows, too.
    """

    data: object
    shape: tuple[int, int, int]
    channels_first: bool

    def __len__(self):
        return len(self.data)

    def rows(self, index):
        """The chosen images as a native array of shape (batch, channels, height, width)."""
        rows = np.asarray(self.data[index])
        height, width, n_channels = self.shape
        if self.channels_first:
            rows = rows.reshape(-1, n_channels, height, width)
        else:
            rows = rows.reshape(-1, height, width, n_channels).transpose(0, 3, 1, 2)
        # torch knows neither the other byte order nor floats of more than 64 bits.
        native = rows.dtype.newbyteorder("=") if rows.dtype.itemsize <= 8 else np.float64
        return rows.astype(native, copy=False)


def as_images(X, image_shape=None, channels="auto"):
    """Find the layout of images.

    Parameters
    ----------
    X : array of two, three or four dimensions
        Flat rows, (n, height, width), or with a channel axis last or first.
    image_shape : tuple of int or None, default=None
        Shape of one image, without or with its channel axis. For flat rows; None takes a square
        where the length is one and a single row of pixels where it is not.
    channels : {"auto", "first", "last"}, default="auto"
        Where the channel axis is. "auto": the shorter one of the first and the last; last where
        they are equally long.

    Returns
    -------
    images : Images

    Raises
    ------
    ValueError
        If the number of dimensions, a length or `image_shape` cannot be an image's.
    TypeError
        If the pixels are not real numbers.
    """
    if X.dtype.kind not in "buif":
        raise TypeError(
            f"X holds {X.dtype} values; pixels must be real numbers (bool, integer or float); "
            "convert X first."
        )
    if X.ndim not in (2, 3, 4):
        raise ValueError(
            f"X has {X.ndim} dimensions; images must have 2 (flat rows), 3 (n, height, width) or 4 "
            "(n, height, width, channels); reshape X."
        )
    if 0 in X.shape:
        raise ValueError(
            f"X has shape {X.shape}; images must have at least one row, column and channel, and "
            "there must be at least one."
        )
    if X.ndim == 2:
        shape = _flat_shape(X.shape[1], image_shape)
    else:
        shape = tuple(X.shape[1:])
        if image_shape is not None and tuple(image_shape) != shape:
            raise ValueError(
                f"image_shape={tuple(image_shape)} must be the shape of the images in X, {shape}; "
                "leave image_shape out, it is for flat rows."
            )
    if len(shape) == 2:
        return Images(X, (*shape, 1), False)
    first = channels == "first" or (channels == "auto" and shape[0] < shape[2])
    return Images(X, (shape[1], shape[2], shape[0]) if first else shape, first)


def _flat_shape(n_pixels, image_shape):
    if image_shape is None:
        side = isqrt(n_pixels)
        return (side, side) if side * side == n_pixels else (1, n_pixels)
    shape = tuple(image_shape)
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(
            f"image_shape={shape} must be (height, width) or have a channel axis too, each at "
            "least 1."
        )
    if not all(isinstance(side, Integral) for side in shape):
        raise TypeError(f"image_shape={shape} must be whole numbers of pixels; pass int.")
    if np.prod(shape) != n_pixels:
        raise ValueError(
            f"image_shape={shape} has {np.prod(shape)} pixels, but the rows of X have {n_pixels}; "
            "pass the image_shape whose product is the length of a row."
        )
    return tuple(map(int, shape))


@dataclass(frozen=True)
class PixelScale:
    """The map of pixel values to [0, 1], and the moments of the mapped training pixels.

    Attributes
    ----------
    low, high : float
        Values mapped to 0 and 1: 0 and 255 for uint8, else the least and the greatest of the
        training images.
    mean, std : tuple of float, one per channel
        Of the mapped pixels of up to 10,000 evenly spaced training images.
    """

    low: float
    high: float
    mean: tuple
    std: tuple

    @classmethod
    def of(cls, images):
        """Measure training images, read in blocks."""
        low, high = (0.0, 255.0) if images.data.dtype == np.uint8 else pixel_range(images)
        _warn_of_sign(images, low, high)
        high = high if high > low else low + max(1.0, abs(low))
        if not np.isfinite(high - low):
            raise ValueError(
                f"X has pixels from {low:g} to {high:g}, which are further apart than a float64 "
                "can tell; divide X by 2 or more."
            )
        step = max(1, -(-len(images) // ROWS_FOR_MOMENTS))
        total, squares, count = 0.0, 0.0, 0
        n_rows = _rows_at_once(images)
        for start in range(0, len(images), n_rows * step):
            block = images.rows(slice(start, start + n_rows * step, step))
            block = (block.astype(np.float64) - low) / (high - low)
            total += block.sum((0, 2, 3))
            squares += np.square(block).sum((0, 2, 3))
            count += block.size // block.shape[1]
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        std[std < 1e-6] = 1.0
        return cls(low, high, tuple(mean.tolist()), tuple(std.tolist()))

    def apply(self, pixels):
        """Map pixels to floats, on their device."""
        # float32 would round wide values before the subtraction.
        wide = pixels.dtype.itemsize > (4 if pixels.is_floating_point() else 2)
        wide |= self.high - self.low > torch.finfo(torch.float32).max
        pixels = pixels.to(torch.float64 if wide else torch.float32)
        if self.low:
            pixels = pixels - self.low
        return (pixels / (self.high - self.low)).float()


def check_finite(images):
    """Refuse NaN, infinite pixels and marks of missing ones, reading in blocks.

    Returns
    -------
    ends : (float, float) or None
        The least and the greatest pixel of floats; of integers, which are not read, None.
    """
    return _float_range(images) if images.data.dtype.kind == "f" else None


def pixel_range(images):
    """The least and the greatest pixel, read in blocks."""
    if images.data.dtype.kind == "f":
        return _float_range(images)
    ends = [(rows.min(), rows.max()) for rows in map(images.rows, _blocks(images))]
    return float(min(low for low, _ in ends)), float(max(high for _, high in ends))


def _float_range(images):
    low, high = np.inf, -np.inf
    for block in _blocks(images):
        rows = images.rows(block)
        least, greatest = rows.min(), rows.max()  # NaN if any is
        if not (np.isfinite(least) and np.isfinite(greatest)):
            bad = block.start + int(np.argmin(np.isfinite(rows).all((1, 2, 3))))
            raise ValueError(
                f"Input X contains NaN or infinity (first in image {bad}); pixels must be finite: "
                "replace them, e.g. by np.nan_to_num, or leave those images out."
            )
        check_no_mark(
            rows, (least, greatest), lambda row, start=block.start: f"first in image {start + row}"
        )
        low, high = min(low, least), max(high, greatest)
    return float(low), float(high)


def check_no_mark(rows, ends, where):
    """Refuse marks of missing pixels that dwarf all others; `where` gives words for a row."""
    mark = next((float(x) for x in ends if float(x) in MARKS), None)
    if mark is None:
        return
    bad = int(np.argmax((rows == mark).any(tuple(range(1, rows.ndim)))))
    raise ValueError(
        f"Input X contains {mark:.8g}, {MARKS[mark]} ({where(bad)}), which marks "
        "missing pixels; replace them, e.g. by np.where, or leave those images out."
    )


def _warn_of_sign(images, low, high):
    """Say so where the least pixel looks like a sign for none, by which the range is measured."""
    if low not in SIGNS or high == low:
        return
    n_pixels, least = 0, high
    for rows in map(images.rows, _blocks(images)):
        others = rows[rows > low]
        n_pixels += rows.size - others.size
        least = min(least, float(others.min())) if others.size else least
    if least - low <= high - least:
        return
    warnings.warn(
        f"X has {low:g} in {n_pixels} pixels, and all others are from {least:g} to {high:g}. If "
        "that marks missing pixels, replace it, e.g. by np.where, or leave those images out: "
        "pixels are mapped to [0, 1] from the least to the greatest, and the others would be from "
        f"{(least - low) / (high - low):.3g} to 1.",
        UserWarning,
        stacklevel=5,
    )


def _rows_at_once(images):
    """Few where images are large: they are held in float64."""
    return max(1, min(ROWS_AT_ONCE, NUMBERS_AT_ONCE // prod(images.shape)))


def _blocks(images):
    n, n_rows = len(images), _rows_at_once(images)
    return [slice(start, min(n, start + n_rows)) for start in range(0, n, n_rows)]
