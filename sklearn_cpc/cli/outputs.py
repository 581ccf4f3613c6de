"""Files that are written: each appears whole or not at all."""

import csv
import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..datasets import IMAGE_ENDS
from ..estimators.files import written_whole
from ..evaluation._optional import import_optional

__all__ = [
    "FEATURE_FILES",
    "UsageError",
    "check_names",
    "check_output",
    "check_picture",
    "features_to",
]


class UsageError(Exception):
    """The arguments are wrong."""


def check_output(path):
    """Refuse before the work what could not be written after it."""
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"-o {path} is a folder; pass the name of a file.")
    if not path.parent.is_dir():
        raise UsageError(f"-o {path}: there is no folder {path.parent}; make it first.")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"-o {path}: nothing can be written to {path.parent}; choose another.")
    if path.suffix.lower() in IMAGE_ENDS:
        # One of the user's own, as a rule; and the picture of a curve would replace its table.
        raise UsageError(f"-o {path} has the name of an image; pass one that ends otherwise.")
    return path


def check_picture(path, folder):
    """Refuse a picture that would from then on be one of the images."""
    if Path(folder).resolve() in path.resolve().parents:
        raise UsageError(
            f"-o: the picture {path} would be one of the images of {folder}; pass -o with the name "
            "of a file elsewhere."
        )
    if path.is_dir():
        raise UsageError(f"-o: the picture {path} is a folder; pass another name.")


def check_names(names):
    """Refuse file names that no CSV or Parquet file in UTF-8 holds."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"The name of {name!a} is not in UTF-8, and no file of features could hold it; "
                "rename it."
            ) from None
    return names


@contextmanager
def features_to(path, n_rows, columns):
    """What writes blocks of features: `write(paths, features)`, in order.

    Parameters
    ----------
    path : Path
        Ends in one of `FEATURE_FILES`.
    n_rows : int
        Of all blocks together.
    columns : sequence of str
        Names of the features.
    """
    write_features = FEATURE_FILES[path.suffix]
    with written_whole(path) as temporary, write_features(temporary, n_rows, columns) as w:
        yield w


@contextmanager
def _to_npy(path, n_rows, columns):
    table = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=(n_rows, len(columns))
    )
    start = 0

    def write(paths, features):
        nonlocal start
        table[start : start + len(features)] = features
        start += len(features)

    yield write
    table.flush()


@contextmanager
def _to_csv(path, n_rows, columns):
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", *columns])

        def write(paths, features):
            for name, row in zip(paths, features.tolist(), strict=True):
                rows.writerow([name, *(f"{value:.9g}" for value in row)])

        yield write


@contextmanager
def _to_parquet(path, n_rows, columns):
    pyarrow = import_optional("pyarrow", "sklearn-cpc transform -o *.parquet", "parquet")
    parquet = import_optional("pyarrow.parquet", "sklearn-cpc transform -o *.parquet", "parquet")
    fields = [("path", pyarrow.string()), *((name, pyarrow.float32()) for name in columns)]
    schema = pyarrow.schema(fields)
    with parquet.ParquetWriter(path, schema) as file:

        def write(paths, features):
            arrays = [pyarrow.array(paths), *map(pyarrow.array, np.ascontiguousarray(features.T))]
            file.write_table(pyarrow.table(arrays, schema=schema))

        yield write


FEATURE_FILES = {".parquet": _to_parquet, ".npy": _to_npy, ".csv": _to_csv}
