import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_cpc.nn import (
    ENCODERS,
    NORMS,
    ChannelNorm,
    ConvEncoder,
    PatchGrid,
    make_encoder,
)
from tests import reference

from .toys import normal, random, small_model

# float32 sums of at most a few hundred terms of size one: far above rounding, far below a fault.
CLOSE = {"atol": 1e-5, "rtol": 1e-4}
# All but one of 300 million weights, of which tests/nn/test_resnets.py knows more.
LIGHT = [name for name in ENCODERS if name != "resnet161"]
NORMED = [name for name in LIGHT if name != "dictionary"]  # whose one layer has tests of its own
SIZES = [(1, 1), (1, 9), (2, 3), (4, 4), (5, 7), (8, 8), (16, 12), (48, 48), (7, 50)]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, **CLOSE)


@pytest.mark.parametrize("n_channels", [1, 3, 12])
@pytest.mark.parametrize("size", SIZES)
def test_conv_gives_one_row_per_patch(size, n_channels):
    encoder = ConvEncoder(n_channels, size, 6, width=4)
    features = encoder(random(3, n_channels, *size))
    assert features.shape == (3, 6)
    assert torch.isfinite(features).all()
    assert (features >= 0).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [(1, 1), (4, 6), (48, 50)])
@pytest.mark.parametrize(
    ("name", "n_channels"), [("resnet18", 1), ("resnet18", 12), ("wrn28-2", 3)]
)
def test_resnet_gives_one_row_per_patch(name, size, n_channels, norm):
    encoder = make_encoder(name, n_channels, size, None, norm)
    features = encoder(random(2, n_channels, *size))
    assert features.shape == (2, encoder.n_components)
    assert torch.isfinite(features).all()


@pytest.mark.parametrize("name", NORMED)
def test_no_encoder_has_batch_statistics(name):
    encoder = make_encoder(name, 3, (8, 8), 16)
    norms = [m for m in encoder.modules() if "norm" in type(m).__name__.lower()]
    assert norms
    assert all(isinstance(m, ChannelNorm) for m in norms)
    assert not list(encoder.buffers())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["conv", "dictionary", "resnet18"])
def test_z_of_a_patch_is_bit_for_bit_unchanged_when_others_change(name, training):
    torch.manual_seed(0)
    encoder = make_encoder(name, 3, (6, 6), 16).train(training)
    patches = random(5, 3, 6, 6)
    changed = patches.clone()
    changed[[0, 1, 3, 4]] = random(4, 3, 6, 6, seed=1)
    before, after = encoder(patches), encoder(changed)
    assert torch.equal(before[2], after[2])
    assert not torch.equal(before[0], after[0])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 9), (8, 8), (3, 50)])
def test_conv_is_its_slow_twin(size):
    torch.manual_seed(0)
    encoder = ConvEncoder(2, size, 5, width=4)
    patches = normal(2, 2, *size)
    expected = [reference.conv_encoder(reference.array(p), encoder) for p in patches]
    np.testing.assert_allclose(reference.array(encoder(patches)), expected, **CLOSE)


@pytest.mark.parametrize("size", [(8, 8), (8, 12), (50, 50)])
def test_the_body_in_tiles_is_the_body(size):
    encoder = make_encoder("conv", 3, size, 16)
    patches = normal(2, 3, *size)
    whole = patches.clone().requires_grad_()  # whose gradient takes the other way
    assert encoder._has_tiles(patches)
    assert not encoder._has_tiles(whole)
    features, expected = encoder(patches), encoder(whole)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    weights = list(encoder.parameters())
    gradients = torch.autograd.grad(features.square().sum(), weights)
    others = torch.autograd.grad(expected.square().sum(), weights)
    for gradient, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize(("n_channels", "size"), [(3, (4, 4)), (3, (9, 9)), (12, (8, 8))])
def test_no_tiles_without_a_halving_that_tiles_or_with_wide_windows(n_channels, size):
    encoder = make_encoder("conv", n_channels, size, 16)
    assert not encoder._has_tiles(normal(2, n_channels, *size))


def test_channel_norm_is_its_slow_twin():
    norm = ChannelNorm(6)
    with torch.no_grad():
        norm.weight.copy_(normal(6))
        norm.bias.copy_(normal(6, seed=1))
    x = normal(1, 6, 3, 2, seed=2)
    expected = reference.channel_norm(reference.array(x[0]), norm)
    np.testing.assert_allclose(reference.array(norm(x)[0]), expected, **CLOSE)


@st.composite
def shared_geometries(draw):
    """Any patch, a stride that can be shared, and an image with room for a few patches."""
    size = draw(st.tuples(st.integers(1, 18), st.integers(1, 18)))
    encoder = ConvEncoder(2, size, 5, width=4)
    stride = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    if draw(st.booleans()):
        total = encoder.maps[-1].stride
        stride = tuple(t * s for t, s in zip(total, stride, strict=True))
    sides = [s + draw(st.integers(0, 9)) for s in size]
    return PatchGrid(*sides, size, stride), encoder


@settings(deadline=None, max_examples=60)
@given(shared_geometries())
def test_forward_dense_is_forward_on_every_patch(geometry):
    grid, encoder = geometry
    images = random(2, 2, grid.height, grid.width)
    dense = encoder.forward_dense(grid.crop(images), grid.patch_stride)
    patches = grid.extract(images)
    assert dense.shape == (2, *grid.shape, 5)
    close(dense, encoder(patches.flatten(0, 2)).view(dense.shape))


