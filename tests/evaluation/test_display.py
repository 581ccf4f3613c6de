import sys

import matplotlib
import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline

from sklearn_cpc.evaluation import (
    LabelEfficiencyDisplay,
    PretrainingDisplay,
    label_efficiency_curve,
    pretraining_curve,
)

from .toys import make_curve

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def curves():
    n_labels = [10, 50, 100, 1000]
    return {
        "low": make_curve(n_labels, [0.1, 0.2, 0.3, 0.4]),
        "high": make_curve(n_labels, [0.3, 0.5, 0.6, 0.9]),
        "middle": make_curve(n_labels, [0.2, 0.5, 0.6, 0.7]),
    }


def test_lines_bands_axes_and_legend(curves, tmp_path):
    display = LabelEfficiencyDisplay.from_results(curves).plot()
    assert display.ax_.get_xscale() == "log"
    assert display.ax_.get_xlabel() == "Labelled images (log scale)"
    assert display.ax_.get_ylabel() == "Accuracy"
    assert len(display.ax_.collections) == 3
    assert_allclose(display.lines_[1].get_ydata(), curves["high"].mean)
    assert_allclose(display.lines_[1].get_xdata(), [10, 50, 100, 1000])
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == ["high", "middle", "low"]
    for look in ("get_color", "get_marker", "get_linestyle"):
        assert len({getattr(line, look)() for line in display.lines_[:2]}) == 2
    display.figure_.savefig(tmp_path / "curve.png")
    ticks = [text.get_text() for text in display.ax_.get_xticklabels()]
    assert "1,000" in ticks


def test_points_are_drawn_in_ascending_order():
    curve = make_curve([100, 10], [0.9, 0.1])
    display = LabelEfficiencyDisplay.from_results(curve).plot()
    assert_allclose(display.lines_[0].get_ydata(), [0.1, 0.9])


def test_fraction_axis_and_own_axes(curves):
    figure, ax = plt.subplots(layout="constrained")
    display = LabelEfficiencyDisplay.from_results(curves).plot(ax, x="fraction")
    assert display.ax_ is ax
    assert display.figure_ is figure
    assert display.lines_[0].get_xdata()[-1] == 1
    figure.canvas.draw()
    assert "100 %" in [text.get_text() for text in ax.get_xticklabels()]


def test_narrow_axes_get_fewer_ticks(curves):
    def n_ticks(width):
        _, ax = plt.subplots(figsize=(width, 3), layout="constrained")
        display = LabelEfficiencyDisplay.from_results(curves).plot(ax)
        left, right = ax.get_xlim()
        return sum(left <= tick <= right for tick in display.ax_.get_xticks())

    assert n_ticks(3.2) < n_ticks(6) < n_ticks(12)


@pytest.mark.parametrize("x", ["n_labels", "fraction"])
def test_saving_arrow(curves, x):
    display = LabelEfficiencyDisplay.from_results(curves).plot(x=x, saving=("high", "low"))
    arrow, label = display.ax_.texts
    scale = 1 if x == "n_labels" else 1 / 1000
    assert label.get_text() == "44.7x fewer labels"  # halfway from 10 to 50 labels
    assert_allclose(arrow.xy, (np.sqrt(500) * scale, 0.4))
    assert_allclose(arrow.xyann, (1000 * scale, 0.4))


def test_saving_that_is_none_has_no_arrow(curves):
    display = LabelEfficiencyDisplay.from_results(curves).plot(saving=("low", "high"))
    (label,) = display.ax_.texts
    assert label.get_text() == "label saving < 1.0x"


def test_label_of_the_saving_avoids_the_curves():
    n_labels = [10, 100, 1000]
    curves = {
        "high": make_curve(n_labels, [0.1, 0.50, 0.58]),
        "low": make_curve(n_labels, [0.0, 0.0, 0.51]),
    }
    display = LabelEfficiencyDisplay.from_results(curves).plot(saving=("high", "low"))
    _, label = display.ax_.texts
    assert label.get_va() == "top"
    curves["high"] = make_curve(n_labels, [0.1, 0.52, 2.0])
    display = LabelEfficiencyDisplay.from_results(curves).plot(saving=("high", "low"))
    _, label = display.ax_.texts
    assert label.get_va() == "bottom"


