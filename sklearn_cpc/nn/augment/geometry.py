"""Moves and deformations of patches: each its own, all in one sampling."""

import math
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F

from ..constants import constant

# AutoAugment's grey, 128 of 255.
GREY = 128 / 255
# P. Simard et al., "Best Practices for Convolutional Neural Networks Applied to Visual Document
# Analysis", 2003: noise smoothed with sigma = 4 pixels of 29.
ELASTIC_SIGMA = 4 / 29
# Standard deviation of the displacements: their alpha = 34 on uniform noise, 1.38 pixels of 29.
ELASTIC_SIZE = 1.38 / 29
KNOTS = 8
LARGEST_SHEAR = 0.2


def chance(n, probability, device, generator):
    return torch.rand(n, device=device, generator=generator) < probability


def shifted(n, side, amount, device, generator, limit=None):
    """Pixel indices of n axes of this length, each moved by a random whole number."""
    reach = min(round(amount * side), side if limit is None else limit)
    moves = torch.randint(-reach, reach + 1, (n, 1), device=device, generator=generator)
    return torch.arange(side, device=device) + moves


def cropped(n, side, amount, device, generator):
    """Pixel indices of n axes that show a random window, centred, its ends repeated."""
    cut = min(round(amount * side), side - 1)
    first = torch.randint(0, cut + 1, (n, 1), device=device, generator=generator)
    place = torch.arange(side, device=device) - cut // 2
    return first + place.clamp_(0, side - cut - 1)


def mirror(index, side):
    period = max(1, 2 * (side - 1))
    index = index.remainder(period)
    return torch.where(index < side, index, period - index)


def gather(x, rows, cols):
    """x[i, :, rows[i], cols[i]] for all i in one indexing."""
    n, n_channels = x.shape[:2]
    which = torch.arange(n, device=x.device).view(-1, 1, 1, 1)
    channel = torch.arange(n_channels, device=x.device).view(1, -1, 1, 1)
    return x[which, channel, rows[:, None, :, None], cols[:, None, None, :]]


def centred(side, like):
    """Distances of the pixels' centres from the middle of an axis."""
    return constant(tuple(i + 0.5 - side / 2 for i in range(side)), like)


# The map that changes nothing, and what a move adds to it for each unit of its magnitude.
_SAME = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
_TURNED = ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0))


def shear_x(rate):
    return _changed(rate, ((0.0, 1.0, 0.0), (0.0, 0.0, 0.0)))


def shear_y(rate):
    return _changed(rate, ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0)))


def translate_x(share):
    return _changed(share, ((0.0, 0.0, 1.0), (0.0, 0.0, 0.0)))


def translate_y(share):
    return _changed(share, ((0.0, 0.0, 0.0), (0.0, 0.0, 1.0)))


def rotate(degrees):
    """Counter-clockwise, as the eye sees it."""
    angle = (degrees * (math.pi / 180))[:, None, None]
    return angle.cos() * constant(_SAME, degrees) + angle.sin() * constant(_TURNED, degrees)


def _changed(amount, direction):
    """(n, 2, 3): from (x, y, 1) of the result to x and y in the patch."""
    return constant(_SAME, amount) + amount[:, None, None] * constant(direction, amount)


def affine(patches, matrices, fill=GREY):
    """Read each patch through its own affine map, linear between pixels, `fill` outside.

    Parameters
    ----------
    patches : Tensor of shape (n, channels, height, width)
    matrices : Tensor of shape (n, 2, 3)
        A pixel at (x, y) from the middle of the result is read at M (x, y, 1) from the middle of
        the patch, the last column in widths and heights.
    fill : float
    """
    height, width = patches.shape[2:]
    x, y = centred(width, patches), centred(height, patches)[:, None]
    scale = constant(((2 / width, 2 / width, 2.0), (2 / height, 2 / height, 2.0)), matrices)
    a, b, c = (matrices * scale)[:, :, None, None].unbind(4)  # each (n, 2, 1, 1)
    places = (a * x + c) + b * y  # (n, 2, height, width)
    read = _sample(patches, places)
    across, down = places.abs().unbind(1)
    is_inside = torch.maximum(across, down).le_(1)[:, None]
    # As where(is_inside, read, fill), several times as fast.
    return read.mul_(is_inside).add_(is_inside.mul(-fill).add_(fill))


