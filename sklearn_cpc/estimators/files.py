"""Files that appear whole or not at all."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path):
    """A path beside this one to write to; it is moved to its place at the end.

    Where writing fails, as on a full disk, an earlier file is left as it was.

    Raises
    ------
    OSError
        If there is no such folder, or the path is itself one.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}; make it first.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; pass the name of a file.")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)
