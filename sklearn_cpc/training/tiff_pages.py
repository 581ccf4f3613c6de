"""What must hold of a TIFF before tifffile follows its pages and makes room for its pixels."""

import numpy as np

__all__ = ["check_chain", "check_room"]

MUCH = 2**28  # bytes of pixels
MOST_PER_BYTE = 4096  # bytes of pixels that one of a file may stand for; deflate has 1032


def check_chain(file):
    """Refuse pages that are cut off, or go in a circle, which tifffile may follow for ever.

    Parameters
    ----------
    file : tifffile.TiffFile

    Raises
    ------
    ValueError
        If a page is its own successor, next or later, or lies beyond the end of the file.
    """
    form, handle, seen = file.tiff, file.filehandle, set()

    def number(place, size):
        if not 0 < place <= handle.size - size:
            raise ValueError(f"its pages are cut off: {handle.size} bytes, and one is at {place}")
        handle.seek(place)
        return int.from_bytes(handle.read(size), "little" if form.byteorder == "<" else "big")

    place = file.pages.first.offset
    while place:
        if place in seen:
            raise ValueError(f"its pages go in a circle, of which one is at byte {place}")
        seen.add(place)
        end = place + form.tagnosize + number(place, form.tagnosize) * form.tagsize
        place = number(end, form.offsetsize)


def check_room(series, n_bytes):
    """Refuse much more than a file can hold, however it is compressed.

    Parameters
    ----------
    series : tifffile.TiffPageSeries
    n_bytes : int
        Of the file.

    Raises
    ------
    ValueError
        If it says that its pixels take far more bytes than it has.
    """
    wanted = series.size * np.dtype(series.dtype).itemsize
    if wanted > max(MUCH, MOST_PER_BYTE * n_bytes):
        raise ValueError(f"its pixels would take {wanted} bytes, and the whole file has {n_bytes}")
