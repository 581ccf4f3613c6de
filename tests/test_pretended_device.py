"""The tests marked gpu, on a machine without one: see tests/pretend."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .pretend.compiling import compiled, compiler

FILES = ("estimators/test_gpu.py", "estimators/test_gpu_variants.py", "pretend/test_device.py")
TESTS = Path(__file__).parent


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.skipif(torch.version.cuda is not None, reason="needs a torch without CUDA")
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_what_needs_a_gpu_passes_on_a_pretended_one(tmp_path):
    try:
        device = compiled(tmp_path)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{compiler()} cannot compile torch's headers: {error.stderr[:200]}")
    plugin = ("-p", "tests.pretend.plugin", "-p", "no:cacheprovider", "-p", "no:xdist")
    # The kernel of the GRU on a device has no counterpart on the CPU.
    command = [sys.executable, "-m", "pytest", "-q", *plugin, "-k", "not gru"]
    command += [str(TESTS / file) for file in FILES]
    environment = os.environ | {"PRETENDED_DEVICE": str(device)}
    found = subprocess.run(
        command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    assert " passed" in found.stdout
    assert " skipped" not in found.stdout
