"""What a model and a loss are handed, before they make something else of it than was meant."""

from numbers import Integral, Real

import torch
from torch.nn.modules.dropout import _DropoutNd

__all__ = ["check_encoder", "check_images", "check_pairs", "check_settings", "draws_at_random"]

# Modules that draw nothing unless they are known to.
KNOWN = ("torch.nn.modules.", "sklearn_cpc.")

# Name: whether it is a whole number, the least, and the greatest; None is a value of its own.
WHOLE = dict.fromkeys(("max_steps", "latent_dim", "projection_dim", "negative_images"), (1, None))
WHOLE |= dict.fromkeys(("queue_size", "accumulate"), (1, None)) | {"n_candidates": (2, None)}
SHARES = {"same_image_fraction": (0, 1), "hard_fraction": (0, 1)}


def check_settings(**settings):
    """Refuse numbers that are out of the range of a setting of `CPCModel`."""
    for name, value in settings.items():
        if value is None:
            continue
        low, high = WHOLE.get(name) or SHARES[name]
        if isinstance(value, bool) or not isinstance(value, Integral if name in WHOLE else Real):
            kind = "a whole number" if name in WHOLE else "a number"
            raise TypeError(f"{name}={value!r} must be {kind} or None.")
        if not (low <= value and (high is None or value <= high)):
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            raise ValueError(f"{name}={value!r} must be {bounds}.")


def draws_at_random(network):
    """Whether a network may draw from torch's global generators in training, as Dropout does."""
    return any(map(_is_random, network.modules()))


def _is_random(module):
    if not type(module).__module__.startswith(KNOWN):
        return True
    drops = isinstance(module, _DropoutNd | torch.nn.RReLU) or hasattr(module, "_random_samples")
    return drops or bool(getattr(module, "dropout", 0))


def check_encoder(encoder, grid):
    """Refuse an encoder of other patches, which would encode images at once by its own."""
    if not hasattr(encoder, "forward_dense") or tuple(encoder.patch_size) == grid.patch_size:
        return
    raise ValueError(
        f"encoder.patch_size={tuple(encoder.patch_size)} must be that of the grid, "
        f"{grid.patch_size}; make the encoder with grid.patch_size."
    )


def check_images(images, n_channels):
    """Refuse what is no batch of images, or would be broadcast to one."""
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"images={type(images).__name__} must be a tensor; pass torch.as_tensor.")
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != n_channels:
        raise ValueError(
            f"images of shape {shape} must be of shape (batch, {n_channels}, height, width), the "
            "n_channels of the model second; for images with their channels last, "
            "images.permute(0, 3, 1, 2)."
        )
    if not images.is_floating_point():
        raise TypeError(
            f"images are {images.dtype}, and must be floats in [0, 1]; pass images / 255 for 8 "
            "bits."
        )


def check_pairs(predictions, targets, positives):
    """Refuse predictions and positives of which one would be repeated for the others."""
    shapes = tuple(predictions.shape), tuple(targets.shape), tuple(positives.shape)
    if [len(shape) for shape in shapes] == [2, 2, 1] and len(predictions) == len(positives) > 0:
        return
    raise ValueError(
        f"predictions, targets and positives of shapes {shapes[0]}, {shapes[1]} and {shapes[2]} "
        "must be (n, projection), (n_candidates, projection) and (n,), with n at least 1."
    )
