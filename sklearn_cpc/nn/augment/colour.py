"""Changes of pixel values, each patch its own; values in [0, 1] in and out.

`grey` is what becomes of a pixel without its colour: the luma of three channels, else the mean of
the channels.
"""

import math

import torch

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
# Of brightness, of the factor of saturation, of hue in turns, and of the factor of contrast: as in
# the training code of Inception (C. Szegedy et al. 2014 give no numbers).
LARGEST_CHANGES = (32 / 255, 0.5, 0.2, 0.5)
# Pieces of the curve of values, and the standard deviation of the logarithm of their steepness.
HISTOGRAM_PIECES, HISTOGRAM_SPREAD = 4, 0.5


def grey_weights(like, n_channels):
    weights = LUMA if n_channels == 3 else [1 / n_channels] * n_channels
    return torch.tensor(weights, device=like.device, dtype=like.dtype)


def grey(patches):
    """(n, channels, height, width) -> (n, 1, height, width)."""
    if patches.shape[1] != 3:
        return patches.mean(1, keepdim=True)
    return (patches * grey_weights(patches, 3)[:, None, None]).sum(1, keepdim=True)


def blend(degenerate, patches, factor):
    """From `degenerate` at factor 0 through the patch at 1 to its exaggeration beyond."""
    factor = factor.view(-1, 1, 1, 1)
    return (patches * factor).add_(degenerate * (1 - factor)).clamp_(0, 1)


def contrast(patches, factor):
    return blend(grey(patches).mean((2, 3), keepdim=True), patches, factor)


def saturation(patches, factor):
    return blend(grey(patches), patches, factor)


def brightness(patches, factor):
    return (patches * factor.view(-1, 1, 1, 1)).clamp_(0, 1)


def sharpness(patches, factor):
    """Against a blur of 3x3 pixels, the middle five times the others; the border stays as it is."""
    if min(patches.shape[2:]) < 3:
        return patches
    down = patches[:, :, :-2] + patches[:, :, 1:-1] + patches[:, :, 2:]
    around = down[..., :-2] + down[..., 1:-1] + down[..., 2:]
    inner = patches[:, :, 1:-1, 1:-1]
    sharp = blend((around + 4 * inner) / 13, inner, factor)
    out = patches.clone()
    out[:, :, 1:-1, 1:-1] = sharp
    return out


def invert(patches, magnitude=None):
    return 1 - patches


def solarize(patches, threshold):
    """Invert values from the threshold on, which counts in 255ths."""
    # Half a step below: 128 / 255 counts as 128, however it was rounded.
    limit = ((threshold.round() - 0.5) / 255).view(-1, 1, 1, 1)
    return torch.where(patches < limit, patches, 1 - patches)


def posterize(patches, bits):
    """Keep the first so many of the eight bits of each value."""
    step = torch.exp2(8 - bits.round()).view(-1, 1, 1, 1)
    return ((patches * 255).round_() / step).floor_() * (step / 255)


def autocontrast(patches, magnitude=None):
    """Stretch each channel to the whole range, unless it has but one value."""
    low, high = patches.amin((2, 3), keepdim=True), patches.amax((2, 3), keepdim=True)
    span = high - low
    stretched = (patches - low) / torch.where(span > 0, span, 1)
    return torch.where(span > 0, stretched, patches).clamp_(0, 1)


def equalize(patches, magnitude=None):
    """Give each value of a channel the share of the channel's pixels that are darker.

    Values count in 255ths, and the brightest becomes 1. ImageOps.equalize has the same rule with
    whole numbers of pixels per step, which leaves patches of less than 256 pixels as they are and
    makes white of much of the next larger ones; the two agree where the pixels are many.
    """
    levels = (patches * 255).round_().long().flatten(2)  # (n, channels, pixels)
    counts = patches.new_zeros(*levels.shape[:2], 256)
    counts.scatter_add_(2, levels, torch.ones_like(patches).flatten(2))
    darker = (counts.cumsum(2) - counts).gather(2, levels).view_as(patches)
    most = darker.amax((2, 3), keepdim=True)
    return torch.where(most > 0, darker / most.clamp(min=1), patches)


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
    place = patches.flatten(2) * pieces
    piece = place.long().clamp_(0, pieces - 1)
    steps = knots.diff(dim=2)
    # A line for each piece: value = offset + rise * place.
    offset = knots[:, :, :-1] - steps * torch.arange(pieces, device=knots.device)
    changed = torch.addcmul(offset.gather(2, piece), steps.gather(2, piece), place)
    return changed.view_as(patches).clamp_(0, 1)


def hue_matrices(turns, like):
    """(n, 3, 3): rotations of the plane of Cb and Cr, luma kept."""
    to_grey = grey_weights(like, 3).double()
    luma = to_grey.expand(3, 3)
    to_chroma = torch.eye(3, dtype=torch.float64, device=like.device) - luma  # channel - luma
    cb = to_chroma[2] / (2 * (1 - to_grey[2]))
    cr = to_chroma[0] / (2 * (1 - to_grey[0]))
    basis = torch.stack([to_grey, cb, cr])
    quarter = basis.new_tensor([[0, 0, 0], [0, 0, -1], [0, 1, 0]])
    quarter = (torch.linalg.inv(basis) @ quarter @ basis).to(like.dtype)
    angle = (2 * math.pi * turns).view(-1, 1, 1)
    identity = torch.eye(3, dtype=like.dtype, device=like.device)
    # Exactly the identity at no turn.
    return identity + (angle.cos() - 1) * to_chroma.to(like.dtype) + angle.sin() * quarter


def change_colour(patches, order, settings):
    """Brightness, saturation, hue and contrast of each patch, in an order of its own.

    Each step is affine in a pixel's channels, and so is their sequence: small matrices are
    multiplied, and the pixels are read once. Values are clipped at the end only.

    Parameters
    ----------
    patches : Tensor of shape (n, channels, height, width)
    order : Tensor of shape (n, 4)
        Each row a permutation of 0 (brightness), 1 (saturation), 2 (hue), 3 (contrast).
    settings : Tensor of shape (n, 4)
        What is added; the factor of saturation, less 1; a part of a turn (three channels only);
        the factor of contrast, less 1. At zeros nothing changes, to the last bit.
    """
    n, n_channels = patches.shape[:2]
    added, saturated, turns, contrasted = settings[:, :, None, None].unbind(1)  # (n, 1, 1)
    to_grey = grey_weights(patches, n_channels)
    identity = torch.eye(n_channels, device=patches.device, dtype=patches.dtype)
    unchanged = identity.expand(n, -1, -1)
    steps = [
        unchanged,
        identity + saturated * (identity - to_grey),
        hue_matrices(turns, patches) if n_channels == 3 else unchanged,
        (1 + contrasted) * identity,
    ]
    steps = torch.stack(steps, 1)  # (n, 4, channels, channels)
    mean = patches.mean((2, 3))[:, :, None]  # (n, channels, 1)
    M, b = unchanged, torch.zeros_like(mean)
    which = torch.arange(n, device=patches.device)
    for kind in order.unbind(1):
        step = steps[which, kind]
        kind = kind.view(-1, 1, 1)
        grey_level = (to_grey[:, None] * mean).sum(1, keepdim=True)
        shift = added * (kind == 0) - contrasted * grey_level * (kind == 3)
        M, b, mean = step @ M, step @ b + shift, step @ mean + shift
    # Faster than baddbmm, which first writes b to every pixel.
    return torch.bmm(M, patches.flatten(2)).add_(b).clamp_(0, 1).view_as(patches)
