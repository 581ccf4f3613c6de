"""What is refused, by the text of the message."""

import re

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.exceptions import NotFittedError

from sklearn_cpc.nn import CPCModel

from .toys import images, tiny

GREY = images(n_channels=1)[..., 0]


def refused(error, message, cpc, X):
    with pytest.raises(error, match=message):
        cpc.fit(X)
    assert not [name for name in vars(cpc) if name.endswith("_")]


# Marks of missing pixels, masks


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("end", ["min", "max"])
def test_marks_of_missing_pixels(dtype, end):
    X = GREY.astype(dtype)
    X[3, 2, 1] = mark = getattr(np.finfo(dtype), end)
    message = rf"contains {mark:.8g}, an end of {X.dtype} \(first in image 3\), which marks missing"
    refused(ValueError, message.replace("+", r"\+"), tiny(), X)
    with pytest.raises(ValueError, match="which marks missing"):
        tiny(max_epochs=0).fit(GREY.astype(dtype)).transform(X)


@pytest.mark.parametrize(
    ("mark", "what"),
    [
        (np.finfo(np.float32).min, "an end of float32"),
        (np.finfo(np.float32).max, "an end of float32"),
        (9.969209968386869e36, "the fill value of netCDF"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_marks_of_missing_pixels_that_were_read_as_another_float(mark, what, dtype):
    X = GREY.astype(dtype)
    X[3, 2, 1] = mark
    message = rf"contains {mark:.8g}, {what} \(first in image 3\), which marks missing"
    refused(ValueError, message.replace("+", r"\+"), tiny(), X)


@pytest.mark.parametrize("sign", [-9999, -32768])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_signs_of_missing_pixels_that_take_the_range_are_told_of(sign, dtype):
    X = GREY.astype(dtype)
    X[3, 2, 1:3] = sign
    low, high = GREY.min(), X.max()
    message = rf"X has {sign} in 2 pixels, and all others are from {low:g} to {high:g}\. If that"
    with pytest.warns(UserWarning, match=message) as told:
        tiny(max_epochs=0).fit(X)
    assert told[0].filename == __file__


@pytest.mark.parametrize("low", [-9999, -9998, -7])
def test_a_number_among_others_is_no_sign(low):
    X = GREY.astype(np.int16) * (-low // 255 + 1) + low  # no gap above the least
    X[0, 0, 0] = low
    tiny(max_epochs=0).fit(X)
    X[:] = -9999
    tiny(max_epochs=0).fit(X)


def test_the_end_of_float16_is_a_value():
    X = GREY.astype(np.float16)
    X[0, 0, 0] = np.finfo(np.float16).max
    tiny(max_epochs=0).fit(X)


def test_masked_pixels():
    X = np.ma.masked_less(GREY, 9)
    refused(ValueError, rf"masked array with {X.mask.sum()} masked pixels, and a mask", tiny(), X)
    tiny(max_epochs=0).fit(np.ma.masked_array(GREY))


def test_an_empty_name_of_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(
        ValueError, "checkpoint='' must be a folder or None; pass '.'", tiny(checkpoint=""), GREY
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 0, 8), r"X has shape \(5, 0, 8\); images must have at least one row, column and"),
        ((5, 8, 8, 0), r"X has shape \(5, 8, 8, 0\); images must have at least one row"),
        ((0, 8, 8, 3), r"X has shape \(0, 8, 8, 3\); .* there must be at least one"),
        ((0, 64), r"Found array with 0 sample\(s\) \(shape=\(0, 64\)\)"),
        ((5, 0), r"0 feature\(s\) \(shape=\(5, 0\)\) while a minimum of 1 is required"),
        ((5, 2, 8, 8, 3), "X has 5 dimensions; images must have 2 .* reshape X"),
        ((5,), "Expected 2D array, got 1D array|Expected at least 2D|1D array instead"),
    ],
)
def test_arrays_of_the_wrong_shape(shape, message):
    refused(ValueError, message, tiny(), np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_not_finite(value):
    X = GREY.astype(np.float32)
    X[7, 3, 3] = value
    refused(ValueError, r"Input X contains (NaN|infinity)", tiny(), X.reshape(20, -1))
    for images_ in (X, X[..., None], torch.from_numpy(X)):
        message = r"Input X contains NaN or infinity \(first in image 7\); pixels must be finite"
        refused(ValueError, message, tiny(), images_)


@pytest.mark.parametrize("X", [GREY, GREY.reshape(20, -1), GREY[..., None]])
def test_complex_pixels(X):
    refused(ValueError, "Complex data not supported", tiny(), X * 1j)


def test_sparse_input():
    message = "Sparse data was passed|sparse"
    refused(TypeError, message, tiny(), sparse.csr_matrix(GREY.reshape(20, -1)))
    refused(TypeError, message, tiny(), sparse.csr_array(GREY.reshape(20, -1)))


def test_text():
    refused(ValueError, "strings|could not convert", tiny(), [["a", "b"], ["c", "d"]])
    refused(ValueError, "strings|could not convert", tiny(), np.full((3, 8, 8, 3), "a"))
    refused(ValueError, "could not convert|strings", tiny(), np.full((3, 8, 8), "a", dtype=object))


def test_dates():
    refused(TypeError, "X holds datetime64", tiny(), np.zeros((3, 8, 8), "M8[s]"))


def test_a_flat_row_whose_length_contradicts_image_shape():
    message = r"image_shape=\(8, 9\) has 72 pixels, but the rows of X have 64; pass the image_shape"
    refused(ValueError, message, tiny(image_shape=(8, 9)), GREY.reshape(20, -1))


def test_an_image_shape_that_contradicts_the_images():
    message = r"image_shape=\(8, 9\) must be the shape of the images in X, \(8, 8\); leave"
    refused(ValueError, message, tiny(image_shape=(8, 9)), GREY)


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"patch_size": 40}, "patch_size=40 must be at most .* 8x8; pass a smaller patch_size"),
        ({"patch_size": (4, 9)}, r"patch_size=\(4, 9\) must be at most"),
        ({"patch_size": 0}, "patch_size=0 must be at least 1 pixel"),
        ({"patch_size": 2, "patch_stride": 0}, "patch_stride=0 must be at least 1 pixel"),
        ({"transform_stride": 0}, "transform_stride=0 must be at least 1 pixel"),
        ({"transform_stride": (1, 2, 3)}, r"transform_stride=\(1, 2, 3\) must be one number or a"),
        ({"patch_stride": (1, 2, 3)}, r"patch_stride=\(1, 2, 3\) must be one number or a pair"),
    ],
)
def test_impossible_geometry(geometry, message):
    refused(ValueError, message, tiny(**geometry), GREY)


