import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_cpc.evaluation import HogFeatures

pytest.importorskip("skimage", reason="scikit-image is optional")


@parametrize_with_checks([HogFeatures(), HogFeatures(1, block_size=1, colors=False)])
def test_estimator_checks(estimator, check):
    check(estimator)


def random_images(shape, dtype=np.uint8, seed=0):
    return np.random.RandomState(seed).randint(0, 256, size=shape).astype(dtype)


def slow_hog(image, cell, block, n_bins):
    """Dalal and Triggs (2005) one pixel at a time, for one channel in [0, 1]."""
    height, width = image.shape
    n_rows, n_cols = height // cell, width // cell
    histograms = np.zeros((n_rows, n_cols, n_bins))
    for r in range(n_rows * cell):
        for c in range(n_cols * cell):
            # Gradients are zero at the borders.
            dy = image[r + 1, c] - image[r - 1, c] if 0 < r < height - 1 else 0
            dx = image[r, c + 1] - image[r, c - 1] if 0 < c < width - 1 else 0
            angle = np.degrees(np.arctan2(dy, dx)) % 180
            bin_ = int(angle // (180 / n_bins)) % n_bins
            histograms[r // cell, c // cell, bin_] += np.hypot(dy, dx) / cell**2
    features = []
    for r in range(n_rows - block + 1):
        for c in range(n_cols - block + 1):
            v = histograms[r : r + block, c : c + block].ravel()
            v = np.minimum(v / np.sqrt((v**2).sum() + 1e-10), 0.2)
            features.append(v / np.sqrt((v**2).sum() + 1e-10))
    return np.concatenate(features)


def test_histograms_against_slow_reference():
    X = np.random.RandomState(0).uniform(size=(3, 13, 9))
    X[0, 0, 0], X[0, 0, 1] = 0, 1
    model = HogFeatures(4, orientations=6, colors=False).fit(X)
    low, high = X.min(), X.max()
    expected = [slow_hog((image - low) / (high - low), 4, 2, 6) for image in X]
    assert_allclose(model.transform(X), expected, atol=1e-5)


def test_mean_colours_are_those_of_the_cells():
    X = random_images((2, 9, 8, 3))
    features = HogFeatures(4).fit_transform(X)
    means = features[:, -12:].reshape(2, 2, 2, 3)
    for row in range(2):
        for col in range(2):
            cell = X[:, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4] / 255
            assert_allclose(means[:, row, col], cell.mean(axis=(1, 2)), atol=1e-6)


@pytest.mark.parametrize("n_channels", [1, 2, 3, 5])
def test_size_for_any_number_of_channels(n_channels):
    X = random_images((4, 12, 16, n_channels))
    model = HogFeatures().fit(X)
    features = model.transform(X)
    assert features.shape == (4, 2 * 3 * 4 * 9 + 3 * 4 * n_channels)
    assert features.dtype == np.float32
    assert len(model.get_feature_names_out()) == features.shape[1]


def test_layouts_agree():
    last = random_images((10, 8, 12, 3))
    first = np.ascontiguousarray(np.moveaxis(last, -1, 1))
    expected = HogFeatures().fit_transform(last)
    for model, X in [
        (HogFeatures(), first),
        (HogFeatures(image_shape=(8, 12, 3)), last.reshape(10, -1)),
        (HogFeatures(image_shape=(3, 8, 12)), first.reshape(10, -1)),
    ]:
        assert_array_equal(model.fit_transform(X), expected)
    grey = last[..., 0]
    expected = HogFeatures().fit_transform(grey)
    assert_array_equal(HogFeatures().fit_transform(grey[..., None]), expected)


@pytest.mark.parametrize("factor", [1 / 255, 256.0])
def test_range_of_pixels_does_not_matter(factor):
    X = random_images((10, 8, 8), dtype=np.float64)
    assert_allclose(
        HogFeatures().fit_transform(X * factor), HogFeatures().fit_transform(X), atol=1e-4
    )


def test_small_and_constant_images_are_finite():
    for shape in ((5, 1, 1), (5, 3, 20), (5, 1, 7)):
        assert np.isfinite(HogFeatures().fit_transform(np.ones(shape))).all()


def test_clone_pickle_and_n_jobs(monkeypatch):
    X = random_images((10, 8, 8))
    model = HogFeatures().fit(X)
    expected = model.transform(X)
    assert_array_equal(clone(model).fit(X).transform(X), expected)
    assert_array_equal(pickle.loads(pickle.dumps(model)).transform(X), expected)
    monkeypatch.setattr("sklearn_cpc.evaluation.hog.IMAGES_PER_TASK", 3)
    assert_array_equal(model.transform(X), expected)


@pytest.mark.parametrize("name", ["cell_size", "block_size", "orientations"])
@pytest.mark.parametrize("value", [0, 2.0, True])
def test_refused_parameters(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}: must be an int of at least 1"):
        HogFeatures(**{name: value}).fit(random_images((4, 8, 8)))


def test_other_images_than_in_fit_are_refused():
    model = HogFeatures().fit(random_images((4, 8, 10)))
    with pytest.raises(ValueError, match=r"images of shape \(10, 8\): must be \(8, 10\)"):
        model.transform(random_images((4, 10, 8)))


def test_without_scikit_image_the_extra_is_named(monkeypatch):
    def refuse(name, *args, **kwargs):
        raise ImportError(name)

    monkeypatch.setattr("sklearn_cpc.evaluation._optional.import_module", refuse)
    with pytest.raises(ImportError, match=r'HogFeatures needs skimage.*"sklearn-cpc\[hog\]"'):
        HogFeatures().fit(random_images((4, 8, 8)))
