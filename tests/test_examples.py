"""The demo, run small, and the benchmark's arithmetic."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from sklearn_cpc import CPCTransformer

ROOT = Path(__file__).parent.parent


def test_demo_prints_its_table_and_draws_its_pictures(tmp_path):
    command = [sys.executable, str(ROOT / "examples" / "plot_label_efficiency.py")]
    command += ["--n-train", "120", "--n-test", "30", "--epochs", "1", "--repeats", "1"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    for name in ("CPCTransformer", "random encoder", "patch k-means", "PCA", "raw pixels"):
        assert f"\n| {name} " in done.stdout
    for name in ("label_efficiency.png", "loss.png", "neighbours.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert str(tmp_path / name) in done.stdout


def test_the_benchmark_counts_the_encoder_as_done_by_hand():
    """Without context and heads to speak of, a step costs three encoder passes of two FLOPs."""
    spec = importlib.util.spec_from_file_location("cifar10", ROOT / "benchmarks" / "cifar10.py")
    cifar10 = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cifar10)
    images = np.random.RandomState(0).randint(0, 256, (4, 32, 32, 3), np.uint8)
    cpc = CPCTransformer(
        256,
        latent_dim=1,
        projection_dim=1,
        context_dim=1,
        context_depth=1,
        directions=("down",),
        n_steps=1,
        max_epochs=0,
    ).fit(images)
    stem, halving, head = 36 * 27 * 64, 9 * 256 * 128, 9 * 128 * 256
    # The pixels need no gradient: the first layer has two passes.
    by_hand = 49 * 2 * (2 * stem + 3 * halving + 3 * head)
    assert abs(cifar10.count_flops(cpc, images) / by_hand - 1) < 0.01


def test_the_benchmark_of_variants_runs_a_subset(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "variants.py"), "--only", "mixed"]
    command += ["--n-train", "100", "--n-test", "20", "--epochs", "1", "--threads", "1"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "rows")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "\n| mixed | 0." in done.stdout
    assert '"variant": "mixed"' in (tmp_path / "rows").read_text()


def test_the_benchmark_of_greedy_memory_measures_less_for_stages():
    command = [sys.executable, str(ROOT / "benchmarks" / "greedy_memory.py")]
    command += ["--encoder", "conv", "--batch", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shares = [json.loads(line)["share"] for line in done.stdout.splitlines()]
    assert shares[0] == 1
    assert len(shares) == 4
    assert max(shares[1:]) < 1
