"""Small real images without a download, and folders of one's own."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter, zoom
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch, check_random_state

__all__ = ["ImageFolder", "image_folder", "load_colour_digits"]

IMAGE_ENDS = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".jp2"),
)

N_TEST_DIGITS = 500
DIGIT_SHARE = 0.625  # of the image's side: 20 of 32 pixels
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def load_colour_digits(
    *, n_train=4000, n_test=1000, image_size=32, noise=0.5, random_state=0, return_X_y=False
):
    """Handwritten digits in random colours at random places on textured backgrounds.

    scikit-learn's bundled digits (8x8, written by 43 people) are enlarged to five eighths
    of the image, and each is drawn several times. Images of one written digit are all in the
    training part or all in the test part: 1,297 digits are drawn for training and 500 for testing,
    both stratified.

    Parameters
    ----------
    n_train : int, default=4000
        Number of images to train on, at least 10.
    n_test : int, default=1000
        Number of images of other digits, at least 10.
    image_size : int, default=32
        Height and width in pixels, at least 16.
    noise : float, default=0.5
        Contrast of the background's texture: its standard deviation is 0.12 * noise of the range
        of pixel values; 0 gives plain colours.
    random_state : int, RandomState or None, default=0
        Fixes parts, places, colours and textures.
    return_X_y : bool, default=False
        Return (X_train, X_test, y_train, y_test) instead of a Bunch.

    Returns
    -------
    data : Bunch
        `X_train`, `X_test` : ndarray of shape (n, image_size, image_size, 3), uint8;
        `y_train`, `y_test` : ndarray of shape (n,), the digits;
        `digit_train`, `digit_test` : ndarray of shape (n,), row of the digit in `load_digits`;
        `target_names` : list of str; `DESCR` : str.

    Raises
    ------
    ValueError
        If a number is too small.

    References
    ----------
    In the spirit of the coloured MNIST of D. Tellez's Keras implementation of CPC. The digits:
    E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.

    Examples
    --------
    >>> from sklearn_cpc.datasets import load_colour_digits
    >>> data = load_colour_digits(n_train=100, n_test=20)
    >>> data.X_train.shape, data.X_train.dtype, data.y_test.shape
    ((100, 32, 32, 3), dtype('uint8'), (20,))
    """
    for name, value, least in (
        ("n_train", n_train, 10),
        ("n_test", n_test, 10),
        ("image_size", image_size, 16),
    ):
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}; pass a larger {name}.")
    rng = check_random_state(random_state)
    digits, target = load_digits(return_X_y=True)
    train, test = train_test_split(
        np.arange(len(target)), test_size=N_TEST_DIGITS, stratify=target, random_state=rng
    )
    data = Bunch(target_names=[str(i) for i in range(10)], DESCR=load_colour_digits.__doc__)
    for part, pool, n in (("train", train, n_train), ("test", test, n_test)):
        rows = np.concatenate([rng.permutation(pool) for _ in range(-(-n // len(pool)))])[:n]
        data[f"X_{part}"] = _draw(digits[rows].reshape(-1, 8, 8) / 16, image_size, noise, rng)
        data[f"y_{part}"] = target[rows]
        data[f"digit_{part}"] = rows
    if return_X_y:
        return data.X_train, data.X_test, data.y_train, data.y_test
    return data


def _draw(digits, size, noise, rng):
    ink = _place(digits, size, rng)[..., None]
    background, colour = _colours(len(digits), rng)
    texture = gaussian_filter(rng.normal(size=(len(digits), size, size)), (0, 0.7, 0.7))
    texture *= noise * 0.12 / max(texture.std(), 1e-12)
    tint = rng.uniform(-1, 1, (len(digits), 1, 1, 3))
    paper = background + texture[..., None] * (1 + 0.5 * tint)
    images = paper * (1 - ink) + (colour + texture[..., None] * 0.3) * ink
    return np.clip(255 * images + 0.5, 0, 255).astype(np.uint8)


def _place(digits, size, rng):
    """How much ink is on each pixel, (n, size, size) in [0, 1]."""
    scale = DIGIT_SHARE * size / 8
    large = zoom(digits, (1, scale, scale), order=1).clip(0, 1)
    height, width = large.shape[1:]
    ink = np.zeros((len(digits), size, size))
    tops = rng.randint(0, size - height + 1, len(digits))
    lefts = rng.randint(0, size - width + 1, len(digits))
    for image, digit, top, left in zip(ink, large, tops, lefts, strict=True):
        image[top : top + height, left : left + width] = digit
    return ink


def _colours(n, rng):
    """Colours of paper and ink, each (n, 1, 1, 3), that differ in brightness by 0.3 at least."""
    paper, ink = rng.uniform(0.1, 0.9, (2, n, 3))
    while (close := np.abs((paper - ink) @ LUMA) < 0.3).any():
        paper[close], ink[close] = rng.uniform(0.1, 0.9, (2, close.sum(), 3))
    return paper[:, None, None], ink[:, None, None]


class ImageFolder(NamedTuple):
    """What `image_folder` finds.

    Attributes
    ----------
    paths : ndarray of shape (n,), object
        Paths of the files, str.
    labels : ndarray of shape (n,), int
        Row of the class in `class_names`; -1 for files outside of the classes' folders.
    class_names : list of str
        Names of the classes' folders.
    """

    paths: np.ndarray
    labels: np.ndarray
    class_names: list


def image_folder(path, *, class_names=None):
    """Find the image files of a folder, and take the names of its sub-folders for classes.

    Files are found at any depth, by their ends (png, jpg, jpeg, tif, tiff, bmp, gif, webp, ppm,
    pgm, pbm and jp2, in any case). Their class is the folder of `path` that they are in. What
    begins with a dot is left out, and a folder that links lead to twice is taken once, where it is
    itself below `path` if it is. None of the files is opened.

    Parameters
    ----------
    path : str or Path
        The folder.
    class_names : sequence of str or None, default=None
        The classes, so that another folder has the same labels. None: all folders of `path`
        in which there is an image, sorted.

    Returns
    -------
    folder : ImageFolder
        `paths`, `labels` and `class_names`, which it can be unpacked to. Paths are sorted, folder
        by folder: the order is the same on every machine.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is no such folder.
    ValueError
        If there is no image in it, or a folder is not among `class_names`.

    Examples
    --------
    >>> from sklearn_cpc.datasets import image_folder
    >>> paths, labels, class_names = image_folder("photographs")  # doctest: +SKIP
    """
    path = Path(path)
    if not path.is_dir():
        kind = NotADirectoryError if path.exists() else FileNotFoundError
        raise kind(f"path={str(path)!r} is no folder; pass one that holds images.")
    files = sorted(_image_files(path), key=lambda file: file.parts)
    if not files:
        raise ValueError(
            f"path={str(path)!r} holds no image, that is no file that ends in one of "
            f"{', '.join(IMAGE_ENDS)}; pass another folder, or a list of paths to the estimator."
        )
    folders = [file.parts[0] if len(file.parts) > 1 else None for file in files]
    found = sorted({folder for folder in folders if folder is not None})
    names = found if class_names is None else list(class_names)
    if unknown := [name for name in found if name not in names]:
        raise ValueError(
            f"path={str(path)!r} has images in {unknown[0]!r}, which is not among class_names="
            f"{names}; add it, or move them."
        )
    numbers = {name: number for number, name in enumerate(names)} | {None: -1}
    labels = np.array([numbers[folder] for folder in folders])
    return ImageFolder(np.array([str(path / file) for file in files], dtype=object), labels, names)


def _image_files(folder):
    """Paths below a folder, relative to it; links to folders only lead to what is not there."""
    seen, starts = set(), [folder]
    for start in starts:  # and the links that are found on the way
        for place, folders, files in os.walk(start):
            real = os.path.realpath(place)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            places = (Path(place, name) for name in folders)
            starts += [each for each in places if each.is_symlink()]
            for name in files:
                if name.lower().endswith(IMAGE_ENDS) and not name.startswith("."):
                    yield Path(place, name).relative_to(folder)
