"""Grey and coloured images side by side: what holds all of them, and nothing is lost."""

import numpy as np

__all__ = ["NAMES", "joined", "union", "widened"]

# Of channels whose meaning is known.
NAMES = {1: "grey", 2: "grey with transparency", 3: "RGB", 4: "RGBA"}


def union(n_channels, others):
    """Channels that hold images of both numbers: colour if either has it, transparency likewise."""
    return (3 if max(n_channels, others) > 2 else 1) + (0 in (n_channels % 2, others % 2))


def joined(kind, other):
    """The kind of image that holds both without loss; None where there is none.

    Numbers of other widths are not joined: 255 in 8 bits is not 255 in 16.
    """
    alike = kind.shape[:2] == other.shape[:2] and kind.dtype == other.dtype
    if not (alike and kind.has_colours and other.has_colours):
        return None
    return kind._replace(shape=(*kind.shape[:2], union(kind.shape[2], other.shape[2])))


def widened(array, n_channels):
    """Grey as three equal channels, and full opacity where there was no transparency.

    Parameters
    ----------
    array : ndarray of shape (height, width, channels)
        Of grey, RGB, or either with transparency.
    n_channels : int
        The `union` of its channels and others.
    """
    if array.shape[2] == n_channels:
        return array
    has_alpha = array.shape[2] % 2 == 0
    colour = array[:, :, : array.shape[2] - has_alpha]
    parts = [np.broadcast_to(colour, (*array.shape[:2], 3 if n_channels > 2 else 1))]
    if has_alpha:
        parts.append(array[:, :, -1:])
    elif n_channels % 2 == 0:
        opaque = np.iinfo(array.dtype).max if array.dtype.kind in "ui" else 1
        parts.append(np.full((*array.shape[:2], 1), opaque, array.dtype))
    return np.concatenate(parts, axis=2)
