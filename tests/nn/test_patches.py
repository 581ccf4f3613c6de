import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_cpc.nn import DIRECTIONS, PatchGrid
from tests import reference

from .toys import random

SIDES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 28, 30, 32, 33, 64, 96, 224, 300, 512]


@st.composite
def axes(draw):
    """(side, patch, stride) of one axis; strides may leave gaps between the patches."""
    side = draw(st.integers(1, 20))
    return side, draw(st.integers(1, side)), draw(st.integers(1, 8))


@settings(deadline=None, max_examples=80)
@given(axes(), axes(), st.sampled_from([1, 3]))
def test_extract_is_the_double_loop(y, x, n_channels):
    (height, size_y, stride_y), (width, size_x, stride_x) = y, x
    grid = PatchGrid(height, width, (size_y, size_x), (stride_y, stride_x))
    images = torch.arange(2 * n_channels * height * width).view(2, n_channels, height, width)
    expected = reference.patches(images.numpy(), (size_y, size_x), (stride_y, stride_x))
    patches = grid.extract(images)
    assert tuple(patches.shape[1:3]) == grid.shape
    assert patches.shape[1] * patches.shape[2] == grid.n_patches
    np.testing.assert_array_equal(patches.numpy(), np.array(expected))


@settings(deadline=None, max_examples=80)
@given(axes(), axes())
def test_margins_are_what_no_patch_can_cover(y, x):
    (height, size_y, stride_y), (width, size_x, stride_x) = y, x
    grid = PatchGrid(height, width, (size_y, size_x), (stride_y, stride_x))
    top, bottom, left, right = grid.margins
    rows = reference.starts(height, size_y, stride_y)
    cols = reference.starts(width, size_x, stride_x)
    assert (top, bottom) == (rows[0], height - rows[-1] - size_y)
    assert (left, right) == (cols[0], width - cols[-1] - size_x)
    assert 0 <= bottom - top <= 1
    assert 0 <= right - left <= 1
    assert top + bottom < stride_y
    assert left + right < stride_x
    covered = grid.crop(torch.zeros(height, width)).shape
    assert tuple(covered) == (height - top - bottom, width - left - right)


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_first_safe_step_is_the_first_without_a_shared_pixel(size_y, stride_y, size_x, stride_x):
    grid = PatchGrid(40, 40, (size_y, size_x), (stride_y, stride_x))
    assert grid.first_safe_step == (
        reference.first_safe_step(size_y, stride_y),
        reference.first_safe_step(size_x, stride_x),
    )


@pytest.mark.parametrize(("size", "stride", "step"), [(64, 32, 2), (80, 36, 3), (16, 16, 1)])
def test_first_safe_steps_of_the_papers(size, stride, step):
    assert PatchGrid(256, 256, size, stride).first_safe_step == (step, step)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_safe_steps_run_from_the_first_safe_one_to_the_last_row(direction):
    grid = PatchGrid(20, 30, 4, 2)  # 9 x 14
    last = 8 if direction in ("down", "up") else 13
    assert grid.safe_steps(direction) == list(range(2, last + 1))
    assert grid.safe_steps(direction, 3) == [2, 3, 4]


def test_no_safe_step_where_there_are_too_few_rows():
    grid = PatchGrid(6, 20, 4, 2)  # 2 x 9
    assert grid.safe_steps("down") == grid.safe_steps("up") == []
    assert grid.safe_steps("left") == list(range(2, 9))


@pytest.mark.parametrize("height", SIDES)
def test_automatic_geometry_always_has_a_safe_step(height):
    for width in SIDES:
        grid = PatchGrid(height, width)
        has_step = any(grid.safe_steps(direction) for direction in DIRECTIONS)
        assert has_step == (max(height, width) >= 2), (height, width)


@pytest.mark.parametrize("side", [8, 16, 28, 30, 32, 48, 64, 96, 128, 224, 256, 299, 300, 512])
def test_automatic_geometry_is_about_7x7_at_half_overlap(side):
    grid = PatchGrid(side, side)
    assert grid.patch_size == tuple(2 * s for s in grid.patch_stride)
    assert all(6 <= n <= 8 for n in grid.shape)
    assert all(n <= 1 for n in grid.first_safe_step) or grid.first_safe_step == (2, 2)


