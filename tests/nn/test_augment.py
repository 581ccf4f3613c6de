import re
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_cpc.nn import AUGMENTATIONS, Augmentation
from tests import reference

from .toys import generator, normal, random

NONE = AUGMENTATIONS["none"]
FRACTIONS = [field.name for field in fields(Augmentation) if field.type is float]
CHANNELS = pytest.mark.parametrize("n_channels", [1, 3, 12])


def only(**settings):
    return replace(NONE, **settings)


def mid_grey(n, n_channels=3, side=6):
    """Patches with values in [0.4, 0.6]: small changes do not reach the ends of the range."""
    return 0.4 + 0.2 * random(n, n_channels, side, side)


# Images


def found(image, candidates):
    return [move for move, candidate in candidates.items() if np.array_equal(image, candidate)]


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([0.125, 0.3, 1.0]),
    st.sampled_from([0.0, 1.0]),
    st.integers(0, 1000),
)
def test_images_are_moved_and_mirrored_as_by_numpy(height, width, shift, flip, seed):
    images = random(2, 2, height, width)
    changed = only(shift=shift, flip=flip).images(images, generator(seed)).numpy()
    for before, after in zip(images.numpy(), changed, strict=True):
        candidates = reference.shifts(before, shift, "reflect")
        assert found(after[..., ::-1] if flip else after, candidates)


def test_every_move_within_reach_is_drawn():
    image = random(1, 1, 8, 4).expand(300, -1, -1, -1)
    changed = only(shift=0.25).images(image, generator()).numpy()
    candidates = reference.shifts(image[0].numpy(), 0.25, "reflect")
    drawn = {found(after, candidates)[0] for after in changed}
    assert drawn == set(candidates)
    assert len(drawn) == 5 * 3


@pytest.mark.parametrize(("flip", "low", "high"), [(0.0, 0, 0), (1.0, 400, 400), (0.5, 140, 260)])
def test_flip_has_its_probability(flip, low, high):
    # 140 to 260 of 400 is six standard deviations either side of a fair coin.
    images = random(1, 1, 3, 4).expand(400, -1, -1, -1)
    changed = only(flip=flip).images(images, generator())
    flipped = (changed == images.flip(-1)).flatten(1).all(1)
    same = (changed == images).flatten(1).all(1)
    assert (flipped ^ same).all()
    assert low <= flipped.sum() <= high


@CHANNELS
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_images_keep_dtype_and_have_no_new_pixel_values(dtype, n_channels):
    images = (random(3, n_channels, 7, 9) * 255).to(dtype)
    changed = Augmentation().images(images, generator())
    assert (changed.dtype, changed.shape) == (images.dtype, images.shape)
    for before, after in zip(images.tolist(), changed.tolist(), strict=True):
        assert set(np.ravel(after)) <= set(np.ravel(before))


def test_channels_of_an_image_move_together():
    images = random(4, 1, 6, 6).expand(-1, 3, -1, -1)
    changed = only(shift=0.5, flip=0.5).images(images, generator())
    assert torch.equal(changed, changed[:, :1].expand_as(changed))


# Patches


@CHANNELS
def test_patches_stay_in_range(n_channels):
    patches = (random(200, n_channels, 5, 4) < 0.5).float()  # At the ends of the range already.
    changed = Augmentation(**dict.fromkeys(FRACTIONS, 1.0)).patches(
        patches, generator(), torch.rand(n_channels, generator=generator())
    )
    assert changed.shape == patches.shape
    assert changed.min() >= 0
    assert changed.max() <= 1


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_greyscale_stays_in_range(value):
    changed = only(greyscale=1).patches(torch.full((1, 3, 2, 2), value), generator())
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_patches_are_changed_and_the_input_is_not():
    patches = random(20, 3, 6, 6)
    before = patches.clone()
    changed = Augmentation().patches(patches, generator())
    assert torch.equal(patches, before)
    assert (changed != patches).flatten(1).any(1).all()


@pytest.mark.parametrize("jitter", [0.2, 0.5, 1.0])
def test_jitter_moves_and_repeats_the_border(jitter):
    patches = random(8, 2, 5, 4)
    changed = only(jitter=jitter).patches(patches, generator()).numpy()
    for before, after in zip(patches.numpy(), changed, strict=True):
        assert found(after, reference.shifts(before, jitter, "edge"))


def test_jitter_takes_no_pixel_from_outside_the_patch():
    patches = torch.arange(6.0).view(6, 1, 1, 1).expand(-1, 2, 4, 4)
    changed = only(jitter=1).patches(patches, generator())
    assert torch.equal(changed, patches)


def test_brightness_adds_one_number_to_a_patch():
    patches = mid_grey(200)
    added = only(brightness=0.3).patches(patches, generator()) - patches
    each = added.mean((1, 2, 3))
    torch.testing.assert_close(added, each.view(-1, 1, 1, 1).expand_as(added), rtol=0, atol=1e-6)
    assert each.abs().max() <= 0.3 + 1e-6
    assert each.min() < -0.25 < 0.25 < each.max()  # Misses with probability below 1e-7.


