"""Features: layouts, batches, sizes, pooling."""

import numpy as np
import pytest
import torch

from sklearn_cpc.estimators import transformer
from sklearn_cpc.nn import Augmentation, pool

from .toys import images, tiny

X = images(20, 8, 10)
X.setflags(write=False)
FIRST = np.ascontiguousarray(X.transpose(0, 3, 1, 2))


def features(X, **settings):
    return tiny(**settings).fit(X).transform(X)


@pytest.fixture(scope="module")
def fitted():
    """A transformer fitted on X; not to be changed."""
    return tiny().fit(X)


@pytest.fixture(scope="module")
def expected(fitted):
    return fitted.transform(X)


@pytest.mark.parametrize(
    ("same", "settings"),
    [
        (FIRST, {}),
        (FIRST, {"channels": "first"}),
        (X, {"channels": "last"}),
        (X.reshape(20, -1), {"image_shape": (8, 10, 3)}),
        (FIRST.reshape(20, -1), {"image_shape": (3, 8, 10)}),
        (FIRST.reshape(20, -1), {"image_shape": [3, 8, 10]}),
        (FIRST.reshape(20, -1), {"image_shape": np.array([3, 8, 10])}),
        (torch.tensor(X), {}),
        (torch.tensor(FIRST), {}),
        (torch.tensor(X.reshape(20, -1)), {"image_shape": (8, 10, 3)}),
        (list(X), {}),
        ([torch.tensor(x) for x in X], {}),
        (np.asfortranarray(X), {}),
        (np.repeat(X, 2, axis=0)[::2], {}),
        (np.ascontiguousarray(X[..., ::-1])[..., ::-1], {}),
        (np.ascontiguousarray(X[:, ::-1])[:, ::-1], {}),
    ],
)
def test_the_same_pixels_in_another_layout_give_the_same_features(same, settings, expected):
    # Strides decide on the order of sums in places; the numbers agree up to rounding.
    np.testing.assert_allclose(features(same, **settings), expected, atol=1e-4)


@pytest.mark.parametrize("mode", ["3-D", "channel last", "channel first", "flat", "lists"])
def test_the_same_grey_pixels_in_another_layout_give_the_same_features(mode):
    grey = X[..., 0]
    same, settings = {
        "3-D": (grey, {"image_shape": (8, 10)}),
        "channel last": (grey[..., None], {}),
        "channel first": (grey[:, None], {}),
        "flat": (grey.reshape(20, -1), {"image_shape": (8, 10)}),
        "lists": (grey.astype(float).tolist(), {}),
    }[mode]
    reference = features(grey.astype(float) if mode == "lists" else grey)
    np.testing.assert_allclose(features(same, **settings), reference, atol=1e-4)


