"""Recipes against the papers' numbers."""

from math import log

import numpy as np
import pytest
import torch

from sklearn_cpc import CPCTransformer, recipe
from sklearn_cpc.estimators.building import make_model, model_settings
from sklearn_cpc.estimators.recipes import RECIPES, image_size
from sklearn_cpc.nn import PatchGrid, plan_heads
from sklearn_cpc.training import PixelScale

from .toys import images

# What the sources say: side, patch, stride, grid, steps, directions, candidates, batch.
FACTS = {
    "cpc-v1": (256, 64, 32, 7, [2, 3, 4, 5, 6], 1, 512 * 49, 512),
    "cpc-v2": (260, 80, 36, 6, [3], 4, 512 * 36, 512),
    "cpc-v2-resnet50": (260, 80, 36, 6, [3], 4, 512 * 36, 512),
    "greedy-infomax": (64, 16, 8, 7, [2, 3, 4, 5, 6], 1, 17, 32),
    "colour-mnist": (64, 16, 8, 7, [2, 3, 4, 5, 6], 2, 20, 8),
    "cpc-gru": (64, 16, 8, 7, [2, 3, 4, 5], 1, 2, 32),
    "small-images": (32, 8, 4, 7, [2, 3, 4], 2, 64, 64),
}


def grid_of(name, scale=1.0):
    params, side = recipe(name, scale=scale), image_size(name, scale)
    return PatchGrid(side, side, params["patch_size"], params["patch_stride"])


@pytest.mark.parametrize("name", RECIPES)
def test_geometry_steps_and_batch_are_the_sources(name):
    side, size, stride, n, steps, n_directions, _, batch = FACTS[name]
    params, grid = recipe(name), grid_of(name)
    assert image_size(name) == side
    assert (grid.patch_size, grid.patch_stride) == ((size, size), (stride, stride))
    assert grid.shape == (n, n)
    assert grid.margins == (0, 0, 0, 0)
    plan = plan_heads(grid, params["directions"], params["n_steps"])
    assert list(plan.values()) == n_directions * [steps]
    assert params["batch_size"] == batch


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "small-images"])
def test_number_of_candidates_is_the_sources(name):
    params, grid = recipe(name), grid_of(name)
    if params["negatives"] == "batch":
        n = params["batch_size"] * grid.n_patches
    else:
        assert params["negatives"] == "mixed"
        n = params["n_candidates"]
    assert n == FACTS[name][6]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cpc-v1", {"learning_rate": 2e-4}),
        (
            "cpc-v2",
            {
                "learning_rate": 4e-4,
                "betas": (0.8, 0.999),
                "eps": 1e-8,
                "clip_norm": 0.01,
                "averaging": 0.9999,
                "max_epochs": 200,
            },
        ),
        ("greedy-infomax", {"learning_rate": 2e-4, "max_epochs": 300}),
        ("colour-mnist", {"learning_rate": 1e-3, "max_epochs": 5}),
        ("cpc-gru", {"learning_rate": 1e-3, "max_epochs": 10}),
    ],
)
def test_optimisers_are_the_sources(name, expected):
    params = recipe(name)
    assert (params["optimizer"], params["weight_decay"]) == ("adam", 0.0)
    assert {key: params[key] for key in expected} == expected
    assert name == "cpc-v2" or "averaging" not in params


def test_the_scores_of_cpc_v2_are_products_of_64_numbers_times_a_tenth():
    params = recipe("cpc-v2")
    assert (params["projection_dim"], params["similarity"]) == (64, "dot")
    assert 1 / params["temperature"] == 0.1


@pytest.mark.parametrize("name", ["cpc-v1", "greedy-infomax", "colour-mnist"])
def test_scores_without_a_projection_are_plain_products(name):
    params = recipe(name)
    assert params["projection_dim"] is None
    assert (params["similarity"], params["temperature"]) == ("dot", 1.0)


def model_of(name):
    """The module of a recipe, without memory for its weights."""
    side, scale = image_size(name), PixelScale(0.0, 255.0, (0.5,) * 3, (0.25,) * 3)
    with torch.device("meta"):
        return make_model(**model_settings(CPCTransformer(**recipe(name)), (side, side, 3), scale))


# Millions of parameters of the encoder, by hand in the networks' own docstrings.
ENCODER_MILLIONS = {
    "cpc-v1": (27.5, 0.6),
    "cpc-v2": (300.0, 10.0),
    "cpc-v2-resnet50": (8.5, 0.3),
    "greedy-infomax": (8.5, 0.3),
}


