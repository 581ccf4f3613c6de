"""The demo, run small, and the benchmark's arithmetic."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from sklearn_cpc import CPCTransformer

ROOT = Path(__file__).parent.parent


def run_example(name, *arguments, out):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments, "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_demo_prints_its_table_and_draws_its_pictures(tmp_path):
    small = ["--n-train", "120", "--n-test", "30", "--epochs", "1", "--repeats", "1"]
    text = run_example("plot_label_efficiency.py", *small, out=tmp_path)
    for name in ("CPCTransformer", "random encoder", "patch k-means", "PCA", "raw pixels"):
        assert f"\n| {name} " in text
    for name in ("label_efficiency.png", "loss.png", "neighbours.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert str(tmp_path / name) in text


def test_semi_supervised_learns_from_all_images(tmp_path):
    small = ["--n-train", "80", "--n-test", "20", "--n-labels", "40", "--epochs", "1"]
    text = run_example("plot_semi_supervised.py", *small, "--repeats", "1", out=tmp_path)
    assert "80 images, 40 of them labelled: 0." in text
    for name in ("CPC, all images", "CPC, labelled images", "PCA, all images", "raw pixels"):
        assert f"\n  {name} " in text
    assert "\nBest C=0." in text
    assert (tmp_path / "semi_supervised.png").read_bytes().startswith(b"\x89PNG")


def test_which_to_label_compares_the_methods(tmp_path):
    small = ["--n-splits", "2", "--n-labels", "10", "30"]
    text = run_example("plot_which_to_label.py", *small, out=tmp_path)
    for method in ("typical", "coverage", "random"):
        assert f"\n{method:9} first ten: " in "\n" + text
    assert [line.split()[0] for line in text.splitlines() if " ± 0" in line] == ["10", "30"]
    for name in ("first_to_label.png", "which_to_label.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert str(tmp_path / name) in text


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