@pytest.mark.parametrize("flat", [False, True])
def test_a_read_only_memmap_is_as_good_as_an_array(tmp_path, flat, expected):
    np.save(tmp_path / "X.npy", X.reshape(20, -1) if flat else X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    settings = {"image_shape": (8, 10, 3)} if flat else {}
    np.testing.assert_array_equal(features(mapped, **settings), expected)


@pytest.mark.parametrize("dtype", ["u2", ">u2", "i4", "i8", "f2", "f4", ">f4", "f8", ">f8"])
def test_the_dtype_of_the_same_values_does_not_matter(dtype):
    span = X.copy()
    span.flat[:2] = 0, 255
    np.testing.assert_allclose(features(span.astype(dtype)), features(span), atol=1e-4)


@pytest.mark.parametrize("of", [list, np.ndarray.tolist, lambda X: X.astype(object)])
def test_images_of_objects_and_in_lists_are_as_good_as_an_array(of, expected):
    cpc = tiny().fit(of(X))
    np.testing.assert_array_equal(cpc.transform(of(X)), expected)
    assert cpc.n_features_in_ == X[0].size


def test_booleans_are_zeros_and_ones():
    mask = X > 127
    np.testing.assert_array_equal(features(mask), features(mask.astype(np.float32)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8, torch.bfloat16])
def test_tensors_of_many_dtypes(dtype):
    mask = (X > 127).astype(np.uint8) * (255 if dtype is torch.uint8 else 1)
    reference = features((X > 127).astype(np.float32))
    np.testing.assert_allclose(features(torch.tensor(mask).to(dtype)), reference, atol=1e-5)


def test_an_affine_change_of_float_pixels_changes_nothing():
    unit = X / 255
    np.testing.assert_allclose(features(1e6 + 2 * unit), features(unit), atol=1e-3)
    np.testing.assert_allclose(features(60_000 * unit), features(unit), atol=1e-3)


@pytest.mark.parametrize("same", [FIRST, X.reshape(20, -1), X.reshape(20, -1).tolist()])
def test_transform_takes_layouts_that_fit_did_not_see(same, fitted, expected):
    if same is FIRST:
        fitted = tiny().fit(FIRST)
    np.testing.assert_allclose(fitted.transform(same), expected, atol=1e-4)


def test_the_axis_of_channels_is_that_of_fit_where_the_shape_leaves_it_open():
    cpc = tiny().fit(images(20, 8, 8))
    strip = images(4, 2, 8)
    assert cpc.set_params(transform_stride=1).embed_patches(strip).shape == (4, 1, 7, 8)


def test_non_square_flat_rows_keep_their_shape_at_transform():
    grey = X[..., 0].astype(float)
    cpc = tiny().fit(grey)
    flat = grey.reshape(20, -1)
    np.testing.assert_array_equal(cpc.transform(flat), cpc.transform(grey))
    np.testing.assert_array_equal(cpc.transform(flat.tolist()), cpc.transform(grey))


def test_features_do_not_depend_on_the_other_images(fitted, expected, monkeypatch):
    one_by_one = np.concatenate([fitted.transform(X[i : i + 1]) for i in range(20)])
    np.testing.assert_allclose(one_by_one, expected, atol=1e-5)
    order = np.random.RandomState(0).permutation(20)
    np.testing.assert_allclose(fitted.transform(X[order]), expected[order], atol=1e-5)
    monkeypatch.setitem(transformer.TRANSFORM_BUDGETS, torch.device(fitted.net_.device).type, 3000)
    np.testing.assert_allclose(fitted.transform(X), expected, atol=1e-5)


def test_using_a_transformer_does_not_change_it(fitted, expected):
    fitted.score(X)
    fitted.embed_patches(X)
    np.testing.assert_array_equal(fitted.transform(X), expected)


@pytest.mark.parametrize(("pooling", "width"), [("max", 8), ("mean", 8), ("quadrants", 32)])
def test_transform_is_the_pooled_embed_patches(pooling, width):
    cpc = tiny(pooling=pooling).fit(X)
    patches = torch.from_numpy(cpc.embed_patches(X))
    assert cpc.transform(X).shape == (20, width)
    np.testing.assert_allclose(cpc.transform(X), pool(patches, pooling), atol=1e-6)


def test_pooling_none_is_every_patch_side_by_side():
    cpc = tiny(pooling="none").fit(X)
    patches = cpc.embed_patches(X)
    rows, cols = patches.shape[1:3]
    np.testing.assert_array_equal(cpc.transform(X), patches.reshape(20, rows * cols * 8))
    assert len(cpc.get_feature_names_out()) == rows * cols * 8


@pytest.mark.parametrize(
    ("stride", "shape"), [("auto", (7, 9)), (1, (7, 9)), (2, (4, 5)), ((1, 3), (7, 3))]
)
def test_transform_stride_sets_the_grid_of_features_only(stride, shape):
    cpc = tiny(patch_size=2, patch_stride=2, transform_stride=stride).fit(X)
    assert cpc.embed_patches(X).shape == (20, *shape, 8)
    assert cpc.grid_.shape == (4, 5)


def test_features_of_a_patch_are_those_of_the_encoder_alone():
    cpc = tiny(patch_size=4, patch_stride=2, transform_stride=2).fit(X)
    patch = torch.tensor(X[3, 2:6, 4:8].transpose(2, 0, 1) / 255, dtype=torch.float32)
    with torch.inference_mode():
        alone = cpc.encoder_(cpc.net_.module_.standardise(patch)[None])[0]
    np.testing.assert_allclose(cpc.embed_patches(X)[3, 1, 2], alone, atol=1e-4)


@pytest.mark.parametrize("pooling", ["max", "mean", "quadrants"])
@pytest.mark.parametrize("size", [(12, 9), (5, 30)])
def test_images_of_another_size_give_as_many_features(pooling, size):
    cpc = tiny(pooling=pooling).fit(X)
    other = images(4, *size)
    assert cpc.transform(other).shape == (4, len(cpc.get_feature_names_out()))


def test_the_features_of_a_crop_are_among_those_of_the_image(fitted):
    whole, crop = fitted.embed_patches(X), fitted.embed_patches(X[:, 2:, 3:])
    np.testing.assert_allclose(whole[:, 2:, 3:], crop, atol=1e-5)


def test_features_are_float32_and_named(fitted, expected):
    assert expected.dtype == np.float32
    assert expected.flags.owndata
    assert list(fitted.get_feature_names_out()[:2]) == ["cpctransformer0", "cpctransformer1"]


def test_fit_transform_is_fit_then_transform(expected):
    np.testing.assert_array_equal(tiny().fit_transform(X), expected)


def test_score_repeats_and_is_a_mean_over_images():
    cpc = tiny(batch_size=8).fit(X)
    assert cpc.score(X) == cpc.score(X)
    # All pairs enter here, so that none is drawn; the blocks are of 7, 7 and 6 images.
    cpc = tiny(batch_size=8, n_candidates=None, negative_images=None).fit(X)
    blocks = np.array_split(np.random.RandomState(0).permutation(20), 3)
    parts = [cpc.score(X[block]) for block in blocks]
    assert cpc.score(X) == pytest.approx(np.average(parts, weights=[7, 7, 6]), abs=1e-5)


def test_score_is_the_bound_without_augmentation(monkeypatch):
    cpc = tiny().fit(X)

    def never(*args):
        raise AssertionError("augmented")

    monkeypatch.setattr(Augmentation, "images", never)
    monkeypatch.setattr(Augmentation, "patches", never)
    assert np.isfinite(cpc.score(X))


def test_bf16_is_close_to_float32(expected):
    half = features(X, precision="bf16")
    assert half.dtype == np.float32
    # bfloat16 has 8 bits of mantissa; features are of order 1.
    np.testing.assert_allclose(half, expected, atol=0.1 * np.abs(expected).max())
    assert not np.array_equal(half, expected)


def test_channels_counts_for_flat_rows_of_three_numbers():
    X = images(12, 8, 8, 12)
    settings = {"channels": "last"}
    flat = tiny(image_shape=(8, 8, 12), **settings).fit(X.reshape(12, -1))
    with_axes = tiny(**settings).fit(X)
    assert flat.image_shape_ == with_axes.image_shape_ == (8, 8, 12)
    np.testing.assert_array_equal(flat.transform(X.reshape(12, -1)), with_axes.transform(X))
    np.testing.assert_array_equal(with_axes.transform(X.reshape(12, -1)), with_axes.transform(X))


@pytest.mark.parametrize("pooling", ["max", "quadrant-means", "none"])
def test_transform_flip_is_the_mean_over_an_image_and_its_mirror_image(pooling):
    cpc = tiny(pooling=pooling).fit(X)
    mirrored = X[:, :, ::-1]
    expected = (cpc.transform(X) + cpc.transform(mirrored)) / 2
    assert np.abs(cpc.transform(X) - cpc.transform(mirrored)).max() > 0.01
    cpc.set_params(transform_flip=True)
    np.testing.assert_allclose(cpc.transform(X), expected, atol=1e-6)
    np.testing.assert_allclose(cpc.transform(mirrored), expected, atol=1e-6)


# Settings that are changed on a fitted estimator


@pytest.mark.parametrize("use", ["transform", "embed_patches", "score"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transform_stride": "fine"}, r"The 'transform_stride' parameter .* Got 'fine' instead"),
        ({"pooling": "maximum"}, "The 'pooling' parameter .* Got 'maximum' instead"),
        ({"n_jobs": 0}, "The 'n_jobs' parameter .* Got 0 instead"),
        ({"precision": "bf8"}, "The 'precision' parameter .* Got 'bf8' instead"),
    ],
)
def test_what_is_set_on_a_fitted_estimator_is_checked_when_it_is_used(use, settings, message):
    cpc = tiny().fit(X).set_params(**settings)
    with pytest.raises(ValueError, match=message):
        getattr(cpc, use)(X)


@pytest.mark.parametrize("use", ["transform", "embed_patches", "score"])
def test_the_precision_of_features_is_the_one_that_is_set(use):
    exact, coarse = (tiny(precision=p).fit(X) for p in ("float32", "bf16"))
    own = getattr(exact, use)(X)
    exact.set_params(precision="bf16")
    rounded = getattr(exact, use)(X)
    assert not np.array_equal(rounded, own)
    np.testing.assert_allclose(rounded, own, atol=0.05)
    assert exact.net_.precision == "float32"  # of the training
    np.testing.assert_array_equal(getattr(exact.set_params(precision="auto"), use)(X), own)
    assert not np.array_equal(
        getattr(coarse, use)(X), getattr(coarse.set_params(precision="float32"), use)(X)
    )
