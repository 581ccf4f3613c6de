"""The benchmarks' SimCLR: its loss, its views, that it learns, and its rows and picture."""

import importlib
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent


@pytest.fixture
def script(monkeypatch):
    """Import a benchmark by its name."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    n_threads = torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(n_threads)
    for path in (ROOT / "benchmarks").glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(6, 3, 8, 12, generator=generator)


def slow_nt_xent(z, temperature):
    """Equation 1 of the paper for each pair in both directions, by its indices."""
    z = [row / row.norm() for row in z]
    n, losses = len(z) // 2, []
    for i in range(2 * n):
        j = i + n if i < n else i - n
        terms = [math.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k != i]
        losses.append(-math.log(math.exp(z[i] @ z[j] / temperature) / sum(terms)))
    return np.mean(losses)


@pytest.mark.parametrize("temperature", [0.2, 0.5])
def test_the_loss_is_that_of_a_loop(script, temperature):
    z = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    loss = script("simclr").nt_xent(z, temperature)
    assert loss.item() == pytest.approx(slow_nt_xent(z, temperature), rel=1e-5)


def test_equal_projections_have_the_loss_of_chance(script):
    assert script("simclr").nt_xent(torch.ones(10, 4), 0.5).item() == pytest.approx(math.log(9))


def test_views_keep_shape_and_range_and_come_from_the_generator(script, images):
    simclr = script("simclr")

    def view(seed):
        generator = torch.Generator().manual_seed(seed)
        crops = simclr.random_crops(images, 0.08, generator)
        return crops, simclr.random_colours(crops, 0.5, generator)

    for crops, changed in map(view, range(5)):
        for tensor in (crops, changed):
            assert tensor.shape == images.shape
            assert 0 <= tensor.min() <= tensor.max() <= 1
    assert torch.equal(view(0)[1], view(0)[1])
    assert not torch.equal(view(0)[1], view(1)[1])


def test_nothing_outside_of_an_image_is_drawn_into_its_crop(script):
    generator = torch.Generator().manual_seed(0)
    white = script("simclr").random_crops(torch.ones(200, 3, 8, 12), 0.08, generator)
    torch.testing.assert_close(white, torch.ones_like(white))


def test_crops_are_as_large_as_asked_for_and_mirrored_by_halves(script):
    """On a slope from left to right, the range of a crop tells its width, the sign its mirror."""
    slope = torch.linspace(0, 1, 64).expand(2000, 3, 64, 64)
    crops = script("simclr").random_crops(slope, 0.25, torch.Generator().manual_seed(0))
    row = crops[:, 0, 0]
    width = (row[:, -1] - row[:, 0]).abs()
    # The narrowest: a quarter of the area at a ratio of 3/4.
    assert 0.43 < width.min() < 0.5
    assert width.max() > 0.97
    assert (row[:, -1] < row[:, 0]).float().mean().item() == pytest.approx(0.5, abs=0.05)


def slow_colours(image, light, contrast, saturation, turn, yiq):
    """One step after the other, pixel by pixel."""
    image = image.double() * light
    mean = np.mean([yiq[0] @ pixel for pixel in image.flatten(1).T.numpy()])
    image = contrast * image + (1 - contrast) * mean
    changed = np.empty(image.shape)
    for row, col in np.ndindex(*image.shape[1:]):
        y, i, q = yiq @ image[:, row, col].numpy()
        chroma = saturation * complex(i, q) * np.exp(2j * math.pi * turn)
        changed[:, row, col] = np.linalg.solve(yiq, [y, chroma.real, chroma.imag])
    return changed.clip(0, 1)


def test_colours_change_as_step_after_step(script, images):
    simclr = script("simclr")
    light, contrast, saturation, turn = torch.rand(4, 6, generator=torch.Generator().manual_seed(1))
    factors = light + 0.5, contrast + 0.5, saturation + 0.5, 0.2 * (turn - 0.5)
    changed = simclr.change_colours(images, *factors)
    for image, result, *values in zip(images, changed, *factors, strict=True):
        expected = slow_colours(image, *(v.item() for v in values), np.array(simclr.YIQ))
        np.testing.assert_allclose(result.numpy(), expected, atol=1e-3)


def test_one_image_in_five_is_grey_and_one_in_five_is_left_alone(script):
    colours = torch.tensor([0.6, 0.5, 0.4]).view(1, 3, 1, 1).expand(2000, 3, 2, 2)
    changed = script("simclr").random_colours(colours, 0.5, torch.Generator().manual_seed(0))
    is_grey = (changed.amax(1) - changed.amin(1) < 1e-3).flatten(1).all(1)
    is_same = (changed - colours).abs().flatten(1).amax(1) < 1e-3
    assert is_grey.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert is_same.float().mean().item() == pytest.approx(0.2 * 0.8, abs=0.03)


def test_a_small_run_learns_what_its_views_share(script, rng, monkeypatch):
    """Patterns that crops and colours keep: the loss falls far below chance, neighbours agree."""
    simclr, measuring = script("simclr"), script("measuring")
    # One second for each look at the clock: as many steps on any machine.
    monkeypatch.setitem(measuring.CLOCKS, "steps", itertools.count().__next__)
    y = np.arange(64) % 4
    rows, cols = np.mgrid[:16, :16]
    patterns = np.stack([rows // 2 % 2, cols // 2 % 2, (rows + cols) // 3 % 2, rows * 0])
    pixels = 60 + 120 * patterns[y][..., None] + rng.normal(0, 12, (64, 16, 16, 3))
    X = pixels.clip(0, 255).astype(np.uint8)
    settings = {"width": 8, "n_blocks": (1, 1), "batch_size": 32, "learning_rate": 3e-3}
    settings |= {"clock": "steps", "random_state": 0, "device": "cpu"}
    model = simclr.SimCLR(max_seconds=60, **settings).fit(X)
    # fit looks at the clock once before the steps and once after them.
    assert model.n_images_ == 59 * 32
    # With four patterns the best that can be known is one of 16 images with the same one.
    assert model.loss_ < math.log(63) - 0.5
    untrained = simclr.SimCLR(max_seconds=1, **settings).fit(X)
    assert agreement(model.transform(X), y) > max(0.9, agreement(untrained.transform(X), y) - 0.05)
    again = simclr.SimCLR(max_seconds=60, **settings).fit(X)
    np.testing.assert_array_equal(again.transform(X), model.transform(X))


def agreement(features, y):
    """How often the nearest other image is of the same class."""
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    return np.mean(y[distances.argmin(1)] == y)


def test_quadrants_are_means_of_quarters_of_the_last_map(script, rng):
    simclr = script("simclr")
    X = rng.randint(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    model = simclr.SimCLR(4, (1, 1), max_seconds=0, random_state=0, device="cpu").fit(X)
    assert math.isnan(model.loss_)
    mean, quarters = model.transform(X), model.set_params(pooling="quadrants").transform(X)
    assert mean.shape == (3, 8)
    assert quarters.shape == (3, 32)
    assert quarters.dtype == np.float32
    np.testing.assert_allclose(quarters.reshape(3, 8, 4).mean(2), mean, rtol=1e-5, atol=1e-6)
    assert len(model.get_feature_names_out()) == 32


def test_batches_are_whole_and_pass_over_all_rows(script):
    batches = script("simclr").endless_batches(10, 3, torch.Generator().manual_seed(0))
    first = [next(batches) for _ in range(3)]
    assert [len(batch) for batch in first] == [3, 3, 3]
    assert len(set(torch.cat(first).tolist())) == 9
    few = script("simclr").endless_batches(2, 3, torch.Generator())
    assert sorted(next(few).tolist()) == [0, 1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_loss_and_colours_are_the_same_on_the_gpu_and_it_learns_there(script, images, rng):
    simclr = script("simclr")
    z = torch.randn(10, 4)
    torch.testing.assert_close(simclr.nt_xent(z.cuda(), 0.5).cpu(), simclr.nt_xent(z, 0.5))
    factors = torch.rand(4, 6)
    changed = simclr.change_colours(images.cuda(), *factors.cuda())
    torch.testing.assert_close(
        changed.cpu(), simclr.change_colours(images, *factors), atol=2e-3, rtol=0
    )
    X = rng.randint(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    model = simclr.SimCLR(8, (1, 1), batch_size=32, max_seconds=5, precision="bf16").fit(X)
    assert model.n_images_ > 32
    assert np.isfinite(model.transform(X)).all()


@pytest.fixture
def small_cifar10(script, monkeypatch, rng):
    """The benchmark on 60 images drawn here, in place of an archive."""
    pytest.importorskip("PIL")
    cifar10 = script("cifar10")
    small = {"n_train": 40, "n_test": 20, "label_counts": (12, 24), "kmeans_components": ()}
    cpc = cifar10.SETTINGS["cpu"]["cpc"] | {"n_components": 16}
    # Not 4: the gradient of a 1x1 convolution of stride 2 from 4 channels, channels last, writes
    # beyond its memory in torch 2.13.0 on CPUs without AVX512.
    simclr = {"width": 8, "n_blocks": (1, 1), "batch_size": 16}
    monkeypatch.setitem(
        cifar10.SETTINGS, "cpu", cifar10.SETTINGS["cpu"] | small | {"cpc": cpc, "simclr": simclr}
    )
    X, y = rng.randint(0, 256, (60, 32, 32, 3), dtype=np.uint8), np.arange(60) % 2
    # Seconds of products that nothing here depends on.
    monkeypatch.setattr(cifar10, "product_rate", lambda *args: 1e9)
    parts = [(X[:40], y[:40]), (X[40:], y[40:])]
    monkeypatch.setattr(cifar10, "load_cifar10", lambda archive: parts)
    return cifar10


def test_simclr_has_rows_of_its_own_and_is_drawn(
    script, small_cifar10, monkeypatch, capsys, tmp_path
):
    pytest.importorskip("matplotlib")
    out, picture = tmp_path / "rows.jsonl", tmp_path / "time.png"
    always = ["--precision", "float32", "--threads", "1", "--out", str(out)]

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["cifar10.py", "archive", *arguments, *always])
        small_cifar10.main()

    clock = ["--simclr-clock", "process", "--simclr", '{"temperature": 0.2}']
    run("--only", "SimCLR", "--epochs", "0", "--simclr-minutes", "0.01", *clock)
    first, *rows = map(json.loads, out.read_text().splitlines())
    assert [row["features"] for row in rows] == [
        "SimCLR, mean, mirrored",
        "SimCLR, quadrants, mirrored",
    ]
    assert first["seconds"] == 0
    assert first["simclr"]["temperature"] == 0.2
    assert 0.6 <= first["simclr"]["seconds"] < 30
    assert first["simclr"]["n_images"] >= 16
    for epochs in ("1", "2"):
        run("--only", "CPC, quadrants, mirrored", "--epochs", epochs)
    report = script("cifar10_report")
    arguments = ["--results", str(out), "--epochs", "2", "--out", str(picture)]
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["cifar10_report.py", *arguments])
    report.main()
    printed = capsys.readouterr().out
    assert "| SimCLR, quadrants, mirrored" in printed
    assert "minutes, 1 epochs" in printed
    assert "minutes, 2 epochs" in printed
    assert "minutes, 0 epochs" not in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    # The seconds of a process are those of all cores; the picture is of two.
    rows = list(report.read_rows(out, "cpu"))
    ((minutes, _, _),) = report.points_of(rows, 0, "SimCLR, mean, mirrored")
    assert minutes == pytest.approx(first["simclr"]["seconds"] / 120)
