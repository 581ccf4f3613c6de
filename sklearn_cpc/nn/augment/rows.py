"""Changes of some of the patches of a batch."""

__all__ = ["change_rows"]

# Pixel values that are changed at a time on a CPU: its cache holds them and what is computed from
# them, and the system is not asked for memory again and again, which costs more than computing.
BLOCK = 1 << 18


def change_rows(patches, rows, change, *settings, into=None):
    """Change some patches.

    Parameters
    ----------
    patches : Tensor of shape (n, channels, height, width)
    rows : Tensor of shape (n_chosen,)
        Which patches, each at most once.
    change : callable
        Gives as many new patches as it is given, which it may write to.
    *settings : Tensor of shape (n_chosen, ...)
        For `change`, after the patches.
    into : Tensor of the same shape as `patches`, or None, default=None
        Where the changed patches are written. None: over the patches themselves.

    Returns
    -------
    into : Tensor
    """
    into = patches if into is None else into
    if not len(rows):
        return into
    size = len(rows)
    if patches.device.type == "cpu":
        size = max(1, BLOCK // patches[0].numel())
    blocks = zip(*(each.split(size) for each in (rows, *settings)), strict=True)
    for own, *their in blocks:
        into.index_copy_(0, own, change(patches.index_select(0, own), *their))
    return into
