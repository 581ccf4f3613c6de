"""Grey, coloured and transparent files side by side."""

import numpy as np
import pytest

from sklearn_cpc import CPCTransformer
from sklearn_cpc.training import ImageFiles
from sklearn_cpc.training.colours import union, widened
from sklearn_cpc.training.decoding import examine

from ..estimators.toys import images, save_images, tiny

Image = pytest.importorskip("PIL.Image")

X = images(12)
X.setflags(write=False)


def kinds_of(modes, folder):
    """A file for each mode, and what each is as RGBA."""
    paths, expected = [], []
    for i, mode in enumerate(modes):
        image = Image.fromarray(X[i]).convert(mode)
        if mode.endswith("A"):
            image.putalpha(Image.fromarray(X[i, :, :, 1]))
        paths.append(str(folder / f"{i}.png"))
        image.save(paths[-1])
        expected.append(np.asarray(image.convert("RGBA")))
    return paths, np.stack(expected)


@pytest.mark.parametrize(
    ("modes", "n_channels"),
    [
        (["L", "L"], 1),
        (["L", "LA"], 2),
        (["RGB", "L", "1"], 3),
        (["L", "P", "L"], 3),
        (["RGB", "RGBA"], 4),
        (["LA", "RGB", "L"], 4),
        (["L", "RGBA", "LA", "RGB", "1", "P"], 4),
    ],
)
@pytest.mark.parametrize("n_workers", [1, 3])
def test_all_become_what_holds_each_of_them(modes, n_channels, n_workers, tmp_path):
    paths, expected = kinds_of(modes, tmp_path)
    files = ImageFiles(paths, n_workers=n_workers, widens=True)
    assert files.shape == (len(modes), 8, 8, n_channels)
    assert files.dtype == np.uint8
    part = {1: [0], 2: [0, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[n_channels]
    np.testing.assert_array_equal(files[:], expected[..., part])
    np.testing.assert_array_equal(files[::-1], expected[::-1][..., part])


def test_the_union_is_the_least_that_holds_both():
    has = {1: set(), 2: {"transparency"}, 3: {"colour"}, 4: {"colour", "transparency"}}
    for a in has:
        for b in has:
            assert has[union(a, b)] == has[a] | has[b]


@pytest.mark.parametrize(("dtype", "opaque"), [("uint16", 65535), ("int32", 2**31 - 1), ("f4", 1)])
def test_wide_numbers_stay_as_they_are(dtype, opaque):
    grey = X[0, :, :, :1].astype(dtype) * 77
    wide = widened(grey, 4)
    assert wide.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(wide[..., :3], np.repeat(grey, 3, axis=2))
    assert (wide[..., 3] == opaque).all()
    np.testing.assert_array_equal(widened(wide[..., [0, 3]], 4), wide)


def test_sixteen_bits_are_widened_among_themselves(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    deep = images(2, dtype=np.uint16) * 250
    tifffile.imwrite(tmp_path / "0.tif", deep[0], photometric="rgb")
    Image.fromarray(deep[1, :, :, 0]).save(tmp_path / "1.png")
    files = ImageFiles([tmp_path / "0.tif", tmp_path / "1.png"], widens=True)
    assert files.dtype == np.uint16
    np.testing.assert_array_equal(files[0], deep[0])
    np.testing.assert_array_equal(files[1], np.repeat(deep[1, :, :, :1], 3, axis=2))
    save_images(X[:1], tmp_path)
    with pytest.raises(ValueError, match=r"3 channels of uint16 and .*000.png 3 of uint8; convert"):
        ImageFiles([tmp_path / "0.tif", tmp_path / "000.png"], widens=True)


def test_channels_that_are_no_colours_stay_apart(tmp_path):
    grey = Image.fromarray(X[0, :, :, 0])
    grey.save(tmp_path / "1.tif")
    pages = [Image.fromarray(X[0, :, :, i]) for i in range(2)]
    pages[0].save(tmp_path / "2.tif", save_all=True, append_images=pages[1:])
    Image.fromarray(X[0]).convert("LAB").save(tmp_path / "3.tif")
    assert examine(tmp_path / "1.tif").has_colours
    for other in ("2.tif", "3.tif"):
        assert not examine(tmp_path / other).has_colours
        with pytest.raises(ValueError, match=r"mixed kinds: .* 1 channels of uint8 and .* convert"):
            ImageFiles([tmp_path / "1.tif", tmp_path / other], widens=True)
    # As many channels, but not of the same meaning, are side by side as they always were.
    Image.fromarray(X[0]).save(tmp_path / "4.tif")
    files = ImageFiles([tmp_path / "4.tif", tmp_path / "3.tif"], widens=True)
    assert files.shape == (2, 8, 8, 3)
    assert not files.has_colours


def test_mixed_files_are_scaled_too(tmp_path):
    paths, expected = kinds_of(["L", "RGBA"], tmp_path)
    files = ImageFiles(paths, size=(8, 6), widens=True)
    same = ImageFiles(save_images(expected, tmp_path), size=(8, 6))
    np.testing.assert_array_equal(files[:], same[:])


@pytest.fixture
def mixed(tmp_path):
    """Half of them grey, half RGB; and all as RGB."""
    paths, expected = kinds_of(["L", "RGB"] * 6, tmp_path)
    return paths, expected[..., :3].copy()


def test_an_estimator_widens_if_it_is_told_to(mixed):
    paths, array = mixed
    with pytest.raises(ValueError, match=r"mixed kinds: .* pass mixed_channels='widen'"):
        tiny().fit(paths)
    with pytest.raises(ValueError, match="The 'mixed_channels' parameter of CPCTransformer must"):
        tiny(mixed_channels="wide").fit(paths)
    expected = tiny().fit(array).transform(array)
    for n_workers in (1, 3):
        cpc = tiny(mixed_channels="widen", n_workers=n_workers).fit(paths)
        assert cpc.image_shape_ == (8, 8, 3)
        np.testing.assert_array_equal(cpc.transform(paths), expected)
    # Without what cannot be read, too.
    skipping = tiny(mixed_channels="widen", broken_images="skip")
    with pytest.warns(RuntimeWarning, match="1 of 13 images cannot be read and are left out"):
        skipping.fit([*paths[:4], "none.png", *paths[4:]])
    np.testing.assert_array_equal(skipping.transform(paths), expected)


def test_what_fit_decided_is_kept_and_saved(mixed, tmp_path):
    pytest.importorskip("safetensors")
    paths, array = mixed
    cpc = tiny(mixed_channels="widen").fit(paths)
    cpc.save(tmp_path / "a.safetensors")
    loaded = CPCTransformer.load(tmp_path / "a.safetensors")
    assert loaded.mixed_channels == "widen"
    expected = tiny().fit(array).transform(array[::2])
    for each in (cpc, loaded):
        np.testing.assert_array_equal(each.transform(paths[::2]), expected)  # all of them grey
    Image.fromarray(np.dstack([X[0], X[0, :, :, 0]])).save(tmp_path / "clear.png")
    message = "Some of the images are RGBA, and those of fit were RGB, which cannot hold them; con"
    with pytest.raises(ValueError, match=message):
        loaded.transform([tmp_path / "clear.png"])
    with pytest.raises(
        ValueError, match=r"images of 1 channels, .*, but CPCTransformer was fitted"
    ):
        loaded.set_params(mixed_channels="raise").transform(paths[::2])


def test_pages_of_fit_are_no_colours_at_transform(tmp_path, mixed):
    paths, _ = mixed
    pages = []
    for i, image in enumerate(X):
        pages.append(tmp_path / f"{i}.tif")
        first, *others = (Image.fromarray(image[:, :, c]) for c in range(3))
        first.save(pages[-1], save_all=True, append_images=others)
    cpc = tiny(mixed_channels="widen").fit(pages)
    assert cpc.image_shape_ == (8, 8, 3)
    with pytest.raises(
        ValueError, match=r"images of 1 channels, .*, but CPCTransformer was fitted"
    ):
        cpc.transform(paths[::2])