def test_label_of_the_saving_has_its_interval(curves):
    noise = np.array([-0.01, 0.01])
    for curve in curves.values():
        curve["scores"] = curve["mean"][:, None, None] + noise[None, None, :]
    display = LabelEfficiencyDisplay.from_results(curves).plot(saving=("high", "low"))
    _, label = display.ax_.texts
    assert label.get_text() == "44.7x fewer labels\n(95 % 44.7)"


def test_labels_per_class(curves):
    with pytest.raises(ValueError, match="x='per_class': a curve has no n_classes"):
        LabelEfficiencyDisplay.from_results(curves).plot(x="per_class")
    for curve in curves.values():
        curve["n_classes"] = 5
    display = LabelEfficiencyDisplay.from_results(curves).plot(
        x="per_class", saving=("high", "low")
    )
    assert_allclose(display.lines_[0].get_xdata(), [2, 10, 20, 200])
    assert display.ax_.get_xlabel() == "Labelled images per class (log scale)"
    assert_allclose(display.ax_.texts[0].xy[0], np.sqrt(500) / 5)
    ticks = [text.get_text() for text in display.ax_.get_xticklabels()]
    assert "100" in ticks


def test_pretraining_display(tmp_path):
    X, y = load_iris(return_X_y=True)
    pipe = make_pipeline(PCA(2), GaussianNB())
    params = {"label_fraction": 15, "cv": 2, "random_state": 0}
    display = PretrainingDisplay.from_estimators({"PCA": pipe}, X, y, **params)
    assert_allclose(display.lines_[0].get_xdata(), [15, 21, 33, 75])
    assert display.ax_.get_xlabel() == "Images in the pretraining, 15 of them labelled (log scale)"
    display.figure_.savefig(tmp_path / "curve.png")
    other = pretraining_curve({"few": pipe}, X, y, **params | {"label_fraction": 6})
    _, ax = plt.subplots(layout="constrained")
    both = PretrainingDisplay.from_results(display.curves | other).plot(ax)
    assert both.ax_ is ax
    assert "some of them labelled" in ax.get_xlabel()


def test_from_estimators_computes_and_draws():
    X, y = load_iris(return_X_y=True)
    display = LabelEfficiencyDisplay.from_estimators(
        {"NB": GaussianNB(), "dummy": DummyClassifier()},
        X,
        y,
        label_fractions=(0.2, 1.0),
        cv=2,
        random_state=0,
        saving=("NB", "dummy"),
    )
    assert len(display.lines_) == 2
    assert display.curves["NB"].mean[-1] > 0.9


def test_refusals(curves):
    display = LabelEfficiencyDisplay.from_results(curves)
    with pytest.raises(ValueError, match="x='epochs': must be one of"):
        display.plot(x="epochs")
    with pytest.raises(ValueError, match="'cpc' is not a curve; pass two of"):
        display.plot(saving=("cpc", "low"))
    with pytest.raises(TypeError, match="curves=list: must be a result"):
        LabelEfficiencyDisplay.from_results([])


def test_missing_matplotlib_names_caller_and_extra(monkeypatch, curves):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    message = r'Display.plot needs matplotlib.*pip install "sklearn-cpc\[plot\]"'
    with pytest.raises(ImportError, match=message):
        LabelEfficiencyDisplay.from_results(curves).plot()


def test_curves_of_the_other_kind_are_refused():
    X, y = load_iris(return_X_y=True)
    pipe = make_pipeline(PCA(2, random_state=0), GaussianNB())
    params = {"cv": 2, "n_repeats": 1, "random_state": 0}
    by_labels = label_efficiency_curve(pipe, X, y, label_fractions=(0.5,), **params)
    by_images = pretraining_curve(
        pipe, X, y, unlabeled_fractions=(1,), label_fraction=0.5, **params
    )
    with pytest.raises(ValueError, match=r"pretraining_curve, .* pass it to PretrainingDisplay"):
        LabelEfficiencyDisplay.from_results({"a": by_labels, "b": by_images})
    with pytest.raises(ValueError, match=r"label_efficiency_curve, .* to LabelEfficiencyDisplay"):
        PretrainingDisplay.from_results(by_labels)
