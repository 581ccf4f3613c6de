"""Images of any number of channels as something that can be shown."""

import numpy as np

from .layout import as_shaped, flat_rows, resolve_layout


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
