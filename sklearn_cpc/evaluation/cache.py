"""Finished parts of a study in a folder, so that an interrupted one goes on where it stopped."""

import inspect
import os
import shutil
import sys
import tempfile
import warnings
from copyreg import dispatch_table
from functools import cache as remember
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType, NoneType

import joblib
import numpy as np

FORMAT = "sklearn_cpc study 1"
# What computes the scores: another version of any of them is another setting.
PACKAGES = ("sklearn_cpc", "sklearn", "skorch", "torch", "numpy", "scipy")
LITERALS = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), type(NotImplemented))


class ResultStore:
    """Named values in a folder; each file appears whole or not at all.

    Parameters
    ----------
    folder : str, Path or None
        None keeps nothing. The files are pickles: use a folder that nobody else writes to.
    """

    def __init__(self, folder):
        if folder is not None and not isinstance(folder, str | os.PathLike):
            raise TypeError(
                f"cache={folder!r}: must be a folder, as a str or a Path, or None for none."
            )
        self.folder = None if folder is None else Path(folder)

    def check_folder(self):
        """Refuse before the work what nothing could be written to after it."""
        if not self:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ValueError(
                f"cache={str(self.folder)!r} must be a folder that can be written to ({error}); "
                "pass another one, or None."
            ) from error

    def __bool__(self):
        return self.folder is not None

    def load(self, name):
        """The value of this name; None, with a warning, if its file is not what was written."""
        if not self or not (path := self._path(name)).exists():
            return None
        try:
            content = joblib.load(path)
            if content["format"] != FORMAT or content["name"] != name:
                raise ValueError("it was not written under this name")
            return content["value"]
        except Exception as error:  # whatever a torn or foreign file makes of the unpickler
            warnings.warn(
                f"cache: {path} cannot be used ({type(error).__name__}: {error}); it is ignored, "
                "and what it should hold is computed again.",
                stacklevel=2,
            )
            return None

    def save(self, name, value):
        if not self:
            return
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                joblib.dump({"format": FORMAT, "name": name, "value": value}, file)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise

    def drop(self, name):
        """Forget all names that begin with this one and a slash."""
        if self:
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _path(self, name):
        return self.folder / f"{name}.joblib"


def versions():
    """The versions of the packages that are at work."""
    loaded = ((name, sys.modules.get(name)) for name in PACKAGES)
    return {name: module.__version__ for name, module in loaded if module is not None}


def hash_arrays(value):
    """A hash of data by their values, wherever they lie."""
    return joblib.hash(value, coerce_mmap=True)


def hash_setting(value, name):
    """A hash of an estimator or function that is the same in every process.

    `joblib.hash` alone will not do: torch pickles the addresses of its storages, skorch the order
    in which attributes came, and of a class only the name is pickled, not the code.
    """
    try:
        return _digest(value, {})
    except (TypeError, ValueError, OSError, RecursionError, AttributeError) as error:
        raise ValueError(
            f"cache: {name} cannot be told from others reliably ({type(error).__name__}: {error}); "
            "keep its parameters to numbers, strings, arrays, estimators, and functions and "
            "classes from a file, or pass cache=None."
        ) from error


def _digest(value, known):
    """A hash by value: neither addresses nor who shares what with whom count."""
    if isinstance(value, LITERALS):
        return joblib.hash((type(value).__name__, value))
    if id(value) not in known:
        known[id(value)] = ("a cycle", type(value).__name__), value
        # The value is kept, or its id could come again.
        known[id(value)] = joblib.hash(_parts(value, known)), value
    return known[id(value)][0]


def _parts(value, known):
    """What a pickle would hold, in literals and arrays alone."""

    def digests(values):
        return [_digest(each, known) for each in values]

    kind = type(value)
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            return "objects", value.shape, digests(value.ravel().tolist())
        return "array", str(value.dtype), value.shape, np.ascontiguousarray(value)
    if isinstance(value, np.generic | np.dtype):
        return kind.__name__, str(value)
    if kind.__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        return "tensor", str(value.dtype), value.detach().cpu().double().numpy()
    if isinstance(value, type):
        return "class", [_code(base) for base in value.__mro__]
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return "function", _code(value), digests([value.__defaults__, value.__kwdefaults__, cells])
    if isinstance(value, BuiltinFunctionType) and isinstance(value.__self__, ModuleType | NoneType):
        return "builtin", value.__module__, value.__qualname__
    if kind is dict:
        return "dict", sorted(digests(pair) for pair in value.items())
    if kind in (list, tuple):
        return kind.__name__, digests(value)
    if kind in (set, frozenset):
        return "set", sorted(digests(value))
    return _object_parts(value, kind, digests)


def _object_parts(value, kind, digests):
    reduced = dispatch_table[kind](value) if kind in dispatch_table else value.__reduce_ex__(4)
    if isinstance(reduced, str):  # a global name, as of a ufunc
        return "global", kind.__module__, reduced
    function, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    if kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__:
        # Not what __getstate__ makes of it: skorch's holds pickles, which differ from run to run.
        state = getattr(value, "__dict__", state)
    pairs = sorted(digests(pair) for pair in pairs or ())
    return digests([function, arguments, state]), digests(items or ()), pairs


@remember
def _code(thing):
    """Name and version of a class or function; its source where its package has no version."""
    root = thing.__module__.partition(".")[0]
    name = thing.__module__, thing.__qualname__
    if root in sys.stdlib_module_names and root != "__main__":
        return (*name, sys.version_info[:2])
    version = getattr(sys.modules.get(root), "__version__", None)
    return (*name, version if isinstance(version, str) else inspect.getsource(thing))
