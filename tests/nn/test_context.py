import re

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_cpc.nn import (
    CONTEXTS,
    DIRECTIONS,
    CPCModel,
    PixelCNN,
    RowTransformer,
    first_row_first,
    make_context,
    make_encoder,
)
from tests import reference

from .toys import FOUR, asymmetric_grid, normal, random, small_model

ROWS, COLS, LATENT = 5, 4, 6
# The position code is float32, all else float64.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
every_context = pytest.mark.parametrize("name", CONTEXTS)


def small_context(name, depth=2, seed=0, **settings):
    """In float64, where no gradient that is there is rounded to zero."""
    torch.manual_seed(seed)
    return make_context(name, LATENT, width=8, depth=depth, **settings).double()


def reach(context, i, j, rows=ROWS, cols=COLS):
    """Which z positions c[i, j] depends on, by gradient; no ReLU is closed in all images."""
    z = normal(8, rows, cols, LATENT).double().requires_grad_()
    (gradient,) = torch.autograd.grad(context(z)[:7, i, j].sum(), z)
    assert not gradient[7].any(), "the context sees another image"
    return gradient.abs().sum((0, 3)) > 0


@every_context
@pytest.mark.parametrize("i", range(ROWS))
def test_no_row_below_is_seen(name, i):
    context = small_context(name)
    for j in range(COLS):
        assert not reach(context, i, j)[i + 1 :].any()


@pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_convolutions_see_as_far_as_they_are_deep(name, depth):
    context = small_context(name, depth)
    rows = reach(context, ROWS - 1, 1).any(1)
    assert rows.tolist() == [row >= ROWS - 1 - depth for row in range(ROWS)]
    cols = reach(context, 3, 4, cols=9).any(0)
    assert cols.tolist() == [abs(col - 4) <= depth for col in range(9)]


@pytest.mark.parametrize("name", ["gru", "transformer"])
@pytest.mark.parametrize("i", range(ROWS))
def test_sequences_see_all_of_the_rows_so_far(name, i):
    context = small_context(name, depth=1)
    for j in range(COLS):
        assert reach(context, i, j)[: i + 1].all()


@every_context
@pytest.mark.parametrize("j", [0, -1])
@pytest.mark.parametrize("i", range(1, ROWS))
def test_border_columns_get_context_from_upper_rows(name, i, j):
    assert reach(small_context(name), i, j)[i - 1, j]


@every_context
@pytest.mark.parametrize("direction", FOUR)
def test_nothing_ahead_is_seen_in_any_direction(name, direction):
    """Turned back to the image's own axes, not to the turned ones that the code uses."""
    context = small_context(name, depth=3)
    z = normal(4, ROWS, COLS, LATENT).double().requires_grad_()
    c = context(first_row_first(z, direction))
    n_lines = ROWS if direction in ("down", "up") else COLS
    assert c.shape[1] == n_lines
    for line in range(n_lines):
        (gradient,) = torch.autograd.grad(c[:, line].sum(), z, retain_graph=True)
        seen = gradient.abs().sum((0, 3)) > 0
        along = seen.any(1) if direction in ("down", "up") else seen.any(0)
        if direction in ("up", "left"):
            along = along.flip(0)
        assert not along[line + 1 :].any(), line
        assert along[max(0, line - 1) : line + 1].all(), line


@every_context
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (3, 5)])
def test_context_is_its_slow_twin_on_any_grid(name, shape):
    context = small_context(name)
    with torch.no_grad():
        for parameter in context.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # biases that start at zero, too
    z = normal(2, *shape, LATENT).double()
    expected = [reference.CONTEXTS[name](image, context) for image in reference.array(z)]
    np.testing.assert_allclose(reference.array(context(z)), expected, **CLOSE)


def test_attention_with_several_heads_is_its_slow_twin():
    torch.manual_seed(0)
    context = RowTransformer(LATENT, width=96, depth=1).double()
    assert context.blocks[0].n_heads == 3
    z = normal(1, 3, 2, LATENT).double()
    expected = reference.row_transformer(reference.array(z[0]), context)
    np.testing.assert_allclose(reference.array(context(z)[0]), expected, **CLOSE)


@pytest.mark.parametrize(("width", "n_heads"), [(1, 1), (40, 1), (64, 2), (70, 2), (256, 8)])
def test_heads_divide_the_width(width, n_heads):
    assert RowTransformer(3, width=width, depth=1).blocks[0].n_heads == n_heads


def test_the_transformer_knows_places():
    """Equal latents everywhere: only the position code tells one column from the next."""
    c = small_context("transformer")(torch.ones(1, ROWS, COLS, LATENT).double())[0]
    places = c.reshape(-1, LATENT)
    assert (torch.cdist(places, places) + torch.eye(len(places))).min() > 1e-3


