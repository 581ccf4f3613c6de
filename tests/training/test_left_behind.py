"""Trainings that are broken off leave no processes, threads and files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("safetensors")
pytest.importorskip("PIL.Image")
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")


def of_session(leader):
    """Processes of the session that this one led, though it may be gone."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(status[3]) == leader and status[0] != "Z":
            found.append((folder / "cmdline").read_text())
    return found


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """How the process ended, what it said was left after each case, and what was left by it."""
    folder = tmp_path_factory.mktemp("left")
    (folder / "tmp").mkdir()
    environment = {"TMPDIR": folder / "tmp", "OMP_NUM_THREADS": "1"}
    environment["TORCHINDUCTOR_CACHE_DIR"] = folder / "of torch"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.training.left_behind", folder],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    out, err = process.communicate(timeout=300)
    deadline = time.monotonic() + 10
    while (left := of_session(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == 3, err[-2000:]
    left += os.listdir(folder / "tmp")
    left += [name for name in os.listdir("/dev/shm") if str(process.pid) in name]
    return process.returncode, err, lines, left


CHECKPOINT = "out/kept/checkpoint-"


@pytest.mark.parametrize(
    ("case", "said", "has_checkpoint"),
    [
        (0, ["Training was"], True),
        (1, ["WorkerError"], True),
        (2, ["OSError", "checkpoint='"], False),
    ],
    ids=["second Ctrl-C", "death of a worker", "full disk"],
)
def test_a_training_that_is_broken_off_leaves_nothing(case, said, has_checkpoint, ended):
    found = ended[2][case]
    assert [text[:12] for text in found["said"]] == said
    checkpoints = [name for name in found["files"] if name.startswith(CHECKPOINT)]
    assert found["files"] == ["out/kept", "out/kept/.lock", *checkpoints]
    assert bool(checkpoints) == has_checkpoint
    assert all(name.endswith(".safetensors") for name in checkpoints)
    for name in ("temporary", "shared", "threads"):
        assert found[name] == []
    assert found["workers"] == 0
    assert found["opened"] == ended[2][1]["opened"]


def test_a_process_that_ctrl_c_ends_leaves_nothing(ended):
    code, err, _, left = ended
    assert code == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert left == []
