import sys
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_cpc.evaluation import ProbeHistoryDisplay, TrainingHistoryDisplay

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


HISTORY = [{"loss": 3.0, "mutual_information": 1.0}, {"loss": 1.5, "mutual_information": 2.5}]
RECORDS = [{"epoch": 5, "score": 0.6}, {"epoch": 0, "score": 0.2, "seconds": 1.0}]


def test_loss_bound_and_guess(tmp_path):
    display = TrainingHistoryDisplay.from_estimator(SimpleNamespace(history_=HISTORY))
    loss, bound = display.axes_
    assert_allclose(loss.lines[0].get_xydata(), [[1, 3.0], [2, 1.5]])
    assert_allclose(loss.lines[1].get_ydata(), 4.0)  # log N
    assert_allclose(bound.lines[0].get_ydata(), [1.0, 2.5])
    assert loss.get_xlabel() == bound.get_xlabel() == "Epoch"
    display.figure_.savefig(tmp_path / "loss.png")


def test_a_loss_without_a_bound_has_one_panel():
    display = TrainingHistoryDisplay.from_history({"a": [{"loss": 2.0}], "b": HISTORY}).plot()
    assert len(display.axes_) == 1
    assert [line.get_label() for line in display.lines_] == ["a", "b"]
    texts = display.axes_[0].get_legend().get_texts()
    assert [text.get_text() for text in texts] == ["a", "b"]


def test_own_axes():
    figure, ax = plt.subplots()
    display = TrainingHistoryDisplay.from_history(HISTORY).plot(ax)
    assert display.figure_ is figure
    assert display.axes_.tolist() == [ax]
    _, axes = plt.subplots(2, 1)
    assert TrainingHistoryDisplay.from_history(HISTORY).plot(axes).axes_.tolist() == list(axes)


def test_probes_in_the_order_of_epochs_beside_rivals():
    display = ProbeHistoryDisplay.from_records({"linear": RECORDS, "neighbours": RECORDS}).plot(
        baselines={"raw pixels": 0.3}, score_name="Balanced accuracy"
    )
    assert_allclose(display.lines_[0].get_xydata(), [[0, 0.2], [5, 0.6]])
    assert display.ax_.get_ylabel() == "Balanced accuracy"
    assert_allclose(display.ax_.lines[2].get_ydata(), 0.3)
    texts = display.ax_.get_legend().get_texts()
    assert [text.get_text() for text in texts] == ["linear", "neighbours", "raw pixels"]
    display.figure_.canvas.draw()
    assert all(tick == int(tick) for tick in display.ax_.get_xticks())


def test_an_epoch_before_the_training_is_not_drawn():
    history = [{"epoch": 0}, {"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]
    display = TrainingHistoryDisplay.from_estimator(SimpleNamespace(history_=history))
    assert_allclose(display.lines_[0].get_xydata(), [[1, 2.0], [2, 1.0]])


def test_probes_of_an_estimator_are_those_that_were_recorded():
    history = [{"epoch": 1}, {"epoch": 2, "probe_accuracy": 0.4}, {"epoch": 3}]
    history += [{"epoch": 4, "probe_accuracy": 0.5}]
    _, ax = plt.subplots()
    estimators = {"a": SimpleNamespace(history_=history), "b": SimpleNamespace(history_=history)}
    display = ProbeHistoryDisplay.from_estimator(estimators, ax=ax, score_name="Recall")
    assert display.ax_ is ax
    assert ax.get_ylabel() == "Recall"
    assert [line.get_label() for line in display.lines_] == ["a", "b"]
    assert_allclose(display.lines_[1].get_xydata(), [[2, 0.4], [4, 0.5]])
    with pytest.raises(ValueError, match="'SimpleNamespace' has no probe_accuracy in its 1 epochs"):
        ProbeHistoryDisplay.from_estimator(SimpleNamespace(history_=history[:1]))
    with pytest.raises(TypeError, match="has no history_; pass a fitted estimator"):
        ProbeHistoryDisplay.from_estimator(SimpleNamespace())


def test_one_probe_needs_no_legend():
    figure, ax = plt.subplots()
    display = ProbeHistoryDisplay.from_records(RECORDS).plot(ax)
    assert display.figure_ is figure
    assert ax.get_legend() is None


def test_many_epochs_have_few_markers():
    records = [{"epoch": i, "score": i / 100} for i in range(100)]
    (line,) = ProbeHistoryDisplay.from_records(records).plot().lines_
    assert line.get_markevery() == 10
    assert len(line.get_xdata()) == 100
    assert np.ptp(line.get_ydata()) == 0.99


def test_refusals():
    with pytest.raises(TypeError, match="has no history_; pass a fitted estimator"):
        TrainingHistoryDisplay.from_estimator(SimpleNamespace())
    with pytest.raises(ValueError, match="history: 'loss' is empty"):
        TrainingHistoryDisplay.from_history([])
    with pytest.raises(ValueError, match=r"history=\{\}: holds nothing to draw"):
        TrainingHistoryDisplay.from_history({})
    with pytest.raises(ValueError, match=r"records=\{\}: holds nothing to draw"):
        ProbeHistoryDisplay.from_records({})
    with pytest.raises(ValueError, match=r"records: 'a' .*\['epoch'\]: 'score' is missing"):
        ProbeHistoryDisplay.from_records({"a": [{"epoch": 1}]})


def test_missing_matplotlib_names_caller_and_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for display in (
        TrainingHistoryDisplay.from_history(HISTORY),
        ProbeHistoryDisplay.from_records(RECORDS),
    ):
        with pytest.raises(ImportError, match=rf"{type(display).__name__}.plot needs matplotlib"):
            display.plot()
