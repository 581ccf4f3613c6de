"""Where images come from: paths, datasets and arrays on disk are opened, the rest is left alone."""

import os
from numbers import Integral

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

from .decoded import DatasetImages, ImageFiles
from .lazy import LazyImages, SlicedArray

__all__ = ["as_paths", "check_resize", "open_images"]


def open_images(
    X,
    resize=None,
    broken="raise",
    n_workers=None,
    channels="auto",
    *,
    worker_kind="thread",
    widens=False,
    n_channels=None,
):
    """What is not in memory as `LazyImages`; anything else as it is.

    Parameters
    ----------
    X : object
        Paths of image files (a sequence or a column), a torch `Dataset` or a sequence of its
        items, an array that is read in slices, or anything else.
    resize : int, (int, int) or None, default=None
        See `check_resize`. For files and items of datasets; arrays are of one size.
    broken, n_workers, channels, worker_kind, widens, n_channels
        See `ImageFiles` and `DatasetImages`.

    Raises
    ------
    ValueError
        If a file cannot be read, files differ in size or kind, or X is a single path or has paths
        beside other columns.
    TypeError
        If X is a dataset without length, or cannot be sent to worker processes.
    """
    size = check_resize(resize)
    paths = as_paths(X)
    if paths is not None:
        return ImageFiles(
            paths, size, broken, n_workers, worker_kind, widens=widens, n_channels=n_channels
        )
    if isinstance(X, Dataset) or _is_items(X):
        if isinstance(X, IterableDataset) or not hasattr(X, "__len__"):
            raise TypeError(
                f"X={type(X).__name__} has no length and no items by number; pass a dataset with "
                "__len__ and __getitem__, for training goes through the images in random order."
            )
        return DatasetImages(X, size, broken, channels, n_workers, worker_kind)
    return SlicedArray(X) if _is_sliced(X) else X


def as_paths(X):
    """The paths in a sequence or a column; None where there are none.

    Raises
    ------
    ValueError
        If X is a single path, or something among paths is none.
    """
    if isinstance(X, str | os.PathLike):
        raise ValueError(
            f"X={os.fspath(X)!r} is one path; pass a list of paths, of a folder "
            "sklearn_cpc.datasets.image_folder(path).paths."
        )
    _refuse_columns(X)
    column = _column(X)
    if column is None or not any(isinstance(each, str | os.PathLike) for each in column):
        return None
    for row, each in enumerate(column):
        if not isinstance(each, str | os.PathLike):
            raise ValueError(
                f"X[{row}]={each!r:.100} is no path, but others are; pass a str or Path for every "
                "image, or leave that row out."
            )
    return column


def _refuse_columns(X):
    """Refuse a data frame of several columns that has paths."""
    if not hasattr(X, "columns") or X.shape[1] < 2 or not len(X):
        return
    names = [name for name in X.columns if isinstance(X[name].to_numpy()[0], str | os.PathLike)]
    if names:
        raise ValueError(
            f"X has {X.shape[1]} columns, and column {names[0]!r} has text; paths must be a "
            f"single column: pass X[{names[0]!r}], or name it in a ColumnTransformer."
        )


def _column(X):
    """What may be a column of paths, one element for each row."""
    if isinstance(X, list | tuple):
        return X
    shape = getattr(X, "shape", ())
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        return None
    if hasattr(X, "to_numpy"):  # of pandas or polars
        X = X.to_numpy()
    if not isinstance(X, np.ndarray) or X.dtype.kind not in "OUT":
        return None
    return X.reshape(-1)


def _is_items(X):
    """Whether X is what scikit-learn's indexing makes of a dataset: a list of its items."""
    if not isinstance(X, list) or not X:
        return False
    if isinstance(X[0], tuple) and X[0]:
        return isinstance(X[0][0], torch.Tensor | np.ndarray) or hasattr(X[0][0], "getbands")
    return hasattr(X[0], "getbands")


def _is_sliced(X):
    if isinstance(X, np.ndarray | np.generic | torch.Tensor | LazyImages):
        return False
    foreign = hasattr(X, "iloc") or (hasattr(X, "toarray") and hasattr(X, "nnz"))
    return not foreign and all(hasattr(X, a) for a in ("shape", "dtype", "__getitem__"))


def check_resize(resize):
    """Height and width that images are brought to; None where they stay as they are."""
    if resize is None:
        return None
    pair = (resize, resize) if isinstance(resize, Integral) else tuple(resize)
    if len(pair) != 2 or not all(isinstance(n, Integral) and n >= 1 for n in pair):
        raise ValueError(
            f"resize={resize!r} must be a number of pixels or (height, width), each at least 1; "
            "pass for example resize=64."
        )
    return int(pair[0]), int(pair[1])