def test_sizes_that_are_no_whole_numbers():
    refused(TypeError, "patch_size=2.5 must be a whole", tiny(patch_size=(2, 2.5)), GREY)
    refused(TypeError, "transform_stride=1.5 must", tiny(transform_stride=(1, 1.5)), GREY)


@pytest.mark.parametrize(
    ("size", "geometry", "message"),
    [
        (16, {"patch_size": 16}, "a grid of 1x1, .* at least 3 rows or 3 columns of such patches"),
        (
            10,
            {"patch_size": 8, "patch_stride": 2},
            "a grid of 2x2, which has no two patches in .* that share no pixel; CPC needs at least "
            "5 rows or 5 columns of such patches: pass a smaller patch_size with a .* half of it.",
        ),
        (8, {"patch_size": (8, 2), "directions": "down"}, "in directions='down' that share no"),
    ],
)
def test_too_few_rows_for_the_first_safe_step(size, geometry, message):
    refused(ValueError, message, tiny(**geometry), images(height=size, width=size))


def test_training_only_on_the_directions_that_have_room():
    cpc = tiny(patch_size=(8, 2), patch_stride=2).fit(images())
    assert set(cpc.net_.module_.plan) == {"left", "right"}
    assert min(k for _, k in cpc.net_.module_.heads) == 1


def test_images_too_small_for_any_patch_pair_warn_and_work():
    X = images(height=1, width=1)
    with pytest.warns(UserWarning, match=r"Nothing to learn from: .* a grid of 1x1.*max_epochs=0"):
        cpc = tiny(channels="last").fit(X)
    assert cpc.n_iter_ == 0
    assert cpc.score(X) == 0.0
    assert cpc.transform(X).shape == (20, 8)
    assert np.isfinite(cpc.transform(X)).all()


def test_one_pixel_with_max_epochs_0_does_not_warn():
    assert tiny(channels="last", max_epochs=0).fit(images(height=1, width=1)).n_iter_ == 0


