"""One image file: what its header says, and its pixels."""

import io
import os
from functools import wraps
from importlib import import_module
from math import prod
from stat import S_ISREG
from typing import NamedTuple

import numpy as np

from . import deep_png
from .messages import in_one_line
from .tiff_pages import check_chain, check_room

__all__ = ["BrokenImageError", "ImageKind", "array_of", "examine", "header", "pixels", "resized"]

# Of what pillow knows, that which needs no other program; EPS would start one.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# What marks the end of a whole file, and in how many last bytes it is looked for.
ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9", "MPO": b"\xff\xd9"}
TAIL = 64
LARGEST = 2**30  # numbers in an image
# Channels and dtype of pillow's modes that are read as they are.
MODES = {
    "L": (1, "uint8"),
    "LA": (2, "uint8"),
    "RGB": (3, "uint8"),
    "RGBA": (4, "uint8"),
    "LAB": (3, "uint8"),
    "HSV": (3, "uint8"),
    "I;16": (1, "uint16"),
    "I;16L": (1, "uint16"),
    "I;16B": (1, "uint16"),
    "I;16N": (1, "uint16"),
    "I": (1, "int32"),
    "F": (1, "float32"),
}
CONVERTED = {"1": "L", "CMYK": "RGB", "YCbCr": "RGB", "RGBX": "RGB", "PA": "RGBA", "La": "LA"}
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # of EXIF: those that swap height and width
# Modes whose channels are grey or red, green and blue, and perhaps transparency.
COLOURS = {"L", "LA", "RGB", "RGBA", "I;16", "I;16L", "I;16B", "I;16N", "I", "F"}
# Tags of a TIFF, and what they may say.
NEW_SUBFILE_TYPE, BITS_PER_SAMPLE, SAMPLES_PER_PIXEL, SAMPLE_FORMAT = 254, 258, 277, 339
REDUCED_OR_MASK = 0b101  # a page that is a smaller copy, or says where another one counts
UNSIGNED, SIGNED = 1, 2
ALPHA = (1, 2)  # of extra samples
RGB_PHOTOMETRIC = 2  # of a TIFF
OFFSETS_AND_LENGTHS = ((273, 279), (324, 325))  # of a TIFF's strips, and of its tiles


class BrokenImageError(ValueError):
    """One image cannot be read; all others may be."""


class ImageKind(NamedTuple):
    """What is known of an image before it is decoded.

    Attributes
    ----------
    shape : (int, int, int)
        Height, width, channels.
    dtype : numpy.dtype
    has_colours : bool
        Whether the channels are known to be grey or RGB, and perhaps transparency.
    loses_bits : bool
        Whether fewer bits are read than there are.
    """

    shape: tuple
    dtype: np.dtype
    has_colours: bool = False
    loses_bits: bool = False

    def of_size(self, size):
        """The same of another height and width."""
        return self._replace(shape=(*size, self.shape[2]))


def _naming_the_file(read):
    """Whatever a broken file makes of its reader, the file is named."""

    @wraps(read)
    def named(path):
        try:
            is_regular = S_ISREG(os.stat(path).st_mode)  # a named pipe would be waited for
            if is_regular:
                return read(path)
        except ImportError:
            raise
        except FileNotFoundError as error:
            raise BrokenImageError(f"{path} is no file; check the path.") from error
        except Exception as error:
            what = in_one_line(error)
            raise BrokenImageError(
                f"{path} cannot be read as an image ({what:.200}); replace it, or leave it out."
            ) from error
        raise BrokenImageError(f"{path} is a folder, a pipe or a device, no file; leave it out.")

    return named


@_naming_the_file
def examine(path):
    """The `ImageKind` of an image file, without decoding it.

    A PNG or JPEG that does not end as a whole file does is decoded, to see whether it can be.
    """
    with open(path, "rb") as file:
        image = _image(file)
        if image is None:
            return _read_by_tifffile(path, _kind_of_series)
        n_deep = _n_deep_channels(file) if image.format == "PNG" else 0
        kinds = [_kind_of_page(page) for page in _pages(image)]
        if not _has_end(image, file):
            image.seek(0)
            image.load()
        shape, dtype = _joined(kinds)
        has_colours = len(kinds) == 1 and _target_mode(image) in COLOURS
        if n_deep and deep_png.can_be_read():
            return ImageKind((*shape[:2], n_deep), np.dtype(np.uint16), True)
        return ImageKind(shape, dtype, has_colours, bool(n_deep))


