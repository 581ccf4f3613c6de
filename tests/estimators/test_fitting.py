"""Seeds, continuing, starting anew, and fits that fail."""

import copy
import threading

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from sklearn_cpc.nn import Augmentation, CPCModel

from .toys import colours, images, same_state, tiny

X = images()
X.setflags(write=False)


def features(cpc, X=X):
    return cpc.fit(X).transform(X)


def weights(cpc):
    return {name: value.clone() for name, value in cpc.net_.module_.state_dict().items()}


def same_weights(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


# Seeds


@pytest.mark.parametrize("settings", [{}, {"encoder": "resnet18"}, {"n_candidates": None}])
def test_two_fits_with_one_seed_are_identical(settings):
    cpc = tiny(**settings)
    first = features(cpc)
    np.testing.assert_array_equal(first, features(cpc))
    np.testing.assert_array_equal(first, features(clone(cpc)))
    np.testing.assert_array_equal(first, features(tiny(**settings)))


@pytest.mark.parametrize("max_epochs", [0, 1])
def test_seeds_differ(max_epochs):
    one, two = (tiny(random_state=seed, max_epochs=max_epochs) for seed in (0, 1))
    assert np.abs(features(one) - features(two)).max() > 1e-3


def test_training_depends_on_the_seed_beyond_the_initial_weights(monkeypatch):
    """Order, augmentation and candidates are drawn from random_state, too."""
    cpc = tiny(max_epochs=0, warm_start=True).fit(X)
    other = copy.deepcopy(cpc)
    other.net_.random_state = np.random.RandomState(99)
    for each in (cpc, other):
        each.set_params(max_epochs=1).fit(X)
    assert not same_weights(weights(cpc), weights(other))


def test_a_random_state_instance_is_accepted_and_drawn_from():
    states = [np.random.RandomState(3) for _ in range(2)]
    first, second = (features(tiny(random_state=state)) for state in states)
    np.testing.assert_array_equal(first, second)
    again = features(tiny(random_state=states[0]))
    assert not np.array_equal(first, again)


def test_none_draws_anew():
    assert not np.array_equal(*(features(tiny(random_state=None)) for _ in range(2)))


def test_the_number_of_threads_changes_rounding_only():
    one, two = (features(tiny(n_jobs=n), X[:8]) for n in (1, 2))
    # Few steps of 1e-3 amplify the rounding of sums by little.
    np.testing.assert_allclose(one, two, atol=1e-3)


@pytest.mark.parametrize("use", ["fit", "partial_fit", "transform", "score", "embed_patches"])
def test_n_jobs_is_set_and_put_back(use, monkeypatch):
    cpc, calls, before = tiny().fit(X), [], torch.get_num_threads()
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    getattr(cpc.set_params(n_jobs=5), use)(X)
    assert calls == [5, before]


@pytest.mark.parametrize(("n_jobs", "n_threads"), [(-1, 6), (-2, 5), (-6, 1), (-9, 1)])
def test_negative_n_jobs_count_from_all_cores(n_jobs, n_threads, monkeypatch):
    calls, before = [], torch.get_num_threads()
    monkeypatch.setattr(joblib, "cpu_count", lambda: 6)
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    tiny(n_jobs=n_jobs).fit(X)
    assert calls == [n_threads, before]


def test_the_global_generators_are_left_alone():
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    cpc = tiny().fit(X)
    cpc.partial_fit(X)
    cpc.transform(X)
    cpc.score(X)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_the_global_generators_have_no_influence():
    torch.manual_seed(1)
    first = features(tiny())
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, features(tiny()))


def test_fitting_in_another_thread_gives_the_same():
    out = []
    thread = threading.Thread(target=lambda: out.append(features(tiny())))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(out[0], features(tiny()))


# Untrained


def test_max_epochs_0_is_the_untrained_encoder():
    cpc = tiny(max_epochs=0).fit(X)
    assert (cpc.n_iter_, cpc.history_, cpc.loss_curve_) == (0, [], [])
    assert np.isfinite(cpc.score(X))
    assert cpc.transform(X).std(0).max() > 0


