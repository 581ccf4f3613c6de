"""Each step of the papers' patch augmentation against pillow, patch by patch."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from sklearn_cpc.nn import AUGMENTATIONS, Augmentation, CPCModel
from sklearn_cpc.nn.augment import PRIMITIVES, autoaugment, colour, geometry, rows
from tests import pillow_reference as pillow

from .toys import asymmetric_grid, generator, normal, random, small_model

NONE = AUGMENTATIONS["none"]
CHANNELS = pytest.mark.parametrize("n_channels", [1, 3, 12])
SIZES = [(16, 16), (9, 14), (1, 1), (1, 5), (2, 3)]
STEPS = ["crop", "autoaugment", "elastic", "shear", "histogram", "colour"]
DEFAULT = PRIMITIVES[:-1]


def only(**settings):
    return replace(NONE, **settings)


def eight_bit(n, n_channels, height, width, seed=0):
    return (random(n, n_channels, height, width, seed=seed) * 255).round().to(torch.uint8)


def agree(changed, expected, tolerance):
    np.testing.assert_allclose(changed.numpy(), np.stack(expected), rtol=0, atol=tolerance)


# Primitives. Pillow rounds or cuts off to 8 bits: one step of 255, and a little, is agreement. It
# rounds Contrast's mean before blending with a factor of up to 1 and Color's and Sharpness's
# degenerate image likewise: one more.

TOLERANCE = {"Contrast": 2, "Color": 2, "Sharpness": 2}
OF_PILLOW = {
    "ShearX": pillow.shear_x,
    "ShearY": pillow.shear_y,
    "TranslateX": pillow.translate_x,
    "TranslateY": pillow.translate_y,
    "Rotate": pillow.rotate,
    "AutoContrast": pillow.autocontrast,
    "Invert": pillow.invert,
    "Equalize": pillow.equalize,
    "Solarize": pillow.solarize,
    "Posterize": pillow.posterize,
    "Contrast": pillow.contrast,
    "Color": pillow.saturation,
    "Brightness": pillow.brightness,
    "Sharpness": pillow.sharpness,
    "Cutout": pillow.cutout,
}


def test_the_primitives_are_those_of_the_paper():
    assert (*OF_PILLOW, "SamplePairing") == PRIMITIVES
    assert len(PRIMITIVES) == 16


@pytest.mark.parametrize("size", SIZES, ids=str)
@CHANNELS
@pytest.mark.parametrize("name", DEFAULT)
def test_a_primitive_agrees_with_pillow(name, n_channels, size):
    n = 12 if n_channels < 12 else 4
    patches = eight_bit(n, n_channels, *size)
    table = autoaugment._MOVES | autoaugment._CHANGES
    kinds = torch.full((n,), DEFAULT.index(name))
    magnitudes = autoaugment._magnitudes(DEFAULT, kinds, random(n, 3, seed=1))
    magnitudes = magnitudes if name == "Cutout" else magnitudes[:, 0]
    pixels, operation = patches / 255, table[name][0]
    if name in autoaugment._MOVES:
        changed = geometry.affine(pixels, operation(magnitudes))
    else:
        changed = operation(pixels, magnitudes)
    pairs = zip(patches.numpy(), magnitudes.tolist(), strict=True)
    expected = [OF_PILLOW[name](patch, magnitude) for patch, magnitude in pairs]
    agree(changed, expected, (TOLERANCE.get(name, 1) + 0.1) / 255)


def test_a_quarter_turn_is_counter_clockwise():
    patches = random(1, 1, 6, 6)
    turned = geometry.affine(patches, geometry.rotate(torch.tensor([90.0])))
    torch.testing.assert_close(turned, patches.rot90(1, (2, 3)))


def test_equalize_makes_small_patches_even_too():
    """Pillow leaves them as they are."""
    patch = torch.tensor([0.1, 0.3, 0.2, 0.4, 0.4, 0.4]).view(1, 1, 2, 3)
    expected = torch.tensor([0, 2 / 3, 1 / 3, 1, 1, 1]).view(1, 1, 2, 3)
    torch.testing.assert_close(colour.equalize(patch), expected)


@pytest.mark.parametrize("operation", [colour.equalize, colour.autocontrast])
def test_a_flat_channel_stays_as_it_is(operation):
    patches = torch.full((2, 3, 4, 4), 0.3)
    assert torch.equal(operation(patches.clone()), patches)


@CHANNELS
def test_sample_pairing_blends_with_a_patch_far_away(n_channels):
    patches = eight_bit(16, n_channels, 5, 4)
    changed = only(autoaugment=1, n_primitives=1, primitives=["SamplePairing"]).patches(
        patches / 255, generator()
    )
    partners = []
    for i, after in enumerate(changed.numpy()):
        fits = []
        for j in range(16):
            before, other = patches[i].numpy() / 255, patches[j].numpy() / 255
            share = ((after - before) * (other - before)).sum() / max(
                np.square(other - before).sum(), 1e-9
            )
            blended = pillow.blend(patches[i].numpy(), patches[j].numpy(), share)
            if j != i and np.abs(after - blended).max() < 1.1 / 255:
                assert 0 <= share <= 0.4
                fits.append((j - i) % 16)
        partners += fits
    assert len(partners) == 16
    assert 4 <= min(partners) <= max(partners) <= 12


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_sample_pairing_of_some_patches_is_with_those_of_other_images(share):
    """Four images of six patches, each image of one shade of its own."""
    shades = torch.tensor([0.1, 0.3, 0.6, 0.9]).repeat_interleave(6)
    patches = shades[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    step = only(autoaugment=share, n_primitives=1, primitives=["SamplePairing"])
    n_changed = 0
    drawn = generator()
    for _ in range(50):
        seen = []
        blend = torch.lerp

        def watch(some, partners, share, seen=seen, blend=blend):
            if some.ndim == 4:  # else magnitudes
                seen.append((some[:, 0, 0, 0].clone(), partners[:, 0, 0, 0].clone()))
            return blend(some, partners, share)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "lerp", watch)
            step.patches(patches.clone(), drawn)
        for own, others in seen:
            assert (own != others).all()
            n_changed += len(own)
    assert 0.8 * share < n_changed / (50 * 24) < 1.2 * share


def test_each_primitive_is_drawn_and_none_twice_for_a_patch(monkeypatch):
    drawn = []

    def record(patches, groups, u, partners, into):
        names = {row: name for name, own in groups.items() for row in own.tolist()}
        drawn.append([names[row] for row in range(len(patches))])
        return patches

    monkeypatch.setattr(autoaugment, "_one_each", record)
    only(autoaugment=1, n_primitives=3).patches(random(1000, 3, 2, 2), generator())
    assert len(drawn) == 3
    assert all(len(set(of_patch)) == 3 for of_patch in zip(*drawn, strict=True))
    for of_round in drawn:
        counts = [of_round.count(name) for name in DEFAULT]
        assert sum(counts) == 1000
        assert 20 < min(counts) <= max(counts) < 120  # 67 +- 8: six standard deviations.


def test_magnitudes_fill_their_range():
    u = torch.tensor([[0.0] * 3, [1.0] * 3])
    names = ("Cutout", "Rotate", "SamplePairing")

    def ends(name):
        return autoaugment._magnitudes(names, torch.full((2,), names.index(name)), u)

    torch.testing.assert_close(ends("Cutout"), torch.tensor([[0, 0, 0], [60 / 331, 1, 1]]))
    assert ends("Rotate")[:, 0].tolist() == [-30, 30]
    assert ends("SamplePairing")[:, 0].tolist() == pytest.approx([0, 0.4])
    mixed = autoaugment._magnitudes(names, torch.tensor([1, 0]), u)
    torch.testing.assert_close(mixed, torch.stack([ends("Rotate")[0], ends("Cutout")[1]]))


@pytest.mark.parametrize("factor", [1.3, -0.2])
def test_what_is_outside_of_the_range_is_no_other_patchs(factor):
    """Pixels of a later `partial_fit` may be brighter or darker than those of the first fit."""
    patches = random(6, 3, 5, 4)
    bright = patches.clone()
    bright[::2] = bright[::2] * factor
    expected = colour.equalize(patches.clone())
    changed = colour.equalize(bright.clone())
    torch.testing.assert_close(changed[1::2], expected[1::2])
    assert changed.isfinite().all()


# Deformation, histogram and colour


@pytest.mark.parametrize("size", SIZES, ids=str)
@CHANNELS
def test_deformation_agrees_with_scipy(n_channels, size):
    patches = eight_bit(5, n_channels, *size)
    shears = 0.2 * normal(5, 2)
    displacements = 0.1 * normal(5, 2, *size, seed=1)
    changed = geometry.deform(patches / 255, shears, displacements)
    triples = zip(patches.numpy(), shears.numpy(), displacements.numpy(), strict=True)
    agree(changed, [pillow.deform(*triple) for triple in triples], 1e-4)  # float32 places


@pytest.mark.parametrize(("height", "width"), [(7, 5), (1, 1), (12, 20)])
def test_displacements_are_smoothed_noise(height, width):
    noise = normal(3, 2, min(height, 8), min(width, 8))
    changed = geometry.elastic_displacements(noise, height, width)
    constants = geometry.ELASTIC_SIGMA, geometry.ELASTIC_SIZE
    expected = [pillow.smoothed(patch, height, width, *constants) for patch in noise.numpy()]
    agree(changed, expected, 1e-6)


def test_displacements_have_their_size_everywhere():
    displacements = geometry.elastic_displacements(normal(2000, 2, 8, 8), 16, 24)
    # 2000 draws have the standard deviation to 1.6 %; four of these.
    torch.testing.assert_close(
        displacements.std(0) / geometry.ELASTIC_SIZE, torch.ones(2, 16, 24), rtol=0, atol=0.065
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
@CHANNELS
def test_histogram_agrees_with_a_table_of_pillow(n_channels, size):
    patches = eight_bit(6, n_channels, *size)
    knots = colour.histogram_curves(normal(6, n_channels, 4))
    assert torch.equal(knots[:, :, 0], torch.zeros(6, n_channels))
    torch.testing.assert_close(knots[:, :, -1], torch.ones(6, n_channels))
    assert (knots.diff(dim=2) > 0).all()
    changed = colour.change_histogram(patches / 255, knots)
    pairs = zip(patches.numpy(), knots.numpy(), strict=True)
    agree(changed, [pillow.histogram(*pair) for pair in pairs], 0.6 / 255)


@pytest.mark.parametrize("size", SIZES, ids=str)
@CHANNELS
def test_colour_is_four_changes_in_any_order(n_channels, size):
    patches = eight_bit(40, n_channels, *size)
    order = random(40, 4, seed=1).argsort(1)
    settings = (2 * random(40, 4, seed=2) - 1) * torch.tensor(colour.LARGEST_CHANGES)
    changed = colour.change_colour(patches / 255, settings)
    rows = zip(patches.numpy(), order.tolist(), settings.tolist(), strict=True)
    # JFIF gives its constants to six digits.
    agree(changed, [pillow.colour(patch, o, *s) for patch, o, s in rows], 2e-6)


@pytest.mark.parametrize(("kind", "name"), [(1, "saturation"), (2, "hue"), (3, "contrast")])
def test_each_change_of_colour_agrees_with_pillow(kind, name):
    patches = (88 + 80 * random(20, 3, 6, 5)).round().to(torch.uint8)
    settings = torch.zeros(20, 4)
    settings[:, kind] = (2 * random(20) - 1) * colour.LARGEST_CHANGES[kind]
    changed = colour.change_colour(patches / 255, settings)
    amounts = settings[:, kind] if name == "hue" else 1 + settings[:, kind]
    pairs = zip(patches.numpy(), amounts.tolist(), strict=True)
    # Pillow's two conversions of hue cut off to 8 bits, and the second multiplies by up to 1.772.
    tolerance = 5 / 255 if name == "hue" else 2.1 / 255
    agree(changed, [getattr(pillow, name)(*pair) for pair in pairs], tolerance)


@CHANNELS
def test_no_change_of_colour_changes_no_bit(n_channels):
    patches = random(7, n_channels, 4, 4)
    assert torch.equal(colour.change_colour(patches, torch.zeros(7, 4)), patches)


@pytest.mark.parametrize("size", [(6, 5), (4, 9), (1, 3)], ids=str)
def test_crop_is_a_window_padded_back(size):
    patches = eight_bit(200, 2, *size)
    changed = (only(crop=0.4).patches(patches / 255, generator()) * 255).round().to(torch.uint8)
    drawn = set()
    for before, after in zip(patches.numpy(), changed.numpy(), strict=True):
        windows = pillow.cropped(before, 0.4)
        found = [place for place, window in windows.items() if np.array_equal(after, window)]
        assert found
        drawn.update(found if len(found) == 1 else [])
    if min(size) > 1:
        assert drawn == set(windows)


def test_v1_shows_60_of_64_pixels():
    patches = torch.arange(64.0).expand(300, 1, 64, 64) / 64
    changed = AUGMENTATIONS["cpc-v1"].patches(patches, generator())[:, 0, 0] * 64
    assert torch.equal(changed[:, 2:62].diff(dim=1), torch.ones(300, 59))
    assert torch.equal(changed[:, :3], changed[:, 2:3].expand(-1, 3))
    assert torch.equal(changed[:, 61:], changed[:, 61:62].expand(-1, 3))
    assert set(changed[:, 0].tolist()) == {0, 1, 2, 3, 4}


# All steps


def stepped(name):
    return only(**{name: 0.3 if name == "crop" else 1})


@pytest.mark.parametrize("size", SIZES, ids=str)
@CHANNELS
@pytest.mark.parametrize("name", [*STEPS, "cpc-v1", "cpc-v2"])
def test_values_stay_in_range(name, n_channels, size):
    ends = (random(150, n_channels, *size) < 0.5).float()
    augmentation = AUGMENTATIONS[name] if name in AUGMENTATIONS else stepped(name)
    for patches in (ends, ends * 0, ends * 0 + 1, random(150, n_channels, *size)):
        before = patches.clone()
        changed = augmentation.patches(patches, generator(), torch.full((n_channels,), 0.4))
        assert torch.equal(patches, before)
        assert (changed.shape, changed.dtype) == (patches.shape, patches.dtype)
        assert 0 <= changed.min() <= changed.max() <= 1  # NaN fails, too.


@CHANNELS
@pytest.mark.parametrize("name", [*STEPS, "cpc-v1", "cpc-v2"])
def test_each_patch_is_changed_on_its_own(name, n_channels):
    augmentation = AUGMENTATIONS[name] if name in AUGMENTATIONS else stepped(name)
    patches, others = random(60, n_channels, 6, 7), random(60, n_channels, 6, 7, seed=1)
    kept = torch.arange(60) % 3 == 0
    others[kept] = patches[kept]
    changed = augmentation.patches(patches, generator(3))
    assert torch.equal(changed[kept], augmentation.patches(others, generator(3))[kept])


@pytest.mark.parametrize("name", [*STEPS, "cpc-v1", "cpc-v2"])
def test_draws_come_from_the_generator_and_differ_from_patch_to_patch(name):
    augmentation = AUGMENTATIONS[name] if name in AUGMENTATIONS else stepped(name)
    patches, state = random(1, 3, 9, 9).expand(40, -1, -1, -1), torch.get_rng_state()
    changed = augmentation.patches(patches, generator(3))
    assert torch.equal(augmentation.patches(patches, generator(3)), changed)
    assert not torch.equal(augmentation.patches(patches, generator(4)), changed)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(changed.flatten(1).unique(dim=0)) > 3


@pytest.mark.parametrize("name", [name for name in STEPS if name != "crop"])
def test_a_step_has_its_probability(name):
    # An Invert by itself always changes a patch.
    patches = random(1, 3, 6, 6).expand(600, -1, -1, -1)
    settings = {"primitives": ("Invert",), "n_primitives": 1, name: 0.25}
    changed = only(**settings).patches(patches, generator())
    n_changed = (changed != patches).flatten(1).any(1).sum()
    assert 87 <= n_changed <= 213  # 150 +- 10.6: nearly six standard deviations.


def test_a_step_that_is_off_draws_nothing():
    """The values of the earlier settings are those of the generator's first draws."""
    patches = random(30, 3, 6, 6)
    state = generator(5)
    assert torch.equal(NONE.patches(patches, state), patches)
    assert torch.equal(state.get_state(), generator(5).get_state())
    changed = only(greyscale=0.5).patches(patches, generator(5))
    chosen = torch.rand(30, generator=generator(5)) < 0.5
    assert torch.equal((changed != patches).flatten(1).any(1), chosen)


