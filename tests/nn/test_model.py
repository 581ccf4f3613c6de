import copy
import re
from dataclasses import fields, replace
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sklearn_cpc.nn import (
    AUGMENTATIONS,
    CONTEXTS,
    Augmentation,
    ConvEncoder,
    CPCModel,
    PatchGrid,
    first_row_first,
    make_encoder,
    plan_heads,
)
from sklearn_cpc.nn import heads as heads_module
from sklearn_cpc.nn.augment.augmentation import PATCH_STEPS
from tests import reference

from .toys import FOUR, asymmetric_grid, generator, normal, random, small_model

# float32 through a few layers of a dozen terms each.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
OFF = {field.name: 0.0 for field in fields(Augmentation) if field.type is float}


# Heads


def test_one_map_per_direction_and_step():
    grid = asymmetric_grid()  # 4 x 6, first safe step 2
    model = small_model(grid, max_steps=None)
    assert model.plan == {"down": [2, 3], "up": [2, 3], "right": [2, 3, 4, 5], "left": [2, 3, 4, 5]}
    maps = [W_k for W in model.W.values() for W_k in W]
    assert len(maps) == len(model.heads) == 12
    assert len({W_k.weight.data_ptr() for W_k in maps}) == 12
    assert len({id(context) for context in model.contexts.values()}) == 4


def test_heads_are_named_in_the_order_of_the_losses():
    model = small_model(asymmetric_grid(), max_steps=2, directions=("left", "down"))
    assert model.heads == [("left", 2), ("left", 3), ("down", 2), ("down", 3)]


@pytest.mark.parametrize(
    ("grid", "plan"),
    [
        (PatchGrid(6, 20, 4, 2), {"right": [2, 3, 4], "left": [2, 3, 4]}),
        (PatchGrid(20, 4, 4, 2), {"down": [2, 3, 4], "up": [2, 3, 4]}),
        (PatchGrid(3, 3, 3, 1), {}),
        (PatchGrid(1, 1), {}),
    ],
)
def test_directions_without_room_are_left_out(grid, plan):
    assert plan_heads(grid, FOUR, 3) == plan
    model = small_model(grid)
    assert set(model.contexts) == set(model.W) == set(model.targets) == set(plan)


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    st.one_of(st.none(), st.integers(1, 4)),
)
def test_planned_steps_are_the_nearest_safe_ones_with_room(extra, size, stride, max_steps):
    grid = PatchGrid(size[0] + extra[0], size[1] + extra[1], size, stride)
    plan = plan_heads(grid, FOUR, max_steps)
    for direction in FOUR:
        axis = 0 if direction in ("down", "up") else 1
        first = reference.first_safe_step(size[axis], stride[axis])
        expected = list(range(first, grid.shape[axis]))[:max_steps]
        assert plan.get(direction, []) == expected


def test_every_parameter_gets_a_gradient_from_one_step():
    model = small_model(asymmetric_grid(), 3, max_steps=None, augmentation=AUGMENTATIONS["light"])
    model(random(4, 3, 10, 14), generator()).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_one_optimiser_step_lowers_the_loss():
    model = small_model(asymmetric_grid())
    images = random(6, 1, 10, 14)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    before = model(images).loss
    before.backward()
    optimiser.step()
    assert model(images).loss < before


# Information


@pytest.mark.parametrize("geometry", [(10, 12, 4, 2), (9, 12, (3, 5), (2, 2)), (8, 6, 2, 2)])
def test_prediction_and_its_target_share_no_pixel(geometry, monkeypatch):
    """Through the whole model: both gradients with respect to the pixels, for every pair."""
    grid = PatchGrid(*geometry)
    model = small_model(grid, max_steps=None, similarity="dot")
    images = random(1, 1, grid.height, grid.width).requires_grad_()
    n_heads = 0

    def used(vector):
        (gradient,) = torch.autograd.grad(vector.sum(), images, retain_graph=True)
        return gradient[0, 0] != 0

    def check(predictions, targets, positives):
        nonlocal n_heads
        n_heads += 1
        for prediction, positive in zip(predictions, positives, strict=True):
            seen, target = used(prediction), used(targets[positive])
            assert seen.any()
            assert target.any()
            assert not (seen & target).any()
        return predictions.sum() * 0, torch.tensor(0.0)

    monkeypatch.setattr(heads_module, "info_nce", check)
    model(images)
    assert n_heads == len(model.heads) > 0


