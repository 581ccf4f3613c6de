"""PNG files of 16 bits in several channels, of which pillow gives 8: imagecodecs reads all."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec

import numpy as np

__all__ = ["can_be_read", "n_channels", "read", "warning"]

START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
DEPTH, COLOUR = 24, 25  # bytes of the header with the bits, and the kind of channels
SEVERAL = {2: 3, 4: 2, 6: 4}  # RGB, grey with transparency, RGBA
ORIENTATION = 0x0112


def n_channels(start):
    """Of such a file, of which these are the first 26 bytes or more; 0 of any other."""
    if start[DEPTH : DEPTH + 1] != b"\x10" or not start.startswith(START):
        return 0
    return SEVERAL.get(start[COLOUR], 0)


@cache
def can_be_read():
    """Whether imagecodecs is installed."""
    return find_spec("imagecodecs") is not None


def read(content, image):
    """All bits, turned upright as EXIF says.

    Parameters
    ----------
    content : bytes
        Of the file.
    image : PIL.Image.Image
        Its header.
    """
    array = import_module("imagecodecs").png_decode(content)[:, :, : n_channels(content)]
    turn = image.getexif().get(ORIENTATION, 1) if "exif" in image.info else 1
    if turn > 4:
        array = array.transpose(1, 0, 2)
    if turn in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array[:, ::-1] if turn in (2, 3, 6, 7) else array)


def warning(n, n_images, first):
    """Words for files that are read with 8 bits."""
    return (
        f"{n} of {n_images} images are PNG files of 16-bit colour, of which 8 bits are read (the "
        f'first: {first}); pip install "sklearn-cpc[png16]" reads all 16, as do TIFF files of them.'
    )
