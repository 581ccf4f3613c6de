"""Residual encoders: their size, their stems, their norms, and that the deepest can be trained."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_cpc.nn import NORMS, ChannelNorm, ResNetEncoder, WideResNetEncoder, make_encoder
from sklearn_cpc.nn.layers import GroupNorm
from tests import reference

from .toys import normal, random

every_norm = pytest.mark.parametrize("norm", NORMS)
RESNETS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet161", "wrn28-2"]


def blocks(encoder):
    return [layer for layer in encoder.body if hasattr(layer, "residual")]


def n_parameters(module):
    return sum(p.numel() for p in module.parameters())


def on_meta(name, size=(80, 80), norm="layer"):
    """Shapes without numbers."""
    with torch.device("meta"):
        return make_encoder(name, 3, size, None, norm)


def random_affine(encoder):
    """Norms, biases and scales that are not those of the start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    return encoder


# Sizes


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("resnet18", 256),
        ("resnet34", 256),
        ("resnet50", 1024),
        ("resnet101", 1024),
        ("resnet161", 4096),
        ("wrn28-2", 128),
    ],
)
def test_native_widths(name, width):
    assert on_meta(name).n_components == width
    with torch.device("meta"):
        patches = torch.empty(2, 3, 80, 80)
    assert on_meta(name)(patches).shape == (2, width)


def bottlenecks(n_blocks, n_in, inner, out):
    """Weights of a stage, its norms included, by hand."""
    first = n_in * inner + 9 * inner**2 + inner * out + n_in * out + 2 * n_in + 4 * inner
    other = out * inner + 9 * inner**2 + inner * out + 2 * out + 4 * inner
    return first + (n_blocks - 1) * other


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet50", [(3, 64, 256), (4, 128, 512), (6, 256, 1024)]),
        ("resnet101", [(3, 64, 256), (4, 128, 512), (23, 256, 1024)]),
        ("resnet161", [(3, 64, 256), (4, 128, 512), (46, 512, 4096)]),
    ],
)
def test_parameters_are_those_of_a_count_by_hand(name, stages):
    expected, n_in = 7 * 7 * 3 * 64, 64
    for n_blocks, inner, out in stages:
        expected += bottlenecks(n_blocks, n_in, inner, out)
        n_in = out
    assert n_parameters(on_meta(name)) == expected + 2 * n_in


def test_resnet161_has_the_size_of_cpc_v2():
    """305 million in the literature; see benchmarks/cpc_v2_size.py for the count."""
    encoder = on_meta("resnet161")
    assert n_parameters(encoder) == 303_642_176
    third = blocks(encoder)[7:]
    assert len(third) == 46
    assert third[-1].residual[0].weight.shape == (512, 4096, 1, 1)
    assert third[-1].residual[-1].weight.shape == (4096, 512, 1, 1)


def test_wrn28_2_has_the_size_of_the_paper():
    """1.5 million in table 4 of the paper, the classifier of ten classes included."""
    assert n_parameters(on_meta("wrn28-2", (32, 32))) + 10 * 129 == pytest.approx(1.5e6, rel=0.03)
    widths = [block.residual[-1].out_channels for block in blocks(on_meta("wrn28-2"))]
    assert widths == [32] * 4 + [64] * 4 + [128] * 4


@pytest.mark.parametrize("name", RESNETS)
def test_depths_have_the_layers_of_their_names(name):
    n = sum(isinstance(m, nn.Conv2d) for b in blocks(on_meta(name)) for m in b.residual)
    # Full networks less the fourth stage, the stem and the classifier; CPC v2 and the wide
    # network have no fourth stage.
    expected = {
        "resnet18": 18 - 2 * 2 - 2,
        "resnet34": 34 - 2 * 3 - 2,
        "resnet50": 50 - 3 * 3 - 2,
        "resnet101": 101 - 3 * 3 - 2,
        "resnet161": 161 - 2,
        "wrn28-2": 28 - 4,  # projections count as layers there
    }
    assert n == expected[name]


@pytest.mark.parametrize("depth", [27, 4, 29])
def test_a_wide_resnet_has_some_depths_only(depth):
    message = f"depth={depth} must be 4 more than a multiple of 6: 10, 16, 22, 28, ...; pass one"
    with pytest.raises(ValueError, match=re.escape(message)):
        WideResNetEncoder(3, (8, 8), depth=depth)


