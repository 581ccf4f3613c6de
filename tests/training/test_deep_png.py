"""PNG files of 16 bits in several channels."""

import numpy as np
import pytest

from sklearn_cpc.training import ImageFiles, deep_png
from sklearn_cpc.training.decoding import BrokenImageError, examine, header, pixels

from ..estimators.toys import images, tiny

Image = pytest.importorskip("PIL.Image")


def png(array, exif=None):
    """A PNG file written by hand: no library but one writes 16 bits of colour."""
    import struct
    import zlib

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width, n_channels = array.shape
    colour = {2: 4, 3: 2, 4: 6}[n_channels]
    rows = array.astype(">u2").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))]
    if exif is not None:
        parts.append(chunk(b"eXIf", exif))
    parts += [chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep(n_channels, seed=0):
    shape = (7, 5, n_channels)
    return np.random.RandomState(seed).randint(0, 2**16, shape).astype(np.uint16)


@pytest.fixture
def without(monkeypatch):
    """As if imagecodecs were not installed."""
    monkeypatch.setattr(deep_png, "can_be_read", lambda: False)


@pytest.mark.parametrize("n_channels", [2, 3, 4])
def test_all_bits_are_read_where_imagecodecs_is_installed(n_channels, tmp_path):
    pytest.importorskip("imagecodecs")
    array = deep(n_channels)
    (tmp_path / "a.png").write_bytes(png(array))
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), array)
    assert header(tmp_path / "a.png") == (array.shape, np.dtype(np.uint16))
    assert pixels(tmp_path / "a.png").dtype == np.uint16
    assert not examine(tmp_path / "a.png").loses_bits


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_images_are_turned_upright_as_pillow_turns_others(orientation, tmp_path):
    pytest.importorskip("imagecodecs")
    exif = Image.Exif()
    exif[0x0112] = orientation
    array = deep(3)
    (tmp_path / "a.png").write_bytes(png(array, exif.tobytes()[6:]))
    shallow = (array // 256).astype(np.uint8)
    Image.fromarray(shallow).save(tmp_path / "b.png", exif=exif)
    found, expected = pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png")
    np.testing.assert_array_equal(found // 256, expected)
    assert header(tmp_path / "a.png") == (found.shape, found.dtype)


@pytest.mark.parametrize("n_channels", [2, 3, 4])
def test_without_it_the_loss_is_seen_in_the_header(n_channels, tmp_path, without):
    (tmp_path / "a.png").write_bytes(png(deep(n_channels)))
    kind = examine(tmp_path / "a.png")
    assert kind.loses_bits
    assert pixels(tmp_path / "a.png").dtype == kind.dtype == np.uint8


def test_other_files_lose_nothing(tmp_path, without):
    grey = deep(2)[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "eight.png")
    (tmp_path / "a.ppm").write_bytes(b"P6 1 1 255\n" + b"\x10" * 3)
    for name in ("grey.png", "eight.png", "a.ppm"):
        assert not examine(tmp_path / name).loses_bits
    assert not deep_png.n_channels(b"")
    np.testing.assert_array_equal(pixels(tmp_path / "grey.png")[..., 0], grey)


def test_a_fit_warns_once(tmp_path, without):
    paths = []
    for i, image in enumerate(images(20, dtype=np.uint16) * 257):
        paths.append(tmp_path / f"{i:02}.png")
        paths[-1].write_bytes(png(image))
    message = (
        r"20 of 20 images are PNG files of 16-bit colour, of which 8 bits are read \(the first: "
        r".*00.png\); pip install \"sklearn-cpc\[png16\]\" reads all 16"
    )
    with pytest.warns(RuntimeWarning, match=message) as caught:
        cpc = tiny(max_epochs=2).fit(paths)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with pytest.warns(RuntimeWarning, match="of which 8 bits are read"):
        features = cpc.transform(paths)
    np.testing.assert_array_equal(
        features, tiny(max_epochs=2).fit(images(20)).transform(images(20))
    )


def test_eight_and_sixteen_bits_are_not_mixed(tmp_path):
    pytest.importorskip("imagecodecs")
    (tmp_path / "a.png").write_bytes(png(deep(3)))
    Image.fromarray(deep(3).astype(np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"3 channels of uint16 and .*b.png 3 of uint8; convert"):
        ImageFiles([tmp_path / "a.png", tmp_path / "b.png"], widens=True)


def test_spoiled_ones_are_named(tmp_path):
    pytest.importorskip("imagecodecs")
    content = png(images(1, 40, 40, dtype=np.uint16)[0] * 250)
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    for read in (examine, pixels):
        with pytest.raises(BrokenImageError, match=r"a.png cannot be read as an image"):
            read(tmp_path / "a.png")
