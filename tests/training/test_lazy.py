"""Images that are not in memory: rows, threads, what cannot be read, and reading ahead."""

import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, IterableDataset

from sklearn_cpc.training import ImageFeed, ImageFiles, PixelScale, as_images, decoded, open_images
from sklearn_cpc.training.decoded import DatasetImages
from sklearn_cpc.training.feed import TrainingBatches
from sklearn_cpc.training.lazy import LazyPart, SlicedArray
from sklearn_cpc.training.read_ahead import read_ahead
from sklearn_cpc.training.sources import as_paths, check_resize

from ..estimators.toys import images, save_images, tiny

X = images(30)
X.setflags(write=False)


@pytest.fixture
def paths(tmp_path):
    return save_images(X, tmp_path)


class Items(Dataset):
    """A dataset of what `make` gives for each image."""

    def __init__(self, make, n=30):
        self.make = make
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, row):
        return self.make(X[row])


class OnlySlices:
    """As an array of HDF5 or zarr, but strict: ascending slices, each noted down."""

    def __init__(self, data, chunks=None):
        self.data, self.shape, self.dtype, self.chunks = data, data.shape, data.dtype, chunks
        self.asked = []

    def __getitem__(self, index):
        assert isinstance(index, slice)
        assert 0 <= index.start < index.stop <= len(self.data)
        assert index.step is None
        self.asked.append((index.start, index.stop))
        return self.data[index]


INDICES = [
    slice(None),
    slice(3, 9),
    slice(25, 99),
    slice(2, 30, 7),
    slice(5, 5),
    np.array([4, 1, 29, 4]),
    np.array([], int),
    [0, 2],
    np.arange(30) % 3 == 0,
    -1,
    7,
]


@pytest.mark.parametrize("index", INDICES, ids=str)
@pytest.mark.parametrize("kind", ["files", "threads", "dataset", "slices", "chunks"])
def test_rows_are_those_of_the_array(kind, index, paths):
    made = {
        "files": lambda: ImageFiles(paths, n_workers=1),
        "threads": lambda: ImageFiles(paths, n_workers=3),
        "dataset": lambda: DatasetImages(Items(lambda image: image)),
        "slices": lambda: SlicedArray(OnlySlices(X)),
        "chunks": lambda: SlicedArray(OnlySlices(X, chunks=(7, 8, 8, 3))),
    }[kind]()
    np.testing.assert_array_equal(made[index], X[index])
    assert (made.shape, made.dtype, made.ndim, len(made)) == (X.shape, X.dtype, 4, len(X))
    assert made.nbytes == X.nbytes


