"""Changes of pixel values, each patch its own; values in [0, 1] in and out.

`grey` is what becomes of a pixel without its colour: the luma of three channels, else the mean of
the channels.
"""

import math
from functools import lru_cache

import numpy as np
import torch

from ..constants import constant

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
# Of brightness, of the factor of saturation, of hue in turns, and of the factor of contrast: as in
# the training code of Inception (C. Szegedy et al. 2014 give no numbers).
LARGEST_CHANGES = (32 / 255, 0.5, 0.2, 0.5)
# Pieces of the curve of values, and the standard deviation of the logarithm of their steepness.
HISTOGRAM_PIECES, HISTOGRAM_SPREAD = 4, 0.5


def grey_weights(like, n_channels):
    return constant(LUMA if n_channels == 3 else (1 / n_channels,) * n_channels, like)


def grey(patches):
    """(n, channels, ...) -> (n, 1, ...)."""
    if patches.shape[1] != 3:
        return patches.mean(1, keepdim=True)
    red, green, blue = patches.split(1, 1)
    return (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def mean_grey(patches):
    """(n, channels, height, width) -> (n, 1, 1, 1)."""
    means = patches.mean((2, 3)) * grey_weights(patches, patches.shape[1])
    return means.sum(1)[:, None, None, None]


def blend(degenerate, patches, factor):
    """From `degenerate` at factor 0 through the patch at 1 to its exaggeration beyond."""
    factor = factor.view(-1, 1, 1, 1)
    return patches.mul_(factor).add_(degenerate * (1 - factor)).clamp_(0, 1)


def contrast(patches, factor):
    return blend(mean_grey(patches), patches, factor)


def saturation(patches, factor):
    return blend(grey(patches), patches, factor)


def brightness(patches, factor):
    return patches.mul_(factor.view(-1, 1, 1, 1)).clamp_(0, 1)


def sharpness(patches, factor):
    """Against a blur of 3x3 pixels, the middle five times the others; the border stays as it is."""
    if min(patches.shape[2:]) < 3:
        return patches
    height, width = patches.shape[2:]
    # Rows end to end: long sums are faster than many short ones, and what they mix up of the ends
    # of two rows has the weight 0.
    pixels = patches.flatten(2)
    middle = pixels[..., width + 1 : -width - 1]
    down = (pixels[..., : -2 * width] + pixels[..., width:-width]).add_(pixels[..., 2 * width :])
    around = (down[..., :-2] + down[..., 1:-1]).add_(down[..., 2:])
    blurred = around.add_(middle, alpha=4).div_(13)
    column = torch.arange(width + 1, height * width - width - 1, device=patches.device) % width
    is_inner = (column > 0) & (column < width - 1)
    middle.addcmul_(blurred.sub_(middle), (1 - factor).view(-1, 1, 1) * is_inner).clamp_(0, 1)
    return patches


def invert(patches, magnitude=None):
    return patches.neg_().add_(1)


def solarize(patches, threshold):
    """Invert values from the threshold on, which counts in 255ths."""
    # Half a step below: 128 / 255 counts as 128, however it was rounded.
    limit = ((threshold.round() - 0.5) / 255).view(-1, 1, 1, 1)
    # As where(is_above, 1 - patches, patches), several times as fast.
    is_above = (patches - limit).ge_(0)
    return patches.sub_(is_above).abs_()


def posterize(patches, bits):
    """Keep the first so many of the eight bits of each value."""
    step = torch.exp2(8 - bits.round()).view(-1, 1, 1, 1)
    return patches.mul_(255).round_().div_(step).floor_().mul_(step / 255)


def autocontrast(patches, magnitude=None):
    """Stretch each channel to the whole range, unless it has but one value."""
    low, high = patches.amin((2, 3), keepdim=True), patches.amax((2, 3), keepdim=True)
    is_flat = low == high
    span = torch.where(is_flat, 1, high - low)
    return (patches - torch.where(is_flat, 0, low)).div_(span)


def equalize(patches, magnitude=None):
    """Give each value of a channel the share of the channel's pixels that are darker.

    Values count in 255ths, and the brightest becomes 1. ImageOps.equalize has the same rule with
    whole numbers of pixels per step, which leaves patches of less than 256 pixels as they are and
    makes white of much of the next larger ones; the two agree where the pixels are many.
    """
    n_rows = patches.shape[0] * patches.shape[1]
    first = 256 * torch.arange(n_rows, device=patches.device)[:, None]
    levels = (patches * 255).round_().clamp_(0, 255)  # what lies outside is another patch's place
    levels = levels.view(n_rows, -1).long().add_(first).view(-1)
    counts = patches.new_zeros(256 * n_rows)
    counts.scatter_add_(0, levels, counts.new_ones(1).expand_as(levels))
    counts = counts.view(n_rows, 256)
    darker = counts.cumsum(1).sub_(counts).view(-1).index_select(0, levels).view_as(patches)
    most = darker.amax((2, 3), keepdim=True)
    # As where(most > 0, darker / most, patches), several times as fast.
    return patches.mul_(most == 0).add_(darker.div_(most.clamp_(min=1)))


def histogram_curves(noise):
    """Rising curves through (0, 0) and (1, 1), in pieces of random steepness.

    Parameters
    ----------
    noise : Tensor of shape (n, channels, pieces)
        Of unit variance.

    Returns
    -------
    knots : Tensor of shape (n, channels, pieces + 1)
        Values of the curves at equal distances.
    """
    rise = (HISTOGRAM_SPREAD * noise).softmax(2)
    return torch.cat([torch.zeros_like(rise[:, :, :1]), rise.cumsum(2)], 2)


def change_histogram(patches, knots):
    """Map the values of each channel by a curve, linear between its knots."""
    pieces = knots.shape[2] - 1
    place = patches * pieces
    changed = torch.zeros_like(patches)
    # As far as a value has come through each piece: no search for its own.
    for i, step in enumerate(knots.diff(dim=2)[..., None, None].unbind(2)):
        changed.addcmul_((place - i).clamp_(0, 1), step)
    return changed.clamp_(0, 1)


@lru_cache(maxsize=1)
def _chroma():
    """(3, 3): a pixel to its channels less luma, and these turned by 90 degrees of Cb and Cr."""
    luma = np.array(LUMA)
    to_chroma = np.eye(3) - luma
    cb = to_chroma[2] / (2 * (1 - luma[2]))
    cr = to_chroma[0] / (2 * (1 - luma[0]))
    basis = np.stack([luma, cb, cr])
    quarter = np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]])
    turned = np.linalg.inv(basis) @ quarter @ basis
    return tuple(tuple(map(tuple, matrix.tolist())) for matrix in (to_chroma, turned))


