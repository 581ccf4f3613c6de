"""The sixteen primitives of AutoAugment, on all patches of a batch at once."""

import torch

from ..constants import constant
from . import colour, geometry
from .rows import change_rows

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


def apply_primitives(patches, names, n_primitives, generator=None, *, among=None):
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
    among : (Tensor, Tensor) or None, default=None
        Where these are some of more patches: all of them, from which "SamplePairing" takes its
        partners, and the row of each of these there.

    Returns
    -------
    changed : Tensor of the same shape, in [0, 1]
    """
    n = len(patches)
    names = sorted(names, key=PRIMITIVES.index)
    rank = torch.rand(n, len(names), device=patches.device, generator=generator)
    kinds = []
    for _ in range(n_primitives):
        kinds.append(rank.argmax(1))  # faster than topk, which sorts
        rank.scatter_(1, kinds[-1][:, None], -1)
    counts = torch.stack([own.bincount(minlength=len(names)) for own in kinds]).tolist()
    changed = torch.empty_like(patches, memory_format=torch.contiguous_format)
    for own, n_each in zip(kinds, counts, strict=True):
        u = torch.rand(n, 3, device=patches.device, generator=generator)
        partners = None
        groups = dict(zip(names, own.argsort(stable=True).split(n_each), strict=True))
        if "SamplePairing" in groups:
            everyone, rows = patches, groups["SamplePairing"]
            if among is not None:
                everyone, rows = among[0], among[1].index_select(0, rows)
            partners = everyone.index_select(0, _far_away(rows, len(everyone), generator))
        patches = _one_each(patches, groups, u, partners, changed)
    return patches


def _far_away(rows, n, generator):
    """Patches at least a quarter of the batch away: of another image, if the images are four."""
    offset = torch.randint(n // 4, n - n // 4 + 1, (1,), device=rows.device, generator=generator)
    return (rows + offset) % max(n, 1)


def _one_each(patches, groups, u, partners, into):
    """Write the changed patches of each primitive; `partners` are those of "SamplePairing"."""
    u = u.index_select(0, torch.cat(list(groups.values())))
    settings = dict(zip(groups, u.split([len(own) for own in groups.values()]), strict=True))

    moves = [name for name in groups if name in _MOVES]
    if moves:
        matrices = [_MOVES[name][0](_magnitude(_MOVES[name], settings[name])) for name in moves]
        own = torch.cat([groups.pop(name) for name in moves])
        change_rows(patches, own, geometry.affine, torch.cat(matrices), into=into)
    for name, own in groups.items():
        if name in _CHANGES:
            magnitude = _magnitude(_CHANGES[name], settings[name])
            change_rows(patches, own, _CHANGES[name][0], magnitude, into=into)
        else:
            share = _PAIRING * settings[name][:, :1, None, None]
            change_rows(patches, own, torch.lerp, partners, share, into=into)
    return into


def _magnitude(primitive, u):
    """(n,), or as many columns as the ends of the range have numbers."""
    _, low, high = primitive
    if isinstance(low, float):
        u = u[:, 0]
    return torch.lerp(constant(low, u), constant(high, u), u)