@pytest.mark.parametrize(
    ("image", "size", "stride", "shape"),
    [
        ((1, 1), (1, 1), (1, 1), (1, 1)),
        ((1, 2), (1, 1), (1, 1), (1, 2)),
        ((1, 64), (1, 16), (1, 8), (1, 7)),
        ((64, 1), (16, 1), (8, 1), (7, 1)),
        ((3, 3), (1, 1), (1, 1), (3, 3)),
        ((8, 8), (2, 2), (1, 1), (7, 7)),
        ((32, 64), (8, 8), (4, 4), (7, 15)),
        ((28, 28), (8, 8), (4, 4), (6, 6)),
    ],
)
def test_automatic_geometry_of_odd_images(image, size, stride, shape):
    grid = PatchGrid(*image)
    assert (grid.patch_size, grid.patch_stride, grid.shape) == (size, stride, shape)


def test_automatic_stride_is_half_a_patch():
    assert PatchGrid(32, 32, (9, 4)).patch_stride == (4, 2)
    assert PatchGrid(32, 32, 1).patch_stride == (1, 1)


def test_with_size_keeps_patch_and_stride():
    grid = PatchGrid(32, 32).with_size(40, 21)
    assert (grid.height, grid.width) == (40, 21)
    assert (grid.patch_size, grid.patch_stride, grid.shape) == ((8, 8), (4, 4), (9, 4))


def test_with_stride_keeps_image_and_patch():
    grid = PatchGrid(32, 30).with_stride((2, 1))
    assert (grid.height, grid.width, grid.patch_size) == (32, 30, (8, 8))
    assert grid.shape == (13, 23)


def test_extract_keeps_the_dtype_and_takes_no_memory():
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    patches = PatchGrid(16, 16, 4, 4).extract(images)
    assert patches.dtype == torch.uint8
    assert patches.data_ptr() == images.data_ptr()


def test_numpy_integers_are_whole_numbers():
    assert PatchGrid(np.int64(9), np.uint8(9), np.int32(3)) == PatchGrid(9, 9, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8), "height=0 must be at least 1 pixel; pass larger images."),
        ((8, -1), "width=-1 must be at least 1 pixel; pass larger images."),
        (
            (8, 9, 10),
            "patch_size=10 must be at most the image's height and width, 8x9; "
            "pass a smaller patch_size.",
        ),
        ((8, 9, (2, 10)), "patch_size=(2, 10) must be at most the image's height and width, 8x9"),
        ((8, 8, 0), "patch_size=0 must be at least 1 pixel; pass a larger patch_size."),
        ((8, 8, 4, 0), "patch_stride=0 must be at least 1 pixel; pass a larger patch_stride."),
        ((8, 8, 4, (2, -3)), "patch_stride=(2, -3) must be at least 1 pixel"),
        ((8, 8, (1, 2, 3)), "patch_size=(1, 2, 3) must be one number or a pair (rows, columns)."),
    ],
)
def test_refused_values(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PatchGrid(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8.0, 8), "height=8.0 must be a whole number of pixels."),
        ((8, True), "width=True must be a whole number of pixels."),
        ((8, 8, 2.5), "patch_size=2.5 must be a whole number of pixels."),
        ((8, 8, 2, "half"), "patch_stride='half' must be a whole number of pixels."),
        ((8, 8, None), "patch_size=None must be a whole number of pixels."),
    ],
)
def test_refused_kinds(arguments, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        PatchGrid(*arguments)


def test_images_of_another_size_are_refused_with_the_way_out():
    message = "images of 9x8 pixels do not fit this grid of 8x8; use grid.with_size(9, 8)."
    with pytest.raises(ValueError, match=re.escape(message)):
        PatchGrid(8, 8).extract(random(1, 1, 9, 8))
    assert PatchGrid(8, 8).with_size(9, 8).extract(random(1, 1, 9, 8)).shape[:3] == (1, 8, 7)