@pytest.mark.parametrize(("n", "batch_size"), [(1, 8), (3, 1), (3, 2)])
def test_batches_of_one_image_with_negatives_of_one_place(n, batch_size):
    message = (
        f"batch_size={batch_size} with n_samples={n} makes a batch of one image, and "
        "negatives='place' takes them from other images; pass at least two images and a larger "
        "batch_size."
    )
    refused(ValueError, message, tiny(batch_size=batch_size, negatives="place"), images(n))


@pytest.mark.parametrize(("n", "batch_size"), [(1, 8), (3, 1), (3, 2)])
def test_batches_of_one_image_with_a_grid_of_one_row(n, batch_size):
    message = (
        f"batch_size={batch_size} with n_samples={n}: a batch of one image with a grid of 1x4 "
        "patches has no negatives; pass at least two images and a larger batch_size"
    )
    X = images(n, height=1, width=5, n_channels=1)[..., 0]
    cpc = tiny(batch_size=batch_size, patch_size=(1, 2), patch_stride=1)
    refused(ValueError, message, cpc, X)


def test_one_image_has_negatives_in_a_grid_of_many_rows():
    assert tiny().fit(images(1)).n_iter_ == 1


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("encoder", "resnet81", "resnet18"),
        ("context", "pixelcn", "pixelcnn"),
        ("pooling", "maximum", "max"),
        ("augment", "ful", "full"),
        ("optimizer", "adamww", "adamw"),
        ("precision", "float23", "float32"),
        ("similarity", "cosinus", "cosine"),
        ("directions", "dwon", "down"),
        ("directions", ["down", "lfet"], "left"),
        ("channels", "frist", "first"),
        ("patch_size", "atuo", "auto"),
        ("device", "gpu", "cpu"),
        ("device", "cudaa", "cuda"),
    ],
)
def test_unknown_names_come_with_what_was_meant(name, value, meant):
    message = rf"{name}\b.*Did you mean '{meant}'\?"
    refused(ValueError, re.compile(message, re.DOTALL), tiny(**{name: value}), GREY)


def test_a_name_that_is_like_no_other_comes_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"'adam', 'adamw'|'adamw', 'adam'") as error:
        tiny(optimizer="zzz").fit(GREY)
    assert "Did you mean" not in str(error.value)


def test_directions_twice_or_none():
    message = r"directions=\('up', 'up'\) must name at least one direction and none twice"
    refused(ValueError, message, tiny(directions=("up", "up")), GREY)
    refused(ValueError, r"directions=\[\] must name at least one", tiny(directions=[]), GREY)


def test_a_device_that_computes_nothing():
    message = "device='meta' must be a device of this machine that torch can compute on: .*; pass"
    refused(ValueError, message, tiny(device="meta"), GREY)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there(device):
    message = f"device='{device}' must be a device of this machine, and torch finds no CUDA device"
    refused(ValueError, message, tiny(device=device), GREY)


@pytest.mark.parametrize(
    "use",
    [
        lambda cpc: cpc.transform(GREY),
        lambda cpc: cpc.embed_patches(GREY),
        lambda cpc: cpc.score(GREY),
        lambda cpc: cpc.encoder_,
        lambda cpc: cpc.save("never.safetensors"),
        lambda cpc: cpc.get_feature_names_out(),
    ],
)
def test_use_before_fit(use):
    with pytest.raises(NotFittedError, match="This CPCTransformer instance is not fitted yet"):
        use(tiny())


def test_other_channels_at_transform():
    cpc = tiny().fit(images())
    for X in (GREY, images(n_channels=4), GREY[..., None]):
        n_channels = X.shape[3] if X.ndim == 4 else 1
        message = rf"X has images of {n_channels} channels, .* fitted on images of 3; pass the same"
        with pytest.raises(ValueError, match=message):
            cpc.transform(X)


