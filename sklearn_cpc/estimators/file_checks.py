"""What must hold of a model file before a network is built from it."""

from math import isinf, isnan, prod

import torch

from ..nn import PatchGrid
from ..training.checkpoint import MOMENTS
from . import building
from .generators import seeded

# Of an image, in pixels; no array is that long.
LONGEST_SIDE = 2**24
# Layers of this width take little memory, whatever a file says.
SMALL_WIDTH = 4096
PREFIXES = ("model", "raw", "optimizer")


def check_header(header):
    """Refuse settings of another kind than those that are saved.

    Parameters
    ----------
    header : dict

    Raises
    ------
    ValueError, TypeError or KeyError
        Which `load` gives the file's name.
    """
    shape = header["image_shape"]
    if len(shape) != 3 or not all(type(n) is int and 1 <= n <= LONGEST_SIDE for n in shape):
        raise ValueError(f"image_shape={shape!r:.100}")
    names, n_features = header["feature_names_in"], header["n_features_in"]
    if type(n_features) is not int or n_features != prod(shape):
        raise ValueError(f"n_features_in={n_features!r:.100} of image_shape={shape}")
    if names and (len(names) != n_features or not all(isinstance(name, str) for name in names)):
        raise ValueError(f"feature_names_in={names!r:.100}")
    if type(header["channels_first"]) is not bool:
        raise TypeError(f"channels_first={header['channels_first']!r:.100}")
    _check_scale(header["pixel_scale"], shape[2])
    if type(header.get("n_averaged", 0)) is not int:
        raise TypeError(f"n_averaged={header['n_averaged']!r:.100}")
    for row in header["history"]:
        if not {"epoch", "loss"} <= row.keys() <= set(building.RECORDED):
            raise ValueError(f"a row of history has {sorted(row)!r:.200}")
    rest = {name: value for name, value in header.items() if name != "params"}
    _check_numbers(rest, may_be_infinite=False)
    _check_numbers(header["params"], may_be_infinite=True)


def _check_scale(scale, n_channels):
    low, high, mean, std = (scale[name] for name in ("low", "high", "mean", "std"))
    if not low < high or len(mean) != n_channels or len(std) != n_channels or not min(std) > 0:
        raise ValueError(f"pixel_scale={scale!r:.200}")


def _check_numbers(value, may_be_infinite):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            _check_numbers(each, may_be_infinite)
    elif isinstance(value, float) and (isnan(value) or (isinf(value) and not may_be_infinite)):
        raise ValueError(f"the number {value} in its settings")


def check_before_building(estimator, header, scale, tensors, is_own):
    """Refuse settings whose network is not the one whose weights are in the file.

    Nothing of the size that they ask for is allocated, and no more is built than there are
    tensors.

    Parameters
    ----------
    estimator : CPCTransformer
    header : dict
    scale : PixelScale
    tensors : dict of str -> Tensor
    is_own : bool
        Whether a network of the user's own is in it, which cannot be built without memory.
    """
    height, width, _ = shape = tuple(header["image_shape"])
    grid = PatchGrid(height, width, estimator.patch_size, estimator.patch_stride)
    room = max(n - first for n, first in zip(grid.shape, grid.first_safe_step, strict=True))
    n_steps = room if estimator.n_steps is None else min(room, estimator.n_steps)
    depth = estimator.context_depth if not estimator.greedy else 0
    for name, n in (("n_steps", n_steps), ("context_depth", depth)):
        if n > max(len(tensors), 100):
            raise ValueError(f"{name}={n} with {len(tensors)} tensors")
    if is_own:
        _check_widths(estimator, tensors)
        return
    with seeded(0), torch.device("meta"):
        model = building.make_model(**building.model_settings(estimator, shape, scale))
    check_like(model.state_dict(), of_kind(tensors, "model"))


def _check_widths(estimator, tensors):
    largest = max((max(t.shape, default=1) for t in tensors.values()), default=1)
    for name in ("n_components", "latent_dim", "projection_dim", "context_dim", "queue_size"):
        if (getattr(estimator, name) or 0) > max(largest, SMALL_WIDTH):
            raise ValueError(f"{name}={getattr(estimator, name)}, and no tensor is as wide")


def check_names(tensors):
    """Refuse tensors that are nobody's."""
    extra = sorted(name for name in tensors if name.split(".")[0] not in PREFIXES)
    if extra:
        raise ValueError(f"Unexpected key(s): {extra[:5]}")


def of_kind(tensors, kind):
    """The tensors of "model", "raw" or "optimizer" without that word."""
    return {k[len(kind) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{kind}.")}


def check_like(expected, tensors):
    """Refuse other names, shapes or kinds of tensors."""
    missing, extra = (
        sorted(expected.keys() - tensors.keys()),
        sorted(tensors.keys() - expected.keys()),
    )
    if missing:
        raise ValueError(f"Missing key(s): {missing[:5]}")
    if extra:
        raise ValueError(f"Unexpected key(s): {extra[:5]}")
    for name, tensor in expected.items():
        given = tensors[name]
        if given.shape != tensor.shape or given.dtype != tensor.dtype:
            raise ValueError(
                f"size mismatch for {name}: {given.dtype} {tuple(given.shape)} where the settings "
                f"make {tensor.dtype} {tuple(tensor.shape)}"
            )


def optimizer_state(optimizer, tensors):
    """The optimiser's state by number of the parameter, checked against the parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {}
    for name, value in of_kind(tensors, "optimizer").items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    for index, entry in state.items():
        if not 0 <= index < len(parameters):
            raise ValueError(f"optimizer.{index} of {len(parameters)} parameters")
        step, p = torch.zeros(()), parameters[index]
        check_like({key: step if key == "step" else p for key in MOMENTS}, entry)
    return state