def test_unknown_depth_and_norm():
    with pytest.raises(ValueError, match=r"depth=160 is unknown; .* Did you mean 161\?"):
        ResNetEncoder(3, (8, 8), depth=160)
    with pytest.raises(ValueError, match=r"norm='layers' is unknown; .* Did you mean 'layer'\?"):
        ResNetEncoder(3, (8, 8), norm="layers")


# Stems


@pytest.mark.parametrize("name", RESNETS)
def test_stem_keeps_the_resolution_of_small_patches(name):
    small, large = on_meta(name, (47, 47)), on_meta(name, (48, 48))
    assert (small.body[0].stride, small.body[0].kernel_size) == ((1, 1), (3, 3))
    assert (large.body[0].stride, large.body[0].kernel_size) == ((2, 2), (7, 7))
    assert isinstance(large.body[1], nn.MaxPool2d)
    assert not any(isinstance(layer, nn.MaxPool2d) for layer in small.body)


@pytest.mark.parametrize("encoder", [ResNetEncoder, WideResNetEncoder])
@pytest.mark.parametrize(
    ("size", "last"), [((8, 8), (2, 2)), ((16, 12), (4, 3)), ((80, 80), (5, 5)), ((1, 1), (1, 1))]
)
def test_last_maps_are_neither_a_point_nor_a_picture(encoder, size, last):
    net = encoder(1, size)
    assert net.body(random(1, 1, *size)).shape[2:] == last


# Norms


@every_norm
@pytest.mark.parametrize(
    ("depth", "size", "width"), [(18, (3, 5), 32), (50, (2, 3), 8), (18, (48, 49), 4)]
)
def test_resnet_is_its_slow_twin(depth, size, width, norm):
    torch.manual_seed(0)
    encoder = random_affine(ResNetEncoder(2, size, 7, depth=depth, norm=norm, width=width))
    patch = normal(1, 2, *size)
    expected = reference.resnet_encoder(reference.array(patch[0]), encoder)
    # Sums of thousands of terms through a dozen layers and more.
    actual = reference.array(encoder(patch)[0])
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3 * abs(expected).max())


@pytest.mark.parametrize("size", [(4, 6), (48, 48)])
def test_wide_resnet_is_its_slow_twin(size):
    torch.manual_seed(0)
    encoder = random_affine(WideResNetEncoder(2, size, depth=10, widening=1))
    patch = normal(1, 2, *size)
    expected = reference.resnet_encoder(reference.array(patch[0]), encoder)
    actual = reference.array(encoder(patch)[0])
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3 * abs(expected).max())


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "wrn28-2"])
@pytest.mark.parametrize(
    ("norm", "kinds"), [("none", set()), ("group", {GroupNorm}), ("layer", {ChannelNorm})]
)
def test_the_norm_is_the_one_that_was_asked_for(name, norm, kinds):
    encoder = make_encoder(name, 3, (8, 8), None, norm)
    assert {type(m) for m in encoder.modules() if "norm" in type(m).__name__.lower()} == kinds
    assert not list(encoder.buffers())


def test_groups_have_sixteen_channels():
    norm = blocks(ResNetEncoder(1, (8, 8), norm="group"))[-1].norm
    assert (norm.num_groups, norm.num_channels) == (16, 256)


@pytest.mark.parametrize("width", [1, 5, 12])
def test_odd_widths_have_no_group_of_one_channel(width):
    encoder = ResNetEncoder(1, (1, 1), norm="group", width=width)
    for block in blocks(encoder):
        assert block.norm.num_channels // block.norm.num_groups > 1 or width == 1


@every_norm
@pytest.mark.parametrize("training", [True, False])
def test_z_of_a_patch_is_bit_for_bit_unchanged_when_others_change(norm, training):
    torch.manual_seed(0)
    encoder = make_encoder("resnet18", 3, (6, 6), 16, norm).train(training)
    patches = random(5, 3, 6, 6)
    changed = patches.clone()
    changed[[0, 1, 3, 4]] = random(4, 3, 6, 6, seed=1)
    before, after = encoder(patches), encoder(changed)
    assert torch.equal(before[2], after[2])
    assert not torch.equal(before[0], after[0])