def test_the_axis_of_other_channels_is_named():
    message = (
        r"of 8 channels, the last axis of \(3, 8, 8\), but CPCTransformer was fitted on images"
    )
    with pytest.raises(ValueError, match=message):
        tiny(max_epochs=0).fit(images()).transform(images().transpose(0, 3, 1, 2))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    ("fitted", "given", "told"),
    [
        (np.uint8, lambda X: X / 255, "float64 pixels from 0 to 1, and fit had uint8 .* 0 to 255"),
        (
            np.uint16,
            lambda X: X.astype(np.int32) * 257,
            "int32 pixels from 0 to 65535, .* 0 to 255",
        ),
        (np.float32, lambda X: X.astype(np.uint8), None),
        (np.uint8, lambda X: X.astype(float), None),
        (np.uint8, lambda X: X // 128, None),  # dark, but of the dtype of fit
        (np.float32, lambda X: (X / 255).astype(np.float32), "float32 pixels from 0 to 1, .* 255"),
        (np.float32, lambda X: marked(X), "float32 pixels from -9999 to 255, .* 0 to 255"),
        (np.uint16, lambda X: X.astype(np.uint16) * 256, "uint16 pixels from 0 to 65280, .* 255"),
        (np.float32, lambda X: (X[:3] / 255).astype(np.float32), None),  # may be dark
        (np.float32, lambda X: np.full_like(X, 7, np.float32), None),
        (np.float32, lambda X: X.astype(np.float32) + 100, None),
    ],
)
def test_pixels_of_another_dtype_and_scale_are_told_of(fitted, given, told, flat, recwarn):
    X = GREY.copy()
    X[0, 0, :2] = 0, 255
    X = X.reshape(len(X), -1) if flat else X
    cpc = tiny(max_epochs=0).fit(X.astype(fitted))
    assert not recwarn
    if told is None:
        cpc.transform(given(X))
        return
    with pytest.warns(UserWarning, match=f"X has {told}; bring X to the range") as caught:
        cpc.transform(given(X))
    assert caught[0].filename == __file__


def test_flat_rows_that_may_be_colour_images_are_told_of(recwarn):
    X = images(6, 10, 10).reshape(6, -1)
    message = r"one line. If they are 10x10 .* image_shape=\(3, 10, 10\) .* or \(10, 10, 3\); else"
    with pytest.warns(UserWarning, match=message) as caught:
        tiny(max_epochs=0).fit(X)
    assert [w.filename for w in caught] == [__file__]
    for shape in ((10, 10, 3), (1, 300)):
        tiny(max_epochs=0, image_shape=shape).fit(X)
    tiny(max_epochs=0).fit(X[:, :-2])
    assert len(recwarn) == 0


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (None, ValueError, "X=None has no images; pass an array"),
        ([], ValueError, r"X=\[\] has no images; pass an array"),
        ((x for x in GREY), TypeError, r"X is a generator, .* only once; pass list\(X\)"),
        (iter(GREY), TypeError, "X is a .*iterator, which can be read only once"),
        ({"a": GREY, "b": GREY}, TypeError, r"X is a dict of 'a', 'b'; pass .* X\[name\]"),
        (torch.utils.data.DataLoader(GREY), TypeError, "X is a DataLoader, .* X.dataset"),
    ],
)
def test_what_only_holds_images_is_refused_with_the_way_out(X, error, message):
    cpc = tiny().fit(GREY)
    for call in (tiny().fit, cpc.transform, cpc.score, cpc.partial_fit):
        with pytest.raises(error, match=message):
            call(X)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has the device")
def test_a_device_that_is_set_after_fit_is_checked_where_the_training_goes_on():
    cpc = tiny(device="cpu").fit(GREY)
    cpc.set_params(device="auto").partial_fit(GREY)
    cpc.set_params(device="mps")
    before = cpc.transform(GREY)
    with pytest.raises(ValueError, match="device='mps' must be a device of this machine"):
        cpc.partial_fit(GREY)
    np.testing.assert_array_equal(cpc.transform(GREY), before)


def marked(X):
    X = X.astype(np.float32)
    X[7, :3] = -9999
    return X


def test_a_narrow_part_of_a_wide_range_is_no_other_scale(recwarn):
    """Nearly all pixels of such images are in a thousandth of the range, but for some."""
    X = images(dtype=np.float32)
    X[0, 0, 0] = 1e5
    cpc = tiny(max_epochs=0).fit(X)
    cpc.transform(X[1:])
    assert not recwarn


def test_another_number_of_flat_pixels_at_transform():
    cpc = tiny().fit(GREY.reshape(20, -1))
    with pytest.raises(ValueError, match="X has 63 features, but CPCTransformer is expecting 64"):
        cpc.transform(GREY.reshape(20, -1)[:, 1:])


