"""TIFF files that would keep tifffile busy, or fill the memory."""

import io
import struct

import numpy as np
import pytest

from sklearn_cpc.training.decoding import BrokenImageError, examine, pixels

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("PIL.Image")


def pages(n, **settings):
    """Bytes of a TIFF that pillow would read with fewer bits, and where its pages are."""
    file = io.BytesIO()
    array = np.zeros((n, 6, 5, 3), np.uint16)
    tifffile.imwrite(file, array, photometric="rgb", contiguous=False, metadata=None, **settings)
    with tifffile.TiffFile(io.BytesIO(file.getvalue())) as opened:
        places = [page.offset for page in opened.pages]
    return bytearray(file.getvalue()), places


# tifffile itself looks for a circle at the hundredth page alone.
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(("n", "to"), [(1, 0), (3, 1), (130, 120)])
def test_pages_in_a_circle_are_refused(n, to, byteorder, tmp_path):
    content, places = pages(n, byteorder=byteorder)
    (n_tags,) = struct.unpack_from(f"{byteorder}H", content, places[-1])
    struct.pack_into(f"{byteorder}I", content, places[-1] + 2 + 12 * n_tags, places[to])
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    for read in (examine, pixels):
        with pytest.raises(BrokenImageError, match=rf"a circle, .* at byte {places[to]}\)"):
            read(path)


def test_pages_that_are_cut_off_are_refused(tmp_path):
    content, places = pages(3)
    path = tmp_path / "a.tif"
    path.write_bytes(content[: places[-1] + 20])  # tifffile would take any last bytes as a place
    for read in (examine, pixels):
        with pytest.raises(BrokenImageError, match="its pages are cut off: "):
            read(path)


def test_no_pixels_where_the_header_has_some_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(pages(1)[0])
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["BitsPerSample"].overwrite((2048, 2048, 2048))
        file.pages[0].tags["PlanarConfiguration"].overwrite(291)  # there are 1 and 2
    with pytest.raises(BrokenImageError, match="cannot be read as an image"):
        pixels(path)


@pytest.mark.parametrize("bigtiff", [False, True])
def test_pages_in_a_row_are_read(bigtiff, tmp_path):
    content, _ = pages(3, bigtiff=bigtiff)
    (tmp_path / "a.tif").write_bytes(content)
    assert examine(tmp_path / "a.tif").shape == pixels(tmp_path / "a.tif").shape == (6, 5, 9)


def test_a_small_file_of_many_pixels_is_refused_before_there_is_room_for_them(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(pages(1)[0])
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["ImageWidth"].overwrite(2**14, dtype="I")
        file.pages[0].tags["ImageLength"].overwrite(5000, dtype="I")
    size = path.stat().st_size
    for read in (examine, pixels):
        message = (
            rf"its pixels would take {6 * 5000 * 2**14} bytes, and the whole file has {size}\)"
        )
        with pytest.raises(BrokenImageError, match=message):
            read(path)


def test_large_pixels_of_few_bytes_are_read(tmp_path):
    array = np.zeros((300, 300, 3), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", compression="zlib")
    assert array.nbytes > 500 * (tmp_path / "a.tif").stat().st_size
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), array)
