"""Greedy InfoMax: stages, their isolation, their losses; and encoders that go in parts."""

import copy
import gc
import re
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_cpc.nn import (
    AUGMENTATIONS,
    ConvEncoder,
    CPCModel,
    PatchGrid,
    ResNetEncoder,
    encoder_stages,
    first_row_first,
)
from tests import reference

from .test_negatives import WAYS
from .toys import asymmetric_grid, generator, random, small_model

GRID = PatchGrid(32, 48, 8, 4)  # 7 x 11
ENCODERS = {
    "conv": lambda: ConvEncoder(1, (8, 8), 12, width=4),
    "resnet18": lambda: ResNetEncoder(1, (8, 8), 12),
    "large patches": lambda: ResNetEncoder(1, (48, 48), None),
}


def greedy_model(greedy="joint", seed=0, **settings):
    torch.manual_seed(seed)
    settings = {"projection_dim": 5, "max_steps": 2, "directions": ("down", "left"), **settings}
    return CPCModel(GRID, ENCODERS["conv"](), 1, greedy=greedy, **settings)


def stage_of(name, model):
    """Which stage of the small convolutional encoder a parameter belongs to."""
    if name.startswith("earlier") or re.match(r"encoder\.body\.[012]\.", name):
        return 0
    return 1


# Stages


@pytest.mark.parametrize(("name", "n"), [("conv", 2), ("resnet18", 3), ("large patches", 3)])
def test_the_chain_of_stages_is_the_encoder(name, n):
    encoder = ENCODERS[name]()
    patches = random(2, 1, *encoder.patch_size)
    stages = encoder_stages(encoder)
    assert len(stages) == n
    x = patches
    for stage in stages:
        x = stage(x)
    torch.testing.assert_close(x, encoder(patches))


@pytest.mark.parametrize("name", ENCODERS)
def test_every_parameter_is_in_one_stage(name):
    encoder = ENCODERS[name]()
    own = [id(p) for stage in encoder_stages(encoder) for p in stage.parameters()]
    assert sorted(own) == sorted(id(p) for p in encoder.parameters())


def test_cutting_leaves_the_encoder_as_it_was():
    encoder = ENCODERS["conv"]()
    n_layers = len(encoder.body)
    encoder_stages(encoder)
    assert len(encoder.body) == n_layers


class OwnStages(nn.Module):
    """Two layers of one's own, the second after flattening."""

    n_components = 7

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(1, 3, 5)
        self.two = nn.Sequential(nn.Flatten(), nn.Linear(48, 7))

    def forward(self, patches):
        return self.two(self.one(patches))

    def stages(self):
        return self.one, self.two


def test_an_encoder_may_say_what_its_stages_are():
    model = CPCModel(GRID, OwnStages(), 1, greedy="joint", projection_dim=None, max_steps=1)
    assert model.earlier[0].W["down"][0].weight.shape == (3, 3)
    assert model.W["down"][0].weight.shape == (7, 7)
    assert torch.isfinite(model(random(2, 1, 32, 48)).loss)


