import sys

import matplotlib
import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from sklearn_cpc.evaluation import EmbeddingMapDisplay, NearestNeighborsDisplay
from sklearn_cpc.evaluation.pixels import as_seen, shown_images

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


def test_text_that_stands_for_unlabelled_is_called_so(digits):
    X, Z = digits[0], digits[0].reshape(-1, 64)
    display = NearestNeighborsDisplay.from_embeddings(
        X[:1], Z[:1], X, Z, y_query=["a"], y=["a"] * 119 + ["-1"], n_neighbors=120
    ).plot()
    names = [ax.get_xlabel() for ax in display.axes_[0]]
    assert (names.count("unlabelled"), names.count("-1")) == (1, 0)


def test_labels_of_a_series_are_those_of_its_rows(digits):
    pandas = pytest.importorskip("pandas")
    X, y = digits
    Z = X.reshape(len(X), -1)
    labels = pandas.Series(y, index=np.arange(len(y))[::-1])
    display = NearestNeighborsDisplay.from_embeddings(
        X[:4], Z[:4], X, Z, y_query=labels.iloc[:4], y=labels, n_neighbors=2
    ).plot()
    assert [ax.get_xlabel() for ax in display.axes_[:, 0]] == [str(label) for label in y[:4]]
    assert [ax.get_xlabel() for ax in display.axes_[:, 1]] == [str(label) for label in y[:4]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Z_query", "Z_query has 3 entries: must have one for each of the 4 rows of X_query;"),
        ("Z", "Z has 110 entries: must have one for each of the 120 rows of X; pass as many"),
        ("y_query", "y_query has 3 entries: must have one for each of the 4 rows of X_query"),
        ("y", "y has 110 entries: must have one for each of the 120 rows of X; pass"),
    ],
)
def test_features_and_labels_are_as_many_as_images(name, message, digits):
    X, y = digits
    Z = X.reshape(len(X), -1)
    given = {"X_query": X[:4], "Z_query": Z[:4], "X": X, "Z": Z, "y_query": y[:4], "y": y}
    given[name] = given[name][:-1] if name.endswith("query") else given[name][:-10]
    with pytest.raises(ValueError, match=message):
        NearestNeighborsDisplay.from_embeddings(**given)


def saved(tmp_path, arrays):
    pillow = pytest.importorskip("PIL.Image")
    paths = [str(tmp_path / f"{number}.png") for number in range(len(arrays))]
    for path, array in zip(paths, arrays, strict=True):
        pillow.fromarray(array).save(path)
    return paths


@pytest.mark.parametrize("column", [list, lambda p: np.array(p, dtype=object), np.array, "series"])
def test_files_are_shown_as_their_pixels(column, rng, tmp_path):
    X = rng.randint(0, 256, (6, 5, 7, 3)).astype(np.uint8)
    Z = X.reshape(6, -1)
    paths = saved(tmp_path, X)
    if column == "series":
        pandas = pytest.importorskip("pandas")

        def column(p):
            return pandas.Series(p, index=np.arange(len(p))[::-1])

    display = NearestNeighborsDisplay.from_embeddings(
        column(paths[:2]), Z[:2], column(paths), Z, n_neighbors=3
    )
    assert_allclose(display.queries, X[:2] / 255)
    assert_allclose(display.neighbors, X[display.indices] / 255)
    display = EmbeddingMapDisplay.from_embeddings(Z, images=column(paths))
    assert_allclose(display.images, X / 255)


def test_files_of_mixed_kinds_and_sizes_are_brought_to_the_first(rng, tmp_path):
    grey, colour = rng.randint(0, 256, (2, 8, 6, 3)).astype(np.uint8)
    paths = saved(tmp_path, [grey[..., 0], np.repeat(np.repeat(colour, 2, 0), 2, 1)])
    shown = shown_images(as_seen(paths))
    assert shown.shape == (2, 8, 6, 3)
    assert_allclose(shown[0], np.repeat(grey[..., :1], 3, axis=2) / 255)
    wide = rng.randint(0, 2**16, (2, 20, 10)).astype(np.uint16)
    deep = as_seen(saved(tmp_path, wide))
    assert_array_equal(deep, wide)
    assert as_seen(saved(tmp_path, wide), longest=10).shape == (2, 10, 5)


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
    with pytest.raises(ValueError, match=r"NaN or None \(first in row 119\); write -1 for unlab"):
        EmbeddingMapDisplay.from_embeddings(Z, np.append(np.zeros(119), np.nan))


def test_missing_matplotlib_names_caller_and_extra(monkeypatch, digits):
    Z = digits[0].reshape(-1, 64)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for display in (
        EmbeddingMapDisplay.from_embeddings(Z),
        NearestNeighborsDisplay.from_embeddings(Z, Z, Z, Z),
    ):
        with pytest.raises(ImportError, match=rf"{type(display).__name__}.plot needs matplotlib"):
            display.plot()


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_a_map_where_frames_are_the_output_of_all(digits, method):
    X, y = digits
    with sklearn.config_context(transform_output="pandas"):
        display = EmbeddingMapDisplay.from_embeddings(
            X.reshape(len(X), -1), y=y, method=method, random_state=0
        )
        display.plot()
    assert isinstance(display.points, np.ndarray)
    assert display.points.shape == (120, 2)
