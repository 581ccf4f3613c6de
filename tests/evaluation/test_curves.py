import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris
from sklearn.naive_bayes import GaussianNB
from sklearn.utils import Bunch

from sklearn_cpc.evaluation import (
    curve_table,
    curves_to_frame,
    label_efficiency_curve,
    label_saving,
)

from .toys import make_curve


def test_shifted_line_saves_exactly_its_shift():
    n_labels = np.array([10, 100, 1000])
    reference = make_curve(n_labels, 0.2 + 0.1 * np.log10(n_labels))
    curve = make_curve(n_labels, 0.2 + 0.1 * np.log10(4 * n_labels))
    saving = label_saving(curve, reference)
    assert_allclose(saving.n_labels_curve, [10, 25, 250])
    assert_allclose(saving.savings, [1, 4, 4])
    assert_array_equal(saving.open_ended, [True, False, False])
    assert not saving.not_reached.any()
    assert saving.saving == pytest.approx(4)
    assert saving.text == "4.0x"


def test_against_itself_nothing_is_saved():
    curve = make_curve([10, 20, 40], [0.1, 0.5, 0.6])
    saving = label_saving(curve, curve)
    assert_allclose(saving.savings, 1)
    assert not saving.open_ended.any()
    assert saving.text == "1.0x"


def test_above_from_the_start_is_a_lower_bound():
    saving = label_saving(make_curve([5, 100], [0.7, 0.9]), make_curve([5, 100], [0.2, 0.6]))
    assert saving.text == ">= 20x"
    assert saving.saving_open_ended
    assert saving.saving == 20


def test_never_reached_is_an_upper_bound():
    saving = label_saving(make_curve([10, 100], [0.1, 0.2]), make_curve([10, 100], [0.3, 0.6]))
    assert_array_equal(saving.not_reached, [True, True])
    assert_allclose(saving.savings, [0.1, 1.0])
    assert saving.text == "< 1.0x"
    assert saving.saving_not_reached


def test_running_maximum_and_order():
    curve = make_curve([80, 10, 20, 40], [0.8, 0.2, 0.6, 0.4])
    saving = label_saving(curve, make_curve([80], [0.7]))
    assert saving.n_labels_curve[0] == pytest.approx(40 * 2**0.5)  # from 0.6 at 40 to 0.8 at 80
    flat = label_saving(curve, make_curve([80], [0.6]))
    assert flat.n_labels_curve[0] == pytest.approx(20)  # where it is first reached


@pytest.mark.parametrize(("saving", "text"), [(19.66, ">= 19.6x"), (0.61, "< 0.7x")])
def test_bounds_are_rounded_to_their_own_side(saving, text):
    if text.startswith(">"):
        curve, reference = make_curve([1, 99], [0.5, 0.6]), make_curve([saving], [0.4])
    else:
        curve, reference = make_curve([1, 10], [0.5, 0.6]), make_curve([10 * saving], [0.7])
    assert label_saving(curve, reference).text == text


def test_one_curve_is_wanted():
    curve = make_curve([1, 2], [0.1, 0.2])
    with pytest.raises(TypeError, match="reference=dict: must be one result"):
        label_saving(curve, {"PCA": curve})
    with pytest.raises(TypeError, match="curves=list: must be a result"):
        curve_table([curve])
    with pytest.raises(TypeError, match="curves=dict: must be a result"):
        curve_table({})


def test_table_rows_columns_and_alignment():
    table = curve_table(
        {"PCA": make_curve([10, 100], [0.5, 0.8124]), "Raw": make_curve([10, 100], [0.25, 0.4])}
    )
    lines = table.splitlines()
    assert [len(line) for line in lines] == [len(lines[0])] * 4
    assert lines[0].split("|")[2].strip() == "10 (10 %)"
    assert lines[2].split("|")[3].strip() == "0.812 ± 0.010"
    assert "0.81 ± 0.01" in curve_table(make_curve([10, 100], [0.5, 0.8124]), precision=2)


def test_table_refuses_different_columns():
    with pytest.raises(ValueError, match="'b' has the label numbers"):
        curve_table({"a": make_curve([10, 100], [0, 1]), "b": make_curve([20, 100], [0, 1])})


def test_frame_is_tidy():
    X, y = load_iris(return_X_y=True)
    curves = label_efficiency_curve(
        {"NB": GaussianNB()}, X, y, label_fractions=(0.3, 1.0), cv=3, n_repeats=2, random_state=0
    )
    frame = curves_to_frame(curves)
    assert list(frame) == ["name", "fraction", "n_labels", "split", "repeat", "score"]
    assert len(frame) == 2 * 3 * 2
    row = frame.query("fraction == 0.3 and split == 1 and repeat == 1").iloc[0]
    assert row.score == curves.NB.scores[0, 1, 1]
    assert row.n_labels == 30
    assert_allclose(frame.groupby("fraction").score.mean(), curves.NB.mean)


def test_missing_pandas_names_caller_and_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'curves_to_frame needs pandas.*"sklearn-cpc\[plot\]"'):
        curves_to_frame(make_curve([1, 2], [0.1, 0.2]))


def test_one_score_is_tabulated_without_a_spread():
    curve = Bunch(
        name="one", label_fractions=[0.5], n_labels=[[5]], mean=[0.25], std=[0.0], scores=[[[0.25]]]
    )
    assert "0.250 |" in curve_table(curve)
    assert "±" not in curve_table(curve)
