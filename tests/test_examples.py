"""Examples and benchmarks, run small, and a benchmark's arithmetic."""

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sklearn_cpc import CPCTransformer

ROOT = Path(__file__).parent.parent


# The package beside these tests, whatever is installed.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run_process(path, *arguments):
    """What a script prints that is run as its users run it."""
    done = subprocess.run(
        [sys.executable, ROOT / path, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Run a script here, where all is imported that takes seconds to import; what it prints."""

    def run_script(path, *arguments):
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        runpy.run_path(str(ROOT / path), run_name="__main__")
        return capsys.readouterr().out

    n_threads = torch.get_num_threads()
    yield run_script
    torch.set_num_threads(n_threads)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def assert_drawn(path, printed):
    assert path.read_bytes().startswith(b"\x89PNG")
    assert str(path) in printed


def test_demo_prints_its_table_and_draws_its_pictures(tmp_path):
    sizes = ["--n-train", 70, "--n-test", 20, "--epochs", 1, "--repeats", 1]
    printed = run_process("examples/plot_label_efficiency.py", *sizes, "--out", tmp_path)
    for name in ("CPCTransformer", "random encoder", "patch k-means", "PCA", "raw pixels"):
        assert f"\n| {name} " in printed
    for name in ("label_efficiency.png", "loss.png", "neighbours.png"):
        assert_drawn(tmp_path / name, printed)


def test_grid_search_never_refits_the_encoder(run_script, tmp_path):
    sizes = ["--n-images", 300, "--epochs", 1]
    printed = run_script("examples/plot_grid_search.py", *sizes, "--out", tmp_path)
    assert "Search over 8 candidates" in printed
    assert "the encoder was not fitted again: True" in printed
    assert_drawn(tmp_path / "feature_map.png", printed)


def test_own_transformer_is_compared_on_the_same_labels(run_script, tmp_path):
    sizes = ["--n-images", 200, "--epochs", 1]
    printed = run_script("examples/plot_own_transformer.py", *sizes, "--out", tmp_path)
    for name in ("CPC", "edge directions", "raw pixels"):
        assert f"\n| {name} " in printed
    assert "for the accuracy of raw pixels with all labels:" in printed
    assert_drawn(tmp_path / "own_transformer.png", printed)


def test_the_cost_of_a_curve_is_measured(run_script, tmp_path):
    sizes = ["--n-images", 150, "--epochs", 1, "--cv", 2]
    out = tmp_path / "cost.jsonl"
    printed = run_script("benchmarks/label_efficiency_cost.py", *sizes, "--out", out)
    (row,) = map(json.loads, out.read_text().splitlines())
    assert row["ratio"] == round(row["curve_seconds"] / row["pretraining_seconds"], 3)
    # Of 75 labels 1, 2, 5 and 10 % are one per class, 10, and so the same subset; 100 % are one
    # for all repeats.
    assert row["n_classifier_fits"] == 2 * (3 * 3 + 1)
    assert f"{row['ratio']:.2f} times" in printed


# Of 40 labels a class may have one, too few for the example's three folds.
@pytest.mark.filterwarnings("ignore:The least populated class in y:UserWarning")
def test_semi_supervised_learns_from_all_images(run_script, tmp_path):
    small = ["--n-train", "80", "--n-test", "20", "--n-labels", "40", "--epochs", "1"]
    text = run_script("examples/plot_semi_supervised.py", *small, "--repeats", 1, "--out", tmp_path)
    assert "80 images, 40 of them labelled: 0." in text
    for name in ("CPC, all images", "CPC, labelled images", "PCA, all images", "raw pixels"):
        assert f"\n  {name} " in text
    assert "\nBest C=0." in text
    assert_drawn(tmp_path / "semi_supervised.png", text)


def test_which_to_label_compares_the_methods(run_script, tmp_path):
    small = ["--n-splits", "2", "--n-labels", "10", "30"]
    text = run_script("examples/plot_which_to_label.py", *small, "--out", tmp_path)
    for method in ("typical", "coverage", "random"):
        assert f"\n{method:9} first ten: " in "\n" + text
    assert [line.split()[0] for line in text.splitlines() if " ± 0" in line] == ["10", "30"]
    for name in ("first_to_label.png", "which_to_label.png"):
        assert_drawn(tmp_path / name, text)


def test_the_pages_of_augmented_patches_are_drawn(run_script, tmp_path):
    small = ["--size", "24", "--patches", "2"]
    printed = run_script("examples/plot_augmentation.py", *small, "--out", tmp_path)
    for what in ("colour", "grey", "primitives"):
        assert_drawn(tmp_path / f"augmentation_{what}.png", printed)


def test_the_augmentation_benchmark_writes_its_rows(run_script, tmp_path):
    out = tmp_path / "rows.jsonl"
    small = ["--batch-size", "2", "--image-size", "16", "--patch-size", "8", "--repeats", "1"]
    printed = run_script("benchmarks/augmentation.py", *small, "--n-pillow", "4", "--out", out)
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert row["what"] == "augmentation"
    assert row["n_patches"] == 2 * 9
    assert row["times_faster"] > 0
    assert 0 < row["share_of_step"] < 1
    assert f"| {row['times_faster']:.0f} |" in printed


def test_the_benchmark_counts_the_encoder_as_done_by_hand(monkeypatch):
    """Without context and heads to speak of, a step costs three encoder passes of two FLOPs."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
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
    small = ["--n-train", "100", "--n-test", "20", "--epochs", "1", "--threads", "1"]
    out = tmp_path / "rows"
    printed = run_process("benchmarks/variants.py", "--only", "mixed", *small, "--out", out)
    assert "\n| mixed | 0." in printed
    assert '"variant": "mixed"' in out.read_text()


def test_the_benchmark_of_greedy_memory_measures_less_for_stages(run_script):
    printed = run_script("benchmarks/greedy_memory.py", "--encoder", "conv", "--batch", "2")
    shares = [json.loads(line)["share"] for line in printed.splitlines()]
    assert shares[0] == 1
    assert len(shares) == 4
    assert max(shares[1:]) < 1