@CHANNELS
@pytest.mark.parametrize("name", [*STEPS, "greyscale", "cpc-v1", "cpc-v2"])
def test_blocks_make_no_difference(monkeypatch, name, n_channels):
    """Patches that are changed one or a few at a time come back to their places, too."""
    augmentation = AUGMENTATIONS[name] if name in AUGMENTATIONS else only(**{name: 0.6})
    patches = random(60, n_channels, 6, 7)
    expected = augmentation.patches(patches, generator(3))
    for n_at_a_time in (1, 4):
        monkeypatch.setattr(rows, "BLOCK", n_at_a_time * patches[0].numel())
        changed = augmentation.patches(patches, generator(3))
        # Matrix products of other sizes round otherwise.
        torch.testing.assert_close(changed, expected, rtol=0, atol=2e-6)


@CHANNELS
@pytest.mark.parametrize("name", [*STEPS, "greyscale", "cpc-v1", "cpc-v2"])
def test_views_are_changed_as_their_copies_and_stay(name, n_channels):
    augmentation = AUGMENTATIONS[name] if name in AUGMENTATIONS else stepped(name)
    images = random(6, 14, 12, n_channels).movedim(3, 1)
    windows = images.unfold(2, 6, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5)
    view, before = windows[:, 1, 2], images.clone()
    assert not view.is_contiguous()
    changed = augmentation.patches(view, generator(3))
    assert torch.equal(images, before)
    assert torch.equal(changed, augmentation.patches(view.contiguous(), generator(3)))


