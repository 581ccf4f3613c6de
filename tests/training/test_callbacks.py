"""Learning rate, records, the progress line, clipping and decay, through whole runs."""

import re
from math import cos, pi

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sklearn_cpc.training.callbacks import _duration

from ..estimators.toys import images, tiny


class Watch(Callback):
    """Notes what it is called with, and the state of the net at that moment."""

    def __init__(self):
        self.n_calls = 0

    def initialize(self):
        self.rates, self.norms, self.epochs, self.begun, self.ended = [], [], [], 0, 0
        SEEN.append(self)
        return self

    def on_train_begin(self, net, **kwargs):
        self.begun += 1

    def on_train_end(self, net, **kwargs):
        self.ended += 1

    def on_batch_end(self, net, training=None, **kwargs):
        assert training
        self.n_calls += 1
        self.rates.append(net.optimizer_.param_groups[0]["lr"])

    def on_grad_computed(self, net, named_parameters=None, **kwargs):
        grads = [p.grad for _, p in named_parameters if p.grad is not None]
        self.norms.append(torch.stack([g.norm() for g in grads]).norm().item())

    def on_epoch_end(self, net, **kwargs):
        self.epochs.append(dict(net.history[-1]))


SEEN = []


@pytest.fixture(autouse=True)
def _forget():
    SEEN.clear()


def watched(X=None, **settings):
    """A fitted transformer and what its callback saw."""
    cpc = tiny(callbacks=[Watch()], **settings).fit(images() if X is None else X)
    return cpc, SEEN[-1]


def closed_form(batch, n, warmup, peak):
    rising = max(1, round(warmup * n))
    if batch < rising:
        return peak * (batch + 1) / rising
    return peak / 2 * (1 + cos(pi * (batch - rising) / max(1, n - rising)))


@pytest.mark.parametrize("warmup", [0.0, 0.25, 0.5, 1.0])
def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine(warmup):
    _, watch = watched(max_epochs=4, warmup=warmup, learning_rate=0.003)
    expected = [closed_form(i, 12, warmup, 0.003) for i in range(12)]
    np.testing.assert_allclose(watch.rates, expected, rtol=1e-12)


def reference_factor(schedule, done):
    """Of the learning rate, when a share of what follows the rise is done."""
    if schedule == "linear":
        return 1 - done
    if schedule == "step":
        return 1.0 if done < 0.6 else 0.1 if done < 0.8 else 0.01
    return 1.0


@pytest.mark.parametrize("schedule", ["linear", "step", "constant"])
def test_other_schedules_after_the_rise(schedule):
    _, watch = watched(max_epochs=4, warmup=1 / 6, learning_rate=0.003, schedule=schedule)
    after = [0.003 * reference_factor(schedule, i / 10) for i in range(10)]
    np.testing.assert_allclose(watch.rates, [0.0015, 0.003, *after], rtol=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "step", "constant"])
def test_without_warmup_no_schedule_counts(schedule):
    _, watch = watched(max_epochs=2, warmup=None, learning_rate=0.003, schedule=schedule)
    assert watch.rates == [0.003] * 6


def test_betas_and_eps_are_the_optimizers():
    for group in tiny(betas=[0.8, 0.99], eps=1e-5).fit(images()).net_.optimizer_.param_groups:
        assert tuple(group["betas"]) == (0.8, 0.99)
        assert group["eps"] == 1e-5


def test_the_queue_is_empty_at_the_start_of_every_pass():
    seen = []

    class Queue(Callback):
        def on_batch_begin(self, net, **kwargs):
            seen.append(len(net.module_.queues["down"].targets()))

        def __deepcopy__(self, memo):
            return self

    settings = {"negatives": "queue", "queue_size": 400, "callbacks": [Queue()]}
    tiny(max_epochs=2, **settings).fit(images()).partial_fit(images())
    assert seen == 3 * [0, 100, 200]


def test_the_copy_behind_a_queue_follows_after_every_batch():
    seen = []

    class Slow(Callback):
        def on_batch_begin(self, net, **kwargs):
            both = net.module_.slow.encoder, net.module_.encoder
            seen.append([next(x.parameters()).detach().clone() for x in both])

        def __deepcopy__(self, memo):
            return self

    settings = {"negatives": "queue", "queue_momentum": 0.75, "callbacks": [Slow()]}
    tiny(max_epochs=2, **settings).fit(images()).partial_fit(images())
    slow, fast = zip(*seen, strict=True)
    assert torch.equal(slow[0], fast[0])  # also where the images have set the first layer
    expected = [fast[0]]
    for after in fast[1:]:
        expected.append(0.75 * expected[-1] + 0.25 * after)
    torch.testing.assert_close(list(slow), expected)


def test_hard_negatives_narrow_in_a_straight_line_and_stay_narrow():
    seen = []

    class Share(Callback):
        def on_batch_end(self, net, y_pred=None, **kwargs):
            seen.append((net.module_.hard_share, int(y_pred.n_candidates[0])))

        def __deepcopy__(self, memo):
            return self

    settings = {"negatives": "hard", "hard_fraction": 0.2, "n_candidates": 41}
    cpc = tiny(max_epochs=2, callbacks=[Share()], **settings).fit(images())
    shares = [1 - 0.8 * i / 5 for i in range(6)]
    assert [share for share, _ in seen] == pytest.approx(shares)
    assert [n for _, n in seen] == [41, 35, 29, 22, 16, 9]  # rounded up, and the positive
    seen.clear()
    cpc.partial_fit(images())
    assert seen == 3 * [(0.2, 9)]


