"""From a grid of patch features to one row of features per image."""

import torch

from .encoders import check_name

__all__ = ["POOLINGS", "n_pooled", "pool"]


def _maximum(features):
    return features.amax((1, 2))


def _mean(features):
    return features.mean((1, 2))


def _quadrants(features):
    rows, cols = features.shape[1:3]
    # With an odd number of rows or columns the middle one belongs to both halves.
    top, bottom = slice((rows + 1) // 2), slice(rows // 2, rows)
    left, right = slice((cols + 1) // 2), slice(cols // 2, cols)
    parts = [_maximum(features[:, r, c]) for r in (top, bottom) for c in (left, right)]
    return torch.cat(parts, 1)


def _flatten(features):
    return features.flatten(1)


POOLINGS = {"max": _maximum, "mean": _mean, "quadrants": _quadrants, "none": _flatten}


def pool(features, pooling):
    """Pool a grid of features.

    Parameters
    ----------
    features : Tensor of shape (batch, rows, cols, n_components)
    pooling : {"max", "mean", "quadrants", "none"}
        Maximum or mean over the grid; maxima over its four quadrants, side by side; or every
        patch's features side by side.

    Returns
    -------
    pooled : Tensor of shape (batch, n_pooled(...))

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    check_name("pooling", pooling, POOLINGS)
    return POOLINGS[pooling](features)


def n_pooled(pooling, shape, n_components):
    """Number of features that `pool` gives for a grid of this shape."""
    check_name("pooling", pooling, POOLINGS)
    parts = {"quadrants": 4, "none": shape[0] * shape[1]}
    return n_components * parts.get(pooling, 1)
