import sys

import matplotlib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from sklearn_cpc.evaluation import EmbeddingMapDisplay, NearestNeighborsDisplay
from sklearn_cpc.evaluation.pixels import shown_images

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:120].reshape(-1, 8, 8), y[:120]


# Pixels


@pytest.mark.parametrize(
    ("n_channels", "picked"),
    [(1, (0, 0, 0)), (2, (0, 1, 0)), (3, (0, 1, 2)), (4, (0, 1, 2)), (7, (0, 1, 2))],
)
@pytest.mark.parametrize("channels", ["first", "last"])
def test_any_number_of_channels_is_shown(rng, n_channels, picked, channels):
    images = rng.uniform(size=(5, 9, 8, n_channels))
    X = np.moveaxis(images, -1, 1) if channels == "first" else images
    assert_array_equal(shown_images(X, channels=channels), images[..., picked])


def test_pixels_as_they_are_or_stretched_by_channel(rng):
    X = rng.randint(0, 200, (4, 8, 9, 3)).astype(np.uint8)
    assert_allclose(shown_images(X), X / 255)
    assert_array_equal(shown_images(X > 100), X > 100)
    wide = X.astype(np.int32) * np.array([1, 10, 100]) - 50
    shown = shown_images(wide)
    assert_allclose(shown.min(axis=(0, 1, 2)), 0)
    assert_allclose(shown.max(axis=(0, 1, 2)), 1)
    assert_array_equal(shown_images(np.full((2, 4, 4), 7.0)), 0)  # nothing to stretch


def test_flat_rows(rng):
    X = rng.uniform(size=(3, 24))
    assert shown_images(X, image_shape=(4, 6)).shape == (3, 4, 6, 3)
    assert shown_images(X[:, :16]).shape == (3, 4, 4, 3)


# Neighbours


def test_neighbours_are_the_nearest_and_others_are_named(digits, tmp_path):
    X, y = digits
    Z = X.reshape(len(X), -1)
    display = NearestNeighborsDisplay.from_embeddings(
        X[:4], Z[:4], X[4:], Z[4:], y_query=y[:4], y=y[4:], n_neighbors=3, metric="euclidean"
    )
    for i in range(4):
        distances = np.linalg.norm(Z[4:] - Z[i], axis=1)
        assert_array_equal(display.indices[i], np.argsort(distances)[:3])
    display.plot()
    stretched = X / X.max()
    row, column = 2, 1
    shown = display.axes_[row, column + 1].images[0].get_array()
    assert_allclose(shown[..., 0], stretched[4 + display.indices[row, column]])
    for row, column in np.ndindex(4, 3):
        ax, label = display.axes_[row, column + 1], y[4 + display.indices[row, column]]
        assert ax.get_xlabel() == str(label)
        assert (ax.xaxis.label.get_fontweight() == "bold") == (label != y[row])
    display.figure_.savefig(tmp_path / "neighbours.png")


def test_neighbours_of_an_estimator_on_own_axes_without_labels(digits):
    X = digits[0].reshape(-1, 64)
    figure, axes = plt.subplots(2, 3)
    display = NearestNeighborsDisplay.from_estimator(
        PCA(5).fit(X), X[:2], X[2:], n_neighbors=2, axes=axes
    )
    assert display.figure_ is figure
    assert display.axes_[0, 0].get_xlabel() == ""
    with pytest.raises(ValueError, match=r"axes: has 4 axes, must have .*=6"):
        display.plot(plt.subplots(2, 2)[1])


def test_unlabelled_neighbours_are_called_so(digits):
    X, y = digits
    Z = X.reshape(len(X), -1)
    display = NearestNeighborsDisplay.from_embeddings(
        X[:1], Z[:1], X, Z, y_query=["a"], y=np.full(len(y), -1), n_neighbors=1
    ).plot()
    assert display.axes_[0, 0].get_xlabel() == "a"
    assert display.axes_[0, 1].get_xlabel() == "unlabelled"


# The map


def test_map_of_principal_components_by_label(digits, tmp_path):
    X, y = digits
    y = np.where(np.arange(len(y)) < 30, -1, y)
    Z = X.reshape(len(X), -1)
    display = EmbeddingMapDisplay.from_embeddings(Z, y, images=X, random_state=0).plot()
    assert_allclose(display.points, PCA(2, random_state=0).fit_transform(Z))
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == [*map(str, range(10)), "unlabelled"]
    groups = display.ax_.collections
    assert sum(len(group.get_offsets()) for group in groups) == len(X)
    looks = {(group.get_facecolor().tobytes(), len(group.get_paths()[0])) for group in groups}
    assert len(looks) == 11
    display.figure_.savefig(tmp_path / "map.png")


def test_thumbnails_do_not_overlap(digits):
    X, y = digits
    display = EmbeddingMapDisplay.from_embeddings(X.reshape(len(X), -1), y, images=X)
    n_small = len(display.plot(thumbnail_size=0.2).thumbnails_)
    n_large = len(display.plot(thumbnail_size=0.6).thumbnails_)
    assert 1 < n_large < n_small < len(X)
    places = display.ax_.transData.transform(display.points[display.thumbnails_])
    gaps = np.abs(places[:, None] - places).max(axis=-1) / display.figure_.dpi
    assert gaps[~np.eye(len(gaps), dtype=bool)].min() > 0.6


def test_tsne_and_own_axes_without_labels(digits):
    X = digits[0].reshape(-1, 64)[:40]
    _, ax = plt.subplots()
    display = EmbeddingMapDisplay.from_estimator(
        PCA(5, random_state=0).fit(X), X, ax=ax, thumbnails=True, method="tsne", random_state=0
    )
    assert display.ax_ is ax
    assert ax.get_xlabel() == "t-SNE, first axis"
    assert ax.get_legend() is None
    assert display.thumbnails_


def test_map_refusals(digits):
    Z = digits[0].reshape(-1, 64)
    with pytest.raises(ValueError, match="method='umap': must be one of"):
        EmbeddingMapDisplay.from_embeddings(Z, method="umap")
    with pytest.raises(ValueError, match="y has 3 entries: must have one for each of the 120 rows"):
        EmbeddingMapDisplay.from_embeddings(Z, [0, 1, 2])
    with pytest.raises(ValueError, match="images has 5 entries"):
        EmbeddingMapDisplay.from_embeddings(Z, images=digits[0][:5])


def test_missing_matplotlib_names_caller_and_extra(monkeypatch, digits):
    Z = digits[0].reshape(-1, 64)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for display in (
        EmbeddingMapDisplay.from_embeddings(Z),
        NearestNeighborsDisplay.from_embeddings(Z, Z, Z, Z),
    ):
        with pytest.raises(ImportError, match=rf"{type(display).__name__}.plot needs matplotlib"):
            display.plot()
