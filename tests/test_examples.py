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


def run(script, *arguments):
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_demo_prints_its_table_and_draws_its_pictures(tmp_path):
    small = ["--n-train", "120", "--n-test", "30", "--epochs", "1", "--repeats", "1"]
    printed = run("examples/plot_label_efficiency.py", *small, "--out", str(tmp_path))
    for name in ("CPCTransformer", "random encoder", "patch k-means", "PCA", "raw pixels"):
        assert f"\n| {name} " in printed
    for name in ("label_efficiency.png", "loss.png", "neighbours.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert str(tmp_path / name) in printed


def test_the_pages_of_augmented_patches_are_drawn(tmp_path):
    small = ["--size", "24", "--patches", "2"]
    printed = run("examples/plot_augmentation.py", *small, "--out", str(tmp_path))
    for what in ("colour", "grey", "primitives"):
        path = tmp_path / f"augmentation_{what}.png"
        assert path.read_bytes().startswith(b"\x89PNG")
        assert str(path) in printed


def test_the_augmentation_benchmark_writes_its_rows(tmp_path):
    out = tmp_path / "rows.jsonl"
    small = ["--batch-size", "2", "--image-size", "16", "--patch-size", "8", "--repeats", "1"]
    printed = run("benchmarks/augmentation.py", *small, "--n-pillow", "4", "--out", str(out))
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert row["what"] == "augmentation"
    assert row["n_patches"] == 2 * 9
    assert row["times_faster"] > 0
    assert 0 < row["share_of_step"] < 1
    assert f"| {row['times_faster']:.0f} |" in printed


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