@every_context
@pytest.mark.parametrize("training", [True, False])
def test_context_of_an_image_is_bit_for_bit_unchanged_when_others_change(name, training):
    context = small_context(name).float().train(training)
    z = normal(3, ROWS, COLS, LATENT)
    changed = z.clone()
    changed[[0, 2]] = normal(2, ROWS, COLS, LATENT, seed=1)
    before, after = context(z), context(changed)
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[0], after[0])
    assert not list(context.buffers())


@every_context
def test_context_is_deterministic(name):
    z = normal(2, ROWS, COLS, LATENT).double()
    other, one, two = (small_context(name, seed=seed) for seed in (1, 0, 0))
    before = torch.get_rng_state()
    assert torch.equal(one(z), one(z))
    assert torch.equal(one(z), two(z))
    assert not torch.equal(one(z), other(z))
    one.eval()
    assert torch.equal(one(z), two(z))
    assert torch.equal(torch.get_rng_state(), before)


@every_context
def test_every_context_parameter_gets_a_gradient(name):
    context, z = small_context(name), normal(4, ROWS, COLS, LATENT).double()
    (context(z) * normal(*z.shape, seed=1)).sum().backward()
    for parameter_name, parameter in context.named_parameters():
        assert parameter.grad.abs().max() > 0, parameter_name


@every_context
def test_context_in_bfloat16_is_near_float32(name):
    context, z = small_context(name).float(), normal(2, ROWS, COLS, LATENT)
    with torch.autocast("cpu", torch.bfloat16):
        c = context(z)
    c.float().sum().backward()
    # Eight bits of mantissa, through a few layers.
    torch.testing.assert_close(c.float(), context(z), rtol=0.1, atol=0.05)


@every_context
def test_settings_reach_the_network(name):
    def n_parameters(**settings):
        return sum(p.numel() for p in make_context(name, 8, **settings).parameters())

    first, second, third = (n_parameters(width=8, depth=depth) for depth in (1, 2, 3))
    assert third - second == second - first > 0
    assert n_parameters(width=16, depth=1) > first


def test_context_has_no_batch_statistics():
    context = make_context("pixelcnn", 8, width=4, depth=1)
    assert {type(m) for m in context.modules() if not list(m.children())} == {nn.Conv2d}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_first_row_first_is_its_slow_twin(direction):
    grid = normal(2, 3, 5, 2)
    expected = [reference.first_row_first(image, direction) for image in grid.numpy()]
    np.testing.assert_array_equal(first_row_first(grid, direction).numpy(), expected)


@pytest.mark.parametrize(
    ("direction", "first"),
    [("down", [0, 1, 2]), ("up", [3, 4, 5]), ("right", [0, 3]), ("left", [2, 5])],
)
def test_first_row_is_where_the_direction_starts(direction, first):
    grid = torch.arange(6).view(1, 2, 3, 1)
    assert sorted(first_row_first(grid, direction)[0, 0, :, 0].tolist()) == first


def test_unknown_context():
    message = (
        "context='pixelcn' is unknown; it must be one of 'pixelcnn', 'gated-pixelcnn', 'gru', "
        "'transformer'. Did you mean 'pixelcnn'?"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        make_context("pixelcn", 8)


# In the model


@every_context
def test_every_parameter_of_a_model_gets_a_gradient(name):
    model = small_model(asymmetric_grid(), context=name)
    model(random(4, 1, 10, 14)).loss.backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, parameter_name


def test_one_context_per_direction_or_one_for_all():
    def n_parameters(model):
        return sum(p.numel() for p in model.contexts.parameters())

    apart, shared = (
        small_model(asymmetric_grid(), shared_context=shared) for shared in (False, True)
    )
    assert len({id(context) for context in apart.contexts.values()}) == 4
    assert n_parameters(apart) == 4 * n_parameters(shared)


@every_context
def test_a_shared_context_is_the_same_network_in_every_direction(name):
    """Four directions by one network are four models of one direction with its weights."""
    settings = {"context": name, "shared_context": True}
    model = small_model(asymmetric_grid(), **settings)
    z = normal(3, 4, 6, 6)
    output = model.predict(z)
    for direction in FOUR:
        one = small_model(asymmetric_grid(), directions=(direction,), **settings)
        one.load_state_dict(model.state_dict(), strict=False)
        heads = [i for i, head in enumerate(model.heads) if head[0] == direction]
        torch.testing.assert_close(one.predict(z).losses, output.losses[heads])
    output.loss.backward()
    assert all(p.grad.abs().max() > 0 for p in model.contexts.parameters())


@every_context
def test_a_model_takes_images_of_other_sizes(name):
    grid = asymmetric_grid()
    settings = {"width": 4, "depth": 1}
    encoder = make_encoder("conv", 1, grid.patch_size, 8)
    model = CPCModel(grid, encoder, 1, latent_dim=4, context=name, context_settings=settings)
    model.grid = grid.with_size(16, 20)
    assert torch.isfinite(model(random(2, 1, 16, 20)).loss)


def test_the_default_is_the_network_of_cpc_v2():
    assert type(small_model(asymmetric_grid()).contexts["up"]) is PixelCNN