def test_stages_get_equal_shares_of_the_batches():
    seen = []

    class Stage(Callback):
        def on_batch_end(self, net, **kwargs):
            seen.append(net.module_.trained_stage)

        def __deepcopy__(self, memo):
            return self

    settings = {"greedy": "sequential", "encoder": "resnet18", "callbacks": [Stage()]}
    tiny(max_epochs=2, **settings).fit(images()).partial_fit(images())
    assert seen == [0, 0, 1, 1, 2, 2, 0, 1, 2]


def test_without_warmup_the_learning_rate_is_constant():
    _, watch = watched(max_epochs=2, warmup=None, learning_rate=0.003)
    assert watch.rates == [0.003] * 6


def test_partial_fit_trains_at_the_full_learning_rate_after_the_cosine_of_fit():
    cpc, _ = watched(max_epochs=2, learning_rate=0.003)
    cpc.partial_fit(images())
    assert SEEN[-1].rates == [0.003] * 3
    cpc.set_params(learning_rate=0.001).partial_fit(images())
    assert SEEN[-1].rates == [0.001] * 3


def test_gradients_are_clipped_to_clip_norm():
    _, free = watched(clip_norm=None)
    _, clipped = watched(clip_norm=0.01)
    assert min(free.norms) > 0.011
    assert max(clipped.norms) <= 0.01 * (1 + 1e-5)


def test_only_weights_decay():
    cpc, _ = watched(weight_decay=0.3)
    decays = {
        id(p): group["weight_decay"]
        for group in cpc.net_.optimizer_.param_groups
        for p in group["params"]
    }
    named = dict(cpc.net_.module_.named_parameters())
    assert decays.keys() == {id(p) for p in named.values()}
    for name, parameter in named.items():
        assert decays[id(parameter)] == (0.3 if parameter.ndim > 1 else 0.0), name


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_the_optimizer_is_the_one_that_is_named(name, kind):
    assert type(tiny(optimizer=name).fit(images()).net_.optimizer_) is kind


def test_a_users_callback_is_called_and_sees_the_record_of_the_epoch():
    _, watch = watched(max_epochs=2)
    assert (watch.begun, watch.ended, watch.n_calls) == (1, 1, 6)
    assert [epoch["epoch"] for epoch in watch.epochs] == [1, 2]
    assert all(epoch["loss"] > 0 and epoch["images_per_second"] > 0 for epoch in watch.epochs)


def test_a_users_callback_is_copied_not_changed():
    mine = Watch()
    cpc = tiny(callbacks=[mine]).fit(images())
    assert SEEN[-1].n_calls == 3
    assert vars(mine) == {"n_calls": 0}
    assert cpc.callbacks[0] is mine


def test_history_averages_batches_by_their_number_of_images():
    losses = []

    class Losses(Callback):
        def on_batch_end(self, net, batch=None, y_pred=None, **kwargs):
            losses.append((len(batch[0]), y_pred.loss.item()))

        def __deepcopy__(self, memo):
            return self

    cpc = tiny(callbacks=[Losses()], batch_size=8, n_candidates=None).fit(images(10))
    assert [n for n, _ in losses] == [5, 5]
    cpc = tiny(callbacks=[Losses()], batch_size=4, n_candidates=None).fit(images(10))
    sizes, values = zip(*losses[2:], strict=True)
    assert sizes == (4, 3, 3)
    assert cpc.loss_curve_[0] == pytest.approx(np.average(values, weights=sizes), rel=1e-5)


def test_history_keys_lengths_and_bounds():
    cpc = tiny(max_epochs=3, n_candidates=16, negative_images=None).fit(images())
    n_heads = len(cpc.net_.module_.heads)
    assert cpc.n_iter_ == len(cpc.history_) == len(cpc.loss_curve_) == 3
    for i, row in enumerate(cpc.history_):
        assert set(row) == {
            "epoch",
            "loss",
            "accuracy",
            "mutual_information",
            "loss_per_head",
            "accuracy_per_head",
            "mutual_information_per_head",
            "learning_rate",
            "seconds",
            "images_per_second",
        }
        assert row["epoch"] == i + 1
        assert row["loss"] == cpc.loss_curve_[i] == pytest.approx(np.mean(row["loss_per_head"]))
        assert 0 <= row["accuracy"] <= 1
        assert row["mutual_information"] <= np.log(16)
        assert row["mutual_information"] == pytest.approx(np.log(16) - row["loss"], rel=1e-4)
        for name in ("loss", "accuracy", "mutual_information"):
            assert len(row[f"{name}_per_head"]) == n_heads


def test_verbose_prints_a_line_per_epoch(capsys):
    tiny(max_epochs=10, verbose=1).fit(images(8))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    number = r"\d+\.\d{3}"
    pattern = (
        rf"epoch  1/10  loss {number}  bound -?{number} nats  accuracy {number}  "
        r"\d+ images/s  \d+ s left"
    )
    assert re.fullmatch(pattern, lines[0]), lines[0]
    assert lines[-1].startswith("epoch 10/10")
    assert lines[-1].endswith("  0 s left")


def test_silent_by_default(capsys):
    tiny().fit(images())
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_a_long_time_left_is_told_in_minutes():
    assert _duration(59.4) == "59 s"
    assert _duration(61) == "1 min 01 s"
