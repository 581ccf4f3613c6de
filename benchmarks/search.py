"""What matters for CIFAR-10 on a CPU: `recipe("small-images")` with one setting changed at a time.

    OMP_NUM_THREADS=1 python benchmarks/search.py ARCHIVE --threads 1 --precision bf16
    python benchmarks/search.py ARCHIVE --only "base;temperature 0.2" --seeds 3

ARCHIVE is that of `cifar10.py`. Each trial pretrains on 10,000 training images, for a quarter of
the recipe's epochs, and is scored on 3,000 others, also of the training part: test images take no
part. Features are those of an image and its mirror image, means over quadrants under a square root
and maxima; the classifier is LogisticRegression(C=1/n_features) on standardised features of 1,000
(five disjoint subsets) or 5,000 of the pretraining images. "gain" is the difference to "base" of
the same seed, which has the same images; base at several seeds tells what a difference is worth.

Rows are appended to a file of JSON lines, and what is in it is not measured again. A trial that
fails has a row with its error.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from cifar10 import draw_images, environment, has_native_bf16
from measuring import known_rows
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from sklearn_cpc import CPCTransformer, recipe
from sklearn_cpc.estimators.inputs import transform_grid
from sklearn_cpc.nn import Augmentation, pool

FOUR = ("down", "up", "right", "left")
TRIALS = {
    "base": {},
    "no training": {"max_epochs": 0},
    "temperature 0.05": {"temperature": 0.05},
    "temperature 0.2": {"temperature": 0.2},
    "temperature 0.4": {"temperature": 0.4},
    "4 directions": {"directions": FOUR},
    "batch size 32": {"batch_size": 32},
    "batch size 128": {"batch_size": 128},
    "learning rate 5e-4": {"learning_rate": 5e-4},
    "learning rate 2e-3": {"learning_rate": 2e-3},
    "learning rate 2e-3, temperature 0.2": {"learning_rate": 2e-3, "temperature": 0.2},
    "weight decay 0.1": {"weight_decay": 0.1},
    "averaging 0.998": {"averaging": 0.998},
    "1 step": {"n_steps": 1},
    "5 steps": {"n_steps": 5},
    "latents 128": {"latent_dim": 128},
    "latents 512": {"latent_dim": 512},
    "projection 128": {"projection_dim": 128},
    "context 128": {"context_dim": 128},
    "context gru": {"context": "gru"},
    "width 512": {"n_components": 512},
    "width 2048": {"n_components": 2048},
    "patch 6, stride 3": {"patch_size": 6, "patch_stride": 3},
    "patch 12, stride 5": {"patch_size": 12, "patch_stride": 5},
    "patch 8, stride 8": {"patch_stride": 8},
    "no dropped channels": {"augment": Augmentation(shift=0, channel_drop=0)},
    "cpc-v2 augmentation": {"augment": "cpc-v2"},
    "no augmentation": {"augment": "none"},
}
POOLINGS = ("quadrant-means", "max")
KEY = ("trial", "seed", "epochs", "n_train", "precision")


def settings_of(key):
    """Parameters of a trial."""
    common = {"max_epochs": key["epochs"], "precision": key["precision"]}
    return recipe("small-images", random_state=key["seed"], **common | TRIALS[key["trial"]])


def features(cpc, X, block=250):
    """Features of images and their mirror images, pooled in each way: one encoding for all."""
    grids = cpc.set_params(pooling="none", transform_flip=False)
    rows, cols = transform_grid(cpc).shape
    found = {name: [] for name in POOLINGS}
    for start in range(0, len(X), block):
        images = X[start : start + block]
        both = [
            torch.from_numpy(grids.transform(each)).unflatten(1, (rows, cols, -1))
            for each in (images, images[:, :, ::-1])
        ]
        for name, blocks in found.items():
            blocks.append(sum(pool(each, name) for each in both).numpy() / 2)
    found = {name: np.concatenate(blocks) for name, blocks in found.items()}
    return found | {"quadrant-means": np.sqrt(found["quadrant-means"])}


def scores(own, y, labelled, tested):
    """Accuracy on the tested images for 1,000 labels, five times, and for 5,000."""
    found = {}
    for name, values in own.items():
        for n in (1000, 5000):
            accuracies = []
            for rows in labelled.reshape(-1, n):
                classifier = LogisticRegression(C=1 / values.shape[1], max_iter=300)
                classifier = make_pipeline(StandardScaler(), classifier)
                classifier.fit(values[rows], y[rows])
                accuracies.append(round(float(classifier.score(values[tested], y[tested])), 4))
            found[f"{name}_{n}"] = accuracies
    return found


def measure(key, archive, n_test=3000):
    """The row of a trial."""
    X, y, train, tested = draw_images(archive, key["n_train"], n_test, key["seed"], choose=True)
    settings = settings_of(key)
    changed = {name: repr(value) for name, value in TRIALS[key["trial"]].items()}
    row = key | {"changed": changed, "threads": torch.get_num_threads()}
    row |= {"date": time.strftime("%Y-%m-%d"), **environment()}
    try:
        start = time.process_time()
        cpc = CPCTransformer(**settings).fit(X[train])
        row["fit_process_seconds"] = round(time.process_time() - start, 1)
    except (ValueError, RuntimeError) as error:
        return row | {"error": f"{type(error).__name__}: {error}"}
    if cpc.history_:
        row["bound_nats"] = round(cpc.history_[-1]["mutual_information"], 3)
    rows = np.concatenate([train[:5000], tested])
    own = features(cpc, X[rows])
    return row | scores(own, y[rows], np.arange(5000), np.arange(5000, len(rows)))


def means(row):
    """The mean of each score of a row."""
    names = [f"{pooling}_{n}" for pooling in POOLINGS for n in (1000, 5000)]
    return {name: round(float(np.mean(row[name])), 4) for name in names}


def table(rows):
    """Lines of the table: means over seeds."""
    base = {row["seed"]: row for row in rows if row["trial"] == "base"}
    lines = []
    for name in TRIALS:
        own = [row for row in rows if row["trial"] == name and "error" not in row]
        if not own:
            continue
        cells = [name, str(len(own)), f"{np.mean([r['fit_process_seconds'] for r in own]):.0f}"]
        for what in means(own[0]):
            cells.append(f"{np.mean([means(row)[what] for row in own]):.3f}")
            gains = [
                means(row)[what] - means(base[row["seed"]])[what]
                for row in own
                if row["seed"] in base and name != "base"
            ]
            cells.append(f"{np.mean(gains):+.3f}" if gains else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument(
        "--only", help='names of trials, with semicolons between: "base;4 directions"'
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--n-train", type=int, default=10_000)
    parser.add_argument("--precision", choices=("auto", "bf16", "float32"), default="auto")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    default = Path(__file__).parent / "results" / "search.jsonl"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    options.names = options.only.split(";") if options.only else list(TRIALS)
    if unknown := sorted(set(options.names) - set(TRIALS)):
        parser.error(f"--only: {unknown} are unknown; there are {sorted(TRIALS)}.")
    if options.n_train < 5000:
        parser.error("--n-train must be 5000 at least: so many images are labelled.")
    if options.precision == "auto":
        options.precision = "bf16" if has_native_bf16() else "float32"
    return options


def main():
    options = parse()
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads)
    shared = {what: getattr(options, what) for what in KEY[2:]}
    keys = [
        {"trial": name, "seed": seed} | shared for seed in options.seeds for name in options.names
    ]
    keys, rows = known_rows(options.out, keys, KEY)
    for key in keys:
        row = measure(key, options.archive)
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        rows.append(row)
        print(f"{key['trial']}, seed {key['seed']}: {row.get('error') or means(row)}", flush=True)
    print("\n| trial | seeds | seconds | quadrants 1,000 | gain | 5,000 | gain ", end="")
    print("| max 1,000 | gain | 5,000 | gain |")
    print("| :-- |" + " --: |" * 10, *table(rows), sep="\n")


if __name__ == "__main__":
    main()
