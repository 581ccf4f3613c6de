"""What a scikit-learn user could do instead: raw pixels and patch k-means."""

from itertools import pairwise
from math import prod
from numbers import Integral, Real

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    OneToOneFeatureMixin,
    TransformerMixin,
)
from sklearn.cluster import MiniBatchKMeans
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.random import sample_without_replacement
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from .layout import as_shaped, flat_rows, resolve_layout

# A block of 2048 x n_components float32 stays in a core's cache. Products of that size gain little
# from BLAS threads, and on a busy machine lose a factor of four to their waiting for each other:
# BLAS has one thread, and n_jobs splits the images.
PATCHES_PER_BLOCK = 2048
IMAGES_PER_TASK = 64
POOLINGS = {"quadrants": (2, "mean"), "mean": (1, "mean"), "max": (1, "max")}


class _ImageTransformer(TransformerMixin, BaseEstimator):
    """What both have in common: images of any layout in, float32 rows out."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


class FlattenImages(OneToOneFeatureMixin, _ImageTransformer):
    """Lay each image out as one row of float32 pixels: the raw-pixel baseline.

    Integers are divided by one number, so that the pixels of unsigned images lie in [0, 1]; floats
    keep their values.

    Attributes
    ----------
    scale_ : float
        What pixels are divided by: 255 for uint8, the largest magnitude seen in `fit` for other
        integers, 1 for floats.

    n_features_in_ : int
        Pixels times channels.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` was a data frame.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cpc.evaluation import FlattenImages
    >>> FlattenImages().fit_transform(np.full((2, 1, 1, 3), 255, dtype=np.uint8))
    array([[1., 1., 1.],
           [1., 1., 1.]], dtype=float32)
    """

    def fit(self, X, y=None):
        """Learn the number of pixels and their scale.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Images of any layout.

        y : Ignored
            There for the API.

        Returns
        -------
        self : FlattenImages
        """
        X = validate_data(self, flat_rows(as_shaped(X)))
        self.scale_ = 1.0
        if X.dtype == np.uint8:
            self.scale_ = 255.0
        elif X.dtype.kind in "iu":
            self.scale_ = max(abs(float(X.max())), abs(float(X.min()))) or 1.0
        return self

    def transform(self, X):
        """Flatten and scale images.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Images with as many pixels as in `fit`.

        Returns
        -------
        X_flat : ndarray of shape (n_samples, n_features_in_)
            Of dtype float32.
        """
        check_is_fitted(self)
        X = validate_data(self, flat_rows(as_shaped(X)), reset=False)
        pixels = X.astype(np.float32)
        if self.scale_ != 1.0:
            pixels /= np.float32(self.scale_)
        return pixels


class PatchKMeans(ClassNamePrefixFeaturesOutMixin, _ImageTransformer):
    """Features by k-means on whitened patches, the classical rival [1]_.

    Patches at random places are normalised in brightness and contrast, whitened (ZCA) and
    clustered. An image is described by the "triangle" activations of the patches at all its
    positions, `max(0, mean(z) - z_k)` with `z_k` the distance to centroid k, pooled over the
    image.

    Parameters
    ----------
    n_components : int, default=400
        The number of centroids. There are four times as many features with quadrants.

    image_shape : tuple of int, default=None
        Shape of an image if `X` is flat: (height, width), (height, width, channels) or, see
        `channels`, (channels, height, width). None takes a square if the length of a row is one,
        otherwise one row of pixels.

    channels : {"auto", "first", "last"}, default="auto"
        Where the channels of a 4-D `X` or a 3-tuple `image_shape` are. "auto" takes the first axis
        of the image if it is shorter than the last.

    patch_size : "auto", int or tuple of (int, int), default="auto"
        Height and width of the patches. "auto" takes 6 pixels, or the side of a smaller image.

    patch_stride : int, default=1
        Pixels from one patch to the next in `transform`.

    n_patches : int, default=100_000
        How many patches are clustered; all, if there are no more.

    pooling : {"quadrants", "mean", "max"}, default="quadrants"
        Mean over each quarter of the patches, mean or maximum over all of them.

    contrast_regularization : float, default=0.01
        Added to the variance of each patch before division by its root, as a share of the mean
        variance of the patches seen in `fit`: a flat patch stays near zero.

    whitening_regularization : float, default=0.1
        Added to the eigenvalues of the covariance of normalised patches, whose pixels have about
        unit variance.

    batch_size : int, default=4096
        Patches in a step of :class:`~sklearn.cluster.MiniBatchKMeans`.

    max_iter : int, default=20
        The most passes of k-means over the patches.

    n_jobs : int, default=None
        Threads in `transform`; None means 1.

    random_state : int, RandomState instance or None, default=None
        Seeds the choice of patches and k-means.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_pixels)
        Centroids in the space of whitened patches; `n_pixels` is patch height x width x channels.

    whitening_ : ndarray of shape (n_pixels, n_pixels)
        Symmetric ZCA matrix.

    mean_ : ndarray of shape (n_pixels,)
        Mean of the normalised patches.

    contrast_offset_ : float
        What is added to the variance of a patch, in squared pixel values.

    n_iter_ : int
        Passes of k-means over the patches.

    image_shape_ : tuple of (int, int, int)
        Height, width and channels.

    patch_size_ : tuple of (int, int)
        Height and width of the patches.

    n_features_in_ : int
        Pixels times channels.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` was a data frame.

    Notes
    -----
    Two departures from the paper: quadrants hold means instead of sums, so that features do not
    depend on the size of the image, and the regulariser of the contrast is relative instead of 10
    on a scale of 0 to 255, so that images may come in any range, 16 bit or float. An axis along
    which there is one patch only is not halved.

    References
    ----------
    .. [1] Coates, A., Lee, H. and Ng, A. Y. (2011). An Analysis of Single-Layer Networks in
       Unsupervised Feature Learning. AISTATS.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_cpc.evaluation import PatchKMeans
    >>> X, _ = load_digits(return_X_y=True)
    >>> PatchKMeans(8, n_patches=500, random_state=0).fit_transform(X[:100]).shape
    (100, 32)
    """

    def __init__(
        self,
        n_components=400,
        *,
        image_shape=None,
        channels="auto",
        patch_size="auto",
        patch_stride=1,
        n_patches=100_000,
        pooling="quadrants",
        contrast_regularization=0.01,
        whitening_regularization=0.1,
        batch_size=4096,
        max_iter=20,
        n_jobs=None,
        random_state=None,
    ):
        self.n_components = n_components
        self.image_shape = image_shape
        self.channels = channels
        self.patch_size = patch_size
        self.patch_stride = patch_stride
        self.n_patches = n_patches
        self.pooling = pooling
        self.contrast_regularization = contrast_regularization
        self.whitening_regularization = whitening_regularization
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X, y=None):
        """Learn whitening and centroids from random patches.

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
        self : PatchKMeans
        """
        self._check_params()
        X = as_shaped(X)
        rows = validate_data(self, flat_rows(X))
        self._layout = resolve_layout(X, self.image_shape, self.channels)
        self.image_shape_ = self._layout.image_shape
        self.patch_size_ = self._resolve_patch_size()
        rng = check_random_state(self.random_state)
        patches = self._draw_patches(self._patch_view(rows, stride=1), rng)
        with threadpool_limits(1):
            self._fit_whitening(patches)
            self._fit_components(self._whiten(patches), rng)
        return self

    def transform(self, X):
        """Describe images by pooled activations.

        Parameters
        ----------
        X : array-like
            Images of the shape seen in `fit`, or their flat rows.

        Returns
        -------
        features : ndarray of shape (n_samples, n_components x n_quarters)
            Of dtype float32; the centroids of the first quarter come first.
        """
        check_is_fitted(self)
        X = as_shaped(X)
        self._layout.check_same_images(X)
        rows = validate_data(self, flat_rows(X), reset=False)
        views = self._patch_view(rows, stride=self.patch_stride)
        cells = self._cells(views.shape[1:3])
        features = np.empty((len(rows), len(cells), self.n_components), dtype=np.float32)
        codebook = self._codebook()
        with threadpool_limits(1):
            Parallel(n_jobs=self.n_jobs, prefer="threads", require="sharedmem")(
                delayed(self._describe)(views[images], cells, codebook, features[images])
                for images in gen_batches(len(rows), IMAGES_PER_TASK)
            )
        return features.reshape(len(rows), -1)

    @property
    def _n_features_out(self):
        grid = [
            (side - patch) // self.patch_stride + 1
            for side, patch in zip(self.image_shape_, self.patch_size_, strict=False)
        ]
        return self.n_components * len(self._cells(grid))

    def _check_params(self):
        for name in ("n_components", "n_patches", "patch_stride", "batch_size", "max_iter"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name}={value!r}: must be an int of at least 1; pass one.")
        for name in ("contrast_regularization", "whitening_regularization"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not 0 < value < np.inf:
                raise ValueError(f"{name}={value!r}: must be a finite number above 0; pass one.")
        if self.pooling not in POOLINGS:
            raise ValueError(
                f"pooling={self.pooling!r}: must be one of {sorted(POOLINGS)}; pass one."
            )

    def _resolve_patch_size(self):
        height, width, _ = self.image_shape_
        if isinstance(self.patch_size, str):
            if self.patch_size != "auto":
                raise ValueError(
                    f'patch_size={self.patch_size!r}: must be "auto", an int or two of them; '
                    "pass one of these."
                )
            return min(6, height), min(6, width)
        pair = (self.patch_size,) * 2 if isinstance(self.patch_size, Integral) else self.patch_size
        patch_height, patch_width = pair
        if not (1 <= patch_height <= height and 1 <= patch_width <= width):
            raise ValueError(
                f"patch_size={self.patch_size}: must be at least 1 and at most (height, width)="
                f'{(height, width)}; pass a smaller one, or "auto".'
            )
        return int(patch_height), int(patch_width)

    def _patch_view(self, rows, stride):
        """All patches of all images without a copy: (n, rows, cols, channels, height, width)."""
        images = self._layout.channels_last(rows)
        views = sliding_window_view(images, self.patch_size_, axis=(1, 2))
        return views[:, ::stride, ::stride]

    def _draw_patches(self, views, rng):
        n_available = prod(views.shape[:3])
        n_patches = min(self.n_patches, n_available)
        if n_patches < self.n_components:
            raise ValueError(
                f"n_components={self.n_components}: must be at most the number of patches="
                f"{n_patches} (n_patches={self.n_patches}, n_samples={len(views)} images with "
                f"{prod(views.shape[1:3])} patches each); pass a smaller n_components."
            )
        chosen = sample_without_replacement(n_available, n_patches, random_state=rng)
        where = np.unravel_index(np.sort(chosen), views.shape[:3])
        return _as_rows(views[where])

    def _fit_whitening(self, patches):
        """Normalise in place, then ZCA: V (D + regularization)^(-1/2) V^T."""
        mean_variance = float(patches.var(axis=1, dtype=np.float64).mean())
        self.contrast_offset_ = self.contrast_regularization * (mean_variance or 1.0)
        _normalize(patches, self.contrast_offset_)
        self.mean_ = patches.mean(axis=0)
        covariance = np.atleast_2d(np.cov(patches, rowvar=False, bias=True))
        values, vectors = np.linalg.eigh(covariance)
        scales = 1 / np.sqrt(np.maximum(values, 0) + self.whitening_regularization)
        self.whitening_ = ((vectors * scales) @ vectors.T).astype(np.float32)

    def _fit_components(self, whitened, rng):
        kmeans = MiniBatchKMeans(
            self.n_components,
            batch_size=self.batch_size,
            max_iter=self.max_iter,
            n_init="auto",
            random_state=rng,
        ).fit(whitened)
        self.components_, self.n_iter_ = kmeans.cluster_centers_, kmeans.n_iter_

    def _whiten(self, normalized):
        return (normalized - self.mean_) @ self.whitening_

    def _codebook(self):
        """Columns (-2 c, |c|^2, 1): squared distances are one product with (p, 1, |p|^2)."""
        squares = np.sum(self.components_**2, axis=1)
        return np.vstack([-2 * self.components_.T, squares, np.ones_like(squares)])

    def _activate(self, patches, codebook):
        """Triangle activation, f_k = max(0, mean(z) - z_k), Coates et al. (2011), section 3.2.2."""
        whitened = self._whiten(_normalize(patches, self.contrast_offset_))
        squares = np.einsum("ij,ij->i", whitened, whitened)
        ones = np.ones_like(squares)
        distances = np.column_stack([whitened, ones, squares]) @ codebook
        np.maximum(distances, 0, out=distances)
        np.sqrt(distances, out=distances)
        np.subtract(distances.mean(axis=1, keepdims=True), distances, out=distances)
        return np.maximum(distances, 0, out=distances)

    def _cells(self, grid):
        """Slices of the rows and columns of the grid of patches, one pair for each cell."""
        n_parts, _ = POOLINGS[self.pooling]
        halves = []
        for length in grid:
            edges = np.ceil(np.linspace(0, length, min(n_parts, length) + 1)).astype(int)
            halves.append([slice(*pair) for pair in pairwise(edges)])
        return [(rows, cols) for rows in halves[0] for cols in halves[1]]

    def _describe(self, views, cells, codebook, out):
        """Fill `out`, (n, cells, n_components), a bounded number of patches at a time."""
        for i_cell, (rows, cols) in enumerate(cells):
            cell = views[:, rows, cols]
            n_rows, n_cols = cell.shape[1:3]
            rows_at_once = max(1, min(n_rows, PATCHES_PER_BLOCK // n_cols))
            images_at_once = max(1, PATCHES_PER_BLOCK // (rows_at_once * n_cols))
            for images in gen_batches(len(cell), images_at_once):
                blocks = [cell[images, part] for part in gen_batches(n_rows, rows_at_once)]
                out[images, i_cell] = self._pool(blocks, codebook)

    def _pool(self, blocks, codebook):
        """Pool the activations of a cell that comes in blocks of its rows."""
        n_patches = sum(prod(block.shape[1:3]) for block in blocks)
        is_max = POOLINGS[self.pooling][1] == "max"
        pooled = np.zeros((len(blocks[0]), self.n_components), dtype=np.float32)
        for block in blocks:
            active = self._activate(_as_rows(block), codebook)
            active = active.reshape(len(block), -1, self.n_components)
            if is_max:
                np.maximum(pooled, active.max(axis=1), out=pooled)
            else:
                pooled += active.sum(axis=1) / n_patches
        return pooled


def _as_rows(patches):
    """A float32 copy with one patch in each row."""
    n_pixels = prod(patches.shape[-3:])
    return np.array(patches, dtype=np.float32, order="C").reshape(-1, n_pixels)


def _normalize(patches, offset):
    """Take brightness and contrast out of each patch, in place."""
    patches -= patches.mean(axis=1, keepdims=True)
    variances = np.einsum("ij,ij->i", patches, patches) / patches.shape[1]
    patches /= np.sqrt(variances + np.float32(offset))[:, np.newaxis]
    return patches