@pytest.mark.parametrize("n_channels", [2, 3, 12])
def test_dropped_channels_are_left_out_of_the_computation_only(monkeypatch, n_channels):
    patches, fill = random(80, n_channels, 6, 5), torch.linspace(0.2, 0.8, n_channels)
    changed = AUGMENTATIONS["cpc-v2"].patches(patches, generator(3), fill)
    monkeypatch.setattr(Augmentation, "_keeps_few_channels", lambda self, n_channels: False)
    expected = AUGMENTATIONS["cpc-v2"].patches(patches, generator(3), fill)
    torch.testing.assert_close(changed, expected, rtol=0, atol=1e-6)


def test_defaults_are_without_the_steps_of_the_papers():
    for name in ("none", "light", "full"):
        assert all(getattr(AUGMENTATIONS[name], step) == 0 for step in STEPS)
        assert AUGMENTATIONS[name].image_transform is None
        assert AUGMENTATIONS[name].patch_transform is None


def test_the_full_setting_keeps_its_values():
    """Studies were made with them: sums of the pixels of a fixed draw."""
    changed = AUGMENTATIONS["full"].patches(random(8, 3, 6, 6, seed=2), generator(1))
    torch.testing.assert_close(
        changed.sum((1, 2, 3)),
        torch.tensor([42.5313, 55.64, 66.5605, 57.6593, 32.9289, 69.8624, 53.632, 86.0892]),
        rtol=0,
        atol=1e-3,
    )


