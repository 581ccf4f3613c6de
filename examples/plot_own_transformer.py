"""
Your own transformer, compared with CPC
=======================================

The protocol knows no CPC: anything with `fit` and `transform` can be measured, on the same label
subsets and the same test images. Here it is a descriptor of a few lines, histograms of the
directions of edges.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_cpc import (
    CPCTransformer,
    LabelEfficiencyDisplay,
    label_efficiency_curve,
    label_saving,
)
from sklearn_cpc.evaluation import FlattenImages, curve_table
from sklearn_cpc.nn import AUGMENTATIONS

parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for picture and cache")
parser.add_argument("--n-images", type=int, default=1797)
parser.add_argument("--epochs", type=int, default=5)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)


# %%
# Your own transformer
# --------------------
# Two methods; the parameters are stored as they come, so that it can be cloned.
class EdgeDirections(TransformerMixin, BaseEstimator):
    """How much edge there is in each direction, in each cell of an image."""

    def __init__(self, n_directions=8, cell=4):
        self.n_directions = n_directions
        self.cell = cell

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        rows, cols = np.gradient(np.asarray(X, dtype=float), axis=(1, 2))
        angle = np.arctan2(rows, cols) % (2 * np.pi)
        which = (angle / (2 * np.pi) * self.n_directions).astype(int) % self.n_directions
        strength = np.hypot(rows, cols)[..., np.newaxis] * np.eye(self.n_directions)[which]
        n, height, width, _ = strength.shape
        cells = strength.reshape(
            n, height // self.cell, self.cell, width // self.cell, self.cell, self.n_directions
        )
        return cells.sum(axis=(2, 4)).reshape(n, -1)


# %%
# Three transformers and raw pixels, on the same labels
# -----------------------------------------------------
# CPC starts from a dictionary of patches, which is measured too: what does training add?
# All steps but the last are fitted once for each split, on its training images, without labels;
# the last one on the labelled images alone: what learns from labels, or should see these
# images only, belongs there. With a `cache`, an interrupted study goes on where it stopped.
X, y = load_digits(return_X_y=True)
X, y = X[: options.n_images].reshape(-1, 8, 8), y[: options.n_images]
settings = {
    "n_components": 256,
    "encoder": "dictionary",
    "patch_size": 4,
    "latent_dim": 64,
    "directions": ("down", "right"),
    "pooling": "quadrants",
    # Each digit fills its image: moves by a pixel are harmless, other changes teach nothing.
    "augment": replace(AUGMENTATIONS["none"], shift=0.125, jitter=0.125),
    "random_state": 0,
}
cpc = CPCTransformer(max_epochs=options.epochs, **settings)
dictionary = CPCTransformer(max_epochs=0, **settings)
classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
curves = label_efficiency_curve(
    {
        "CPC": make_pipeline(cpc, classifier),
        "dictionary alone": make_pipeline(dictionary, classifier),
        "edge directions": make_pipeline(EdgeDirections(), classifier),
        "raw pixels": make_pipeline(FlattenImages(), classifier),
    },
    X,
    y,
    label_fractions=(0.01, 0.03, 0.1, 0.3, 1.0),
    cv=2,
    n_repeats=3,
    cache=options.out / "own_transformer",
    random_state=0,
    verbose=1,
)
print(f"\n{curve_table(curves)}\n")

# %%
# How many times fewer labels
# ---------------------------
# Not always in favour of what is learned: read the intervals.
for ours, rival in (
    ("CPC", "raw pixels"),
    ("CPC", "dictionary alone"),
    ("edge directions", "raw pixels"),
    ("CPC", "edge directions"),
):
    saving = label_saving(curves[ours], curves[rival], random_state=0)
    print(f"{ours}, for the accuracy of {rival} with all labels: {saving.text}")

# %%
display = LabelEfficiencyDisplay.from_results(curves)
display.plot(x="per_class", saving=("CPC", "raw pixels"))
path = options.out / "own_transformer.png"
display.figure_.savefig(path, dpi=150)
print(f"\nPicture: {path.resolve()}")
