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


@pytest.mark.parametrize("last", [0.89, 0.9, 0.9001])
def test_a_flat_end_is_no_way_to_what_is_not_reached(last):
    ours, theirs = make_curve([10, 100, 1000], [0.5, 0.9, last]), make_curve([1000], [0.95])
    saving = label_saving(ours, theirs)
    assert_allclose(saving.n_labels_curve, [1000])
    assert saving.text == "< 1.0x"


def test_curves_of_different_scores_are_not_compared():
    ours, theirs = make_curve([10, 100], [0.1, 0.2]), make_curve([10, 100], [-3.0, -2.0])
    ours["score_name"], theirs["score_name"] = "Accuracy", "Neg log loss"
    with pytest.raises(ValueError, match="curve has scores 'Accuracy' and reference 'Neg log"):
        label_saving(ours, theirs)


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


def noisy_curve(n_labels, scores):
    return Bunch(n_labels=[n_labels], mean=scores.mean(axis=(1, 2)), scores=scores)


def line(n_labels, shift, noise):
    """Scores that rise by 0.1 for each factor of ten; `shift` is the true saving."""
    return 0.1 * np.log10(shift * np.asarray(n_labels))[:, None, None] + noise


def test_interval_of_two_repeats_in_closed_form():
    """A shift of the curve by 0.1 is a factor of ten; two columns are drawn in three mixtures."""
    n_labels = [10, 100, 1000]
    reference = noisy_curve(n_labels, line(n_labels, 1, np.zeros((1, 1, 2))))
    columns = 0.05 * np.array([1, -1])[None, None, :]
    curve = noisy_curve(n_labels, line(n_labels, 5, columns))
    saving = label_saving(curve, reference, random_state=0)
    assert saving.saving == pytest.approx(5)
    assert_allclose(saving.interval, [5 / 10**0.5, 5 * 10**0.5])
    assert saving.text == "5.0x (95 % 1.6 to 15.8)"
    assert_allclose(saving.intervals[-1], saving.interval)
    assert saving.intervals.shape == (3, 2)
    # A quarter of the draws has both columns low: the middle half of them is one number.
    middle = label_saving(curve, reference, confidence=0.4, random_state=0)
    assert_allclose(middle.interval, [5, 5])
    assert middle.text == "5.0x (40 % 5.0)"


def test_what_both_curves_share_is_no_spread():
    n_labels = [10, 100, 1000]
    noise = np.random.RandomState(0).normal(0, 0.02, (1, 3, 2))
    curve, reference = (noisy_curve(n_labels, line(n_labels, shift, noise)) for shift in (5, 1))
    assert_allclose(label_saving(curve, reference, random_state=0).interval, [5, 5])
    other = noisy_curve(n_labels, line(n_labels, 1, noise[:, :2]))  # not the same columns
    low, high = label_saving(curve, other, random_state=0).interval
    assert low < 5 < high


def test_splits_are_drawn_whole():
    """Repeats that agree within a split are not so many witnesses."""
    n_labels = [10, 100, 1000]
    of_split = 0.05 * np.array([1, -1])[None, :, None]
    reference = noisy_curve(n_labels, line(n_labels, 1, np.zeros((1, 2, 50))))
    curve = noisy_curve(n_labels, line(n_labels, 5, of_split * np.ones((1, 2, 50))))
    assert_allclose(
        label_saving(curve, reference, random_state=0).interval, [5 / 10**0.5, 5 * 10**0.5]
    )


def test_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.RandomState(0)
    n_labels = [10, 30, 100, 300, 1000]
    n_trials, n_held = 200, 0
    for _ in range(n_trials):
        curve, reference = (
            noisy_curve(n_labels, line(n_labels, shift, rng.normal(0, 0.02, (5, 1, 12))))
            for shift in (5, 1)
        )
        saving = label_saving(curve, reference, n_bootstrap=200, random_state=rng)
        n_held += saving.interval[0] <= 5 <= saving.interval[1]
    # 0.95 of 200 has a standard error of 0.015; the percentile bootstrap of 12 is known to be
    # somewhat narrow, and the running maximum is biased.
    assert 0.85 < n_held / n_trials < 0.99


def test_ends_of_the_interval_that_are_bounds():
    n_labels = [50, 1000]
    low = noisy_curve(n_labels, np.array([[[0.2, 0.2]], [[0.4, 0.4]]]))
    far_above = label_saving(
        noisy_curve(n_labels, np.array([[[0.5, 0.5]], [[0.6, 0.6]]])), low, random_state=0
    )
    assert far_above.text == ">= 20x (95 % >= 20)"
    assert far_above.interval == (20, 20)
    assert far_above.interval_open_ended
    above = noisy_curve(n_labels, np.array([[[0.3, 0.55]], [[0.6, 0.6]]]))
    saving = label_saving(above, low, random_state=0)
    assert saving.text == ">= 20x (95 % 7.4 to >= 20)"
    assert not saving.interval_not_reached
    below = noisy_curve(n_labels, np.array([[[0.1, 0.1]], [[0.3, 0.46]]]))
    saving = label_saving(below, low, random_state=0)
    assert saving.text == "< 1.0x (95 % < 1.0 to 1.6)"
    assert saving.interval_not_reached
    assert not saving.interval_open_ended


def test_a_single_score_for_each_point_has_no_interval():
    curve = noisy_curve([10, 100], np.array([[[0.2]], [[0.5]]]))
    several = noisy_curve([10, 100], np.array([[[0.1, 0.2]], [[0.3, 0.4]]]))
    for pair in ((curve, several), (several, curve), (curve, curve)):
        saving = label_saving(*pair)
        assert saving.interval is None
        assert saving.intervals is None
        assert "%" not in saving.text


def test_bootstrap_is_seeded():
    rng = np.random.RandomState(0)
    curve, reference = (
        noisy_curve([10, 100], line([10, 100], shift, rng.normal(0, 0.02, (2, 2, 3))))
        for shift in (3, 1)
    )
    one, two = (label_saving(curve, reference, random_state=1).interval for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"confidence": 95}, r"confidence=95: must be in \(0, 1\)"),
        ({"n_bootstrap": 0}, "n_bootstrap=0: must be at least 1"),
    ],
)
def test_bootstrap_refusals(params, message):
    curve = make_curve([1, 2], [0.1, 0.2])
    with pytest.raises(ValueError, match=message):
        label_saving(curve, curve, **params)


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
    with pytest.raises(ValueError, match="'b' has the columns"):
        curve_table({"a": make_curve([10, 100], [0, 1]), "b": make_curve([20, 100], [0, 1])})


def test_frame_is_tidy():
    X, y = load_iris(return_X_y=True)
    curves = label_efficiency_curve(
        {"NB": GaussianNB()}, X, y, label_fractions=(0.3, 1.0), cv=3, n_repeats=2, random_state=0
    )
    frame = curves_to_frame(curves)
    assert list(frame) == [
        *("name", "fraction", "n_labels", "split", "repeat", "score"),
        *("fit_time", "score_time", "transform_fit_time"),
    ]
    assert len(frame) == 2 * 3 * 2
    row = frame.query("fraction == 0.3 and split == 1 and repeat == 1").iloc[0]
    assert row.score == curves.NB.scores[0, 1, 1]
    assert row.n_labels == 30
    assert row.fit_time == curves.NB.fit_times[0, 1, 1]
    assert row.transform_fit_time == 0
    assert curves_to_frame(make_curve([1, 2], [0.1, 0.2])).score_time.isna().all()
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
