"""The chain of pages of a TIFF, before tifffile follows it."""

__all__ = ["check_chain"]


def check_chain(file):
    """Refuse pages that go in a circle: tifffile notices some alone, and follows others for ever.

    Parameters
    ----------
    file : tifffile.TiffFile

    Raises
    ------
    ValueError
        If a page is its own successor, next or later.
    """
    form, handle, seen = file.tiff, file.filehandle, set()

    def number(place, size):
        handle.seek(place)
        return int.from_bytes(handle.read(size), "little" if form.byteorder == "<" else "big")

    place = file.pages.first.offset
    while 0 < place < handle.size:
        if place in seen:
            raise ValueError(f"its pages go in a circle, of which one is at byte {place}")
        seen.add(place)
        end = place + form.tagnosize + number(place, form.tagnosize) * form.tagsize
        place = number(end, form.offsetsize)
