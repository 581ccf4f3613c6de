"""The sixteen primitives of AutoAugment, on all patches of a batch at once."""

import torch

from . import colour, geometry
from .blocks import in_blocks

__all__ = ["PRIMITIVES", "apply_primitives"]

# Cubuk et al. let images of 331 pixels move by 150 and cover up to 60: as shares of a patch.
_TRANSLATE, _CUTOUT = 150 / 331, 60 / 331

# E. Cubuk et al., "AutoAugment: Learning Augmentation Policies from Data", CVPR 2019, Table 6:
# operation, and the ends of the range from which its magnitude is drawn.
_MOVES = {
    "ShearX": (geometry.shear_x, -0.3, 0.3),
    "ShearY": (geometry.shear_y, -0.3, 0.3),
    "TranslateX": (geometry.translate_x, -_TRANSLATE, _TRANSLATE),
    "TranslateY": (geometry.translate_y, -_TRANSLATE, _TRANSLATE),
    "Rotate": (geometry.rotate, -30.0, 30.0),
}
_CHANGES = {
    "AutoContrast": (colour.autocontrast, 0.0, 0.0),
    "Invert": (colour.invert, 0.0, 0.0),
    "Equalize": (colour.equalize, 0.0, 0.0),
    "Solarize": (colour.solarize, 0.0, 256.0),
    "Posterize": (colour.posterize, 4.0, 8.0),
    "Contrast": (colour.contrast, 0.1, 1.9),
    "Color": (colour.saturation, 0.1, 1.9),
    "Brightness": (colour.brightness, 0.1, 1.9),
    "Sharpness": (colour.sharpness, 0.1, 1.9),
    "Cutout": (geometry.cutout, (0.0, 0.0, 0.0), (_CUTOUT, 1.0, 1.0)),
}
_PAIRING = 0.4

PRIMITIVES = (*_MOVES, *_CHANGES, "SamplePairing")


def apply_primitives(patches, names, n_primitives, generator=None):
    """Change each patch by different primitives, drawn for it, one after the other.

    Parameters
    ----------
    patches : Tensor of shape (n, channels, height, width)
        In [0, 1].
    names : sequence of str
        Primitives to draw from, of `PRIMITIVES`.
    n_primitives : int
        How many for each patch, at most len(names).
    generator : torch.Generator or None, default=None

    Returns
    -------
    changed : Tensor of the same shape, in [0, 1]
    """
    n = len(patches)
    if n == 0:
        return patches
    names = sorted(names, key=PRIMITIVES.index)
    rank = torch.rand(n, len(names), device=patches.device, generator=generator)
    for _ in range(n_primitives):
        kinds = rank.argmax(1)
        rank.scatter_(1, kinds[:, None], -1)
        u = torch.rand(n, 3, device=patches.device, generator=generator)
        partners = _partners(patches, generator) if "SamplePairing" in names else None
        patches = _one_each(patches, names, kinds, u, partners)
    return patches


def _partners(patches, generator):
    """Patches at least a quarter of the batch away: of another image, if the images are four."""
    n = len(patches)
    offset = torch.randint(n // 4, n - n // 4 + 1, (1,), device=patches.device, generator=generator)
    index = torch.arange(n, device=patches.device)
    return patches[(index + offset) % max(n, 1)]


def _one_each(patches, names, kinds, u, partners):
    """Bring the patches of each primitive together, change them, and bring them back."""
    order = kinds.argsort(stable=True)
    counts = kinds.bincount(minlength=len(names)).tolist()
    alike, u = patches.index_select(0, order), u.index_select(0, order)
    groups = zip(names, alike.split(counts), u.split(counts), order.split(counts), strict=True)
    n_moved, matrices, changed = 0, [], []
    for name, before, own_u, own in groups:
        if not len(own):
            continue
        if name in _MOVES:
            n_moved += len(own)
            matrices.append(_MOVES[name][0](_magnitude(_MOVES[name], own_u)))
        elif name in _CHANGES:
            function = _CHANGES[name][0]
            changed.append(in_blocks(function, before, _magnitude(_CHANGES[name], own_u)))
        else:
            share = _PAIRING * own_u[:, :1, None, None]
            changed.append(torch.lerp(before, partners.index_select(0, own), share))
    if n_moved:
        # Moves are the first in the order of names: the first patches, in one sampling.
        changed.insert(0, in_blocks(geometry.affine, alike[:n_moved], torch.cat(matrices)))
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return torch.cat(changed).index_select(0, back)


def _magnitude(primitive, u):
    """(n,), or as many columns as the ends of the range have numbers."""
    _, low, high = primitive
    if isinstance(low, float):
        return low + (high - low) * u[:, 0]
    return torch.lerp(u.new_tensor(low), u.new_tensor(high), u)
