"""Images held out: what is measured on them, and when they end a training."""

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sklearn_cpc.training import held_out, split_rows
from sklearn_cpc.training.callbacks import WeightAverage

from ..estimators.toys import images, tiny

X = images(30)
X.setflags(write=False)
EARLY = {"early_stopping": True, "validation_fraction": 0.2}


def reference_epochs(bounds, n_iter_no_change, tol):
    """scikit-learn's rule, as in MLPClassifier: epochs trained and the best of them."""
    best, best_epoch, without = -np.inf, 0, 0
    for epoch, bound in enumerate(bounds, 1):
        without = without + 1 if bound < best + tol else 0
        if bound > best:
            best, best_epoch = bound, epoch
        if without > n_iter_no_change:
            break
    return epoch, best_epoch


@pytest.mark.parametrize(
    "bounds",
    [
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        [0.5, 0.4, 0.3, 0.2, 0.1, 0.0],
        [0.1, 0.5, 0.505, 0.509, 0.5, 0.9],
        [0.3, 0.2, 0.4, 0.1, 0.1, 0.1],
    ],
)
@pytest.mark.parametrize("n_iter_no_change", [1, 2])
def test_the_training_ends_as_scikit_learns_do_and_keeps_the_best(
    bounds, n_iter_no_change, monkeypatch
):
    weights = []

    class Weights(Callback):
        def on_epoch_end(self, net, **kwargs):
            weights.append([p.detach().clone() for p in net.module_.parameters()])

        def __deepcopy__(self, memo):
            return self

    measured = iter(bounds)
    monkeypatch.setattr(held_out, "held_out_bound", lambda *args: next(measured))
    settings = {"max_epochs": 6, "n_iter_no_change": n_iter_no_change, "tol": 0.01}
    cpc = tiny(callbacks=[Weights()], **settings, **EARLY).fit(X)
    n_epochs, best = reference_epochs(bounds, n_iter_no_change, 0.01)
    assert cpc.n_iter_ == len(weights) == n_epochs
    recorded = [row["validation_mutual_information"] for row in cpc.history_]
    assert recorded == bounds[:n_epochs]
    for kept, then in zip(cpc.net_.module_.parameters(), weights[best - 1], strict=True):
        assert torch.equal(kept, then)


def test_the_bound_is_the_score_of_the_images_held_out():
    cpc = tiny(**EARLY).fit(X)
    _, rows = split_rows(30, 0.2)
    assert len(rows) == 6
    assert cpc.history_[0]["validation_mutual_information"] == cpc.score(X[rows])


def test_with_averaging_it_is_that_of_the_averages():
    cpc = tiny(max_epochs=2, averaging=0.9, batch_size=4, tol=0.0, **EARLY).fit(X)
    _, rows = split_rows(30, 0.2)
    bounds = [row["validation_mutual_information"] for row in cpc.history_]
    assert max(bounds) == pytest.approx(cpc.score(X[rows]), rel=1e-6)


def test_a_look_at_the_averages_leaves_the_weights_alone():
    net = tiny(averaging=0.9).fit(X).net_
    callback = WeightAverage(0.9)
    callback.on_train_begin(net)
    before = {k: v.clone() for k, v in net.module_.state_dict().items()}
    for average in callback.averages_.values():
        average.add_(1)
    with callback.in_place(net):
        first = next(iter(callback.averages_))
        assert torch.equal(net.module_.state_dict()[first], callback.averages_[first])
    assert all(torch.equal(v, before[k]) for k, v in net.module_.state_dict().items())


def test_images_held_out_are_not_trained_on():
    _, rows = split_rows(30, 0.2)
    seen = []

    class Seen(Callback):
        def on_batch_begin(self, net, batch=None, **kwargs):
            seen.extend(batch[0].mul(255).round().byte().sum((1, 2, 3)).tolist())

        def __deepcopy__(self, memo):
            return self

    cpc = tiny(callbacks=[Seen()], **EARLY).fit(X)
    sums = X.sum((1, 2, 3), dtype=int)
    assert sorted(seen) == sorted(np.delete(sums, rows).tolist())
    assert len(set(sums)) > 28
    assert cpc.history_[0]["images_per_second"] > 0


def test_the_same_images_are_held_out_for_every_seed_and_all_are_used():
    train, rows = split_rows(30, 0.2)
    assert sorted([*train, *rows]) == list(range(30))
    first, second = (tiny(random_state=seed, **EARLY).fit(X) for seed in (0, 0))
    assert first.loss_curve_ == second.loss_curve_
    np.testing.assert_array_equal(first.transform(X), second.transform(X))


def test_without_early_stopping_nothing_is_held_out_or_recorded():
    assert "validation_mutual_information" not in tiny().fit(X).history_[0]
    cpc = tiny(**EARLY).partial_fit(X)
    assert "validation_mutual_information" not in cpc.history_[0]


def test_a_warm_start_holds_out_the_same_images_again():
    cpc = tiny(warm_start=True, **EARLY).fit(X).fit(X)
    assert cpc.n_iter_ == 2
    assert all("validation_mutual_information" in row for row in cpc.history_)


def test_the_line_of_an_epoch_tells_the_bound(capsys):
    cpc = tiny(verbose=1, **EARLY).fit(X)
    bound = cpc.history_[0]["validation_mutual_information"]
    assert f"nats  held out {bound:.3f} nats  accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(("n", "fraction"), [(5, 0.1), (5, 0.9), (1, 0.5)])
def test_too_few_images_to_hold_some_out(n, fraction):
    cpc = tiny(early_stopping=True, validation_fraction=fraction)
    message = rf"validation_fraction={fraction} with n_samples={n} leaves \d images to train on and"
    with pytest.raises(ValueError, match=message):
        cpc.fit(X[:n])


def test_a_held_out_part_without_negatives_is_refused():
    cpc = tiny(early_stopping=True, validation_fraction=0.1, negatives="place", batch_size=2)
    with pytest.raises(ValueError, match="batch_size=2 with n_samples=27 makes a batch of one"):
        cpc.fit(X)


@pytest.mark.parametrize(
    "setting",
    [
        {"validation_fraction": 0.0},
        {"validation_fraction": 1.0},
        {"n_iter_no_change": 0},
        {"tol": -1.0},
        {"early_stopping": "yes"},
        {"checkpoint": 3},
        {"checkpoint_every": -1},
    ],
)
def test_values_out_of_range(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=f"'{name}' parameter"):
        tiny(**setting).fit(X)
