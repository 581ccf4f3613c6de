"""Estimators on images that are not in memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import Dataset

from sklearn_cpc import CPCClassifier, ProbeRecorder, label_efficiency_curve

from .toys import images, save_images, tiny

pytest.importorskip("PIL.Image")

X = images(24)
X[::2, :, :, 0] //= 4  # two classes: less red, more red
X.setflags(write=False)
y = np.arange(24) % 2


@pytest.fixture
def paths(tmp_path):
    return save_images(X, tmp_path)


class TensorItems(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, row):
        return torch.from_numpy(X[row].transpose(2, 0, 1).copy()), int(y[row])


class Stored:
    """As an array of HDF5: what it has, and nothing more."""

    def __init__(self, data):
        self.data, self.shape, self.dtype = data, data.shape, data.dtype

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        assert isinstance(index, slice)
        return self.data[index]


class Seen(Stored):
    """It counts the rows that are read."""

    def __getitem__(self, index):
        self.n_read = getattr(self, "n_read", 0) + len(range(*index.indices(len(self))))
        return super().__getitem__(index)


@pytest.mark.parametrize("flat", [False, True])
def test_pixels_of_another_dtype_and_scale_are_told_of_without_reading_all(flat):
    cpc = tiny(max_epochs=0).fit(X[..., 0].reshape(24, -1) if flat else X[..., 0])
    wide = np.repeat(X[..., 0], 3, axis=0).astype(np.uint16) * 257
    stored = Seen(wide.reshape(72, -1) if flat else wide)
    with pytest.warns(UserWarning, match="X has uint16 pixels from .*, and fit had uint8"):
        cpc.transform(stored)
    assert stored.n_read == 72 + 8
    same_scale = Seen(stored.data // 257)
    cpc.transform(same_scale)  # told of nothing, for it is of the range of fit


def same_features(cpc, other, source):
    """Everything that is learned and computed from `source` equals that from the array."""
    for name, weight in cpc.net_.module_.state_dict().items():
        torch.testing.assert_close(other.net_.module_.state_dict()[name], weight, rtol=0, atol=0)
    np.testing.assert_array_equal(other.transform(source), cpc.transform(X))
    np.testing.assert_array_equal(other.embed_patches(source), cpc.embed_patches(X))
    assert other.score(source) == cpc.score(X)
    assert other.image_shape_ == cpc.image_shape_
    assert other.n_features_in_ == cpc.n_features_in_


@pytest.mark.parametrize(
    ("encoder", "n_workers"), [("conv", 1), ("conv", 2), ("conv", 5), ("dictionary", None)]
)
def test_the_weights_are_those_of_the_array_for_any_number_of_workers(encoder, n_workers, paths):
    cpc = tiny(max_epochs=2, encoder=encoder).fit(X)
    other = tiny(max_epochs=2, encoder=encoder, n_workers=n_workers).fit(paths)
    same_features(cpc, other, paths)
    same_features(cpc.partial_fit(X), other.partial_fit(paths), paths)


@pytest.mark.parametrize("make", [TensorItems, lambda: Stored(X)], ids=["dataset", "stored"])
def test_datasets_and_stored_arrays_give_the_weights_of_the_array(make):
    same_features(tiny().fit(X), tiny().fit(make()), make())


def test_stored_flat_rows_are_read_too():
    flat = Stored(X.reshape(24, -1))
    cpc = tiny(image_shape=(8, 8, 3))
    same_features(clone(cpc).fit(X.reshape(24, -1)), clone(cpc).fit(flat), flat)
    with pytest.raises(ValueError, match="X has 64 features, but CPCTransformer is expecting 192"):
        clone(cpc).fit(flat).transform(Stored(X[..., 0].reshape(24, -1)))


def test_a_stored_vector_is_refused():
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        tiny().fit(Stored(np.zeros(5)))


def test_stored_pixels_that_are_not_finite_are_refused():
    wide = X.astype(np.float32)
    cpc = tiny().fit(Stored(wide))
    wide[5, 1, 1] = np.nan
    with pytest.raises(ValueError, match=r"contains NaN or infinity \(first in image 5\)|image 5"):
        tiny().fit(Stored(wide))
    with pytest.raises(ValueError, match=r"contains NaN or infinity \(in image 5\)"):
        cpc.transform(Stored(wide))


def test_twelve_pages_of_few_rows_are_channels(tmp_path):
    """The layout is known: the shorter axis need not be the channels."""
    tifffile = pytest.importorskip("tifffile")
    wide = images(6, 8, 8, 12, dtype=np.uint16)
    paths = [tmp_path / f"{i}.tif" for i in range(6)]
    for path, image in zip(paths, wide, strict=True):
        pages = np.ascontiguousarray(image.transpose(2, 0, 1))
        tifffile.imwrite(path, pages, photometric="minisblack")
    cpc = tiny().fit(paths)
    assert cpc.image_shape_ == (8, 8, 12)
    np.testing.assert_array_equal(
        cpc.transform(paths), tiny(channels="last").fit(wide).transform(wide)
    )


def test_paths_in_a_pipeline_a_search_and_cross_validation(paths):
    pipe = make_pipeline(tiny(max_epochs=0), StandardScaler(), LogisticRegression())
    assert pipe.fit(paths, y).score(paths, y) > 0.8
    scores = cross_val_score(pipe, paths, y, cv=2, error_score="raise")
    np.testing.assert_array_equal(scores, cross_val_score(pipe, X, y, cv=2))
    grid = {"cpctransformer__resize": [None, 6], "cpctransformer__pooling": ["max", "mean"]}
    search = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(np.array(paths), y)
    assert len(search.cv_results_["params"]) == 4


def test_items_of_a_dataset_in_cross_validation():
    pipe = make_pipeline(tiny(max_epochs=0), StandardScaler(), LogisticRegression())
    scores = cross_val_score(pipe, TensorItems(), y, cv=2, error_score="raise")
    np.testing.assert_array_equal(scores, cross_val_score(pipe, X, y, cv=2))


def test_a_label_efficiency_curve_on_paths(paths):
    pipe = make_pipeline(tiny(), StandardScaler(), LogisticRegression())
    settings = {"label_fractions": (0.5, 1.0), "cv": 2, "n_repeats": 1, "random_state": 0}
    curve = label_efficiency_curve(pipe, paths, y, **settings)
    np.testing.assert_array_equal(
        curve.scores, label_efficiency_curve(pipe, X, y, **settings).scores
    )


@pytest.mark.parametrize("column", ["path", ["path"]])
def test_a_column_of_paths_through_a_column_transformer(column, paths):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"path": paths, "age": np.arange(24.0)}, index=np.arange(24) + 7)
    both = ColumnTransformer([("image", tiny(), column), ("age", "passthrough", ["age"])])
    both.set_output(transform="pandas")
    out = both.fit_transform(frame)
    assert out.shape == (24, 9)
    assert list(out.index) == list(frame.index)
    assert list(out.columns)[::8] == ["image__cpctransformer0", "age__age"]
    np.testing.assert_array_equal(out.iloc[:, :8], tiny().fit(X).transform(X))
    np.testing.assert_array_equal(both.transform(frame), out)


def test_a_classifier_on_paths(paths):
    settings = {"max_epochs": 1, "random_state": 0}
    expected = CPCClassifier(tiny(), **settings).fit(X, y).predict_proba(X)
    found = CPCClassifier(tiny(), **settings).fit(paths, y).predict_proba(paths)
    np.testing.assert_array_equal(found, expected)


def test_a_probe_on_paths(paths):
    def recorded(X):
        recorder = ProbeRecorder(X, y, cv=2)
        return tiny(callbacks=[recorder]).fit(X).history_[0]["probe_accuracy"]

    assert recorded(paths) == recorded(X)


def test_mixed_sizes_are_scaled_and_cropped(tmp_path):
    (tmp_path / "tall").mkdir()
    paths = save_images(X, tmp_path) + save_images(images(4, 16, 8), tmp_path / "tall")
    with pytest.raises(ValueError, match=r"mixed sizes: .*000.png is 8x8 and .*16x8 .*resize=8"):
        tiny().fit(paths)
    cpc = tiny(resize=8).fit(paths)
    assert cpc.image_shape_ == (8, 8, 3)
    middle = images(4, 16, 8)[:, 4:12]
    # Blocks of other sizes round otherwise.
    np.testing.assert_allclose(cpc.transform(paths)[-4:], cpc.transform(middle), rtol=1e-5)
    assert tiny(resize=(6, 9)).fit(paths).image_shape_ == (6, 9, 3)


def test_a_size_that_is_none_is_refused(paths):
    with pytest.raises(ValueError, match="The 'resize' parameter of CPCTransformer must be"):
        tiny(resize=0).fit(paths)
    with pytest.raises(ValueError, match=r"resize=\(4,\) must be a number of pixels or"):
        tiny(resize=(4,)).fit(paths)
    with pytest.raises(ValueError, match="Did you mean 'skip'"):
        tiny(broken_images="skipp").fit(paths)


def spoil(path):
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[:-60] + bytes(48) + content[-12:])


def test_a_broken_file_is_named_and_nothing_is_changed(paths):
    cpc = tiny().fit(paths)
    before = cpc.net_
    Path(paths[3]).write_bytes(b"no image")
    spoil(paths[20])
    with pytest.raises(ValueError, match=r"1 of 24 images cannot be read. The first: .*003.png"):
        cpc.fit(paths)
    # Pixels are seen when they are decoded.
    with pytest.raises(ValueError, match=r"020.png cannot be read as an image \("):
        cpc.fit(paths[4:])
    assert cpc.net_ is before
    for use in (cpc.transform, cpc.score, cpc.embed_patches):
        with pytest.raises(ValueError, match=r"003.png cannot be read as an image"):
            use(paths)


def test_broken_files_are_skipped_with_their_number(paths):
    good = np.delete(np.arange(24), [3, 20])
    Path(paths[3]).write_bytes(b"no image")
    spoil(paths[20])
    cpc = tiny(broken_images="skip")
    message = r"2 of 24 images cannot be read and are left out. The first: .*003.png"
    with pytest.warns(RuntimeWarning, match=message) as caught:
        cpc.fit(paths)
    assert caught[0].filename == __file__
    expected = tiny().fit(X[good])
    for name, weight in expected.net_.module_.state_dict().items():
        torch.testing.assert_close(cpc.net_.module_.state_dict()[name], weight, rtol=0, atol=0)
    with pytest.warns(RuntimeWarning, match="left out"):
        assert cpc.score(paths) == expected.score(X[good])
    message = r"2 of 24 images cannot be read; their features are NaN \(rows 3, 20\). The first: "
    for name in ("transform", "embed_patches"):
        with pytest.warns(RuntimeWarning, match=message) as caught:
            features = getattr(cpc, name)(paths)
        assert caught[0].filename == __file__
        np.testing.assert_array_equal(features[good], getattr(expected, name)(X[good]))
        assert np.isnan(features[[3, 20]]).all()


def test_a_warning_lists_a_few_rows(paths):
    cpc = tiny(broken_images="skip").fit(paths)
    for path in paths[::3]:
        Path(path).unlink()
    with pytest.warns(RuntimeWarning, match=r"8 of 24 .* NaN \(rows 0, 3, 6, 9, 12, ...\)"):
        cpc.transform(paths)


def test_a_classifier_needs_every_image(paths):
    classifier = CPCClassifier(tiny(broken_images="skip"), max_epochs=1, random_state=0)
    classifier.fit(paths, y)
    Path(paths[3]).unlink()
    with (
        pytest.warns(RuntimeWarning, match="1 of 24 images cannot be read; their features"),
        pytest.raises(ValueError, match=r"X\[3\] cannot be read, and nothing can be predicted fo"),
    ):
        classifier.predict(paths)
    with (
        pytest.warns(RuntimeWarning, match="1 of 24 images cannot be read and are left out"),
        pytest.raises(ValueError, match=r"1 of 24 images cannot be read. The first: .*003.png"),
    ):
        clone(classifier).fit(paths, y)


def test_names_that_are_no_files_and_other_text_are_refused():
    with pytest.raises(ValueError, match=r"2 of 2 images cannot be read. The first: a is no file"):
        tiny().fit(["a", "b"])
    with pytest.raises(ValueError, match="X='images' is one path; pass a list of paths"):
        tiny().fit("images")
    with pytest.raises(ValueError, match=r"strings|could not convert"):
        tiny().fit(np.array([["a", "b"], ["c", "d"]]))


def test_other_channels_than_in_fit_are_refused(paths, tmp_path):
    (tmp_path / "grey").mkdir()
    grey = save_images(X[..., 0], tmp_path / "grey")
    with pytest.raises(
        ValueError, match=r"images of 1 channels, .*, but CPCTransformer was fitted"
    ):
        tiny().fit(paths).transform(grey)


def test_parameters_of_files_are_saved_and_loaded(paths, tmp_path):
    pytest.importorskip("safetensors")
    cpc = tiny(resize=(6, 7), broken_images="skip", n_workers=2).fit(paths)
    cpc.save(tmp_path / "a.safetensors")
    loaded = type(cpc).load(tmp_path / "a.safetensors")
    assert loaded.get_params() == cpc.get_params()
    np.testing.assert_array_equal(loaded.transform(paths), cpc.transform(paths))