def test_no_patches_at_all():
    assert AUGMENTATIONS["cpc-v2"].patches(random(0, 3, 6, 6), generator()).shape == (0, 3, 6, 6)


def test_bf16_training_leaves_pixels_their_digits():
    patches = random(50, 3, 8, 8)
    expected = AUGMENTATIONS["cpc-v2"].patches(patches, generator())
    with torch.autocast("cpu", torch.bfloat16):
        changed = AUGMENTATIONS["cpc-v2"].patches(patches, generator())
    assert torch.equal(changed, expected)


# Users' own


def halved(x, generator):
    return x // 2 if x.dtype == torch.uint8 else x / 2


def noisy(x, generator):
    return (x + 0.1 * torch.rand(x.shape, generator=generator)).clamp(0, 1)


def test_own_transforms_come_last():
    pixels = random(4, 3, 5, 5)
    own = replace(Augmentation(), image_transform=halved, patch_transform=halved)
    assert torch.equal(
        own.images(pixels, generator()), Augmentation().images(pixels, generator()) / 2
    )
    expected = Augmentation().patches(pixels, generator()) / 2
    assert torch.equal(own.patches(pixels, generator()), expected)
    bytes_ = eight_bit(2, 1, 3, 3)
    assert torch.equal(only(image_transform=halved).images(bytes_), bytes_ // 2)


def test_own_transforms_draw_from_the_generator():
    own = only(patch_transform=noisy)
    pixels = random(4, 3, 5, 5)
    assert torch.equal(own.patches(pixels, generator(1)), own.patches(pixels, generator(1)))
    assert not torch.equal(own.patches(pixels, generator(1)), own.patches(pixels, generator(2)))


@pytest.mark.parametrize("kind", ["image", "patch"])
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda x, g: x[:, :1], ValueError, "gave shape=torch.Size([2, 1, 4, 4]); it must be that"),
        (lambda x, g: x.double(), ValueError, "gave dtype=torch.float64; it must be that of what"),
        (lambda x, g: x.to("meta"), ValueError, "gave device=meta; it must be that of what it was"),
        (lambda x, g: x * 2 + 0.5, ValueError, "they must be between 0 and 1: clamp them."),
        (lambda x, g: x * torch.nan, ValueError, "gave values from nan to nan; they must be"),
        (lambda x, g: x.numpy(), TypeError, "gave ndarray; it must give a tensor."),
    ],
)
def test_what_own_transforms_give_is_checked(kind, wrong, error, message):
    name = f"{kind}_transform"
    change = getattr(only(**{name: wrong}), "images" if kind == "image" else "patches")
    with pytest.raises(error, match=re.escape(name) + " .*" + re.escape(message)):
        change(random(2, 3, 4, 4))