@pytest.mark.parametrize("direction", FOUR)
def test_the_first_safe_step_is_needed(direction):
    """One step nearer, the context's pixels reach into the target patch."""
    grid = PatchGrid(12, 12, 4, 2)
    model = small_model(grid)
    images = random(1, 1, 12, 12).requires_grad_()
    z = first_row_first(model.latent(model.encode_patches(grid.extract(images))), direction)
    c = model.contexts[direction](z)
    nearest = grid.first_safe_step[0] - 1
    seen, _ = (torch.autograd.grad(v.sum(), images, retain_graph=True)[0] for v in (c[:, 0], z))
    (target,) = torch.autograd.grad(z[:, nearest].sum(), images)
    assert ((seen != 0) & (target != 0)).any()


def test_patches_of_other_images_do_not_change_z():
    model = small_model(asymmetric_grid())
    images = random(3, 1, 10, 14)
    changed = images.clone()
    changed[1:] = random(2, 1, 10, 14, seed=1)
    assert torch.equal(model.embed(images)[0], model.embed(changed)[0])
    patches = model.grid.extract(images)
    others = model.grid.extract(changed)
    assert torch.equal(model.encode_patches(patches)[0], model.encode_patches(others)[0])


# Loss


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("temperature", [0.1, 2.0])
def test_predict_is_its_slow_twin(similarity, temperature):
    model = small_model(
        asymmetric_grid(), max_steps=None, similarity=similarity, temperature=temperature
    )
    z = normal(2, 4, 6, 6)
    output = model.predict(z)
    expected = reference.predict(reference.array(z), model)
    assert list(expected) == model.heads
    losses, accuracies = np.transpose(list(expected.values()))
    np.testing.assert_allclose(output.losses.numpy(), losses, **CLOSE)
    np.testing.assert_allclose(output.accuracies.numpy(), accuracies, rtol=1e-6)
    assert output.n_candidates.tolist() == [2 * 4 * 6] * len(model.heads)


def test_vectors_of_a_length_are_normalised_ones():
    x = normal(3, 4, 6).double()
    x[0, 0] = 0
    x.requires_grad_()
    weights = normal(3, 4, 6).double()
    y, expected = heads_module._OfLength.apply(x, 2.5), 2.5 * F.normalize(x, dim=-1)
    torch.testing.assert_close(y, expected)
    for row in (slice(1), slice(1, 3)):  # of zeros; of others
        parts = [
            torch.autograd.grad((weights * v)[row].sum(), x, retain_graph=True)[0]
            for v in (y, expected)
        ]
        torch.testing.assert_close(*parts)


def test_predict_in_groups_of_images_is_its_slow_twin():
    """Five images in groups of two: the fifth is in no group."""
    model = small_model(asymmetric_grid(), max_steps=2, negative_images=2)
    z = normal(5, 4, 6, 6)
    output = model.predict(z)
    expected = reference.predict_groups(reference.array(z), model)
    assert list(expected) == model.heads
    losses, accuracies = np.transpose(list(expected.values()))
    np.testing.assert_allclose(output.losses.numpy(), losses, **CLOSE)
    np.testing.assert_allclose(output.accuracies.numpy(), accuracies, rtol=1e-6)
    torch.testing.assert_close(model.predict(z[:4]).losses, output.losses)


