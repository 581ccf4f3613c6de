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


def run_script(path, *arguments):
    """What it prints."""
    done = subprocess.run(
        [sys.executable, str(ROOT / path), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        # The package beside these tests, whatever is installed.
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_drawn(path, printed):
    assert path.read_bytes().startswith(b"\x89PNG")
    assert str(path) in printed


def test_demo_prints_its_table_and_draws_its_pictures(tmp_path):
    sizes = ["--n-train", 120, "--n-test", 30, "--epochs", 1, "--repeats", 1]
    printed = run_script("examples/plot_label_efficiency.py", *sizes, "--out", tmp_path)
    for name in ("CPCTransformer", "random encoder", "patch k-means", "PCA", "raw pixels"):
        assert f"\n| {name} " in printed
    for name in ("label_efficiency.png", "loss.png", "neighbours.png"):
        assert_drawn(tmp_path / name, printed)


def test_grid_search_never_refits_the_encoder(tmp_path):
    sizes = ["--n-images", 300, "--epochs", 1]
    printed = run_script("examples/plot_grid_search.py", *sizes, "--out", tmp_path)
    assert "Search over 8 candidates" in printed
    assert "the encoder was not fitted again: True" in printed
    assert_drawn(tmp_path / "feature_map.png", printed)


def test_own_transformer_is_compared_on_the_same_labels(tmp_path):
    sizes = ["--n-images", 200, "--epochs", 1]
    printed = run_script("examples/plot_own_transformer.py", *sizes, "--out", tmp_path)
    for name in ("CPC", "edge directions", "raw pixels"):
        assert f"\n| {name} " in printed
    assert "for the accuracy of raw pixels with all labels:" in printed
    assert_drawn(tmp_path / "own_transformer.png", printed)


def test_the_cost_of_a_curve_is_measured(tmp_path):
    sizes = ["--n-images", 150, "--epochs", 1, "--cv", 2]
    out = tmp_path / "cost.jsonl"
    printed = run_script("benchmarks/label_efficiency_cost.py", *sizes, "--out", out)
    (row,) = map(json.loads, out.read_text().splitlines())
    assert row["ratio"] == round(row["curve_seconds"] / row["pretraining_seconds"], 3)
    assert row["n_classifier_fits"] == 2 * (6 * 3 + 1)
    assert f"{row['ratio']:.2f} times" in printed


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
