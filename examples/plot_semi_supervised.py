"""
Learn from all images, and from the labels there are
====================================================

Some 1,300 images, of which 50 have a label: y = -1 says that the others have none, as everywhere
in scikit-learn. The transformer learns from all images, the classifier from the labelled ones. The
images are scikit-learn's handwritten digits, 8x8 pixels.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_cpc import CPCTransformer, IgnoreUnlabeled
from sklearn_cpc.evaluation import FlattenImages, ignore_unlabeled_scorer, nested_label_subsets
from sklearn_cpc.nn import AUGMENTATIONS

parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the picture")
parser.add_argument("--n-train", type=int, default=1297)
parser.add_argument("--n-test", type=int, default=500)
parser.add_argument("--n-labels", type=int, default=50)
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--repeats", type=int, default=5)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

# %%
# In ten lines
# ------------
# The encoder starts as a dictionary of patches, which CPC refines. A mirrored digit is no digit:
# images and patches are moved by a pixel, and not changed otherwise.
X, y_all = load_digits(return_X_y=True)
X, X_test, y_all, y_test = train_test_split(
    X.reshape(-1, 8, 8), y_all, train_size=options.n_train, test_size=options.n_test,
    stratify=y_all, random_state=0,
)  # fmt: skip
(labeled,) = nested_label_subsets(y_all, [options.n_labels], random_state=0)
y = np.full(len(X), -1)
y[labeled] = y_all[labeled]
changes = replace(AUGMENTATIONS["none"], shift=0.125, jitter=0.125)
cpc = CPCTransformer(
    256, encoder="dictionary", patch_size=4, pooling="quadrants", directions=("down", "right"),
    augment=changes, latent_dim=64, max_epochs=options.epochs, random_state=0, verbose=1,
)  # fmt: skip
classifier = IgnoreUnlabeled(LogisticRegression(C=0.01, max_iter=500))
pipe = make_pipeline(cpc, StandardScaler(), classifier).fit(X, y)
print(
    f"\n{len(X)} images, {len(labeled)} of them labelled: {pipe.score(X_test, y_test):.3f} of the "
    f"{len(X_test)} test images are right"
)

# %%
# What the unlabelled images were worth
# -------------------------------------
# The same classifier on other features, on several choices of the labelled images: the features
# learned from the labelled images alone, the dictionary before and an ordinary network without
# training, and those that scikit-learn has. What learned from all images did so without labels:
# it is fitted once.
embed = {
    "CPC, all images": pipe[0],
    "dictionary, all images": clone(cpc).set_params(max_epochs=0).fit(X),
    "random network": clone(cpc).set_params(encoder="conv", max_epochs=0).fit(X),
    "PCA, all images": make_pipeline(FlattenImages(), PCA(10, random_state=0)).fit(X),
    "raw pixels": FlattenImages().fit(X),
}
features = {name: (t.transform(X), t.transform(X_test)) for name, t in embed.items()}
scaled = make_pipeline(StandardScaler(), classifier)
scores = {name: [] for name in [*features, "CPC, labelled images"]}
for repeat in range(options.repeats):
    (labeled,) = nested_label_subsets(y_all, [options.n_labels], random_state=repeat)
    y = np.full(len(X), -1)
    y[labeled] = y_all[labeled]
    for name, (Z, Z_test) in features.items():
        scores[name].append(scaled.fit(Z, y).score(Z_test, y_test))
    alone = make_pipeline(clone(cpc).set_params(verbose=0), scaled).fit(X[labeled], y[labeled])
    scores["CPC, labelled images"].append(alone.score(X_test, y_test))
print(f"\nMean ± standard deviation over {options.repeats} choices of the labelled images")
for name, values in scores.items():
    print(f"  {name:24}{np.mean(values):.3f} ± {np.std(values):.3f}")

# %%
# A search inside the labels
# --------------------------
# The scorer leaves the unlabelled rows out.
Z, Z_test = features["CPC, all images"]
search = GridSearchCV(
    scaled,
    {"ignoreunlabeled__estimator__C": [0.001, 0.01, 0.1]},
    scoring=ignore_unlabeled_scorer("accuracy"),
    cv=3,
).fit(Z, y)
print(
    f"\nBest C={search.best_params_['ignoreunlabeled__estimator__C']}: "
    f"{search.best_score_:.3f} by cross-validation, {search.score(Z_test, y_test):.3f} on the test "
    "images"
)

# %%
figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
names = sorted(scores, key=lambda name: np.mean(scores[name]))
means, spreads = ([f(scores[name]) for name in names] for f in (np.mean, np.std))
bars = ax.barh(names, means, xerr=spreads, color="#0072B2", capsize=3)
ax.bar_label(bars, [f"{mean:.3f}" for mean in means], label_type="center", color="white")
ax.set(xlim=(0, 1), xlabel=f"Accuracy with {options.n_labels} labels")
figure.savefig(options.out / "semi_supervised.png", dpi=150)
print(f"\nPicture: {(options.out / 'semi_supervised.png').resolve()}")
