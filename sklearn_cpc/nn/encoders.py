"""Patch encoders g_enc: patches -> features.

An encoder is any module with `forward(patches)`, (n, channels, height, width) -> (n, width), that
treats every patch on its own. One whose forward is exactly convolutional also has
`forward_dense(images, stride)`, which shares the work between overlapping patches.
"""

from functools import partial
from math import gcd, prod
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from .custom import adopt_encoder
from .dictionary import DictionaryEncoder
from .layers import NORMS, ChannelNorm, he_init_
from .names import check_name
from .resnets import ResNetEncoder, WideResNetEncoder

__all__ = ["ENCODERS", "ConvEncoder", "make_encoder"]


class _Shrinking(nn.Conv2d):
    """A convolution; where its windows tile the map it is one matrix product, which is faster."""

    def forward(self, x):
        (height, width), (rows, cols) = x.shape[2:], self.kernel_size
        if self.kernel_size != self.stride or height % rows or width % cols:
            return super().forward(x)
        tiles = x.permute(0, 2, 3, 1).unflatten(2, (-1, cols)).unflatten(1, (-1, rows))
        tiles = tiles.transpose(2, 3).flatten(3)  # (n, height, width, rows * cols * channels)
        return F.linear(tiles, _as_matrix(self)).permute(0, 3, 1, 2)


def _as_matrix(convolution):
    """Its weights for windows as rows, (filters, rows * cols * channels)."""
    return convolution.weight.permute(0, 2, 3, 1).flatten(1)