@given(st.lists(st.integers(0, 29), min_size=1), st.integers(1, 12))
def test_a_chunk_is_read_once_and_in_order(rows, chunk):
    source = OnlySlices(X, chunks=(chunk, 8, 8, 3))
    np.testing.assert_array_equal(SlicedArray(source)[np.array(rows)], X[rows])
    is_run = (np.diff(rows) == 1).all()
    assert len(source.asked) == (1 if is_run else len({row // chunk for row in rows}))
    assert source.asked == sorted(source.asked)


@pytest.mark.parametrize(("chunks", "expected"), [(None, 1), ((9, 2), 9), (((4, 6), (2,)), 6)])
def test_chunks_of_every_kind_of_array_are_understood(chunks, expected):
    assert SlicedArray(OnlySlices(X, chunks)).chunk == expected


def test_arrays_of_zarr_and_hdf5_are_read(tmp_path):
    zarr, h5py = pytest.importorskip("zarr"), pytest.importorskip("h5py")
    stored = zarr.create_array(
        store=str(tmp_path / "z"), shape=X.shape, chunks=X[:7].shape, dtype="u1"
    )
    stored[:] = X
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for array in (stored, file.create_dataset("x", data=X)):
            opened = open_images(array)
            assert isinstance(opened, SlicedArray)
            np.testing.assert_array_equal(opened[np.array([9, 3, 3, 28])], X[[9, 3, 3, 28]])


def test_arrays_of_dask_are_read():
    da = pytest.importorskip("dask.array")
    opened = open_images(da.from_array(X, chunks=(7, -1, -1, -1)))
    assert opened.chunk == 7
    np.testing.assert_array_equal(opened[np.array([9, 3, 3, 28])], X[[9, 3, 3, 28]])


def pillow(image):
    return pytest.importorskip("PIL.Image").fromarray(image)


@pytest.mark.parametrize(
    "make",
    [
        lambda image: torch.from_numpy(image.transpose(2, 0, 1).copy()),
        lambda image: (torch.from_numpy(image.transpose(2, 0, 1).copy()), 7),
        lambda image: [image, "name"],
        lambda image: (image.astype(">u1"), 7),
        lambda image: (pillow(image), {}),
        pillow,
    ],
)
def test_items_of_datasets_may_be_tensors_arrays_and_pillow_images(make):
    np.testing.assert_array_equal(DatasetImages(Items(make))[:], X)


def test_the_channels_of_items_may_be_said():
    first = DatasetImages(Items(lambda image: image.transpose(2, 0, 1)), channels="first")
    last = DatasetImages(Items(lambda image: torch.tensor(image)), channels="last")
    np.testing.assert_array_equal(first[:], X)
    np.testing.assert_array_equal(last[:], X)
    grey = DatasetImages(Items(lambda image: image[..., 0]))
    np.testing.assert_array_equal(grey[:], X[..., :1])


def test_items_are_scaled_and_cropped():
    small = DatasetImages(Items(lambda image: image), size=(4, 3))
    assert small.shape == (30, 4, 3, 3)
    assert small[:2].shape == (2, 4, 3, 3)


def test_lists_of_items_are_datasets_and_lists_of_numbers_are_not():
    items = [Items(lambda image: (torch.tensor(image), 1))[row] for row in range(3)]
    assert isinstance(open_images(items, channels="last"), DatasetImages)
    assert isinstance(open_images([pillow(X[0])]), DatasetImages)
    for plain in ([(1, 2), (3, 4)], [[1, 2]], [], [X[0]], [torch.zeros(2, 2)], X):
        assert open_images(plain) is plain


def test_an_item_that_cannot_be_had_is_named():
    def fail(image):
        raise RuntimeError("the disk\nis gone")

    message = r"1 of 1 images cannot be read. The first: dataset\[0\] cannot be read \(RuntimeError"
    with pytest.raises(ValueError, match=message + ": the disk is gone"):
        DatasetImages(Items(fail, 1))
    for item in (np.zeros(3), np.array(["a"]), "text", None):
        with pytest.raises(ValueError, match=r"dataset\[0\] cannot be read \(TypeError: shape"):
            DatasetImages([item])


def test_items_of_bfloat16_and_no_items():
    item = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    read = DatasetImages([item])[0]
    np.testing.assert_array_equal(read, item.float().permute(1, 2, 0))
    with pytest.raises(ValueError, match="X has no images; pass one at least"):
        DatasetImages(Items(lambda image: image, 0))


def test_where_broken_items_are_skipped_the_first_may_be_one():
    def fail_at_first(image):
        if np.array_equal(image, X[0]):
            raise OSError("gone")
        return image

    read = DatasetImages(Items(fail_at_first, 4), broken="zeros", channels="last")
    assert read.shape == (4, *X[0].shape)
    np.testing.assert_array_equal(read[:], [np.zeros_like(X[0]), *X[1:4]])
    assert list(read.broken) == [0]


def test_a_dataset_without_length_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(X)

    with pytest.raises(TypeError, match="X=Stream has no length and no items by number; pass a"):
        open_images(Stream())


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_of_missing_files_is_named(threads, paths):
    paths = [*paths[:5], "none.png", *paths[5:], "neither.png"]
    message = (
        "2 of 32 images cannot be read. The first: none.png is no file; check the path. Or pass "
        "broken_images='skip'."
    )
    with pytest.raises(ValueError) as caught:
        ImageFiles(paths, n_workers=threads)
    assert str(caught.value) == message


def spoil(path):
    """What a header does not show: the last third of the pixels is garbage."""
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[:-60] + bytes(48) + content[-12:])


@pytest.mark.parametrize("threads", [1, 3])
def test_dropped_images_are_left_out_with_a_warning(threads, paths):
    spoil(paths[4])
    Path(paths[9]).unlink()
    assert ImageFiles([*paths[:9], *paths[10:]]).shape[0] == 29  # the header does not show it
    with pytest.warns(RuntimeWarning, match=r"2 of 30 images cannot be read and are left out. The"):
        files = ImageFiles(paths, broken="drop", n_workers=threads)
    good = np.delete(np.arange(30), [4, 9])
    assert files.shape == (28, 8, 8, 3)
    np.testing.assert_array_equal(files[:], X[good])
    np.testing.assert_array_equal(files[np.array([27, 4, 5])], X[good[[27, 4, 5]]])


def test_images_that_are_to_keep_their_rows_are_zeros(paths):
    spoil(paths[4])
    Path(paths[0]).unlink()
    files = ImageFiles(paths, broken="zeros", n_workers=2)
    read = files[:]
    assert sorted(files.broken) == [0, 4]
    assert "cannot be read" in files.broken[4]
    assert not read[[0, 4]].any()
    np.testing.assert_array_equal(np.delete(read, [0, 4], 0), np.delete(X, [0, 4], 0))


@pytest.mark.parametrize("rows", [slice(0, 7), slice(5, 12), slice(28, 40), slice(30, 40)])
def test_a_part_has_its_own_rows(rows, paths):
    spoil(paths[9])
    files = ImageFiles(paths, broken="zeros")
    part = LazyPart(files, rows)
    expected = X.copy()
    expected[9] = 0
    assert part.shape == X[rows].shape
    np.testing.assert_array_equal(part[:], expected[rows])
    np.testing.assert_array_equal(part[::-2], expected[rows][::-2])
    assert list(part.broken) == ([4] if rows.start == 5 else [])
    assert part.channels == "last"


def test_a_part_names_images_as_the_whole_does():
    wide = X[..., 0].astype(np.float32)
    wide[3, 2, 2] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinity \(in dataset\[3\]\)"):
        LazyPart(DatasetImages(list(wide)), slice(2, 5))[:]


@pytest.mark.parametrize("broken", ["drop", "zeros"])
def test_nothing_is_left_where_nothing_can_be_read(broken):
    with pytest.raises(ValueError, match="2 of 2 images cannot be read"):
        ImageFiles(["a", "b"], broken=broken)


def test_a_file_that_breaks_after_the_check_is_named(paths):
    files = ImageFiles(paths, n_workers=2)
    spoil(paths[7])
    with pytest.raises(ValueError, match=r"007.png cannot be read as an image"):
        files[:]
    save_images(X[:1, :5], Path(paths[7]).parent)
    message = r"000.png has shape \(5, 8, 3\) and dtype uint8, the others \(8, 8, 3\) and uint8"
    with pytest.raises(ValueError, match=message):
        files[:2]


def test_mixed_sizes_name_two_files_and_the_way_out(paths, tmp_path):
    (tmp_path / "small").mkdir()
    small = save_images(X[:2, :6], tmp_path / "small")
    message = (
        f"The images are of mixed sizes: {paths[0]} is 8x8 and {small[0]} 6x8 (height x width); "
        "pass resize=6, or another size, which scales and crops all to it."
    )
    with pytest.raises(ValueError) as caught:
        ImageFiles([*paths, *small])
    assert str(caught.value) == message
    assert ImageFiles([*paths, *small], size=(6, 6)).shape == (32, 6, 6, 3)


def test_mixed_kinds_name_two_files_and_the_way_out(paths, tmp_path):
    (tmp_path / "grey").mkdir()
    grey = save_images(X[:1, ..., 0], tmp_path / "grey")
    message = (
        f"The images are of mixed kinds: {paths[0]} has 3 channels of uint8 and {grey[0]} 1 of "
        "uint8; pass mixed_channels='widen', which repeats grey as colours and loses nothing, or "
        "convert them to one kind, for example by PIL.Image.convert('RGB')."
    )
    with pytest.raises(ValueError) as caught:
        ImageFiles([*paths, *grey], size=(6, 6))
    assert str(caught.value) == message


def test_the_check_goes_on_from_window_to_window(paths, monkeypatch):
    monkeypatch.setattr(decoded, "ROWS_OF_A_CHECK", 7)
    with pytest.raises(ValueError, match=r"2 of 32 images .* The first: a is no file"):
        ImageFiles([*paths, "a", "b"], n_workers=2)


def test_pixels_that_are_not_finite_are_named(paths, tmp_path):
    wide = X[..., 0].astype(np.float32)
    wide[3, 2, 2] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinity \(in image 3\); pixels must be finite"):
        SlicedArray(OnlySlices(wide))[:]
    with pytest.raises(ValueError, match=r"NaN or infinity \(in dataset\[3\]\)"):
        DatasetImages(list(wide))[np.array([5, 3])]
    pytest.importorskip("PIL.Image").fromarray(wide[3]).save(tmp_path / "wide.tif")
    with pytest.raises(ValueError, match=r"NaN or infinity \(in .*wide.tif\)"):
        ImageFiles([tmp_path / "wide.tif"])[:]


class Sliced:
    """As an array on disk, of which each read gives what `read` makes of it."""

    def __init__(self, array, read=lambda block: block):
        self.array, self.read = array, read
        self.shape, self.dtype = array.shape, array.dtype

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        return self.read(self.array[index])


def test_marks_of_missing_pixels_on_disk_are_refused_as_in_memory():
    X = np.random.RandomState(0).rand(30, 8, 8).astype(np.float32)
    cpc = tiny().fit(X)
    X[3, 2, 2] = np.finfo(np.float32).min
    for stored in (X, Sliced(X)):
        with pytest.raises(ValueError, match=r"contains -3.4\d+e\+38, an end of float32 .*image 3"):
            cpc.transform(stored)


def test_another_scale_on_disk_is_told_of_as_in_memory():
    X = np.random.RandomState(0).rand(30, 8, 8).astype(np.float32)
    cpc = tiny().fit(Sliced(X))
    for stored in (255 * X, Sliced(255 * X)):
        with pytest.warns(UserWarning, match="float32 pixels from .* and fit had float32"):
            cpc.transform(stored)


@pytest.mark.parametrize("index", [slice(2, 5), np.array([5, 2])])
def test_what_an_array_on_disk_makes_of_its_numbers_is_refused(index):
    """NetCDF variables are masked and scaled as they are read, and say to have what is stored."""
    X = np.arange(30 * 16, dtype=np.int16).reshape(30, 4, 4)
    scaled = open_images(Sliced(X, lambda block: block * 0.001))
    with pytest.raises(ValueError, match="said to have pixels of int16, and gives float64"):
        scaled[index]
    masked = open_images(Sliced(X, lambda block: np.ma.masked_less(block, 99999)))
    with pytest.raises(ValueError, match="masked pixels in images 2 to"):
        masked[index]


@pytest.mark.parametrize("resize", [0, (4, 0), (4,), (4, 4, 4), (2.5, 4), "ab"])
def test_sizes_that_are_none_are_refused(resize):
    with pytest.raises(ValueError, match=r"resize=.* must be a number of pixels or \(height, wid"):
        check_resize(resize)


def test_sizes_are_pairs():
    assert check_resize(None) is None
    assert check_resize(5) == (5, 5)
    assert check_resize([4, 6]) == (4, 6)


def test_paths_are_found_in_every_kind_of_column(paths):
    pd = pytest.importorskip("pandas")
    series = pd.Series(paths, index=np.arange(30)[::-1])
    columns = [
        paths,
        tuple(paths),
        [Path(path) for path in paths],
        np.array(paths),
        np.array(paths, dtype=object),
        np.array(paths).reshape(-1, 1),
        series,
        series.astype(object),
        series.astype("category"),
        series.to_frame("path"),
    ]
    for column in columns:
        assert [str(path) for path in as_paths(column)] == list(paths)


def test_other_columns_are_no_paths(rng):
    pd = pytest.importorskip("pandas")
    two = np.array([["a", "b"], ["c", "d"]])
    others = [
        rng.uniform(size=(4, 3)),
        np.arange(5),
        np.arange(5).reshape(-1, 1),
        pd.Series([1, 2]),
        pd.DataFrame({"a": [1.0]}),
        two,
        two.tolist(),
        two.astype(object),
        [],
        [1, 2],
        [[1, 2]],
        torch.zeros(3),
        np.array([{"a": 1}], dtype=object),
    ]
    assert [as_paths(other) for other in others] == [None] * len(others)


def test_what_is_no_path_among_paths_is_named():
    with pytest.raises(ValueError, match=r"X\[1\]=nan is no path, but others are; pass a str or"):
        as_paths(["a.png", np.nan])


@pytest.mark.parametrize("X", ["images", Path("images")])
def test_a_single_path_is_refused(X):
    with pytest.raises(ValueError, match=r"X='images' is one path; pass a list of paths, of a fo"):
        open_images(X)


def feed_of(source):
    found = as_images(source, channels="last")
    return ImageFeed(found, PixelScale.of(found), "cpu")


def test_a_feed_of_files_gives_what_the_array_gives(paths):
    feeds = [feed_of(X), feed_of(ImageFiles(paths, n_workers=1)), feed_of(ImageFiles(paths))]
    assert len({feed.scale for feed in feeds}) == 1
    passes = [list(TrainingBatches(feed, 7, np.random.RandomState(0))) for feed in feeds]
    for expected, *found in zip(*passes, strict=True):
        for images_, _ in found:
            torch.testing.assert_close(images_, expected[0], rtol=0, atol=0)
    for expected, *found in zip(*(feed.blocks(8) for feed in feeds), strict=True):
        for images_ in found:
            torch.testing.assert_close(images_, expected, rtol=0, atol=0)


def test_the_scale_of_eight_bits_needs_few_files(paths, monkeypatch):
    monkeypatch.setattr("sklearn_cpc.training.images.ROWS_FOR_MOMENTS", 10)
    files, seen = ImageFiles(paths, n_workers=1), []
    read = files.reader.pixels
    files.reader.pixels = lambda row: seen.append(row) or read(row)
    assert PixelScale.of(as_images(files, channels="last")) == PixelScale.of(as_images(X))
    assert seen == list(range(0, 30, 3))


def test_an_epoch_over_files_holds_a_few_batches_only(tmp_path):
    """250 images of 96 KiB, 23 MiB in all, in batches of 0.75 MiB."""
    big = np.zeros((1, 128, 256, 3), np.uint8)
    feed = feed_of(ImageFiles(save_images(big, tmp_path) * 250, n_workers=2))
    tracemalloc.start()
    for _ in TrainingBatches(feed, 8, np.random.RandomState(0)):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 2**20


def test_reading_ahead_keeps_the_order():
    assert list(read_ahead(lambda i: i * i, iter(range(20)))) == [i * i for i in range(20)]
    assert list(read_ahead(abs, [])) == []


def test_the_next_is_read_while_this_is_worked_on():
    read = [threading.Event() for _ in range(4)]
    results = read_ahead(lambda i: read[i].set() or i, range(4), n_ahead=2)
    assert next(results) == 0
    assert read[2].wait(10)
    assert not read[3].is_set()


def test_an_error_is_raised_in_its_turn():
    results = read_ahead(lambda i: 1 // (2 - i), range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_what_nobody_asks_for_is_not_read():
    seen, go_on = [], threading.Event()

    def read(i):
        seen.append(i)
        return i if i == 0 or go_on.wait(10) else None

    results = read_ahead(read, range(9), n_ahead=3)
    assert next(results) == 0
    go_on.set()
    results.close()
    assert len(seen) < 5
    n_threads = threading.active_count()
    list(read_ahead(abs, range(3)))
    assert threading.active_count() == n_threads


@pytest.mark.parametrize("broken", ["drop", "zeros"])
def test_who_skips_broken_images_is_not_told_to(broken):
    with pytest.raises(ValueError) as caught:
        ImageFiles(["none.png", "neither.png"], broken=broken)
    assert str(caught.value) == (
        "2 of 2 images cannot be read. The first: none.png is no file; check the path."
    )


def test_mixed_kinds_that_are_no_pictures(tmp_path):
    pixels = np.zeros((5, 4, 4), np.uint16)
    for name, pages in {"five.tif": pixels, "two.tif": pixels[:2]}.items():
        pytest.importorskip("tifffile").imwrite(tmp_path / name, pages, photometric="minisblack")
    message = "5 channels of uint16 and .* 2 of uint16; convert them to one kind, or leave some out"
    with pytest.raises(ValueError, match=message):
        ImageFiles([tmp_path / "five.tif", tmp_path / "two.tif"])


def test_a_data_frame_with_paths_beside_other_columns(paths):
    frame = pytest.importorskip("pandas").DataFrame({"age": range(30), "file": paths})
    with pytest.raises(ValueError, match=r"2 columns, and column 'file' has text; .* X\['file'\]"):
        as_paths(frame)
    assert len(as_paths(frame[["file"]])) == 30
    assert as_paths(frame[["age", "age"]]) is None
