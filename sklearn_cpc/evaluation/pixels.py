"""Images of any number of channels as something that can be shown."""

import os

import numpy as np

from ._optional import import_optional
from .layout import as_shaped, flat_rows, resolve_layout

LONGEST = 64  # side of a thumbnail of a file


def as_seen(*parts, longest=None):
    """Images of one or several parts in one array; files are read.

    Files are shown as colours where they are not all of one kind, and those of another size than
    the first are scaled to it, and cropped in the middle. `longest`: no side has more pixels.
    """
    columns = [_column(part) for part in parts]
    if not isinstance(next(iter(columns[0]), None), str | os.PathLike):
        return np.concatenate([np.asarray(part) for part in parts])
    pillow = import_optional("PIL.Image", "Showing image files", "images")
    operations = import_optional("PIL.ImageOps", "Showing image files", "images")
    images = []
    for path in (path for column in columns for path in column):
        with pillow.open(path) as file:
            image = _of_plain_kind(operations.exif_transpose(file))
        size = images[0].size if images else _at_most(image.size, longest)
        images.append(image if image.size == size else operations.fit(image, size))
    if len({image.mode for image in images}) > 1:
        images = [image.convert("RGB") for image in images]
    return np.stack([np.asarray(image) for image in images])


def _column(part):
    """Elements of a sequence, or of a column of a frame or of an array of objects."""
    part = part.to_numpy() if hasattr(part, "to_numpy") else part
    return part.reshape(-1) if getattr(part, "dtype", None) == np.dtype(object) else part


def _of_plain_kind(image):
    """Grey of 8 bits, grey of more as floats, or colour."""
    if image.mode in ("L", "1", "LA"):
        return image.convert("L")
    if image.mode.startswith("I"):
        return image.convert("I").convert("F")
    return image if image.mode == "F" else image.convert("RGB")


def _at_most(size, longest):
    if longest is None or max(size) <= longest:
        return size
    return tuple(max(1, round(side * longest / max(size))) for side in size)


def shown_images(X, image_shape=None, channels="auto"):
    """Images as (n, height, width, 3) floats in [0, 1].

    One channel is grey, two are magenta and green, of three and more the first three are red, green
    and blue. Bool, uint8 and floats in [0, 1] are shown as they are; anything else is stretched
    channel by channel, from the least to the greatest value in `X`.
    """
    X = as_shaped(X)
    layout = resolve_layout(X, image_shape, channels)
    images = layout.channels_last(flat_rows(X) if X.ndim > 2 else np.asarray(X))
    images = _in_unit_range(images)
    n_channels = images.shape[-1]
    picked = {1: (0, 0, 0), 2: (0, 1, 0)}.get(n_channels, (0, 1, 2))
    return images[..., picked]


def _in_unit_range(images):
    if images.dtype == np.uint8:
        return images / 255.0
    images = images.astype(float)
    if images.min() >= 0 and images.max() <= 1:
        return images
    axes = tuple(range(images.ndim - 1))
    low, high = images.min(axis=axes), images.max(axis=axes)
    return (images - low) / np.where(high > low, high - low, 1)