def test_contrast_scales_about_the_mean_of_each_channel():
    patches = mid_grey(200)
    changed = only(contrast=0.5).patches(patches, generator())
    mean = patches.mean((2, 3), keepdim=True)
    torch.testing.assert_close(changed.mean((2, 3), keepdim=True), mean)
    before, after = patches - mean, changed - mean
    each = (after * before).sum((1, 2, 3)) / before.square().sum((1, 2, 3))
    expected = mean + each.view(-1, 1, 1, 1) * before
    torch.testing.assert_close(changed, expected, rtol=0, atol=1e-6)
    assert 0.5 - 1e-4 <= each.min() < 0.6
    assert 1.4 < each.max() <= 1.5 + 1e-4


@pytest.mark.parametrize("n_channels", [2, 3, 12])
def test_channel_adds_one_number_to_each_channel(n_channels):
    patches = mid_grey(100, n_channels)
    added = only(channel=0.3).patches(patches, generator()) - patches
    each = added.mean((2, 3), keepdim=True)
    torch.testing.assert_close(added, each.expand_as(added), rtol=0, atol=1e-6)
    assert each.abs().max() <= 0.3 + 1e-6
    assert (each[:, 0] - each[:, 1]).abs().max() > 0.2


def test_greyscale_is_luma():
    patches = random(5, 3, 4, 3)
    changed = only(greyscale=1).patches(patches, generator())
    expected = [reference.luma(reference.array(patch)) for patch in patches]
    np.testing.assert_allclose(changed.numpy(), expected, atol=1e-6)
    assert torch.equal(changed[:, 0], changed[:, 1])
    assert torch.equal(changed[:, 0], changed[:, 2])


def test_greyscale_has_its_probability():
    patches = random(1, 3, 2, 2).expand(400, -1, -1, -1)
    changed = only(greyscale=0.25).patches(patches, generator())
    grey = (changed[:, 0] == changed[:, 1]).flatten(1).all(1)
    assert torch.equal(changed[~grey], patches[~grey])
    assert 50 <= grey.sum() <= 150  # Nearly six standard deviations.


@pytest.mark.parametrize("n_channels", [1, 2, 4, 12])
def test_greyscale_is_for_three_channels(n_channels):
    patches = random(4, n_channels, 3, 3)
    assert torch.equal(only(greyscale=1).patches(patches, generator()), patches)


@pytest.mark.parametrize(("n_channels", "kept"), [(2, 1), (3, 1), (4, 2), (12, 4)])
def test_channel_drop_keeps_a_third_and_fills_the_rest(n_channels, kept):
    patches = random(60, n_channels, 3, 2)
    fill = 2 + torch.arange(n_channels)  # Outside the range, so that it is recognised.
    changed = only(channel_drop=1).patches(patches, generator(), fill)
    dropped = (changed == fill.view(-1, 1, 1)).flatten(2).all(2)
    assert (dropped.sum(1) == n_channels - kept).all()
    assert torch.equal(changed[~dropped], patches[~dropped])
    assert (~dropped).any(0).all(), "a channel is never kept"


def test_channel_drop_has_its_probability():
    patches = random(1, 3, 2, 2).expand(400, -1, -1, -1)
    changed = only(channel_drop=0.25).patches(patches, generator())
    assert 50 <= (changed != patches).flatten(1).any(1).sum() <= 150


def test_one_channel_is_neither_dropped_nor_tinted():
    patches = random(10, 1, 3, 3)
    assert torch.equal(only(channel_drop=1).patches(patches, generator()), patches)
    changed = only(channel=0.3).patches(patches, generator())
    torch.testing.assert_close(changed, patches)


@pytest.mark.parametrize(
    "settings",
    [
        {"jitter": 0.5},
        {"brightness": 0.2},
        {"contrast": 0.5},
        {"channel": 0.3},
        {"greyscale": 0.5},
        {"channel_drop": 0.5},
    ],
)
def test_draws_differ_from_patch_to_patch(settings):
    patches = (0.4 + 0.2 * random(1, 3, 6, 6)).expand(30, -1, -1, -1)
    changed = only(**settings).patches(patches, generator())
    assert (changed != changed[:1]).flatten(1).any(1).any()


@pytest.mark.parametrize("method", ["images", "patches"])
def test_same_seed_same_result(method):
    pixels = random(6, 3, 8, 8)
    change = getattr(Augmentation(), method)
    assert torch.equal(change(pixels, generator(3)), change(pixels, generator(3)))
    assert not torch.equal(change(pixels, generator(3)), change(pixels, generator(4)))


@pytest.mark.parametrize("method", ["images", "patches"])
def test_a_generator_leaves_the_global_state_alone(method):
    before = torch.get_rng_state()
    getattr(Augmentation(), method)(random(2, 3, 4, 4), generator())
    assert torch.equal(torch.get_rng_state(), before)


@CHANNELS
def test_none_is_the_identity(n_channels):
    pixels = random(4, n_channels, 5, 5)
    assert torch.equal(NONE.images(pixels), pixels)
    assert torch.equal(NONE.patches(pixels), pixels)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (2, 3, 1, 5)])
def test_single_pixels_can_be_augmented(name, shape):
    pixels = random(*shape)
    augmentation = AUGMENTATIONS[name]
    assert augmentation.images(pixels, generator()).shape == shape
    assert torch.isfinite(augmentation.patches(pixels, generator())).all()


@pytest.mark.parametrize("name", FRACTIONS)
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_ranges(name, value):
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r} must be between 0 and 1.")):
        Augmentation(**{name: value})


def test_normal_values_are_clipped_into_the_range():
    changed = only(brightness=0.1).patches(normal(20, 1, 4, 4), generator())
    assert changed.min() == 0
    assert changed.max() == 1
