"""One image file: kinds, pages, resizing, and files that are none."""

import io
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_cpc.training import decoding
from sklearn_cpc.training.decoding import BrokenImageError, header, pixels, resized

Image = pytest.importorskip("PIL.Image")


def noise(height=7, width=5, *n_channels, high=256, dtype=np.uint8, seed=0):
    shape = (height, width, *n_channels)
    return np.random.RandomState(seed).randint(0, high, shape).astype(dtype)


def same(path, expected):
    """The pixels are these, and the header knew their shape and dtype."""
    array = pixels(path)
    np.testing.assert_array_equal(array, expected)
    assert header(path) == (array.shape, array.dtype)
    assert array.dtype == expected.dtype
    assert array.dtype.isnative


def saved(path, array, mode=None, **settings):
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path, **settings)
    return path


@pytest.mark.parametrize("end", ["png", "tif"])
@pytest.mark.parametrize("n_channels", [1, 2, 3, 4])
def test_eight_bits_are_read_as_they_are(end, n_channels, tmp_path):
    array = noise(7, 5, n_channels)
    path = saved(tmp_path / f"a.{end}", array[..., 0] if n_channels == 1 else array)
    same(path, array)


@pytest.mark.parametrize("end", ["jpg", "bmp", "webp", "gif", "ppm", "png", "tif"])
def test_every_format_gives_what_pillow_gives(end, tmp_path):
    path = saved(tmp_path / f"a.{end}", noise(16, 8, 3))
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    same(path, expected)


@pytest.mark.parametrize("end", ["png", "tif"])
def test_sixteen_bits_of_grey_are_kept(end, tmp_path):
    array = noise(high=2**16, dtype=np.uint16)
    same(saved(tmp_path / f"a.{end}", array), array[..., None])


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_wide_grey_tiffs_are_kept(dtype, tmp_path):
    array = noise(dtype=dtype) / dtype(2)
    array = array.astype(dtype)
    same(saved(tmp_path / "a.tif", array), array[..., None])


def test_black_and_white_becomes_0_and_255(tmp_path):
    array = noise() > 100
    same(saved(tmp_path / "a.png", array), np.where(array, 255, 0).astype(np.uint8)[..., None])


@pytest.mark.parametrize(("transparency", "mode"), [(None, "RGB"), (0, "RGBA")])
def test_palettes_become_colours(transparency, mode, tmp_path):
    image = Image.fromarray(noise(7, 5, 3)).quantize(8)
    settings = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", **settings)
    with Image.open(tmp_path / "a.png") as read:
        assert read.mode == "P"
        expected = np.asarray(read.convert(mode))
    same(tmp_path / "a.png", expected)


def test_cmyk_becomes_rgb(tmp_path):
    path = saved(tmp_path / "a.jpg", noise(8, 8, 3), "CMYK")
    with Image.open(path) as image:
        same(path, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    array = noise(6, 4, 3)
    path = saved(tmp_path / "a.png", array, exif=exif)
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }
    same(path, turns[orientation](array))


