"""Pre-activation residual encoders, for patches of a few pixels up to hundreds."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recomputed

from .layers import he_init_, make_norm
from .names import check_name

__all__ = ["ResNetEncoder", "WideResNetEncoder"]

# Shortest side of a patch, in pixels, from which on the stem is that of large images.
LARGE_PATCH = 48


class _PreActBlock(nn.Module):
    """Basic (n_inner = n_out) or bottleneck (n_inner < n_out) residual block, pre-activation."""

    def __init__(self, n_in, n_inner, n_out, stride, norm):
        super().__init__()
        self.norm = make_norm(norm, n_in)
        if n_inner == n_out:
            shapes = [(n_in, n_inner, 3, stride), (n_inner, n_out, 3, 1)]
        else:
            shapes = [(n_in, n_inner, 1, 1), (n_inner, n_inner, 3, stride), (n_inner, n_out, 1, 1)]
        layers = []
        for i, (a, b, kernel, step) in enumerate(shapes):
            layers += [make_norm(norm, a), nn.ReLU()] if i else []
            layers += [nn.Conv2d(a, b, kernel, step, kernel // 2, bias=norm == "none")]
        self.residual = nn.Sequential(*layers)
        needs_projection = stride != 1 or n_in != n_out
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride, bias=False) if needs_projection else None
        self.scale = nn.Parameter(torch.ones(1)) if norm == "none" else None

    def start_small_(self, n_blocks):
        """Let the sum of all blocks begin at the scale of one."""
        with torch.no_grad():
            start = self.residual[-1].weight if self.scale is None else self.scale
            start.mul_(n_blocks**-0.5)

    def forward(self, x):
        h = F.relu(self.norm(x))
        residual = self.residual(h)
        if self.scale is not None:
            residual = self.scale * residual
        return residual + (x if self.shortcut is None else self.shortcut(h))


class _PreActResNet(nn.Module):
    """A stem, stages of blocks, a last norm, and the mean over the patch.

    `stages` holds the number of blocks, their inner and their outer width for each stage.
    """

    def __init__(self, n_channels, patch_size, n_components, stem, stages, norm, checkpoint):
        super().__init__()
        self.patch_size = tuple(patch_size)
        self.checkpoint = checkpoint
        bias = norm == "none"
        if min(self.patch_size) < LARGE_PATCH:
            layers = [nn.Conv2d(n_channels, stem, 3, 1, 1, bias=bias)]
        else:
            layers = [nn.Conv2d(n_channels, stem, 7, 2, 3, bias=bias), nn.MaxPool2d(3, 2, 1)]
        n_in, blocks = stem, []
        for stage, (n_blocks, n_inner, n_out) in enumerate(stages):
            for i in range(n_blocks):
                stride = 2 if stage and not i else 1
                blocks.append(_PreActBlock(n_in, n_inner, n_out, stride, norm))
                n_in = n_out
        self.body = nn.Sequential(*layers, *blocks, make_norm(norm, n_in), nn.ReLU())
        self.n_components = n_components or n_in
        self.head = nn.Linear(n_in, self.n_components) if self.n_components != n_in else None
        he_init_(self)
        for block in blocks:
            block.start_small_(len(blocks))

    def forward(self, patches):
        maps = patches.contiguous(memory_format=torch.channels_last)
        if self.checkpoint and torch.is_grad_enabled():
            for layer in self.body:
                maps = _recomputed(layer, maps) if isinstance(layer, _PreActBlock) else layer(maps)
        else:
            maps = self.body(maps)
        features = maps.mean((2, 3))
        return features if self.head is None else F.relu(self.head(features))


def _recomputed(block, maps):
    # The blocks draw nothing at random.
    return recomputed(block, maps, use_reentrant=False, preserve_rng_state=False)


class ResNetEncoder(_PreActResNet):
    """Pre-activation ResNet up to its third stage, mean-pooled over the patch.

    BatchNorm, whose statistics leak from patch to patch, has no place in it. Patches below
    48 pixels keep their resolution in the stem (3x3, stride 1); larger ones get the 7x7 stem of
    stride 2 and the pooling of the original.

    Depth 161 is the network of CPC v2: ResNet-101 whose third stage has 46 blocks of 4,096 channels
    with bottlenecks of 512 in place of 23 blocks of 1,024 with 256. Its weights by hand, at three
    channels and 7x7 in the stem: 46 * (4096 * 512 + 9 * 512**2 + 512 * 4096) = 301.5 million in the
    third stage, which the first block changes by 0.3 million (512 channels in, and a projection);
    1.4 million in the two stages before it and the stem; 0.5 million in the norms: 303.6 million,
    of the 305 million that are quoted for it. (1 + 3 * (3 + 4 + 46) layers, and one for the
    classifier, are 161.)

    Parameters
    ----------
    n_channels : int
        Channels of the images.
    patch_size : (int, int)
        Rows and columns of a patch.
    n_components : int or None, default=None
        Number of features. None: the width of the third stage (256; 1,024 with bottlenecks; 4,096
        at depth 161); another number adds a linear, rectified layer.
    depth : {18, 34, 50, 101, 161}, default=18
        Number of layers of the full network that this is a part of.
    norm : {"none", "group", "layer"}, default="layer"
        "layer": over the channels of each pixel. "group": over the pixels of the patch, too, in
        groups of 16 channels. "none": biases, and a learned scale of each residual branch, in
        its place.
    width : int, default=64
        Channels of the stem, to which all others are in proportion.
    checkpoint : bool, default=False
        Keep the blocks' inputs alone for the gradient and compute the rest a second time: less
        memory, a third more time.

    Notes
    -----
    Residual branches start at 1 / sqrt(number of blocks) of He's scale, in their last convolution
    or, without norms, in the learned scale: the variance of their sum does not grow with depth,
    and every weight has a gradient from the first step on.

    References
    ----------
    K. He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016.
    O. Hénaff et al., "Data-Efficient Image Recognition with Contrastive Predictive Coding",
    ICML 2020, https://arxiv.org/abs/1905.09272, section 4.1 (depth 161).
    S. De, S. Smith, "Batch Normalization Biases Residual Blocks Towards the Identity Function in
    Deep Networks", NeurIPS 2020 (scale of the residual branches).

    Examples
    --------
    >>> import torch
    >>> from sklearn_cpc.nn import ResNetEncoder
    >>> ResNetEncoder(1, (8, 8), depth=18, norm="group")(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 256])
    """

    # Blocks of the three stages; the width after each as a multiple of its bottleneck.
    BLOCKS = {
        18: ((2, 2, 2), 1),
        34: ((3, 4, 6), 1),
        50: ((3, 4, 6), 4),
        101: ((3, 4, 23), 4),
        161: ((3, 4, 46), 4),
    }

    def __init__(
        self,
        n_channels,
        patch_size,
        n_components=None,
        *,
        depth=18,
        norm="layer",
        width=64,
        checkpoint=False,
    ):
        check_name("depth", depth, self.BLOCKS)
        blocks, expansion = self.BLOCKS[depth]
        inner = [width, 2 * width, 4 * width]
        outer = [expansion * n for n in inner]
        if depth == 161:
            inner[2], outer[2] = 8 * width, 64 * width
        stages = list(zip(blocks, inner, outer, strict=True))
        super().__init__(n_channels, patch_size, n_components, width, stages, norm, checkpoint)


class WideResNetEncoder(_PreActResNet):
    """Wide ResNet of three groups of basic blocks, mean-pooled over the patch.

    The network of small photographs: a stem of 16 channels, then 16, 32 and 64 times `widening`.
    Patches from 48 pixels on get the stem of `ResNetEncoder` for them, which the original has not.

    Parameters
    ----------
    n_channels : int
        Channels of the images.
    patch_size : (int, int)
        Rows and columns of a patch.
    n_components : int or None, default=None
        Number of features. None: 64 * widening; another number adds a linear, rectified layer.
    depth : int, default=28
        Number of layers, 4 more than a multiple of 6.
    widening : int, default=2
        Factor of the widths.
    norm : {"none", "group", "layer"}, default="layer"
        As for `ResNetEncoder`.
    checkpoint : bool, default=False
        As for `ResNetEncoder`.

    References
    ----------
    S. Zagoruyko, N. Komodakis, "Wide Residual Networks", BMVC 2016.
    """

    def __init__(
        self,
        n_channels,
        patch_size,
        n_components=None,
        *,
        depth=28,
        widening=2,
        norm="layer",
        checkpoint=False,
    ):
        n_blocks, remainder = divmod(depth - 4, 6)
        if n_blocks < 1 or remainder:
            raise ValueError(
                f"depth={depth!r} must be 4 more than a multiple of 6: 10, 16, 22, 28, ...; pass "
                "one of these."
            )
        stages = [(n_blocks, n * widening, n * widening) for n in (16, 32, 64)]
        super().__init__(n_channels, patch_size, n_components, 16, stages, norm, checkpoint)
