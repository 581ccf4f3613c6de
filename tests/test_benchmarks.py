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

from sklearn_cpc import CPCTransformer
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
def run(monkeypatch, capsys):
    """Run a script here, as `python benchmarks/NAME.py ARGUMENTS` would; what it prints."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")

    def run(name, *arguments):
        always = ["--precision", "float32", "--threads", "1"]
        monkeypatch.setattr("sys.argv", [f"{name}.py", *map(str, arguments), *always])
        importlib.import_module(name).main()
        return capsys.readouterr().out

    yield run
    for path in (ROOT / "benchmarks").glob("*.py"):
        sys.modules.pop(path.stem, None)


def read(path):
    return list(map(json.loads, path.read_text().splitlines()))


def test_label_efficiency_measures_saves_and_loads(run, archive, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("safetensors")
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    script = "label_efficiency", archive, "--quick"
    printed = run(*script, "--out", first, "--save", tmp_path / "model.safetensors")
    assert "CPC, fine-tuned: " in printed
    assert "fewer labels for the best accuracy of from scratch" in printed
    assert "| raw pixels " in printed
    assert first.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    run(*script, "--out", second, "--model", tmp_path / "model.safetensors")
    one, two = read(first), read(second)
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


def test_ablation_measures_what_is_missing_and_pairs_the_seeds(run, archive, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "ablation.jsonl"
    script = "ablation", archive, "--quick", "--epochs", 1, "--out", out
    steps = ("four directions", "colour dropping")
    run(*script, "--seeds", 1, "--steps", "four directions,colour dropping")
    before = read(out)
    assert [(row["step"], row["seed"]) for row in before] == [(step, 0) for step in steps]
    printed = run(*script, "--seeds", 2, "--steps", "four directions,colour dropping")
    rows = read(out)
    # What was there is kept, and not measured again.
    assert rows[:2] == before
    assert [(row["step"], row["seed"]) for row in rows[2:]] == [(step, 1) for step in steps]
    gains = [b["accuracy"] - a["accuracy"] for a, b in (rows[:2], rows[2:])]
    mean, error = np.mean(gains), abs(gains[0] - gains[1]) / 2
    assert f"{mean:+.3f} ± {error:.3f} | +0.030 |" in printed
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_ablation_keeps_earlier_steps(run):
    ablation = importlib.import_module("ablation")
    first, last = (ablation.settings_of(step, "cpu") for step in ("v1", "capacity"))
    assert first["directions"] == ("down",)
    assert first["projection_dim"] is None
    assert first["encoder"].keywords == {"norm": "none", "wide": 1}
    assert first["augment"].channel_drop == first["augment"].autoaugment == 0
    assert len(last["directions"]) == 4
    assert (last["projection_dim"], last["temperature"]) == (64, 10)
    assert last["encoder"].keywords == {"norm": "layer", "wide": 2}
    assert last["augment"].channel_drop == last["augment"].autoaugment == 1
    for step in ablation.STEPS:
        large = ablation.settings_of(step, "gpu")["encoder"](3)
        assert large(torch.zeros(2, 3, 8, 8)).shape == (2, 512 if step == "capacity" else 256)


def test_ablation_pairs_by_seed(run):
    """Steps that have other seeds in part are compared on the seeds of both."""
    ablation = importlib.import_module("ablation")
    rows = [
        {"step": step, "seed": seed, "accuracy": a, "random": 0.1, "images_per_second": 1.0}
        for step, seed, a in [
            ("v1", 0, 0.2),
            ("v1", 1, 0.4),
            ("v1", 2, 0.9),
            ("projection", 1, 0.5),
            ("projection", 0, 0.4),
        ]
    ]
    found = ablation.summary(rows)
    assert found["v1"]["gain"] is None
    assert found["projection"]["gain"] == pytest.approx((0.15, 0.05))
    assert "Better: projection (+0.150)." in ablation.verdict(found)
    rows[-1]["accuracy"] = 0.2
    assert "Neither: projection (+0.050)." in ablation.verdict(ablation.summary(rows))
    rows[-1]["accuracy"], rows[-2]["accuracy"] = 0.1, 0.25
    assert "Worse: projection (-0.125)." in ablation.verdict(ablation.summary(rows))
    # A step after one that was not measured has none to be compared with.
    rows.append(rows[0] | {"step": "layer norm"})
    assert ablation.summary(rows)["layer norm"]["gain"] is None


def test_variants_trains_once_for_what_is_read_differently(run, tmp_path):
    out = tmp_path / "variants.jsonl"
    script = "variants", "--n-train", 100, "--n-test", 20, "--epochs", 1, "--seeds", 1, "--out", out
    printed = run(*script, "--only", "base,output c,bce")
    rows = read(out)
    assert [row["variant"] for row in rows] == ["base", "output c", "bce"]
    base, contexts, bce = rows
    assert base["images_per_second"] == contexts["images_per_second"] != bce["images_per_second"]
    assert all(0 <= score <= 1 for row in rows for score in row["scores"] + row["random_scores"])
    assert "| base |" in printed
    # Nothing is left to measure.
    printed = run(*script, "--only", "base,output c,bce")
    assert "| bce |" in printed
    assert read(out) == rows


def test_variants_are_told_from_chance(run):
    variants = importlib.import_module("variants")
    rows = [
        {
            "variant": name,
            "scores": [score, score],
            "random_scores": [0.2, 0.2],
            "n_test": 1000,
            "images_per_second": 100.0,
            "mm_gflops": 50.0 if name == "base" else 100.0,
            "peak_gib": 1.0,
        }
        for name, score in [("bce", 0.23), ("base", 0.25)]
    ]
    lines, weak = variants.table(rows)
    assert lines[0] == "| base | 0.250 | 0.200 | +0.050 | 1 | 100 | 1.00 | 1.00 |"
    assert "| 0.50 |" in lines[1]
    # Twice the standard error of a difference at 1,000 images each is 0.037.
    assert weak == ["bce"]


def test_every_variant_has_settings(run):
    variants = importlib.import_module("variants")
    for name in variants.variants():
        CPCTransformer(**variants.settings_of(name, 1, 24, 0))._validate_params()


def test_every_trial_of_the_search_has_settings_that_are_valid(script):
    search = script("search")
    for name in search.TRIALS:
        key = {"trial": name, "seed": 0, "epochs": 1, "n_train": 5000, "precision": "float32"}
        CPCTransformer(**search.settings_of(key))._validate_params()


def test_the_search_compares_with_the_base_of_the_same_seed(script):
    search = script("search")
    names = [f"{pooling}_{n}" for pooling in search.POOLINGS for n in (1000, 5000)]
    rows = [
        {"trial": trial, "seed": seed, "fit_process_seconds": 2.0} | {key: [a, a] for key in names}
        for trial, seed, a in (("base", 0, 0.5), ("base", 1, 0.7), ("1 step", 1, 0.6))
    ]
    rows.append({"trial": "5 steps", "seed": 0, "error": "ValueError: no"})
    base, other = search.table(rows)
    assert base == "| base | 2 | 2 |" + " 0.600 |  |" * 4
    assert other == "| 1 step | 1 | 2 |" + " 0.600 | -0.100 |" * 4


def test_the_search_pools_images_and_their_mirror_images_as_transform_does(script):
    search = script("search")
    X = np.random.RandomState(0).randint(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    cpc = CPCTransformer(8, max_epochs=0, transform_flip=True, random_state=0).fit(X)
    expected = {name: cpc.set_params(pooling=name).transform(X) for name in search.POOLINGS}
    expected["quadrant-means"] = np.sqrt(expected["quadrant-means"])
    found = search.features(cpc, X, block=3)
    for name, features in expected.items():
        np.testing.assert_allclose(found[name], features, atol=1e-5)


@pytest.fixture
def script(monkeypatch):
    """Import a benchmark by its name."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield importlib.import_module
    for name in (
        *("throughput", "literal_cpc", "augmentation", "measuring", "cifar10", "scaling"),
        *("search", "simclr"),
    ):
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
    (patches,) = literal.loader(images, model, len(images), augment=None)
    expected = literal.literal_loss(model, patches, None)
    expected_gradients = torch.autograd.grad(expected, list(model.parameters()))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    output = model(pixels)
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(output.loss, list(model.parameters()))
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)