@pytest.mark.parametrize(("stride", "n_shared"), [((2, 2), 2), ((1, 2), 2), ((3, 3), 1)])
def test_forward_dense_has_the_gradient_of_forward(stride, n_shared):
    encoder, grid = ConvEncoder(1, (8, 8), 5, width=4), PatchGrid(14, 16, 8, stride)
    assert encoder._n_shared(stride) == n_shared
    images = random(2, 1, 14, 16)
    encoder(grid.extract(images).flatten(0, 2)).square().sum().backward()
    expected = [p.grad.clone() for p in encoder.parameters()]
    encoder.zero_grad()
    encoder.forward_dense(grid.crop(images), stride).square().sum().backward()
    for parameter, gradient in zip(encoder.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-3)


def test_a_stride_between_map_pixels_is_shared_where_that_saves_work():
    encoder = ConvEncoder(1, (10, 10), 5, width=4)
    assert [(layer.size, layer.stride) for layer in encoder.maps] == [
        ((8, 8), (1, 1)),
        ((4, 4), (2, 2)),
        ((2, 2), (4, 4)),
    ]
    # Multiplications for a pixel of the three maps.
    first, second, third = 9 * 4, 4 * 4 * 8, 4 * 8 * 16
    assert [layer.cost for layer in encoder.maps] == [first, second, third]
    alone = 64 * first + 16 * second + 4 * third
    assert encoder._cost_per_patch(0, (4, 4)) == alone
    # One pass over 4x4 pixels for each patch.
    assert encoder._cost_per_patch(3, (4, 4)) == 16 * first + 4 * second + third
    # Maps of every other pixel: 2x2 passes for all places that are 5 pixels apart.
    assert encoder._cost_per_patch(2, (5, 5)) == 4 * (25 * first + 25 / 4 * second) + 4 * third
    assert encoder._n_shared((4, 8)) == 3
    assert encoder._n_shared((2, 2)) == 3  # 4 passes for 25 patches over each pixel
    assert encoder._n_shared((5, 5)) == 1  # 16 passes for 4 patches: but for the first maps
    assert encoder.can_share((5, 5))
    assert not encoder.can_share((10, 10))  # nothing in common
    assert not encoder.can_share((20, 20))


def test_windows_of_shared_maps_are_counted():
    encoder = ConvEncoder(1, (10, 10), 5, width=4)
    assert encoder.numbers_at_once((5, 5), 7) == 7 * 4 * 8 * 8
    assert encoder.numbers_at_once((2, 2), 7) == 0  # all layers are shared
    assert encoder.numbers_at_once((10, 10), 7) == 0  # none is


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 10),
    st.integers(1, 10),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 8),
    st.integers(0, 8),
)
def test_embed_is_encode_patches_of_extract(size_y, size_x, stride_y, stride_x, more_y, more_x):
    grid = PatchGrid(size_y + more_y, size_x + more_x, (size_y, size_x), (stride_y, stride_x))
    model = small_model(grid, 2)
    model.pixel_mean.copy_(torch.tensor([0.3, 0.6]))
    model.pixel_std.copy_(torch.tensor([0.1, 0.5]))
    images = random(2, 2, grid.height, grid.width)
    features = model.embed(images)
    assert features.shape == (2, *grid.shape, 12)
    close(features, model.encode_patches(grid.extract(images)))


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_embed_on_another_size_and_stride(stride):
    model = small_model(PatchGrid(16, 16, 8, 4))
    grid = model.grid.with_size(19, 13).with_stride(stride)
    images = random(2, 1, 19, 13)
    close(model.embed(images, grid), model.encode_patches(grid.extract(images)))


@pytest.mark.parametrize("stride", [2, 3])
def test_embed_refuses_images_that_do_not_fit_the_grid(stride):
    # At stride 2 the work is shared, at 3 it is not; the answer is the same.
    model = small_model(PatchGrid(16, 16, 8, stride))
    with pytest.raises(ValueError, match="images of 20x16 pixels do not fit this grid of 16x16"):
        model.embed(random(2, 1, 20, 16))


@pytest.mark.parametrize("name", LIGHT)
def test_every_encoder_parameter_gets_a_gradient(name):
    torch.manual_seed(0)
    encoder = make_encoder(name, 3, (4, 4), 8)
    (encoder(normal(4, 3, 4, 4)) * normal(4, 8, seed=1)).sum().backward()
    for parameter_name, parameter in encoder.named_parameters():
        assert parameter.grad.abs().max() > 0, parameter_name


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 64), st.integers(1, 64))
def test_conv_sees_every_pixel_of_a_patch(height, width):
    torch.manual_seed(0)
    encoder = ConvEncoder(1, (height, width), 16, width=4)
    patches = normal(8, 1, height, width).requires_grad_()
    encoder(patches).sum().backward()
    unseen = (patches.grad.abs().amax((0, 1)) == 0).float().mean()
    assert unseen == 0, f"{unseen:.0%} of the pixels are never used"


def test_native_width_of_conv():
    encoder = make_encoder("conv", 1, (4, 4), None)
    assert encoder.n_components == 1024
    assert encoder(random(1, 1, 4, 4)).shape == (1, 1024)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet81",
            "encoder='resnet81' is unknown; it must be one of 'conv', 'dictionary', 'resnet18', "
            "'resnet34', 'resnet50', 'resnet101', 'resnet161', 'wrn28-2'. Did you mean 'resnet18'?",
        ),
        ("Conv", "Did you mean 'conv'?"),
    ],
)
def test_unknown_encoder(name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_encoder(name, 3, (8, 8), None)


def test_no_suggestion_without_a_near_name():
    with pytest.raises(ValueError, match="encoder='zzz' is unknown") as caught:
        make_encoder("zzz", 3, (8, 8), None)
    assert "Did you mean" not in str(caught.value)
