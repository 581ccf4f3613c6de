"""Encoders and context networks of the user's own: measured, checked and made to fit."""

import copy
import warnings

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from .layers import he_init_, make_group_norm

__all__ = ["AdoptedEncoder", "adopt_context", "adopt_encoder", "name_of"]

# Rounding of another order of sums; a leak is of the size of the outputs themselves.
SAME = 1e-4
# What starts at a constant below this is a gate, or weights behind one.
CLOSED = 0.1
# Rows below which a context is checked, spread over the grid.
MAX_SPLITS = 8


class AdoptedEncoder(nn.Module):
    """A user's network for patches, with the mean over its maps and a head where needed.

    Parameters
    ----------
    body : Module
        Patches (n, channels, height, width) -> (n, width) or (n, width, rows, cols).
    width : int
        Its number of features.
    n_components : int or None, default=None
        Number of features. None: `width`; another number adds a linear, rectified layer.
    """

    def __init__(self, body, width, n_components=None):
        super().__init__()
        self.body = body
        self.n_components = n_components or width
        self.head = nn.Linear(width, self.n_components) if self.n_components != width else None
        if self.head is not None:
            he_init_(self.head)

    def forward(self, patches):
        features = self.body(patches)
        if features.ndim == 4:
            features = features.mean((2, 3))
        return features if self.head is None else F.relu(self.head(features))


class FrozenNorm(nn.Module):
    """A norm over batches with the statistics that it once collected: no batch enters any more.

    Parameters
    ----------
    norm : BatchNorm or InstanceNorm
        With running statistics. Its weights go on learning; the statistics stay.
    """

    def __init__(self, norm):
        super().__init__()
        self.eps = norm.eps
        self.weight, self.bias = norm.weight, norm.bias
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)

    def forward(self, x):
        # In training mode, too, the statistics are those given.
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.weight, self.bias, training=False, eps=self.eps)


def adopt_encoder(encoder, n_channels, patch_size, n_components=None, frozen_norms=False):
    """Make an encoder of a user's module.

    A module that keeps to the rule of encoders, with features in one row and their number in
    `n_components`, is used as it is; any other becomes an `AdoptedEncoder`.

    Parameters
    ----------
    encoder : Module or callable
        A module, which is copied with its weights, or what gives one when called with
        `n_channels`, such as a class.
    n_channels : int
    patch_size : (int, int)
    n_components : int or None, default=None
        None: the module's own number of features, found out by a patch of random numbers.
    frozen_norms : bool, default=False
        Norms over batches keep the statistics that they have collected, so that a pretrained
        network goes on giving what it gives. False: they become GroupNorm.

    Returns
    -------
    encoder : Module

    Raises
    ------
    TypeError
        If it is no module and gives none, or its features are no tensor of floats.
    ValueError
        If it fails on a patch, gives another shape, mixes patches in spite of the conversion, or
        a norm to be frozen has no statistics.

    Warns
    -----
    UserWarning
        If layers with statistics over the batch were converted to GroupNorm.
    """
    what = f"encoder={name_of(encoder)}"
    module = _own(what, encoder, "n_channels", n_channels)
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(3, n_channels, *patch_size, generator=generator)
    width = _measured_width(what, module, patches)  # gives lazy layers their sizes, too
    module, converted = _without_batch_statistics(module, what if frozen_norms else None)
    if converted and not frozen_norms:
        warnings.warn(
            f"{what}: {', '.join(converted)} became GroupNorm with the same weights, because "
            "statistics over a batch of patches leak from one patch to the next, and the loss then "
            "falls without anything being learned; pass an encoder without them to silence this, "
            "or, if it is pretrained, encoder_norm='frozen', which keeps what it has learned.",
            UserWarning,
            stacklevel=2,
        )
        width = _measured_width(what, module, patches)
    _check_patches_apart(what, module, patches)
    if n_components in (None, width) and getattr(module, "n_components", None) == width:
        return module
    return AdoptedEncoder(module, width, n_components)


def adopt_context(context, latent_dim, shape):
    """Make a context network of a user's module.

    Parameters
    ----------
    context : Module or callable
        A module, which is copied with its weights, or what gives one when called with
        `latent_dim`. It maps (batch, rows, cols, latent) to the same shape.
    latent_dim : int
    shape : (int, int)
        Rows and columns of the grid that it is checked on.

    Raises
    ------
    TypeError
        If it is no module and gives none, or its output is no tensor of floats.
    ValueError
        If it fails on a grid, gives another shape, or a row of its output depends on lower rows or
        on other images, in training or after.
    """
    what = f"context={name_of(context)}"
    module = _own(what, context, "latent_dim", latent_dim)
    rows, cols = shape
    generator = torch.Generator().manual_seed(0)
    z, other = torch.randn(2, 1, rows, cols, latent_dim, generator=generator)
    c = _dry_run(what, module, z, f"a grid of {rows}x{cols} latents of width {latent_dim}")
    if c.shape != z.shape:
        raise ValueError(
            f"{what} gave {tuple(c.shape)} for (batch, rows, cols, latent)={tuple(z.shape)}; a "
            "context network must keep the shape."
        )
    splits = torch.linspace(0, rows - 2, min(rows - 1, MAX_SPLITS)).long().tolist()
    # The last image changes as a whole, and the others must not notice.
    below = torch.arange(rows) > torch.tensor([*splits, -1])[:, None]  # (images, rows)
    for mode in (False, True) if rows > 1 else ():
        before = z.expand(len(below), -1, -1, -1)
        after = torch.where(below[:, :, None, None], other, before)
        difference = _difference(module, before, after, mode).amax((2, 3))  # (images, rows)
        seen = difference.masked_fill(below, 0) > SAME
        if seen.any():
            row = seen.nonzero()[0, 1].item()
            raise ValueError(
                f"{what}: row {row} of its output changes with rows below it or other images"
                f"{' in training' if mode else ''}; a context may see its own row and those above "
                "it only: pad on top alone, mask, and use no statistics over rows or images."
            )
    return module