def test_training_changes_every_weight():
    before = weights(tiny(max_epochs=0).fit(X))
    after = weights(tiny(max_epochs=2).fit(X))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {"pixel_mean", "pixel_std"}


# Continuing


def test_warm_start_continues():
    cpc = tiny(max_epochs=2, warm_start=True).fit(X)
    first, curve = weights(cpc), cpc.loss_curve_
    cpc.set_params(max_epochs=3).fit(X)
    assert cpc.n_iter_ == 5
    assert cpc.loss_curve_[:2] == curve
    assert [row["epoch"] for row in cpc.history_] == [1, 2, 3, 4, 5]
    assert not same_weights(first, weights(cpc))
    cpc.set_params(max_epochs=0)
    before = weights(cpc)
    assert same_weights(before, weights(cpc.fit(X)))


def test_warm_start_begins_from_the_earlier_weights(monkeypatch):
    cpc = tiny(max_epochs=3, warm_start=True).fit(X)
    seen = []
    predict = CPCModel.predict
    monkeypatch.setattr(
        CPCModel, "predict", lambda m, *a: (seen.append(m.latent.weight.clone()), predict(m, *a))[1]
    )
    before = weights(cpc)
    cpc.fit(X)
    assert torch.equal(seen[0], before["latent.weight"])


def test_fit_without_warm_start_keeps_nothing():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X.reshape(20, -1)).add_prefix("p")
    cpc = tiny(image_shape=(8, 8, 3), max_epochs=2).fit(frame).partial_fit(frame)
    assert len(cpc.feature_names_in_) == 192
    small = images(height=7, width=6, n_channels=1)
    cpc.set_params(image_shape=None).fit(small)
    assert not hasattr(cpc, "feature_names_in_")
    fresh = tiny(max_epochs=2).fit(small)
    assert vars(cpc).keys() == vars(fresh).keys()
    assert (cpc.n_iter_, cpc.n_features_in_, cpc.image_shape_) == (2, 42, (7, 6, 1))
    np.testing.assert_array_equal(cpc.transform(small), fresh.transform(small))


def test_partial_fit_repeats_with_the_seed_and_adds_epochs():
    one, two = (tiny().partial_fit(X).partial_fit(X[:10]) for _ in range(2))
    assert one.n_iter_ == 2
    assert one.loss_curve_ == two.loss_curve_
    np.testing.assert_array_equal(one.transform(X), two.transform(X))
    np.testing.assert_array_less(0, np.abs(one.transform(X) - features(tiny())).max())


def test_partial_fit_leaves_the_nets_of_earlier_copies_alone():
    cpc = tiny().fit(X)
    net, before = cpc.net_, weights(cpc)
    cpc.partial_fit(X)
    assert cpc.net_ is not net
    assert same_weights(before, dict(net.module_.state_dict()))


def test_partial_fit_and_fit_leave_parameters_and_images_alone():
    mine = X.copy()
    augment = Augmentation(flip=0)
    cpc = tiny(directions=["up", "down"], augment=augment, n_jobs=None)
    before = copy.deepcopy(cpc.get_params())
    cpc.fit(mine).partial_fit(mine).transform(mine)
    assert cpc.get_params() == before
    assert cpc.augment is augment
    np.testing.assert_array_equal(mine, X)


def test_clone_keeps_every_parameter_and_no_fit():
    cpc = tiny(augment=Augmentation(flip=0.0, shift=0.1), patch_size=(2, 3)).fit(X)
    twin = clone(cpc)
    assert twin.get_params() == cpc.get_params()
    assert not hasattr(twin, "net_")


def test_set_params_after_fit_changes_what_transform_makes_of_the_same_net():
    cpc = tiny().fit(X)
    assert cpc.set_params(pooling="quadrants").transform(X).shape == (20, 32)
    cpc.set_params(n_components=16, pooling="max")
    assert cpc.transform(X).shape == (20, 8)
    assert cpc.embed_patches(X).shape[-1] == len(cpc.get_feature_names_out()) == 8