def change_colour(patches, settings):
    """Brightness, saturation, hue and contrast of each patch, in any order: it makes no difference.

    Values are clipped at the end only, and so each step is affine in a pixel's channels. Saturation
    and hue scale and turn the plane of colours and leave grey and luma alone; contrast scales
    everything about the mean luma, which brightness moves with the rest. The four together are
    one matrix and one number to add, and pixels are read once.

    Parameters
    ----------
    patches : Tensor of shape (n, channels, height, width)
    settings : Tensor of shape (n, 4)
        What is added; the factor of saturation, less 1; a part of a turn (three channels only);
        the factor of contrast, less 1. At zeros nothing changes, to the last bit.
    """
    M, b = colour_changes(patches, settings)
    return mixed(patches.flatten(2), M, b).view_as(patches)


def colour_changes(patches, settings):
    """What `change_colour` multiplies pixels by, (n, channels, channels), and adds, (n, 1, 1)."""
    n_channels = patches.shape[1]
    added, saturated, turns, contrasted = settings[:, :, None, None].unbind(1)  # (n, 1, 1)
    identity = torch.eye(n_channels, device=patches.device, dtype=patches.dtype)
    if n_channels == 3:
        to_chroma, quarter = (constant(matrix, patches) for matrix in _chroma())
        angle = 2 * math.pi * turns
        M = ((1 + saturated) * angle.cos() - 1) * to_chroma
        M = identity + M + (1 + saturated) * angle.sin() * quarter
    else:
        M = identity + saturated * (identity - 1 / n_channels)
    M = (1 + contrasted) * M
    return M, added - contrasted * mean_grey(patches)[:, 0]


def mixed(pixels, matrices, added):
    """Channels out of the (n, channels, pixels) of patches, each patch by its own matrix."""
    # Faster than baddbmm, which first writes what is added to every pixel.
    return torch.bmm(matrices, pixels).add_(added).clamp_(0, 1)
