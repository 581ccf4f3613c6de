"""From `device.cpp` to a library, without importing torch."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

TORCH = Path(importlib.util.find_spec("torch").origin).parent


def compiler():
    """Name of a C++ compiler, or None."""
    return next(filter(shutil.which, ("c++", "g++", "clang++")), None)


def compiled(folder):
    """Path of the library; CalledProcessError where the compiler is too old for torch's headers."""
    library = Path(folder) / "device.so"
    source = Path(__file__).with_name("device.cpp")
    options = ["-std=c++20", "-shared", "-fPIC", f"-I{TORCH / 'include'}"]
    libraries = [f"-L{TORCH / 'lib'}", "-lc10", "-ltorch_cpu"]
    command = [compiler(), *options, str(source), *libraries, "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library
