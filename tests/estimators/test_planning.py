"""Batches that are chosen for the user, and devices that run out of memory."""

import warnings

import numpy as np
import pytest
import torch

from sklearn_cpc.estimators import planning
from sklearn_cpc.nn import ConvEncoder
from sklearn_cpc.training import CPCNet, memory
from sklearn_cpc.training.memory import OutOfMemory, free_bytes, held_per_image

from .toys import images, same_state, tiny

X = images(40)
X.setflags(write=False)
N_PATCHES = 9  # of an image of 8x8


def weights(cpc):
    return [p.detach().clone() for p in cpc.net_.module_.parameters()]


@pytest.fixture
def room(monkeypatch):
    """Let the encoder take so many patches at once, and no more."""

    def room(n_patches):
        forward, dense = ConvEncoder.forward, ConvEncoder.forward_dense

        def limited(self, patches):
            if len(patches) > n_patches:
                raise OutOfMemory("CUDA out of memory. Tried to allocate 7 GiB")
            return forward(self, patches)

        def limited_dense(self, images, stride):
            if len(images) * N_PATCHES > n_patches:
                raise OutOfMemory("CUDA out of memory. Tried to allocate 7 GiB")
            return dense(self, images, stride)

        monkeypatch.setattr(ConvEncoder, "forward", limited)
        monkeypatch.setattr(ConvEncoder, "forward_dense", limited_dense)

    return room