@every_norm
@pytest.mark.parametrize("size", [(1, 1), (7, 4), (48, 50)])
def test_weights_are_not_tied_to_a_patch_size(norm, size):
    other = (5, 9) if min(size) < 48 else (64, 48)
    encoder = WideResNetEncoder(2, size, depth=10, norm=norm)
    twin = WideResNetEncoder(2, other, depth=10, norm=norm)
    twin.load_state_dict(encoder.state_dict())
    assert torch.isfinite(twin(random(2, 2, *other))).all()
    assert torch.isfinite(encoder(random(2, 2, *other))).all()


@every_norm
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "wrn28-2"])
def test_every_parameter_gets_a_gradient_at_the_first_step(name, norm):
    torch.manual_seed(0)
    encoder = make_encoder(name, 3, (4, 4), 8, norm)
    (encoder(normal(4, 3, 4, 4)) * normal(4, 8, seed=1)).sum().backward()
    for parameter_name, parameter in encoder.named_parameters():
        assert parameter.grad.abs().max() > 0, parameter_name


def test_the_conv_encoder_has_its_own_norm():
    for norm in ("none", "group"):
        message = f"encoder_norm='{norm}' must be 'auto' or 'layer' with encoder='conv', whose pat"
        with pytest.raises(ValueError, match=message):
            make_encoder("conv", 3, (8, 8), 16, norm)
    assert make_encoder("conv", 3, (8, 8), 16, "layer").n_components == 16


@pytest.mark.parametrize("name", ["conv", "dictionary", "resnet18"])
def test_frozen_norms_are_for_trained_encoders(name):
    message = f"encoder_norm='frozen' is for an encoder of your own .* encoder='{name}' starts anew"
    with pytest.raises(ValueError, match=message):
        make_encoder(name, 3, (8, 8), None, "frozen")


def test_unknown_encoder_norm():
    with pytest.raises(ValueError, match=r"encoder_norm='batch' is unknown; .* 'auto', 'none', 'g"):
        make_encoder("resnet18", 3, (8, 8), None, "batch")


# Depth


def flow(encoder, size):
    """The scale of each block's maps and of the loss's gradient with respect to them."""
    maps = []
    for block in blocks(encoder):
        block.register_forward_hook(lambda _, __, out: (out.retain_grad(), maps.append(out))[0])
    features = encoder(normal(6, 3, *size))
    (features * normal(*features.shape, seed=1)).sum().backward()
    return [m.std().item() for m in maps], [m.grad.norm().item() for m in maps]


@every_norm
@pytest.mark.parametrize("size", [(8, 8), (48, 48)])
def test_scale_and_gradient_are_bounded_at_depth_161(norm, size):
    torch.manual_seed(0)
    encoder = ResNetEncoder(3, size, depth=161, norm=norm, width=4)
    scales, gradients = flow(encoder, size)
    assert len(scales) == 53
    # At 1 / sqrt(53) of He's scale a branch adds 1/53 of the variance, or 2/53 where the maps are
    # positive after the pooling: e^2 in all. Unscaled, it is a factor of two for each block.
    assert max(scales) < 8
    assert max(scales) / min(scales) < 8
    assert max(gradients) / min(gradients) < 8


@every_norm
def test_depth_161_learns(norm):
    """Patches whose upper or lower half is brighter are told apart after a few steps."""
    torch.manual_seed(0)
    encoder = ResNetEncoder(1, (4, 4), depth=161, norm=norm, width=2)
    patches = normal(16, 1, 4, 4)
    patches[::2, :, :2] += 1
    patches[1::2, :, 2:] += 1
    kinds = torch.arange(16) % 2
    head = nn.Linear(encoder.n_components, 2)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=2e-3)
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(head(encoder(patches)), kinds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 < losses[0]


@every_norm
def test_recomputed_blocks_give_the_same_gradient(norm):
    torch.manual_seed(0)
    encoder = ResNetEncoder(2, (6, 6), 5, depth=50, norm=norm, width=8)
    patches, gradients, features = normal(3, 2, 6, 6), [], []
    for encoder.checkpoint in (False, True):
        encoder.zero_grad()
        features.append(encoder(patches))
        features[-1].square().sum().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters()])
    assert torch.equal(*features)
    for one, two in zip(*gradients, strict=True):
        assert torch.equal(one, two)


def test_recomputing_keeps_fewer_numbers():
    encoder = ResNetEncoder(2, (8, 8), depth=34, width=8)
    kept = []
    for encoder.checkpoint in (False, True):
        n = 0

        def count(tensor):
            nonlocal n
            n += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            encoder(normal(4, 2, 8, 8))
        kept.append(n)
    assert kept[1] < kept[0] / 2
