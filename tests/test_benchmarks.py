"""The benchmarks, run small on an archive made here."""

import importlib
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from sklearn_cpc.nn import ConvEncoder, CPCModel, PatchGrid

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """train/<class>/*.jpg and test/<class>/*.jpg of two colours with noise."""
    image_module = pytest.importorskip("PIL.Image")
    path = tmp_path_factory.mktemp("archive") / "tiny.tar"
    rng = np.random.RandomState(0)
    with tarfile.open(path, "w") as tar:
        for part, n in (("train", 30), ("test", 15)):
            for label, colour in (("ant", (180, 80, 80)), ("bee", (80, 80, 180))):
                for i in range(n):
                    pixels = np.clip(colour + rng.normal(0, 40, (32, 32, 3)), 0, 255)
                    file = io.BytesIO()
                    image_module.fromarray(pixels.astype(np.uint8)).save(file, "JPEG")
                    info = tarfile.TarInfo(f"{part}/{label}/{i:03}.jpg")
                    info.size = file.tell()
                    file.seek(0)
                    tar.addfile(info, file)
    return path


@pytest.fixture
def run(archive, monkeypatch, capsys):
    """Run the script here, as `python benchmarks/label_efficiency.py` would; what it prints."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    main = importlib.import_module("label_efficiency").main

    def run(*arguments):
        quick = ["--quick", "--precision", "float32", "--threads", "1"]
        monkeypatch.setattr("sys.argv", ["label_efficiency.py", str(archive), *quick, *arguments])
        main()
        return capsys.readouterr().out

    yield run
    for name in ("label_efficiency", "cifar10"):
        sys.modules.pop(name, None)


def test_label_efficiency_measures_saves_and_loads(run, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("safetensors")
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    printed = run("--out", str(first), "--save", str(tmp_path / "model.safetensors"))
    assert "CPC, fine-tuned: " in printed
    assert "fewer labels for the best accuracy of from scratch" in printed
    assert "| raw pixels " in printed
    assert first.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    run("--out", str(second), "--model", str(tmp_path / "model.safetensors"))
    one, two = (list(map(json.loads, path.read_text().splitlines())) for path in (first, second))
    assert one[0]["what"] == "run"
    assert one[0]["torch"]
    names = [row["estimator"] for row in one[1:]]
    assert set(names) >= {
        "CPC, frozen",
        "CPC, fine-tuned",
        "from scratch",
        "untrained encoder",
        "PCA, 128",
        "raw pixels",
    }
    assert all(row["n_labels"] == [6, 16] and row["n_test"] == 30 for row in one[1:])
    # The loaded transformer is the saved one, and is not fitted again.
    assert [row["scores"] for row in one[1:]] == [row["scores"] for row in two[1:]]
    assert two[0]["pretraining_seconds"] is None


@pytest.fixture
def script(monkeypatch):
    """Import a benchmark by its name."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield importlib.import_module
    for name in ("throughput", "literal_cpc", "measuring", "cifar10", "scaling"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_literal_step_has_the_same_loss_and_gradient(script, rng, similarity):
    pytest.importorskip("PIL")
    literal = script("literal_cpc")
    images = rng.randint(0, 256, (4, 17, 16, 3), dtype=np.uint8)
    grid = PatchGrid(17, 16, 4, 2)
    torch.manual_seed(0)
    model = CPCModel(
        grid,
        ConvEncoder(3, grid.patch_size, 16, width=8),
        3,
        latent_dim=8,
        projection_dim=6,
        similarity=similarity,
        temperature=0.5,
        negatives="batch",
    )
    (patches,) = literal.loader(images, model, len(images), augment=False)
    expected = literal.literal_loss(model, patches, None)
    expected_gradients = torch.autograd.grad(expected, list(model.parameters()))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    output = model(pixels)
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(output.loss, list(model.parameters()))
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)


def test_throughput_measures_the_step_and_transform(script, tmp_path, capsys):
    pytest.importorskip("PIL")
    pytest.importorskip("matplotlib")
    out = tmp_path / "rates.jsonl"
    arguments = "--encoders conv --sides 16 --batches 4 --precision float32 --rounds 2 --device cpu"
    sizes = "--transform-images 4 --product-side 64"
    script("throughput").main([*arguments.split(), *sizes.split(), "--out", str(out)])
    run, *rows = map(json.loads, out.read_text().splitlines())
    assert run["what"] == "run"
    assert run["torch"] == torch.__version__
    assert [row["what"] for row in rows] == ["step", "step, 16 negatives", "transform"]
    for row in rows:
        assert len(row["seconds"]) == 2
        assert row["images_per_second"] > 0
        assert row["gflop_per_image"] > 0
        assert row["times_faster_than_plain"] > 0
    assert rows[0]["times_encoder_alone"] > 0
    assert capsys.readouterr().out.count("| conv | 16 | 4 | float32 |") == 3
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_flop_are_counted_and_the_peak_of_memory_seen(script):
    measuring = script("measuring")
    a = torch.ones(100, 100)
    assert measuring.count_flop(lambda: a @ a) == 2 * 100**3
    peak = measuring.peak_bytes(lambda: torch.ones(2**25), "cpu")
    if peak is not None:  # the kernel's record is there on Linux alone
        assert 0.9 * 2**27 < peak < 1.5 * 2**27


def test_scaling_measures_images_batches_and_the_loss(script, tmp_path):
    out = tmp_path / "scaling.jsonl"
    arguments = "--images 20,40 --batches 2,4 --loss-batch 2 --rounds 2 --device cpu"
    script("scaling").main([*arguments.split(), "--out", str(out)])
    run, *rows = map(json.loads, out.read_text().splitlines())
    assert run["torch"] == torch.__version__
    assert [row["what"] for row in rows] == ["images", "images", "batch", "batch", "loss"]
    assert all(row["fit_us_per_image"] > 0 < row["transform_us_per_image"] for row in rows[:2])
    assert rows[1]["features_mib"] == 40 * 16 * 4 / 2**20
    assert rows[4]["candidates"] == 98
    assert rows[4]["times_unbounded"] > 0
