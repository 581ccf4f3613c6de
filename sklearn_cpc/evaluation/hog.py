"""Histograms of oriented gradients: features that nobody had to learn."""

from numbers import Integral

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin
from sklearn.utils import gen_batches
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, validate_data

from ._optional import import_optional
from .baselines import _ImageTransformer
from .layout import as_shaped, flat_rows, resolve_layout

IMAGES_PER_TASK = 64


class HogFeatures(ClassNamePrefixFeaturesOutMixin, _ImageTransformer):
    """Histograms of oriented gradients [1]_, and the mean colour of every cell.

    The histograms are those of :func:`skimage.feature.hog`: in each cell, gradients vote for
    their direction, those of the channel with the steepest one at each pixel; blocks of
    neighbouring cells are normalised together. The mean colours say what gradients do not.

    Parameters
    ----------
    cell_size : int, default=4
        Height and width of a cell in pixels, at most those of the image. Pixels that fill no
        cell at the right and at the bottom are left out.

    block_size : int, default=2
        Height and width of a block in cells, at most those there are.

    orientations : int, default=9
        Bins between 0 and 180 degrees.

    colors : bool, default=True
        Whether the mean of each channel in each cell is appended.

    image_shape : tuple of int, default=None
        Shape of an image if `X` is flat: (height, width), (height, width, channels) or, see
        `channels`, (channels, height, width). None takes a square if the length of a row is one,
        otherwise one row of pixels.

    channels : {"auto", "first", "last"}, default="auto"
        Where the channels of a 4-D `X` or a 3-tuple `image_shape` are. "auto" takes the first axis
        of the image if it is shorter than the last.

    n_jobs : int, default=None
        Processes or threads in `transform`; None means 1.

    Attributes
    ----------
    image_shape_ : tuple of (int, int, int)
        Height, width and channels.

    low_, high_ : float
        Pixel values that are mapped to 0 and 1: 0 and 255 for uint8, else the least and the
        greatest of `fit`.

    n_features_in_ : int
        Pixels times channels.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` was a data frame.

    References
    ----------
    .. [1] Dalal, N. and Triggs, B. (2005). Histograms of Oriented Gradients for Human Detection.
       CVPR.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_cpc.evaluation import HogFeatures
    >>> X, _ = load_digits(return_X_y=True)
    >>> HogFeatures().fit_transform(X[:100]).shape  # one block of 4 cells: 4 * 9 + 4 means
    (100, 40)
    """

    def __init__(
        self,
        cell_size=4,
        *,
        block_size=2,
        orientations=9,
        colors=True,
        image_shape=None,
        channels="auto",
        n_jobs=None,
    ):
        self.cell_size = cell_size
        self.block_size = block_size
        self.orientations = orientations
        self.colors = colors
        self.image_shape = image_shape
        self.channels = channels
        self.n_jobs = n_jobs

    def fit(self, X, y=None):
        """Learn the layout and the range of images.

        Parameters
        ----------
        X : array-like of shape (n_samples, height, width, channels), \
                (n_samples, channels, height, width), (n_samples, height, width) or \
                (n_samples, n_pixels)
            Images of any real dtype and range.

        y : Ignored
            There for the API.

        Returns
        -------
        self : HogFeatures
        """
        import_optional("skimage.feature", "HogFeatures", "hog")
        for name in ("cell_size", "block_size", "orientations"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name}={value!r}: must be an int of at least 1; pass one.")
        X = as_shaped(X)
        rows = validate_data(self, flat_rows(X))
        self._layout = resolve_layout(X, self.image_shape, self.channels)
        self.image_shape_ = self._layout.image_shape
        is_byte = rows.dtype == np.uint8
        self.low_, self.high_ = (0.0, 255.0) if is_byte else (float(rows.min()), float(rows.max()))
        return self

    def transform(self, X):
        """Describe images.

        Parameters
        ----------
        X : array-like
            Images of the shape seen in `fit`, or their flat rows.

        Returns
        -------
        features : ndarray of shape (n_samples, n_features)
            Of dtype float32: the histograms of the blocks, then the mean colours.
        """
        check_is_fitted(self)
        X = as_shaped(X)
        self._layout.check_same_images(X)
        images = self._layout.channels_last(validate_data(self, flat_rows(X), reset=False))
        parts = Parallel(n_jobs=self.n_jobs)(
            delayed(self._describe)(images[block])
            for block in gen_batches(len(images), IMAGES_PER_TASK)
        )
        return np.concatenate(parts)

    @property
    def _n_features_out(self):
        _, cells, block = self._geometry()
        n_blocks = np.prod([c - b + 1 for c, b in zip(cells, block, strict=True)])
        n_colors = np.prod(cells) * self.image_shape_[2] if self.colors else 0
        return int(n_blocks * np.prod(block) * self.orientations + n_colors)

    def _geometry(self):
        """Pixels of a cell, cells of the image and cells of a block, each along both axes."""
        sides = self.image_shape_[:2]
        pixels = tuple(min(self.cell_size, side) for side in sides)
        cells = tuple(side // size for side, size in zip(sides, pixels, strict=True))
        return pixels, cells, tuple(min(self.block_size, n) for n in cells)

    def _describe(self, images):
        """Features of a block of images, (n, height, width, channels)."""
        feature = import_optional("skimage.feature", "HogFeatures", "hog")
        pixels, cells, block = self._geometry()
        # In one order of memory, or the rounding of sums would depend on the layout.
        images = (images.astype(np.float32, order="C") - self.low_) / (
            (self.high_ - self.low_) or 1.0
        )
        settings = {
            "orientations": self.orientations,
            "pixels_per_cell": pixels,
            "cells_per_block": block,
            "channel_axis": -1,
        }
        parts = [np.stack([feature.hog(image, **settings) for image in images])]
        if self.colors:
            covered = images[:, : cells[0] * pixels[0], : cells[1] * pixels[1]]
            shape = (len(images), cells[0], pixels[0], cells[1], pixels[1], images.shape[-1])
            parts.append(covered.reshape(shape).mean(axis=(2, 4)).reshape(len(images), -1))
        return np.concatenate(parts, axis=1).astype(np.float32)