@pytest.mark.parametrize("name", ["image_transform", "patch_transform"])
def test_a_transform_that_cannot_be_called(name):
    with pytest.raises(TypeError, match=f"{name}='blur' must be callable or None; pass a funct"):
        Augmentation(**{name: "blur"})


@pytest.mark.parametrize("value", [0, 16, -1, 1.5, float("nan")])
def test_the_number_of_primitives(value):
    message = f"n_primitives={value!r} must be a whole number from 1 to 15, the number of"
    with pytest.raises(ValueError, match=re.escape(message)):
        Augmentation(n_primitives=value)


def test_an_unknown_primitive():
    message = r"primitives='Rotat' is unknown; .*Did you mean 'Rotate'\?"
    with pytest.raises(ValueError, match=message):
        Augmentation(primitives=("ShearX", "Rotat"))
    with pytest.raises(ValueError, match="from 1 to 1, the number"):
        Augmentation(primitives=("ShearX", "ShearX"))


# In the model


@pytest.mark.parametrize("name", ["cpc-v1", "cpc-v2"])
@CHANNELS
def test_a_model_trains_with_the_papers_augmentation(name, n_channels):
    model = small_model(asymmetric_grid(), n_channels, augmentation=AUGMENTATIONS[name])
    assert isinstance(model, CPCModel)
    model(random(4, n_channels, 10, 14), generator()).loss.backward()
    for parameter in model.parameters():
        assert torch.isfinite(parameter.grad).all()


def test_pixels_of_one_patch_reach_no_other_patch():
    patches = random(30, 3, 6, 6).requires_grad_()
    changed = AUGMENTATIONS["cpc-v2"].patches(patches, generator())
    changed[:10].square().sum().backward()
    assert (patches.grad[:10] != 0).any()
    assert torch.equal(patches.grad[10:], torch.zeros(20, 3, 6, 6))
