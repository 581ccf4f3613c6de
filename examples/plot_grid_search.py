"""
A grid search that pretrains once
=================================

Pretraining is the expensive part, and the classifier is what one wants to tune. Two ways to
search over the classifier without fitting the encoder again: the search as the last step of the
pipeline, and a frozen encoder inside the search.
"""

import argparse
import copy
import time
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from sklearn_cpc import CPCTransformer, EmbeddingMapDisplay
from sklearn_cpc.nn import AUGMENTATIONS

parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the picture")
parser.add_argument("--n-images", type=int, default=1797)
parser.add_argument("--epochs", type=int, default=5)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

# %%
# The images
# ----------
# scikit-learn's handwritten digits; one training image in five has a label.
X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(
    X[: options.n_images], y[: options.n_images], test_size=0.3, random_state=0
)
X_few, _, y_few, _ = train_test_split(X, y, train_size=0.2, stratify=y, random_state=0)
print(f"{len(X)} training images, {len(X_few)} of them labelled, {len(X_test)} test images")

# %%
# One pretraining
# ---------------
# On all training images, without labels.
# Each digit fills its image: moves by a pixel are harmless, other changes teach nothing.
changes = replace(AUGMENTATIONS["none"], shift=0.125, jitter=0.125)
cpc = CPCTransformer(
    256,
    encoder="dictionary",
    patch_size=4,
    latent_dim=64,
    directions=("down", "right"),
    augment=changes,
    max_epochs=options.epochs,
    random_state=0,
)
start = time.perf_counter()
cpc.fit(X)
print(f"\nPretraining: {time.perf_counter() - start:.1f} s")

# %%
# The search as the last step
# ---------------------------
# Images are transformed once, and every candidate is fitted on the same features. The scaler is
# part of the search, so it learns from the training folds alone.
search = GridSearchCV(
    Pipeline([("scale", StandardScaler()), ("classify", LogisticRegression(max_iter=500))]),
    [
        {"classify__C": [0.001, 0.01, 0.1, 1]},
        {"classify": [SVC()], "classify__C": [0.3, 3], "classify__gamma": ["scale", 0.002]},
    ],
    cv=3,
)
pipe = make_pipeline(FrozenEstimator(cpc), search)
start = time.perf_counter()
pipe.fit(X_few, y_few)
found = pipe[-1]
n_candidates = len(found.cv_results_["params"])
print(f"\nSearch over {n_candidates} candidates: {time.perf_counter() - start:.1f} s")
print(f"best: {found.best_params_}, {found.best_score_:.3f} in cross-validation")
print(f"accuracy on the test images: {pipe.score(X_test, y_test):.3f}")

# %%
# The encoder inside the search
# -----------------------------
# Where a parameter of the features belongs to the grid, such as the pooling, the encoder has to
# stand inside. Frozen, it transforms for each candidate and is refitted by none: a copy with
# another pooling shares the network.
pooled = [
    FrozenEstimator(copy.copy(cpc).set_params(pooling=name))
    for name in ("max", "mean", "quadrants")
]
inside = GridSearchCV(
    Pipeline(
        [
            ("encode", FrozenEstimator(cpc)),
            ("scale", StandardScaler()),
            ("classify", LogisticRegression(max_iter=500)),
        ]
    ),
    {"encode": pooled, "classify__C": [0.01, 0.1]},
    cv=3,
)
inside.fit(X_few, y_few)
best = inside.best_params_["encode"].estimator
print(f"\nbest pooling: {best.pooling}; the encoder was not fitted again: {best.net_ is cpc.net_}")
print(f"accuracy on the test images: {inside.score(X_test, y_test):.3f}")

# %%
# A map of the features
# ---------------------
# With the pooling that was found.
display = EmbeddingMapDisplay.from_estimator(
    make_pipeline(FrozenEstimator(best), StandardScaler()).fit(X),
    X_test,
    y_test,
    thumbnails=True,
    random_state=0,
)
display.ax_.set_title("Test images by their features, two principal components")
path = options.out / "feature_map.png"
display.figure_.savefig(path, dpi=120)
print(f"\nPicture: {path.resolve()}")