def test_predict_at_one_place_of_all_images_is_its_slow_twin():
    model = small_model(asymmetric_grid(), max_steps=2, negatives="place")
    z = normal(3, 4, 6, 6)
    output = model.predict(z)
    expected = reference.predict_places(reference.array(z), model)
    assert list(expected) == model.heads
    losses, accuracies = np.transpose(list(expected.values()))
    np.testing.assert_allclose(output.losses.numpy(), losses, **CLOSE)
    np.testing.assert_allclose(output.accuracies.numpy(), accuracies, rtol=1e-6)
    assert output.n_candidates.tolist() == [3] * len(model.heads)


def test_what_tells_places_apart_is_of_no_use_with_negatives_of_one_place():
    """Latents that hold nothing but their place: told apart in the batch, not at one place."""
    place = normal(4, 6, 6).expand(3, -1, -1, -1)
    guess = small_model(asymmetric_grid(), negatives="place").predict(place)
    torch.testing.assert_close(guess.bounds, torch.zeros(len(guess.bounds)), atol=1e-5, rtol=0)
    others = small_model(asymmetric_grid(), negatives="batch").predict(place)
    assert (others.losses - others.n_candidates.log()).abs().max() > 0.01


def test_forward_is_predict_of_the_latents():
    model = small_model(asymmetric_grid())
    images = random(3, 1, 10, 14)
    z = model.latent(model.embed(images))
    torch.testing.assert_close(model(images).losses, model.predict(z).losses, **CLOSE)


def test_loss_is_the_mean_over_heads_and_bounds_are_log_n_less_the_loss():
    output = small_model(asymmetric_grid())(random(3, 1, 10, 14))
    torch.testing.assert_close(output.loss, output.losses.mean())
    torch.testing.assert_close(output.bounds, log(3 * 4 * 6) - output.losses)
    assert not any(t.requires_grad for t in (output.losses, output.accuracies, output.bounds))
    assert output.loss.requires_grad


def test_a_head_that_is_not_finite_is_not_dropped_from_the_loss():
    model = small_model(asymmetric_grid())
    model.W["up"][0].weight.data.fill_(float("nan"))
    output = model(random(2, 1, 10, 14))
    assert output.losses.isnan().tolist() == [head == ("up", 2) for head in model.heads]
    assert output.loss.isnan()


@pytest.mark.parametrize("directions", [("down",), FOUR])
@pytest.mark.parametrize("side", [12, 20])
def test_loss_does_not_grow_with_grid_or_heads(side, directions):
    """Equal scores: log N of each head, and of their mean, whatever their number."""
    grid = PatchGrid(side, side, 4, 2)
    model = small_model(grid, directions=directions, max_steps=None, n_candidates=16)
    nn.init.zeros_(model.latent.weight)
    nn.init.zeros_(model.latent.bias)
    output = model(random(4, 1, side, side))
    assert output.loss.item() == pytest.approx(log(16), abs=1e-5)
    np.testing.assert_allclose(output.bounds.numpy(), 0, atol=1e-5)


class Identity(nn.Identity):
    """A context network that hands z on, so that pairs can be read off the loss's arguments."""


def recorded_pairs(monkeypatch, z, **settings):
    """The arguments of each call of info_nce under identity maps: indices in place of vectors."""
    monkeypatch.setitem(CONTEXTS, "identity", Identity)
    model = small_model(
        asymmetric_grid(),
        context="identity",
        context_settings={},
        latent_dim=1,
        projection_dim=1,
        similarity="dot",
        temperature=1,
        max_steps=None,
        **settings,
    )
    for linear in (*model.targets.values(), *(W_k for W in model.W.values() for W_k in W)):
        nn.init.ones_(linear.weight)
    calls = []

    def record(*arguments):
        calls.append([t.detach().flatten().long().tolist() for t in arguments])
        return torch.zeros(()), torch.zeros(())

    monkeypatch.setattr(heads_module, "info_nce", record)
    model.predict(z, generator())
    return model, calls


