"""Patch encoders g_enc: patches -> features.

An encoder is any module with `forward(patches)`, (n, channels, height, width) -> (n, width), that
treats every patch on its own. One whose forward is exactly convolutional also has
`forward_dense(images, stride)`, which shares the work between overlapping patches.
"""

import difflib

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["ENCODERS", "ChannelNorm", "ConvEncoder", "ResNetEncoder", "make_encoder"]


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each pixel: no batch, no patch, no image size in it."""

    def __init__(self, n_channels, eps=1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_channels))
        self.bias = nn.Parameter(torch.zeros(n_channels))
        self.eps = eps

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ConvEncoder(nn.Module):
    """A small encoder of valid convolutions, made for patches of a few pixels and for CPUs.

    A 3x3 convolution, then halvings (2x2, or 3x3 on odd maps, stride 2) until at most
    `final_size` pixels a side are left, then one convolution over all of them, a matrix
    product, to `n_components` rectified features. No padding and no statistics beyond a pixel's
    channels: evaluating it once on a whole image gives exactly the features of its patches.

    Parameters
    ----------
    n_channels : int
        Channels of the images.
    patch_size : (int, int)
        Rows and columns of a patch, at least 1.
    n_components : int, default=1024
        Number of features.
    width : int, default=64
        Channels of the first convolution; doubled at each halving, up to 8 * width.
    final_size : int, default=3
        Largest side, in pixels of the last map, that the last layer takes in at once.

    Examples
    --------
    >>> import torch
    >>> from sklearn_cpc.nn import ConvEncoder
    >>> ConvEncoder(3, (8, 8), 16)(torch.zeros(5, 3, 8, 8)).shape
    torch.Size([5, 16])
    """

    def __init__(self, n_channels, patch_size, n_components=1024, *, width=64, final_size=3):
        super().__init__()
        self.patch_size = tuple(patch_size)
        self.n_components = n_components
        layers, size, total = [], list(self.patch_size), [1, 1]
        n_in, n_out = n_channels, width
        kernel = tuple(min(3, s) for s in size)
        stem_stride = tuple(1 if s < 48 else 2 for s in size)
        while True:
            stride = stem_stride if not layers else tuple(min(2, s) for s in size)
            if layers:
                kernel = stride
            # A remainder that the stride would leave out is taken in by a larger kernel.
            kernel = tuple(k + (s - k) % st for k, s, st in zip(kernel, size, stride, strict=True))
            layers += [
                nn.Conv2d(n_in, n_out, kernel, stride, bias=False),
                ChannelNorm(n_out),
                nn.ReLU(),
            ]
            size = [(s - k) // st + 1 for s, k, st in zip(size, kernel, stride, strict=True)]
            total = [t * st for t, st in zip(total, stride, strict=True)]
            n_in, n_out = n_out, min(2 * n_out, 8 * width)
            if max(size) <= final_size:
                break
        self.body = nn.Sequential(*layers)
        self.total_stride = tuple(total)
        self.head = nn.Conv2d(n_in, n_components, tuple(size))
        _he_init(self)

    def forward(self, patches):
        maps = self.body(patches.contiguous(memory_format=torch.channels_last))
        # One window: the convolution is a matrix product, and faster as one.
        weight = self.head.weight.permute(0, 2, 3, 1).flatten(1)
        return F.relu(F.linear(maps.permute(0, 2, 3, 1).flatten(1), weight, self.head.bias))

    @torch.no_grad()
    def whiten_(self, images, regularisation=0.01):
        """Start the first convolution as a whitening of pixels: their principal directions.

        Each direction is scaled to unit variance and taken with both signs, the strongest
        first; filters left over keep their random weights. Natural pixels are strongly
        correlated, and both a random and a trained encoder see more once they are not.

        Parameters
        ----------
        images : Tensor of shape (n, channels, height, width)
            Standardised training images.
        regularisation : float, default=0.01
            Added to the variances.

        References
        ----------
        A. Coates, A. Ng, H. Lee, "An Analysis of Single-Layer Networks in Unsupervised Feature
        Learning", AISTATS 2011 (whitened patches); K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a
        Single GPU", 2024 (as the first layer of a network).
        """
        weight = self.body[0].weight
        windows = F.unfold(images, weight.shape[2:]).transpose(1, 2).flatten(0, 1)
        windows = windows - windows.mean(0)
        covariance = windows.T.double() @ windows.double() / len(windows)
        variances, directions = torch.linalg.eigh(covariance)  # ascending
        filters = (directions / (variances.clamp_min(0) + regularisation).sqrt()).T.flip(0)
        filters = filters[: len(weight) // 2].to(weight).view(-1, *weight.shape[1:])
        weight[: 2 * len(filters)] = torch.cat([filters, -filters])

    def can_share(self, stride):
        """Whether `forward_dense` is exact at this stride between patches."""
        return all(s % t == 0 for s, t in zip(stride, self.total_stride, strict=True))

    def forward_dense(self, images, stride):
        """Features of all patches of whole images, overlapping work done once.

        Parameters
        ----------
        images : Tensor of shape (batch, channels, height, width)
            The part of the images that the grid covers.
        stride : (int, int)
            Distance of neighbouring patches, a multiple of `total_stride`.

        Returns
        -------
        features : Tensor of shape (batch, rows, cols, n_components)
        """
        maps = self.body(images.contiguous(memory_format=torch.channels_last))
        step = [s // t for s, t in zip(stride, self.total_stride, strict=True)]
        maps = F.relu(F.conv2d(maps, self.head.weight, self.head.bias, stride=step))
        return maps.permute(0, 2, 3, 1)


class _PreActBlock(nn.Module):
    """Basic (expansion 1) or bottleneck (expansion 4) residual block, pre-activation."""

    def __init__(self, n_in, width, stride, expansion):
        super().__init__()
        n_out = width * expansion
        self.norm = ChannelNorm(n_in)
        if expansion == 1:
            shapes = [(n_in, width, 3, stride), (width, width, 3, 1)]
        else:
            shapes = [(n_in, width, 1, 1), (width, width, 3, stride), (width, n_out, 1, 1)]
        layers = []
        for i, (a, b, kernel, step) in enumerate(shapes):
            layers += [ChannelNorm(a), nn.ReLU()] if i else []
            layers += [nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False)]
        self.residual = nn.Sequential(*layers)
        needs_projection = stride != 1 or n_in != n_out
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride, bias=False) if needs_projection else None

    def forward(self, x):
        h = F.relu(self.norm(x))
        return self.residual(h) + (x if self.shortcut is None else self.shortcut(h))


class ResNetEncoder(nn.Module):
    """Pre-activation ResNet up to its third stage, mean-pooled over the patch.

    Normalised over the channels of each pixel in place of BatchNorm, whose statistics leak
    from patch to patch. Patches below 48 pixels keep their resolution in the stem (3x3, stride 1);
    larger ones get the 7x7 stem of stride 2 and the pooling of the original.

    Parameters
    ----------
    n_channels : int
        Channels of the images.
    patch_size : (int, int)
        Rows and columns of a patch.
    n_components : int or None, default=None
        Number of features. None: the width of the third stage (256, or 1,024 with bottlenecks);
        another number adds a linear, rectified layer.
    depth : {18, 34, 50}, default=18
        Number of layers of the full network that this is a part of.

    References
    ----------
    K. He et al., "Identity Mappings in Deep Residual Networks", 2016.
    """

    BLOCKS = {18: ((2, 2, 2), 1), 34: ((3, 4, 6), 1), 50: ((3, 4, 6), 4)}

    def __init__(self, n_channels, patch_size, n_components=None, *, depth=18):
        super().__init__()
        check_name("depth", depth, self.BLOCKS)
        blocks, expansion = self.BLOCKS[depth]
        self.patch_size = tuple(patch_size)
        if min(self.patch_size) < 48:
            stem = [nn.Conv2d(n_channels, 64, 3, 1, 1, bias=False)]
        else:
            stem = [nn.Conv2d(n_channels, 64, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1)]
        layers, n_in = stem, 64
        for stage, n_blocks in enumerate(blocks):
            for i in range(n_blocks):
                stride = 2 if stage and not i else 1
                layers.append(_PreActBlock(n_in, 64 * 2**stage, stride, expansion))
                n_in = 64 * 2**stage * expansion
        self.body = nn.Sequential(*layers, ChannelNorm(n_in), nn.ReLU())
        self.n_components = n_components or n_in
        self.head = nn.Linear(n_in, self.n_components) if self.n_components != n_in else None
        _he_init(self)

    def forward(self, patches):
        maps = self.body(patches.contiguous(memory_format=torch.channels_last))
        features = maps.mean((2, 3))
        return features if self.head is None else F.relu(self.head(features))


def _he_init(module):
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


ENCODERS = {
    "conv": ConvEncoder,
    "resnet18": ResNetEncoder,
    "resnet34": ResNetEncoder,
    "resnet50": ResNetEncoder,
}


def make_encoder(name, n_channels, patch_size, n_components):
    """Build an encoder from its name.

    Parameters
    ----------
    name : {"conv", "resnet18", "resnet34", "resnet50"}
    n_channels : int
    patch_size : (int, int)
    n_components : int or None
        None: 1,024 for "conv", the native width for a ResNet.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    check_name("encoder", name, ENCODERS)
    if name == "conv":
        return ConvEncoder(n_channels, patch_size, n_components or 1024)
    return ResNetEncoder(n_channels, patch_size, n_components, depth=int(name[6:]))


def check_name(parameter, name, table):
    """Refuse a name that is not in the table, with the nearest one that is."""
    if name in table:
        return
    near = difflib.get_close_matches(str(name), list(table), n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    known = ", ".join(repr(key) for key in table)
    raise ValueError(f"{parameter}={name!r} is unknown; it must be one of {known}.{hint}")
