"""Ctrl-C while training."""

import signal
import threading
import warnings

import numpy as np
import pytest
from skorch.callbacks import Callback

from .toys import images, tiny

X = images(40)
X.setflags(write=False)
BATCHES = 5  # of an epoch


@pytest.fixture(autouse=True)
def python_handler():
    """Python's own handler, also where the tests were started with SIGINT ignored (`make &`)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class CtrlC(Callback):
    """Raises SIGINT in the given batches, counted over the training from 1."""

    def __init__(self, *batches, times=1):
        self.batches = batches
        self.times = times

    def initialize(self):
        self.n_done = 0
        return self

    def on_batch_begin(self, net, **kwargs):
        self.n_done += 1
        if self.n_done in self.batches:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


def interrupted(*batches, times=1, **settings):
    cpc = tiny(callbacks=[CtrlC(*batches, times=times)], max_epochs=3, **settings)
    with pytest.warns(RuntimeWarning, match=r"Training was interrupted in epoch \d; the estimator"):
        cpc.fit(X)
    return cpc


@pytest.fixture(autouse=True)
def _handler_stays():
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("batch", [1, 3, BATCHES, BATCHES + 1, 3 * BATCHES - 1])
def test_ctrl_c_ends_training_after_the_batch_and_leaves_a_fitted_estimator(batch):
    cpc = interrupted(batch)
    assert cpc.n_iter_ == -(-batch // BATCHES)
    assert len(cpc.net_.history[-1]["batches"]) == (batch - 1) % BATCHES + 1
    assert all(np.isfinite(row["loss"]) for row in cpc.history_)
    assert cpc.net_.callbacks_ == []
    assert np.isfinite(cpc.transform(X)).all()
    assert not cpc.net_.module_.training


def test_what_was_learned_before_the_interrupt_is_kept():
    untrained = tiny(max_epochs=0).fit(X).transform(X)
    assert np.abs(interrupted(4, warmup=None).transform(X) - untrained).max() > 1e-4


def test_an_interrupted_epoch_is_recorded_over_the_batches_it_had():
    losses = []

    class Losses(Callback):
        def on_batch_begin(self, net, **kwargs):
            losses.extend(b["train_loss"] for b in net.history[-1]["batches"][-2:-1])

        def __deepcopy__(self, memo):
            return self

    cpc = tiny(callbacks=[Losses(), CtrlC(3)])
    with pytest.warns(RuntimeWarning, match="interrupted in epoch 1"):
        cpc.fit(X)
    last = cpc.net_.history[-1]["batches"][-1]["train_loss"]
    assert cpc.loss_curve_ == [pytest.approx(np.mean([*losses, last]), rel=1e-5)]
    assert len(losses) == 2


def test_training_goes_on_after_an_interrupt():
    cpc = interrupted(2)
    cpc.set_params(callbacks=None).partial_fit(X)
    assert cpc.n_iter_ == 2
    assert [row["epoch"] for row in cpc.history_] == [1, 2]


def test_a_second_ctrl_c_acts_at_once_and_drops_an_epoch_without_a_batch():
    cpc = interrupted(BATCHES + 1, times=2)
    assert cpc.n_iter_ == 1
    assert np.isfinite(cpc.transform(X)).all()
    cpc = interrupted(1, times=2)
    assert cpc.n_iter_ == 0
    cpc.set_params(callbacks=None).partial_fit(X)
    assert [row["epoch"] for row in cpc.history_] == [1]


def test_where_sigint_is_ignored_it_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert tiny(max_epochs=2, callbacks=[CtrlC(1)]).fit(X).n_iter_ == 2


def test_the_users_handler_is_put_back_after_every_way_out():
    def mine(signum, frame):
        raise AssertionError("not while training")

    before = signal.signal(signal.SIGINT, mine)
    try:
        tiny().fit(X)
        assert signal.getsignal(signal.SIGINT) is mine
        interrupted(2)
        assert signal.getsignal(signal.SIGINT) is mine
        with pytest.raises(FloatingPointError):
            tiny(learning_rate=1e30, warmup=None).fit(X)
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_on_train_end_is_called_after_an_interrupt():
    ended = []

    class End(Callback):
        def on_train_end(self, net, **kwargs):
            ended.append(len(net.history))

    cpc = tiny(callbacks=[End(), CtrlC(2)])
    with pytest.warns(RuntimeWarning, match="interrupted"):
        cpc.fit(X)
    assert ended == [1]


def test_an_interrupt_that_is_an_error_leaves_the_earlier_fit():
    cpc = tiny().fit(X)
    expected = cpc.transform(X)
    cpc.set_params(callbacks=[CtrlC(2)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="interrupted"):
            cpc.fit(X)
    np.testing.assert_array_equal(cpc.transform(X), expected)


def test_fitting_in_a_thread_leaves_signals_alone():
    seen, out = [], []

    class Handler(Callback):
        def on_batch_begin(self, net, **kwargs):
            seen.append(signal.getsignal(signal.SIGINT))

    def work():
        try:
            out.append(tiny(callbacks=[Handler()]).fit(X).transform(X))
        except BaseException as error:
            out.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(out[0], tiny().fit(X).transform(X))
    assert set(seen) == {signal.getsignal(signal.SIGINT)}
