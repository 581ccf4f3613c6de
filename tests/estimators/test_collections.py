"""Features of what no memory holds."""

import copy

import numpy as np
import pytest
import torch

from sklearn_cpc.estimators.collections import read_shared, transform_blocks, transform_shared

from .toys import images, tiny

X = images()
X.setflags(write=False)


@pytest.fixture(scope="module")
def cpc():
    return tiny(device="cpu", max_epochs=0, pooling="quadrants").fit(X)


@pytest.mark.parametrize("chunks", [(7, -1, -1, -1), (20, 3, 5, 1), (1, 8, 8, 3)])
def test_a_dask_array_is_embedded_block_by_block(chunks, cpc):
    da = pytest.importorskip("dask.array")
    blocks = transform_blocks(cpc, da.from_array(X, chunks=chunks))
    assert blocks.shape == (20, 32)
    assert blocks.dtype == np.float32
    np.testing.assert_allclose(blocks.compute(), cpc.transform(X), atol=1e-6)
    np.testing.assert_allclose(blocks[8:10].compute(), cpc.transform(X[8:10]), atol=1e-6)


def test_nothing_is_computed_before_it_is_asked_for(cpc):
    da = pytest.importorskip("dask.array")
    read = []

    def rows(block_info=None):
        read.append(block_info[None]["array-location"][0])
        return X[slice(*read[-1])]

    lazy = da.map_blocks(rows, chunks=((5,) * 4, 8, 8, 3), dtype=X.dtype, meta=X[:0])
    features = transform_blocks(cpc, lazy)
    assert read == []
    features[6:9].compute()
    assert read == [(5, 10)]


def test_flat_rows_and_an_unknown_number_of_them(cpc):
    da = pytest.importorskip("dask.array")
    flat = da.from_array(X.reshape(20, -1), chunks=(7, 50))
    kept = flat[np.arange(20) % 3 == 0]
    kept = kept[kept[:, 0] < 300]  # all, but dask cannot know
    features = transform_blocks(cpc, kept).compute()
    np.testing.assert_allclose(features, cpc.transform(X.reshape(20, -1)[::3]), atol=1e-6)
    none = transform_blocks(cpc, flat[flat[:, 0] > 300]).compute()
    assert none.shape == (0, 32)


def test_only_dask_arrays_have_blocks(cpc):
    with pytest.raises(TypeError, match=r"X is ndarray and must be a dask array; use tr"):
        transform_blocks(cpc, X)


def test_one_process_does_all(cpc):
    np.testing.assert_array_equal(transform_shared(cpc, X), cpc.transform(X))


def test_files_are_written_once_and_an_interrupted_run_goes_on(cpc, tmp_path, monkeypatch):
    folder = tmp_path / "features"
    assert transform_shared(cpc, X, folder, rows_per_file=8) is None
    names = sorted(path.name for path in folder.iterdir())
    expected = [f"rows-{a:012d}-{b:012d}.npy" for a, b in ((0, 8), (8, 16), (16, 20))]
    assert names == [*expected, "run.json"]
    (folder / names[1]).unlink()
    with pytest.raises(ValueError, match=r"has no features of rows 8 to 16; run transform_shared"):
        read_shared(folder)
    done = []
    transform = type(cpc).transform
    monkeypatch.setattr(
        type(cpc), "transform", lambda s, x: (done.append(len(x)), transform(s, x))[1]
    )
    transform_shared(cpc, X, folder, rows_per_file=8)
    assert done == [8]
    np.testing.assert_allclose(np.concatenate(read_shared(folder)), cpc.transform(X), atol=1e-6)


def test_files_of_another_run_are_refused(cpc, tmp_path):
    np.save(tmp_path / f"rows-{0:012d}-{20:012d}.npy", np.zeros((20, 7)))
    message = r"rows-0+-0+20.npy is there with features of shape \(20, 7\), and \(20, 32\) would be"
    with pytest.raises(ValueError, match=message):
        transform_shared(cpc, X, tmp_path)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"rows_per_file": 8}, "rows_per_file"),
        ({"X": X[:15]}, "rows"),
        ({"pooling": "mean"}, "settings"),
        ({"random_state": 5}, "weights"),
    ],
)
def test_features_of_another_run_are_not_taken_for_ones_own(change, what, cpc, tmp_path):
    transform_shared(cpc, X, tmp_path, rows_per_file=7)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = copy.copy(cpc)
    if what in ("settings", "weights"):
        other.set_params(**change)
        other = other if what == "settings" else other.fit(X)
        change = {}
    given = {"X": X, "rows_per_file": 7} | change
    with pytest.raises(ValueError, match=f"features of another run, with other {what}; pass"):
        transform_shared(other, given["X"], tmp_path, rows_per_file=given["rows_per_file"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_arrays_without_len_and_datasets(cpc, tmp_path):
    class Stored:
        shape, dtype = X.shape, X.dtype

        def __getitem__(self, index):
            return X[index]

    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return len(X)

        def __getitem__(self, row):
            return X[row]

    expected = cpc.transform(X)
    for i, given in enumerate((Stored(), Items())):
        np.testing.assert_allclose(transform_shared(cpc, given), expected, atol=1e-6)
        transform_shared(cpc, given, tmp_path / str(i), rows_per_file=7)
        found = np.concatenate(read_shared(tmp_path / str(i)))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_bad_settings_are_refused(cpc, tmp_path):
    with pytest.raises(ValueError, match="rows_per_file=0 must be at least 1; pass 100_000"):
        transform_shared(cpc, X, tmp_path, rows_per_file=0)
    with pytest.raises(
        ValueError, match=r"has no files rows-\*-\*\.npy; run transform_shared firs"
    ):
        read_shared(tmp_path)
