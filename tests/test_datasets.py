"""Colour digits: sizes, seeds, and parts that share no digit. Folders: order and labels."""

from pathlib import Path

import numpy as np
import pytest

from sklearn_cpc.datasets import image_folder, load_colour_digits


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


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def relative(folder, found):
    return [Path(path).relative_to(folder).as_posix() for path in found.paths]


def test_a_folder_gives_sorted_paths_and_its_folders_as_classes(tmp_path):
    names = ["bee/10.png", "bee/2.JPG", "ant/deep/er/b.tif", "ant/a.Tiff", "ant-2/x.webp", "z.png"]
    touch(tmp_path, *names, "bee/.hidden.png", ".git/a.png", "bee/notes.txt", "empty/read.me")
    paths, labels, class_names = found = image_folder(tmp_path)
    expected = [
        "ant/a.Tiff",
        "ant/deep/er/b.tif",
        "ant-2/x.webp",
        "bee/10.png",
        "bee/2.JPG",
        "z.png",
    ]
    assert relative(tmp_path, found) == expected
    assert class_names == ["ant", "ant-2", "bee"]
    assert labels.tolist() == [0, 0, 1, 2, 2, -1]
    assert all(isinstance(path, str) for path in paths)
    assert image_folder(str(tmp_path)).paths.tolist() == paths.tolist()


def test_a_folder_without_folders_has_no_labels(tmp_path):
    found = image_folder(touch(tmp_path, "b.png", "a.png"))
    assert relative(tmp_path, found) == ["a.png", "b.png"]
    assert found.labels.tolist() == [-1, -1]
    assert found.class_names == []


def test_another_folder_has_the_labels_of_the_first(tmp_path):
    touch(tmp_path, "train/ant/1.png", "train/bee/1.png", "test/bee/1.png")
    names = image_folder(tmp_path / "train").class_names
    found = image_folder(tmp_path / "test", class_names=names)
    assert (found.labels.tolist(), found.class_names) == ([1], ["ant", "bee"])
    with pytest.raises(ValueError, match=r"in 'ant', which is not among class_names=\['bee'\]"):
        image_folder(tmp_path / "train", class_names=["bee"])


def test_links_are_followed_once(tmp_path):
    touch(tmp_path, "all/ant/1.png", "far/2.png")
    (tmp_path / "all" / "bee").symlink_to(tmp_path / "far")
    (tmp_path / "all" / "ant" / "back").symlink_to(tmp_path / "all")
    found = image_folder(tmp_path / "all")
    assert relative(tmp_path / "all", found) == ["ant/1.png", "bee/2.png"]


def test_a_link_between_classes_does_not_move_images_to_another_class(tmp_path):
    touch(tmp_path, "all/ant/1.png", "all/bee/2.png", "all/bee/deep/3.png", "all/.far/4.png")
    (tmp_path / "all" / "ant" / "friends").symlink_to(tmp_path / "all" / "bee")
    (tmp_path / "all" / "aphid").symlink_to(tmp_path / "all" / "bee" / "deep")
    (tmp_path / "all" / "cat").symlink_to(tmp_path / "all" / ".far")  # not walked through by itself
    found = image_folder(tmp_path / "all")
    assert relative(tmp_path / "all", found) == [
        *("ant/1.png", "bee/2.png", "bee/deep/3.png", "cat/4.png")
    ]
    assert found.class_names == ["ant", "bee", "cat"]


def test_what_is_no_folder_of_images_is_refused(tmp_path):
    touch(tmp_path, "file.png", "empty/read.me")
    with pytest.raises(FileNotFoundError, match="none' is no folder; pass one that holds images"):
        image_folder(tmp_path / "none")
    with pytest.raises(NotADirectoryError, match=r"file.png' is no folder"):
        image_folder(tmp_path / "file.png")
    with pytest.raises(ValueError, match=r"empty' holds no image, that is no file that"):
        image_folder(tmp_path / "empty")
