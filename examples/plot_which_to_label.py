"""
Which images to label first
===========================

Many images, no labels, and somebody's time for a few dozen. Labels for typical images of each
cluster, or for images that cover all others, against labels for images drawn at random: the same
features, the same classifier, the same test images. The images are scikit-learn's handwritten
digits, 8x8 pixels.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline

from sklearn_cpc import CPCTransformer, LabelFractionSplit, select_to_label
from sklearn_cpc.evaluation import FlattenImages
from sklearn_cpc.nn import AUGMENTATIONS

parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the pictures")
parser.add_argument("--n-splits", type=int, default=10)
parser.add_argument("--n-labels", type=int, nargs="+", default=[10, 20, 40, 80, 160])
parser.add_argument("--cpc", action="store_true", help="PCA of CPC features, not pixels")
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

# %%
# The first images to label
# -------------------------
# Features first: they need no label.
X, y = load_digits(return_X_y=True)
X = X.reshape(-1, 8, 8)
encoder = make_pipeline(FlattenImages(), PCA(30, random_state=0))
if options.cpc:
    # A digit has its place in the image: moves of a pixel, and nothing else, are harmless here.
    changes = replace(AUGMENTATIONS["none"], shift=0.125, jitter=0.125)
    cpc = CPCTransformer(
        256, encoder="dictionary", patch_size=4, pooling="quadrants", latent_dim=64,
        directions=("down", "right"), augment=changes, max_epochs=5, random_state=0,
    )  # fmt: skip
    encoder = make_pipeline(cpc, PCA(30, random_state=0))
Z = encoder.fit_transform(X)
methods = ("typical", "coverage", "random")
figure, axes = plt.subplots(len(methods), 10, figsize=(8, 3), layout="constrained")
for method, row in zip(methods, axes, strict=True):
    first = select_to_label(Z, 10, method=method, random_state=0)
    print(f"{method:9} first ten: {len(set(y[first]))} of 10 digits, {y[first].tolist()}")
    row[0].set_ylabel(method, rotation=0, ha="right", va="center")
    for index, ax in zip(first, row, strict=True):
        ax.imshow(X[index], cmap="gray_r")
        ax.set(xticks=[], yticks=[])
figure.savefig(options.out / "first_to_label.png", dpi=120)

# %%
# Is it worth it?
# ---------------
# On each split the encoder is fitted on the training images, which are then labelled in rounds;
# the test images are in neither. Where a method has missed a digit, the classifier does not know
# that digit, and is scored for it.
classifier = LogisticRegression(C=0.01, max_iter=500)
scores = {method: [] for method in methods}
outer = StratifiedShuffleSplit(options.n_splits, test_size=0.3, random_state=0)
for i_split, (train, test) in enumerate(outer.split(X, y)):
    Z = encoder.fit(X[train]).transform(X)
    for method in methods:
        rounds = LabelFractionSplit(
            options.n_labels, cv=[(train, test)], selection=method, random_state=i_split
        )
        scores[method].append(cross_val_score(classifier, Z, y, cv=rounds))

# %%
# Differences are taken within a split, so that what the splits have in common cancels out.
print(f"\nAccuracy on test images, mean ± standard deviation over {options.n_splits} splits")
print(" labels" + "".join(f"{method:>17}" for method in methods) + "   typical - random")
gain = np.subtract(scores["typical"], scores["random"])
for i, n_labels in enumerate(options.n_labels):
    cells = [np.array(scores[method])[:, i] for method in methods] + [gain[:, i]]
    print(f"{n_labels:7}" + "".join(f"{c.mean():10.3f} ± {c.std():.3f}" for c in cells))

# %%
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for method, marker, color in zip(methods, "os^", ("#0072B2", "#D55E00", "0.4"), strict=True):
    mean, std = np.mean(scores[method], axis=0), np.std(scores[method], axis=0)
    ax.plot(options.n_labels, mean, marker=marker, color=color, label=method)
    ax.fill_between(options.n_labels, mean - std, mean + std, color=color, alpha=0.15, linewidth=0)
ax.set(xscale="log", xlabel="Labels", ylabel="Accuracy", title="Which images were labelled")
ax.set_xticks(options.n_labels, options.n_labels)
ax.minorticks_off()
ax.legend(frameon=False)
figure.savefig(options.out / "which_to_label.png", dpi=150)
print("\nPictures:")
for name in ("first_to_label.png", "which_to_label.png"):
    print(f"  {(options.out / name).resolve()}")