@pytest.mark.parametrize(
    "encoder", [nn.Linear(3, 4), ConvEncoder(1, (4, 4), 8), nn.Sequential(nn.Flatten())]
)
def test_an_encoder_of_one_stage_is_refused(encoder):
    message = (
        f"greedy: {type(encoder).__name__} has 1 stage, and there must be two at least; pass "
        "another encoder or larger patches, give the encoder a method stages(), or set greedy=None."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        encoder_stages(encoder)


# Losses


def test_heads_are_those_of_all_stages():
    model = greedy_model()
    assert model.n_stages == 2
    pairs = [("down", 2), ("down", 3), ("left", 2), ("left", 3)]
    assert model.heads == [(*pair, stage) for stage in (0, 1) for pair in pairs]
    assert not model.contexts
    assert isinstance(model.latent, nn.Identity)


def test_losses_are_the_slow_twins_of_each_stages_mean_pooled_maps():
    """Each stage's latents predict themselves; the softmax is over the batch."""
    model = greedy_model(similarity="dot", temperature=2.0)
    images = random(2, 1, 32, 48)
    output = model(images)
    x = model.standardise(GRID.extract(images)).flatten(0, 2)
    i = 0
    for stage, maps in zip(encoder_stages(model.encoder), [model.earlier[0], model], strict=True):
        x = stage(x)
        z = (x.mean((2, 3)) if x.ndim == 4 else x).view(2, *GRID.shape, -1)
        for direction, k, _ in model.heads[:4]:
            expected = one_head(z, maps, direction, k, model)
            assert model.heads[i][:2] == (direction, k)
            np.testing.assert_allclose(output.losses[i].item(), expected, rtol=1e-4)
            i += 1
    torch.testing.assert_close(output.loss, output.losses.mean())


def one_head(z, maps, direction, k, model):
    turned = reference.array(first_row_first(z, direction))
    batch, rows, cols, _ = turned.shape
    W_k = reference.array(maps.W[direction][model.plan[direction].index(k)].weight)
    target_map = reference.array(maps.targets[direction].weight)
    places = [(b, i, j) for b in range(batch) for i in range(rows) for j in range(cols)]
    candidates = [target_map @ turned[place] for place in places]
    pairs = [place for place in places if place[1] + k < rows]
    predictions = [W_k @ turned[place] / model.temperature for place in pairs]
    positives = [places.index((b, i + k, j)) for b, i, j in pairs]
    return reference.info_nce(predictions, candidates, positives)[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("objective", ["infonce", "bce"])
def test_every_parameter_gets_a_gradient(way, objective):
    model = greedy_model(objective=objective, **WAYS[way])
    model(random(3, 1, 32, 48), generator()).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_no_gradient_passes_between_stages():
    model = greedy_model()
    outputs = list(model.parts(random(2, 1, 32, 48)))
    parameters = dict(model.named_parameters())
    for stage, output in enumerate(outputs):
        gradients = torch.autograd.grad(output.loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            assert (gradient is not None) == (stage_of(name, model) == stage), name


def test_parts_add_up_to_the_whole():
    model, images = greedy_model(augmentation=AUGMENTATIONS["light"]), random(3, 1, 32, 48)
    whole = model(images, generator())
    whole.loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    total = 0
    for part in model.parts(images, generator()):
        part.loss.backward()
        total += part.loss.item()
    assert total == pytest.approx(whole.loss.item())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_a_model_that_is_not_greedy_has_one_part():
    model, images = small_model(asymmetric_grid()), random(2, 1, 10, 14)
    (part,) = model.parts(images)
    assert torch.equal(part.losses, model(images).losses)


@pytest.mark.parametrize("stage", [0, 1])
def test_one_stage_after_the_other(stage):
    model = greedy_model("sequential")
    assert model.trained_stage == 0
    model.trained_stage = stage
    images = random(2, 1, 32, 48)
    output = model(images)
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (stage_of(name, model) == stage), name
    trained = torch.tensor([head[2] == stage for head in model.heads])
    assert torch.equal(output.n_candidates > 0, trained)
    assert (output.losses[~trained] == 0).all()
    torch.testing.assert_close(output.loss, output.losses[trained].mean())
    assert (model.eval()(images).n_candidates > 0).all()
    joint = greedy_model()
    joint.load_state_dict(model.state_dict())
    torch.testing.assert_close(output.losses[trained], joint(images).losses[trained])


def test_a_copy_has_stages_of_its_own():
    model = greedy_model()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    images = random(2, 1, 32, 48)
    assert (model.embed(images) != 0).any()
    assert (other.embed(images) == 0).all()


# Memory


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Most bytes held at once for backward passes, less those of leaves."""

    def __init__(self):
        self.now, self.most = 0, 0
        super().__init__(self._pack, self._unpack)

    def _pack(self, tensor):
        if tensor.is_leaf:
            return (tensor,)
        box = _Box(tensor)
        n = tensor.nbytes
        self.now += n
        self.most = max(self.most, self.now)
        weakref.finalize(box, self._free, n)
        return box

    def _unpack(self, box):
        return box[0] if isinstance(box, tuple) else box.tensor

    def _free(self, n):
        self.now -= n


class _Box:
    def __init__(self, tensor):
        self.tensor = tensor


def saved(step):
    gc.collect()
    counter = SavedBytes()
    with counter:
        step()
    return counter.most


def test_stages_done_one_by_one_need_the_memory_of_the_largest():
    images = random(4, 1, 32, 48)
    plain, joint, last = greedy_model(None), greedy_model(), greedy_model("sequential")
    last.trained_stage = 1

    def stepwise(model):
        for part in model.parts(images):
            part.loss.backward()

    whole = saved(lambda: joint(images).loss.backward())
    parts = saved(lambda: stepwise(joint))
    sequential = saved(lambda: stepwise(last))
    assert sequential < parts < 0.8 * whole
    assert parts < 0.8 * saved(lambda: plain(images).loss.backward())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("greedy", [None, "joint"])
def test_going_in_parts_gives_the_gradient_of_the_whole_batch(way, greedy):
    """Whatever the negatives; float32 in another order of sums."""
    images = random(3, 1, 32, 48)
    results = []
    for accumulate in (1, 5):
        model = greedy_model(greedy, accumulate=accumulate, **WAYS[way])
        output = model(images, generator())
        output.loss.backward()
        results.append((output.losses, {n: p.grad for n, p in model.named_parameters()}))
    (losses, gradients), (other_losses, other_gradients) = results
    torch.testing.assert_close(losses, other_losses)
    assert gradients.keys() == other_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(other_gradients[name], gradient, rtol=1e-3, atol=1e-5)


def test_going_in_parts_holds_less_between_the_passes():
    patches = GRID.extract(random(4, 1, 32, 48))
    models = [greedy_model(None, accumulate=n) for n in (1, 8)]
    most = [saved(lambda m=m: m.encode_patches(patches).sum().backward()) for m in models]
    assert most[1] < 0.5 * most[0]


def test_more_parts_than_patches():
    model = greedy_model(None, accumulate=1000)
    assert torch.isfinite(model(random(1, 1, 32, 48)).loss)