# Failing


BAD = {
    "bad pixels": ({}, np.where(np.arange(20)[:, None, None, None] == 3, np.nan, X)),
    "no images": ({}, np.zeros((4, 0, 8, 3))),
    "text": ({}, np.full((4, 8, 8, 3), "x")),
    "five axes": ({}, np.zeros((4, 8, 8, 3, 1))),
    "bad name": ({"directions": ("down", "dwon")}, X),
    "bad parameter": ({"temperature": -1.0}, X),
    "too large a patch": ({"patch_size": 99}, X),
    "nothing to predict": ({"patch_size": 8}, X),
    "bad stride": ({"transform_stride": 0}, X),
    "other images and a rate too high": (
        {"learning_rate": 1e30, "warmup": None, "pooling": "max"},
        images(height=9, n_channels=1),
    ),
}


@pytest.mark.parametrize("why", BAD)
def test_a_failed_refit_leaves_the_earlier_fit(why):
    settings, bad = BAD[why]
    cpc = tiny().fit(X)
    expected, state, params = cpc.transform(X), vars(cpc).copy(), cpc.get_params()
    cpc.set_params(**settings)
    with pytest.raises((ValueError, FloatingPointError)):
        cpc.fit(bad)
    cpc.set_params(**params)
    assert same_state(state, vars(cpc))
    np.testing.assert_array_equal(cpc.transform(X), expected)


class _Diverging:
    """The loss of the third batch on is not a number."""

    def __init__(self, monkeypatch):
        self.n = 0
        forward = CPCModel.forward

        def broken(model, *args):
            output = forward(model, *args)
            self.n += model.training
            if self.n > 2:
                output.loss = output.loss * float("nan")
            return output

        monkeypatch.setattr(CPCModel, "forward", broken)


@pytest.mark.parametrize("how", ["fit", "partial_fit", "warm_start"])
def test_a_loss_that_is_not_finite_leaves_the_earlier_fit(how, monkeypatch):
    cpc = tiny(warm_start=how == "warm_start").fit(X)
    expected, state, before = cpc.transform(X), vars(cpc).copy(), weights(cpc)
    history = copy.deepcopy(cpc.history_)
    net_history = len(cpc.net_.history)
    _Diverging(monkeypatch)
    with pytest.raises(FloatingPointError, match=r"batch 3 .*learning_rate=0\.002"):
        cpc.partial_fit(X) if how == "partial_fit" else cpc.fit(X)
    monkeypatch.undo()
    assert same_state(state, vars(cpc))
    assert same_weights(before, weights(cpc))
    assert cpc.history_ == history
    assert len(cpc.net_.history) == net_history
    np.testing.assert_array_equal(cpc.transform(X), expected)
    untouched = tiny(warm_start=how == "warm_start").fit(X)
    np.testing.assert_array_equal(
        cpc.partial_fit(X).transform(X), untouched.partial_fit(X).transform(X)
    )


def test_a_failed_partial_fit_on_other_images_leaves_the_earlier_fit():
    cpc = tiny().fit(X)
    expected, state = cpc.transform(X), vars(cpc).copy()
    with pytest.raises(ValueError, match="began with"):
        cpc.partial_fit(images(height=9))
    assert same_state(state, vars(cpc))
    np.testing.assert_array_equal(cpc.transform(X), expected)


# Learning


def test_training_learns_what_is_predictable():
    train, test = colours(300), colours(100, seed=1)
    settings = {
        "n_components": 64,
        "latent_dim": 16,
        "projection_dim": 16,
        "context_dim": 16,
        "n_candidates": 128,
        "negative_images": None,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "augment": "none",
    }
    untrained = tiny(**settings, max_epochs=0).fit(train)
    trained = tiny(**settings, max_epochs=5).fit(train)
    assert trained.loss_curve_[-1] < np.log(128) - 0.8
    assert trained.loss_curve_[-1] < trained.loss_curve_[0] - 0.8
    assert max(0, untrained.score(test)) + 0.8 < trained.score(test) <= np.log(128)
    assert 3 / 128 < trained.history_[-1]["accuracy"] <= 1