def test_another_size_at_transform_without_pooling():
    cpc = tiny(pooling="none").fit(GREY)
    message = "pooling='none' gives 968 features for images of 12x12 pixels and 392 for .* fit;"
    with pytest.raises(ValueError, match=message):
        cpc.transform(images(height=12, width=12, n_channels=1))


def test_an_image_smaller_than_a_patch_at_transform():
    cpc = tiny(patch_size=4).fit(images())
    with pytest.raises(ValueError, match=r"3x3 pixels, smaller than the patches of the fit, 4x4"):
        cpc.transform(images(height=3, width=3))


def test_another_size_at_score_and_partial_fit():
    cpc = tiny().fit(GREY)
    larger = images(height=12, width=12, n_channels=1)
    with pytest.raises(ValueError, match=r"\(12, 12, 1\), fit had \(8, 8, 1\); score needs images"):
        cpc.score(larger)
    message = r"images of shape \(12, 12, 1\) .* began with \(8, 8, 1\); .* warm_start=False"
    with pytest.raises(ValueError, match=message):
        cpc.partial_fit(larger)


def test_bad_pixels_at_transform():
    cpc = tiny().fit(GREY)
    with pytest.raises(ValueError, match="first in image 1"):
        cpc.transform(np.full((2, 8, 8), [[[0.0]], [[np.nan]]]))


def test_a_loss_that_is_not_finite_names_what_to_lower():
    message = (
        r"The loss is nan in epoch 1, batch \d \(heads .*\), at learning rate 1e\+30; lower "
        r"learning_rate=1e\+30, or set clip_norm=1.0. The estimator is as it was before this call"
    )
    refused(FloatingPointError, message, tiny(learning_rate=1e30, warmup=None), GREY)


def test_a_loss_that_is_not_finite_names_its_heads(monkeypatch):
    head = CPCModel._head

    def broken(self, vectors, k, *arguments):
        loss, *rest = head(self, vectors, k, *arguments)
        is_it = vectors.W is self.W["up"] and k == vectors.steps[1]
        return (loss * float("inf") if is_it else loss, *rest)

    monkeypatch.setattr(CPCModel, "_head", broken)
    message = r"The loss is inf in epoch 1, batch 1 \(heads \[\('up', 3\)\]\)"
    refused(FloatingPointError, message, tiny(negative_images=None), GREY)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_components": 0}, "'n_components' parameter .* must be an int in the range"),
        ({"temperature": 0.0}, "'temperature' parameter"),
        ({"learning_rate": -1.0}, "'learning_rate' parameter"),
        ({"batch_size": 0}, "'batch_size' parameter"),
        ({"n_candidates": 1}, "'n_candidates' parameter"),
        ({"max_epochs": -1}, "'max_epochs' parameter"),
        ({"warmup": 1.5}, "'warmup' parameter"),
    ],
)
def test_numbers_out_of_range(setting, message):
    refused(ValueError, message, tiny(**setting), GREY)


def test_a_compiler_that_fails_is_no_obstacle(monkeypatch):
    def fail(self, *args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(torch.nn.Module, "compile", fail)
    with pytest.warns(RuntimeWarning, match=r"torch.compile failed here \(AssertionError:\)"):
        cpc = tiny(compile=True).fit(GREY)
    np.testing.assert_array_equal(cpc.transform(GREY), tiny().fit(GREY).transform(GREY))


@pytest.mark.parametrize("method", ["transform", "embed_patches", "score", "partial_fit"])
@pytest.mark.parametrize("data", [images(), images().transpose(0, 3, 1, 2), GREY])
def test_a_single_image_without_its_axis(data, method):
    cpc = tiny(max_epochs=0).fit(data)
    with pytest.raises(ValueError, match=r"is a single image, .* pass X\[np.newaxis\]"):
        getattr(cpc, method)(data[0])
    assert cpc.transform(data[:1]).shape == (1, 8)


def test_rows_and_columns_of_one_pixel_are_no_single_image():
    cpc = tiny(max_epochs=0, image_shape=(1, 8)).fit(np.random.rand(9, 8))
    assert cpc.transform(np.random.rand(1, 8)).shape == (1, 8)
    cpc = tiny(max_epochs=0, image_shape=(8, 1)).fit(np.random.rand(9, 8))
    assert cpc.transform(np.random.rand(8, 8)).shape == (8, 8)