def is_ahead(context, target, direction, k):
    """Whether `target` lies k steps from `context` in this direction, in the same image."""
    (b, i, j), (b2, i2, j2) = (np.unravel_index(n, (3, 4, 6)) for n in (context, target))
    step = {"down": (k, 0), "up": (-k, 0), "right": (0, k), "left": (0, -k)}[direction]
    return b == b2 and (i2 - i, j2 - j) == step


def n_possible_pairs(direction, k):
    return 3 * ((4 - k) * 6 if direction in ("down", "up") else (6 - k) * 4)


@pytest.mark.parametrize("n_candidates", [2, 5, 17, 100_000, None])
def test_pairs_are_distinct_and_the_positive_is_the_own_target(monkeypatch, n_candidates):
    z = torch.arange(3 * 4 * 6.0).view(3, 4, 6, 1)
    model, calls = recorded_pairs(monkeypatch, z, n_candidates=n_candidates)
    for (direction, k), (contexts, candidates, positives) in zip(model.heads, calls, strict=True):
        n_pairs = n_possible_pairs(direction, k)
        n_sampled = n_pairs if n_candidates is None else min(n_candidates, n_pairs)
        assert len(contexts) == len(set(contexts)) == n_sampled
        if n_candidates is None:
            assert sorted(candidates) == list(range(3 * 4 * 6))
        else:
            assert len(candidates) == len(set(candidates)) == n_sampled
        own = [candidates[positive] for positive in positives]
        assert all(is_ahead(c, t, direction, k) for c, t in zip(contexts, own, strict=True))


def test_sampled_pairs_differ_from_head_to_head(monkeypatch):
    z = torch.arange(3 * 4 * 6.0).view(3, 4, 6, 1)
    _, calls = recorded_pairs(monkeypatch, z, n_candidates=8)
    assert len({tuple(sorted(contexts)) for contexts, _, _ in calls}) == len(calls)


def test_number_of_candidates_is_reported_per_head():
    z = normal(2, 4, 6, 6)
    output = small_model(asymmetric_grid(), n_candidates=20, max_steps=2).predict(z)
    assert output.n_candidates.tolist() == [20, 12, 20, 12, 20, 20, 20, 20]
    torch.testing.assert_close(output.bounds, output.n_candidates.log() - output.losses)


def test_latents_are_the_features_without_a_latent_dim():
    model = small_model(asymmetric_grid(), latent_dim=None)
    assert model.contexts["down"].blocks[0].squeeze.in_channels == 12
    assert torch.isfinite(model(random(2, 1, 10, 14)).loss)


# Randomness and modes


def augmented_model():
    return small_model(asymmetric_grid(), 3, augmentation=Augmentation(), n_candidates=10)


def test_same_generator_same_losses():
    model, images = augmented_model(), random(3, 3, 10, 14)
    first, second, other = (model(images, generator(seed)).losses for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_generator_leaves_the_global_state_alone():
    model, images = augmented_model(), random(3, 3, 10, 14)
    before = torch.get_rng_state()
    model(images, generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_eval_mode_does_not_augment():
    model = small_model(asymmetric_grid(), 3, augmentation=Augmentation())
    images = random(3, 3, 10, 14)
    expected = small_model(asymmetric_grid(), 3)(images).losses
    assert torch.equal(model.eval()(images).losses, expected)
    assert torch.equal(model(images).losses, expected)
    assert not torch.equal(model.train()(images).losses, expected)


def test_embedding_is_never_augmented():
    model, images = augmented_model().train(), random(2, 3, 10, 14)
    assert torch.equal(model.embed(images), model.embed(images))


def test_dropped_channels_become_the_mean_pixel():
    model = small_model(asymmetric_grid(), 3)
    model.pixel_mean.copy_(torch.tensor([0.1, 0.2, 0.3]))
    model.augmentation = replace(AUGMENTATIONS["none"], channel_drop=1)
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(random(2, 3, 10, 14), generator())
    zero = (seen[0] == 0).flatten(2).all(2)  # The mean pixel, standardised.
    assert (zero.sum(1) == 2).all()


def test_standardise_is_per_channel():
    model = small_model(asymmetric_grid(), 2)
    model.pixel_mean.copy_(torch.tensor([0.5, 0.25]))
    model.pixel_std.copy_(torch.tensor([0.5, 0.125]))
    pixels = torch.tensor([1.0, 0.5]).view(1, 2, 1, 1).expand(3, 2, 4, 5)
    expected = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).expand(3, 2, 4, 5)
    torch.testing.assert_close(model.standardise(pixels), expected)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_bfloat16_is_near_float32(similarity):
    model = small_model(asymmetric_grid(), similarity=similarity, n_components=32)
    images = random(8, 1, 10, 14)
    expected = model(images).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images).loss
    loss.backward()
    assert loss.dtype == torch.float32
    # Eight bits of mantissa: about 1 % on cosines, times 1 / temperature, on a loss of about 5.
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


