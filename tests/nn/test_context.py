import re

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_cpc.nn import DIRECTIONS, PixelCNN, first_row_first, make_context
from tests import reference

from .toys import FOUR, normal

ROWS, COLS, LATENT = 5, 4, 6


def smooth_context(depth=2, seed=0):
    """A PixelCNN with positive weights on positive latents: no ReLU can hide a dependence."""
    torch.manual_seed(seed)
    context = PixelCNN(LATENT, width=5, depth=depth)
    with torch.no_grad():
        for parameter in context.parameters():
            parameter.copy_(parameter.abs() + 0.01)
    return context


def reach(context, i, j, rows=ROWS, cols=COLS):
    """Which z positions c[i, j] depends on, by gradient."""
    z = normal(2, rows, cols, LATENT).abs().requires_grad_()
    c = context(z)
    (gradient,) = torch.autograd.grad(c[0, i, j].sum(), z)
    assert not gradient[1].any(), "the context sees another image"
    return gradient[0].abs().sum(-1) > 0


@pytest.mark.parametrize("i", range(ROWS))
def test_no_row_below_is_seen(i):
    for j in range(COLS):
        assert not reach(smooth_context(), i, j)[i + 1 :].any()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_rows_back_to_depth_are_seen_and_no_further(depth):
    seen = reach(smooth_context(depth), ROWS - 1, 1).any(1)
    assert seen.tolist() == [row >= ROWS - 1 - depth for row in range(ROWS)]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_columns_up_to_depth_away_are_seen_on_both_sides(depth):
    seen = reach(smooth_context(depth), 3, 4, cols=9).any(0)
    assert seen.tolist() == [abs(col - 4) <= depth for col in range(9)]


@pytest.mark.parametrize("j", [0, -1])
@pytest.mark.parametrize("i", range(1, ROWS))
def test_border_columns_get_context_from_upper_rows(i, j):
    assert reach(smooth_context(), i, j)[i - 1, j]


@pytest.mark.parametrize("direction", FOUR)
def test_nothing_ahead_is_seen_in_any_direction(direction):
    """Turned back to the image's own axes, not to the turned ones that the code uses."""
    torch.manual_seed(0)
    context = PixelCNN(LATENT, width=5, depth=3)
    z = normal(1, ROWS, COLS, LATENT).requires_grad_()
    c = context(first_row_first(z, direction))
    n_lines = ROWS if direction in ("down", "up") else COLS
    assert c.shape[1] == n_lines
    for line in range(n_lines):
        (gradient,) = torch.autograd.grad(c[:, line].sum(), z, retain_graph=True)
        seen = gradient[0].abs().sum(-1) > 0
        along = seen.any(1) if direction in ("down", "up") else seen.any(0)
        if direction in ("up", "left"):
            along = along.flip(0)
        assert not along[line + 1 :].any(), line
        assert along[max(0, line - 1) : line + 1].all(), line


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


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (3, 5)])
def test_pixel_cnn_is_its_slow_twin(shape):
    torch.manual_seed(0)
    context = PixelCNN(LATENT, width=4, depth=2)
    z = normal(2, *shape, LATENT)
    expected = [reference.pixel_cnn(image, context) for image in reference.array(z)]
    # Two layers of float32 sums of a dozen terms.
    np.testing.assert_allclose(reference.array(context(z)), expected, rtol=1e-4, atol=1e-5)


def test_context_has_no_batch_statistics():
    context = make_context("pixelcnn", 8, width=4, depth=1)
    assert not list(context.buffers())
    assert {type(m) for m in context.modules() if not list(m.children())} == {nn.Conv2d}


def test_settings_reach_the_network():
    context = make_context("pixelcnn", 8, width=3, depth=4)
    assert len(context.blocks) == 4
    assert context.blocks[0].squeeze.out_channels == 3


def test_unknown_context():
    message = "context='pixelcn' is unknown; it must be one of 'pixelcnn'. Did you mean 'pixelcnn'?"
    with pytest.raises(ValueError, match=re.escape(message)):
        make_context("pixelcn", 8)