def header(path):
    """Shape (height, width, channels) and dtype of an image file, see `examine`."""
    return examine(path)[:2]


@_naming_the_file
def pixels(path):
    """Pixels of an image file, as an array of shape (height, width, channels).

    The pages of a TIFF become channels. Palettes become RGB, or RGBA where they have
    transparency, as do CMYK and YCbCr; black and white becomes 0 and 255. Images are turned
    upright as EXIF says. Of an animation the first frame is taken.
    """
    content = _content(path)
    image = _image(io.BytesIO(content))  # from memory: pillow reads bit by bit
    if image is None:
        return _read_by_tifffile(path, _whole)
    if (n_channels := deep_png.n_channels(content)) and deep_png.can_be_read():
        _check_size((*image.size, n_channels))
        return deep_png.read(content, image)
    if image.format != "TIFF":
        return _of_right_size(array_of(image))
    pages = [array_of(page) for page in _pages(image)]
    _joined([(page.shape, page.dtype) for page in pages])
    return pages[0] if len(pages) == 1 else np.concatenate(pages, axis=2)


def array_of(image):
    """A pillow image as an array of shape (height, width, channels)."""
    if image.mode != "RGB" and (target := _target_mode(image)) != image.mode:
        image = image.convert(target)
    if "exif" in image.info:
        image = import_optional("PIL.ImageOps").exif_transpose(image)
    if MODES[image.mode][1] == "uint8":  # as np.asarray, in half the time
        width, height = image.size
        return np.frombuffer(image.tobytes(), np.uint8).reshape(height, width, -1)
    array = np.asarray(image)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array[:, :, np.newaxis] if array.ndim == 2 else array


def resized(array, size):
    """The largest part in the middle that has the aspect ratio of `size`, scaled to it.

    Bilinear, over all pixels that a new one covers; each channel by itself, and rounded where the
    pixels are whole numbers. For a square it is: scale the shorter side, crop the longer one.

    Parameters
    ----------
    array : ndarray of shape (height, width, channels)
    size : (int, int)
        Height and width.
    """
    if array.shape[:2] == tuple(size):
        return array
    height, width = array.shape[:2]
    scale = min(height / size[0], width / size[1])
    part = min(height, size[0] * scale), min(width, size[1] * scale)
    top, left = (height - part[0]) / 2, (width - part[1]) / 2
    box = left, top, min(width, left + part[1]), min(height, top + part[0])
    if array.dtype == np.uint8 and array.shape[2] == 3:
        return _scaled(array, size, box)
    wide = array if array.dtype == np.uint8 else array.astype(np.float32)
    channels = [_scaled(np.ascontiguousarray(c), size, box) for c in np.moveaxis(wide, 2, 0)]
    out = np.stack(channels, axis=2)
    if array.dtype.kind in "ui" and array.dtype != np.uint8:
        ends = np.iinfo(array.dtype)
        out = np.rint(out.astype(np.float64)).clip(ends.min, ends.max)
    elif array.dtype.kind == "b":
        out = out >= 0.5
    return out.astype(array.dtype, copy=False)


def _scaled(array, size, box):
    image_module = import_optional("PIL.Image")
    image = image_module.fromarray(array)
    return np.asarray(image.resize(size[::-1], image_module.Resampling.BILINEAR, box=box))


def import_optional(module):
    """A module of the extra "images", or an error that names the extra."""
    try:
        # Not sys.modules, where a module is that another thread is still in the midst of importing.
        return import_module(module)
    except ImportError as error:
        package = {"PIL": "pillow"}.get(name := module.partition(".")[0], name)
        raise ImportError(
            f"Reading image files needs {package}, which is not installed; "
            'run: pip install "sklearn-cpc[images]"'
        ) from error


def _content(path):
    """All bytes of a file, without what `open` does for each of a million small ones."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        size = os.fstat(descriptor).st_size
        content = os.read(descriptor, size)
    finally:
        os.close(descriptor)
    if len(content) == size:
        return content
    with open(path, "rb") as file:  # larger than one call gives
        return file.read()


def _image(file):
    """pillow's image of an open file; None where tifffile reads more."""
    pillow = import_optional("PIL.Image")
    try:
        image = pillow.open(file, formats=FORMATS)
    except pillow.UnidentifiedImageError:
        file.seek(0)
        if file.read(4) not in TIFF_STARTS:
            raise
        return None
    return None if image.format == "TIFF" and _is_read_by_half(image) else image


