"""Every encoder and context network inside the estimator, and networks of the user's own."""

import copy
import pickle
import warnings
from functools import partial

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn

from sklearn_cpc import CPCTransformer
from sklearn_cpc.nn import CONTEXTS, ENCODERS

from .toys import images, tiny

X = images(16)
X.setflags(write=False)
PATCH = {"patch_size": 4, "transform_stride": 2}  # a grid of 3x3
EVERY = [{"encoder": name} for name in ENCODERS]
EVERY += [{"context": name} for name in CONTEXTS]
EVERY += [{"context": name, "shared_context": True} for name in CONTEXTS]


class Net(nn.Sequential):
    """A user's encoder, importable."""

    def __init__(self, n_channels):
        super().__init__(nn.Conv2d(n_channels, 6, 3, padding=1), nn.ReLU())


class Normed(nn.Sequential):
    def __init__(self, n_channels):
        super().__init__(nn.Conv2d(n_channels, 16, 3), nn.BatchNorm2d(16), nn.ReLU())


class Noisy(nn.Sequential):
    def __init__(self, n_channels):
        super().__init__(nn.Conv2d(n_channels, 6, 3), nn.Dropout(0.5), nn.ReLU())


class Causal(nn.Module):
    """A user's context network, importable."""

    def __init__(self, latent_dim):
        super().__init__()
        self.mix = nn.Linear(latent_dim, latent_dim)

    def forward(self, z):
        return self.mix(z).cumsum(1)


class Acausal(nn.Module):
    def forward(self, z):
        return z + z.mean(1, keepdim=True)


OWN = [
    {"encoder": Net},
    {"encoder": Net(3)},
    {"encoder": partial(Net), "n_components": None},
    {"context": Causal},
    {"context": Causal(4)},
    {"encoder": Net(3), "context": Causal, "shared_context": True},
    {"encoder": Noisy, "context": nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))},
]


def name_of_case(case):
    return "-".join(str(getattr(v, "__name__", type(v).__name__)) for v in case.values())


every_case = pytest.mark.parametrize("settings", EVERY + OWN, ids=name_of_case)
own_case = pytest.mark.parametrize("settings", OWN, ids=name_of_case)


@pytest.fixture
def narrow(monkeypatch):
    """The named networks at a fraction of their width: 300 million weights are too many here."""
    for name, make in ENCODERS.items():
        if name.startswith("resnet"):
            monkeypatch.setitem(ENCODERS, name, partial(make, width=2))


def by_file(cpc, path):
    cpc.save(path)
    own = {n: getattr(cpc, n) for n in ("encoder", "context")}
    own = {n: value for n, value in own.items() if not isinstance(value, str)}
    return CPCTransformer.load(path, **own)


@every_case
def test_every_network_trains_on_digits_and_can_be_kept(settings, tmp_path, digits, narrow):
    pytest.importorskip("safetensors")
    pixels = np.repeat(digits[0][:8, ..., None], 3, axis=3)
    cpc = tiny(**PATCH | settings).fit(pixels)
    assert cpc.n_iter_ == 1
    expected = cpc.transform(pixels[:2])
    assert np.isfinite(expected).all()
    assert expected.shape == (2, cpc.encoder_.n_components)
    joblib.dump(cpc, tmp_path / "b")
    twins = [
        clone(cpc).fit(pixels),
        pickle.loads(pickle.dumps(cpc)),
        joblib.load(tmp_path / "b"),
        by_file(cpc, tmp_path / "a"),
    ]
    for twin in twins:
        np.testing.assert_array_equal(twin.transform(pixels[:2]), expected)
    assert twins[-1].score(pixels[:2]) == cpc.score(pixels[:2])


@pytest.mark.parametrize("norm", ["none", "group", "layer"])
def test_every_norm_trains(norm):
    cpc = tiny(encoder="wrn28-2", encoder_norm=norm, **PATCH).fit(X)
    assert np.isfinite(cpc.transform(X)).all()


def test_auto_is_the_layer_norm():
    one, two = (tiny(encoder="resnet18", encoder_norm=n, max_epochs=0) for n in ("auto", "layer"))
    np.testing.assert_array_equal(one.fit_transform(X), two.fit_transform(X))


@pytest.mark.parametrize(
    ("encoder", "width"), [("conv", 1024), ("resnet18", 256), ("wrn28-2", 128), (Net, 6)]
)
def test_none_is_the_encoders_own_width(encoder, width):
    cpc = tiny(n_components=None, encoder=encoder, max_epochs=0).fit(X)
    assert cpc.transform(X).shape == (16, width)
    assert len(cpc.get_feature_names_out()) == width


@own_case
def test_networks_of_ones_own_are_copied_and_kept_as_parameters(settings):
    own = {n: v for n, v in settings.items() if isinstance(v, nn.Module)}
    before = {n: copy.deepcopy(v.state_dict()) for n, v in own.items()}
    cpc = tiny(**PATCH | settings).fit(X)
    for name, module in own.items():
        assert getattr(cpc, name) is module
        for key, value in module.state_dict().items():
            assert torch.equal(value, before[name][key])
    assert cpc.partial_fit(X).n_iter_ == 2
    assert copy.deepcopy(cpc).partial_fit(X).n_iter_ == 3
    assert pickle.loads(pickle.dumps(cpc)).partial_fit(X).n_iter_ == 3


def test_a_module_keeps_its_weights_and_a_class_follows_the_seed():
    module = Net(3)
    settings = {"max_epochs": 0, "n_components": None}
    one, two = (tiny(encoder=module, random_state=s, **settings).fit(X) for s in (0, 1))
    assert torch.equal(one.encoder_.body[0].weight, module[0].weight)
    np.testing.assert_array_equal(one.transform(X), two.transform(X))
    one, two, other = (tiny(encoder=Net, random_state=s, **settings).fit(X) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.transform(X), two.transform(X))
    assert not np.array_equal(one.transform(X), other.transform(X))


