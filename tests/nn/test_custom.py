"""Networks of the user's own: measured, copied, converted, refused."""

import copy
import re
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from sklearn_cpc.nn import (
    AdoptedEncoder,
    ConvEncoder,
    CPCModel,
    PatchGrid,
    ResNetEncoder,
    adopt_context,
    adopt_encoder,
    make_context,
    make_encoder,
)

from .toys import asymmetric_grid, normal, random, small_model

PATCH = (6, 5)


class Flat(nn.Sequential):
    """(n, channels, 6, 5) -> (n, 7)."""

    def __init__(self, n_channels):
        super().__init__(nn.Flatten(), nn.Linear(n_channels * 30, 7), nn.ReLU())


class Maps(nn.Sequential):
    """(n, channels, height, width) -> (n, 7, height / 2, width / 2)."""

    def __init__(self, n_channels):
        super().__init__(nn.Conv2d(n_channels, 7, 2, 2), nn.ReLU())


class Returning(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def with_norm(norm):
    return nn.Sequential(nn.Conv2d(3, 32, 2), norm, nn.ReLU())


# Encoders


@pytest.mark.parametrize(
    "encoder", [Flat, Maps, Flat(3), Maps(3), partial(Maps), lambda n: Maps(n)]
)
@pytest.mark.parametrize("n_components", [None, 7, 4])
def test_a_users_encoder_gives_one_row_per_patch(encoder, n_components):
    torch.manual_seed(0)
    net = make_encoder(encoder, 3, PATCH, n_components)
    assert net.n_components == (n_components or 7)
    features = net(random(4, 3, *PATCH))
    assert features.shape == (4, net.n_components)
    assert (features >= 0).all()
    assert (net.head is None) == (n_components != 4)


def test_maps_are_averaged():
    module, patches = Maps(3), random(4, 3, *PATCH)
    expected = module(patches).flatten(2).mean(2)
    torch.testing.assert_close(adopt_encoder(module, 3, PATCH)(patches), expected)


def test_a_module_is_copied_with_its_weights_and_a_class_is_not():
    module, patches = Flat(3), random(4, 3, *PATCH)
    net = adopt_encoder(module, 3, PATCH)
    expected = module(patches)
    assert torch.equal(net(patches), expected)
    nn.init.zeros_(net.body[1].weight)
    assert torch.equal(module(patches), expected)
    one, two = (adopt_encoder(Flat, 3, PATCH) for _ in range(2))
    assert not torch.equal(one(patches), two(patches))
    assert adopt_encoder(lambda n: module, 3, PATCH).body is not module


def test_modes_of_layers_are_kept():
    module = nn.Sequential(Flat(3).eval(), nn.Dropout(0.5))
    body = adopt_encoder(module, 3, PATCH).body
    assert [m.training for m in body.modules()] == [m.training for m in module.modules()]


def test_measuring_leaves_the_generators_alone():
    module = nn.Sequential(Flat(3), Returning(lambda x: x + torch.zeros_like(x).normal_() * 0))
    before = torch.get_rng_state()
    adopt_encoder(module, 3, PATCH)
    adopt_context(nn.Dropout(0.5), 4, (3, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_lazy_layers_get_their_sizes():
    def lazy(n_channels):
        first = nn.LazyConv2d(32, 2), nn.LazyBatchNorm2d()
        return nn.Sequential(*first, nn.Flatten(), nn.LazyLinear(7))

    with pytest.warns(UserWarning, match="BatchNorm2d became GroupNorm"):
        net = adopt_encoder(lazy, 3, PATCH)
    assert net(random(2, 3, *PATCH)).shape == (2, 7)
    assert isinstance(net.body[1], nn.GroupNorm)


def test_an_encoder_of_this_package_is_used_as_it_is():
    """With what it knows beyond forward: sharing work, whitening."""
    net = adopt_encoder(ConvEncoder(3, PATCH, 9, width=4), 3, PATCH)
    assert type(net) is ConvEncoder
    assert type(adopt_encoder(partial(ResNetEncoder, patch_size=PATCH, width=4), 3, PATCH, 16)) is (
        ResNetEncoder
    )
    adopted = adopt_encoder(ConvEncoder(3, PATCH, 9, width=4), 3, PATCH, 5)
    assert type(adopted) is AdoptedEncoder
    assert adopted(random(2, 3, *PATCH)).shape == (2, 5)


def test_a_model_trains_networks_of_ones_own():
    grid = asymmetric_grid()
    encoder = make_encoder(Maps, 2, grid.patch_size, 8)
    model = CPCModel(grid, encoder, 2, latent_dim=4, context=lambda n: nn.Linear(n, n))
    model(random(4, 2, 10, 14)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    assert model.embed(random(1, 2, 10, 14)).shape == (1, *grid.shape, 8)


def test_a_norm_is_not_for_an_encoder_of_ones_own():
    message = "encoder_norm='group' must be 'auto' or 'frozen' with an encoder of your own; build"
    with pytest.raises(ValueError, match=message):
        make_encoder(Maps, 3, PATCH, None, "group")


# Batch statistics


@pytest.mark.parametrize(
    ("norm", "groups"),
    [
        (nn.BatchNorm2d(32), 2),
        (nn.BatchNorm2d(32, eps=0.1, affine=False), 2),
        (nn.SyncBatchNorm(32), 2),
        (nn.InstanceNorm2d(32, affine=True, track_running_stats=True), 32),
    ],
)
def test_batch_statistics_are_converted_with_a_warning(norm, groups):
    module = with_norm(norm)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        norm.bias.requires_grad_(False)
    kind = type(norm).__name__
    message = (
        f"encoder=Sequential: {kind} became GroupNorm with the same weights, because stat.*leak"
    )
    with pytest.warns(UserWarning, match=message):
        net = adopt_encoder(module, 3, PATCH)
    twin = net.body[1]
    assert (twin.num_groups, twin.num_channels, twin.eps) == (groups, 32, norm.eps)
    assert module[1] is norm
    if norm.affine:
        assert torch.equal(twin.weight, norm.weight)
        assert torch.equal(twin.bias, norm.bias)
        assert (twin.weight.requires_grad, twin.bias.requires_grad) == (True, False)
    patches = random(5, 3, *PATCH)
    changed = patches.clone()
    changed[1:] = random(4, 3, *PATCH, seed=1)
    assert torch.equal(net.train()(patches)[0], net(changed)[0])


def test_instance_norm_in_training_is_the_group_norm_that_it_becomes():
    norm = nn.InstanceNorm2d(32, affine=True, track_running_stats=True)
    module, patches = with_norm(norm), random(4, 3, *PATCH)
    with pytest.warns(UserWarning, match="InstanceNorm2d became"):
        net = adopt_encoder(module, 3, PATCH)
    torch.testing.assert_close(net(patches), module.train()(patches).mean((2, 3)))


def test_batch_norm_is_converted_wherever_it_is():
    shared = nn.BatchNorm2d(32)
    module = nn.Sequential(
        nn.Conv2d(3, 32, 1), shared, nn.Sequential(shared), nn.Flatten(), nn.LazyLinear(8)
    )
    module = nn.Sequential(module, nn.BatchNorm1d(8))
    with pytest.warns(UserWarning, match="BatchNorm1d, BatchNorm2d became"):
        body = adopt_encoder(module, 3, PATCH).body
    assert body[0][1] is body[0][2][0]
    assert sum(isinstance(m, nn.GroupNorm) for m in body.modules()) == 2
    assert not list(body.buffers())
    with pytest.warns(UserWarning, match="encoder=BatchNorm2d: BatchNorm2d became"):
        assert isinstance(adopt_encoder(nn.BatchNorm2d(4), 4, PATCH).body, nn.GroupNorm)


@pytest.mark.parametrize(
    "norm", [nn.GroupNorm(4, 32), nn.InstanceNorm2d(32), nn.Dropout(0.5), nn.Identity()]
)
def test_what_keeps_to_a_patch_is_left_alone(norm):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = adopt_encoder(with_norm(norm), 3, PATCH)
    assert type(net.body[1]) is type(norm)


class Centred(nn.Module):
    """Statistics over the batch that no class gives away, in training alone or always."""

    def __init__(self, always, gate=1.0):
        super().__init__()
        self.always = always
        self.gate = nn.Parameter(torch.full((1,), gate))

    def forward(self, x):
        if self.always or self.training:
            x = x - self.gate * x.mean(0)
        return x


@pytest.mark.parametrize(("always", "when"), [(True, ";"), (False, " in training;")])
@pytest.mark.parametrize("gate", [1.0, 0.0, 1e-6])
def test_home_made_batch_statistics_are_refused(always, when, gate):
    module = nn.Sequential(Flat(3), Centred(always, gate))
    message = (
        f"encoder=Sequential: features of a patch change with the other patches of the batch{when}"
    )
    with pytest.raises(ValueError, match=message):
        adopt_encoder(module, 3, PATCH)
    assert module[1].gate.item() == pytest.approx(gate)


# Encoders that do not fit


@pytest.mark.parametrize(
    ("encoder", "error", "message"),
    [
        (
            nn.Linear(4, 2),
            ValueError,
            r"encoder=Linear failed on patches of 6x5 pixels and 3 channels: RuntimeError\('mat1 "
            r".*pass a module that takes them",
        ),
        (Maps(4), ValueError, "encoder=Maps failed on patches of 6x5 pixels and 3 channels: Runt"),
        (
            Returning(lambda x: x[:, 0]),
            ValueError,
            r"encoder=Returning gave features of shape \(3, 6, 5\) for 3 patches of 6x5 pixels and "
            r"3 channels; they must be of shape \(3, width\) or \(3, width, rows, cols\)",
        ),
        (Returning(lambda x: x.sum(0)), ValueError, r"gave features of shape \(3, 6, 5\)"),
        (Returning(lambda x: x[:2].flatten(1)), ValueError, r"of shape \(2, 90\) for 3 patches"),
        (Returning(lambda x: x[:, :0]), ValueError, r"gave features of shape \(3, 0, 6, 5\)"),
        (
            Returning(lambda x: x.flatten(1).long()),
            TypeError,
            "encoder=Returning gave torch.int64 for patches of 6x5 .*; it must give a tensor",
        ),
        (Returning(lambda x: (x, x)), TypeError, "encoder=Returning gave tuple for patches of 6x5"),
        (lambda n: n, TypeError, "encoder=.*lambda.* gave 3; it must give a torch.nn.Module"),
        (
            ConvEncoder,
            ValueError,
            r"encoder=ConvEncoder failed when called with n_channels=3: TypeError\(.*patch_size.*"
            "functools.partial",
        ),
        (
            7,
            TypeError,
            "encoder=7 must be a name, a torch.nn.Module, or a callable that gives one for n_ch",
        ),
    ],
)
def test_an_encoder_that_does_not_fit(encoder, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        make_encoder(encoder, 3, PATCH, None)


def test_the_original_error_is_chained():
    with pytest.raises(ValueError, match="encoder=Linear failed") as caught:
        adopt_encoder(nn.Linear(4, 2), 3, PATCH)
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(ValueError, match="failed when called") as caught:
        adopt_encoder(ConvEncoder, 3, PATCH)
    assert isinstance(caught.value.__cause__, TypeError)


# Contexts


class Rows(nn.Module):
    """c = f(z) for a function of grids, times a gate."""

    def __init__(self, function, gate=1.0):
        super().__init__()
        self.function = function
        self.gate = nn.Parameter(torch.full((1,), gate))

    def forward(self, z):
        return z + self.gate * self.function(z)


def causal(z):
    return z.cumsum(1)


def below(z):
    """Row i sees row i + 1."""
    return torch.roll(z, -1, 1)


def last_row_alone(z):
    """Row 0 sees the last row, no other does."""
    return torch.cat([z[:, -1:], z[:, 1:]], 1)


def over_images(z):
    return z.mean(0).expand_as(z)


@pytest.mark.parametrize("shape", [(4, 3), (1, 5), (2, 1), (40, 2)])
def test_a_causal_context_of_ones_own_is_taken(shape):
    module = Rows(causal)
    context = adopt_context(module, 6, shape)
    z = normal(2, *shape, 6)
    assert context is not module
    assert torch.equal(context(z), module(z))


@pytest.mark.parametrize(
    "function", [below, last_row_alone, over_images, lambda z: z.mean(1, True)]
)
@pytest.mark.parametrize("gate", [1.0, 0.0, 1e-5])
@pytest.mark.parametrize("shape", [(4, 3), (2, 1), (40, 2)])
def test_a_context_that_sees_lower_rows_or_other_images_is_refused(function, gate, shape):
    with pytest.raises(ValueError, match=r"context=Rows: row \d+ of its output changes with"):
        adopt_context(Rows(function, gate), 6, shape)


def test_batch_norm_in_a_context_is_refused():
    class Normed(nn.BatchNorm1d):
        def forward(self, z):
            return super().forward(z.flatten(0, 2)).view(z.shape)

    message = "context=Normed: row 0 of its output changes with rows below it or .* in training"
    with pytest.raises(ValueError, match=message):
        adopt_context(Normed(6), 6, (4, 3))


def test_bottom_padding_is_found():
    class Padded(nn.Conv2d):
        def forward(self, z):
            return super().forward(z.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    with pytest.raises(ValueError, match="pad on top alone, mask"):
        adopt_context(lambda n: Padded(n, n, 3, padding=1), 6, (4, 3))
    adopt_context(lambda n: Padded(n, n, (1, 3), padding=(0, 1)), 6, (4, 3))


@pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn", "gru", "transformer"])
def test_the_contexts_of_this_package_pass_the_check(name):
    adopt_context(make_context(name, 6, width=8, depth=2), 6, (5, 4))


@pytest.mark.parametrize(
    ("context", "error", "message"),
    [
        (
            nn.Linear(6, 5),
            ValueError,
            r"context=Linear gave \(1, 4, 3, 5\) for \(batch, rows, cols, latent\)=\(1, 4, 3, 6\);",
        ),
        (
            nn.Linear(5, 6),
            ValueError,
            "context=Linear failed on a grid of 4x3 latents of width 6: RuntimeError",
        ),
        (
            Returning(lambda z: z.tolist()),
            TypeError,
            "context=Returning gave list for a grid of 4x3",
        ),
        (lambda n: n, TypeError, "context=.*lambda.* gave 6; it must give a torch.nn.Module"),
        (
            nn.Linear,
            ValueError,
            r"context=Linear failed when called with latent_dim=6: TypeError\(.*out_features",
        ),
        (
            None,
            TypeError,
            "context=None must be a name, .* that gives one for latent_dim; pass one",
        ),
    ],
)
def test_a_context_that_does_not_fit(context, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        make_context(context, 6, shape=(4, 3))


def test_each_direction_has_its_own_copy_or_its_own_network():
    module = nn.Linear(6, 6)
    model = small_model(asymmetric_grid(), context=module, context_settings={})
    contexts = list(model.contexts.values())
    assert len({id(c) for c in [module, *contexts]}) == 5
    torch.manual_seed(0)
    grid = asymmetric_grid()
    encoder = make_encoder("conv", 1, grid.patch_size, 8)
    model = CPCModel(grid, encoder, 1, latent_dim=6, context=lambda n: nn.Linear(n, n))
    assert not torch.equal(model.contexts["up"].weight, model.contexts["down"].weight)


def test_a_context_is_checked_on_the_grid_of_each_direction():
    seen = set()

    class Watching(nn.Module):
        def forward(self, z):
            seen.add(tuple(z.shape[1:3]))
            return z

    grid = asymmetric_grid()  # 4 x 6
    small_model(grid, context=Watching(), directions=("down", "left"))
    assert seen == {(4, 6), (6, 4)}


def test_a_context_that_fits_one_grid_alone_is_taken_for_that_grid():
    class Placed(nn.Module):
        def __init__(self, latent_dim):
            super().__init__()
            self.code = nn.Parameter(torch.randn(4, 4, 6))

        def forward(self, z):
            return z + self.code

    model = small_model(PatchGrid(10, 10, 4, 2), context=Placed)
    assert torch.isfinite(model(random(2, 1, 10, 10)).loss)
    message = "context=.*Placed failed on a grid of 4x6 latents of width 6: RuntimeError"
    with pytest.raises(ValueError, match=message):
        small_model(asymmetric_grid(), context=Placed, directions=("down",))


def test_messages_name_what_was_passed():
    for encoder in (nn.Linear(4, 2), partial(nn.Linear, 4, 2)):
        with pytest.raises(ValueError, match=re.escape("encoder=")) as caught:
            adopt_encoder(encoder, 3, PATCH)
        assert "Linear" in str(caught.value)


def test_an_adopted_encoder_can_be_copied():
    net = adopt_encoder(Maps, 3, PATCH, 4)
    patches = random(2, 3, *PATCH)
    assert torch.equal(copy.deepcopy(net)(patches), net(patches))
