"""Greedy InfoMax: an encoder as a chain of stages that no gradient passes between."""

import copy
import itertools

import torch
from torch import nn

__all__ = ["GREEDY", "encoder_stages", "stage_widths"]

GREEDY = ("joint", "sequential")


def encoder_stages(encoder):
    """The stages whose chain is the encoder.

    An encoder of one's own says what they are by a method `stages()`: modules in order, the first
    taking patches (n, channels, height, width) and each the output of the one before; in between
    maps (n, channels, height, width) or rows (n, width), the last one's the features. Without that
    method an encoder whose `forward` begins with a Sequential called `body` is cut inside it,
    before every layer but the first that has a convolution of stride 2 or more; what `forward`
    does after `body` belongs to the last stage.

    Parameters
    ----------
    encoder : Module

    Returns
    -------
    stages : list of Module
        Sharing the encoder's parameters.

    Raises
    ------
    ValueError
        If there are fewer than two.
    """
    stages = list(encoder.stages()) if hasattr(encoder, "stages") else _cut(encoder)
    if len(stages) < 2:
        raise ValueError(
            f"greedy: {type(encoder).__name__} has {len(stages)} stage, and there must be two at "
            "least; pass another encoder or larger patches, give the encoder a method stages(), "
            "or set greedy=None."
        )
    return stages


def _cut(encoder):
    *first, rest = _body_parts(getattr(encoder, "body", None))
    if not first:
        return [encoder]
    # The same forward over the rest of the body: whatever follows it is kept.
    last = copy.copy(encoder)
    last._modules = encoder._modules | {"body": rest}
    last._compiled_call_impl = None
    return [*first, last]


def _body_parts(body):
    if hasattr(body, "stages"):
        return list(body.stages())
    if not isinstance(body, nn.Sequential):
        return [body]
    places = [0, *(i for i, layer in enumerate(body) if i and _shrinks(layer)), len(body)]
    return [body[a:b] for a, b in itertools.pairwise(places)]


def _shrinks(layer):
    convolutions = (m for m in layer.modules() if isinstance(m, nn.Conv2d))
    return any(max(conv.stride) > 1 for conv in convolutions)


@torch.no_grad()
def stage_widths(encoder, n_channels, patch_size):
    """Number of features of each stage, found out on a patch of zeros."""
    parameter = next(encoder.parameters())
    x = parameter.new_zeros(1, n_channels, *patch_size)
    widths = []
    for stage in encoder_stages(encoder):
        x = stage(x)
        widths.append(x.shape[1])
    return widths
