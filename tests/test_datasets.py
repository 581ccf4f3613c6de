"""Colour digits: sizes, seeds, and parts that share no digit."""

import numpy as np
import pytest

from sklearn_cpc.datasets import load_colour_digits


def load(**settings):
    return load_colour_digits(**{"n_train": 60, "n_test": 20} | settings)


def test_shapes_kinds_and_all_classes():
    data = load(n_train=1300, n_test=501, image_size=40)
    assert data.X_train.shape == (1300, 40, 40, 3)
    assert data.X_test.shape == (501, 40, 40, 3)
    assert data.X_train.dtype == np.uint8
    assert set(data.y_train) == set(data.y_test) == set(range(10))


def test_no_digit_is_in_both_parts():
    data = load(n_train=3000, n_test=600)
    assert not set(data.digit_train) & set(data.digit_test)
    assert len(set(data.digit_train)) == 1297
    assert len(set(data.digit_test)) == 500


def test_seeded_and_different_with_another_seed():
    a, b, c = load(), load(), load(random_state=1)
    np.testing.assert_array_equal(a.X_train, b.X_train)
    assert not np.array_equal(a.X_train, c.X_train)


def test_a_digit_drawn_twice_is_not_the_same_image():
    data = load(n_train=2600)
    first, second = np.flatnonzero(data.digit_train == data.digit_train[0])[:2]
    assert np.mean(data.X_train[first] != data.X_train[second]) > 0.5


def test_ink_differs_from_paper_in_brightness():
    """Without texture an image has the two colours, at the brightest and the darkest."""
    X = load(noise=0).X_train / 255
    brightness = X @ [0.299, 0.587, 0.114]
    assert np.ptp(brightness, axis=(1, 2)).min() > 0.2


def test_X_y_in_the_order_of_train_test_split():
    data = load()
    for given, expected in zip(
        load(return_X_y=True), ("X_train", "X_test", "y_train", "y_test"), strict=True
    ):
        np.testing.assert_array_equal(given, data[expected])


@pytest.mark.parametrize(("name", "value"), [("n_train", 9), ("n_test", 0), ("image_size", 15)])
def test_too_small_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}={value} must be at least"):
        load(**{name: value})