class _Maps(NamedTuple):
    """What a layer makes of a patch."""

    size: tuple  # rows and columns of the map
    stride: tuple  # pixels of the image from one pixel of the map to the next
    channels: int
    cost: int  # multiplications for a pixel of the map


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
        layers, maps, size, total = [], [], list(self.patch_size), [1, 1]
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
                _Shrinking(n_in, n_out, kernel, stride, bias=False),
                ChannelNorm(n_out),
                nn.ReLU(),
            ]
            size = [(s - k) // st + 1 for s, k, st in zip(size, kernel, stride, strict=True)]
            total = [t * st for t, st in zip(total, stride, strict=True)]
            maps.append(_Maps(tuple(size), tuple(total), n_out, n_in * prod(kernel) * n_out))
            n_in, n_out = n_out, min(2 * n_out, 8 * width)
            if max(size) <= final_size:
                break
        self.body = nn.Sequential(*layers)
        self.maps = tuple(maps)
        self.head = nn.Conv2d(n_in, n_components, tuple(size))
        he_init_(self)

    def forward(self, patches):
        if self._has_tiles(patches):
            maps = self._body_in_tiles(patches)
        else:
            maps = self.body(patches.contiguous(memory_format=torch.channels_last))
        return self._features(maps)

    def _features(self, maps):
        # One window: the convolution is a matrix product, and faster as one.
        rows = maps.permute(0, 2, 3, 1).flatten(1)
        return F.relu(F.linear(rows, _as_matrix(self.head), self.head.bias))

    def _has_tiles(self, patches):
        """Whether the first halving takes in tiles of the first maps, and windows are small."""
        if patches.requires_grad or len(self.body) < 6:
            return False
        first, halving = self.body[0], self.body[3]
        sizes = zip(patches.shape[2:], first.kernel_size, first.stride, strict=True)
        maps = [(size - kernel) // stride + 1 for size, kernel, stride in sizes]
        tiles = halving.kernel_size == halving.stride
        tiles &= all(m % k == 0 for m, k in zip(maps, halving.kernel_size, strict=True))
        return tiles and first.weight[0].numel() <= first.out_channels

    def _body_in_tiles(self, patches):
        """The body as products of rows: windows of pixels, few numbers, are laid out tile by tile.

        The first maps, many numbers, are then where the halving wants them, and are not moved.
        """
        first, norm, _, halving = self.body[:4]
        (height, width), (down, across) = first.kernel_size, first.stride
        pixels = patches.permute(0, 2, 3, 1).contiguous()
        windows = pixels.unfold(1, height, down).unfold(2, width, across).permute(0, 1, 2, 4, 5, 3)
        rows, cols = halving.kernel_size
        tiles = windows.unflatten(2, (-1, cols)).unflatten(1, (-1, rows)).transpose(2, 3)
        # (n, tile rows, tile cols, rows, cols, window)
        maps = norm.of_rows(F.linear(tiles.flatten(5), _as_matrix(first)))
        maps = F.linear(F.relu_(maps).flatten(3), _as_matrix(halving))
        return self.body[4:](maps.permute(0, 3, 1, 2))

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
        # On the CPU, lest the device choose the signs: they decide which filter is which.
        variances, directions = torch.linalg.eigh(covariance.cpu())  # ascending
        filters = (directions / (variances.clamp_min(0) + regularisation).sqrt()).T.flip(0)
        filters = filters[: len(weight) // 2].to(weight).view(-1, *weight.shape[1:])
        weight[: 2 * len(filters)] = torch.cat([filters, -filters])

    def can_share(self, stride):
        """Whether `forward_dense` saves work at this stride between patches."""
        return self._n_shared(stride) > 0

    def _n_shared(self, stride):
        """How many of the layers are best evaluated on whole images at this stride."""
        counts = range(len(self.maps) + 1)
        return min(counts, key=lambda n: (self._cost_per_patch(n, stride), -n))

    def _cost_per_patch(self, n_shared, stride):
        """Multiplications for a patch of a large image, the first layers being shared."""
        shared, own = self.maps[:n_shared], self.maps[n_shared:]
        cost = sum(layer.cost * prod(layer.size) for layer in own)
        if shared:
            pixels = prod(_phases(stride, shared[-1].stride)) * prod(stride)
            cost += sum(layer.cost * pixels / prod(layer.stride) for layer in shared)
        return cost

    def numbers_at_once(self, stride, n_patches):
        """How many the windows of shared maps are, of an image with so many patches."""
        n_shared = self._n_shared(stride)
        if n_shared in (0, len(self.maps)):
            return 0
        return n_patches * self.maps[n_shared - 1].channels * prod(self.maps[n_shared - 1].size)

    def forward_dense(self, images, stride):
        """Features of all patches of whole images, overlapping work done once.

        The first layers go over the whole image, as many as that saves work in; of their maps each
        patch has a window, from which the other layers go on. Where the stride is a multiple
        of the maps', one pass over the image has all patches. Else every so many patches are as
        far apart as the maps' pixels, and there is a pass for each of these phases.

        Parameters
        ----------
        images : Tensor of shape (batch, channels, height, width)
            The part of the images that the grid covers.
        stride : (int, int)
            Distance of neighbouring patches.

        Returns
        -------
        features : Tensor of shape (batch, rows, cols, n_components)
        """
        n_shared = max(1, self._n_shared(stride))
        total = self.maps[n_shared - 1].stride
        phases = _phases(stride, total)
        step = [s // gcd(s, t) for s, t in zip(stride, total, strict=True)]
        sizes = zip(images.shape[2:], self.patch_size, stride, strict=True)
        shape = [(size - patch) // s + 1 for size, patch, s in sizes]
        (down, across), (n_down, n_across) = stride, phases
        parts = {
            (i, j): self._convolved(images[:, :, i * down :, j * across :], step, n_shared)
            for i in range(min(n_down, shape[0]))
            for j in range(min(n_across, shape[1]))
        }
        if len(parts) == 1:
            return parts[0, 0]
        features = parts[0, 0].new_empty(images.shape[0], *shape, self.n_components)
        for (i, j), part in parts.items():
            features[:, i::n_down, j::n_across] = part
        return features

    def _convolved(self, images, step, n_shared):
        """Features of the windows of an image that are `step` map pixels apart."""
        n_modules = len(self.body) // len(self.maps)
        first, rest = self.body[: n_modules * n_shared], self.body[n_modules * n_shared :]
        maps = first(images.contiguous(memory_format=torch.channels_last))
        if not len(rest):
            maps = F.relu(F.conv2d(maps, self.head.weight, self.head.bias, stride=step))
            return maps.permute(0, 2, 3, 1)
        (height, width), (down, across) = self.maps[n_shared - 1].size, step
        windows = maps.permute(0, 2, 3, 1).unfold(1, height, down).unfold(2, width, across)
        # One copy, of whole pixels: (n, rows, cols, height, width, channels)
        windows = windows.permute(0, 1, 2, 4, 5, 3).contiguous()
        features = self._features(rest(windows.flatten(0, 2).permute(0, 3, 1, 2)))
        return features.view(*windows.shape[:3], -1)


def _phases(stride, total):
    """How many shifts of a map, down and across, have all places that are a stride apart."""
    return [t // gcd(s, t) for s, t in zip(stride, total, strict=True)]


# Each is called with the images' channels, the patch size and the number of features or None.
ENCODERS = {
    "conv": ConvEncoder,
    "dictionary": DictionaryEncoder,
    "resnet18": partial(ResNetEncoder, depth=18),
    "resnet34": partial(ResNetEncoder, depth=34),
    "resnet50": partial(ResNetEncoder, depth=50),
    "resnet101": partial(ResNetEncoder, depth=101),
    "resnet161": partial(ResNetEncoder, depth=161),
    "wrn28-2": partial(WideResNetEncoder, depth=28, widening=2),
}


def make_encoder(encoder, n_channels, patch_size, n_components, norm="auto"):
    """Build an encoder from its name, or take a user's own.

    Parameters
    ----------
    encoder : str, Module or callable
        A name in `ENCODERS`, or what `adopt_encoder` takes.
    n_channels : int
    patch_size : (int, int)
    n_components : int or None
        None: 1,024 for "conv" and "dictionary", its own width for any other.
    norm : {"auto", "none", "group", "layer", "frozen"}, default="auto"
        Of a residual network. "auto": "layer". For a user's own "auto" or "frozen", see
        `adopt_encoder`.

    Raises
    ------
    ValueError
        If a name is unknown, or a norm is asked for that the encoder does not have.
    """
    if not isinstance(encoder, str):
        if norm not in ("auto", "frozen"):
            raise ValueError(
                f"encoder_norm={norm!r} must be 'auto' or 'frozen' with an encoder of your own; "
                "build that with the norm that you want."
            )
        return adopt_encoder(encoder, n_channels, patch_size, n_components, norm == "frozen")
    check_name("encoder", encoder, ENCODERS)
    if norm == "frozen":
        raise ValueError(
            "encoder_norm='frozen' is for an encoder of your own that was trained, and "
            f"encoder={encoder!r} starts anew; pass encoder_norm='auto', or a module."
        )
    check_name("encoder_norm", norm, ("auto", *NORMS))
    if encoder == "conv":
        if norm not in ("auto", "layer"):
            raise ValueError(
                f"encoder_norm={norm!r} must be 'auto' or 'layer' with encoder='conv', whose "
                "patches are evaluated together; pass one of these, or a ResNet."
            )
        return ConvEncoder(n_channels, patch_size, n_components or 1024)
    if encoder == "dictionary":
        if norm != "auto":
            raise ValueError(
                f"encoder_norm={norm!r} must be 'auto' with encoder='dictionary', which has a "
                "single layer; pass that, or a ResNet."
            )
        return DictionaryEncoder(n_channels, patch_size, n_components or 1024)
    norm = "layer" if norm == "auto" else norm
    return ENCODERS[encoder](n_channels, patch_size, n_components, norm=norm)
