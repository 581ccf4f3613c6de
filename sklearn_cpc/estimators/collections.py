"""Features of collections that no single process holds: dask arrays, several processes."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch.utils.data import Dataset, Subset

from ..training import digest
from ..training.distributed import from_main, in_step, join
from ..training.in_step import agreed
from .files import written_whole

__all__ = ["read_shared", "transform_blocks", "transform_shared"]


def transform_blocks(transformer, X):
    """Features of a dask array of images, block by block, when they are asked for.

    Parameters
    ----------
    transformer : CPCTransformer
        Fitted. It goes with the tasks to where they are computed.
    X : dask array of shape (n, ...)
        Images as in `transformer.transform`. Blocks are those of the first axis; each is to fit
        into the memory of a worker. Its length may be unknown.

    Returns
    -------
    features : dask array of shape (n, n_features_out), float32

    Examples
    --------
    >>> import dask.array as da
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_cpc import CPCTransformer
    >>> from sklearn_cpc.estimators.collections import transform_blocks
    >>> X = load_digits().data[:100]
    >>> cpc = CPCTransformer(16, latent_dim=8, max_epochs=0).fit(X)
    >>> transform_blocks(cpc, da.from_array(X, chunks=(40, -1)))
    dask.array<..., shape=(100, 16), dtype=float32, chunksize=(40, 16), chunktype=numpy.ndarray>
    """
    check_is_fitted(transformer)
    if not hasattr(X, "map_blocks"):
        raise TypeError(
            f"X is {type(X).__name__} and must be a dask array; use transformer.transform(X), or "
            "dask.array.from_array(X, chunks=(1000, ...))."
        )
    X = X.rechunk(dict.fromkeys(range(1, X.ndim), -1))
    width = transformer.get_feature_names_out().shape[0]
    return X.map_blocks(
        _transformed,
        transformer=transformer,
        dtype=np.float32,
        chunks=(X.chunks[0], (width,)),
        drop_axis=list(range(2, X.ndim)),
        meta=np.empty((0, width), np.float32),
    )


def _transformed(block, transformer):
    if not len(block):
        return np.empty((0, transformer.get_feature_names_out().shape[0]), np.float32)
    return transformer.transform(block)


def transform_shared(transformer, X, folder=None, *, rows_per_file=100_000):
    """Features of images, shared among the processes of torchrun; one process does all.

    Parameters
    ----------
    transformer : CPCTransformer
        Fitted, the same in all processes.
    X : array-like
        All images, as in `transformer.transform`; each process reads its rows only, by slices. A
        folder knows the images by their number alone.
    folder : str, Path or None, default=None
        Where the features are written, file by file, as ``rows-000000000000-000000100000.npy``. A
        file that is there is kept: an interrupted run goes on where it was, with any number of
        processes; ``run.json`` says what the features are of. None: they are brought together in
        the memory of every process.
    rows_per_file : int, default=100_000
        Images whose features go into one file.

    Returns
    -------
    features : ndarray of shape (n, n_features_out), float32, or None
        None where they are written; `read_shared` reads them.

    Raises
    ------
    ValueError
        If `rows_per_file` is below 1, or the folder has features of other weights, settings,
        numbers of images or rows per file.
    FailedElsewhereError
        If it has failed in another process.
    """
    check_is_fitted(transformer)
    if rows_per_file < 1:
        raise ValueError(f"rows_per_file={rows_per_file!r} must be at least 1; pass 100_000.")
    with in_step():
        if folder is not None:
            return _write_rows(transformer, X, Path(folder), rows_per_file, join())
        return _gathered(transformer, X, join())


def _n_rows(X):
    return X.shape[0] if hasattr(X, "shape") else len(X)


def _rows(X, start, stop):
    if isinstance(X, Dataset):  # which has no slices
        return Subset(X, range(start, stop))
    return X[start:stop]


def _gathered(transformer, X, world):
    n = _n_rows(X)
    ends = [n * part // world.size for part in range(world.size + 1)]
    start, stop = ends[world.rank : world.rank + 2]
    width = transformer.get_feature_names_out().shape[0]
    mine = np.empty((0, width), "f4")
    if stop > start:
        mine = transformer.transform(_rows(X, start, stop))
    if world.size == 1:
        return mine
    sizes = [b - a for a, b in pairwise(ends)]
    padded = torch.zeros(max(sizes), width)
    padded[: len(mine)] = torch.from_numpy(mine)
    parts = [torch.empty_like(padded) for _ in range(world.size)]
    with agreed():
        torch.distributed.all_gather(parts, padded)
    return torch.cat([p[:n] for p, n in zip(parts, sizes, strict=True)]).numpy()


def _write_rows(transformer, X, folder, rows_per_file, world):
    folder.mkdir(parents=True, exist_ok=True)
    width = transformer.get_feature_names_out().shape[0]
    n = _n_rows(X)
    from_main(lambda: _check_run(folder, transformer, n, rows_per_file))
    starts = range(0, n, rows_per_file)
    for start in starts[world.rank :: world.size]:
        stop = min(n, start + rows_per_file)
        path = folder / f"rows-{start:012d}-{stop:012d}.npy"
        if path.exists():
            _check_shape(path, (stop - start, width))
            continue
        with written_whole(path) as temporary, open(temporary, "wb") as file:
            np.save(file, transformer.transform(_rows(X, start, stop)))


def _check_run(folder, transformer, n_rows, rows_per_file):
    """Refuse a folder of other features; what is there says what it is of."""
    path = folder / "run.json"
    state = transformer.net_.module_.state_dict()
    names = ("output", "pooling", "transform_stride", "transform_flip")
    run = {
        "weights": digest(state),
        "rows": n_rows,
        "rows_per_file": rows_per_file,
        "settings": {name: repr(getattr(transformer, name)) for name in names},
    }
    if not path.exists():
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(run), encoding="utf-8")
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    if differing := [name for name in run if found.get(name) != run[name]]:
        raise ValueError(
            f"{folder} holds features of another run, with other {', '.join(differing)}; pass "
            "another folder, or delete this one."
        )


def _check_shape(path, shape):
    found = np.load(path, mmap_mode="r").shape
    if found != shape:
        raise ValueError(
            f"{path} is there with features of shape {found}, and {shape} would be written; pass "
            "another folder, or delete the files of the other run."
        )


def read_shared(folder):
    """What `transform_shared` wrote, as memory maps.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    parts : list of memmap of shape (n_rows, n_features_out)
        In order; ``np.concatenate(parts)`` are the features of all images.

    Raises
    ------
    ValueError
        If there are none, or rows are missing between them.
    """
    paths = sorted(Path(folder).glob("rows-*-*.npy"))
    expected = 0
    for path in paths:
        start, stop = map(int, path.stem.split("-")[1:])
        if start != expected:
            raise ValueError(
                f"{folder} has no features of rows {expected} to {start}; run transform_shared "
                "again with the same rows_per_file, it writes what is missing."
            )
        expected = stop
    if not paths:
        raise ValueError(f"{folder} has no files rows-*-*.npy; run transform_shared first.")
    return [np.load(path, mmap_mode="r") for path in paths]
