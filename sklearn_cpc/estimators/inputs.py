"""What is handed to the estimator: images against those of fit, and the grid they are cut by."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import isqrt

import numpy as np
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data
from torch.utils.data import DataLoader

from ..training import ImageFiles, LazyImages, as_images, open_images
from ..training.colours import NAMES
from ..training.images import as_array, check_finite, pixel_range
from ..training.stacking import stacked

FIRST_MAPS = 64  # channels of the encoders' first layers
SMALL_SHARE = 0.01  # of the range of fit: pixels of another dtype in less are of another scale
LAZY_ROWS_SEEN = 8  # of images that are not in memory, to compare their range
ROWS_SEEN = 1024  # of integers of the dtype of fit
LEAST_SIDE = 8  # of flat colour images
SMALL_OF_SPREAD = 0.05  # of the standard deviation of fit's pixels, and so is the range of all


def opened(estimator, X, reset=False, skipped="zeros"):
    """X as `LazyImages` where it is not in memory, see `check_images`."""
    widens = estimator.mixed_channels == "widen"
    return open_images(
        X,
        estimator.resize,
        skipped if estimator.broken_images == "skip" else "raise",
        estimator.n_workers,
        estimator.channels,
        worker_kind=estimator.worker_kind,
        widens=widens,
        n_channels=_channels_to_hold(estimator) if widens and not reset else None,
    )


def _channels_to_hold(estimator):
    """Channels that grey or coloured files are brought to; None where those of fit are others."""
    n_channels = estimator.image_shape_[2]
    has_colours = getattr(estimator, "training_data_", {}).get("has_colours", n_channels in NAMES)
    return n_channels if has_colours else None


def check_images(estimator, X, reset, skipped="drop"):
    """X as `Images`, checked; with `reset` it is what all later X must be like.

    Images that cannot be read, and are to be skipped, are left out; read as zeros, which keeps
    the rows (`skipped="zeros"`); or refused all the same (`skipped="raise"`).
    """
    _refuse_containers(X)
    X = opened(estimator, X, reset, skipped)
    is_lazy = isinstance(X, LazyImages)
    X = stacked(X)
    if not (hasattr(X, "iloc") or _is_sparse(X)):
        X = as_array(X)
    _refuse_masked(X)
    if not reset:
        _refuse_single(estimator, tuple(X.shape))
    if X.ndim == 2:
        if is_lazy:
            stand_in = np.broadcast_to(np.float32(0), X.shape)
            validate_data(estimator, stand_in, reset=reset, skip_check_array=True)
        else:
            X = validate_data(estimator, X, reset=reset)
        if reset:
            _warn_of_flat_colours(X.shape[1], estimator.image_shape)
            return as_images(X, estimator.image_shape, estimator.channels)
        channels = "first" if estimator.channels_first_ else "last"
        images = as_images(X, _flat_shape(estimator), channels)
        _warn_of_another_range(estimator, images)
        return images
    if X.ndim < 2 or X.dtype.kind not in "buif":
        # scikit-learn's words for what is no image: a vector, text. Objects become numbers.
        X = check_array(X, estimator=estimator, allow_nd=True)
    channels = getattr(X, "channels", None) or estimator.channels
    if not reset and X.ndim == 4 and estimator.image_shape_[2] > 1 and channels == "auto":
        channels = "first" if estimator.channels_first_ else "last"
    images = as_images(X, estimator.image_shape if reset else None, channels)
    ends = None if is_lazy else check_finite(images)  # what is lazy is checked as it is read
    if reset or images.shape == estimator.image_shape_:
        stand_in = np.broadcast_to(np.float32(0), (len(images), int(np.prod(images.shape))))
        validate_data(estimator, stand_in, reset=reset, skip_check_array=True)
    if not reset and images.shape[2] != estimator.image_shape_[2]:
        where = "first" if images.channels_first else "last"
        axes = f", the {where} axis of {tuple(X.shape[1:])}" if X.ndim == 4 else ""
        raise ValueError(
            f"X has images of {images.shape[2]} channels{axes}, but CPCTransformer was fitted on "
            f"images of {estimator.image_shape_[2]}; pass the same channels as in fit."
        )
    if not reset:
        _warn_of_another_range(estimator, images, ends)
    return images


def _warn_of_flat_colours(n_pixels, image_shape):
    """Say so where rows that are as long as those of square colour images are taken for lines."""
    if image_shape is not None or isqrt(n_pixels) ** 2 == n_pixels:
        return
    side = isqrt(n_pixels // 3)
    if side >= LEAST_SIDE and 3 * side**2 == n_pixels:
        warnings.warn(
            f"X has rows of {n_pixels} numbers, which are taken for images of one line. If they "
            f"are {side}x{side} pixels of 3 channels, pass image_shape=(3, {side}, {side}) for one "
            f"channel after the other, or ({side}, {side}, 3); else image_shape=(1, {n_pixels}).",
            UserWarning,
            stacklevel=5,
        )


def _refuse_containers(X):
    """Refuse what has images in it, but in a way that is not read, with the way out."""
    kind = type(X).__name__
    if X is None or (isinstance(X, list | tuple) and not len(X)):
        raise ValueError(f"X={X!r} has no images; pass an array of them, or paths of files.")
    if isinstance(X, DataLoader):
        raise TypeError(f"X is a {kind}, which has its own batches; pass its dataset, X.dataset.")
    if isinstance(X, Iterator):
        raise TypeError(f"X is a {kind}, which can be read only once; pass list(X).")
    if isinstance(X, Mapping):
        names = ", ".join(repr(name) for name in list(X)[:5])
        raise TypeError(f"X is a {kind} of {names or 'nothing'}; pass one of its arrays, X[name].")


def _refuse_masked(X):
    if np.ma.is_masked(X):
        raise ValueError(
            f"X is a masked array with {np.ma.count_masked(X)} masked pixels, and a mask would be "
            "lost; pass X.filled(value)."
        )


def _refuse_single(estimator, shape):
    """Refuse one image without the axis of images, whose first axis would be taken for that."""
    height, width, n_channels = estimator.image_shape_
    if n_channels > 1:
        is_single = shape in ((height, width, n_channels), (n_channels, height, width))
    else:  # an image of one row is a flat one
        is_single = shape == (height, width) and height > 1
    if is_single:
        raise ValueError(
            f"X of shape {shape} is a single image, and X must hold several, or one, along its "
            "first axis; pass X[np.newaxis]."
        )


def _warn_of_another_range(estimator, images, ends=None):
    """Say so where pixels are not scaled as in fit; `ends` are the least and the greatest."""
    scale, dtype = estimator.pixel_scale_, np.dtype(images.data.dtype).name
    trained = (getattr(estimator, "training_data_", None) or {}).get("dtype", dtype)
    is_same = dtype == trained
    # uint8 has one scale; of few files none is read twice.
    is_read_again = isinstance(images.data, LazyImages) and len(images) < 2 * LAZY_ROWS_SEEN
    if is_same and (dtype == "uint8" or is_read_again):
        return
    low, high = ends or _range_seen(images, is_same)
    span = scale.high - scale.low
    is_outside = low < scale.low - span or high > scale.high + span
    is_narrow = 0 < high - low < SMALL_SHARE * span
    if is_same:  # a dark or empty image is none of another scale
        spread = span * float(np.mean(scale.std))
        is_narrow &= len(images) > 3 and high - low < SMALL_OF_SPREAD * spread
    if is_outside or is_narrow:
        warnings.warn(
            f"X has {dtype} pixels from {low:g} to {high:g}, and fit had {trained} pixels that are "
            f"taken to be from {scale.low:g} to {scale.high:g}; bring X to the range of fit, or "
            "its features mean little.",
            UserWarning,
            stacklevel=6,
        )


def _range_seen(images, is_same):
    """The least and the greatest pixel, of some images where all would take long."""
    if isinstance(images.data, LazyImages):
        rows = np.linspace(0, len(images) - 1, LAZY_ROWS_SEEN).astype(int)
        images = replace(images, data=images.data[np.unique(rows)])
    elif is_same and images.data.dtype.kind != "f":
        images = replace(images, data=images.data[:: -(-len(images) // ROWS_SEEN)])
    return pixel_range(images)


def description(images):
    """What can be said of training images in words and numbers."""
    data = images.data
    said = {
        "n_images": len(images),
        "dtype": np.dtype(data.dtype).name,
        "image_shape": [int(n) for n in data.shape[1:]],
    }
    if isinstance(data, ImageFiles):
        said["has_colours"] = data.has_colours
    return said


def _flat_shape(estimator):
    height, width, n_channels = estimator.image_shape_
    if n_channels == 1:
        return height, width
    if estimator.channels_first_:
        return n_channels, height, width
    return height, width, n_channels


def _is_sparse(X):
    return hasattr(X, "toarray") and hasattr(X, "nnz")


def images_and_grid(estimator, X, skipped="zeros"):
    """X as `Images`, and the grid of `transform` on images of that size."""
    check_is_fitted(estimator)
    images = check_images(estimator, X, reset=False, skipped=skipped)
    height, width, _ = images.shape
    grid = transform_grid(estimator)
    if height < grid.patch_size[0] or width < grid.patch_size[1]:
        raise ValueError(
            f"X has images of {height}x{width} pixels, smaller than the patches of the fit, "
            f"{grid.patch_size[0]}x{grid.patch_size[1]}; pass larger images, or fit anew with "
            "a smaller patch_size."
        )
    return images, grid.with_size(height, width)


def mark_broken(images, features, stacklevel):
    """NaN for the features of images that were skipped, and a warning that counts them."""
    broken = getattr(images.data, "broken", None)
    if not broken:
        return
    rows = sorted(broken)
    features[rows] = np.nan
    warnings.warn(
        f"{len(rows)} of {len(images)} images cannot be read; their features are NaN (rows "
        f"{_some(rows)}). The first: {broken[rows[0]]}",
        RuntimeWarning,
        stacklevel=stacklevel,
    )


def _some(rows):
    return ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")


def transform_grid(estimator):
    """The grid of `transform` on images of the size of fit."""
    stride, trained = estimator.transform_stride, estimator.grid_.patch_stride
    needs_trained = estimator.output in ("c", "both")
    if isinstance(stride, str):
        stride = trained if needs_trained else tuple(max(1, s // 2) for s in trained)
    try:
        grid = estimator.grid_.with_stride(stride)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("patch_stride", "transform_stride")) from None
    if needs_trained and grid.patch_stride != trained:
        raise ValueError(
            f"transform_stride={estimator.transform_stride!r} must be the patch_stride of fit, "
            f"{trained}, with output={estimator.output!r}: contexts were trained on patches at "
            "that distance; pass transform_stride='auto', or output='z'."
        )
    return grid


def largest_map(model, grid, n_outputs):
    """Numbers that the features, or the first maps, of one image take."""
    can_share = getattr(model.encoder, "can_share", None)
    shares = can_share is not None and can_share(grid.patch_stride)
    pixels = grid.height * grid.width if shares else grid.n_patches * np.prod(grid.patch_size)
    width = max(model.encoder.n_components, n_outputs)
    numbers = [grid.n_patches * width, FIRST_MAPS * int(pixels)]
    if shares and hasattr(model.encoder, "numbers_at_once"):
        numbers.append(model.encoder.numbers_at_once(grid.patch_stride, grid.n_patches))
    return max(numbers)