@pytest.mark.parametrize("negatives", ["auto", "sampled", "queue"])
def test_out_of_memory_is_answered_by_smaller_parts_with_the_same_training(room, negatives):
    settings = {"patch_size": 4, "patch_stride": 2, "max_epochs": 2, "negatives": negatives}
    settings |= {"n_candidates": 30, "queue_size": 50}
    settings["eps"] = 1e-2  # or Adam would divide the rounding of small gradients by themselves
    expected = tiny(**settings).fit(X)
    room(3 * N_PATCHES)
    with pytest.warns(RuntimeWarning, match="Out of memory; training goes on") as seen:
        found = tiny(**settings).fit(X)
    messages = [str(w.message) for w in seen]
    assert [m for m in messages if "in 2 parts" in m]
    assert [m for m in messages if "Set accumulate=4 to begin with that" in m]
    assert len(messages) == 2  # once found, the size is kept
    np.testing.assert_allclose(found.loss_curve_, expected.loss_curve_, rtol=1e-4)
    for one, two in zip(weights(found), weights(expected), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


def test_what_fits_in_no_parts_leaves_the_estimator_as_it_was(room):
    cpc = tiny(patch_size=4, patch_stride=2).fit(X)
    before = dict(cpc.__dict__)
    room(N_PATCHES - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(OutOfMemory, match=r"with a batch of 8 images.*a smaller batch_size"):
            cpc.fit(X)
    assert same_state(before, cpc.__dict__)


def test_transform_halves_its_blocks(room):
    cpc = tiny(patch_size=4, patch_stride=2).fit(X)
    expected = cpc.transform(X)
    room(12 * N_PATCHES)
    with pytest.warns(RuntimeWarning, match="going on with blocks of") as seen:
        found = cpc.transform(X)
    assert [str(w.message)[-10:] for w in seen][-1] == "10 images."
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    room(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(
            OutOfMemory, match="with a single image; pass a larger transform_stride"
        ):
            cpc.transform(X)


def test_auto_is_64_on_a_cpu_and_the_same_fit(monkeypatch):
    big = images(130)
    cpc, other = (tiny(batch_size=b, device="cpu").fit(big) for b in ("auto", 64))
    assert cpc.batch_size == "auto"
    assert cpc.net_.batch_size == 64
    np.testing.assert_array_equal(cpc.transform(X), other.transform(X))
    assert cpc.score(big) == other.score(big)


@pytest.mark.parametrize(
    ("n_images", "free_images", "expected"),
    [
        (1_000, 10_000, (64, 1)),
        (25_600, 10_000, (128, 1)),
        (1_000_000, 10_000, (256, 1)),
        (1_000_000, 300, (128, 1)),  # half of the free memory counts
        (1_000_000, 40, (64, 4)),
        (1_000_000, 1, (64, 64)),
        (1_000_000, None, (256, 1)),
    ],
)
def test_auto_follows_data_and_memory_on_cuda(monkeypatch, n_images, free_images, expected):
    cpc = tiny(batch_size="auto", max_epochs=0).fit(X)
    held = held_per_image(cpc.net_.module_)
    free = None if free_images is None else free_images * held
    monkeypatch.setattr(planning, "free_bytes", lambda device: free)
    cpc.net_.device = "cuda"
    assert planning.batch_and_parts(cpc, cpc.net_, n_images) == expected
    cpc.net_.device = "cpu"
    n_parts = {40: 4, 1: 64}.get(free_images, 1)
    assert planning.batch_and_parts(cpc, cpc.net_, n_images) == (64, n_parts)
    cpc.set_params(batch_size=7, accumulate=3)
    assert planning.batch_and_parts(cpc, cpc.net_, n_images) == (7, 3)


def test_what_an_image_takes_is_what_autograd_holds():
    model = tiny(max_epochs=0, patch_size=4).fit(X).net_.module_
    before = [m.training for m in model.modules()]
    held = held_per_image(model)
    # Pixels, the maps of the first layer before and after its norm, and the features.
    numbers = 4 * 4 * 3 + 2 * 2 * 64 + 2 * 2 * 64 + 8
    assert 4 * N_PATCHES * numbers <= held <= 2 * 4 * N_PATCHES * numbers
    wide = tiny(max_epochs=0, patch_size=4, patch_stride=1).fit(X).net_.module_
    ratio = wide.grid.n_patches / model.grid.n_patches
    assert held_per_image(wide) == pytest.approx(ratio * held, rel=0.05)
    assert [m.training for m in model.modules()] == before


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_what_an_image_takes_does_not_count_the_weights(precision):
    """In bf16 the products keep copies of them, which are no more for more images."""
    module = tiny(encoder="resnet18", n_components=None, max_epochs=0).fit(X).net_.module_
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        one, four = memory._held(module, 1), memory._held(module, 4)
        assert held_per_image(module) == pytest.approx((four - one) / 3, rel=0.02)
    weights = sum(p.nbytes for p in module.encoder.parameters())
    assert one - held_per_image(module) < (0.1 if precision == "float32" else 0.6) * weights


def test_free_memory_is_known_or_none():
    free = free_bytes("cpu")
    assert free is None or free > 2**20


def test_verbose_2_says_what_was_decided(capsys):
    tiny(verbose=2, device="cpu", batch_size="auto", precision="float32").fit(X)
    line, epoch = capsys.readouterr().out.splitlines()
    assert line.startswith(f"device cpu ({torch.get_num_threads()} threads), precision float32")
    assert line.endswith(
        "batches of 64 of 40 images, encoded at once, peak learning rate 0.002; images read batch "
        "by batch"
    )
    assert epoch.startswith("epoch 1/1")
    tiny(verbose=1).fit(X)
    assert len(capsys.readouterr().out.splitlines()) == 1


def in_layers(n_layers):
    """A factory of encoders with so many layers that have weights, and norms that have none."""

    def build(n_channels):
        layers = [torch.nn.Flatten()]
        for _ in range(n_layers):
            layers += [torch.nn.LazyLinear(6), torch.nn.LayerNorm(6), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers)

    return build


@pytest.mark.parametrize(
    ("encoder", "rate"),
    [
        ("conv", 2e-3),
        ("dictionary", 2e-3),
        ("resnet18", 5e-4),
        ("resnet34", 3e-4),
        ("resnet50", 3e-4),
        ("wrn28-2", 3e-4),
        (in_layers(10), 2e-3),
        (in_layers(11), 5e-4),
        (in_layers(20), 5e-4),
        (in_layers(21), 3e-4),
    ],
)
def test_the_learning_rate_of_auto_is_lower_for_deeper_encoders(encoder, rate):
    cpc = tiny(encoder=encoder, n_components=None, max_epochs=0).fit(X)
    assert cpc.net_.lr == rate
    assert cpc.learning_rate == "auto"


def test_the_learning_rate_of_auto_is_that_of_the_training():
    auto = tiny(max_epochs=2, schedule="constant").fit(X)
    given = tiny(max_epochs=2, schedule="constant", learning_rate=2e-3).fit(X)
    assert auto.history_[-1]["learning_rate"] == 2e-3
    for one, two in zip(weights(auto), weights(given), strict=True):
        assert torch.equal(one, two)
    given.set_params(learning_rate=0.5).partial_fit(X)
    assert given.history_[-1]["learning_rate"] == 0.5
    given.set_params(learning_rate="auto").partial_fit(X)
    assert given.history_[-1]["learning_rate"] == 2e-3


@pytest.mark.parametrize(("is_known", "n_warnings"), [(False, 1), (True, 0)])
def test_bf16_is_told_of_where_the_cpu_has_to_imitate_it(monkeypatch, is_known, n_warnings):
    monkeypatch.setattr(planning, "_has_bf16", lambda: is_known)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny(precision="bf16", device="cpu").fit(X)
    told = [w for w in caught if "many times slower than float32" in str(w.message)]
    assert len(told) == n_warnings
    assert all(w.filename == __file__ for w in told)


@pytest.mark.parametrize("method", ["transform", "embed_patches", "score"])
def test_bf16_of_elsewhere_is_told_of_when_it_is_used(method, monkeypatch):
    cpc = tiny(precision="float32", device="cpu").fit(X).set_params(precision="bf16")
    monkeypatch.setattr(planning, "_has_bf16", lambda: False)
    with pytest.warns(RuntimeWarning, match="pass precision='auto'.* after fit by set_params") as w:
        getattr(cpc, method)(X[:2])
    assert [each.filename for each in w] == [__file__]


def test_the_batch_of_auto_is_saved(tmp_path):
    pytest.importorskip("safetensors")
    cpc = tiny(batch_size="auto", device="cpu").fit(X)
    cpc.net_.batch_size = 16  # as if another device had chosen it
    cpc.save(tmp_path / "model")
    loaded = type(cpc).load(tmp_path / "model")
    assert loaded.batch_size == "auto"
    assert loaded.score(X) == cpc.score(X)
    assert loaded.net_.batch_size == 16


def test_a_batch_that_fails_late_is_in_the_queue_once(monkeypatch):
    """The gradient's memory may run out after the queue has taken the batch in."""
    settings = {"patch_size": 4, "patch_stride": 2, "negatives": "queue", "queue_size": 400}
    expected = tiny(**settings).fit(X)
    step, calls = CPCNet._forward_and_backward, []

    def failing(self, batch):
        output = step(self, batch)
        calls.append(len(batch[0]))
        if len(calls) == 2:
            raise OutOfMemory("CUDA out of memory")
        return output

    monkeypatch.setattr(CPCNet, "_forward_and_backward", failing)
    with pytest.warns(RuntimeWarning, match="Out of memory; training goes on"):
        found = tiny(**settings).fit(X)
    assert calls == [8] * 6
    np.testing.assert_allclose(found.loss_curve_, expected.loss_curve_, rtol=1e-4)
    queues = zip(
        found.net_.module_.queues.values(), expected.net_.module_.queues.values(), strict=True
    )
    assert all(len(one.targets()) == len(two.targets()) for one, two in queues)
