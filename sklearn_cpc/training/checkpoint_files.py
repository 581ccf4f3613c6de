"""Checkpoints on disk: each is there whole or not at all, and is checked when it is read."""

import hashlib
import json
import os
import re
import time
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from ._optional import import_optional
from .tensor_files import read_tensors

try:
    import fcntl
except ImportError:  # not on Windows: there two trainings in one folder go unnoticed
    fcntl = None

__all__ = ["CheckpointFolder", "digest", "pack", "unpack"]

FORMAT = "sklearn-cpc checkpoint 1"
NAME = re.compile(r"checkpoint-(\d{8})\.safetensors")
KEPT = 2
MARK = "$tensor"
# Of a killed training, worker processes may hold the lock a moment longer.
LOCK_SECONDS = 5.0


class CheckpointFolder:
    """The newest two checkpoints of one training; a context in which no other has the folder.

    Parameters
    ----------
    folder : str or Path
        Made where there is none.

    Raises
    ------
    ValueError
        If it cannot be written to, or another training is using it.
    """

    def __init__(self, folder):
        self.folder = Path(folder)

    def __enter__(self):
        import_optional("safetensors.torch", "checkpoint", "safetensors")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / ".lock", "ab")
        except OSError as error:
            raise ValueError(
                f"checkpoint={str(self.folder)!r} must be a folder that can be written to "
                f"({error}); pass another one."
            ) from error
        try:
            self._take_lock()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *exception):
        self._lock.close()  # lets go of the lock, as the end of the process does

    def _take_lock(self):
        deadline = time.monotonic() + LOCK_SECONDS
        while fcntl is not None:
            try:
                return fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise ValueError(
                        f"checkpoint={str(self.folder)!r} is in use by another training; pass "
                        "each its own folder."
                    ) from error
            except OSError:  # a file system without locks
                return None
            time.sleep(0.05)

    def paths(self):
        """Checkpoints there are, the oldest first."""
        return sorted(path for path in self.folder.iterdir() if NAME.fullmatch(path.name))

    def write(self, state):
        """Add a checkpoint; those before stay until it is on the disk.

        Parameters
        ----------
        state : dict
            See `pack`.

        Raises
        ------
        OSError
            If it cannot be written; what was there is untouched.
        """
        data = _to_bytes(state)
        paths = self.paths()
        number = int(NAME.fullmatch(paths[-1].name).group(1)) + 1 if paths else 1
        self._write_whole(self.folder / f"checkpoint-{number:08d}.safetensors", data)
        for old in self.paths()[:-KEPT]:
            old.unlink(missing_ok=True)
        for left in self.folder.glob(".checkpoint-*.part"):  # of a training that was killed
            left.unlink(missing_ok=True)

    def _write_whole(self, path, data):
        temporary = path.with_name(f".{path.name}.part")
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        _sync_folder(self.folder)

    def read(self):
        """The state of the newest checkpoint that is whole, or None where there is none.

        Raises
        ------
        ValueError
            If there are checkpoints and none is whole, or one is of another version.

        Warns
        -----
        RuntimeWarning
            If the newest is broken; it is set aside under another name.
        """
        broken = {}
        for path in reversed(self.paths()):
            try:
                state = _from_file(path)
            except _BrokenError as error:
                broken[path] = error
                continue
            self._set_aside(broken, path)
            return state
        if broken:
            reasons = "; ".join(f"{path.name}: {error}" for path, error in broken.items())
            raise ValueError(
                f"checkpoint={str(self.folder)!r} has no checkpoint that can be read ({reasons}); "
                "pass another folder, or delete these files to start anew."
            )
        return None

    def _set_aside(self, broken, whole):
        for path, error in broken.items():
            os.replace(path, path.with_name(f"{path.name}.broken"))
            warnings.warn(
                f"{path} is broken ({error}); training goes on from {whole.name}, and the broken "
                f"one is now {path.name}.broken.",
                RuntimeWarning,
                stacklevel=7,
            )


class _BrokenError(Exception):
    """A file that is not what was written."""


def _to_bytes(state):
    from safetensors.torch import save

    plain, tensors = pack(state)
    text = json.dumps(plain)
    metadata = {"format": FORMAT, "state": text, "digest": digest(tensors, text)}
    return save(tensors, metadata)


def _from_file(path):
    from safetensors import SafetensorError

    try:
        tensors, metadata = read_tensors(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise _BrokenError(f"no safetensors file: {error}") from error
    if metadata.get("digest") != digest(tensors, metadata.get("state", "")):
        raise _BrokenError("not a checkpoint of sklearn_cpc, or changed after it was written")
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {metadata.get('format')!r}; this version of sklearn_cpc reads "
            f"{FORMAT!r} only: go on with the version that wrote it, or pass another folder."
        )
    try:
        return unpack(json.loads(metadata["state"]), tensors)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} does not hold the state of a training ({error!r:.200}); pass another folder."
        ) from error


def _sync_folder(folder):
    """Bring a renaming to the disk, where the system can."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def digest(tensors, text=""):
    """A number that changes with any name, shape, kind or value, in hexadecimal."""
    total = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def pack(state):
    """Nested dicts and lists as what JSON holds, and their tensors by name.

    Parameters
    ----------
    state : dict
        Keys are strings; values are dicts, lists, tuples, tensors, numbers, strings, None.

    Returns
    -------
    plain : dict
        {"$tensor": name} in the place of a tensor.
    tensors : dict of str -> Tensor
        On the CPU.

    Raises
    ------
    TypeError
        If there is anything else.
    """
    tensors = {}

    def visit(value, path):
        if isinstance(value, torch.Tensor):
            name = "/".join((str(len(tensors)), *path))
            # safetensors takes no two tensors of one memory, such as tied weights.
            tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {MARK: name}
        if isinstance(value, dict):
            return {name: visit(v, (*path, name)) for name, v in value.items()}
        if isinstance(value, list | tuple):
            return [visit(v, (*path, str(i))) for i, v in enumerate(value)]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.generic):
            return visit(value.item(), path)
        raise TypeError(
            f"{'/'.join(path)}={value!r:.100} cannot be kept in a checkpoint; a state may hold "
            "dicts with names, lists, tensors, numbers, strings and None."
        )

    return visit(state, ()), tensors


def unpack(plain, tensors):
    """What `pack` was given; tuples are lists now."""
    if isinstance(plain, dict):
        if plain.keys() == {MARK}:
            return tensors[plain[MARK]]
        return {name: unpack(value, tensors) for name, value in plain.items()}
    if isinstance(plain, list):
        return [unpack(value, tensors) for value in plain]
    return plain