def test_independent_pixels_cannot_be_predicted_by_the_bound():
    cpc = tiny(max_epochs=3).fit(images(100, n_channels=1))
    assert cpc.score(images(100, n_channels=1, seed=1)) < 0.2


@pytest.mark.parametrize(("name", "value"), [("n_components", 9), ("temperature", 0.3)])
def test_a_training_is_not_continued_with_another_network(name, value):
    cpc = tiny(warm_start=True).fit(X)
    before = cpc.transform(X)
    cpc.set_params(**{name: value})
    for continued in (cpc.fit, cpc.partial_fit):
        with pytest.raises(ValueError, match=f"{name}={value} must be .* as in the fit"):
            continued(X)
    np.testing.assert_array_equal(cpc.transform(X), before)


def test_weights_that_blow_up_in_the_last_batch_are_refused():
    with pytest.raises(FloatingPointError, match=r"lower learning_rate=1e\+30"):
        tiny(learning_rate=1e30, batch_size=10_000, clip_norm=None, warmup=None).fit(X)


def test_a_list_of_the_same_directions_continues():
    cpc = tiny(directions=("down",)).fit(X)
    assert cpc.set_params(directions=["down"]).partial_fit(X).n_iter_ == 2


@pytest.mark.parametrize("go_on", ["fit", "partial_fit"])
def test_another_precision_counts_from_then_on(go_on):
    cpc = tiny(warm_start=True).fit(X)
    same = copy.deepcopy(cpc)
    getattr(cpc.set_params(precision="bf16"), go_on)(X)
    getattr(same, go_on)(X)
    assert cpc.net_.precision == "bf16"
    assert not np.array_equal(cpc.transform(X), same.transform(X))


def test_groups_of_so_many_targets_that_they_take_for_ever_are_told_of(monkeypatch):
    """Strips of 8x200 pixels took forty times as long as with negatives="sampled"."""
    monkeypatch.setattr("sklearn_cpc.estimators.building.LARGE_GROUP", 8 * 49 - 1)
    with pytest.warns(UserWarning, match=r"7x7 patches, .* of 8 images: up to 392 sq") as told:
        tiny().fit(X)
    assert told[0].filename == __file__
    tiny(negatives="sampled").fit(X)
    tiny(negative_images=7).fit(X)
    tiny(max_epochs=0).fit(X)


# Trainings that come to nothing


class Blind(torch.nn.Module):
    """All patches are alike to it."""

    def __init__(self, n_channels):
        super().__init__()
        self.features = torch.nn.Parameter(torch.ones(4))

    def forward(self, patches):
        return self.features.expand(len(patches), 4)


def six_passes(cpc):
    for _ in range(6):
        cpc.partial_fit(X)


def test_a_training_that_learns_nothing_says_so_and_is_kept():
    message = (
        r"has learned nothing: in its last epoch the loss is that of guessing, log N, to within "
        r"0.001 nats.*to it: pass a learning_rate below 0.002 .*, or raise warmup=0.05\."
    )
    cpc = tiny(encoder=Blind, n_components=None, max_epochs=15)
    with pytest.warns(ConvergenceWarning, match=message) as caught:
        cpc.fit(X)
    assert caught[0].filename == __file__
    assert cpc.n_iter_ == 15
    cpc.set_params(max_epochs=7).fit(X)  # too few batches to tell: no warning
    assert cpc.n_iter_ == 7
    with pytest.warns(ConvergenceWarning) as caught:
        six_passes(cpc)
    assert {each.filename for each in caught} == {__file__}
    assert len(caught) == 4  # from 30 batches on