@pytest.mark.parametrize("name", ENCODER_MILLIONS)
def test_parameters_of_the_encoder(name):
    model = model_of(name)
    millions = sum(p.numel() for p in model.encoder.parameters()) / 1e6
    expected, tolerance = ENCODER_MILLIONS[name]
    assert millions == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("name", RECIPES)
def test_heads_and_widths(name):
    _, _, _, _, steps, n_directions, _, _ = FACTS[name]
    model, params = model_of(name), recipe(name)
    n_stages = 3 if name == "greedy-infomax" else 1
    assert model.n_stages == n_stages
    assert len(model.heads) == n_directions * len(steps) * n_stages
    assert len(model.contexts) == (0 if params.get("greedy") else n_directions)
    assert model.encoder.n_components == params["n_components"]
    if params["latent_dim"] is None:
        assert isinstance(model.latent, torch.nn.Identity)
    for W in model.W.values():
        width = params.get("projection_dim", 64) or W[0].in_features
        assert {W_k.out_features for W_k in W} == {width}


@pytest.mark.parametrize("name", RECIPES)
def test_a_shrunk_recipe_trains(name):
    """Its bound does not exceed the logarithm of its candidates."""
    side = image_size(name, 0.05) if name != "greedy-infomax" else 32
    changes = {"patch_size": 8, "patch_stride": 4, "transform_stride": 4} if side == 32 else {}
    params = recipe(name, scale=0.05, max_epochs=1, random_state=0, **changes)
    X = images(16, side, side)
    cpc = CPCTransformer(**params).fit(X)
    assert np.isfinite(cpc.transform(X)).all()
    assert cpc.history_[0]["mutual_information"] <= log(16 * 49)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("scale", [1.0, 0.7, 0.5, 0.3, 0.25, 0.125, 0.06, 0.01])
def test_scaling_keeps_grid_heads_and_order(name, scale):
    full, params = recipe(name), recipe(name, scale=scale)
    plans = [
        plan_heads(grid_of(name, s), params["directions"], params["n_steps"]) for s in (1.0, scale)
    ]
    assert plans[0] == plans[1]
    assert grid_of(name).shape == grid_of(name, scale).shape
    assert grid_of(name, scale).margins == (0, 0, 0, 0)
    for key in ("patch_size", "n_components", "context_dim", "batch_size"):
        assert params.get(key, 0) <= full.get(key, 0)
    for key in ("n_steps", "projection_dim", "n_candidates", "learning_rate", "max_epochs"):
        assert params.get(key) == full.get(key)
    assert set(params) - set(full) == set()


def test_a_quarter_by_hand():
    params = recipe("cpc-v2", scale=0.25)
    assert (params["patch_size"], params["patch_stride"], params["transform_stride"]) == (20, 9, 9)
    assert (params["n_components"], params["context_dim"], params["batch_size"]) == (1024, 64, 128)
    assert params["encoder"] == "resnet50"
    assert image_size("cpc-v2", 0.25) == 65


def test_changes_come_last_and_are_not_copied():
    state = np.random.RandomState(0)
    params = recipe("cpc-v1", scale=0.5, batch_size=7, random_state=state)
    assert params["batch_size"] == 7
    assert params["random_state"] is state


def test_every_call_gives_a_dictionary_of_its_own():
    recipe("cpc-v2")["batch_size"] = 1
    assert recipe("cpc-v2")["batch_size"] == 512


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_where_it_is_from_and_departs(name):
    text = RECIPES[name].__doc__
    assert "Departs" in text or name == "small-images"
    assert "20" in text or "https://" in text or name == "small-images"


def test_unknown_changes_come_with_what_was_meant():
    with pytest.raises(ValueError, match=r"no parameter 'max_epoch' .*; did you mean 'max_epochs'"):
        recipe("cpc-v2", max_epoch=3)
    with pytest.raises(ValueError, match=r"no parameter 'zzz' to change; see help"):
        recipe("cpc-v2", zzz=3)


def test_unknown_recipes_come_with_what_was_meant():
    with pytest.raises(ValueError, match=r"name='cpc-v3' is unknown; .* Did you mean 'cpc-v\d'\?"):
        recipe("cpc-v3")


@pytest.mark.parametrize("scale", [0, 1.5, -1])
def test_scales_out_of_range(scale):
    with pytest.raises(ValueError, match=rf"scale={scale} must be above 0 and at most 1; pass"):
        recipe("cpc-v1", scale=scale)
