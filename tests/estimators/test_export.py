"""Fitted estimators as plain modules and as ONNX files."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_cpc.nn import POOLINGS

from .toys import images, tiny

X = images()
X.setflags(write=False)
GREY = images(height=16, width=12, n_channels=1).astype(np.uint16)[..., 0] * 200
LAYOUTS = {
    "last": X,
    "first": np.ascontiguousarray(X.transpose(0, 3, 1, 2)),
    "grey": X[..., 0],
    "flat": X[..., 0].reshape(20, -1).astype(np.float32),
    "uint16": GREY,
    "float64": X / 3.0,
}


def fitted(data=X, **settings):
    return tiny(device="cpu", **settings).fit(data)


def tensor(data):
    return torch.from_numpy(np.array(data))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("encoder", ["conv", "dictionary", "resnet18"])
def test_the_module_gives_what_transform_gives(pooling, encoder):
    cpc = fitted(pooling=pooling, encoder=encoder, transform_stride=3, max_epochs=0)
    features = cpc.feature_module()(tensor(X))
    np.testing.assert_allclose(features.numpy(), cpc.transform(X), atol=2e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("settings", [{}, {"output": "both"}, {"transform_flip": True}])
def test_the_module_takes_images_as_fit_does(layout, settings):
    data = LAYOUTS[layout]
    cpc = fitted(data, channels="first" if layout == "first" else "auto", **settings)
    features = cpc.feature_module()(tensor(data))
    np.testing.assert_allclose(features.numpy(), cpc.transform(data), atol=1e-6)
    assert cpc.training_data_ == {
        "n_images": 20,
        "dtype": data.dtype.name,
        "image_shape": list(data.shape[1:]),
    }


@pytest.mark.parametrize("layout", ["last", "first"])
def test_images_that_would_be_read_as_other_images_are_refused(layout):
    """Of twice the size in both axes they made four rows of features each."""
    data = LAYOUTS[layout]
    module = fitted(data).feature_module()
    large = np.concatenate([np.concatenate([data, data], 2)] * 2, 1 if layout == "last" else 3)
    other = data.transpose(0, 2, 3, 1) if layout == "first" else data.transpose(0, 3, 1, 2)
    for wrong in (large, other, data.reshape(20, -1)[:, :-2], data[0]):
        with pytest.raises(ValueError, match=r"images of shape .* must be of shape \("):
            module(tensor(wrong))


def test_grey_images_may_have_their_channel_or_not():
    module = fitted(X[..., 0]).feature_module()
    expected = module(tensor(X[..., 0]))
    for same in (X[..., :1], X[..., :1].transpose(0, 3, 1, 2), X[..., 0].reshape(20, -1)):
        torch.testing.assert_close(module(tensor(same)), expected)


def test_the_module_is_a_copy_without_heads_and_without_gradients():
    cpc = fitted(negatives="queue")
    module = cpc.feature_module()
    names = module.state_dict().keys()
    assert {name.split(".")[1] for name in names} == {
        "encoder",
        "latent",
        "contexts",
        "pixel_mean",
        "pixel_std",
    }
    assert not any(p.requires_grad for p in module.parameters())
    assert not module.training
    before = cpc.transform(X)
    for parameter in module.parameters():
        parameter.fill_(0)
    np.testing.assert_array_equal(cpc.transform(X), before)
    assert len(cpc.net_.module_.W) == 4
    cpc.partial_fit(X)


def test_a_module_for_images_of_another_size():
    cpc = fitted()
    larger = images(5, 10, 14)
    module = cpc.feature_module(image_size=(10, 14))
    features = module(tensor(larger)).numpy()
    np.testing.assert_allclose(features, cpc.transform(larger), atol=2e-6)


@pytest.mark.parametrize(
    ("settings", "size", "message"),
    [
        (
            {},
            (1, 8),
            r"image_size=\(1, 8\) must be at least the patches of the fit, \(2, 2\); pass",
        ),
        ({"pooling": "flatten"}, (8, 9), r"image_size=\(8, 9\) gives another number .*'flatten'"),
    ],
)
def test_sizes_that_cannot_be_are_refused(settings, size, message):
    with pytest.raises(ValueError, match=message):
        fitted(max_epochs=0, **settings).feature_module(size)


def test_a_saved_program_needs_no_scikit_learn(tmp_path):
    cpc = fitted()
    batch = torch.export.Dim("batch")
    encoder = copy.deepcopy(cpc.encoder_).to(memory_format=torch.contiguous_format)
    for name, module, example in [
        ("features", cpc.feature_module(), tensor(X)),
        ("encoder", encoder, torch.rand(20, 3, 2, 2)),
    ]:
        program = torch.export.export(module, (example,), dynamic_shapes=[{0: batch}])
        torch.export.save(program, tmp_path / f"{name}.pt2")
        torch.save(example, tmp_path / f"{name}.pt")
        torch.save(module(example).detach(), tmp_path / f"{name}-expected.pt")
    code = (
        "import sys, torch\n"
        "sys.modules |= dict.fromkeys(['sklearn', 'skorch', 'sklearn_cpc'])\n"
        "for name in ('features', 'encoder'):\n"
        "    module = torch.export.load(name + '.pt2').module()\n"
        "    x, expected = torch.load(name + '.pt'), torch.load(name + '-expected.pt')\n"
        "    assert (module(x[:7]) - expected[:7]).abs().max() < 1e-5\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_the_encoder_is_a_plain_module_with_a_state():
    cpc = fitted()
    twin = tiny(device="cpu", max_epochs=0, random_state=1).fit(X).encoder_
    patches = torch.rand(5, 3, 2, 2)
    with torch.no_grad():
        assert not torch.equal(twin(patches), cpc.encoder_(patches))
        twin.load_state_dict(cpc.encoder_.state_dict())
        assert torch.equal(twin(patches), cpc.encoder_(patches))


ONNX = [
    ("last", {}),
    (
        "uint16",  # whose patches are encoded in four passes
        {"patch_size": 7, "patch_stride": 4, "transform_stride": 1, "directions": ("down",)},
    ),
    ("first", {"encoder": "dictionary", "pooling": "mean", "channels": "first"}),
    ("grey", {"encoder": "resnet18", "pooling": "quadrants", "n_components": None}),
    ("flat", {"pooling": "quadrant-means", "transform_flip": True}),
    (
        "uint16",
        {"pooling": "max+mean", "patch_size": 5, "transform_stride": 3, "output": "both"}
        | {"patch_stride": 3},
    ),
]


@pytest.mark.parametrize(("layout", "settings"), ONNX)
def test_onnxruntime_gives_what_transform_gives(layout, settings, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    data = LAYOUTS[layout]
    cpc = fitted(data, **settings)
    cpc.to_onnx(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    (read,), (written,) = session.get_inputs(), session.get_outputs()
    assert (read.name, written.name) == ("images", "features")
    assert read.shape == ["batch", *data.shape[1:]]
    for n in (1, 2, 20):  # a batch of any size
        (features,) = session.run(None, {"images": np.ascontiguousarray(data[:n])})
        np.testing.assert_allclose(features, cpc.transform(data[:n]), rtol=0, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


class Hidden(nn.Module):
    """What no exporter can follow."""

    def forward(self, patches):
        return patches.flatten(1) * (2 if patches.sum().item() > 1e9 else 1)


class Changing(nn.Module):
    """What is another network while it is exported."""

    def forward(self, patches):
        return patches.flatten(1) * (2 if torch.compiler.is_exporting() else 1)


def test_a_file_that_gives_something_else_is_not_written(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    cpc = fitted(encoder=Changing(), n_components=None, max_epochs=0)
    message = (
        r"encoder=Changing, context='pixelcnn', .* as ONNX: .* differ by .* from those here; us"
    )
    with pytest.raises(ValueError, match=message):
        cpc.to_onnx(tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused_and_the_earlier_file_is_kept(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    path = tmp_path / "model.onnx"
    path.write_bytes(b"earlier")
    cpc = fitted(encoder=Hidden(), max_epochs=0)
    message = r"encoder=Hidden, context='pixelcnn', pooling='max' cannot be written as ONNX: .*; us"
    with pytest.raises(ValueError, match=message):
        cpc.to_onnx(path)
    assert path.read_bytes() == b"earlier"
    with pytest.raises(ValueError, match="dtype='complex256' must be one that torch knows; pass"):
        cpc.to_onnx(path, dtype=np.clongdouble)


@pytest.mark.parametrize("name", ["onnx", "onnxscript"])
def test_without_onnx_it_says_what_to_install(name, monkeypatch, tmp_path):
    for other in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, other, sys)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"to_onnx needs {name}, .*sklearn-cpc\[export\]"):
        fitted(max_epochs=0).to_onnx(tmp_path / "model.onnx")