def test_the_literal_step_draws_as_many_negatives_as_the_packages_pairs_have(script):
    pytest.importorskip("PIL")
    X = np.random.RandomState(0).randint(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    cpc = CPCTransformer(8, max_epochs=0, negative_images=2, n_steps=2).fit(X)
    model = cpc.net_.module_
    n_negatives = script("throughput").numbers_of_negatives(cpc, X, 6)
    # Of two images with 7x7 patches: all targets two and three rows on.
    expected = {(d, k): 2 * (7 - k) * 7 - 1 for d in model.plan for k in (2, 3)}
    assert n_negatives == expected
    for W_k in (W_k for maps in model.W.values() for W_k in maps):
        torch.nn.init.zeros_(W_k.weight)  # equal scores: the loss counts the candidates
    literal = script("literal_cpc")
    (patches,) = literal.loader(X, model, len(X), augment=None)
    loss = literal.literal_loss(model, patches, n_negatives)
    assert loss.item() == pytest.approx(np.mean([np.log(n + 1) for n in expected.values()]))


@pytest.mark.parametrize("augment", ["full", "cpc-v2"])
def test_the_literal_step_changes_every_patch_by_itself(script, augment):
    pytest.importorskip("PIL")
    grid = PatchGrid(8, 8, 4, 2)
    model = CPCModel(grid, ConvEncoder(3, grid.patch_size, 4, width=4), 3)
    images = np.full((1, 8, 8, 3), (10, 90, 200), np.uint8)
    np.random.seed(0)
    (patches,) = script("literal_cpc").loader(images, model, 1, augment=augment)
    assert patches.shape == (1, 3, 3, 3, 4, 4)
    assert len(patches.flatten(0, 2).unique(dim=0)) == 9


@pytest.mark.parametrize("augment", ["full", "cpc-v2"])
def test_throughput_measures_the_step_and_transform(script, tmp_path, capsys, augment):
    pytest.importorskip("PIL")
    pytest.importorskip("matplotlib")
    out = tmp_path / "rates.jsonl"
    arguments = "--encoders conv --sides 16 --batches 4 --precision float32 --rounds 2 --device cpu"
    sizes = f"--transform-images 4 --product-side 64 --augment {augment}"
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
    assert rows[0]["times_faster_than_equal"] > 0
    assert min(row["by_flop"] for row in rows) > 1
    assert capsys.readouterr().out.count("| conv | 16 | 4 | float32 |") == 3
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_call_with_the_encoder_compiled_leaves_it_as_it_was(script, monkeypatch):
    graphs, plain = [], torch.nn.Module.compile

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda m: plain(m, backend=backend))
    cpc = CPCTransformer(8, max_epochs=0).fit(np.zeros((2, 8, 8), np.uint8))
    encoder, patches = cpc.encoder_, torch.zeros(3, 1, 2, 2)
    call = script("throughput").compiled(cpc, lambda: encoder(patches))
    encoder(patches)
    assert not graphs
    call()
    assert graphs
    assert encoder._compiled_call_impl is None
    torch.compiler.reset()


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
