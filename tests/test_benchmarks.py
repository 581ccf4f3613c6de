"""The benchmarks, run small on an archive made here."""

import importlib
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

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
