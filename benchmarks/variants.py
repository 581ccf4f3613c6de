"""Every variant on colour digits: accuracy beside its own random encoder, speed and memory.

    python benchmarks/variants.py
    python benchmarks/variants.py --only "batch,bce,greedy joint" --n-train 2000 --epochs 4

Each variant is pretrained on the unlabelled training images in a process of its own, and its
features and those of the same network untrained are classified by LogisticRegression(C=0.01) on a
tenth of the labels. Settings are those of the demo, which were chosen on these images; nothing is
tuned for a variant, so that a low rank says that it needs other settings or longer. Recipes are
shrunk to the digits and keep all but their encoder, which is "conv", and their length. A variant
takes about a minute on a core; the ResNets take many, and without a GPU run only if named. Rows
are appended to a file of JSON lines.
"""

import argparse
import json
import os
import platform
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_cpc import CPCTransformer, recipe
from sklearn_cpc.datasets import load_colour_digits
from sklearn_cpc.estimators.recipes import RECIPES, image_size
from sklearn_cpc.nn import CONTEXTS, ENCODERS, Augmentation

BASE = {
    "n_components": 256,
    "pooling": "quadrants",
    "directions": ("down", "right"),
    "negative_images": 4,
    "augment": Augmentation(flip=0, channel=0.4, brightness=0.3, contrast=0.5, channel_drop=0),
    "learning_rate": 3e-3,
    "random_state": 0,
}
DIGITS = 32  # pixels of their side
SAMPLED = {"negatives": "sampled", "n_candidates": 512}


def variants():
    """Name -> settings, beside the base."""
    table = {
        "base": {},
        "image": {"negatives": "image"},
        "place": {"negatives": "place"},
        "sampled": SAMPLED,
        "batch": {"negatives": "batch"},
        "mixed": {"negatives": "mixed", "n_candidates": 20},
        "queue": SAMPLED | {"negatives": "queue"},
        "hard": SAMPLED | {"negatives": "hard"},
        "bce": {"objective": "bce"},
        "dot": {"similarity": "dot", "temperature": 10.0},
        "greedy joint": {"greedy": "joint"},
        "greedy sequential": {"greedy": "sequential"},
        "averaging": {"averaging": 0.999},
        "accumulate": {"accumulate": 4},
    }
    table |= {f"output {o}": {"output": o} for o in ("z", "c", "both")}
    table |= {f"pooling {p}": {"pooling": p} for p in ("max", "mean", "max+mean", "pyramid")}
    table |= {f"context {c}": {"context": c} for c in CONTEXTS}
    table |= {f"encoder {e}": {"encoder": e} for e in ENCODERS}
    return table | {f"recipe {name}": None for name in RECIPES}


def settings_of(name, epochs):
    """Parameters of a variant."""
    if not name.startswith("recipe "):
        return BASE | variants()[name] | {"max_epochs": epochs}
    name = name.removeprefix("recipe ")
    scale = DIGITS / image_size(name)
    changes = {"max_epochs": epochs, "random_state": 0, "encoder": "conv", "batch_size": 64}
    params = recipe(name, scale=scale, **changes)
    params.pop("encoder_norm", None)
    return params


def is_slow(name):
    """Whether a variant is left out where there is no GPU."""
    return name.startswith("encoder ") and "resnet" in name


def run(name, n_train, n_test, epochs, threads):
    """One row of the table."""
    torch.set_num_threads(threads)
    row = {"variant": name, "n_train": n_train, "n_test": n_test, "epochs": epochs}
    data = load_colour_digits(n_train=n_train, n_test=n_test)
    cpc = CPCTransformer(**settings_of(name, epochs))
    untrained = CPCTransformer(**settings_of(name, 0)).fit(data.X_train)
    start = time.perf_counter()
    cpc.fit(data.X_train)
    return row | {
        "accuracy": accuracy(cpc, data),
        "random": accuracy(untrained, data),
        "images_per_second": round(np.median([e["images_per_second"] for e in cpc.history_]), 1),
        "seconds": round(time.perf_counter() - start, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "bound_nats": round(cpc.history_[-1]["mutual_information"], 3),
        "threads": threads,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
    }


def accuracy(cpc, data, n_repeats=3):
    """On the test images with a tenth of the labels: the mean over label subsets."""
    train, test = cpc.transform(data.X_train), cpc.transform(data.X_test)
    scores = []
    for seed in range(n_repeats):
        chosen, _ = train_test_split(
            np.arange(len(train)), train_size=0.1, stratify=data.y_train, random_state=seed
        )
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        classifier.fit(train[chosen], data.y_train[chosen])
        scores.append(classifier.score(test, data.y_test))
    return round(float(np.mean(scores)), 4)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", help="names of variants, with commas between")
    parser.add_argument("--n-train", type=int, default=3000)
    parser.add_argument("--n-test", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "variants.jsonl"
    )
    options = parser.parse_args()
    names = [n for n in variants() if torch.cuda.is_available() or not is_slow(n)]
    if options.only:
        names = [name.strip() for name in options.only.split(",")]
    if unknown := sorted(set(names) - set(variants())):
        parser.error(f"--only: {unknown} are unknown; there are {sorted(variants())}.")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    print("| variant | accuracy | random encoder | images/s | peak GiB |")
    print("| :-- | --: | --: | --: | --: |")
    for name in names:
        # A process for each, so that each has a peak memory of its own.
        with ProcessPoolExecutor(1) as pool:
            row = pool.submit(
                run, name, options.n_train, options.n_test, options.epochs, options.threads
            ).result()
        with options.out.open("a") as file:
            file.write(json.dumps(row, default=float) + "\n")
        print(
            f"| {name} | {row['accuracy']:.3f} | {row['random']:.3f} | "
            f"{row['images_per_second']:.0f} | {row['peak_gib']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
