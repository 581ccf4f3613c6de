import re

import numpy as np
import pytest
import torch

from sklearn_cpc.nn import DictionaryEncoder, make_encoder
from tests import reference

from .toys import normal

CLOSE = {"atol": 1e-4, "rtol": 1e-4}  # float32 against float64, after a division by small contrasts


def started(n_channels=2, patch_size=(3, 4), n_components=6, **settings):
    """An encoder with a whitening and atoms, and the images they are from."""
    torch.manual_seed(0)
    encoder = DictionaryEncoder(n_channels, patch_size, n_components, **settings)
    images = normal(20, n_channels, 10, 11).cumsum(3)  # neighbouring pixels are correlated
    encoder.whiten_(images)
    rows = encoder.draw_patches(images, 300, torch.Generator().manual_seed(0))
    encoder.set_atoms_(rows[:n_components], rows)
    return encoder, images, rows


def test_is_its_slow_twin():
    encoder, _, _ = started()
    patches = normal(4, 2, 3, 4, seed=1)
    expected = [reference.dictionary(reference.array(p), encoder) for p in patches]
    np.testing.assert_allclose(reference.array(encoder(patches)), expected, **CLOSE)


def test_whitening_is_its_slow_twin():
    encoder, images, _ = started(n_channels=1, patch_size=(2, 2))
    center, whitening = reference.whitening(reference.array(images), encoder, 0.1)
    np.testing.assert_allclose(reference.array(encoder.center), center, **CLOSE)
    np.testing.assert_allclose(reference.array(encoder.whitening), whitening, **CLOSE)


def test_whitened_pixels_are_uncorrelated():
    torch.manual_seed(0)
    encoder = DictionaryEncoder(1, (3, 3), 4, contrast_offset=0.0)
    images = normal(30, 1, 12, 12).cumsum(2)
    encoder.whiten_(images, regularisation=1e-6)
    rows = encoder.draw_patches(images, 10**6)
    values = torch.linalg.eigvalsh(torch.cov(rows.T))
    assert len(rows) == 30 * 10 * 10
    assert values[0] < 0.01  # the mean of a patch, which is taken away
    torch.testing.assert_close(values[1:], torch.ones(8), atol=0.01, rtol=0)


def test_light_and_contrast_of_a_patch_do_not_count():
    encoder, _, _ = started(contrast_offset=1e-6)
    patches = normal(5, 2, 3, 4, seed=2)
    torch.testing.assert_close(encoder(3 * patches + 7), encoder(patches), **CLOSE)


def test_each_feature_is_active_for_the_asked_share():
    encoder, _, rows = started()
    with torch.no_grad():
        encoder.set_atoms_(rows[:6], rows, active=0.2)
        active = (encoder.atoms(rows) > 0).float().mean(0)
    torch.testing.assert_close(active, torch.full((6,), 0.2), atol=0.01, rtol=0)


def test_atoms_are_the_first_weights_and_the_rest_stays():
    torch.manual_seed(0)
    encoder = DictionaryEncoder(1, (2, 2), 5)
    before = encoder.atoms.weight.clone()
    rows = normal(50, 4)
    encoder.set_atoms_(rows[:3], rows)
    weight = encoder.atoms.weight
    cosine = torch.nn.functional.cosine_similarity(weight[:3], rows[:3])
    torch.testing.assert_close(cosine, torch.ones(3))
    assert torch.equal(weight[3:], before[3:])
    products = (rows @ weight[:3].T).detach()
    torch.testing.assert_close(products.std(), torch.tensor(1.0))


@pytest.mark.parametrize(("n_channels", "size"), [(1, (1, 1)), (12, (1, 3)), (3, (8, 5))])
def test_any_channels_and_patches(n_channels, size):
    encoder, images, _ = started(n_channels, size)
    features = encoder(images[:, :, -size[0] :, -size[1] :])
    assert features.shape == (20, 6)
    assert torch.isfinite(features).all()
    assert features.std() > 0


def test_blank_images_give_finite_features():
    encoder = DictionaryEncoder(1, (2, 2), 3)
    images = torch.zeros(4, 1, 5, 5)
    encoder.whiten_(images)
    rows = encoder.draw_patches(images, 20)
    encoder.set_atoms_(rows[:3], rows)
    assert torch.isfinite(encoder(images[:, :, :2, :2])).all()


def test_too_large_a_patch():
    message = (
        "patch_size=(64, 64) with 3 channels makes 12288 numbers, and a dictionary is for at most "
        "4096; pass a smaller patch_size, or encoder='conv'."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        make_encoder("dictionary", 3, (64, 64), 8)


def test_has_no_norm_to_choose():
    message = "encoder_norm='group' must be 'auto' with encoder='dictionary'"
    with pytest.raises(ValueError, match=re.escape(message)):
        make_encoder("dictionary", 3, (4, 4), 8, "group")


def test_second_layer_starts_near_the_identity():
    torch.manual_seed(0)
    encoder = DictionaryEncoder(1, (2, 2), 400)
    deviation = (encoder.combine.weight - torch.eye(400)).detach()
    # A tenth of sqrt(2 / 400), He's standard deviation.
    assert deviation.std().item() == pytest.approx(0.1 * (2 / 400) ** 0.5, rel=0.02)
    assert encoder.combine.bias.abs().max() == 0