def name_of(value):
    """A short name of a module or of what makes one."""
    if isinstance(value, nn.Module):
        return type(value).__name__
    return getattr(value, "__qualname__", None) or f"{value!r:.100}"


def _own(what, value, argument, number):
    """A module that nobody else holds, on the CPU."""
    if not callable(value):
        raise TypeError(
            f"{what} must be a name, a torch.nn.Module, or a callable that gives one for "
            f"{argument}; pass one of these."
        )
    module = value
    if not isinstance(value, nn.Module):
        try:
            module = value(number)
        except Exception as error:
            raise ValueError(
                f"{what} failed when called with {argument}={number}: {error!r:.300}; pass a "
                f"callable of {argument} alone, such as functools.partial makes, or a module."
            ) from error
    if not isinstance(module, nn.Module):
        raise TypeError(f"{what} gave {module!r:.100}; it must give a torch.nn.Module.")
    # Lazy layers cannot all be copied before they are sized; a factory may hand out one that it
    # keeps.
    is_new = module is not value and any(map(is_lazy, (*module.parameters(), *module.buffers())))
    return (module if is_new else copy.deepcopy(module)).cpu()


@torch.no_grad()
def _dry_run(what, module, x, described):
    """Output in eval mode, which must be a tensor of floats; the generators are left alone."""
    modes = [(m, m.training) for m in module.modules()]
    try:
        with torch.random.fork_rng(devices=[]):
            out = module.eval()(x)
    except Exception as error:
        raise ValueError(
            f"{what} failed on {described}: {error!r:.500}; pass a module that takes them."
        ) from error
    finally:
        for m, mode in modes:
            m.training = mode
    if not isinstance(out, torch.Tensor) or not out.is_floating_point():
        kind = out.dtype if isinstance(out, torch.Tensor) else type(out).__name__
        raise TypeError(f"{what} gave {kind} for {described}; it must give a tensor of floats.")
    return out


def _measured_width(what, module, patches):
    n, n_channels, height, width = patches.shape
    described = f"patches of {height}x{width} pixels and {n_channels} channels"
    shape = tuple(_dry_run(what, module, patches, described).shape)
    if len(shape) not in (2, 4) or shape[0] != n or 0 in shape:
        raise ValueError(
            f"{what} gave features of shape {shape} for {n} {described}; they must be of shape "
            f"({n}, width) or ({n}, width, rows, cols)."
        )
    return shape[1]


def _without_batch_statistics(module, frozen=None):
    """The module with GroupNorm in the place of norms over the batch, and their kinds.

    With `frozen`, the words for the module, the norms keep their statistics instead.
    """
    found = [m for m in module.modules() if _has_batch_statistics(m)]
    norms = {m: _batch_free(m) if frozen is None else _frozen(frozen, m) for m in found}
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if child in norms:
                parent.add_module(name, norms[child])
    kinds = sorted({type(m).__name__ for m in norms})
    return norms.get(module, module), kinds


def _has_batch_statistics(module):
    # Those that InstanceNorm collects serve after training, when it is another network.
    instance = isinstance(module, _InstanceNorm) and module.track_running_stats
    return instance or isinstance(module, _BatchNorm)


def _frozen(what, norm):
    if norm.running_mean is None:
        raise ValueError(
            f"{what}: {type(norm).__name__} has collected no statistics "
            "(track_running_stats=False), and encoder_norm='frozen' keeps those; pass "
            "encoder_norm='auto'."
        )
    return FrozenNorm(norm)


def _batch_free(norm):
    if isinstance(norm, _InstanceNorm):
        twin = nn.GroupNorm(norm.num_features, norm.num_features, norm.eps, norm.affine)
    else:
        twin = make_group_norm(norm.num_features, norm.eps, norm.affine)
    if norm.affine:
        twin.load_state_dict({"weight": norm.weight, "bias": norm.bias})
        for mine, theirs in ((twin.weight, norm.weight), (twin.bias, norm.bias)):
            mine.requires_grad_(theirs.requires_grad)
    return twin.train(norm.training)


def _check_patches_apart(what, module, patches):
    """Refuse statistics of the user's own making; BatchNorm is gone by now."""
    other = patches * 3 + 1
    other[0] = patches[0]
    for mode in (False, True):
        if _difference(module, patches, other, mode)[0].max() > SAME:
            raise ValueError(
                f"{what}: features of a patch change with the other patches of the batch"
                f"{' in training' if mode else ''}; what leaks from patch to patch makes the loss "
                "fall without anything being learned: use no statistics over the batch."
            )


@torch.no_grad()
def _opened(module):
    """A copy whose weights that start at zero let through what they will once they are trained."""
    module = copy.deepcopy(module)
    for weights in module.parameters():
        if weights.numel() and weights.min() == weights.max() and weights.abs().max() < CLOSED:
            weights.normal_()
    return module


@torch.no_grad()
def _difference(module, before, after, training):
    """|f(before) - f(after)| of copies that draw the same numbers, by the scale of f(before)."""
    outputs = []
    for x in (before, after):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            outputs.append(_opened(module).train(training)(x).float())
    scale = outputs[0].abs().amax().clamp_min(1e-12)
    return (outputs[0] - outputs[1]).abs() / scale
