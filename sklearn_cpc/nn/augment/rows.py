"""Changes of some of the patches of a batch."""

__all__ = ["change_rows"]

# Pixel values that are changed at a time on a CPU: its cache holds them and what is computed from
# them, and the system is not asked for memory again and again, which costs more than computing.
BLOCK = 1 << 18


def change_rows(patches, rows, change, *settings):
    """Change some patches in place.

    Parameters
    ----------
    patches : Tensor of shape (n, channels, height, width)
    rows : Tensor of shape (n_chosen,)
        Which patches, each at most once.
    change : callable
        Gives as many new patches as it is given, which it may write to.
    *settings : Tensor of shape (n_chosen, ...)
        For `change`, after the patches.
    """
    size = len(rows)
    if size and patches.device.type == "cpu":
        size = min(size, max(1, BLOCK // patches[0].numel()))
    for first in range(0, len(rows), max(1, size)):
        some = slice(first, first + size)
        chosen = patches.index_select(0, rows[some])
        patches.index_copy_(0, rows[some], change(chosen, *(each[some] for each in settings)))
    return patches
