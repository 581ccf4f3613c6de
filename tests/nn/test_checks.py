"""What the parts refuse, and would else have taken for something other than was meant."""

import re

import pytest
import torch

from sklearn_cpc.nn import (
    AUGMENTATIONS,
    ConvEncoder,
    CPCModel,
    PatchGrid,
    contrast,
    contrast_drawn,
    first_row_first,
    info_nce,
    plan_heads,
    pool,
)

from .toys import asymmetric_grid, random, small_model

GRID = PatchGrid(16, 16, 4, 2)
X = random(4, 3, 16, 16)


@pytest.mark.parametrize("augmentation", ["none", "light"])
def test_an_encoder_of_other_patches(augmentation):
    """It would be given whole images, and its larger patches let targets overlap contexts."""
    what = re.escape("encoder.patch_size=(8, 8) must be that of the grid, (4, 4)")
    with pytest.raises(ValueError, match=what):
        CPCModel(GRID, ConvEncoder(3, (8, 8), 8), 3, augmentation=AUGMENTATIONS[augmentation])


def test_a_grid_of_other_patches():
    model = small_model(GRID, 3)
    with pytest.raises(ValueError, match=r"encoder\.patch_size"):
        model.embed(X, PatchGrid(16, 16, 8, 2))
    assert model.embed(X, GRID.with_stride(1)).shape == (4, 13, 13, 12)


@pytest.mark.parametrize("greedy", [None, "joint"])
@pytest.mark.parametrize(
    ("images", "error", "what"),
    [
        (X[:, :1], ValueError, r"images of shape \(4, 1, 16, 16\) must be .*\(batch, 3, height"),
        (X[0], ValueError, r"images of shape \(3, 16, 16\)"),
        (X.permute(0, 2, 3, 1), ValueError, r"images.permute\(0, 3, 1, 2\)"),
        ((X * 255).byte(), TypeError, r"torch.uint8, and must be floats in \[0, 1\]"),
        (X.numpy(), TypeError, "images=ndarray must be a tensor"),
    ],
)
def test_images_that_would_be_broadcast_or_are_none(images, error, what, greedy):
    if greedy:
        encoder = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.Conv2d(4, 5, 2))
        encoder.n_components = 5
        encoder.stages = lambda: list(encoder)
        model = CPCModel(GRID, encoder, 3, greedy="joint")
    else:
        model = small_model(GRID, 3)
    for call in (model, lambda x: list(model.parts(x)), model.embed):
        with pytest.raises(error, match=what):
            call(images)


@pytest.mark.parametrize(
    ("name", "value", "error", "what"),
    [
        ("temperature", 0, ValueError, "temperature=0 must be greater than 0"),
        ("temperature", float("nan"), ValueError, "temperature=nan"),
        ("n_candidates", 1, ValueError, "n_candidates=1 must be at least 2"),
        ("negative_images", 0, ValueError, "negative_images=0 must be at least 1"),
        ("negative_images", 2.5, TypeError, "negative_images=2.5 must be a whole number or None"),
        ("max_steps", -1, ValueError, "max_steps=-1 must be at least 1"),
        ("latent_dim", 0, ValueError, "latent_dim=0 must be at least 1"),
        ("projection_dim", 0, ValueError, "projection_dim=0 must be at least 1"),
        ("queue_size", 0, ValueError, "queue_size=0 must be at least 1"),
        ("accumulate", True, TypeError, "accumulate=True must be a whole number"),
        ("hard_fraction", 2, ValueError, "hard_fraction=2 must be between 0 and 1"),
        ("same_image_fraction", "1", TypeError, "same_image_fraction='1' must be a number"),
    ],
)
def test_numbers_out_of_range(name, value, error, what):
    with pytest.raises(error, match=what):
        small_model(asymmetric_grid(), **{name: value})


def test_one_direction_may_be_a_word():
    assert plan_heads(GRID, "down", 1) == {"down": [2]}
    with pytest.raises(ValueError, match="directions='sideways' is unknown"):
        plan_heads(GRID, "sideways", 1)


@pytest.mark.parametrize("turn", [GRID.safe_steps, lambda d: first_row_first(X, d)])
def test_directions_that_there_are_not(turn):
    with pytest.raises(ValueError, match="direction='sideways' is unknown"):
        turn("sideways")


def test_losses_of_what_does_not_belong_together():
    z_hat, z = random(3, 2), random(17, 2)
    own = torch.tensor([0, 1, 2])
    for positives in (own[:1], own[:2], own[:, None]):
        with pytest.raises(ValueError, match=r"\(n, projection\), .* with n at least 1"):
            info_nce(z_hat, z, positives)
    with pytest.raises(ValueError, match="with n at least 1"):
        info_nce(z_hat[:0], z, own[:0])
    with pytest.raises(ValueError, match="objective='nce' is unknown"):
        contrast(z_hat, z, own, objective="nce")
    with pytest.raises(ValueError, match="objective='nce' is unknown"):
        contrast_drawn(z_hat, z, None, 3, objective="nce")
    with pytest.raises(ValueError, match="n_hard=0 must be at least 1"):
        contrast(z_hat, z, own, n_hard=0)


def test_outputs_and_grids_of_features():
    with pytest.raises(ValueError, match="output='context' is unknown"):
        small_model(GRID, 3).embed(X, output="context")
    with pytest.raises(ValueError, match=r"features of shape \(2, 3, 4\) must be of shape"):
        pool(random(2, 3, 4), "max")
