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
# The lower and the upper ends of the ranges, three numbers each.
_ENDS = tuple(
    {
        name: row[i] if isinstance(row[i], tuple) else (row[i],) * 3
        for name, row in (_MOVES | _CHANGES | {"SamplePairing": (None, 0.0, _PAIRING)}).items()
    }
    for i in (1, 2)
)


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
    # Not bincount, in which a GPU is waited for twice each time.
    counts = torch.zeros(n_primitives, len(names), dtype=torch.long, device=patches.device)
    kinds = torch.stack(kinds)
    counts = counts.scatter_add_(1, kinds, kinds.new_ones(1).expand_as(kinds)).tolist()
    changed = torch.empty_like(patches, memory_format=torch.contiguous_format)
    for own, n_each in zip(kinds, counts, strict=True):
        u = torch.rand(n, 3, device=patches.device, generator=generator)
        order = own.argsort(stable=True)
        groups = dict(zip(names, order.split(n_each), strict=True))
        magnitudes = _magnitudes(names, own.index_select(0, order), u.index_select(0, order))
        settings = dict(zip(names, magnitudes.split(n_each), strict=True))
        partners = None
        if "SamplePairing" in groups:
            everyone, rows = patches, groups["SamplePairing"]
            if among is not None:
                everyone, rows = among[0], among[1].index_select(0, rows)
            partners = everyone.index_select(0, _far_away(rows, len(everyone), generator))
        patches = _one_each(patches, groups, settings, partners, changed)
    return patches


def _far_away(rows, n, generator):
    """Patches at least a quarter of the batch away: of another image, if the images are four."""
    offset = torch.randint(n // 4, n - n // 4 + 1, (1,), device=rows.device, generator=generator)
    return (rows + offset) % max(n, 1)


def _one_each(patches, groups, settings, partners, into):
    """Write the changed patches of each primitive; `partners` are those of "SamplePairing"."""
    moves = [name for name in groups if name in _MOVES]
    if moves:
        matrices = [_MOVES[name][0](settings[name][:, 0]) for name in moves]
        own = torch.cat([groups.pop(name) for name in moves])
        change_rows(patches, own, geometry.affine, torch.cat(matrices), into=into)
    for name, own in groups.items():
        if name in _CHANGES:
            change, low, _ = _CHANGES[name]
            magnitude = settings[name] if isinstance(low, tuple) else settings[name][:, 0]
            change_rows(patches, own, change, magnitude, into=into)
        else:
            share = settings[name][:, :1, None, None]
            change_rows(patches, own, torch.lerp, partners, share, into=into)
    return into


def _magnitudes(names, kinds, u):
    """Of each patch's primitive, names[kind]: (n, 3), of which most use the first column."""
    low, high = (
        constant(tuple(ends[name] for name in names), u).index_select(0, kinds) for ends in _ENDS
    )
    return torch.lerp(low, high, u)
