"""What encoders are made of: norms without batch statistics, and initial weights."""

from math import gcd

import torch
from torch import nn
from torch.nn import functional as F

from .names import check_name

__all__ = ["NORMS", "ChannelNorm", "he_init_", "make_group_norm", "make_norm"]

NORMS = ("none", "group", "layer")
GROUP_SIZE = 16


def _as_it_comes(norm, x, weight, bias):
    """norm(x, weight, bias) in the precision of x.

    Autocast would have CUDA make float32 of a norm's maps, and back for the next product: several
    times the traffic of what limits a small network. The kernels sum in float32 anyway.
    """
    if not (x.is_cuda and torch.is_autocast_enabled("cuda")):
        return norm(x, weight, bias)
    with torch.autocast("cuda", enabled=False):
        if weight is not None:
            weight, bias = weight.to(x.dtype), bias.to(x.dtype)
        return norm(x, weight, bias)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each pixel: no batch, no patch, no image size in it."""

    def __init__(self, n_channels, eps=1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_channels))
        self.bias = nn.Parameter(torch.zeros(n_channels))
        self.eps = eps

    def forward(self, x):
        return self.of_rows(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def of_rows(self, x):
        """The same with the channels last, (..., channels) in and out."""

        def norm(x, weight, bias):
            return F.layer_norm(x, self.weight.shape, weight, bias, self.eps)

        return _as_it_comes(norm, x, self.weight, self.bias)


class GroupNorm(nn.GroupNorm):
    """GroupNorm whose maps stay in their precision."""

    def forward(self, x):
        def norm(x, weight, bias):
            return F.group_norm(x, self.num_groups, weight, bias, self.eps)

        return _as_it_comes(norm, x, self.weight, self.bias)


def make_group_norm(n_channels, eps=1e-5, affine=True):
    """GroupNorm in groups of 16 channels, or of as many as divide both 16 and `n_channels`.

    A group of one channel would make a map of one pixel zero; all channels are one group then.

    References
    ----------
    Y. Wu, K. He, "Group Normalization", ECCV 2018 (16 channels per group in table 3).
    """
    size = gcd(GROUP_SIZE, n_channels)
    return GroupNorm(n_channels // size if size > 1 else 1, n_channels, eps, affine)


def make_norm(name, n_channels):
    """Build the norm of a layer from its name.

    Parameters
    ----------
    name : {"none", "group", "layer"}
        "layer": over the channels of each pixel. "group": over the pixels of a patch and 16
        channels. None of them has a batch in it.
    n_channels : int

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    check_name("norm", name, NORMS)
    if name == "layer":
        return ChannelNorm(n_channels)
    return make_group_norm(n_channels) if name == "group" else nn.Identity()


def he_init_(module):
    """Draw all weights so that rectified layers keep the scale; biases are zero."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
