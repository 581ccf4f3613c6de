"""
What are unlabelled images worth?
=================================

Pretrain on images without labels, then give labels to some of them: the accuracy of a linear
classifier against the number of labels, for features learned by CPC and for what one would use
instead. The images are scikit-learn's handwritten digits in random colours, at random
places, on textured backgrounds.
"""

import argparse
import time
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_cpc import (
    CPCTransformer,
    LabelEfficiencyDisplay,
    NearestNeighborsDisplay,
    TrainingHistoryDisplay,
    label_efficiency_curve,
    label_saving,
)
from sklearn_cpc.datasets import load_colour_digits
from sklearn_cpc.evaluation import FlattenImages, PatchKMeans, curve_table
from sklearn_cpc.nn import Augmentation

parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the pictures")
parser.add_argument("--n-train", type=int, default=4000)
parser.add_argument("--n-test", type=int, default=1000)
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--repeats", type=int, default=3)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)
start = time.perf_counter()

# %%
# The images
# ----------
# The digits of the test part are others than those of the training part. The settings below were
# chosen on the images of random_state=0, so others are taken here.
data = load_colour_digits(n_train=options.n_train, n_test=options.n_test, random_state=1)
X = np.concatenate([data.X_train, data.X_test])
y = np.concatenate([data.y_train, data.y_test])
train, test = np.arange(options.n_train), np.arange(options.n_train, len(X))
print(
    f"{len(train)} training images and {len(test)} test images of other digits, "
    f"{X.shape[1]}x{X.shape[2]} pixels, {X.shape[3]} channels\n"
)

# %%
# Pretraining, without labels
# ---------------------------
# With `max_epochs=0` the same transformer is the untrained network of the same size.
# Neighbouring patches share the colours of paper and ink, which say nothing about the digit: strong
# changes of single channels, patch by patch, and negatives from few images take that way out. A
# mirrored digit is no digit, so nothing is flipped.
settings = {
    "n_components": 512,
    "pooling": "quadrants",
    "directions": ("down", "right"),
    "negative_images": 4,
    "augment": Augmentation(flip=0, channel=0.4, brightness=0.3, contrast=0.5, channel_drop=0),
    "learning_rate": 3e-3,
    "random_state": 0,
}
cpc = CPCTransformer(max_epochs=options.epochs, verbose=1, **settings).fit(data.X_train)
random_encoder = CPCTransformer(max_epochs=0, **settings)

# %%
# Accuracy against the number of labels
# -------------------------------------
# Every transformer is fitted once, on the training images, without labels; the frozen one has
# been already.
transformers = {
    "CPCTransformer": [FrozenEstimator(cpc)],
    "random encoder": [random_encoder],
    "patch k-means": [PatchKMeans(400, random_state=0)],
    "PCA": [FlattenImages(), PCA(64, random_state=0)],
    "raw pixels": [FlattenImages()],
}
# At the default tolerance the classifiers of raw pixels take longer than the pretraining.
classifier = LogisticRegression(C=0.01, tol=0.01, max_iter=500)
curves = label_efficiency_curve(
    {name: make_pipeline(*t, StandardScaler(), classifier) for name, t in transformers.items()},
    X,
    y,
    label_fractions=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    cv=[(train, test)],
    n_repeats=options.repeats,
    random_state=0,
)
print(
    f"\nAccuracy on the test images with a share of the {len(train)} training images labelled,\n"
    f"mean ± standard deviation over {options.repeats} label subsets\n"
)
print(curve_table(curves))

# %%
# How many times fewer labels
# ---------------------------
# For the accuracy that a rival reaches with all its labels; the interval is that of a bootstrap
# over the label subsets, and knows of no other pretraining or test images.
print("\nTimes fewer labels with which CPCTransformer is as accurate as a rival with all labels")
for rival in list(curves)[1:]:
    saving = label_saving(curves["CPCTransformer"], curves[rival], random_state=0)
    print(f"  {rival:15}  {saving.text}")

# %%
figure, ax = plt.subplots(figsize=(9, 5), layout="constrained")
LabelEfficiencyDisplay.from_results(curves).plot(ax=ax, saving=("CPCTransformer", "random encoder"))
ax.set_title("Digits on textures: accuracy against labels")
figure.savefig(options.out / "label_efficiency.png", dpi=150)

# %%
# The loss, beside that of a guess
# --------------------------------
display = TrainingHistoryDisplay.from_estimator(cpc)
display.figure_.savefig(options.out / "loss.png", dpi=150)

# %%
# Nearest neighbours
# ------------------
# Test images, and the training images whose features are the most similar.
scaled = make_pipeline(FrozenEstimator(cpc), StandardScaler()).fit(data.X_train)
display = NearestNeighborsDisplay.from_estimator(
    scaled, data.X_test[:8], data.X_train, y_query=data.y_test[:8], y=data.y_train, n_neighbors=7
)
display.figure_.savefig(options.out / "neighbours.png", dpi=120)

print(f"\n{time.perf_counter() - start:.0f} s in all. Pictures:")
for name in ("label_efficiency.png", "loss.png", "neighbours.png"):
    print(f"  {(options.out / name).resolve()}")