# State


def test_state_holds_context_maps_and_pixel_scale():
    model, images = small_model(asymmetric_grid()), random(2, 1, 10, 14)
    model.pixel_mean.fill_(0.3)
    other = small_model(asymmetric_grid(), seed=1)
    assert not torch.equal(other(images).losses, model(images).losses)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images).losses, model(images).losses)
    assert torch.equal(copy.deepcopy(model)(images).losses, model(images).losses)


@pytest.mark.parametrize("name", ["conv", "resnet18"])
def test_a_model_embeds_images_of_other_sizes(name):
    """No layer is tied to the size of the images or of their grid."""
    grid = PatchGrid(12, 12, 4, 2)
    model = CPCModel(grid, make_encoder(name, 1, (4, 4), 8), 1, latent_dim=4)
    assert model.embed(random(1, 1, 9, 17), grid.with_size(9, 17)).shape == (1, 3, 7, 8)
    model.grid = grid.with_size(16, 20)
    assert torch.isfinite(model(random(2, 1, 16, 20)).loss)


def test_one_row_of_patches_predicts_sideways():
    grid = PatchGrid(1, 64)
    output = small_model(grid)(random(4, 1, 1, 64))
    assert torch.isfinite(output.loss)
    assert len(output.losses) == 2 * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"similarity": "cosin"},
            "similarity='cosin' is unknown; it must be one of 'cosine', 'dot'. "
            "Did you mean 'cosine'?",
        ),
        (
            {"directions": ("down", "rigt")},
            "directions='rigt' is unknown; it must be one of 'down', 'right', 'up', 'left'. "
            "Did you mean 'right'?",
        ),
        ({"context": "pixelcn"}, "context='pixelcn' is unknown"),
    ],
)
def test_unknown_names(settings, message):
    grid = asymmetric_grid()
    with pytest.raises(ValueError, match=re.escape(message)):
        CPCModel(grid, ConvEncoder(1, grid.patch_size, 4, width=4), 1, **settings)


