"""
Learn from all images, and from the labels there are
====================================================

A thousand images, of which one in ten has a label: y = -1 says that the others have none, as
everywhere in scikit-learn. The transformer learns from all images, the classifier from the
labelled ones. The images are scikit-learn's handwritten digits in random colours, at random
places, on textured backgrounds.
"""

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_cpc import CPCTransformer, IgnoreUnlabeled
from sklearn_cpc.datasets import load_colour_digits
from sklearn_cpc.evaluation import FlattenImages, ignore_unlabeled_scorer, nested_label_subsets
from sklearn_cpc.nn import Augmentation

parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the picture")
parser.add_argument("--n-train", type=int, default=1000)
parser.add_argument("--n-test", type=int, default=500)
parser.add_argument("--n-labels", type=int, default=100)
parser.add_argument("--epochs", type=int, default=15)
parser.add_argument("--repeats", type=int, default=3)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

# %%
# In ten lines
# ------------
# What the colours and backgrounds of neighbouring patches share says nothing about the digit:
# strong changes of single channels take that way out. A mirrored digit is no digit.
X, X_test, y_all, y_test = load_colour_digits(
    n_train=options.n_train, n_test=options.n_test, image_size=16, return_X_y=True
)
(labeled,) = nested_label_subsets(y_all, [options.n_labels], random_state=0)
y = np.full(len(X), -1)
y[labeled] = y_all[labeled]
changes = Augmentation(flip=0, channel=0.4, brightness=0.3, contrast=0.5, channel_drop=0)
cpc = CPCTransformer(
    128, pooling="quadrants", directions=("down", "right"), negative_images=4, augment=changes,
    latent_dim=128, learning_rate=3e-3, batch_size=32, max_epochs=options.epochs,
    random_state=0, verbose=1,
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
# learned from the labelled images alone, and those that scikit-learn has. What learned from all
# images did so without labels: it is fitted once.
embed = {
    "CPC, all images": pipe[0],
    "PCA, all images": make_pipeline(FlattenImages(), PCA(64, random_state=0)).fit(X),
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
    print(f"  {name:22}{np.mean(values):.3f} ± {np.std(values):.3f}")

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
ax.barh(names, means, xerr=spreads, color="#0072B2", capsize=3)
ax.set(xlim=(0, 1), xlabel=f"Accuracy with {options.n_labels} labels")
figure.savefig(options.out / "semi_supervised.png", dpi=150)
print(f"\nPicture: {(options.out / 'semi_supervised.png').resolve()}")