def test_a_training_is_not_continued_with_another_network_of_ones_own():
    cpc = tiny(encoder=Net(3)).fit(X)
    with pytest.raises(ValueError, match=r"(?s)encoder=Net.* must be Net.* as in the fit"):
        cpc.set_params(encoder=Net(3)).partial_fit(X)
    cpc = tiny(shared_context=True).fit(X)
    with pytest.raises(ValueError, match="shared_context=False must be True as in the fit"):
        cpc.set_params(shared_context=False).partial_fit(X)


def test_noise_in_a_network_follows_the_seed_and_leaves_the_global_generators_alone():
    def features(seed):
        return tiny(encoder=Noisy, random_state=seed, max_epochs=2, **PATCH).fit(X).transform(X)

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = features(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    np.testing.assert_array_equal(features(0), first)
    cpc = tiny(encoder=Noisy, max_epochs=0, warm_start=True, **PATCH).fit(X)
    twin = copy.deepcopy(cpc)
    twin.net_.random_state.randint(2)  # another noise, and other batches
    one, two = (c.set_params(max_epochs=1).fit(X).transform(X) for c in (cpc, twin))
    assert not np.array_equal(one, two)


def test_batch_norm_is_converted_with_a_warning():
    with pytest.warns(UserWarning, match="encoder=Normed: BatchNorm2d became GroupNorm"):
        cpc = tiny(encoder=Normed, **PATCH).fit(X)
    assert isinstance(cpc.encoder_.body[1], nn.GroupNorm)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cpc.partial_fit(X)


def test_grid_search_over_networks():
    grid = {"encoder": [Net, "conv"], "context": [Causal, "gru"]}
    search = GridSearchCV(tiny(), grid, cv=2, n_jobs=1, error_score="raise").fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


# Refused


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"encoder": Net(5)}, ValueError, "encoder=Net failed on patches of 4x4 pixels and 3 cha"),
        (
            {"encoder": nn.Flatten(0)},
            ValueError,
            r"encoder=Flatten gave features of shape",
        ),
        ({"encoder": len}, ValueError, "encoder=len failed when called with n_channels=3"),
        ({"encoder": int}, TypeError, "encoder=int gave 3; it must give a torch.nn.Module"),
        ({"encoder": 3}, ValueError, r"The 'encoder' parameter .* must be a str among .* callable"),
        ({"encoder": "resnet11"}, ValueError, r"Did you mean 'resnet1\d+'\?"),
        ({"encoder": Net, "encoder_norm": "group"}, ValueError, "encoder_norm='group' must be 'a"),
        ({"encoder_norm": "group"}, ValueError, "encoder_norm='group' must be .* encoder='conv'"),
        ({"encoder_norm": "batch"}, ValueError, "'encoder_norm' parameter .* must be a str among"),
        ({"context": Acausal()}, ValueError, "context=Acausal: row 0 of its output changes with"),
        ({"context": nn.Linear(4, 5)}, ValueError, r"context=Linear gave \(1, 3, 3, 5\) for"),
        ({"context": "gatd-pixelcnn"}, ValueError, r"Did you mean 'gated-pixelcnn'\?"),
        ({"shared_context": "yes"}, ValueError, "'shared_context' parameter"),
        ({"n_components": 0}, ValueError, "'n_components' parameter"),
    ],
)
def test_networks_that_do_not_fit(settings, error, message):
    cpc = tiny(**PATCH | settings)
    with pytest.raises(error, match=f"(?s){message}"):
        cpc.fit(X)
    assert not [name for name in vars(cpc) if name.endswith("_")]


def saved(tmp_path, **settings):
    pytest.importorskip("safetensors")
    tiny(**settings, max_epochs=0).fit(X).save(tmp_path / "a")
    return tmp_path / "a"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"encoder": Net},
            r"a was saved with encoder=Net of your own, whose code is not in the file; pass the "
            r"same as CPCTransformer.load\(path, encoder=...\)",
        ),
        ({"context": Causal(4)}, r"a was saved with context=Causal of .*, context=...\)"),
    ],
)
def test_load_asks_for_a_network_of_ones_own(settings, message, tmp_path):
    path = saved(tmp_path, **settings)
    with pytest.raises(ValueError, match=message):
        CPCTransformer.load(path)


def test_load_refuses_a_network_that_was_not_ones_own(tmp_path):
    path = saved(tmp_path)
    message = "a was saved with encoder='conv', not with encoder=Net; leave encoder out"
    with pytest.raises(ValueError, match=message):
        CPCTransformer.load(path, encoder=Net)


def test_load_refuses_another_network(tmp_path):
    path = saved(tmp_path, encoder=Net, n_components=6)
    with pytest.raises(
        ValueError, match=r"(?s)a does not hold the weights of its settings: .*body"
    ):
        CPCTransformer.load(path, encoder=partial(nn.Conv2d, out_channels=6, kernel_size=2))


def test_load_gives_the_network_the_weights_of_the_file(tmp_path):
    module = Net(3)
    cpc = tiny(encoder=module).fit(X)
    cpc.save(tmp_path / "a")
    other = CPCTransformer.load(tmp_path / "a", encoder=Net(3))
    np.testing.assert_array_equal(other.transform(X), cpc.transform(X))
    np.testing.assert_array_equal(
        other.partial_fit(X).transform(X), cpc.partial_fit(X).transform(X)
    )
