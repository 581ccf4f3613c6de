"""Which axis of the images is which."""

from dataclasses import dataclass
from math import isqrt, prod

import numpy as np

CHANNELS = ("auto", "first", "last")


@dataclass(frozen=True)
class Layout:
    """Where height, width and channels are in the images that were seen in `fit`.

    Parameters
    ----------
    shape : tuple of int
        Shape of one image as it came, of two or three axes.

    channels_first : bool
        Whether the first of three axes holds the channels.
    """

    shape: tuple
    channels_first: bool

    @property
    def image_shape(self):
        """Height, width and channels."""
        if len(self.shape) == 2:
            return (*self.shape, 1)
        return (*self.shape[1:], self.shape[0]) if self.channels_first else self.shape

    def channels_last(self, rows):
        """Flat rows -> a view of shape (n, height, width, channels)."""
        if self.channels_first:
            return np.moveaxis(rows.reshape(-1, *self.shape), 1, -1)
        return rows.reshape(-1, *self.image_shape)

    def check_same_images(self, X):
        """Refuse images of another shape than in `fit`; flat rows are checked by their length."""
        shape = tuple(X.shape[1:]) if X.ndim > 2 else self.shape
        if shape != self.shape:
            raise ValueError(
                f"X has images of shape {shape}: must be {self.shape} as in fit; bring the images "
                "to one shape, or fit again."
            )


def as_shaped(X):
    """Anything with a number of dimensions, lists included; contents are not looked at."""
    return X if hasattr(X, "ndim") else np.asarray(X)


def flat_rows(X):
    """Images -> rows; what is not an array of images is left to scikit-learn's validation."""
    if X.ndim <= 2:
        return X
    X = np.asarray(X)
    if X.size == 0:
        raise ValueError(f"X has shape {X.shape}: needs at least one image with pixels.")
    return X.reshape(len(X), -1)


def resolve_layout(X, image_shape, channels):
    """Find the layout of images, or of flat rows with `image_shape`."""
    if channels not in CHANNELS:
        raise ValueError(f"channels={channels!r}: must be one of {CHANNELS}; pass one of them.")
    shape = tuple(X.shape[1:])
    if len(shape) > 3:
        raise ValueError(
            f"X has {len(shape) + 1} dimensions: must be 2, 3 or 4; pass images of shape (n, "
            "height, width, channels)."
        )
    if len(shape) == 1:
        shape = _flat_shape(shape[0], image_shape)
    elif image_shape is not None and tuple(image_shape) != shape:
        raise ValueError(
            f"image_shape={tuple(image_shape)}: must be the shape of the images in X={shape}; "
            "leave it out, as it is for flat rows."
        )
    is_first = channels == "first" or (channels == "auto" and shape[0] < shape[-1])
    return Layout(shape, len(shape) == 3 and is_first)


def _flat_shape(n_pixels, image_shape):
    if image_shape is None:
        side = isqrt(n_pixels)
        return (side, side) if side**2 == n_pixels else (1, n_pixels)
    shape = tuple(image_shape)
    if len(shape) not in (2, 3) or min(shape) < 1 or prod(shape) != n_pixels:
        raise ValueError(
            f"image_shape={shape}: must be two or three positive ints with the product "
            f"n_features={n_pixels}; pass the shape of one image."
        )
    return shape
