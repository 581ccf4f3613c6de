"""Images that come one by one."""

import numpy as np
import pytest
import torch

from sklearn_cpc.training.stacking import stacked

X = np.arange(60, dtype=np.uint16).reshape(5, 4, 3)


def objects(elements):
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


def frame(elements):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({"image": elements})


@pytest.mark.parametrize(
    "of",
    [
        list,
        tuple,
        objects,
        lambda elements: objects(elements)[:, np.newaxis],
        lambda elements: frame(elements)["image"],
        frame,
        lambda elements: [torch.from_numpy(each.astype(np.int32)) for each in elements],
    ],
)
def test_images_one_by_one_are_one_array(of):
    np.testing.assert_array_equal(stacked(of(list(X))), X)
    assert stacked(list(X)).dtype == np.uint16


@pytest.mark.parametrize("X", [X, X.astype(object), X.tolist(), [], [1.5, 2.0], X[:, :1, 0]])
def test_anything_else_is_left_alone(X):
    assert stacked(X) is X


@pytest.mark.parametrize("of", [list, objects])
def test_the_first_of_another_shape_is_named(of):
    message = r"X\[1\] has shape \(2, 3\) and X\[0\] \(4, 3\); images must be of one shape"
    with pytest.raises(ValueError, match=message):
        stacked(of([X[0], X[1, :2], X[2]]))
    with pytest.raises(ValueError, match=r"X\[1\] has shape \(\)"):
        stacked(of([X[0], None]))
