"""Every part of the transformer on a CUDA device."""

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_cpc.nn import AUGMENTATIONS

from .test_variants import GREEDY, VARIANTS
from .toys import images, tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
X = images(16, 16, 16)
X.setflags(write=False)


def own_encoder(n_channels):
    layers = nn.Conv2d(n_channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, nn.Flatten())


PARTS = {
    **VARIANTS,
    **{f"augment {name}": {"augment": name} for name in AUGMENTATIONS},
    **{f"context {name}": {"context": name} for name in ("gated-pixelcnn", "gru", "transformer")},
    "shared context": {"shared_context": True},
    "dictionary": {"encoder": "dictionary"},
    "resnet18": {"encoder": "resnet18", "n_components": 16},
    "wrn28-2": {"encoder": "wrn28-2", "n_components": 16},
    "cosine": {"schedule": "cosine", "clip_norm": 0.1, "weight_decay": 0.1},
    "early stopping": {"early_stopping": True, "validation_fraction": 0.25},
    "quadrants, mirrored": {"pooling": "quadrants", "transform_flip": True},
    "finer stride": {"transform_stride": 2},
    "stages": {"greedy": "joint", "objective": "bce", **GREEDY},
}


@pytest.mark.parametrize("name", PARTS)
def test_a_variant_trains_and_embeds_as_on_the_cpu(name):
    settings = {"directions": ("down", "left"), "n_steps": 2, **PARTS[name]}
    settings |= {"device": "cuda", "precision": "float32"}
    cpc = tiny(**settings).fit(X)
    assert all(parameter.is_cuda for parameter in cpc.encoder_.parameters())
    assert np.isfinite(cpc.loss_curve_).all()
    assert np.isfinite(cpc.score(X))
    features = cpc.transform(X)
    cpc.encoder_.cpu()
    cpc.net_.device = "cpu"
    cpc.net_.module_.cpu()
    expected = cpc.transform(X)
    # TF32 may be on in convolutions: 10 bits of mantissa.
    np.testing.assert_allclose(features, expected, atol=5e-3 * np.abs(expected).max())


def test_a_users_module_with_batch_normalisation_trains_on_the_device():
    with pytest.warns(UserWarning, match="BatchNorm"):
        cpc = tiny(device="cuda", encoder=own_encoder(3)).fit(X)
    assert np.isfinite(cpc.transform(X)).all()
