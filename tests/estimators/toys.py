"""Small estimators and images, so that a fit takes tens of milliseconds."""

import numpy as np

from sklearn_cpc import CPCTransformer

TINY = {
    "n_components": 8,
    "latent_dim": 4,
    "projection_dim": 4,
    "context_dim": 4,
    "context_depth": 1,
    "max_epochs": 1,
    "batch_size": 8,
    "random_state": 0,
}


def tiny(**settings):
    """A transformer with one epoch and few features."""
    return CPCTransformer(**TINY | settings)


def images(n=20, height=8, width=8, n_channels=3, seed=0, dtype=np.uint8):
    """Random pixels of shape (n, height, width, n_channels)."""
    shape = (n, height, width, n_channels)
    return np.random.RandomState(seed).randint(0, 256, shape).astype(dtype)


def colours(n=300, size=16, seed=0):
    """One noisy colour per image: what comes next follows from what was seen."""
    rng = np.random.RandomState(seed)
    colour = rng.uniform(30, 225, (n, 1, 1, 3))
    return (colour + rng.uniform(-30, 30, (n, size, size, 3))).astype(np.uint8)


def same_state(before, after):
    """Whether two `__dict__`s hold the same objects under the same names."""
    return before.keys() == after.keys() and all(before[k] is after[k] for k in before)


def save_images(X, folder, end="png"):
    """Files of images in the order of their names; their paths as a list of str."""
    from PIL import Image

    paths = [str(folder / f"{i:03}.{end}") for i in range(len(X))]
    for path, image in zip(paths, X, strict=True):
        Image.fromarray(image).save(path)
    return paths
