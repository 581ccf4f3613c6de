"""From a grid of patch features to one row of features per image."""

import torch

from .names import check_name

__all__ = ["POOLINGS", "n_pooled", "pool", "pool_images"]


def _maximum(features):
    return features.amax((1, 2))


def _mean(features):
    return features.mean((1, 2))


def _quadrants(features, sum_up=_maximum):
    rows, cols = features.shape[1:3]
    # With an odd number of rows or columns the middle one belongs to both halves.
    top, bottom = slice((rows + 1) // 2), slice(rows // 2, rows)
    left, right = slice((cols + 1) // 2), slice(cols // 2, cols)
    parts = [sum_up(features[:, r, c]) for r in (top, bottom) for c in (left, right)]
    return torch.cat(parts, 1)


def _quadrant_means(features):
    return _quadrants(features, _mean)


def _pyramid(features):
    # In slices, not by adaptive pooling, which exporters do not know.
    rows, cols = features.shape[1:3]
    return torch.cat(
        [
            features[:, r, c].amax((1, 2))
            for n in PYRAMID
            for r in _windows(rows, n)
            for c in _windows(cols, n)
        ],
        1,
    )


def _windows(length, n):
    """n slices of about equal length that cover it, overlapping where they do not fit."""
    return [slice(i * length // n, -(-(i + 1) * length // n)) for i in range(n)]


def _max_and_mean(features):
    return torch.cat([_maximum(features), _mean(features)], 1)


def _flatten(features):
    return features.flatten(1)


PYRAMID = (1, 2, 4)
POOLINGS = {
    "max": _maximum,
    "mean": _mean,
    "max+mean": _max_and_mean,
    "quadrants": _quadrants,
    "quadrant-means": _quadrant_means,
    "pyramid": _pyramid,
    "flatten": _flatten,
    "none": _flatten,
}


def pool(features, pooling):
    """Pool a grid of features.

    Parameters
    ----------
    features : Tensor of shape (batch, rows, cols, n_components)
    pooling : {"max", "mean", "max+mean", "quadrants", "quadrant-means", "pyramid", "flatten", \
            "none"}
        Maximum or mean over the grid, or both side by side; maxima or means over its four
        quadrants, side by side; "pyramid": maxima over the whole, over 2x2 and over 4x4 parts,
        side by side, parts that share a row or a column where the grid does not divide; "flatten",
        or "none": not pooled, every patch's features side by side, row by row.

    Returns
    -------
    pooled : Tensor of shape (batch, n_pooled(...))

    Raises
    ------
    ValueError
        If the name is unknown, or the features are no grids.

    References
    ----------
    S. Lazebnik, C. Schmid, J. Ponce, "Beyond Bags of Features: Spatial Pyramid Matching for
    Recognizing Natural Scene Categories", CVPR 2006 (three levels, here with maxima).
    """
    check_name("pooling", pooling, POOLINGS)
    if features.ndim != 4:
        raise ValueError(
            f"features of shape {tuple(features.shape)} must be of shape (batch, rows, cols, "
            "n_components), as CPCModel.embed gives them."
        )
    return POOLINGS[pooling](features)


def pool_images(embed, images, pooling, flip=False):
    """Pooled features of images, which change no more when an image is mirrored if `flip` is set.

    Parameters
    ----------
    embed : callable
        Gives the features of images on a grid: (batch, rows, cols, n_components).
    images : Tensor of shape (batch, channels, height, width)
    pooling : str
        See `pool`.
    flip : bool, default=False
        Whether to take the mean of the pooled features of an image and of its mirror image, left
        for right.

    Returns
    -------
    pooled : Tensor of shape (batch, n_outputs), float32
    """
    views = (images, images.flip(-1)) if flip else (images,)
    return sum(pool(embed(view).float(), pooling) for view in views) / len(views)


def n_pooled(pooling, shape, n_components):
    """Number of features that `pool` gives for a grid of this shape."""
    check_name("pooling", pooling, POOLINGS)
    n_patches = shape[0] * shape[1]
    parts = {"max+mean": 2, "quadrants": 4, "quadrant-means": 4}
    parts |= {"flatten": n_patches, "none": n_patches}
    parts["pyramid"] = sum(n * n for n in PYRAMID)
    return n_components * parts.get(pooling, 1)