def _is_read_by_half(image):
    """Whether pillow would read a TIFF with fewer channels or bits, or with another sign."""
    n_bands, n_samples = len(image.getbands()), image.tag_v2.get(SAMPLES_PER_PIXEL, 1)
    n_bits = max(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))
    kind = image.tag_v2.get(SAMPLE_FORMAT, (UNSIGNED,))[0]
    loses_channels = n_bands != n_samples or image.mode == "RGBX"
    loses_bits = n_bands > 1 and n_bits > 8
    takes_sign = (n_bits, kind) in ((8, SIGNED), (32, UNSIGNED))
    return loses_channels or loses_bits or takes_sign


def _pages(image):
    """The pages of a TIFF, one after the other; else the image."""
    if image.format != "TIFF":
        yield image
        return
    for page in range(image.n_frames):
        image.seek(page)
        if not page or not image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & REDUCED_OR_MASK:
            yield image


def _target_mode(image):
    if image.mode == "P":
        return "RGBA" if "transparency" in image.info else "RGB"
    target = CONVERTED.get(image.mode, image.mode)
    if target not in MODES:
        raise ValueError(f"its pixels have pillow's mode {image.mode}, which no array has")
    return target


def _kind_of_page(image):
    n_channels, dtype = MODES[_target_mode(image)]
    width, height = image.size
    if "exif" in image.info and image.getexif().get(ORIENTATION) in TURNED:
        width, height = height, width
    return (height, width, n_channels), np.dtype(dtype)


def _joined(kinds):
    """Shape and dtype of pages side by side."""
    (height, width, n_channels), dtype = kinds[0]
    for shape, other in kinds:
        if shape != kinds[0][0] or other != dtype:
            raise ValueError(f"its pages differ: {kinds[0][0]} {dtype} and {shape} {other}")
    shape = height, width, n_channels * len(kinds)
    _check_size(shape)
    return shape, dtype


def _check_size(shape):
    if not 0 < prod(shape) <= LARGEST:
        raise ValueError(f"its shape is {shape}; cut it into parts of 1 to {LARGEST} numbers")


def _of_right_size(array):
    _check_size(array.shape)
    return array


def _n_deep_channels(file):
    place = file.tell()
    file.seek(0)
    start = file.read(32)
    file.seek(place)
    return deep_png.n_channels(start)


def _has_end(image, file):
    """Whether the file goes on to where its pixels end; for formats that show it."""
    if image.format == "TIFF":
        size = os.fstat(file.fileno()).st_size
        return all(_reaches(image, size, *tags) for tags in OFFSETS_AND_LENGTHS)
    if image.format not in ENDS:
        return True
    place = file.tell()
    file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
    tail = file.read()
    file.seek(place)
    return ENDS[image.format] in tail


def _reaches(image, size, offsets, lengths):
    """Whether the parts of a TIFF's last page are inside a file of this size."""
    offsets, lengths = image.tag_v2.get(offsets, ()), image.tag_v2.get(lengths, ())
    return all(o + n <= size for o, n in zip(offsets, lengths, strict=False))


def _read_by_tifffile(path, read):
    tifffile = import_optional("tifffile")
    with tifffile.TiffFile(path) as file:
        check_chain(file)
        series = file.series[0]
        if not {"Y", "X"} <= set(series.axes):
            raise ValueError(f"its axes are {series.axes}, not Y and X among others")
        _check_size(series.shape)
        check_room(series, file.filehandle.size)
        found = read(series)
        _check_size(found.shape)  # of what was read, which may be less
        return found


def _kind_of_series(series):
    sizes = dict(zip(series.axes, series.shape, strict=True))
    n_channels = int(np.prod(series.shape)) // (sizes["Y"] * sizes["X"])
    page = series.keyframe
    has_alpha = page.samplesperpixel == 4 and tuple(page.extrasamples)[:1] in ((a,) for a in ALPHA)
    is_colour = page.photometric == RGB_PHOTOMETRIC and (page.samplesperpixel == 3 or has_alpha)
    has_colours = n_channels == 1 or (is_colour and n_channels == page.samplesperpixel)
    shape = sizes["Y"], sizes["X"], n_channels
    return ImageKind(shape, np.dtype(series.dtype).newbyteorder("="), has_colours)


def _whole(series):
    """Rows and columns first, whatever else there is as channels."""
    array = series.asarray()
    array = np.moveaxis(array, (series.axes.index("Y"), series.axes.index("X")), (0, 1))
    array = array.reshape(*array.shape[:2], -1)
    return array.astype(array.dtype.newbyteorder("="), copy=False)
