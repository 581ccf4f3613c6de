"""Images that come one by one, side by side in one array."""

import numpy as np

from .images import as_array

__all__ = ["stacked"]


def stacked(X):
    """Images of a list, a column or an array of objects as one array; anything else as it is.

    Raises
    ------
    ValueError
        If they differ in shape.
    """
    elements = _elements(X)
    if elements is None or not len(elements) or not _has_axes(elements[0]):
        return X
    first = tuple(elements[0].shape)
    for row, each in enumerate(elements):
        if np.shape(each) != first:
            raise ValueError(
                f"X[{row}] has shape {np.shape(each)} and X[0] {first}; images must be of one "
                "shape: crop or scale them."
            )
    return np.stack([as_array(each) for each in elements])


def _elements(X):
    """The images one by one, where X has them so."""
    if isinstance(X, list | tuple):
        return X
    shape = getattr(X, "shape", ())
    is_column = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    if not is_column or not (isinstance(X, np.ndarray) or hasattr(X, "to_numpy")):
        return None
    column = X.to_numpy() if hasattr(X, "to_numpy") else X
    return column.reshape(-1) if column.dtype == object else None


def _has_axes(element):
    return len(getattr(element, "shape", ())) > 0