def test_the_pages_of_a_tiff_are_channels(tmp_path):
    array = noise(7, 5, 3, high=2**16, dtype=np.uint16)
    pages = [Image.fromarray(array[..., i]) for i in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    same(tmp_path / "a.tif", array)


def test_pages_of_two_sizes_are_refused(tmp_path):
    pages = [Image.fromarray(noise(7, width)) for width in (5, 4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    for read in (header, pixels):
        with pytest.raises(BrokenImageError, match=r"a.tif .*its pages differ: \(7, 5, 1\) uint8"):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("layout", ["pages", "planes", "last"])
def test_tiffs_of_several_channels(dtype, layout, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    array = noise(7, 6, 3, high=200, dtype=dtype)
    given_ = array if layout == "last" else np.ascontiguousarray(array.transpose(2, 0, 1))
    settings = {
        "pages": {"photometric": "minisblack"},
        "planes": {"photometric": "rgb", "planarconfig": "separate"},
        "last": {"photometric": "rgb"},
    }
    tifffile.imwrite(tmp_path / "a.tif", given_, **settings[layout])
    same(tmp_path / "a.tif", array)


def test_a_tiff_of_five_channels_is_read_by_tifffile(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    array = noise(7, 6, 5, high=2**16, dtype=np.uint16)
    planes = np.ascontiguousarray(array.transpose(2, 0, 1))
    tifffile.imwrite(
        tmp_path / "a.tif", planes, photometric="minisblack", planarconfig="separate", bigtiff=True
    )
    same(tmp_path / "a.tif", array)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(
    ("n_channels", "photometric", "planar"),
    [
        (2, "minisblack", "contig"),
        (2, "minisblack", "separate"),
        (3, "minisblack", "separate"),
        (4, "rgb", "contig"),
        (4, "rgb", "separate"),
        (5, "rgb", "contig"),
        (6, "rgb", "contig"),
    ],
)
def test_no_channel_of_a_tiff_is_lost(dtype, n_channels, photometric, planar, tmp_path):
    """Such as near infrared beside colours: extra samples that nobody has said the meaning of."""
    tifffile = pytest.importorskip("tifffile")
    array = noise(16, 12, n_channels, dtype=dtype)
    given_ = np.moveaxis(array, 2, 0) if planar == "separate" else array
    n_extra = n_channels - (3 if photometric == "rgb" else 1)
    extra = ["unspecified"] * n_extra
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, given_, photometric=photometric, planarconfig=planar, extrasamples=extra)
    assert header(path) == ((16, 12, n_channels), np.dtype(dtype))
    np.testing.assert_array_equal(pixels(path), array)
    assert not decoding.examine(path).has_colours


@pytest.mark.parametrize("dtype", ["int8", "uint32", "int16", "int32"])
def test_numbers_of_a_tiff_keep_their_sign(dtype, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    ends = np.iinfo(dtype)
    array = np.array([[ends.min, ends.max], [1, ends.max - 3]], dtype)
    tifffile.imwrite(tmp_path / "a.tif", array)
    read = pixels(tmp_path / "a.tif")[:, :, 0]
    np.testing.assert_array_equal(read.astype(np.int64), array)
    assert header(tmp_path / "a.tif")[1] == read.dtype


def test_smaller_copies_in_a_tiff_are_no_channels(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    array = noise(32, 32, 3)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(array, photometric="rgb", tile=(16, 16))
        file.write(array[::2, ::2].copy(), photometric="rgb", tile=(16, 16), subfiletype=1)
    assert header(tmp_path / "a.tif")[0] == (32, 32, 3)
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), array)


def test_a_tiff_without_rows_and_columns_is_refused(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", noise(7, 5, 3, dtype=np.uint16), photometric="rgb")
    monkeypatch.setattr(tifffile.TiffPageSeries, "axes", "QRS", raising=False)
    with pytest.raises(BrokenImageError, match=r"its axes are .*, not Y and X"):
        pixels(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("module", "package", "array", "settings"),
    [
        ("PIL.Image", "pillow", noise(7, 5, 3), {}),
        ("tifffile", "tifffile", noise(7, 5, 3, dtype=np.uint16), {"photometric": "rgb"}),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    module, package, array, settings, tmp_path, monkeypatch
):
    pytest.importorskip("tifffile").imwrite(tmp_path / "a.tif", array, **settings)
    monkeypatch.setitem(sys.modules, module, None)
    message = rf'needs {package}, which is not installed; run: pip install "sklearn-cpc\[images\]"'
    with pytest.raises(ImportError, match=message):
        pixels(tmp_path / "a.tif")


@pytest.mark.parametrize("read", [header, pixels])
def test_what_is_no_image_is_named(read, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.tif").write_bytes(b"")
    with pytest.raises(BrokenImageError, match=r"text.png cannot be read as an image \(Unidentif"):
        read(tmp_path / "text.png")
    with pytest.raises(BrokenImageError, match=r"empty.tif cannot be read as an image"):
        read(tmp_path / "empty.tif")
    with pytest.raises(BrokenImageError, match=r"none.png is no file; check the path"):
        read(tmp_path / "none.png")


def test_a_thread_waits_for_a_reader_that_another_one_is_importing(tmp_path, monkeypatch):
    """Pillow takes longer to import than a second file takes to be opened."""
    (tmp_path / "slow_reader.py").write_text("import time\ntime.sleep(0.5)\nvalue = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(lambda: decoding.import_optional("slow_reader").value)]
        while "slow_reader" not in sys.modules:
            time.sleep(0.01)
        found += [pool.submit(lambda: decoding.import_optional("slow_reader").value)]
        assert [each.result() for each in found] == [1, 1]
    del sys.modules["slow_reader"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path):
        for read in (header, pixels):
            with pytest.raises(BrokenImageError, match="is a folder, a pipe or a device, no file"):
                read(path)


def test_postscript_is_not_run(tmp_path):
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    with pytest.raises(BrokenImageError, match="cannot identify"):
        pixels(tmp_path / "a.png")


def test_a_mode_that_no_array_has_is_refused():
    image = Image.new("RGBa", (4, 4))
    with pytest.raises(ValueError, match="its pixels have pillow's mode RGBa, which no array has"):
        decoding.array_of(image)


def test_an_image_of_too_many_numbers_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "LARGEST", 7 * 5 * 3 - 1)
    path = saved(tmp_path / "a.png", noise(7, 5, 3))
    for read in (header, pixels):
        with pytest.raises(BrokenImageError, match=r"its shape is \(7, 5, 3\); cut it into parts"):
            read(path)


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", noise(7, 5, 3))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 17)
    with pytest.raises(BrokenImageError, match="DecompressionBombError"):
        header(path)


@pytest.mark.parametrize("end", ["png", "jpg", "tif"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_the_quick_check_finds_files_that_stop_early(end, share, tmp_path):
    path = saved(tmp_path / f"a.{end}", noise(40, 40, 3))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BrokenImageError, match=rf"a.{end} cannot be read as an image"):
        header(path)


@pytest.mark.parametrize("end", ["png", "jpg"])
def test_what_follows_the_end_of_an_image_is_left_alone(end, tmp_path):
    path = saved(tmp_path / f"a.{end}", noise(16, 16, 3))
    expected = pixels(path)
    path.write_bytes(path.read_bytes() + bytes(1000))
    same(path, expected)


def samples():
    """Small files of several kinds, to be spoiled."""
    files = []
    for end in ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "PPM"):
        file = io.BytesIO()
        Image.fromarray(noise(9, 11, 3)).save(file, end)
        files.append(file.getvalue())
    tifffile = pytest.importorskip("tifffile")
    for compression in (None, "zlib"):
        file = io.BytesIO()
        array = noise(9, 11, 3, dtype=np.uint16)
        tifffile.imwrite(file, array, photometric="rgb", compression=compression)
        files.append(file.getvalue())
    return files


@pytest.fixture(scope="module")
def spoiled_file(tmp_path_factory):
    return tmp_path_factory.mktemp("spoiled") / "a.bin", samples()


def assert_image_or_broken(read, path):
    result = None
    try:
        result = read(path)
    except BrokenImageError as error:
        message = str(error)
    assert result is not None or str(path) in message


@given(st.data())
@settings(max_examples=300, deadline=None)
@pytest.mark.filterwarnings("ignore")  # pillow's own, on what it finds in spoiled files
def test_spoiled_files_give_an_image_or_an_error_of_the_value_family(spoiled_file, data):
    path, files = spoiled_file
    content = bytearray(data.draw(st.sampled_from(files)))
    places = st.integers(0, len(content) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
        content[place] = value
    start, stop = data.draw(st.just((0, len(content))) | st.tuples(places, places))
    path.write_bytes(bytes(content[start:stop]))
    for read in (header, pixels):
        assert_image_or_broken(read, path)


@given(st.binary(max_size=200), st.sampled_from(["", *decoding.TIFF_STARTS, b"\x89PNG\r\n\x1a\n"]))
@settings(max_examples=100, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_any_bytes_give_an_image_or_an_error_of_the_value_family(spoiled_file, content, start):
    path, _ = spoiled_file
    path.write_bytes((start or b"") + content)
    for read in (header, pixels):
        assert_image_or_broken(read, path)


def test_a_file_that_one_call_does_not_give_whole_is_read_whole(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", noise(16, 16, 3))
    expected, read = pixels(path), decoding.os.read
    monkeypatch.setattr(decoding.os, "read", lambda file, size: read(file, size // 2))
    np.testing.assert_array_equal(pixels(path), expected)


def slow_resize(array, size):
    """A triangle of the width of a new pixel, at least two old ones, around each new centre."""
    height, width, _ = array.shape
    scale = min(height / size[0], width / size[1])
    out = array.astype(float)
    for axis, (old, new) in enumerate(zip((height, width), size, strict=True)):
        start, reach = (old - new * scale) / 2, max(1.0, scale)
        rows = []
        for i in range(new):
            centre = start + (i + 0.5) * scale
            weights = np.maximum(0, 1 - abs(np.arange(old) + 0.5 - centre) / reach)
            # pillow takes whole pixels whose distance is below the reach, less rounding.
            rows.append(weights / weights.sum())
        out = np.moveaxis(np.tensordot(rows, out, (1, axis)), 0, axis)
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("n_channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [(6, 6), (4, 9), (12, 8), (30, 30)])
def test_resizing_agrees_with_a_slow_one(dtype, n_channels, size):
    array = noise(17, 12, n_channels, high=200, dtype=dtype)
    found = resized(array, size)
    assert found.shape == (*size, n_channels)
    assert found.dtype == dtype
    # Whole numbers are rounded once for each axis.
    tolerance = 1.01 if dtype == np.uint8 else 0.501 if np.dtype(dtype).kind in "ui" else 1e-3
    np.testing.assert_allclose(found, slow_resize(array, size), atol=tolerance)


def test_resizing_to_half_is_the_crop_and_smooth():
    """A ramp stays a ramp; of the longer side the middle is kept."""
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32)[:, None, None], (40, 20, 1))
    found = resized(ramp.copy(), (10, 10))
    np.testing.assert_allclose(found[1:-1, 0, 0], 10 + 2 * np.arange(10)[1:-1] + 0.5, atol=1e-4)


def test_images_of_the_size_are_not_touched():
    array = noise(6, 4, 3)
    assert resized(array, (6, 4)) is array


def test_masks_stay_masks():
    array = np.zeros((8, 8, 1), bool)
    array[:, :4] = True
    np.testing.assert_array_equal(resized(array, (4, 4)), array[::2, ::2])


def test_wide_whole_numbers_do_not_wrap_around():
    array = np.full((5, 5, 1), 2**31 - 1, np.int32)
    np.testing.assert_array_equal(resized(array, (3, 3)), np.full((3, 3, 1), 2**31 - 1))
