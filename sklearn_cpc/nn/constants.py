"""Numbers that formulas need, on the device where they are needed."""

from functools import lru_cache

import torch

__all__ = ["constant"]


def constant(values, like):
    """A tensor of these numbers that is brought to a device once, not waited for at every use.

    Parameters
    ----------
    values : tuple of float, or of such tuples
    like : Tensor
        Gives dtype and device.

    Returns
    -------
    numbers : Tensor
        Shared by all calls: not to be changed.
    """
    return _brought(values, like.dtype, like.device)


@lru_cache(maxsize=256)
def _brought(values, dtype, device):
    # A tensor made in inference mode could take no part in a later training.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device="cpu").to(device)