def deform(patches, shears, displacements):
    """Shear each patch in both directions and displace its pixels, the border's repeated.

    Parameters
    ----------
    patches : Tensor of shape (n, channels, height, width)
    shears : Tensor of shape (n, 2)
        Rates along x and y.
    displacements : Tensor of shape (n, 2, height, width)
        Along x in widths and along y in heights, added to where a pixel is read.
    """
    height, width = patches.shape[2:]
    x, y = centred(width, patches), centred(height, patches)[:, None]
    rate_x, rate_y = shears[:, :, None, None].unbind(1)
    across = x * (2 / width) + rate_x * (2 / width) * y
    down = y * (2 / height) + rate_y * (2 / height) * x
    return _sample(patches, torch.stack([across, down], 1).add_(displacements, alpha=2))


def _sample(patches, places):
    """Read each patch at (n, 2, height, width) places from -1 to 1."""
    places = places.permute(0, 2, 3, 1)
    read = F.grid_sample(patches, places, padding_mode="border", align_corners=False)
    return read.clamp_(0, 1)  # The weights of four pixels add up to 1 but for rounding.


def elastic_displacements(noise, height, width):
    """Smooth displacements of every pixel from independent numbers on a coarse grid.

    Parameters
    ----------
    noise : Tensor of shape (n, 2, rows, cols)
        Of unit variance.
    height, width : int
        Pixels of a patch.

    Returns
    -------
    displacements : Tensor of shape (n, 2, height, width)
        In widths (x, first) and heights, of standard deviation `ELASTIC_SIZE` at every pixel.
    """
    down = constant(_smoothing(height, noise.shape[2]), noise)
    across = constant(_smoothing(width, noise.shape[3]), noise)
    # Two products of large matrices rather than one or two of small ones for each patch.
    smooth = (noise.transpose(2, 3) @ (ELASTIC_SIZE * down).T).transpose(2, 3)
    return smooth.contiguous() @ across.T


@lru_cache
def _smoothing(side, n_knots):
    """(side, n_knots): Gaussian weights of knots, rows of unit length, which keeps the variance."""
    pixels, knots = ((np.arange(n) + 0.5) / n for n in (side, n_knots))
    weights = np.exp(-((pixels[:, None] - knots) ** 2) / (2 * ELASTIC_SIGMA**2))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return tuple(map(tuple, weights.tolist()))


def cutout(patches, squares):
    """Cover a square of each patch with grey.

    Parameters
    ----------
    patches : Tensor of shape (n, channels, height, width)
    squares : Tensor of shape (n, 3)
        Side as a share of the shorter side of the patch, and the middle as shares of height and
        width; what lies outside is cut off.
    """
    height, width = patches.shape[2:]
    sides = constant((float(height), float(width)), squares)
    size = (squares[:, :1] * min(height, width)).round_()
    # Of both axes side by side.
    first = (squares[:, 1:] * sides).floor_().sub_((size / 2).floor_())
    # A side of 0 covers nothing, as no distance from the middle is below 0.
    reach = (size - 1) / 2
    middle = first.add_(reach - (sides - 1) / 2)
    middle = torch.cat([middle[:, :1].expand(-1, height), middle[:, 1:].expand(-1, width)], 1)
    places = torch.cat([centred(height, squares), centred(width, squares)])
    rows, cols = (places - middle).abs_().le_(reach).split([height, width], 1)
    is_covered = rows[:, None, :, None] * cols[:, None, None]
    return patches.mul_(1 - is_covered).add_(is_covered, alpha=GREY)