@pytest.mark.parametrize(
    "geometry",
    [
        (32, 32, 8, 4),
        (64, 64, 8, 4),
        (96, 96, 24, 12),
        (30, 41, 8, 4),
        (12, 12, 3, 1),
        (9, 9, 1, 1),
    ],
)
def test_a_shifted_image_brings_no_pixel_of_a_target_into_its_context(monkeypatch, geometry):
    """Every pixel holds its number: rows mirrored at a border must not join target and context."""
    grid = PatchGrid(*geometry)
    seen = []

    class Recorder(nn.Module):
        n_components = 4

        def forward(self, patches):
            seen.append(patches)
            return patches.new_zeros(len(patches), 4)

    shifting = replace(AUGMENTATIONS["none"], shift=0.5, flip=0.5)
    model = CPCModel(grid, Recorder(), 1, latent_dim=None, augmentation=shifting)
    model.pixel_mean.zero_()
    model.pixel_std.fill_(1)
    numbers = torch.arange(grid.height * grid.width).view(1, 1, grid.height, grid.width)
    model(numbers.expand(12, -1, -1, -1).float(), torch.Generator().manual_seed(0))
    patches = seen[0].view(12, *grid.shape, -1)
    for image in patches:
        for direction, k in model.heads:
            turned = first_row_first(image[None], direction)[0]
            for row in range(turned.shape[0] - k):
                context, target = turned[: row + 1].unique(), turned[row + k].unique()
                assert not torch.isin(target, context).any()


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("augmentation", [None, Augmentation(**OFF | {"shift": 0.2, "flip": 0.5})])
def test_work_shared_in_training_changes_no_gradient(monkeypatch, augmentation, accumulate):
    """Overlapping patches are evaluated together unless each is changed on its own."""
    torch.manual_seed(0)
    grid = PatchGrid(16, 20, 8, 4)
    model = CPCModel(
        grid, ConvEncoder(2, (8, 8), 6, width=4), 2, latent_dim=5, augmentation=augmentation
    )
    model.accumulate = accumulate
    images, alone = random(3, 2, 16, 20), model.encode_patches
    called = []
    monkeypatch.setattr(model, "encode_patches", lambda x: called.append(1) or alone(x))

    def step():
        loss = model(images, generator()).loss
        return loss, torch.autograd.grad(loss, list(model.parameters()))

    loss, gradients = step()
    assert not called
    monkeypatch.setattr(ConvEncoder, "can_share", lambda self, stride: False)
    expected, expected_gradients = step()
    assert called
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-6)


def test_what_is_drawn_in_parts_is_drawn_again_for_their_gradient():
    """Dropout's masks of the forward pass are those of the recomputed one."""

    class Dropping(torch.nn.Module):
        n_components = 8

        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(4 * 4, 8)
            self.drop = torch.nn.Dropout(0.5)

        def forward(self, patches):
            return self.drop(self.first(patches.flatten(1)).relu())

    torch.manual_seed(0)
    model = CPCModel(PatchGrid(8, 8, 4, 2), Dropping(), 1, latent_dim=None)
    model.accumulate = 3
    patches = random(5, 3, 3, 1, 4, 4)
    found = []
    for encode in (model.encode_patches, lambda x: _in_parts(model, x, 3)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            features = encode(patches)
            weights = torch.arange(features.numel()).view(features.shape)
            gradient = torch.autograd.grad((features * weights).sum(), model.encoder.first.weight)
        found.append((features, *gradient))
    torch.testing.assert_close(*found)


def _in_parts(model, patches, n):
    parts = model.standardise(patches).flatten(0, -4).tensor_split(n)
    return torch.cat([model.encoder(part) for part in parts]).view(*patches.shape[:-3], -1)


@pytest.mark.parametrize("name", PATCH_STEPS)
def test_patches_changed_on_their_own_share_nothing(name):
    value = (lambda patches, generator: patches) if name == "patch_transform" else 0.5
    assert Augmentation(**OFF | {name: value}).changes_patches


def test_every_step_of_an_augmentation_is_of_images_or_of_patches():
    of_images = {"shift", "flip", "image_transform", "n_primitives", "primitives"}
    names = {field.name for field in fields(Augmentation)}
    assert names == of_images | set(PATCH_STEPS)
    assert not Augmentation(**OFF | {"shift": 0.2, "flip": 0.5}).changes_patches


@pytest.mark.parametrize("context", sorted(CONTEXTS))
def test_rows_that_predict_nothing_are_left_out_of_the_context(monkeypatch, context):
    model = small_model(asymmetric_grid(), context=context)
    z, seen = normal(2, 4, 6, 6), []
    for network in model.contexts.values():
        network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    losses = model.predict(z, generator()).losses
    assert seen == [2, 2, 4, 4]  # of 4 and 6 rows, the first safe step being 2
    monkeypatch.setattr(heads_module, "_context", lambda network, z, step: network(z))
    torch.testing.assert_close(model.predict(z, generator()).losses, losses)
