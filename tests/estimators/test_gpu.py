"""What needs a CUDA device."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch

from sklearn_cpc import CPCClassifier, ProbeRecorder
from sklearn_cpc.nn import ChannelNorm, ConvEncoder

from .killed import EndAt, EndedError
from .toys import images, tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
X = images()
X.setflags(write=False)


def test_auto_is_cuda_and_bf16():
    cpc = tiny().fit(X)
    assert next(cpc.net_.module_.parameters()).is_cuda
    assert cpc.net_.precision == "bf16"
    assert cpc.transform(X).dtype == np.float32


@pytest.mark.parametrize(
    "settings",
    [{}, {"encoder": "resnet18"}, {"encoder": "resnet18", "encoder_norm": "group"}],
)
def test_maps_stay_bf16_through_norms(settings):
    """Autocast would make float32 of them."""
    cpc = tiny(max_epochs=0, device="cuda", precision="bf16", **settings).fit(X)
    found = []

    def note(module, inputs, output):
        found.append((inputs[0].dtype, output.dtype))

    norms = (ChannelNorm, torch.nn.GroupNorm)
    for module in cpc.encoder_.modules():
        if isinstance(module, norms):
            module.register_forward_hook(note)
    model = cpc.net_.module_.train()
    with cpc.net_.autocast():
        loss = model(torch.rand(8, 3, 8, 8, device="cuda"), torch.Generator("cuda")).loss
    loss.backward()
    assert len(found) > 0 or not settings  # "conv" calls its first norm's rows
    assert set(found) <= {(torch.bfloat16, torch.bfloat16)}
    gradients = [p.grad for p in cpc.encoder_.parameters()]
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


def test_a_training_goes_on_on_another_device():
    cpc = tiny(device="cpu", averaging=0.9, precision="float32").fit(X)
    other = copy.deepcopy(cpc)
    for device in ("cuda", "cpu", "cuda"):
        cpc.set_params(device=device).partial_fit(X)
        other.partial_fit(X)
        tensors = [*cpc.net_.module_.parameters(), *cpc.net_.module_.buffers()]
        moments = [m["exp_avg"] for m in cpc.net_.optimizer_.state.values()]
        assert {t.device.type for t in [*tensors, *moments]} == {device}
    # The augmentation is drawn by another generator there.
    assert cpc.loss_curve_ == pytest.approx(other.loss_curve_, rel=0.2)


def test_auto_batches_fit_and_out_of_memory_is_survived(monkeypatch):
    assert tiny(batch_size="auto").fit(X).net_.batch_size == 64
    torch.cuda.empty_cache()
    forward = ConvEncoder.forward

    def limited(self, patches):
        if len(patches) > 200:
            torch.empty(2**50, dtype=torch.uint8, device="cuda")
        return forward(self, patches)

    monkeypatch.setattr(ConvEncoder, "forward", limited)
    with pytest.warns(RuntimeWarning, match="Out of memory; training goes on"):
        assert tiny().fit(X).n_iter_ == 1


def test_float32_features_agree_with_those_of_the_cpu():
    one, two = (tiny(device=d, precision="float32", max_epochs=0).fit(X) for d in ("cuda", "cpu"))
    # TF32 may be on in convolutions: 10 bits of mantissa.
    scale = np.abs(two.transform(X)).max()
    np.testing.assert_allclose(one.transform(X), two.transform(X), atol=5e-3 * scale)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f2", "f4", "f8", "?"])
def test_every_dtype_trains_resident_on_the_device(dtype):
    cpc = tiny(device="cuda").fit(X.astype(dtype)).partial_fit(X.astype(dtype))
    assert np.isfinite(cpc.transform(X.astype(dtype))).all()
    assert cpc.n_iter_ == 2


def test_uint8_is_resident_as_uint8_and_brought_in_batches_where_it_does_not_fit(monkeypatch):
    from sklearn_cpc.training import ImageFeed, PixelScale, as_images, feed

    found = as_images(X)
    scale = PixelScale.of(found)
    resident = ImageFeed(found, scale, "cuda")
    assert resident.resident.dtype == torch.uint8
    assert resident.resident.is_cuda
    monkeypatch.setattr(feed, "SHARE_OF_FREE_MEMORY", 0.0)
    brought = ImageFeed(found, scale, "cuda")
    assert brought.resident is None
    for index in (slice(2, 7), np.array([5, 1, 5])):
        assert torch.equal(resident.batch(index), brought.batch(index))


def test_a_pickle_from_the_gpu_loads_on_the_cpu(monkeypatch):
    cpc = tiny(device="cuda", precision="float32").fit(X)
    expected, stored = cpc.transform(X), pickle.dumps(cpc)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(UserWarning, match="no CUDA devices are available|Setting self.device"):
        other = pickle.load(io.BytesIO(stored))
    assert not next(other.net_.module_.parameters()).is_cuda
    scale = np.abs(expected).max()
    np.testing.assert_allclose(other.transform(X), expected, atol=5e-3 * scale)
    assert other.partial_fit(X).n_iter_ == 2


def test_a_file_from_the_gpu_loads_on_the_cpu(tmp_path):
    pytest.importorskip("safetensors")
    cpc = tiny(device="cuda", precision="float32").fit(X)
    cpc.save(tmp_path / "a")
    other = type(cpc).load(tmp_path / "a", device="cpu")
    scale = np.abs(cpc.transform(X)).max()
    np.testing.assert_allclose(other.transform(X), cpc.transform(X), atol=5e-3 * scale)
    assert other.partial_fit(X).n_iter_ == 2


def test_copies_go_on_identically():
    cpc = tiny(device="cuda").fit(X)
    other = copy.deepcopy(cpc)
    np.testing.assert_allclose(
        cpc.partial_fit(X).transform(X), other.partial_fit(X).transform(X), rtol=1e-2, atol=1e-2
    )


def test_the_global_generators_are_left_alone():
    torch.cuda.manual_seed(5)
    before = torch.cuda.get_rng_state()
    tiny(device="cuda").fit(X).transform(X)
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.parametrize("init", ["pretrained", "random"])
def test_the_classifier_is_fine_tuned_on_the_device(init):
    y = np.arange(len(X)) % 2
    recorder = ProbeRecorder(X, y)
    model = CPCClassifier(
        tiny(device="cuda", precision="float32", callbacks=[recorder]),
        init=init,
        max_epochs=2,
        validation_fraction=0.5,
        random_state=0,
    ).fit(X, y)
    assert next(model.transformer_.encoder_.parameters()).is_cuda
    assert np.isfinite(model.predict_proba(X)).all()
    assert model.history_[-1]["held_out_loss"] > 0
    if init == "pretrained":
        assert 0 <= model.transformer_.history_[0]["probe_accuracy"] <= 1


def test_a_training_goes_on_from_its_checkpoint(tmp_path):
    pytest.importorskip("safetensors")
    settings = {"device": "cuda", "precision": "float32", "max_epochs": 2, "averaging": 0.9}
    kept = settings | {"checkpoint": tmp_path, "checkpoint_every": 0}
    with pytest.raises(EndedError):
        tiny(callbacks=[EndAt("begin", 5)], **kept).fit(X)
    cpc = tiny(**kept).fit(X)
    # The device may add in another order from run to run.
    np.testing.assert_allclose(cpc.loss_curve_, tiny(**settings).fit(X).loss_curve_, rtol=1e-3)
    with pytest.raises(ValueError, match="device='cuda', and this one has 'cpu'"):
        tiny(**kept | {"device": "cpu"}).fit(X)
