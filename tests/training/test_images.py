"""Kinds, layouts and ranges of images."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_cpc.training import Images, PixelScale, as_images
from sklearn_cpc.training.images import as_array, check_finite

DTYPES = ["?", "u1", "<u2", ">u2", "<i4", ">i4", "<i8", "<f2", ">f2", "<f4", ">f4", "<f8", ">f8"]
sides = st.integers(1, 7)


@st.composite
def plain_images(draw):
    """(n, height, width, channels) of any dtype, and which layout to hand over."""
    n, height, width = draw(st.integers(1, 5)), draw(sides), draw(sides)
    n_channels = draw(st.sampled_from([1, 2, 3, 12]))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    rng = np.random.RandomState(draw(st.integers(0, 99)))
    plain = rng.randint(0, 200, (n, height, width, n_channels)).astype(dtype)
    return plain, draw(st.sampled_from(["flat last", "flat first", "last", "first", "3-D"]))


def laid_out(plain, layout):
    """`as_images` of the same pixels in a layout, and the plain array that they stand for."""
    n, height, width, n_channels = plain.shape
    if layout == "last":
        return as_images(plain, None, "last"), plain
    if layout == "first":
        return as_images(np.ascontiguousarray(plain.transpose(0, 3, 1, 2)), None, "first"), plain
    if layout == "3-D":
        return as_images(plain[..., 0]), plain[..., :1]
    if layout == "flat last":
        return as_images(plain.reshape(n, -1), (height, width, n_channels), "last"), plain
    flat = plain.transpose(0, 3, 1, 2).reshape(n, -1)
    return as_images(flat, (n_channels, height, width), "first"), plain


@given(plain_images())
@settings(max_examples=150, deadline=None)
def test_rows_of_any_dtype_and_layout_equal_a_plain_rearrangement(case):
    images, plain = laid_out(*case)
    rows = images.rows(slice(None))
    assert images.shape == plain.shape[1:]
    assert len(images) == len(plain)
    assert rows.dtype == plain.dtype.newbyteorder("=")
    assert rows.dtype.isnative
    np.testing.assert_array_equal(rows, plain.transpose(0, 3, 1, 2))


@given(plain_images(), st.data())
@settings(max_examples=50, deadline=None)
def test_rows_take_slices_and_integer_arrays(case, data):
    images, plain = laid_out(*case)
    index = data.draw(st.lists(st.integers(0, len(plain) - 1), min_size=1, max_size=6))
    expected = plain.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(images.rows(np.array(index)), expected[index])
    np.testing.assert_array_equal(images.rows(slice(1, 3)), expected[1:3])


@pytest.mark.parametrize(
    "view",
    [
        lambda X: X[::2],
        lambda X: X[:, ::-1],
        lambda X: X[..., ::-1],
        lambda X: X[:, 1:-1, ::2],
        lambda X: X.transpose(0, 2, 1, 3),
        lambda X: np.broadcast_to(X[:1], X.shape),
    ],
)
def test_rows_of_views_equal_those_of_a_copy(view, rng):
    X = view(rng.randint(0, 256, (6, 8, 10, 3)).astype(np.uint8))
    assert not X.flags.c_contiguous
    np.testing.assert_array_equal(
        as_images(X).rows(slice(None)), as_images(X.copy()).rows(slice(None))
    )


def test_rows_of_a_read_only_memmap_are_read_only_views(tmp_path, rng):
    X = rng.randint(0, 256, (6, 8, 10, 3)).astype(np.uint8)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    rows = as_images(mapped).rows(slice(2, 4))
    np.testing.assert_array_equal(rows, X[2:4].transpose(0, 3, 1, 2))
    assert not rows.flags.writeable
    assert np.shares_memory(rows, mapped)


def test_rows_of_extended_precision_become_float64(rng):
    X = rng.uniform(size=(2, 3, 3)).astype(np.longdouble)
    assert as_images(X).rows(slice(None)).dtype == np.float64


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 8, 8, 3), ((8, 8, 3), False)),
        ((2, 3, 8, 8), ((8, 8, 3), True)),
        ((2, 12, 30, 20), ((30, 20, 12), True)),
        ((2, 30, 20, 12), ((30, 20, 12), False)),
        ((2, 8, 5, 8), ((8, 5, 8), False)),
        ((2, 8, 6), ((8, 6, 1), False)),
        ((2, 49), ((7, 7, 1), False)),
        ((2, 50), ((1, 50, 1), False)),
    ],
)
def test_the_layout_is_found_from_the_shape(shape, expected):
    images = as_images(np.zeros(shape, np.uint8))
    assert (images.shape, images.channels_first) == expected


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bool])
def test_tensors_become_arrays_of_their_values_and_dtype(dtype):
    X = torch.arange(8).reshape(2, 2, 2).to(dtype)
    array = as_array(X)
    np.testing.assert_array_equal(array, np.arange(8).reshape(2, 2, 2).astype(array.dtype))
    assert str(array.dtype) == str(dtype).removeprefix("torch.")


def test_bfloat16_tensors_and_tensors_with_gradient_become_float32():
    assert as_array(torch.ones(1, 2, dtype=torch.bfloat16)).dtype == np.float32
    assert as_array(torch.ones(1, 2, requires_grad=True)).dtype == np.float32


def test_lists_become_arrays():
    assert as_array([[[1, 2], [3, 4]]]).shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("X", "image_shape", "error", "message"),
    [
        (np.zeros((2, 3, 3, 3, 3)), None, ValueError, "X has 5 dimensions; images must have 2"),
        (np.zeros(3), None, ValueError, "X has 1 dimensions"),
        (np.zeros((2, 0, 8)), None, ValueError, r"X has shape \(2, 0, 8\); images must have at"),
        (np.zeros((2, 8, 8, 0)), None, ValueError, r"X has shape \(2, 8, 8, 0\)"),
        (np.zeros((2, 4, 4), complex), None, TypeError, "X holds complex128 values; pixels must"),
        (np.zeros((2, 4), "U3"), None, TypeError, "X holds <U3 values"),
        (np.zeros((2, 60)), (8, 8), ValueError, r"image_shape=\(8, 8\) has 64 pixels, but .* 60;"),
        (np.zeros((2, 64)), (64,), ValueError, r"image_shape=\(64,\) must be \(height, width\)"),
        (np.zeros((2, 64)), (8, -8), ValueError, "each at least 1"),
        (np.zeros((2, 8, 8)), (4, 16), ValueError, r"must be the shape of the images .* \(8, 8\)"),
    ],
)
def test_what_is_no_image_is_refused(X, image_shape, error, message):
    with pytest.raises(error, match=message):
        as_images(X, image_shape)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f2", ">f4", "f8"])
def test_a_pixel_that_is_not_finite_is_named_by_its_image(value, dtype):
    X = np.zeros((600, 3, 3), dtype)
    X[[307, 444], 1, 2] = value
    with pytest.raises(ValueError, match=r"NaN or infinity \(first in image 307\)"):
        check_finite(as_images(X))
    with pytest.raises(ValueError, match="first in image 307"):
        PixelScale.of(as_images(X))


def scale_of(X, *args):
    return PixelScale.of(as_images(X, *args))


def test_uint8_is_scaled_by_255_whatever_its_values(rng):
    scale = scale_of(rng.randint(10, 20, (5, 4, 4, 3)).astype(np.uint8))
    assert (scale.low, scale.high) == (0, 255)


@given(plain_images())
@settings(max_examples=60, deadline=None)
def test_pixel_scale_agrees_with_numpy(case):
    images, plain = laid_out(*case)
    scale = PixelScale.of(images)
    wide = plain.astype(np.float64)
    low, high = (0.0, 255.0) if plain.dtype == np.uint8 else (wide.min(), wide.max())
    high = high if high > low else low + max(1, abs(low))
    mapped = (wide - low) / (high - low)
    std = mapped.std((0, 1, 2))
    assert (scale.low, scale.high) == (low, high)
    np.testing.assert_allclose(scale.mean, mapped.mean((0, 1, 2)), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(scale.std, np.where(std < 1e-6, 1, std), rtol=1e-6, atol=1e-9)
    applied = scale.apply(torch.from_numpy(images.rows(slice(None)).copy()))
    assert applied.dtype == torch.float32
    np.testing.assert_allclose(applied, mapped.transpose(0, 3, 1, 2), atol=1e-6)


@pytest.mark.parametrize(
    ("offset", "dtype"), [(1e6, "f8"), (2**30, "i4"), (2**31, "u4"), (2**40, "i8"), (60_000, "u2")]
)
def test_a_large_offset_costs_no_precision(offset, dtype, rng):
    steps = rng.randint(-10, 11, (4, 6, 6))
    steps.flat[:2] = -10, 10
    X = (offset + steps).astype(dtype)
    scale = scale_of(X)
    applied = scale.apply(torch.from_numpy(X))
    np.testing.assert_allclose(applied, (steps + 10) / 20, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e20, -1e20])
def test_constant_images_are_mapped_to_zero(value):
    X = np.full((3, 4, 4), value)
    scale = scale_of(X)
    assert scale.apply(torch.from_numpy(X)).abs().max() == 0
    assert scale.std == (1.0,)


def test_moments_of_many_images_are_those_of_evenly_spaced_ones(monkeypatch, rng):
    monkeypatch.setattr("sklearn_cpc.training.images.ROWS_FOR_MOMENTS", 10)
    monkeypatch.setattr("sklearn_cpc.training.images.ROWS_AT_ONCE", 4)
    X = rng.uniform(size=(95, 3, 3))
    scale = scale_of(X)
    mapped = (X - X.min()) / (X.max() - X.min())
    np.testing.assert_allclose(scale.mean, mapped[::10].mean())
    np.testing.assert_allclose(scale.std, mapped[::10].std())


def test_images_do_not_copy_the_data(rng):
    X = rng.uniform(size=(3, 8, 8, 3))
    assert isinstance(as_images(X), Images)
    assert as_images(X).data is X


def test_ranges_that_float32_does_not_hold():
    unit = np.linspace(0, 1, 2 * 4 * 4).reshape(2, 4, 4)
    for X in (3e38 * (2 * unit - 1), 1e300 * unit, (3e38 * (2 * unit - 1)).astype(np.float32)):
        scale = PixelScale.of(as_images(X))
        np.testing.assert_allclose(scale.apply(torch.from_numpy(X)), unit, atol=1e-6)
        assert scale.mean == pytest.approx((0.5,))


def test_a_range_that_float64_does_not_hold_is_refused():
    X = np.array([-1e308, 1e308]).reshape(1, 1, 2)
    with pytest.raises(ValueError, match=r"pixels from -1e\+308 to 1e\+308, .* divide X by 2"):
        PixelScale.of(as_images(X))
